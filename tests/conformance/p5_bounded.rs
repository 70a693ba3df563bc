//! P5: bounded.

use crate::backend::Backend;
use crate::ensure;
use crate::support::{Behaviour, Checked, Gate, Kind, eventually, number, numbered};
use keylane::{Envelope, Envelopes, Problem, Retry, Status, SubscriptionBuilder, Then, TryPublishError};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Publishes records of `padding` bytes under keys of their own to handlers that all wait, and tells how many started.
fn started_at_most(
    backend: &dyn Backend,
    padding: usize,
    tune: impl FnOnce(SubscriptionBuilder<Envelopes>) -> SubscriptionBuilder<Envelopes>,
    most: u64,
) -> Checked {
    const RECORDS: u64 = 60;
    let cluster = backend.cluster(1);
    let bus = cluster.connect(&|_| {});
    let (started, gate) = (Arc::new(AtomicU64::new(0)), Gate::default());
    let (count, at) = (started.clone(), gate.clone());
    let builder = backend.envelopes(tune(
        bus.subscribe_envelopes(cluster.topic("orders")).group(cluster.group("p5")).workers(2),
    ));
    let subscription = builder
        .handle_async(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            let at = at.clone();
            async move {
                at.passed().await;
                Ok(())
            }
        })
        .map_err(|error| error.to_string())?;
    for n in 0..RECORDS {
        let payload = format!("\"{}\"", "x".repeat(padding));
        let envelope = Envelope::new(format!("key-{n}"), "test.padded", 1, payload).expect("valid");
        backend.publish(&bus, &cluster.topic("orders"), envelope.into())()?;
    }
    eventually("as many started as may", || started.load(Ordering::Relaxed) >= most)?;
    for _ in 0..50 {
        let (started, in_flight) = (started.load(Ordering::Relaxed), subscription.stats().in_flight);
        ensure!(
            started <= most && in_flight <= most,
            "{started} started and {in_flight} are in flight; {most} may"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    ensure!(subscription.health().status == Status::Running, "the subscription does not run");
    gate.open();
    eventually("the rest came when there was room", || started.load(Ordering::Relaxed) == RECORDS)
}

pub fn records(backend: &dyn Backend) -> Checked {
    started_at_most(backend, 0, |builder| builder.in_flight_records(8), 8)
}

pub fn bytes(backend: &dyn Backend) -> Checked {
    // A record has about 1,300 bytes; the fourth exceeds what is left after three, and may come all the same.
    started_at_most(backend, 1_000, |builder| builder.in_flight_bytes(4_600), 4)
}

pub fn distance(backend: &dyn Backend) -> Checked {
    let cluster = backend.cluster(1);
    let bus = cluster.connect(&|_| {});
    let handled = Arc::new(AtomicU64::new(0));
    let count = handled.clone();
    let handler: Behaviour = Arc::new(move |event| {
        if number(event) == 0 {
            return Err("planted".into());
        }
        count.fetch_add(1, Ordering::Relaxed);
        Ok(())
    });
    let builder = bus
        .subscribe_envelopes(cluster.topic("orders"))
        .group(cluster.group("p5"))
        .workers(2)
        .watermark_distance(16);
    let builder = builder.retry(Retry::none()).then(Then::Hold);
    let subscription = backend.start_envelopes(builder, Kind::Shared, handler)?;
    for n in 0..100 {
        backend.publish(&bus, &cluster.topic("orders"), numbered(&format!("key-{n}"), n).into())()?;
    }
    eventually("the partition stopped, and says why", || {
        subscription.health().problems.iter().any(|problem| {
            matches!(problem, Problem::WindowFull { place, .. } if place.offset == cluster.first_offset() && place.key.as_deref() == Some("key-0"))
        })
    })?;
    eventually("what was delivered is handled", || handled.load(Ordering::Relaxed) >= 15)?;
    eventually("the first is held", || subscription.held().len() == 1)?;
    std::thread::sleep(Duration::from_millis(50));
    let far = handled.load(Ordering::Relaxed);
    ensure!(far == 15, "{far} records were handled within a distance of 16 from the first");
    let held = subscription.held().remove(0);
    ensure!(subscription.skip_held(&held).wait(), "the operation did not find the held record");
    eventually("the partition went on", || handled.load(Ordering::Relaxed) == 99)
}

pub fn publisher(backend: &dyn Backend) -> Checked {
    let cluster = backend.cluster(1);
    let bus = cluster.connect(&|config| config.publisher.records = 4);
    cluster.set_reachable(false);
    let mut waiting = Vec::new();
    for n in 0..4 {
        match bus.try_publish(&cluster.topic("orders"), numbered("a", n)) {
            Ok(op) => waiting.push(op),
            Err(error) => return Err(format!("publish {n} of 4 had no room: {error}")),
        }
    }
    let fifth = bus.try_publish(&cluster.topic("orders"), numbered("a", 4));
    ensure!(matches!(fifth, Err(TryPublishError::Full(_))), "the fifth of 4 was taken: {fifth:?}");
    waiting.push(bus.publish(&cluster.topic("orders"), numbered("a", 4)));
    std::thread::sleep(Duration::from_millis(20));
    ensure!(
        waiting.iter().all(|op| !op.is_done()),
        "a publish was answered by a broker that does not answer"
    );
    cluster.set_reachable(true);
    for (n, op) in waiting.into_iter().enumerate() {
        let receipt = op.wait().map_err(|error| error.to_string())?;
        let wanted = cluster.first_offset() + n as u64;
        ensure!(receipt.offset() == wanted, "record {n} was stored at {}", receipt.offset());
    }
    Ok(())
}

pub fn full_and_alive(backend: &dyn Backend) -> Checked {
    let cluster = backend.cluster(2);
    let bus = cluster.connect(&|_| {});
    let gate = Gate::default();
    let (at, started) = (gate.clone(), Arc::new(AtomicU64::new(0)));
    let count = started.clone();
    let builder = bus
        .subscribe_envelopes(cluster.topic("orders"))
        .group(cluster.group("p5"))
        .workers(1)
        .in_flight_records(2);
    let full = backend
        .envelopes(builder.drain_timeout(Duration::from_millis(50)))
        .handle_async(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            let at = at.clone();
            async move {
                at.passed().await;
                Ok(())
            }
        })
        .map_err(|error| error.to_string())?;
    for n in 0..20 {
        backend.publish(&bus, &cluster.topic("orders"), numbered(&format!("key-{n}"), n).into())()?;
    }
    eventually("the window is full", || started.load(Ordering::Relaxed) >= 2)?;
    let other = cluster.connect(&|_| {});
    let builder = other.subscribe_envelopes(cluster.topic("orders")).group(cluster.group("p5")).workers(1);
    let joined = backend.start_envelopes(builder, Kind::Shared, Arc::new(|_| Ok(())))?;
    if backend.shares_topics() {
        eventually("the full member gave a partition up", || joined.stats().succeeded > 0)?;
    }
    ensure!(full.health().status == Status::Running, "the full member has ended");
    ensure!(started.load(Ordering::Relaxed) <= 4, "the full member took more than its window");
    gate.open();
    full.drain(Duration::from_secs(60)).wait();
    eventually("the other took over what was left", || {
        started.load(Ordering::Relaxed) + joined.stats().succeeded >= 20
    })
}
