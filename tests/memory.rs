//! The memory broker as a backend for a user's own tests: injected time and faults.

#![allow(unreachable_pub, reason = "the modules of a test program have no public face")]

mod support;

use keylane::memory::MemoryBroker;
use keylane::{Clock, Config, Jitter, Problem, Retry, Status};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{Gate, capture_log, eventually, logged, number, numbered};

#[test]
fn hours_of_retries_take_no_time_with_a_clock_that_is_moved() {
    for workers in [0, 2] {
        let (clock, time) = Clock::manual();
        let broker = MemoryBroker::builder().topic("orders").clock(clock).build();
        let bus = broker.connect(Config::default()).unwrap();
        let hourly =
            Retry::exponential(Duration::from_secs(3_600)..Duration::from_secs(7_200)).jitter(Jitter::None);
        let attempts = Arc::new(AtomicU64::new(0));
        let count = attempts.clone();
        let builder = bus.subscribe_envelopes("orders").group("g").workers(workers).retry(hourly);
        let orders = builder
            .handle(move |event| {
                count.fetch_add(1, Ordering::Relaxed);
                if event.attempt() < 4 { Err("planted".into()) } else { Ok(()) }
            })
            .unwrap();
        bus.publish("orders", numbered("a", 0)).wait().unwrap();
        for (attempt, hours) in [(1, 1), (2, 2), (3, 2)] {
            // Counted when its next time is known: moved before that, the clock would move that time too.
            eventually("it was attempted, and waits", || {
                let stats = orders.stats();
                (stats.retried, stats.waiting_keys) == (attempt, 1)
            })
            .unwrap();
            assert_eq!(attempts.load(Ordering::Relaxed), attempt);
            // A second too few is not enough.
            time.advance(Duration::from_secs(hours * 3_600 - 1));
            std::thread::sleep(Duration::from_millis(20));
            assert_eq!(attempts.load(Ordering::Relaxed), attempt, "{workers} workers");
            time.advance(Duration::from_secs(1));
        }
        eventually("it was handled", || orders.stats().succeeded == 1).unwrap();
    }
}

#[test]
fn a_member_that_is_expelled_settles_nothing_any_more() {
    let broker = MemoryBroker::builder().topic_with("orders", 1).build();
    let bus = broker.connect(Config::default()).unwrap();
    let gate = Gate::default();
    let (at, told) = (gate.clone(), Gate::default());
    let tells = told.clone();
    let first = bus
        .subscribe_envelopes("orders")
        .group("g")
        .workers(1)
        .handle(move |event| {
            at.pass();
            // Its intake may hear of the expulsion after the next owner does.
            if eventually("it is cancelled", || event.cancellation().is_cancelled()).is_ok() {
                tells.open();
            }
            Ok(())
        })
        .unwrap();
    first.ready().wait().unwrap();
    for n in 0..3 {
        bus.publish("orders", numbered("a", n)).wait().unwrap();
    }
    eventually("the first runs", || first.stats().in_flight == 3).unwrap();
    let handled = Arc::new(Mutex::new(Vec::new()));
    let noted = handled.clone();
    let second = broker.connect(Config::default()).unwrap();
    let builder = second.subscribe_envelopes("orders").group("g").workers(1);
    let next = builder
        .handle(move |event| {
            noted.lock().unwrap().push(number(event));
            Ok(())
        })
        .unwrap();
    next.ready().wait().unwrap();
    assert!(broker.expel("g", 0), "there is a first member");
    eventually("the next owner handled all, in order", || *handled.lock().unwrap() == [0, 1, 2]).unwrap();
    gate.open();
    eventually("the handler that was left behind was told", || told.is_open()).unwrap();
    eventually("nothing is in flight with the first", || first.stats().in_flight == 0).unwrap();
    eventually("the next owner settled all", || broker.watermarks("g", "orders").unwrap() == Some(vec![3]))
        .unwrap();
    assert_eq!(*handled.lock().unwrap(), [0, 1, 2]);
}

#[test]
fn settles_that_are_lost_come_again_and_settles_that_fail_are_tried_again() {
    let broker = MemoryBroker::builder().topic_with("orders", 1).build();
    let bus = broker.connect(Config::default()).unwrap();
    for n in 0..5 {
        bus.publish("orders", numbered("a", n)).wait().unwrap();
    }
    broker.faults().fail_next_settles(2);
    let orders = bus.subscribe_envelopes("orders").group("failed").handle(|_| Ok(())).unwrap();
    eventually("the position was kept in the end", || {
        broker.watermarks("failed", "orders").unwrap() == Some(vec![5])
    })
    .unwrap();
    eventually("it is healthy again", || orders.health().is_healthy()).unwrap();
    assert_eq!(orders.stats().consumed, 5, "a settle that failed repeats no record while its owner lives");

    broker.faults().lose_next_settles(usize::MAX);
    let lost = bus.subscribe_envelopes("orders").group("lost").handle(|_| Ok(())).unwrap();
    eventually("all were handled", || lost.stats().succeeded == 5).unwrap();
    let report = lost.drain(Duration::from_secs(60)).wait();
    assert!(report.unsettled.is_empty(), "the broker said that it kept them: {report:?}");
    broker.faults().clear();
    let again = bus.subscribe_envelopes("orders").group("lost").handle(|_| Ok(())).unwrap();
    eventually("all came again", || again.stats().succeeded == 5).unwrap();
}

#[test]
fn a_paused_subscription_takes_nothing_and_goes_on_where_it_was() {
    let bus = keylane::connect("memory:?topics=orders").wait().unwrap();
    let orders = bus.subscribe_envelopes("orders").group("g").handle(|_| Ok(())).unwrap();
    orders.pause();
    eventually("it pauses", || orders.health().status == Status::Paused).unwrap();
    for n in 0..10 {
        bus.publish("orders", numbered("a", n)).wait().unwrap();
    }
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(orders.stats().consumed, 0);
    orders.resume();
    eventually("it goes on", || orders.stats().succeeded == 10).unwrap();
    assert_eq!(orders.health().status, Status::Running);
}

#[test]
fn a_position_that_can_not_be_committed_shows_for_as_long_as_that_lasts() {
    capture_log();
    let broker = MemoryBroker::builder().topic_with("orders", 1).build();
    let bus = broker.connect(Config::default()).unwrap();
    let orders = bus.subscribe_envelopes("orders").group("uncommitted").handle(|_| Ok(())).unwrap();
    orders.ready().wait().unwrap();
    broker.faults().fail_next_settles(usize::MAX);
    bus.publish("orders", numbered("a", 0)).wait().unwrap();
    let age = || {
        orders.health().problems.iter().find_map(|problem| match problem {
            Problem::Broker { age, .. } => Some(*age),
            _ => None,
        })
    };
    eventually("its age grows", || age().is_some_and(|age| age > Duration::from_millis(600))).unwrap();
    // Other tests of this program may meet a broker that does not answer, each once or twice.
    let lines = logged(&["the broker does not answer; trying again until it does"]);
    assert!(lines < 6, "{lines} lines say the same");
    broker.faults().clear();
    eventually("it is committed and healthy", || {
        broker.watermarks("uncommitted", "orders").unwrap() == Some(vec![1]) && orders.health().is_healthy()
    })
    .unwrap();
}
