//! A subscription that has something to do does it: no wake-up is missing, nothing waits for itself, and what does stop
//! it shows.

#![allow(unreachable_pub, reason = "the modules of a test program have no public face")]

mod support;

use keylane::memory::MemoryBroker;
use keylane::{Bus, Clock, Config, Problem, Record, Retry, Status, Then};
use std::time::Duration;
use support::{Gate, comes_to, eventually, number, numbered, quiet_planted_panics, within};

const MS: Duration = Duration::from_millis(1);
const SOON: Duration = Duration::from_secs(60);

fn bus() -> (MemoryBroker, Bus) {
    quiet_planted_panics();
    let broker = MemoryBroker::builder().topic_with("orders", 1).build();
    let bus = broker.connect(Config::default()).unwrap();
    (broker, bus)
}

#[test]
fn a_partition_that_is_too_far_ahead_gets_what_was_given_back() {
    // It comes back when the test says so, however long the rest takes.
    let (clock, time) = Clock::manual();
    let broker = MemoryBroker::builder().topic_with("orders", 1).clock(clock).build();
    let bus = broker.connect(Config::default()).unwrap();
    let delay = Duration::from_secs(600);
    let given_back = Then::Redeliver { delay };
    let builder = bus.subscribe_envelopes("orders").group("g").workers(1).watermark_distance(5);
    // The distance is looked at before a batch is fetched, so batches are small.
    let builder = builder.in_flight_records(2);
    let orders = builder
        .retry(Retry::none())
        .then(given_back)
        .handle(|event| match (number(event), event.redeliveries()) {
            (0, 0) => Err("planted".into()),
            _ => Ok(()),
        })
        .unwrap();
    orders.ready().wait().unwrap();
    bus.publish("orders", numbered("key-0", 0)).wait().unwrap();
    eventually("it was given back", || orders.stats().redelivered == 1).unwrap();
    for n in 1..50 {
        bus.publish("orders", numbered(&format!("key-{n}"), n)).wait().unwrap();
    }
    let mut passed = Duration::ZERO;
    eventually("what the partition waits for shows", || {
        if passed < delay / 2 {
            passed += Duration::from_secs(1);
            time.advance(Duration::from_secs(1));
        }
        let shows =
            |problem: &Problem| matches!(problem, Problem::WindowFull { place, .. } if place.offset == 0);
        orders.health().problems.iter().any(shows) || orders.stats().succeeded == 50
    })
    .unwrap();
    assert!(orders.stats().succeeded < 50, "it was never too far ahead, or did not show it");
    time.advance(delay);
    within(SOON, "all were handled", || orders.stats().succeeded == 50).unwrap();
}

#[test]
fn a_window_of_one_record_never_waits_for_a_place_that_is_free() {
    // The time stands still: no timer helps who missed a wake-up.
    let (clock, _time) = Clock::manual();
    let broker = MemoryBroker::builder().topic_with("orders", 1).clock(clock).build();
    let bus = broker.connect(Config::default()).unwrap();
    let builder = bus.subscribe("orders").group("g").workers(1).in_flight_records(1);
    let orders = builder.handle(|_| Ok(())).unwrap();
    orders.ready().wait().unwrap();
    let end = Gate::default();
    std::thread::scope(|scope| {
        // The worker loses its core between its verdict and what follows.
        for _ in 0..4 {
            scope.spawn(|| {
                while !end.is_open() {
                    std::hint::spin_loop();
                }
            });
        }
        for n in 0..3_000 {
            bus.publish("orders", Record::new(n.to_string())).wait().unwrap();
        }
        let all = comes_to(3_000, "handled", || orders.stats().succeeded);
        end.open();
        all.unwrap();
    });
}

#[test]
fn limits_without_end_are_no_error() {
    let broker = MemoryBroker::builder().topic_with("orders", 4).build();
    let bus = broker.connect(Config::default()).unwrap();
    let subscribe = || {
        let builder = bus.subscribe_envelopes("orders").group("g").workers(1).drain_timeout(Duration::MAX);
        let builder =
            builder.deadline(Duration::MAX).commit_interval(Duration::MAX).hung_after(Duration::MAX);
        let orders = builder.handle_async(|_| async { Ok(()) }).unwrap();
        orders.ready().wait().unwrap();
        orders
    };
    // The second takes partitions from the first.
    let (first, second) = (subscribe(), subscribe());
    for n in 0..40 {
        bus.publish("orders", numbered(&format!("key-{n}"), n)).wait().unwrap();
    }
    eventually("both handle", || {
        let (first, second) = (first.stats(), second.stats());
        first.succeeded > 0 && second.succeeded > 0 && first.failed + second.failed == 0
    })
    .unwrap();
    eventually("all were handled", || first.stats().succeeded + second.stats().succeeded >= 40).unwrap();
    assert!(first.drain(Duration::MAX).wait_timeout(SOON).unwrap().unsettled.is_empty());
    assert_eq!(bus.close(Duration::MAX).wait_timeout(SOON).unwrap().unacknowledged, 0);
}

#[test]
fn health_tells_that_it_is_paused_also_when_that_came_before_it_joined() {
    let (broker, bus) = bus();
    broker.faults().pause_deliveries(true);
    let orders = bus.subscribe("orders").group("g").workers(1).handle(|_| Ok(())).unwrap();
    orders.pause();
    eventually("it is paused", || orders.health().status == Status::Paused).unwrap();
    orders.resume();
    eventually("it has not joined", || orders.health().status == Status::Starting).unwrap();
    orders.pause();
    eventually("it is paused", || orders.health().status == Status::Paused).unwrap();
    broker.faults().pause_deliveries(false);
    orders.ready().wait().unwrap();
    assert_eq!(orders.health().status, Status::Paused);
    orders.resume();
    eventually("it runs", || orders.health().status == Status::Running).unwrap();
}

#[test]
fn ready_means_joined_however_often_it_is_asked() {
    let (broker, bus) = bus();
    broker.faults().pause_deliveries(true);
    let orders = bus.subscribe("orders").group("g").workers(1).handle(|_| Ok(())).unwrap();
    assert!(orders.ready().wait_timeout(20 * MS).is_err());
    let (first, second) = (orders.ready(), orders.ready());
    assert!(!first.is_done() && !second.is_done(), "it has not joined");
    broker.faults().pause_deliveries(false);
    assert!(first.wait().is_ok() && second.wait().is_ok() && orders.ready().wait().is_ok());
    orders.drain(SOON).wait();
    assert!(orders.ready().wait().is_ok(), "it had joined");
}
