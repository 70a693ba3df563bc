//! What a worker has under way, where others see it: while a handler or a future blocks its thread nobody can ask it,
//! and a future that is never ready asks for nothing.
//!
//! A lock is taken when an attempt begins and when it ends, and once more by a future that is not ready at once; a poll
//! costs two stores.

use crate::delivery::Partition;
use crate::delivery::partitions::Token;
use crate::event::Event;
use crate::observe::health::Place;
use crate::sync::{Arc, AtomicU64, Mutex, Ordering};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A handler's attempt that has begun.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    pub(crate) event: Event,
    pub(crate) since: Instant,
}

/// One worker's.
#[derive(Debug, Default)]
pub(crate) struct Doing {
    table: Mutex<Table>,
    /// The attempt whose future is being polled; 0: none.
    polled: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    /// Attempts are numbered in the order in which they begin, and so by their age.
    last: u64,
    /// The attempt that has this thread: a blocking handler, or a future that was not polled yet.
    running: Option<(u64, Running)>,
    /// Those whose futures are pending.
    pending: BTreeMap<u64, Running>,
    /// Records that are settled and whose verdicts come when the thread is free: with their sizes.
    settled: Vec<(Partition, Token, usize)>,
}

impl Table {
    fn set_pending(&mut self, number: u64) {
        if let Some((number, running)) = self.running.take_if(|(running, _)| *running == number) {
            self.pending.insert(number, running);
        }
    }
}

impl Doing {
    /// An attempt begins. Whatever its handler does, what is settled already does not wait for it.
    pub(crate) fn begin(
        &self,
        event: &Event,
        since: Instant,
        settled: impl Iterator<Item = (Partition, Token, usize)>,
    ) -> u64 {
        let mut table = self.table.lock();
        table.last += 1;
        let number = table.last;
        // One whose first poll is still to come.
        if let Some(before) = table.running.as_ref().map(|(before, _)| *before) {
            table.set_pending(before);
        }
        table.running = Some((number, Running { event: event.clone(), since }));
        table.settled.extend(settled);
        number
    }

    pub(crate) fn end(&self, number: u64) {
        let mut table = self.table.lock();
        if table.running.take_if(|(running, _)| *running == number).is_none() {
            table.pending.remove(&number);
        }
    }

    pub(crate) fn settled(&self) -> Vec<(Partition, Token, usize)> {
        self.table.lock().settled.clone()
    }

    /// The verdicts of what is settled were given.
    pub(crate) fn clear_settled(&self) {
        self.table.lock().settled.clear();
    }

    /// How many attempts have been running for as long as `limit`, and the oldest of them, at most `most`.
    pub(crate) fn hung(&self, now: Instant, limit: Duration, most: usize) -> (usize, Vec<Running>) {
        let table = self.table.lock();
        let is_hung = |running: &&Running| now.saturating_duration_since(running.since) >= limit;
        // By age: behind one that is not hung there is none.
        let running = table.running.iter().map(|(_, running)| running).filter(is_hung);
        let hung = table.pending.values().take_while(is_hung).chain(running);
        (hung.clone().count(), hung.take(most).cloned().collect())
    }

    /// What has this thread just now, if anything has.
    pub(crate) fn on_the_thread(&self) -> Option<Place> {
        // ORDERING: Relaxed; of a thread that is stuck the store was seen long ago, and of any other it is a glance.
        let polled = self.polled.load(Ordering::Relaxed);
        let table = self.table.lock();
        let running = table.running.as_ref().map(|(_, running)| running);
        running.or_else(|| table.pending.get(&polled)).map(|running| running.event.place())
    }

    /// The place of a record that is under way here.
    pub(crate) fn place_of(&self, topic: &str, partition: u32, offset: u64) -> Option<Place> {
        let table = self.table.lock();
        let running = table.running.iter().map(|(_, running)| running);
        let mut all = running.chain(table.pending.values()).map(|running| &running.event);
        let is_it = |event: &&Event| {
            event.offset() == offset && event.partition() == partition && event.topic() == topic
        };
        all.find(is_it).map(Event::place)
    }
}

/// Goes with a future, and takes its attempt off the table when it is dropped.
pub(crate) struct Watch {
    doing: Arc<Doing>,
    number: u64,
    is_pending: bool,
}

impl Watch {
    /// Of an attempt that has [begun](Doing::begin).
    pub(crate) fn new(doing: Arc<Doing>, number: u64) -> Self {
        Self { doing, number, is_pending: false }
    }

    pub(crate) fn poll_begins(&self) {
        // ORDERING: Relaxed; see `on_the_thread`.
        self.doing.polled.store(self.number, Ordering::Relaxed);
    }

    pub(crate) fn poll_ended(&mut self, is_pending: bool) {
        // ORDERING: Relaxed; see `on_the_thread`.
        self.doing.polled.store(0, Ordering::Relaxed);
        if is_pending && !std::mem::replace(&mut self.is_pending, true) {
            self.doing.table.lock().set_pending(self.number);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // After a poll that panicked. ORDERING: Relaxed; see `on_the_thread`.
        self.doing.polled.store(0, Ordering::Relaxed);
        self.doing.end(self.number);
    }
}
