//! Which records of one partition were delivered and which of them are settled.
//!
//! The *watermark* is the first record that is pending, and the position to commit is its offset: everything below
//! is settled, so a restart from there loses nothing. What is settled ahead of the watermark is kept as bits: two per
//! offset, in blocks of 64 offsets, 24 bytes each, and only for blocks that hold a record that was delivered. 100,000
//! records ahead of a held one take 37.5 KiB where offsets follow each other; where each has a block of its own they
//! take 2.3 MiB, and the bound on the distance bounds that.

use std::collections::VecDeque;
use std::iter;
use std::ops::Range;

/// How many offsets a block covers.
const BLOCK: u64 = 64;

/// The records delivered from one partition in one generation, each pending or settled.
///
/// Offsets rise from one first delivery to the next and may leave gaps (compaction, transactions): an offset that was
/// never delivered is waited for by nobody. Nothing here looks at `offset + 1` except to say that all was settled.
///
/// A record's size is given when it is delivered and again when it is settled or returned, by the one who has the
/// record in hand; the ledger keeps the sum alone, so that a pending record takes no more than a settled one.
///
/// Each operation takes constant time (amortised) where offsets are dense, and the logarithm of the number of blocks
/// where gaps of more than a block lie between the watermark and the newest record.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// Rising by number. The first has a record that is pending, or there is none: what lies below the watermark is
    /// forgotten.
    blocks: VecDeque<Block>,
    /// The lowest offset that a record delivered for the first time can have: behind the newest one delivered.
    next: u64,
    /// How many records the blocks hold: from the watermark to the newest, pending or settled.
    distance: usize,
    records_in_flight: usize,
    bytes_in_flight: usize,
    /// What an earlier generation settled ahead of its watermark and has not been delivered in this one yet: rising,
    /// none empty, none touching another.
    restored: VecDeque<Range<u64>>,
}

/// What a delivered record is to the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivered {
    /// To be handled.
    New,
    /// A copy of a record that is being handled: not to be handled a second time, and not counted as in flight.
    InFlight,
    /// Below the watermark or settled ahead of it: not to be handled again, only acknowledged where the broker wants
    /// that for each copy.
    Settled,
}

/// What a verdict on a record changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settled {
    /// The record was pending and is settled now.
    First,
    /// It was settled before, or lies below the watermark. Nothing changed.
    Again,
    /// No record of that offset was delivered. Nothing changed.
    Unknown,
}

impl Ledger {
    #[cfg(test)]
    /// A ledger that starts at this position: the committed one, or where the consumer was told to begin.
    pub(crate) fn new(position: u64) -> Self {
        Self::restore(position, [])
    }

    /// A ledger that starts at a committed position, and knows what had been settled ahead of it
    /// ([`settled_ahead`](Self::settled_ahead) of an earlier generation): those records are not handled again.
    ///
    /// Ranges may come in any order, overlap, be empty or lie below the position: they were read from a broker.
    pub(crate) fn restore(position: u64, ahead: impl IntoIterator<Item = Range<u64>>) -> Self {
        let mut ranges: Vec<_> = ahead
            .into_iter()
            .map(|range| range.start.max(position)..range.end)
            .filter(|range| !range.is_empty())
            .collect();
        ranges.sort_unstable_by_key(|range| range.start);
        Self {
            blocks: VecDeque::new(),
            next: position,
            distance: 0,
            records_in_flight: 0,
            bytes_in_flight: 0,
            restored: joined(ranges.into_iter()).collect(),
        }
    }

