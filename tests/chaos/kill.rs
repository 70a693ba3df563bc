//! One SIGKILL in the middle of many records: how many are handled again.

use crate::checker::{check, running_at};
use crate::child::{Consumer, Publisher, Role};
use crate::clock::nanos;
use crate::folder::Folder;
use crate::history::{Entry, Fault, History, Id, Told, whole_lines};
use crate::member::Member;
use crate::plan::{DRAIN, Plan};
use crate::target::{Kind, Target};
use crate::work::Work;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const RECORDS: u64 = 20_000;
const LIMIT: Duration = Duration::from_secs(120);
/// How often a bus commits where nothing else is said.
const COMMIT_INTERVAL: Duration = Duration::from_millis(200);
/// From the turn that commits to the broker's log, where threads run when they are woken.
const COMMIT_TAKES: Duration = Duration::from_millis(100);
/// How many threads pass a commit on, on its way there and to its turn.
const HOPS: u32 = 5;

/// How late a thread of this machine wakes at worst, for as long as it is watched.
struct Lateness {
    is_over: Arc<AtomicBool>,
    watch: thread::JoinHandle<Duration>,
}

impl Lateness {
    fn watch() -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let ends = is_over.clone();
        let watch = thread::spawn(move || {
            let (sleeps, mut worst) = (Duration::from_millis(1), Duration::ZERO);
            while !ends.load(Ordering::Relaxed) {
                let since = Instant::now();
                thread::sleep(sleeps);
                worst = worst.max(since.elapsed().saturating_sub(sleeps));
            }
            worst
        });
        Self { is_over, watch }
    }

    fn worst(self) -> Duration {
        self.is_over.store(true, Ordering::Relaxed);
        self.watch.join().expect("it does not panic")
    }
}

/// What is handled again is no more than what was running, and what one commit interval completes.
pub fn one_kill(kind: Kind) {
    let folder = Folder::new(&format!("{}-kill", kind.name()));
    let target = Target::start(kind, &folder.name());
    let work = Work::plain(200, Duration::from_millis(1));
    let publisher = Publisher {
        config: target.config(""),
        topic: target.topic.clone(),
        work,
        seed: 1,
        rate: 1_000_000,
        count: Some(RECORDS),
        next: HashMap::new(),
    };
    let publisher = Member::start(folder.path(), 1, Role::Publisher(publisher));
    assert!(publisher.gone_within(LIMIT, &folder.faults).is_some(), "the records were not published");

    let mut plan = Plan::new(kind, 0, LIMIT);
    // Nobody is silent here but who is dead: a machine that is busy takes no living one for that, and gives nothing up
    // that was delivered too often.
    plan.config = plan.config.replace("'2s'", "'10s'");
    let consumer = |number| {
        let consumer = Consumer {
            config: target.config(&plan.config),
            topic: target.topic.clone(),
            dead: target.dead.clone(),
            group: "kill".to_owned(),
            work,
            workers: 4,
            is_async: false,
            drain: DRAIN,
        };
        Member::start(folder.path(), number, Role::Consumer(consumer))
    };
    let lateness = Lateness::watch();
    let first = consumer(2);
    let log = first.log.clone();
    wait(|| done(&log).len() as u64 >= RECORDS / 2, "half of the records are handled");
    first.kill(&folder.faults);
    let late = lateness.worst();
    plan.limits.uncommitted = nanos(COMMIT_INTERVAL + COMMIT_TAKES + HOPS * late);
    let before = done(&log);
    let killed = Instant::now();
    let mut second = consumer(3);
    wait(|| !done(&second.log).is_empty(), "the next consumer takes over");
    let taken_over = killed.elapsed();
    wait(|| before.union(&done(&second.log)).count() as u64 >= RECORDS, "all records are handled");
    second.leave(&folder.faults);
    assert!(second.gone_within(LIMIT, &folder.faults).is_some(), "the consumer left");

    folder.write_stored(&target.stored());
    let history = History::read(folder.path());
    let verdict = check(&history, &plan.limits);
    let kill = history.0.iter().find_map(|told| match told.line.entry {
        Entry::Fault(Fault::Killed(2)) => Some(told.line.time),
        _ => None,
    });
    let kill = kill.expect("it was killed");
    let running = running_at(&history, 2, kill);
    let interval = kill - nanos(COMMIT_INTERVAL)..=kill;
    let is_late = |told: &&Told| {
        told.member == 2 && matches!(told.line.entry, Entry::Done(_)) && interval.contains(&told.line.time)
    };
    let completed = history.0.iter().filter(is_late).count();
    println!(
        "{}: after one SIGKILL in the middle of {RECORDS} records, {} were handled again; {running} were running, \
         {completed} had completed in the commit interval before, and {} in that and the way of a commit; threads \
         woke up to {late:.0?} late; taken over after {taken_over:.1?}",
        kind.name(),
        verdict.duplicates,
        verdict.bound - running,
    );
    if !verdict.is_sound() {
        folder.keep();
    }
    assert!(verdict.is_sound(), "{verdict:#?}");
    assert_eq!((verdict.handled as u64, verdict.lost), (RECORDS, 0), "{verdict:#?}");
}

/// The records that a member handled.
fn done(log: &Path) -> HashSet<Id> {
    let lines = whole_lines(log).into_iter();
    lines.filter_map(|line| if let Entry::Done(id) = line.entry { Some(id) } else { None }).collect()
}

fn wait(mut holds: impl FnMut() -> bool, what: &str) {
    let until = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < until, "it did not come to this within {LIMIT:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
