//! What a handler sees of its record.

#![allow(unreachable_pub, reason = "the modules of a test program have no public face")]

mod support;

use keylane::memory::MemoryBroker;
use keylane::{Clock, Config, Envelope, Event, Record, Retry, Then};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, SystemTime};
use support::eventually;

const MINUTE: Duration = Duration::from_secs(60);

/// A handler that passes on a copy of each event that it sees, and what it passes them to.
fn passing_on() -> (impl Fn(&Event) -> Result<(), keylane::HandlerError>, Receiver<Event>) {
    let (tell, told) = channel();
    (move |event: &Event| Ok(tell.send(event.clone())?), told)
}

#[test]
fn it_is_all_that_was_published_and_where_it_was_stored() {
    let bus = keylane::connect("memory:?topics=orders,payments").wait().unwrap();
    let (handler, seen) = passing_on();
    let both = bus.subscribe("orders").topic("payments").group("audit").handle(handler).unwrap();
    let made = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let record = Record::new("paid").with_key("order-42").with_header("Via", "gateway").with_timestamp(made);
    let receipt = bus.publish("payments", record.clone()).wait().unwrap();
    let event = seen.recv_timeout(MINUTE).unwrap();
    assert_eq!(event.topic(), "payments");
    assert_eq!((event.partition(), event.offset()), (receipt.partition(), receipt.offset()));
    assert_eq!((event.key(), event.value()), (record.key.as_deref(), &record.value[..]));
    assert_eq!((event.headers(), event.timestamp()), (&record.headers, made));
    assert_eq!(event.aggregate_id(), Some("order-42"));
    assert_eq!((event.attempt(), event.redeliveries(), event.deadline()), (1, 0, None));
    assert!(event.envelope().is_none() && !event.is_envelope());

    bus.publish("orders", Record::new("no key")).wait().unwrap();
    let event = seen.recv_timeout(MINUTE).unwrap();
    assert_eq!((event.topic(), event.key(), event.aggregate_id()), ("orders", None, None));
    drop(both);
}

#[test]
fn an_envelope_is_known_in_a_subscription_to_either() {
    let bus = keylane::connect("memory:?topics=orders").wait().unwrap();
    let (of_plain, plain) = passing_on();
    let (of_envelopes, envelopes) = passing_on();
    let _plain = bus.subscribe("orders").group("plain").handle(of_plain).unwrap();
    let _envelopes = bus.subscribe_envelopes("orders").group("envelopes").handle(of_envelopes).unwrap();
    let paid = Envelope::new("order-42", "order.paid", 1, "995").unwrap();
    bus.publish("orders", paid.clone()).wait().unwrap();
    for seen in [plain, envelopes] {
        let event = seen.recv_timeout(MINUTE).unwrap();
        assert!(event.is_envelope());
        assert_eq!(event.envelope(), Some(paid.clone()));
        assert_eq!(event.aggregate_id(), Some("order-42"));
        assert_eq!(event.value(), paid.encode());
    }
}

#[test]
fn attempts_count_from_one_and_what_the_broker_handed_out_before_is_told() {
    let bus = keylane::connect("memory:?topics=orders").wait().unwrap();
    let ms = Duration::from_millis(1);
    let counts = |event: &Event| (event.attempt(), event.redeliveries());
    let (tell, told) = channel();
    let _retried = bus
        .subscribe_envelopes("orders")
        .group("retried")
        .retry(Retry::exponential(ms..ms))
        .handle(move |event| {
            tell.send(counts(event))?;
            if event.attempt() < 3 { Err("planted".into()) } else { Ok(()) }
        })
        .unwrap();
    let (tell, given_back) = channel();
    let _given_back = bus
        .subscribe_envelopes("orders")
        .group("given-back")
        .retry(Retry::none())
        .then(Then::Redeliver { delay: ms })
        .handle(move |event| {
            tell.send(counts(event))?;
            if event.redeliveries() == 0 { Err("planted".into()) } else { Ok(()) }
        })
        .unwrap();
    bus.publish("orders", Envelope::new("order-42", "order.paid", 1, "995").unwrap()).wait().unwrap();
    for expected in [(1, 0), (2, 0), (3, 0)] {
        assert_eq!(told.recv_timeout(MINUTE), Ok(expected));
    }
    for expected in [(1, 0), (1, 1)] {
        assert_eq!(given_back.recv_timeout(MINUTE), Ok(expected));
    }
}

#[test]
fn a_future_is_told_its_deadline_by_the_clock_of_its_broker() {
    let (clock, _time) = Clock::manual();
    let broker = MemoryBroker::builder().topic("orders").clock(clock.clone()).build();
    let bus = broker.connect(Config::default()).unwrap();
    let (tell, told) = channel();
    let _orders = bus
        .subscribe("orders")
        .group("g")
        .deadline(MINUTE)
        .handle_async(move |event| {
            let tell = tell.clone();
            async move { Ok(tell.send(event.deadline())?) }
        })
        .unwrap();
    bus.publish("orders", Record::new("paid")).wait().unwrap();
    assert_eq!(told.recv_timeout(MINUTE), Ok(Some(clock.now() + MINUTE)));
}

#[test]
fn a_handler_that_runs_at_the_limit_of_a_drain_is_told() {
    let bus = keylane::connect("memory:?topics=orders").wait().unwrap();
    let (tell, told) = channel();
    let orders = bus
        .subscribe("orders")
        .group("g")
        .handle(move |event| {
            tell.send(false)?;
            eventually("it is cancelled", || event.cancellation().is_cancelled())?;
            Ok(tell.send(true)?)
        })
        .unwrap();
    bus.publish("orders", Record::new("paid")).wait().unwrap();
    assert_eq!(told.recv_timeout(MINUTE), Ok(false), "it has started");
    orders.drain(Duration::from_millis(1)).wait();
    assert_eq!(told.recv_timeout(MINUTE), Ok(true));
}