    /// Takes note of a record that the broker delivered, and says whether it is to be handled.
    ///
    /// An offset between the watermark and the newest record that was not delivered before is [`Delivered::New`]: a
    /// broker that delivers late is less of a harm than a record that is lost.
    pub(crate) fn deliver(&mut self, offset: u64, bytes: usize) -> Delivered {
        debug_assert!(i64::try_from(offset).is_ok(), "brokers count in 63 bits, {offset} is no offset");
        let state = if offset >= self.next {
            self.next = offset + 1;
            if self.was_restored(offset) {
                if self.blocks.is_empty() {
                    // Nothing is pending: the watermark goes past it, and there is nothing to remember.
                    return Delivered::Settled;
                }
                State::Settled
            } else {
                State::InFlight
            }
        } else if offset < self.position_to_commit() {
            return Delivered::Settled;
        } else {
            match self.state(offset) {
                State::InFlight => return Delivered::InFlight,
                State::Settled => return Delivered::Settled,
                State::Absent | State::Returned => State::InFlight,
            }
        };

        let number = offset / BLOCK;
        let index = self.find(number).unwrap_or_else(|index| {
            self.blocks.insert(index, Block { number, pending: 0, aside: 0 });
            index
        });
        if self.blocks[index].state(offset) == State::Absent {
            self.distance += 1;
        }
        self.blocks[index].set(offset, state);
        if state == State::Settled {
            return Delivered::Settled;
        }
        self.records_in_flight += 1;
        self.bytes_in_flight += bytes;
        self.assert_invariants();
        Delivered::New
    }

    /// Settles a record: it was handled, durably dead-lettered, discarded or skipped. `bytes` is its size as it was
    /// delivered.
    pub(crate) fn settle(&mut self, offset: u64, bytes: usize) -> Settled {
        if offset < self.position_to_commit() {
            return Settled::Again;
        }
        let Ok(index) = self.find(offset / BLOCK) else { return Settled::Unknown };
        match self.blocks[index].state(offset) {
            State::Absent => return Settled::Unknown,
            State::Settled => return Settled::Again,
            State::InFlight => self.leave_flight(bytes),
            // Not in flight any more, but an operator may still decide about it.
            State::Returned => {}
        }
        self.blocks[index].set(offset, State::Settled);
        self.move_watermark();
        self.assert_invariants();
        Settled::First
    }

    /// Takes note of a record that was given back to the broker: it stays pending and holds the watermark, is not in
    /// flight any more, and is new when it is delivered again. Says whether it was in flight.
    pub(crate) fn returned(&mut self, offset: u64, bytes: usize) -> bool {
        let Ok(index) = self.find(offset / BLOCK) else { return false };
        if self.blocks[index].state(offset) != State::InFlight {
            return false;
        }
        self.blocks[index].set(offset, State::Returned);
        self.leave_flight(bytes);
        self.assert_invariants();
        true
    }

    /// Where a restart has to begin so that nothing is lost: the offset of the first pending record, or the one
    /// behind the newest if none is pending, or where the ledger began if nothing was delivered. Never goes back.
    pub(crate) fn position_to_commit(&self) -> u64 {
        self.oldest_pending().unwrap_or(self.next)
    }

    /// The offset of the record that holds the watermark.
    pub(crate) fn oldest_pending(&self) -> Option<u64> {
        let first = self.blocks.front()?;
        Some(first.number * BLOCK + u64::from(first.pending.trailing_zeros()))
    }

    /// How many records are being handled, waiting or held here; those given back to the broker are not.
    #[cfg(test)]
    pub(crate) fn records_in_flight(&self) -> usize {
        self.records_in_flight
    }

