//! P7: never silently stuck.

use crate::backend::Backend;
use crate::ensure;
use crate::support::{
    Behaviour, Checked, Gate, Kind, capture_log, eventually, logged, number, numbered, threads_named,
};
use keylane::{Problem, Retry, Status, Subscription, Then};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A key that no other check uses, so that its log lines are told from theirs.
fn own_key(what: &str) -> String {
    static LAST: AtomicU64 = AtomicU64::new(0);
    format!("{what}-{}", LAST.fetch_add(1, Ordering::Relaxed))
}

fn shows(subscription: &Subscription, is_it: impl Fn(&Problem) -> bool) -> bool {
    subscription.health().problems.iter().any(is_it)
}

/// That a log line with these words is written, and written again while it lasts.
fn is_logged_again(words: &[&str]) -> Checked {
    eventually(&format!("lines that say {words:?} were logged twice"), || logged(words) >= 2)
}

pub fn held(backend: &dyn Backend) -> Checked {
    capture_log();
    let key = own_key("held");
    let cluster = backend.cluster(1);
    let (topic, first) = (cluster.topic("orders"), cluster.first_offset());
    let bus = cluster.connect(&|_| {});
    let attempts = Arc::new(AtomicU64::new(0));
    let count = attempts.clone();
    let handler: Behaviour = Arc::new(move |_| match count.fetch_add(1, Ordering::Relaxed) {
        0 => Err("planted trouble".into()),
        _ => Ok(()),
    });
    let builder = bus
        .subscribe_envelopes(cluster.topic("orders"))
        .group(cluster.group("p7"))
        .retry(Retry::none())
        .then(Then::Hold);
    let subscription = backend.start_envelopes(builder, Kind::Shared, handler)?;
    backend.publish(&bus, &cluster.topic("orders"), numbered(&key, 0).into())()?;
    eventually("the held key shows in health", || {
        shows(&subscription, |problem| match problem {
            Problem::Held { place, error, .. } => {
                (&*place.topic, place.partition, place.offset, place.key.as_deref())
                    == (&*topic, 0, first, Some(&*key))
                    && error == "planted trouble"
            }
            _ => false,
        })
    })?;
    // The worker sets the gauge after it has said that the key is held.
    eventually("the gauge says that one key waits", || subscription.stats().waiting_keys == 1)?;
    let (offset, partition) = (format!("offset {first} "), format!("`{topic}`/0"));
    is_logged_again(&["progress is held up", &offset, &partition, &key, "planted trouble"])?;
    let held = subscription.held().remove(0);
    ensure!(subscription.retry_held(&held).wait(), "the operation did not find the held record");
    eventually("it is healthy after the operator's retry", || subscription.health().is_healthy())?;
    ensure!(!subscription.retry_held(&held).wait(), "a record that is over was retried");
    Ok(())
}

pub fn full_window(backend: &dyn Backend) -> Checked {
    capture_log();
    let key = own_key("slow");
    let cluster = backend.cluster(1);
    let bus = cluster.connect(&|_| {});
    let gate = Gate::default();
    let at = gate.clone();
    let handler: Behaviour = Arc::new(move |event| {
        if number(event) == 0 {
            at.pass();
        }
        Ok(())
    });
    let builder = bus
        .subscribe_envelopes(cluster.topic("orders"))
        .group(cluster.group("p7"))
        .workers(1)
        .in_flight_records(3);
    let subscription = backend.start_envelopes(builder, Kind::Shared, handler)?;
    for n in 0..10 {
        backend.publish(&bus, &cluster.topic("orders"), numbered(&key, n).into())()?;
    }
    let full = eventually("the full window shows in health", || {
        shows(&subscription, |problem| match problem {
            Problem::WindowFull { place, .. } => {
                place.offset == cluster.first_offset() && place.key.as_deref() == Some(&key)
            }
            _ => false,
        })
    })
    .and_then(|()| is_logged_again(&["progress is held up", "window is full", &key]));
    gate.open();
    full?;
    eventually("it is healthy when there is room", || {
        subscription.health().is_healthy() && subscription.stats().succeeded == 10
    })
}

pub fn unreachable(backend: &dyn Backend) -> Checked {
    capture_log();
    let cluster = backend.cluster(1);
    let bus = cluster.connect(&|_| {});
    let builder =
        bus.subscribe_envelopes(cluster.topic("orders")).group(cluster.group("p7-unreachable")).workers(1);
    let subscription = backend.start_envelopes(builder, Kind::Shared, Arc::new(|_| Ok(())))?;
    cluster.set_reachable(false);
    let key = own_key("unsent");
    let publish = bus.publish(&cluster.topic("orders"), numbered(&key, 0));
    eventually("the broker shows in health", || {
        shows(&subscription, |problem| matches!(problem, Problem::Broker { .. }))
    })?;
    is_logged_again(&["progress is held up", "the broker does not answer", "p7-unreachable"])?;
    is_logged_again(&["publishes wait", &cluster.topic("orders"), &key])?;
    ensure!(!publish.is_done(), "a publish was answered by a broker that does not answer");
    eventually("the publish shows as a problem", || !bus.publishing().is_healthy())?;
    let oldest = bus.publishing().oldest.ok_or("nothing is under way")?;
    ensure!(oldest.key == Some(key), "the oldest publish is said to be {oldest:?}");
    cluster.set_reachable(true);
    publish.wait().map_err(|error| error.to_string())?;
    eventually("it goes on by itself, healthy again", || {
        let is_healthy = subscription.health().is_healthy() && bus.publishing().is_healthy();
        subscription.stats().succeeded == 1 && is_healthy
    })?;
    eventually("the end is logged", || logged(&["the broker answers again"]) > 0)
}

pub fn hung(backend: &dyn Backend) -> Checked {
    capture_log();
    let key = own_key("hung");
    let cluster = backend.cluster(1);
    let bus = cluster.connect(&|_| {});
    let gate = Gate::default();
    let at = gate.clone();
    let handler: Behaviour = Arc::new(move |_| {
        at.pass();
        Ok(())
    });
    let builder = bus.subscribe_envelopes(cluster.topic("orders")).group(cluster.group("p7")).workers(1);
    let builder = builder.hung_after(Duration::from_millis(100));
    let subscription = backend.start_envelopes(builder, Kind::Shared, handler)?;
    backend.publish(&bus, &cluster.topic("orders"), numbered(&key, 0).into())()?;
    let found = eventually("the hung handler shows in health with its key and age", || {
        shows(&subscription, |problem| match problem {
            Problem::Hung { place, age, .. } => {
                place.key.as_deref() == Some(&key) && *age >= Duration::from_millis(100)
            }
            _ => false,
        })
    })
    .and_then(|()| is_logged_again(&["progress is held up", "has been running", &key]));
    gate.open();
    found?;
    eventually("it is healthy when the handler has ended", || subscription.health().is_healthy())?;
    ensure!(subscription.health().status == Status::Running, "the subscription has ended");
    ensure!(!threads_named("keylane-p7").is_empty(), "the threads are not named by their group");
    Ok(())
}
