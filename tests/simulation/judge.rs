//! What must hold of a program as a whole; what must hold of each start is in `history`.

use crate::history::{Facts, Numbered, stored};
use crate::program::{Act, Handler, Kind, Program, Then};
use crate::run::{MS, Run, TOPIC};
use keylane::Problem;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What everything has to come to its end, when the faults are over.
const END: Duration = Duration::from_secs(900);

/// P5: never more in flight than allowed; P8: a close that is over its limit.
pub(crate) fn bounds(run: &Run<'_>) {
    for (process, running) in &run.running {
        let in_flight = running.orders.stats().in_flight;
        let (restarts, panicked) = (running.orders.stats().restarts, running.orders.stats().panicked);
        if run.program.handler == Handler::Owned && restarts != panicked {
            run.history.breaks(format!("restarts: {restarts} after {panicked} panics in process {process}"));
        }
        if in_flight > run.program.in_flight as u64 {
            run.history.breaks(format!("bounds: {in_flight} in flight in process {process}"));
        }
    }
    for (life, limit) in run.late_closes() {
        run.history.breaks(format!("close: life {life} is beyond its limit of {limit:?}"));
    }
}

/// P7: an outage that has lasted is in the health of whoever was there all the time.
pub(crate) fn an_outage_is_shown(run: &Run<'_>, after: Duration) {
    let Some(since) = run.away_since().filter(|since| run.world.now() >= *since + after) else { return };
    for (process, running) in &run.running {
        let health = running.orders.health();
        let is_shown = health.problems.iter().any(|problem| matches!(problem, Problem::Broker { .. }));
        // Who came in between may not have joined, and whoever ends asks the broker nothing.
        let is_ready = running.since < since;
        if !is_shown && is_ready && health.status == keylane::Status::Running {
            run.history
                .breaks(format!("silent: process {process} shows no outage since {since:?}: {health:?}"));
        }
    }
}

/// Whether a record's end is known: P2, or P3 for plain records.
fn is_over(program: &Program, facts: &Facts, numbered: Numbered) -> bool {
    let may_be_lost =
        program.kind == Kind::AtMostOnce && program.has(|act| act.repeats() || matches!(act, Act::Leave(..)));
    let is_settled = facts.over.contains(&numbered) && !facts.reopened.contains(&numbered)
        || facts.skipped.contains(&numbered)
        || facts.removed.contains(&numbered);
    is_settled || may_be_lost || program.kind != Kind::Envelopes && facts.started.contains_key(&numbered)
}

/// P2, P4, P7: when the faults are over everything is handled, and what an operator has to decide about is shown.
pub(crate) fn everything_ends(run: &mut Run<'_>) {
    // Who has just come begins with what is handled once more.
    run.run_for(2_000 * MS);
    let since = run.world.now();
    let mut open = Vec::new();
    // The operator looks once in a while, and skips in the end.
    for round in 0_u32.. {
        run.start_halted_again();
        open = still_open(run);
        let is_answered = run.published.iter().all(|(_, op)| op.is_done());
        if open.is_empty() && is_answered && run.is_operated() {
            return;
        }
        if run.world.now() > since + END {
            break;
        }
        held_is_shown(run);
        if run.program.then == Then::Hold && round % 8 == 7 {
            run.operate(round % 16 == 7);
        }
        run.run_for(500 * MS);
    }
    let health: Vec<_> = run.running.values().map(|running| running.orders.health()).collect();
    let is_silent = health.iter().all(keylane::Health::is_healthy);
    let how = if is_silent { "lost in silence" } else { "lost or stuck" };
    run.history.breaks(format!("{how}: {open:?}; health {health:?}"));
}

fn still_open(run: &Run<'_>) -> Vec<Numbered> {
    let (facts, dead) = (run.history.facts(), run.dead());
    let published = run.published.iter().map(|(numbered, _)| *numbered);
    published
        .filter(|numbered| !is_over(run.program, &facts, *numbered) && !dead.contains(numbered))
        .collect()
}