    /// The offsets of the records in flight, rising.
    pub(crate) fn in_flight(&self) -> impl Iterator<Item = u64> + '_ {
        self.blocks.iter().flat_map(|block| {
            let first = block.number * BLOCK;
            let bits = block.pending & !block.aside;
            (0..BLOCK).filter(move |bit| bits >> bit & 1 != 0).map(move |bit| first + bit)
        })
    }

    /// The size of the records in flight, as it was given when they were delivered.
    #[cfg(test)]
    pub(crate) fn bytes_in_flight(&self) -> usize {
        self.bytes_in_flight
    }

    /// How many records were delivered from the watermark to the newest, pending or settled, both ends counted; 0 if
    /// none is pending. The ledger's memory grows with it, so intake pauses at a bound on it.
    pub(crate) fn distance(&self) -> usize {
        self.distance
    }

    /// What is settled beyond the watermark, as rising ranges of offsets that do not touch: for the metadata of a
    /// commit and for [`restore`](Self::restore).
    ///
    /// An offset that was not delivered is in no range, also where its neighbours are settled: if a record appears
    /// there after all, it is handled.
    pub(crate) fn settled_ahead(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let delivered = self.blocks.iter().flat_map(Block::settled);
        let not_yet = self.restored.iter().map(|range| range.start.max(self.next)..range.end);
        joined(delivered.chain(not_yet.filter(|range| !range.is_empty())))
    }

    /// Whether this first delivery brings a record that an earlier generation settled. Drops the ranges that it
    /// leaves behind.
    fn was_restored(&mut self, offset: u64) -> bool {
        while self.restored.front().is_some_and(|range| range.end <= offset) {
            self.restored.pop_front();
        }
        self.restored.front().is_some_and(|range| range.start <= offset)
    }

    fn leave_flight(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.bytes_in_flight, "a record leaves with more bytes than it came with");
        self.records_in_flight -= 1;
        self.bytes_in_flight = self.bytes_in_flight.saturating_sub(bytes);
    }

    /// Forgets what lies below the first pending record. Each record is forgotten once, which pays for the loop.
    fn move_watermark(&mut self) {
        while let Some(first) = self.blocks.front_mut() {
            let below = if first.pending == 0 { u64::MAX } else { (1 << first.pending.trailing_zeros()) - 1 };
            self.distance -= (first.aside & below).count_ones() as usize;
            first.aside &= !below;
            if first.pending != 0 {
                break;
            }
            self.blocks.pop_front();
        }
    }

    fn state(&self, offset: u64) -> State {
        self.find(offset / BLOCK).map_or(State::Absent, |index| self.blocks[index].state(offset))
    }

    /// Where the block of this number is, or where it would have to be inserted.
    fn find(&self, number: u64) -> Result<usize, usize> {
        // Numbers rise by at least one from block to block, so a block is never behind its distance from the first;
        // where no block is missing between, it is there.
        let first = self.blocks.front().ok_or(0_usize)?.number;
        let guess = number.saturating_sub(first).min(self.blocks.len() as u64 - 1) as usize;
        if self.blocks[guess].number == number {
            return Ok(guess);
        }
        self.blocks.binary_search_by_key(&number, |block| block.number)
    }

    fn assert_invariants(&self) {
        debug_assert!(
            self.blocks.front().is_none_or(|first| first.pending != 0),
            "settled below the watermark"
        );
        debug_assert!(self.blocks.back().is_none_or(|last| last.number * BLOCK < self.next), "not delivered");
        debug_assert_eq!(self.distance == 0, self.blocks.is_empty(), "the distance is that of the blocks");
        debug_assert!(self.records_in_flight <= self.distance, "what is in flight was delivered");
        debug_assert!(
            self.records_in_flight > 0 || self.bytes_in_flight == 0,
            "a record left with too few bytes"
        );
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not delivered, or below the watermark.
    Absent,
    InFlight,
    /// Pending, and with the broker.
    Returned,
    /// Settled ahead of the watermark.
    Settled,
}

/// The states of 64 offsets, from `number * 64`; bit n belongs to the n-th of them.
#[derive(Debug)]
struct Block {
    number: u64,
    /// In flight, or returned.
    pending: u64,
    /// Of a pending record: returned. Of another: settled, where a clear bit is an offset without a record.
    aside: u64,
}

impl Block {
    fn state(&self, offset: u64) -> State {
        let bit = 1 << (offset % BLOCK);
        match (self.pending & bit != 0, self.aside & bit != 0) {
            (false, false) => State::Absent,
            (true, false) => State::InFlight,
            (true, true) => State::Returned,
            (false, true) => State::Settled,
        }
    }

