//! Waiting without spinning, on the memory bus: `caught_up`, `until`, `settled`.

#![allow(unreachable_pub, reason = "the modules of a test program have no public face")]

mod support;

use keylane::memory::MemoryBroker;
use keylane::{
    Bus, Clock, Config, Envelope, HandlerError, Jitter, ManualClock, Record, Retry, Status, Subscription,
    Then, WaitError,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use support::{Gate, eventually, numbered, pause_once, quiet_planted_panics};

const SOON: Duration = Duration::from_secs(30);
/// Long enough for what must not come to come if it would.
const A_WHILE: Duration = Duration::from_millis(50);
const HOUR: Duration = Duration::from_secs(3_600);

type Tested = Result<(), Box<dyn std::error::Error>>;

fn broker(partitions: u32) -> MemoryBroker {
    MemoryBroker::builder().partitions(partitions).topic("orders").topic("dead").topic("next").build()
}

/// A broker whose time stands still, so that nothing is found by looking again after a while.
fn still_broker(partitions: u32) -> (MemoryBroker, ManualClock) {
    let (clock, time) = Clock::manual();
    let builder = MemoryBroker::builder().partitions(partitions).clock(clock);
    (builder.topic("orders").topic("dead").topic("next").build(), time)
}

fn connect(broker: &MemoryBroker) -> Bus {
    broker.connect(Config::default()).expect("the default is valid")
}

fn soon<T: std::fmt::Debug>(op: keylane::Op<T>) -> T {
    op.wait_timeout(SOON).unwrap_or_else(|_| panic!("it did not come within {SOON:?}"))
}

/// A subscription whose handler stops at the gate.
fn gated(bus: &Bus, gate: &Gate) -> Subscription {
    let at = gate.clone();
    let handler = move |_: &keylane::Event| {
        at.pass();
        Ok(())
    };
    bus.subscribe("orders").group("billing").workers(1).handle(handler).expect("it starts")
}

#[test]
fn caught_up_is_over_when_what_was_stored_at_the_call_is_over() -> Tested {
    let bus = connect(&broker(1));
    bus.publish("orders", Record::new("1")).wait()?;
    let (first, second) = (Gate::default(), Gate::default());
    let at = (first.clone(), second.clone());
    let orders = bus.subscribe("orders").group("billing").workers(1).handle(move |event| {
        if event.offset() == 0 {
            at.0.pass();
        } else {
            at.1.pass();
        }
        Ok(())
    })?;
    eventually("it runs", || orders.stats().in_flight == 1)?;
    let caught_up = orders.caught_up();
    let caught_up = caught_up.wait_timeout(A_WHILE).expect_err("its record has not ended");
    bus.publish("orders", Record::new("2")).wait()?;
    // Of the time before the second record, or it would wait for that, too.
    eventually("the second is taken", || orders.stats().consumed == 2)?;
    first.open();
    soon(caught_up)?;
    assert_eq!(orders.stats().in_flight, 1, "the second runs on");
    second.open();
    soon(orders.caught_up())?;
    assert_eq!(orders.stats().succeeded, 2);
    Ok(())
}

#[test]
fn an_empty_topic_is_caught_up_with_at_once() -> Tested {
    let bus = connect(&broker(4));
    let orders = bus.subscribe("orders").topic("next").group("billing").handle(|_| Ok(()))?;
    soon(orders.caught_up())?;
    Ok(())
}

#[test]
fn a_held_record_is_not_caught_up_with_until_somebody_decides() -> Tested {
    let (broker, _time) = still_broker(1);
    let bus = connect(&broker);
    let builder = bus.subscribe_envelopes("orders").group("billing").retry(Retry::none()).then(Then::Hold);
    let orders = builder.handle(|_| Err("planted".into()))?;
    bus.publish("orders", numbered("a", 1)).wait()?;
    let caught_up = orders.caught_up();
    soon(orders.until(|stats| stats.waiting_keys == 1))?;
    let caught_up = caught_up.wait_timeout(A_WHILE).expect_err("the record is held");
    assert!(orders.skip_held(&orders.held()[0]).wait());
    soon(caught_up)?;
    assert_eq!(orders.stats().discarded, 1);
    Ok(())
}

#[test]
fn what_other_members_have_counts_too() -> Tested {
    for workers in [0, 2] {
        // The time stands still: the other member's commit has to tell.
        let (broker, _time) = still_broker(2);
        let (here, there) = (connect(&broker), connect(&broker));
        let gate = Gate::default();
        let mine = here.subscribe("orders").group("billing").workers(workers).handle(|_| Ok(()))?;
        let theirs = gated(&there, &gate);
        soon(here.settled())?;
        for n in ["1", "2"] {
            here.publish("orders", Record::new(n)).wait()?;
        }
        soon(mine.until(|stats| stats.succeeded == 1))?;
        let caught_up = mine.caught_up().wait_timeout(A_WHILE).expect_err("the other's has not ended");
        assert_eq!(theirs.stats().consumed, 1, "each has one of the two partitions");
        gate.open();
        soon(caught_up)?;
        assert_eq!(theirs.stats().succeeded, 1);
    }
    Ok(())
}

#[test]
fn partitions_that_move_are_waited_for_where_they_go() -> Tested {
    let (broker, _time) = still_broker(2);
    let (here, there) = (connect(&broker), connect(&broker));
    let gate = Gate::default();
    for n in ["1", "2"] {
        here.publish("orders", Record::new(n)).wait()?;
    }
    let mine = gated(&here, &gate);
    soon(mine.until(|stats| stats.in_flight == 2))?;
    let caught_up = mine.caught_up().wait_timeout(A_WHILE).expect_err("its handler runs");
    // All of it is taken from the first, which is busy, and goes to the second.
    let theirs = there.subscribe("orders").group("billing").handle(|_| Ok(()))?;
    theirs.ready().wait()?;
    assert!(broker.expel("billing", 0));
    soon(theirs.until(|stats| stats.succeeded >= 1))?;
    gate.open();
    soon(caught_up)?;
    let settled: u64 = broker.watermarks("billing", "orders")?.expect("it subscribed").iter().sum();
    assert_eq!(settled, 2);
    Ok(())
}

#[test]
fn a_broker_that_is_away_is_asked_again() -> Tested {
    let (broker, time) = still_broker(2);
    let bus = connect(&broker);
    let orders = bus.subscribe("orders").group("billing").handle(|_| Ok(()))?;
    soon(orders.caught_up())?;
    broker.append("orders", Record::new("1"))?;
    broker.faults().pause_deliveries(true);
    let caught_up = orders.caught_up().wait_timeout(A_WHILE).expect_err("nothing is known of the broker");
    broker.faults().pause_deliveries(false);
    // It fetches again after a while.
    time.advance(HOUR);
    soon(caught_up)?;
    assert_eq!(orders.stats().succeeded, 1);
    broker.close();
    assert_eq!(soon(orders.caught_up()), Err(WaitError::Broker(keylane::BrokerError::Closed)));
    Ok(())
}

#[test]
fn a_paused_subscription_says_so_unless_all_was_taken_before() -> Tested {
    let bus = connect(&broker(1));
    let gate = Gate::default();
    let orders = gated(&bus, &gate);
    bus.publish("orders", Record::new("1")).wait()?;
    soon(orders.until(|stats| stats.consumed == 1))?;
    orders.pause();
    let caught_up = orders.caught_up().wait_timeout(A_WHILE).expect_err("what was taken still runs");
    gate.open();
    soon(caught_up)?;
    bus.publish("orders", Record::new("2")).wait()?;
    assert_eq!(soon(orders.caught_up()), Err(WaitError::Paused));
    orders.resume();
    soon(orders.caught_up())?;
    assert_eq!(orders.stats().succeeded, 2);
    Ok(())
}

#[test]
fn who_resumes_and_then_waits_is_not_told_of_the_pause() -> Tested {
    let bus = connect(&broker(1));
    let orders = bus.subscribe("orders").group("billing").handle(|_| Ok(()))?;
    for n in 1..=300 {
        orders.pause();
        soon(bus.settled())?;
        bus.publish("orders", Record::new("x")).wait()?;
        assert_eq!(soon(orders.caught_up()), Err(WaitError::Paused), "round {n}");
        orders.resume();
        soon(orders.caught_up())?;
        assert_eq!(orders.stats().succeeded, n);
    }
    Ok(())
}

#[test]
fn a_pause_ends_a_wait_that_is_under_way() -> Tested {
    let bus = connect(&broker(1));
    let gate = Gate::default();
    let at = gate.clone();
    let builder = bus.subscribe("orders").group("billing").workers(1).in_flight_records(1);
    let orders = builder.handle(move |_| {
        at.pass();
        Ok(())
    })?;
    for n in ["1", "2"] {
        bus.publish("orders", Record::new(n)).wait()?;
    }
    soon(orders.until(|stats| stats.consumed == 1))?;
    let caught_up = orders.caught_up();
    orders.pause();
    let caught_up = caught_up.wait_timeout(A_WHILE).expect_err("the first still runs");
    gate.open();
    assert_eq!(soon(caught_up), Err(WaitError::Paused));
    Ok(())
}

#[test]
fn at_most_once_is_caught_up_with_when_its_handler_has_ended() -> Tested {
    let broker = broker(1);
    let bus = connect(&broker);
    let gate = Gate::default();
    let at = gate.clone();
    let ticks = bus.subscribe("orders").group("billing").workers(1).at_most_once().handle(move |_| {
        at.pass();
        Ok(())
    })?;
    bus.publish("orders", Record::new("1")).wait()?;
    soon(ticks.until(|stats| stats.consumed == 1))?;
    eventually("it is settled first", || broker.watermarks("billing", "orders") == Ok(Some(vec![1])))?;
    let caught_up = ticks.caught_up().wait_timeout(A_WHILE).expect_err("its handler runs");
    gate.open();
    soon(caught_up)?;
    assert_eq!(ticks.stats().succeeded, 1);
    Ok(())
}

/// Both kinds of waits for what does not come.
fn waits(orders: &Subscription) -> [keylane::Op<Result<(), WaitError>>; 2] {
    [orders.caught_up(), orders.until(|_| false)]
}

#[test]
fn a_subscription_that_ends_answers_who_waits() -> Tested {
    let ways: [fn(Bus, Subscription); 3] = [
        |_, orders| drop(orders.drain(Duration::ZERO).wait()),
        |_, orders| drop(orders),
        |bus, orders| {
            let _ = bus.close(Duration::ZERO).wait();
            drop(orders);
        },
    ];
    for end in ways {
        let bus = connect(&broker(1));
        let builder = bus.subscribe_envelopes("orders").group("billing").then(Then::Hold);
        let orders = builder.handle(|_| Err(HandlerError::terminal("planted")))?;
        bus.publish("orders", numbered("a", 1)).wait()?;
        soon(orders.until(|stats| stats.waiting_keys == 1))?;
        let waits = waits(&orders);
        end(bus, orders);
        for wait in waits {
            assert_eq!(soon(wait), Err(WaitError::Ended));
        }
    }
    Ok(())
}

#[test]
fn a_subscription_that_has_ended_answers_at_once() -> Tested {
    let bus = connect(&broker(1));
    let orders = bus.subscribe("orders").group("billing").handle(|_| Ok(()))?;
    bus.publish("orders", Record::new("1")).wait()?;
    soon(orders.caught_up())?;
    let _ = orders.drain(SOON).wait();
    for wait in waits(&orders) {
        assert!(wait.is_done());
        assert_eq!(wait.wait(), Err(WaitError::Ended));
    }
    assert_eq!(orders.until(|stats| stats.succeeded == 1).wait(), Ok(()), "there is a last look");
    Ok(())
}

#[test]
fn a_subscription_that_halts_says_why() -> Tested {
    let bus = connect(&broker(1));
    let gate = Gate::default();
    let at = gate.clone();
    let builder = bus.subscribe_envelopes("orders").group("billing").then(Then::Halt);
    let orders = builder.handle(move |_| {
        at.pass();
        Err(HandlerError::terminal("planted trouble"))
    })?;
    bus.publish("orders", numbered("a", 1)).wait()?;
    let waits = waits(&orders);
    gate.open();
    for wait in waits {
        let halted = soon(wait);
        assert!(
            matches!(&halted, Err(WaitError::Halted(why)) if why.contains("planted trouble")),
            "{halted:?}"
        );
    }
    assert!(matches!(orders.health().status, Status::Halted(_)));
    Ok(())
}

#[test]
fn a_handler_that_hangs_on_the_delivering_thread_keeps_nobody_waiting_after_a_drain() -> Tested {
    let bus = connect(&broker(1));
    let (gate, started) = (Gate::default(), Gate::default());
    let (at, starts) = (gate.clone(), started.clone());
    let orders = bus.subscribe("orders").group("billing").workers(0).handle(move |_| {
        starts.open();
        at.pass();
        Ok(())
    })?;
    soon(orders.caught_up())?;
    bus.publish("orders", Record::new("1")).wait()?;
    eventually("it hangs", || started.is_open())?;
    // The thread does not get to hear of either.
    let waits = waits(&orders);
    let report = orders.drain(Duration::ZERO).wait();
    assert_eq!(report.still_running.len(), 1);
    for wait in waits {
        assert_eq!(soon(wait), Err(WaitError::Ended));
    }
    gate.open();
    Ok(())
}

#[test]
fn a_condition_is_looked_at_whenever_something_is_counted() -> Tested {
    for workers in [0, 1, 4] {
        let (broker, _time) = still_broker(4);
        let bus = connect(&broker);
        let orders = bus.subscribe("orders").group("billing").workers(workers).handle(|_| Ok(()))?;
        for n in 1..=500 {
            let until = orders.until(move |stats| stats.succeeded == n);
            bus.publish("orders", Record::new("x")).wait()?;
            soon(until)?;
        }
    }
    Ok(())
}

/// A retry counts on the worker alone, and nothing is over.
#[test]
fn a_condition_sees_what_only_a_worker_counts() -> Tested {
    for workers in [0, 2] {
        let (broker, time) = still_broker(1);
        let bus = connect(&broker);
        let hourly = Retry::exponential(HOUR..HOUR).jitter(Jitter::None);
        let builder = bus.subscribe_envelopes("orders").group("billing").workers(workers).retry(hourly);
        let orders = builder.handle(|_| Err("planted".into()))?;
        bus.publish("orders", numbered("a", 1)).wait()?;
        for n in 1..=50 {
            soon(orders.until(move |stats| stats.retried == n && stats.waiting_keys == 1))?;
            let next = orders.until(move |stats| stats.retried > n);
            let next = next.wait_timeout(Duration::from_millis(1)).expect_err("its time has not come");
            time.advance(HOUR);
            soon(next)?;
        }
    }
    Ok(())
}

#[test]
fn a_condition_that_panics_ends_its_wait_and_nothing_else() -> Tested {
    quiet_planted_panics();
    let bus = connect(&broker(1));
    let orders = bus.subscribe("orders").group("billing").handle(|_| Ok(()))?;
    let panics = orders.until(|stats| {
        assert!(stats.succeeded == 0, "planted: a condition");
        false
    });
    let other = orders.until(|stats| stats.succeeded == 2);
    bus.publish("orders", Record::new("1")).wait()?;
    assert_eq!(soon(panics), Err(WaitError::Panicked("planted: a condition".to_owned())));
    bus.publish("orders", Record::new("2")).wait()?;
    soon(other)?;
    let _ = orders.drain(SOON).wait();
    let late = orders.until(|_| panic!("planted: late"));
    assert_eq!(late.wait(), Err(WaitError::Panicked("planted: late".to_owned())));
    Ok(())
}

#[test]
fn what_ends_in_a_drain_is_seen() -> Tested {
    let bus = connect(&broker(1));
    let (gate, started) = (Gate::default(), Gate::default());
    let (at, starts) = (gate.clone(), started.clone());
    let orders = bus.subscribe("orders").group("billing").workers(1).handle(move |_| {
        starts.open();
        at.pass();
        Ok(())
    })?;
    bus.publish("orders", Record::new("1")).wait()?;
    eventually("it runs", || started.is_open())?;
    let until = orders.until(|stats| stats.succeeded == 1);
    let caught_up = orders.caught_up();
    let drained = orders.drain(SOON);
    gate.open();
    soon(until)?;
    soon(caught_up)?;
    drained.wait();
    Ok(())
}

#[test]
fn a_wait_that_nobody_waits_for_is_forgotten() -> Tested {
    struct Told(Arc<AtomicBool>);
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
        }
    }
    let bus = connect(&broker(1));
    let orders = bus.subscribe("orders").group("billing").handle(|_| Ok(()))?;
    let is_dropped = Arc::new(AtomicBool::new(false));
    let told = Told(is_dropped.clone());
    drop(orders.until(move |_| {
        let _keeps = &told;
        false
    }));
    bus.publish("orders", Record::new("1")).wait()?;
    soon(orders.until(|stats| stats.succeeded == 1))?;
    eventually("the condition is dropped", || is_dropped.load(Ordering::Acquire))?;
    Ok(())
}

