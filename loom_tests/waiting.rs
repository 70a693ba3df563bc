//! Keys that wait, for a time, an operator or a future: `src/pool/worker.rs`.

use crate::support::{End, Leased, Life, Log, Wakes, at_once, beside, key, one_worker, work, work_until};
use keylane::loom_internals::{block_on, operation};
use keylane::pool::{Outcome, Pool, Turn};
use loom::sync::atomic::{AtomicBool, Ordering::Relaxed};
use loom::thread;
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

/// Job 1 waits for an operator the first time; everything else is done at once.
fn held_once() -> impl FnMut(u32, Instant) -> Outcome<Leased> {
    let mut is_first = true;
    move |n, _| if n == 1 && std::mem::take(&mut is_first) { Outcome::Hold } else { Outcome::Done }
}

/// If it fails: a future that another thread made ready is never polled again, because its wake came as the worker
/// went to sleep; or the jobs behind it overtake it.
#[test]
fn a_lease_that_is_woken_from_another_thread_ends_before_its_backlog() {
    loom::model(|| {
        let log = Log::new();
        let (promise, op) = operation(|| ());
        let mut op = Some(op);
        let (pool, mut worker) = one_worker(3, &log, move |n, _| match op.take() {
            Some(op) if n == 1 => Outcome::Lease(Box::pin(op), None),
            _ => Outcome::Done,
        });
        (1..=2).for_each(|n| pool.try_send(key(1), n).expect("there is room"));
        let other = thread::spawn(move || promise.complete(()));
        work_until(&mut worker, || log.len() == 2);
        other.join().unwrap();
        assert_eq!(log.all(), [End::Resolved(1), End::Handled(2)]);
    });
}

/// If it fails: a wake that met another one, and so queued nothing, is not seen by the poll that both caused.
#[test]
fn a_lease_that_is_woken_twice_sees_both_reasons() {
    loom::model(|| {
        let log = Log::new();
        let news = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
        let waker = Arc::new(Mutex::new(None::<Waker>));
        let (pool, mut worker) = one_worker(1, &log, {
            let (news, waker) = (news.clone(), waker.clone());
            move |_, _| {
                let (news, waker) = (news.clone(), waker.clone());
                let future = poll_fn(move |cx| {
                    *waker.lock().unwrap() = Some(cx.waker().clone());
                    if news.iter().all(|one| one.load(Relaxed)) { Poll::Ready(()) } else { Poll::Pending }
                });
                Outcome::Lease(Box::pin(future), None)
            }
        });
        pool.try_send(key(1), 1).expect("there is room");
        let (life, now) = (Life::of(&worker), Instant::now());
        assert_eq!(worker.step(now), Turn::Ran);
        let waker = waker.lock().unwrap().take().expect("it was polled");
        let others: Vec<_> = (0..2)
            .map(|i| {
                let (news, waker) = (news.clone(), waker.clone());
                thread::spawn(move || {
                    news[i].store(true, Relaxed);
                    waker.wake();
                })
            })
            .collect();
        life.goes_on(&mut worker, now, || log.len() == 1);
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!(log.all(), [End::Resolved(1)]);
    });
}

/// If it fails: a job whose lease ended ends twice, or not at all, when its future is ready at the same time.
#[test]
fn a_lease_ends_once() {
    loom::model(|| {
        let log = Log::new();
        let now = Instant::now();
        let (promise, op) = operation(|| ());
        let mut op = Some(op);
        let (pool, mut worker) = one_worker(1, &log, move |_, _| {
            Outcome::Lease(Box::pin(op.take().expect("it is handled once")), Some(now))
        });
        pool.try_send(key(1), 1).expect("there is room");
        let life = Life::of(&worker);
        let other = thread::spawn(move || promise.complete(()));
        life.goes_on(&mut worker, now, || log.len() == 1);
        other.join().unwrap();
        assert!(matches!(worker.step(now), Turn::Ran | Turn::Park(None)));
        assert!(matches!(log.all()[..], [End::Resolved(1) | End::Expired(1)]));
    });
}

