//! What the handlers of a run do with each record: the same in every process.

use crate::history::Id;
use keylane::{Envelope, Event, Record};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long handlers take, and which records fail.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Work {
    /// How many keys there are. The first has a fifth of all records.
    pub keys: u32,
    /// How long a handler takes.
    pub handler: Duration,
    /// For this many keys, behind the first, it takes ten times as long.
    pub slow_keys: u32,
    /// Of a thousand records, how many fail twice.
    pub failing: u32,
    /// Of a thousand records, how many never succeed.
    pub poisoned: u32,
    /// The last so many keys never succeed at all.
    pub poison_keys: u32,
}

/// What becomes of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Succeeds,
    Fails,
}

impl Work {
    /// The attempts after which a record is given up.
    pub const ATTEMPTS: u32 = 5;

    /// Nothing fails, and every record takes so long.
    pub const fn plain(keys: u32, handler: Duration) -> Self {
        Self { keys, handler, slow_keys: 0, failing: 0, poisoned: 0, poison_keys: 0 }
    }

    pub const fn takes(&self, id: Id) -> Duration {
        let is_slow = id.key > 0 && id.key <= self.slow_keys;
        if is_slow { self.handler.saturating_mul(10) } else { self.handler }
    }

    pub fn outcome(&self, id: Id, attempt: u32) -> Outcome {
        // Of the number and the key alone, so that it is told from a publisher that sent it again.
        let dice = fastrand::Rng::with_seed(u64::from(id.key) << 32 | u64::from(id.n)).u32(..1_000);
        let is_poison = id.key + self.poison_keys >= self.keys || dice < self.poisoned;
        let is_failing = dice < self.poisoned + self.failing;
        if is_poison || is_failing && attempt <= 2 { Outcome::Fails } else { Outcome::Succeeds }
    }

    pub fn key(&self, random: &mut fastrand::Rng) -> u32 {
        if random.u32(..5) == 0 { 0 } else { random.u32(..self.keys) }
    }
}

/// The Envelope that carries a record's number.
pub fn envelope(id: Id) -> Envelope<'static> {
    let payload = format!("[{},{},{}]", id.key, id.producer, id.n);
    // A key with what a subject of NATS has to escape.
    let envelope = Envelope::new(format!("order:{}/eu.1", id.key), "chaos.numbered", 1, payload);
    envelope.expect("it is valid").into_owned()
}

/// The same as it is stored.
pub fn bytes(id: Id) -> Vec<u8> {
    Record::from(&envelope(id)).value.to_vec()
}

/// The number in the bytes of an Envelope.
///
/// # Panics
/// If they are not what [`envelope`] made: nobody else publishes.
pub fn id_of(bytes: &[u8]) -> Id {
    let envelope = Envelope::parse(bytes).expect("only Envelopes are published");
    let [key, producer, n] =
        serde_json::from_slice(envelope.payload_bytes()).expect("a payload is three numbers");
    Id { key, producer, n }
}

pub fn id_of_event(event: &Event) -> Id {
    id_of(event.value())
}

#[test]
fn an_envelope_carries_its_number() {
    let id = Id { key: 3, producer: 2, n: 17 };
    assert_eq!(id_of(&bytes(id)), id);
}
