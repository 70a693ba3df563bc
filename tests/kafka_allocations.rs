//! How often consuming from Kafka allocates, beside a loop over the client library in the same process.

#![allow(unreachable_pub, reason = "the modules of a test program have no public face")]

mod support;

use keylane::{Config, Envelope};
use rdkafka::ClientConfig;
use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use support::{eventually, servers};

/// Counts what the whole process allocates; what C allocates is not counted.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is left to the system's allocator; counting touches no memory that it hands out.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const RECORDS: u64 = 60_000;
/// What is handled before counting begins.
const FIRST: u64 = 10_000;

#[test]
fn less_than_one_allocation_for_a_record_on_our_side() {
    let port = servers::shared_kafka().0.port;
    let mut config = Config::default();
    config.url = format!("kafka://127.0.0.1:{port}");
    config.kafka.create_topics = true;
    config.kafka.connect_timeout = Duration::from_secs(60);
    config.publisher.records = 10_000;
    let bus = keylane::connect_with(config).wait().unwrap();
    let payload = format!("\"{}\"", "x".repeat(100));
    let receipts: Vec<_> = (0..RECORDS)
        .map(|n| {
            let envelope =
                Envelope::new(format!("key-{}", n % 100), "test.padded", 1, payload.as_str()).unwrap();
            bus.publish("orders", envelope)
        })
        .collect();
    receipts.into_iter().for_each(|receipt| drop(receipt.wait().unwrap()));

    let raw = {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", format!("127.0.0.1:{port}"))
            .set("group.id", "raw")
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.commit", "false")
            .create()
            .unwrap();
        consumer.subscribe(&["orders"]).unwrap();
        let (mut count, mut before) = (0, 0);
        while count < RECORDS {
            let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) else { continue };
            Envelope::parse(message.payload().unwrap()).unwrap();
            count += 1;
            if count == FIRST {
                before = ALLOCATIONS.load(Ordering::Relaxed);
            }
        }
        per_record(before)
    };

    let (handled, before) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (count, begin) = (handled.clone(), before.clone());
    let orders = bus
        .subscribe_envelopes("orders")
        .group("bus")
        .workers(1)
        .handle(move |_| {
            if count.fetch_add(1, Ordering::Relaxed) + 1 == FIRST {
                begin.store(ALLOCATIONS.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            Ok(())
        })
        .unwrap();
    eventually("all is handled", || handled.load(Ordering::Relaxed) == RECORDS).unwrap();
    let ours = per_record(before.load(Ordering::Relaxed));
    drop(orders);
    println!("allocations for a record: {raw:.3} in a loop over the library, {ours:.3} on the bus");
    assert!(raw > 0.5, "the library is known to make one: {raw:.3}");
    assert!(ours - raw < 0.5, "{raw:.3} in a loop over the library, {ours:.3} on the bus");
}

fn per_record(before: u64) -> f64 {
    (ALLOCATIONS.load(Ordering::Relaxed) - before) as f64 / (RECORDS - FIRST) as f64
}
