//! The program's own book of what was read from the file and what the handlers did with it.
//!
//! It takes no word of the bus for anything: lost, duplicated and out-of-order rows are found by comparing the two.
//! Handlers of several threads write to it at once, so every entry is an atomic of its own and there is no lock. All
//! of them are sequentially consistent: the referee should need no proof.

use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::Instant;

/// Where a row stands among the rows of its key, given when it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) key: u32,
    pub(crate) sequence: u32,
}

pub(crate) struct Ledger {
    rows: Vec<Row>,
    /// For each key the sequence number of its first row that is not over.
    next: Vec<AtomicU32>,
    over: AtomicUsize,
    dead: AtomicUsize,
    started: Instant,
}

struct Row {
    /// None: the row has no key, so no order.
    place: Option<Place>,
    published_us: AtomicU64,
    /// From the publish call to the end of the first handling that succeeded; at least 1 then.
    latency_us: AtomicU32,
    effects: AtomicU16,
    dead_letters: AtomicU16,
    /// An effect came when the row was the first of its key that was not over.
    is_in_order: AtomicBool,
    /// A handler started while an earlier row of the key was not over.
    is_early: AtomicBool,
    is_over: AtomicBool,
}

/// What the comparison says at the end.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) records: usize,
    pub(crate) keys: usize,
    pub(crate) without_key: usize,
    /// Rows that a handler handled with success, each counted once.
    pub(crate) handled: usize,
    /// Rows that were found in the dead-letter topic, each counted once.
    pub(crate) dead_lettered: usize,
    /// Rows that were neither.
    pub(crate) lost: usize,
    /// Successes and dead letters beyond the first of a row.
    pub(crate) duplicated: usize,
    /// Rows that took effect, or only started, before an earlier row of their key was over.
    pub(crate) out_of_order: usize,
    pub(crate) p50_us: u32,
    pub(crate) p99_us: u32,
}

impl Ledger {
    /// A ledger of rows that were read; `keys` is how many keys their places name.
    pub(crate) fn new(places: Vec<Option<Place>>, keys: usize) -> Self {
        let rows = places.into_iter().map(|place| Row {
            place,
            published_us: AtomicU64::new(0),
            latency_us: AtomicU32::new(0),
            effects: AtomicU16::new(0),
            dead_letters: AtomicU16::new(0),
            is_in_order: AtomicBool::new(false),
            is_early: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
        });
        Self {
            rows: rows.collect(),
            next: (0..keys).map(|_| AtomicU32::new(0)).collect(),
            over: AtomicUsize::new(0),
            dead: AtomicUsize::new(0),
            started: Instant::now(),
        }
    }

    pub(crate) fn records(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn place(&self, row: usize) -> Option<Place> {
        self.rows[row].place
    }

    /// The row is about to be published.
    pub(crate) fn publishes(&self, row: usize) {
        self.rows[row].published_us.store(self.now_us(), SeqCst);
    }

    /// A handler starts with the row.
    pub(crate) fn starts(&self, row: usize) {
        let row = &self.rows[row];
        if let Some(Place { key, sequence }) = row.place
            && self.next[key as usize].load(SeqCst) < sequence
        {
            row.is_early.store(true, SeqCst);
        }
    }

    /// A handler ends with success: the row takes effect.
    pub(crate) fn succeeds(&self, number: usize) {
        let row = &self.rows[number];
        // Two handlers may do this for one row at once: one that a crash left behind, and its repetition. Whichever
        // moves the key on took effect in order, so the row did; the other finds the key moved and counts as a duplicate.
        if self.moves_on(row) {
            row.is_in_order.store(true, SeqCst);
        }
        if row.effects.fetch_add(1, SeqCst) == 0 {
            let latency = self.now_us().saturating_sub(row.published_us.load(SeqCst));
            row.latency_us.store(u32::try_from(latency).unwrap_or(u32::MAX).max(1), SeqCst);
        }
        self.ends(row);
    }

    /// A handler fails with the row for the last time, so that its key may go on once the dead letter is stored.
    /// Whether it is stored is not taken on trust: the row is over only by [`is_dead_lettered`](Self::is_dead_lettered).
    pub(crate) fn gives_up(&self, row: usize) {
        self.moves_on(&self.rows[row]);
    }

    /// The row was found in the dead-letter topic.
    pub(crate) fn is_dead_lettered(&self, row: usize) {
        let row = &self.rows[row];
        if row.dead_letters.fetch_add(1, SeqCst) == 0 {
            self.dead.fetch_add(1, SeqCst);
        }
        self.ends(row);
    }

    /// How many rows are over: handled or dead-lettered.
    pub(crate) fn over(&self) -> usize {
        self.over.load(SeqCst)
    }

    /// How many rows were found in the dead-letter topic.
    pub(crate) fn dead_lettered(&self) -> usize {
        self.dead.load(SeqCst)
    }

    /// The numbers of the rows that are not over.
    pub(crate) fn missing(&self) -> impl Iterator<Item = usize> {
        self.rows.iter().enumerate().filter(|(_, row)| !row.is_over.load(SeqCst)).map(|(number, _)| number)
    }

    pub(crate) fn verdict(&self) -> Verdict {
        let mut verdict = Verdict { records: self.rows.len(), keys: self.next.len(), ..Verdict::default() };
        let mut latencies = Vec::with_capacity(self.rows.len());
        for row in &self.rows {
            let effects = usize::from(row.effects.load(SeqCst));
            let dead_letters = usize::from(row.dead_letters.load(SeqCst));
            let is_late = row.place.is_some() && effects > 0 && !row.is_in_order.load(SeqCst);
            verdict.without_key += usize::from(row.place.is_none());
            verdict.handled += usize::from(effects > 0);
            verdict.dead_lettered += usize::from(dead_letters > 0);
            verdict.lost += usize::from(effects + dead_letters == 0);
            verdict.duplicated += (effects + dead_letters).saturating_sub(1);
            verdict.out_of_order += usize::from(is_late || row.is_early.load(SeqCst));
            if effects > 0 {
                latencies.push(row.latency_us.load(SeqCst));
            }
        }
        latencies.sort_unstable();
        verdict.p50_us = percentile(&latencies, 50);
        verdict.p99_us = percentile(&latencies, 99);
        verdict
    }

    /// Moves the row's key past the row. The answer says whether the row was the first that was not over.
    fn moves_on(&self, row: &Row) -> bool {
        row.place.is_some_and(|Place { key, sequence }| {
            self.next[key as usize].fetch_max(sequence + 1, SeqCst) == sequence
        })
    }

    fn ends(&self, row: &Row) {
        if !row.is_over.swap(true, SeqCst) {
            self.over.fetch_add(1, SeqCst);
        }
    }

    fn now_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }
}

/// The smallest value that `percent` of the sorted values do not exceed; 0 if there is none.
fn percentile(sorted: &[u32], percent: usize) -> u32 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}
