//! Closing at the worst moments. The tests run one after the other: each counts the threads of the whole process.

#![allow(unreachable_pub, reason = "the modules of a test program have no public face")]

mod support;

use keylane::pool::{Key, PoolBuilder};
use keylane::{Bus, CloseReport, Config, Jitter, PublishError, Retry, Status, Subscription};
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};
use support::{Gate, eventually, numbered, quiet_planted_panics, threads_named, within};

const LIMIT: Duration = Duration::from_secs(30);

fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    quiet_planted_panics();
    let alone = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    assert_no_thread_is_left();
    alone
}

fn assert_no_thread_is_left() {
    // A thread that was joined may be listed for a moment.
    let gone = within(LIMIT, "no thread is left", || threads_named("keylane-").is_empty());
    assert!(gone.is_ok(), "threads are left: {:?}", threads_named("keylane-"));
}

fn bus() -> Bus {
    keylane::connect("memory:?topics=orders").wait().unwrap()
}

fn subscribe(
    bus: &Bus,
    handler: impl Fn(&keylane::Event) -> Result<(), keylane::HandlerError> + Send + Sync + 'static,
) -> Subscription {
    let slowly = Retry::exponential(Duration::from_secs(60)..Duration::from_secs(61)).jitter(Jitter::None);
    let builder = bus.subscribe_envelopes("orders").group("s").workers(2).retry(slowly);
    let subscription = builder.handle(handler).unwrap();
    subscription.ready().wait().unwrap();
    subscription
}

#[test]
fn close_while_publishing() {
    let _alone = alone();
    let bus = bus();
    let subscription = subscribe(&bus, |_| Ok(()));
    let (stored, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for producer in 0..3 {
            let (bus, stored, refused) = (&bus, &stored, &refused);
            scope.spawn(move || {
                for n in 0.. {
                    match bus.publish("orders", numbered(&format!("key-{producer}"), n)).wait() {
                        Ok(_) => stored.fetch_add(1, Ordering::Relaxed),
                        Err(error) => {
                            assert_eq!(error, PublishError::Closed);
                            refused.fetch_add(1, Ordering::Relaxed);
                            break;
                        }
                    };
                }
            });
        }
        eventually("some were published", || stored.load(Ordering::Relaxed) > 100).unwrap();
        let report = bus.close(LIMIT).wait();
        assert_eq!(report.unacknowledged, 0);
    });
    assert_eq!(refused.load(Ordering::Relaxed), 3, "each producer learns of the end");
    assert!(subscription.stats().succeeded <= stored.load(Ordering::Relaxed) + 3);
    assert_no_thread_is_left();
}

#[test]
fn close_while_publishes_wait_for_room_and_for_the_broker() {
    let _alone = alone();
    let broker = keylane::memory::MemoryBroker::builder().topic("orders").build();
    let mut config = Config::default();
    config.publisher.records = 2;
    let bus = broker.connect(config).unwrap();
    broker.faults().pause_deliveries(true);
    let waiting: Vec<_> = (0..5).map(|n| bus.publish("orders", numbered("a", n))).collect();
    let since = Instant::now();
    let report = bus.close(Duration::from_millis(100)).wait();
    assert!(since.elapsed() < LIMIT, "it took {:?}", since.elapsed());
    assert_eq!(report.unacknowledged, 5);
    assert!(waiting.into_iter().all(|publish| publish.wait() == Err(PublishError::Closed)));
    assert_no_thread_is_left();
}

#[test]
fn close_while_a_key_waits_for_its_retry() {
    let _alone = alone();
    let bus = bus();
    let subscription = subscribe(&bus, |_| Err("planted".into()));
    bus.publish("orders", numbered("a", 0)).wait().unwrap();
    eventually("the key waits", || subscription.stats().waiting_keys == 1).unwrap();
    // The retry is due in a minute, and the limit ends after it.
    let since = Instant::now();
    let report = bus.close(4 * LIMIT).wait();
    assert!(since.elapsed() < LIMIT, "it waited for the retry: {:?}", since.elapsed());
    assert_eq!(report.subscriptions[0].unsettled.len(), 1);
    assert_no_thread_is_left();
}

