//! A pull and an acknowledgement for each of 100,000 stored records of 100 bytes: the client alone, and keylane on top of
//! it, in turn in one run on one server. And publishes with acknowledgement, 512 in flight, by both.

#![allow(unreachable_pub, reason = "the modules of a bench have no public face")]

#[path = "../tests/support/mod.rs"]
mod support;

use async_nats::jetstream::{self, consumer};
use futures_util::StreamExt;
use keylane::{Config, Record};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use support::servers::{self, Server};
use tokio::runtime::{Builder, Runtime};

const RECORDS: u64 = 100_000;
const KEYS: u64 = 1_000;
const ROUNDS: usize = 5;
const IN_FLIGHT: usize = 512;

fn bus(server: &Server) -> keylane::Bus {
    let mut config = Config::default();
    config.url = format!("nats://127.0.0.1:{}", server.port);
    config.nats.create_topics = true;
    config.publisher.records = IN_FLIGHT;
    keylane::connect_with(config).wait().expect("the server takes anybody")
}

fn record(n: u64) -> Record {
    Record::new(vec![b'x'; 100]).with_key(format!("key-{}", n % KEYS))
}

fn published_by_keylane(server: &Server, topic: &str) -> Duration {
    let bus = bus(server);
    bus.create_topic(topic).wait().expect("it is created");
    let began = Instant::now();
    let publishes: Vec<_> = (0..RECORDS).map(|n| bus.publish(topic, record(n))).collect();
    publishes.into_iter().for_each(|publish| drop(publish.wait().expect("it is stored")));
    let took = began.elapsed();
    bus.close(Duration::from_secs(10)).wait();
    took
}

/// With the same headers, which tell a second copy from a new record.
fn published_raw(server: &Server, runtime: &Runtime, topic: &str) -> Duration {
    runtime.block_on(async {
        let client = async_nats::connect(format!("127.0.0.1:{}", server.port)).await.expect("it connects");
        let jetstream = jetstream::context::ContextBuilder::new().max_ack_inflight(IN_FLIGHT).build(client);
        let stream = jetstream::stream::Config {
            name: topic.to_owned(),
            subjects: vec![format!("{topic}.*")],
            ..jetstream::stream::Config::default()
        };
        jetstream.create_stream(stream).await.expect("it is created");
        let payload = bytes::Bytes::from(vec![b'x'; 100]);
        let mut in_flight = futures_util::stream::FuturesUnordered::new();
        let began = Instant::now();
        for n in 0..RECORDS {
            let mut headers = async_nats::HeaderMap::new();
            headers.insert("Nats-Msg-Id", format!("019ab9c1f2a37c1e8a4e0f1d2c3b4a59-{n}"));
            headers.insert("Nats-Keylane-Time", "1764075600000");
            let subject = format!("{topic}.key-{}", n % KEYS);
            let ack =
                jetstream.publish_with_headers(subject, headers, payload.clone()).await.expect("it is sent");
            in_flight.push(ack.into_future());
            if in_flight.len() >= IN_FLIGHT {
                in_flight.next().await.expect("one is in flight").expect("it is stored");
            }
        }
        while let Some(stored) = in_flight.next().await {
            stored.expect("it is stored");
        }
        began.elapsed()
    })
}

fn consumed_by_keylane(server: &Server, topic: &str, group: &str) -> Duration {
    let bus = bus(server);
    let handled = Arc::new(AtomicU64::new(0));
    let count = handled.clone();
    let began = Instant::now();
    let subscription = bus
        .subscribe(topic)
        .group(group)
        .handle(move |event| {
            std::hint::black_box(event.value());
            count.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
        .expect("it subscribes");
    while handled.load(Ordering::Relaxed) < RECORDS {
        std::thread::sleep(Duration::from_micros(200));
    }
    // Acknowledged, too: a drain waits for that.
    subscription.drain(Duration::from_secs(10)).wait();
    let took = began.elapsed();
    bus.close(Duration::from_secs(10)).wait();
    took
}

fn consumed_raw(server: &Server, runtime: &Runtime, topic: &str, group: &str) -> Duration {
    runtime.block_on(async {
        let client = async_nats::connect(format!("127.0.0.1:{}", server.port)).await.expect("it connects");
        let stream = jetstream::new(client.clone()).get_stream(topic).await.expect("it is there");
        let began = Instant::now();
        let config = consumer::pull::Config {
            durable_name: Some(group.to_owned()),
            filter_subject: format!("{topic}.*"),
            max_ack_pending: 5_120,
            ..consumer::pull::Config::default()
        };
        let consumer = stream.create_consumer(config).await.expect("it is created");
        let mut messages =
            consumer.stream().max_messages_per_batch(1_024).messages().await.expect("it is pulled from");
        for _ in 0..RECORDS {
            let message = messages.next().await.expect("one more").expect("it came");
            std::hint::black_box(&message.payload);
            message.ack().await.expect("it is sent");
        }
        client.flush().await.expect("it is written");
        began.elapsed()
    })
}

fn show(what: &str, mut raw: Vec<Duration>, mut keylane: Vec<Duration>) {
    raw.sort_unstable();
    keylane.sort_unstable();
    let rate = |times: &[Duration]| RECORDS as f64 / times[times.len() / 2].as_secs_f64() / 1_000.0;
    let (raw, keylane) = (rate(&raw), rate(&keylane));
    println!("{what}: client alone {raw:.1} k/s, keylane {keylane:.1} k/s ({:.0} %)", keylane / raw * 100.0);
}

fn main() {
    let server = servers::nats(&[]);
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (mut raw, mut keylane) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        raw.push(published_raw(&server, &runtime, &format!("raw{round}")));
        keylane.push(published_by_keylane(&server, &format!("keylane{round}")));
    }
    show("publish", raw, keylane);
    let (mut raw, mut keylane) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        raw.push(consumed_raw(&server, &runtime, "keylane0", &format!("raw{round}")));
        keylane.push(consumed_by_keylane(&server, "keylane0", &format!("keylane{round}")));
    }
    show("pull and acknowledge", raw, keylane);
}
