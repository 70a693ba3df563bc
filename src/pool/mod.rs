//! A pool of worker threads that handles the jobs of one key in order and different keys in parallel. Usable without
//! any bus.
//!
//! The protocol that its threads follow, and why no wake-up is lost, is in `src/pool/README.md`.
//!
//! ```
//! use keylane::pool::{Key, PoolBuilder};
//!
//! let pool = PoolBuilder::new().workers(2).shared(|n: u64| n * n)?;
//! let answer = pool.submit(Key::of("order-42"), 7).wait()?;
//! assert_eq!(answer.wait()?, 49);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod idle;
mod key;
mod lane;
mod request;
mod sending;
mod waiting;
mod worker;

pub use crate::wait::{Completion, JobError};
pub use idle::Idle;
pub(crate) use idle::Idling;
pub use key::Key;
pub(crate) use key::RoundRobin;
pub use request::{Request, RequestPool, Submitting, TrySubmitError};
pub use sending::{SendError, Sending, TrySendError};
pub use waiting::WaitsFor;
pub(crate) use worker::LONG_TURN;
pub use worker::{Handler, Outcome, Turn, WaitingKeys, WaitingNow, Worker};

use crate::foreign;
use crate::sync::{Arc, Mutex, thread};
use crate::wait::{Backoff, Clock, Op, Parker, Promise, own_lane};
use lane::Reservation;
use std::fmt;
use std::time::{Duration, Instant};
use worker::{Keyed, Wakeup, WorkerLane};

/// More workers than buckets would leave some without a key.
const MAX_WORKERS: usize = key::BUCKETS as usize;

/// Runs a closure in the context that a worker's thread needs, a runtime's for instance.
///
/// ```
/// use keylane::pool::{Enter, Key, PoolBuilder};
/// use std::{cell::Cell, sync::Arc};
///
/// thread_local!(static NODE: Cell<u32> = const { Cell::new(0) });
/// let enter: Enter = Arc::new(|run: &mut dyn FnMut()| { NODE.set(7); run() });
/// let pool = PoolBuilder::new().workers(1).enter(move |run| enter(run)).shared(|()| NODE.get())?;
/// assert_eq!(pool.submit(Key::of("a"), ()).wait()?.wait()?, 7);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub type Enter = Arc<dyn Fn(&mut dyn FnMut()) + Send + Sync>;

/// The settings of a pool.
///
/// ```
/// use keylane::{Clock, pool::{Idle, Key, PoolBuilder}};
///
/// let pool = PoolBuilder::new()
///     .workers(4)
///     .capacity(1_000)
///     .name("mail")
///     .idle(Idle::Park)
///     .clock(Clock::system())
///     .shared(|n: u64| n * n)?;
/// assert_eq!(pool.workers(), 4);
/// assert_eq!(pool.submit(Key::of("order-42"), 7).wait()?.wait()?, 49);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
#[must_use]
pub struct PoolBuilder {
    workers: usize,
    capacity: usize,
    name: String,
    idle: Idle,
    clock: Clock,
    enter: Option<Enter>,
}