#[test]
fn close_from_inside_a_handler() {
    let _alone = alone();
    let bus = bus();
    let inner = bus.clone();
    let closing = Arc::new(OnceLock::new());
    let set = closing.clone();
    let subscription = subscribe(&bus, move |_| {
        drop(set.set(Mutex::new(Some(inner.close(LIMIT)))));
        Ok(())
    });
    bus.publish("orders", numbered("a", 0)).wait().unwrap();
    eventually("the handler closed the bus", || closing.get().is_some()).unwrap();
    let op = closing.get().unwrap().lock().unwrap().take().unwrap();
    let report: CloseReport = op.wait();
    assert!(report.subscriptions[0].unsettled.is_empty(), "the handler had ended: {report:?}");
    assert_eq!(subscription.stats().succeeded, 1);
    assert_no_thread_is_left();
}

#[test]
fn a_handler_that_waits_for_the_close_that_waits_for_it_is_left_behind() {
    let _alone = alone();
    let bus = bus();
    let inner = bus.clone();
    let through = Gate::default();
    let passed = through.clone();
    let _subscription = subscribe(&bus, move |_| {
        let report = inner.close(Duration::from_millis(100)).wait();
        assert_eq!(report.subscriptions[0].still_running.len(), 1);
        passed.open();
        Ok(())
    });
    bus.publish("orders", numbered("a", 0)).wait().unwrap();
    eventually("the handler went on", || through.is_open()).unwrap();
    assert_no_thread_is_left();
}

#[test]
fn close_twice() {
    let _alone = alone();
    let bus = bus();
    let _subscription = subscribe(&bus, |_| Ok(()));
    let (first, second) = (bus.close(LIMIT), bus.close(LIMIT));
    first.wait();
    second.wait();
    bus.close(LIMIT).wait();
    assert_no_thread_is_left();
}

#[test]
fn close_with_a_waker_that_panics() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("planted: a waker");
        }
    }
    let _alone = alone();
    let bus = bus();
    let (gate, started) = (Gate::default(), Gate::default());
    let (at, starts) = (gate.clone(), started.clone());
    let subscription = subscribe(&bus, move |_| {
        starts.open();
        at.pass();
        Ok(())
    });
    let waker = Waker::from(Arc::new(Panics));
    let mut cx = Context::from_waker(&waker);
    bus.publish("orders", numbered("a", 0)).wait().unwrap();
    eventually("the handler runs", || started.is_open()).unwrap();
    {
        let (mut drain, mut close) = (pin!(subscription.drain(LIMIT)), pin!(bus.close(LIMIT)));
        assert!(drain.as_mut().poll(&mut cx).is_pending());
        assert!(close.as_mut().poll(&mut cx).is_pending());
        gate.open();
        eventually("both ended", || drain.is_done() && close.is_done()).unwrap();
    }
    assert_eq!(subscription.stats().succeeded, 1);
    assert_no_thread_is_left();
}

#[test]
fn subscriptions_that_are_dropped_leave_no_thread() {
    let _alone = alone();
    let bus = bus();
    for _ in 0..5 {
        let subscription = subscribe(&bus, |_| Ok(()));
        bus.publish("orders", numbered("a", 0)).wait().unwrap();
        drop(subscription);
    }
    assert_no_thread_is_left();
}

#[test]
fn pools_leave_no_thread_closed_drained_or_dropped() {
    let _alone = alone();
    for end in 0..3 {
        let pool = PoolBuilder::new().workers(3).shared(|n: u64| n).unwrap();
        pool.submit(Key::of("a"), 1).wait().unwrap().wait().unwrap();
        match end {
            0 => pool.close().wait(),
            1 => pool.drain(LIMIT).wait(),
            _ => drop(pool),
        }
        assert_no_thread_is_left();
    }
}

#[test]
fn a_close_without_a_limit_waits_for_what_runs() {
    let _alone = alone();
    let bus = bus();
    let started = Gate::default();
    let starts = started.clone();
    let _subscription = subscribe(&bus, move |_| {
        starts.open();
        std::thread::sleep(Duration::from_millis(20));
        Ok(())
    });
    bus.publish("orders", numbered("a", 0)).wait().unwrap();
    eventually("it runs", || started.is_open()).unwrap();
    let report = bus.close(Duration::MAX).wait();
    assert!(report.subscriptions[0].unsettled.is_empty(), "{report:?}");
    assert_no_thread_is_left();
}

