//! The messages of the pool contest.

use std::sync::Arc;

/// Keys in all.
pub const KEYS: u64 = 10_000;
/// Messages in flight over the whole pool, in the shapes that wait for answers.
pub const WINDOW: usize = 1_024;
/// Places in the queue of each worker, where the peer has a bound.
pub const CAPACITY: usize = 1_024;
/// Messages handed over at once, in the shapes that have batches. It divides [`WINDOW`].
pub const BATCH: usize = 32;

/// What is handed over.
#[derive(Debug, Clone)]
pub struct Message {
    /// Below [`KEYS`].
    pub key: u64,
    /// Counts the messages of the key, from 1.
    pub seq: u64,
    /// When it was to be sent; 0 if nobody wants its latency.
    pub due_ns: u64,
    /// Counts the messages of the run, from 0; only where `due_ns` is not 0.
    pub id: u32,
    /// Shared by all messages of a key.
    pub payload: Arc<[u8; 64]>,
}

/// Which worker a key is handled by, for peers that leave it to their user: Fibonacci hashing and the high bits.
#[inline]
pub fn worker_of(key: u64, workers: usize) -> usize {
    (((key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) * workers as u64) >> 32) as usize
}

/// The same numbers in every run (Marsaglia's xorshift, 64 bits).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A sequence of its own for each seed.
    pub fn new(seed: u64) -> Self {
        Self(0x1234_5678_9ABC_DEF1 ^ (seed << 17))
    }

    /// A number below `bound`.
    #[inline]
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 32) * bound) >> 32
    }
}

/// The messages of one producer: keys at random out of those that are its own, so that each key has one order.
#[derive(Debug)]
pub struct Source {
    producer: u64,
    producers: u64,
    random: Random,
    sent: Vec<u64>,
    payloads: Vec<Arc<[u8; 64]>>,
}

impl Source {
    /// Of producer number `producer` out of `producers`.
    pub fn new(producer: usize, producers: usize) -> Self {
        let keys = KEYS / producers as u64;
        Self {
            producer: producer as u64,
            producers: producers as u64,
            random: Random::new(producer as u64),
            sent: vec![0; keys as usize],
            payloads: (0..keys).map(|n| Arc::new([n as u8; 64])).collect(),
        }
    }

    /// The next message.
    #[inline]
    pub fn next_message(&mut self) -> Message {
        let own = self.random.below(self.sent.len() as u64) as usize;
        self.sent[own] += 1;
        Message {
            key: own as u64 * self.producers + self.producer,
            seq: self.sent[own],
            due_ns: 0,
            id: 0,
            payload: self.payloads[own].clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn each_key_has_one_producer_and_counts_from_one() {
        let mut seen = HashMap::new();
        for producer in 0..4 {
            let mut source = Source::new(producer, 4);
            for _ in 0..10_000 {
                let message = source.next_message();
                let (owner, last) = seen.entry(message.key).or_insert((producer, 0));
                assert_eq!((*owner, *last + 1), (producer, message.seq));
                *last = message.seq;
            }
        }
        assert!(seen.len() > 9_000 && seen.keys().all(|key| *key < KEYS));
    }
}
