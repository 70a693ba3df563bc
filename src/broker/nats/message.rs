//! Records as messages of NATS, and back.
//!
//! A record's headers are the message's where NATS can carry them, so that other clients read them. The rest is kept
//! by headers of our own, all of which begin with `Nats-Keylane-`:
//!
//! | Header | Holds | When |
//! |---|---|---|
//! | `Nats-Keylane-Time` | when the record was made, in ms since 1970 | always: it marks a message as ours |
//! | `Nats-Keylane-Key` | the key, percent-escaped | a key too long for a subject |
//! | `Nats-Keylane-Order` | the names in their order, with `:` between | the client's map of headers would lose it |
//! | `Nats-Keylane-Escaped` | names whose values are percent-escaped | bytes that no header of NATS can hold |
//! | `Nats-Keylane-As-…` | a header of the record that begins with `Nats-` | the server would act on it |
//!
//! A header that begins with `Nats-` is the server's business (`Nats-Rollup` empties a stream): a record's own never
//! gets there as such.

use super::names::{escape, key_of, unescape};
use crate::broker::FetchedRecord;
use crate::record::{Headers, Record};
use async_nats::HeaderMap;
use async_nats::header::{HeaderName, HeaderValue, NATS_MESSAGE_ID};
use bytes::Bytes;
use std::borrow::Cow;
use std::time::{Duration, SystemTime};

const TIME: &str = "Nats-Keylane-Time";
const KEY: &str = "Nats-Keylane-Key";
const ORDER: &str = "Nats-Keylane-Order";
const ESCAPED: &str = "Nats-Keylane-Escaped";
const AS: &str = "Nats-Keylane-As-";
const SERVERS_OWN: &str = "nats-";
/// Stands between names: none holds one.
const BETWEEN: &str = ":";

/// The order in which headers come where nothing else is said: an Envelope's as it has them, then by name.
fn rank(name: &str) -> (usize, &str) {
    const FIRST: [&str; 7] = [
        "X-Event-ID",
        "X-Aggregate-ID",
        "X-Event-Type",
        "X-Event-Version",
        "X-Trace-ID",
        "X-Correlation-ID",
        "X-Tenant-ID",
    ];
    (FIRST.iter().position(|first| *first == name).unwrap_or(FIRST.len()), name)
}

fn is_servers_own(name: &str) -> bool {
    name.get(..SERVERS_OWN.len()).is_some_and(|start| start.eq_ignore_ascii_case(SERVERS_OWN))
}

/// A value as it stands, if a header of NATS gives it back the same.
fn plain(value: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(value).ok()?;
    (!text.contains(['\r', '\n', '\0']) && text.trim() == text).then_some(text)
}

fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() + 8);
    escape(bytes, |b| b.is_ascii_graphic() && b != b'%', &mut text);
    text
}

/// The headers of a record's message. `id` is what the server knows a second copy of the message by: plain text.
///
/// # Errors
/// The name that no header of NATS can have.
pub(super) fn headers_of(record: &Record, id: &str, is_key_hashed: bool) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    let mut escaped_names: Vec<&str> = Vec::new();
    let mut last: Option<(usize, &str)> = None;
    let mut is_in_order = true;
    for (name, value) in record.headers.iter() {
        let rank = rank(name);
        is_in_order &= last.is_none_or(|last| last <= rank);
        last = Some(rank);
        if plain(value).is_none() && !escaped_names.contains(&name) {
            escaped_names.push(name);
        }
    }
    for (name, value) in record.headers.iter() {
        let sent: Cow<'_, str> =
            if is_servers_own(name) { format!("{AS}{name}").into() } else { name.into() };
        let value: HeaderValue = match plain(value) {
            Some(text) if !escaped_names.contains(&name) => text.into(),
            _ => escaped(value).into(),
        };
        let sent: HeaderName = sent.parse().map_err(|_| name.to_owned())?;
        headers.append(sent, value);
    }
    if !is_in_order {
        let names: Vec<&str> = record.headers.iter().map(|(name, _)| name).collect();
        headers.insert(ORDER, names.join(BETWEEN));
    }
    if !escaped_names.is_empty() {
        headers.insert(ESCAPED, escaped_names.join(BETWEEN));
    }
    if is_key_hashed {
        headers.insert(KEY, escaped(record.key.as_deref().unwrap_or_default()));
    }
    let time = record.timestamp.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    headers.insert(HeaderName::from_static(TIME), time.to_string());
    headers.insert(NATS_MESSAGE_ID, id);
    Ok(headers)
}

