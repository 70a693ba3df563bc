//! What the client's thread has for its subscription: a state machine without a client, a thread or a clock in it.
//!
//! Bounded in records and bytes. Records wait per partition, so that one which is paused holds up no other.

use crate::broker::kafka::flow::Room;
use crate::broker::{Budget, Fetched, Partition, Polled, Position};
use foldhash::fast::RandomState;
use std::collections::{HashMap, VecDeque};

#[derive(Debug)]
pub(super) struct Mailbox {
    bound: Budget,
    /// What is told before any record.
    news: VecDeque<Polled>,
    held: Vec<PartitionQueue>,
    /// Where a partition is in `held`.
    index: HashMap<Partition, usize, RandomState>,
    /// Those of which records wait, paused or not, in the order of their turns: one that has much to give does not
    /// starve the others.
    turns: VecDeque<Partition>,
    records: usize,
    bytes: usize,
}

/// A partition whose records may be handed out.
#[derive(Debug)]
struct PartitionQueue {
    partition: Partition,
    queue: VecDeque<(Fetched, usize)>,
    is_paused: bool,
    is_revoked: bool,
}

impl Mailbox {
    pub(super) fn new(bound: Budget) -> Self {
        Self {
            bound,
            news: VecDeque::new(),
            held: Vec::new(),
            index: HashMap::default(),
            turns: VecDeque::new(),
            records: 0,
            bytes: 0,
        }
    }

    pub(super) fn assign(&mut self, partition: Partition, position: Position) {
        self.news.push_back(Polled::Assigned(partition, position));
        self.index.insert(partition, self.held.len());
        self.held.push(PartitionQueue {
            partition,
            queue: VecDeque::new(),
            is_paused: false,
            is_revoked: false,
        });
    }

    /// The partition is to be released: its records are handed out no more. False: there is nothing to wait for, since
    /// the subscription never heard of it or has released it already.
    pub(super) fn revoke(&mut self, partition: Partition) -> bool {
        let is_untold = self.forget_untold(partition);
        if is_untold {
            self.release(partition);
        }
        let Some(index) = self.index(partition) else { return false };
        self.empty(index);
        self.held[index].is_revoked = true;
        self.news.push_back(Polled::Revoked(partition));
        true
    }

    /// The partition is gone.
    pub(super) fn lose(&mut self, partition: Partition) {
        let is_untold = self.forget_untold(partition);
        let is_held = self.release(partition);
        if is_held && !is_untold {
            self.news.push_back(Polled::Lost(partition));
        }
    }

    /// The subscription has not heard of this partition yet, and will not.
    fn forget_untold(&mut self, partition: Partition) -> bool {
        let before = self.news.len();
        self.news.retain(|news| !matches!(news, Polled::Assigned(untold, _) if *untold == partition));
        self.news.len() < before
    }

    /// The subscription gives the partition up, or it is taken without asking. Whether it was held.
    pub(super) fn release(&mut self, partition: Partition) -> bool {
        let Some(index) = self.index(partition) else { return false };
        self.empty(index);
        self.held.swap_remove(index);
        self.index.remove(&partition);
        if let Some(moved) = self.held.get(index) {
            self.index.insert(moved.partition, index);
        }
        true
    }

    /// Whether the subscription has been asked for it and has not released it yet, or has it.
    pub(super) fn holds(&self, partition: Partition) -> bool {
        self.index(partition).is_some()
    }

    /// Whether records of it wait here.
    pub(super) fn has_records_of(&self, partition: Partition) -> bool {
        self.index(partition).is_some_and(|index| !self.held[index].queue.is_empty())
    }

    pub(super) fn set_paused(&mut self, partition: Partition, is_paused: bool) {
        if let Some(index) = self.index(partition) {
            self.held[index].is_paused = is_paused;
        }
    }

    /// Whether no more records of the partition are wanted.
    pub(super) fn is_stopped(&self, partition: Partition) -> bool {
        self.index(partition).is_none_or(|index| self.held[index].is_paused || self.held[index].is_revoked)
    }

    pub(super) fn push_event(&mut self, event: Polled) {
        self.news.push_back(event);
    }

    /// Takes a record in, with its size; one of a partition that is not held is dropped.
    pub(super) fn push(&mut self, fetched: Fetched, bytes: usize) {
        let Some(index) = self.index(fetched.partition).filter(|index| !self.held[*index].is_revoked) else {
            return;
        };
        let queue = &mut self.held[index].queue;
        if queue.is_empty() {
            self.turns.push_back(fetched.partition);
        }
        queue.push_back((fetched, bytes));
        self.records += 1;
        self.bytes += bytes;
    }

