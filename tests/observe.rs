//! What can be seen of a bus: spans, log lines, counters.

#![allow(unreachable_pub, reason = "the modules of a test program have no public face")]

mod support;

use keylane::memory::MemoryBroker;
use keylane::{
    Clock, Config, DeadLetter, Event, HandlerError, Jitter, Place, Problem, Record, Retry, Stats,
    Subscription, Then,
};
use std::io::Write;
use std::sync::{Mutex, Once};
use std::time::Duration;
use support::{eventually, number, numbered, quiet_planted_panics};
use tracing_subscriber::fmt::format::FmtSpan;

static TEXT: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Shared;

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        TEXT.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Keeps what this process logs, spans included, as lines of text.
fn capture() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_span_events(FmtSpan::NEW)
            .with_ansi(false)
            .with_writer(|| Shared)
            .init();
    });
}

fn lines_with(words: &[&str]) -> Vec<String> {
    let text = String::from_utf8_lossy(&TEXT.lock().unwrap()).into_owned();
    text.lines().filter(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned).collect()
}

#[test]
fn every_attempt_has_a_span_with_the_fields_of_its_record() {
    capture();
    let bus = keylane::connect("memory:?topics=spans&partitions=1").wait().unwrap();
    let quick = Retry::exponential(Duration::from_millis(1)..Duration::from_millis(2));
    let builder = bus.subscribe_envelopes("spans").group("observed").retry(quick);
    let subscription =
        builder.handle(|event| if event.attempt() == 1 { Err("planted".into()) } else { Ok(()) }).unwrap();
    bus.publish("spans", numbered("order-7", 0)).wait().unwrap();
    eventually("it was handled", || subscription.stats().succeeded == 1).unwrap();
    for attempt in ["attempt=1", "attempt=2"] {
        let fields = [
            "process{",
            r#"messaging.system="memory""#,
            r#"messaging.destination.name="spans""#,
            r#"messaging.consumer.group.name="observed""#,
            "partition=0",
            "offset=0",
            r#"key="order-7""#,
            attempt,
        ];
        eventually(&format!("there is a span with {fields:?}"), || !lines_with(&fields).is_empty()).unwrap();
    }
}

