//! What a subscription was given: a partition in one generation, and the position that it begins at.

use crate::sync::{Arc, AtomicBool, Ordering};
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
    pub(crate) cancellation: Cancellation,
    is_stopping: AtomicBool,
}

impl Assignment {
    pub(crate) fn new(topic: Arc<str>, id: Partition) -> Self {
        Self { topic, id, cancellation: Cancellation::default(), is_stopping: AtomicBool::new(false) }
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
}
