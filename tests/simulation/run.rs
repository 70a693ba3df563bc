//! Runs a program: its processes, its acts, and then the time that everything has to come to its end.

use crate::cluster::Cluster;
use crate::history::{History, Numbered, envelope, stored};
use crate::judge;
use crate::program::{Act, End, Handler, Kind, Program, Then};
use keylane::sim::{self, Process, World};
use keylane::{
    Bus, CloseReport, DeadLetter, Event, HandlerError, Jitter, Op, PublishError, Receipt, Retry, Status,
    SubscribeError, Subscription, SubscriptionBuilder,
};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const TOPIC: &str = "orders";
pub(crate) const DEAD: &str = "orders.dead";
pub(crate) const GROUP: &str = "billing";
/// The process that publishes, which outlives all others.
pub(crate) const PUBLISHER: Process = Process(0);
/// What lasts this long is shown.
const SHOWN: Duration = Duration::from_secs(30);

/// What a program came to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Verdict {
    pub(crate) hash: u64,
    pub(crate) steps: u64,
    pub(crate) starts: u64,
    pub(crate) time: Duration,
    pub(crate) violations: Vec<String>,
    pub(crate) story: Vec<String>,
}

impl Verdict {
    /// The kind of the first violation.
    pub(crate) fn kind(&self) -> Option<&str> {
        self.violations.first().and_then(|text| text.split(':').next())
    }
}

/// Runs a program, and judges it. A panic of the simulation (something spins, or waits for what never comes) is a
/// violation too.
pub(crate) fn run(program: &Program, tells: bool) -> Verdict {
    let world = World::new(program.seed);
    let history = History::new(program, world.clock(), tells);
    match catch_unwind(AssertUnwindSafe(|| Run::new(program, world, history.clone()).through())) {
        Ok(verdict) => verdict,
        Err(payload) => {
            let text = payload.downcast_ref::<String>().cloned();
            let text = text.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            let mut facts = history.facts();
            let mut violations = std::mem::take(&mut facts.violations);
            violations.push(format!("panic: {}", text.unwrap_or_default()));
            Verdict { violations, story: std::mem::take(&mut facts.story), ..Verdict::default() }
        }
    }
}

type Published = (Numbered, Op<Result<Receipt, PublishError>>);

/// A process that runs.
pub(crate) struct Running {
    /// What the world knows it by: each start is a process of its own.
    pub(crate) life: Process,
    pub(crate) since: Duration,
    pub(crate) orders: Subscription,
    bus: Bus,
}

/// A process that closes its bus.
struct Closing {
    life: Process,
    since: Duration,
    limit: Duration,
    close: Op<CloseReport>,
    /// Its handles are kept as its program would keep them.
    _running: Running,
}

/// A program under way.
pub(crate) struct Run<'a> {
    pub(crate) program: &'a Program,
    pub(crate) history: History,
    pub(crate) world: World,
    pub(crate) broker: Cluster,
    publisher: Option<Bus>,
    pub(crate) running: BTreeMap<u32, Running>,
    closing: Vec<Closing>,
    lives: u32,
    numbers: BTreeMap<u8, u32>,
    pub(crate) published: Vec<Published>,
    skips: Vec<(Numbered, Op<bool>)>,
    /// What ends later, by its time in milliseconds and a number.
    later: BTreeMap<(u64, u64), Later>,
    /// Since when the broker reaches nobody.
    away_since: Option<Duration>,
}

enum Later {
    Start(u32),
    Resume(u32),
    Back,
    Reached(Process),
    Ended,
}

impl<'a> Run<'a> {
    fn new(program: &'a Program, world: World, history: History) -> Self {
        world.set_slowness(program.slowness);
        let broker = Cluster::new(program, &world);
        let publisher = world.within(PUBLISHER, || broker.connect(PUBLISHER));
        let mut run = Self {
            program,
            history,
            world,
            broker,
            publisher: Some(publisher),
            running: BTreeMap::new(),
            closing: Vec::new(),
            lives: 0,
            numbers: BTreeMap::new(),
            published: Vec::new(),
            skips: Vec::new(),
            later: BTreeMap::new(),
            away_since: None,
        };
        (1..=program.processes).for_each(|process| run.start(process));
        run
    }

