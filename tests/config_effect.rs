//! Of every key of the configuration, that it changes what the bus does: one observation under two values.

#![allow(unreachable_pub, reason = "the modules of a test program have no public face")]

mod support;

use keylane::memory::MemoryBroker;
use keylane::{
    Bus, Config, Envelope, Event, HandlerError, Problem, Record, Start, Subscription, TryPublishError,
};
use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::effects::seen;
use support::{eventually, numbered, wanted_cpu_time, within};

/// What a key is said to change: the key, its value, what else is set under both, and what is seen.
struct Effect {
    key: &'static str,
    value: &'static str,
    besides: &'static str,
    /// What is seen without the key, and with it.
    see: fn(&str) -> String,
    without: &'static str,
    with: &'static str,
}

const QUICK: &str = "subscription.retry.initial = '1ms'\nsubscription.retry.max = '2ms'";
const STEADY: &str = "subscription.retry.jitter = 'none'";
const SMALL: &str = "publisher.max_record_bytes = 1000\nsubscription.max_record_bytes = 1000";

const EFFECTS: &[Effect] = &[
    Effect {
        key: "url",
        value: "'kafka://localhost:9092'",
        besides: "",
        see: connects,
        without: "true",
        with: "false",
    },
    Effect {
        key: "publisher.records",
        value: "7",
        besides: "",
        see: publishes_at_once,
        without: "20",
        with: "7",
    },
    Effect {
        key: "publisher.bytes",
        value: "1500",
        besides: SMALL,
        see: publishes_at_once,
        without: "20",
        with: "5",
    },
    Effect {
        key: "publisher.max_record_bytes",
        value: "1000",
        besides: "",
        see: publishes_2000_bytes,
        without: "true",
        with: "false",
    },
    Effect {
        key: "subscription.workers",
        value: "0",
        besides: "",
        see: handles_on_its_intake,
        without: "false",
        with: "true",
    },
    Effect {
        key: "subscription.in_flight_records",
        value: "7",
        besides: "",
        see: starts,
        without: "20",
        with: "7",
    },
    Effect {
        key: "subscription.in_flight_bytes",
        value: "1500",
        besides: SMALL,
        see: starts,
        without: "20",
        with: "6",
    },
    Effect {
        key: "subscription.watermark_distance",
        value: "7",
        besides: "memory.partitions = 1",
        see: stops_behind_a_failure,
        without: "false",
        with: "true",
    },
    Effect {
        key: "subscription.max_record_bytes",
        value: "1000",
        besides: "",
        see: handles_2000_bytes,
        without: "true",
        with: "false",
    },
    Effect {
        key: "subscription.drain_timeout",
        value: "'10ms'",
        besides: "",
        see: gives_up_a_partition_soon,
        without: "false",
        with: "true",
    },
    Effect {
        key: "subscription.commit_interval",
        value: "'5m'",
        besides: "",
        see: commits_soon,
        without: "true",
        with: "false",
    },
    Effect {
        key: "subscription.hung_after",
        value: "'20ms'",
        besides: "",
        see: reports_a_hung_handler,
        without: "false",
        with: "true",
    },
    Effect {
        key: "subscription.handler_deadline",
        value: "'20ms'",
        besides: "",
        see: ends_a_future,
        without: "false",
        with: "true",
    },
    Effect {
        key: "subscription.idle",
        value: "'spin:1s'",
        besides: "",
        see: spins,
        without: "false",
        with: "true",
    },
    Effect {
        key: "subscription.retry.attempts",
        value: "2",
        besides: QUICK,
        see: attempts,
        without: "many",
        with: "2",
    },
    Effect {
        key: "subscription.retry.initial",
        value: "'1s'",
        besides: STEADY,
        see: attempts,
        without: "2",
        with: "1",
    },
    Effect {
        key: "subscription.retry.max",
        value: "'2ms'",
        besides: "subscription.retry.jitter = 'none'\nsubscription.retry.initial = '2ms'\nsubscription.retry.factor = 100",
        see: attempts,
        without: "few",
        with: "many",
    },
    Effect {
        key: "subscription.retry.factor",
        value: "1",
        besides: "subscription.retry.jitter = 'none'\nsubscription.retry.initial = '2ms'",
        see: attempts,
        without: "few",
        with: "many",
    },
    Effect {
        key: "subscription.retry.jitter",
        value: "'none'",
        besides: "subscription.retry.initial = '100ms'\nsubscription.retry.max = '100ms'",
        see: retries_before_its_time,
        without: "true",
        with: "false",
    },
    Effect {
        key: "subscription.then.kind",
        value: "'discard'",
        besides: "subscription.retry.attempts = 1",
        see: ends_as,
        without: "held",
        with: "discarded",
    },
    Effect {
        key: "subscription.then.topic",
        value: "'other'",
        besides: "subscription.retry.attempts = 1\nsubscription.then.kind = 'dead_letter'",
        see: ends_as,
        without: "an error",
        with: "a dead letter in other",
    },
    Effect {
        key: "subscription.then.delay",
        value: "'1ms'",
        besides: "subscription.retry.attempts = 1\nsubscription.then.kind = 'redeliver'",
        see: is_redelivered_soon,
        without: "false",
        with: "true",
    },
    Effect { key: "memory.partitions", value: "9", besides: "", see: partitions, without: "4", with: "9" },
    Effect {
        key: "memory.retention_records",
        value: "5",
        besides: "memory.partitions = 1",
        see: keeps,
        without: "20",
        with: "5",
    },
    Effect {
        key: "memory.retention_bytes",
        value: "3000",
        besides: "memory.partitions = 1\npublisher.max_record_bytes = 1000\nsubscription.max_record_bytes = 1000",
        see: keeps,
        without: "20",
        with: "7",
    },
    Effect {
        key: "memory.create_topics",
        value: "true",
        besides: "",
        see: publishes_anywhere,
        without: "false",
        with: "true",
    },
    Effect {
        key: "memory.topics",
        value: "['orders', 'other', 'new']",
        besides: "",
        see: has_the_topic_new,
        without: "false",
        with: "true",
    },
];

