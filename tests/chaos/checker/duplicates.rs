//! What is handled again was not committed when its process was killed, stood still, or lost its broker.

use super::lives::{Cause, Disruption, Lives};
use super::runs::{End, Run, Runs};
use super::{Limits, Verdict, at, name};
use crate::history::Id;
use std::collections::HashSet;

pub(super) fn check(runs: &Runs, lives: &Lives, limits: &Limits, verdict: &mut Verdict) {
    let disruptions = lives.disruptions(runs, limits);
    let is_repeatable =
        |run: &&Run| disruptions.iter().any(|disruption| disruption.covers(run.member, run.end));
    let (failed, others): (Vec<&Run>, Vec<&Run>) =
        runs.all.iter().filter(is_repeatable).partition(|run| run.how == End::Failed);
    // The attempts at a record that fails are repeated as one.
    let failed: HashSet<(u32, Id)> = failed.iter().map(|run| (run.member, run.id)).collect();
    verdict.bound = others.len() + failed.len();
    for (id, runs_of_it) in runs.by(|run| run.id) {
        for (before, again) in runs_of_it.iter().zip(&runs_of_it[1..]) {
            if is_next_attempt(before, again) {
                continue;
            }
            let was_over = runs.over.get(&id).is_some_and(|over| *over <= again.start);
            if !was_over && matches!(before.how, End::Failed | End::Dropped) {
                // It goes on elsewhere: nothing is repeated that had an effect.
                continue;
            }
            verdict.duplicates += 1;
            let covering = disruptions.iter().filter(|disruption| explains(disruption, before, again));
            match covering.map(|disruption| disruption.cause).min() {
                Some(Cause::Kill) => verdict.by_kills += 1,
                Some(Cause::Silence) => verdict.by_silence += 1,
                Some(Cause::Outage) => verdict.by_outages += 1,
                None => {
                    verdict.unexplained += 1;
                    verdict.violation(|| {
                        format!(
                            "{} ended at {} with member {} and started again at {} with member {}, for no reason",
                            name(id),
                            at(before.end),
                            before.member,
                            at(again.start),
                            again.member
                        )
                    });
                }
            }
        }
    }
    if verdict.duplicates > verdict.bound {
        let (duplicates, bound) = (verdict.duplicates, verdict.bound);
        verdict.violation(|| format!("{duplicates} records were handled again, and {bound} could be"));
    }
}

/// Whether this is why what one member handled is handled again: it was not committed; or who handles it again does not
/// know yet that it is not its own any more.
fn explains(disruption: &Disruption, before: &Run, again: &Run) -> bool {
    disruption.covers(before.member, before.end)
        || disruption.cause == Cause::Silence && disruption.covers(again.member, again.start)
}

fn is_next_attempt(before: &Run, again: &Run) -> bool {
    before.member == again.member && before.how == End::Failed && again.attempt == before.attempt + 1
}
