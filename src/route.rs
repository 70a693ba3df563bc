//! Which aggregate a record belongs to, and which worker that aggregate is handled by.

use crate::envelope::{Envelope, check_aggregate_id};
use crate::record::{Headers, Record};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// Where a subscription finds what a record is ordered by.
///
/// What has a key has order, whatever the key is made of: an e-mail address, a name in any alphabet, bytes. The aggregate
/// id of an Envelope alone has an alphabet, 1 to 256 bytes of `A-Za-z0-9:_-./`. A record in which nothing is found has no
/// order: it goes to any worker in turn and is counted, and a subscription to Envelopes says so. Of a header that is
/// repeated the first counts.
///
/// ```
/// use keylane::Route;
/// use std::sync::Arc;
///
/// let bus = keylane::connect("memory:?topics=orders").wait()?;
/// let by_prefix = Route::With(Arc::new(|record| {
///     let key = std::str::from_utf8(record.key?).ok()?;
///     Some(key.split('/').next()?.to_owned())
/// }));
/// let orders = bus.subscribe("orders").group("billing").route(by_prefix).handle(|_| Ok(()))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum Route {
    /// The first that is there: the Envelope's aggregate id, the header `X-Aggregate-ID` (in any case) if it holds an
    /// aggregate id, the key of the record, the last token of its NATS subject if it is one, the header whatever it
    /// holds.
    #[default]
    Auto,
    /// The Envelope's aggregate id alone.
    Envelope,
    /// The header of this name alone, in any case.
    Header(String),
    /// The key of the record alone (Kafka key, memory key).
    Key,
    /// This token of the NATS subject alone, counted from 0.
    Subject(usize),
    /// No order: every worker in turn.
    RoundRobin,
    /// What the function returns; `None`, or an empty text, for a record without an order.
    ///
    /// It is called once for each record, on the thread that fetches, so it must be quick and must not block.
    With(Arc<dyn Fn(RecordView<'_>) -> Option<String> + Send + Sync>),
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("Auto"),
            Self::Envelope => f.write_str("Envelope"),
            Self::Header(name) => f.debug_tuple("Header").field(name).finish(),
            Self::Key => f.write_str("Key"),
            Self::Subject(token) => f.debug_tuple("Subject").field(token).finish(),
            Self::RoundRobin => f.write_str("RoundRobin"),
            Self::With(_) => f.write_str("With(..)"),
        }
    }
}

/// What routing sees of a record. Borrowed; copying it is cheap.
///
/// ```
/// use keylane::{Record, RecordView, Route};
/// use std::sync::Arc;
///
/// fn tenant(record: RecordView<'_>) -> Option<String> {
///     let tenant = record.headers.get("X-Tenant-ID")?;
///     String::from_utf8(tenant.to_vec()).ok()
/// }
/// let by_tenant = Route::With(Arc::new(tenant));
/// let record = Record::new("paid").with_header("X-Tenant-ID", "7");
/// assert_eq!(by_tenant.aggregate_id_of(&record).as_deref(), Some("7"));
/// ```
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct RecordView<'a> {
    /// The key that the broker has for the record.
    pub key: Option<&'a [u8]>,
    /// The headers of the record.
    pub headers: &'a Headers,
    /// The NATS subject; `None` on other brokers.
    pub subject: Option<&'a str>,
    /// The bytes of the record.
    pub value: &'a [u8],
    /// The aggregate id of the Envelope that the value is; `None` where it is none.
    pub envelope_aggregate_id: Option<&'a str>,
}

/// What routing found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Routing<'a> {
    /// The record is ordered by this.
    Aggregate { id: Cow<'a, [u8]>, source: Source },
    /// No order: nothing was there where the route looks.
    Absent,
}

/// Where an aggregate id was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Envelope,
    Header,
    Key,
    Subject,
    Function,
}

impl Route {
    /// What this route has a record of an Envelope subscription ordered by, bytes that are no text escaped; none: the
    /// record would have no order. Parses the record if its first byte is `{`.
    ///
    /// ```
    /// use keylane::{Record, Route};
    ///
    /// let record = Record::new("hello").with_key("order-42");
    /// assert_eq!(Route::Auto.aggregate_id_of(&record).as_deref(), Some("order-42"));
    /// assert_eq!(Route::Envelope.aggregate_id_of(&record), None);
    /// ```
    pub fn aggregate_id_of(&self, record: &Record) -> Option<String> {
        let envelope =
            if looks_like_envelope(&record.value) { Envelope::parse(&record.value).ok() } else { None };
        let view = RecordView {
            key: record.key.as_deref(),
            headers: &record.headers,
            subject: None,
            value: &record.value,
            envelope_aggregate_id: envelope.as_ref().map(Envelope::aggregate_id),
        };
        match self.find(view) {
            Routing::Aggregate { id, .. } => Some(key_text(&id)),
            Routing::Absent => None,
        }
    }

    /// Finds what a record is ordered by.
    pub(crate) fn find<'a>(&self, record: RecordView<'a>) -> Routing<'a> {
        let envelope = || Routing::of_text(Source::Envelope, record.envelope_aggregate_id);
        let header = |name| Routing::of(Source::Header, record.headers.get(name).filter(|id| !id.is_empty()));
        // Also one of no bytes: its publisher said that the record has a key.
        let key = || Routing::of(Source::Key, record.key);
        let subject = |token| Routing::of_text(Source::Subject, token);
        match self {
            Self::Auto => {
                let in_header = header(Envelope::AGGREGATE_ID_HEADER);
                let in_subject = || subject(record.subject.and_then(|subject| subject.rsplit('.').next()));
                envelope()
                    .or_else(|| in_header.clone().if_aggregate_id())
                    .or_else(key)
                    // One that is anything else has no key in it, or the record's key came out of it.
                    .or_else(|| in_subject().if_aggregate_id())
                    .or_else(|| in_header)
            }
            Self::Envelope => envelope(),
            Self::Header(name) => header(name),
            Self::Key => key(),
            Self::Subject(n) => subject(record.subject.and_then(|subject| subject.split('.').nth(*n))),
            Self::RoundRobin => Routing::Absent,
            Self::With(function) => match function(record) {
                Some(id) if !id.is_empty() => {
                    Routing::Aggregate { id: Cow::Owned(id.into_bytes()), source: Source::Function }
                }
                Some(_) | None => Routing::Absent,
            },
        }
    }
}

impl<'a> Routing<'a> {
    fn of(source: Source, found: Option<&'a [u8]>) -> Self {
        found.map_or(Self::Absent, |id| Self::Aggregate { id: Cow::Borrowed(id), source })
    }

    fn of_text(source: Source, found: Option<&'a str>) -> Self {
        Self::of(source, found.map(str::as_bytes).filter(|id| !id.is_empty()))
    }

    fn or_else(self, next: impl FnOnce() -> Self) -> Self {
        match self {
            Self::Aggregate { .. } => self,
            Self::Absent => next(),
        }
    }

    fn if_aggregate_id(self) -> Self {
        match self {
            Self::Aggregate { ref id, .. } if check_aggregate_id(id).is_ok() => self,
            _ => Self::Absent,
        }
    }
}

/// How a key is shown: as the text that it is, else with its bytes escaped.
pub(crate) fn key_text(key: &[u8]) -> String {
    std::str::from_utf8(key).map_or_else(|_| key.escape_ascii().to_string(), str::to_owned)
}

/// Whether a plain record is worth parsing as an Envelope: its first byte is `{`.
pub(crate) fn looks_like_envelope(value: &[u8]) -> bool {
    value.first() == Some(&b'{')
}

#[cfg(test)]
mod tests;
