//! What a subscription's thread and the client's thread have in common.

use super::commits::{CommitReport, Commits, TopicPartition};
use super::mailbox::Mailbox;
use super::question::Asked;
use crate::broker::{Budget, ConsumerSpec, Partition, Polled};
use crate::delivery::Lease;
use crate::sync::{Mutex, OnceLock};
use crate::wait::Promise;
use std::collections::HashMap;
use std::task::Waker;

/// Who waits for a commit.
pub(super) type Waiter = Promise<Result<(), String>>;

/// How much waits between the two threads: as much as the subscription takes in a few turns, and little beside what it
/// may have in flight.
const RECORDS: usize = 4_096;
const BYTES: usize = 4 << 20;

pub(super) struct Handoff {
    pub(super) spec: ConsumerSpec,
    pub(super) state: Mutex<HandoffState>,
    /// On all that the mailbox holds. Ended with the state locked, where something is lost.
    pub(super) lease: Lease,
    /// Wakes the client's thread, which sets it when it starts.
    pub(super) member: OnceLock<Waker>,
    subscription: Waker,
}

#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct HandoffState {
    pub(super) mailbox: Mailbox,
    pub(super) commits: Commits<Waiter>,
    /// Questions that the client's thread has not put yet.
    pub(super) asked: Vec<Asked>,
    /// Why nothing goes on, if that is so.
    pub(super) problem: Option<String>,
    pub(super) has_joined: bool,
    /// The client's thread waits for room.
    pub(super) is_room_wanted: bool,
    /// Partitions were paused, resumed or released.
    pub(super) is_stopping_changed: bool,
    pub(super) is_closing: bool,
    /// How many assignments there were.
    pub(super) generations: u64,
    /// The group's generation, or the member's epoch, in which each partition came last.
    pub(super) fences: HashMap<TopicPartition, u64>,
}

impl Handoff {
    pub(super) fn new(spec: ConsumerSpec, subscription: Waker) -> Self {
        let Budget { records, bytes } = spec.budget;
        let bound = Budget { records: records.min(RECORDS), bytes: bytes.min(BYTES) };
        let state = HandoffState {
            mailbox: Mailbox::new(bound),
            commits: Commits::new(),
            asked: Vec::new(),
            problem: None,
            has_joined: false,
            is_room_wanted: false,
            is_stopping_changed: false,
            is_closing: false,
            generations: 0,
            fences: HashMap::new(),
        };
        Self { spec, state: Mutex::new(state), lease: Lease::over(), member: OnceLock::new(), subscription }
    }

    pub(super) fn wake_member(&self) {
        if let Some(member) = self.member.get() {
            member.wake_by_ref();
        }
    }

    pub(super) fn wake_subscription(&self) {
        self.subscription.wake_by_ref();
    }
}

impl HandoffState {
    /// Passes on what an answer to a commit led to. Who waited is to be told without the lock.
    pub(super) fn committed(
        &mut self,
        report: CommitReport<Waiter>,
        partitions: &[Partition],
    ) -> Vec<(Waiter, Result<(), String>)> {
        self.failed(report.failed, partitions);
        report.told
    }

    /// Tells the subscription of commits that have failed.
    pub(super) fn failed(&mut self, failed: Vec<(TopicPartition, String)>, partitions: &[Partition]) {
        for (place, reason) in failed {
            if let Some(partition) = partitions.iter().find(|p| (p.topic, p.partition) == place) {
                self.mailbox.push_event(Polled::CommitFailed(*partition, reason));
            }
        }
    }
}
