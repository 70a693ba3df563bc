//! At most one handler runs for a key, but for what a member does that was silent too long and does not know it yet.

use super::lives::Lives;
use super::runs::{Run, Runs};
use super::{Limits, Verdict, at, millis, name};

pub(super) fn check(runs: &Runs, lives: &Lives, limits: &Limits, verdict: &mut Verdict) {
    for runs in runs.by(|run| run.id.key).values() {
        let mut running: Vec<&Run> = Vec::new();
        for &run in runs {
            running.retain(|other| other.end > run.start);
            for &other in &running {
                let length = other.end.min(run.end) - run.start;
                if is_allowed(other, run, lives, limits) {
                    verdict.overlaps += 1;
                    verdict.longest_overlap = verdict.longest_overlap.max(length);
                } else {
                    verdict.forbidden_overlaps += 1;
                    verdict.violation(|| {
                        format!(
                            "from {} on, {} ran with member {} and {} with member {}, for {}",
                            at(run.start),
                            name(other.id),
                            other.member,
                            name(run.id),
                            run.member,
                            millis(length)
                        )
                    });
                }
            }
            running.push(run);
        }
    }
}

/// Whether the handler that started `first` may still run when `second` starts, and for as long as both do.
fn is_allowed(first: &Run, second: &Run, lives: &Lives, limits: &Limits) -> bool {
    if first.member == second.member {
        return false;
    }
    let (start, end) = (second.start, first.end.min(second.end));
    // It had its time, and was left behind.
    if start >= first.start.saturating_add(limits.drain) {
        return true;
    }
    let is_within = |from, until: u64, notice| start >= from && end <= until.saturating_add(notice);
    let silences = [first, second].into_iter().flat_map(|run| lives.silences(run.member, limits));
    silences.into_iter().any(|(from, until)| is_within(from, until, limits.notice))
        // A broker that is back may give a key away before it hears of who had it.
        || lives.outages.iter().any(|&(down, up)| is_within(down, up, limits.notice))
}
