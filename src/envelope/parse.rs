//! One pass over a record: what is where in it, and whether it keeps the rules.

use super::Envelope;
use super::error::{EnvelopeError, EnvelopeErrorKind as Kind};
use super::field::Field;
use super::json::{Scanner, unescape};
use super::rules::{check_event_version, check_read_text, invalid_timestamp};
use super::timestamp::Timestamp;
use std::borrow::Cow;
use std::ops::Range;

/// How large and how deeply nested a record may be that is parsed as an Envelope.
///
/// ```
/// use keylane::{Envelope, EnvelopeErrorKind, Limits};
///
/// let small = Limits { max_bytes: 16, ..Limits::default() };
/// let refused = Envelope::parse_with(br#"{"event_id":"e1"}"#, &small).unwrap_err();
/// assert_eq!(refused.kind(), EnvelopeErrorKind::TooLarge);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of a record, 1,048,576 by default. A value above 2,147,483,647 counts as that.
    pub max_bytes: usize,
    /// Most objects and arrays open at once, 128 by default; the Envelope's own object is the first.
    pub max_depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_bytes: 1024 * 1024, max_depth: 128 }
    }
}

/// A stretch of the record, or of the unescaped text kept beside it. Empty: the field is absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Span {
    /// The start, with [`Span::UNESCAPED`] set when it is in the unescaped text.
    start: u32,
    length: u32,
}

impl Span {
    /// Which leaves 31 bits for the offset: the reason why a record has at most [`Span::MAX_BYTES`].
    const UNESCAPED: u32 = 1 << 31;
    const MAX_BYTES: usize = (Self::UNESCAPED - 1) as usize;

    fn new(range: &Range<usize>) -> Self {
        debug_assert!(range.end <= Self::MAX_BYTES, "records above the limit were refused before");
        Self { start: range.start as u32, length: range.len() as u32 }
    }

    fn range(self) -> Range<usize> {
        let start = (self.start & !Self::UNESCAPED) as usize;
        start..start + self.length as usize
    }

    fn is_unescaped(self) -> bool {
        self.start & Self::UNESCAPED != 0
    }

    fn is_empty(self) -> bool {
        self.length == 0
    }
}

/// A parsed Envelope without its bytes, so that whoever owns the bytes can own this beside them.
///
/// It is meaningful only together with the very bytes that it was parsed from.
#[derive(Debug, Clone)]
pub(crate) struct Parsed {
    event_id: Span,
    aggregate_id: Span,
    event_type: Span,
    trace_id: Span,
    correlation_id: Span,
    payload: Span,
    event_version: i64,
    timestamp: Timestamp,
    tenant_id: Option<i64>,
    /// The strings that held escapes, one behind the other; empty, and not allocated, in nearly every record.
    unescaped: Box<str>,
}

impl Parsed {
    /// The Envelope as it lies in `record`, the bytes that this was parsed from.
    ///
    /// Costs a check of the short fields for UTF-8, which safe code cannot skip, and nothing for the payload.
    ///
    /// # Panics
    /// May, if `record` holds other bytes.
    pub(crate) fn view<'a>(&'a self, record: &'a [u8]) -> Envelope<'a> {
        self.envelope(&record[self.payload.range()], |span| Cow::Borrowed(self.text(span, record)))
    }

    /// The aggregate id as it lies in `record`, the bytes that this was parsed from.
    pub(crate) fn aggregate_id<'a>(&'a self, record: &'a [u8]) -> &'a str {
        self.text(self.aggregate_id, record)
    }

    fn text<'a>(&'a self, span: Span, record: &'a [u8]) -> &'a str {
        if span.is_unescaped() {
            return &self.unescaped[span.range()];
        }
        std::str::from_utf8(&record[span.range()]).expect("the record was UTF-8 when it was parsed")
    }

    /// Like [`view`](Self::view), of a record known to be text; what held escapes is copied.
    fn into_envelope(self, record: &str) -> Envelope<'_> {
        self.envelope(record[self.payload.range()].as_bytes(), |span| {
            if span.is_unescaped() {
                Cow::Owned(self.unescaped[span.range()].to_owned())
            } else {
                Cow::Borrowed(&record[span.range()])
            }
        })
    }

    fn envelope<'a>(&self, payload: &'a [u8], text: impl Fn(Span) -> Cow<'a, str>) -> Envelope<'a> {
        Envelope {
            event_id: text(self.event_id),
            aggregate_id: text(self.aggregate_id),
            event_type: text(self.event_type),
            event_version: self.event_version,
            timestamp: self.timestamp,
            trace_id: (!self.trace_id.is_empty()).then(|| text(self.trace_id)),
            correlation_id: (!self.correlation_id.is_empty()).then(|| text(self.correlation_id)),
            tenant_id: self.tenant_id,
            payload: Cow::Borrowed(payload),
        }
    }
}

