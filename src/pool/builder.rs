//! The settings of a pool, and its start.

use super::end::{Exit, Exits};
use super::handler::Handler;
use super::idle::Idle;
use super::key::BUCKETS;
use super::thread::{Manner, Post};
use super::wakeup::WorkerLane;
use super::worker::Worker;
use super::{Inner, Pool};
use crate::sync::{Arc, Mutex};
use crate::wait::Clock;
use std::fmt;

/// More workers than buckets would leave some without a key.
const MAX_WORKERS: usize = BUCKETS as usize;
/// A queue of more would be a mistake, not a setting.
const MAX_CAPACITY: usize = 1 << 24;

/// A pool that nobody has started a thread for, and its workers.
pub type SteppedPool<H> = (Pool<<H as Handler>::Job>, Vec<Worker<H>>);

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
    manner: Manner,
}

impl Default for PoolBuilder {
    fn default() -> Self {
        Self::new()
    }
}

/// As many as the machine has cores, as far as a pool can have them.
pub(crate) fn workers_by_default() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS)
}

impl PoolBuilder {
    /// As many workers as the machine has cores, 1,024 at most; 4,096 jobs per worker, [`Idle::Adaptive`].
    pub fn new() -> Self {
        Self {
            workers: workers_by_default(),
            capacity: 4_096,
            name: "pool".to_owned(),
            manner: Manner { idle: Idle::default(), clock: Clock::system(), enter: None, is_crowded: false },
        }
    }

    /// How many workers, and so threads, the pool has: 1 to 1,024.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// How many jobs each worker has room for, 1 to 16,777,216, from their submission to their end; what waits and what
    /// is leased counts. Memory for the queue is taken at the start.
    pub fn capacity(mut self, jobs_per_worker: usize) -> Self {
        self.capacity = jobs_per_worker;
        self
    }

    /// What the threads are named by: `keylane-NAME-0` and so on. By default `pool`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// What an idle worker does before it parks.
    pub fn idle(mut self, idle: Idle) -> Self {
        self.manner.idle = idle;
        self
    }

    /// Where the workers read the time; for tests that pass it in. On a clock that is moved by hand no worker spins.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.manner.clock = clock;
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
        self.manner.enter = Some(Arc::new(enter));
        self
    }

    /// Starts the threads. `make` is called on each worker's own thread with its number. If it panics, that worker
    /// ends at once: its jobs are dropped, and those to come are refused as by a closed pool.
    ///
    /// # Errors
    /// When a setting is out of range, or the system refuses a thread.
    pub fn start<H: Handler>(
        self,
        make: impl Fn(usize) -> H + Send + Sync + 'static,
    ) -> Result<Pool<H::Job>, PoolError> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let manner = Manner { is_crowded: self.workers + 1 > cores, ..self.manner.clone() };
        // Built first, so that an early return closes the lanes and ends the threads that were started.
        let (pool, lanes) = self.clone().unmanned()?;
        let make = Arc::new(make);
        for (number, (lane, exit)) in lanes.into_parts().enumerate() {
            let post = Post { number, lane, make: make.clone(), manner: manner.clone(), exit };
            let started = post.start(format!("keylane-{}-{number}", self.name));
            pool.inner.threads.lock().extend(started.map_err(|source| PoolError::Thread { number, source })?);
        }
        Ok(pool)
    }

    /// A pool without threads: whoever holds the workers steps them. For handling on the thread that delivers, and
    /// for tests and simulations that pass the time in. `make` is called here, with each worker's number.
    ///
    /// # Errors
    /// When a setting is out of range.
    ///
    /// ```
    /// use keylane::pool::{Handler, Key, Outcome, PoolBuilder, Turn};
    /// use std::time::{Duration, Instant};
    ///
    /// /// Is done at the second attempt, a minute after the first.
    /// struct Twice;
    ///
    /// impl Handler for Twice {
    ///     type Job = u64;
    ///     type Future = std::future::Ready<()>;
    ///
    ///     fn handle(&mut self, attempts: &mut u64, now: Instant) -> Outcome<Self::Future> {
    ///         *attempts += 1;
    ///         if *attempts < 2 { Outcome::RetryAt(now + Duration::from_secs(60)) } else { Outcome::Done }
    ///     }
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
        let lanes: Vec<_> = (0..self.workers).map(|_| WorkerLane::new(self.capacity)).collect();
        let exits = Exits::of(self.workers);
        let unmanned = lanes.iter().map(|lane| (lane.clone(), Exit(exits.clone()))).collect();
        let inner = Inner { lanes, exits, clock: self.manner.clock.clone(), threads: Mutex::default() };
        Ok((Pool { inner: Arc::new(inner) }, Lanes { unmanned, clock: self.manner.clock }))
    }

    fn check(&self) -> Result<(), PoolError> {
        if !(1..=MAX_WORKERS).contains(&self.workers) {
            return Err(PoolError::Workers(self.workers));
        }
        if !(1..=MAX_CAPACITY).contains(&self.capacity) {
            return Err(PoolError::Capacity(self.capacity));
        }
        if self.name.contains('\0') {
            return Err(PoolError::Name(self.name.clone()));
        }
        Ok(())
    }
}

/// The lanes of a pool that has no workers yet.
pub(crate) struct Lanes<J> {
    unmanned: Vec<(Arc<WorkerLane<J>>, Exit)>,
    clock: Clock,
}

impl<J: Send + 'static> Lanes<J> {
    /// Makes a worker for each lane, to be stepped by the caller.
    pub(crate) fn man<H: Handler<Job = J>>(self, mut make: impl FnMut(usize) -> H) -> Vec<Worker<H>> {
        let clock = self.clock.clone();
        let man = |(number, (lane, exit))| {
            let mut worker = Worker::new(lane, make(number), clock.clone());
            worker.exit = Some(exit);
            worker
        };
        self.into_parts().enumerate().map(man).collect()
    }

    fn into_parts(self) -> impl Iterator<Item = (Arc<WorkerLane<J>>, Exit)> {
        self.unmanned.into_iter()
    }
}

impl fmt::Debug for PoolBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolBuilder")
            .field("workers", &self.workers)
            .field("capacity", &self.capacity)
            .field("name", &self.name)
            .field("idle", &self.manner.idle)
            .finish_non_exhaustive()
    }
}

/// Why a pool could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// The number of workers is out of range.
    #[error(
        "a pool has 1 to 1024 workers, not {0}; to handle on the delivering thread, step the workers yourself"
    )]
    Workers(usize),
    /// The capacity is out of range.
    #[error("a worker has room for 1 to 16777216 jobs, not {0}")]
    Capacity(usize),
    /// The name has a zero byte in it, which no name of a thread can have.
    #[error("the name of a pool, {0:?}, has a zero byte in it, which the name of a thread can't have")]
    Name(String),
    /// The system refused a thread.
    #[error("the thread of worker {number} could not be started")]
    Thread {
        /// The worker's number.
        number: usize,
        /// The reason.
        source: std::io::Error,
    },
}
