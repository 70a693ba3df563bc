//! The records of the contest: an Envelope in JSON of 300 bytes, that knows its key and its number.

use measure::{KEYS, Random};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::fmt::Write as _;
use std::sync::LazyLock;

/// The topic of all records.
pub(crate) const TOPIC: &str = "orders";
/// What the record is about, besides its key and its number.
pub(crate) const EVENT_TYPE: &str = "order.changed";
/// Bytes of a record.
pub(crate) const SIZE: usize = 300;

/// Which record it is: the event id says it, in digits that all records have at the same place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Id {
    pub(crate) key: u64,
    /// Counts the records of the key, from 1.
    pub(crate) seq: u64,
}

impl Id {
    /// Puts `event-KKKKKKKK-SSSSSSSSSSSS` in place of a text: what an id costs is not measured.
    pub(crate) fn event_id(self, text: &mut String) {
        text.clear();
        write!(text, "event-{:08}-{:012}", self.key, self.seq).expect("a string takes all");
    }

    /// The key as a text, made once for each key.
    pub(crate) fn aggregate_id(self) -> &'static str {
        static TEXTS: LazyLock<Vec<String>> =
            LazyLock::new(|| (0..KEYS).map(|key| format!("order-{key:08}")).collect());
        &TEXTS[self.key as usize]
    }

    /// Reads an event id.
    pub(crate) fn of_event_id(event_id: &str) -> Self {
        Self { key: number(&event_id[6..14]), seq: number(&event_id[15..27]) }
    }

    /// Reads the event id out of a record that was written by [`Template`], at its place.
    pub(crate) fn of_bytes(record: &[u8]) -> Self {
        let event_id = &record[EVENT_ID..EVENT_ID + EVENT_ID_LEN];
        Self::of_event_id(std::str::from_utf8(event_id).expect("digits are text"))
    }

    /// Makes a copy of [`Template::bytes`] a record of this id.
    pub(crate) fn put_into(self, record: &mut [u8]) {
        let digits = |mut n: u64, at: &mut [u8]| {
            for digit in at.iter_mut().rev() {
                *digit = b'0' + (n % 10) as u8;
                n /= 10;
            }
        };
        digits(self.key, &mut record[EVENT_ID + 6..EVENT_ID + 14]);
        digits(self.seq, &mut record[EVENT_ID + 15..EVENT_ID + 27]);
    }
}

fn number(digits: &str) -> u64 {
    digits.parse().expect("an id of the contest has digits there")
}

/// Keys at random, each record of a key with the next number.
pub(crate) struct Source {
    random: Random,
    sent: Vec<u64>,
}

impl Source {
    pub(crate) fn new() -> Self {
        Self { random: Random::new(0), sent: vec![0; KEYS as usize] }
    }

    pub(crate) fn next_id(&mut self) -> Id {
        let key = self.random.below(KEYS);
        let seq = &mut self.sent[key as usize];
        *seq += 1;
        Id { key, seq: *seq }
    }
}

/// The payload that makes a record as large as it has to be.
pub(crate) fn payload() -> String {
    let pad = SIZE - encoded("{}").len() + "{}".len() - r#"{"pad":""}"#.len();
    format!(r#"{{"pad":"{}"}}"#, "x".repeat(pad))
}

/// A record of some id.
fn encoded(payload: &str) -> Vec<u8> {
    let (id, mut event_id) = (Id { key: 0, seq: 1 }, String::new());
    id.event_id(&mut event_id);
    serde_json::to_vec(&Decoded::new(&event_id, id.aggregate_id(), &raw(payload))).expect("is JSON")
}

/// Checks that a text is JSON, and keeps it as it is.
pub(crate) fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).expect("is JSON")
}

/// The fields of an Envelope for a peer that has none, borrowed from the record.
#[derive(Serialize, Deserialize)]
pub(crate) struct Decoded<'a> {
    pub(crate) event_id: &'a str,
    pub(crate) aggregate_id: &'a str,
    pub(crate) event_type: &'a str,
    pub(crate) event_version: i64,
    pub(crate) timestamp: &'a str,
    #[serde(borrow)]
    pub(crate) payload: &'a RawValue,
}

impl<'a> Decoded<'a> {
    pub(crate) fn new(event_id: &'a str, aggregate_id: &'a str, payload: &'a RawValue) -> Self {
        let timestamp = "2026-11-25T15:52:49.000000Z";
        Self { event_id, aggregate_id, event_type: EVENT_TYPE, event_version: 1, timestamp, payload }
    }
}

/// Where the event id begins in a record of [`Template`].
const EVENT_ID: usize = r#"{"event_id":""#.len();
const EVENT_ID_LEN: usize = "event-KKKKKKKK-SSSSSSSSSSSS".len();

/// Makes records whose bytes nobody decodes: a copy with the digits put in.
pub(crate) struct Template(Vec<u8>);

impl Template {
    pub(crate) fn new() -> Self {
        Self(encoded(&payload()))
    }

    /// A record of some id.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keylane::Envelope;

    #[test]
    fn a_record_of_the_template_is_an_envelope_of_the_size_with_its_id() {
        let id = Id { key: 1_234, seq: 56 };
        let template = Template::new();
        let mut record = template.bytes().to_vec();
        id.put_into(&mut record);
        assert_eq!((record.len(), Id::of_bytes(&record)), (SIZE, id));
        let envelope = Envelope::parse(&record).expect("is an Envelope");
        assert_eq!((Id::of_event_id(envelope.event_id()), envelope.event_type()), (id, EVENT_TYPE));
        let decoded: Decoded = serde_json::from_slice(&record).expect("decodes");
        assert_eq!(Id::of_event_id(decoded.event_id), id);
    }

    #[test]
    fn an_encoded_envelope_is_of_about_the_size() {
        let id = Id { key: 1_234, seq: 56 };
        let mut event_id = String::new();
        id.event_id(&mut event_id);
        assert_eq!(Id::of_event_id(&event_id), id);
        let envelope = Envelope::new(id.aggregate_id(), EVENT_TYPE, 1, payload()).expect("valid");
        let encoded = envelope.with_event_id(event_id).expect("valid").encode();
        assert!(encoded.len().abs_diff(SIZE) <= 8, "{} bytes: its time may have other digits", encoded.len());
    }
}
