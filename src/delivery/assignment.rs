//! What a subscription was given: a partition in one generation, and the position that it begins at.

use super::lease::Lease;
use crate::sync::{Arc, AtomicBool, Mutex, Ordering};
use crate::wait::Cancellation;
use std::ops::Range;

/// A partition as one member was assigned it. A later assignment of the same partition has a higher generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(clippy::struct_field_names, reason = "a partition's number has no other name in the field")]
pub(crate) struct Partition {
    /// Index into [`ConsumerSpec::topics`].
    pub(crate) topic: u32,
    pub(crate) partition: u32,
    pub(crate) generation: u64,
}

/// How far a group is in a partition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Position {
    /// The first offset that is not settled.
    pub(crate) watermark: u64,
    /// Offsets settled beyond the watermark, ascending and disjoint.
    pub(crate) ahead: Vec<Range<u64>>,
}

/// A partition for as long as this subscription has it.
#[derive(Debug)]
pub(crate) struct Assignment {
    pub(crate) topic: Arc<str>,
    pub(crate) id: Partition,
    /// That of the member.
    pub(crate) lease: Lease,
    /// Grows whenever the partition gets another owner, over all members of the group; none: the backend has no such number.
    pub(crate) fence: Option<u64>,
    /// Of the attempts that began before the lease was over for the first time.
    pub(crate) cancellation: Cancellation,
    /// Of those that begin since then.
    later: Mutex<Option<Cancellation>>,
    has_lapsed: AtomicBool,
    is_stopping: AtomicBool,
    is_out_of_time: AtomicBool,
}

impl Assignment {
    pub(crate) fn new(topic: Arc<str>, id: Partition, lease: Lease, fence: Option<u64>) -> Self {
        Self {
            topic,
            id,
            lease,
            fence,
            cancellation: Cancellation::default(),
            later: Mutex::default(),
            has_lapsed: AtomicBool::new(false),
            is_stopping: AtomicBool::new(false),
            is_out_of_time: AtomicBool::new(false),
        }
    }

    /// No further attempt of one of its records starts.
    pub(crate) fn stop(&self) {
        // ORDERING: Relaxed; a worker that misses it once starts one attempt more, as if it had started before.
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        // ORDERING: Relaxed; see `stop`.
        self.is_stopping.load(Ordering::Relaxed)
    }

    /// What runs is not wanted any more: the partition is somebody else's, or the limit of a drain has passed.
    pub(crate) fn cancel(&self) {
        // ORDERING: Relaxed; who is told by the cancellation below takes its lock, and any other looks again.
        self.is_out_of_time.store(true, Ordering::Relaxed);
        let later = self.later.lock().clone();
        self.cancellation.cancel();
        later.iter().for_each(Cancellation::cancel);
    }

    /// Whether what runs was [cancelled](Self::cancel) for good.
    pub(crate) fn is_out_of_time(&self) -> bool {
        // ORDERING: Relaxed; see `cancel`.
        self.is_out_of_time.load(Ordering::Relaxed)
    }

    /// The lease is over: tells what runs, and nothing that starts when it holds again.
    pub(crate) fn lapse(&self) {
        let running = {
            let mut later = self.later.lock();
            // ORDERING: Release pairs with the Acquire of `later`. Who misses it is told at once, by the first one.
            self.has_lapsed.store(true, Ordering::Release);
            later.replace(Cancellation::default())
        };
        // Its wakers are foreign code: no lock is held.
        running.as_ref().unwrap_or(&self.cancellation).cancel();
    }

    /// What tells an attempt that begins now, where it is not the first one.
    #[inline]
    pub(crate) fn later(&self) -> Option<Cancellation> {
        // ORDERING: Acquire pairs with the Release of `lapse`.
        if self.has_lapsed.load(Ordering::Acquire) { self.later.lock().clone() } else { None }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn assignment() -> Assignment {
        let id = Partition { topic: 0, partition: 0, generation: 1 };
        Assignment::new("orders".into(), id, Lease::forever(), None)
    }

    #[test]
    fn each_end_of_the_lease_tells_what_runs_then_and_nothing_that_starts_later() {
        let assignment = assignment();
        assert!(assignment.later().is_none());
        assignment.lapse();
        let second = assignment.later().expect("another one");
        assert!(assignment.cancellation.is_cancelled() && !second.is_cancelled());
        assignment.lapse();
        let third = assignment.later().expect("another one");
        assert!(second.is_cancelled() && !third.is_cancelled());
        assert!(!assignment.is_out_of_time() && !assignment.is_stopping());
    }

    #[test]
    fn a_partition_that_is_gone_tells_what_runs_whenever_it_started() {
        let (first, assignment) = (assignment(), assignment());
        first.cancel();
        assert!(first.cancellation.is_cancelled() && first.is_out_of_time());
        assignment.lapse();
        let later = assignment.later().expect("another one");
        assignment.cancel();
        assert!(later.is_cancelled() && assignment.is_out_of_time());
    }
}
