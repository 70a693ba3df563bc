//! What a record is: its Envelope, its aggregate and with it its key. A function of bytes, limits and route.

use super::next::Next;
use crate::broker::FetchedRecord;
use crate::envelope::{Envelope, Limits, Parsed, begins_with_aggregate, parse_spans};
use crate::event::Aggregate;
use crate::foreign;
use crate::pool::Key;
use crate::route::{RecordView, Route, Routing, Source, looks_like_envelope};

/// By what records are prepared; one value per subscription.
pub(crate) struct Rules {
    pub(crate) route: Route,
    pub(crate) max_record_bytes: usize,
    pub(crate) takes_envelopes: bool,
}

/// What routing and parsing have found out about a record.
pub(super) struct Prepared {
    /// What it is ordered by; none: it has no order.
    pub(super) key: Option<Key>,
    pub(super) aggregate: Aggregate,
    pub(super) envelope: Option<Parsed>,
    pub(super) next: Next,
}

/// Routes a record of so many bytes, and parses it where its aggregate is not known without. With `is_parsed` it is parsed in any case;
/// else its worker does, so that the one thread that all records pass has little to do for each.
pub(super) fn prepare(
    rules: &Rules,
    record: &FetchedRecord,
    bytes: usize,
    subject: Option<&[u8]>,
    is_parsed: bool,
) -> Prepared {
    let view = RecordView {
        key: record.key(),
        headers: record.headers(),
        subject: subject.and_then(|subject| std::str::from_utf8(subject).ok()),
        value: record.value(),
        envelope_aggregate_id: None,
    };
    let is_short = bytes <= rules.max_record_bytes;
    if let Some(routing) = find_unparsed(&rules.route, view).filter(|_| is_short && !is_parsed) {
        let next = if rules.may_be_envelope(record) { Next::Parse } else { Next::Attempt };
        return Prepared::new(routing, next);
    }
    let (envelope, unhandleable) = match parse(rules, record, bytes) {
        Ok(envelope) => (envelope, None),
        Err(reason) => (None, Some(reason)),
    };
    let envelope_aggregate_id = envelope.as_ref().map(|envelope| envelope.aggregate_id(record.value()));
    let view = RecordView { envelope_aggregate_id, ..view };
    // A route may be foreign code. Its panic is the record's failure: without its aggregate it must not run.
    let (routing, unroutable) = match foreign::call(|| rules.route.find(view)) {
        Ok(routing) => (routing, None),
        Err(message) => {
            let reason = format!("the function that routes it panicked: {message}");
            (Routing::Absent, Some(reason))
        }
    };
    let reason = unroutable.or(unhandleable);
    let next = reason.map_or(Next::Attempt, |reason| Next::Unhandleable(reason.into()));
    let routed = Prepared::new(routing, next);
    Prepared { envelope, ..routed }
}

/// What the route finds, if that is the same whether the bytes are a valid Envelope or not. The key and the header of
/// what is published as an Envelope are its aggregate id.
fn find_unparsed<'a>(route: &Route, record: RecordView<'a>) -> Option<Routing<'a>> {
    match route {
        Route::Key | Route::Header(_) | Route::Subject(_) | Route::RoundRobin => Some(route.find(record)),
        Route::Envelope | Route::With(_) => None,
        Route::Auto => {
            let key = record.key.filter(|key| begins_with_aggregate(record.value, key))?;
            let header = record.headers.get(Envelope::AGGREGATE_ID_HEADER);
            header.is_none_or(|header| header == key).then(|| Route::Key.find(record))
        }
    }
}

/// The Envelope that a record is; none: it is none and need not be.
///
/// # Errors
/// Why no handler may see it.
pub(super) fn parse(rules: &Rules, record: &FetchedRecord, bytes: usize) -> Result<Option<Parsed>, String> {
    let limit = rules.max_record_bytes;
    if bytes > limit {
        return Err(format!("the record has {bytes} bytes; at most {limit} are accepted"));
    }
    if !rules.may_be_envelope(record) {
        return Ok(None);
    }
    let limits = Limits { max_bytes: limit, ..Limits::default() };
    match parse_spans(record.value(), &limits) {
        Ok(parsed) => Ok(Some(parsed)),
        Err(error) if rules.takes_envelopes => Err(format!("no valid Envelope: {error}")),
        Err(_) => Ok(None),
    }
}

impl Rules {
    fn may_be_envelope(&self, record: &FetchedRecord) -> bool {
        self.takes_envelopes || looks_like_envelope(record.value())
    }
}

