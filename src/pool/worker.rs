//! A worker: one lane, one handler, the keys that wait, and [`Worker::step`], the one body that threads, models and
//! tests run.

use super::lane::{Lane, Word};
use super::waiting::{Due, For, Waiting, WaitsFor};
use super::{Idling, Key};
use crate::foreign;
use crate::sync::{Arc, AtomicBool, Ordering};
use crate::wait::Backoff;
use crate::wait::own_lane;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

/// What a worker does with its jobs. One value per worker, made on the worker's thread and never shared.
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
///     fn panicked(&mut self, _: &mut &'static str, _: String, now: Instant) -> Outcome<Self::Future> {
///         Outcome::RetryAt(now + Duration::from_secs(1))
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
    ///
    /// ```
    /// use keylane::pool::{Handler, Key, Outcome, PoolBuilder, Turn};
    /// # use std::time::Instant;
    ///
    /// /// Sums up its jobs; no lock is needed, for a worker has its handler for itself.
    /// struct Sum(u64);
    ///
    /// impl Handler for Sum {
    ///     fn handle(&mut self, n: &mut u64, _: Instant) -> Outcome<Self::Future> {
    ///         self.0 += *n;
    ///         if self.0 < 10 { Outcome::Done } else { Outcome::Hold }
    ///     }
    /// #     type Job = u64;
    /// #     type Future = std::future::Ready<()>;
    /// #     fn resolve(&mut self, _: &mut u64, (): (), _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// #     fn panicked(&mut self, _: &mut u64, _: String, _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// #     fn expired(&mut self, _: &mut u64, _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// }
    /// let (pool, mut workers) = PoolBuilder::new().workers(1).stepped(|_| Sum(0))?;
    /// pool.try_send_batch(&mut vec![(Key::of("a"), 4), (Key::of("b"), 5), (Key::of("c"), 6)]);
    /// while workers[0].step(Instant::now()) == Turn::Ran {}
    /// assert_eq!(pool.depths().sum::<u64>(), 1, "the third is held");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn handle(&mut self, job: &mut Self::Job, now: Instant) -> Outcome<Self::Future>;

    /// The future that a job was leased to is ready.
    ///
    /// ```
    /// use keylane::pool::{Handler, Key, Outcome, PoolBuilder, Turn};
    /// # use std::time::Instant;
    ///
    /// /// Asks, and asks again until the answer is yes.
    /// struct Asks { answers: Vec<bool> }
    ///
    /// impl Handler for Asks {
    /// #     type Job = u64;
    ///     type Future = std::future::Ready<bool>;
    ///
    ///     fn handle(&mut self, _: &mut u64, _: Instant) -> Outcome<Self::Future> {
    ///         Outcome::Lease(std::future::ready(self.answers.pop().unwrap_or(true)), None)
    ///     }
    ///     fn resolve(&mut self, _: &mut u64, is_yes: bool, now: Instant) -> Outcome<Self::Future> {
    ///         if is_yes { Outcome::Done } else { Outcome::RetryAt(now) }
    ///     }
    /// #     fn panicked(&mut self, _: &mut u64, _: String, _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// #     fn expired(&mut self, _: &mut u64, _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// }
    /// let (pool, mut workers) = PoolBuilder::new().workers(1).stepped(|_| Asks { answers: vec![false] })?;
    /// pool.try_send(Key::of("a"), 1)?;
    /// while workers[0].step(Instant::now()) == Turn::Ran {}
    /// assert_eq!(pool.depths().sum::<u64>(), 0, "the second answer was yes");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn resolve(
        &mut self,
        job: &mut Self::Job,
        output: <Self::Future as Future>::Output,
        now: Instant,
    ) -> Outcome<Self::Future>;

    /// What the job ran ([`handle`](Handler::handle), [`resolve`](Handler::resolve) or the future) panicked with this
    /// message. A panic in here ends the job.
    ///
    /// ```
    /// use keylane::pool::{Handler, Key, Outcome, PoolBuilder, Turn};
    /// # use std::time::Instant;
    ///
    /// /// Fails at the first attempt.
    /// struct Clumsy;
    ///
    /// impl Handler for Clumsy {
    ///     fn handle(&mut self, attempts: &mut u64, _: Instant) -> Outcome<Self::Future> {
    ///         *attempts += 1;
    ///         assert!(*attempts > 1, "dropped it");
    ///         Outcome::Done
    ///     }
    ///     fn panicked(&mut self, _: &mut u64, message: String, now: Instant) -> Outcome<Self::Future> {
    ///         if message == "dropped it" { Outcome::RetryAt(now) } else { Outcome::Hold }
    ///     }
    /// #     type Job = u64;
    /// #     type Future = std::future::Ready<()>;
    /// #     fn resolve(&mut self, _: &mut u64, (): (), _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// #     fn expired(&mut self, _: &mut u64, _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// }
    /// let (pool, mut workers) = PoolBuilder::new().workers(1).stepped(|_| Clumsy)?;
    /// pool.try_send(Key::of("a"), 0)?;
    /// while workers[0].step(Instant::now()) == Turn::Ran {}
    /// assert_eq!(pool.depths().sum::<u64>(), 0, "it was tried again");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn panicked(&mut self, job: &mut Self::Job, message: String, now: Instant) -> Outcome<Self::Future>;

    /// The lease of a job ended before its future was ready; the future is dropped already.
    ///
    /// ```
    /// use keylane::pool::{Handler, Key, Outcome, PoolBuilder, Turn};
    /// use std::time::{Duration, Instant};
    ///
    /// struct Impatient;
    ///
    /// impl Handler for Impatient {
    /// #     type Job = u64;
    /// #     type Future = std::future::Pending<()>;
    ///     fn handle(&mut self, _: &mut u64, now: Instant) -> Outcome<Self::Future> {
    ///         Outcome::Lease(std::future::pending(), Some(now + Duration::from_secs(1)))
    ///     }
    ///     fn expired(&mut self, _: &mut u64, _: Instant) -> Outcome<Self::Future> {
    ///         Outcome::Done // without an answer
    ///     }
    /// #     fn resolve(&mut self, _: &mut u64, (): (), _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// #     fn panicked(&mut self, _: &mut u64, _: String, _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// }
    /// let (pool, mut workers) = PoolBuilder::new().workers(1).stepped(|_| Impatient)?;
    /// let now = Instant::now();
    /// pool.try_send(Key::of("a"), 0)?;
    /// while workers[0].step(now) == Turn::Ran {}
    /// assert_eq!(pool.depths().sum::<u64>(), 1);
    /// while workers[0].step(now + Duration::from_secs(2)) == Turn::Ran {}
    /// assert_eq!(pool.depths().sum::<u64>(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn expired(&mut self, job: &mut Self::Job, now: Instant) -> Outcome<Self::Future>;

    /// The pool ends before this job did.
    ///
    /// ```
    /// use keylane::pool::{Handler, Key, Outcome, PoolBuilder};
    /// # use std::{sync::mpsc, time::{Duration, Instant}};
    ///
    /// struct Held(mpsc::Sender<u64>);
    ///
    /// impl Handler for Held {
    ///     fn handle(&mut self, _: &mut u64, _: Instant) -> Outcome<Self::Future> { Outcome::Hold }
    ///     fn abandoned(&mut self, job: u64) {
    ///         self.0.send(job).ok(); // to whoever keeps it for the next start
    ///     }
    /// #     type Job = u64;
    /// #     type Future = std::future::Ready<()>;
    /// #     fn resolve(&mut self, _: &mut u64, (): (), _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// #     fn panicked(&mut self, _: &mut u64, _: String, _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// #     fn expired(&mut self, _: &mut u64, _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// }
    /// let (tell, told) = mpsc::channel();
    /// let pool = PoolBuilder::new().workers(1).start(move |_| Held(tell.clone()))?;
    /// pool.send(Key::of("a"), 7).wait()?;
    /// pool.drain(Duration::ZERO).wait();
    /// assert_eq!(told.recv()?, 7);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn abandoned(&mut self, job: Self::Job) {
        drop(job);
    }

    /// Whether the turn that began at `now` has lasted so long that it should end before the next job. What was
    /// collected in it, and timers, would wait for the rest of the batch otherwise, as long as its jobs block.
    ///
    /// ```
    /// use keylane::pool::{Handler, Key, Outcome, PoolBuilder};
    /// # use std::time::Instant;
    ///
    /// /// Takes one job in a turn, because each takes long.
    /// struct Slow;
    ///
    /// impl Handler for Slow {
    ///     fn handle(&mut self, _: &mut u64, _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    ///     fn is_turn_long(&self, _now: Instant) -> bool { true }
    /// #     type Job = u64;
    /// #     type Future = std::future::Ready<()>;
    /// #     fn resolve(&mut self, _: &mut u64, (): (), _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// #     fn panicked(&mut self, _: &mut u64, _: String, _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// #     fn expired(&mut self, _: &mut u64, _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// }
    /// let (pool, mut workers) = PoolBuilder::new().workers(1).stepped(|_| Slow)?;
    /// pool.try_send(Key::of("a"), 1)?;
    /// pool.try_send(Key::of("b"), 2)?;
    /// workers[0].step(Instant::now());
    /// assert_eq!(pool.depths().sum::<u64>(), 1, "one job in a turn");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn is_turn_long(&self, _now: Instant) -> bool {
        false
    }

    /// A turn of the worker ends: what was collected in it may be handed on.
    ///
    /// ```
    /// use keylane::pool::{Handler, Key, Outcome, PoolBuilder, WaitingNow};
    /// # use std::{sync::mpsc, time::Instant};
    ///
    /// /// Writes what it collected in a turn at once.
    /// struct Batches { batch: Vec<u64>, written: mpsc::Sender<Vec<u64>> }
    ///
    /// impl Handler for Batches {
    ///     fn handle(&mut self, n: &mut u64, _: Instant) -> Outcome<Self::Future> {
    ///         self.batch.push(*n);
    ///         Outcome::Done
    ///     }
    ///     fn flush(&mut self, _: WaitingNow) {
    ///         self.written.send(std::mem::take(&mut self.batch)).ok();
    ///     }
    /// #     type Job = u64;
    /// #     type Future = std::future::Ready<()>;
    /// #     fn resolve(&mut self, _: &mut u64, (): (), _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// #     fn panicked(&mut self, _: &mut u64, _: String, _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// #     fn expired(&mut self, _: &mut u64, _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// }
    /// let (written, batches) = mpsc::channel();
    /// let make = |_| Batches { batch: Vec::new(), written: written.clone() };
    /// let (pool, mut workers) = PoolBuilder::new().workers(1).stepped(make)?;
    /// pool.try_send_batch(&mut vec![(Key::of("a"), 1), (Key::of("b"), 2), (Key::of("c"), 3)]);
    /// workers[0].step(Instant::now());
    /// assert_eq!(batches.recv()?, [1, 2, 3]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn flush(&mut self, _waits: WaitingNow) {}
}

