//! What topics, groups, streams, headers and keys may be called, so that every broker takes them.

use crate::error::{NameError, shown};

/// The rule of one kind of name.
struct Rule {
    kind: &'static str,
    text: &'static str,
    bytes: std::ops::RangeInclusive<usize>,
}

impl Rule {
    // A type for each `allowed`, so that the loop over the bytes calls nothing: all of this runs at every publish.
    fn check(&self, value: &[u8], allowed: impl Fn(u8) -> bool) -> Result<(), NameError> {
        let too_long = (value.len() > *self.bytes.end()).then_some(*self.bytes.end());
        let too_short = (value.len() < *self.bytes.start()).then_some(value.len());
        let forbidden = value.iter().position(|&b| !allowed(b));
        match [forbidden, too_long, too_short].into_iter().flatten().min() {
            Some(offset) => Err(self.broken(value, offset)),
            None => Ok(()),
        }
    }

    fn broken(&self, value: &[u8], offset: usize) -> NameError {
        NameError { kind: self.kind, value: shown(value), offset, rule: self.text }
    }
}

/// A topic: Kafka's rule, which a NATS subject and a memory topic keep too.
///
/// # Errors
/// [`NameError`] with the first byte that is wrong.
pub(crate) fn topic(name: &str) -> Result<(), NameError> {
    const RULE: Rule = Rule {
        kind: "topic",
        text: "a topic is 1 to 249 bytes of `A-Za-z0-9._-`, and neither `.` nor `..`",
        bytes: 1..=249,
    };
    RULE.check(name.as_bytes(), |b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))?;
    if matches!(name, "." | "..") { Err(RULE.broken(name.as_bytes(), 0)) } else { Ok(()) }
}

/// A consumer group. Wider than a NATS consumer name, to which it is mapped with an escape.
///
/// # Errors
/// [`NameError`] with the first byte that is wrong.
pub(crate) fn group(name: &str) -> Result<(), NameError> {
    const RULE: Rule = Rule {
        kind: "group",
        text: "a group is 1 to 255 bytes of printable ASCII without spaces",
        bytes: 1..=255,
    };
    RULE.check(name.as_bytes(), |b| b.is_ascii_graphic())
}

/// A JetStream stream: what the server takes (`.`, `*` and `>` have a meaning in subjects, `/` and `\` in its store).
///
/// # Errors
/// [`NameError`] with the first byte that is wrong.
pub(crate) fn stream(name: &str) -> Result<(), NameError> {
    const RULE: Rule = Rule {
        kind: "stream",
        text: "a stream is 1 to 255 bytes of printable ASCII without spaces and without `.*>/\\`",
        bytes: 1..=255,
    };
    RULE.check(name.as_bytes(), |b| b.is_ascii_graphic() && !matches!(b, b'.' | b'*' | b'>' | b'/' | b'\\'))
}

/// A header's name: a colon would end it on the wire of NATS.
///
/// # Errors
/// [`NameError`] with the first byte that is wrong.
pub(crate) fn header_name(name: &str) -> Result<(), NameError> {
    const RULE: Rule = Rule {
        kind: "header name",
        text: "a header name is 1 to 128 bytes of printable ASCII without spaces and without `:`",
        bytes: 1..=128,
    };
    RULE.check(name.as_bytes(), |b| b.is_ascii_graphic() && b != b':')
}

/// A header's value: a line end would start another header on the wire of NATS. Its length counts into the record's.
///
/// # Errors
/// [`NameError`] with the first byte that is wrong.
pub(crate) fn header_value(value: &[u8]) -> Result<(), NameError> {
    const RULE: Rule =
        Rule { kind: "header value", text: "a header value has no CR, LF or NUL", bytes: 0..=usize::MAX };
    RULE.check(value, |b| !matches!(b, b'\r' | b'\n' | 0))
}