#[test]
fn close_waits_for_the_handlers_of_a_subscription_that_was_dropped() {
    let _alone = alone();
    let bus = bus();
    let (started, ended) = (Gate::default(), Gate::default());
    let (starts, ends) = (started.clone(), ended.clone());
    let subscription = subscribe(&bus, move |_| {
        starts.open();
        std::thread::sleep(Duration::from_millis(40));
        ends.open();
        Ok(())
    });
    bus.publish("orders", numbered("a", 0)).wait().unwrap();
    eventually("the handler runs", || started.is_open()).unwrap();
    drop(subscription);
    let report = bus.close(LIMIT).wait();
    let is_left_behind = report.subscriptions.iter().any(|ended| ended.still_running.len() == 1);
    assert!(ended.is_open() || is_left_behind, "a handler runs after the close, which says {report:?}");
    eventually("the handler ended", || ended.is_open()).unwrap();
    assert_no_thread_is_left();
}

#[test]
fn a_drain_of_an_at_most_once_subscription_handles_what_it_has_settled() {
    let _alone = alone();
    let broker = keylane::memory::MemoryBroker::builder().topic_with("orders", 1).build();
    let bus = broker.connect(Config::default()).unwrap();
    for is_async in [false, true] {
        let group = if is_async { "async" } else { "blocking" };
        let builder = bus.subscribe("orders").group(group).workers(1).at_most_once();
        let gate = Gate::default();
        let at = gate.clone();
        let subscription = if is_async {
            builder.handle_async(move |_| {
                let at = at.clone();
                async move {
                    at.passed().await;
                    Ok(())
                }
            })
        } else {
            builder.handle(move |_| {
                at.pass();
                Ok(())
            })
        };
        let subscription = subscription.unwrap();
        for n in 0..10 {
            bus.publish("orders", numbered("a", n)).wait().unwrap();
        }
        let settled = || broker.watermarks(group, "orders").unwrap().unwrap()[0];
        eventually("all were settled first", || settled() >= 10).unwrap();
        let drain = subscription.drain(LIMIT);
        eventually("it drains", || subscription.health().status == Status::Draining).unwrap();
        gate.open();
        let report = drain.wait();
        assert_eq!(subscription.stats().succeeded, settled(), "settled and not handled: {report:?}");
        assert!(report.unsettled.is_empty(), "{report:?}");
    }
}

#[test]
fn a_drain_of_an_at_most_once_subscription_settles_nothing_that_it_did_not_hand_over() {
    let _alone = alone();
    let broker = keylane::memory::MemoryBroker::builder().topic_with("orders", 1).build();
    let bus = broker.connect(Config::default()).unwrap();
    let builder = bus.subscribe("orders").group("g").workers(1).at_most_once();
    let subscription = builder.handle(|_| Ok(())).unwrap();
    subscription.ready().wait().unwrap();
    broker.faults().fail_next_settles(usize::MAX);
    bus.publish("orders", numbered("a", 0)).wait().unwrap();
    eventually("the settle failed", || !subscription.health().problems.is_empty()).unwrap();
    let drain = subscription.drain(LIMIT);
    // What is settled from here on would be kept.
    eventually("it drains", || subscription.health().status != Status::Running).unwrap();
    broker.faults().clear();
    let report = drain.wait();
    let settled = broker.watermarks("g", "orders").unwrap().unwrap()[0];
    assert_eq!(settled, subscription.stats().succeeded, "settled and not handled: {report:?}");
    assert_eq!(report.unsettled.len() as u64, 1 - settled, "{report:?}");
}

#[test]
fn a_handler_that_hangs_on_the_delivering_thread_keeps_no_close_waiting() {
    let _alone = alone();
    let bus = bus();
    let (gate, started) = (Gate::default(), Gate::default());
    let (at, starts) = (gate.clone(), started.clone());
    let builder = bus.subscribe_envelopes("orders").group("s").workers(0);
    let handler = move |_: &keylane::Event| {
        starts.open();
        at.pass();
        Ok(())
    };
    let subscription = builder.handle(handler).unwrap();
    bus.publish("orders", numbered("a", 0)).wait().unwrap();
    eventually("the handler runs", || started.is_open()).unwrap();
    let short = Duration::from_millis(50);
    let drained = subscription.drain(short).wait_timeout(LIMIT);
    let closed = bus.close(short).wait_timeout(LIMIT);
    gate.open();
    assert_eq!(drained.unwrap().still_running.len(), 1);
    assert_eq!(closed.unwrap().subscriptions[0].still_running.len(), 1);
    eventually("it ended when the handler had", || subscription.health().status == Status::Closed).unwrap();
    assert_no_thread_is_left();
}
