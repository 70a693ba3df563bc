//! The same program without a runtime, on tokio in both flavours, and on smol.

#![allow(unreachable_pub, reason = "the modules of a test program have no public face")]

mod support;

use keylane::{Bus, Envelope, Event, HandlerError, Stats};
use std::future::Future;
use std::time::Duration;
use support::{eventually, pause_once};

const RECORDS: u64 = 200;

/// Connects, subscribes, publishes and closes; every operation is awaited.
async fn program<F>(
    enter: impl Fn(&mut dyn FnMut()) + Send + Sync + 'static,
    handler: impl Fn(Event) -> F + Send + Sync + 'static,
) -> (Stats, usize)
where
    F: Future<Output = Result<(), HandlerError>> + 'static,
{
    let bus = keylane::connect("memory:?topics=orders").await.expect("memory is always there");
    let builder = bus.subscribe_envelopes("orders").group("runtimes").workers(2).enter(enter);
    let subscription = builder.handle_async(handler).expect("nothing is wrong with it");
    subscription.ready().await.expect("it joins");
    publish(&bus).await;
    bus.flush().await;
    while subscription.stats().succeeded < RECORDS {
        // Whatever executor this is, it goes on with others.
        pause_once().await;
    }
    let stats = subscription.stats();
    let report = subscription.drain(Duration::from_secs(60)).await;
    let closed = bus.close(Duration::from_secs(60)).await;
    assert_eq!(closed.unacknowledged, 0);
    (stats, report.unsettled.len())
}

async fn publish(bus: &Bus) {
    for n in 0..RECORDS {
        let envelope =
            Envelope::new(format!("key-{}", n % 7), "test.numbered", 1, n.to_string()).expect("valid");
        bus.publish("orders", envelope).await.expect("it is stored");
    }
}

fn assert_all_handled((stats, unsettled): (Stats, usize)) {
    assert_eq!((stats.succeeded, stats.failed, unsettled), (RECORDS, 0, 0));
}

#[test]
fn without_a_runtime_by_wait_alone() {
    let bus = keylane::connect("memory:?topics=orders").wait().unwrap();
    let builder = bus.subscribe_envelopes("orders").group("runtimes").workers(2);
    let subscription = builder.handle(|_| Ok(())).unwrap();
    subscription.ready().wait().unwrap();
    for n in 0..RECORDS {
        let envelope = Envelope::new(format!("key-{}", n % 7), "test.numbered", 1, n.to_string()).unwrap();
        bus.publish("orders", envelope).wait().unwrap();
    }
    bus.flush().wait();
    eventually("all were handled", || subscription.stats().succeeded == RECORDS).unwrap();
    let stats = subscription.stats();
    assert_all_handled((stats, subscription.drain(Duration::from_secs(60)).wait().unsettled.len()));
    assert_eq!(bus.close(Duration::from_secs(60)).wait().unacknowledged, 0);
}

#[test]
fn tokio_with_many_threads_and_its_timers_in_the_handlers() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    let handle = runtime.handle().clone();
    let enter = move |run: &mut dyn FnMut()| {
        let _context = handle.enter();
        run();
    };
    let handler = |_| async {
        tokio::time::sleep(Duration::from_micros(100)).await;
        Ok(())
    };
    assert_all_handled(runtime.block_on(async move {
        // On a thread of the runtime, not on the one that blocks.
        tokio::spawn(async move { program_is_send(program(enter, handler)).await }).await.unwrap()
    }));
}

/// What a program awaits can move between the threads of a runtime.
fn program_is_send<F: Future + Send>(future: F) -> F {
    future
}

#[test]
fn tokio_with_the_current_thread() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let handle = runtime.handle().clone();
    let enter = move |run: &mut dyn FnMut()| {
        let _context = handle.enter();
        run();
    };
    let handler = |_| async {
        tokio::time::sleep(Duration::from_micros(100)).await;
        Ok(())
    };
    // The program yields to the runtime, which drives the timers that its handlers wait for on other threads.
    assert_all_handled(runtime.block_on(program(enter, handler)));
}

#[test]
fn smol_and_its_timers_in_the_handlers() {
    let handler = |_| async {
        smol::Timer::after(Duration::from_micros(100)).await;
        Ok(())
    };
    assert_all_handled(smol::block_on(program(|run| run(), handler)));
}
