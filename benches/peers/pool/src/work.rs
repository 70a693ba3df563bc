//! What every worker of every variant does with a message.

use measure::{Check, KEYS, Latencies, Message, Nanos, Percentiles, Tally};
use std::time::Duration;

/// How long a run waits while nothing more is handled, before it calls the rest lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// The handler, shared by all workers of a run.
pub(crate) struct Work {
    pub(crate) clock: Nanos,
    check: Check,
    latencies: Latencies,
    is_concurrent: bool,
}

impl Work {
    /// For `timed` messages with a latency of their own. `is_concurrent`: several threads may handle messages of one
    /// key at once.
    pub(crate) fn new(worker_of: impl Fn(u64) -> usize, timed: usize, is_concurrent: bool) -> Self {
        Self {
            clock: Nanos::default(),
            check: Check::new(KEYS, worker_of),
            latencies: Latencies::new(timed),
            is_concurrent,
        }
    }

    /// Checks the message's turn, reads its payload, and takes its latency if it has a time at which it was due.
    #[inline]
    pub(crate) fn handle(&self, message: &Message) {
        if self.is_concurrent {
            self.check.handled_concurrently(message.key, message.seq);
        } else {
            self.check.handled(message.key, message.seq);
        }
        std::hint::black_box(message.payload[(message.seq & 63) as usize]);
        if message.due_ns != 0 {
            self.latencies.record(message.id as usize, self.clock.now() - message.due_ns);
        }
    }

    /// For pools that do not tell when they are done.
    pub(crate) fn wait_for(&self, sent: u64) {
        self.check.wait_for(sent, PATIENCE);
    }

    pub(crate) fn tally(&self, sent: u64) -> Tally {
        self.check.tally(sent)
    }

    pub(crate) fn latencies(&self, warm_up: usize) -> Option<Percentiles> {
        self.latencies.percentiles(warm_up)
    }
}