/// What comes after a job was run.
///
/// ```
/// use keylane::pool::Outcome;
/// use std::{future::Ready, time::{Duration, Instant}};
///
/// /// What follows the attempt of this number that ended like this.
/// fn after(attempt: u32, is_ok: bool, now: Instant) -> Outcome<Ready<()>> {
///     match (attempt, is_ok) {
///         (_, true) => Outcome::Done,
///         (1..5, false) => Outcome::RetryAt(now + Duration::from_millis(100) * attempt),
///         (_, false) => Outcome::Hold,
///     }
/// }
/// let now = Instant::now();
/// assert!(matches!(after(2, false, now), Outcome::RetryAt(at) if at == now + Duration::from_millis(200)));
/// assert!(matches!(after(5, false, now), Outcome::Hold));
/// ```
#[derive(Debug)]
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
///
/// ```
/// use keylane::pool::{Handler, Key, Outcome, PoolBuilder, Turn, WaitingNow};
/// # use std::{sync::mpsc, time::Instant};
///
/// struct Held(mpsc::Sender<WaitingNow>);
///
/// impl Handler for Held {
///     fn handle(&mut self, _: &mut u64, _: Instant) -> Outcome<Self::Future> { Outcome::Hold }
///     fn flush(&mut self, waits: WaitingNow) { self.0.send(waits).ok(); }
/// #     type Job = u64;
/// #     type Future = std::future::Ready<()>;
/// #     fn resolve(&mut self, _: &mut u64, (): (), _: Instant) -> Outcome<Self::Future> { Outcome::Done }
/// #     fn panicked(&mut self, _: &mut u64, _: String, _: Instant) -> Outcome<Self::Future> { Outcome::Done }
/// #     fn expired(&mut self, _: &mut u64, _: Instant) -> Outcome<Self::Future> { Outcome::Done }
/// }
/// let (tell, told) = mpsc::channel();
/// let (pool, mut workers) = PoolBuilder::new().workers(1).stepped(|_| Held(tell.clone()))?;
/// pool.try_send(Key::of("a"), 1)?;
/// pool.try_send(Key::of("a"), 2)?;
/// while workers[0].step(Instant::now()) == Turn::Ran {}
/// assert_eq!(told.try_iter().last(), Some(WaitingNow { keys: 1, records: 2 }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WaitingNow {
    /// Keys that wait for a time, an operator, a future or their turn.
    pub keys: usize,
    /// Records of those keys, backlogs included.
    pub records: u64,
}

