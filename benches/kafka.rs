//! Kafka: a raw loop over librdkafka against the bus, on one broker and in one run. Shapes and figures are in
//! `benches/README.md`.
//!
//! ```text
//! tests/brokers run kafka 9092
//! cargo bench --features kafka --bench kafka -- --url kafka://127.0.0.1:9092
//! ```

use clap::Parser;
use keylane::{Config, Envelope, Event, HandlerError, Retry};
use rdkafka::ClientConfig;
use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Headers as _;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const PARTITIONS: usize = 8;
const KEYS: usize = 1_000;

/// Measures consumption of Envelopes of 300 bytes, 8 partitions, 1,000 keys.
#[derive(Parser)]
struct Options {
    /// A broker that nobody else uses meanwhile.
    #[arg(long, default_value = "kafka://127.0.0.1:9092")]
    url: String,
    /// Records at 0 ms; a fiftieth of it at 1 ms and 10 ms, which is 20 for a key.
    #[arg(long, default_value_t = 1_000_000)]
    records: u64,
    /// Rounds at 0 ms, raw and bus in turn.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// How the keys of the records are drawn.
#[derive(Debug, Clone, Copy)]
enum Keys {
    Uniform,
    /// The n-th key comes 1/n as often as the first.
    Zipf,
}

/// The same numbers each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

impl Keys {
    fn sampler(self) -> impl FnMut() -> usize {
        let mut random = Random(0x9E37_79B9_7F4A_7C15);
        let mut sums = Vec::with_capacity(KEYS);
        let mut sum = 0.0;
        for n in 1..=KEYS {
            sum += match self {
                Self::Uniform => 1.0,
                Self::Zipf => 1.0 / n as f64,
            };
            sums.push(sum);
        }
        move || {
            let at = (random.next() >> 11) as f64 / (1_u64 << 53) as f64 * sum;
            sums.partition_point(|s| *s < at).min(KEYS - 1)
        }
    }
}

/// The load: each record has its key and its number within the key.
fn load(config: &Config, topic: &str, keys: Keys, records: u64) {
    let mut config = config.clone();
    config.publisher.records = 100_000;
    config.publisher.bytes = 256 << 20;
    let bus = keylane::connect_with(config).wait().expect("the broker answers");
    bus.create_topic(topic).wait().expect("the topic can be created");
    let mut draw = keys.sampler();
    let mut numbers = vec![0_u64; KEYS];
    let pad = "x".repeat(74);
    let mut receipts = std::collections::VecDeque::new();
    for _ in 0..records {
        let key = draw();
        let payload = format!(r#"{{"n":{},"pad":"{pad}"}}"#, numbers[key]);
        numbers[key] += 1;
        let envelope = Envelope::new(format!("order-{key}"), "order.changed", 1, payload).expect("valid");
        receipts.push_back(bus.publish(topic, envelope));
        if receipts.len() > 50_000 {
            receipts.pop_front().map(|receipt| receipt.wait().expect("stored"));
        }
    }
    receipts.into_iter().for_each(|receipt| drop(receipt.wait().expect("stored")));
    bus.close(Duration::from_secs(10)).wait();
}

/// A loop over librdkafka with the bus's own settings for fetching, and the same decoding.
fn raw(config: &Config, topic: &str, group: &str, records: u64) -> f64 {
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", config.url.trim_start_matches("kafka://"))
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("isolation.level", "read_committed")
        .set("fetch.queue.backoff.ms", "5")
        .set("queued.max.messages.kbytes", "32768");
    let consumer: BaseConsumer = client.create().expect("a client");
    consumer.subscribe(&[topic]).expect("the topic is there");
    let (mut count, mut since, mut bytes) = (0, None, 0);
    while count < records {
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) else { continue };
        since.get_or_insert_with(Instant::now);
        let envelope = Envelope::parse(message.payload().expect("a value")).expect("an Envelope");
        bytes += envelope.aggregate_id().len();
        if let Some(headers) = message.headers() {
            bytes += headers.iter().map(|header| header.key.len()).sum::<usize>();
        }
        count += 1;
    }
    std::hint::black_box(bytes);
    records as f64 / since.expect("there was one").elapsed().as_secs_f64()
}

/// What the handlers saw.
#[derive(Default)]
struct Seen {
    handled: AtomicU64,
    breaks: AtomicU64,
    duplicates: AtomicU64,
    first: Mutex<Option<Instant>>,
    next: Mutex<HashMap<String, u64>>,
}

impl Seen {
    fn began(&self) {
        self.first.lock().unwrap().get_or_insert_with(Instant::now);
    }