/// How long an event's id is that is made here, as the text of a UUID.
const USUAL_EVENT_ID: usize = 36;
/// How far the end of an event's id is looked for; one that is longer is parsed before it is routed.
const LONGEST_EVENT_ID: usize = 128;

/// Whether the bytes begin as an Envelope of this aggregate is written: its own id, then the aggregate's. If they are a
/// valid Envelope at all, it is this aggregate's then, since no field may occur twice.
pub(crate) fn begins_with_aggregate(record: &[u8], aggregate_id: &[u8]) -> bool {
    let Some(rest) = record.strip_prefix(b"{\"event_id\":\"") else { return false };
    let is_usual = rest.get(USUAL_EVENT_ID) == Some(&b'"') && !rest[..USUAL_EVENT_ID].contains(&b'"');
    // An id in which a quote is escaped ends here too early, which no valid Envelope follows.
    let end = || rest.iter().take(LONGEST_EVENT_ID).position(|byte| *byte == b'"');
    let Some(end) = is_usual.then_some(USUAL_EVENT_ID).or_else(end) else { return false };
    let rest =
        rest[end..].strip_prefix(b"\",\"aggregate_id\":\"").and_then(|rest| rest.strip_prefix(aggregate_id));
    rest.is_some_and(|rest| rest.first() == Some(&b'"'))
}

/// Parses a record whose bytes the caller keeps.
pub(crate) fn parse_spans(record: &[u8], limits: &Limits) -> Result<Parsed, EnvelopeError> {
    parse_text(checked_text(record, limits)?, limits)
}

pub(super) fn parse_borrowed<'a>(record: &'a [u8], limits: &Limits) -> Result<Envelope<'a>, EnvelopeError> {
    let text = checked_text(record, limits)?;
    Ok(parse_text(text, limits)?.into_envelope(text))
}

/// The record as text, if it is that and within the limit.
fn checked_text<'a>(record: &'a [u8], limits: &Limits) -> Result<&'a str, EnvelopeError> {
    let max_bytes = limits.max_bytes.min(Span::MAX_BYTES);
    if record.len() > max_bytes {
        let rule = format!("has {} bytes and must not have more than {max_bytes}", record.len());
        return Err(EnvelopeError::new(Kind::TooLarge, rule, max_bytes));
    }
    if record.starts_with("\u{feff}".as_bytes()) {
        return Err(EnvelopeError::new(Kind::ByteOrderMark, "must not start with a byte order mark", 0));
    }
    std::str::from_utf8(record).map_err(|not_utf8| {
        let at = not_utf8.valid_up_to();
        let length = not_utf8.error_len().unwrap_or(record.len() - at);
        let bytes = record[at..at + length].escape_ascii().to_string();
        EnvelopeError::new(Kind::NotUtf8, "must be UTF-8", at).showing(bytes.as_bytes())
    })
}

fn parse_text(text: &str, limits: &Limits) -> Result<Parsed, EnvelopeError> {
    let mut parser = Parser {
        scan: Scanner::new(text),
        max_depth: limits.max_depth,
        seen: 0,
        next: 0,
        unescaped: String::new(),
        parsed: Parsed {
            event_id: Span::default(),
            aggregate_id: Span::default(),
            event_type: Span::default(),
            trace_id: Span::default(),
            correlation_id: Span::default(),
            payload: Span::default(),
            event_version: 0,
            timestamp: Timestamp::UNIX_EPOCH,
            tenant_id: None,
            unescaped: Box::default(),
        },
    };
    parser.record()?;
    parser.parsed.unescaped = parser.unescaped.into_boxed_str();
    Ok(parser.parsed)
}

struct Parser<'a> {
    scan: Scanner<'a>,
    max_depth: usize,
    /// A bit for each field that occurred, also as `null`.
    seen: u16,
    /// The first field behind the one that was read last, up to the number of fields.
    next: usize,
    unescaped: String,
    /// What was read so far; of the required fields those that are `seen` hold, and only those.
    parsed: Parsed,
}

