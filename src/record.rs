//! Records as brokers carry them, and their headers.

use crate::chance;
use bytes::Bytes;
use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::time::SystemTime;

/// The headers of a record: ordered, repeated names kept, as Kafka and NATS carry them.
///
/// Names are compared without regard to ASCII case by [`Headers::get`], because the services that meet on one topic
/// do not agree on a spelling.
///
/// ```
/// let mut headers = keylane::Headers::new();
/// headers.push("Via", "gateway");
/// headers.push("Via", "billing");
/// assert_eq!(headers.get("via"), Some(&b"gateway"[..]), "the first, in any case");
/// assert_eq!(headers.iter().count(), 2);
/// ```
#[derive(Clone)]
pub struct Headers(Form);

type Header = (Cow<'static, str>, Bytes);

#[derive(Clone)]
enum Form {
    List(Vec<Header>),
    /// As they came over the network, taken apart as somebody looks for one.
    #[cfg_attr(
        not(any(test, feature = "kafka", feature = "nats")),
        expect(dead_code, reason = "memory has lists")
    )]
    Encoded {
        bytes: Bytes,
        at: Range<u32>,
    },
}

impl Headers {
    /// No headers; allocates nothing.
    pub const fn new() -> Self {
        Self(Form::List(Vec::new()))
    }

    /// No headers, with room for `n`.
    pub fn with_capacity(n: usize) -> Self {
        Self(Form::List(Vec::with_capacity(n)))
    }

    /// Adds a header behind those that are there. An equal name is not replaced.
    pub fn push(&mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Bytes>) {
        let header = (name.into(), value.into());
        match &mut self.0 {
            Form::List(list) => list.push(header),
            Form::Encoded { bytes, at } => {
                let bytes = bytes.slice(at.start as usize..at.end as usize);
                let name = |range| String::from_utf8_lossy(&bytes[range]).into_owned().into();
                let headers =
                    Encoded { bytes: &bytes, at: 0 }.map(|(n, value)| (name(n), bytes.slice(value)));
                self.0 = Form::List(headers.chain([header]).collect());
            }
        }
    }

    /// The value of the first header of this name, in any case.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let is_it = |n: &str| n.len() == name.len() && (n == name || n.eq_ignore_ascii_case(name));
        self.iter().find(|(n, _)| is_it(n)).map(|(_, v)| v)
    }

    /// All headers in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let (list, encoded): (&[Header], &[u8]) = match &self.0 {
            Form::List(list) => (list, &[]),
            Form::Encoded { bytes, at } => (&[], &bytes[at.start as usize..at.end as usize]),
        };
        let encoded_headers = Encoded { bytes: encoded, at: 0 }.map(move |(name, value)| {
            // A name was text when it was encoded.
            (std::str::from_utf8(&encoded[name]).unwrap_or_default(), &encoded[value])
        });
        list.iter().map(|(name, value)| (name.as_ref(), &value[..])).chain(encoded_headers)
    }

    /// How many headers there are, repeated names counted each.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// Headers that were written by [`encode`](Self::encode), one behind the other.
    #[cfg(any(test, feature = "nats"))]
    pub(crate) fn encoded(bytes: Bytes) -> Self {
        let at = 0..u32::try_from(bytes.len()).expect("what a broker carries has less than 4 GiB");
        Self::encoded_in(bytes, at)
    }

    /// The same, of headers in this range of the bytes.
    #[cfg(any(test, feature = "kafka", feature = "nats"))]
    pub(crate) fn encoded_in(bytes: Bytes, at: Range<u32>) -> Self {
        Self(Form::Encoded { bytes, at })
    }

    /// All bytes that they were encoded in, what stands around them included.
    pub(crate) fn around(&self) -> &Bytes {
        static NONE: Bytes = Bytes::new();
        match &self.0 {
            Form::List(_) => &NONE,
            Form::Encoded { bytes, .. } => bytes,
        }
    }

    /// Appends one header to a buffer in the form that [`encoded`](Self::encoded) takes apart.
    #[cfg(any(test, feature = "kafka", feature = "nats"))]
    pub(crate) fn encode(name: &str, value: &[u8], buffer: &mut Vec<u8>) {
        for part in [name.as_bytes(), value] {
            let length = u32::try_from(part.len()).expect("what a broker carries has less than 4 GiB");
            buffer.extend_from_slice(&length.to_le_bytes());
            buffer.extend_from_slice(part);
        }
    }

    /// The bytes of all names and values.
    pub(crate) fn size(&self) -> usize {
        self.iter().map(|(name, value)| name.len() + value.len()).sum()
    }
}

