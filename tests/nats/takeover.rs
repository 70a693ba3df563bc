//! Two instances of one group: one is active, the other takes over, and nothing overtakes on the way.

use crate::crash::{Process, SOON, judge, lines, log_file, publisher};
use crate::support::order::Book;
use crate::support::{Gate, eventually, number, numbered, within};
use crate::{connect, server};
use keylane::{Bus, Config, Status, Subscription};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub fn soon(config: &mut Config) {
    config.nats.takeover_after = SOON;
}

fn instance(bus: &Bus, book: &Arc<Book>) -> Subscription {
    let book = book.clone();
    let builder = bus.subscribe_envelopes("orders").group("billing").workers(2);
    let subscription = builder
        .handle(move |event| {
            let (key, n) = (event.aggregate_id().unwrap_or_default(), number(event));
            book.begin(key, n);
            std::thread::sleep(Duration::from_micros(100));
            book.end(key, n, true);
            Ok(())
        })
        .unwrap();
    subscription.ready().wait().unwrap();
    subscription
}

#[test]
fn one_is_active_and_the_other_takes_over_at_once_when_it_closes() {
    let server = server(&["orders"]);
    let (first, second) = (connect(&server, |_| {}), connect(&server, |_| {}));
    let book = Arc::new(Book::default());
    let active = instance(&first, &book);
    first.publish("orders", numbered("key", 0)).wait().unwrap();
    eventually("the first is active", || book.over() == 1).unwrap();
    let standby = instance(&second, &book);
    for n in 1..500 {
        first.publish("orders", numbered("key", n)).wait().unwrap();
    }
    eventually("all is handled", || book.over() == 500).unwrap();
    // Counted when the handler has ended.
    eventually("one has it all", || active.stats().succeeded == 500).unwrap();
    assert_eq!(standby.stats().succeeded, 0, "one has it all");
    assert_eq!(standby.health().status, Status::Running, "it stands by, ready");
    let publishes: Vec<_> = (500..2_500).map(|n| second.publish("orders", numbered("key", n))).collect();
    eventually("it is at work", || book.over() > 600).unwrap();
    active.drain(Duration::from_secs(60)).wait();
    let (left, at) = (Instant::now(), standby.stats().succeeded);
    eventually("the other took over", || standby.stats().succeeded > at).unwrap();
    let took = left.elapsed();
    assert!(
        took < Duration::from_millis(1_500),
        "what is given back is taken at once, and not after {took:?}"
    );
    publishes.into_iter().for_each(|publish| drop(publish.wait().unwrap()));
    eventually("all is handled", || book.over() == 2_500).unwrap();
    book.verdict().unwrap();
    assert_eq!(book.repeats(), 0, "what was handled was acknowledged before it moved");
    eprintln!("taken over {took:.0?} after a drain");
    first.close(Duration::from_secs(60)).wait();
    second.close(Duration::from_secs(60)).wait();
}

#[test]
fn a_killed_instance_is_taken_over_in_order_and_soon() {
    let server = server(&["orders"]);
    let log = log_file(&server, "effects");
    let stop = Arc::new(AtomicBool::new(false));
    let mut active = Process::start("soon consumer", server.port, &log);
    let publisher = publisher(server.port, stop.clone(), Duration::from_millis(8));
    eventually("it is active", || lines(&log) > 0).unwrap();
    let mut gaps = Vec::new();
    for _ in 0..3 {
        let standby = Process::start("soon consumer", server.port, &log);
        let before = lines(&log);
        // Long enough for the other to have joined.
        eventually("it is at work", || lines(&log) > before + 2_000).unwrap();
        active.kill();
        let (killed, before) = (Instant::now(), lines(&log));
        eventually("the other took over", || lines(&log) > before).unwrap();
        gaps.push(killed.elapsed());
        active = standby;
    }
    stop.store(true, Ordering::Relaxed);
    let published = publisher.join().unwrap();
    let is_done = || judge(&log).map_or(true, |(over, _)| over >= published);
    within(Duration::from_secs(60), "all is handled", is_done).unwrap();
    let (over, repeats) = judge(&log).unwrap();
    assert_eq!(over, published);
    eprintln!("taken over after SIGKILL: {gaps:.0?}, {repeats} repeats of {published}");
    // It renewed its lease at most three tenths of that before, and nobody may be sooner than the lease is over.
    assert!(gaps.iter().all(|gap| *gap > SOON.mul_f64(0.69)), "one was taken over while its lease held");
    assert!(gaps.iter().all(|gap| *gap < SOON + Duration::from_secs(3)), "it took longer than it says");
}

#[test]
fn a_silent_instance_is_taken_over_after_its_time_and_loses_what_it_had() {
    let server = server(&["orders"]);
    let proxy = crate::support::servers::proxy::Proxy::start(
        0,
        server.port,
        crate::support::servers::proxy::Protocol::Nats,
    );
    let (cut_off, other) = (crate::connect_to(proxy.port(), soon), connect(&server, soon));
    let gate = Gate::default();
    let at = gate.clone();
    let builder = cut_off.subscribe_envelopes("orders").group("billing").workers(1);
    let stuck = builder
        .handle_async(move |_| {
            let at = at.clone();
            async move {
                at.passed().await;
                Ok(())
            }
        })
        .unwrap();
    for n in 0..10 {
        other.publish("orders", numbered(&format!("key-{n}"), 0)).wait().unwrap();
    }
    eventually("its futures run", || stuck.stats().in_flight == 10).unwrap();
    let book = Arc::new(Book::default());
    let standby = instance(&other, &book);
    proxy.set_reachable(false);
    eventually("the other took over, with all that was in work", || book.over() == 10).unwrap();
    eventually("it counts them", || standby.stats().succeeded == 10).unwrap();
    proxy.set_reachable(true);
    eventually("the first has lost it", || stuck.stats().in_flight == 0).unwrap();
    gate.open();
    other.publish("orders", numbered("key-0", 1)).wait().unwrap();
    eventually("the other goes on", || book.over() == 11).unwrap();
    eventually("the first stands by", || stuck.health().is_healthy()).unwrap();
    assert_eq!(stuck.stats().succeeded, 0, "what it had counts no more");
}

/// Of JetStream one instance has everything: a full one is a live member as long as it is there, and what it has is
/// handled elsewhere as soon as it leaves.
#[test]
fn a_full_instance_stays_active_and_is_taken_over_when_it_leaves() {
    let server = server(&["orders"]);
    let (first, second) = (connect(&server, soon), connect(&server, soon));
    let gate = Gate::default();
    let at = gate.clone();
    let builder = first.subscribe_envelopes("orders").group("billing").workers(1).in_flight_records(2);
    let full = builder
        .handle_async(move |_| {
            let at = at.clone();
            async move {
                at.passed().await;
                Ok(())
            }
        })
        .unwrap();
    for n in 0..20 {
        first.publish("orders", numbered(&format!("key-{n}"), 0)).wait().unwrap();
    }
    eventually("it is full", || full.stats().in_flight == 2).unwrap();
    let book = Arc::new(Book::default());
    let standby = instance(&second, &book);
    // Beyond the time after which a silent one would be taken over.
    std::thread::sleep(Duration::from_millis(4_500));
    assert_eq!(standby.stats().consumed, 0, "a full instance was taken for a dead one");
    let report = full.drain(Duration::from_millis(50)).wait();
    assert_eq!(report.unsettled.len(), 2);
    eventually("the other has all of it", || book.over() == 20).unwrap();
}