impl Parser<'_> {
    fn record(&mut self) -> Result<(), EnvelopeError> {
        self.scan.skip_whitespace();
        if !self.scan.take(b'{') {
            return Err(self.scan.unexpected("must be a JSON object"));
        }
        self.scan.skip_whitespace();
        let mut end = self.scan.at();
        if !self.scan.take(b'}') {
            loop {
                self.member()?;
                self.scan.skip_whitespace();
                end = self.scan.at();
                if self.scan.take(b'}') {
                    break;
                }
                if !self.scan.take(b',') {
                    return Err(self.scan.unexpected("must have a comma or a closing brace here"));
                }
                self.scan.skip_whitespace();
            }
        }
        self.scan.skip_whitespace();
        if self.scan.peek().is_some() {
            let rule = "must have nothing but whitespace after the object";
            let at = self.scan.at();
            let rest = &self.scan.text().as_bytes()[at..];
            return Err(EnvelopeError::new(Kind::TrailingBytes, rule, at).showing(rest));
        }
        let missing = |field: &&Field| self.seen & field.bit() == 0 && !field.is_optional();
        match Field::ALL.iter().find(missing) {
            Some(field) => Err(EnvelopeError::new(Kind::Missing, "is missing", end).in_field(field.name())),
            None => Ok(()),
        }
    }

    /// Reads one name and its value.
    fn member(&mut self) -> Result<(), EnvelopeError> {
        let name_at = self.scan.at();
        // Writers keep to one order and leave fields out: one compare, or a few, tells nearly every name.
        let expected = Field::ALL[self.next..].iter().find(|field| self.scan.take_all(field.opening()));
        let field = if let Some(&field) = expected {
            self.scan.skip_whitespace();
            field
        } else if let Some(field) = self.name()? {
            field
        } else {
            return self.scan.value(1, self.max_depth);
        };
        if self.seen & field.bit() != 0 {
            let error = EnvelopeError::new(Kind::Duplicate, "must not occur twice", name_at);
            return Err(error.in_field(field.name()));
        }
        self.seen |= field.bit();
        self.next = field as usize + 1;
        self.value(field).map_err(|error| error.in_field(field.name()))
    }

    /// Reads a name, however it is written; `None` is one that no field has.
    fn name(&mut self) -> Result<Option<Field>, EnvelopeError> {
        let text = self.scan.text();
        let name_at = self.scan.at();
        let token = self.scan.name()?;
        let name = if token.escaped {
            let mut name = String::new();
            unescape(&text[token.span.clone()], &mut name)
                .map_err(|at| lone_surrogate(token.span.start + at))?;
            Cow::Owned(name)
        } else {
            Cow::Borrowed(&text[token.span])
        };
        let same_but_for_case = Field::ALL.into_iter().find(|field| name.eq_ignore_ascii_case(field.name()));
        let Some(field) = same_but_for_case else { return Ok(None) };
        if name != field.name() {
            let rule = format!("must be written `{}`", field.name());
            let error = EnvelopeError::new(Kind::WrongCase, rule, name_at).showing(name.as_bytes());
            return Err(error.in_field(field.name()));
        }
        Ok(Some(field))
    }

    fn value(&mut self, field: Field) -> Result<(), EnvelopeError> {
        if field.is_optional() && self.scan.peek() == Some(b'n') {
            return self.scan.literal("null");
        }
        match field {
            Field::EventId => self.parsed.event_id = self.text(field)?,
            Field::AggregateId => self.parsed.aggregate_id = self.text(field)?,
            Field::EventType => self.parsed.event_type = self.text(field)?,
            Field::TraceId => self.parsed.trace_id = self.text(field)?,
            Field::CorrelationId => self.parsed.correlation_id = self.text(field)?,
            Field::EventVersion => {
                let at = self.scan.at();
                self.parsed.event_version =
                    check_event_version(self.integer()?).map_err(|e| e.moved_by(at))?;
            }
            Field::TenantId => self.parsed.tenant_id = Some(self.integer()?),
            Field::Timestamp => {
                let read = |text: &str, _| text.parse().map_err(|fault| invalid_timestamp(fault, text));
                self.parsed.timestamp = self.string(read)?.0;
            }
            Field::Payload => {
                let start = self.scan.at();
                self.scan.value(1, self.max_depth)?;
                self.parsed.payload = Span::new(&(start..self.scan.at()));
            }
        }
        Ok(())
    }

    fn text(&mut self, field: Field) -> Result<Span, EnvelopeError> {
        Ok(self.string(|text, is_printable_ascii| check_read_text(field, text, is_printable_ascii))?.1)
    }

    /// Reads a string that `read` accepts, which is told whether it is known to be printable ASCII. Offsets in its
    /// errors count from the start of the text.
    fn string<T>(
        &mut self,
        read: impl Fn(&str, bool) -> Result<T, EnvelopeError>,
    ) -> Result<(T, Span), EnvelopeError> {
        if self.scan.peek() != Some(b'"') {
            return Err(self.wrong_type("must be a string"));
        }
        let record = self.scan.text();
        let token = self.scan.string()?;
        let raw = &record[token.span.clone()];
        if !token.escaped {
            let value =
                read(raw, token.is_printable_ascii).map_err(|error| error.moved_by(token.span.start))?;
            return Ok((value, Span::new(&token.span)));
        }
        let start = self.unescaped.len();
        unescape(raw, &mut self.unescaped).map_err(|at| lone_surrogate(token.span.start + at))?;
        // An index into the unescaped text is none into the record: the value as a whole is pointed at.
        let value =
            read(&self.unescaped[start..], false).map_err(|error| error.pointing_at(token.span.start))?;
        let mut span = Span::new(&(start..self.unescaped.len()));
        span.start |= Span::UNESCAPED;
        Ok((value, span))
    }

    fn integer(&mut self) -> Result<i64, EnvelopeError> {
        if let Some(small) = self.scan.small_integer() {
            return Ok(small);
        }
        let Some(b'-' | b'0'..=b'9') = self.scan.peek() else {
            return Err(self.wrong_type("must be an integer"));
        };
        let number = self.scan.number()?;
        let text = &self.scan.text()[number.span.clone()];
        let refused = |kind, rule| EnvelopeError::new(kind, rule, number.span.start).showing(text.as_bytes());
        if !number.is_integer {
            return Err(refused(Kind::NotInteger, "must be an integer, without fraction or exponent"));
        }
        text.parse().map_err(|_| refused(Kind::OutOfRange, "must be an integer of 64 bits"))
    }

    /// The next value has the wrong type, or is none.
    #[cold]
    fn wrong_type(&mut self, rule: &'static str) -> EnvelopeError {
        let start = self.scan.at();
        match self.scan.value(1, self.max_depth) {
            Ok(()) => {
                let value = &self.scan.text().as_bytes()[start..self.scan.at()];
                EnvelopeError::new(Kind::WrongType, rule, start).showing(value)
            }
            Err(not_json) => not_json,
        }
    }
}

