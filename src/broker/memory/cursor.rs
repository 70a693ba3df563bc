//! How far one group is in one partition: what it settled, and what its present owner was handed.
//!
//! A state machine without locks or clocks; it lives under its partition's lock.

use super::log::Log;
use crate::broker::{Budget, Fetched, FetchedRecord, Partition, Polled, Position};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::task::Waker;
use std::time::Instant;

/// The position of a group in a partition and, while a member owns the partition, that member's delivery.
#[derive(Debug)]
pub(super) struct Cursor {
    settled: Position,
    /// What the owner was handed ends here; it begins again at the watermark with the next owner.
    next: u64,
    owner: Option<Owner>,
    /// How often each record was handed out before, for those that will be again: handed out, not settled, and its
    /// owner gone or the record given back. Bounded by what was in flight.
    handed_out: BTreeMap<u64, u32>,
    returned: Returned,
    /// Members that are told when the watermark moves, each once.
    watchers: Vec<Waker>,
}

#[derive(Debug)]
struct Owner {
    generation: u64,
    wake: Waker,
    /// The last poll left nothing here, so the next append has to wake.
    is_waiting: bool,
}

/// What a poll may still hand out.
pub(super) struct Room {
    left: Budget,
    is_unused: bool,
}

impl Room {
    pub(super) fn new(budget: Budget) -> Self {
        Self { left: budget, is_unused: true }
    }

    pub(super) fn is_used_up(&self) -> bool {
        self.left.records == 0
    }

    /// Takes the room for a record of this size. If there is too little, there is none from then on, so that a large
    /// record is not overtaken for ever by small ones of other partitions.
    fn take(&mut self, size: usize) -> bool {
        if self.left.records == 0 || (size > self.left.bytes && !self.is_unused) {
            self.left.records = 0;
            return false;
        }
        self.left = Budget { records: self.left.records - 1, bytes: self.left.bytes.saturating_sub(size) };
        self.is_unused = false;
        true
    }
}

impl Cursor {
    /// A group that begins at this offset.
    pub(super) fn new(watermark: u64) -> Self {
        Self {
            settled: Position { watermark, ahead: Vec::new() },
            next: watermark,
            owner: None,
            handed_out: BTreeMap::new(),
            returned: Returned::default(),
            watchers: Vec::new(),
        }
    }

    pub(super) fn watermark(&self) -> u64 {
        self.settled.watermark
    }

    /// Wakes this member when the watermark has moved, once.
    pub(super) fn watch(&mut self, watcher: &Waker) {
        if !self.watchers.iter().any(|other| other.will_wake(watcher)) {
            self.watchers.push(watcher.clone());
        }
    }