impl Default for PoolBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl PoolBuilder {
    /// As many workers as the machine has cores, 4,096 jobs per worker, [`Idle::Adaptive`].
    ///
    /// ```
    /// use keylane::pool::PoolBuilder;
    ///
    /// let pool = PoolBuilder::new().shared(|n: u64| n * n)?;
    /// assert_eq!(pool.workers(), std::thread::available_parallelism()?.get());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new() -> Self {
        Self {
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            capacity: 4_096,
            name: "pool".to_owned(),
            idle: Idle::default(),
            clock: Clock::system(),
            enter: None,
        }
    }

    /// How many workers, and so threads, the pool has: 1 to 1,024.
    ///
    /// ```
    /// use keylane::pool::{PoolBuilder, PoolError};
    ///
    /// assert_eq!(PoolBuilder::new().workers(3).shared(|n: u64| n * n)?.workers(), 3);
    /// let refused = PoolBuilder::new().workers(0).shared(|n: u64| n * n);
    /// assert!(matches!(refused, Err(PoolError::Workers(0))));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// How many jobs each worker has room for, from their submission to their end; what waits and what is leased
    /// counts. Memory for the queue is taken at the start.
    ///
    /// ```
    /// use keylane::pool::{Key, PoolBuilder, TrySendError};
    ///
    /// let pool = PoolBuilder::new().workers(1).capacity(1).asynchronous(|_: u64| std::future::pending::<()>())?;
    /// let _running = pool.try_submit(Key::of("a"), 1)?;
    /// let refused = pool.try_submit(Key::of("b"), 2).unwrap_err();
    /// assert_eq!(refused, TrySendError::Full(2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn capacity(mut self, jobs_per_worker: usize) -> Self {
        self.capacity = jobs_per_worker;
        self
    }

    /// What the threads are named by: `keylane-NAME-0` and so on.
    ///
    /// ```
    /// use keylane::pool::{Key, PoolBuilder};
    ///
    /// let name = |()| std::thread::current().name().map(str::to_owned);
    /// let pool = PoolBuilder::new().workers(1).name("mail").shared(name)?;
    /// assert_eq!(pool.submit(Key::of("a"), ()).wait()?.wait()?.as_deref(), Some("keylane-mail-0"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// What an idle worker does before it parks.
    ///
    /// ```
    /// use keylane::pool::{Idle, Key, PoolBuilder};
    ///
    /// let pool = PoolBuilder::new().workers(1).idle(Idle::Park).shared(|n: u64| n * n)?;
    /// assert_eq!(pool.submit(Key::of("a"), 7).wait()?.wait()?, 49);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn idle(mut self, idle: Idle) -> Self {
        self.idle = idle;
        self
    }

    /// Where the workers read the time; for tests that pass it in.
    ///
    /// ```
    /// use keylane::{Clock, pool::{Handler, Key, Outcome, PoolBuilder}};
    /// use std::time::{Duration, Instant};
    ///
    /// /// Is done at the second attempt, an hour after the first.
    /// struct Twice;
    ///
    /// impl Handler for Twice {
    ///     fn handle(&mut self, attempts: &mut u64, now: Instant) -> Outcome<Self::Future> {
    ///         *attempts += 1;
    ///         if *attempts > 1 { Outcome::Done } else { Outcome::RetryAt(now + Duration::from_secs(3_600)) }
    ///     }
    /// #     type Job = u64;
    /// #     type Future = std::future::Ready<()>;
    /// #     fn resolve(&mut self, _: &mut u64, (): (), _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// #     fn panicked(&mut self, _: &mut u64, _: String, _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// #     fn expired(&mut self, _: &mut u64, _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// }
    /// let (clock, time) = Clock::manual();
    /// let start = clock.now();
    /// let pool = PoolBuilder::new().workers(1).clock(clock.clone()).start(|_| Twice)?;
    /// pool.send(Key::of("a"), 0).wait()?;
    /// while pool.depths().sum::<u64>() > 0 {
    ///     time.advance(Duration::from_secs(60));
    ///     std::thread::yield_now();
    /// }
    /// assert!(clock.now() - start >= Duration::from_secs(3_600));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Runs each worker's thread inside a context, so that futures find their runtime:
    ///
    /// ```
    /// use keylane::pool::{Key, PoolBuilder};
    /// use std::time::Duration;
    ///
    /// let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build()?;
    /// let handle = runtime.handle().clone();
    /// let pool = PoolBuilder::new()
    ///     .enter(move |run| { let _context = handle.enter(); run() })
    ///     .asynchronous(|n: u64| async move { tokio::time::sleep(Duration::from_millis(1)).await; n + 1 })?;
    /// assert_eq!(pool.submit(Key::of("a"), 1).wait()?.wait()?, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn enter(mut self, enter: impl Fn(&mut dyn FnMut()) + Send + Sync + 'static) -> Self {
        self.enter = Some(Arc::new(enter));
        self
    }

    /// Starts the threads. `make` is called on each worker's own thread with its number. If it panics, that worker
    /// ends at once: its jobs are dropped, and those to come are refused as by a closed pool.
    ///
    /// # Errors
    /// When the number of workers or the capacity is out of range, or the system refuses a thread.
    ///
    /// ```
    /// use keylane::pool::{Handler, Key, Outcome, PoolBuilder};
    /// # use std::{sync::mpsc::{Sender, channel}, time::Instant};
    ///
    /// struct Sum { worker: usize, sum: u64, tell: Sender<(usize, u64)> }
    ///
    /// impl Handler for Sum {
    ///     fn handle(&mut self, n: &mut u64, _: Instant) -> Outcome<Self::Future> {
    ///         self.sum += *n;
    ///         self.tell.send((self.worker, self.sum)).ok();
    ///         Outcome::Done
    ///     }
    /// #     type Job = u64;
    /// #     type Future = std::future::Ready<()>;
    /// #     fn resolve(&mut self, _: &mut u64, (): (), _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// #     fn panicked(&mut self, _: &mut u64, _: String, _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// #     fn expired(&mut self, _: &mut u64, _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// }
    /// let (tell, told) = channel();
    /// let pool = PoolBuilder::new().workers(2).start(move |worker| Sum { worker, sum: 0, tell: tell.clone() })?;
    /// let key = Key::of("a");
    /// pool.send(key, 2).wait()?;
    /// pool.send(key, 3).wait()?;
    /// assert_eq!([told.recv()?, told.recv()?], [(key.worker(2), 2), (key.worker(2), 5)]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn start<H: Handler>(
        self,
        make: impl Fn(usize) -> H + Send + Sync + 'static,
    ) -> Result<Pool<H::Job>, PoolError> {
        self.check()?;
        let lanes = self.lanes();
        let exits = Arc::new(Mutex::new(Exits { running: self.workers, promises: Vec::new() }));
        let make = Arc::new(make);
        // Built first, so that an early return closes the lanes and ends the threads that were started.
        let pool =
            Pool { inner: Arc::new(Inner { lanes, exits: Some(exits.clone()), threads: Mutex::default() }) };
        for (number, lane) in pool.inner.lanes.iter().enumerate() {
            let (lane, make, settings, exits) = (lane.clone(), make.clone(), self.clone(), exits.clone());
            let body = move || {
                // Dropped last, also in an unwind: whoever drains learns that this worker has ended.
                let exit = Exit(exits);
                let run = move || match foreign::call(|| make(number)) {
                    Ok(handler) => run(Worker::new(lane, handler), &settings),
                    Err(panic) => {
                        worker::end_unmanned(&lane);
                        foreign::error!(panic, number, "a worker's handler could not be made");
                    }
                };
                drop((run(), exit));
            };
            let name = format!("keylane-{}-{number}", self.name);
            let thread = spawn(name, body).map_err(|source| PoolError::Thread { number, source })?;
            pool.inner.threads.lock().push(thread);
        }
        Ok(pool)
    }

    /// A pool without threads: whoever holds the workers steps them. For handling on the thread that delivers, and
    /// for tests and simulations that pass the time in. `make` is called here, with each worker's number.
    ///
    /// # Errors
    /// When the number of workers or the capacity is out of range.
    ///
    /// ```
    /// use keylane::pool::{Handler, Key, Outcome, PoolBuilder, Turn};
    /// use std::time::{Duration, Instant};
    ///
    /// /// Is done at the second attempt, a minute after the first.
    /// struct Twice;
    ///
    /// impl Handler for Twice {
    ///     fn handle(&mut self, attempts: &mut u64, now: Instant) -> Outcome<Self::Future> {
    ///         *attempts += 1;
    ///         if *attempts < 2 { Outcome::RetryAt(now + Duration::from_secs(60)) } else { Outcome::Done }
    ///     }
    /// #     type Job = u64;
    /// #     type Future = std::future::Ready<()>;
    /// #     fn resolve(&mut self, _: &mut u64, (): (), _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// #     fn panicked(&mut self, _: &mut u64, _: String, _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// #     fn expired(&mut self, _: &mut u64, _: Instant) -> Outcome<Self::Future> { Outcome::Done }
    /// }
    /// let (pool, mut workers) = PoolBuilder::new().workers(1).stepped(|_| Twice)?;
    /// let (now, later) = (Instant::now(), Instant::now() + Duration::from_secs(120));
    /// pool.try_send(Key::of("a"), 0)?;
    /// while workers[0].step(now) == Turn::Ran {}
    /// assert_eq!(pool.depths().sum::<u64>(), 1, "it waits for its time");
    /// while workers[0].step(later) == Turn::Ran {}
    /// assert_eq!(pool.depths().sum::<u64>(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stepped<H: Handler>(self, make: impl FnMut(usize) -> H) -> Result<SteppedPool<H>, PoolError> {
        let (pool, lanes) = self.unmanned()?;
        Ok((pool, lanes.man(make)))
    }

    /// As [`PoolBuilder::stepped`] in two steps: the lanes can move to the thread that makes and steps the workers.
    pub(crate) fn unmanned<J: Send + 'static>(self) -> Result<(Pool<J>, Lanes<J>), PoolError> {
        self.check()?;
        let lanes = self.lanes();
        let pool =
            Pool { inner: Arc::new(Inner { lanes: lanes.clone(), exits: None, threads: Mutex::default() }) };
        Ok((pool, Lanes(lanes)))
    }

    fn lanes<J: Send + 'static>(&self) -> Vec<Arc<WorkerLane<J>>> {
        (0..self.workers).map(|_| WorkerLane::new(self.capacity)).collect()
    }

    fn check(&self) -> Result<(), PoolError> {
        if !(1..=MAX_WORKERS).contains(&self.workers) {
            return Err(PoolError::Workers(self.workers));
        }
        if !(1..=MAX_CAPACITY).contains(&self.capacity) {
            return Err(PoolError::Capacity(self.capacity));
        }
        Ok(())
    }
}

