//! Nothing is lost, and no record starts before all earlier ones of its key are over.

use super::runs::Runs;
use super::{Limits, Store, Verdict, at, name};
use crate::clock::Nanos;
use crate::history::Id;
use std::collections::HashMap;

pub(super) fn check(store: &Store, runs: &Runs, limits: &Limits, verdict: &mut Verdict) {
    verdict.handled = runs.done.len();
    verdict.dead_lettered = runs.dead.len();
    for &id in &runs.unpaired {
        verdict.violation(|| format!("a handler of {} ended that did not start", name(id)));
    }
    // For each record, when all before it were over; never, if one of them is lost.
    let mut ready: HashMap<Id, (Nanos, Id)> = HashMap::new();
    for ids in store.keys.values() {
        let mut latest = (0, ids[0]);
        for &id in ids {
            ready.insert(id, latest);
            if let Some(&over) = runs.over.get(&id) {
                latest = latest.max((over, id));
            } else {
                verdict.lost += 1;
                verdict.violation(|| format!("{} was neither handled nor dead-lettered", name(id)));
                latest = (Nanos::MAX, id);
            }
        }
    }
    for run in &runs.all {
        let Some(&(since, before)) = ready.get(&run.id) else {
            verdict.violation(|| format!("{} was handled and is not stored", name(run.id)));
            continue;
        };
        let tick = if runs.done.get(&before) == Some(&since) { 0 } else { limits.tick };
        if run.start.saturating_add(tick) < since {
            verdict.out_of_order += 1;
            verdict.violation(|| {
                let over = if since == Nanos::MAX { "never".to_owned() } else { format!("at {}", at(since)) };
                let (id, start, member) = (name(run.id), at(run.start), run.member);
                format!("{id} started at {start} with member {member}; {} was over {over}", name(before))
            });
        }
    }
}
