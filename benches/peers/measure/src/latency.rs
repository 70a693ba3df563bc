//! Latencies and their percentiles.

use std::sync::atomic::{AtomicU64, Ordering};

/// Four points of a distribution, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each name says it")]
pub struct Percentiles {
    pub p50_ns: u64,
    pub p99_ns: u64,
    pub p999_ns: u64,
    pub max_ns: u64,
}

impl Percentiles {
    /// Of all samples, none of them dropped. None if there is none.
    pub fn of(samples: impl IntoIterator<Item = u64>) -> Option<Self> {
        let mut sorted: Vec<u64> = samples.into_iter().collect();
        sorted.sort_unstable();
        let last = sorted.len().checked_sub(1)?;
        let at = |part: f64| sorted[((sorted.len() as f64 * part) as usize).min(last)];
        Some(Self { p50_ns: at(0.5), p99_ns: at(0.99), p999_ns: at(0.999), max_ns: sorted[last] })
    }
}

/// One latency for each message, filled by the threads that handle them.
#[derive(Debug)]
pub struct Latencies(Box<[AtomicU64]>);

impl Latencies {
    /// Room for so many messages.
    pub fn new(messages: usize) -> Self {
        Self((0..messages).map(|_| AtomicU64::new(0)).collect())
    }

    /// Writes down the latency of a message.
    pub fn record(&self, message: usize, latency_ns: u64) {
        // ORDERING: Relaxed; read when all handlers are done.
        self.0[message].store(latency_ns, Ordering::Relaxed);
    }

    /// Of all messages but the first ones, while which everything warms up.
    pub fn percentiles(&self, warm_up: usize) -> Option<Percentiles> {
        // ORDERING: Relaxed; as above.
        Percentiles::of(self.0.iter().skip(warm_up).map(|latency_ns| latency_ns.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_and_the_largest_is_kept() {
        let found = Percentiles::of((1..=1_000).rev()).expect("there are samples");
        let expected = Percentiles { p50_ns: 501, p99_ns: 991, p999_ns: 1_000, max_ns: 1_000 };
        assert_eq!(found, expected);
        assert_eq!(Percentiles::of([]), None);
    }
}
