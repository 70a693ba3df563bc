//! The intake's part in what others wait for: at the beginning and at the end of each turn.

use super::intake::{Intake, Setup};
use super::runner::Invoke;
use std::time::Instant;

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
