//! Each run of a handler from its start to its end, and when each record was over.

use super::lives::Lives;
use crate::clock::Nanos;
use crate::history::{Entry, History, Id};
use std::collections::{BTreeMap, HashMap};

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Done,
    Failed,
    Dropped,
    /// With its process.
    Cut,
}

/// One attempt at a record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) member: u32,
    pub(super) id: Id,
    pub(super) attempt: u32,
    pub(super) start: Nanos,
    pub(super) end: Nanos,
    pub(super) how: End,
}

#[derive(Default)]
pub(super) struct Runs {
    /// All, by their starts.
    pub(super) all: Vec<Run>,
    /// When each record was over first: handled, or its dead letter stored.
    pub(super) over: HashMap<Id, Nanos>,
    /// Those that a handler handled with success, and when first.
    pub(super) done: HashMap<Id, Nanos>,
    /// Those that have a dead letter, and since when.
    pub(super) dead: HashMap<Id, Nanos>,
    /// When each member's runs ended, in their order, but for those that were cut.
    pub(super) ends: BTreeMap<u32, Vec<Nanos>>,
    /// Ends of what never started.
    pub(super) unpaired: Vec<Id>,
}

impl Runs {
    pub(super) fn new(history: &History, lives: &Lives) -> Self {
        let mut runs = Self::default();
        let mut told: Vec<_> = history.0.iter().collect();
        // Stable: the lines of one process stay in their order.
        told.sort_by_key(|told| told.line.time);
        let mut open: HashMap<(u32, Id), Vec<usize>> = HashMap::new();
        for told in told {
            let (member, time) = (told.member, told.line.time);
            let (id, how) = match told.line.entry {
                Entry::Start(id, attempt) => {
                    let end = lives.end(member).max(time);
                    open.entry((member, id)).or_default().push(runs.all.len());
                    runs.all.push(Run { member, id, attempt, start: time, end, how: End::Cut });
                    continue;
                }
                Entry::Dead(id) => {
                    let since = runs.dead.entry(id).or_insert(time);
                    *since = time.min(*since);
                    continue;
                }
                Entry::Done(id) => (id, End::Done),
                Entry::Failed(id) => (id, End::Failed),
                Entry::Dropped(id) => (id, End::Dropped),
                _ => continue,
            };
            let Some(index) = open.get_mut(&(member, id)).and_then(Vec::pop) else {
                runs.unpaired.push(id);
                continue;
            };
            let run = &mut runs.all[index];
            (run.end, run.how) = (time, how);
            if how == End::Done {
                runs.done.entry(id).or_insert(time);
            }
        }
        for run in &runs.all {
            let ends = runs.ends.entry(run.member).or_default();
            ends.extend((run.how != End::Cut).then_some(run.end));
        }
        runs.ends.values_mut().for_each(|ends| ends.sort_unstable());
        runs.over.clone_from(&runs.done);
        for (&id, &time) in &runs.dead {
            let over = runs.over.entry(id).or_insert(time);
            *over = time.min(*over);
        }
        runs
    }

    /// The runs of each key, or of each record, by their starts.
    pub(super) fn by<K: std::hash::Hash + Eq>(&self, of: impl Fn(&Run) -> K) -> HashMap<K, Vec<&Run>> {
        let mut grouped: HashMap<K, Vec<&Run>> = HashMap::new();
        for run in &self.all {
            grouped.entry(of(run)).or_default().push(run);
        }
        grouped
    }
}
