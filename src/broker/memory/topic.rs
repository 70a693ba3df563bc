//! A topic: its partitions, what it may keep, and who is told when there is room again.

use super::cursor::Cursor;
use super::log::{Entry, Log};
use crate::broker::{PublishFault, Start, Stored};
use crate::foreign;
use crate::record::Record;
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, OnceLock, Ordering};
use crate::wait::Listeners;
use crossbeam_utils::CachePadded;
use foldhash::quality::FixedState;
use std::hash::BuildHasher;
use std::task::Waker;

/// What of the bound is freed at once when it is reached, so that a full topic does not look for the oldest record at
/// every publish: a 64th.
const TRIM_SHARE: u64 = 64;

/// Not the seed of `pool::Key`: with the same hash, the keys of one partition would all fall into the same few
/// buckets, and a member that owns one of four partitions would use a quarter of its workers.
const PARTITION_SEED: u64 = 0x7061_7274_6974_696f;

/// How much a topic keeps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retention {
    pub(super) records: u64,
    pub(super) bytes: u64,
}

/// One partition, behind one lock: the records and how far each group is in them.
#[derive(Debug, Default)]
pub(super) struct PartitionState {
    pub(super) log: Log,
    /// By slot, see [`Topic::add_group`].
    cursors: Vec<Option<Cursor>>,
}

impl PartitionState {
    /// The cursor of the group that has this slot, and the records it is a cursor into.
    pub(super) fn cursor(&mut self, slot: usize) -> (&mut Cursor, &Log) {
        let cursor = self.cursors[slot].as_mut().expect("a group keeps its slot as long as it has members");
        (cursor, &self.log)
    }

    /// Below this every group has settled everything.
    fn floor(&self) -> u64 {
        self.cursors.iter().flatten().map(Cursor::watermark).min().unwrap_or_else(|| self.log.end())
    }

    fn append(&mut self, entry: Entry, wakes: &mut Vec<Waker>) -> u64 {
        let offset = self.log.append(entry);
        wakes.extend(self.cursors.iter_mut().flatten().filter_map(Cursor::wake_for_append));
        offset
    }

    /// The age of the oldest record, if it may be dropped.
    fn oldest_settled(&self) -> Option<u64> {
        let oldest = self.log.oldest()?;
        (self.log.base() < self.floor()).then_some(oldest.age)
    }

    /// Moves settled records older than `age` out of the log until the quota is reached.
    fn drop_settled(&mut self, age: u64, quota: &mut Retention, dropped: &mut Vec<Entry>) {
        let mut settled = self.floor() - self.log.base();
        while settled > 0 && quota.records > 0 && quota.bytes > 0 {
            if self.log.oldest().is_none_or(|entry| entry.age >= age) {
                break;
            }
            let Some(entry) = self.log.drop_oldest() else { break };
            settled -= 1;
            quota.records -= 1;
            quota.bytes = quota.bytes.saturating_sub(entry.size as u64);
            dropped.push(entry);
        }
    }
}

pub(super) struct Topic {
    pub(super) name: Arc<str>,
    partitions: Box<[CachePadded<Mutex<PartitionState>>]>,
    retention: Retention,
    /// Records reserved so far; also the clock of an entry's age.
    published: CachePadded<AtomicU64>,
    /// Records dropped so far: `published - trimmed` are kept or about to be.
    trimmed: AtomicU64,
    bytes: CachePadded<AtomicU64>,
    /// Of records without a key.
    round_robin: AtomicU64,
    trimming: Mutex<()>,
    /// A publish was refused, so who makes room tells.
    is_starved: AtomicBool,
    space: Arc<Listeners>,
}

impl Topic {
    pub(super) fn new(name: Arc<str>, partitions: u32, retention: Retention, space: Arc<Listeners>) -> Self {
        Self {
            name,
            partitions: (0..partitions).map(|_| CachePadded::default()).collect(),
            retention,
            published: CachePadded::default(),
            trimmed: AtomicU64::new(0),
            bytes: CachePadded::default(),
            round_robin: AtomicU64::new(0),
            trimming: Mutex::new(()),
            is_starved: AtomicBool::new(false),
            space,
        }
    }

    /// What a broker does that forgets its groups: for tests that have to notice.
    #[cfg(test)]
    pub(super) fn trim_past_the_minimum(&self) {
        for partition in &self.partitions {
            partition.lock().log.drop_oldest();
        }
    }

    pub(super) fn partitions(&self) -> &[CachePadded<Mutex<PartitionState>>] {
        &self.partitions
    }

    /// Stores the record at the end of its partition, or says why not.
    pub(super) fn append(&self, record: Arc<Record>) -> Result<Stored, PublishFault> {
        let size = record.size();
        if size as u64 > self.retention.bytes {
            return Err(PublishFault::Permanent(format!(
                "a record of {size} bytes is larger than all that topic `{}` may keep, {} bytes",
                self.name, self.retention.bytes
            )));
        }
        let age = loop {
            if let Some(age) = self.reserve(size as u64) {
                break age;
            }
            if !self.make_room(size as u64) {
                return Err(PublishFault::Full);
            }
        };
        let partition = self.partition_of(&record);
        let mut wakes = Vec::new();
        let entry = Entry { record, size, age };
        let offset = self.partitions[partition as usize].lock().append(entry, &mut wakes);
        wakes.into_iter().for_each(foreign::wake);
        // What was reserved and not yet stored could not be trimmed by who looked for room meanwhile.
        self.tell_of_space();
        Ok(Stored { partition, offset })
    }

