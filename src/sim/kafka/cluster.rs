//! What the brokers keep: logs, groups and their members.

use super::SESSION;
use crate::Record;
use crate::broker::LogId;
use crate::sim::world::Process;
use crate::sync::Arc;
use crate::wait::Clock;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::task::Waker;
use std::time::Instant;

pub(super) struct Cluster {
    pub(super) clock: Clock,
    pub(super) topics: BTreeMap<String, Vec<Log>>,
    pub(super) groups: BTreeMap<String, Group>,
    pub(super) cut: BTreeSet<Process>,
    pub(super) last_member: u64,
    /// The last id of a topic.
    pub(super) last_id: i64,
    /// Who wants to know when there is something new.
    pub(super) waiting: Vec<Waker>,
}

pub(super) struct Log {
    /// Its topic's id, which one that is made anew has another of.
    pub(super) id: Option<LogId>,
    pub(super) low: u64,
    pub(super) records: VecDeque<Arc<Record>>,
    /// Where a transaction is open: nothing from there on is read.
    pub(super) open_at: Option<u64>,
}

impl Log {
    pub(super) fn new(id: i64) -> Self {
        Self { id: LogId::from_halves(0, id), low: 0, records: VecDeque::new(), open_at: None }
    }

    pub(super) fn end(&self) -> u64 {
        self.low + self.records.len() as u64
    }

    pub(super) fn readable(&self) -> u64 {
        self.open_at.map_or(self.end(), |open| open.min(self.end()))
    }
}

#[derive(Default)]
pub(super) struct Group {
    pub(super) members: BTreeMap<u64, Seat>,
    /// Who has a partition, and in which generation.
    pub(super) owners: BTreeMap<(String, u32), (u64, u64)>,
    pub(super) committed: BTreeMap<(String, u32), (u64, String)>,
    pub(super) generation: u64,
}

pub(super) struct Seat {
    pub(super) topics: Vec<Arc<str>>,
    pub(super) heard: Instant,
}

impl Group {
    /// What a member should have: partitions in turn over the members that want them.
    pub(super) fn target(&self, topics: &BTreeMap<String, Vec<Log>>, member: u64) -> BTreeSet<(String, u32)> {
        let mut target = BTreeSet::new();
        for (topic, logs) in topics {
            let want = |seat: &Seat| seat.topics.iter().any(|wanted| **wanted == **topic);
            let want: Vec<u64> =
                self.members.iter().filter(|(_, seat)| want(seat)).map(|(id, _)| *id).collect();
            for partition in 0..logs.len() {
                if want.get(partition % want.len().max(1)) == Some(&member) {
                    target.insert((topic.clone(), partition as u32));
                }
            }
        }
        target
    }

    pub(super) fn expire(&mut self, now: Instant) {
        self.members.retain(|_, seat| now.saturating_duration_since(seat.heard) < SESSION);
        let members = &self.members;
        self.owners.retain(|_, (owner, _)| members.contains_key(owner));
    }
}
