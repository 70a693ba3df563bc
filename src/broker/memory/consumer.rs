//! One member of a consumer group, as its subscription's thread drives it.

use super::cursor::{Cursor, Room};
use super::faults::SettleFault;
use super::group::{Group, Member};
use super::log::Log;
use super::{Shared, unreachable};
use crate::broker::{
    BrokerError, Budget, Committed, Consumer, Durability, Mark, Partition, Polled, Position,
};
use crate::delivery::Lease;
use crate::foreign;
use crate::sync::Arc;
use crate::wait::{Op, Registration, after};
use std::time::{Duration, Instant};

/// A hundred years: what `Instant` holds on every platform.
const MAX_DELAY: Duration = Duration::from_secs(100 * 365 * 86_400);

pub(super) struct MemoryConsumer {
    broker: Arc<Shared>,
    group: Arc<Group>,
    member: Arc<Member>,
    /// The group's slot in each topic of the member.
    slots: Vec<usize>,
    held: Vec<Held>,
    /// Where the next poll begins, so that a partition with a long backlog does not starve the others.
    first: usize,
    /// Wakes for what concerns all members, and for the time.
    _wakes: [Registration; 2],
}

/// A partition that this member may be handed records of.
struct Held {
    partition: Partition,
    is_paused: bool,
    next_due: Option<Instant>,
}

impl MemoryConsumer {
    pub(super) fn new(
        broker: Arc<Shared>,
        group: Arc<Group>,
        member: Arc<Member>,
        slots: Vec<usize>,
        wakes: [Registration; 2],
    ) -> Self {
        Self { broker, group, member, slots, held: Vec::new(), first: 0, _wakes: wakes }
    }

    fn check_reachable(&self) -> Result<(), BrokerError> {
        if self.broker.is_closed() {
            return Err(BrokerError::Closed);
        }
        if self.broker.faults.is_unreachable() {
            return Err(BrokerError::Transient(unreachable()));
        }
        if self.member.is_cut_off() {
            return Err(BrokerError::Transient("the member is cut off: a planted fault".to_owned()));
        }
        Ok(())
    }

    fn take_events(&mut self, out: &mut Vec<Polled>) {
        let before = out.len();
        while self.member.take_events(out) {
            self.group.rejoin(&self.member).wake();
        }
        for polled in &out[before..] {
            match *polled {
                Polled::Assigned(partition, _) => {
                    self.held.push(Held { partition, is_paused: false, next_due: None });
                }
                Polled::Revoked(partition) | Polled::Lost(partition) => {
                    self.held.retain(|held| held.partition != partition);
                }
                Polled::Record(_) | Polled::CommitFailed(..) | Polled::Gone(..) => {
                    debug_assert!(false, "neither is an event");
                }
            }
        }
    }

    /// What the function says of each partition of the topics, whoever has it.
    fn marks(&self, mark: impl Fn(&mut Cursor, &Log) -> u64) -> Result<Vec<Mark>, BrokerError> {
        self.check_reachable()?;
        let mut marks = Vec::new();
        for (topic, slot) in (0..).zip(&self.slots) {
            for (partition, state) in (0..).zip(self.member.topic(topic).partitions()) {
                let mut state = state.lock();
                let (cursor, log) = state.cursor(*slot);
                marks.push(Mark { topic, partition, offset: mark(cursor, log) });
            }
        }
        Ok(marks)
    }

    /// Runs the function on the group's cursor while the partition belongs to this member.
    fn with_cursor<R>(
        &self,
        partition: Partition,
        f: impl FnOnce(&mut Cursor, &Log) -> R,
    ) -> Result<R, BrokerError> {
        let topic = self.member.topic(partition.topic);
        let mut state = topic.partitions()[partition.partition as usize].lock();
        let (cursor, log) = state.cursor(self.slots[partition.topic as usize]);
        if cursor.is_owned_by(partition.generation) {
            return Ok(f(cursor, log));
        }
        Err(BrokerError::Fenced { topic: topic.name.to_string(), partition: partition.partition })
    }
}