/// What a worker is asked besides jobs.
pub(crate) enum Wakeup<J> {
    /// A future of this key, in this wait, can go on.
    Future(Key, u64),
    /// Look at the waiting keys.
    Visit(Visit<J>),
    /// Drop all that has not started when this time has passed.
    AbandonAfter(Duration),
}

/// A look at the waiting keys of one worker, on its own thread.
pub(crate) type Visit<J> = Box<dyn FnOnce(&mut dyn WaitingKeys<J>, Instant) + Send>;

/// A job with the key that it is ordered by.
pub(crate) struct Keyed<J> {
    pub(crate) key: Key,
    pub(crate) job: J,
}

pub(crate) type WorkerLane<J> = Lane<Keyed<J>, Wakeup<J>>;

/// What an operator's visit may look at and do, on the worker's own thread between two jobs.
///
/// ```
/// use keylane::pool::{Key, PoolBuilder, WaitingKeys};
/// # use keylane::pool::{Handler, Outcome, Turn};
/// # use std::time::Instant;
/// # struct Review;
/// # impl Handler for Review {
/// #     type Job = bool;
/// #     type Future = std::future::Ready<()>;
/// #     fn handle(&mut self, is_approved: &mut bool, _: Instant) -> Outcome<Self::Future> {
/// #         if std::mem::replace(is_approved, true) { Outcome::Done } else { Outcome::Hold }
/// #     }
/// #     fn resolve(&mut self, _: &mut bool, (): (), _: Instant) -> Outcome<Self::Future> { Outcome::Done }
/// #     fn panicked(&mut self, _: &mut bool, _: String, _: Instant) -> Outcome<Self::Future> { Outcome::Done }
/// #     fn expired(&mut self, _: &mut bool, _: Instant) -> Outcome<Self::Future> { Outcome::Done }
/// # }
///
/// /// Approves all that waits for a review.
/// fn approve_all(waiting: &mut dyn WaitingKeys<bool>) {
///     let mut keys = Vec::new();
///     waiting.for_each(&mut |key, _, _, _| keys.push(key));
///     for key in keys {
///         waiting.run_now(key);
///     }
/// }
/// let (pool, mut workers) = PoolBuilder::new().workers(1).stepped(|_| Review)?;
/// pool.try_send(Key::of("order-42"), false)?;
/// while workers[0].step(Instant::now()) == Turn::Ran {}
/// assert_eq!(pool.depths().sum::<u64>(), 1);
/// drop(pool.visit(|waiting, _| approve_all(waiting)));
/// while pool.depths().sum::<u64>() > 0 {
///     workers[0].step(Instant::now());
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait WaitingKeys<J> {
    /// Calls `each` with every waiting key, its first job, what it waits for and how many jobs are behind it.
    ///
    /// ```
    /// # use keylane::pool::{Handler, Key, Outcome, PoolBuilder, Turn};
    /// # use std::{sync::mpsc, time::Instant};
    /// # struct Review;
    /// # impl Handler for Review {
    /// #     type Job = bool;
    /// #     type Future = std::future::Ready<()>;
    /// #     fn handle(&mut self, is_approved: &mut bool, _: Instant) -> Outcome<Self::Future> {
    /// #         if std::mem::replace(is_approved, true) { Outcome::Done } else { Outcome::Hold }
    /// #     }
    /// #     fn resolve(&mut self, _: &mut bool, (): (), _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// #     fn panicked(&mut self, _: &mut bool, _: String, _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// #     fn expired(&mut self, _: &mut bool, _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// # }
    /// # let (tell, told) = mpsc::channel();
    /// # let (pool, mut workers) = PoolBuilder::new().workers(1).stepped(|_| Review)?;
    /// for _ in 0..3 {
    ///     pool.try_send(Key::of("order-42"), false)?; // the first is held for a review
    /// }
    /// # while workers[0].step(Instant::now()) == Turn::Ran {}
    /// drop(pool.visit(move |waiting, _| {
    ///     waiting.for_each(&mut |key, _job, _waits_for, behind| drop(tell.send((key, behind))));
    /// }));
    /// # while workers[0].step(Instant::now()) == Turn::Ran {}
    /// assert_eq!(told.recv()?, (Key::of("order-42"), 2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn for_each(&mut self, each: &mut dyn FnMut(Key, &mut J, WaitsFor, usize));
    /// Runs the first job of a key now, if it waits for a time or an operator. False: it does not.
    ///
    /// ```
    /// # use keylane::pool::{Handler, Key, Outcome, PoolBuilder, Turn};
    /// # use std::{sync::mpsc, time::Instant};
    /// # struct Review;
    /// # impl Handler for Review {
    /// #     type Job = bool;
    /// #     type Future = std::future::Ready<()>;
    /// #     fn handle(&mut self, is_approved: &mut bool, _: Instant) -> Outcome<Self::Future> {
    /// #         if std::mem::replace(is_approved, true) { Outcome::Done } else { Outcome::Hold }
    /// #     }
    /// #     fn resolve(&mut self, _: &mut bool, (): (), _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// #     fn panicked(&mut self, _: &mut bool, _: String, _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// #     fn expired(&mut self, _: &mut bool, _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// # }
    /// # let (tell, told) = mpsc::channel();
    /// # let (pool, mut workers) = PoolBuilder::new().workers(1).stepped(|_| Review)?;
    /// pool.try_send(Key::of("order-42"), false)?; // it is held for a review
    /// # while workers[0].step(Instant::now()) == Turn::Ran {}
    /// drop(pool.visit(move |waiting, _| {
    ///     drop(tell.send([waiting.run_now(Key::of("order-42")), waiting.run_now(Key::of("order-43"))]));
    /// }));
    /// # while workers[0].step(Instant::now()) == Turn::Ran {}
    /// assert_eq!(told.recv()?, [true, false]);
    /// assert_eq!(pool.depths().sum::<u64>(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn run_now(&mut self, key: Key) -> bool;
    /// Takes away every waiting job for which `is_gone` says so; the handler's `abandoned` gets it.
    ///
    /// ```
    /// # use keylane::pool::{Handler, Key, Outcome, PoolBuilder, Turn};
    /// # use std::time::Instant;
    /// # struct Review;
    /// # impl Handler for Review {
    /// #     type Job = bool;
    /// #     type Future = std::future::Ready<()>;
    /// #     fn handle(&mut self, is_approved: &mut bool, _: Instant) -> Outcome<Self::Future> {
    /// #         if std::mem::replace(is_approved, true) { Outcome::Done } else { Outcome::Hold }
    /// #     }
    /// #     fn resolve(&mut self, _: &mut bool, (): (), _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// #     fn panicked(&mut self, _: &mut bool, _: String, _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// #     fn expired(&mut self, _: &mut bool, _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// # }
    /// # let (pool, mut workers) = PoolBuilder::new().workers(1).stepped(|_| Review)?;
    /// pool.try_send(Key::of("order-42"), false)?; // it is held for a review,
    /// pool.try_send(Key::of("order-42"), true)?; // and this one, which needs none, waits behind it
    /// # while workers[0].step(Instant::now()) == Turn::Ran {}
    /// assert_eq!(pool.depths().sum::<u64>(), 2);
    /// drop(pool.visit(|waiting, _| waiting.remove_where(&mut |is_approved| *is_approved)));
    /// # while workers[0].step(Instant::now()) == Turn::Ran {}
    /// assert_eq!(pool.depths().sum::<u64>(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn remove_where(&mut self, is_gone: &mut dyn FnMut(&mut J) -> bool);
}