    fn set(&mut self, offset: u64, state: State) {
        let bit = 1 << (offset % BLOCK);
        let (pending, aside) = match state {
            State::Absent => (0, 0),
            State::InFlight => (bit, 0),
            State::Returned => (bit, bit),
            State::Settled => (0, bit),
        };
        self.pending = self.pending & !bit | pending;
        self.aside = self.aside & !bit | aside;
    }

    /// The ranges of settled offsets.
    fn settled(&self) -> impl Iterator<Item = Range<u64>> + use<> {
        let first = self.number * BLOCK;
        let mut bits = self.aside & !self.pending;
        iter::from_fn(move || {
            let start = bits.trailing_zeros();
            let end = start + bits.checked_shr(start)?.trailing_ones();
            // Adding to the lowest bit of a run carries through the run and leaves the bits above it.
            bits &= bits.wrapping_add(1 << start);
            Some(first + u64::from(start)..first + u64::from(end))
        })
    }
}

/// Rising ranges with those that touch or overlap made one.
fn joined(ranges: impl Iterator<Item = Range<u64>>) -> impl Iterator<Item = Range<u64>> {
    let mut ranges = ranges.peekable();
    iter::from_fn(move || {
        let mut range = ranges.next()?;
        while let Some(touching) = ranges.next_if(|next| next.start <= range.end) {
            range.end = range.end.max(touching.end);
        }
        Some(range)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the ledger holds on the heap.
    fn heap_bytes(ledger: &Ledger) -> usize {
        ledger.blocks.capacity() * size_of::<Block>() + ledger.restored.capacity() * size_of::<Range<u64>>()
    }

    fn ahead(ledger: &Ledger) -> Vec<Range<u64>> {
        ledger.settled_ahead().collect()
    }

    #[test]
    fn the_position_is_the_first_pending_record_or_behind_the_newest() {
        let mut ledger = Ledger::new(7);
        assert_eq!((ledger.position_to_commit(), ledger.oldest_pending()), (7, None));
        for offset in [10, 12, 20] {
            assert_eq!(ledger.deliver(offset, 1), Delivered::New);
        }
        assert_eq!((ledger.position_to_commit(), ledger.oldest_pending()), (10, Some(10)));
        assert_eq!(ledger.settle(12, 1), Settled::First);
        assert_eq!(ledger.position_to_commit(), 10);
        assert_eq!(ledger.settle(10, 1), Settled::First);
        assert_eq!(ledger.position_to_commit(), 20);
        assert_eq!(ledger.settle(20, 1), Settled::First);
        assert_eq!((ledger.position_to_commit(), ledger.oldest_pending()), (21, None));
    }

    #[test]
    fn a_record_is_settled_once() {
        let mut ledger = Ledger::new(0);
        for offset in [3, 5] {
            ledger.deliver(offset, 10);
        }
        assert_eq!(ledger.settle(5, 10), Settled::First);
        assert_eq!(ledger.settle(5, 10), Settled::Again);
        assert_eq!(ledger.settle(4, 10), Settled::Unknown);
        assert_eq!(ledger.settle(99, 10), Settled::Unknown);
        assert_eq!((ledger.records_in_flight(), ledger.bytes_in_flight()), (1, 10));
        assert_eq!(ledger.deliver(3, 10), Delivered::InFlight);
        assert_eq!(ledger.deliver(5, 10), Delivered::Settled);
        assert_eq!(ledger.settle(3, 10), Settled::First);
        assert_eq!(ledger.settle(3, 10), Settled::Again);
        assert_eq!(ledger.deliver(3, 10), Delivered::Settled);
        assert_eq!((ledger.records_in_flight(), ledger.bytes_in_flight()), (0, 0));
    }

    #[test]
    fn a_returned_record_holds_the_watermark_and_is_new_again() {
        let mut ledger = Ledger::new(0);
        for offset in 0..3 {
            ledger.deliver(offset, 5);
        }
        assert!(ledger.returned(0, 5));
        assert!(!ledger.returned(0, 5));
        assert_eq!((ledger.records_in_flight(), ledger.bytes_in_flight(), ledger.distance()), (2, 10, 3));
        ledger.settle(1, 5);
        ledger.settle(2, 5);
        assert_eq!(ledger.position_to_commit(), 0);
        assert_eq!(ledger.deliver(0, 5), Delivered::New);
        assert_eq!((ledger.records_in_flight(), ledger.bytes_in_flight()), (1, 5));
        ledger.settle(0, 5);
        assert_eq!((ledger.position_to_commit(), ledger.distance()), (3, 0));
    }

    #[test]
    fn what_was_settled_ahead_is_not_handled_again_after_a_restart() {
        let mut ledger = Ledger::new(100);
        for offset in (100..300).chain([500, 501]) {
            ledger.deliver(offset, 1);
        }
        for offset in (101..200).chain(220..300).chain([500]) {
            ledger.settle(offset, 1);
        }
        assert_eq!(ahead(&ledger), [101..200, 220..300, 500..501]);

        let mut restored = Ledger::restore(ledger.position_to_commit(), ledger.settled_ahead());
        assert_eq!(ahead(&restored), [101..200, 220..300, 500..501]);
        let again: Vec<u64> = (100..300)
            .chain([500, 501])
            .filter(|&offset| restored.deliver(offset, 1) == Delivered::New)
            .collect();
        assert_eq!(again, iter::once(100).chain(200..220).chain([501]).collect::<Vec<_>>());
        assert_eq!(ahead(&restored), ahead(&ledger));
        assert_eq!(restored.distance(), ledger.distance());
        for offset in again {
            restored.settle(offset, 1);
        }
        assert_eq!(restored.position_to_commit(), 502);
    }

    #[test]
    #[expect(clippy::reversed_empty_ranges, reason = "a broker's metadata may hold anything")]
    fn ranges_to_restore_may_be_in_any_order_and_overlap() {
        let mut ledger = Ledger::restore(10, [30..40, 0..5, 5..12, 35..50, 9..3, 20..20, 50..51, 60..61]);
        assert_eq!(ahead(&ledger), [10..12, 30..51, 60..61]);
        assert_eq!(ledger.deliver(10, 1), Delivered::Settled);
        assert_eq!(ledger.position_to_commit(), 11);
        assert_eq!(ledger.deliver(29, 1), Delivered::New);
        assert_eq!(ledger.deliver(45, 1), Delivered::Settled);
        assert_eq!(ahead(&ledger), [45..51, 60..61]);
    }

    #[test]
    fn settled_records_ahead_take_bits() {
        const RECORDS: u64 = 100_000;
        let mut ledger = Ledger::new(0);
        for offset in 0..=RECORDS {
            ledger.deliver(offset, 1_000);
        }
        for offset in (1..=RECORDS).rev() {
            ledger.settle(offset, 1_000);
        }
        assert_eq!((ledger.distance(), ledger.bytes_in_flight()), (100_001, 1_000));
        // 1,563 blocks of 24 bytes, in a buffer that has grown by doubling.
        assert!(heap_bytes(&ledger) <= 64 * 1_024, "{} bytes", heap_bytes(&ledger));
        assert_eq!(ahead(&ledger), iter::once(1..RECORDS + 1).collect::<Vec<_>>());
        ledger.settle(0, 1_000);
        assert_eq!((ledger.distance(), ledger.blocks.len()), (0, 0));
    }

    #[test]
    fn memory_grows_with_the_distance_and_not_with_the_records_seen() {
        let mut ledger = Ledger::new(0);
        // Each a block of its own, at most 100 of them pending.
        for n in 0..100_000_u64 {
            ledger.deliver(n * 1_000, 1);
            if let Some(old) = n.checked_sub(100) {
                ledger.settle(old * 1_000, 1);
            }
        }
        assert_eq!(ledger.distance(), 100);
        assert!(heap_bytes(&ledger) <= 256 * size_of::<Block>(), "{} bytes", heap_bytes(&ledger));
    }
}
