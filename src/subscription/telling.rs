//! What the intake tells of itself: its status, whether the broker answers, and what lasts.

use super::intake::Intake;
use super::runner::Invoke;
use super::shared::Since;
use super::stuck::Change;
use crate::broker::{BrokerError, Gone, Still, Stuck};
use crate::delivery::Partition;
use crate::foreign;
use crate::observe::health::Status;
use std::time::Instant;

/// Problems that a log line each is written of at a time.
const SAID: usize = 8;

impl<I: Invoke> Intake<I> {
    pub(super) fn broker_failed(&mut self, now: Instant, error: &BrokerError) {
        self.timers.broker_failed(now);
        let mut known = self.setup.shared.broker_error.lock();
        let since = known.as_ref().map_or(now, |known| known.since);
        if known.is_none() {
            foreign::warn!(%error, "the broker does not answer; trying again until it does");
        }
        *known = Some(Since { what: error.to_string(), since });
    }

    pub(super) fn broker_answered(&mut self, now: Instant) {
        if self.timers.broker_answered()
            && let Some(known) = self.setup.shared.broker_error.lock().take()
        {
            let after = now.saturating_duration_since(known.since);
            foreign::info!(?after, "the broker answers again");
        }
        if !self.is_ready && self.setup.consumer.has_joined() {
            self.is_ready = true;
            self.set_status(self.undrained_status());
            self.setup.commands.joined();
        }
    }

    /// A log has no more what the group had a right to.
    pub(super) fn gone(&mut self, id: Partition, gone: Gone, now: Instant) {
        let shared = &self.setup.shared;
        let Gone { records, count, reason } = &gone;
        foreign::error!(
            topic = &*shared.topics[id.topic as usize],
            partition = id.partition,
            group = &*shared.group,
            first = (!records.is_empty()).then_some(records.start),
            last = records.end.checked_sub(1).filter(|_| !records.is_empty()),
            records = count,
            reason,
            "records of the log are gone; the group goes on with the first that is there"
        );
        self.tally.lost += count;
        shared.losses.lock().add((id.topic, id.partition), gone, now);
    }

    /// A partition, or a topic, brings nothing though it should, or goes on again.
    pub(super) fn stuck(&mut self, still: Still, stuck: Option<Stuck>, now: Instant) {
        let place = match still {
            // One that has gone since is somebody else's trouble.
            Still::Partition(id) if self.assigned_as(id).is_none_or(|held| held.ownership.is_gone()) => {
                return;
            }
            Still::Partition(id) => (id.topic, Some(id.partition)),
            Still::Topic(topic) => (topic, None),
        };
        let shared = &self.setup.shared;
        let (group, topic, partition) = (&*shared.group, &*shared.topics[place.0 as usize], place.1);
        let change = shared.standstills.lock().set(place, stuck);
        match change {
            Change::None => {}
            Change::Stands(Stuck { offset, reason, since }) => {
                let since = now.saturating_duration_since(since);
                foreign::warn!(
                    topic,
                    partition,
                    group,
                    offset,
                    reason,
                    ?since,
                    "it brings nothing though it should"
                );
            }
            Change::GoesOn { since } => {
                let after = now.saturating_duration_since(since);
                foreign::info!(topic, partition, group, ?after, "it goes on again");
            }
        }
        self.look_at_standstills();
    }

    /// What a partition that goes, or comes anew, was said to stand for.
    pub(super) fn forget_stuck(&mut self, id: Partition) {
        self.setup.shared.standstills.lock().forget((id.topic, Some(id.partition)));
        self.look_at_standstills();
    }

    fn look_at_standstills(&mut self) {
        let has_standstill = self.setup.shared.standstills.lock().shown().next().is_some();
        self.timers.set_standstill(has_standstill);
    }

    /// Looks for what lasts, and says it: after 1, 2, 4, ... seconds, then every minute.
    pub(super) fn tick(&mut self, now: Instant) {
        if !self.timers.tick_is_due(now) {
            return;
        }
        let shared = &self.setup.shared;
        let full_since = self.timers.full_for_long(now);
        let oldest = full_since.and_then(|since| {
            let behind = self.partitions.iter().filter_map(|(topic, partition, ledger)| {
                Some((ledger.distance(), topic, partition, ledger.oldest_pending()?))
            });
            let (_, topic, partition, offset) = behind.max()?;
            let what = shared.place_of(&self.setup.shared.topics[topic as usize], partition, offset);
            Some(Since { what, since })
        });
        *shared.window_full.lock() = oldest;
        let (problems, total) = shared.problems(SAID);
        if total == 0 {
            self.ticks_with_problems = 0;
            return;
        }
        self.ticks_with_problems += 1;
        if self.ticks_with_problems.is_power_of_two() || self.ticks_with_problems.is_multiple_of(60) {
            for problem in &problems {
                foreign::warn!(%problem, group = &*shared.group, problems = total, "progress is held up");
            }
        }
    }

    pub(super) fn undrained_status(&self) -> Status {
        match (self.is_paused, self.is_ready) {
            (true, _) => Status::Paused,
            (false, true) => Status::Running,
            (false, false) => Status::Starting,
        }
    }

    pub(super) fn set_status(&self, status: Status) {
        *self.setup.shared.status.lock() = status;
    }
}