/// If it fails: a wake for a future that is gone polls the one that came after it, which nobody woke.
#[test]
fn a_wake_that_comes_late_polls_no_other_lease() {
    loom::model(|| {
        let log = Log::new();
        let now = Instant::now();
        let due = now + Duration::from_secs(1);
        let (waker, polls) = (Arc::new(Mutex::new(None::<Waker>)), Log::new());
        let mut first = Some(waker.clone());
        let (pool, mut worker) = one_worker(2, &log, {
            let polls = polls.clone();
            move |n, _| {
                let (waker, polls) = (first.take(), polls.clone());
                let is_first = waker.is_some();
                let future = poll_fn(move |cx| {
                    match &waker {
                        Some(waker) => *waker.lock().unwrap() = Some(cx.waker().clone()),
                        None => polls.note(n),
                    }
                    Poll::Pending
                });
                // The first one's time comes; the second has none.
                Outcome::Lease(Box::pin(future), is_first.then_some(due))
            }
        });
        (1..=2).for_each(|n| pool.try_send(key(1), n).expect("there is room"));
        let life = Life::of(&worker);
        assert_eq!(worker.step(now), Turn::Ran);
        let waker = waker.lock().unwrap().take().expect("it was polled");
        let other = thread::spawn(move || waker.wake());
        life.goes_on(&mut worker, due, || polls.len() > 0);
        other.join().unwrap();
        while worker.step(due) == Turn::Ran {}
        assert_eq!((log.all(), polls.all()), (vec![End::Expired(1)], vec![2]));
    });
}

/// If it fails: who pushes to a worker whose time woke it wakes it once more, though it is awake.
#[test]
fn a_push_to_a_worker_that_its_time_woke_wakes_nobody() {
    loom::model(|| {
        let log = Log::new();
        let now = Instant::now();
        let due = now + Duration::from_secs(1);
        let pool = Arc::new(Mutex::new(None::<Pool<u32>>));
        let (made, mut worker) = one_worker(2, &log, {
            let pool = pool.clone();
            move |n, now| {
                if n == 1 && now < due {
                    return Outcome::RetryAt(due);
                }
                if let Some(pool) = pool.lock().unwrap().take() {
                    pool.try_send(key(2), 2).expect("there is room");
                }
                Outcome::Done
            }
        });
        made.try_send(key(1), 1).expect("there is room");
        *pool.lock().unwrap() = Some(made);
        let wakes = Arc::new(Wakes::default());
        worker.set_sleeper(wakes.clone().into());
        assert_eq!(worker.step(now), Turn::Ran);
        assert_eq!(worker.step(now), Turn::Park(Some(due)));
        while log.len() < 2 {
            assert_eq!(worker.step(due), Turn::Ran);
        }
        assert_eq!(log.all(), [End::Handled(1), End::Handled(2)]);
        assert_eq!(wakes.count(), 0, "it was awake");
    });
}

/// If it fails: a worker whose every job waits looks for work without end, or sleeps through a job of another key.
#[test]
fn a_worker_that_holds_a_record_parks_and_wakes_for_another() {
    loom::model(|| {
        let log = Log::new();
        let (pool, mut worker) = one_worker(2, &log, held_once());
        pool.try_send(key(1), 1).expect("there is room");
        let (life, now) = (Life::of(&worker), Instant::now());
        assert_eq!(worker.step(now), Turn::Ran);
        assert_eq!(worker.step(now), Turn::Park(None));
        let pusher = beside(&pool, |pool| pool.try_send(key(2), 2).expect("there is room"));
        life.goes_on(&mut worker, now, || log.len() == 1);
        pusher.join().unwrap();
        assert_eq!(log.all(), [End::Handled(2)]);
    });
}

/// If it fails: a worker that holds a record sleeps through the operator who ends the wait.
#[test]
fn a_worker_that_holds_a_record_wakes_for_an_operator() {
    loom::model(|| {
        let log = Log::new();
        let (pool, mut worker) = one_worker(1, &log, held_once());
        pool.try_send(key(1), 1).expect("there is room");
        let (life, now) = (Life::of(&worker), Instant::now());
        assert_eq!(worker.step(now), Turn::Ran);
        let operator = beside(&pool, |pool| pool.visit(|waiting, _| assert!(waiting.run_now(key(1)))).wait());
        life.goes_on(&mut worker, now, || log.len() == 1);
        operator.join().unwrap();
    });
}

/// If it fails: a record that waits for its time is not run at it, or its key's next one overtakes it.
#[test]
fn a_record_that_waits_for_its_time_stays_ahead_of_its_key() {
    loom::model(|| {
        let log = Log::new();
        let now = Instant::now();
        let due = now + Duration::from_secs(1);
        let (pool, mut worker) =
            one_worker(
                2,
                &log,
                move |n, now| if n == 1 && now < due { Outcome::RetryAt(due) } else { Outcome::Done },
            );
        pool.try_send(key(1), 1).expect("there is room");
        let life = Life::of(&worker);
        assert_eq!(worker.step(now), Turn::Ran);
        assert_eq!(worker.step(now), Turn::Park(Some(due)));
        let pusher = beside(&pool, |pool| pool.try_send(key(1), 2).expect("there is room"));
        life.goes_on(&mut worker, due, || log.len() == 2);
        pusher.join().unwrap();
        assert_eq!(log.all(), [End::Handled(1), End::Handled(2)]);
    });
}