impl Default for Headers {
    fn default() -> Self {
        Self::new()
    }
}

impl PartialEq for Headers {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Headers {}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Walks over encoded headers: where the name and the value of each are.
struct Encoded<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Encoded<'_> {
    fn part(&mut self) -> Option<Range<usize>> {
        let (length, _) = self.bytes.get(self.at..)?.split_first_chunk::<4>()?;
        let begin = self.at + 4;
        let end = begin + u32::from_le_bytes(*length) as usize;
        self.at = end;
        (end <= self.bytes.len()).then_some(begin..end)
    }
}

impl Iterator for Encoded<'_> {
    type Item = (Range<usize>, Range<usize>);

    fn next(&mut self) -> Option<Self::Item> {
        Some((self.part()?, self.part()?))
    }
}

/// A record: what a publisher hands to a broker and what a broker delivers.
///
/// Cloning is cheap: key, value and header values are shared.
///
/// ```
/// use keylane::Record;
///
/// let record = Record::new("paid").with_key("order-42").with_header("Via", "gateway");
/// assert_eq!(record.key.as_deref(), Some(&b"order-42"[..]));
/// assert_eq!(record.value, "paid");
/// assert_eq!(record.headers.get("via"), Some(&b"gateway"[..]));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// What the broker partitions by, and one of the places where routing looks for what the record is ordered by. Any bytes.
    pub key: Option<Bytes>,
    /// The payload, untouched.
    pub value: Bytes,
    /// The headers, in order.
    pub headers: Headers,
    /// When the record was made (set by the publisher; brokers carry it in milliseconds).
    pub timestamp: SystemTime,
}

impl Record {
    /// A record without a key or headers, made now.
    pub fn new(value: impl Into<Bytes>) -> Self {
        Self { key: None, value: value.into(), headers: Headers::new(), timestamp: chance::wall_time() }
    }

    /// The same record under this key.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The same record with one more header.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Bytes>) -> Self {
        self.headers.push(name, value);
        self
    }

    /// The same record, made at this time.
    #[must_use]
    pub fn with_timestamp(mut self, timestamp: SystemTime) -> Self {
        self.timestamp = timestamp;
        self
    }

    /// What the record takes of a limit in bytes: key, value, header names and header values.
    pub fn size(&self) -> usize {
        self.key.as_ref().map_or(0, Bytes::len) + self.value.len() + self.headers.size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(headers: &[(String, Vec<u8>)]) -> Bytes {
        let mut buffer = Vec::new();
        headers.iter().for_each(|(name, value)| Headers::encode(name, value, &mut buffer));
        buffer.into()
    }

    proptest! {
        #[test]
        fn encoded_headers_are_the_headers(
            headers in prop::collection::vec(("[a-zA-Z-]{0,6}", prop::collection::vec(any::<u8>(), 0..9)), 0..6),
            wanted in "[a-z-]{0,2}",
            before in prop::collection::vec(any::<u8>(), 0..9),
            behind in prop::collection::vec(any::<u8>(), 0..9),
        ) {
            let mut list = Headers::new();
            headers.iter().for_each(|(name, value)| list.push(name.clone(), value.clone()));
            let mut bytes = before.clone();
            bytes.extend_from_slice(&encoded(&headers));
            let at = before.len() as u32..bytes.len() as u32;
            bytes.extend_from_slice(&behind);
            let mut lazy = Headers::encoded_in(bytes.into(), at);
            prop_assert_eq!(lazy.get(&wanted), list.get(&wanted));
            prop_assert_eq!((lazy.len(), lazy.is_empty(), lazy.size()), (list.len(), list.is_empty(), list.size()));
            prop_assert_eq!(&lazy, &list);
            lazy.push("Via", "web");
            list.push("Via", "web");
            prop_assert_eq!(lazy, list);
        }

        #[test]
        fn bytes_that_are_no_headers_panic_nowhere(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let headers = Headers::encoded(bytes.into());
            prop_assert_eq!(headers.iter().count(), headers.len());
            prop_assert!(headers.get("a").is_none_or(|value| value.len() < 40));
        }
    }
}
