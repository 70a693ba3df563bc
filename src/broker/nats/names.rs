//! What topics, groups and keys are called on JetStream: escapes that never give two things one name.
//!
//! Everything is percent-escaped with upper-case digits, and `%` followed by anything but two such digits is free for
//! marks of our own: no escaped text holds one.
//!
//! | Thing | Name | Example |
//! |---|---|---|
//! | topic | its subjects, one token behind it | `orders.dead` is `orders.dead.*` |
//! | stream of a topic | the topic, its dots as `~` | `orders~dead` |
//! | consumer of a group | the group, escaped | `team%2Fbilling` |
//! | the same in a stream that topics share | group and stream of the topic | `billing%@orders~dead` |
//! | key | one token | `order-42`, `a%2Eb`, `%-` for none, `%h` and a hash for a long one |
//! | who owns a topic in its group | stream and consumer, in the stream `KEYLANE_LEASES` | `keylane.lease.orders.billing` |
//!
//! A topic `keylane.lease` or below it is one that the server refuses: its subjects would be those of leases.

use std::borrow::Cow;
use std::fmt::Write;

/// A key that takes more bytes than this as a token travels whole in a header, and as a hash in the subject.
const MAX_TOKEN: usize = 200;
/// What a server takes as the name of a consumer.
const MAX_CONSUMER: usize = 255;
/// The token of a record without a key.
const NO_KEY: &str = "%-";
/// What a hash begins with, for it is no digit of an escape.
const HASH: &str = "%h";
/// The stream of leases, and all its subjects.
pub(super) const LEASES: (&str, &str) = ("KEYLANE_LEASES", "keylane.lease.>");

/// A topic's part of its subjects. A token of a subject can't be empty, a topic's can: `a..b` is `a.%.b`.
pub(super) fn subject_prefix(topic: &str) -> String {
    let tokens: Vec<&str> =
        topic.split('.').map(|token| if token.is_empty() { "%" } else { token }).collect();
    tokens.join(".")
}

/// All subjects of a topic. Topics never overlap: a subject has exactly one token more than its topic.
pub(super) fn subjects(topic: &str) -> String {
    subject_prefix(topic) + ".*"
}

/// The stream of a topic that has one of its own. A topic has no `~`, a stream no dot.
pub(super) fn stream(topic: &str) -> String {
    topic.replace('.', "~")
}

/// The durable consumer of a group; `topic` where its stream has other topics, too.
pub(super) fn consumer(group: &str, topic: Option<&str>) -> String {
    let mut name = String::new();
    let allowed = |b: u8| b.is_ascii_graphic() && !matches!(b, b'%' | b'.' | b'*' | b'>' | b'/' | b'\\');
    escape(group.as_bytes(), allowed, &mut name);
    if let Some(topic) = topic {
        name.push_str("%@");
        name.push_str(&stream(topic));
    }
    if name.len() > MAX_CONSUMER {
        let hash = hash(name.as_bytes());
        // Of ASCII alone, so that it may be cut anywhere.
        name.truncate(MAX_CONSUMER - 2 - 32);
        name.push_str(HASH);
        let _ = write!(name, "{hash:032x}");
    }
    name
}

/// Where it stands who owns what this consumer delivers.
pub(super) fn lease(stream: &str, consumer: &str) -> String {
    format!("keylane.lease.{stream}.{consumer}")
}

/// A key as a token of a subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// The token says it all.
    Whole(Cow<'a, str>),
    /// The token is a hash, and the key goes into a header.
    Hashed(String),
}

impl Token<'_> {
    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Whole(token) => token,
            Self::Hashed(token) => token,
        }
    }
}

/// What stands for a key behind its topic's prefix.
pub(super) fn token(key: Option<&[u8]>) -> Token<'_> {
    let Some(key) = key else { return Token::Whole(NO_KEY.into()) };
    if key.len() <= MAX_TOKEN
        && key.iter().all(|&b| is_token_byte(b))
        && let Ok(text) = std::str::from_utf8(key)
    {
        return Token::Whole(text.into());
    }
    let escaped_length: usize = key.iter().map(|&b| if is_token_byte(b) { 1 } else { 3 }).sum();
    let mut token = String::new();
    if escaped_length > MAX_TOKEN {
        let _ = write!(token, "{HASH}{:032x}", hash(key));
        return Token::Hashed(token);
    }
    escape(key, is_token_byte, &mut token);
    Token::Whole(token.into())
}

/// The key that a token stands for; none: the record has none, or its header has it. A token that is not of our escape
/// was published by somebody else and is the key as it is.
pub(super) fn key_of(token: &str) -> Option<Cow<'_, [u8]>> {
    if token == NO_KEY || token.starts_with(HASH) {
        return None;
    }
    if token.contains('%')
        && let Some(key) = unescape(token)
        && !key.is_empty()
        && matches!(self::token(Some(&key)), Token::Whole(again) if again == token)
    {
        return Some(key.into());
    }
    Some(token.as_bytes().into())
}

fn is_token_byte(b: u8) -> bool {
    b.is_ascii_graphic() && !matches!(b, b'%' | b'.' | b'*' | b'>')
}

/// Appends the bytes, with `%XX` for each that is not allowed.
pub(super) fn escape(bytes: &[u8], allowed: fn(u8) -> bool, out: &mut String) {
    for &b in bytes {
        if allowed(b) {
            out.push(char::from(b));
        } else {
            let _ = write!(out, "%{b:02X}");
        }
    }
}