/// What the subject to which a message is acknowledged says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Delivery {
    /// Its place in the stream.
    pub(super) sequence: u64,
    /// Which of the consumer's deliveries this is, from 1.
    pub(super) number: u64,
    /// How often the message has been delivered, this time counted.
    pub(super) times: u32,
    /// When it was stored, in ns since 1970.
    stored_ns: u64,
}

impl Delivery {
    /// Reads `$JS.ACK.<stream>.<consumer>.<times>.<sequence>.<number>.<time>.<pending>`, which may have a domain and an
    /// account behind `ACK`, and then a token of noise at its end.
    pub(super) fn of(reply: &str) -> Option<Self> {
        // By bytes: a search for characters takes ten times as long, and this is read for each message.
        let rest = reply.as_bytes().strip_prefix(b"$JS.ACK.")?;
        let behind = match rest.split(|byte| *byte == b'.').count() + 2 {
            9 => 2,
            11.. => 4,
            _ => return None,
        };
        let mut tokens = rest.split(|byte| *byte == b'.').skip(behind);
        let mut number = || {
            let digits = tokens.next().filter(|token| !token.is_empty())?;
            digits.iter().try_fold(0_u64, |value, byte| {
                let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
                value.checked_mul(10)?.checked_add(digit)
            })
        };
        Some(Self {
            times: number()?.try_into().unwrap_or(u32::MAX),
            sequence: number()?,
            number: number()?,
            stored_ns: number()?,
        })
    }
}

/// The record that a message carries, whoever published it.
pub(super) fn record_of(message: async_nats::Message, delivery: &Delivery) -> (FetchedRecord, Bytes) {
    let async_nats::Message { subject, payload, headers, .. } = message;
    let headers = headers.unwrap_or_default();
    let subject = Bytes::copy_from_slice(subject.as_bytes());
    let text = std::str::from_utf8(&subject).expect("it was text a line above");
    let own = Own::of(&headers);
    let key_header = own.time.and(own.key).and_then(unescape).map(Bytes::from);
    let key = key_header.or_else(|| match key_of(text.rsplit('.').next().unwrap_or_default())? {
        // Most keys stand in the subject as they are.
        Cow::Borrowed(key) => Some(subject.slice_ref(key)),
        Cow::Owned(key) => Some(key.into()),
    });
    let timestamp = own.time.map_or(Duration::from_nanos(delivery.stored_ns), Duration::from_millis);
    let record = Record {
        key,
        value: payload,
        timestamp: SystemTime::UNIX_EPOCH + timestamp,
        headers: if own.time.is_some() { own.headers() } else { foreign_headers(&headers) },
    };
    (FetchedRecord::Own(record), subject)
}

/// The headers of a message as this client writes them, found in one go: looking one up by its name allocates.
#[derive(Default)]
struct Own<'a> {
    time: Option<u64>,
    key: Option<&'a str>,
    order: Option<&'a str>,
    escaped: Option<&'a str>,
    /// Those of the record.
    found: Vec<(&'a str, &'a [HeaderValue])>,
}

impl<'a> Own<'a> {
    fn of(headers: &'a HeaderMap) -> Self {
        let mut own = Self::default();
        for (name, values) in headers.iter() {
            let name: &str = name.as_ref();
            if !is_servers_own(name) {
                own.found.push((name, values));
                continue;
            }
            let value = values.first().map(HeaderValue::as_str);
            match name {
                TIME => own.time = value.and_then(|time| time.parse().ok()),
                KEY => own.key = value,
                ORDER => own.order = value,
                ESCAPED => own.escaped = value,
                _ => own.found.extend(name.strip_prefix(AS).map(|name| (name, &values[..]))),
            }
        }
        own
    }

    fn headers(mut self) -> Headers {
        if self.found.is_empty() {
            return Headers::new();
        }
        let escaped = self.escaped.unwrap_or_default();
        let is_escaped =
            |name: &str| !escaped.is_empty() && escaped.split(BETWEEN).any(|other| other == name);
        let mut buffer = Vec::new();
        let mut push = |name: &str, value: &HeaderValue| {
            let bytes = if is_escaped(name) { unescape(value.as_str()) } else { None };
            Headers::encode(name, bytes.as_deref().unwrap_or(value.as_str().as_bytes()), &mut buffer);
        };
        if let Some(order) = self.order {
            let mut next = vec![0; self.found.len()];
            for name in order.split(BETWEEN) {
                let Some(at) = self.found.iter().position(|(other, _)| *other == name) else { continue };
                if let Some(value) = self.found[at].1.get(next[at]) {
                    next[at] += 1;
                    push(name, value);
                }
            }
        } else {
            self.found.sort_unstable_by_key(|(name, _)| rank(name));
            self.found.iter().for_each(|(name, values)| values.iter().for_each(|value| push(name, value)));
        }
        Headers::encoded(buffer.into())
    }
}