#[cold]
fn lone_surrogate(at: usize) -> EnvelopeError {
    EnvelopeError::new(Kind::LoneSurrogate, "must not have an escape that is half of a surrogate pair", at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ESCAPED: &str = r#"{"event_id":"e\u0031","aggregate_id":"\u0061\u0031","event_type":"a \"b\"","event_version":1,
        "timestamp":"2025-10-31T08:00:00\u005a","trace_id":"t","correlation_id":"\uD83D\uDE00","payload":{"a":"\u0061"}}"#;

    #[test]
    fn what_is_kept_beside_the_bytes_gives_the_same_envelope_again() {
        let record = ESCAPED.as_bytes();
        let parsed = parse_spans(record, &Limits::default()).unwrap();
        let view = parsed.view(record);
        assert_eq!(view, Envelope::parse(record).unwrap());
        assert_eq!(parsed.aggregate_id(record), "a1");
        assert_eq!(view.event_id(), "e1");
        assert_eq!(view.event_type(), r#"a "b""#);
        assert_eq!(view.timestamp().to_string(), "2025-10-31T08:00:00Z");
        assert_eq!(view.trace_id(), Some("t"));
        assert_eq!(view.correlation_id(), Some("😀"));
        assert_eq!(view.payload(), r#"{"a":"\u0061"}"#);
    }

    #[test]
    fn unescaped_text_is_neither_copied_nor_allocated() {
        let record = br#"{"event_id":"e1","aggregate_id":"a1","event_type":"t","event_version":1,"timestamp":"2025-10-31T08:00:00Z","payload":[]}"#;
        let parsed = parse_spans(record, &Limits::default()).unwrap();
        assert!(parsed.unescaped.is_empty());
        for envelope in [parsed.view(record), Envelope::parse(record).unwrap()] {
            for text in [&envelope.event_id, &envelope.aggregate_id, &envelope.event_type] {
                assert!(matches!(text, Cow::Borrowed(_)));
            }
            assert!(matches!(envelope.payload, Cow::Borrowed(_)));
        }
    }

    #[test]
    fn envelopes_and_what_is_kept_of_them_stay_small() {
        assert_eq!(size_of::<Parsed>(), 104);
        assert_eq!(size_of::<Envelope>(), 184);
        assert_eq!(size_of::<EnvelopeError>(), size_of::<usize>());
    }

    proptest! {
        #[test]
        fn a_view_of_any_accepted_record_is_what_parsing_it_gives(
            at in any::<prop::sample::Index>(),
            byte in prop::sample::select(&b"\"\\u{}[]:,0aE.- nt\xc3\xa4"[..]),
        ) {
            let mut record = ESCAPED.as_bytes().to_vec();
            let at = at.index(record.len());
            record[at] = byte;
            match (parse_spans(&record, &Limits::default()), Envelope::parse(&record)) {
                (Ok(parsed), Ok(envelope)) => {
                    prop_assert_eq!(parsed.aggregate_id(&record), envelope.aggregate_id());
                    prop_assert_eq!(parsed.view(&record), envelope);
                }
                (Err(one), Err(other)) => prop_assert_eq!(one, other),
                (one, other) => prop_assert!(false, "{:?} and {:?}", one, other),
            }
        }
    }
}