/// What the caller of [`Worker::step`] does next.
///
/// ```
/// use keylane::pool::{PoolBuilder, Turn};
/// # use keylane::pool::{Handler, Key, Outcome};
/// # use std::time::Instant;
/// # struct Review;
/// # impl Handler for Review {
/// #     type Job = bool;
/// #     type Future = std::future::Ready<()>;
/// #     fn handle(&mut self, is_approved: &mut bool, _: Instant) -> Outcome<Self::Future> {
/// #         if std::mem::replace(is_approved, true) { Outcome::Done } else { Outcome::Hold }
/// #     }
/// #     fn resolve(&mut self, _: &mut bool, (): (), _: Instant) -> Outcome<Self::Future> { Outcome::Done }
/// #     fn panicked(&mut self, _: &mut bool, _: String, _: Instant) -> Outcome<Self::Future> { Outcome::Done }
/// #     fn expired(&mut self, _: &mut bool, _: Instant) -> Outcome<Self::Future> { Outcome::Done }
/// # }
///
/// let (pool, mut workers) = PoolBuilder::new().workers(1).stepped(|_| Review)?;
/// pool.try_send(Key::of("order-42"), true)?;
/// assert_eq!(workers[0].step(Instant::now()), Turn::Ran);
/// assert_eq!(workers[0].step(Instant::now()), Turn::Park(None));
/// drop(pool);
/// while workers[0].step(Instant::now()) != Turn::Exit {}
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Something was done; step again.
    Ran,
    /// A push is under way; step again soon.
    Snooze,
    /// Nothing to do until the lane's sleeper is woken or this time comes. The caller sleeps, then steps again.
    Park(Option<Instant>),
    /// The lane is closed and empty. The worker is done.
    Exit,
}

