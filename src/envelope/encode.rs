//! An Envelope on its way out: its bytes and the headers beside them.

use super::Envelope;
use super::json::plain_until;
use super::timestamp::Timestamp;
use crate::chance;
use crate::record::{Headers, Record};
use bytes::Bytes;
use std::io::Write;
use std::ops::Range;

impl Envelope<'_> {
    /// The header that carries the event id.
    pub const EVENT_ID_HEADER: &'static str = "X-Event-ID";
    /// The header that carries the aggregate id, and that routing reads.
    pub const AGGREGATE_ID_HEADER: &'static str = "X-Aggregate-ID";
    /// The header that carries the event type.
    pub const EVENT_TYPE_HEADER: &'static str = "X-Event-Type";
    /// The header that carries the event version.
    pub const EVENT_VERSION_HEADER: &'static str = "X-Event-Version";
    /// The header that carries the trace id, if there is one.
    pub const TRACE_ID_HEADER: &'static str = "X-Trace-ID";
    /// The header that carries the correlation id, if there is one.
    pub const CORRELATION_ID_HEADER: &'static str = "X-Correlation-ID";
    /// The header that carries the tenant id, if there is one.
    pub const TENANT_ID_HEADER: &'static str = "X-Tenant-ID";

    /// The Envelope on the wire: one JSON object, fields in jxt-core's order, absent ones left out.
    ///
    /// The payload goes out byte for byte as it is. Allocates once.
    pub fn encode(&self) -> Vec<u8> {
        let mut record = Vec::new();
        self.encode_into(&mut record);
        record
    }

    /// Like [`encode`](Self::encode), behind what `record` holds already.
    ///
    /// ```
    /// use keylane::Envelope;
    ///
    /// let paid = Envelope::new("order-42", "order.paid", 1, "995")?;
    /// let mut lines = Vec::new();
    /// for _ in 0..2 {
    ///     paid.encode_into(&mut lines);
    ///     lines.push(b'\n');
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn encode_into(&self, record: &mut Vec<u8>) {
        self.encode_noting(record, |_, _| {});
    }

    /// What it is published as: key, value and headers. The key and the headers' values are slices of the value, but for
    /// texts that JSON escapes. Allocates three times.
    pub(crate) fn to_parts(&self) -> (Bytes, Bytes, Headers) {
        let (mut record, mut fields, mut count) = (Vec::new(), [const { ("", 0..0) }; 7], 0);
        self.encode_noting(&mut record, |name, place| {
            fields[count] = (name, place);
            count += 1;
        });
        let value = Bytes::from(record);
        let mut headers = Headers::with_capacity(count);
        let mut key = Bytes::new();
        for (name, place) in fields.into_iter().take(count) {
            let text = value.slice(place);
            if name == Self::AGGREGATE_ID_HEADER {
                // Its rules know no character that is escaped.
                key = text.clone();
            }
            headers.push(name, unescaped(text));
        }
        (key, value, headers)
    }

    /// Encodes, and tells of each field that has a header where the inside of its value is.
    fn encode_noting(&self, record: &mut Vec<u8>, mut note: impl FnMut(&'static str, Range<usize>)) {
        // Names, punctuation, the timestamp and three integers at their longest come to less than 256.
        let optional = [&self.trace_id, &self.correlation_id];
        let optional: usize = optional.into_iter().flatten().map(|text| text.len()).sum();
        let texts = self.event_id.len() + self.aggregate_id.len() + self.event_type.len() + optional;
        record.reserve(256 + texts + self.payload.len());

        note(Self::EVENT_ID_HEADER, text_field(record, "{\"event_id\":\"", &self.event_id));
        note(Self::AGGREGATE_ID_HEADER, text_field(record, ",\"aggregate_id\":\"", &self.aggregate_id));
        note(Self::EVENT_TYPE_HEADER, text_field(record, ",\"event_type\":\"", &self.event_type));
        note(Self::EVENT_VERSION_HEADER, integer_field(record, ",\"event_version\":", self.event_version));
        record.extend_from_slice(b",\"timestamp\":\"");
        record.extend_from_slice(self.timestamp.text(&mut [0; Timestamp::MAX_BYTES]));
        record.push(b'"');
        if let Some(trace_id) = &self.trace_id {
            note(Self::TRACE_ID_HEADER, text_field(record, ",\"trace_id\":\"", trace_id));
        }
        if let Some(correlation_id) = &self.correlation_id {
            note(Self::CORRELATION_ID_HEADER, text_field(record, ",\"correlation_id\":\"", correlation_id));
        }
        if let Some(tenant_id) = self.tenant_id {
            note(Self::TENANT_ID_HEADER, integer_field(record, ",\"tenant_id\":", tenant_id));
        }
        record.extend_from_slice(b",\"payload\":");
        record.extend_from_slice(&self.payload);
        record.push(b'}');
    }
}

/// Appends `opening`, the text as the inside of a JSON string, and its closing quote. Tells where the inside is.
fn text_field(record: &mut Vec<u8>, opening: &str, text: &str) -> Range<usize> {
    record.extend_from_slice(opening.as_bytes());
    let start = record.len();
    let mut rest = text.as_bytes();
    loop {
        let plain = plain_until(rest, 0);
        record.extend_from_slice(&rest[..plain]);
        let Some(special) = rest.get(plain) else { break };
        debug_assert!(
            matches!(special, b'"' | b'\\'),
            "the rules keep control characters out of every field"
        );
        record.extend_from_slice(&[b'\\', *special]);
        rest = &rest[plain + 1..];
    }
    record.push(b'"');
    start..record.len() - 1
}

/// What [`text_field`] was given.
fn unescaped(inside: Bytes) -> Bytes {
    if !inside.contains(&b'\\') {
        return inside;
    }
    let mut text = Vec::with_capacity(inside.len());
    let mut bytes = inside.iter();
    while let Some(byte) = bytes.next() {
        // Nothing is written escaped but what stands behind its backslash as it is.
        text.extend(if *byte == b'\\' { bytes.next() } else { Some(byte) });
    }
    text.into()
}

fn integer_field(record: &mut Vec<u8>, opening: &str, value: i64) -> Range<usize> {
    record.extend_from_slice(opening.as_bytes());
    let start = record.len();
    match u8::try_from(value) {
        // What versions are; `write!` takes as long as three texts.
        Ok(digit @ 0..=9) => record.push(b'0' + digit),
        _ => write!(record, "{value}").expect("a Vec takes everything"),
    }
    start..record.len()
}

/// An Envelope as it is published: its JSON under its aggregate id as the key, with the headers `X-Event-ID`,
/// `X-Aggregate-ID`, `X-Event-Type`, `X-Event-Version` and, where they are set, `X-Trace-ID`, `X-Correlation-ID` and
/// `X-Tenant-ID`.
///
/// ```
/// use keylane::{Envelope, Record};
///
/// let record = Record::from(&Envelope::new("order-42", "order.paid", 1, "995")?);
/// assert_eq!(record.key.as_deref(), Some(&b"order-42"[..]));
/// assert_eq!(record.headers.get("X-Event-Type"), Some(&b"order.paid"[..]));
/// # Ok::<(), keylane::EnvelopeError>(())
/// ```
impl From<&Envelope<'_>> for Record {
    fn from(envelope: &Envelope<'_>) -> Self {
        let (key, value, headers) = envelope.to_parts();
        Self { key: Some(key), value, headers, timestamp: chance::wall_time() }
    }
}
