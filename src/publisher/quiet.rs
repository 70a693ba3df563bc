//! Whether a publisher is quiet: nothing of it moves without time going on, or room.

use super::under_way::UnderWay;
use super::{Inner, Publisher};
use crate::sync::Ordering;
use crate::wait::{Op, Promise};

impl Publisher {
    /// Is over when nothing is on its way to the broker, or would be without time going on or room coming; says how often
    /// something was sent until then.
    pub(crate) fn quiet(&self) -> Op<u64> {
        let (promise, op) = Op::pending(|| 0);
        let mut state = self.0.state.lock();
        state.quiet.promises.retain(|promise| !promise.is_detached());
        state.quiet.promises.push(promise);
        let quiet = self.0.take_quiet(&mut state);
        drop(state);
        quiet.into_iter().for_each(|(promise, sent)| promise.complete(sent));
        op
    }
}

impl Inner {
    /// Those that asked, with their answer, if it is quiet.
    pub(super) fn take_quiet(&self, state: &mut UnderWay) -> Vec<(Promise<u64>, u64)> {
        if state.quiet.promises.is_empty() {
            return Vec::new();
        }
        // ORDERING: Acquire pairs with the Release of the wake for room, which the thread looks at next.
        let has_room = state.quiet.room_seen != Some(self.room.load(Ordering::Acquire));
        let is_quiet = state.outbox.is_empty() && state.line.is_at_rest(self.clock.now(), has_room);
        if !is_quiet {
            return Vec::new();
        }
        let sent = state.quiet.sent;
        std::mem::take(&mut state.quiet.promises).into_iter().map(|promise| (promise, sent)).collect()
    }
}