    fn through(mut self) -> Verdict {
        for (at, act) in &self.program.acts {
            self.until(*at);
            self.say(format_args!("{act:?}"));
            self.act(*act);
        }
        self.until(u64::MAX);
        self.heal();
        judge::everything_ends(&mut self);
        judge::what_is_over_is_committed(&self);
        judge::nothing_is_handled_again_without_a_reason(&self);
        judge::nobody_was_given_up_unseen(&self);
        judge::what_is_stored_is_in_order(&self);
        self.close();
        let Self { world, history, .. } = self;
        let mut facts = history.facts();
        Verdict {
            hash: world.hash(),
            steps: world.steps(),
            starts: facts.starts,
            time: world.now(),
            violations: std::mem::take(&mut facts.violations),
            story: std::mem::take(&mut facts.story),
        }
    }

    fn say(&self, what: std::fmt::Arguments<'_>) {
        self.history.say(|| format!("{:>12.3?} {what}", self.world.now()));
    }

    /// Lets the time pass until then, and does what is due before.
    fn until(&mut self, at: u64) {
        while let Some(entry) = self.later.first_entry().filter(|entry| entry.key().0 <= at) {
            let ((due, _), later) = entry.remove_entry();
            self.pass(due);
            match later {
                Later::Start(process) => self.start(process),
                Later::Resume(process) => {
                    self.running.get(&process).into_iter().for_each(|running| running.orders.resume());
                }
                Later::Back => {
                    judge::an_outage_is_shown(self, SHOWN);
                    self.outage(false);
                    self.away_since = None;
                }
                Later::Reached(life) => {
                    self.broker.cut(life, false);
                    self.history.cut(life.0, false);
                }
                // All transactions end, and all cuts with them.
                Later::Ended => {
                    self.broker.heal();
                    self.history.facts().cut.clear();
                }
            }
        }
        if at < u64::MAX {
            self.pass(at);
        }
    }

    fn pass(&mut self, at: u64) {
        self.world.run_for(Duration::from_millis(at).saturating_sub(self.world.now()));
        self.look_at_skips();
        judge::bounds(self);
    }