#[test]
fn every_key_changes_what_it_says() {
    let documented: Vec<&str> = (include_str!("../src/config/keys.md").lines().skip(2))
        .map(|row| row.split('`').nth(1).expect("a row begins with its key"))
        .collect();
    // Those of servers are proven on servers, by the same kind of table.
    let mut documented = documented;
    let tables = [("kafka.", include_str!("kafka/keys.rs")), ("nats.", include_str!("nats/keys.rs"))];
    for (section, table) in tables {
        for key in documented.extract_if(.., |key| key.starts_with(section)) {
            assert!(table.contains(&format!("key: \"{key}\"")), "`{key}` is not proven");
        }
    }
    assert_eq!(EFFECTS.iter().map(|effect| effect.key).collect::<Vec<_>>(), documented);
    for Effect { key, value, besides, see, without, with } in EFFECTS {
        assert_eq!(seen(without, || see(besides)), *without, "without `{key}`");
        let set = format!("{besides}\n{key} = {value}");
        assert_eq!(seen(with, || see(&set)), *with, "with `{key} = {value}`");
    }
}

fn config(toml: &str) -> Result<Config, String> {
    let topics = if toml.contains("memory.topics") { "" } else { "memory.topics = ['orders', 'other']" };
    Config::from_toml(&format!("{topics}\n{toml}")).map_err(|error| error.to_string())
}

fn bus(toml: &str) -> Bus {
    keylane::connect_with(config(toml).expect("valid")).wait().expect("memory is always there")
}

/// A broker of the test's own, so that it can be made to fail.
fn broker(toml: &str) -> (MemoryBroker, Bus) {
    let broker = MemoryBroker::builder().topic("orders").topic("other").build();
    let bus = broker.connect(config(toml).expect("valid")).expect("valid");
    (broker, bus)
}

fn subscribe(
    bus: &Bus,
    handler: impl Fn(&Event) -> Result<(), HandlerError> + Send + Sync + 'static,
) -> Subscription {
    let subscription = bus.subscribe_envelopes("orders").group("e").handle(handler).expect("valid");
    subscription.ready().wait().expect("it joins");
    subscription
}

fn publish(bus: &Bus, key: &str, n: u64) {
    bus.publish("orders", numbered(key, n)).wait().expect("it is stored");
}

fn soon(holds: impl FnMut() -> bool) -> bool {
    within(Duration::from_millis(700), "", holds).is_ok()
}

fn text(value: impl Debug) -> String {
    format!("{value:?}").trim_matches('"').to_owned()
}

fn connects(toml: &str) -> String {
    text(keylane::connect_with(config(toml).expect("valid")).wait().is_ok())
}

/// Of 20 records, how many the publisher takes while the broker does not answer.
fn publishes_at_once(toml: &str) -> String {
    let (broker, bus) = broker(toml);
    broker.faults().pause_deliveries(true);
    let taken: Vec<_> = (0..20).map_while(|n| bus.try_publish("orders", numbered("a", n)).ok()).collect();
    text(taken.len())
}

