//! The records of one partition.

use crate::record::Record;
use crate::sync::Arc;
use std::collections::VecDeque;

/// A record in its partition.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) record: Arc<Record>,
    pub(super) size: usize,
    /// Its place in the order of the topic's publishes, so that the oldest is found over all partitions. Publishes
    /// that were refused meanwhile may give two records the same one.
    pub(super) age: u64,
}

/// The records of one partition that are kept, under consecutive offsets.
#[derive(Debug, Default)]
pub(super) struct Log {
    base: u64,
    entries: VecDeque<Entry>,
}

impl Log {
    /// The offset of the oldest record that is kept, or of the next one if none is.
    pub(super) fn base(&self) -> u64 {
        self.base
    }

    /// The offset that the next record gets.
    pub(super) fn end(&self) -> u64 {
        self.base + self.entries.len() as u64
    }

    /// The record at an offset between the lowest watermark and the end: those are always kept.
    pub(super) fn entry(&self, offset: u64) -> &Entry {
        debug_assert!(offset >= self.base, "offset {offset} was dropped, though a group has not settled it");
        &self.entries[(offset - self.base) as usize]
    }

    pub(super) fn records(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.entries.iter().map(|entry| &entry.record)
    }

    /// Stores a record at the end, and gives its offset.
    pub(super) fn append(&mut self, entry: Entry) -> u64 {
        let offset = self.end();
        self.entries.push_back(entry);
        offset
    }

    pub(super) fn oldest(&self) -> Option<&Entry> {
        self.entries.front()
    }

    pub(super) fn drop_oldest(&mut self) -> Option<Entry> {
        let oldest = self.entries.pop_front()?;
        self.base += 1;
        Some(oldest)
    }
}