/// If it fails: a closed worker exits while a record waits, or stays when the last one is over.
#[test]
fn a_closed_worker_stays_until_what_waits_is_over() {
    loom::model(|| {
        let log = Log::new();
        let (pool, mut worker) = one_worker(1, &log, held_once());
        pool.try_send(key(1), 1).expect("there is room");
        let operator = beside(&pool, |pool| {
            let end = pool.close();
            loop {
                let is_found = Arc::new(Mutex::new(false));
                let found = is_found.clone();
                pool.visit(move |waiting, _| *found.lock().unwrap() = waiting.run_now(key(1))).wait();
                if *is_found.lock().unwrap() {
                    break;
                }
            }
            end.wait();
        });
        work(&mut worker);
        assert_eq!(log.all(), [End::Handled(1)]);
        operator.join().unwrap();
    });
}

/// If it fails: records that wait keep a lane full, and who waits for room is not told when one of them goes. Of four
/// places one is given back: too few for the turn that frees it to wake anybody, so that it is owed before the park.
#[test]
fn who_waits_for_room_gets_in_between_records_that_stay() {
    loom::model(|| {
        let log = Log::new();
        let (pool, mut worker) =
            one_worker(4, &log, |n, _| if n < 4 { Outcome::Hold } else { Outcome::Done });
        (1..=3).for_each(|n| pool.try_send(key(n.into()), n).expect("there is room"));
        let (life, now) = (Life::of(&worker), Instant::now());
        assert_eq!(worker.step(now), Turn::Ran);
        pool.try_send(key(4), 4).expect("there is room");
        let sender = beside(&pool, |pool| block_on(pool.send(key(5), 5)).expect("it is open"));
        life.goes_on(&mut worker, now, || log.len() == 2);
        sender.join().unwrap();
        assert_eq!(log.all(), [End::Handled(4), End::Handled(5)]);
    });
}

/// If it fails: a drain does not end, or a job that was accepted is not abandoned, or begun after its limit.
#[test]
fn a_drain_ends_what_waits_and_what_is_on_its_way() {
    loom::model(|| {
        let log = Log::new();
        let (pool, mut worker) = one_worker(2, &log, held_once());
        pool.try_send(key(1), 1).expect("there is room");
        let pusher = beside(&pool, |pool| pool.try_send(key(1), 2).is_ok());
        let drainer = beside(&pool, |pool| pool.drain(Duration::ZERO).wait());
        work(&mut worker);
        let ended = log.all();
        drainer.join().unwrap();
        assert_eq!(ended.len(), 1 + usize::from(pusher.join().unwrap()));
        // The second is behind the first, which waits until the limit has passed.
        assert!(ended.iter().all(|end| matches!(end, End::Abandoned(_))), "{ended:?}");
    });
}

/// If it fails: an operator waits forever for a worker that has ended.
#[test]
fn a_visit_to_a_worker_that_ends_is_over() {
    loom::model(|| {
        let (pool, mut worker) = one_worker(1, &Log::new(), at_once);
        let visitor = beside(&pool, |pool| pool.visit(|_, _| ()).wait());
        let closer = beside(&pool, |pool| pool.close().wait());
        work(&mut worker);
        visitor.join().unwrap();
        closer.join().unwrap();
    });
}

/// If it fails: a job whose push met the end of its worker is neither handled nor abandoned, and its caller waits.
#[test]
fn a_worker_that_is_dropped_abandons_what_was_accepted() {
    loom::model(|| {
        let log = Log::new();
        let (pool, worker) = one_worker(1, &log, at_once);
        let pusher = beside(&pool, |pool| pool.try_send(key(1), 1).is_ok());
        drop(worker);
        let abandoned = log.len();
        assert_eq!(abandoned, usize::from(pusher.join().unwrap()));
    });
}

/// If it fails: an operator waits forever for a worker that was dropped before it had ended.
#[test]
fn a_visit_to_a_worker_that_is_dropped_is_over() {
    loom::model(|| {
        let (pool, worker) = one_worker(1, &Log::new(), at_once);
        let visitor = beside(&pool, |pool| pool.visit(|_, _| ()).wait());
        drop(worker);
        visitor.join().unwrap();
    });
}