/// The bytes behind an escape; none where it is none.
pub(super) fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&b, behind)) = rest.split_first() {
        rest = behind;
        if b != b'%' {
            bytes.push(b);
            continue;
        }
        let (digits, behind) = rest.split_first_chunk::<2>()?;
        rest = behind;
        let digit = |b: u8| match b {
            b'0'..=b'9' => Some(b - b'0'),
            b'A'..=b'F' => Some(b - b'A' + 10),
            _ => None,
        };
        bytes.push(digit(digits[0])? << 4 | digit(digits[1])?);
    }
    Some(bytes)
}

/// FNV-1a of 128 bits: the same in every process, which the standard library's hashes are not.
fn hash(bytes: &[u8]) -> u128 {
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    bytes.iter().fold(BASIS, |hash, &b| (hash ^ u128::from(b)).wrapping_mul(PRIME))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bytes among which escapes and what looks like them are frequent.
    fn key() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![
            4 => prop::sample::select(b"ab%.2E*>-h@ 0\xff\n".to_vec()),
            1 => any::<u8>(),
        ];
        prop_oneof![
            8 => prop::collection::vec(byte.clone(), 1..12),
            1 => prop::collection::vec(byte, 60..260),
        ]
    }

    fn topic() -> impl Strategy<Value = String> {
        "[ab.~_-]{1,6}".prop_map(|topic| topic.replace('~', "x"))
    }

    fn group() -> impl Strategy<Value = String> {
        prop_oneof![4 => "[ab%.@2E/~*]{1,6}", 1 => "[ab./]{120,255}"]
    }

    proptest! {
        #[test]
        fn a_token_stands_for_one_key_and_is_one_token(key in key()) {
            let token = token(Some(&key));
            prop_assert!(token.as_str().bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'.' | b'*' | b'>')));
            prop_assert!(!token.as_str().is_empty() && token.as_str().len() <= MAX_TOKEN);
            match &token {
                Token::Whole(token) => prop_assert!(key_of(token).is_some_and(|back| *back == key)),
                Token::Hashed(token) => prop_assert_eq!(key_of(token), None),
            }
        }

        #[test]
        fn different_keys_have_different_tokens(a in key(), b in key()) {
            prop_assert_eq!(token(Some(&a)) == token(Some(&b)), a == b);
            prop_assert!(token(Some(&a)).as_str() != NO_KEY);
        }

        #[test]
        fn a_token_of_somebody_else_is_the_key_as_it_is(foreign in "[a%2E@-]{1,8}") {
            prop_assume!(foreign != NO_KEY);
            let key = key_of(&foreign).expect("it has no hash");
            // One of ours, which says the same, or itself.
            prop_assert!(&*key == foreign.as_bytes() || token(Some(&key)).as_str() == foreign);
        }

        #[test]
        fn different_topics_have_different_subjects_and_streams(a in topic(), b in topic()) {
            prop_assert_eq!(subjects(&a) == subjects(&b), a == b);
            prop_assert_eq!(stream(&a) == stream(&b), a == b);
            prop_assert!(subject_prefix(&a).split('.').all(|token| !token.is_empty()));
        }

        #[test]
        fn different_groups_and_topics_have_different_consumers(
            (a, b) in (group(), group()), (s, t) in (topic(), topic()), shared in any::<bool>(),
        ) {
            let of = |group: &str, topic: &String| consumer(group, shared.then_some(topic.as_str()));
            let is_same = a == b && (!shared || s == t);
            prop_assert_eq!(of(&a, &s) == of(&b, &t), is_same);
            let name = of(&a, &s);
            prop_assert!(name.len() <= MAX_CONSUMER, "{}", name.len());
            prop_assert!(name.bytes().all(|b| b.is_ascii_graphic() && !b".*>/\\".contains(&b)), "{name}");
            let lease_of = |group: &str, topic: &String| lease(&stream(topic), &of(group, topic));
            prop_assert_eq!(lease_of(&a, &s) == lease_of(&b, &t), a == b && s == t);
        }
    }

    #[test]
    fn the_property_finds_an_escape_that_is_not_injective() {
        // Dots as dashes, as several clients do it.
        let faulty = |key: &str| key.replace('.', "-");
        assert_eq!(faulty("a.b"), faulty("a-b"));
        assert_ne!(token(Some(b"a.b")).as_str(), token(Some(b"a-b")).as_str());
    }

    #[test]
    fn names_are_as_documented() {
        assert_eq!(subjects("orders.dead"), "orders.dead.*");
        assert_eq!(subjects("a..b"), "a.%.b.*");
        assert_eq!(stream("orders.dead"), "orders~dead");
        assert_eq!(consumer("team/billing", None), "team%2Fbilling");
        assert_eq!(consumer("billing", Some("orders.dead")), "billing%@orders~dead");
        assert_eq!(lease("orders", "team%2Fbilling"), "keylane.lease.orders.team%2Fbilling");
        assert_eq!(token(Some(b"order-42")).as_str(), "order-42");
        assert_eq!(token(Some(b"a.b")).as_str(), "a%2Eb");
        assert_eq!(token(None).as_str(), "%-");
        assert_eq!(key_of("100%"), Some(b"100%"[..].into()), "not of our escape");
        assert_eq!(key_of("%41"), Some(b"%41"[..].into()), "we would not have escaped an A");
    }
}
