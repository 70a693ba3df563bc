//! Routing, from the publisher to the worker.

#![allow(unreachable_pub, reason = "the modules of a test program have no public face")]

mod support;

use keylane::{Bus, Record, Route, Subscription};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use support::{capture_log, eventually, logged};

/// By aggregate id: the threads that handled its records, and how many there were on each.
type Handled = Arc<Mutex<BTreeMap<(Option<String>, String), u64>>>;

fn subscribe(bus: &Bus, group: &str, route: Route, workers: usize) -> (Subscription, Handled) {
    let handled = Handled::default();
    let log = handled.clone();
    let subscription = bus
        .subscribe("orders")
        .group(group)
        .route(route)
        .workers(workers)
        .handle(move |event| {
            let thread = std::thread::current().name().unwrap_or_default().to_owned();
            *log.lock().unwrap().entry((event.aggregate_id().map(str::to_owned), thread)).or_default() += 1;
            Ok(())
        })
        .unwrap();
    subscription.ready().wait().unwrap();
    (subscription, handled)
}

fn bus() -> Bus {
    keylane::connect("memory:?topics=orders").wait().unwrap()
}

#[test]
fn records_without_an_aggregate_are_spread_evenly_over_the_workers() {
    let bus = bus();
    let (subscription, handled) = subscribe(&bus, "even", Route::Auto, 3);
    for _ in 0..100 {
        bus.publish("orders", Record::new("a")).wait().unwrap();
    }
    eventually("all were handled", || subscription.stats().succeeded == 100).unwrap();
    let counts: Vec<u64> = handled.lock().unwrap().values().copied().collect();
    assert_eq!(counts.iter().sum::<u64>(), 100);
    assert_eq!(counts.len(), 3);
    assert!(counts.iter().all(|count| (33..=34).contains(count)), "{counts:?}");
    assert_eq!(subscription.stats().without_aggregate, 100);
}

#[test]
fn a_key_is_on_one_worker_whatever_it_is_found_in() {
    let bus = bus();
    let (subscription, handled) = subscribe(&bus, "auto", Route::Auto, 4);
    for n in 0..60 {
        let id = format!("id-{}", n % 6);
        let record = match n % 2 {
            0 => Record::new("plain").with_key(id),
            _ => Record::new("plain").with_key("other").with_header("x-aggregate-id", id),
        };
        bus.publish("orders", record).wait().unwrap();
    }
    eventually("all were handled", || subscription.stats().succeeded == 60).unwrap();
    let handled = handled.lock().unwrap();
    let ids: BTreeSet<_> = handled.keys().map(|(id, _)| id.clone()).collect();
    assert_eq!(ids.len(), 6, "the header goes before the key: {ids:?}");
    assert_eq!(handled.len(), 6, "a key was on two workers: {handled:?}");
}

#[test]
fn a_route_of_the_users_own_decides() {
    let bus = bus();
    let routes: [(&str, Route, Option<&str>); 4] = [
        ("by-key", Route::Key, Some("the-key")),
        ("by-header", Route::Header("Tenant".to_owned()), Some("the-tenant")),
        (
            "by-function",
            Route::With(Arc::new(|record| Some(format!("{}-bytes", record.value.len())))),
            Some("5-bytes"),
        ),
        ("in-turn", Route::RoundRobin, None),
    ];
    let subscriptions: Vec<_> = routes
        .into_iter()
        .map(|(group, route, expected)| (subscribe(&bus, group, route, 2), expected))
        .collect();
    bus.publish("orders", Record::new("bytes").with_key("the-key").with_header("tenant", "the-tenant"))
        .wait()
        .unwrap();
    for ((subscription, handled), expected) in subscriptions {
        eventually("it was handled", || subscription.stats().succeeded == 1).unwrap();
        let id = handled.lock().unwrap().keys().next().unwrap().0.clone();
        assert_eq!(id.as_deref(), expected);
    }
}

#[test]
fn an_envelope_subscription_that_meets_a_record_without_an_aggregate_says_so() {
    capture_log();
    let bus = bus();
    let orders = bus.subscribe_envelopes("orders").group("forgot").handle(|_| Ok(())).unwrap();
    bus.publish("orders", Record::new("forgot its key")).wait().unwrap();
    eventually("it is held", || orders.held().len() == 1).unwrap();
    assert_eq!(orders.stats().without_aggregate, 1);
    assert!(logged(&["WARN", "has no aggregate id and no key, so it has no order", "orders"]) > 0);
}
