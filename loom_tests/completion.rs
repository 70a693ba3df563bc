//! The state byte of a job and its answer: `src/wait/completion.rs`, and the operations built on it.

use crate::support::{Tracked, Wakes, model_without_leaks, spawn};
use keylane::loom_internals::{Ask, completion, operation};
use keylane::pool::{Completion, JobError};
use loom::sync::Mutex;
use loom::thread;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

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
        let worker = spawn(move || run(ask));
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
        let worker = spawn(move || run(ask));
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
        let worker = spawn(move || run(ask));
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
        let worker = spawn(move || run(ask));
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
        let worker = spawn(move || run(ask));
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
        let worker = spawn(move || match ask.start() {
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
        let worker = spawn(move || drop(ask));
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
        let worker = spawn(move || {
            completed.complete(1);
            drop(abandoned);
        });
        assert_eq!((first.wait(), second.wait()), (1, 2));
        worker.join().unwrap();
    });
}

/// Waits on a thread of its own, as the last thing that it does: loom takes the wake of a wait that ended by its time
/// for the end of whatever the thread is blocked in by then.
fn waiting<T: Send + 'static>(wait: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
    spawn(wait)
}

/// If it fails: an answer that comes as the time of a wait is over is lost, for this wait and the next, or leaked.
#[test]
fn an_answer_that_meets_the_end_of_a_wait_is_there_for_the_next() {
    model_without_leaks(|| {
        let (ask, answer) = job();
        let caller = waiting(|| {
            let answer =
                answer.wait_timeout(Duration::ZERO).or_else(|answer| answer.wait_timeout(Duration::MAX));
            assert!(answer.is_ok_and(|answer| answer.is_ok()));
        });
        run(ask);
        caller.join().unwrap();
    });
}

/// If it fails: the same, for one that is wanted no more when the time is over.
#[test]
fn an_answer_that_meets_the_end_of_the_last_wait_is_dropped() {
    model_without_leaks(|| {
        let (ask, answer) = job();
        let caller = waiting(|| drop(answer.wait_timeout(Duration::ZERO)));
        run(ask);
        caller.join().unwrap();
    });
}

/// If it fails: a wait goes on when its time is over.
#[test]
fn a_wait_ends_with_its_time() {
    model_without_leaks(|| {
        let (ask, answer) = job();
        let caller = waiting(|| answer.wait_timeout(Duration::ZERO).err());
        let answer = caller.join().unwrap().expect("nobody answered");
        run(ask);
        assert!(answer.wait().is_ok());
    });
}

/// Takes a lock when it is woken, as whoever is woken for an answer may.
struct Locks(Arc<Mutex<()>>);

impl Wake for Locks {
    fn wake(self: Arc<Self>) {
        drop(self.0.lock().unwrap());
    }
}

/// If it fails: an answer that is given under a lock wakes who waits for it under that lock, and locks it out.
#[test]
fn an_answer_that_is_given_quietly_wakes_nobody_under_the_lock() {
    model_without_leaks(|| {
        let lock = Arc::new(Mutex::new(()));
        let (ask, mut answer) = job();
        let worker = {
            let lock = lock.clone();
            spawn(move || {
                let waker = {
                    let _held = lock.lock().unwrap();
                    drop(ask.start());
                    ask.finish_quietly(Ok(Tracked::new()))
                };
                waker.into_iter().for_each(Waker::wake);
            })
        };
        drop(poll(&mut answer, &Arc::new(Locks(lock)).into()));
        drop(answer);
        worker.join().unwrap();
    });
}

/// If it fails: who waits for an operation that was completed quietly is never woken, or finds it going on still.
#[test]
fn an_operation_that_is_completed_quietly_is_over_and_its_waiter_is_woken() {
    loom::model(|| {
        let (promise, op) = operation(|| 0);
        let over = Arc::new(Mutex::new(false));
        let worker = {
            let over = over.clone();
            spawn(move || {
                let waker = {
                    let mut over = over.lock().unwrap();
                    *over = true;
                    promise.complete_quietly(1)
                };
                waker.into_iter().for_each(Waker::wake);
            })
        };
        let is_over = *over.lock().unwrap();
        assert!(!is_over || op.is_done());
        assert_eq!(op.wait(), 1);
        worker.join().unwrap();
    });
}
