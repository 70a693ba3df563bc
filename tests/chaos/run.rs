//! One run: publishers and consumers under a schedule of faults, until the end of its time; then everything that is
//! stored has to be over, and is judged.

use crate::checker::{self, Verdict};
use crate::child::{Consumer, Publisher, Role};
use crate::folder::Folder;
use crate::history::{Entry, Fault, History, Id, whole_lines};
use crate::member::Member;
use crate::plan::{DRAIN, Plan};
use crate::report::Report;
use crate::schedule::{Blow, Schedule, Step};
use crate::target::Target;
use std::collections::{HashMap, HashSet};
use std::thread;
use std::time::{Duration, Instant};

const PUBLISHERS: usize = 2;
/// How long what is stored may take to be over when the faults have ended.
const SETTLES: Duration = Duration::from_secs(90);
const TICK: Duration = Duration::from_millis(10);

/// What is to be done later, because of what was done.
enum Later {
    Consumer,
    Continue(u32),
    Publisher(HashMap<u32, u32>),
}

struct Run<'a> {
    plan: &'a Plan,
    folder: Folder,
    target: Target,
    random: fastrand::Rng,
    members: u32,
    consumers: Vec<Member>,
    /// Each with where it began.
    publishers: Vec<(Member, HashMap<u32, u32>)>,
    leaving: Vec<Member>,
    later: Vec<(Instant, Later)>,
    report: Report,
}

/// Carries out a plan and judges it.
pub fn run(plan: &Plan) -> (Report, Verdict) {
    let name = format!("{}-{}", plan.kind.name(), plan.seed);
    println!("{name}: CHAOS_SEED={} replays the schedule", plan.seed);
    let folder = Folder::new(&name);
    let target = Target::start(plan.kind, &folder.name());
    let mut run = Run {
        plan,
        folder,
        target,
        random: fastrand::Rng::with_seed(plan.seed),
        members: 0,
        consumers: Vec::new(),
        publishers: Vec::new(),
        leaving: Vec::new(),
        later: Vec::new(),
        report: Report::new(name, &plan.config),
    };
    for _ in 0..plan.consumers {
        run.add_consumer();
    }
    for _ in 0..PUBLISHERS {
        run.add_publisher(HashMap::new());
    }
    run.begin();
    let started = Instant::now();
    run.suffer(started);
    run.heal();
    run.settle();
    run.report.lasted = started.elapsed();
    let history = History::read(run.folder.path());
    let verdict = checker::check(&history, &plan.limits);
    if !verdict.is_sound() {
        run.folder.keep();
    }
    (run.report, verdict)
}

