//! The event format: a record that says which event it is, of which aggregate, and when.

mod aggregate_id;
mod encode;
mod error;
mod field;
mod json;
mod parse;
mod rules;
mod timestamp;

pub(crate) use aggregate_id::check_aggregate_id;
pub use error::{EnvelopeError, EnvelopeErrorKind};
pub use parse::Limits;
pub(crate) use parse::{Parsed, begins_with_aggregate, parse_spans};
pub use timestamp::{Timestamp, TimestampError};

use crate::chance;
use error::EnvelopeErrorKind as Kind;
use field::Field;
use std::borrow::Cow;
use std::fmt;

/// One event: the JSON object that services exchange, compatible on the wire with the Go library jxt-core.
///
/// | Field | Rule |
/// |---|---|
/// | `event_id` | text |
/// | `aggregate_id` | 1 to 256 bytes of `A-Za-z0-9:_-./` |
/// | `event_type` | text |
/// | `event_version` | integer, 1 to 9,223,372,036,854,775,807 |
/// | `timestamp` | RFC 3339, see [`Timestamp`] |
/// | `trace_id`, `correlation_id` | text; absent, `null` or `""` if there is none |
/// | `tenant_id` | integer of 64 bits; absent or `null` if there is none |
/// | `payload` | any JSON value, kept byte for byte; an Envelope made here has one other than `null` |
///
/// *Text* is not blank, neither starts nor ends with whitespace, and has no control characters: it travels in headers
/// too and must come out of them as it went in.
///
/// A record has one reading or is refused: no field twice, none in another case, no bytes that are not UTF-8, no
/// byte order mark, no escape of half a surrogate pair in a name or a text, and nothing but whitespace behind the
/// object. Unknown fields are checked to be JSON and left out. Within the payload and unknown fields only the grammar
/// of JSON counts: a name may occur twice there, and what an escape means is up to who reads the payload.
///
/// It borrows from what it was parsed or made from; [`into_owned`](Self::into_owned) ends that. It neither locks nor
/// blocks.
///
/// ```
/// use keylane::Envelope;
///
/// let paid = Envelope::new("order-42", "order.paid", 1, r#"{"cents":995}"#)?.with_trace_id("t-1")?;
/// let record = paid.encode();
///
/// let read = Envelope::parse(&record)?;
/// assert_eq!(read, paid);
/// assert_eq!(read.payload(), r#"{"cents":995}"#);
/// # Ok::<(), keylane::EnvelopeError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Envelope<'a> {
    event_id: Cow<'a, str>,
    aggregate_id: Cow<'a, str>,
    event_type: Cow<'a, str>,
    event_version: i64,
    timestamp: Timestamp,
    trace_id: Option<Cow<'a, str>>,
    correlation_id: Option<Cow<'a, str>>,
    tenant_id: Option<i64>,
    /// UTF-8, as bytes: an Event makes this view again and again, and the payload is the one field that may be long.
    payload: Cow<'a, [u8]>,
}

impl<'a> Envelope<'a> {
    /// Reads an Envelope from a record, within the default [`Limits`].
    ///
    /// One pass; nothing is copied or allocated unless a text holds escapes or values nest deeper than 64.
    ///
    /// # Errors
    /// The first rule that the record breaks, with its field and byte.
    pub fn parse(record: &'a [u8]) -> Result<Self, EnvelopeError> {
        Self::parse_with(record, &Limits::default())
    }

    /// Reads an Envelope from a record, within `limits`.
    ///
    /// # Errors
    /// The first rule that the record breaks, with its field and byte.
    pub fn parse_with(record: &'a [u8], limits: &Limits) -> Result<Self, EnvelopeError> {
        parse::parse_borrowed(record, limits)
    }

    /// Makes an Envelope with a UUIDv7 of its own as event id and the time of the clock.
    ///
    /// `payload` is one JSON value as text, nested within the default [`Limits::max_depth`]. It is kept as it is,
    /// less whitespace around it.
    ///
    /// # Errors
    /// The first argument that breaks its rule. A payload of `null` does: jxt-core writes such Envelopes but refuses
    /// to read them, so none is made here, though one that arrives is read.
    pub fn new(
        aggregate_id: impl Into<Cow<'a, str>>,
        event_type: impl Into<Cow<'a, str>>,
        event_version: i64,
        payload: impl Into<Cow<'a, str>>,
    ) -> Result<Self, EnvelopeError> {
        let in_version = |error: EnvelopeError| error.in_field(Field::EventVersion.name());
        Ok(Self {
            event_id: chance::event_id().to_string().into(),
            aggregate_id: checked(Field::AggregateId, aggregate_id)?,
            event_type: checked(Field::EventType, event_type)?,
            event_version: rules::check_event_version(event_version).map_err(in_version)?,
            timestamp: Timestamp::now(),
            trace_id: None,
            correlation_id: None,
            tenant_id: None,
            payload: checked_payload(payload.into())
                .map_err(|error| error.in_field(Field::Payload.name()))?,
        })
    }

    /// Replaces the event id.
    ///
    /// # Errors
    /// It is blank or padded, or has control characters.
    pub fn with_event_id(mut self, event_id: impl Into<Cow<'a, str>>) -> Result<Self, EnvelopeError> {
        self.event_id = checked(Field::EventId, event_id)?;
        Ok(self)
    }

    /// Replaces the timestamp.
    #[must_use]
    pub fn with_timestamp(mut self, timestamp: Timestamp) -> Self {
        self.timestamp = timestamp;
        self
    }