/// The lanes of a pool that has no workers yet.
pub(crate) struct Lanes<J>(Vec<Arc<WorkerLane<J>>>);

impl<J: Send + 'static> Lanes<J> {
    /// Makes a worker for each lane, to be stepped by the caller.
    pub(crate) fn man<H: Handler<Job = J>>(self, mut make: impl FnMut(usize) -> H) -> Vec<Worker<H>> {
        self.0.into_iter().enumerate().map(|(number, lane)| Worker::new(lane, make(number))).collect()
    }
}

/// Pools of up to so many workers spread a batch without allocating.
const FEW: usize = 32;

/// Reserved places in the lane of one worker.
type Places<'a, J> = Reservation<'a, Keyed<J>, Wakeup<J>>;

/// A pool without threads, and its workers.
///
/// ```
/// use keylane::pool::{PoolBuilder, PoolError, SteppedPool};
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
/// fn simulated() -> Result<SteppedPool<Review>, PoolError> {
///     PoolBuilder::new().workers(2).stepped(|_| Review)
/// }
/// let (pool, workers) = simulated()?;
/// assert_eq!((pool.workers(), workers.len()), (2, 2));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub type SteppedPool<H> = (Pool<<H as Handler>::Job>, Vec<Worker<H>>);

/// Queues are allocated at the start; beyond this a number is a mistake.
const MAX_CAPACITY: usize = 1 << 24;

