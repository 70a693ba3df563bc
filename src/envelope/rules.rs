//! The rules for the values of an Envelope, the same for one that is read and one that is made.
//!
//! Errors count their offset from the start of the value and name no field: the caller knows both.

use super::aggregate_id::{AggregateIdFault, check_aggregate_id};
use super::error::{EnvelopeError, EnvelopeErrorKind as Kind};
use super::field::Field;
use super::timestamp::TimestampError;

/// Text that may travel in a header and come out as it went in.
pub(super) fn check_text(field: Field, text: &str) -> Result<(), EnvelopeError> {
    // No early exit, so that it compiles to wide compares; nearly all text is printable ASCII.
    let is_printable_ascii = text.bytes().fold(true, |all, byte| all & (b' '..=b'~').contains(&byte));
    check_read_text(field, text, is_printable_ascii)
}

/// As [`check_text`], of text that whoever read it may have found to be printable ASCII on the way; false: or not.
pub(super) fn check_read_text(
    field: Field,
    text: &str,
    is_printable_ascii: bool,
) -> Result<(), EnvelopeError> {
    if field == Field::AggregateId {
        return check_aggregate_id(text.as_bytes()).map_err(|fault| invalid_aggregate_id(fault, text));
    }
    let is_space = |byte: Option<&u8>| byte.is_none_or(|byte| *byte == b' ');
    let (first, last) = (text.as_bytes().first(), text.as_bytes().last());
    if is_printable_ascii && !is_space(first) && !is_space(last) {
        return Ok(());
    }
    // An absent field may be written as an empty one: writers that know no absence do so.
    if text.is_empty() && field.is_optional() { Ok(()) } else { check_unusual_text(text) }
}

#[cold]
fn check_unusual_text(text: &str) -> Result<(), EnvelopeError> {
    let refused = |kind, rule, at| Err(EnvelopeError::new(kind, rule, at).showing(text.as_bytes()));
    if text.trim().is_empty() {
        return refused(Kind::Blank, "must not be blank", 0);
    }
    if let Some(at) = text.find(char::is_control) {
        return refused(Kind::ControlCharacter, "must not have control characters", at);
    }
    if text.trim().len() < text.len() {
        let at = if text.starts_with(char::is_whitespace) { 0 } else { text.trim_end().len() };
        return refused(Kind::Padded, "must not start or end with whitespace", at);
    }
    Ok(())
}

#[cold]
fn invalid_aggregate_id(fault: AggregateIdFault, text: &str) -> EnvelopeError {
    let (kind, at) = match fault {
        AggregateIdFault::Empty => (Kind::Blank, 0),
        AggregateIdFault::TooLong => (Kind::TooLong, 0),
        AggregateIdFault::InvalidCharacter { .. } if text.trim().is_empty() => (Kind::Blank, 0),
        AggregateIdFault::InvalidCharacter { at } if text.trim().len() < text.len() => (Kind::Padded, at),
        AggregateIdFault::InvalidCharacter { at } => (Kind::InvalidCharacter, at),
    };
    EnvelopeError::new(kind, fault.to_string(), at).showing(text.as_bytes())
}

pub(super) fn check_event_version(version: i64) -> Result<i64, EnvelopeError> {
    if version > 0 {
        return Ok(version);
    }
    let rule = "must be an integer from 1 to 9223372036854775807";
    Err(EnvelopeError::new(Kind::OutOfRange, rule, 0).showing(version.to_string().as_bytes()))
}

#[cold]
pub(super) fn invalid_timestamp(fault: TimestampError, text: &str) -> EnvelopeError {
    EnvelopeError::new(Kind::InvalidTimestamp, fault.rule, fault.offset).showing(text.as_bytes())
}
