//! Order, counts and ends of the pool and of the whole bus, over random programs with real threads.

#![allow(unreachable_pub, reason = "the modules of a test program have no public face")]

mod support;

use keylane::memory::MemoryBroker;
use keylane::pool::{Idle, JobError, Key, PoolBuilder, Request, RequestPool};
use keylane::{Config, DeadLetter, Envelope, HandlerError, Jitter, Retry, Route};
use proptest::prelude::*;
use proptest::test_runner::{TestError, TestRunner};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::order::Book;
use support::{Behaviour, Checked, KINDS, Kind, be_impatient, eventually, pause_once, quiet_planted_panics};

fn kinds() -> impl Strategy<Value = Kind> {
    prop::sample::select(KINDS.to_vec())
}

// The pool.

/// How a job is handed over.
#[derive(Debug, Clone, Copy)]
enum How {
    Submit,
    Try,
    Tell,
    Batch,
    /// Submitted and cancelled at once.
    Cancel,
    /// Submitted by a future that is dropped before it is polled.
    Forget,
}

#[derive(Debug, Clone, Copy)]
enum Job {
    Quick,
    Slow,
    Panics,
}

#[derive(Debug, Clone)]
struct PoolProgram {
    workers: usize,
    capacity: usize,
    kind: Kind,
    idle: Idle,
    /// For each producer its jobs: key, how, what. Batches are of up to five.
    producers: Vec<Vec<(u8, How, Job)>>,
    /// Whether the pool is closed while the producers are at work.
    closes: bool,
    /// Planted: jobs of one key are handed over under keys of their own.
    scatters: bool,
}

fn pool_programs() -> impl Strategy<Value = PoolProgram> {
    let how = prop_oneof![
        4 => Just(How::Submit),
        2 => Just(How::Try),
        2 => Just(How::Tell),
        2 => Just(How::Batch),
        2 => Just(How::Cancel),
        1 => Just(How::Forget),
    ];
    let job = prop_oneof![10 => Just(Job::Quick), 1 => Just(Job::Slow), 1 => Just(Job::Panics)];
    let producer = prop::collection::vec((0u8..6, how, job), 0..60);
    let idle = prop::sample::select(vec![Idle::Park, Idle::Adaptive, Idle::Spin(Duration::from_micros(20))]);
    (1usize..4, 1usize..12, kinds(), idle, prop::collection::vec(producer, 1..4), any::<bool>()).prop_map(
        |(workers, capacity, kind, idle, producers, closes)| PoolProgram {
            workers,
            capacity,
            kind,
            idle,
            producers,
            closes,
            scatters: false,
        },
    )
}

/// A job as the handler sees it: producer, key, number within both.
type Numbered = (usize, u8, u64, Job);

/// What handlers did.
#[derive(Default)]
struct Seen {
    running: Mutex<HashMap<u8, u32>>,
    /// By producer and key: the numbers in the order in which they started.
    started: Mutex<HashMap<(usize, u8), Vec<u64>>>,
    overlaps: AtomicU64,
}

impl Seen {
    fn begin(&self, (producer, key, n, _): Numbered) {
        let mut running = self.running.lock().unwrap();
        let count = running.entry(key).or_default();
        *count += 1;
        self.overlaps.fetch_add(u64::from(*count > 1), Ordering::Relaxed);
        self.started.lock().unwrap().entry((producer, key)).or_default().push(n);
    }

    fn end(&self, key: u8) {
        *self.running.lock().unwrap().get_mut(&key).expect("it runs") -= 1;
    }

    fn run(&self, numbered: Numbered) -> u64 {
        self.begin(numbered);
        match numbered.3 {
            Job::Quick => {}
            Job::Slow => std::thread::sleep(Duration::from_micros(300)),
            Job::Panics => {
                self.end(numbered.1);
                panic!("planted");
            }
        }
        self.end(numbered.1);
        numbered.2
    }
}