impl fmt::Debug for PoolBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolBuilder")
            .field("workers", &self.workers)
            .field("capacity", &self.capacity)
            .field("name", &self.name)
            .field("idle", &self.idle)
            .finish_non_exhaustive()
    }
}

/// Why a pool could not be started.
///
/// ```
/// use keylane::pool::PoolBuilder;
///
/// let error = PoolBuilder::new().capacity(0).shared(|n: u64| n * n).unwrap_err();
/// assert_eq!(error.to_string(), "a worker has room for 1 to 16777216 jobs, not 0");
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// The number of workers is out of range.
    #[error(
        "a pool has 1 to 1024 workers, not {0}; to handle on the delivering thread, step the workers yourself"
    )]
    Workers(usize),
    /// The capacity of a worker is out of range.
    #[error("a worker has room for 1 to 16777216 jobs, not {0}")]
    Capacity(usize),
    /// The system refused a thread.
    #[error("the thread of worker {number} could not be started")]
    Thread {
        /// The worker's number.
        number: usize,
        /// What the system said.
        source: std::io::Error,
    },
}

fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> std::io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name(name).spawn(body)
}

/// The life of a worker's thread.
fn run<H: Handler>(mut worker: Worker<H>, settings: &PoolBuilder) {
    let parker = Parker::new();
    worker.set_sleeper(parker.waker().clone());
    let _registration = settings.clock.register(parker.waker().clone());
    let mut idling = Idling::new(settings.idle);
    let mut turns = || {
        let mut backoff = Backoff::default();
        loop {
            let now = settings.clock.now();
            match worker.step_or_look(now, &mut idling) {
                Turn::Ran => {
                    backoff = Backoff::default();
                    if worker.ran_few() {
                        idling.rest();
                    }
                }
                Turn::Snooze => idling.snooze(&mut backoff),
                Turn::Park(until) => {
                    parker.park_until(if settings.clock.is_manual() { None } else { until });
                }
                Turn::Exit => break,
            }
        }
    };
    match &settings.enter {
        Some(enter) => enter(&mut turns),
        None => turns(),
    }
}

