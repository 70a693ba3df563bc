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
//!
//! # Panics, and keys that are chosen to hurt
//!
//! What a handler, a future, a waker, a hook or a drop of the user's panics with is caught, and the pool goes on; what
//! follows for the job is each handler's. A program that is built with `panic = "abort"` has no panics to catch: the
//! first one ends the process, and with it all jobs that are accepted and not over.
//!
//! Keys are hashed by a fixed seed, so that a key is on the same worker in each process. Who can choose keys can thus
//! choose many of one worker, or ids that share a [`Key`]: the order holds, and what suffers is how evenly the work is
//! spread. Where that matters, make keys of a hash with a secret: [`Key::of_number`].

mod builder;
mod end;
mod handler;
mod idle;
mod key;
mod lane;
mod lease;
mod pace;
mod request;
mod sending;
mod thread;
mod visit;
mod waiting;
mod wakeup;
mod worker;

pub use crate::wait::{Completion, JobError};
pub(crate) use builder::workers_by_default;
pub use builder::{PoolBuilder, PoolError, SteppedPool};
pub use handler::{Handler, Outcome, Turn, WaitingNow};
pub use idle::Idle;
pub use key::Key;
pub(crate) use key::RoundRobin;
pub(crate) use pace::LONG_TURN;
pub use request::{Request, RequestPool, Submitting, TrySubmitError};
pub use sending::{SendError, Sending, TrySendError};
pub use thread::Enter;
pub use visit::{WaitingKey, WaitingKeys, WaitsFor};
pub use worker::Worker;
#[cfg(loom)]
pub(crate) use {idle::Idling, lane::Lane};

use crate::foreign;
use crate::sync::{Arc, Mutex, thread as threads};
use crate::wait::{Clock, Op, Promise, own_lane};
use end::Exits;
use lane::Reservation;
use std::fmt;
use std::time::{Duration, Instant};
use wakeup::{Keyed, Limit, Wakeup, WorkerLane, lane_number};

/// Up to so many workers a batch is spread without an allocation.
const FEW: usize = 32;

type Places<'a, J> = Reservation<'a, Keyed<J>, Wakeup<J>>;

/// A pool whose handlers take jobs of type `J`. Cloning it is cheap, and all clones are one pool.
///
/// When the last clone is dropped, nothing starts any more: what has not started is abandoned, and the threads end.
///
/// # Blocking
/// Dropping the last clone waits for the threads, and so for the jobs that run; on a thread of any pool's, which another
/// one may be waiting for, it waits for none.
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
    exits: Arc<Mutex<Exits>>,
    clock: Clock,
    threads: Mutex<Vec<threads::JoinHandle<()>>>,
}

impl<J: Send + 'static> Pool<J> {
    /// Hands a job over without asking for an answer. The returned value waits for room where there is none.
    ///
    /// # Errors
    /// The returned value gives the job back when the pool is closed; see [`SendError`].
    pub fn send(&self, key: Key, job: J) -> Sending<J> {
        Sending::new(self.lane_of(key).clone(), Keyed { key, job })
    }

    /// Hands a job over if there is room now. Never blocks.
    ///
    /// # Errors
    /// The job itself, when its worker has no room or the pool is closed.
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
    pub fn workers(&self) -> usize {
        self.inner.lanes.len()
    }

    /// Jobs that each worker has: submitted and not over, waiting ones included.
    pub fn depths(&self) -> impl Iterator<Item = u64> {
        self.inner.lanes.iter().map(|lane| lane.look().pending())
    }

    /// Runs `visit` on every worker's thread, between two jobs, with that worker's waiting keys and the time.
    ///
    /// The returned operation is over when all have; a worker that has ended counts as visited, and so does one on which
    /// `visit` panics, which is logged. An example is with [`WaitingKeys`].
    ///
    /// # Blocking
    /// Never waits itself. A handler of this pool must not wait for the operation: its own worker is visited when the
    /// handler has ended.
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
    /// The returned operation is over when every worker has ended; a pool without threads is stepped to its end
    /// meanwhile. A key that is held for an operator keeps it waiting; [`Pool::drain`] has a limit. Called again, it
    /// waits for the same end.
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
        Exits::all(&self.inner.exits)
    }

    /// Takes no further job; what was accepted is handled for as long as `limit`, counted from this call by the pool's
    /// clock, and what has not started by then is abandoned. The returned operation is over when every worker has ended,
    /// which a job that runs delays.
    ///
    /// # Blocking
    /// As [`Pool::close`].
    pub fn drain(&self, limit: Duration) -> Op<()> {
        // A limit beyond what the clock can express is none.
        let limit = match self.inner.clock.now().checked_add(limit) {
            _ if limit.is_zero() => Limit::Now,
            Some(at) => Limit::At(at),
            None => Limit::Never,
        };
        self.inner.drain(limit);
        Exits::all(&self.inner.exits)
    }

    /// Waits for the threads, which have been told to end.
    pub(crate) fn join(&self) {
        self.inner.join();
    }

    /// Waits for no thread, now or when the pool is dropped: a handler on one of them may never end.
    pub(crate) fn detach(&self) {
        self.inner.detach();
    }

    /// Whether some worker takes no jobs any more.
    pub(crate) fn has_ended_worker(&self) -> bool {
        self.inner.lanes.iter().any(|lane| lane.look().is_closed())
    }

    /// Whether the calling thread is just running a job of this pool, and so must not wait for its workers.
    pub(crate) fn is_running_here(&self) -> bool {
        self.inner.lanes.iter().any(|lane| own_lane::is(lane_number(lane)))
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
        let promise = self.promise.lock().take();
        if let Some(promise) = promise {
            promise.complete(());
        }
    }
}

impl<J: Send + 'static> Inner<J> {
    fn drain(&self, limit: Limit) {
        for lane in &self.lanes {
            lane.close();
            lane.wake(Wakeup::Abandon(limit));
        }
    }

    fn join(&self) {
        for thread in std::mem::take(&mut *self.threads.lock()) {
            if thread.join().is_err() {
                foreign::error!("a worker's thread panicked outside a handler");
            }
        }
    }

    fn detach(&self) {
        let threads = std::mem::take(&mut *self.threads.lock());
        drop(threads);
    }
}

impl<J: Send + 'static> Drop for Inner<J> {
    fn drop(&mut self) {
        self.drain(Limit::Now);
        if own_lane::is_any() {
            // Not on a worker, of this pool or another: one that is waited for may wait for this very one.
            self.detach();
        } else {
            self.join();
        }
    }
}
