//! P2: Envelopes are never lost.

use crate::backend::{Backend, Cluster};
use crate::ensure;
use crate::support::{Behaviour, Checked, KINDS, Kind, eventually, number, numbered};
use keylane::{Bus, DeadLetter, Record, Retry};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const QUICK: Retry = Retry::exponential(Duration::from_micros(200)..Duration::from_millis(2));

/// How often each number took effect.
#[derive(Default)]
struct Effects(Mutex<HashMap<u64, u64>>);

impl Effects {
    fn note(&self, n: u64) {
        *self.0.lock().unwrap().entry(n).or_default() += 1;
    }

    fn distinct(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn most(&self) -> u64 {
        self.0.lock().unwrap().values().copied().max().unwrap_or(0)
    }
}

fn publish(backend: &dyn Backend, cluster: &dyn Cluster, bus: &Bus, records: u64) -> Checked {
    let topic = cluster.topic("orders");
    let answers: Vec<_> = (0..records)
        .map(|n| backend.publish(bus, &topic, numbered(&format!("key-{}", n % 17), n).into()))
        .collect();
    answers.into_iter().try_for_each(|answer| answer())
}

pub fn through_crashes(backend: &dyn Backend) -> Checked {
    const RECORDS: u64 = 300;
    for kind in KINDS {
        let cluster = backend.cluster(3);
        let bus = cluster.connect(&|_| {});
        publish(backend, &*cluster, &bus, RECORDS)?;
        let effects = Arc::new(Effects::default());
        for crash in 1..=4 {
            let noted = effects.clone();
            let handler: Behaviour = Arc::new(move |event| {
                noted.note(number(event));
                Ok(())
            });
            let builder = bus
                .subscribe_envelopes(cluster.topic("orders"))
                .group(cluster.group("p2"))
                .workers(2)
                .in_flight_records(32);
            let subscription = backend.start_envelopes(builder, kind, handler)?;
            let goal = RECORDS as usize * crash / 5;
            eventually("it went on after a crash", || effects.distinct() >= goal)?;
            drop(subscription);
        }
        let noted = effects.clone();
        let handler: Behaviour = Arc::new(move |event| {
            noted.note(number(event));
            Ok(())
        });
        let builder = bus.subscribe_envelopes(cluster.topic("orders")).group(cluster.group("p2")).workers(2);
        let last = backend.start_envelopes(builder, kind, handler)?;
        eventually("all took effect in the end", || effects.distinct() == RECORDS as usize)?;
        eventually("all was settled", || last.stats().in_flight == 0)?;
        ensure!(effects.most() <= 5, "a record took effect {} times in 5 lives", effects.most());
    }
    Ok(())
}

pub fn through_failures(backend: &dyn Backend) -> Checked {
    for kind in KINDS {
        let cluster = backend.cluster(2);
        let bus = cluster.connect(&|_| {});
        let effects = Arc::new(Effects::default());
        let noted = effects.clone();
        let handler: Behaviour = Arc::new(move |event| {
            if event.attempt() <= (number(event) % 4) as u32 {
                return Err("planted".into());
            }
            noted.note(number(event));
            Ok(())
        });
        let builder = bus
            .subscribe_envelopes(cluster.topic("orders"))
            .group(cluster.group("p2"))
            .workers(2)
            .retry(QUICK);
        let subscription = backend.start_envelopes(builder, kind, handler)?;
        publish(backend, &*cluster, &bus, 100)?;
        eventually("all was settled", || {
            let stats = subscription.stats();
            stats.consumed == 100 && stats.in_flight == 0
        })?;
        ensure!(effects.distinct() == 100, "{} of 100 took effect", effects.distinct());
        ensure!(effects.most() == 1, "a record took effect {} times", effects.most());
    }
    Ok(())
}

/// Somebody publishes an event again as it was, with its id: a dead letter, a file that is replayed.
pub fn published_twice(backend: &dyn Backend) -> Checked {
    let cluster = backend.cluster(1);
    let bus = cluster.connect(&|_| {});
    let topic = cluster.topic("orders");
    let event = numbered("key", 7);
    for _ in 0..2 {
        backend.publish(&bus, &topic, event.clone().into())()?;
    }
    let came = Arc::new(Mutex::new(Vec::new()));
    let kept = came.clone();
    let handler: Behaviour = Arc::new(move |event| {
        let id = event.envelope().map(|envelope| envelope.event_id().to_owned());
        kept.lock().unwrap().push((event.offset(), id));
        Ok(())
    });
    let builder = bus.subscribe_envelopes(&topic).group(cluster.group("twice"));
    let subscription = backend.start_envelopes(builder, Kind::Shared, handler)?;
    eventually("both are handled", || subscription.stats().succeeded >= 2)?;
    let came = came.lock().unwrap();
    let [(first, id), (second, again)] = &came[..] else { return Err(format!("{came:?} came")) };
    ensure!(first != second && id == again, "not two records of one event: {came:?}");
    Ok(())
}

pub fn through_failed_dead_letters(backend: &dyn Backend) -> Checked {
    let cluster = backend.cluster(1);
    let bus = cluster.connect(&|_| {});
    let dead = Arc::new(Mutex::new(Vec::new()));
    let kept = dead.clone();
    let watcher: Behaviour = Arc::new(move |event| {
        let header =
            |name| event.headers().get(name).map(|value| String::from_utf8_lossy(value).into_owned());
        let key = event.key().map(<[u8]>::to_vec);
        kept.lock().unwrap().push((
            key,
            event.value().to_vec(),
            ["keylane-reason", "keylane-error", "keylane-attempts", "keylane-topic", "X-Event-Type"]
                .map(header),
        ));
        Ok(())
    });
    let _watch = crate::support::start(
        bus.subscribe(cluster.topic("orders.dead")).group(cluster.group("watch")),
        Kind::Shared,
        &watcher,
    )?;
    let poisoned: Behaviour = Arc::new(|_| Err("planted poison".into()));
    let builder = bus
        .subscribe_envelopes(cluster.topic("orders"))
        .group(cluster.group("p2"))
        .workers(1)
        .retry(QUICK.attempts(3))
        .then(DeadLetter::to(cluster.topic("orders.dead")));
    cluster.fail_next_publishes("orders.dead", 2);
    let first = backend.start_envelopes(builder, Kind::Shared, poisoned.clone())?;
    let envelope = numbered("a", 0);
    backend.publish(&bus, &cluster.topic("orders"), (&envelope).into())()?;
    eventually("the dead letter was written in the end", || dead.lock().unwrap().len() == 1)?;
    let (key, value, headers) = dead.lock().unwrap()[0].clone();
    let [reason, error, attempts, topic, kind] = headers.map(Option::unwrap_or_default);
    ensure!(key.as_deref() == Some(b"a"), "the dead letter has the key {key:?}");
    ensure!(value == Record::from(&envelope).value, "the dead letter's bytes are not the record's");
    ensure!(
        [&*reason, &*error, &*attempts, &*topic, &*kind]
            == ["error", "planted poison", "3", &*cluster.topic("orders"), "test.numbered"],
        "the dead letter says {reason}, {error}, {attempts}, {topic}, {kind}"
    );
    eventually("the record is settled after its dead letter", || first.stats().in_flight == 0)?;
    // A crash while the dead letter can't be written: the record comes again to the next.
    cluster.fail_next_publishes("orders.dead", usize::MAX);
    backend.publish(&bus, &cluster.topic("orders"), numbered("a", 1).into())()?;
    eventually("it failed", || first.stats().failed >= 6)?;
    drop(first);
    let handled = Arc::new(Mutex::new(Vec::new()));
    let noted = handled.clone();
    let handler: Behaviour = Arc::new(move |event| {
        noted.lock().unwrap().push(number(event));
        Ok(())
    });
    let _second = backend.start_envelopes(
        bus.subscribe_envelopes(cluster.topic("orders")).group(cluster.group("p2")),
        Kind::Shared,
        handler,
    )?;
    eventually("the record came again", || *handled.lock().unwrap() == [1])?;
    ensure!(dead.lock().unwrap().len() == 1, "a dead letter was written that failed");
    Ok(())
}

pub fn undecodable(backend: &dyn Backend) -> Checked {
    let cluster = backend.cluster(1);
    let bus = cluster.connect(&|_| {});
    let calls = Arc::new(Mutex::new(Vec::new()));
    let noted = calls.clone();
    let handler: Behaviour = Arc::new(move |event| {
        noted.lock().unwrap().push(number(event));
        Ok(())
    });
    let builder = bus.subscribe_envelopes(cluster.topic("orders")).group(cluster.group("p2")).workers(1);
    let subscription = backend.start_envelopes(builder, Kind::Shared, handler)?;
    backend.publish(&bus, &cluster.topic("orders"), Record::new("{\"event_id\": 7}").with_key("a").into())()?;
    for n in 0..2 {
        backend.publish(&bus, &cluster.topic("orders"), numbered(["a", "b"][n as usize], n).into())()?;
    }
    eventually("the other key went on", || calls.lock().unwrap().contains(&1))?;
    eventually("the bytes are held", || subscription.held().len() == 1)?;
    let held = subscription.held().remove(0);
    ensure!(held.error.contains("event_id"), "the error does not name the field: {}", held.error);
    ensure!(!calls.lock().unwrap().contains(&0), "the key went on over the bytes that are held");
    let moved = subscription
        .dead_letter_held(&held, &cluster.topic("orders.dead"))
        .map_err(|error| error.to_string())?
        .wait();
    ensure!(moved, "the operation did not find the held record");
    eventually("the key went on", || calls.lock().unwrap().contains(&0))?;
    Ok(())
}
