//! One partition from its assignment to its release: whether its records may start, what of its position is to be
//! committed, and when the time of those that run is up.
//!
//! Rebalance and drain are one way: nothing starts any more, what has started may end until a limit, then it is
//! cancelled, and a little later what still runs is left behind.

use crate::wait::after;
use std::time::{Duration, Instant};

/// How long a blocking handler has to notice a cancellation before it is left behind.
pub(crate) const GRACE: Duration = Duration::from_millis(50);

/// A partition as the subscription that was assigned it has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ownership {
    phase: Phase,
    commit: Commit,
    /// Delivered in this assignment and neither settled nor returned.
    in_flight: usize,
    /// What is settled ahead of the watermark takes all the room that a commit has for it.
    is_crowded: bool,
    /// The broker was told to hand out no records of it.
    is_paused: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Owned,
    /// Nothing starts any more; what has started may end until then.
    Leaving(Instant),
    /// Futures are dropped and cancellation is signalled; blocking handlers have until then to notice.
    Cancelled(Instant),
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Commit {
    /// All that is settled is committed.
    Done,
    /// Something was settled since the last commit.
    Due,
    /// The last commit failed and is to be tried again.
    Failed,
}

/// What comes next for a partition that leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leave {
    /// What runs may go on.
    Wait,
    /// The time of what runs is up: it is to be cancelled.
    Cancel,
    /// What ran is over, or out of time: commit, fence, and let the partition go. With the last chance also where the
    /// position could not be committed.
    Release { is_last_chance: bool },
}

impl Ownership {
    pub(crate) fn new() -> Self {
        Self { phase: Phase::Owned, commit: Commit::Done, in_flight: 0, is_crowded: false, is_paused: false }
    }

    /// Whether its records may start.
    pub(crate) fn is_owned(&self) -> bool {
        self.phase == Phase::Owned
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.phase == Phase::Gone
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(crate) fn delivered(&mut self) {
        self.in_flight += 1;
    }

    /// A record was settled, or given back.
    pub(crate) fn over(&mut self) {
        debug_assert!(self.in_flight > 0, "what is over was delivered");
        self.in_flight -= 1;
    }

    /// Something is settled that is not committed.
    pub(crate) fn settled(&mut self) {
        if self.commit == Commit::Done {
            self.commit = Commit::Due;
        }
    }

    /// There is nothing to commit any more.
    pub(crate) fn forget_settled(&mut self) {
        self.commit = Commit::Done;
    }

    pub(crate) fn is_commit_due(&self) -> bool {
        self.commit != Commit::Done
    }

    /// Whether the broker did not take its position; of one that is gone nobody cares.
    pub(crate) fn is_commit_failing(&self) -> bool {
        self.commit == Commit::Failed && !self.is_gone()
    }

    /// The broker took the position. True: it had not before.
    pub(crate) fn committed(&mut self, is_all: bool) -> bool {
        let before = std::mem::replace(&mut self.commit, if is_all { Commit::Done } else { Commit::Due });
        before == Commit::Failed
    }

    pub(crate) fn commit_failed(&mut self) {
        self.commit = Commit::Failed;
    }

    pub(crate) fn set_crowded(&mut self, is_crowded: bool) {
        self.is_crowded = is_crowded;
    }

    /// How many records may come before the partition is as far beyond its watermark as it may be, given how far it is.
    pub(crate) fn room(&self, distance: usize, bound: usize) -> usize {
        if self.is_crowded { 0 } else { bound.saturating_sub(distance) }
    }

    /// True: the broker is to be told.
    pub(crate) fn set_paused(&mut self, is_paused: bool) -> bool {
        std::mem::replace(&mut self.is_paused, is_paused) != is_paused
    }

    /// Nothing starts any more, and what runs may end until then. A limit that was shorter stays.
    pub(crate) fn leave(&mut self, until: Instant) {
        match self.phase {
            Phase::Owned => self.phase = Phase::Leaving(until),
            Phase::Leaving(before) => self.phase = Phase::Leaving(before.min(until)),
            Phase::Cancelled(_) | Phase::Gone => {}
        }
    }

    /// It was released, or is somebody else's already.
    pub(crate) fn gone(&mut self) {
        self.phase = Phase::Gone;
    }

    /// What comes next; asked again, a cancellation is not said twice.
    pub(crate) fn next(&mut self, now: Instant) -> Leave {
        match self.phase {
            Phase::Leaving(until) if now >= until => {
                self.phase = Phase::Cancelled(after(now, GRACE));
                Leave::Cancel
            }
            Phase::Leaving(_) if self.in_flight == 0 => Leave::Release { is_last_chance: false },
            Phase::Cancelled(until) if self.in_flight == 0 || now >= until => {
                Leave::Release { is_last_chance: true }
            }
            Phase::Owned | Phase::Leaving(_) | Phase::Cancelled(_) | Phase::Gone => Leave::Wait,
        }
    }

    /// When time alone changes what comes next.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        match self.phase {
            Phase::Leaving(until) | Phase::Cancelled(until) => Some(until),
            Phase::Owned | Phase::Gone => None,
        }
    }
}

#[cfg(test)]
mod tests;