impl Consumer for MemoryConsumer {
    fn poll(&mut self, budget: Budget, out: &mut Vec<Polled>) -> Result<(), BrokerError> {
        self.check_reachable()?;
        self.take_events(out);
        let now = self.broker.clock.now();
        // It was cut off or expelled, and what it lost by that is told by now.
        if !self.member.lease().holds(now) {
            self.group.vouch_for(&self.member, after(now, MAX_DELAY));
        }
        if self.held.is_empty() {
            return Ok(());
        }
        let mut room = Room::new(budget);
        self.first = (self.first + 1) % self.held.len();
        for index in (self.first..self.held.len()).chain(0..self.first) {
            let Held { partition, is_paused, .. } = self.held[index];
            if room.is_used_up() {
                break;
            }
            let handed_out = self.with_cursor(partition, |cursor, log| {
                if is_paused {
                    cursor.hand_out_returned(log, partition, now, &mut room, out);
                } else {
                    cursor.hand_out(log, partition, now, &mut room, out);
                }
                cursor.next_due()
            });
            // Fenced: the partition was lost a moment ago, and the event that says so comes with the next poll.
            self.held[index].next_due = handed_out.unwrap_or(None);
        }
        Ok(())
    }

    fn lease(&self) -> Lease {
        self.member.lease().clone()
    }

    /// The group counts the owners of each partition.
    fn fence(&self, partition: Partition) -> Option<u64> {
        Some(partition.generation)
    }

    fn commit(
        &mut self,
        partition: Partition,
        position: &Position,
        _durability: Durability,
    ) -> Result<Committed, BrokerError> {
        self.check_reachable()?;
        let moved = self.with_cursor(partition, |cursor, log| {
            debug_assert!(position.watermark <= log.end(), "settled what was never published");
            match self.broker.faults.takes_settle() {
                None => Ok(cursor.settle(position).then(|| cursor.take_watchers())),
                Some(SettleFault::Lost) => Ok(None),
                Some(SettleFault::Failed) => {
                    Err(BrokerError::Transient("the settle failed: a planted fault".to_owned()))
                }
            }
        })??;
        if let Some(watchers) = moved {
            self.member.topic(partition.topic).tell_of_space();
            watchers.into_iter().for_each(foreign::wake);
        }
        Ok(Committed::All)
    }

    fn give_back(&mut self, partition: Partition, offset: u64, delay: Duration) -> Result<(), BrokerError> {
        self.check_reachable()?;
        let due = self.broker.clock.now() + delay.min(MAX_DELAY);
        let next_due = self.with_cursor(partition, |cursor, _| {
            cursor.give_back(offset, due);
            cursor.next_due()
        })?;
        if let Some(held) = self.held.iter_mut().find(|held| held.partition == partition) {
            held.next_due = next_due;
        }
        Ok(())
    }

    fn next_due(&self) -> Option<Instant> {
        self.held.iter().filter_map(|held| held.next_due).min()
    }

    fn release(&mut self, partition: Partition) {
        self.held.retain(|held| held.partition != partition);
        self.group.release(&self.member, partition).wake();
    }

    fn ends(&mut self) -> Op<Result<Vec<Mark>, BrokerError>> {
        Op::ready(self.marks(|_, log| log.end()))
    }

    fn reached(&mut self) -> Op<Result<Vec<Mark>, BrokerError>> {
        Op::ready(self.marks(|cursor, log| {
            if cursor.watermark() < log.end() {
                cursor.watch(self.member.waker());
            }
            cursor.watermark()
        }))
    }

    fn set_paused(&mut self, partition: Partition, is_paused: bool) {
        if let Some(held) = self.held.iter_mut().find(|held| held.partition == partition) {
            held.is_paused = is_paused;
        }
    }
}

impl Drop for MemoryConsumer {
    fn drop(&mut self) {
        self.group.leave(&self.member).wake();
    }
}