/// A record's key. An empty one is refused: brokers disagree on whether it is a key or none, and with that on order.
///
/// # Errors
/// [`NameError`] if it is empty or too long.
pub(crate) fn key(key: &[u8]) -> Result<(), NameError> {
    const RULE: Rule = Rule {
        kind: "key",
        text: "a key is 1 to 65536 bytes; a record without a key has none at all",
        bytes: 1..=65_536,
    };
    RULE.check(key, |_| true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_every_broker_takes_is_taken() {
        let long = "t".repeat(249);
        for name in ["orders", "a", "...", "orders.dead", "A_z-0.9", &long] {
            assert_eq!(topic(name), Ok(()), "{name}");
        }
        for name in ["billing", "team/billing:v2", "~", &"g".repeat(255)] {
            assert_eq!(group(name), Ok(()), "{name}");
        }
        for name in ["ORDERS", "orders-eu_1", &"s".repeat(255)] {
            assert_eq!(stream(name), Ok(()), "{name}");
        }
        for name in ["X-Aggregate-ID", "a", &"h".repeat(128)] {
            assert_eq!(header_name(name), Ok(()), "{name}");
        }
        for value in [&b""[..], b"a: b", "\u{e9}".as_bytes(), &[0xff, 1]] {
            assert_eq!(header_value(value), Ok(()));
        }
        for value in [&b"k"[..], &vec![0; 65_536]] {
            assert_eq!(key(value), Ok(()));
        }
    }

    #[test]
    fn what_is_refused_is_named_with_its_byte_and_its_rule() {
        const TOPIC: &str = "a topic is 1 to 249 bytes of `A-Za-z0-9._-`, and neither `.` nor `..`";
        let cut = format!("{}\u{2026}", "t".repeat(64));
        for (error, text) in [
            (topic(""), format!("topic `` breaks a rule at byte 0: {TOPIC}")),
            (topic("."), format!("topic `.` breaks a rule at byte 0: {TOPIC}")),
            (topic(".."), format!("topic `..` breaks a rule at byte 0: {TOPIC}")),
            (topic("or/ders"), format!("topic `or/ders` breaks a rule at byte 2: {TOPIC}")),
            (topic("\u{fc}ber"), format!("topic `\u{fc}ber` breaks a rule at byte 0: {TOPIC}")),
            (topic("a\nb"), format!("topic `a\\nb` breaks a rule at byte 1: {TOPIC}")),
            (topic(&"t".repeat(250)), format!("topic `{cut}` breaks a rule at byte 249: {TOPIC}")),
            (
                group("my group"),
                "group `my group` breaks a rule at byte 2: a group is 1 to 255 bytes of printable ASCII \
                 without spaces"
                    .to_owned(),
            ),
            (
                stream("orders.eu"),
                "stream `orders.eu` breaks a rule at byte 6: a stream is 1 to 255 bytes of printable ASCII \
                 without spaces and without `.*>/\\`"
                    .to_owned(),
            ),
            (
                header_name("X-Id:"),
                "header name `X-Id:` breaks a rule at byte 4: a header name is 1 to 128 bytes of printable \
                 ASCII without spaces and without `:`"
                    .to_owned(),
            ),
            (
                header_value(b"a\r\nX: b"),
                "header value `a\\r\\nX: b` breaks a rule at byte 1: a header value has no CR, LF or NUL"
                    .to_owned(),
            ),
            (
                header_value(&[0xff, 0]),
                "header value `\\xff\\x00` breaks a rule at byte 1: a header value has no CR, LF or NUL"
                    .to_owned(),
            ),
            (
                key(b""),
                "key `` breaks a rule at byte 0: a key is 1 to 65536 bytes; a record without a key has none \
                 at all"
                    .to_owned(),
            ),
        ] {
            assert_eq!(error.unwrap_err().to_string(), text);
        }
        assert_eq!(key(&vec![b'k'; 65_537]).unwrap_err().offset, 65_536);
        assert_eq!(group(&"g".repeat(256)).unwrap_err().offset, 255);
        assert_eq!(header_name(&"h".repeat(129)).unwrap_err().offset, 128);
    }

    proptest! {
        #[test]
        fn an_error_names_the_first_byte_that_is_wrong(good in "[A-Za-z0-9_-]{1,40}", bad in "[ /:@\u{e4}]", rest in ".*") {
            let error = topic(&format!("{good}{bad}{rest}")).unwrap_err();
            prop_assert_eq!(error.offset, good.len());
            prop_assert!(error.value.chars().count() <= 65);
        }
    }
}
