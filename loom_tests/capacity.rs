//! The bound of a lane and those who wait for room: `src/pool/lane.rs`, `src/pool/sending.rs`.

use crate::support::{End, Life, Log, Wakes, at_once, beside, key, one_worker, work_until};
use keylane::loom_internals::{Lane, block_on};
use keylane::pool::{Outcome, SendError, Turn};
use loom::thread;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Waker};
use std::time::Instant;

/// If it fails: more jobs are in a lane than it has places for, or one that waits for room is not told of it and waits
/// forever.
#[test]
fn no_more_than_the_capacity_is_in_a_lane_and_who_waits_gets_in() {
    loom::model(|| {
        let log = Log::new();
        // Counted where loom does not look: up once a job is in, down before it is handled.
        let taken = Arc::new(AtomicUsize::new(0));
        let begun = Log::new();
        let (pool, mut worker) = one_worker(1, &log, {
            let begun = begun.clone();
            move |n, _| {
                begun.note(n);
                Outcome::Done
            }
        });
        let senders: Vec<_> = (1..=2)
            .map(|n| {
                let (pool, taken, begun) = (pool.clone(), taken.clone(), begun.clone());
                thread::spawn(move || {
                    block_on(pool.send(key(1), n)).expect("it is open");
                    let taken = taken.fetch_add(1, Relaxed) + 1;
                    assert!(taken <= begun.len() + 1, "a lane took more than its capacity");
                })
            })
            .collect();
        work_until(&mut worker, || log.len() == 2);
        senders.into_iter().for_each(|sender| sender.join().unwrap());
    });
}