fn start_pool(program: &PoolProgram, seen: &Arc<Seen>) -> RequestPool<Numbered, u64> {
    let builder = PoolBuilder::new().workers(program.workers).capacity(program.capacity).idle(program.idle);
    let seen = seen.clone();
    match program.kind {
        Kind::Shared => builder.shared(move |job| seen.run(job)),
        Kind::Owned => builder.owned(move || {
            let seen = seen.clone();
            move |job| seen.run(job)
        }),
        Kind::Async => builder.asynchronous(move |job: Numbered| {
            let seen = seen.clone();
            async move {
                seen.begin(job);
                pause_once().await;
                seen.end(job.1);
                match job.3 {
                    Job::Panics => panic!("planted"),
                    Job::Quick | Job::Slow => job.2,
                }
            }
        }),
    }
    .expect("the settings are in range")
}

/// One producer's part. Returns by key the numbers that were accepted and not taken back.
fn produce(
    pool: &RequestPool<Numbered, u64>,
    producer: usize,
    jobs: &[(u8, How, Job)],
    scatters: bool,
) -> HashMap<u8, Vec<u64>> {
    let mut accepted: HashMap<u8, Vec<u64>> = HashMap::new();
    let mut answers = Vec::new();
    let mut batch: Vec<(Key, Numbered)> = Vec::new();
    let send_batch = |batch: &mut Vec<(Key, Numbered)>, accepted: &mut HashMap<u8, Vec<u64>>| {
        let offered: Vec<Numbered> = batch.iter().map(|(_, job)| *job).collect();
        let taken = pool.submit_batch(batch);
        assert_eq!(taken.len() + batch.len(), offered.len());
        let left: Vec<(u8, u64)> = batch.drain(..).map(|(_, job)| (job.1, job.2)).collect();
        let kept = offered.iter().filter(|job| !left.contains(&(job.1, job.2)));
        kept.for_each(|job| accepted.entry(job.1).or_default().push(job.2));
        taken.into_iter().for_each(drop);
    };
    for (n, &(key, how, job)) in (0..).zip(jobs) {
        let at = Key::of_number(if scatters { n } else { key.into() });
        let numbered = (producer, key, n, job);
        if !matches!(how, How::Batch) || batch.len() >= 5 {
            send_batch(&mut batch, &mut accepted);
        }
        let is_accepted = match how {
            How::Submit => match pool.submit(at, numbered).wait() {
                Ok(answer) => {
                    answers.push((n, job, answer));
                    true
                }
                Err(_) => false,
            },
            How::Try => pool.try_submit(at, numbered).is_ok(),
            How::Tell => pool.send(at, Request::tell(numbered)).wait().is_ok(),
            How::Batch => {
                batch.push((at, numbered));
                false
            }
            How::Cancel => pool.submit(at, numbered).wait().is_ok_and(|answer| answer.cancel().is_err()),
            How::Forget => {
                drop(pool.submit(at, numbered));
                false
            }
        };
        if is_accepted {
            accepted.entry(key).or_default().push(n);
        }
    }
    send_batch(&mut batch, &mut accepted);
    for (n, job, answer) in answers {
        let answer = answer.wait_timeout(Duration::from_secs(20)).expect("an answer comes");
        let is_right = match job {
            Job::Quick | Job::Slow => answer == Ok(n),
            Job::Panics => answer == Err(JobError::Panicked("planted".to_owned())),
        };
        assert!(is_right, "job {n} ({job:?}) was answered {answer:?}");
    }
    accepted
}