#[test]
fn a_failed_envelope_and_a_failed_plain_record_are_told_apart() {
    capture();
    let bus = keylane::connect("memory:?topics=told,told.dead&partitions=1").wait().unwrap();
    let envelopes = bus
        .subscribe_envelopes("told")
        .group("envelopes")
        .retry(Retry::none())
        .then(DeadLetter::to("told.dead"))
        .handle(|_| Err("planted trouble".into()))
        .unwrap();
    let plain = bus.subscribe("told").group("plain").handle(|_| Err("planted trouble".into())).unwrap();
    bus.publish("told", numbered("order-8", 0)).wait().unwrap();
    eventually("both are over", || envelopes.stats().dead_lettered == 1 && plain.stats().discarded == 1)
        .unwrap();
    let place = ["WARN", r#"topic="told""#, "partition=0", "offset=0", r#"key="order-8""#];
    for message in [
        "an Envelope was not handled; its key waits, other keys go on",
        "an Envelope went to the dead-letter topic",
        "a plain record's handler failed; the record is settled and not tried again",
    ] {
        let words: Vec<&str> = place.iter().copied().chain([message]).collect();
        assert_eq!(lines_with(&words).len(), 1, "{message}");
    }
}

#[test]
fn the_counters_tell_what_happened() {
    quiet_planted_panics();
    let bus = keylane::connect("memory:?topics=orders,dead&partitions=1").wait().unwrap();
    let gate = support::Gate::default();
    let at = gate.clone();
    let make = move || {
        let at = at.clone();
        move |event: &Event| -> Result<(), HandlerError> {
            match (number(event), event.attempt()) {
                (1, 1) => Err("planted".into()),
                (2, 1) => panic!("planted"),
                (3, _) => Err(HandlerError::terminal("planted")),
                (9, _) => {
                    at.pass();
                    Ok(())
                }
                _ => Ok(()),
            }
        }
    };
    let quick = Retry::exponential(Duration::from_millis(1)..Duration::from_millis(2)).jitter(Jitter::None);
    let orders = bus
        .subscribe_envelopes("orders")
        .group("g")
        .workers(1)
        .retry(quick.attempts(3))
        .then(DeadLetter::to("dead"))
        .handle_owned(make)
        .unwrap();
    for n in 0..4 {
        bus.publish("orders", numbered(&format!("key-{n}"), n)).wait().unwrap();
    }
    eventually("all are over", || orders.stats().in_flight == 0 && orders.stats().consumed == 4).unwrap();
    let seen = orders.stats();
    let counted = [
        ("consumed", seen.consumed, 4),
        ("succeeded", seen.succeeded, 3),
        ("failed", seen.failed, 3),
        ("retried", seen.retried, 2),
        ("panicked", seen.panicked, 1),
        ("restarts", seen.restarts, 1),
        ("dead_lettered", seen.dead_lettered, 1),
        ("discarded", seen.discarded, 0),
        ("redelivered", seen.redelivered, 0),
        ("without_aggregate", seen.without_aggregate, 0),
        ("waiting_keys", seen.waiting_keys, 0),
        ("published by the bus, the dead letter too", bus.stats().published, 5),
    ];
    for (name, count, expected) in counted {
        assert_eq!(count, expected, "{name}");
    }
    assert!(seen.handling_time >= seen.handling_time_max && seen.handling_time_max > Duration::ZERO);
    // Gauges, while a handler is held up.
    for n in 9..12 {
        bus.publish("orders", numbered("key-9", n)).wait().unwrap();
    }
    eventually("three are in flight on one worker", || {
        let Stats { in_flight, lane_depth, .. } = orders.stats();
        (in_flight, lane_depth) == (3, 3)
    })
    .unwrap();
    gate.open();
    eventually("nothing is in flight", || orders.stats().in_flight == 0).unwrap();
    let again = bus.subscribe("dead").group("g").handle(|_| Ok(())).unwrap();
    bus.publish("dead", Record::new("without a key")).wait().unwrap();
    eventually("it is counted", || again.stats().without_aggregate == 1).unwrap();
}

/// Who waits until all that was consumed is over asks for just that.
#[test]
fn with_nothing_in_flight_the_end_of_all_that_was_consumed_is_counted() {
    let bus = keylane::connect("memory:?topics=orders&partitions=1").wait().unwrap();
    let orders = bus.subscribe("orders").group("g").workers(1).handle(|_| Ok(())).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..3_000 {
                bus.publish("orders", Record::new(n.to_string())).wait().unwrap();
            }
        });
        let mut seen = Stats::default();
        while seen.succeeded < 3_000 {
            seen = orders.stats();
            assert!(seen.in_flight > 0 || seen.succeeded >= seen.consumed, "{seen:?}");
        }
    });
}

#[test]
fn given_up_and_given_back_records_are_counted() {
    let bus = keylane::connect("memory:?topics=orders&partitions=1").wait().unwrap();
    let discards = bus
        .subscribe_envelopes("orders")
        .group("discards")
        .retry(Retry::none())
        .then(Then::Discard)
        .handle(|_| Err("planted".into()))
        .unwrap();
    let returns = bus
        .subscribe_envelopes("orders")
        .group("returns")
        .retry(Retry::none())
        .then(Then::Redeliver { delay: Duration::from_millis(1) })
        .handle(|event| if event.redeliveries() == 0 { Err("planted".into()) } else { Ok(()) })
        .unwrap();
    bus.publish("orders", numbered("a", 0)).wait().unwrap();
    eventually("one gave it up", || discards.stats().discarded == 1).unwrap();
    eventually("one gave it back and handled it then", || {
        let stats = returns.stats();
        (stats.redelivered, stats.consumed, stats.succeeded) == (1, 2, 1)
    })
    .unwrap();
}

fn hung(subscription: &Subscription) -> Vec<(Place, Duration)> {
    let problems = subscription.health().problems.into_iter();
    problems
        .filter_map(|problem| match problem {
            Problem::Hung { place, age, .. } => Some((place, age)),
            _ => None,
        })
        .collect()
}