#[test]
fn a_settled_bus_waits_for_time_alone() -> Tested {
    for workers in [0, 1, 3] {
        let (broker, time) = still_broker(2);
        let bus = connect(&broker);
        let hourly = Retry::exponential(HOUR..HOUR).jitter(Jitter::None);
        let builder = bus.subscribe_envelopes("orders").group("billing").workers(workers).retry(hourly);
        let orders =
            builder.handle(|event| if event.attempt() <= 20 { Err("planted".into()) } else { Ok(()) })?;
        for key in ["a", "b", "c", "d"] {
            bus.publish("orders", numbered(key, 1)).wait()?;
            bus.publish("orders", numbered(key, 2)).wait()?;
        }
        for hour in 1..=20 {
            soon(bus.settled())?;
            assert_eq!((orders.stats().failed, orders.stats().succeeded), (4 * hour, 0));
            time.advance(HOUR);
        }
        soon(bus.settled())?;
        assert_eq!((orders.stats().failed, orders.stats().succeeded), (84, 4), "the second ones have begun");
    }
    Ok(())
}

#[test]
fn a_settled_bus_runs_nothing() -> Tested {
    let bus = connect(&broker(1));
    let gate = Gate::default();
    let orders = gated(&bus, &gate);
    for n in ["1", "2"] {
        bus.publish("orders", Record::new(n)).wait()?;
    }
    soon(orders.until(|stats| stats.in_flight == 2))?;
    let settled = bus.settled().wait_timeout(A_WHILE).expect_err("one runs, and one is queued");
    gate.open();
    soon(settled)?;
    assert_eq!(orders.stats().succeeded, 2);
    Ok(())
}