fn held_is_shown(run: &Run<'_>) {
    for (process, running) in &run.running {
        let (held, health) = (running.orders.held(), running.orders.health());
        let shown = health
            .problems
            .iter()
            .any(|problem| matches!(problem, Problem::Held { .. } | Problem::Failing { .. }));
        if !held.is_empty() && !shown {
            run.history.breaks(format!("silent: process {process} holds {held:?} and shows {health:?}"));
        }
    }
}

/// What is over is committed in time, where commits cost nothing.
pub(crate) fn what_is_over_is_committed(run: &Run<'_>) {
    let has_lost = run.program.has(|act| matches!(act, Act::LoseSettles(_)) || act.changes_logs());
    if has_lost || !run.history.facts().violations.is_empty() {
        return;
    }
    // In memory at once, but for slow threads; over a network behind what a commit takes. What may be lost counts as over
    // while it is still being handled.
    let is_at_once = run.broker.is_memory() && run.program.kind != Kind::AtMostOnce;
    let within = if is_at_once { 600 * MS } else { 60_000 * MS };
    if !run.world.run_until(within, || run.broker.is_committed()) {
        let health: Vec<_> = run.running.values().map(|running| running.orders.health()).collect();
        run.history.breaks(format!(
            "commit: what is over is not committed: {}; health {health:?}",
            run.broker.positions()
        ));
    }
}

pub(crate) fn nothing_is_handled_again_without_a_reason(run: &Run<'_>) {
    let again = run.history.facts().again;
    let has_reason = run.program.has(Act::repeats);
    if again > 0 && !has_reason && run.program.then != Then::Halt {
        run.history.breaks(format!("again: {again} records were handled again, and nothing explains it"));
    }
    if run.program.kind == Kind::AtMostOnce
        && !run.program.has(|act| matches!(act, Act::Expel(_) | Act::LoseSettles(_)))
    {
        let facts = run.history.facts();
        let twice: Vec<_> =
            facts.started.iter().filter(|(_, starts)| **starts > 1).map(|(it, _)| *it).collect();
        drop(facts);
        if !twice.is_empty() {
            run.history.breaks(format!("at most once: {twice:?} were started again"));
        }
    }
}

pub(crate) fn nobody_was_given_up_unseen(run: &Run<'_>) {
    let facts = run.history.facts();
    let unseen: Vec<_> =
        run.dead().into_iter().filter(|numbered| !facts.started.contains_key(numbered)).collect();
    drop(facts);
    if !unseen.is_empty() {
        run.history.breaks(format!("given up: {unseen:?} were dead-lettered, and no handler ever saw them"));
    }
}

/// P1, P2: what was published is stored, and records of one key in the order of the calls, once each.
pub(crate) fn what_is_stored_is_in_order(run: &Run<'_>) {
    let stored_at_all: BTreeSet<_> = run.broker.records(TOPIC).iter().filter_map(stored).collect();
    let published = run.published.iter().map(|(numbered, _)| *numbered);
    let has_changed = run.program.has(Act::changes_logs);
    let missing: Vec<_> =
        published.filter(|numbered| !has_changed && !stored_at_all.contains(numbered)).collect();
    if !missing.is_empty() {
        run.history.breaks(format!("stored: {missing:?} were published, and are not there"));
    }
    let mut keys: BTreeMap<u8, Vec<u32>> = BTreeMap::new();
    for record in run.broker.records(TOPIC) {
        let (key, number) = stored(&record).expect("the program publishes what it numbers");
        keys.entry(key).or_default().push(number);
    }
    for (key, numbers) in keys {
        if !run.program.has(Act::moves_keys) && numbers.windows(2).any(|pair| pair[0] >= pair[1]) {
            run.history.breaks(format!("stored: key {key} as {numbers:?}"));
        }
    }
}
