//! That records flow: with slow handlers, and through the narrowest window.

#![allow(unreachable_pub, reason = "the modules of a test program have no public face")]

mod support;

use keylane::{Clock, Config, Record, memory::MemoryBroker};
use std::sync::mpsc;
use std::thread::sleep;
use std::time::Duration;
use support::{comes_to, eventually};

/// What was handled is settled before the next slow record starts, not at the end of a batch: otherwise a crash would
/// repeat minutes of work.
#[test]
fn what_a_slow_handler_has_handled_is_settled_while_it_goes_on() {
    let broker = MemoryBroker::builder().topic_with("t", 1).build();
    let bus = broker.connect(Config::default()).unwrap();
    for n in 0..20u8 {
        bus.publish("t", Record::new(vec![n])).wait().unwrap();
    }
    let (go_on, blocked) = mpsc::channel::<()>();
    let blocked = std::sync::Mutex::new(blocked);
    let subscription = bus
        .subscribe("t")
        .group("g")
        .workers(1)
        .handle(move |event| {
            match event.value()[0] {
                5 => drop(blocked.lock().unwrap().recv()),
                _ => sleep(Duration::from_millis(2)),
            }
            Ok(())
        })
        .unwrap();
    eventually("what was handled is settled", || subscription.stats().succeeded >= 5).unwrap();
    drop(go_on);
    bus.close(Duration::from_secs(60)).wait();
}

/// Verdicts come in batches, and a batch ends when its worker's thread is free: what is over does not wait for that, or a
/// crash while one handler blocks would repeat what all before it have done.
#[test]
fn what_is_handled_is_settled_while_the_next_handler_blocks() {
    for (workers, records) in [(1, 20_u8), (2, 40)] {
        let broker = MemoryBroker::builder().topic_with("t", 1).build();
        let bus = broker.connect(Config::default()).unwrap();
        let last = records - 1;
        for n in 0..records {
            bus.publish("t", Record::new(vec![n])).wait().unwrap();
        }
        let (go_on, blocked) = mpsc::channel::<()>();
        let blocked = std::sync::Mutex::new(blocked);
        let handler = move |event: &keylane::Event| {
            if event.value()[0] == last {
                let _ = blocked.lock().unwrap().recv();
            }
            Ok(())
        };
        let _subscription = bus.subscribe("t").group("g").workers(workers).handle(handler).unwrap();
        let position = || broker.watermarks("g", "t").unwrap().unwrap()[0];
        comes_to(u64::from(last), &format!("settled by {workers} workers"), position).unwrap();
        assert_eq!(position(), u64::from(last), "the record that is being handled is not settled");
        drop(go_on);
        bus.close(Duration::from_secs(60)).wait();
        assert_eq!(broker.watermarks("g", "t").unwrap().unwrap(), [u64::from(records)]);
    }
}

/// The place of a record is free again before its verdict is known, so the next one never finds its lane full and waits
/// for a tick of the intake.
#[test]
fn a_window_of_one_record_goes_on_without_a_pause() {
    for workers in [0, 1, 2] {
        // The time stands still, so no tick helps either.
        let (clock, _time) = Clock::manual();
        let broker = MemoryBroker::builder().topic("t").clock(clock).build();
        let bus = broker.connect(Config::default()).unwrap();
        for n in 0..3_000u32 {
            bus.publish("t", Record::new(n.to_le_bytes().to_vec()).with_key("k")).wait().unwrap();
        }
        let builder = bus.subscribe("t").group("g").workers(workers).in_flight_records(1);
        let subscription = builder.handle(|_| Ok(())).unwrap();
        let what = format!("handled by {workers} workers");
        comes_to(3_000, &what, || subscription.stats().succeeded).unwrap();
    }
}

#[test]
fn an_interval_that_never_ends_commits_at_the_drain_alone() {
    let broker = MemoryBroker::builder().topic_with("t", 1).build();
    let bus = broker.connect(Config::default()).unwrap();
    let subscription =
        bus.subscribe("t").group("g").commit_interval(Duration::MAX).handle(|_| Ok(())).unwrap();
    bus.publish("t", Record::new("x")).wait().unwrap();
    eventually("it was handled", || subscription.stats().succeeded == 1).unwrap();
    assert_eq!(broker.watermarks("g", "t").unwrap().unwrap(), [0]);
    subscription.drain(Duration::from_secs(60)).wait();
    assert_eq!(broker.watermarks("g", "t").unwrap().unwrap(), [1]);
}
