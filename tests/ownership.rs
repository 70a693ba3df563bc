//! Who has lost its ownership starts nothing: members of a group in memory that are cut off from it.

#![allow(unreachable_pub, reason = "the modules of a test program have no public face")]

mod support;

use keylane::memory::MemoryBroker;
use keylane::{Bus, Clock, Config, DeadLetter, Jitter, Problem, Record, Retry, Subscription};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::order::Book;
use support::{
    Behaviour, Gate, KINDS, Kind, capture_log, eventually, logged, number, numbered, start, within,
};

type Fences = Arc<Mutex<BTreeSet<Option<u64>>>>;

const KEYS: u64 = 6;
const MS: Duration = Duration::from_millis(1);

fn broker() -> (MemoryBroker, Bus) {
    let broker = MemoryBroker::builder().topic_with("orders", 1).topic_with("orders.dead", 1).build();
    let bus = broker.connect(Config::default()).unwrap();
    (broker, bus)
}

fn publish(bus: &Bus, numbers: std::ops::Range<u64>) {
    let published: Vec<_> = numbers
        .flat_map(|n| (0..KEYS).map(move |key| (format!("key-{key}"), n)))
        .map(|(key, n)| bus.publish("orders", numbered(&key, n)))
        .collect();
    published.into_iter().for_each(|receipt| drop(receipt.wait().unwrap()));
}

fn is_over(subscription: &Subscription) -> bool {
    let is_it = |problem: &Problem| matches!(problem, Problem::LeaseOver { .. });
    subscription.health().problems.iter().any(is_it)
}

fn booked(book: &Arc<Book>) -> Behaviour {
    let book = book.clone();
    Arc::new(move |event| {
        let (key, n) = (event.aggregate_id().expect("it has one").to_owned(), number(event));
        assert_eq!(event.attempt(), 1, "waiting for the lease is no attempt");
        book.begin(&key, n);
        std::thread::sleep(MS / 5);
        book.end(&key, n, true);
        Ok(())
    })
}

#[test]
fn who_is_cut_off_starts_nothing_and_goes_on_in_order_where_it_was() {
    capture_log();
    for kind in KINDS {
        for workers in [0, 2] {
            let ((broker, bus), book) = (broker(), Arc::new(Book::default()));
            let group = format!("cut-{kind:?}-{workers}");
            let builder = bus.subscribe_envelopes("orders").group(&group).workers(workers);
            let orders = start(builder, kind, &booked(&book)).unwrap();
            publish(&bus, 0..200);
            for round in 1..=3 {
                let all = book.over();
                eventually("it goes on", || book.over() >= all + 50).unwrap();
                assert!(broker.cut_off(&group, 0, true));
                let starts = book.starts();
                within(Duration::from_secs(2), "health says so", || is_over(&orders)).unwrap();
                std::thread::sleep(30 * MS);
                // One that looked just before may begin just behind, and a future has started when it was made.
                let late = book.starts() - starts;
                let most = if kind == Kind::Async { KEYS } else { workers.max(1) as u64 };
                assert!(late <= most, "{kind:?}, {workers} workers, round {round}: {late} starts");
                assert!(book.over() < 200 * KEYS, "something waits");
                assert!(broker.cut_off(&group, 0, false));
                within(Duration::from_secs(2), "health forgets it", || orders.health().is_healthy()).unwrap();
            }
            eventually("all is handled", || book.over() == 200 * KEYS || book.has_violation()).unwrap();
            book.verdict().unwrap();
            assert_eq!((book.repeats(), orders.stats().failed), (0, 0));
            for line in ["the group was not heard of for so long", "the group is heard of again"] {
                assert_eq!(logged(&[line, &group]), 3, "{line}");
            }
        }
    }
}

#[test]
fn while_it_lasts_it_is_said_again() {
    capture_log();
    let (broker, bus) = broker();
    let orders = bus.subscribe_envelopes("orders").group("said-again").handle(|_| Ok(())).unwrap();
    orders.ready().wait().unwrap();
    assert!(!broker.cut_off("no such group", 0, true) && !broker.cut_off("said-again", 1, true));
    assert!(broker.cut_off("said-again", 0, true));
    // After one second and after two.
    let said = || logged(&["progress is held up", "said-again", "nothing starts since"]);
    eventually("two lines say it", || said() >= 2).unwrap();
    assert!(!orders.health().is_healthy());
}

