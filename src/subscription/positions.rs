//! What is settled, and the positions that are committed of it.

use super::intake::{Assigned, Intake};
use super::runner::Invoke;
use super::timers::Extent;
use crate::broker::{BrokerError, Committed, Durability};
use crate::delivery::ledger::Settled;
use crate::delivery::partitions::Token;
use crate::delivery::{Partition, Position};
use crate::foreign;
use std::time::Instant;

impl<I: Invoke> Intake<I> {
    /// Settles what is over on threads that a handler blocks, and whose verdicts would come when it ends: a crash
    /// meanwhile would repeat it. The rest of each verdict, its places among what is in flight, waits for the thread.
    pub(super) fn settle_behind_handlers(&mut self, now: Instant) -> bool {
        if self.in_flight == 0 || !self.timers.look_is_due(now) {
            return false;
        }
        let settled: Vec<_> = self.setup.shared.doing.iter().flat_map(|doing| doing.settled()).collect();
        let mut is_busy = false;
        for (id, token, bytes) in settled {
            if let Ok(Settled::First) = self.partitions.settle(token, bytes) {
                self.setup.consumer.settled(id, token.offset);
                is_busy = true;
                if let Some(held) = self.assigned_as(id) {
                    held.ownership.settled();
                }
            }
        }
        is_busy
    }

    pub(super) fn settle(&mut self, id: Partition, token: Token, bytes: usize) {
        match self.partitions.settle(token, bytes) {
            Ok(Settled::First) => self.setup.consumer.settled(id, token.offset),
            // Settled while its worker's thread was blocked.
            Ok(Settled::Again | Settled::Unknown) => {}
            Err(_) => foreign::debug!(?token, "a verdict of an assignment that is over changes nothing"),
        }
    }

    /// Commits what has changed, if it is time.
    pub(super) fn commit_if_due(&mut self, now: Instant) {
        if let Some(extent) = self.timers.commit_due(now)
            && !self.timers.is_broker_resting(now)
            && self.is_commit_due()
        {
            self.commit(now, extent, Durability::Accepted);
        }
    }

    pub(super) fn is_commit_due(&self) -> bool {
        self.assigned.iter().any(|held| held.ownership.is_commit_due())
    }

    /// Commits what has changed. False: not all of it.
    pub(super) fn commit(&mut self, now: Instant, extent: Extent, durability: Durability) -> bool {
        let mut is_done = true;
        for at in 0..self.assigned.len() {
            if self.assigned[at].ownership.is_commit_due() {
                is_done &= self.commit_one(at, now, extent, durability);
            }
        }
        self.timers.committed(extent, now);
        is_done
    }

    pub(super) fn commit_one(
        &mut self,
        at: usize,
        now: Instant,
        extent: Extent,
        durability: Durability,
    ) -> bool {
        let Assigned { slot, assignment, ownership, .. } = &mut self.assigned[at];
        let Some(ledger) = self.partitions.ledger(*slot) else {
            ownership.forget_settled();
            return true;
        };
        let is_full = extent == Extent::Full;
        let ahead = if is_full { ledger.settled_ahead().collect() } else { Vec::new() };
        let is_all = is_full || ledger.oldest_pending().is_none();
        let position = Position { watermark: ledger.position_to_commit(), ahead };
        let had_failed = match self.setup.consumer.commit(assignment.id, &position, durability) {
            Ok(committed) => {
                if is_full {
                    ownership.set_crowded(committed == Committed::Crowded);
                }
                ownership.committed(is_all)
            }
            Err(error @ BrokerError::Fenced { .. }) => {
                foreign::warn!(%error, "a commit came too late");
                ownership.committed(true)
            }
            Err(error) => {
                ownership.commit_failed();
                self.broker_failed(now, &error);
                return false;
            }
        };
        // The trouble is over when no partition has it any more.
        if had_failed && !self.is_commit_failing() {
            self.broker_answered(now);
        }
        true
    }

    /// What was taken for committed was not.
    pub(super) fn commit_failed(&mut self, id: Partition, now: Instant, error: String) {
        let Some(held) = self.assigned_as(id) else { return };
        held.ownership.commit_failed();
        self.broker_failed(now, &BrokerError::Transient(error));
    }

    pub(super) fn is_commit_failing(&self) -> bool {
        self.assigned.iter().any(|held| held.ownership.is_commit_failing())
    }
}
