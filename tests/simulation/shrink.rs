//! The least of a program with which it fails in the same way.

use crate::program::{Handler, Kind, Program};
use crate::run::{Verdict, run};

/// Other schedules that are tried beside each smaller program: the schedule follows from the seed and from all that
/// happens, so that leaving something out changes it.
const SCHEDULES: u64 = 4;

/// Leaves out halves of the acts, quarters, single ones, then all that a program may be without. The least that fails as
/// the whole did, and how many were tried.
pub(crate) fn shrink(program: &Program) -> (Program, usize) {
    let whole = run(program, false);
    let Some(wanted) = whole.kind() else { return (program.clone(), 1) };
    let (mut least, mut tried) = (program.clone(), 1);
    let mut fails = |smaller: &Program| {
        (0..SCHEDULES).find_map(|other| {
            tried += 1;
            let smaller = Program { seed: smaller.seed.wrapping_add(other * 1_000_003), ..smaller.clone() };
            (run(&smaller, false).kind() == Some(wanted)).then_some(smaller)
        })
    };
    let mut size = least.acts.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        while at < least.acts.len() {
            let mut smaller = least.clone();
            smaller.acts.drain(at..(at + size).min(smaller.acts.len()));
            match fails(&smaller) {
                Some(smaller) => least = smaller,
                None => at += size,
            }
        }
        size /= 2;
    }
    let simpler: [fn(&mut Program); 10] = [
        |program| program.processes = 1,
        |program| program.partitions = 1,
        |program| program.workers = 1,
        |program| program.slowness = 0.0,
        |program| program.slow = 0,
        |program| program.failing = 0,
        |program| program.in_flight = 256,
        |program| program.watermark_distance = 100_000,
        |program| program.handler = Handler::Shared,
        |program| program.kind = Kind::Envelopes,
    ];
    for simplify in simpler {
        let mut smaller = least.clone();
        simplify(&mut smaller);
        if let Some(smaller) = fails(&smaller) {
            least = smaller;
        }
    }
    (least, tried)
}

/// What a person reads of a program that fails: what it is, what happens in it, what it breaks, and how to run it again.
pub(crate) fn story(program: &Program) -> String {
    let (least, tried) = shrink(program);
    let Verdict { violations, story, .. } = run(&least, true);
    let Program { acts, .. } = &least;
    format!(
        "seed {} fails; the least of it in {tried} tries, {} acts:\n{:?}\n{}\n{}\nrun it again: KEYLANE_SIMULATION={:?}:{} \
         cargo test --features sim --test simulation one -- --ignored --nocapture",
        program.seed,
        acts.len(),
        Program { acts: Vec::new(), ..least.clone() },
        story.join("\n"),
        violations.join("\n"),
        program.mode,
        program.seed,
    )
}
