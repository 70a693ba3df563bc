//! Whole pools, with their threads: `src/pool/mod.rs`, `src/pool/request.rs`.

use crate::support::{End, Log, Noting, key};
use keylane::Clock;
use keylane::loom_internals::operation;
use keylane::pool::{Idle, JobError, Outcome, Pool, PoolBuilder};
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// One thread, which parks at once. The clock stands still, so that each interleaving runs the same each time.
fn settings(capacity: usize) -> PoolBuilder {
    PoolBuilder::new().workers(1).capacity(capacity).idle(Idle::Park).clock(Clock::manual().0)
}

/// A pool whose jobs all wait for an operator.
fn holding(log: &Log<End>) -> Pool<u32> {
    let log = log.clone();
    settings(1).start(move |_| Noting::new(|_, _| Outcome::Hold, &log)).expect("it starts")
}

/// If it fails: an answer does not come, or a pool that is dropped does not end its threads.
#[test]
fn a_job_is_answered_and_a_pool_that_is_dropped_ends() {
    loom::model(|| {
        let pool = settings(1).shared(|n: u32| n + 1).expect("it starts");
        let answer = pool.try_submit(key(1), 1).expect("there is room");
        assert_eq!(answer.wait(), Ok(2));
    });
}

/// If it fails: a job that a dropped pool never began leaves its caller waiting.
#[test]
fn a_pool_that_is_dropped_leaves_no_caller_waiting() {
    loom::model(|| {
        let pool = settings(1).shared(|n: u32| n + 1).expect("it starts");
        let answer = pool.try_submit(key(1), 1).expect("there is room");
        drop(pool);
        assert!(matches!(answer.wait(), Ok(2) | Err(JobError::Abandoned)));
    });
}

/// If it fails: a panic takes the caller or the thread of its job with it.
#[test]
fn a_panic_is_the_answer_of_its_job() {
    loom::model(|| {
        let pool = settings(1).shared(|_: u32| -> u32 { resume_unwind(Box::new("on purpose")) });
        let pool = pool.expect("it starts");
        let answer = pool.try_submit(key(1), 1).expect("there is room");
        assert_eq!(answer.wait(), Err(JobError::Panicked("on purpose".to_owned())));
        pool.close().wait();
    });
}

/// If it fails: a worker that was told to wait for a time sleeps through it.
#[test]
fn a_worker_wakes_when_its_clock_is_moved() {
    loom::model(|| {
        let (clock, time) = Clock::manual();
        let due = clock.now() + Duration::from_secs(1);
        let (promise, op) = operation(|| ());
        let promise = Mutex::new(Some(promise));
        let pool = settings(1).clock(clock);
        let pool = pool
            .start(move |_| {
                let mut promise = promise.lock().unwrap().take();
                let retry = move |_, now| {
                    if now < due {
                        return Outcome::RetryAt(due);
                    }
                    promise.take().expect("it is over once").complete(());
                    Outcome::Done
                };
                Noting::new(retry, &Log::new())
            })
            .expect("it starts");
        pool.try_send(key(1), 1).expect("there is room");
        time.advance(Duration::from_secs(1));
        op.wait();
    });
}

/// If it fails: a drain does not end, or loses a job that was accepted.
#[test]
fn a_drain_ends_the_threads() {
    loom::model(|| {
        let log = Log::new();
        let pool = holding(&log);
        pool.try_send(key(1), 1).expect("there is room");
        pool.drain(Duration::ZERO).wait();
        assert_eq!(log.all(), [End::Abandoned(1)]);
    });
}

/// If it fails: a pool that is dropped while a record waits for an operator waits for it too, forever.
#[test]
fn a_pool_that_is_dropped_abandons_what_waits() {
    loom::model(|| {
        let log = Log::new();
        let pool = holding(&log);
        pool.try_send(key(1), 1).expect("there is room");
        drop(pool);
        assert_eq!(log.all(), [End::Abandoned(1)]);
    });
}

/// If it fails: a pool whose last handle goes on one of its own threads waits for itself.
#[test]
fn a_pool_can_be_dropped_inside_a_handler() {
    loom::model(|| {
        let ran = Log::new();
        let pool = settings(1).shared(|job: Box<dyn FnOnce() + Send>| job()).expect("it starts");
        let answer = {
            let (pool, inner, ran) = (pool.clone(), pool, ran.clone());
            let submitted = pool.try_submit(
                key(1),
                Box::new(move || {
                    drop(inner);
                    ran.note(());
                }),
            );
            submitted.expect("there is room")
        };
        assert_eq!(answer.wait(), Ok(()));
        assert_eq!(ran.len(), 1);
    });
}

/// If it fails: an operator waits forever for a worker whose thread has ended or is about to.
#[test]
fn a_visit_that_meets_the_end_of_a_thread_is_over() {
    loom::model(|| {
        let pool = settings(1).shared(|n: u32| n).expect("it starts");
        let ended = pool.close();
        pool.visit(|_, _| ()).wait();
        ended.wait();
        pool.visit(|_, _| ()).wait();
        pool.close().wait();
    });
}

/// If it fails: a future that the worker polls is not polled again when another thread makes it ready.
#[test]
fn an_asynchronous_handler_is_woken_from_another_thread() {
    loom::model(|| {
        let (promise, op) = operation(|| 0);
        let op = Arc::new(Mutex::new(Some(op)));
        let pool = settings(1)
            .asynchronous(move |n: u32| {
                let op = op.lock().unwrap().take().expect("there is one job");
                async move { op.await + n }
            })
            .expect("it starts");
        let answer = pool.try_submit(key(1), 1).expect("there is room");
        promise.complete(1);
        assert_eq!(answer.wait(), Ok(2));
    });
}

/// If it fails: a job that was cancelled runs, or one that could not be has no answer.
#[test]
fn a_cancelled_job_does_not_run() {
    loom::model(|| {
        let ran = Log::new();
        let pool = settings(1)
            .shared({
                let ran = ran.clone();
                move |n: u32| ran.note(n)
            })
            .expect("it starts");
        let is_cancelled = match pool.try_submit(key(1), 1).expect("there is room").cancel() {
            Ok(job) => job == 1,
            Err(answer) => answer.wait().is_err(),
        };
        pool.close().wait();
        assert_eq!(ran.len(), usize::from(!is_cancelled));
    });
}
