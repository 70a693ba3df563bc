use super::*;
use crate::pool::{Key, RoundRobin};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestError, TestRunner};

/// What a record has for routing, owned.
#[derive(Debug, Clone, Default)]
struct Record {
    key: Option<Vec<u8>>,
    headers: Headers,
    subject: Option<String>,
    value: Vec<u8>,
    envelope_aggregate_id: Option<String>,
}

impl Record {
    fn view(&self) -> RecordView<'_> {
        RecordView {
            key: self.key.as_deref(),
            headers: &self.headers,
            subject: self.subject.as_deref(),
            value: &self.value,
            envelope_aggregate_id: self.envelope_aggregate_id.as_deref(),
        }
    }
}

fn found(id: &str, source: Source) -> Routing<'_> {
    Routing::Aggregate { id: id.as_bytes().into(), source }
}

fn id_or_not() -> impl Strategy<Value = Option<String>> {
    prop_oneof![
        2 => Just(None),
        3 => "[A-Za-z0-9:_./-]{1,12}".prop_map(Some),
        1 => Just(Some(String::new())),
        1 => "[ a-z*ä\n]{1,4}".prop_map(Some),
        1 => (250_usize..260).prop_map(|n| Some("x".repeat(n))),
    ]
}

fn any_case(name: &'static str) -> impl Strategy<Value = String> {
    prop::collection::vec(any::<bool>(), name.len()).prop_map(|upper| {
        let cased = name
            .chars()
            .zip(upper)
            .map(|(c, up)| if up { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() });
        cased.collect()
    })
}

prop_compose! {
    fn record()(
        key in id_or_not(),
        not_utf8 in prop::bool::weighted(0.1),
        header in id_or_not(),
        second_header in id_or_not(),
        name in any_case("x-aggregate-id"),
        tokens in prop::option::of(prop::collection::vec("[a-z ]{0,3}", 1..4)),
        envelope in prop::option::of("[A-Za-z0-9:_./-]{1,12}"),
    ) -> Record {
        let mut headers = Headers::new();
        headers.push("X-Trace-ID", "trace");
        for value in [header, second_header].into_iter().flatten() {
            headers.push(name.clone(), value);
        }
        let key = if not_utf8 { Some(vec![b'k', 0xff]) } else { key.map(String::into_bytes) };
        let subject = tokens.map(|tokens| tokens.join("."));
        Record { key, headers, subject, value: b"x".to_vec(), envelope_aggregate_id: envelope }
    }
}

/// The places of a record in the order of precedence, written down without a short cut.
fn places(record: &Record) -> [(Source, Option<Vec<u8>>); 4] {
    let header = record.headers.iter().find(|(name, _)| name.to_lowercase() == "x-aggregate-id");
    let subject = record.subject.as_ref().map(|subject| {
        let tokens: Vec<&str> = subject.split('.').collect();
        tokens[tokens.len() - 1].as_bytes().to_vec()
    });
    [
        (Source::Envelope, record.envelope_aggregate_id.clone().map(String::into_bytes)),
        (Source::Header, header.map(|(_, value)| value.to_vec())),
        (Source::Key, record.key.clone()),
        (Source::Subject, subject),
    ]
}

fn is_valid(id: &[u8]) -> bool {
    let allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789:_-./";
    !id.is_empty() && id.len() <= 256 && id.iter().all(|byte| allowed.as_bytes().contains(byte))
}

/// The first place with something in it.
fn expected(places: &[(Source, Option<Vec<u8>>)]) -> Routing<'static> {
    let there = places.iter().find_map(|(source, value)| {
        let id = value.as_ref().filter(|id| *source == Source::Key || !id.is_empty())?;
        Some(Routing::Aggregate { id: Cow::Owned(id.clone()), source: *source })
    });
    there.unwrap_or(Routing::Absent)
}

/// The places in the order in which `Route::Auto` looks: a header that holds no aggregate id is the last, and a subject
/// that does not is none.
fn looked_at(record: &Record) -> Vec<(Source, Option<Vec<u8>>)> {
    let mut places = places(record).to_vec();
    places[3].1.take_if(|token| !is_valid(token));
    if !places[1].1.as_ref().is_some_and(|id| is_valid(id)) {
        let header = places.remove(1);
        places.push(header);
    }
    places
}