/// Each handler publishes what the next one handles, over two subscriptions, dead letters and futures: in between no
/// part has anything for a moment.
#[test]
fn what_moves_from_part_to_part_is_not_settled() -> Tested {
    for (round, workers) in (0..60).zip([0, 1, 2].into_iter().cycle()) {
        let (broker, _time) = still_broker(2);
        let bus = connect(&broker);
        let (to_next, done) = (bus.clone(), Arc::new(AtomicU64::new(0)));
        let builder = bus.subscribe_envelopes("orders").group("first").workers(workers);
        let _first = builder.handle_async(move |_| {
            let bus = to_next.clone();
            async move {
                pause_once().await;
                bus.publish("next", numbered("a", 1)).await?;
                Ok(())
            }
        })?;
        let builder = bus.subscribe_envelopes("next").group("second").workers(workers);
        let builder = builder.retry(Retry::none()).then(keylane::DeadLetter::to("dead"));
        let _second = builder.handle(|_| Err("planted".into()))?;
        let (back, counted) = (bus.clone(), done.clone());
        let _third = bus.subscribe("dead").group("third").workers(workers).handle(move |_| {
            if counted.fetch_add(1, Ordering::Relaxed) < 9 {
                back.publish("orders", numbered("a", 1)).wait()?;
            }
            Ok(())
        })?;
        bus.publish("orders", numbered("a", 1)).wait()?;
        soon(bus.settled())?;
        assert_eq!(done.load(Ordering::Relaxed), 10, "round {round} with {workers} workers");
    }
    Ok(())
}

