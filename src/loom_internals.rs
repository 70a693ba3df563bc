//! What the loom models need of the crate's inside: thin shells around the shipped types, which add nothing.

use crate::observe::metrics::Tally;
use crate::pool::{Handler, Idle, Idling, JobError, Turn, Worker};
use std::future::Future;
use std::ptr::NonNull;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
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

/// What a worker's thread does before it parks.
pub struct Looks(Idling);

impl Looks {
    /// By this policy.
    pub fn new(policy: Idle) -> Self {
        Self(Idling::new(policy, false))
    }

    /// One step of the worker, or one more look instead of its sleep.
    pub fn step<H: Handler>(&mut self, worker: &mut Worker<H>, now: Instant) -> Turn {
        worker.step_or_look(now, &mut self.0)
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

    /// Gives the answer, and who is to be woken for it.
    pub fn finish_quietly(self, answer: Result<R, JobError>) -> Option<Waker> {
        self.0.finish_quietly(answer)
    }
}

/// A value in such memory as a job and its answer are in.
pub struct Kept<T>(NonNull<T>);

// SAFETY: it owns its value, and gives nobody else access.
unsafe impl<T: Send> Send for Kept<T> {}

impl<T> Kept<T> {
    /// Takes memory for the value.
    pub fn new(value: T) -> Self {
        Self(crate::wait::blocks::keep(value))
    }

    /// Where it is.
    pub fn at(&self) -> usize {
        self.0.as_ptr() as usize
    }
}

impl<T> Drop for Kept<T> {
    fn drop(&mut self) {
        // SAFETY: `new` took it, and this is its end.
        unsafe { crate::wait::blocks::free(self.0) };
    }
}

/// A lane of numbers without its worker.
#[derive(Clone)]
pub struct Lane(Arc<crate::pool::Lane<u32, ()>>);

impl Lane {
    /// With this many places.
    pub fn new(capacity: usize) -> Self {
        Self(crate::pool::Lane::new(capacity))
    }

    /// Reserves up to this many places, fills the first of them with these jobs, and leaves the others. Tells how many
    /// were left.
    pub fn reserve(&self, places: u64, jobs: &[u32]) -> u64 {
        let Ok(mut reservation) = self.0.reserve(places) else { return 0 };
        jobs.iter().take(reservation.left() as usize).for_each(|job| reservation.push(*job));
        reservation.left()
    }

    /// One look of who waits for room for this job. The number is none before the first look.
    pub fn poll_push(&self, job: u32, number: &mut Option<u64>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.0.push(job).is_ok() {
                return Poll::Ready(());
            }
            if self.0.wait_for_capacity(number, cx.waker()) {
                return Poll::Pending;
            }
        }
    }

    /// How many places are taken.
    pub fn pending(&self) -> u64 {
        self.0.look().pending()
    }
}

/// Tells who waits for the cancellation that it has happened.
pub fn cancel(cancellation: &crate::Cancellation) {
    cancellation.cancel();
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

    /// Completes it, and gives who is to be woken for it.
    pub fn complete_quietly(self, value: T) -> Option<Waker> {
        self.0.complete_quietly(value)
    }
}
