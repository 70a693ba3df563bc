//! What the builder and the handle of a subscription promise, each by itself.

#![allow(unreachable_pub, reason = "the modules of a test program have no public face")]

mod support;

use keylane::memory::MemoryBroker;
use keylane::{
    Bus, Config, DeadLetter, Envelope, Event, HandlerError, Problem, Record, Retry, Start, Stats,
    Subscription,
};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use support::{eventually, numbered};

fn bus() -> Bus {
    keylane::connect("memory:?topics=orders,orders.dead&partitions=1").wait().unwrap()
}

#[test]
fn a_group_that_starts_at_the_latest_begins_when_it_is_ready() {
    let bus = bus();
    // Of one key: records without one have no order.
    let publish = |value| bus.publish("orders", Record::new(value).with_key("order-42")).wait().unwrap();
    publish("before");
    for (start, expected) in [(Start::Latest, &b"after"[..]), (Start::Earliest, b"before")] {
        let (tell, told) = mpsc::channel();
        let builder = bus.subscribe("orders").group(format!("{start:?}").to_lowercase()).start(start);
        let orders = builder.handle(move |event| Ok(tell.send(event.value().to_vec())?)).unwrap();
        orders.ready().wait().unwrap();
        publish("after");
        assert_eq!(told.recv().unwrap(), expected, "{start:?}");
    }
}

#[test]
fn without_workers_records_are_handled_on_the_thread_that_delivers() {
    let bus = bus();
    let (tell, told) = mpsc::channel();
    let name = move |_: &keylane::Event| Ok(tell.send(std::thread::current().name().map(str::to_owned))?);
    let _orders = bus.subscribe("orders").group("billing").workers(0).handle(name).unwrap();
    bus.publish("orders", Record::new("paid")).wait().unwrap();
    assert_eq!(told.recv().unwrap().as_deref(), Some("keylane-billing"));
}

#[test]
fn a_future_that_misses_its_deadline_has_failed() {
    let bus = bus();
    let limit = Duration::from_millis(1);
    let builder = bus.subscribe("orders").group("billing").deadline(limit);
    let orders = builder.handle_async(|_| std::future::pending()).unwrap();
    bus.publish("orders", Record::new("paid")).wait().unwrap();
    eventually("it has failed", || orders.stats().failed == 1).unwrap();
    assert_eq!(orders.stats().succeeded, 0);
}

#[test]
fn a_bus_tells_of_the_subscriptions_that_it_has_together() {
    let bus = bus();
    let subscribe = |group: &str| bus.subscribe("orders").group(group).handle(|_| Ok(())).unwrap();
    let (billing, shipping) = (subscribe("billing"), subscribe("shipping"));
    bus.publish("orders", Record::new("paid")).wait().unwrap();
    billing.caught_up().wait().unwrap();
    shipping.caught_up().wait().unwrap();
    assert_eq!((bus.stats().published, bus.stats().succeeded), (1, 2));
    assert_eq!(bus.health().len(), 2);
    drop(billing);
    eventually("it has ended", || bus.health().len() == 1).unwrap();
    drop(shipping);
    eventually("both have ended", || bus.health().is_empty()).unwrap();
}

/// Holds the first attempt of each record.
fn with_one_held(bus: &Bus) -> Subscription {
    let orders = bus
        .subscribe_envelopes("orders")
        .group("billing")
        .handle(|event| if event.attempt() == 1 { Err(HandlerError::terminal("planted")) } else { Ok(()) })
        .unwrap();
    bus.publish("orders", numbered("order-42", 0)).wait().unwrap();
    eventually("it is held", || orders.held().len() == 1).unwrap();
    orders
}

#[test]
fn what_is_not_held_any_more_is_not_released() {
    let bus = bus();
    let orders = with_one_held(&bus);
    let held = &orders.held()[0];
    assert_eq!((held.attempts, &held.error[..], held.place.key.as_deref()), (1, "planted", Some("order-42")));
    assert!(orders.retry_held(held).wait());
    eventually("it was handled", || orders.stats().succeeded == 1).unwrap();
    assert!(!orders.retry_held(held).wait() && !orders.skip_held(held).wait());
    assert!(!orders.dead_letter_held(held, "orders.dead").unwrap().wait());
    assert_eq!((orders.stats().discarded, orders.stats().dead_lettered), (0, 0));
}

#[test]
fn a_held_record_goes_to_no_topic_that_is_not_there() {
    let bus = bus();
    let orders = with_one_held(&bus);
    let held = &orders.held()[0];
    assert!(orders.dead_letter_held(held, "no-such-topic").is_err());
    assert_eq!(orders.held().len(), 1, "it is still held");
    assert!(orders.dead_letter_held(held, "orders.dead").unwrap().wait());
    eventually("it is written", || orders.stats().dead_lettered == 1).unwrap();
    assert!(orders.held().is_empty());
}