/// A pool of workers for jobs of type `J`. A cheap handle: clones submit to the same workers.
///
/// When the last handle is dropped the pool ends: what runs finishes, what has not started is abandoned, and the
/// drop waits for the threads, unless it happens on one of them. To have everything handled, [`Pool::drain`] first.
///
/// ```
/// use keylane::pool::{Key, PoolBuilder};
/// use std::{sync::{Arc, Mutex}, time::Duration};
///
/// let log = Arc::new(Mutex::new(Vec::new()));
/// let seen = log.clone();
/// let pool = PoolBuilder::new().workers(4).shared(move |n: u32| seen.lock().unwrap().push(n))?;
/// for n in 0..3 {
///     drop(pool.submit(Key::of("order-42"), n).wait()?); // nobody needs the answer
/// }
/// pool.drain(Duration::from_secs(10)).wait();
/// assert_eq!(*log.lock().unwrap(), [0, 1, 2]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Pool<J: Send + 'static> {
    inner: Arc<Inner<J>>,
}

impl<J: Send + 'static> Clone for Pool<J> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

struct Inner<J: Send + 'static> {
    lanes: Vec<Arc<WorkerLane<J>>>,
    /// None: the workers are stepped by their holder.
    exits: Option<Arc<Mutex<Exits>>>,
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
}

/// The workers that have not ended, and who wants to know when all have.
struct Exits {
    running: usize,
    promises: Vec<Promise<()>>,
}

struct Exit(Arc<Mutex<Exits>>);

impl Drop for Exit {
    fn drop(&mut self) {
        let mut exits = self.0.lock();
        exits.running -= 1;
        if exits.running == 0 {
            let promises = std::mem::take(&mut exits.promises);
            drop(exits);
            promises.into_iter().for_each(|promise| promise.complete(()));
        }
    }
}