    fn partition_of(&self, record: &Record) -> u32 {
        let partitions = self.partitions.len() as u64;
        match &record.key {
            // Multiply-shift: the high bits of the hash choose, evenly for any number of partitions.
            Some(key) => {
                let hash = FixedState::with_seed(PARTITION_SEED).hash_one(&key[..]);
                (((hash >> 32) * partitions) >> 32) as u32
            }
            // ORDERING: Relaxed: a number that nothing else depends on.
            None => (self.round_robin.fetch_add(1, Ordering::Relaxed) % partitions) as u32,
        }
    }

    /// Takes the room for one record and gives its age; None if there is none.
    fn reserve(&self, size: u64) -> Option<u64> {
        // ORDERING: Relaxed throughout: the counters bound how much is kept and publish no data; what is kept is
        // under the partitions' locks. A refused reservation is visible for a moment and may refuse another one,
        // which is why whoever stores or settles a record tells who was refused.
        let age = self.published.fetch_add(1, Ordering::Relaxed);
        if age.saturating_sub(self.trimmed.load(Ordering::Relaxed)) < self.retention.records {
            if self.bytes.fetch_add(size, Ordering::Relaxed) + size <= self.retention.bytes {
                return Some(age);
            }
            self.bytes.fetch_sub(size, Ordering::Relaxed);
        }
        self.published.fetch_sub(1, Ordering::Relaxed);
        None
    }

    /// Drops old records that every group has settled; false if there is none to drop, and then the space listeners
    /// are woken as soon as there may be.
    fn make_room(&self, size: u64) -> bool {
        let _one_at_a_time = self.trimming.lock();
        // ORDERING: Relaxed, as in `reserve`.
        let kept =
            self.published.load(Ordering::Relaxed).saturating_sub(self.trimmed.load(Ordering::Relaxed));
        if kept < self.retention.records && self.bytes.load(Ordering::Relaxed) + size <= self.retention.bytes
        {
            return true;
        }
        if self.trim() {
            return true;
        }
        // ORDERING: Relaxed: the partitions' locks order it. A commit or an append that takes a lock before the
        // look below is seen by it; one that takes it later sees the flag.
        self.is_starved.store(true, Ordering::Relaxed);
        self.trim()
    }

    fn trim(&self) -> bool {
        let Some(oldest) = self.partitions.iter().filter_map(|p| p.lock().oldest_settled()).min() else {
            return false;
        };
        let share = Retention {
            records: (self.retention.records / TRIM_SHARE).max(1),
            bytes: (self.retention.bytes / TRIM_SHARE).max(1),
        };
        let mut quota = share;
        let mut dropped = Vec::new();
        for partition in &self.partitions {
            partition.lock().drop_settled(oldest + share.records, &mut quota, &mut dropped);
        }
        let bytes = dropped.iter().map(|entry| entry.size as u64).sum();
        // ORDERING: Relaxed, as in `reserve`.
        self.trimmed.fetch_add(dropped.len() as u64, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        // The records themselves go here, with no partition's lock held.
        true
    }

    /// Wakes who was refused, after a record was stored or settled.
    pub(super) fn tell_of_space(&self) {
        // ORDERING: Relaxed: see `make_room`; the caller has held the partition's lock since.
        if self.is_starved.load(Ordering::Relaxed) && self.is_starved.swap(false, Ordering::Relaxed) {
            self.space.wake_all();
        }
    }

    /// Gives a group a slot in every partition, and with it a position that holds back retention from now on.
    ///
    /// The caller lets only one group in at a time, so that the slot is free in all partitions.
    pub(super) fn add_group(&self, start: Start) -> usize {
        let slot = {
            let first = self.partitions[0].lock();
            first.cursors.iter().position(Option::is_none).unwrap_or(first.cursors.len())
        };
        for partition in &self.partitions {
            let mut state = partition.lock();
            let cursor = Cursor::new(match start {
                Start::Earliest => state.log.base(),
                Start::Latest => state.log.end(),
            });
            if slot == state.cursors.len() {
                state.cursors.push(None);
            }
            state.cursors[slot] = Some(cursor);
        }
        slot
    }

    /// Forgets the group that has this slot; it holds back nothing any more. Under the same lock as `add_group`.
    pub(super) fn remove_group(&self, slot: usize) {
        for partition in &self.partitions {
            partition.lock().cursors[slot] = None;
        }
    }
}

/// All topics by name. They are never removed, so that finding one takes no lock.
#[derive(Default)]
pub(super) struct Topics {
    buckets: Box<[Link; 32]>,
}

type Link = OnceLock<Box<Node>>;

struct Node {
    topic: Arc<Topic>,
    next: Link,
}

impl Topics {
    fn bucket(&self, name: &str) -> &Link {
        &self.buckets[FixedState::with_seed(0).hash_one(name) as usize % self.buckets.len()]
    }

    pub(super) fn get(&self, name: &str) -> Option<&Arc<Topic>> {
        let mut link = self.bucket(name);
        while let Some(node) = link.get() {
            if *node.topic.name == *name {
                return Some(&node.topic);
            }
            link = &node.next;
        }
        None
    }

    /// The topic of that name, made unless it is there.
    pub(super) fn get_or_insert(&self, name: &str, make: impl FnOnce() -> Topic) -> &Arc<Topic> {
        let mut link = self.bucket(name);
        let mut make = Some(make);
        loop {
            let node = link.get_or_init(|| {
                let make = make.take().expect("a link is made at most once, and then its name is found");
                Box::new(Node { topic: Arc::new(make()), next: OnceLock::new() })
            });
            if *node.topic.name == *name {
                return &node.topic;
            }
            link = &node.next;
        }
    }
}
