//! Judges a run by what its processes wrote and what the broker holds: a pure function, outside all of them.

mod duplicates;
mod lives;
mod order;
mod overlaps;
mod publishes;
mod runs;
#[cfg(test)]
mod tests;

use crate::clock::Nanos;
use crate::history::{Entry, History, Id, Place};
use lives::Lives;
use runs::Runs;
use std::collections::{HashMap, hash_map};

/// How much of what is not meant to happen the promises allow.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The least silence of a member after which its keys may go to another.
    pub expiry: Nanos,
    /// How long a member that was silent may take to notice, with what its handlers are at.
    pub notice: Nanos,
    /// How long handlers may run on when their keys are wanted elsewhere.
    pub drain: Nanos,
    /// Completions before a kill that may be uncommitted: a commit interval, and a commit's way.
    pub uncommitted: Nanos,
    /// Where a member begins nothing while its commits are behind for long, and rests: what it has in flight then.
    pub rests_with: Option<usize>,
    /// Completions before a kill of the broker that it may forget.
    pub forgotten: Nanos,
    /// How long after the broker is back commits may still be behind.
    pub recovery: Nanos,
    /// How coarse the broker's clock is.
    pub tick: Nanos,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Records in the broker.
    pub records: usize,
    /// Publishes with a receipt.
    pub acknowledged: usize,
    /// Records whose handler succeeded.
    pub handled: usize,
    /// Records with a dead letter.
    pub dead_lettered: usize,
    /// Records neither handled nor dead-lettered, and publishes with a receipt that the broker does not hold.
    pub lost: usize,
    /// Starts before an earlier record of the key was over, and publishes out of order, missing or stored twice.
    pub out_of_order: usize,
    /// Pairs of handlers of one key at once, in the time that a silent member is allowed.
    pub overlaps: usize,
    pub longest_overlap: Nanos,
    /// Pairs beyond it.
    pub forbidden_overlaps: usize,
    /// Records handled again: once for each time.
    pub duplicates: usize,
    /// Those after a kill of who had handled them, or a silence, or else an outage of the broker.
    pub by_kills: usize,
    pub by_silence: usize,
    pub by_outages: usize,
    /// What the kills, freezes and outages of the run explain at most.
    pub bound: usize,
    /// Records handled again with no such reason.
    pub unexplained: usize,
    /// The first of the violations, in words.
    pub violations: Vec<String>,
}

impl Verdict {
    pub const fn is_sound(&self) -> bool {
        self.violations.is_empty()
    }

    /// Few are told in words, all are counted.
    fn violation(&mut self, tell: impl FnOnce() -> String) {
        const TOLD: usize = 40;
        if self.violations.len() < TOLD {
            self.violations.push(tell());
        }
    }
}

/// Judges a run.
pub fn check(history: &History, limits: &Limits) -> Verdict {
    let mut verdict = Verdict::default();
    let store = Store::new(history);
    let lives = Lives::new(history);
    let runs = Runs::new(history, &lives);
    verdict.records = store.places.len();
    publishes::check(history, &store, &mut verdict);
    order::check(&store, &runs, limits, &mut verdict);
    overlaps::check(&runs, &lives, limits, &mut verdict);
    duplicates::check(&runs, &lives, limits, &mut verdict);
    verdict
}

/// What the broker holds: the truth about which records there are, and in which order.
struct Store {
    /// The records of each key in their order.
    keys: HashMap<u32, Vec<Id>>,
    /// Where each is; a record that is stored twice counts where it is first.
    places: HashMap<Id, Place>,
    twice: Vec<Id>,
}

impl Store {
    fn new(history: &History) -> Self {
        let mut stored: Vec<(Place, Id)> = history
            .0
            .iter()
            .filter_map(|told| match told.line.entry {
                Entry::Stored(id, place) => Some((place, id)),
                _ => None,
            })
            .collect();
        stored.sort_unstable();
        let mut store = Self { keys: HashMap::new(), places: HashMap::new(), twice: Vec::new() };
        for (place, id) in stored {
            if let hash_map::Entry::Vacant(first) = store.places.entry(id) {
                first.insert(place);
                store.keys.entry(id.key).or_default().push(id);
            } else {
                store.twice.push(id);
            }
        }
        store
    }
}

/// A record as a reader finds it.
fn name(id: Id) -> String {
    format!("number {} of key {} by publisher {}", id.n, id.key, id.producer)
}

/// A time as a reader compares it with the logs.
fn at(time: Nanos) -> String {
    format!("{}.{:06} s", time / 1_000_000_000, time / 1_000 % 1_000_000)
}

fn millis(time: Nanos) -> String {
    format!("{}.{:03} ms", time / 1_000_000, time / 1_000 % 1_000)
}

/// How many handlers of a member were running when it was killed.
pub fn running_at(history: &History, member: u32, killed: Nanos) -> usize {
    let runs = Runs::new(history, &Lives::new(history));
    let is_cut = |run: &&runs::Run| run.member == member && run.how == runs::End::Cut && run.end == killed;
    runs.all.iter().filter(is_cut).count()
}