fn run_pool(program: &PoolProgram) -> Checked {
    let seen = Arc::new(Seen::default());
    let pool = start_pool(program, &seen);
    let accepted: Vec<HashMap<u8, Vec<u64>>> = std::thread::scope(|scope| {
        let pool = &pool;
        let producers: Vec<_> = (program.producers.iter().enumerate())
            .map(|(producer, jobs)| scope.spawn(move || produce(pool, producer, jobs, program.scatters)))
            .collect();
        if program.closes {
            std::thread::yield_now();
            drop(pool.close());
        }
        producers
            .into_iter()
            .map(|producer| producer.join().expect("a producer's assertion failed"))
            .collect()
    });
    ensure!(pool.close().wait_timeout(Duration::from_secs(20)).is_ok(), "the pool did not end");
    ensure!(seen.overlaps.load(Ordering::Relaxed) == 0, "two jobs of a key ran at once");
    let started = seen.started.lock().unwrap();
    for (producer, keys) in accepted.iter().enumerate() {
        for (key, accepted) in keys {
            let handled = started.get(&(producer, *key)).cloned().unwrap_or_default();
            ensure!(handled == *accepted, "producer {producer}, key {key}: {accepted:?} became {handled:?}");
        }
    }
    let handled: usize = started.values().map(Vec::len).sum();
    let accepted: usize = accepted.iter().flat_map(HashMap::values).map(Vec::len).sum();
    ensure!(handled == accepted, "{accepted} jobs were accepted and {handled} handled");
    Ok(())
}

// The bus.

/// What becomes of a record.
#[derive(Debug, Clone, Copy)]
enum Fate {
    /// Handled after so many failures, of which the first is a panic if the flag is set.
    Handled { failures: u32, panics: bool },
    /// Handled slowly.
    Slow,
    /// Ends as a dead letter.
    Poison,
}

#[derive(Debug, Clone)]
struct BusProgram {
    partitions: u32,
    workers: usize,
    kind: Kind,
    window: usize,
    commit_ms: Option<u64>,
    /// For each producer its records: key (of the producer's own), fate.
    producers: Vec<Vec<(u8, Fate)>>,
    failing_publishes: usize,
    failing_settles: usize,
    /// After so many handled records the consumer crashes in this way.
    crash: Option<(u64, Crash)>,
    second_member: bool,
    /// Planted: records of one key go to every worker in turn.
    scatters: bool,
}

#[derive(Debug, Clone, Copy)]
enum Crash {
    /// It is dropped without a drain, and another one comes.
    Dropped,
    /// Its partitions are taken from it while its handlers run, and it comes back.
    Expelled,
    /// The same, and none of its positions was kept.
    ExpelledAndForgotten,
}

/// A failing publish or settle is tried again after a while, which takes its time: most programs have none.
fn rarely(most: usize) -> impl Strategy<Value = usize> {
    prop_oneof![4 => Just(0), 1 => 1..most]
}

fn bus_programs() -> impl Strategy<Value = BusProgram> {
    let fate = prop_oneof![
        8 => Just(Fate::Handled { failures: 0, panics: false }),
        2 => (1u32..4, any::<bool>()).prop_map(|(failures, panics)| Fate::Handled { failures, panics }),
        1 => Just(Fate::Slow),
        1 => Just(Fate::Poison),
    ];
    let producer = prop::collection::vec((0u8..5, fate), 1..80);
    let crash = prop::sample::select(vec![Crash::Dropped, Crash::Expelled, Crash::ExpelledAndForgotten]);
    (
        (1u32..4, 0usize..4, kinds(), prop::sample::select(vec![1usize, 3, 16, 4_096])),
        prop::option::of(1u64..20),
        prop::collection::vec(producer, 1..3),
        (rarely(4), rarely(4)),
        prop::option::of((1u64..40, crash)),
        any::<bool>(),
    )
        .prop_map(
            |(
                (partitions, workers, kind, window),
                commit_ms,
                producers,
                (publishes, settles),
                crash,
                second,
            )| {
                BusProgram {
                    partitions,
                    workers,
                    kind,
                    window,
                    commit_ms,
                    producers,
                    failing_publishes: publishes,
                    failing_settles: settles,
                    crash,
                    second_member: second,
                    scatters: false,
                }
            },
        )
}