impl Run<'_> {
    fn number(&mut self) -> u32 {
        self.members += 1;
        self.members
    }

    fn add_consumer(&mut self) {
        let consumer = Consumer {
            config: self.target.config(&self.plan.config),
            topic: self.target.topic.clone(),
            dead: self.target.dead.clone(),
            group: "chaos".to_owned(),
            work: self.plan.work,
            workers: *self.random.choice(&[0, 1, 2, 4]).expect("there are four"),
            is_async: self.random.bool(),
            drain: DRAIN,
        };
        let number = self.number();
        self.consumers.push(Member::start(self.folder.path(), number, Role::Consumer(consumer)));
    }

    fn add_publisher(&mut self, next: HashMap<u32, u32>) {
        let publisher = Publisher {
            config: self.target.config(""),
            topic: self.target.topic.clone(),
            work: self.plan.work,
            seed: self.plan.seed,
            rate: self.plan.rate,
            count: None,
            next: next.clone(),
        };
        let number = self.number();
        let member = Member::start(self.folder.path(), number, Role::Publisher(publisher));
        self.publishers.push((member, next));
    }

    /// Waits until all take part.
    fn begin(&mut self) {
        let until = Instant::now() + SETTLES;
        while let Some(late) = self
            .consumers
            .iter()
            .chain(self.publishers.iter().map(|(member, _)| member))
            .find(|member| !member.is_ready())
        {
            let out = late.log.with_extension("out");
            assert!(Instant::now() < until, "member {} is not ready; see {}", late.number, out.display());
            thread::sleep(TICK);
        }
    }

    /// The faults.
    fn suffer(&mut self, started: Instant) {
        let mut at = started;
        for Step { after, blow } in Schedule::new(self.plan.seed, self.plan.weights) {
            at += after;
            if at > started + self.plan.lasts {
                return;
            }
            while Instant::now() < at {
                self.turn();
                thread::sleep(TICK);
            }
            self.strike(blow);
        }
    }

    /// What does not depend on the schedule.
    fn turn(&mut self) {
        let now = Instant::now();
        let faults = &self.folder.faults;
        self.leaving.retain_mut(|member| !member.has_gone(faults));
        if self.target.has_come_back() {
            faults.append(Entry::Fault(Fault::BrokerUp));
        }
        for (_, later) in self.later.extract_if(.., |(at, _)| *at <= now).collect::<Vec<_>>() {
            match later {
                Later::Consumer => self.add_consumer(),
                Later::Publisher(next) => self.add_publisher(next),
                Later::Continue(number) => {
                    let faults = &self.folder.faults;
                    let publishers = self.publishers.iter_mut().map(|(publisher, _)| publisher);
                    let mut members = self.consumers.iter_mut().chain(publishers);
                    if let Some(member) = members.find(|member| member.number == number) {
                        member.go_on(faults);
                    }
                }
            }
        }
    }

    fn strike(&mut self, blow: Blow) {
        let now = Instant::now();
        let folder = &self.folder;
        match blow {
            Blow::KillConsumer { which, replace_after } => {
                let Some(which) = nth(which, self.consumers.len()) else { return };
                self.consumers.swap_remove(which).kill(&folder.faults);
                self.report.killed_consumers += 1;
                self.later.push((now + replace_after, Later::Consumer));
            }
            Blow::StopConsumer { which, continue_after } => {
                let Some(which) = nth(which, self.consumers.len()) else { return };
                if let Some(number) = self.consumers[which].stop(&folder.faults) {
                    self.report.stopped += 1;
                    self.later.push((now + continue_after, Later::Continue(number)));
                }
            }
            Blow::StopPublisher { which, continue_after } => {
                let Some(which) = nth(which, self.publishers.len()) else { return };
                if let Some(number) = self.publishers[which].0.stop(&folder.faults) {
                    self.report.stopped += 1;
                    self.later.push((now + continue_after, Later::Continue(number)));
                }
            }
            Blow::LeaveConsumer { which, replace_after } => {
                if self.leave(which) {
                    self.later.push((now + replace_after, Later::Consumer));
                }
            }
            Blow::JoinConsumer { which } => {
                if self.consumers.len() <= self.plan.consumers {
                    self.report.joined += 1;
                    self.add_consumer();
                } else {
                    self.leave(which);
                }
            }
            Blow::KillPublisher { which, replace_after } => {
                let Some(which) = nth(which, self.publishers.len()) else { return };
                let (publisher, mut next) = self.publishers.swap_remove(which);
                let log = publisher.log.clone();
                publisher.kill(&folder.faults);
                self.report.killed_publishers += 1;
                // Behind the last receipt that it wrote down: what was under way then is published again.
                let acked = whole_lines(&log).into_iter().filter_map(|line| match line.entry {
                    Entry::Acked(id) => Some((id.key, id.n + 1)),
                    _ => None,
                });
                next.extend(acked);
                self.later.push((now + replace_after, Later::Publisher(next)));
            }
            Blow::KillBroker { restart_after } => {
                if self.target.is_up() {
                    folder.faults.append(Entry::Fault(Fault::BrokerDown));
                    self.target.kill(restart_after);
                    self.report.killed_brokers += 1;
                }
            }
        }
    }

    fn leave(&mut self, which: usize) -> bool {
        let running: Vec<usize> =
            (0..self.consumers.len()).filter(|n| !self.consumers[*n].is_stopped()).collect();
        let Some(which) = nth(which, running.len()) else { return false };
        let mut member = self.consumers.swap_remove(running[which]);
        member.leave(&self.folder.faults);
        self.report.left += 1;
        self.leaving.push(member);
        true
    }

    /// The end of the faults: the broker is up, nobody is stopped, and there is a publisher to end in order.
    fn heal(&mut self) {
        for (at, _) in &mut self.later {
            *at = Instant::now();
        }
        self.turn();
        let faults = &self.folder.faults;
        let publishers = self.publishers.iter_mut().map(|(publisher, _)| publisher);
        self.consumers.iter_mut().chain(publishers).for_each(|member| member.go_on(faults));
        while !self.target.is_up() {
            self.turn();
            thread::sleep(TICK);
        }
        for (member, _) in &mut self.publishers {
            member.leave(&self.folder.faults);
        }
        for (member, _) in self.publishers.drain(..) {
            let number = member.number;
            let ended = member.gone_within(SETTLES, &self.folder.faults);
            assert!(ended.is_some(), "publisher {number} has no receipts {SETTLES:?} after the last fault");
        }
    }

    /// Waits until everything that is stored is over, or for as long as that may take; then the consumers leave.
    fn settle(&mut self) {
        let healed = Instant::now();
        let stored = self.folder.write_stored(&self.target.stored());
        let mut dead: HashSet<Id> = HashSet::new();
        loop {
            self.turn();
            dead.extend(self.target.dead().iter().map(|held| held.id));
            let history = History::read(self.folder.path());
            let done = history.0.iter().filter_map(|told| match told.line.entry {
                Entry::Done(id) => Some(id),
                _ => None,
            });
            let done: HashSet<Id> = done.collect();
            if stored.iter().all(|id| done.contains(id) || dead.contains(id)) || healed.elapsed() > SETTLES {
                break;
            }
            thread::sleep(Duration::from_millis(500));
        }
        self.report.settled_after = healed.elapsed();
        for member in &mut self.consumers {
            member.leave(&self.folder.faults);
        }
        for member in self.consumers.drain(..).chain(self.leaving.drain(..)) {
            let number = member.number;
            let ended = member.gone_within(SETTLES, &self.folder.faults);
            assert!(ended.is_some(), "consumer {number} did not leave within {SETTLES:?}");
        }
        self.folder.write_dead(&self.target.dead());
    }
}

fn nth(which: usize, of: usize) -> Option<usize> {
    which.checked_rem(of)
}
