//! P1: order per key.

use crate::backend::{Backend, Cluster};
use crate::ensure;
use crate::support::order::Book;
use crate::support::{Behaviour, Checked, Gate, KINDS, Kind, eventually, number, numbered};
use keylane::{Bus, DeadLetter, Event, HandlerError, Record, Retry, Subscription};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const KEYS: u64 = 12;
const QUICK: Retry = Retry::exponential(Duration::from_micros(200)..Duration::from_millis(2));

fn publish(backend: &dyn Backend, bus: &Bus, topic: &str, numbers: std::ops::Range<u64>) -> Checked {
    let mut answers = Vec::new();
    for n in numbers {
        for key in 0..KEYS {
            answers.push(backend.publish(bus, topic, numbered(&format!("key-{key}"), n).into()));
        }
    }
    answers.into_iter().try_for_each(|answer| answer())
}

/// What a record does at this attempt, the same in every run.
fn misbehave(event: &Event) -> Result<(), HandlerError> {
    let n = number(event);
    match (n % 7, event.attempt()) {
        (1 | 3, 1) => Err("planted".into()),
        (3, 2) | (5, 1) => panic!("planted"),
        _ => Ok(()),
    }
}

fn booked(
    book: &Arc<Book>,
    run: impl Fn(&Event) -> Result<(), HandlerError> + Send + Sync + 'static,
) -> Behaviour {
    let book = book.clone();
    Arc::new(move |event| {
        let (key, n) = (event.aggregate_id().expect("it has one").to_owned(), number(event));
        book.begin(&key, n);
        let ended = Ended { book: &book, key: &key, n };
        std::thread::yield_now();
        let result = run(event);
        std::mem::forget(ended);
        book.end(&key, n, result.is_ok());
        result
    })
}

/// Ends a record in the book when its handler unwinds.
struct Ended<'a> {
    book: &'a Book,
    key: &'a str,
    n: u64,
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.book.end(self.key, self.n, false);
    }
}

pub fn through_failures(backend: &dyn Backend) -> Checked {
    for kind in KINDS {
        for workers in [0, 1, 4] {
            let cluster = backend.cluster(3);
            let bus = cluster.connect(&|_| {});
            let book = Arc::new(Book::default());
            let builder = bus
                .subscribe_envelopes(cluster.topic("orders"))
                .group(cluster.group("p1"))
                .workers(workers)
                .retry(QUICK);
            let subscription = backend.start_envelopes(builder, kind, booked(&book, misbehave))?;
            publish(backend, &bus, &cluster.topic("orders"), 0..40)?;
            let all = 40 * KEYS;
            eventually(&format!("{kind:?} on {workers} workers handled all of {all}"), || {
                book.over() == all || book.has_violation()
            })?;
            book.verdict()?;
            ensure!(book.starts() > all, "nothing failed, so nothing was tested");
            drop(subscription);
        }
    }
    Ok(())
}

