//! What reading and writing one Envelope costs, on one thread, with its bytes and its code in the cache.

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use keylane::{Envelope, Record};
use std::borrow::Cow;

fn main() {
    divan::main();
}

/// A record of 300 bytes as services publish it: UUIDs, all optional fields but one, a flat payload.
const TYPICAL: &str = concat!(
    r#"{"event_id":"01890a5d-ac96-774b-bcce-b302099a8057","aggregate_id":"order-4711","#,
    r#""event_type":"order.paid","event_version":1,"timestamp":"2025-10-31T08:00:00.123456789Z","#,
    r#""trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","tenant_id":7,"#,
    r#""payload":{"cents":995,"currency":"EUR","customer":"c-1","lines":[1,2]}}"#,
);

/// `TYPICAL` with so many members in its payload.
fn with_payload_members(members: usize) -> String {
    let members: Vec<_> =
        (0..members).map(|n| format!(r#""name{n}":"some text of usual length {n}""#)).collect();
    let (head, _) = TYPICAL.split_once(r#""payload""#).expect("a payload");
    format!(r#"{head}"payload":{{{}}}}}"#, members.join(","))
}

#[divan::bench(sample_size = 1_000)]
fn parse_typical(bencher: Bencher) {
    let record = TYPICAL.as_bytes();
    bencher
        .counter(BytesCount::of_slice(record))
        .bench_local(|| Envelope::parse(black_box(record)).map(|envelope| envelope.event_version()));
}

#[divan::bench(sample_size = 1_000)]
fn parse_typical_with_escapes(bencher: Bencher) {
    let record = TYPICAL.replace("order.paid", r"order\u002epaid");
    let record = record.as_bytes();
    bencher
        .counter(BytesCount::of_slice(record))
        .bench_local(|| Envelope::parse(black_box(record)).map(|envelope| envelope.event_version()));
}

#[divan::bench(args = [20, 400, 8000], sample_size = 20)]
fn parse_long_payload(bencher: Bencher, members: usize) {
    let record = with_payload_members(members);
    let record = record.as_bytes();
    bencher
        .counter(BytesCount::of_slice(record))
        .bench_local(|| Envelope::parse(black_box(record)).map(|envelope| envelope.event_version()));
}

/// The yardstick: the same fields through `serde_json`, strings borrowed, payload raw, no rule checked.
#[divan::bench(sample_size = 1_000)]
fn parse_typical_by_serde_json(bencher: Bencher) {
    #[derive(serde::Deserialize)]
    #[allow(dead_code)]
    struct Reading<'a> {
        event_id: Cow<'a, str>,
        aggregate_id: Cow<'a, str>,
        event_type: Cow<'a, str>,
        event_version: i64,
        timestamp: Cow<'a, str>,
        trace_id: Option<Cow<'a, str>>,
        correlation_id: Option<Cow<'a, str>>,
        tenant_id: Option<i64>,
        #[serde(borrow)]
        payload: &'a serde_json::value::RawValue,
    }
    let record = TYPICAL.as_bytes();
    bencher.counter(BytesCount::of_slice(record)).bench_local(|| {
        serde_json::from_slice::<Reading>(black_box(record)).map(|reading| reading.event_version)
    });
}

#[divan::bench(sample_size = 1_000)]
fn encode_typical(bencher: Bencher) {
    let envelope = Envelope::parse(TYPICAL.as_bytes()).expect("a valid record");
    let mut record = Vec::with_capacity(1024);
    bencher.counter(BytesCount::of_str(TYPICAL)).bench_local(|| {
        record.clear();
        black_box(&envelope).encode_into(&mut record);
        record.len()
    });
}

#[divan::bench(sample_size = 1_000)]
fn record_typical(bencher: Bencher) {
    let envelope = Envelope::parse(TYPICAL.as_bytes()).expect("a valid record");
    bencher.bench_local(|| Record::from(black_box(&envelope)));
}

#[divan::bench(sample_size = 1_000)]
fn make(bencher: Bencher) {
    bencher.bench_local(|| Envelope::new(black_box("order-4711"), "order.paid", 1, r#"{"cents":995}"#));
}
