//! What a program waits for comes, on every backend: `caught_up` and `until`.

use crate::backend::Backend;
use crate::ensure;
use crate::support::{Behaviour, Checked, Gate, KINDS, Kind, numbered, patience};
use keylane::{Op, Retry, Start, Subscription, WaitError};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Long enough for what must not come to come if it would, also where the broker has to be asked.
const A_WHILE: Duration = Duration::from_millis(500);

fn soon(what: &str, op: Op<Result<(), WaitError>>) -> Checked {
    match op.wait_timeout(patience()) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(format!("{what}: {error}")),
        Err(_) => Err(format!("{what}: it did not come")),
    }
}

fn not_yet(what: &str, op: Op<Result<(), WaitError>>) -> Result<Op<Result<(), WaitError>>, String> {
    op.wait_timeout(A_WHILE).err().ok_or_else(|| format!("it is over although {what}"))
}

fn quickly() -> Retry {
    Retry::exponential(Duration::from_millis(5)..Duration::from_millis(20))
}

/// Fails until the gate is open.
fn failing(gate: &Gate) -> Behaviour {
    let gate = gate.clone();
    Arc::new(move |_| if gate.is_open() { Ok(()) } else { Err("planted".into()) })
}

pub fn caught_up_with_retries(backend: &dyn Backend) -> Checked {
    for kind in KINDS {
        let cluster = backend.cluster(3);
        let bus = cluster.connect(&|_| {});
        let (orders, payments) = (cluster.topic("orders"), cluster.topic("payments"));
        let gate = Gate::default();
        let builder = bus
            .subscribe_envelopes(orders.clone())
            .topic(payments.clone())
            .group(cluster.group("waits"))
            .retry(quickly());
        let subscription = backend.start_envelopes(builder, kind, failing(&gate))?;
        soon("nothing is stored", subscription.caught_up())?;
        for n in 0..20 {
            for topic in [&orders, &payments] {
                backend.publish(&bus, topic, numbered(&format!("key-{}", n % 5), n).into())()?;
            }
        }
        let caught_up = not_yet("all fails", subscription.caught_up())?;
        gate.open();
        soon("all succeeds", caught_up)?;
        let stats = subscription.stats();
        ensure!(stats.succeeded == 40, "{} of 40 were handled", stats.succeeded);
        soon("it has caught up before", subscription.caught_up())?;
        subscription.pause();
        soon("what was taken before a pause is over", subscription.caught_up())?;
        backend.publish(&bus, &orders, numbered("late", 0).into())()?;
        let paused = subscription.caught_up().wait_timeout(patience());
        ensure!(
            matches!(paused, Ok(Err(WaitError::Paused))),
            "a paused subscription with a record left says {paused:?}"
        );
        subscription.resume();
        soon("it goes on", subscription.caught_up())?;
        let left = subscription.until(|_| false);
        let _ = backend.drain(subscription, Duration::from_secs(30));
        ensure!(left.wait() == Err(WaitError::Ended), "an end is not told to who waits");
    }
    Ok(())
}

pub fn caught_up_with_others(backend: &dyn Backend) -> Checked {
    let cluster = backend.cluster(4);
    let (here, there) = (cluster.connect(&|_| {}), cluster.connect(&|_| {}));
    let topic = cluster.topic("orders");
    let gate = Gate::default();
    let join = |bus: &keylane::Bus| -> Result<Subscription, String> {
        let builder = bus.subscribe_envelopes(topic.clone()).group(cluster.group("waits")).retry(quickly());
        backend.start_envelopes(builder, Kind::Shared, failing(&gate))
    };
    let members = [join(&here)?, join(&there)?];
    for n in 0..40 {
        backend.publish(&here, &topic, numbered(&format!("key-{n}"), n).into())()?;
    }
    let waits = members.each_ref().map(Subscription::caught_up);
    let [first, second] = waits.map(|wait| not_yet("all fails", wait));
    let (first, second) = (first?, second?);
    gate.open();
    soon("the one member", first)?;
    soon("the other member", second)?;
    let succeeded: u64 = members.iter().map(|member| member.stats().succeeded).sum();
    ensure!(succeeded >= 40, "{succeeded} of 40 were handled");
    Ok(())
}

pub fn caught_up_through_trouble(backend: &dyn Backend) -> Checked {
    let cluster = backend.cluster(2);
    let bus = cluster.connect(&|_| {});
    let topic = cluster.topic("orders");
    let gate = Gate::default();
    let builder = bus
        .subscribe_envelopes(topic.clone())
        .group(cluster.group("waits"))
        .start(Start::Latest)
        .retry(quickly());
    let subscription = backend.start_envelopes(builder, Kind::Shared, failing(&gate))?;
    for n in 0..4 {
        backend.publish(&bus, &topic, numbered(&format!("key-{n}"), n).into())()?;
    }
    soon("all has failed", subscription.until(|stats| stats.failed >= 4))?;
    cluster.set_reachable(false);
    let caught_up = not_yet("all fails", subscription.caught_up())?;
    cluster.set_reachable(true);
    gate.open();
    soon("the broker is back", caught_up)?;
    let succeeded = subscription.stats().succeeded;
    ensure!(succeeded >= 4, "{succeeded} of 4 were handled");
    Ok(())
}

pub fn until(backend: &dyn Backend) -> Checked {
    for kind in KINDS {
        let cluster = backend.cluster(2);
        let bus = cluster.connect(&|_| {});
        let topic = cluster.topic("orders");
        let tries = Arc::new(AtomicU64::new(0));
        let count = tries.clone();
        let handler: Behaviour = Arc::new(move |_| match count.fetch_add(1, Ordering::Relaxed) {
            0 => Err("planted".into()),
            _ => Ok(()),
        });
        let builder = bus.subscribe_envelopes(topic.clone()).group(cluster.group("waits")).retry(quickly());
        let subscription = backend.start_envelopes(builder, kind, handler)?;
        for n in 1..=10 {
            let succeeded = subscription.until(move |stats| stats.succeeded == n);
            backend.publish(&bus, &topic, numbered("a", n).into())()?;
            soon("one more", succeeded)?;
        }
        soon("one was tried twice", subscription.until(|stats| stats.retried == 1))?;
    }
    Ok(())
}
