//! From the bytes of an aggregate id to the worker that owns it.

use foldhash::quality::FixedState;
use std::hash::BuildHasher;

/// Buckets between keys and workers.
pub(crate) const BUCKETS: u64 = 1_024;

/// What a job is ordered by: the 64-bit hash of an aggregate id.
///
/// Jobs of equal keys run in the order in which they were submitted, one at a time, on one worker. The hash has a
/// fixed seed, so that a key is on the same worker in every pool of the same size. Two ids with one hash (expected
/// once in 2^32 ids) share their order, which is never wrong, only slower.
///
/// ```
/// use keylane::pool::Key;
/// assert_eq!(Key::of("order-42"), Key::of(b"order-42"));
/// assert!(Key::of("order-42").worker(8) < 8);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(u64);

impl Key {
    /// The key of these bytes.
    ///
    /// ```
    /// use keylane::pool::Key;
    ///
    /// assert_eq!(Key::of("order-42"), Key::of(b"order-42"));
    /// assert_ne!(Key::of("order-42"), Key::of("order-43"));
    /// ```
    #[inline]
    pub fn of(id: impl AsRef<[u8]>) -> Self {
        // Of the hash one seed is as good as another; what counts is that it never changes.
        Self(FixedState::with_seed(0x6b65_796c_616e_6500).hash_one(id.as_ref()))
    }

    /// The key of a number that identifies the aggregate.
    ///
    /// ```
    /// use keylane::pool::Key;
    /// use std::collections::HashSet;
    ///
    /// let workers: HashSet<usize> = (1..=100).map(|account| Key::of_number(account).worker(4)).collect();
    /// assert_eq!(workers.len(), 4, "neighbours are spread over the workers");
    /// ```
    #[inline]
    pub fn of_number(id: u64) -> Self {
        // Fibonacci hashing: the golden ratio spreads neighbours over the high bits, which choose the bucket.
        Self(id.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// The worker, out of `workers`, that owns this key: one of 1,024 buckets by the high bits, then the bucket's
    /// share of the workers. No worker gets more than one bucket above another.
    ///
    /// # Panics
    /// If `workers` is 0.
    ///
    /// ```
    /// use keylane::pool::Key;
    ///
    /// let key = Key::of("order-42");
    /// assert_eq!(key.worker(1), 0);
    /// assert!(key.worker(8) < 8);
    /// assert_eq!(key.worker(8), Key::of("order-42").worker(8), "the same in every pool of this size");
    /// ```
    #[inline]
    pub fn worker(self, workers: usize) -> usize {
        assert!(workers > 0, "a key needs a worker");
        let bucket = ((self.0 >> 32) * BUCKETS) >> 32;
        ((bucket * workers as u64) / BUCKETS) as usize
    }
}

/// Gives keys to jobs without an aggregate: each its own, so that none waits for another, over the workers in turn.
/// After any number of them no worker has had two more than another.
#[derive(Debug)]
pub(crate) struct RoundRobin {
    workers: u64,
    turns: u64,
}

impl RoundRobin {
    /// Turns over this many workers, 1 to [`BUCKETS`].
    pub(crate) fn new(workers: usize) -> Self {
        debug_assert!(
            (1..=BUCKETS).contains(&(workers as u64)),
            "{workers} workers can't share {BUCKETS} buckets"
        );
        Self { workers: workers as u64, turns: 0 }
    }

    /// The key of the next job.
    pub(crate) fn next_key(&mut self) -> Key {
        // The first bucket of the worker whose turn it is; below the bucket's bits the number of the turn.
        let bucket = ((self.turns % self.workers) * BUCKETS).div_ceil(self.workers);
        let below = u64::BITS - BUCKETS.trailing_zeros();
        let key = Key(bucket << below | self.turns & ((1 << below) - 1));
        self.turns += 1;
        key
    }
}
