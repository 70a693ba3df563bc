//! Records that take long, that are given back, and instances that have nothing to do.

use crate::admin::Admin;
use crate::crash::{Process, log_file};
use crate::support::{eventually, number, numbered, within};
use crate::{connect, server};
use keylane::{DeadLetter, Jitter, Retry, Then};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

#[test]
fn a_record_in_work_is_not_delivered_again_however_long_it_takes() {
    let server = server(&["orders"]);
    let bus = connect(&server, |config| config.nats.ack_wait = Duration::from_secs(3));
    let calls = Arc::new(AtomicU64::new(0));
    let count = calls.clone();
    let builder = bus.subscribe_envelopes("orders").group("billing").workers(1);
    let subscription = builder
        .handle(move |event| {
            count.fetch_add(1, Ordering::Relaxed);
            if number(event) == 0 {
                std::thread::sleep(Duration::from_millis(7_500));
            }
            Ok(())
        })
        .unwrap();
    // The second waits behind the first for as long as that takes.
    (0..2).for_each(|n| drop(bus.publish("orders", numbered("key", n)).wait().unwrap()));
    eventually("both are handled", || subscription.stats().succeeded == 2).unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    let acknowledged = || Admin::of(&server).consumer("orders", "billing").num_ack_pending == 0;
    eventually("both are acknowledged", acknowledged).unwrap();
    let info = Admin::of(&server).consumer("orders", "billing");
    assert_eq!(info.delivered.consumer_sequence, 2, "the server delivered something again");
}

#[test]
fn a_record_that_is_given_back_comes_again_after_its_delay() {
    let server = server(&["orders"]);
    let bus = connect(&server, |_| {});
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = seen.clone();
    let delay = Duration::from_millis(300);
    let builder = bus.subscribe_envelopes("orders").group("billing").retry(Retry::none());
    let subscription = builder
        .then(Then::Redeliver { delay })
        .handle(move |event| {
            kept.lock().unwrap().push((number(event), event.redeliveries(), Instant::now()));
            if number(event) == 0 && event.redeliveries() < 4 { Err("not yet".into()) } else { Ok(()) }
        })
        .unwrap();
    (0..3).for_each(|n| drop(bus.publish("orders", numbered(&format!("key-{n}"), n)).wait().unwrap()));
    eventually("all are handled", || subscription.stats().succeeded == 3).unwrap();
    let seen = seen.lock().unwrap();
    let of_first: Vec<_> = seen.iter().filter(|(n, ..)| *n == 0).collect();
    assert_eq!(
        of_first.iter().map(|(_, redeliveries, _)| *redeliveries).collect::<Vec<_>>(),
        [0, 1, 2, 3, 4]
    );
    let is_late = |pair: &[&(u64, u32, Instant)]| pair[1].2 - pair[0].2 >= delay.mul_f64(0.9);
    assert!(of_first.windows(2).all(is_late), "{of_first:?}");
    assert_eq!(seen.len(), 7, "the others came once");
}

/// A publisher, an instance that is active and one that stands by, in a process of their own.
#[test]
fn a_bus_with_nothing_to_do_takes_next_to_no_cpu() {
    let server = server(&["orders"]);
    let log = log_file(&server, "idle");
    let _process = Process::start("idle", server.port, &log);
    let read = || std::fs::read_to_string(&log).unwrap_or_default();
    within(Duration::from_secs(90), "it has measured itself", || read().ends_with('\n')).unwrap();
    let share: f64 = read().trim().parse().expect("a number");
    assert!(share < 0.01, "it takes {:.2} % of a core", share * 100.0);
    eprintln!("an idle bus with two instances takes {:.2} % of a core", share * 100.0);
}

/// Measures the CPU time of this process, and writes its share of a core down.
pub fn idle(port: u16, log: &std::path::Path) {
    let buses = [crate::connect_to(port, |_| {}), crate::connect_to(port, |_| {})];
    let subscriptions = buses
        .each_ref()
        .map(|bus| bus.subscribe("orders").group("billing").handle(|_| Ok(())).expect("it joins"));
    drop(buses[0].publish("orders", numbered("key", 0)).wait().expect("it is stored"));
    let handled =
        || subscriptions.iter().map(|subscription| subscription.stats().succeeded).sum::<u64>() == 1;
    eventually("it is handled", handled).expect("it is");
    std::thread::sleep(Duration::from_secs(1));
    let share = crate::support::least_cpu_share(Duration::from_secs(4), 0.01);
    std::fs::write(log, format!("{share}\n")).expect("target can be written");
}

#[test]
fn a_drain_is_no_attempt_however_often_there_is_one() {
    let server = server(&["orders", "orders.dead"]);
    let publisher = connect(&server, |_| {});
    let publishes: Vec<_> =
        (0..50).map(|n| publisher.publish("orders", numbered(&format!("key-{n}"), n))).collect();
    publishes.into_iter().for_each(|publish| drop(publish.wait().unwrap()));
    // One that fails and waits for its second attempt, with others behind it that never start.
    for round in 0..5 {
        let bus = connect(&server, |_| {});
        let retry = Retry::exponential(Duration::from_secs(60)..Duration::from_secs(60))
            .jitter(Jitter::None)
            .attempts(2);
        let builder = bus.subscribe_envelopes("orders").group("billing").workers(1).retry(retry);
        let failed = Arc::new(AtomicU64::new(0));
        let count = failed.clone();
        let subscription = builder
            .then(DeadLetter::to("orders.dead"))
            .handle(move |event| {
                count.fetch_add(1, Ordering::Relaxed);
                assert!(event.redeliveries() < 2, "{} redeliveries are counted", event.redeliveries());
                Err("not yet".into())
            })
            .unwrap();
        eventually("they are tried", || failed.load(Ordering::Relaxed) == 50).unwrap();
        assert_eq!(subscription.stats().dead_lettered, 0, "in round {round} a drain counted as an attempt");
        assert_eq!(subscription.drain(Duration::from_secs(60)).wait().unsettled.len(), 50);
        bus.close(Duration::from_secs(60)).wait();
    }
}