    pub(super) fn room(&self) -> (Room, Budget) {
        let left = Budget {
            records: self.bound.records.saturating_sub(self.records),
            bytes: self.bound.bytes.saturating_sub(self.bytes),
        };
        let room = if left.records == 0 || left.bytes == 0 {
            Room::None
        } else if left.records >= self.bound.records / 2 && left.bytes >= self.bound.bytes / 2 {
            Room::Ample
        } else {
            Room::Some
        };
        (room, left)
    }

    /// Hands out all news, and records of the partitions in turn, as far as the budget goes and at least one if there
    /// is one. Whether it handed out a record.
    pub(super) fn take(&mut self, budget: Budget, out: &mut Vec<Polled>) -> bool {
        out.extend(self.news.drain(..));
        let (mut left, mut has_found) = (budget, false);
        // Each that has records has one turn; what it has left is behind the others then.
        for _ in 0..self.turns.len() {
            if left.records == 0 {
                break;
            }
            let Some(partition) = self.turns.pop_front() else { break };
            let Some(index) = self.index(partition) else { continue };
            let held = &mut self.held[index];
            let mut is_over = false;
            while left.records > 0 && !held.is_paused {
                let Some((_, bytes)) = held.queue.front() else { break };
                is_over = *bytes > left.bytes && has_found;
                if is_over {
                    break;
                }
                let (fetched, bytes) = held.queue.pop_front().expect("just seen");
                self.records -= 1;
                self.bytes -= bytes;
                left.records -= 1;
                left.bytes = left.bytes.saturating_sub(bytes);
                has_found = true;
                out.push(Polled::Record(fetched));
            }
            if !held.queue.is_empty() {
                self.turns.push_back(partition);
            }
            if is_over {
                break;
            }
        }
        has_found
    }

    fn index(&self, partition: Partition) -> Option<usize> {
        self.index.get(&partition).copied()
    }

    fn empty(&mut self, index: usize) {
        for (_, bytes) in self.held[index].queue.drain(..) {
            self.records -= 1;
            self.bytes -= bytes;
        }
        let partition = self.held[index].partition;
        self.turns.retain(|waits| *waits != partition);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::FetchedRecord;
    use crate::record::Record;
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};
    use std::collections::BTreeMap;

    const BOUND: Budget = Budget { records: 20, bytes: 100 };

    #[derive(Debug, Clone)]
    enum Op {
        Assign(u32),
        Revoke(u32),
        Release(u32),
        Lose(u32),
        Pause(u32, bool),
        Push(u32, usize),
        Take(usize, usize),
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let partition = || 0..3_u32;
        let op = prop_oneof![
            2 => partition().prop_map(Op::Assign),
            1 => partition().prop_map(Op::Revoke),
            1 => partition().prop_map(Op::Release),
            1 => partition().prop_map(Op::Lose),
            1 => (partition(), any::<bool>()).prop_map(|(partition, is_paused)| Op::Pause(partition, is_paused)),
            8 => (partition(), 1..40_usize).prop_map(|(partition, bytes)| Op::Push(partition, bytes)),
            6 => (0..6_usize, 0..120_usize).prop_map(|(records, bytes)| Op::Take(records, bytes)),
        ];
        prop::collection::vec(op, 1..120)
    }

    fn fetched(partition: Partition, offset: u64) -> Fetched {
        let record = FetchedRecord::Own(Record::new("x"));
        Fetched { partition, offset, record, subject: None, redeliveries: 0 }
    }

    /// What the model knows of a partition.
    #[derive(Default)]
    struct Known {
        current: Option<Partition>,
        is_told: bool,
        is_revoked: bool,
        is_paused: bool,
        expected: VecDeque<u64>,
    }