impl<J: Send + 'static> Pool<J> {
    /// Hands a job over without asking for an answer. The returned value waits for room where there is none.
    ///
    /// Jobs of one key that one thread hands over run in that order: wait for one `send` before the next.
    ///
    /// # Errors
    /// The returned value gives the job back when the pool is closed; see [`SendError`].
    ///
    /// ```
    /// use keylane::pool::{Key, PoolBuilder, Request};
    /// # let (tell, told) = std::sync::mpsc::channel();
    ///
    /// let pool = PoolBuilder::new().workers(1).shared(move |n: u64| tell.send(n * n).is_ok())?;
    /// pool.send(Key::of("a"), Request::tell(7)).wait()?;
    /// assert_eq!(told.recv()?, 49);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn send(&self, key: Key, job: J) -> Sending<J> {
        Sending::new(self.lane_of(key).clone(), Keyed { key, job })
    }

    /// Hands a job over if there is room now. Never blocks and allocates nothing.
    ///
    /// # Errors
    /// The job itself, when its worker has no room or the pool is closed.
    ///
    /// ```
    /// use keylane::pool::{Key, PoolBuilder, Request, TrySendError};
    ///
    /// let pool = PoolBuilder::new().workers(1).capacity(1).asynchronous(|_: u64| std::future::pending::<()>())?;
    /// assert!(pool.try_send(Key::of("a"), Request::tell(1)).is_ok());
    /// let refused = pool.try_send(Key::of("b"), Request::tell(2));
    /// assert!(matches!(refused, Err(TrySendError::Full(_))));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn try_send(&self, key: Key, job: J) -> Result<(), TrySendError<J>> {
        self.lane_of(key).push(Keyed { key, job }).map_err(|(keyed, why)| TrySendError::new(keyed.job, why))
    }

    /// Hands over as many of these jobs as there is room for, in their order per key, with one reservation and at most
    /// one wake-up per worker; what is left in `jobs` found no room or a closed pool. Returns how many were taken.
    ///
    /// Allocates only where the pool has more than 32 workers.
    ///
    /// ```
    /// use keylane::pool::{Key, PoolBuilder, Request};
    ///
    /// let pool = PoolBuilder::new().workers(1).capacity(2).asynchronous(|_: u64| std::future::pending::<()>())?;
    /// let mut jobs: Vec<_> = (0..3).map(|n| (Key::of_number(n), Request::tell(n))).collect();
    /// assert_eq!(pool.try_send_batch(&mut jobs), 2);
    /// assert_eq!(jobs[0].0, Key::of_number(2), "what found no room stays");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_send_batch(&self, jobs: &mut Vec<(Key, J)>) -> usize {
        self.place_batch(jobs, |_, job| job)
    }

    /// Makes jobs of as many of these as there is room for, in their order per key, and tells how many those were.
    fn place_batch<T>(
        &self,
        jobs: &mut Vec<(Key, T)>,
        make: impl FnMut(&Arc<WorkerLane<J>>, T) -> J,
    ) -> usize {
        match &self.inner.lanes[..] {
            [lane] => Self::fill(lane, jobs, make),
            lanes if lanes.len() <= FEW => {
                let (mut counts, mut places) = ([0; FEW], [const { None }; FEW]);
                Self::spread(lanes, jobs, make, &mut counts, &mut places)
            }
            lanes => {
                let mut places: Vec<_> = lanes.iter().map(|_| None).collect();
                Self::spread(lanes, jobs, make, &mut vec![0; lanes.len()], &mut places)
            }
        }
    }

    fn spread<'a, T>(
        lanes: &'a [Arc<WorkerLane<J>>],
        jobs: &mut Vec<(Key, T)>,
        mut make: impl FnMut(&Arc<WorkerLane<J>>, T) -> J,
        counts: &mut [u64],
        places: &mut [Option<Places<'a, J>>],
    ) -> usize {
        let offered = jobs.len();
        for (key, _) in jobs.iter() {
            counts[key.worker(lanes.len())] += 1;
        }
        for ((lane, count), place) in lanes.iter().zip(counts.iter_mut()).zip(places.iter_mut()) {
            *place = if *count == 0 { None } else { lane.reserve(*count).ok() };
            *count = place.as_ref().map_or(0, Reservation::left);
        }
        let has_room = |(key, _): &mut (Key, T)| {
            let left = &mut counts[key.worker(lanes.len())];
            let has_room = *left > 0;
            *left -= u64::from(has_room);
            has_room
        };
        for (key, job) in jobs.extract_if(.., has_room) {
            let worker = key.worker(lanes.len());
            let place = places[worker].as_mut().expect("only a reserved place has room");
            place.push(Keyed { key, job: make(&lanes[worker], job) });
        }
        offered - jobs.len()
    }

    fn fill<T>(
        lane: &Arc<WorkerLane<J>>,
        jobs: &mut Vec<(Key, T)>,
        mut make: impl FnMut(&Arc<WorkerLane<J>>, T) -> J,
    ) -> usize {
        let Ok(mut place) = lane.reserve(jobs.len() as u64) else { return 0 };
        let taken = place.left() as usize;
        jobs.drain(..taken).for_each(|(key, job)| place.push(Keyed { key, job: make(lane, job) }));
        taken
    }

    /// How many workers there are.
    ///
    /// ```
    /// let pool = keylane::pool::PoolBuilder::new().workers(3).shared(|n: u64| n * n)?;
    /// assert_eq!(pool.workers(), 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn workers(&self) -> usize {
        self.inner.lanes.len()
    }

    /// Jobs that each worker has: submitted and not over, waiting ones included.
    ///
    /// ```
    /// use keylane::pool::{Key, PoolBuilder};
    ///
    /// let pool = PoolBuilder::new().workers(2).asynchronous(|_: u64| std::future::pending::<()>())?;
    /// let key = Key::of("order-42");
    /// let (_first, _second) = (pool.try_submit(key, 1)?, pool.try_submit(key, 2)?);
    /// assert_eq!(pool.depths().nth(key.worker(2)), Some(2));
    /// assert_eq!(pool.depths().sum::<u64>(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn depths(&self) -> impl Iterator<Item = u64> {
        self.inner.lanes.iter().map(|lane| lane.look().pending())
    }

    /// Runs `visit` on every worker's thread, between two jobs, with that worker's waiting keys and the time.
    ///
    /// The returned operation is over when all have; a worker that has ended counts as visited.
    ///
    /// # Blocking
    /// Never waits itself. A handler of this pool must not wait for the operation: its own worker is visited when the
    /// handler has ended.
    ///
    /// ```
    /// use keylane::pool::{Key, PoolBuilder};
    /// use std::sync::{Arc, atomic::{AtomicUsize, Ordering}};
    ///
    /// let pool = PoolBuilder::new().workers(2).asynchronous(|_: u64| std::future::pending::<()>())?;
    /// let _answer = pool.submit(Key::of("order-42"), 1).wait()?;
    /// let waiting = Arc::new(AtomicUsize::new(0));
    /// while waiting.load(Ordering::Relaxed) == 0 {
    ///     let found = waiting.clone();
    ///     pool.visit(move |keys, _now| {
    ///         keys.for_each(&mut |_key, _job, _waits_for, _behind| drop(found.fetch_add(1, Ordering::Relaxed)));
    ///     })
    ///     .wait();
    /// }
    /// assert_eq!(waiting.load(Ordering::Relaxed), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn visit(&self, visit: impl Fn(&mut dyn WaitingKeys<J>, Instant) + Send + Sync + 'static) -> Op<()> {
        let (promise, op) = Op::pending(|| ());
        // Dropped by the last worker that had it, or by the lane of one that has ended, which drops its wakes.
        let last = Arc::new(Visited { promise: Mutex::new(Some(promise)) });
        let visit = Arc::new(visit);
        for lane in &self.inner.lanes {
            let (visit, last) = (visit.clone(), last.clone());
            lane.wake(Wakeup::Visit(Box::new(move |waiting, now| {
                visit(waiting, now);
                drop(last);
            })));
        }
        op
    }

    /// Takes no further job; everything that was accepted is handled, what waits for a time included.
    ///
    /// The returned operation is over when every worker has ended. A key that is held for an operator keeps it
    /// waiting; [`Pool::drain`] has a limit. Called again, it waits for the same end.
    ///
    /// # Blocking
    /// Never waits itself. A handler of this pool may close it, and must not wait for the operation, which waits for
    /// the handler.
    ///
    /// ```
    /// use keylane::pool::{Key, PoolBuilder, SendError};
    ///
    /// let pool = PoolBuilder::new().workers(1).shared(|n: u64| n * n)?;
    /// let answer = pool.submit(Key::of("a"), 7).wait()?;
    /// pool.close().wait();
    /// assert_eq!(answer.wait()?, 49, "what was accepted is handled");
    /// assert_eq!(pool.submit(Key::of("a"), 8).wait().unwrap_err(), SendError::Closed(8));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn close(&self) -> Op<()> {
        self.inner.lanes.iter().for_each(|lane| {
            lane.close();
        });
        self.ended()
    }

    /// Takes no further job; what was accepted is handled for as long as `limit`, and what has not started by then is
    /// abandoned. The returned operation is over when every worker has ended, which a job that runs delays.
    ///
    /// # Blocking
    /// As [`Pool::close`].
    ///
    /// ```
    /// use keylane::pool::{JobError, Key, PoolBuilder};
    /// use std::time::Duration;
    ///
    /// let pool = PoolBuilder::new().workers(1).asynchronous(|_: u64| std::future::pending::<()>())?;
    /// let answer = pool.submit(Key::of("a"), 7).wait()?;
    /// pool.drain(Duration::from_millis(1)).wait();
    /// assert_eq!(answer.wait(), Err(JobError::Abandoned));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn drain(&self, limit: Duration) -> Op<()> {
        for lane in &self.inner.lanes {
            lane.close();
            lane.wake(Wakeup::AbandonAfter(limit));
        }
        self.ended()
    }

    fn ended(&self) -> Op<()> {
        let Some(exits) = &self.inner.exits else { return Op::ready(()) };
        let mut exits = exits.lock();
        if exits.running == 0 {
            return Op::ready(());
        }
        let (promise, op) = Op::pending(|| ());
        exits.promises.push(promise);
        op
    }

    /// Waits for the threads, which have been told to end.
    pub(crate) fn join(&self) {
        self.inner.join();
    }

    /// Waits for no thread, now or when the pool is dropped: a handler on one of them may never end.
    pub(crate) fn detach(&self) {
        self.inner.threads.lock().clear();
    }

    /// Whether some worker takes no jobs any more.
    pub(crate) fn has_ended_worker(&self) -> bool {
        self.inner.lanes.iter().any(|lane| lane.look().is_closed())
    }

    /// Whether the calling thread is just running a job of this pool, and so must not wait for its workers.
    pub(crate) fn is_running_here(&self) -> bool {
        self.inner.lanes.iter().any(|lane| own_lane::is(worker::lane_number(lane)))
    }

    fn lane_of(&self, key: Key) -> &Arc<WorkerLane<J>> {
        &self.inner.lanes[key.worker(self.inner.lanes.len())]
    }
}

impl<J: Send + 'static> fmt::Debug for Pool<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("lanes", &self.inner.lanes).finish_non_exhaustive()
    }
}

/// Completes a visit when the last worker is through with it.
struct Visited {
    promise: Mutex<Option<Promise<()>>>,
}

impl Drop for Visited {
    fn drop(&mut self) {
        if let Some(promise) = self.promise.lock().take() {
            promise.complete(());
        }
    }
}

impl<J: Send + 'static> Inner<J> {
    fn join(&self) {
        let here = thread::current().id();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            // A pool that is dropped inside a handler can't wait for the thread that it runs on.
            if thread.thread().id() != here && thread.join().is_err() {
                foreign::error!("a worker's thread panicked outside a handler");
            }
        }
    }
}

impl<J: Send + 'static> Drop for Inner<J> {
    fn drop(&mut self) {
        for lane in &self.lanes {
            lane.close();
            lane.wake(Wakeup::AbandonAfter(Duration::ZERO));
        }
        self.join();
    }
}
