//! What an idle process costs, in CPU time of the process itself; and that memory follows what waits, not the keys
//! that were seen. One test after the other: each looks at the whole process.

#![allow(unreachable_pub, reason = "the modules of a test program have no public face")]

mod support;

use keylane::memory::MemoryBroker;
use keylane::pool::{Handler, Idle, Key, Outcome, PoolBuilder, Request};
use keylane::{Clock, Config, Jitter, Retry, Then};
use std::sync::{Mutex, MutexGuard, mpsc};
use std::time::{Duration, Instant};
use support::{
    Gate, cpu_time, eventually, least_cpu_share, numbered, quiet_planted_panics, share_of, wanted_cpu_time,
};

fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// How long each look at the process lasts.
const LOOK: Duration = Duration::from_secs(2);

fn assert_less(limit: f64, what: &str) {
    let share = least_cpu_share(LOOK, limit);
    assert!(share < limit, "{what} takes {:.2} % of a core", share * 100.0);
}

/// 0 %, rounded as every tool that shows it does: 2 ms of 2 s would be 0.1 %.
fn assert_idle(what: &str) {
    assert_less(0.002, what);
}

#[test]
fn pools_with_nothing_to_do_take_no_cpu() {
    let _alone = alone();
    let policies = [Idle::Park, Idle::Adaptive, Idle::Spin(Duration::from_micros(50))];
    // By a clock that is moved by hand no time goes by while a worker looks again.
    let pools = [Clock::system(), Clock::manual().0].map(|clock| {
        policies.map(|idle| {
            let pool =
                PoolBuilder::new().workers(4).idle(idle).clock(clock.clone()).shared(|n: u64| n).unwrap();
            for n in 0..1_000 {
                pool.send(Key::of_number(n), Request::tell(n)).wait().unwrap();
            }
            pool
        })
    });
    assert_idle("six pools of four workers");
    drop(pools);
}

/// Waits for its time for ever.
struct Waits;

impl Handler for Waits {
    type Job = u64;
    type Future = std::future::Ready<()>;

    fn handle(&mut self, _: &mut u64, now: Instant) -> Outcome<Self::Future> {
        Outcome::RetryAt(now + Duration::from_secs(600))
    }
    fn resolve(&mut self, _: &mut u64, (): (), _: Instant) -> Outcome<Self::Future> {
        Outcome::Done
    }
    fn panicked(&mut self, _: &mut u64, _: String, _: Instant) -> Outcome<Self::Future> {
        Outcome::Done
    }
    fn expired(&mut self, _: &mut u64, _: Instant) -> Outcome<Self::Future> {
        Outcome::Done
    }
}

#[test]
fn a_pool_whose_thousand_keys_wait_for_their_time_takes_no_cpu() {
    let _alone = alone();
    let pool = PoolBuilder::new().workers(4).start(|_| Waits).unwrap();
    for n in 0..1_000 {
        pool.send(Key::of_number(n), n).wait().unwrap();
    }
    assert_idle("a pool of a thousand waiting keys");
    assert_eq!(pool.depths().sum::<u64>(), 1_000, "they wait");
    pool.drain(Duration::ZERO).wait();
}

#[test]
fn a_pool_that_is_told_to_spin_spins() {
    let _alone = alone();
    let pool = PoolBuilder::new().workers(1).idle(Idle::Spin(Duration::from_secs(60))).shared(|n: u64| n);
    let pool = pool.unwrap();
    assert_eq!(pool.submit(Key::of("a"), 1).wait().unwrap().wait(), Ok(1));
    let share = share_of(wanted_cpu_time, LOOK);
    assert!(share > 0.1, "a worker that should look all the time wants {:.2} % of a core", share * 100.0);
    drop(pool);
}

#[test]
fn a_bus_with_nothing_to_do_takes_no_cpu() {
    let _alone = alone();
    let bus = keylane::connect("memory:?topics=orders").wait().unwrap();
    let orders = bus.subscribe_envelopes("orders").group("idle").workers(4).handle(|_| Ok(())).unwrap();
    for n in 0..1_000 {
        bus.publish("orders", numbered(&format!("key-{n}"), n)).wait().unwrap();
    }
    eventually("all were handled", || orders.stats().succeeded == 1_000).unwrap();
    assert_idle("a bus");
}

