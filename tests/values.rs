//! The values that users build: what they are made of, and their defaults.

use keylane::{Envelope, FailurePolicy, Headers, Jitter, Record, Retry, Route, Then, Timestamp};
use std::time::{Duration, SystemTime};

#[test]
fn headers_keep_their_order_and_repeated_names_and_are_found_in_any_case() {
    let mut headers = Headers::with_capacity(2);
    assert!(headers.is_empty());
    headers.push("Via", "gateway");
    headers.push("Account", "acc-7");
    headers.push("Via", "billing");
    let all: Vec<(&str, &[u8])> = headers.iter().collect();
    assert_eq!(all, [("Via", &b"gateway"[..]), ("Account", b"acc-7"), ("Via", b"billing")]);
    assert_eq!(headers.get("VIA"), Some(&b"gateway"[..]), "the first");
    assert_eq!(headers.get("Trace"), None);
    assert_eq!((headers.len(), Headers::new().len()), (3, 0));
}

#[test]
fn a_record_takes_of_a_limit_what_it_carries() {
    let record = Record::new("paid");
    assert!(record.key.is_none() && record.headers.is_empty());
    assert_eq!(record.size(), 4);
    assert_eq!(record.with_key("order-42").with_header("Via", "web").size(), 4 + 8 + 3 + 3);
}

#[test]
fn a_record_is_routed_by_the_header_or_the_key_that_it_was_given() {
    let by_key = Record::new("paid").with_key("order-42");
    assert_eq!(Route::Key.aggregate_id_of(&by_key).as_deref(), Some("order-42"));
    let by_header = by_key.with_header(Envelope::AGGREGATE_ID_HEADER, "order-7");
    assert_eq!(Route::Auto.aggregate_id_of(&by_header).as_deref(), Some("order-7"));
    assert!(matches!(Route::default(), Route::Auto));
}

#[test]
fn retries_without_end_are_the_default_for_envelopes_and_none_for_plain_records() {
    let forever = Retry::forever();
    assert_eq!(forever.attempts, None);
    assert_eq!((forever.initial, forever.max), (Duration::from_millis(100), Duration::from_secs(30)));
    assert_eq!((forever.factor, forever.jitter), (2.0, Jitter::Full));
    let of_envelopes = FailurePolicy::for_envelopes();
    assert_eq!((of_envelopes.retry, of_envelopes.then), (forever, Then::Hold));
    let of_plain = FailurePolicy::for_plain();
    assert_eq!((of_plain.retry, of_plain.then), (Retry::none(), Then::Discard));
    assert_eq!(Retry::none().attempts, Some(1));
    let changed =
        Retry::exponential(Duration::from_millis(10)..Duration::from_secs(1)).attempts(5).factor(1.5);
    assert_eq!((changed.initial, changed.max), (Duration::from_millis(10), Duration::from_secs(1)));
    assert_eq!((changed.attempts, changed.factor), (Some(5), 1.5));
    assert_eq!(changed.jitter(Jitter::None).jitter, Jitter::None);
}

#[test]
fn a_timestamp_counts_upwards_also_before_1970() {
    let at: Timestamp = "1969-12-31T23:59:59.75Z".parse().unwrap();
    assert_eq!((at.unix_seconds(), at.subsec_nanos()), (-1, 750_000_000));
    let quarter = Duration::from_millis(250);
    assert_eq!(at.to_system_time(), SystemTime::UNIX_EPOCH.checked_sub(quarter));
    assert_eq!(Timestamp::UNIX_EPOCH.to_string(), "1970-01-01T00:00:00Z");
    let now = Timestamp::now().to_string();
    assert_eq!(now.parse::<Timestamp>().unwrap().to_string(), now);
    assert_eq!(now.len(), "2025-10-31T08:00:00.123456789Z".len());
}