#[test]
fn a_future_that_goes_on_by_itself_is_not_settled() -> Tested {
    for workers in [0, 1] {
        let (broker, _time) = still_broker(1);
        let bus = connect(&broker);
        let orders = bus.subscribe("orders").group("billing").workers(workers).handle_async(|_| async {
            for _ in 0..5_000 {
                pause_once().await;
            }
            Ok(())
        })?;
        bus.publish("orders", Record::new("1")).wait()?;
        soon(bus.settled())?;
        assert_eq!(orders.stats().succeeded, 1);
    }
    Ok(())
}

#[test]
fn what_waits_for_somebody_outside_is_settled() -> Tested {
    let (broker, time) = still_broker(1);
    let bus = connect(&broker);
    let builder = bus.subscribe_envelopes("orders").group("billing").then(Then::Hold);
    let held = builder.handle(|_| Err(HandlerError::terminal("planted")))?;
    let waker = Arc::new(std::sync::Mutex::new(None::<std::task::Waker>));
    let kept = waker.clone();
    let is_open = Gate::default();
    let opened = is_open.clone();
    let future = bus.subscribe("orders").group("shipping").handle_async(move |_| {
        let (kept, is_open) = (kept.clone(), opened.clone());
        std::future::poll_fn(move |cx| {
            *kept.lock().unwrap() = Some(cx.waker().clone());
            if is_open.is_open() { std::task::Poll::Ready(Ok(())) } else { std::task::Poll::Pending }
        })
    })?;
    // At the call, and when it is sent again at once.
    broker.faults().fail_next_publishes("next", 2);
    let publish = bus.publish("next", Record::new("comes later"));
    bus.publish("orders", numbered("a", 1)).wait()?;
    soon(bus.settled())?;
    assert_eq!((held.held().len(), future.stats().waiting_keys, publish.is_done()), (1, 1, false));
    is_open.open();
    waker.lock().unwrap().take().expect("it was polled").wake();
    soon(bus.settled())?;
    assert_eq!((future.stats().succeeded, publish.is_done()), (1, false));
    time.advance(HOUR);
    soon(bus.settled())?;
    assert!(publish.is_done());
    publish.wait()?;
    Ok(())
}