/// Jobs taken from the lane in one turn: enough to share one release, few enough not to keep timers waiting.
const BATCH: usize = 64;
/// Where jobs stand behind a key that waited and others come new, so many of those are run for each one of the former:
/// a key with a long backlog keeps the others waiting for an eighth longer, and gets on all the same.
const NEW_FOR_ONE: usize = 8;
/// A turn longer than this halves the next batch, so that places and verdicts are given back in time when jobs are
/// slow; a shorter one doubles it.
pub(crate) const LONG_TURN: Duration = Duration::from_micros(200);

/// A future that a job was leased to, and how it is woken.
struct Lease<J, F> {
    future: Pin<Box<F>>,
    wake: Arc<LeaseWake<J>>,
    waker: Waker,
}

/// One worker.
///
/// ```
/// use keylane::pool::{Key, PoolBuilder, Turn, Worker};
/// # use keylane::pool::{Handler, Outcome};
/// # use std::time::Instant;
/// # struct Review;
/// # impl Handler for Review {
/// #     type Job = bool;
/// #     type Future = std::future::Ready<()>;
/// #     fn handle(&mut self, is_approved: &mut bool, _: Instant) -> Outcome<Self::Future> {
/// #         if std::mem::replace(is_approved, true) { Outcome::Done } else { Outcome::Hold }
/// #     }
/// #     fn resolve(&mut self, _: &mut bool, (): (), _: Instant) -> Outcome<Self::Future> { Outcome::Done }
/// #     fn panicked(&mut self, _: &mut bool, _: String, _: Instant) -> Outcome<Self::Future> { Outcome::Done }
/// #     fn expired(&mut self, _: &mut bool, _: Instant) -> Outcome<Self::Future> { Outcome::Done }
/// # }
///
/// let (pool, workers) = PoolBuilder::new().workers(2).stepped(|_| Review)?;
/// let mut workers: Vec<Worker<Review>> = workers;
/// let key = Key::of("order-42");
/// pool.try_send(key, true)?;
/// assert_eq!(workers[key.worker(2)].step(Instant::now()), Turn::Ran);
/// assert_eq!(pool.depths().sum::<u64>(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Worker<H: Handler> {
    lane: Arc<WorkerLane<H::Job>>,
    handler: H,
    waiting: Waiting<H::Job, Lease<H::Job, H::Future>>,
    wakeups: Vec<Wakeup<H::Job>>,
    /// The word as last read; only its WOKEN bit is looked at, and a stale one is corrected before parking.
    seen: Word,
    is_parked: bool,
    is_abandoning: bool,
    abandon_at: Option<Instant>,
    /// Jobs that are over and not yet released.
    over: u64,
    /// Places given back since the waiters were last woken.
    released: u64,
    batch: usize,
    /// Jobs that the last turn took from the lane.
    last_ran: usize,
    last_turn: Option<Instant>,
}

