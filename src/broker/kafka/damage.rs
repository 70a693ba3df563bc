//! What is done about a partition that can't be read: it stands, alone, is told, and is tried again.

use super::events::Damaged;
use super::group::Client;
use super::handoff::Handoff;
use super::unreadable::Unreadable;
use crate::broker::{Partition, Polled, Still, Stuck};
use crate::foreign;
use std::time::Instant;

#[derive(Default)]
pub(super) struct Damage(Unreadable);

impl Damage {
    /// Whether nothing of the partition is wanted just now.
    pub(super) fn rests(&self, partition: Partition) -> bool {
        self.0.rests(partition)
    }

    /// The client has found a batch that is not what was written.
    pub(super) fn found(&mut self, client: &Client, handoff: &Handoff, damaged: &Damaged, now: Instant) {
        let group = client.context();
        let Some((topic, _)) = group.place(&damaged.topic, damaged.partition) else { return };
        let (partition, next) = {
            let mut own = group.own.lock();
            let Some(assigned) = own.find(topic as usize, damaged.partition) else { return };
            // What comes behind the first error is one of its making.
            if self.0.rests(assigned.partition) {
                return;
            }
            assigned.is_stopped = true;
            (assigned.partition, assigned.next)
        };
        // At once, since what would come next is from a place that was read out of the damaged bytes.
        let paused = client.pause(&group.list(std::iter::once(partition)));
        let since = self.0.failed(partition, next, now);
        let reason = format!(
            "a batch can't be read: {}; repair the replica, or set the group's position behind the batch",
            damaged.reason
        );
        foreign::error!(
            topic = &*damaged.topic,
            partition = partition.partition,
            offset = next,
            group = &*handoff.spec.group,
            reason,
            error = paused.err().map(|error| error.to_string()),
            "the partition stands, and is tried again"
        );
        tell(handoff, partition, Some(Stuck { offset: Some(next), reason, since }));
    }

    /// Tries again what has rested, and tells what goes on.
    pub(super) fn look(&mut self, client: &Client, handoff: &Handoff, now: Instant) {
        if self.0.is_empty() {
            return;
        }
        let group = client.context();
        for (partition, next) in self.0.due(now) {
            let topic = &*handoff.spec.topics[partition.topic as usize];
            // It is resumed behind this, by the member's next turn.
            if let Err(error) = client.seek(topic, partition.partition.cast_signed(), next) {
                foreign::warn!(%error, topic, partition = partition.partition, "it could not be fetched anew");
            }
        }
        let next = |partition: Partition| {
            let own = group.own.lock();
            own.assigned.iter().find(|assigned| assigned.partition == partition).map(|assigned| assigned.next)
        };
        for partition in self.0.healed(next, now) {
            tell(handoff, partition, None);
        }
    }
}

fn tell(handoff: &Handoff, partition: Partition, stuck: Option<Stuck>) {
    handoff.state.lock().mailbox.push_event(Polled::Stuck(Still::Partition(partition), stuck));
    handoff.wake_subscription();
}