impl Prepared {
    fn new(routing: Routing<'_>, next: Next) -> Self {
        let (key, aggregate) = match routing {
            Routing::Aggregate { id, source } => {
                let key = Key::of(&id);
                let aggregate = match source {
                    Source::Envelope => Aggregate::Envelope,
                    Source::Key => Aggregate::Key,
                    Source::Header | Source::Subject | Source::Function => Aggregate::Bytes(id.into()),
                };
                (Some(key), aggregate)
            }
            Routing::Absent => (None, Aggregate::None),
        };
        Self { key, aggregate, envelope: None, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Record;
    use crate::sync::Arc;
    use proptest::prelude::*;

    fn prepared(route: Route, takes_envelopes: bool, record: Record) -> Prepared {
        let rules = Rules { route, max_record_bytes: 300, takes_envelopes };
        let record = FetchedRecord::Own(record);
        prepare(&rules, &record, record.size(), Some(b"orders.by-subject"), true)
    }

    fn an_envelope() -> Record {
        Record::from(&crate::Envelope::new("order-42", "order.paid", 1, "995").unwrap())
    }

    #[test]
    fn an_envelope_is_parsed_and_routed_by_its_aggregate_also_as_a_plain_record() {
        for takes_envelopes in [true, false] {
            let found = prepared(Route::Auto, takes_envelopes, an_envelope());
            assert!(found.key == Some(Key::of("order-42")) && found.envelope.is_some());
            assert!(matches!(found.aggregate, Aggregate::Envelope));
            assert_eq!(found.next, Next::Attempt);
        }
    }

    #[test]
    fn bytes_that_are_no_envelope_can_not_be_handled_as_one_and_keep_their_key() {
        let found = prepared(Route::Auto, true, Record::new("paid").with_key("order-7"));
        assert_eq!(found.key, Some(Key::of("order-7")));
        assert!(matches!(found.next, Next::Unhandleable(why) if why.contains("no valid Envelope")));
        let plain = prepared(Route::Auto, false, Record::new("paid"));
        assert_eq!((plain.key, plain.next), (Some(Key::of("by-subject")), Next::Attempt));
    }

    #[test]
    fn what_is_too_long_is_handled_by_nobody() {
        for takes_envelopes in [true, false] {
            let found = prepared(Route::Key, takes_envelopes, Record::new(vec![b'x'; 301]));
            assert!(matches!(found.next, Next::Unhandleable(why) if why.contains("301 bytes")));
            assert_eq!(found.key, None);
        }
    }

    #[test]
    fn a_key_of_any_bytes_is_an_order_and_a_route_that_panics_is_none() {
        for key in [&b"ann@example.com"[..], b"order 42", "m\u{fc}ller".as_bytes(), b"", b"\x00\xff"] {
            let found = prepared(Route::Auto, false, Record::new("paid").with_key(key.to_vec()));
            assert_eq!((found.key, found.next), (Some(Key::of(key)), Next::Attempt));
        }
        let route = Route::With(Arc::new(|_| panic!("planted: a route")));
        let found = prepared(route, false, Record::new("paid").with_key("key"));
        assert_eq!(found.key, None);
        assert!(matches!(found.next, Next::Unhandleable(why) if why.contains("planted: a route")));
    }

    /// What the intake and the worker make of a record together.
    fn in_two_steps(rules: &Rules, record: &FetchedRecord) -> Prepared {
        let mut found = prepare(rules, record, record.size(), Some(b"orders.by-subject"), false);
        if found.next == Next::Parse {
            (found.envelope, found.next) = match parse(rules, record, record.size()) {
                Ok(envelope) => (envelope, Next::Attempt),
                Err(reason) => (None, Next::Unhandleable(reason.into())),
            };
        }
        found
    }

    fn told(found: &Prepared, record: &FetchedRecord) -> (Option<Key>, Next, Option<String>) {
        let id = found.envelope.as_ref().map(|envelope| envelope.aggregate_id(record.value()).to_owned());
        (found.key, found.next.clone(), id)
    }

    fn records() -> impl Strategy<Value = Record> {
        let id = || prop_oneof![Just("order-1"), Just("order-2"), Just("no id")];
        let value = prop_oneof![
            4 => id().prop_map(|id| format!(r#"{{"event_id":"e","aggregate_id":"{id}","event_type":"t","event_version":1,"timestamp":"2026-01-01T00:00:00Z","payload":1}}"#)),
            // Behind an escaped quote in the event's id, there twice, cut off.
            1 => id().prop_map(|id| format!(r#"{{"event_id":"e\",\"aggregate_id\":\"{id}","aggregate_id":"order-1","event_type":"t","event_version":1,"timestamp":"2026-01-01T00:00:00Z","payload":1}}"#)),
            1 => id().prop_map(|id| format!(r#"{{"event_id":"e\","aggregate_id":"{id}","aggregate_id":"order-1"}}"#)),
            1 => id().prop_map(|id| format!(r#"{{"event_id":"e","aggregate_id":"{id}","aggregate_id":"order-1","event_type":"t","event_version":1,"timestamp":"2026-01-01T00:00:00Z","payload":1}}"#)),
            1 => id().prop_map(|id| format!(r#"{{"event_id":"e","aggregate_id":"{id}","event_type"#)),
            1 => Just("paid".to_owned()),
        ];
        let (key, header) = (proptest::option::of(id()), proptest::option::of(id()));
        (value, key, header).prop_map(|(value, key, header)| {
            let mut record = Record::new(value);
            if let Some(key) = key {
                record = record.with_key(key);
            }
            match header {
                Some(header) => record.with_header(Envelope::AGGREGATE_ID_HEADER, header),
                None => record,
            }
        })
    }

    fn routes() -> impl Strategy<Value = Route> {
        let header = Route::Header(Envelope::AGGREGATE_ID_HEADER.to_owned());
        proptest::sample::select(vec![
            Route::Auto,
            Route::Auto,
            Route::Envelope,
            Route::Key,
            Route::Subject(1),
            header,
        ])
    }

    proptest! {
        #[test]
        fn who_parses_a_record_changes_nothing(record in records(), route in routes(), takes_envelopes in any::<bool>()) {
            let rules = Rules { route, max_record_bytes: 300, takes_envelopes };
            let record = FetchedRecord::Own(record);
            let at_once = prepare(&rules, &record, record.size(), Some(b"orders.by-subject"), true);
            prop_assert_ne!(&at_once.next, &Next::Parse);
            let found = in_two_steps(&rules, &record);
            prop_assert_eq!(told(&found, &record), told(&at_once, &record));
        }
    }

    #[test]
    fn what_is_published_as_an_envelope_is_parsed_by_its_worker() {
        let rules = Rules { route: Route::Auto, max_record_bytes: 300, takes_envelopes: true };
        let record = FetchedRecord::Own(an_envelope());
        let found = prepare(&rules, &record, record.size(), None, false);
        assert_eq!((found.key, found.next), (Some(Key::of("order-42")), Next::Parse));
    }
}