/// A record's payload: its number within its key, and its fate.
fn envelope(key: &str, n: u64, fate: Fate) -> Envelope<'static> {
    let (failures, panics, slow) = match fate {
        Fate::Handled { failures, panics } => (failures, u32::from(panics), 0),
        Fate::Slow => (0, 0, 1),
        Fate::Poison => (u32::MAX, 0, 0),
    };
    let payload = format!("[{n},{failures},{panics},{slow}]");
    Envelope::new(key, "test.fated", 1, payload).expect("valid").into_owned()
}

fn run_bus(program: &BusProgram) -> Checked {
    let broker = MemoryBroker::builder().partitions(program.partitions).topic("orders").topic("dead").build();
    let bus = broker.connect(Config::default()).map_err(|error| error.to_string())?;
    let (book, dead) = (Arc::new(Book::default()), Arc::new(AtomicU64::new(0)));
    let crashes = program.crash.is_some();
    let noted = book.clone();
    let handler: Behaviour = Arc::new(move |event| {
        let (key, envelope) =
            (event.aggregate_id().expect("it has one"), event.envelope().expect("it is one"));
        let fields: Vec<u64> = serde_json::from_str(envelope.payload()).expect("four numbers");
        let [n, failures, panics, slow] = fields[..] else { unreachable!("four numbers") };
        // A handler that a crash left behind may run beside its successor: its effect counts, not its presence.
        if !crashes {
            noted.begin(key, n);
        }
        let is_failure = u64::from(event.attempt()) <= failures;
        let is_poison = failures > 1_000;
        if slow == 1 {
            std::thread::sleep(Duration::from_micros(500));
        }
        match (crashes, is_poison && event.attempt() == 4) {
            (true, is_last) if is_last || !is_failure => noted.effect(key, n),
            (true, _) => {}
            (false, is_last) => noted.end(key, n, is_last || !is_failure),
        }
        assert!(!(is_failure && panics == 1 && event.attempt() == 1), "planted");
        if is_failure { Err(HandlerError::from("planted")) } else { Ok(()) }
    });
    let start = || {
        let quick =
            Retry::exponential(Duration::from_micros(100)..Duration::from_millis(1)).jitter(Jitter::Full);
        let builder = bus
            .subscribe_envelopes("orders")
            .group("properties")
            .workers(program.workers)
            .in_flight_records(program.window)
            .retry(quick.attempts(4))
            .then(DeadLetter::to("dead"));
        let builder = if program.scatters { builder.route(Route::RoundRobin) } else { builder };
        let builder = match program.commit_ms {
            Some(interval) => builder.commit_interval(Duration::from_millis(interval)),
            None => builder,
        };
        support::start(builder, program.kind, &handler)
    };
    let count = dead.clone();
    let watcher: Behaviour = Arc::new(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        Ok(())
    });
    let _watch = support::start(bus.subscribe("dead").group("watch"), Kind::Shared, &watcher)?;
    let mut members = vec![start()?];
    if program.second_member {
        members.push(start()?);
    }
    broker.faults().fail_next_publishes("orders", program.failing_publishes);
    broker.faults().fail_next_settles(program.failing_settles);
    if let Some((_, Crash::ExpelledAndForgotten)) = program.crash {
        broker.faults().lose_next_settles(usize::MAX);
    }
    let all: u64 = program.producers.iter().map(|records| records.len() as u64).sum();
    std::thread::scope(|scope| -> Checked {
        for (producer, records) in program.producers.iter().enumerate() {
            let bus = &bus;
            scope.spawn(move || {
                let mut numbers = HashMap::<u8, u64>::new();
                let receipts: Vec<_> = (records.iter())
                    .map(|(key, fate)| {
                        let n = numbers.entry(*key).or_default();
                        let envelope = envelope(&format!("{producer}-{key}"), *n, *fate);
                        *n += 1;
                        bus.publish("orders", envelope)
                    })
                    .collect();
                receipts.into_iter().for_each(|receipt| drop(receipt.wait().expect("it is published")));
            });
        }
        if let Some((after, crash)) = program.crash {
            eventually("some were handled", || book.over() >= after.min(all) || book.has_violation())?;
            // What is settled from here on is kept: a settle that is lost is not made again.
            broker.faults().lose_next_settles(0);
            if let Crash::Dropped = crash {
                members.clear();
                members.push(start()?);
            } else {
                let is_known = (0..members.len()).all(|member| broker.expel("properties", member));
                ensure!(is_known, "a member was not found");
            }
        }
        Ok(())
    })?;
    eventually("all were over", || book.over() == all || book.has_violation()).map_err(|error| {
        format!("{error}; {} of {all}; {:?}; {:?}", book.over(), bus.health(), bus.stats())
    })?;
    book.verdict()?;
    eventually("the group's position is behind the last record", || {
        let marks = broker.watermarks("properties", "orders").expect("the topic exists");
        marks.is_some_and(|marks| marks.iter().sum::<u64>() == all)
    })?;
    if !crashes {
        // An attempt that failed begins again: what comes again after it was over would be a repeat.
        ensure!(book.repeats() == 0, "{} records came again after they were over", book.repeats());
    }
    let poison =
        program.producers.iter().flatten().filter(|(_, fate)| matches!(fate, Fate::Poison)).count() as u64;
    let has_all = || {
        if crashes { dead.load(Ordering::Relaxed) >= poison } else { dead.load(Ordering::Relaxed) == poison }
    };
    eventually("each poisoned record became a dead letter", has_all)?;
    let report = bus.close(Duration::from_secs(60)).wait();
    // A member that crashed may still be ending, and tells what it left to its successor.
    let is_all_settled = report.subscriptions.iter().all(|one| one.unsettled.is_empty());
    ensure!(crashes || is_all_settled, "left unsettled: {report:?}");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_pool_keeps_order_and_handles_what_it_accepted(program in pool_programs()) {
        quiet_planted_panics();
        run_pool(&program).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn the_bus_keeps_order_and_loses_nothing(program in bus_programs()) {
        quiet_planted_panics();
        run_bus(&program).map_err(TestCaseError::fail)?;
    }
}

