//! P6: a panic is an error.

use crate::backend::Backend;
use crate::ensure;
use crate::support::{Behaviour, Checked, KINDS, Kind, eventually, number, numbered};
use keylane::{DeadLetter, Event, Retry, Then};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

pub fn is_an_error(backend: &dyn Backend) -> Checked {
    for kind in KINDS {
        let cluster = backend.cluster(1);
        let bus = cluster.connect(&|_| {});
        let dead = Arc::new(Mutex::new(Vec::new()));
        let kept = dead.clone();
        let watcher: Behaviour = Arc::new(move |event| {
            let header =
                |name| event.headers().get(name).map(|value| String::from_utf8_lossy(value).into_owned());
            kept.lock().unwrap().push((header("keylane-reason"), header("keylane-error")));
            Ok(())
        });
        let _watch = crate::support::start(
            bus.subscribe(cluster.topic("orders.dead")).group(cluster.group("watch")),
            Kind::Shared,
            &watcher,
        )?;
        let handler: Behaviour = Arc::new(|event| match number(event) {
            0 => panic!("planted number {}", 0),
            _ => Ok(()),
        });
        let builder = bus.subscribe_envelopes(cluster.topic("orders")).group(cluster.group("p6")).workers(1);
        let builder = builder.retry(Retry::none()).then(DeadLetter::to(cluster.topic("orders.dead")));
        let subscription = backend.start_envelopes(builder, kind, handler)?;
        for n in 0..5 {
            backend.publish(&bus, &cluster.topic("orders"), numbered("a", n).into())()?;
        }
        eventually("the worker went on", || subscription.stats().succeeded >= 4)?;
        eventually("the panic became a dead letter", || {
            dead.lock().unwrap().len() == 1 || subscription.stats().succeeded == 5
        })?;
        let dead = dead.lock().unwrap().clone();
        let wanted = (Some("panic".to_owned()), Some("the handler panicked: planted number 0".to_owned()));
        ensure!(dead == [wanted], "{kind:?}: the dead letters are {dead:?}");
        ensure!(subscription.stats().panicked == 1, "the panic was not counted");
    }
    Ok(())
}

pub fn made_anew(backend: &dyn Backend) -> Checked {
    let cluster = backend.cluster(1);
    let bus = cluster.connect(&|_| {});
    let made = Arc::new(AtomicU64::new(0));
    let states = Arc::new(Mutex::new(Vec::new()));
    let (count, log) = (made.clone(), states.clone());
    let builder = backend
        .envelopes(bus.subscribe_envelopes(cluster.topic("orders")).group(cluster.group("p6")).workers(1));
    // Each handler counts for itself: after a panic the count begins again.
    let caught = backend.handler(Arc::new(|event: &Event| match number(event) {
        2 => panic!("planted"),
        _ => Ok(()),
    }));
    let subscription = builder
        .retry(Retry::none())
        .then(Then::Discard)
        .handle_owned(move || {
            count.fetch_add(1, Ordering::Relaxed);
            let (log, caught) = (log.clone(), caught.clone());
            let mut handled = 0;
            move |event: &Event| {
                caught(event)?;
                handled += 1;
                log.lock().unwrap().push(handled);
                Ok(())
            }
        })
        .map_err(|error| error.to_string())?;
    for n in 0..5 {
        backend.publish(&bus, &cluster.topic("orders"), numbered("a", n).into())()?;
    }
    eventually("all were over", || {
        let stats = subscription.stats();
        stats.consumed == 5 && stats.in_flight == 0
    })?;
    let states = states.lock().unwrap().clone();
    ensure!(states == [1, 2, 1, 2], "the handlers' own counts were {states:?}");
    ensure!(made.load(Ordering::Relaxed) == 2, "{} handlers were made", made.load(Ordering::Relaxed));
    ensure!(subscription.stats().restarts == 1, "the restart was not counted");
    Ok(())
}