#[test]
fn a_retry_waits_for_the_lease_and_is_the_next_attempt() {
    for workers in [0, 1] {
        let (clock, time) = Clock::manual();
        let broker = MemoryBroker::builder().topic_with("orders", 1).clock(clock).build();
        let bus = broker.connect(Config::default()).unwrap();
        let retry = Retry::exponential(Duration::from_secs(1)..Duration::from_secs(1)).jitter(Jitter::None);
        let attempts = Arc::new(Mutex::new(Vec::new()));
        let noted = attempts.clone();
        let builder = bus.subscribe_envelopes("orders").group("g").workers(workers).retry(retry);
        let orders = builder
            .handle(move |event| {
                noted.lock().unwrap().push((number(event), event.attempt()));
                if (number(event), event.attempt()) == (0, 1) { Err("planted".into()) } else { Ok(()) }
            })
            .unwrap();
        for n in 0..2 {
            bus.publish("orders", numbered("key", n)).wait().unwrap();
        }
        bus.settled().wait().unwrap();
        assert!(broker.cut_off("g", 0, true));
        eventually("health says so", || is_over(&orders)).unwrap();
        time.advance(Duration::from_secs(5));
        bus.settled().wait().unwrap();
        assert_eq!(*attempts.lock().unwrap(), [(0, 1)], "{workers} workers: its time came, and it waits");
        assert!(broker.cut_off("g", 0, false));
        // After an error the broker is asked again when some time has passed.
        time.advance(Duration::from_secs(1));
        eventually("both are handled", || orders.stats().succeeded == 2).unwrap();
        assert_eq!(*attempts.lock().unwrap(), [(0, 1), (0, 2), (1, 1)]);
    }
}

#[test]
fn what_runs_when_the_lease_ends_is_told_and_an_end_by_that_is_no_attempt() {
    for kind in [Kind::Shared, Kind::Async] {
        let (broker, bus) = broker();
        let runs = Arc::new(Mutex::new(Vec::new()));
        let noted = runs.clone();
        let handler: Behaviour = Arc::new(move |event| {
            let mut runs = noted.lock().unwrap();
            runs.push((number(event), event.attempt(), event.cancellation().is_cancelled()));
            let is_first = runs.len() == 1;
            drop(runs);
            if is_first {
                eventually("it is told", || event.cancellation().is_cancelled())?;
                return Err("not wanted any more".into());
            }
            Ok(())
        });
        let builder = bus.subscribe_envelopes("orders").group("g").workers(1);
        let orders = start(builder, kind, &handler).unwrap();
        for n in 0..3 {
            bus.publish("orders", numbered("key", n)).wait().unwrap();
        }
        eventually("it runs", || runs.lock().unwrap().len() == 1).unwrap();
        assert!(broker.cut_off("g", 0, true));
        eventually("health says so", || is_over(&orders)).unwrap();
        eventually("it waits with its key", || orders.stats().waiting_keys == 1).unwrap();
        std::thread::sleep(10 * MS);
        assert_eq!(runs.lock().unwrap().len(), 1);
        assert!(broker.cut_off("g", 0, false));
        eventually("all is handled", || orders.stats().succeeded == 3).unwrap();
        assert_eq!(*runs.lock().unwrap(), [(0, 1, false), (0, 1, false), (1, 1, false), (2, 1, false)]);
        assert_eq!((orders.stats().failed, orders.stats().retried), (0, 0), "{kind:?}");
    }
}

#[test]
fn what_was_taken_away_meanwhile_is_not_started_when_the_group_is_heard_of_again() {
    let (broker, bus) = broker();
    let (gate, firsts) = (Gate::default(), Arc::new(AtomicU64::new(0)));
    let (held, count) = (gate.clone(), firsts.clone());
    let fences = [Fences::default(), Fences::default()];
    let (of_first, of_second) = (fences[0].clone(), fences[1].clone());
    let first = bus
        .subscribe_envelopes("orders")
        .group("g")
        .workers(1)
        .handle(move |event| {
            of_first.lock().unwrap().insert(event.fence());
            count.fetch_add(1, Ordering::Relaxed);
            held.pass();
            Ok(())
        })
        .unwrap();
    first.ready().wait().unwrap();
    publish(&bus, 0..50);
    let has_all = || first.stats().in_flight == 50 * KEYS && firsts.load(Ordering::Relaxed) == 1;
    eventually("the first has its window", has_all).unwrap();
    let (other, book) = (broker.connect(Config::default()).unwrap(), Arc::new(Book::default()));
    let builder = other.subscribe_envelopes("orders").group("g").workers(2);
    let handler = booked(&book);
    let handler: Behaviour = Arc::new(move |event| {
        of_second.lock().unwrap().insert(event.fence());
        handler(event)
    });
    let second = start(builder, Kind::Shared, &handler).unwrap();
    second.ready().wait().unwrap();
    assert!(broker.cut_off("g", 0, true) && broker.expel("g", 0));
    eventually("the second handles all", || book.over() == 50 * KEYS || book.has_violation()).unwrap();
    book.verdict().unwrap();
    gate.open();
    assert!(broker.cut_off("g", 0, false));
    eventually("nothing is left with the first", || first.stats().in_flight == 0).unwrap();
    eventually("it is healthy", || first.health().is_healthy()).unwrap();
    assert_eq!(firsts.load(Ordering::Relaxed), 1, "it starts nothing of what it lost");
    let [before, after] = fences.map(|fences| fences.lock().unwrap().clone());
    assert!(before.len() == 1 && after.len() == 1 && before.first() < after.first(), "{before:?} {after:?}");
    assert!(before.first() > Some(&None), "it has one");
}

