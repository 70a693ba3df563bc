//! What a worker does before it parks, by the loop that its thread runs: `src/pool/idle.rs`, `Worker::step_or_look`.
//!
//! An adaptive worker looks again after two turns in a row with work. A job that is tried again at once makes two.

use crate::support::{Log, Noting, at_once, beside, key, one_worker, wide_model};
use keylane::Clock;
use keylane::loom_internals::{Looks, Parker, Promise, block_on, operation};
use keylane::pool::{Handler, Idle, Outcome, Pool, PoolBuilder, Turn, Worker};
use loom::thread;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A pool of one worker that tries job 1 twice, holds what comes after it up to `held`, handles the others, and keeps
/// the promise with the job of the number `last`.
fn pool(idle: Idle, held: u32, last: u32, promise: Promise<()>) -> Pool<u32> {
    let promise = Mutex::new(Some(promise));
    let settings = PoolBuilder::new().workers(1).capacity(4).idle(idle).clock(Clock::manual().0);
    let make = move |_| {
        let (mut promise, mut is_first) = (promise.lock().unwrap().take(), true);
        let handle = move |n, now| {
            if n == 1 && std::mem::take(&mut is_first) {
                return Outcome::RetryAt(now);
            }
            if n == last {
                promise.take().expect("it comes once").complete(());
            }
            if n <= held { Outcome::Hold } else { Outcome::Done }
        };
        Noting::new(handle, &Log::new())
    };
    settings.start(make).expect("it starts")
}

/// If it fails: a job that comes while a worker looks again, or between its last look and its sleep, stays in its lane.
#[test]
fn a_job_that_comes_while_a_worker_looks_again_is_handled() {
    loom::model(|| {
        let log = Log::new();
        let mut is_first = true;
        let retried = move |_, now| {
            if std::mem::take(&mut is_first) { Outcome::RetryAt(now) } else { Outcome::Done }
        };
        let (pool, mut worker) = one_worker(2, &log, retried);
        pool.try_send(key(1), 1).expect("there is room");
        let pusher = beside(&pool, |pool| pool.try_send(key(2), 2).expect("there is room"));
        let parker = Parker::new();
        worker.set_sleeper(parker.waker().clone());
        let (mut looks, now) = (Looks::new(Idle::default()), Instant::now());
        while log.len() < 2 {
            match looks.step(&mut worker, now) {
                Turn::Snooze => thread::yield_now(),
                Turn::Park(_) => {
                    parker.park_until(None);
                }
                turn => assert_eq!(turn, Turn::Ran),
            }
        }
        pusher.join().unwrap();
    });
}

/// If it fails: the same by the loop of a thread, which was handed its jobs before it began.
#[test]
fn the_thread_of_a_worker_that_looks_again_handles_all() {
    wide_model(0, || {
        let (promise, op) = operation(|| ());
        let pool = pool(Idle::default(), 0, 2, promise);
        (1..=2).for_each(|n| pool.try_send(key(n.into()), n).expect("there is room"));
        op.wait();
    });
}

/// If it fails: an operator's visit, or the end of its pool, is not seen by a worker that looks again.
#[test]
fn a_visit_and_a_close_are_seen_by_a_worker_that_looks_again() {
    wide_model(0, || {
        let (promise, _op) = operation(|| ());
        let pool = pool(Idle::default(), 1, 1, promise);
        pool.try_send(key(1), 1).expect("there is room");
        pool.visit(|waiting, _| waiting.remove_where(&mut |_| true)).wait();
        drop(pool);
    });
}

/// A time within which no model ends.
const LONG: Duration = Duration::from_secs(3_600);

/// Steps the worker, which spins for long, until `is_enough` says so or it exits.
fn spin<H: Handler>(worker: &mut Worker<H>, now: Instant, is_enough: impl Fn() -> bool) -> Turn {
    let mut looks = Looks::new(Idle::Spin(LONG));
    loop {
        match looks.step(worker, now) {
            Turn::Ran if is_enough() => return Turn::Ran,
            Turn::Ran => {}
            Turn::Snooze => thread::yield_now(),
            Turn::Exit => return Turn::Exit,
            other => panic!("it spins, and does not {other:?}"),
        }
    }
}

/// If it fails: the end of a pool waits until its workers have spun for as long as they were told to.
#[test]
fn a_close_ends_a_worker_that_spins() {
    loom::model(|| {
        let (pool, mut worker) = one_worker(1, &Log::new(), at_once);
        let closer = beside(&pool, |pool| pool.close().wait());
        assert_eq!(spin(&mut worker, Instant::now(), || false), Turn::Exit);
        closer.join().unwrap();
    });
}

/// If it fails: a worker that spins, with nothing to release for a long time, lets nobody into the place that is free.
#[test]
fn who_waits_for_room_gets_in_while_a_worker_spins() {
    loom::model(|| {
        let log = Log::new();
        let (pool, mut worker) =
            one_worker(4, &log, |n, _| if n < 4 { Outcome::Hold } else { Outcome::Done });
        (1..=3).for_each(|n| pool.try_send(key(n.into()), n).expect("there is room"));
        let now = Instant::now();
        assert_eq!(worker.step(now), Turn::Ran);
        pool.try_send(key(4), 4).expect("there is room");
        let sender = beside(&pool, |pool| block_on(pool.send(key(5), 5)).expect("it is open"));
        assert_eq!(spin(&mut worker, now, || log.len() == 2), Turn::Ran);
        sender.join().unwrap();
    });
}
