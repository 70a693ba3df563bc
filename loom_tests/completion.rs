//! The state byte of a job and its answer: `src/wait/completion.rs`, and the operations built on it.

use crate::support::{Tracked, Wakes, model_without_leaks};
use keylane::loom_internals::{Ask, completion, operation};
use keylane::pool::{Completion, JobError};
use loom::thread;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

type Sides = (Ask<Tracked, Tracked>, Completion<Tracked, Tracked>);

fn job() -> Sides {
    completion(Tracked::new())
}

fn poll(answer: &mut Completion<Tracked, Tracked>, waker: &Waker) -> Poll<Result<Tracked, JobError>> {
    Pin::new(answer).poll(&mut Context::from_waker(waker))
}

fn run(ask: Ask<Tracked, Tracked>) {
    drop(ask.start().expect("nobody cancelled it"));
    ask.finish(Ok(Tracked::new()));
}

/// If it fails: a thread waits for an answer that is there, or reads it before it is written.
#[test]
fn an_answer_reaches_the_thread_that_waits() {
    model_without_leaks(|| {
        let (ask, answer) = job();
        let worker = thread::spawn(move || run(ask));
        assert!(answer.wait().is_ok());
        worker.join().unwrap();
    });
}

/// If it fails: a task that moved to another waker is woken by the old one only, or a waker is dropped twice or never.
#[test]
fn an_answer_reaches_a_waker_that_changed() {
    model_without_leaks(|| {
        let first = Arc::new(Wakes::default());
        let (ask, mut answer) = job();
        let worker = thread::spawn(move || run(ask));
        let early = poll(&mut answer, &first.clone().into());
        if early.is_pending() {
            assert!(answer.wait().is_ok());
        } else {
            drop((early, answer));
        }
        worker.join().unwrap();
        assert_eq!(Arc::strong_count(&first), 1, "a waker was leaked");
    });
}

/// If it fails: a task whose waker stands beside the answer is never polled again.
#[test]
fn a_waker_that_stands_is_woken_once() {
    model_without_leaks(|| {
        let wakes = Arc::new(Wakes::default());
        let (ask, mut answer) = job();
        let worker = thread::spawn(move || run(ask));
        let early = poll(&mut answer, &wakes.clone().into());
        worker.join().unwrap();
        assert_eq!(wakes.count(), usize::from(early.is_pending()));
        if early.is_pending() {
            assert!(poll(&mut answer, Waker::noop()).is_ready());
        }
        drop((early, answer));
        assert_eq!(Arc::strong_count(&wakes), 1, "a waker was leaked");
    });
}

/// If it fails: an answer that nobody wants is leaked or dropped twice, or the cell is freed under the worker.
#[test]
fn an_answer_that_nobody_wants_is_dropped() {
    model_without_leaks(|| {
        let (ask, answer) = job();
        let worker = thread::spawn(move || run(ask));
        drop(answer);
        worker.join().unwrap();
    });
}

/// If it fails: the same, when a waker was left behind: the worker takes it while the caller goes.
#[test]
fn an_answer_that_is_wanted_no_more_is_dropped_with_its_waker() {
    model_without_leaks(|| {
        let wakes = Arc::new(Wakes::default());
        let (ask, mut answer) = job();
        let worker = thread::spawn(move || run(ask));
        drop(poll(&mut answer, &wakes.clone().into()));
        drop(answer);
        worker.join().unwrap();
        assert_eq!(Arc::strong_count(&wakes), 1, "a waker was leaked");
    });
}

/// If it fails: a job is run although its caller took it back, or neither side has it.
#[test]
fn a_cancel_and_a_start_leave_the_job_to_exactly_one() {
    model_without_leaks(|| {
        let (ask, answer) = job();
        let worker = thread::spawn(move || match ask.start() {
            Some(job) => {
                ask.finish(Ok(job));
                true
            }
            None => false,
        });
        let is_mine = match answer.cancel() {
            Ok(_job) => true,
            Err(answer) => {
                assert!(answer.wait().is_ok(), "a job that could not be cancelled has its answer");
                false
            }
        };
        assert_eq!(worker.join().unwrap(), !is_mine);
    });
}

/// If it fails: a caller waits for a job that its worker dropped.
#[test]
fn an_abandoned_job_answers() {
    model_without_leaks(|| {
        let (ask, answer) = job();
        let worker = thread::spawn(move || drop(ask));
        assert_eq!(answer.wait().err(), Some(JobError::Abandoned));
        worker.join().unwrap();
    });
}

/// If it fails: an operation that was completed, or whose other side is gone, is waited for in vain.
#[test]
fn an_operation_ends_when_completed_and_when_abandoned() {
    loom::model(|| {
        let (completed, first) = operation(|| 0);
        let (abandoned, second) = operation(|| 2);
        let worker = thread::spawn(move || {
            completed.complete(1);
            drop(abandoned);
        });
        assert_eq!((first.wait(), second.wait()), (1, 2));
        worker.join().unwrap();
    });
}
