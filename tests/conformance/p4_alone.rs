//! P4: a bad key delays only itself.

use crate::backend::Backend;
use crate::ensure;
use crate::support::{Behaviour, Checked, KINDS, Kind, eventually, number, numbered};
use keylane::{DeadLetter, Retry, Then};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Why a key waits.
#[derive(Debug, Clone, Copy)]
enum Bad {
    Retried,
    Held,
    DeadLetterUnderWay,
}

pub fn others_go_on(backend: &dyn Backend) -> Checked {
    for bad in [Bad::Retried, Bad::Held, Bad::DeadLetterUnderWay] {
        for kind in KINDS {
            for workers in [0, 1] {
                waiting(backend, bad, kind, workers)?;
            }
        }
    }
    pending_future(backend)
}

/// One worker, so that every key shares it with the bad one.
fn waiting(backend: &dyn Backend, bad: Bad, kind: Kind, workers: usize) -> Checked {
    let cluster = backend.cluster(1);
    let bus = cluster.connect(&|_| {});
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    let handler: Behaviour = Arc::new(move |event| {
        let (key, n) = (event.aggregate_id().expect("it has one"), number(event));
        noted.lock().unwrap().push((key.to_owned(), n));
        if key == "bad" { Err("planted".into()) } else { Ok(()) }
    });
    let slowly =
        Retry::exponential(Duration::from_secs(60)..Duration::from_secs(61)).jitter(keylane::Jitter::None);
    let builder =
        bus.subscribe_envelopes(cluster.topic("orders")).group(cluster.group("p4")).workers(workers);
    let builder = match bad {
        Bad::Retried => builder.retry(slowly),
        Bad::Held => builder.retry(Retry::none()).then(Then::Hold),
        Bad::DeadLetterUnderWay => {
            cluster.fail_next_publishes("orders.dead", usize::MAX);
            builder.retry(Retry::none()).then(DeadLetter::to(cluster.topic("orders.dead")))
        }
    };
    let subscription = backend.start_envelopes(builder, kind, handler)?;
    for n in 0..20 {
        backend.publish(&bus, &cluster.topic("orders"), numbered("bad", n).into())()?;
        backend.publish(&bus, &cluster.topic("orders"), numbered(&format!("good-{}", n % 5), n).into())()?;
    }
    let good = || seen.lock().unwrap().iter().filter(|(key, _)| key != "bad").count();
    eventually(
        &format!("the others went on beside a key that is {bad:?} ({kind:?}, {workers} workers)"),
        || good() == 20,
    )?;
    let bad_ones: Vec<u64> =
        seen.lock().unwrap().iter().filter(|(key, _)| key == "bad").map(|(_, n)| *n).collect();
    ensure!(bad_ones == [0], "{bad:?}: the bad key's records were attempted as {bad_ones:?}");
    // The others' last futures may be about to end.
    eventually("the bad key alone waits", || subscription.stats().waiting_keys == 1)
}

/// A future that does not end, and its deadline.
fn pending_future(backend: &dyn Backend) -> Checked {
    let cluster = backend.cluster(1);
    let bus = cluster.connect(&|_| {});
    let (good, late) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let counts = (good.clone(), late.clone());
    let builder = backend
        .envelopes(bus.subscribe_envelopes(cluster.topic("orders")).group(cluster.group("p4")).workers(1));
    let subscription = builder
        .deadline(Duration::from_millis(300))
        .retry(Retry::none())
        .then(Then::Hold)
        .handle_async(move |event| {
            let (good, late) = counts.clone();
            async move {
                match (event.aggregate_id(), number(&event)) {
                    (Some("bad"), 0) => std::future::pending().await,
                    (Some("bad"), _) => late.fetch_add(1, Ordering::Relaxed),
                    _ => good.fetch_add(1, Ordering::Relaxed),
                };
                Ok(())
            }
        })
        .map_err(|error| error.to_string())?;
    for n in 0..20 {
        backend.publish(&bus, &cluster.topic("orders"), numbered("bad", n).into())()?;
        backend.publish(&bus, &cluster.topic("orders"), numbered(&format!("good-{}", n % 5), n).into())()?;
    }
    eventually("the others went on beside a future that is pending", || good.load(Ordering::Relaxed) == 20)?;
    eventually("the deadline ended the future", || subscription.held().len() == 1)?;
    ensure!(late.load(Ordering::Relaxed) == 0, "the key went on while its first record is held");
    let held = subscription.held().remove(0);
    ensure!(held.error.contains("300ms"), "the error does not tell the deadline: {}", held.error);
    ensure!(subscription.skip_held(&held).wait(), "the operation did not find the held record");
    eventually("the key went on", || late.load(Ordering::Relaxed) == 19)
}