    /// A handler has succeeded.
    fn done(&self, event: &Event) {
        let envelope = event.envelope().expect("an Envelope");
        let n: u64 =
            envelope.payload()[5..].split(',').next().and_then(|n| n.parse().ok()).expect("a number");
        let mut next = self.next.lock().unwrap();
        let expected = next.entry(envelope.aggregate_id().to_owned()).or_default();
        match n.cmp(expected) {
            std::cmp::Ordering::Equal => *expected += 1,
            std::cmp::Ordering::Less => _ = self.duplicates.fetch_add(1, Ordering::Relaxed),
            std::cmp::Ordering::Greater => {
                self.breaks.fetch_add(1, Ordering::Relaxed);
                *expected = n + 1;
            }
        }
        self.handled.fetch_add(1, Ordering::Relaxed);
    }
}

struct Outcome {
    per_second: f64,
    breaks: u64,
    duplicates: u64,
}

/// A bus whose handlers take this long; of each hundred records one fails twice where `fails`.
fn bus(config: &Config, topic: &str, group: &str, records: u64, takes: Duration, fails: bool) -> Outcome {
    let mut config = config.clone();
    config.subscription.in_flight_records = if takes.is_zero() { 4_096 } else { 16_384 };
    let bus = keylane::connect_with(config).wait().expect("the broker answers");
    let seen = Arc::new(Seen::default());
    let builder = bus
        .subscribe_envelopes(topic)
        .group(group)
        .workers(2)
        .retry(Retry::exponential(Duration::from_millis(1)..Duration::from_millis(10)));
    let noted = seen.clone();
    let subscription = if takes.is_zero() {
        builder.handle(move |event| {
            if noted.handled.fetch_add(1, Ordering::Relaxed) == 0 {
                noted.began();
            }
            std::hint::black_box(event.envelope());
            Ok(())
        })
    } else {
        builder.handle_async(move |event| {
            let noted = noted.clone();
            async move {
                noted.began();
                smol::Timer::after(takes).await;
                if fails && event.offset().is_multiple_of(100) && event.attempt() <= 2 {
                    return Err(HandlerError::from("planted"));
                }
                noted.done(&event);
                Ok(())
            }
        })
    };
    let subscription = subscription.expect("the topic is there");
    while seen.handled.load(Ordering::Relaxed) < records {
        std::thread::sleep(Duration::from_millis(1));
    }
    let taken = seen.first.lock().unwrap().expect("there was one").elapsed();
    drop(subscription);
    bus.close(Duration::from_secs(10)).wait();
    Outcome {
        per_second: records as f64 / taken.as_secs_f64(),
        breaks: seen.breaks.load(Ordering::Relaxed),
        duplicates: seen.duplicates.load(Ordering::Relaxed),
    }
}

fn main() {
    let options = Options::parse();
    let mut config = Config::default();
    config.url.clone_from(&options.url);
    config.kafka.create_topics = true;
    config.kafka.partitions = PARTITIONS;
    let unique =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_millis();
    println!("| handler | keys | failing | what | records/s | order breaks | duplicates |");
    println!("|---|---|---|---|---|---|---|");
    let topic = format!("bench-{unique}-full");
    load(&config, &topic, Keys::Uniform, options.records);
    let (mut best_raw, mut best_bus) = (0.0_f64, 0.0_f64);
    for round in 0..options.rounds {
        let per_second = raw(&config, &topic, &format!("raw-{unique}-{round}"), options.records);
        best_raw = best_raw.max(per_second);
        println!("| 0 ms | uniform | 0 % | raw loop | {per_second:.0} | | |");
        let outcome =
            bus(&config, &topic, &format!("bus-{unique}-{round}"), options.records, Duration::ZERO, false);
        best_bus = best_bus.max(outcome.per_second);
        println!("| 0 ms | uniform | 0 % | keylane | {:.0} | | |", outcome.per_second);
    }
    println!(
        "\nkeylane at 0 ms: {:.0} % of the raw loop, best of {}\n",
        best_bus / best_raw * 100.0,
        options.rounds
    );
    for keys in [Keys::Uniform, Keys::Zipf] {
        let topic = format!("bench-{unique}-{keys:?}");
        let records = options.records / 50;
        load(&config, &topic, keys, records);
        for (ms, fails) in [(1, false), (1, true), (10, false), (10, true)] {
            let group = format!("bus-{unique}-{ms}-{fails}");
            let outcome = bus(&config, &topic, &group, records, Duration::from_millis(ms), fails);
            println!(
                "| {ms} ms | {keys:?} | {} % | keylane | {:.0} | {} | {} |",
                u8::from(fails),
                outcome.per_second,
                outcome.breaks,
                outcome.duplicates
            );
        }
    }
}