impl<H: Handler> Worker<H> {
    pub(crate) fn new(lane: Arc<WorkerLane<H::Job>>, handler: H) -> Self {
        let seen = lane.look();
        Self {
            lane,
            handler,
            waiting: Waiting::new(),
            wakeups: Vec::new(),
            seen,
            is_parked: false,
            is_abandoning: false,
            abandon_at: None,
            over: 0,
            released: 0,
            batch: BATCH,
            last_ran: 0,
            last_turn: None,
        }
    }

    /// One turn: wakes, timers, keys whose turn has come, then a batch of the lane; and if there was none of these,
    /// whether to park or to end. Never blocks, but for what the handler does.
    ///
    /// ```
    /// use keylane::pool::{Handler, Key, Outcome, PoolBuilder, Turn};
    /// use std::time::{Duration, Instant};
    ///
    /// struct InAMinute;
    ///
    /// impl Handler for InAMinute {
    ///     fn handle(&mut self, attempts: &mut u64, now: Instant) -> Outcome<Self::Future> {
    ///         *attempts += 1;
    ///         if *attempts > 1 { Outcome::Done } else { Outcome::RetryAt(now + Duration::from_secs(60)) }
    ///     }
    /// #     type Job = u64;
    /// #     type Future = std::future::Ready<()>;
    /// #     fn resolve(&mut self, _: &mut u64, (): (), _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// #     fn panicked(&mut self, _: &mut u64, _: String, _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// #     fn expired(&mut self, _: &mut u64, _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// }
    /// let (pool, mut workers) = PoolBuilder::new().workers(1).stepped(|_| InAMinute)?;
    /// let start = Instant::now();
    /// pool.try_send(Key::of("a"), 0)?;
    /// assert_eq!(workers[0].step(start), Turn::Ran);
    /// assert!(matches!(workers[0].step(start), Turn::Park(Some(at)) if at >= start + Duration::from_secs(60)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn step(&mut self, now: Instant) -> Turn {
        if self.run_turn(now) { Turn::Ran } else { self.idle() }
    }

    /// As [`Worker::step`], but looks again instead of parking while `idling` says so.
    pub(crate) fn step_or_look(&mut self, now: Instant, idling: &mut Idling) -> Turn {
        if self.run_turn(now) {
            idling.was_busy();
            return Turn::Ran;
        }
        let seen = self.lane.look();
        let is_idle = !seen.is_woken() && !seen.is_closed() && !seen.has_waiters();
        if is_idle && idling.looks_again(now) {
            return Turn::Snooze;
        }
        self.idle()
    }

    /// Says who is woken when a worker that parked has something to do, for whoever steps it. To be called before the
    /// first step and once; without it a parked worker tells nobody, and is stepped again when its holder likes.
    ///
    /// ```
    /// use keylane::pool::{Key, PoolBuilder, Turn};
    /// # use keylane::pool::{Handler, Outcome};
    /// # use std::time::Instant;
    /// # struct Print;
    /// # impl Handler for Print {
    /// #     type Job = u32;
    /// #     type Future = std::future::Ready<()>;
    /// #     fn handle(&mut self, _: &mut u32, _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// #     fn resolve(&mut self, _: &mut u32, (): (), _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// #     fn panicked(&mut self, _: &mut u32, _: String, _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// #     fn expired(&mut self, _: &mut u32, _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// # }
    ///
    /// let (pool, mut workers) = PoolBuilder::new().workers(1).stepped(|_| Print)?;
    /// workers[0].set_sleeper(std::task::Waker::noop().clone());
    /// assert_eq!(workers[0].step(Instant::now()), Turn::Park(None));
    /// assert!(pool.try_send(Key::of("a"), 1).is_ok());
    /// assert_eq!(workers[0].step(Instant::now()), Turn::Ran);
    /// # Ok::<(), keylane::pool::PoolError>(())
    /// ```
    pub fn set_sleeper(&self, sleeper: Waker) {
        self.lane.set_sleeper(sleeper);
    }

    /// Whether the last turn emptied the lane before its batch was full: who pushes is slower than this worker.
    pub(crate) fn ran_few(&self) -> bool {
        self.last_ran < self.batch && !self.waiting.has_ready()
    }

    /// When the next wait for a time or a lease ends.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.waiting.next_due()
    }

    fn run_turn(&mut self, now: Instant) -> bool {
        if std::mem::take(&mut self.is_parked) {
            self.lane.unmark_parked();
        }
        self.adapt_batch(now);
        let own = own_lane::enter(lane_number(&self.lane));
        let mut has_run = self.take_wakeups(now);
        has_run |= self.begin_abandoning(now);
        has_run |= self.end_waits(now);
        has_run |= self.run_ready(now);
        has_run |= self.run_lane(now);
        drop(own);
        // Released before the handler hands on what it collected: who learns there that a job is over finds its place
        // free.
        self.release();
        if has_run {
            self.last_turn = Some(now);
            self.handler.flush(WaitingNow { keys: self.waiting.len(), records: self.waiting.records() });
        }
        has_run
    }

    fn adapt_batch(&mut self, now: Instant) {
        if let Some(last) = self.last_turn.take() {
            let is_long = now.saturating_duration_since(last) > LONG_TURN;
            self.batch = if is_long { (self.batch / 2).max(1) } else { (self.batch * 2).min(BATCH) };
        }
    }

    fn take_wakeups(&mut self, now: Instant) -> bool {
        if !self.seen.is_woken() {
            return false;
        }
        let mut wakeups = std::mem::take(&mut self.wakeups);
        self.lane.take_wakes(&mut wakeups);
        for wakeup in wakeups.drain(..) {
            match wakeup {
                Wakeup::Future(key, stamp) => self.poll_lease(key, stamp, now),
                Wakeup::Visit(visit) => {
                    foreign::run("an operation on waiting keys", || visit(self, now));
                }
                Wakeup::AbandonAfter(limit) => {
                    let at = now.checked_add(limit);
                    self.abandon_at = [self.abandon_at, at].into_iter().flatten().min();
                }
            }
        }
        self.wakeups = wakeups;
        true
    }

    /// From the limit of a drain on nothing starts any more.
    fn begin_abandoning(&mut self, now: Instant) -> bool {
        if self.is_abandoning || self.abandon_at.is_none_or(|at| now < at) {
            return false;
        }
        self.is_abandoning = true;
        WaitingKeys::remove_where(self, &mut |_| true);
        true
    }

    fn end_waits(&mut self, now: Instant) -> bool {
        let mut has_run = false;
        while let Some(due) = self.waiting.take_due(now) {
            has_run = true;
            if let Due::Expired(key, lease) = due {
                foreign::discard(lease);
                let mut job = self.waiting.take_expired(key);
                let outcome =
                    guarded(&mut self.handler, &mut job, now, |handler, job| handler.expired(job, now));
                self.conclude(key, job, outcome, now);
            }
        }
        has_run
    }

    fn run_ready(&mut self, now: Instant) -> bool {
        for ran in 0..self.batch {
            if ran > 0 && self.has_new() {
                break;
            }
            let Some((key, job)) = self.waiting.start_ready() else { return ran > 0 };
            self.run(key, job, now);
            if self.handler.is_turn_long(now) {
                break;
            }
        }
        true
    }

    /// Whether jobs stand in the lane.
    fn has_new(&self) -> bool {
        self.lane.look().pending() > self.waiting.records() + self.over
    }

    fn run_lane(&mut self, now: Instant) -> bool {
        self.last_ran = 0;
        let most = if self.waiting.has_ready() { self.batch.min(NEW_FOR_ONE) } else { self.batch };
        while self.last_ran < most
            && let Some(Keyed { key, job }) = self.lane.pop()
        {
            self.last_ran += 1;
            if let Some(job) = self.waiting.queue_behind(key, job) {
                self.run(key, job, now);
                if self.handler.is_turn_long(now) {
                    break;
                }
            }
        }
        self.last_ran > 0
    }

    fn run(&mut self, key: Key, mut job: H::Job, now: Instant) {
        if self.is_abandoning {
            self.abandon(job);
            return self.waiting.over(key);
        }
        let outcome = guarded(&mut self.handler, &mut job, now, |handler, job| handler.handle(job, now));
        self.conclude(key, job, outcome, now);
    }

    fn conclude(&mut self, key: Key, job: H::Job, outcome: Outcome<H::Future>, now: Instant) {
        match outcome {
            Outcome::Done => {
                foreign::discard(job);
                self.over += 1;
                if self.waiting.len() > 0 {
                    self.waiting.over(key);
                }
            }
            Outcome::RetryAt(at) => {
                self.waiting.wait(key, job, For::Time(at));
            }
            Outcome::Hold => {
                self.waiting.wait(key, job, For::Operator);
            }
            Outcome::Lease(future, until) => {
                let wake = Arc::new(LeaseWake {
                    lane: self.lane.clone(),
                    key,
                    stamp: self.waiting.next_stamp(),
                    is_queued: AtomicBool::new(false),
                });
                let lease = Lease { future: Box::pin(future), waker: Waker::from(wake.clone()), wake };
                let stamp = self.waiting.wait(key, job, For::Lease(lease, until));
                self.poll_lease(key, stamp, now);
            }
        }
    }

    fn poll_lease(&mut self, key: Key, stamp: u64, now: Instant) {
        // A wake that came after its lease ended finds nothing.
        let Some(lease) = self.waiting.lease(key, stamp) else { return };
        // ORDERING: Acquire pairs with the Release of a wake that found the flag set and queued nothing: the poll below
        // sees what that wake was for. Reset before the poll, so that a wake during it queues the lease again.
        lease.wake.is_queued.swap(false, Ordering::Acquire);
        let Lease { future, waker, .. } = lease;
        let polled = foreign::call(|| future.as_mut().poll(&mut Context::from_waker(waker)));
        let output = match polled {
            Ok(Poll::Pending) => return,
            Ok(Poll::Ready(output)) => Ok(output),
            Err(message) => Err(message),
        };
        let (mut job, lease) = self.waiting.end_lease(key);
        foreign::discard(lease);
        let outcome = match output {
            Ok(output) => guarded(&mut self.handler, &mut job, now, |h, job| h.resolve(job, output, now)),
            Err(message) => after_panic(&mut self.handler, &mut job, message, now),
        };
        self.conclude(key, job, outcome, now);
    }

    fn abandon(&mut self, job: H::Job) {
        self.over += 1;
        foreign::run("a handler that was told of an abandoned job", || self.handler.abandoned(job));
    }

    fn release(&mut self) {
        let over = std::mem::take(&mut self.over);
        if over == 0 {
            self.seen = self.lane.look();
            return;
        }
        self.seen = self.lane.release(over);
        self.released += over;
        // Waking a producer for each free place would cost a system call per job; half of the lane amortises it.
        let half = self.lane.capacity() / 2;
        if self.seen.has_waiters() && (self.released >= half || self.seen.pending() <= half) {
            self.wake_waiters();
        }
    }

    fn wake_waiters(&mut self) {
        self.released = 0;
        self.lane.wake_waiters();
    }

    fn idle(&mut self) -> Turn {
        let seen = self.lane.look();
        self.seen = seen;
        if seen.is_woken() || self.waiting.has_ready() {
            return Turn::Ran;
        }
        if seen.has_waiters() && seen.pending() < self.lane.capacity() {
            self.wake_waiters();
            return Turn::Ran;
        }
        if seen.pending() > self.waiting.records() {
            return Turn::Snooze;
        }
        if seen.is_closed() && seen.pending() == 0 {
            self.lane.end_wakes();
            return Turn::Exit;
        }
        if !self.lane.try_park(seen) {
            return Turn::Ran;
        }
        self.is_parked = true;
        let end = if self.is_abandoning { None } else { self.abandon_at };
        Turn::Park([self.waiting.next_due(), end].into_iter().flatten().min())
    }
}

