//! A reader of the log that panics wherever it can. A program of its own: the reader is the whole process's.

#![allow(unreachable_pub, reason = "the modules of a test program have no public face")]

mod support;

use keylane::{Config, HandlerError, Jitter, Retry, memory::MemoryBroker};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use support::{eventually, numbered, quiet_planted_panics};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

const SOON: Duration = Duration::from_secs(60);

/// How often it was asked, by what for.
static EVENTS: AtomicU64 = AtomicU64::new(0);
static ENTERS: AtomicU64 = AtomicU64::new(0);
static EXITS: AtomicU64 = AtomicU64::new(0);

struct Hostile;

impl Subscriber for Hostile {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {
        EVENTS.fetch_add(1, Ordering::Relaxed);
        panic!("planted: a reader of the log at an event");
    }
    fn enter(&self, _: &Id) {
        let before = ENTERS.fetch_add(1, Ordering::Relaxed);
        // Every other time: of a span that was never entered nobody asks for its exit.
        assert!(before.is_multiple_of(2), "planted: a reader of the log at an enter");
    }
    fn exit(&self, _: &Id) {
        EXITS.fetch_add(1, Ordering::Relaxed);
        panic!("planted: a reader of the log at an exit");
    }
    fn try_close(&self, _: Id) -> bool {
        panic!("planted: a reader of the log at the end of a span");
    }
}

#[test]
fn a_reader_of_the_log_that_panics_changes_nothing_of_what_is_handled() {
    quiet_planted_panics();
    tracing::subscriber::set_global_default(Hostile).unwrap();
    let broker = MemoryBroker::builder().topic_with("orders", 1).build();
    let bus = broker.connect(Config::default()).unwrap();
    let soon = Retry::exponential(Duration::from_millis(1)..Duration::from_millis(1)).jitter(Jitter::None);
    // Two of each five records fail at first, one by an error and one by a panic, which leaves the span in an unwind.
    let fate = |offset: u64, attempt: u32| -> Result<(), HandlerError> {
        match (offset % 5, attempt) {
            (0, 1) => panic!("planted: a handler"),
            (1, 1) => Err("planted".into()),
            _ => Ok(()),
        }
    };
    let blocking = bus.subscribe_envelopes("orders").group("blocking").workers(2).retry(soon);
    let blocking = blocking.handle(move |event| fate(event.offset(), event.attempt())).unwrap();
    let futures = bus.subscribe_envelopes("orders").group("futures").workers(2).retry(soon);
    let futures = futures
        .handle_async(move |event| async move {
            smol::future::yield_now().await;
            fate(event.offset(), event.attempt())
        })
        .unwrap();
    for n in 0..100 {
        bus.publish("orders", numbered(&format!("key-{}", n % 7), n)).wait().unwrap();
    }
    for subscription in [&blocking, &futures] {
        eventually("all are over", || subscription.stats().succeeded == 100).unwrap();
        let stats = subscription.stats();
        let counted = (stats.consumed, stats.failed, stats.panicked, stats.retried);
        assert_eq!(counted, (100, 40, 20, 40), "each was handled once: {stats:?}");
    }
    let report = futures.drain(SOON).wait_timeout(SOON).unwrap();
    assert!(report.unsettled.is_empty() && report.still_running.is_empty(), "{report:?}");
    let report = bus.close(SOON).wait_timeout(SOON).unwrap();
    assert!(report.subscriptions.iter().all(|report| report.unsettled.is_empty()), "{report:?}");
    for (what, count) in [("events", &EVENTS), ("enters", &ENTERS), ("exits", &EXITS)] {
        assert!(count.load(Ordering::Relaxed) > 50, "it was asked for {what}");
    }
}
