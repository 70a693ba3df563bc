//! What the intake waits for on behalf of others.

use super::caught_up::{CatchUp, Reach};
use super::intake::{Intake, Setup};
use super::quiet::Probes;
use super::runner::Invoke;
use super::shared::Shared;
use super::waits::{Condition, WaitError, Waits, Wanted, look};
use crate::foreign;
use std::time::Instant;

/// What the intake waits for on behalf of others.
#[derive(Default)]
pub(super) struct Waiting {
    untils: Vec<(u64, Condition)>,
    pub(super) catch_ups: Vec<CatchUp>,
    pub(super) reach: Reach,
    pub(super) probes: Probes,
}

impl Waiting {
    /// Takes what was asked for since. True: from now on every change on a worker has to be told.
    pub(super) fn take(&mut self, waits: &Waits) -> bool {
        let was_watched = self.needs_watch();
        let (wanted, probes) = waits.take();
        for (id, wanted) in wanted {
            match wanted {
                Wanted::CaughtUp => self.catch_ups.push(CatchUp::new(id)),
                Wanted::Until(condition) => self.untils.push((id, condition)),
            }
        }
        self.probes.add(probes);
        self.needs_watch() && !was_watched
    }

    pub(super) fn needs_watch(&self) -> bool {
        !self.untils.is_empty() || self.probes.is_any()
    }

    /// Looks at the conditions.
    pub(super) fn look(&mut self, shared: &Shared, depths: impl Iterator<Item = u64>) {
        if self.untils.is_empty() {
            return;
        }
        let stats = shared.stats(depths);
        for (id, mut condition) in std::mem::take(&mut self.untils) {
            let answer =
                if shared.waits.is_given_up(id) { Some(Ok(())) } else { look(&mut condition, &stats) };
            match answer {
                None => self.untils.push((id, condition)),
                Some(answer) => {
                    foreign::discard(condition);
                    shared.waits.answer(id, answer);
                }
            }
        }
    }

    /// When something is to be looked at that no wake tells of.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.reach.ask_at().filter(|_| !self.catch_ups.is_empty())
    }

    /// The intake has ended: a last look, and everyone is told.
    pub(super) fn end(mut self, shared: &Shared, halted: Option<String>) {
        self.look(shared, std::iter::empty());
        self.untils.into_iter().for_each(foreign::discard);
        shared.waits.end(&halted.map_or(WaitError::Ended, WaitError::Halted));
    }
}

impl<I: Invoke> Intake<I> {
    /// Before anything else of a turn, so that what is obeyed in it was asked for after the wait, or before it.
    pub(super) fn take_waits(&mut self) {
        let Setup { shared, pool, .. } = &self.setup;
        if self.waiting.take(&shared.waits) {
            shared.waits.watch(true);
            // Every worker runs a turn, and from that on tells what changes.
            drop(pool.visit(|_, _| ()));
        }
    }

    /// At the end of a turn.
    pub(super) fn look_at_waits(&mut self, now: Instant, has_moved: bool, is_busy: bool) {
        let Setup { shared, pool, .. } = &self.setup;
        self.waiting.probes.moved(has_moved);
        self.waiting.look(shared, pool.depths());
        self.look_at_ends(now);
        if !is_busy {
            self.look_for_quiet();
        }
        if self.setup.shared.waits.is_watched() && !self.waiting.needs_watch() {
            self.setup.shared.waits.watch(false);
        }
    }
}
