//! Code of the user's that panics where nobody expects it (a drop, a hook) takes no thread of the library with it, and
//! no record.

#![allow(unreachable_pub, reason = "the modules of a test program have no public face")]

mod support;

use keylane::memory::MemoryBroker;
use keylane::{Bus, Config, Event, HandlerError, Jitter, Record, Retry, Status, Subscription};
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use support::{eventually, numbered, quiet_planted_panics};

const SOON: Duration = Duration::from_secs(60);

fn bus() -> (MemoryBroker, Bus) {
    quiet_planted_panics();
    let broker = MemoryBroker::builder().topic_with("orders", 1).build();
    let bus = broker.connect(Config::default()).unwrap();
    (broker, bus)
}

/// Panics when it is dropped.
#[derive(Debug)]
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "planted: a drop");
    }
}

impl fmt::Display for Bomb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a bomb")
    }
}

impl std::error::Error for Bomb {}

#[test]
fn a_future_that_panics_when_it_is_dropped_blocks_no_key() {
    let (broker, bus) = bus();
    let builder = bus.subscribe_envelopes("orders").group("g").workers(1);
    let orders = builder
        .handle_async(|event| async move {
            if event.redeliveries() == 0 {
                let _bomb = Bomb;
                std::future::pending::<()>().await;
            }
            Ok(())
        })
        .unwrap();
    orders.ready().wait().unwrap();
    for n in 0..3 {
        for key in ["a", "b"] {
            bus.publish("orders", numbered(key, n)).wait().unwrap();
        }
    }
    eventually("two run and four are behind them", || orders.stats().in_flight == 6).unwrap();
    // The futures are dropped, and the records come again.
    assert!(broker.expel("g", 0));
    eventually("all were handled", || orders.stats().succeeded == 6).unwrap();
    eventually("nothing is counted that is over", || {
        let stats = orders.stats();
        (stats.in_flight, stats.waiting_keys, stats.lane_depth) == (0, 0, 0)
    })
    .unwrap();
    let report = orders.drain(SOON).wait_timeout(SOON).unwrap();
    assert!(report.still_running.is_empty(), "{report:?}");
}

#[test]
fn an_error_that_panics_when_it_is_dropped_settles_its_record_once() {
    let (broker, bus) = bus();
    let plain = bus.subscribe("orders").group("g").workers(1);
    let orders = plain
        .handle(|event| if event.offset() == 0 { Err(HandlerError::from(Bomb)) } else { Ok(()) })
        .unwrap();
    orders.ready().wait().unwrap();
    for n in 0..3_u8 {
        bus.publish("orders", Record::new(vec![n])).wait().unwrap();
    }
    eventually("the others were handled", || orders.stats().succeeded == 2).unwrap();
    eventually("all are over", || orders.stats().in_flight == 0).unwrap();
    eventually("all are settled", || broker.watermarks("g", "orders").unwrap() == Some(vec![3])).unwrap();
    let stats = orders.stats();
    assert_eq!((stats.failed, stats.discarded), (1, 1), "{stats:?}");
}

#[test]
fn an_error_that_panics_when_the_next_takes_its_place_ends_no_record() {
    let (_broker, bus) = bus();
    let soon = Retry::exponential(Duration::from_millis(1)..Duration::from_millis(1)).jitter(Jitter::None);
    let orders = bus
        .subscribe_envelopes("orders")
        .group("g")
        .workers(1)
        .retry(soon)
        .handle(|event| match event.attempt() {
            1 => Err(HandlerError::from(Bomb)),
            2 => panic!("planted"),
            _ => Ok(()),
        })
        .unwrap();
    bus.publish("orders", numbered("a", 0)).wait().unwrap();
    eventually("it was handled", || orders.stats().succeeded == 1).unwrap();
    eventually("it is over", || orders.stats().in_flight == 0).unwrap();
}