#[test]
fn a_settled_bus_has_passed_partitions_on() -> Tested {
    for _ in 0..20 {
        let (broker, _time) = still_broker(4);
        let bus = connect(&broker);
        let mut members = Vec::new();
        for _ in 0..3 {
            members.push(bus.subscribe("orders").group("billing").workers(1).handle(|_| Ok(()))?);
        }
        drop(members.pop());
        for _ in 0..8 {
            broker.append("orders", Record::new("x"))?;
        }
        soon(bus.settled())?;
        let succeeded: u64 = members.iter().map(|member| member.stats().succeeded).sum();
        let dropped = 8 - succeeded;
        assert_eq!(broker.watermarks("billing", "orders")?, Some(vec![2; 4]), "{dropped} went to the third");
    }
    Ok(())
}

#[test]
fn a_full_topic_is_settled_until_there_is_room() -> Tested {
    let (clock, _time) = Clock::manual();
    let broker = MemoryBroker::builder().topic_with("orders", 1).retention_records(1).clock(clock).build();
    let bus = connect(&broker);
    let builder = bus.subscribe_envelopes("orders").group("billing").then(Then::Hold);
    let orders = builder
        .handle(|event| if event.offset() == 0 { Err(HandlerError::terminal("planted")) } else { Ok(()) })?;
    soon(bus.settled())?;
    bus.publish("orders", numbered("a", 1)).wait()?;
    let second = bus.publish("orders", numbered("a", 2));
    soon(bus.settled())?;
    assert!(!second.is_done(), "nothing makes room");
    assert!(orders.skip_held(&orders.held()[0]).wait());
    soon(bus.settled())?;
    assert!(second.is_done());
    assert_eq!(orders.stats().succeeded, 1);
    Ok(())
}

