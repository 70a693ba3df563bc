//! The control word of a lane: submit, park, close and exit (`src/pool/lane.rs`, `src/pool/worker.rs`).

use crate::support::{End, Log, at_once, beside, key, one_worker, work, work_until};
use keylane::pool::Outcome;
use loom::thread;
use std::panic::resume_unwind;

/// If it fails: a worker sleeps while a job is in its lane, which then stays there until another one comes.
#[test]
fn a_push_wakes_a_parked_worker() {
    loom::model(|| {
        let log = Log::new();
        let (pool, mut worker) = one_worker(2, &log, at_once);
        let pusher = beside(&pool, |pool| pool.try_send(key(1), 1).expect("there is room"));
        work_until(&mut worker, || log.len() == 1);
        pusher.join().unwrap();
    });
}

/// If it fails: a second push, whose reservation met the one that unparks, is not seen.
#[test]
fn two_pushes_wake_a_parked_worker() {
    loom::model(|| {
        let log = Log::new();
        let (pool, mut worker) = one_worker(2, &log, at_once);
        let pushers: Vec<_> = (1..=2)
            .map(|n| {
                let pool = pool.clone();
                thread::spawn(move || pool.try_send(key(n.into()), n).expect("there is room"))
            })
            .collect();
        work_until(&mut worker, || log.len() == 2);
        pushers.into_iter().for_each(|pusher| pusher.join().unwrap());
    });
}

/// If it fails: a pool that is closed while its workers sleep never ends.
#[test]
fn a_close_wakes_a_parked_worker() {
    loom::model(|| {
        let (pool, mut worker) = one_worker(1, &Log::new(), at_once);
        let closer = beside(&pool, |pool| pool.close().wait());
        work(&mut worker);
        closer.join().unwrap();
    });
}

/// If it fails: a job was accepted and never run, or refused and run all the same.
#[test]
fn a_job_is_accepted_exactly_if_it_is_handled() {
    loom::model(|| {
        let log = Log::new();
        let (pool, mut worker) = one_worker(2, &log, at_once);
        let pusher = beside(&pool, |pool| pool.try_send(key(1), 1).is_ok());
        let closer = beside(&pool, |pool| pool.close().wait());
        work(&mut worker);
        // What is handled is handled by now: the worker has exited.
        let handled = log.all();
        closer.join().unwrap();
        let expected: &[End] = if pusher.join().unwrap() { &[End::Handled(1)] } else { &[] };
        assert_eq!(handled, expected);
    });
}

/// If it fails: jobs of one key from one thread run in another order than the one in which they were handed over.
#[test]
fn a_key_keeps_the_order_of_each_producer() {
    loom::model(|| {
        let log = Log::new();
        let (pool, mut worker) = one_worker(3, &log, at_once);
        let other = beside(&pool, |pool| pool.try_send(key(1), 20).expect("there is room"));
        let pusher =
            beside(&pool, |pool| (10..12).for_each(|n| pool.try_send(key(1), n).expect("there is room")));
        other.join().unwrap();
        work_until(&mut worker, || log.len() == 3);
        pusher.join().unwrap();
        let of_one: Vec<_> = log.all().into_iter().filter(|end| *end != End::Handled(20)).collect();
        assert_eq!(of_one, [End::Handled(10), End::Handled(11)]);
    });
}

/// If it fails: a panic in a handler takes the next record with it, or a place.
#[test]
fn a_panic_ends_its_record_and_no_other() {
    loom::model(|| {
        let log = Log::new();
        let (pool, mut worker) = one_worker(2, &log, |n, _| {
            if n == 1 {
                resume_unwind(Box::new("on purpose"));
            }
            Outcome::Done
        });
        pool.try_send(key(1), 1).expect("there is room");
        let pusher = beside(&pool, |pool| {
            pool.try_send(key(1), 2).expect("there is room");
            pool.close().wait();
        });
        work(&mut worker);
        assert_eq!(log.all(), [End::Panicked(1), End::Handled(2)]);
        pusher.join().unwrap();
    });
}

/// If it fails: an operator's look at the waiting keys is never made, because it came as the worker went to sleep or
/// as it took an earlier one.
#[test]
fn a_wake_from_outside_is_always_looked_at() {
    loom::model(|| {
        let visits = Log::new();
        let (pool, mut worker) = one_worker(1, &Log::new(), at_once);
        let visitor = {
            let (pool, visits) = (pool.clone(), visits.clone());
            thread::spawn(move || {
                for n in 1..=2 {
                    let visits = visits.clone();
                    drop(pool.visit(move |_, _| visits.note(n)));
                }
            })
        };
        work_until(&mut worker, || visits.len() == 2);
        visitor.join().unwrap();
        assert_eq!(visits.all(), [1, 2]);
    });
}