#[test]
fn a_future_that_is_never_ready_shows_with_its_key_and_age() {
    capture();
    let (clock, time) = Clock::manual();
    let broker = MemoryBroker::builder().topic_with("endless", 1).clock(clock).build();
    let bus = broker.connect(Config::default()).unwrap();
    let long = Duration::from_secs(3_600);
    let builder = bus.subscribe_envelopes("endless").group("g").workers(1).drain_timeout(long);
    let endless = builder
        .handle_async(|event| async move {
            if event.aggregate_id() != Some("quick") {
                std::future::pending::<()>().await;
            }
            Ok(())
        })
        .unwrap();
    for key in ["first", "quick", "second"] {
        bus.publish("endless", numbered(key, 0)).wait().unwrap();
    }
    eventually("two futures are pending", || endless.stats().waiting_keys == 2).unwrap();
    eventually("one is over", || endless.stats().succeeded == 1).unwrap();
    time.advance(Duration::from_secs(29));
    assert_eq!((hung(&endless), endless.stats().hung_handlers), (vec![], 0), "30 s are allowed");
    time.advance(Duration::from_secs(2));
    let found = hung(&endless);
    let keys: Vec<_> = found.iter().map(|(place, _)| place.key.as_deref()).collect();
    assert_eq!(keys, [Some("first"), Some("second")]);
    assert!(found.iter().all(|(_, age)| *age == Duration::from_secs(31)), "{found:?}");
    assert_eq!(endless.stats().hung_handlers, 2);
    let line = ["WARN", "progress is held up", "the handler of offset 0 of `endless`/0, key `first`"];
    eventually("a line of the log says so", || !lines_with(&line).is_empty()).unwrap();

    let report = endless.drain(Duration::ZERO).wait();
    assert_eq!((report.unsettled.len(), report.still_running.len()), (2, 0), "{report:?}");
    for key in ["first", "second"] {
        let key = format!("key=\"{key}\"");
        let line = ["WARN", "a future was dropped before its end", r#"topic="endless""#, &key];
        assert_eq!(lines_with(&line).len(), 1, "{line:?}");
    }
    assert_eq!((hung(&endless), endless.stats().hung_handlers), (vec![], 0), "nothing is left");
}

/// In its first poll, where nothing is known of it but that it has begun, and in a later one.
#[test]
fn a_future_that_blocks_its_worker_shows_and_is_named_by_the_drain() {
    for polls_before in [0, 2] {
        let bus = keylane::connect("memory:?topics=blocking&partitions=1").wait().unwrap();
        let (gate, blocks) = (support::Gate::default(), support::Gate::default());
        let (at, begins) = (gate.clone(), blocks.clone());
        let soon = Duration::from_millis(20);
        let builder = bus.subscribe_envelopes("blocking").group("g").workers(1).hung_after(soon);
        let subscription = builder
            .handle_async(move |event| {
                let (at, begins) = (at.clone(), begins.clone());
                async move {
                    if event.aggregate_id() == Some("waits") {
                        std::future::pending::<()>().await;
                    }
                    for _ in 0..polls_before {
                        smol::future::yield_now().await;
                    }
                    begins.open();
                    at.pass();
                    Ok(())
                }
            })
            .unwrap();
        bus.publish("blocking", numbered("waits", 0)).wait().unwrap();
        eventually("one waits", || subscription.stats().waiting_keys == 1).unwrap();
        bus.publish("blocking", numbered("blocks", 0)).wait().unwrap();
        eventually("one blocks", || blocks.is_open()).unwrap();
        let is_it = |place: &Place| place.key.as_deref() == Some("blocks");
        eventually("it shows", || hung(&subscription).iter().any(|(place, _)| is_it(place))).unwrap();
        let report = subscription.drain(Duration::ZERO).wait();
        gate.open();
        assert!(matches!(&report.still_running[..], [place] if is_it(place)), "{report:?}");
        assert_eq!(report.unsettled.len(), 2, "{report:?}");
    }
}
