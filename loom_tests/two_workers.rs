//! Two lanes with a worker each: what is sent, asked and ended over both of them (`src/pool/mod.rs`).

use crate::support::{End, Leased, Log, Noting, at_once, beside, key, wide_model, work};
use keylane::Clock;
use keylane::pool::{Idle, Key, Outcome, Pool, PoolBuilder, Turn, Worker};
use loom::thread;
use std::time::{Duration, Instant};

/// A key of the first worker and one of the second.
fn keys() -> [Key; 2] {
    [0, 1].map(|worker| (0..).map(key).find(|key| key.worker(2) == worker).expect("each worker has keys"))
}

type Handles = fn(u32, Instant) -> Outcome<Leased>;

fn settings() -> PoolBuilder {
    PoolBuilder::new().workers(2).capacity(2)
}

/// A pool with two workers that the model steps, each on a thread of its own.
fn two_workers(log: &Log<End>) -> (Pool<u32>, [Worker<Noting<Handles>>; 2]) {
    let (pool, workers) =
        settings().stepped(|_| Noting::new(at_once as Handles, log)).expect("the settings are in range");
    (pool, workers.try_into().ok().expect("two workers"))
}

/// If it fails: of a batch over two lanes one part wakes nobody, or stays where no worker looks.
#[test]
fn a_batch_over_two_lanes_reaches_both_workers() {
    wide_model(1, || {
        let log = Log::new();
        let (pool, [mut first, mut second]) = two_workers(&log);
        let sender = beside(&pool, |pool| {
            let [a, b] = keys();
            let mut jobs = vec![(a, 1), (b, 2)];
            assert_eq!(pool.try_send_batch(&mut jobs), 2, "there is room");
            pool.close().wait();
        });
        let other = thread::spawn(move || work(&mut second));
        work(&mut first);
        other.join().unwrap();
        sender.join().unwrap();
        let mut ended = log.all();
        ended.sort_by_key(|end| matches!(end, End::Handled(2)));
        assert_eq!(ended, [End::Handled(1), End::Handled(2)]);
    });
}

/// If it fails: an operator is told that its visit is over while a worker has still to make it, or waits for one that
/// has ended.
#[test]
fn a_visit_is_over_when_both_workers_have_made_it() {
    wide_model(1, || {
        let visits = Log::new();
        let (pool, [mut first, mut second]) = two_workers(&Log::new());
        let visitor = {
            let visits = visits.clone();
            thread::spawn(move || {
                let visited = visits.clone();
                pool.visit(move |_, _| visited.note(())).wait();
                assert_eq!(visits.len(), 2);
                pool.close().wait();
            })
        };
        let other = thread::spawn(move || work(&mut second));
        work(&mut first);
        other.join().unwrap();
        visitor.join().unwrap();
    });
}

/// Notes that its worker's handler is gone.
struct Gone(Log<End>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.note(End::Resolved(0));
    }
}

/// If it fails: a close is over while one of the workers goes on.
#[test]
fn a_close_is_over_when_both_workers_have_ended() {
    loom::model(|| {
        let log = Log::new();
        let (pool, workers) = two_workers(&log);
        let over = pool.close();
        for (ended, mut worker) in workers.into_iter().enumerate() {
            assert!(!over.is_done(), "{ended} of 2 workers have ended");
            assert_eq!(worker.step(Instant::now()), Turn::Exit);
        }
        assert!(over.is_done());
    });
}

/// If it fails: a drain is over while one of its threads goes on, or one of them is not told of the limit.
#[test]
fn a_drain_is_over_when_both_threads_have_ended() {
    wide_model(0, || {
        let log = Log::new();
        let make = {
            let log = log.clone();
            move |_| {
                let gone = Gone(log.clone());
                let hold = move |_, _| {
                    let Gone(_) = &gone;
                    Outcome::Hold
                };
                Noting::new(hold, &log)
            }
        };
        let pool = settings().idle(Idle::Park).clock(Clock::manual().0).start(make).expect("it starts");
        let [_, second] = keys();
        pool.try_send(second, 1).expect("there is room");
        pool.drain(Duration::ZERO).wait();
        let ended = log.all();
        assert_eq!(ended.len(), 3, "{ended:?}");
        assert!(ended.contains(&End::Abandoned(1)), "{ended:?}");
    });
}