#[test]
fn a_failure_while_the_lease_is_over_leads_to_no_dead_letter() {
    let ((broker, bus), gate) = (broker(), Gate::default());
    let held = gate.clone();
    let orders = bus
        .subscribe_envelopes("orders")
        .group("g")
        .retry(Retry::none())
        .then(DeadLetter::to("orders.dead"))
        .handle(move |_| {
            held.pass();
            Err("planted".into())
        })
        .unwrap();
    bus.publish("orders", numbered("key", 0)).wait().unwrap();
    eventually("it runs", || orders.stats().in_flight == 1).unwrap();
    assert!(broker.cut_off("g", 0, true));
    eventually("health says so", || is_over(&orders)).unwrap();
    gate.open();
    eventually("it waits", || orders.stats().waiting_keys == 1).unwrap();
    std::thread::sleep(30 * MS);
    assert!(broker.records("orders.dead").unwrap().is_empty(), "another owner may handle it just now");
    assert!(broker.cut_off("g", 0, false));
    eventually("its failure counts now", || orders.stats().dead_lettered == 1).unwrap();
    assert_eq!((broker.records("orders.dead").unwrap().len(), orders.stats().failed), (1, 1));
}

#[test]
fn at_most_once_loses_and_repeats_nothing_by_a_lease_that_was_over_for_a_while() {
    let (broker, bus) = broker();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    let orders = bus
        .subscribe("orders")
        .group("g")
        .workers(1)
        .at_most_once()
        .handle(move |event| {
            std::thread::sleep(MS / 5);
            let mut seen = noted.lock().unwrap();
            seen.push(event.offset());
            // One that gives up has had its attempt.
            if event.cancellation().is_cancelled() { Err("not wanted any more".into()) } else { Ok(()) }
        })
        .unwrap();
    for n in 0..600 {
        bus.publish("orders", Record::new(n.to_string()).with_key("key")).wait().unwrap();
    }
    for _ in 0..3 {
        let before = seen.lock().unwrap().len();
        eventually("it goes on", || seen.lock().unwrap().len() >= before + 30).unwrap();
        assert!(broker.cut_off("g", 0, true));
        eventually("health says so", || is_over(&orders)).unwrap();
        assert!(broker.cut_off("g", 0, false));
    }
    eventually("all are handled", || seen.lock().unwrap().len() >= 600).unwrap();
    assert_eq!(*seen.lock().unwrap(), (0..600).collect::<Vec<_>>());
}

#[test]
fn a_drain_of_who_is_cut_off_ends_in_time_and_starts_nothing() {
    let ((broker, bus), book) = (broker(), Arc::new(Book::default()));
    let builder = bus.subscribe_envelopes("orders").group("g").workers(2);
    let orders = start(builder, Kind::Shared, &booked(&book)).unwrap();
    publish(&bus, 0..200);
    eventually("it goes on", || book.over() >= 50).unwrap();
    assert!(broker.cut_off("g", 0, true));
    eventually("health says so", || is_over(&orders)).unwrap();
    let (starts, since) = (book.starts(), Instant::now());
    let report = orders.drain(Duration::from_secs(1)).wait();
    assert!(since.elapsed() < Duration::from_secs(2), "it took {:?}", since.elapsed());
    assert_eq!(book.starts(), starts);
    assert!(!report.unsettled.is_empty() && report.still_running.is_empty());
}