    fn later(&mut self, after: u64, later: Later) {
        let at = self.world.now().as_millis() as u64 + after.max(1);
        self.later.insert((at, self.later.len() as u64 + self.world.steps()), later);
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Publish(key, count) => (0..count).for_each(|_| self.publish(key)),
            Act::Crash(process) => {
                if let Some(running) = self.running.remove(&process) {
                    self.world.crash(running.life);
                    self.history.killed(running.life.0);
                    let again = self.world.number(500);
                    self.later(again, Later::Start(process));
                }
            }
            Act::Leave(process, limit) => self.leave(process, Duration::from_millis(limit)),
            Act::Outage(time) => {
                if self.away_since.is_none() {
                    self.away_since = Some(self.world.now());
                    self.outage(true);
                    self.later(time, Later::Back);
                }
            }
            Act::Pause(process, time) => {
                if let Some(running) = self.running.get(&process) {
                    running.orders.pause();
                    self.later(time, Later::Resume(process));
                }
            }
            Act::Freeze(process, time) => {
                if let Some(running) = self.running.get(&process) {
                    self.world.freeze(running.life, Duration::from_millis(time));
                }
            }
            Act::Suspend(time) => {
                for running in self.running.values() {
                    self.world.freeze(running.life, Duration::from_millis(time));
                }
            }
            Act::Retry => self.operate(true),
            Act::Skip => self.operate(false),
            Act::Cut(process, time) => {
                if let Some(life) = self.running.get(&process).map(|running| running.life) {
                    self.broker.cut(life, true);
                    self.history.cut(life.0, true);
                    self.later(time, Later::Reached(life));
                }
            }
            Act::OpenTransaction(time) => {
                drop(self.broker.act(act));
                self.later(time, Later::Ended);
            }
            _ => {
                if let Act::Expel(_) = act {
                    self.history.expelled();
                }
                let gone = self.broker.act(act);
                self.history.removed(gone.iter().filter_map(|record| stored(record)));
            }
        }
    }

    fn outage(&self, is_away: bool) {
        let lives: Vec<_> = self.running.values().map(|running| running.life).chain([PUBLISHER]).collect();
        self.broker.outage(is_away, &lives);
    }

    fn publish(&mut self, key: u8) {
        let number = self.numbers.entry(key).or_default();
        let numbered = (key, *number);
        *number += 1;
        let publisher = self.publisher.as_ref().expect("it closes last");
        let op = self.world.within(PUBLISHER, || publisher.publish(TOPIC, envelope(numbered)));
        self.published.push((numbered, op));
    }

    /// An operator decides about all that is held.
    pub(crate) fn operate(&mut self, retries: bool) {
        for running in self.running.values() {
            for held in running.orders.held() {
                if retries {
                    // The answer is known when the worker was stepped; nobody waits for it.
                    drop(running.orders.retry_held(&held));
                    continue;
                }
                let mut facts = self.history.facts();
                let place = (held.place.partition, held.place.offset);
                let numbered = facts.places[&place];
                // From the call on its key may go on.
                if facts.skipped.insert(numbered) {
                    drop(facts);
                    self.skips.push((numbered, running.orders.skip_held(&held)));
                }
            }
        }
    }

    /// Whether all that the operator asked for is answered.
    pub(crate) fn is_operated(&self) -> bool {
        self.skips.is_empty()
    }

    /// What was not held any more when it was to be skipped was not.
    fn look_at_skips(&mut self) {
        let (answered, open): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.skips).into_iter().partition(|(_, op)| op.is_done());
        self.skips = open;
        for (numbered, op) in answered {
            if !op.wait() {
                self.history.facts().skipped.remove(&numbered);
            }
        }
    }

    pub(crate) fn start(&mut self, process: u32) {
        if self.running.contains_key(&process) {
            return;
        }
        self.lives += 1;
        let life = Process(100 + self.lives);
        self.say(format_args!("process {process} starts as life {}", life.0));
        let running = self.world.within(life, || {
            let bus = self.broker.connect(life);
            let orders = self.subscribe(&bus, life.0);
            Running { life, since: self.world.now(), orders, bus }
        });
        self.running.insert(process, running);
    }

    pub(crate) fn leave(&mut self, process: u32, limit: Duration) {
        if let Some(running) = self.running.remove(&process) {
            self.end(running, limit);
            let again = self.world.number(3_000);
            self.later(again, Later::Start(process));
        }
    }

    fn end(&mut self, running: Running, limit: Duration) {
        let life = running.life;
        self.history.leaves(life.0);
        let close = self.world.within(life, || running.bus.close(limit));
        let since = self.world.now();
        self.closing.push(Closing { life, since, limit, close, _running: running });
    }

    fn subscribe(&self, bus: &Bus, life: u32) -> Subscription {
        let program = Arc::new(self.program.clone());
        let shared = Work { program, history: self.history.clone(), broker: self.broker.clone(), life };
        let Program { handler, kind, workers, in_flight, watermark_distance, .. } = *self.program;
        match kind {
            Kind::Envelopes => {
                let retry = Retry::exponential(10 * MS..500 * MS).jitter(Jitter::Full);
                let orders = bus.subscribe_envelopes(TOPIC).group(GROUP).workers(workers);
                let orders = orders.in_flight_records(in_flight).watermark_distance(watermark_distance);
                let orders = orders.drain_timeout(Duration::from_secs(5));
                let orders = match self.program.then {
                    Then::Forever => orders.retry(retry),
                    then => {
                        let orders = orders.retry(retry.attempts(self.program.attempts));
                        match then {
                            Then::DeadLetter => orders.then(DeadLetter::to(DEAD)),
                            Then::Discard => orders.then(keylane::Then::Discard),
                            Then::Halt => orders.then(keylane::Then::Halt),
                            Then::Hold | Then::Forever => orders.then(keylane::Then::Hold),
                        }
                    }
                };
                shared.handles(orders, handler)
            }
            Kind::Plain | Kind::AtMostOnce => {
                let orders = bus.subscribe(TOPIC).group(GROUP).workers(workers);
                let orders = orders.in_flight_records(in_flight).watermark_distance(watermark_distance);
                let orders = orders.drain_timeout(Duration::from_secs(5));
                let orders = if kind == Kind::AtMostOnce { orders.at_most_once() } else { orders };
                shared.handles(orders, handler)
            }
        }
        .expect("the settings are in range")
    }

    /// All faults end.
    fn heal(&mut self) {
        self.broker.heal();
        self.history.facts().cut.clear();
        self.away_since = None;
        self.world.thaw();
        self.running.values().for_each(|running| running.orders.resume());
    }

    /// Starts again what has halted, as whoever runs it would.
    pub(crate) fn start_halted_again(&mut self) {
        let is_halted = |running: &Running| matches!(running.orders.health().status, Status::Halted(_));
        let halted: Vec<u32> = self
            .running
            .iter()
            .filter(|(_, running)| is_halted(running))
            .map(|(process, _)| *process)
            .collect();
        for process in halted {
            self.leave(process, Duration::from_secs(1));
        }
    }

    /// Lets time pass, and starts who is to come back.
    pub(crate) fn run_for(&mut self, time: Duration) {
        let until = self.world.now() + time;
        self.until(until.as_millis() as u64);
    }

    pub(crate) fn away_since(&self) -> Option<Duration> {
        self.away_since
    }

    pub(crate) fn dead(&self) -> BTreeSet<Numbered> {
        dead(&self.broker)
    }

    /// Everybody closes, and leaves nothing.
    fn close(&mut self) {
        let limit = Duration::from_secs(10);
        for running in std::mem::take(&mut self.running).into_values() {
            self.end(running, limit);
        }
        let publisher = self.publisher.take().expect("it closes once");
        let last = self.world.within(PUBLISHER, || publisher.close(limit));
        let closing = std::mem::take(&mut self.closing);
        let has_ended = || last.is_done() && closing.iter().all(|closing| closing.close.is_done());
        if !self.world.run_until(2 * limit, has_ended) {
            let open = closing.iter().filter(|closing| !closing.close.is_done());
            let open: Vec<_> = open.map(|closing| (closing.life.0, closing.since, closing.limit)).collect();
            self.history.breaks(format!("close: it did not end: {open:?}"));
        }
        drop((closing, last, publisher));
        self.world.run_for(Duration::from_secs(2));
        for life in std::iter::once(0).chain(101..=100 + self.lives) {
            let left = self.world.tasks(Process(life));
            if !left.is_empty() {
                self.history.breaks(format!("close: life {life} left {left:?}"));
            }
        }
    }

    /// Closes that are over their limit now.
    pub(crate) fn late_closes(&self) -> Vec<(u32, Duration)> {
        // Who stands still can't end.
        let stands_still = self.program.has(|act| matches!(act, Act::Freeze(..) | Act::Suspend(_)));
        let grace = Duration::from_secs(if stands_still { 4 } else { 1 });
        let is_late = |closing: &&Closing| {
            !closing.close.is_done() && self.world.now() > closing.since + closing.limit + grace
        };
        self.closing.iter().filter(is_late).map(|closing| (closing.life.0, closing.limit)).collect()
    }
}