    /// Those that are told of a move, to be woken without the lock.
    pub(super) fn take_watchers(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.watchers)
    }

    pub(super) fn is_owned_by(&self, generation: u64) -> bool {
        self.owner.as_ref().is_some_and(|owner| owner.generation == generation)
    }

    /// A member owns the partition from now on; it is handed everything that is not settled.
    pub(super) fn begin(&mut self, generation: u64, wake: Waker) -> Position {
        debug_assert!(self.owner.is_none(), "the owner before has to end first");
        self.owner = Some(Owner { generation, wake, is_waiting: false });
        self.next = self.settled.watermark;
        self.settled.clone()
    }

    /// The owner owns it no longer: its commits are refused, and what it did not settle comes again.
    pub(super) fn end(&mut self) {
        if self.owner.take().is_none() {
            return;
        }
        for offset in self.settled.watermark..self.next {
            if !self.is_settled(offset) && !self.returned.contains(offset) {
                *self.handed_out.entry(offset).or_default() += 1;
            }
        }
        self.next = self.settled.watermark;
    }

    /// What the owner was not handed yet and is due, as far as there is room; true if nothing is left for now.
    pub(super) fn hand_out(
        &mut self,
        log: &Log,
        partition: Partition,
        now: Instant,
        room: &mut Room,
        out: &mut Vec<Polled>,
    ) -> bool {
        let is_exhausted = self.hand_out_returned(log, partition, now, room, out)
            && self.hand_out_next(log, partition, room, out);
        if let Some(owner) = &mut self.owner {
            owner.is_waiting = is_exhausted;
        }
        is_exhausted
    }

    /// What was given back and is due, alone: a partition that is too far ahead waits for just that. False: there is
    /// too little room for it.
    pub(super) fn hand_out_returned(
        &mut self,
        log: &Log,
        partition: Partition,
        now: Instant,
        room: &mut Room,
        out: &mut Vec<Polled>,
    ) -> bool {
        while let Some((due, offset)) = self.returned.first() {
            if due > now {
                break;
            }
            // What this owner has not come to yet reaches it in order, with the rest.
            if offset < self.next && !self.hand_out_one(log, partition, offset, room, out) {
                return false;
            }
            self.returned.remove(offset);
        }
        true
    }

    fn hand_out_next(
        &mut self,
        log: &Log,
        partition: Partition,
        room: &mut Room,
        out: &mut Vec<Polled>,
    ) -> bool {
        let end = log.end();
        let mut ahead = self.settled.ahead.partition_point(|range| range.end <= self.next);
        while self.next < end {
            match self.settled.ahead.get(ahead) {
                Some(range) if range.contains(&self.next) => {
                    self.next = range.end;
                    ahead += 1;
                    continue;
                }
                _ => {}
            }
            if !self.returned.contains(self.next) && !self.hand_out_one(log, partition, self.next, room, out)
            {
                return false;
            }
            self.next += 1;
        }
        true
    }

    fn hand_out_one(
        &self,
        log: &Log,
        partition: Partition,
        offset: u64,
        room: &mut Room,
        out: &mut Vec<Polled>,
    ) -> bool {
        let entry = log.entry(offset);
        if !room.take(entry.size) {
            return false;
        }
        let redeliveries =
            if self.handed_out.is_empty() { 0 } else { self.handed_out.get(&offset).copied().unwrap_or(0) };
        let record = FetchedRecord::Shared(entry.record.clone());
        out.push(Polled::Record(Fetched { partition, offset, record, subject: None, redeliveries }));
        true
    }

    /// Adds to what is settled; true if the watermark moved. What was settled stays so, whatever the position says.
    pub(super) fn settle(&mut self, position: &Position) -> bool {
        let before = self.settled.watermark;
        merge(&mut self.settled, position);
        let watermark = self.settled.watermark;
        self.next = self.next.max(watermark);
        if !self.handed_out.is_empty() {
            self.handed_out = self.handed_out.split_off(&watermark);
        }
        if !self.returned.is_empty() {
            let settled = &self.settled;
            self.returned.retain(|offset| offset >= watermark && !contains(&settled.ahead, offset));
        }
        watermark > before
    }

    /// Hands the record out again from `due` on; nothing if it is settled or was not handed out.
    pub(super) fn give_back(&mut self, offset: u64, due: Instant) {
        if offset >= self.next || self.is_settled(offset) {
            return;
        }
        if !self.returned.contains(offset) {
            *self.handed_out.entry(offset).or_default() += 1;
        }
        self.returned.insert(offset, due);
    }

    /// When the first of the records that were given back is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.returned.first().map(|(due, _)| due)
    }

    /// The owner's waker, if it found nothing the last time and was not woken since.
    pub(super) fn wake_for_append(&mut self) -> Option<Waker> {
        let owner = self.owner.as_mut().filter(|owner| owner.is_waiting)?;
        owner.is_waiting = false;
        Some(owner.wake.clone())
    }

    fn is_settled(&self, offset: u64) -> bool {
        offset < self.settled.watermark || contains(&self.settled.ahead, offset)
    }
}

fn contains(ranges: &[Range<u64>], offset: u64) -> bool {
    let at = ranges.partition_point(|range| range.end <= offset);
    ranges.get(at).is_some_and(|range| range.contains(&offset))
}

/// The union of two positions: neither the watermark nor anything ahead of it goes back.
fn merge(settled: &mut Position, more: &Position) {
    settled.watermark = settled.watermark.max(more.watermark);
    if settled.ahead.is_empty() && more.ahead.is_empty() {
        return;
    }
    let mut ranges = std::mem::take(&mut settled.ahead);
    ranges.extend(more.ahead.iter().filter(|range| !range.is_empty()).cloned());
    ranges.sort_unstable_by_key(|range| range.start);
    for range in ranges {
        if range.start <= settled.watermark {
            settled.watermark = settled.watermark.max(range.end);
            continue;
        }
        match settled.ahead.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => settled.ahead.push(range),
        }
    }
}

/// Records that were given back and wait for their time.
#[derive(Debug, Default)]
struct Returned {
    due: BTreeMap<u64, Instant>,
    by_time: BTreeSet<(Instant, u64)>,
}

impl Returned {
    fn is_empty(&self) -> bool {
        self.due.is_empty()
    }

    fn contains(&self, offset: u64) -> bool {
        !self.due.is_empty() && self.due.contains_key(&offset)
    }

    fn first(&self) -> Option<(Instant, u64)> {
        self.by_time.first().copied()
    }

    fn insert(&mut self, offset: u64, due: Instant) {
        self.remove(offset);
        self.due.insert(offset, due);
        self.by_time.insert((due, offset));
    }

    fn remove(&mut self, offset: u64) {
        if let Some(due) = self.due.remove(&offset) {
            self.by_time.remove(&(due, offset));
        }
    }

    fn retain(&mut self, keep: impl Fn(u64) -> bool) {
        self.due.retain(|&offset, _| keep(offset));
        self.by_time.retain(|&(_, offset)| keep(offset));
    }
}