fn padded() -> Envelope<'static> {
    Envelope::new("a", "test.padded", 1, format!("\"{}\"", "x".repeat(2_000))).expect("valid")
}

fn publishes_2000_bytes(toml: &str) -> String {
    text(bus(toml).publish("orders", padded()).wait().is_ok())
}

fn handles_on_its_intake(toml: &str) -> String {
    let bus = bus(toml);
    let name = Arc::new(Mutex::new(String::new()));
    let kept = name.clone();
    let subscription = subscribe(&bus, move |_| {
        std::thread::current().name().unwrap_or_default().clone_into(&mut kept.lock().unwrap());
        Ok(())
    });
    publish(&bus, "a", 0);
    eventually("it was handled", || subscription.stats().succeeded == 1).unwrap();
    let name = name.lock().unwrap().clone();
    text(name == "keylane-e")
}

/// Of 20 records of keys of their own, how many start while none ends.
fn starts(toml: &str) -> String {
    let bus = bus(toml);
    let started = Arc::new(AtomicU64::new(0));
    let count = started.clone();
    let builder = bus.subscribe_envelopes("orders").group("e");
    let _subscription = builder
        .handle_async(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            std::future::pending()
        })
        .expect("valid");
    (0..20).for_each(|n| publish(&bus, &format!("key-{n}"), n));
    let _all = soon(|| started.load(Ordering::Relaxed) == 20);
    text(started.load(Ordering::Relaxed))
}

fn stops_behind_a_failure(toml: &str) -> String {
    let bus = bus(toml);
    let subscription =
        subscribe(&bus, |event| if event.offset() == 0 { Err("planted".into()) } else { Ok(()) });
    for n in 0..40 {
        publish(&bus, &format!("key-{n}"), n);
        std::thread::sleep(Duration::from_millis(2));
    }
    text(!soon(|| subscription.stats().succeeded == 39))
}

fn handles_2000_bytes(toml: &str) -> String {
    let bus = bus(toml);
    let subscription = subscribe(&bus, |_| Ok(()));
    bus.publish("orders", padded()).wait().expect("it is stored");
    eventually("it was handled or held", || {
        subscription.stats().succeeded == 1 || !subscription.held().is_empty()
    })
    .unwrap();
    text(subscription.stats().succeeded == 1)
}

fn gives_up_a_partition_soon(toml: &str) -> String {
    let (broker, first) = broker(toml);
    let builder = first.subscribe_envelopes("orders").group("e");
    let full = builder.handle_async(|_| std::future::pending()).expect("valid");
    (0..40).for_each(|n| publish(&first, &format!("key-{n}"), n));
    eventually("its futures run", || full.stats().in_flight == 40).unwrap();
    let second = broker.connect(Config::default()).expect("valid");
    let other = subscribe(&second, |_| Ok(()));
    text(soon(|| other.stats().succeeded > 0))
}

fn commits_soon(toml: &str) -> String {
    let (broker, bus) = broker(toml);
    let subscription = subscribe(&bus, |_| Ok(()));
    (0..5).for_each(|n| publish(&bus, "a", n));
    eventually("all were handled", || subscription.stats().succeeded == 5).unwrap();
    let committed =
        || broker.watermarks("e", "orders").ok().flatten().is_some_and(|at| at.iter().sum::<u64>() == 5);
    text(soon(committed))
}

fn reports_a_hung_handler(toml: &str) -> String {
    let bus = bus(toml);
    let subscription = subscribe(&bus, |_| {
        std::thread::sleep(Duration::from_millis(800));
        Ok(())
    });
    publish(&bus, "a", 0);
    let is_hung = |problem: &Problem| matches!(problem, Problem::Hung { .. });
    text(soon(|| subscription.health().problems.iter().any(is_hung)))
}

fn ends_a_future(toml: &str) -> String {
    let bus = bus(toml);
    let builder = bus.subscribe_envelopes("orders").group("e");
    let subscription = builder.handle_async(|_| std::future::pending()).expect("valid");
    publish(&bus, "a", 0);
    text(soon(|| subscription.stats().failed > 0))
}

fn spins(toml: &str) -> String {
    let bus = bus(toml);
    let subscription = subscribe(&bus, |_| Ok(()));
    let (before, since) = (wanted_cpu_time(), Instant::now());
    for n in 0..4 {
        publish(&bus, "a", n);
        std::thread::sleep(Duration::from_millis(100));
    }
    eventually("all were handled", || subscription.stats().succeeded == 4).unwrap();
    text(wanted_cpu_time().saturating_sub(before) > since.elapsed() / 2)
}

