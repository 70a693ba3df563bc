//! P3: plain records never block on failure.

use crate::backend::Backend;
use crate::ensure;
use crate::support::{Behaviour, Checked, Gate, KINDS, Kind, eventually};
use keylane::Record;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

pub fn never_retried(backend: &dyn Backend) -> Checked {
    for kind in KINDS {
        let cluster = backend.cluster(1);
        let bus = cluster.connect(&|_| {});
        let calls = Arc::new(Mutex::new(Vec::new()));
        let noted = calls.clone();
        let handler: Behaviour = Arc::new(move |event| {
            noted.lock().unwrap().push(event.value()[0]);
            match event.value()[0] {
                0 => Err("planted".into()),
                1 => panic!("planted"),
                _ => Ok(()),
            }
        });
        let subscription = backend.start_plain(
            bus.subscribe(cluster.topic("orders")).group(cluster.group("p3")).workers(1),
            kind,
            handler,
        )?;
        for n in 0..4u8 {
            backend.publish(&bus, &cluster.topic("orders"), Record::new(vec![n]).with_key("a").into())()?;
        }
        eventually("all were settled", || {
            let stats = subscription.stats();
            stats.consumed == 4 && stats.in_flight == 0
        })?;
        let calls = calls.lock().unwrap().clone();
        ensure!(calls == [0, 1, 2, 3], "the handler was called for {calls:?}");
        let stats = subscription.stats();
        ensure!(
            (stats.failed, stats.retried, stats.panicked, stats.succeeded) == (2, 0, 1, 2),
            "the counters say {stats:?}"
        );
    }
    Ok(())
}

pub fn at_most_once(backend: &dyn Backend) -> Checked {
    for kind in [Kind::Shared, Kind::Async] {
        let cluster = backend.cluster(1);
        let bus = cluster.connect(&|_| {});
        let (started, gate) = (Arc::new(AtomicU64::new(0)), Gate::default());
        let (count, at) = (started.clone(), gate.clone());
        let handler: Behaviour = Arc::new(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            at.pass();
            Ok(())
        });
        let builder = backend
            .at_most_once(bus.subscribe(cluster.topic("orders")).group(cluster.group("p3")).workers(1));
        let first = backend.start_plain(builder, kind, handler)?;
        backend.publish(&bus, &cluster.topic("orders"), Record::new("lost by the crash").into())()?;
        eventually("the handler runs", || started.load(Ordering::Relaxed) == 1)?;
        drop(first);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = seen.clone();
        let handler: Behaviour = Arc::new(move |event| {
            noted.lock().unwrap().push(event.value().to_vec());
            Ok(())
        });
        let builder = backend
            .at_most_once(bus.subscribe(cluster.topic("orders")).group(cluster.group("p3")).workers(1));
        let second = backend.start_plain(builder, Kind::Shared, handler)?;
        backend.publish(&bus, &cluster.topic("orders"), Record::new("next").into())()?;
        eventually("the next record arrived", || second.stats().succeeded >= 1)?;
        eventually("nothing is under way", || second.stats().in_flight == 0)?;
        gate.open();
        let seen = seen.lock().unwrap().clone();
        ensure!(seen == [b"next".to_vec()], "what was running at the crash came again");
    }
    Ok(())
}
