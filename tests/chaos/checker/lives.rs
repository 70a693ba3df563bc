//! When each member lived, stood still or was gone, and when the broker was down.

use super::Limits;
use super::runs::Runs;
use crate::clock::Nanos;
use crate::history::{Entry, Fault, History};
use std::collections::BTreeMap;

#[derive(Default)]
pub(super) struct Lives {
    members: BTreeMap<u32, Life>,
    /// From when to when the broker was away.
    pub(super) outages: Vec<(Nanos, Nanos)>,
}

#[derive(Default)]
struct Life {
    killed: Option<Nanos>,
    gone: Option<Nanos>,
    /// From the stop to the continuation, or to its death.
    stops: Vec<(Nanos, Nanos)>,
}

/// What costs a member what it had not committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    Kill,
    Silence,
    Outage,
}

/// A time in which something cost a member what it had not committed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Disruption {
    pub(super) cause: Cause,
    pub(super) member: u32,
    pub(super) from: Nanos,
    pub(super) until: Nanos,
}

impl Lives {
    pub(super) fn new(history: &History) -> Self {
        let faults = history.0.iter().filter_map(|told| match told.line.entry {
            Entry::Fault(fault) => Some((told.line.time, fault)),
            _ => None,
        });
        let mut faults: Vec<(Nanos, Fault)> = faults.collect();
        faults.sort_by_key(|(time, _)| *time);
        let mut lives = Self::default();
        for (time, fault) in faults {
            match fault {
                Fault::Killed(member) => {
                    let life = lives.members.entry(member).or_default();
                    life.killed = Some(time);
                    life.continued(time);
                }
                Fault::Stopped(member) => {
                    lives.members.entry(member).or_default().stops.push((time, Nanos::MAX));
                }
                Fault::Continued(member) => lives.members.entry(member).or_default().continued(time),
                Fault::Gone(member) => lives.members.entry(member).or_default().gone = Some(time),
                Fault::Leaving(_) => {}
                Fault::BrokerDown => lives.outages.push((time, Nanos::MAX)),
                Fault::BrokerUp => {
                    if let Some((_, until)) = lives.outages.last_mut() {
                        *until = time;
                    }
                }
            }
        }
        lives
    }

    /// When a handler of this member that wrote no end was over at the latest.
    pub(super) fn end(&self, member: u32) -> Nanos {
        let life = self.members.get(&member);
        life.and_then(|life| life.killed.or(life.gone)).unwrap_or(Nanos::MAX)
    }

    /// Times in which the member was so silent that its keys may have gone to another.
    pub(super) fn silences(&self, member: u32, limits: &Limits) -> impl Iterator<Item = (Nanos, Nanos)> {
        let stops = self.members.get(&member).map_or(&[][..], |life| &life.stops);
        let is_long = {
            let expiry = limits.expiry;
            move |(from, until): &(Nanos, Nanos)| until - from >= expiry
        };
        stops.iter().copied().filter(is_long)
    }

    /// All that may have cost a member what it had not committed.
    pub(super) fn disruptions(&self, runs: &Runs, limits: &Limits) -> Vec<Disruption> {
        let mut disruptions = Vec::new();
        let nothing = Life::default();
        for (&member, ends) in &runs.ends {
            let life = self.members.get(&member).unwrap_or(&nothing);
            // Who rests has completed no more since it began to than it had in flight.
            let worked_until = |time: Nanos| {
                let completed = ends.partition_point(|end| *end <= time);
                let before = limits.rests_with.map(|in_flight| completed.saturating_sub(in_flight + 1));
                before.and_then(|before| ends.get(before)).map_or(time, |end| time.min(*end))
            };
            let mut add = |cause, time, until| {
                let from = self.uncommitted_since(life, worked_until(time), limits);
                disruptions.push(Disruption { cause, member, from, until });
            };
            for &(down, up) in &self.outages {
                add(Cause::Outage, down.saturating_sub(limits.forgotten), up.saturating_add(limits.recovery));
            }
            if let Some(killed) = life.killed {
                add(Cause::Kill, killed, killed);
            }
            for (from, until) in self.silences(member, limits) {
                add(Cause::Silence, from, until.saturating_add(limits.notice));
            }
        }
        disruptions
    }

    /// The oldest completion that may be uncommitted at a time: commits pass neither while the broker is away nor while
    /// the member stands still.
    fn uncommitted_since(&self, life: &Life, time: Nanos, limits: &Limits) -> Nanos {
        let mut since = time.saturating_sub(limits.uncommitted);
        loop {
            let outages = self.outages.iter().map(|&(down, up)| {
                let since = down.saturating_sub(limits.uncommitted + limits.forgotten);
                (since, down, up.saturating_add(limits.recovery))
            });
            let stops = life.stops.iter().map(|&(stop, go)| {
                (stop.saturating_sub(limits.uncommitted), stop, go.saturating_add(limits.uncommitted))
            });
            let in_one = |&(_, from, until): &(Nanos, Nanos, Nanos)| since < until && time > from;
            let before = outages.chain(stops).filter(in_one).map(|(since, ..)| since).min();
            match before {
                Some(before) if before < since => since = before,
                _ => return since,
            }
        }
    }
}

impl Life {
    fn continued(&mut self, time: Nanos) {
        if let Some((_, until)) = self.stops.last_mut()
            && *until == Nanos::MAX
        {
            *until = time;
        }
    }
}

impl Disruption {
    /// Whether a handler of this member that ended then may be repeated for it.
    pub(super) fn covers(&self, member: u32, end: Nanos) -> bool {
        self.member == member && (self.from..=self.until).contains(&end)
    }
}
