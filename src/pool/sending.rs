//! A job on its way into a lane that may have no room for it yet.

use super::lane::Refused;
use super::wakeup::{Keyed, WorkerLane, lane_number};
use crate::sync::Arc;
use crate::wait::own_lane;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Why a job was not taken at once; it is in here.
///
/// ```
/// use keylane::pool::{Key, PoolBuilder, TrySendError};
///
/// let pool = PoolBuilder::new().workers(1).capacity(1).asynchronous(|_: u64| std::future::pending::<()>())?;
/// let _running = pool.try_submit(Key::of("a"), 1)?;
/// assert_eq!(pool.try_submit(Key::of("a"), 2).unwrap_err(), TrySendError::Full(2));
/// pool.drain(std::time::Duration::ZERO).wait();
/// assert_eq!(pool.try_submit(Key::of("a"), 3).unwrap_err(), TrySendError::Closed(3));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrySendError<J> {
    /// The key's worker has no room.
    #[error("the worker of this key has no room")]
    Full(J),
    /// The pool takes no more jobs.
    #[error("the pool is closed")]
    Closed(J),
}

impl<J> TrySendError<J> {
    pub(crate) fn new(job: J, why: Refused) -> Self {
        match why {
            Refused::Full => Self::Full(job),
            Refused::Closed => Self::Closed(job),
        }
    }

    /// The job.
    pub fn into_job(self) -> J {
        match self {
            Self::Full(job) | Self::Closed(job) => job,
        }
    }
}

impl<J> fmt::Debug for TrySendError<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self, Self::Full(_)) { "Full(..)" } else { "Closed(..)" })
    }
}

/// Why a job was not taken in the end; it is in here.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError<J> {
    /// The pool takes no more jobs.
    #[error("the pool is closed")]
    Closed(J),
    /// The calling thread is the very worker that has no room: it can't wait for itself.
    #[error("a worker can't block for room in its own lane, which only it could make")]
    OwnLane(J),
}

impl<J> SendError<J> {
    /// The job.
    pub fn into_job(self) -> J {
        match self {
            Self::Closed(job) | Self::OwnLane(job) => job,
        }
    }
}

impl<J> fmt::Debug for SendError<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self, Self::Closed(_)) { "Closed(..)" } else { "OwnLane(..)" })
    }
}

/// A job that waits for room: a future, or a thread that blocks in [`wait`](Sending::wait). Nothing happens before it
/// is awaited; dropped, it takes its job with it.
///
/// ```
/// use keylane::pool::{Key, PoolBuilder, Request};
///
/// let pool = PoolBuilder::new().workers(1).capacity(1).asynchronous(|_: u64| std::future::pending::<()>())?;
/// pool.try_send(Key::of("a"), Request::tell(1))?;
/// let mut sending = pool.send(Key::of("b"), Request::tell(2));
/// let sent = smol::block_on(smol::future::poll_once(&mut sending));
/// assert!(sent.is_none(), "there is no room yet");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "the job is handed over when this is awaited or waited for"]
pub struct Sending<J: Send + 'static> {
    lane: Arc<WorkerLane<J>>,
    job: Option<Keyed<J>>,
    waiter: Option<u64>,
}

impl<J: Send + 'static> Unpin for Sending<J> {}

impl<J: Send + 'static> Sending<J> {
    pub(crate) fn new(lane: Arc<WorkerLane<J>>, job: Keyed<J>) -> Self {
        Self { lane, job: Some(job), waiter: None }
    }

    /// Blocks until the job has been taken.
    ///
    /// # Errors
    /// The job itself, when the pool is closed, or the calling thread is the worker that would have to make room.
    ///
    /// # Blocking
    /// While the key's worker has no room; async code awaits this instead.
    pub fn wait(mut self) -> Result<(), SendError<J>> {
        if let Err(refused) = self.try_now() {
            return refused;
        }
        if own_lane::is(lane_number(&self.lane)) {
            return Err(SendError::OwnLane(self.job.take().expect("it was not taken").job));
        }
        // A worker that is awake makes room within a batch: less than two sleeps would cost.
        crate::wait::look_until(|| self.lane.may_have_room());
        crate::wait::block_on(self)
    }

    /// `Err` holds the answer; `Ok`: no room yet.
    fn try_now(&mut self) -> Result<(), Result<(), SendError<J>>> {
        let job = self.job.take().expect("polled after it was over");
        match self.lane.push(job) {
            Ok(()) => Err(Ok(())),
            Err((keyed, Refused::Closed)) => Err(Err(SendError::Closed(keyed.job))),
            Err((keyed, Refused::Full)) => {
                self.job = Some(keyed);
                Ok(())
            }
        }
    }
}

impl<J: Send + 'static> Future for Sending<J> {
    type Output = Result<(), SendError<J>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            if let Err(answer) = this.try_now() {
                return Poll::Ready(answer);
            }
            if this.lane.wait_for_capacity(&mut this.waiter, cx.waker()) {
                return Poll::Pending;
            }
        }
    }
}

impl<J: Send + 'static> Drop for Sending<J> {
    fn drop(&mut self) {
        if let Some(id) = self.waiter {
            self.lane.withdraw(id);
        }
    }
}

impl<J: Send + 'static> fmt::Debug for Sending<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sending").field("lane", &self.lane).finish_non_exhaustive()
    }
}