    /// Sets the trace id; an empty one takes it away.
    ///
    /// # Errors
    /// It is padded or only whitespace, or has control characters.
    pub fn with_trace_id(mut self, trace_id: impl Into<Cow<'a, str>>) -> Result<Self, EnvelopeError> {
        self.trace_id = Some(checked(Field::TraceId, trace_id)?).filter(|id| !id.is_empty());
        Ok(self)
    }

    /// Sets the correlation id; an empty one takes it away.
    ///
    /// # Errors
    /// It is padded or only whitespace, or has control characters.
    pub fn with_correlation_id(
        mut self,
        correlation_id: impl Into<Cow<'a, str>>,
    ) -> Result<Self, EnvelopeError> {
        self.correlation_id =
            Some(checked(Field::CorrelationId, correlation_id)?).filter(|id| !id.is_empty());
        Ok(self)
    }

    /// Sets the tenant id.
    #[must_use]
    pub fn with_tenant_id(mut self, tenant_id: i64) -> Self {
        self.tenant_id = Some(tenant_id);
        self
    }

    /// The same Envelope, borrowing nothing. Copies what was borrowed.
    pub fn into_owned(self) -> Envelope<'static> {
        fn owned(text: Cow<'_, str>) -> Cow<'static, str> {
            Cow::Owned(text.into_owned())
        }
        Envelope {
            event_id: owned(self.event_id),
            aggregate_id: owned(self.aggregate_id),
            event_type: owned(self.event_type),
            event_version: self.event_version,
            timestamp: self.timestamp,
            trace_id: self.trace_id.map(owned),
            correlation_id: self.correlation_id.map(owned),
            tenant_id: self.tenant_id,
            payload: Cow::Owned(self.payload.into_owned()),
        }
    }

    /// What tells this event from every other; a UUIDv7 if it was made here.
    pub fn event_id(&self) -> &str {
        &self.event_id
    }

    /// The aggregate whose events are kept in order: 1 to 256 bytes of `A-Za-z0-9:_-./`.
    pub fn aggregate_id(&self) -> &str {
        &self.aggregate_id
    }

    /// What happened, for instance `order.paid`.
    pub fn event_type(&self) -> &str {
        &self.event_type
    }

    /// The version of the event's format, 1 or above.
    pub fn event_version(&self) -> i64 {
        self.event_version
    }

    /// When it happened, by the clock of who made it.
    pub fn timestamp(&self) -> Timestamp {
        self.timestamp
    }

    /// The trace that it belongs to.
    pub fn trace_id(&self) -> Option<&str> {
        self.trace_id.as_deref()
    }

    /// The business transaction that it belongs to.
    pub fn correlation_id(&self) -> Option<&str> {
        self.correlation_id.as_deref()
    }

    /// The tenant that it belongs to.
    pub fn tenant_id(&self) -> Option<i64> {
        self.tenant_id
    }

    /// The payload: one JSON value, byte for byte as it is in the record, without whitespace around it.
    ///
    /// Costs a pass over the payload for UTF-8. [`payload_bytes`](Self::payload_bytes) does not, and is what
    /// `serde_json::from_slice` wants.
    ///
    /// # Panics
    /// Never: what was parsed or given was UTF-8 as a whole, and is cut only at ASCII.
    pub fn payload(&self) -> &str {
        std::str::from_utf8(&self.payload).expect("the payload was UTF-8 when it was parsed or given")
    }

    /// The bytes of the [`payload`](Self::payload).
    ///
    /// ```
    /// let paid = keylane::Envelope::new("order-42", "order.paid", 1, r#"{"cents":995}"#)?;
    /// let payload: serde_json::Value = serde_json::from_slice(paid.payload_bytes())?;
    /// assert_eq!(payload["cents"], 995);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn payload_bytes(&self) -> &[u8] {
        &self.payload
    }
}

fn checked<'a>(field: Field, text: impl Into<Cow<'a, str>>) -> Result<Cow<'a, str>, EnvelopeError> {
    let text = text.into();
    rules::check_text(field, &text).map_err(|error| error.in_field(field.name()))?;
    Ok(text)
}

/// The JSON value that `text` is, without whitespace around it.
fn checked_payload(text: Cow<'_, str>) -> Result<Cow<'_, [u8]>, EnvelopeError> {
    let mut scan = json::Scanner::new(&text);
    scan.skip_whitespace();
    let start = scan.at();
    // The Envelope's own object will be open around it.
    scan.value(1, Limits::default().max_depth)?;
    let value = start..scan.at();
    scan.skip_whitespace();
    if scan.peek().is_some() {
        return Err(scan.unexpected("must have nothing but whitespace after its value"));
    }
    if &text[value.clone()] == "null" {
        let error = EnvelopeError::new(Kind::NullPayload, "must not be null", start);
        return Err(error.showing(b"null"));
    }
    Ok(match text {
        Cow::Borrowed(text) => Cow::Borrowed(text[value].as_bytes()),
        Cow::Owned(mut text) => {
            text.truncate(value.end);
            text.drain(..value.start);
            Cow::Owned(text.into_bytes())
        }
    })
}

impl fmt::Debug for Envelope<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope")
            .field("event_id", &self.event_id)
            .field("aggregate_id", &self.aggregate_id)
            .field("event_type", &self.event_type)
            .field("event_version", &self.event_version)
            .field("timestamp", &self.timestamp)
            .field("trace_id", &self.trace_id)
            .field("correlation_id", &self.correlation_id)
            .field("tenant_id", &self.tenant_id)
            .field("payload", &self.payload())
            .finish()
    }
}
