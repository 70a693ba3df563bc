//! What every handler of every variant does with a record, and what a producer waits for.

use crate::record::Id;
use measure::{Check, Cost, KEYS, Meter, Tally};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Records published and not handled.
const WINDOW: u64 = 1_024;
/// Attempts that fail of a record that fails.
const FAILURES: u32 = 2;
/// How long a run waits while nothing more is handled, before it calls the rest lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// A handler was told to fail.
#[derive(Debug)]
pub(crate) struct Failed;

/// The handler, shared by all workers of a run.
pub(crate) struct Work {
    check: Check,
    handled: AtomicU64,
    /// Of each record that fails, how often it did. None: no record fails.
    failed: Option<Mutex<HashMap<(u64, u64), u32>>>,
}

impl Work {
    pub(crate) fn new(has_failures: bool) -> Self {
        Self {
            // Which worker handles a key is nobody's to know here; ten thousand words rarely share a line.
            check: Check::new(KEYS, |key| key as usize / 16),
            handled: AtomicU64::new(0),
            failed: has_failures.then(Mutex::default),
        }
    }

    /// One attempt at a record. One record of a hundred fails twice.
    pub(crate) fn handle(&self, id: Id) -> Result<(), Failed> {
        if let Some(failed) = &self.failed
            && (id.key + id.seq).is_multiple_of(100)
        {
            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
            let failures = failed.entry((id.key, id.seq)).or_default();
            if *failures < FAILURES {
                *failures += 1;
                return Err(Failed);
            }
        }
        self.check.handled_concurrently(id.key, id.seq);
        // ORDERING: Relaxed; a count that the producer looks at.
        self.handled.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Whether one more record may be published after so many.
    pub(crate) fn has_room(&self, published: u64) -> bool {
        // ORDERING: Relaxed; as above. A record handled twice makes it more than was published.
        published.saturating_sub(self.handled.load(Ordering::Relaxed)) < WINDOW
    }

    /// Waits until all records are handled, yielding the core; the meter stops then.
    pub(crate) fn wait_for(&self, published: u64, meter: Meter) -> Cost {
        let (mut seen, mut since) = (0, Instant::now());
        loop {
            // ORDERING: Relaxed; as above.
            let handled = self.handled.load(Ordering::Relaxed);
            if handled >= published {
                break;
            }
            if handled > seen {
                (seen, since) = (handled, Instant::now());
            } else if since.elapsed() > PATIENCE {
                break;
            }
            std::thread::yield_now();
        }
        meter.stop()
    }

    pub(crate) fn tally(&self, published: u64) -> Tally {
        self.check.tally(published)
    }
}
