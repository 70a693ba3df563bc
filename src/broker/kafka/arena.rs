//! Records that were fetched together, in one allocation.

use crate::broker::{Fetched, FetchedRecord, Packed, Partition};
use crate::record::Headers;
use bytes::Bytes;
use std::ops::Range;

/// How much a record that is held for long keeps in memory at most, beyond itself: a few hundred records of the usual
/// size.
const CAPACITY: usize = 64 << 10;

/// Where one record's parts are.
struct Parts {
    partition: Partition,
    offset: u64,
    key: Option<Range<u32>>,
    value: Range<u32>,
    headers: Range<u32>,
    timestamp_ms: u64,
    /// Key, value, and names and values of the headers, as the subscription counts them.
    size: usize,
}

/// Takes in records, and hands them out when it is full or nothing more is there.
#[derive(Default)]
pub(super) struct Arena {
    bytes: Vec<u8>,
    parts: Vec<Parts>,
    size: usize,
    /// How much the last ones took: what comes is about as much.
    before: usize,
}

impl Arena {
    /// Copies a record. Whether the arena is full.
    pub(super) fn push(
        &mut self,
        (partition, offset, timestamp_ms): (Partition, u64, u64),
        key: Option<&[u8]>,
        value: &[u8],
        each_header: impl FnOnce(&mut dyn FnMut(&str, &[u8])),
    ) -> bool {
        if self.bytes.capacity() == 0 {
            self.bytes.reserve((self.before + self.before / 4).min(CAPACITY));
        }
        let key = key.map(|key| self.append(key));
        let value = self.append(value);
        let begin = self.end();
        let mut size = value.len() + key.as_ref().map_or(0, Range::len);
        each_header(&mut |name, value| {
            Headers::encode(name, value, &mut self.bytes);
            size += name.len() + value.len();
        });
        let headers = begin..self.end();
        self.parts.push(Parts { partition, offset, key, value, headers, timestamp_ms, size });
        self.size += size;
        // What comes next should fit without moving all that is there.
        let usual = self.bytes.len() / self.parts.len();
        self.bytes.len() + usual > CAPACITY
    }

    fn append(&mut self, part: &[u8]) -> Range<u32> {
        let (begin, at) = (self.bytes.len(), self.end());
        let end = begin + part.len();
        // It doubles as it grows, but not beyond what it may take.
        if end > self.bytes.capacity() && end <= CAPACITY {
            self.bytes.reserve_exact((2 * end).min(CAPACITY) - begin);
        }
        self.bytes.extend_from_slice(part);
        at..self.end()
    }

    fn end(&self) -> u32 {
        u32::try_from(self.bytes.len()).expect("one record, or few short ones: less than 4 GiB")
    }

    pub(super) fn records(&self) -> usize {
        self.parts.len()
    }

    /// The size of the records, as the subscription counts it.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Hands out the records with their sizes, and begins anew.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = (Fetched, usize)> {
        self.before = self.bytes.len();
        self.size = 0;
        let bytes = Bytes::from(std::mem::take(&mut self.bytes));
        self.parts.drain(..).map(move |parts| {
            let Parts { partition, offset, key, value, headers, timestamp_ms, size } = parts;
            let packed = Packed::new(bytes.clone(), headers, key, value, timestamp_ms);
            let record = FetchedRecord::Packed(packed);
            (Fetched { partition, offset, record, subject: None, redeliveries: 0 }, size)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Record;
    use std::time::{Duration, UNIX_EPOCH};

    const PARTITION: Partition = Partition { topic: 0, partition: 3, generation: 1 };

    #[test]
    fn records_come_out_as_they_went_in() {
        let mut arena = Arena::default();
        let headers = [("Via", &b"web"[..]), ("Via", b""), ("Trace", b"t-1")];
        arena.push((PARTITION, 7, 1_500), Some(b"k"), b"paid", |each| {
            headers.iter().for_each(|(name, value)| each(name, value));
        });
        arena.push((PARTITION, 9, 0), None, b"", |_| {});
        assert_eq!(arena.records(), 2);
        let records: Vec<_> = arena.drain().collect();
        let mut first = Record::new("paid").with_key("k");
        first.timestamp = UNIX_EPOCH + Duration::from_millis(1_500);
        headers.iter().for_each(|(name, value)| first.headers.push(*name, value.to_vec()));
        let (fetched, size) = &records[0];
        let record = &fetched.record;
        assert_eq!(record.with_headers(record.headers().clone()), first);
        assert_eq!((record.key(), record.value()), (Some(&b"k"[..]), &b"paid"[..]));
        assert_eq!((fetched.offset, *size, record.size()), (7, first.size(), first.size()));
        let (fetched, size) = &records[1];
        let record = &fetched.record;
        assert_eq!((record.key(), record.value(), record.headers().len(), *size), (None, &b""[..], 0, 0));
        assert_eq!((arena.records(), arena.size()), (0, 0));
    }

    #[test]
    fn it_is_full_before_it_has_to_grow() {
        let mut arena = Arena::default();
        let value = [b'x'; 300];
        for _ in 0..3 {
            let mut count = 1;
            while !arena.push((PARTITION, 0, 0), None, &value, |_| {}) {
                count += 1;
            }
            assert!((CAPACITY / 300 - 1..=CAPACITY / 300).contains(&count), "{count} records");
            assert!(arena.bytes.capacity() <= CAPACITY + 300, "{}", arena.bytes.capacity());
            arena.drain().for_each(drop);
        }
        assert!(arena.push((PARTITION, 0, 0), None, &vec![0; 2 * CAPACITY], |_| {}));
    }
}
