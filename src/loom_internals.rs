//! What the loom models need of the crate's inside: thin shells around the shipped types, which add nothing.

use crate::observe::metrics::Tally;
use crate::pool::JobError;
use std::future::Future;
use std::task::Waker;
use std::time::Instant;

/// Runs a future to its end on this thread, by the sleep that the crate's own waits use.
pub fn block_on<F: Future>(future: F) -> F::Output {
    crate::wait::block_on(future)
}

/// One thread's sleep.
pub struct Parker(crate::wait::Parker);

impl Parker {
    /// For the calling thread.
    #[expect(clippy::new_without_default, reason = "it belongs to the thread that makes it")]
    pub fn new() -> Self {
        Self(crate::wait::Parker::new())
    }

    /// What wakes it.
    pub fn waker(&self) -> &Waker {
        self.0.waker()
    }

    /// Sleeps until woken, or until the time has come.
    pub fn park_until(&self, until: Option<Instant>) -> bool {
        self.0.park_until(until)
    }
}

/// Both sides of a job that is in no lane.
pub fn completion<T, R>(job: T) -> (Ask<T, R>, crate::pool::Completion<T, R>) {
    let (ask, answer) = crate::wait::completion(job, 0);
    (Ask(ask), answer)
}

/// The worker's side of a job.
pub struct Ask<T, R>(crate::wait::Ask<T, R>);

impl<T, R> Ask<T, R> {
    /// The job, unless it was cancelled.
    pub fn start(&self) -> Option<T> {
        self.0.start()
    }

    /// Gives the answer.
    pub fn finish(self, answer: Result<R, JobError>) {
        self.0.finish(answer);
    }
}

/// The counters of a subscription.
#[derive(Default)]
pub struct Counters(crate::observe::metrics::Counters);

impl Counters {
    /// As the intake counts what was delivered.
    pub fn consumed(&self, consumed: u64) {
        self.0.add(&mut Tally { consumed, ..Tally::default() });
    }

    /// As a worker counts what its handler took.
    pub fn succeeded(&self, succeeded: u64) {
        self.0.add(&mut Tally { succeeded, ..Tally::default() });
    }

    /// What is in flight now.
    pub fn set_in_flight(&self, records: u64) {
        self.0.set_in_flight(records);
    }

    /// Consumed, in flight, succeeded.
    pub fn snapshot(&self) -> [u64; 3] {
        let stats = self.0.snapshot();
        [stats.consumed, stats.in_flight, stats.succeeded]
    }
}

/// An operation and the side that completes it.
pub fn operation<T>(if_abandoned: fn() -> T) -> (Promise<T>, crate::Op<T>) {
    let (promise, op) = crate::Op::pending(if_abandoned);
    (Promise(promise), op)
}

/// The side that completes an operation.
pub struct Promise<T>(crate::wait::Promise<T>);

impl<T> Promise<T> {
    /// Completes it.
    pub fn complete(self, value: T) {
        self.0.complete(value);
    }
}
