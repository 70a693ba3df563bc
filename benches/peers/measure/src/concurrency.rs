//! How many handlers run at once.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts handlers as they start and end, and keeps the most.
#[derive(Debug, Default)]
pub struct Concurrency {
    now: AtomicU64,
    most: AtomicU64,
}

/// A handler that runs; it has ended when this is dropped.
#[derive(Debug)]
#[must_use = "dropped at once, it counts a handler that took no time"]
pub struct Running<'a>(&'a Concurrency);

impl Concurrency {
    /// A handler starts.
    pub fn enter(&self) -> Running<'_> {
        // ORDERING: Relaxed; a count, which orders nothing.
        let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(now, Ordering::Relaxed);
        Running(self)
    }

    /// The most that ran at once so far.
    pub fn most(&self) -> u64 {
        // ORDERING: Relaxed; as above.
        self.most.load(Ordering::Relaxed)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // ORDERING: Relaxed; as above.
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_outlives_its_handlers() {
        let handlers = Concurrency::default();
        let first = handlers.enter();
        drop((handlers.enter(), first));
        drop(handlers.enter());
        assert_eq!(handlers.most(), 2);
    }
}