fn foreign_headers(headers: &HeaderMap) -> Headers {
    let mut found: Vec<(&str, &[HeaderValue])> =
        headers.iter().map(|(name, values)| (name.as_ref(), &values[..])).collect();
    found.sort_unstable_by_key(|(name, _)| rank(name));
    let mut buffer = Vec::new();
    for (name, values) in found {
        values.iter().for_each(|value| Headers::encode(name, value.as_str().as_bytes(), &mut buffer));
    }
    Headers::encoded(buffer.into())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::broker::nats::names::{Token, subject_prefix, token};
    use proptest::prelude::*;

    const DELIVERY: Delivery =
        Delivery { sequence: 7, number: 9, times: 1, stored_ns: 1_700_000_000_000_000_000 };

    fn message(subject: String, headers: HeaderMap, payload: Bytes) -> async_nats::Message {
        async_nats::Message {
            subject: subject.into(),
            reply: None,
            payload,
            headers: Some(headers),
            status: None,
            description: None,
            length: 0,
        }
    }

    /// What comes back of a record that was published; the client's map of headers has no order of its own.
    fn travelled(record: &Record) -> (Record, Bytes) {
        let token = token(record.key.as_deref());
        let headers =
            headers_of(record, "id-1", matches!(token, Token::Hashed(_))).expect("the names are valid");
        for (_, values) in headers.iter() {
            for value in values {
                assert!(!value.as_str().contains(['\r', '\n']) && value.as_str().trim() == value.as_str());
            }
        }
        let subject = format!("{}.{}", subject_prefix("orders"), token.as_str());
        let (fetched, subject) = record_of(message(subject, headers, record.value.clone()), &DELIVERY);
        let FetchedRecord::Own(record) = fetched else { panic!("it is made of a message") };
        (record, subject)
    }

    fn value() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            4 => "[a-c%: ]{0,4}".prop_map(String::into_bytes),
            1 => prop::collection::vec(any::<u8>(), 0..5),
        ]
    }

    proptest! {
        #[test]
        fn a_record_comes_back_as_it_was_published(
            key in prop::option::of(prop_oneof![
                prop::collection::vec(any::<u8>(), 1..6),
                prop::collection::vec(any::<u8>(), 300..400),
            ]),
            headers in prop::collection::vec(("(Nats-Rollup|nats-x|Via|X-Event-ID|keylane-time|[A-C]{1,2})", value()), 0..6),
            payload in prop::collection::vec(any::<u8>(), 0..20),
            ms in 0_u64..4_000_000_000_000,
        ) {
            let mut record = Record::new(payload);
            record.key = key.map(Bytes::from);
            record.timestamp = SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
            headers.into_iter().for_each(|(name, value)| record.headers.push(name, value));
            let (back, _) = travelled(&record);
            prop_assert_eq!(back, record);
        }

        #[test]
        fn no_reply_panics(reply in "(\\$JS\\.ACK)?[.0-9a-z]{0,60}") {
            let _ = Delivery::of(&reply);
        }
    }

    #[test]
    fn nothing_of_a_record_is_an_order_to_the_server() {
        let record = Record::new("x").with_header("Nats-Rollup", "all").with_header("nats-ttl", "1s");
        let headers = headers_of(&record, "id-1", false).unwrap();
        let names: Vec<String> = headers.iter().map(|(name, _)| name.to_string()).collect();
        let acted_on = |name: &&String| is_servers_own(name) && !name.starts_with("Nats-Keylane-");
        assert_eq!(names.iter().filter(acted_on).collect::<Vec<_>>(), ["Nats-Msg-Id"]);
    }

    #[test]
    fn a_message_of_somebody_else_keeps_its_headers_and_its_token() {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", "7");
        headers.insert("Account", "a%20b");
        let (record, subject) =
            record_of(message("orders.order-42".to_owned(), headers, "x".into()), &DELIVERY);
        assert_eq!(subject, "orders.order-42");
        assert_eq!(record.key(), Some(&b"order-42"[..]));
        let headers: Vec<_> = record.headers().iter().collect();
        assert_eq!(headers, [("Account", &b"a%20b"[..]), ("Nats-Msg-Id", b"7")]);
        assert_eq!(record.timestamp(), SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    }

    #[test]
    fn a_delivery_is_read_from_both_forms_of_its_reply() {
        let expected = Some(DELIVERY);
        assert_eq!(Delivery::of("$JS.ACK.orders.billing.1.7.9.1700000000000000000.3"), expected);
        assert_eq!(Delivery::of("$JS.ACK._.acc.orders.billing.1.7.9.1700000000000000000.3.xyz"), expected);
        assert_eq!(Delivery::of("_INBOX.a.b"), None);
    }
}
