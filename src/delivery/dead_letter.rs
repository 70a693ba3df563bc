//! What a dead letter says about the record that it was.

use crate::envelope::Timestamp;
use crate::handler::Failure;
use crate::record::Headers;
use std::time::SystemTime;

/// How many bytes of the error a dead letter carries at most: enough for a message and its causes, and far from what
/// a broker allows for all headers.
const MAX_ERROR_BYTES: usize = 1_024;

const REASON: &str = "keylane-reason";
const ERROR: &str = "keylane-error";
const ATTEMPTS: &str = "keylane-attempts";
const TOPIC: &str = "keylane-topic";
const PARTITION: &str = "keylane-partition";
const OFFSET: &str = "keylane-offset";
const TIME: &str = "keylane-time";
const ALL: [&str; 7] = [REASON, ERROR, ATTEMPTS, TOPIC, PARTITION, OFFSET, TIME];

/// The record that a dead letter is made of, and what happened to it. Its key and value go into the dead letter as
/// they are; [`headers`](Self::headers) makes the rest.
pub(crate) struct DeadRecord<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: u32,
    pub(crate) offset: u64,
    pub(crate) headers: &'a Headers,
    pub(crate) failure: &'a Failure,
    /// How many attempts were made, the one that failed last counted.
    pub(crate) attempts: u32,
    /// When the last attempt failed.
    pub(crate) time: SystemTime,
}

impl DeadRecord<'_> {
    /// The headers of the dead letter: the record's own, in their order, then the seven of `keylane-`.
    ///
    /// A record that is a dead letter already keeps its *first* topic, partition and offset, so that it can be
    /// brought back to where it came from however often it failed on the way; reason, error, attempts and time are
    /// those of the last failure. So there is one of each, and a record that goes round does not grow. An origin
    /// that is not complete is none, and is replaced.
    pub(crate) fn headers(&self) -> Headers {
        let origin = [TOPIC, PARTITION, OFFSET].map(|name| self.headers.get(name));
        let is_dead_letter_already = matches!(origin, [Some(topic), Some(partition), Some(offset)]
            if !topic.is_empty() && is_number(partition) && is_number(offset));

        let mut headers = Headers::with_capacity(self.headers.len() + ALL.len());
        for (name, value) in self.headers.iter() {
            if !ALL.iter().any(|ours| name.eq_ignore_ascii_case(ours)) {
                headers.push(name.to_owned(), bytes::Bytes::copy_from_slice(value));
            }
        }
        headers.push(REASON, self.failure.reason());
        headers.push(ERROR, header_text(&format!("{:#}", self.failure)));
        headers.push(ATTEMPTS, self.attempts.to_string());
        if let ([Some(topic), Some(partition), Some(offset)], true) = (origin, is_dead_letter_already) {
            headers.push(TOPIC, topic.to_vec());
            headers.push(PARTITION, partition.to_vec());
            headers.push(OFFSET, offset.to_vec());
        } else {
            headers.push(TOPIC, self.topic.to_owned());
            headers.push(PARTITION, self.partition.to_string());
            headers.push(OFFSET, self.offset.to_string());
        }
        // No clock is beyond the years that have four digits; a header that could not be read is worse than none.
        if let Ok(time) = Timestamp::try_from(self.time) {
            headers.push(TIME, time.to_string());
        }
        headers
    }
}

fn is_number(value: &[u8]) -> bool {
    std::str::from_utf8(value).is_ok_and(|text| text.parse::<u64>().is_ok())
}

/// The text on one line and within its bound. A line break in a header would end it on NATS, and what follows would
/// be read as another header.
fn header_text(text: &str) -> String {
    let end =
        (0..=MAX_ERROR_BYTES.min(text.len())).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    // A control character becomes one space: outside ASCII it takes two bytes, so the text never grows.
    text[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handler::HandlerError;
    use proptest::prelude::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn dead<'a>(headers: &'a Headers, failure: &'a Failure) -> DeadRecord<'a> {
        let time = UNIX_EPOCH + Duration::from_micros(1_761_897_600_000_001);
        DeadRecord { topic: "orders", partition: 3, offset: 42, headers, failure, attempts: 5, time }
    }

    fn texts(headers: &Headers) -> Vec<(&str, &str)> {
        headers.iter().map(|(name, value)| (name, std::str::from_utf8(value).unwrap())).collect()
    }

    #[test]
    fn a_dead_letter_carries_the_original_headers_and_says_what_happened() {
        let mut original = Headers::new();
        original.push("X-Trace-ID", "t-1");
        original.push("tag", "a");
        original.push("tag", "b");
        let failure = Failure::Error(HandlerError::terminal("no such account"));
        assert_eq!(
            texts(&dead(&original, &failure).headers()),
            [
                ("X-Trace-ID", "t-1"),
                ("tag", "a"),
                ("tag", "b"),
                ("keylane-reason", "error"),
                ("keylane-error", "no such account"),
                ("keylane-attempts", "5"),
                ("keylane-topic", "orders"),
                ("keylane-partition", "3"),
                ("keylane-offset", "42"),
                ("keylane-time", "2025-10-31T08:00:00.000001000Z"),
            ]
        );
    }

    #[test]
    fn a_dead_letter_of_a_dead_letter_keeps_the_first_origin_and_the_last_failure() {
        let first = dead(&Headers::new(), &Failure::Undecodable("bytes".into())).headers();
        let failure = Failure::Panic("out of range".into());
        let second = DeadRecord { topic: "orders.dead", partition: 0, offset: 7, ..dead(&first, &failure) };
        let headers = second.headers();
        assert_eq!(headers.len(), ALL.len());
        assert_eq!(headers.get(TOPIC), Some(&b"orders"[..]));
        assert_eq!(headers.get(PARTITION), Some(&b"3"[..]));
        assert_eq!(headers.get(OFFSET), Some(&b"42"[..]));
        assert_eq!(headers.get(REASON), Some(&b"panic"[..]));
        assert_eq!(headers.get(ERROR), Some(&b"the handler panicked: out of range"[..]));
    }

    #[test]
    fn an_origin_that_is_not_complete_is_replaced() {
        for (partition, offset) in [(None, Some("1")), (Some("x"), Some("1")), (Some("1"), Some("-1"))] {
            let mut original = Headers::new();
            original.push("Keylane-Topic", "elsewhere");
            for (name, value) in [("Keylane-Partition", partition), ("Keylane-Offset", offset)] {
                if let Some(value) = value {
                    original.push(name, value);
                }
            }
            let headers = dead(&original, &Failure::Panic("x".into())).headers();
            assert_eq!(headers.len(), ALL.len());
            assert_eq!(headers.get(TOPIC), Some(&b"orders"[..]));
            assert_eq!(headers.get(OFFSET), Some(&b"42"[..]));
        }
    }

    proptest! {
        #[test]
        fn the_text_of_an_error_fits_a_header(
            start in "(\\PC|\\pC|ä|🦀|\r|\n|\0){0,40}", times in 0usize..40
        ) {
            let text = start.repeat(times);
            let failure = Failure::Error(text.as_str().into());
            let headers = dead(&Headers::new(), &failure).headers();
            let error = std::str::from_utf8(headers.get(ERROR).unwrap()).unwrap();
            prop_assert!(error.len() <= MAX_ERROR_BYTES);
            prop_assert!(!error.contains(|c: char| c.is_control()));
            if text.len() > MAX_ERROR_BYTES {
                prop_assert!(error.chars().count() > 0);
            } else {
                prop_assert_eq!(error.chars().count(), text.chars().count());
            }
        }
    }
}