#[test]
fn a_thousand_keys_that_wait_for_their_time_take_no_cpu() {
    let _alone = alone();
    let bus = keylane::connect("memory:?topics=orders").wait().unwrap();
    let slowly = Retry::exponential(Duration::from_secs(600)..Duration::from_secs(601)).jitter(Jitter::None);
    let builder = bus.subscribe_envelopes("orders").group("idle").workers(4).retry(slowly);
    let orders = builder.handle(|_| Err("planted".into())).unwrap();
    for n in 0..1_000 {
        bus.publish("orders", numbered(&format!("key-{n}"), n)).wait().unwrap();
    }
    eventually("all wait", || orders.stats().waiting_keys == 1_000).unwrap();
    // Each second the subscription looks at its keys, to say what lasts: a millisecond or two.
    assert_less(0.01, "a bus of a thousand waiting keys");
}

#[test]
fn a_position_that_an_unreachable_broker_does_not_take_costs_no_cpu() {
    let _alone = alone();
    let broker = MemoryBroker::builder().topic_with("orders", 1).build();
    let bus = broker.connect(Config::default()).unwrap();
    let gate = Gate::default();
    let at = gate.clone();
    let handler = move |_: &keylane::Event| {
        at.pass();
        Ok(())
    };
    let orders = bus.subscribe_envelopes("orders").group("idle").workers(1).handle(handler).unwrap();
    bus.publish("orders", numbered("a", 0)).wait().unwrap();
    eventually("it runs", || orders.stats().in_flight == 1).unwrap();
    broker.faults().pause_deliveries(true);
    eventually("it is noticed", || !orders.health().is_healthy()).unwrap();
    gate.open();
    // It asks again ten times a second.
    assert_less(0.02, "a bus with an unreachable broker");
}

#[test]
fn a_drain_after_an_error_of_the_broker_costs_no_cpu() {
    let _alone = alone();
    let broker = MemoryBroker::builder().topic_with("orders", 1).build();
    let bus = broker.connect(Config::default()).unwrap();
    let (go_on, blocked) = mpsc::channel::<()>();
    let blocked = Mutex::new(blocked);
    let handler = move |_: &keylane::Event| {
        let _ = blocked.lock().unwrap().recv();
        Ok(())
    };
    let orders = bus.subscribe_envelopes("orders").group("idle").workers(1).handle(handler).unwrap();
    bus.publish("orders", numbered("a", 0)).wait().unwrap();
    eventually("it runs", || orders.stats().in_flight == 1).unwrap();
    broker.faults().pause_deliveries(true);
    eventually("it is noticed", || !orders.health().is_healthy()).unwrap();
    let drain = orders.drain(Duration::from_secs(60));
    assert_less(0.02, "a drain that waits");
    drop(go_on);
    broker.faults().pause_deliveries(false);
    drain.wait();
}

#[test]
fn a_close_that_waits_for_an_answer_costs_no_cpu() {
    let _alone = alone();
    let broker = MemoryBroker::builder().topic_with("orders", 1).build();
    let bus = broker.connect(Config::default()).unwrap();
    broker.faults().pause_deliveries(true);
    let unanswered = bus.publish("orders", numbered("a", 0));
    let close = bus.close(Duration::from_secs(60));
    assert_less(0.02, "a close in an outage");
    broker.faults().pause_deliveries(false);
    assert_eq!(close.wait().unacknowledged, 0);
    unanswered.wait().unwrap();
}

#[test]
fn a_record_that_is_due_while_its_subscription_is_paused_costs_no_cpu() {
    let _alone = alone();
    quiet_planted_panics();
    let bus = keylane::connect("memory:?topics=orders").wait().unwrap();
    let builder = bus.subscribe_envelopes("orders").group("idle").workers(1).retry(Retry::none());
    let given_back = builder.then(Then::Redeliver { delay: Duration::from_millis(200) });
    let orders = given_back.handle(|_| Err("planted".into())).unwrap();
    bus.publish("orders", numbered("a", 0)).wait().unwrap();
    eventually("it was given back", || orders.stats().redelivered == 1).unwrap();
    orders.pause();
    assert_idle("a paused subscription");
    let before = orders.stats().redelivered;
    orders.resume();
    eventually("it goes on", || orders.stats().redelivered > before).unwrap();
}

#[test]
fn the_measure_finds_a_thread_that_spins() {
    let _alone = alone();
    let end = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let ends = end.clone();
    let spins = std::thread::spawn(move || {
        while !ends.load(std::sync::atomic::Ordering::Relaxed) {
            std::thread::sleep(Duration::from_micros(100));
        }
    });
    // Where others want the cores too it wakes less often.
    let shares: Vec<f64> = (0..3).map(|_| share_of(cpu_time, LOOK)).collect();
    end.store(true, std::sync::atomic::Ordering::Relaxed);
    spins.join().unwrap();
    let is_found = shares.iter().any(|share| *share > 0.002);
    assert!(is_found, "a thread that wakes 6,000 times a second was measured at {shares:.4?} of a core");
}