pub(crate) fn dead(broker: &Cluster) -> BTreeSet<Numbered> {
    broker.records(DEAD).iter().filter_map(stored).collect()
}

/// What a handler works with.
#[derive(Clone)]
struct Work {
    program: Arc<Program>,
    history: History,
    broker: Cluster,
    life: u32,
}

impl Work {
    /// Starts a subscription whose handlers, of this kind, do this work.
    fn handles<K>(
        self,
        orders: SubscriptionBuilder<K>,
        handler: Handler,
    ) -> Result<Subscription, SubscribeError> {
        match handler {
            Handler::Shared => orders.handle(move |event| self.handle(event)),
            Handler::Owned => orders.handle_owned(move || {
                let work = self.clone();
                move |event: &Event| work.handle(event)
            }),
            Handler::Async => orders.handle_async(move |event| self.clone().awaited(event)),
        }
    }

    fn handle(&self, event: &Event) -> Result<(), HandlerError> {
        let mut attempt = self.begin(event);
        let fate = self.program.fate(attempt.numbered, attempt.starts);
        if fate.takes > 0 {
            sim::busy(Duration::from_micros(fate.takes));
        }
        self.end(&mut attempt, event, fate.ends)
    }

    async fn awaited(self, event: Event) -> Result<(), HandlerError> {
        let mut attempt = self.begin(&event);
        let fate = self.program.fate(attempt.numbered, attempt.starts);
        if fate.takes > 0 {
            sim::sleep(Duration::from_micros(fate.takes)).await;
        }
        self.end(&mut attempt, &event, fate.ends)
    }

    fn begin(&self, event: &Event) -> crate::history::Attempt {
        self.history.begin(event, self.life, |numbered| dead(&self.broker).contains(&numbered))
    }

    fn end(
        &self,
        attempt: &mut crate::history::Attempt,
        event: &Event,
        ends: End,
    ) -> Result<(), HandlerError> {
        // What a failure settles: a plain record always, another one where the policy says so.
        let is_last = ends == End::Terminal || event.attempt() >= self.program.attempts;
        let settles = self.program.kind != Kind::Envelopes || self.program.then == Then::Discard && is_last;
        if ends == End::Ok || settles {
            attempt.is_over();
        }
        match ends {
            End::Ok => Ok(()),
            End::Error => Err("planned".into()),
            End::Terminal => Err(HandlerError::terminal("planned")),
            End::Panic => panic!("planned"),
        }
    }
}
