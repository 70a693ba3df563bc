//! What reaches a worker: jobs, and what it is asked besides them.

use super::Key;
use super::lane::Lane;
use super::visit::Visit;
use crate::sync::Arc;
use std::time::Instant;

/// What a worker is asked besides jobs.
pub(crate) enum Wakeup<J> {
    /// A future of this key, in this wait, can go on.
    Future(Key, u64),
    /// Look at the waiting keys.
    Visit(Visit<J>),
    /// Drop all that has not started by this time.
    Abandon(Limit),
}

/// Until when what was accepted may still start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Limit {
    /// It is over.
    Now,
    /// By the pool's clock.
    At(Instant),
    /// For ever.
    Never,
}

/// A job with the key that it is ordered by.
pub(crate) struct Keyed<J> {
    pub(crate) key: Key,
    pub(crate) job: J,
}

pub(crate) type WorkerLane<J> = Lane<Keyed<J>, Wakeup<J>>;

/// The number by which [`own_lane`] knows a lane.
pub(crate) fn lane_number<J>(lane: &Arc<WorkerLane<J>>) -> usize {
    Arc::as_ptr(lane) as usize
}
