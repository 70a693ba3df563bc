//! The whole way over the memory bus: publish, route, handle, settle. The shapes are defined in `benches/README.md`.

use divan::Bencher;
use divan::counter::ItemsCount;
use keylane::{Envelope, Record};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

fn main() {
    divan::main();
}

const RECORDS: u64 = 100_000;
const KEYS: u64 = 10_000;
const WINDOW: u64 = 1_024;

/// Envelopes of 300 bytes.
fn envelopes() -> Vec<Envelope<'static>> {
    let payload = format!(r#"{{"pad":"{}"}}"#, "x".repeat(80));
    (0..KEYS)
        .map(|n| Envelope::new(format!("order-{n}"), "order.changed", 1, payload.clone()).expect("valid"))
        .collect()
}

fn run(bencher: Bencher, workers: usize, publish: impl Fn(&keylane::Bus, u64) + Sync) {
    bencher.counter(ItemsCount::new(RECORDS)).bench_local(|| {
        let bus = keylane::connect("memory:?topics=orders").wait().expect("connects");
        let handled = Arc::new(AtomicU64::new(0));
        let seen = handled.clone();
        let orders = bus
            .subscribe_envelopes("orders")
            .group("bench")
            .workers(workers)
            .handle(move |event| {
                divan::black_box(event.value());
                seen.fetch_add(1, Ordering::Relaxed);
                Ok(())
            })
            .expect("starts");
        orders.ready().wait().expect("joins");
        for n in 0..RECORDS {
            while n - handled.load(Ordering::Relaxed) >= WINDOW {
                std::thread::yield_now();
            }
            publish(&bus, n);
        }
        while handled.load(Ordering::Relaxed) < RECORDS {
            std::thread::yield_now();
        }
        bus.close(Duration::from_secs(10)).wait();
    });
}

#[divan::bench(args = [0, 2, 4], sample_count = 9, sample_size = 1)]
fn envelopes_in_a_window_of_1024(bencher: Bencher, workers: usize) {
    let envelopes = envelopes();
    run(bencher, workers, |bus, n| {
        bus.publish("orders", &envelopes[(n % KEYS) as usize]).wait().expect("stored");
    });
}

#[divan::bench(args = [2], sample_count = 9, sample_size = 1)]
fn encoded_records_in_a_window_of_1024(bencher: Bencher, workers: usize) {
    let records: Vec<Record> = envelopes()
        .iter()
        .map(|envelope| Record::new(envelope.encode()).with_key(envelope.aggregate_id().to_owned()))
        .collect();
    run(bencher, workers, |bus, n| {
        bus.publish("orders", records[(n % KEYS) as usize].clone()).wait().expect("stored");
    });
}
