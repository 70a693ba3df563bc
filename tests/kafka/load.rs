//! What it costs when nothing happens, and when nothing fits any more.

use crate::cluster::{connect_to, fresh, shared};
use crate::support::{Gate, eventually, least_cpu_share, number, numbered, threads_named, within};
use keylane::{Config, Record};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A member that takes nothing for longer than its poll interval stays a member, hears of a rebalance, and goes on where
/// it stopped.
#[test]
fn a_member_without_room_stays_a_member() {
    let tune = |config: &mut Config| {
        for (name, value) in [
            ("max.poll.interval.ms", "7000"),
            ("session.timeout.ms", "6000"),
            ("heartbeat.interval.ms", "300"),
        ] {
            config.kafka.properties.0.insert(name.to_owned(), value.to_owned());
        }
        config.subscription.in_flight_records = 4;
        config.subscription.drain_timeout = Duration::from_millis(500);
    };
    let bus = connect_to(shared().port, 2, tune);
    let topic = fresh("full");
    bus.create_topic(&topic).wait().unwrap();
    let receipts: Vec<_> = (0..400).map(|n| bus.publish(&topic, numbered(&format!("key-{n}"), n))).collect();
    receipts.into_iter().for_each(|receipt| drop(receipt.wait().unwrap()));
    let (gate, starts) = (Gate::default(), Arc::new(AtomicU64::new(0)));
    let (door, count) = (gate.clone(), starts.clone());
    let orders = bus
        .subscribe_envelopes(&topic)
        .group(&topic)
        .handle_async(move |event| {
            let (door, count) = (door.clone(), count.clone());
            async move {
                count.fetch_add(1, Ordering::Relaxed);
                let _ = number(&event);
                while !door.is_open() {
                    smol::Timer::after(Duration::from_millis(5)).await;
                }
                Ok(())
            }
        })
        .unwrap();
    eventually("the window is full", || starts.load(Ordering::Relaxed) == 4).unwrap();
    // Beyond the interval within which the group wants to hear from it.
    let until = Instant::now() + Duration::from_secs(9);
    while Instant::now() < until {
        assert_eq!(
            starts.load(Ordering::Relaxed),
            4,
            "it was given more, or given it again after it was thrown out"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    gate.open();
    within(Duration::from_secs(30), "the rest is handled", || orders.stats().succeeded == 400).unwrap();
    assert_eq!(starts.load(Ordering::Relaxed), 400, "each once");
}

/// Runs in a process of its own: other tests' work would count too.
#[test]
fn a_bus_with_nothing_to_do_takes_next_to_no_cpu() {
    const ALONE: &str = "KEYLANE_TEST_ALONE";
    let name = "load::a_bus_with_nothing_to_do_takes_next_to_no_cpu";
    let Ok(port) = std::env::var(ALONE) else {
        let program = std::env::current_exe().expect("this program");
        let run = std::process::Command::new(program)
            .args(["--exact", name, "--nocapture"])
            .env(ALONE, shared().port.to_string())
            .output()
            .expect("it runs again");
        let said = String::from_utf8_lossy(&run.stdout) + String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success(), "{said}");
        return;
    };
    let bus = connect_to(port.parse().expect("a port"), 3, |_| {});
    let topic = format!("idle-{}", std::process::id());
    let orders = bus.subscribe(&topic).group(&topic).handle(|_| Ok(())).unwrap();
    bus.publish(&topic, Record::new("x")).wait().unwrap();
    eventually("it is handled", || orders.stats().succeeded == 1).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let share = least_cpu_share(Duration::from_secs(4), 0.01);
    println!("{:.2} % of a core", share * 100.0);
    // librdkafka's own threads, eight of them, wake a few times a second.
    assert!(share < 0.01, "{:.2} % of a core", share * 100.0);
    bus.close(Duration::from_secs(60)).wait();
    for name in ["keylane-kafka", "rdk:"] {
        let left = || threads_named(name);
        within(Duration::from_secs(60), "no thread is left", || left().is_empty())
            .unwrap_or_else(|error| panic!("{error}: {:?}", left()));
    }
}
