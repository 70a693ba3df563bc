//! The Envelope against jxt-core's figures, `serde_json`, and every rule of its own.

use keylane::EnvelopeErrorKind as Kind;
use keylane::{Envelope, Limits, Record, Timestamp};
use proptest::prelude::*;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// One line of a vector file; `\xff` in its text stands for that byte.
#[derive(serde::Deserialize)]
struct Vector {
    name: String,
    bytes: String,
    #[serde(default)]
    accepted_as_envelope: bool,
}

impl Vector {
    fn record(&self) -> Vec<u8> {
        match self.bytes.split_once(r"\xff") {
            Some((before, after)) => [before.as_bytes(), b"\xff", after.as_bytes()].concat(),
            None => self.bytes.clone().into_bytes(),
        }
    }
}

fn vectors(lines: &str) -> Vec<Vector> {
    lines.lines().map(|line| serde_json::from_str(line).expect("a line is one vector")).collect()
}

fn envelopes_of_jxt() -> Vec<Vector> {
    vectors(include_str!("data/jxt-envelopes.jsonl"))
}

fn verdicts_of_jxt() -> Vec<Vector> {
    vectors(include_str!("data/jxt-verdicts.jsonl"))
}

/// An Envelope as `serde_json` reads it.
#[derive(serde::Deserialize)]
struct Reading<'a> {
    event_id: String,
    aggregate_id: String,
    event_type: String,
    event_version: i64,
    timestamp: String,
    trace_id: Option<String>,
    correlation_id: Option<String>,
    tenant_id: Option<i64>,
    #[serde(borrow)]
    payload: &'a RawValue,
}

fn assert_reads_like_serde_json(name: &str, record: &str) {
    let envelope = Envelope::parse(record.as_bytes()).unwrap_or_else(|refused| panic!("{name}: {refused}"));
    let reading: Reading = serde_json::from_str(record).expect("serde_json reads what we read");
    assert_eq!(envelope.event_id(), reading.event_id, "{name}");
    assert_eq!(envelope.aggregate_id(), reading.aggregate_id, "{name}");
    assert_eq!(envelope.event_type(), reading.event_type, "{name}");
    assert_eq!(envelope.event_version(), reading.event_version, "{name}");
    assert_eq!(envelope.timestamp().to_string(), reading.timestamp, "{name}");
    assert_eq!(envelope.trace_id(), reading.trace_id.as_deref(), "{name}");
    assert_eq!(envelope.correlation_id(), reading.correlation_id.as_deref(), "{name}");
    assert_eq!(envelope.tenant_id(), reading.tenant_id, "{name}");
    assert_eq!(envelope.payload(), reading.payload.get(), "{name}");
    assert_eq!(envelope.payload_bytes(), reading.payload.get().as_bytes(), "{name}");

    let again = envelope.encode();
    assert_eq!(Envelope::parse(&again).as_ref(), Ok(&envelope), "{name}");
    assert_eq!(envelope.clone().into_owned(), envelope, "{name}");
}

#[test]
fn every_envelope_that_jxt_writes_is_read_with_fields_and_payload_unchanged() {
    let vectors = envelopes_of_jxt();
    assert_eq!(vectors.len(), 19);
    for vector in vectors {
        assert_reads_like_serde_json(&vector.name, &vector.bytes);
    }
}

#[test]
fn an_envelope_read_from_jxt_is_written_as_jxt_wrote_it() {
    // jxt writes whitespace around a payload, and escapes `<`, `&` and `>` for HTML; neither is part of a value.
    let spelled_otherwise = |vector: &Vector| vector.bytes.contains("\\u003c") || vector.name == "payload 11";
    let mut same = 0;
    for vector in envelopes_of_jxt() {
        let written = Envelope::parse(vector.bytes.as_bytes()).unwrap().encode();
        let is_same = written == vector.bytes.as_bytes();
        assert_eq!(is_same, !spelled_otherwise(&vector), "{}", vector.name);
        same += usize::from(is_same);
    }
    assert_eq!(same, 13);
}

