//! What a record is: its Envelope, its aggregate and with it its key. A function of bytes, limits and route.

use super::runner::Next;
use crate::broker::FetchedRecord;
use crate::envelope::{self, Limits, Parsed};
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
    /// What it is ordered by; none: it has no aggregate id and so no order.
    pub(super) key: Option<Key>,
    pub(super) aggregate: Aggregate,
    /// Where something was found that is no aggregate id, if `key` is none.
    pub(super) invalid: Option<Source>,
    pub(super) envelope: Option<Parsed>,
    pub(super) next: Next,
}

/// Parses and routes a record.
pub(super) fn prepare(rules: &Rules, record: &FetchedRecord, subject: Option<&[u8]>) -> Prepared {
    let (bytes, limit) = (record.size(), rules.max_record_bytes);
    let parsed = if bytes > limit {
        Err(format!("the record has {bytes} bytes; at most {limit} are accepted"))
    } else if rules.takes_envelopes || looks_like_envelope(record.value()) {
        let limits = Limits { max_bytes: limit, ..Limits::default() };
        envelope::parse_spans(record.value(), &limits).map_err(|error| format!("no valid Envelope: {error}"))
    } else {
        Err(String::new())
    };
    let view = RecordView {
        envelope_aggregate_id: parsed.as_ref().ok().map(|(parsed, text)| parsed.aggregate_id_in(text)),
        key: record.key(),
        headers: record.headers(),
        subject: subject.and_then(|subject| std::str::from_utf8(subject).ok()),
        value: record.value(),
    };
    // A route may be foreign code. Its panic is the record's failure: without its aggregate it must not run.
    let (routing, panicked) = match foreign::call(|| rules.route.find(view)) {
        Ok(routing) => (routing, None),
        Err(message) => (Routing::Invalid(Source::Function), Some(message)),
    };
    let (key, aggregate, invalid) = match routing {
        Routing::Aggregate { id, source } => {
            let key = Key::of(id.as_bytes());
            let aggregate = match source {
                Source::Envelope => Aggregate::Envelope,
                Source::Key => Aggregate::Key,
                Source::Header | Source::Subject | Source::Function => Aggregate::Text(id.into()),
            };
            (Some(key), aggregate, None)
        }
        Routing::Invalid(source) => (None, Aggregate::None, Some(source)),
        Routing::Absent => (None, Aggregate::None, None),
    };
    let (envelope, next) = match (panicked, parsed) {
        (Some(message), parsed) => {
            let reason = format!("the function that routes it panicked: {message}");
            (parsed.ok().map(|(parsed, _)| parsed), Next::Unhandleable(reason.into()))
        }
        (None, Ok((parsed, _))) => (Some(parsed), Next::Attempt),
        (None, Err(reason)) if rules.takes_envelopes || bytes > limit => {
            (None, Next::Unhandleable(reason.into()))
        }
        (None, Err(_)) => (None, Next::Attempt),
    };
    Prepared { key, aggregate, invalid, envelope, next }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Record;
    use crate::sync::Arc;

    fn prepared(route: Route, takes_envelopes: bool, record: Record) -> Prepared {
        let rules = Rules { route, max_record_bytes: 300, takes_envelopes };
        prepare(&rules, &FetchedRecord::Own(record), Some(b"orders.by-subject"))
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
            assert_eq!((found.key, found.invalid), (None, None));
        }
    }

    #[test]
    fn a_key_that_is_no_aggregate_id_and_a_route_that_panics_give_no_order() {
        let found = prepared(Route::Key, false, Record::new("paid").with_key("no id"));
        assert_eq!((found.key, found.invalid, found.next), (None, Some(Source::Key), Next::Attempt));
        let route = Route::With(Arc::new(|_| panic!("planted: a route")));
        let found = prepared(route, false, Record::new("paid"));
        assert!(matches!(found.next, Next::Unhandleable(why) if why.contains("planted: a route")));
    }
}
