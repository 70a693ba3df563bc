//! What bad input gets: an error that names the thing and what was expected, before any I/O where possible.

#![allow(unreachable_pub, reason = "the modules of a test program have no public face")]

mod support;

use keylane::memory::MemoryBroker;
use keylane::{
    Bus, Config, DeadLetter, Envelope, HandlerError, Record, Retry, Route, SubscribeError,
    SubscriptionBuilder, Then,
};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use support::{eventually, numbered, quiet_planted_panics};

fn bus() -> Bus {
    keylane::connect("memory:?topics=orders,dead").wait().unwrap()
}

/// That the error's text, with those of its causes, has each of these words.
fn assert_says(error: &dyn Error, words: &[&str]) {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    for word in words {
        assert!(text.contains(word), "`{text}` does not say `{word}`");
    }
}

#[test]
fn a_bad_url_names_its_part_and_a_missing_feature_its_name() {
    // Nobody listens there; where the feature is compiled in, that is what is said.
    let missing = |is_enabled| if is_enabled { "localhost:1" } else { "feature" };
    let (kafka, nats) = (missing(cfg!(feature = "kafka")), missing(cfg!(feature = "nats")));
    let cases: [(&str, &[&str]); 5] = [
        ("kafka://localhost:1", &["kafka", kafka]),
        ("nats://localhost:1", &["nats", nats]),
        ("redis://localhost", &["redis", "memory"]),
        ("memory:?topic=orders", &["topic", "topics"]),
        ("", &["memory"]),
    ];
    for (url, words) in cases {
        assert_says(&keylane::connect(url).wait().unwrap_err(), words);
    }
}

#[test]
fn a_topic_that_does_not_exist_is_an_error_and_is_not_created() {
    let bus = bus();
    let refused = bus.subscribe_envelopes("ordres").group("g").handle(|_| Ok(()));
    assert_says(&refused.unwrap_err(), &["ordres", "create_topics"]);
    let dead = bus.subscribe_envelopes("orders").group("g").then(DeadLetter::to("daed")).handle(|_| Ok(()));
    assert_says(&dead.unwrap_err(), &["daed"]);
    assert_says(&bus.publish("ordres", Record::new("a")).wait().unwrap_err(), &["ordres"]);
    assert!(bus.subscribe("ordres").group("g").handle(|_| Ok(())).is_err(), "asking for it created it");
}

#[test]
fn invalid_names_are_refused_before_anything_is_sent() {
    let broker = MemoryBroker::builder().topic("orders").build();
    let bus = broker.connect(Config::default()).unwrap();
    // Unreachable: what is refused at once was refused without it.
    broker.faults().pause_deliveries(true);
    let refused = [
        bus.publish("bad topic", Record::new("a")),
        bus.publish("orders", Record::new("a").with_key(vec![b'k'; 100_000])),
        bus.publish("orders", Record::new("a").with_header("", "v")),
        bus.publish("orders", Record::new("a").with_header("line\nbreak", "v")),
        bus.publish("orders", Record::new(vec![0; 2 << 20])),
    ];
    let words: [&[&str]; 5] =
        [&["bad topic"], &["key"], &["header"], &["header"], &["orders", "2097152", "1048576"]];
    for (op, words) in refused.into_iter().zip(words) {
        assert!(op.is_done(), "it waits for the broker");
        assert_says(&op.wait().unwrap_err(), words);
    }
    assert_says(&bus.create_topic("bad topic").wait().unwrap_err(), &["bad topic"]);
    let group = bus.subscribe_envelopes("orders").group("bad group").handle(|_| Ok(()));
    assert_says(&group.unwrap_err(), &["bad group"]);
    let header = bus.subscribe("orders").group("g").route(Route::Header(String::new())).handle(|_| Ok(()));
    assert_says(&header.unwrap_err(), &["header"]);
}

#[test]
fn a_subscription_that_contradicts_itself_is_refused_at_build() {
    type Tune = fn(SubscriptionBuilder<keylane::Envelopes>) -> SubscriptionBuilder<keylane::Envelopes>;
    let cases: [(Tune, &[&str]); 8] = [
        (|it| it.retry(Retry::forever().attempts(0)), &["attempts", "0"]),
        (|it| it.workers(2_000), &["2000", "1024"]),
        (|it| it.in_flight_records(0), &["in_flight_records", "0", "1 to"]),
        (|it| it.in_flight_bytes(0), &["in_flight_bytes", "0", "1 to"]),
        (|it| it.watermark_distance(0), &["watermark_distance", "0", "1 to"]),
        (|it| it.max_record_bytes(0), &["max_record_bytes", "0", "1 to"]),
        (|it| it.topic("orders"), &["orders", "twice"]),
        (|it| it.then(DeadLetter::to("bad topic")), &["bad topic"]),
    ];
    let bus = bus();
    for (tune, words) in cases {
        let refused = tune(bus.subscribe_envelopes("orders").group("refused")).handle(|_| Ok(()));
        assert_says(&refused.unwrap_err(), words);
    }
    let no_group = bus.subscribe_envelopes("orders").handle(|_| Ok(())).unwrap_err();
    assert!(matches!(no_group, SubscribeError::NoGroup { .. }));
    assert_says(&no_group, &["orders", ".group("]);
    assert!(support::threads_named("keylane-refused").is_empty(), "something started all the same");
}