#[test]
fn a_closed_bus_does_not_settle() -> Tested {
    let bus = connect(&broker(1));
    soon(bus.settled())?;
    let _ = bus.close(SOON).wait();
    assert_eq!(soon(bus.settled()), Err(keylane::BrokerError::Closed));
    Ok(())
}

/// The program of the crate's first page.
#[test]
fn the_first_program_handles_its_event_in_20_of_20_runs() -> Tested {
    for run in 0..20 {
        let bus = keylane::connect("memory:?topics=orders,orders.dead").wait()?;
        let handled = Arc::new(AtomicU64::new(0));
        let count = handled.clone();
        let orders = bus
            .subscribe_envelopes("orders")
            .group("billing")
            .retry(Retry::exponential(Duration::from_millis(100)..Duration::from_secs(30)).attempts(5))
            .then(keylane::DeadLetter::to("orders.dead"))
            .handle(move |_| {
                count.fetch_add(1, Ordering::Relaxed);
                Ok(())
            })?;
        bus.publish("orders", Envelope::new("order-42", "order.paid", 1, r#"{"cents":995}"#)?).wait()?;
        orders.caught_up().wait()?;
        let _ = bus.close(Duration::from_secs(10)).wait();
        assert_eq!(handled.load(Ordering::Relaxed), 1, "run {run}");
    }
    Ok(())
}