#[test]
fn a_dead_letter_that_is_refused_shows_and_is_an_operators() {
    let large = Envelope::new("order-42", "order.paid", 1, "995").unwrap();
    // It just fits; with the headers of a dead letter it does not.
    let room = Record::from(&large).size() as u64 + 10;
    let broker = MemoryBroker::builder().topic("orders").topic("orders.dead").retention_bytes(room).build();
    let bus = broker.connect(Config::default()).unwrap();
    let builder = bus.subscribe_envelopes("orders").group("billing").then(DeadLetter::to("orders.dead"));
    let orders = builder
        .handle(|event| match event.aggregate_id() {
            Some("order-42") => Err(HandlerError::terminal("no such account")),
            _ => Ok(()),
        })
        .unwrap();
    bus.publish("orders", large).wait().unwrap();
    eventually("it is an operator's", || orders.held().len() == 1).unwrap();
    let held = orders.held().remove(0);
    for part in ["no such account", "its dead letter could not be written", "orders.dead"] {
        assert!(held.error.contains(part), "{part}: {}", held.error);
    }
    // Between two tries.
    eventually("it is skipped", || orders.skip_held(&held).wait()).unwrap();
    bus.publish("orders", numbered("order-7", 0)).wait().unwrap();
    eventually("both are over", || orders.stats().in_flight == 0 && orders.stats().succeeded == 1).unwrap();
    assert!(orders.health().is_healthy(), "{:?}", orders.health());
}

#[test]
fn a_dead_letter_that_waits_for_its_topic_says_where_to_and_why() {
    let broker = MemoryBroker::builder().topic("orders").topic("orders.dead").build();
    broker.faults().fail_publishes_when(|topic, _| topic == "orders.dead");
    let bus = broker.connect(Config::default()).unwrap();
    let builder = bus.subscribe_envelopes("orders").group("billing").then(DeadLetter::to("orders.dead"));
    let orders = builder.handle(|_| Err(HandlerError::terminal("no such account"))).unwrap();
    bus.publish("orders", numbered("order-42", 0)).wait().unwrap();
    let parts = ["no such account", "its dead letter is being written to `orders.dead`", "a planted fault"];
    let says_all = |problem: &Problem| parts.iter().all(|part| problem.to_string().contains(part));
    eventually("it is told", || orders.health().problems.iter().any(says_all)).unwrap();
}

/// An owned handler that fails at the first record, in this way, and what became of two records of one key.
fn two_records(topic: &str, plain: bool, fail: fn() -> Result<(), HandlerError>) -> (Stats, usize) {
    let bus = keylane::connect(&format!("memory:?topics={topic}&partitions=1")).wait().unwrap();
    let made = Arc::new(AtomicUsize::new(0));
    let handlers = made.clone();
    let failed = Arc::new(AtomicBool::new(false));
    let make = move || {
        handlers.fetch_add(1, Ordering::Relaxed);
        let failed = failed.clone();
        move |_: &Event| if failed.swap(true, Ordering::Relaxed) { Ok(()) } else { fail() }
    };
    let retry = Retry::exponential(Duration::from_millis(1)..Duration::from_millis(1));
    let records = if plain {
        bus.subscribe(topic).group("billing").workers(1).handle_owned(make).unwrap()
    } else {
        bus.subscribe_envelopes(topic).group("billing").workers(1).retry(retry).handle_owned(make).unwrap()
    };
    for n in ["1", "2"] {
        let changed = Envelope::new("order-1", "order.changed", 1, n).unwrap();
        bus.publish(topic, changed).wait().unwrap();
    }
    records.caught_up().wait().unwrap();
    (records.stats(), made.load(Ordering::Relaxed))
}

#[test]
fn the_two_kinds_of_failure_have_lines_of_their_own_and_an_error_restarts_nothing() {
    support::capture_log();
    let planned = || Err("planned".into());
    let (stats, made) = two_records("kinds-envelopes", false, planned);
    assert_eq!((stats.failed, stats.retried, stats.succeeded), (1, 1, 2));
    assert_eq!((stats.restarts, made), (0, 1), "an error is not a panic");
    let (stats, made) = two_records("kinds-plain", true, planned);
    assert_eq!((stats.failed, stats.retried, stats.succeeded, stats.discarded), (1, 0, 1, 1));
    assert_eq!((stats.restarts, made), (0, 1));
    let lines = |topic, text| support::logged(&["WARN", topic, "planned", text]);
    let (waits, settled) = ("its key waits, other keys go on", "settled and not tried again");
    assert_eq!((lines("kinds-envelopes", waits), lines("kinds-envelopes", settled)), (1, 0));
    assert_eq!((lines("kinds-plain", waits), lines("kinds-plain", settled)), (0, 1));
}

#[test]
fn a_plain_records_panic_makes_its_handler_anew_and_the_record_does_not_come_again() {
    let (stats, made) = two_records("plain-panic", true, || panic!("planned"));
    assert_eq!((stats.panicked, stats.restarts, made), (1, 1, 2));
    assert_eq!((stats.consumed, stats.retried, stats.succeeded, stats.discarded), (2, 0, 1, 1));
}