/// Where this crate and jxt-core disagree on purpose: the line, and what it is refused for here (`None`: accepted).
///
/// - A record that some readers take one way and some another is refused: a padded id (headers lose the padding), a
///   field twice (first or last?), a name in another case (read by Go, not by others), bytes or escapes that are no
///   character (kept, dropped or replaced), a comma in a timestamp (no RFC 3339).
/// - A record without a time, or with a time of `null`, does not say when it happened; jxt reads the year 1.
/// - A control character would travel in the `X-Event-Type` header, where NUL and line ends break readers.
/// - A payload of `null` is refused when jxt reads it but written when jxt writes it ("payload 8" of the Envelopes
///   that must be accepted: but for the ids, the two lines are the same bytes). An event that a peer has published is
///   not lost over that; none is made here, see `a_payload_of_null_is_read_but_not_made`.
const DELIBERATE_DIFFERENCES: [(&str, Option<(Kind, &str)>); 10] = [
    ("padded aggregate_id", Some((Kind::Padded, "aggregate_id"))),
    ("no timestamp", Some((Kind::Missing, "timestamp"))),
    ("timestamp null", Some((Kind::WrongType, "timestamp"))),
    ("timestamp comma fraction", Some((Kind::InvalidTimestamp, "timestamp"))),
    ("payload null", None),
    ("duplicate aggregate_id", Some((Kind::Duplicate, "aggregate_id"))),
    ("field name in another case", Some((Kind::WrongCase, "aggregate_id"))),
    ("invalid utf-8 in event_type (byte 0xff written as \\\\xff)", Some((Kind::NotUtf8, ""))),
    ("lone surrogate in event_type", Some((Kind::LoneSurrogate, "event_type"))),
    ("nul in event_type", Some((Kind::ControlCharacter, "event_type"))),
];

/// The lines on which the verdict here is neither jxt's nor the listed difference, and listed ones that are none.
fn disagreements(vectors: &[Vector], listed: &[(&str, Option<(Kind, &str)>)]) -> Vec<String> {
    let mut listed: BTreeMap<_, _> = listed.iter().copied().collect();
    let mut found = Vec::new();
    for vector in vectors {
        let record = vector.record();
        let here = Envelope::parse(&record);
        let refused = here.as_ref().err().map(|error| (error.kind(), error.field().unwrap_or_default()));
        let as_expected = match listed.remove(&*vector.name) {
            Some(expected) => refused == expected && refused.is_none() != vector.accepted_as_envelope,
            None => refused.is_none() == vector.accepted_as_envelope,
        };
        if !as_expected {
            found.push(format!("{}: {here:?}", vector.name));
        }
    }
    found.extend(listed.into_keys().map(|name| format!("{name}: no such line")));
    found
}

#[test]
fn every_verdict_of_jxt_is_shared_or_listed_as_a_deliberate_difference() {
    let vectors = verdicts_of_jxt();
    assert_eq!(vectors.len(), 56);
    assert_eq!(disagreements(&vectors, &DELIBERATE_DIFFERENCES), Vec::<String>::new());
}

#[test]
fn the_comparison_with_jxt_notices_what_it_should() {
    let vectors = verdicts_of_jxt();
    let name_of = |found: Vec<String>| -> Vec<String> {
        found.iter().map(|line| line.split(": ").next().unwrap_or_default().to_owned()).collect()
    };
    let unlisted = disagreements(&vectors, &DELIBERATE_DIFFERENCES[1..]);
    assert_eq!(name_of(unlisted), ["padded aggregate_id"]);

    let mut listed = DELIBERATE_DIFFERENCES.to_vec();
    listed.push(("minimal", None));
    listed.push(("version 0", Some((Kind::OutOfRange, "event_version"))));
    listed.push(("no such name", None));
    assert_eq!(name_of(disagreements(&vectors, &listed)), ["minimal", "version 0", "no such name"]);

    let mut listed = DELIBERATE_DIFFERENCES.to_vec();
    listed[0].1 = Some((Kind::InvalidCharacter, "aggregate_id"));
    assert_eq!(name_of(disagreements(&vectors, &listed)), ["padded aggregate_id"]);
}