/// Whether the check finds something wrong in one of many programs.
fn finds<P: std::fmt::Debug>(programs: impl Strategy<Value = P>, check: impl Fn(&P) -> Checked) -> bool {
    quiet_planted_panics();
    be_impatient();
    let config =
        ProptestConfig { max_shrink_iters: 0, failure_persistence: None, ..ProptestConfig::default() };
    let found =
        TestRunner::new(config).run(&programs, |program| check(&program).map_err(TestCaseError::fail));
    matches!(found, Err(TestError::Fail(..)))
}

#[test]
fn the_check_of_the_pool_finds_jobs_of_one_key_on_several_workers() {
    let programs = pool_programs().prop_map(|program| PoolProgram { scatters: true, ..program });
    assert!(finds(programs, run_pool), "jobs of one key ran everywhere, and nothing was found");
}

#[test]
fn the_check_of_the_bus_finds_records_of_one_key_on_several_workers() {
    // Crashes are left out: they judge the order of effects alone.
    let programs = bus_programs().prop_map(|program| BusProgram { scatters: true, crash: None, ..program });
    assert!(finds(programs, run_bus), "records of one key ran everywhere, and nothing was found");
}

#[test]
fn the_check_of_the_bus_finds_effects_out_of_order_around_a_crash() {
    let programs = bus_programs().prop_map(|program| {
        let crash = program.crash.or(Some((1, Crash::Expelled)));
        BusProgram { scatters: true, crash, ..program }
    });
    assert!(finds(programs, run_bus), "records of one key ran everywhere, and nothing was found");
}
