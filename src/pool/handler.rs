//! What a worker does with its jobs, as its user says it.

use crate::foreign;
use std::future::Future;
use std::time::Instant;

/// What a worker does with its jobs. One value per worker, made on the worker's thread and never shared, so that a
/// state of its own needs no lock.
///
/// A job stays with the worker until it is over, so that it can be run again after a failure or a panic; the handler
/// gets it by reference and says with an [`Outcome`] what comes next.
///
/// ```
/// use keylane::pool::{Handler, Key, Outcome, PoolBuilder};
/// use std::{future::Future, pin::Pin, sync::mpsc, time::{Duration, Instant}};
///
/// struct Fetch(mpsc::Sender<String>);
///
/// impl Handler for Fetch {
///     type Job = &'static str;
///     type Future = Pin<Box<dyn Future<Output = String>>>;
///
///     fn handle(&mut self, page: &mut &'static str, now: Instant) -> Outcome<Self::Future> {
///         let page = *page;
///         Outcome::Lease(Box::pin(async move { format!("<{page}>") }), Some(now + Duration::from_secs(5)))
///     }
///     fn resolve(&mut self, _: &mut &'static str, text: String, _: Instant) -> Outcome<Self::Future> {
///         self.0.send(text).ok();
///         Outcome::Done
///     }
///     fn expired(&mut self, _: &mut &'static str, now: Instant) -> Outcome<Self::Future> {
///         Outcome::RetryAt(now + Duration::from_secs(1))
///     }
/// }
/// let (tell, told) = mpsc::channel();
/// let pool = PoolBuilder::new().workers(1).start(move |_| Fetch(tell.clone()))?;
/// pool.send(Key::of("host-1"), "index").wait()?;
/// assert_eq!(told.recv()?, "<index>");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Handler: 'static {
    /// What is handled. It crosses from the submitting thread to the worker's.
    type Job: Send + 'static;
    /// What a job can be leased to; `std::future::Ready<()>` where that never happens. It is made, polled and dropped
    /// on the worker's thread, and need not be `Send`.
    type Future: Future + 'static;

    /// Runs a job. `now` is the time at which the worker's turn began.
    fn handle(&mut self, job: &mut Self::Job, now: Instant) -> Outcome<Self::Future>;

    /// The future that a job was leased to is ready. By default the job is over.
    fn resolve(
        &mut self,
        _job: &mut Self::Job,
        _output: <Self::Future as Future>::Output,
        _now: Instant,
    ) -> Outcome<Self::Future> {
        Outcome::Done
    }

    /// What the job ran ([`handle`](Handler::handle), [`resolve`](Handler::resolve) or the future) panicked with this
    /// message. A panic in here ends the job. By default it is logged, and the job is over.
    fn panicked(&mut self, _job: &mut Self::Job, message: String, _now: Instant) -> Outcome<Self::Future> {
        foreign::error!(panic = message, "a handler panicked; its job is over");
        Outcome::Done
    }

    /// The lease of a job ended before its future was ready; the future is dropped already. By default the job is over.
    fn expired(&mut self, _job: &mut Self::Job, _now: Instant) -> Outcome<Self::Future> {
        Outcome::Done
    }

    /// The pool ends before this job did. By default it is dropped.
    fn abandoned(&mut self, job: Self::Job) {
        drop(job);
    }

    /// Whether the turn that began at `now` has lasted so long that it should end before the next job. What was
    /// collected in it would wait for the rest of the batch otherwise, as long as its jobs block. Asked after each job.
    ///
    /// The worker itself ends a turn for a wake, for a time that has come, and after 200 us where jobs have been slow;
    /// by default there is no other reason.
    fn is_turn_long(&self, _now: Instant) -> bool {
        false
    }

    /// A turn of the worker ends: what was collected in it may be handed on. A panic in here is logged.
    fn flush(&mut self, _waiting: WaitingNow) {}
}

/// What comes after a job was run.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome<F> {
    /// It is over.
    Done,
    /// It is run again at this time; later jobs of its key wait behind it, other keys go on.
    RetryAt(Instant),
    /// It waits for an operator.
    Hold,
    /// It is leased to this future, which the worker polls; later jobs of its key wait behind it. At the deadline the
    /// future is dropped and [`Handler::expired`] called.
    Lease(F, Option<Instant>),
}

/// How much waits on a worker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WaitingNow {
    /// Keys that wait for a time, an operator, a future or their turn.
    pub keys: usize,
    /// Jobs of those keys, backlogs included.
    pub records: u64,
}

/// What the caller of [`Worker::step`](super::Worker::step) does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Turn {
    /// Something was done; step again.
    Ran,
    /// A push is under way, or somebody was told that there is room and has not come yet; step again soon.
    Snooze,
    /// Nothing to do until the worker's sleeper is woken or this time comes. The caller sleeps, then steps again.
    Park(Option<Instant>),
    /// The lane is closed and empty. The worker is done.
    Exit,
}

/// Runs a part of the handler; its panic becomes what [`Handler::panicked`] says.
#[inline]
pub(super) fn guarded<H: Handler>(
    handler: &mut H,
    job: &mut H::Job,
    now: Instant,
    run: impl FnOnce(&mut H, &mut H::Job) -> Outcome<H::Future>,
) -> Outcome<H::Future> {
    match foreign::call(|| run(handler, job)) {
        Ok(outcome) => outcome,
        Err(message) => after_panic(handler, job, message, now),
    }
}

#[cold]
pub(super) fn after_panic<H: Handler>(
    handler: &mut H,
    job: &mut H::Job,
    message: String,
    now: Instant,
) -> Outcome<H::Future> {
    foreign::call(|| handler.panicked(job, message, now)).unwrap_or_else(|panic| {
        foreign::error!(panic, "a handler panicked while it dealt with a panic; its job ends");
        Outcome::Done
    })
}
