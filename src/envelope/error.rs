//! What an Envelope was refused for.

use std::borrow::Cow;
use std::fmt;

/// Longest part of an offending value that an error repeats, in bytes before escaping.
const EXCERPT_BYTES: usize = 32;

/// An Envelope that breaks a rule: which field, which rule, and at which byte.
///
/// The message repeats at most 32 bytes of what was found, with control characters escaped, so that it is safe in a
/// log line and in a terminal.
///
/// ```
/// use keylane::{Envelope, EnvelopeErrorKind};
///
/// let refused = Envelope::parse(br#"{"event_id":"e1","aggregate_id":7}"#).unwrap_err();
/// assert_eq!(refused.kind(), EnvelopeErrorKind::WrongType);
/// assert_eq!(refused.field(), Some("aggregate_id"));
/// assert_eq!(refused.offset(), 32);
/// assert_eq!(refused.to_string(), "invalid Envelope: aggregate_id must be a string (byte 32, found `7`)");
/// ```
// Boxed, so that the Ok path of the parser moves one word for it.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct EnvelopeError(Box<Refusal>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Refusal {
    kind: EnvelopeErrorKind,
    field: Option<&'static str>,
    rule: Cow<'static, str>,
    offset: usize,
    found: Option<String>,
}

impl std::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = self.field.unwrap_or("the record");
        write!(f, "invalid Envelope: {subject} {} (byte {}", self.rule, self.offset)?;
        if let Some(found) = &self.found {
            write!(f, ", found `{found}`")?;
        }
        f.write_str(")")
    }
}

impl fmt::Debug for EnvelopeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnvelopeError")
            .field("kind", &self.0.kind)
            .field("field", &self.0.field)
            .field("rule", &self.0.rule)
            .field("offset", &self.0.offset)
            .field("found", &self.0.found)
            .finish()
    }
}

impl EnvelopeError {
    #[cold]
    pub(super) fn new(kind: EnvelopeErrorKind, rule: impl Into<Cow<'static, str>>, offset: usize) -> Self {
        Self(Box::new(Refusal { kind, field: None, rule: rule.into(), offset, found: None }))
    }

    /// Names the field, unless what went wrong inside it has already named one.
    pub(super) fn in_field(mut self, field: &'static str) -> Self {
        self.0.field.get_or_insert(field);
        self
    }

    /// Moves the offset from within a value to within the record that holds it.
    pub(super) fn moved_by(mut self, start: usize) -> Self {
        self.0.offset += start;
        self
    }

    /// Replaces an offset that counts within something other than the record.
    pub(super) fn pointing_at(mut self, offset: usize) -> Self {
        self.0.offset = offset;
        self
    }

    /// Shows the start of the offending value.
    pub(super) fn showing(mut self, value: &[u8]) -> Self {
        let shown = &value[..value.len().min(EXCERPT_BYTES)];
        // A cut may split a character: lossy decoding would show it as garbage that is not in the record.
        let text = match std::str::from_utf8(shown) {
            Err(cut) if cut.error_len().is_none() => {
                String::from_utf8_lossy(&shown[..cut.valid_up_to()]).into_owned()
            }
            _ => String::from_utf8_lossy(shown).into_owned(),
        };
        let mut found: String = text.chars().flat_map(escape_unprintable).collect();
        if shown.len() < value.len() {
            found.push('…');
        }
        self.0.found = Some(found);
        self
    }

    /// The rule that was broken.
    pub fn kind(&self) -> EnvelopeErrorKind {
        self.0.kind
    }

    /// The field that broke it, as spelled on the wire; `None` when the record as a whole did.
    pub fn field(&self) -> Option<&'static str> {
        self.0.field
    }

    /// Where: the byte of the record at which the offending byte or value starts, counted from 0.
    ///
    /// Of a missing field it is the closing brace; of a value given to a builder it counts within that value.
    pub fn offset(&self) -> usize {
        self.0.offset
    }

    /// The rule in words, to be read after the name of the field.
    pub fn rule(&self) -> &str {
        &self.0.rule
    }
}

/// Like `char::escape_debug`, but quotes stay as they are: JSON is full of them.
fn escape_unprintable(c: char) -> impl Iterator<Item = char> {
    let quote = matches!(c, '"' | '\'' | '\\').then_some(c);
    let escaped = if quote.is_some() { None } else { Some(c.escape_debug()) };
    quote.into_iter().chain(escaped.into_iter().flatten())
}

/// The rule that an [`EnvelopeError`] is about.
///
/// ```
/// use keylane::{Envelope, EnvelopeErrorKind};
///
/// fn is_worth_a_look(kind: EnvelopeErrorKind) -> bool {
///     // A publisher that knows no limits, rather than bytes that are something else.
///     matches!(kind, EnvelopeErrorKind::TooLarge | EnvelopeErrorKind::TooDeep)
/// }
/// let record = "[".repeat(200);
/// assert!(!is_worth_a_look(Envelope::parse(record.as_bytes()).unwrap_err().kind()));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EnvelopeErrorKind {
    /// The record has more bytes than [`Limits::max_bytes`](crate::Limits::max_bytes).
    TooLarge,
    /// Objects and arrays are nested deeper than [`Limits::max_depth`](crate::Limits::max_depth).
    TooDeep,
    /// A byte sequence is not UTF-8.
    NotUtf8,
    /// The record starts with a byte order mark.
    ByteOrderMark,
    /// The bytes break the grammar of JSON, or are no object.
    Syntax,
    /// Something other than whitespace follows the object.
    TrailingBytes,
    /// A required field is not there.
    Missing,
    /// A field of the Envelope occurs twice.
    Duplicate,
    /// A name differs from a field of the Envelope only in case, so that some readers would take it for that field.
    WrongCase,
    /// The value has another JSON type than the field.
    WrongType,
    /// The text is empty or only whitespace.
    Blank,
    /// The text starts or ends with whitespace, which headers would lose.
    Padded,
    /// The text holds a control character (Unicode category Cc), which has no place in a header.
    ControlCharacter,
    /// An escape stands for half of a surrogate pair, which UTF-8 cannot express.
    LoneSurrogate,
    /// The aggregate id has more than 256 bytes.
    TooLong,
    /// The aggregate id holds a byte outside `A-Za-z0-9:_-./`.
    InvalidCharacter,
    /// The number has a fraction or an exponent.
    NotInteger,
    /// The integer is outside the range of the field.
    OutOfRange,
    /// The text is no RFC 3339 timestamp as [`Timestamp`](crate::Timestamp) defines it.
    InvalidTimestamp,
    /// The payload of an Envelope made here is `null`.
    NullPayload,
}
