//! What is published twice is stored twice; what is sent twice is stored once.

use crate::support::servers::{proxy::Protocol, proxy::Proxy};
use crate::support::{eventually, number, numbered};
use crate::{connect, connect_to, server};
use keylane::{DeadLetter, HandlerError};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

#[test]
fn a_dead_letter_that_is_replayed_at_once_is_stored_and_handled() {
    let server = server(&["orders", "orders.dead"]);
    let bus = connect(&server, |_| {});
    let is_fixed = Arc::new(AtomicBool::new(false));
    let fixed = is_fixed.clone();
    let builder = bus.subscribe_envelopes("orders").group("billing").then(DeadLetter::to("orders.dead"));
    let orders = builder
        .handle(move |_| {
            let is_fixed = fixed.load(Ordering::Acquire);
            if is_fixed { Ok(()) } else { Err(HandlerError::terminal("a bug of the handler")) }
        })
        .unwrap();
    bus.publish("orders", numbered("order-1", 1)).wait().unwrap();
    eventually("it is dead-lettered", || orders.stats().dead_lettered == 1).unwrap();
    is_fixed.store(true, Ordering::Release);
    let (again, offsets) = (bus.clone(), Arc::new(Mutex::new(Vec::new())));
    let kept = offsets.clone();
    let replay = bus.subscribe_envelopes("orders.dead").group("replay");
    let replay = replay
        .handle(move |event| {
            let event = event.envelope().ok_or("no Envelope")?.into_owned();
            kept.lock().unwrap().push(again.publish("orders", event).wait()?.offset());
            Ok(())
        })
        .unwrap();
    eventually("it is replayed", || replay.stats().succeeded == 1).unwrap();
    assert_eq!(*offsets.lock().unwrap(), [2], "it has a place of its own");
    eventually("it is handled", || orders.stats().succeeded == 1).unwrap();
}

#[test]
fn an_event_whose_answer_was_lost_is_stored_once() {
    let server = server(&["orders"]);
    let proxy = Proxy::start(0, server.port, Protocol::Nats);
    let (bus, direct) = (connect_to(proxy.port(), |_| {}), connect(&server, |_| {}));
    for n in 0..20 {
        // The first of two is stored and its answer is lost; the second is lost.
        proxy.fail_next_publishes("orders", 2);
        bus.publish("orders", numbered("key", n)).wait().unwrap();
    }
    let came = Arc::new(Mutex::new(Vec::new()));
    let kept = came.clone();
    let builder = direct.subscribe_envelopes("orders").group("billing");
    let orders = builder
        .handle(move |event| {
            kept.lock().unwrap().push(number(event));
            Ok(())
        })
        .unwrap();
    orders.caught_up().wait().unwrap();
    assert_eq!(*came.lock().unwrap(), (0..20).collect::<Vec<_>>());
}
