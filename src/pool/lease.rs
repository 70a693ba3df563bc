//! A job that is leased to a future.

use super::Key;
use super::wakeup::{Wakeup, WorkerLane};
use crate::foreign;
use crate::sync::{Arc, AtomicBool, Ordering};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Wake, Waker};

/// A future that a job was leased to, and how it is woken.
pub(super) struct Lease<J, F> {
    future: Pin<Box<F>>,
    wake: Arc<LeaseWake<J>>,
    waker: Waker,
}

impl<J: Send + 'static, F: Future> Lease<J, F> {
    /// The lease of this key's wait with this stamp.
    pub(super) fn new(lane: &Arc<WorkerLane<J>>, key: Key, stamp: u64, future: F) -> Self {
        let wake = LeaseWake { lane: lane.clone(), key, stamp, is_queued: AtomicBool::new(false) };
        let wake = Arc::new(wake);
        Self { future: Box::pin(future), waker: Waker::from(wake.clone()), wake }
    }

    /// What the future came to, or the message of its panic, if it has ended.
    pub(super) fn poll(&mut self) -> Option<Result<F::Output, String>> {
        // ORDERING: Acquire pairs with the Release of a wake that found the flag set and queued nothing: the poll below
        // sees what that wake was for. Reset before the poll, so that a wake during it queues the lease again.
        self.wake.is_queued.swap(false, Ordering::Acquire);
        let Self { future, waker, .. } = self;
        match foreign::call(|| future.as_mut().poll(&mut Context::from_waker(waker))) {
            Ok(Poll::Pending) => None,
            Ok(Poll::Ready(output)) => Some(Ok(output)),
            Err(message) => Some(Err(message)),
        }
    }
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