#[test]
fn an_envelope_that_breaks_a_rule_is_not_made() {
    for (made, words) in [
        (Envelope::new("", "order.paid", 1, "1"), &["aggregate_id"][..]),
        (Envelope::new("a b", "order.paid", 1, "1"), &["aggregate_id"]),
        (Envelope::new("a", " ", 1, "1"), &["event_type"]),
        (Envelope::new("a", "order.paid", 0, "1"), &["event_version", "0"]),
        (Envelope::new("a", "order.paid", 1, "null"), &["payload", "null"]),
        (Envelope::new("a", "order.paid", 1, "{"), &["payload"]),
    ] {
        assert_says(&made.unwrap_err(), words);
    }
}

#[test]
fn a_consumed_record_that_is_too_long_or_no_envelope_keeps_its_bytes() {
    let bus = bus();
    let orders = bus
        .subscribe_envelopes("orders")
        .group("g")
        .max_record_bytes(1_000)
        .then(DeadLetter::to("dead"))
        .handle(|_| panic!("planted: a handler must not see it"))
        .unwrap();
    let long = Envelope::new("a", "order.paid", 1, format!("\"{}\"", "x".repeat(2_000))).unwrap();
    bus.publish("orders", &long).wait().unwrap();
    bus.publish("orders", Record::new("no Envelope").with_key("a")).wait().unwrap();
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = seen.clone();
    let _dead = bus
        .subscribe("dead")
        .group("g")
        .handle(move |event| {
            let error = String::from_utf8_lossy(event.headers().get("keylane-error").unwrap_or_default())
                .into_owned();
            kept.lock().unwrap().push((event.value().to_vec(), error));
            Ok(())
        })
        .unwrap();
    eventually("both became dead letters", || seen.lock().unwrap().len() == 2).unwrap();
    let seen = seen.lock().unwrap();
    assert_eq!(seen[0].0, Record::from(&long).value);
    assert!(seen[0].1.contains("at most 1000"), "{}", seen[0].1);
    assert_eq!(seen[1].0, b"no Envelope");
    assert!(seen[1].1.contains("no valid Envelope"), "{}", seen[1].1);
    assert_eq!(orders.stats().panicked, 0);
}

#[test]
fn a_route_that_panics_is_the_failure_of_its_record() {
    quiet_planted_panics();
    let bus = bus();
    let route = Route::With(Arc::new(|record| {
        assert!(record.key != Some(b"bad"), "planted: no route");
        record.key.map(|key| String::from_utf8_lossy(key).into_owned())
    }));
    let orders = bus.subscribe_envelopes("orders").group("g").route(route).handle(|_| Ok(())).unwrap();
    bus.publish("orders", numbered("bad", 0)).wait().unwrap();
    bus.publish("orders", numbered("good", 0)).wait().unwrap();
    eventually("the other record was handled", || orders.stats().succeeded == 1).unwrap();
    eventually("the record is held", || orders.held().len() == 1).unwrap();
    assert!(orders.held()[0].error.contains("planted: no route"), "{}", orders.held()[0].error);
}

#[test]
fn a_subscription_that_halts_says_why_and_settles_nothing() {
    let bus = bus();
    let orders = bus
        .subscribe_envelopes("orders")
        .group("g")
        .retry(Retry::none())
        .then(Then::Halt)
        .handle(
            |event| if event.offset() == 0 { Err(HandlerError::terminal("no such account")) } else { Ok(()) },
        )
        .unwrap();
    bus.publish("orders", numbered("a", 0)).wait().unwrap();
    eventually("it halted", || matches!(orders.health().status, keylane::Status::Halted(_))).unwrap();
    let keylane::Status::Halted(error) = orders.health().status else { unreachable!("just seen") };
    assert!(
        error.contains("no such account") && error.contains("offset 0") && error.contains("`a`"),
        "{error}"
    );
    let again = bus.subscribe_envelopes("orders").group("g").handle(|_| Ok(())).unwrap();
    eventually("the record came again", || again.stats().succeeded == 1).unwrap();
}

#[test]
fn work_after_close_is_refused_at_once() {
    let bus = bus();
    bus.close(Duration::from_secs(1)).wait();
    assert_says(&bus.publish("orders", numbered("a", 0)).wait().unwrap_err(), &["closed"]);
    assert_says(&bus.create_topic("new").wait().unwrap_err(), &["closed"]);
    assert_says(&bus.subscribe("orders").group("g").handle(|_| Ok(())).unwrap_err(), &["closed"]);
    bus.flush().wait();
}