pub fn over_several_topics(backend: &dyn Backend) -> Checked {
    let cluster = backend.cluster(2);
    let bus = cluster.connect(&|_| {});
    let at_once = Arc::new(Mutex::new(HashMap::<String, u32>::new()));
    let (most, handled) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let handler: Behaviour = Arc::new({
        let (most, handled) = (most.clone(), handled.clone());
        move |event| {
            let key = event.aggregate_id().expect("it has one").to_owned();
            let now = {
                let mut running = at_once.lock().unwrap();
                let count = running.entry(key.clone()).or_default();
                *count += 1;
                *count
            };
            most.fetch_max(now.into(), Ordering::Relaxed);
            std::thread::sleep(Duration::from_micros(100));
            *at_once.lock().unwrap().get_mut(&key).expect("it runs") -= 1;
            handled.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    });
    let builder = bus
        .subscribe_envelopes(cluster.topic("orders"))
        .topic(cluster.topic("payments"))
        .group(cluster.group("p1"))
        .workers(4);
    let _subscription = backend.start_envelopes(builder, Kind::Shared, handler)?;
    publish(backend, &bus, &cluster.topic("orders"), 0..20)?;
    publish(backend, &bus, &cluster.topic("payments"), 0..20)?;
    eventually("both topics were handled", || handled.load(Ordering::Relaxed) == 40 * KEYS)?;
    let most = most.load(Ordering::Relaxed);
    ensure!(most == 1, "{most} handlers of one key ran at once");
    Ok(())
}

pub fn behind_a_dead_letter(backend: &dyn Backend) -> Checked {
    for kind in KINDS {
        let cluster = backend.cluster(1);
        let bus = cluster.connect(&|_| {});
        let next_started = Gate::default();
        let started = next_started.clone();
        let builder = bus
            .subscribe_envelopes(cluster.topic("orders"))
            .group(cluster.group("p1"))
            .workers(2)
            .retry(QUICK.attempts(2))
            .then(DeadLetter::to(cluster.topic("orders.dead")));
        let handler: Behaviour = Arc::new(move |event| {
            if number(event) == 0 {
                return Err("planted".into());
            }
            started.open();
            Ok(())
        });
        // Longer than the test looks: the dead letter can't be written.
        cluster.fail_next_publishes("orders.dead", usize::MAX);
        let subscription = backend.start_envelopes(builder, kind, handler)?;
        for n in 0..2 {
            backend.publish(&bus, &cluster.topic("orders"), numbered("a", n).into())()?;
        }
        eventually("the dead letter is being written", || {
            let stats = subscription.stats();
            (stats.failed >= 2 && stats.waiting_keys == 1) || next_started.is_open()
        })?;
        std::thread::sleep(Duration::from_millis(50));
        ensure!(!next_started.is_open(), "the next record started before the dead letter was acknowledged");
        cluster.fail_next_publishes("orders.dead", 0);
        eventually("the key went on after its dead letter", || next_started.is_open())?;
    }
    Ok(())
}

fn member(
    backend: &dyn Backend,
    cluster: &dyn Cluster,
    book: &Arc<Book>,
    kind: Kind,
) -> Result<(Bus, Subscription), String> {
    let bus = cluster.connect(&|_| {});
    let builder =
        bus.subscribe_envelopes(cluster.topic("orders")).group(cluster.group("p1")).workers(2).retry(QUICK);
    let builder = builder.drain_timeout(Duration::from_secs(5)).in_flight_records(64);
    let subscription = backend.start_envelopes(builder, kind, booked(book, misbehave))?;
    Ok((bus, subscription))
}

pub fn through_rebalances(backend: &dyn Backend) -> Checked {
    for kind in KINDS {
        let cluster = backend.cluster(4);
        let book = Arc::new(Book::default());
        let (bus, first) = member(backend, &*cluster, &book, kind)?;
        let mut members = vec![first];
        let mut published = 0;
        for turn in 0..6 {
            publish(backend, &bus, &cluster.topic("orders"), published..published + 15)?;
            published += 15;
            if turn % 2 == 0 {
                members.push(member(backend, &*cluster, &book, kind)?.1);
            } else {
                let leaving = members.remove(0);
                let report = leaving.drain(Duration::from_secs(60)).wait();
                ensure!(report.still_running.is_empty(), "handlers were left behind: {report:?}");
            }
        }
        eventually("all was handled through the rebalances", || {
            book.over() == published * KEYS || book.has_violation()
        })?;
        book.verdict()?;
        ensure!(book.repeats() == 0, "{} records that were over came again", book.repeats());
    }
    Ok(())
}

pub fn through_crashes(backend: &dyn Backend) -> Checked {
    for kind in KINDS {
        let cluster = backend.cluster(3);
        let bus = cluster.connect(&|_| {});
        let book = Arc::new(Book::default());
        publish(backend, &bus, &cluster.topic("orders"), 0..40)?;
        let all = 40 * KEYS;
        for crash in 1.. {
            let noted = book.clone();
            let handler: Behaviour = Arc::new(move |event| {
                misbehave(event)?;
                noted.effect(event.aggregate_id().expect("it has one"), number(event));
                Ok(())
            });
            let builder = bus
                .subscribe_envelopes(cluster.topic("orders"))
                .group(cluster.group("p1"))
                .workers(2)
                .retry(QUICK);
            let subscription = backend.start_envelopes(builder.in_flight_records(64), kind, handler)?;
            let goal = (crash * all / 5).min(all);
            eventually("it went on after a crash", || book.over() >= goal || book.has_violation())?;
            drop(subscription);
            book.verdict()?;
            if book.over() == all {
                break;
            }
        }
    }
    Ok(())
}

pub fn of_publishes(backend: &dyn Backend) -> Checked {
    for round in 0..5 {
        let cluster = backend.cluster(2);
        let bus = cluster.connect(&|_| {});
        let book = Arc::new(Book::default());
        let noted = book.clone();
        let handler: Behaviour = Arc::new(move |event| {
            noted.effect(event.aggregate_id().expect("it has one"), number(event));
            Ok(())
        });
        let builder = bus.subscribe_envelopes(cluster.topic("orders")).group(cluster.group("p1")).workers(2);
        let _subscription = backend.start_envelopes(builder, Kind::Shared, handler)?;
        cluster.fail_next_publishes("orders", 3 + round);
        publish(backend, &bus, &cluster.topic("orders"), 0..20)?;
        eventually("what was published arrived", || book.over() == 20 * KEYS || book.has_violation())?;
        book.verdict()?;
        ensure!(book.repeats() == 0, "a publish that was tried again was stored twice");
    }
    Ok(())
}

pub fn other_subscriptions_go_on(backend: &dyn Backend) -> Checked {
    let cluster = backend.cluster(1);
    let bus = cluster.connect(&|_| {});
    let builder = bus.subscribe_envelopes(cluster.topic("orders")).group(cluster.group("stuck")).workers(1);
    let stuck = backend.start_envelopes(builder, Kind::Shared, Arc::new(|_| Err("planted".into())))?;
    let handled = Arc::new(AtomicU64::new(0));
    let count = handled.clone();
    let handler: Behaviour = Arc::new(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        Ok(())
    });
    let builder = bus.subscribe(cluster.topic("orders")).group(cluster.group("other")).workers(1);
    let _other = backend.start_plain(builder, Kind::Shared, handler)?;
    for n in 0..10 {
        backend.publish(&bus, &cluster.topic("orders"), numbered("a", n).into())()?;
    }
    eventually("the other subscription handled the key", || handled.load(Ordering::Relaxed) == 10)?;
    eventually("the key waits in the first subscription", || stuck.stats().waiting_keys == 1)
}