    /// `is_faulty` plants a subscription that takes what it paused.
    fn run(ops: Vec<Op>, is_faulty: bool) -> Result<(), TestCaseError> {
        let (mut mailbox, mut known) = (Mailbox::new(BOUND), BTreeMap::<u32, Known>::new());
        let (mut generation, mut offset) = (0, 0);
        for op in ops {
            match op {
                Op::Assign(number) => {
                    let known = known.entry(number).or_default();
                    if known.current.is_none() {
                        generation += 1;
                        let partition = Partition { topic: 0, partition: number, generation };
                        *known = Known { current: Some(partition), ..Known::default() };
                        mailbox.assign(partition, Position::default());
                    }
                }
                Op::Revoke(number) => {
                    let known = known.entry(number).or_default();
                    if let Some(partition) = known.current.filter(|_| !known.is_revoked) {
                        let is_awaited = mailbox.revoke(partition);
                        prop_assert_eq!(is_awaited, known.is_told, "who was told is asked");
                        known.is_revoked = true;
                        known.expected.clear();
                        if !is_awaited {
                            *known = Known::default();
                        }
                    }
                }
                Op::Release(number) => {
                    let known = known.entry(number).or_default();
                    if let Some(partition) = known.current.filter(|_| known.is_told) {
                        mailbox.release(partition);
                        *known = Known::default();
                    }
                }
                Op::Lose(number) => {
                    if let Some(partition) = known.entry(number).or_default().current {
                        mailbox.lose(partition);
                        known.insert(number, Known::default());
                    }
                }
                Op::Pause(number, is_paused) => {
                    let known = known.entry(number).or_default();
                    if let Some(partition) = known.current {
                        mailbox.set_paused(partition, is_paused);
                        known.is_paused = is_paused && !is_faulty;
                    }
                }
                Op::Push(number, bytes) => {
                    let known = known.entry(number).or_default();
                    if let (Some(partition), (Room::Some | Room::Ample, _)) = (known.current, mailbox.room())
                    {
                        offset += 1;
                        mailbox.push(fetched(partition, offset), bytes);
                        if !known.is_revoked {
                            known.expected.push_back(offset);
                        }
                    }
                }
                Op::Take(records, bytes) => {
                    let mut out = Vec::new();
                    let has_found = mailbox.take(Budget { records, bytes }, &mut out);
                    let taken = out.iter().filter(|polled| matches!(polled, Polled::Record(_))).count();
                    prop_assert!(taken <= records);
                    prop_assert_eq!(has_found, taken > 0);
                    for polled in out {
                        match polled {
                            Polled::Assigned(partition, _) => {
                                let known = known.entry(partition.partition).or_default();
                                prop_assert_eq!(known.current, Some(partition), "told of what is gone");
                                known.is_told = true;
                            }
                            Polled::Record(fetched) => {
                                let known = known.entry(fetched.partition.partition).or_default();
                                prop_assert_eq!(known.current, Some(fetched.partition));
                                prop_assert!(known.is_told && !known.is_revoked && !known.is_paused);
                                prop_assert_eq!(
                                    known.expected.pop_front(),
                                    Some(fetched.offset),
                                    "order or loss"
                                );
                            }
                            Polled::Revoked(_)
                            | Polled::Lost(_)
                            | Polled::CommitFailed(..)
                            | Polled::Gone(..)
                            | Polled::Stuck(..) => {}
                        }
                    }
                    let waits = known.values().any(|known| !known.is_paused && !known.expected.is_empty());
                    prop_assert!(
                        has_found || records == 0 || !waits,
                        "a record waits and was not handed out"
                    );
                }
            }
            let waiting: usize = mailbox.held.iter().map(|held| held.queue.len()).sum();
            let bytes: usize = mailbox.held.iter().flat_map(|held| &held.queue).map(|(_, bytes)| bytes).sum();
            prop_assert_eq!((waiting, bytes), (mailbox.records, mailbox.bytes));
            prop_assert!(mailbox.records <= BOUND.records);
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn each_partition_is_handed_out_in_order_and_whole_while_it_is_held(ops in ops()) {
            run(ops, false)?;
        }
    }

    #[test]
    fn the_property_finds_records_of_a_paused_partition() {
        let config = Config { failure_persistence: None, max_shrink_iters: 0, ..Config::default() };
        assert!(TestRunner::new(config).run(&ops(), |ops| run(ops, true)).is_err());
    }

    #[test]
    fn a_large_record_is_handed_out_alone() {
        let mut mailbox = Mailbox::new(BOUND);
        let partition = Partition { topic: 0, partition: 0, generation: 1 };
        mailbox.assign(partition, Position::default());
        (0..3).for_each(|offset| mailbox.push(fetched(partition, offset), 60));
        let mut out = Vec::new();
        mailbox.take(Budget { records: 9, bytes: 10 }, &mut out);
        assert_eq!(out.len(), 2, "the assignment and one record");
    }
}