/// How often a record that always fails is attempted within 250 ms: one, two, few (up to 9), many.
fn attempts(toml: &str) -> String {
    let bus = bus(toml);
    let calls = Arc::new(AtomicU64::new(0));
    let count = calls.clone();
    let _subscription = subscribe(&bus, move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        Err("planted".into())
    });
    publish(&bus, "a", 0);
    std::thread::sleep(Duration::from_millis(250));
    match calls.load(Ordering::Relaxed) {
        n @ 0..3 => text(n),
        3..10 => text("few"),
        _ => text("many"),
    }
}

/// Whether any of ten keys was attempted again in less than its full delay of 100 ms.
fn retries_before_its_time(toml: &str) -> String {
    let bus = bus(toml);
    let failed = Arc::new(Mutex::new(Vec::<(String, Instant)>::new()));
    let gaps = Arc::new(Mutex::new(Vec::new()));
    let (first, found) = (failed, gaps.clone());
    let subscription = subscribe(&bus, move |event| {
        let key = event.aggregate_id().unwrap_or_default().to_owned();
        let mut first = first.lock().unwrap();
        if let Some((_, since)) = first.iter().find(|(other, _)| *other == key) {
            found.lock().unwrap().push(since.elapsed());
            return Ok(());
        }
        first.push((key, Instant::now()));
        Err("planted".into())
    });
    (0..10).for_each(|n| publish(&bus, &format!("key-{n}"), n));
    eventually("all were handled at last", || subscription.stats().succeeded == 10).unwrap();
    let is_early = gaps.lock().unwrap().iter().any(|gap| *gap < Duration::from_millis(98));
    text(is_early)
}

fn ends_as(toml: &str) -> String {
    let Ok(config) = config(toml) else { return text("an error") };
    let Ok(bus) = keylane::connect_with(config).wait() else { return text("an error") };
    let subscription = subscribe(&bus, |_| Err("planted".into()));
    let dead = bus.subscribe("other").group("watch").handle(|_| Ok(())).expect("valid");
    publish(&bus, "a", 0);
    let mut end = "";
    eventually("it came to its end", || {
        end = match (subscription.held().len(), subscription.stats().discarded, dead.stats().succeeded) {
            (1, 0, 0) => "held",
            (0, 1, 0) => "discarded",
            (0, 0, 1) => "a dead letter in other",
            _ => "",
        };
        !end.is_empty()
    })
    .unwrap();
    text(end)
}

fn is_redelivered_soon(toml: &str) -> String {
    let Ok(config) = config(toml) else { return text(false) };
    let Ok(bus) = keylane::connect_with(config).wait() else { return text(false) };
    let again = Arc::new(AtomicU64::new(0));
    let count = again.clone();
    let _subscription = subscribe(&bus, move |event| {
        count.fetch_max(event.redeliveries().into(), Ordering::Relaxed);
        Err("planted".into())
    });
    publish(&bus, "a", 0);
    text(soon(|| again.load(Ordering::Relaxed) > 1))
}

fn partitions(toml: &str) -> String {
    let bus = bus(toml);
    let receipts =
        (0..200).map(|n| bus.publish("orders", numbered(&format!("key-{n}"), n)).wait().expect("stored"));
    text(receipts.map(|receipt| receipt.partition()).collect::<HashSet<_>>().len())
}

/// Of 20 records, how many a topic takes while its group settles none.
fn keeps(toml: &str) -> String {
    let bus = bus(toml);
    let builder = bus.subscribe("orders").group("e").start(Start::Earliest);
    let subscription = builder.handle_async(|_| std::future::pending()).expect("valid");
    subscription.ready().wait().expect("it joins");
    for n in 0..20 {
        match bus.try_publish("orders", Record::new(vec![0; 400]).with_key("a")) {
            Ok(publish) => drop(publish.wait().expect("stored")),
            Err(TryPublishError::Full(_)) => return text(n),
            Err(error) => panic!("{error}"),
        }
    }
    text(20)
}

fn publishes_anywhere(toml: &str) -> String {
    text(bus(toml).publish("elsewhere", Record::new("a")).wait().is_ok())
}

fn has_the_topic_new(toml: &str) -> String {
    text(bus(toml).subscribe("new").group("e").handle(|_| Ok(())).is_ok())
}