impl<H: Handler> WaitingKeys<H::Job> for Worker<H> {
    fn for_each(&mut self, each: &mut dyn FnMut(Key, &mut H::Job, WaitsFor, usize)) {
        self.waiting.iter_mut().for_each(|(key, job, waits_for, behind)| each(key, job, waits_for, behind));
    }

    fn run_now(&mut self, key: Key) -> bool {
        self.waiting.make_ready(key)
    }

    fn remove_where(&mut self, is_gone: &mut dyn FnMut(&mut H::Job) -> bool) {
        let mut gone = Vec::new();
        self.waiting.remove_where(is_gone, |job| gone.push(job));
        gone.into_iter().for_each(|job| self.abandon(job));
    }
}

impl<H: Handler> Drop for Worker<H> {
    /// Whatever is left, on a worker that is dropped before its lane is closed and empty, is abandoned.
    fn drop(&mut self) {
        self.lane.close();
        let before = self.over;
        WaitingKeys::remove_where(self, &mut |_| true);
        let lane = self.lane.clone();
        end_lane(&lane, self, |worker| worker.over, Self::abandon);
        // There is no further turn to hand on what the handler was told just now.
        if self.over > before {
            foreign::run("a handler whose worker ended", || self.handler.flush(WaitingNow::default()));
        }
    }
}