#[test]
fn a_payload_of_null_is_read_but_not_made() {
    let record = record_with("payload", Some("null"));
    let envelope = Envelope::parse(record.as_bytes()).unwrap();
    assert_eq!(envelope.payload(), "null");
    assert_eq!(Envelope::parse(&envelope.encode()), Ok(envelope));
    let refused = Envelope::new("a1", "t", 1, " null").unwrap_err();
    assert_eq!((refused.kind(), refused.field(), refused.offset()), (Kind::NullPayload, Some("payload"), 1));
}

const FIELDS: [(&str, &str); 9] = [
    ("event_id", r#""e1""#),
    ("aggregate_id", r#""a1""#),
    ("event_type", r#""t""#),
    ("event_version", "1"),
    ("timestamp", r#""2025-10-31T08:00:00Z""#),
    ("trace_id", r#""tr""#),
    ("correlation_id", r#""co""#),
    ("tenant_id", "7"),
    ("payload", "{}"),
];

/// A valid record but for one field, which has this value or, with `None`, is not there.
fn record_with(changed: &str, value: Option<&str>) -> String {
    let fields = FIELDS.iter().filter_map(|&(name, valid)| {
        let value = if name == changed { value? } else { valid };
        Some(format!("\"{name}\":{value}"))
    });
    format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
}

/// Where the value of a field starts in [`record_with`].
fn value_at(record: &str, name: &str) -> usize {
    let name = format!("\"{name}\":");
    record.find(&name).expect("the field is there") + name.len()
}

#[test]
fn each_broken_rule_of_a_value_names_field_rule_and_byte() {
    let too_long = format!("\"{}\"", "x".repeat(257));
    let table: &[(&str, &str, Kind, usize, &str)] = &[
        ("event_id", "7", Kind::WrongType, 0, "must be a string"),
        ("event_id", "null", Kind::WrongType, 0, "must be a string"),
        ("event_id", "[1]", Kind::WrongType, 0, "must be a string"),
        ("event_id", r#""""#, Kind::Blank, 1, "must not be blank"),
        ("event_id", r#"" ""#, Kind::Blank, 1, "must not be blank"),
        ("event_id", "\"\u{a0}\"", Kind::Blank, 1, "must not be blank"),
        ("event_id", r#"" e1""#, Kind::Padded, 1, "must not start or end with whitespace"),
        ("event_id", r#""e1 ""#, Kind::Padded, 3, "must not start or end with whitespace"),
        ("event_id", r#""e1\u0020""#, Kind::Padded, 1, "must not start or end with whitespace"),
        ("event_id", r#""e\n1""#, Kind::ControlCharacter, 1, "must not have control characters"),
        ("event_id", "\"e\u{7f}1\"", Kind::ControlCharacter, 2, "must not have control characters"),
        ("event_id", "\"e\u{85}1\"", Kind::ControlCharacter, 2, "must not have control characters"),
        ("event_id", "\"e\n1\"", Kind::Syntax, 2, "must have control characters in strings escaped"),
        ("event_id", r#""e\x""#, Kind::Syntax, 3, "must have one of \" \\ / b f n r t u after a backslash"),
        ("event_id", r#""e\u00g0""#, Kind::Syntax, 6, "must have four hex digits after \\u"),
        ("aggregate_id", "true", Kind::WrongType, 0, "must be a string"),
        ("aggregate_id", r#""""#, Kind::Blank, 1, "must not be empty"),
        ("aggregate_id", r#""\t""#, Kind::Blank, 1, "must consist of A-Z a-z 0-9 : _ - . /"),
        ("aggregate_id", r#"" a1""#, Kind::Padded, 1, "must consist of A-Z a-z 0-9 : _ - . /"),
        ("aggregate_id", r#""a1 ""#, Kind::Padded, 3, "must consist of A-Z a-z 0-9 : _ - . /"),
        ("aggregate_id", r#""a b""#, Kind::InvalidCharacter, 2, "must consist of A-Z a-z 0-9 : _ - . /"),
        ("aggregate_id", r#""ä1""#, Kind::InvalidCharacter, 1, "must consist of A-Z a-z 0-9 : _ - . /"),
        ("aggregate_id", r#""a\u0000""#, Kind::InvalidCharacter, 1, "must consist of A-Z a-z 0-9 : _ - . /"),
        ("aggregate_id", &too_long, Kind::TooLong, 1, "must not have more than 256 bytes"),
        ("event_type", r#""\u2003""#, Kind::Blank, 1, "must not be blank"),
        ("event_type", r#""t\u0000""#, Kind::ControlCharacter, 1, "must not have control characters"),
        (
            "event_type",
            r#""t\udc00\ud800""#,
            Kind::LoneSurrogate,
            2,
            "must not have an escape that is half of a surrogate pair",
        ),
        ("event_version", r#""1""#, Kind::WrongType, 0, "must be an integer"),
        ("event_version", "null", Kind::WrongType, 0, "must be an integer"),
        ("event_version", "0", Kind::OutOfRange, 0, "must be an integer from 1 to 9223372036854775807"),
        ("event_version", "-1", Kind::OutOfRange, 0, "must be an integer from 1 to 9223372036854775807"),
        ("event_version", "9223372036854775808", Kind::OutOfRange, 0, "must be an integer of 64 bits"),
        ("event_version", "1.0", Kind::NotInteger, 0, "must be an integer, without fraction or exponent"),
        ("event_version", "1e0", Kind::NotInteger, 0, "must be an integer, without fraction or exponent"),
        ("event_version", "01", Kind::Syntax, 1, "must not have a leading zero in a number"),
        ("event_version", "+1", Kind::Syntax, 0, "must have a JSON value here"),
        ("timestamp", "1761897600", Kind::WrongType, 0, "must be a string"),
        ("timestamp", "null", Kind::WrongType, 0, "must be a string"),
        ("timestamp", r#""""#, Kind::InvalidTimestamp, 1, "must have a digit here"),
        (
            "timestamp",
            r#""2025-10-31 08:00:00Z""#,
            Kind::InvalidTimestamp,
            11,
            "must have an upper-case T between date and time",
        ),
        (
            "timestamp",
            r#""2025-02-30T08:00:00Z""#,
            Kind::InvalidTimestamp,
            9,
            "must have a day that its month has",
        ),
        (
            "timestamp",
            r#""2025-10-31T08:00:00.1234567891Z""#,
            Kind::InvalidTimestamp,
            30,
            "must have 1 to 9 digits in its fraction",
        ),
        ("trace_id", "7", Kind::WrongType, 0, "must be a string"),
        ("trace_id", r#"" ""#, Kind::Blank, 1, "must not be blank"),
        (
            "trace_id",
            r#""t\r\nX-Aggregate-ID: b""#,
            Kind::ControlCharacter,
            1,
            "must not have control characters",
        ),
        ("correlation_id", "{}", Kind::WrongType, 0, "must be a string"),
        ("correlation_id", r#"" c""#, Kind::Padded, 1, "must not start or end with whitespace"),
        ("tenant_id", r#""7""#, Kind::WrongType, 0, "must be an integer"),
        ("tenant_id", "7.5", Kind::NotInteger, 0, "must be an integer, without fraction or exponent"),
        ("tenant_id", "-9223372036854775809", Kind::OutOfRange, 0, "must be an integer of 64 bits"),
        ("tenant_id", "nul", Kind::Syntax, 3, "must have a JSON value here"),
        ("payload", "", Kind::Syntax, 0, "must have a JSON value here"),
        ("payload", "tru", Kind::Syntax, 3, "must have a JSON value here"),
        ("payload", "{a:1}", Kind::Syntax, 1, "must have a name in double quotes here"),
        ("payload", r#"{"a" 1}"#, Kind::Syntax, 5, "must have a colon here"),
        ("payload", "[1 2]", Kind::Syntax, 3, "must have a comma or a closing bracket here"),
        ("payload", r#"{"a":1 2}"#, Kind::Syntax, 7, "must have a comma or a closing brace here"),
        ("payload", "[1,]", Kind::Syntax, 3, "must have a JSON value here"),
        ("payload", "1.", Kind::Syntax, 2, "must have a digit here"),
        ("payload", "-", Kind::Syntax, 1, "must have a digit here"),
        ("payload", "{} {}", Kind::Syntax, 3, ""),
    ];
    for &(field, value, kind, offset, rule) in table {
        let record = record_with(field, Some(value));
        let refused = Envelope::parse(record.as_bytes()).expect_err(&record);
        let at = value_at(&record, field) + offset;
        assert_eq!((refused.kind(), refused.offset()), (kind, at), "{field} {value}: {refused}");
        // What follows a complete value breaks the object, not the field.
        let names = if rule.is_empty() { (None, refused.rule()) } else { (Some(field), rule) };
        assert_eq!((refused.field(), refused.rule()), names, "{field} {value}");
        assert!(refused.to_string().contains(&format!("{} (byte {at}", refused.rule())), "{refused}");
    }
}

#[test]
fn each_broken_rule_of_a_record_names_rule_and_byte() {
    let valid = record_with("", None);
    let end = valid.len();
    let inside = |rest: &str| format!("{},{rest}}}", &valid[..end - 1]);
    let table = [
        (String::new(), Kind::Syntax, None, 0),
        ("hello".into(), Kind::Syntax, None, 0),
        ("null".into(), Kind::Syntax, None, 0),
        (format!("[{valid}]"), Kind::Syntax, None, 0),
        (format!("\u{feff}{valid}"), Kind::ByteOrderMark, None, 0),
        (format!(" {valid}x"), Kind::TrailingBytes, None, end + 1),
        (format!("{valid}{valid}"), Kind::TrailingBytes, None, end),
        (format!("{valid}\0"), Kind::TrailingBytes, None, end),
        (valid[..end - 1].into(), Kind::Syntax, None, end - 1),
        (valid[..5].into(), Kind::Syntax, None, 5),
        (inside(""), Kind::Syntax, None, end),
        (inside("7"), Kind::Syntax, None, end),
        (inside("\"x\""), Kind::Syntax, None, end + 3),
        (inside("\"x\":[}"), Kind::Syntax, None, end + 5),
        (inside(r#""tenant_id":7"#), Kind::Duplicate, Some("tenant_id"), end),
        (inside(r#""tenant_\u0069d":7"#), Kind::Duplicate, Some("tenant_id"), end),
        (inside(r#""Tenant_ID":7"#), Kind::WrongCase, Some("tenant_id"), end),
        (inside(r#""\u0054enant_id":7"#), Kind::WrongCase, Some("tenant_id"), end),
        (inside(r#""\ud800":7"#), Kind::LoneSurrogate, None, end + 1),
        ("{}".into(), Kind::Missing, Some("event_id"), 1),
    ];
    for (record, kind, field, offset) in table {
        let refused = Envelope::parse(record.as_bytes()).expect_err(&record);
        let found = (refused.kind(), refused.field(), refused.offset());
        assert_eq!(found, (kind, field, offset), "{record}: {refused}");
    }
    for (name, _) in FIELDS {
        let record = record_with(name, None);
        match Envelope::parse(record.as_bytes()) {
            Ok(_) => assert!(["trace_id", "correlation_id", "tenant_id"].contains(&name), "{name}"),
            Err(refused) => {
                let found = (refused.kind(), refused.field(), refused.offset());
                assert_eq!(found, (Kind::Missing, Some(name), record.len() - 1));
            }
        }
    }
    let refused = Envelope::parse(b"{\"event_id\":\"\xe4\xb8\"}").unwrap_err();
    assert_eq!((refused.kind(), refused.field(), refused.offset()), (Kind::NotUtf8, None, 13));
    assert_eq!(
        refused.to_string(),
        r"invalid Envelope: the record must be UTF-8 (byte 13, found `\xe4\xb8`)"
    );
}

#[test]
fn an_error_shows_a_short_and_harmless_part_of_the_value() {
    let shown = |value: &str| {
        Envelope::parse(record_with("event_id", Some(value)).as_bytes()).unwrap_err().to_string()
    };
    let long = shown(&format!("\"{}\u{7f}\"", "ä".repeat(5_000)));
    assert!(long.ends_with(&format!("found `{}…`)", "ä".repeat(16))), "{long}");
    let split = shown(&format!("\"x{}\u{7f}\"", "ä".repeat(5_000)));
    assert!(split.ends_with(&format!("found `x{}…`)", "ä".repeat(15))), "{split}");
    let hostile = shown("\"\u{1b}[2J\"");
    assert!(hostile.ends_with(r"found `\u{1b}`)"), "{hostile}");
    let hostile = shown("\"\\u001b[2J\\n\u{202e}\"");
    assert!(hostile.ends_with(r"found `\u{1b}[2J\n\u{202e}`)"), "{hostile}");
}

#[test]
fn limits_hold_at_their_edge() {
    let record = record_with("payload", Some("[[{}]]"));
    let parse = |max_bytes, max_depth| {
        Envelope::parse_with(record.as_bytes(), &Limits { max_bytes, max_depth })
            .map(|_| ())
            .map_err(|refused| (refused.kind(), refused.field(), refused.offset()))
    };
    let payload = value_at(&record, "payload");
    assert_eq!(parse(record.len(), 4), Ok(()));
    assert_eq!(parse(record.len() - 1, 4), Err((Kind::TooLarge, None, record.len() - 1)));
    assert_eq!(parse(record.len(), 3), Err((Kind::TooDeep, Some("payload"), payload + 2)));

    let deep =
        |levels| record_with("payload", Some(&format!("{}{}", "[".repeat(levels), "]".repeat(levels))));
    assert!(Envelope::parse(deep(127).as_bytes()).is_ok());
    assert_eq!(Envelope::parse(deep(128).as_bytes()).unwrap_err().kind(), Kind::TooDeep);
    let deepest = Limits { max_depth: usize::MAX, ..Limits::default() };
    assert!(Envelope::parse_with(deep(400_000).as_bytes(), &deepest).is_ok());

    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    assert!(Envelope::new("a1", "t", 1, nested(127)).is_ok());
    assert_eq!(Envelope::new("a1", "t", 1, nested(128)).unwrap_err().kind(), Kind::TooDeep);

    let large = record_with("payload", Some(&format!("\"{}\"", "x".repeat(1024 * 1024))));
    assert_eq!(Envelope::parse(large.as_bytes()).unwrap_err().kind(), Kind::TooLarge);
}

#[test]
fn an_absent_optional_field_may_be_null_or_empty() {
    for (field, value) in
        [("trace_id", "null"), ("trace_id", r#""""#), ("correlation_id", "null"), ("correlation_id", r#""""#)]
    {
        let record = record_with(field, Some(value));
        let envelope = Envelope::parse(record.as_bytes()).unwrap();
        let read = if field == "trace_id" { envelope.trace_id() } else { envelope.correlation_id() };
        assert_eq!(read, None);
        assert!(!String::from_utf8_lossy(&envelope.encode()).contains(field));
        let twice = record.replacen('{', &format!("{{\"{field}\":\"x\","), 1);
        assert_eq!(Envelope::parse(twice.as_bytes()).unwrap_err().kind(), Kind::Duplicate);
    }
    let record = record_with("tenant_id", Some("null"));
    assert_eq!(Envelope::parse(record.as_bytes()).unwrap().tenant_id(), None);
}

#[test]
fn unknown_fields_are_left_out() {
    let valid = record_with("", None);
    let more = valid.replacen('{', r#"{"extra":{"aggregate_id":"other","x":[1,"\ud800"]},"x":1,"x":2,"#, 1);
    let envelope = Envelope::parse(more.as_bytes()).unwrap();
    assert_eq!(envelope, Envelope::parse(valid.as_bytes()).unwrap());
    assert_eq!(envelope.encode(), valid.into_bytes());
}

#[test]
fn an_envelope_made_here_has_an_id_of_its_own_and_the_time() {
    let before = Timestamp::now();
    let made: Vec<_> = (0..100).map(|_| Envelope::new("a1", "t", 1, "{}").unwrap()).collect();
    let after = Timestamp::now();
    let time = |timestamp: Timestamp| (timestamp.unix_seconds(), timestamp.subsec_nanos());
    for pair in made.windows(2) {
        assert!(pair[0].event_id() < pair[1].event_id(), "UUIDv7 sorts by time of making");
    }
    for envelope in &made {
        assert_eq!(envelope.event_id().len(), 36);
        assert_eq!(&envelope.event_id()[14..15], "7", "the version of the UUID");
        assert!((time(before)..=time(after)).contains(&time(envelope.timestamp())));
    }
}

#[test]
fn what_an_envelope_is_made_of_keeps_the_rules() {
    let refused = |made: Result<Envelope, keylane::EnvelopeError>| {
        let refused = made.unwrap_err();
        (refused.kind(), refused.field().unwrap_or_default(), refused.offset())
    };
    let valid = || Envelope::new("a1", "t", 1, "{}").unwrap();
    assert_eq!(refused(Envelope::new("a 1", "t", 1, "{}")), (Kind::InvalidCharacter, "aggregate_id", 1));
    assert_eq!(refused(Envelope::new("a1", " ", 1, "{}")), (Kind::Blank, "event_type", 0));
    assert_eq!(refused(Envelope::new("a1", "t", 0, "{}")), (Kind::OutOfRange, "event_version", 0));
    assert_eq!(refused(Envelope::new("a1", "t", 1, "")), (Kind::Syntax, "payload", 0));
    assert_eq!(refused(Envelope::new("a1", "t", 1, "{}]")), (Kind::Syntax, "payload", 2));
    assert_eq!(refused(Envelope::new("a1", "t", 1, "{} ,\"tenant_id\":1")), (Kind::Syntax, "payload", 3));
    assert_eq!(refused(valid().with_event_id("")), (Kind::Blank, "event_id", 0));
    assert_eq!(refused(valid().with_event_id("a\nb")), (Kind::ControlCharacter, "event_id", 1));
    assert_eq!(refused(valid().with_trace_id("x ")), (Kind::Padded, "trace_id", 1));
    assert_eq!(refused(valid().with_correlation_id("\t")), (Kind::Blank, "correlation_id", 0));

    let made = Envelope::new("a1", "t", 1, String::from(" \n[ 1 ]\t")).unwrap();
    assert_eq!(made.payload(), "[ 1 ]");
    let taken_away = valid().with_trace_id("x").unwrap().with_trace_id("").unwrap();
    assert_eq!(taken_away.trace_id(), None);
}

#[test]
fn headers_carry_the_fields_that_are_there() {
    let full = record_with("", None);
    let headers = Record::from(&Envelope::parse(full.as_bytes()).unwrap()).headers;
    let all: Vec<_> = headers.iter().map(|(name, value)| (name, String::from_utf8_lossy(value))).collect();
    let expected = [
        ("X-Event-ID", "e1"),
        ("X-Aggregate-ID", "a1"),
        ("X-Event-Type", "t"),
        ("X-Event-Version", "1"),
        ("X-Trace-ID", "tr"),
        ("X-Correlation-ID", "co"),
        ("X-Tenant-ID", "7"),
    ];
    assert_eq!(all, expected.map(|(name, value)| (name, value.into())));
    let short = Record::from(&Envelope::new("a1", "t", 1, "{}").unwrap()).headers;
    assert_eq!(short.iter().map(|(name, _)| name).collect::<Vec<_>>(), expected.map(|(name, _)| name)[..4]);
    // What JSON escapes goes into the headers as it is.
    let quoted = Envelope::new("a1", r#"a "quoted" \ type\"#, 1, "{}").unwrap();
    let record = Record::from(&quoted);
    assert_eq!(record.headers.get("X-Event-Type"), Some(&br#"a "quoted" \ type\"#[..]));
    assert_eq!((record.key.as_deref(), &record.value[..]), (Some(&b"a1"[..]), &quoted.encode()[..]));
}

/// Text that the rules allow, with all that JSON has to escape and characters of every length in UTF-8.
fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{1,8}", r#"["\\/<>&ä类😀 a]{1,20}"#, any::<String>()]
        .prop_map(|text| text.replace(char::is_control, ""))
        .prop_map(|text| text.trim().to_owned())
        .prop_filter("not blank", |text| !text.is_empty())
}

fn payload() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        any::<String>().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        any::<f64>().prop_map(serde_json::Value::from),
        any::<bool>().prop_map(serde_json::Value::from),
    ];
    let value = leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..4)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    });
    (value, any::<bool>())
        .prop_map(|(value, pretty)| if pretty { format!("{value:#}") } else { value.to_string() })
        .prop_filter("not null", |payload| payload != "null")
}

fn timestamp() -> impl Strategy<Value = Timestamp> {
    let written = (0..10_000_u32, 1..=12_u32, 1..=28_u32, 0..86_400_u32);
    let fraction = prop_oneof![Just(String::new()), "\\.[0-9]{1,9}"];
    let zone = prop_oneof![Just("Z".to_owned()), "[+-](0[0-9]|1[0-9]|2[0-3]):[0-5][0-9]"];
    (written, fraction, zone).prop_map(|((year, month, day, second), fraction, zone)| {
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}{zone}")
            .parse()
            .expect("made by the rules")
    })
}

fn envelope() -> impl Strategy<Value = Envelope<'static>> {
    let required = (text(), "[A-Za-z0-9:_./-]{1,256}", text(), 1..=i64::MAX, timestamp(), payload());
    let optional = (prop::option::of(text()), prop::option::of(text()), prop::option::of(any::<i64>()));
    (required, optional).prop_map(
        |(
            (event_id, aggregate_id, event_type, version, timestamp, payload),
            (trace, correlation, tenant),
        )| {
            let mut envelope = Envelope::new(aggregate_id, event_type, version, payload)
                .and_then(|envelope| envelope.with_event_id(event_id))
                .and_then(|envelope| envelope.with_trace_id(trace.unwrap_or_default()))
                .and_then(|envelope| envelope.with_correlation_id(correlation.unwrap_or_default()))
                .expect("made by the rules")
                .with_timestamp(timestamp);
            if let Some(tenant) = tenant {
                envelope = envelope.with_tenant_id(tenant);
            }
            envelope
        },
    )
}

proptest! {
    #[test]
    fn every_envelope_survives_the_wire(envelope in envelope()) {
        let record = envelope.encode();
        prop_assert_eq!(Envelope::parse(&record), Ok(envelope.clone()));
        let record = String::from_utf8(record).expect("the wire is UTF-8");
        assert_reads_like_serde_json("made here", &record);
        let mut appended = b"before".to_vec();
        envelope.encode_into(&mut appended);
        prop_assert_eq!(appended, ["before", &record].concat().into_bytes());
    }

    /// Publishing an Envelope relies on it, and checks only what is no Envelope.
    #[test]
    fn every_envelope_makes_a_record_that_keeps_the_rules_of_records(envelope in envelope()) {
        let bus = keylane::connect("memory:?topics=orders").wait().expect("connects");
        let published = bus.publish("orders", Record::from(&envelope)).wait();
        prop_assert!(published.is_ok(), "{:?}", published);
    }

    #[test]
    fn no_record_is_refused_for_an_equal_spelling(envelope in envelope(), spaces in "[ \n\r\t]{0,3}", order in any::<u64>()) {
        let record = String::from_utf8(envelope.encode()).expect("the wire is UTF-8");
        let members: BTreeMap<String, &RawValue> = serde_json::from_str(&record).expect("it is JSON");
        let mut members: Vec<_> = members
            .iter()
            .map(|(name, value)| {
                let name: Vec<_> = name.chars().map(|c| format!("\\u{:04X}", c as u32)).collect();
                let name = name.concat();
                format!("{spaces}\"{name}\"{spaces}:{spaces}{}{spaces}", value.get())
            })
            .collect();
        let rotation = (order % members.len() as u64) as usize;
        members.rotate_left(rotation);
        let respelled = format!("{spaces}{{{}}}{spaces}", members.join(","));
        prop_assert_eq!(Envelope::parse(respelled.as_bytes()), Ok(envelope));
    }

    #[test]
    fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Envelope::parse(&bytes);
    }

    #[test]
    fn a_changed_record_is_refused_or_read_like_serde_json_reads_it(
        envelope in envelope(),
        at in any::<prop::sample::Index>(),
        cut in 0..3_usize,
        byte in prop_oneof![any::<u8>(), prop::sample::select(&b"\"\\{}[]:,0 "[..])],
    ) {
        let mut record = envelope.encode();
        let at = at.index(record.len());
        let end = (at + cut).min(record.len());
        record.splice(at..end, [byte]);
        match Envelope::parse(&record) {
            Err(refused) => prop_assert!(refused.offset() <= record.len()),
            Ok(_) => assert_reads_like_serde_json("changed", std::str::from_utf8(&record).expect("checked by parse")),
        }
    }
}