proptest! {
    #[test]
    fn the_first_place_with_something_in_it_is_the_order(record in record()) {
        prop_assert_eq!(Route::Auto.find(record.view()), expected(&looked_at(&record)));
    }

    #[test]
    fn a_route_to_one_place_looks_nowhere_else(record in record(), name in any_case("x-aggregate-id")) {
        let places = places(&record);
        prop_assert_eq!(Route::Envelope.find(record.view()), expected(&places[0..1]));
        prop_assert_eq!(Route::Header(name).find(record.view()), expected(&places[1..2]));
        prop_assert_eq!(Route::Key.find(record.view()), expected(&places[2..3]));
        prop_assert_eq!(Route::RoundRobin.find(record.view()), Routing::Absent);
        let tokens: Vec<&str> = record.subject.iter().flat_map(|subject| subject.split('.')).collect();
        for n in 0..=tokens.len() {
            let token = tokens.get(n).map(|token| token.as_bytes().to_vec());
            prop_assert_eq!(Route::Subject(n).find(record.view()), expected(&[(Source::Subject, token)]));
        }
    }

    #[test]
    fn a_key_is_always_on_the_same_worker(key in any::<Vec<u8>>(), workers in 1_usize..=1_024) {
        let key_again = Key::of(key.clone());
        let key = Key::of(&key);
        prop_assert!(key.worker(workers) < workers);
        prop_assert_eq!(key.worker(workers), key_again.worker(workers));
    }

    #[test]
    fn records_without_an_order_are_even_over_the_workers_to_within_one(
        workers in 1_usize..=64, records in 0_usize..1_000
    ) {
        let mut round_robin = RoundRobin::new(workers);
        let mut had = vec![0_usize; workers];
        for _ in 0..records {
            had[round_robin.next_key().worker(workers)] += 1;
        }
        let (least, most) = (had.iter().min().unwrap(), had.iter().max().unwrap());
        prop_assert!(most - least <= 1, "{had:?}");
    }
}

#[test]
fn the_precedence_property_finds_another_precedence() {
    let config = Config { max_shrink_iters: 0, failure_persistence: None, ..Config::default() };
    let found = TestRunner::new(config).run(&record(), |record| {
        let mut places = looked_at(&record);
        places.swap(1, 2);
        prop_assert_eq!(Route::Auto.find(record.view()), expected(&places));
        Ok(())
    });
    assert!(matches!(found, Err(TestError::Fail(..))), "the key before the header was not found");
}

#[test]
fn a_function_names_the_order() {
    let route = Route::With(Arc::new(|record| {
        let key = std::str::from_utf8(record.key?).ok()?;
        Some(key.split('|').next()?.to_owned())
    }));
    let find = |key: Option<&str>| {
        let record = Record { key: key.map(|key| key.as_bytes().to_vec()), ..Record::default() };
        match route.find(record.view()) {
            Routing::Aggregate { id, source } => Some((String::from_utf8(id.into_owned()).unwrap(), source)),
            Routing::Absent => None,
        }
    };
    assert_eq!(find(Some("a1|b")), Some(("a1".to_owned(), Source::Function)));
    assert_eq!(find(Some("a 1|b")), Some(("a 1".to_owned(), Source::Function)));
    assert_eq!(find(Some("|b")), None, "an empty text is none");
    assert_eq!(find(None), None);
    assert_eq!(format!("{route:?} {:?}", Route::Subject(2)), "With(..) Subject(2)");
}

#[test]
fn only_what_begins_with_a_brace_looks_like_an_envelope() {
    assert!(looks_like_envelope(b"{\"event_id\""));
    for value in [&b""[..], b" {}", b"[{}]", b"\xef\xbb\xbf{}", b"x"] {
        assert!(!looks_like_envelope(value));
    }
}