/// Ends a lane whose worker could not be made: what was accepted is dropped.
pub(crate) fn end_unmanned<J>(lane: &WorkerLane<J>) {
    lane.close();
    let drop_one = |dropped: &mut u64, job| {
        foreign::discard(job);
        *dropped += 1;
    };
    end_lane(lane, &mut 0, |dropped| *dropped, drop_one);
}

/// Gives all jobs of a closed lane to `end`, and drops its wakes. `over` counts the jobs that are not released.
fn end_lane<J, C>(lane: &WorkerLane<J>, context: &mut C, over: fn(&C) -> u64, end: impl Fn(&mut C, J)) {
    let mut backoff = Backoff::default();
    loop {
        while let Some(Keyed { job, .. }) = lane.pop() {
            end(context, job);
        }
        // What was reserved before the close was accepted: its push is still to come.
        if lane.look().pending() <= over(context) {
            break;
        }
        backoff.snooze();
    }
    lane.end_wakes();
}

/// Runs a part of the handler; its panic becomes what [`Handler::panicked`] says.
fn guarded<H: Handler>(
    handler: &mut H,
    job: &mut H::Job,
    now: Instant,
    run: impl FnOnce(&mut H, &mut H::Job) -> Outcome<H::Future>,
) -> Outcome<H::Future> {
    foreign::call(|| run(handler, job)).unwrap_or_else(|message| after_panic(handler, job, message, now))
}

#[cold]
fn after_panic<H: Handler>(
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

/// The number by which [`own_lane`] knows a lane.
pub(crate) fn lane_number<J>(lane: &Arc<WorkerLane<J>>) -> usize {
    Arc::as_ptr(lane) as usize
}

/// Wakes the worker for one lease. Queued at most once at a time, so that a future that is woken a million times takes
/// one entry.
struct LeaseWake<J> {
    lane: Arc<WorkerLane<J>>,
    key: Key,
    stamp: u64,
    is_queued: AtomicBool,
}

impl<J: Send + 'static> Wake for LeaseWake<J> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // ORDERING: Release pairs with the worker's Acquire before it polls; see there.
        if !self.is_queued.swap(true, Ordering::Release) {
            self.lane.wake(Wakeup::Future(self.key, self.stamp));
        }
    }
}
