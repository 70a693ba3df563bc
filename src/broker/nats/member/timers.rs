//! What a member waits for beside messages.

use tokio::time::Instant;

/// When something is due that no message tells of.
#[derive(Debug, Default)]
pub(super) struct Timers {
    /// What is delivered is told to be in work.
    pub(super) progress: Option<Instant>,
    /// A pull should have ended.
    pub(super) pull_ends: Option<Instant>,
    /// Nothing was pulled, because the lease was about to end.
    pub(super) pull_again: Option<Instant>,
    /// Everything has expired; true: by an `ack_wait` that is to be set back.
    pub(super) expired: Option<(Instant, bool)>,
    /// How the consumer is set is looked at.
    pub(super) check: Option<Instant>,
    /// An inspection that failed is tried again.
    pub(super) inspect: Option<Instant>,
    pub(super) barrier: Option<Instant>,
    /// It is looked at which acknowledgements the server has.
    pub(super) floor: Option<Instant>,
    /// What nothing tells of is looked at.
    pub(super) watch: Option<Instant>,
}

impl Timers {
    pub(super) fn next(&self) -> Option<Instant> {
        let expired = self.expired.map(|(at, _)| at);
        [
            self.progress,
            self.pull_ends,
            self.pull_again,
            expired,
            self.check,
            self.inspect,
            self.barrier,
            self.floor,
            self.watch,
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

fn is_due(timer: Option<Instant>, now: Instant) -> bool {
    timer.is_some_and(|at| at <= now)
}

/// Takes a timer that is due.
pub(super) fn take_due(timer: &mut Option<Instant>, now: Instant) -> bool {
    is_due(*timer, now) && timer.take().is_some()
}