/// Keys as people use them: none but the first is an aggregate id.
pub fn of_any_keys(backend: &dyn Backend) -> Checked {
    let cluster = backend.cluster(3);
    let bus = cluster.connect(&|_| {});
    let topic = cluster.topic("orders");
    let keys: [&[u8]; 7] = [
        b"order-42",
        b"ann@example.com",
        b"order 42",
        "m\u{fc}ller".as_bytes(),
        b"{\"id\":1}",
        &[0, 0, 0, 7, 200],
        b"a.b*c>",
    ];
    let book = Arc::new(Book::default());
    let pages = book.clone();
    let handler: Behaviour = Arc::new(move |event| {
        let key = event.key().map(|key| key.escape_ascii().to_string()).unwrap_or_default();
        let n = std::str::from_utf8(event.value())?.parse()?;
        pages.begin(&key, n);
        // Later records of a key are through sooner, if they may run beside it.
        std::thread::sleep(Duration::from_micros((50_u64).saturating_sub(n) * 20));
        pages.end(&key, n, true);
        Ok(())
    });
    let builder = bus.subscribe(&topic).group(cluster.group("keys")).workers(8);
    let subscription = backend.start_plain(builder, Kind::Shared, handler)?;
    let mut answers = Vec::new();
    for n in 0..50 {
        for key in keys {
            answers.push(backend.publish(
                &bus,
                &topic,
                Record::new(n.to_string()).with_key(key.to_vec()).into(),
            ));
        }
    }
    answers.into_iter().try_for_each(|answer| answer())?;
    let all = 50 * keys.len() as u64;
    eventually("all are handled", || book.over() == all || book.has_violation())?;
    book.verdict()?;
    ensure!(subscription.stats().without_aggregate == 0, "a key is none: {:?}", subscription.stats());
    Ok(())
}

/// The Envelope goes before the header, the header before the key.
pub fn of_places(backend: &dyn Backend) -> Checked {
    let cluster = backend.cluster(3);
    let bus = cluster.connect(&|_| {});
    let topic = cluster.topic("orders");
    let found = Arc::new(Mutex::new(Vec::new()));
    let noted = found.clone();
    let handler: Behaviour = Arc::new(move |event| {
        noted.lock().unwrap().push(event.aggregate_id().map(str::to_owned));
        Ok(())
    });
    let builder = bus.subscribe(&topic).group(cluster.group("places")).workers(1);
    let _subscription = backend.start_plain(builder, Kind::Shared, handler)?;
    let of_envelope = Record::new(Record::from(&numbered("of-envelope", 0)).value);
    let named = |record: Record| record.with_key("of-key").with_header("x-aggregate-id", "of-header");
    let records = [
        named(of_envelope),
        named(Record::new("plain")),
        Record::new("plain").with_key("of-key"),
        Record::new("plain").with_key("of-key").with_header("x-aggregate-id", "no id"),
    ];
    for record in records {
        backend.publish(&bus, &topic, record.into())()?;
    }
    eventually("all are handled", || found.lock().unwrap().len() == 4)?;
    let mut found = found.lock().unwrap().clone();
    found.sort();
    let expected = ["of-envelope", "of-header", "of-key", "of-key"].map(|id| Some(id.to_owned()));
    ensure!(found == expected, "found {found:?}");
    Ok(())
}

/// Records without a key wait for none, and each worker has its share of them.
pub fn without_a_key(backend: &dyn Backend) -> Checked {
    let cluster = backend.cluster(3);
    let bus = cluster.connect(&|_| {});
    let topic = cluster.topic("orders");
    let handled = Arc::new(Mutex::new(HashMap::<String, u64>::new()));
    let by_thread = handled.clone();
    let handler: Behaviour = Arc::new(move |_| {
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        *by_thread.lock().unwrap().entry(thread).or_default() += 1;
        Ok(())
    });
    let builder = bus.subscribe(&topic).group(cluster.group("keyless")).workers(3);
    let subscription = backend.start_plain(builder, Kind::Shared, handler)?;
    let answers: Vec<_> =
        (0..99).map(|n: u32| backend.publish(&bus, &topic, Record::new(n.to_string()).into())).collect();
    answers.into_iter().try_for_each(|answer| answer())?;
    eventually("all are handled", || handled.lock().unwrap().values().sum::<u64>() == 99)?;
    let handled = handled.lock().unwrap().clone();
    ensure!(handled.len() == 3 && handled.values().all(|count| *count == 33), "by worker: {handled:?}");
    ensure!(subscription.stats().without_aggregate == 99, "{:?}", subscription.stats());
    Ok(())
}