#[test]
fn a_handler_that_panics_when_it_is_dropped_lets_a_drain_end() {
    for workers in [0, 1] {
        let (_broker, bus) = bus();
        let make = || {
            let bomb = Bomb;
            move |_: &Event| {
                let _kept = &bomb;
                Ok(())
            }
        };
        let orders =
            bus.subscribe_envelopes("orders").group("g").workers(workers).handle_owned(make).unwrap();
        bus.publish("orders", numbered("a", 0)).wait().unwrap();
        eventually("it was handled", || orders.stats().succeeded == 1).unwrap();
        orders.drain(SOON).wait_timeout(SOON).unwrap();
        orders.drain(SOON).wait_timeout(SOON).unwrap();
        assert_eq!(orders.health().status, Status::Closed);
    }
}

#[test]
fn a_hook_that_panics_around_the_delivering_thread_shows_and_lets_everything_end() {
    let (_broker, bus) = bus();
    let builder = bus.subscribe_envelopes("orders").group("g").workers(0);
    let orders = builder.enter(|_| panic!("planted: a hook")).handle(|_| Ok(())).unwrap();
    assert!(orders.ready().wait_timeout(SOON).unwrap().is_err());
    eventually("it shows", || matches!(orders.health().status, Status::Halted(_))).unwrap();
    orders.drain(SOON).wait_timeout(SOON).unwrap();
    bus.close(SOON).wait_timeout(SOON).unwrap();
}

#[test]
fn a_hook_that_panics_around_a_worker_shows_and_stops_the_subscription() {
    // Jobs that are there when the worker ends, and jobs that come later.
    let moment = Duration::from_millis(50);
    for (life, delay) in [(moment, Duration::ZERO), (Duration::ZERO, moment)] {
        let (_broker, bus) = bus();
        let builder = bus.subscribe_envelopes("orders").group("g").workers(1);
        let hook = move |_: &mut dyn FnMut()| {
            std::thread::sleep(life);
            panic!("planted: a hook");
        };
        let orders = builder.enter(hook).handle(|_| Ok(())).unwrap();
        orders.ready().wait().unwrap();
        std::thread::sleep(delay);
        bus.publish("orders", numbered("a", 0)).wait().unwrap();
        eventually("it shows", || matches!(orders.health().status, Status::Halted(_))).unwrap();
        let report = orders.drain(SOON).wait_timeout(SOON).unwrap();
        assert_eq!(report.unsettled.len(), 1, "{report:?}");
        assert_eq!(orders.stats().in_flight, 0);
    }
}

#[test]
fn a_handler_may_release_a_key_that_its_own_worker_holds() {
    for workers in [0, 1] {
        let (_broker, bus) = bus();
        let (itself, answer) = (Arc::new(OnceLock::<Subscription>::new()), Arc::new(OnceLock::new()));
        let (seen, told) = (itself.clone(), answer.clone());
        let builder = bus.subscribe_envelopes("orders").group("g").workers(workers);
        let subscription = builder
            .handle(move |event| {
                match (event.aggregate_id(), event.attempt()) {
                    (Some("held"), 1) => return Err(HandlerError::terminal("planted")),
                    (Some("operator"), _) => {
                        let subscription = seen.get().ok_or("it is not there yet")?;
                        let held = subscription.held().into_iter().next().ok_or("nothing is held yet")?;
                        let _ = told.set(subscription.retry_held(&held).wait());
                    }
                    _ => {}
                }
                Ok(())
            })
            .unwrap();
        itself.set(subscription).unwrap();
        let subscription = itself.get().unwrap();
        for key in ["held", "operator"] {
            bus.publish("orders", numbered(key, 0)).wait().unwrap();
        }
        eventually("both were handled", || subscription.stats().succeeded == 2).unwrap();
        assert_eq!(answer.get(), Some(&true));
        assert!(subscription.held().is_empty());
        bus.close(SOON).wait();
    }
}