/// Where routing differs from jxt-core on purpose: the line, what is found here, and why.
const DELIBERATE_DIFFERENCES: [(&str, Routing<'_>, &str); 3] = [
    (
        "invalid key falls to subject",
        Routing::Aggregate { id: Cow::Borrowed(b"no good"), source: Source::Key },
        "what has a key has order, whatever the key is made of",
    ),
    (
        "odd case header",
        Routing::Aggregate { id: Cow::Borrowed(b"h1"), source: Source::Header },
        "the header counts in any case: services on one topic do not agree on a spelling",
    ),
    (
        "short header",
        Routing::Absent,
        "one name for one thing: two headers that may differ are two readings; Route::Header takes this one",
    ),
];

#[test]
fn routing_agrees_with_jxt_core_or_differs_on_purpose() {
    let mut compared = 0;
    let mut differed = Vec::new();
    for line in include_str!("../../tests/data/jxt-verdicts.jsonl").lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let text = |field: &str| line[field].as_str();
        let name = text("name").unwrap();
        let is_about_routing = ["headers", "key", "subject"].iter().any(|field| !line[field].is_null());
        if !is_about_routing && name != "nothing" {
            continue;
        }
        let value = text("bytes").unwrap();
        let mut record = Record {
            key: text("key").map(|key| key.as_bytes().to_vec()),
            subject: text("subject").map(str::to_owned),
            value: value.as_bytes().to_vec(),
            ..Record::default()
        };
        for (header, value) in line["headers"].as_object().into_iter().flatten() {
            record.headers.push(header.clone(), value.as_str().unwrap().to_owned());
        }
        if line["accepted_as_envelope"] == true {
            let envelope: serde_json::Value = serde_json::from_str(value).unwrap();
            record.envelope_aggregate_id = envelope["aggregate_id"].as_str().map(str::to_owned);
        }

        let routing = Route::Auto.find(record.view());
        let id = match &routing {
            Routing::Aggregate { id, .. } => std::str::from_utf8(id).unwrap(),
            Routing::Absent => "",
        };
        compared += 1;
        if id == text("extracted_aggregate_id").unwrap() {
            continue;
        }
        let difference = DELIBERATE_DIFFERENCES.iter().find(|(line, ..)| *line == name);
        assert_eq!(difference.map(|(_, here, _)| here), Some(&routing), "{name}");
        differed.push(name.to_owned());
    }
    assert_eq!(compared, 11, "lines about routing");
    differed.sort_unstable();
    assert_eq!(differed, DELIBERATE_DIFFERENCES.map(|(name, ..)| name), "a difference that is none any more");
}

/// The largest share of 100,000 keys by which a worker is off from an even share.
fn unevenness(workers: usize, place: impl Fn(&str) -> usize) -> f64 {
    const KEYS: usize = 100_000;
    let mut had = vec![0_usize; workers];
    for n in 0..KEYS {
        had[place(&format!("order-{n}"))] += 1;
    }
    let even = KEYS as f64 / workers as f64;
    had.iter().map(|&had| (had as f64 - even).abs() / even).fold(0.0, f64::max)
}

/// 5 % because 1,024 buckets do not divide by every number of workers up to 64, and 10 %, four standard
/// deviations of the 1,562 keys of one of 64 workers.
const BOUND: f64 = 0.15;

#[test]
fn keys_are_even_over_the_workers() {
    for workers in 1..=64 {
        let unevenness = unevenness(workers, |key| Key::of(key).worker(workers));
        assert!(unevenness <= BOUND, "{workers} workers: one is off by {unevenness:.3}");
    }
}

#[test]
fn the_check_of_evenness_finds_a_bad_hash() {
    let by_sum = |key: &str| key.bytes().map(usize::from).sum::<usize>() % 64;
    assert!(unevenness(64, by_sum) > BOUND);
    // Good bits, of which the low ones are used: workers that do not divide them have too much.
    let by_few_buckets = |key: &str| (Key::of(key).worker(128)) * 48 / 128;
    assert!(unevenness(48, by_few_buckets) > BOUND);
}

#[test]
fn found_ids_are_borrowed_from_the_record() {
    let record = Record { key: Some(b"k1".to_vec()), ..Record::default() };
    let routing = Route::Auto.find(record.view());
    assert_eq!(routing, found("k1", Source::Key));
    assert!(matches!(routing, Routing::Aggregate { id: Cow::Borrowed(_), .. }));
}