/// If it fails: who comes to wait just as others are woken is forgotten with them.
#[test]
fn who_comes_to_wait_while_others_are_woken_gets_in() {
    loom::model(|| {
        let log = Log::new();
        let (pool, mut worker) = one_worker(1, &log, at_once);
        pool.try_send(key(1), 1).expect("there is room");
        // It waits already. Woken in vain, because another was faster, it comes to wait again.
        let mut sending = pool.send(key(1), 2);
        assert!(Pin::new(&mut sending).poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let sender = thread::spawn(move || block_on(sending).expect("it is open"));
        let other = beside(&pool, |pool| {
            // Taken or refused: either way it is only in the way.
            let _ = pool.try_send(key(1), 3);
        });
        work_until(&mut worker, || log.all().contains(&End::Handled(2)));
        sender.join().unwrap();
        other.join().unwrap();
    });
}

/// If it fails: a place that was given back is not seen to be free in the queue.
#[test]
fn a_place_that_is_free_again_can_be_filled() {
    loom::model(|| {
        let log = Log::new();
        let (pool, mut worker) = one_worker(1, &log, at_once);
        pool.try_send(key(1), 1).expect("there is room");
        let sender = beside(&pool, |pool| {
            while pool.try_send(key(1), 2).is_err() {
                thread::yield_now();
            }
        });
        work_until(&mut worker, || log.len() == 2);
        sender.join().unwrap();
        assert_eq!(log.all(), [End::Handled(1), End::Handled(2)]);
    });
}

/// If it fails: who waits for room in a lane that is closed waits forever.
#[test]
fn a_close_ends_the_wait_for_room() {
    loom::model(|| {
        let (pool, worker) = one_worker(1, &Log::new(), at_once);
        pool.try_send(key(1), 1).expect("there is room");
        let closer = beside(&pool, |pool| pool.close().wait());
        assert_eq!(block_on(pool.send(key(1), 2)), Err(SendError::Closed(2)));
        // Which ends it, and so the close.
        drop(worker);
        closer.join().unwrap();
    });
}

/// If it fails: of two that wait for room only one is woken, and the other one forgotten with the bit that tells of him.
#[test]
fn each_of_two_that_wait_for_room_gets_in() {
    loom::model(|| {
        let log = Log::new();
        let (pool, mut worker) = one_worker(1, &log, at_once);
        pool.try_send(key(1), 1).expect("there is room");
        let senders: Vec<_> = (2..=3)
            .map(|n| {
                let mut sending = pool.send(key(1), n);
                assert!(Pin::new(&mut sending).poll(&mut Context::from_waker(Waker::noop())).is_pending());
                thread::spawn(move || block_on(sending).expect("it is open"))
            })
            .collect();
        work_until(&mut worker, || log.len() == 3);
        senders.into_iter().for_each(|sender| sender.join().unwrap());
    });
}

/// If it fails: who waits behind one that was woken for a place and never comes for it, because its task does something
/// else, waits forever beside that place.
#[test]
fn who_waits_behind_one_that_does_not_come_gets_in() {
    loom::model(|| {
        let log = Log::new();
        let (pool, mut worker) = one_worker(1, &log, at_once);
        pool.try_send(key(1), 1).expect("there is room");
        let wakes = Arc::new(Wakes::default());
        let mut does_not_come = pool.send(key(1), 2);
        let early = Pin::new(&mut does_not_come).poll(&mut Context::from_waker(&wakes.clone().into()));
        assert!(early.is_pending());
        let sender = beside(&pool, |pool| block_on(pool.send(key(1), 3)).expect("it is open"));
        work_until(&mut worker, || log.len() == 2);
        sender.join().unwrap();
        assert_eq!((log.all(), wakes.count()), (vec![End::Handled(1), End::Handled(3)], 1));
    });
}

/// If it fails: who waits because of a reservation that came to nothing waits on although there is room, while the
/// worker is busy with a long job.
#[test]
fn a_reservation_that_is_given_back_wakes_who_waited_because_of_it() {
    loom::model(|| {
        let log = Log::new();
        let (pool, mut worker) = one_worker(1, &log, at_once);
        let other = beside(&pool, |pool| pool.try_send(key(1), 1).is_ok());
        let sender = beside(&pool, |pool| block_on(pool.send(key(1), 2)).expect("it is open"));
        let is_mine = pool.try_send(key(1), 3).is_ok();
        // One turn, behind which the worker does not come back for long.
        let now = Instant::now();
        let _ = worker.step(now);
        let taken = usize::from(other.join().unwrap()) + usize::from(is_mine);
        let over = log.all().into_iter().filter(|end| *end != End::Handled(2)).count();
        if over < taken {
            Life::of(&worker).goes_on(&mut worker, now, || log.all().contains(&End::Handled(2)));
        }
        sender.join().unwrap();
    });
}

/// If it fails: places that were reserved and never filled are lost to the lane, or who waited because of them waits
/// on.
#[test]
fn places_that_are_not_filled_are_free_again() {
    loom::model(|| {
        let lane = Lane::new(3);
        let reserves = {
            let lane = lane.clone();
            thread::spawn(move || lane.reserve(3, &[1]))
        };
        let mut number = None;
        block_on(poll_fn(|cx| lane.poll_push(2, &mut number, cx)));
        assert!(
            (1..=2).contains(&reserves.join().unwrap()),
            "some are left, before the other one came and after"
        );
        assert_eq!(lane.pending(), 2);
    });
}

/// If it fails: who waits for room no more leaves a waker in the lane, which keeps what it owns until the next release.
#[test]
fn who_stops_waiting_for_room_leaves_nothing_behind() {
    loom::model(|| {
        let (pool, worker) = one_worker(1, &Log::new(), at_once);
        pool.try_send(key(1), 1).expect("there is room");
        let wakes = Arc::new(Wakes::default());
        let mut sending = pool.send(key(1), 2);
        let waker = wakes.clone().into();
        assert!(Pin::new(&mut sending).poll(&mut Context::from_waker(&waker)).is_pending());
        drop((sending, waker));
        assert_eq!(Arc::strong_count(&wakes), 1, "a waker was left behind");
        drop(worker);
    });
}

/// If it fails: a worker that always has work to do lets nobody in who waits for room, for it is never idle.
#[test]
fn who_waits_for_room_gets_in_while_the_worker_is_busy() {
    loom::model(|| {
        let log = Log::<End>::new();
        let (pool, mut worker) = one_worker(2, &log, {
            let log = log.clone();
            // The first job keeps the worker busy until the one that waits for room was handled.
            move |n, now| {
                let is_in = log.all().contains(&End::Handled(3));
                if n == 1 && !is_in { Outcome::RetryAt(now) } else { Outcome::Done }
            }
        });
        (1..=2).for_each(|n| pool.try_send(key(n.into()), n).expect("there is room"));
        let sender = beside(&pool, |pool| block_on(pool.send(key(3), 3)).expect("it is open"));
        let now = Instant::now();
        while log.len() < 3 {
            assert_eq!(worker.step(now), Turn::Ran, "it is busy all the time");
            thread::yield_now();
        }
        sender.join().unwrap();
        assert_eq!(log.all(), [End::Handled(2), End::Handled(3), End::Handled(1)]);
    });
}
