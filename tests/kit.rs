//! The test kit, used as a user would, and what it says of handlers that are not right.

use keylane::sim::{self, Chaos, Sim};
use keylane::{Bus, DeadLetter, Envelope, Jitter, Retry, SubscribeError, Subscription, Then};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3_600);

/// What survives a crash: the service's database.
#[derive(Default)]
struct Database {
    balances: BTreeMap<String, i64>,
    seen: BTreeSet<String>,
}

type Db = Arc<Mutex<Database>>;

fn paid(order: &str, cents: i64) -> Envelope<'static> {
    Envelope::new(order.to_owned(), "order.paid", 1, cents.to_string()).expect("it is valid")
}

/// Books payments, hourly while the bank is closed. A careful one remembers what it has booked.
fn billing(bus: &Bus, db: &Db, is_careful: bool, opens_at: u32) -> Result<Subscription, SubscribeError> {
    let db = db.clone();
    let hourly = Retry::exponential(HOUR..HOUR).jitter(Jitter::None).attempts(5);
    let orders = bus.subscribe_envelopes("orders").group("billing").workers(2).retry(hourly);
    orders.then(DeadLetter::to("orders.dead")).handle(move |event| {
        if event.attempt() < opens_at {
            return Err("the bank is closed".into());
        }
        let envelope = event.envelope().ok_or("no Envelope")?;
        let mut db = db.lock().unwrap();
        if is_careful && !db.seen.insert(envelope.event_id().to_owned()) {
            return Ok(());
        }
        *db.balances.entry(envelope.aggregate_id().to_owned()).or_default() +=
            envelope.payload().parse::<i64>()?;
        Ok(())
    })
}

fn balance(db: &Db, order: &str) -> Option<i64> {
    db.lock().unwrap().balances.get(order).copied()
}

#[test]
fn the_bank_opens_at_the_third_try() {
    sim::test(|sim| {
        let db = Db::default();
        let books = db.clone();
        sim.service("billing", 1, move |bus| billing(bus, &books, true, 3));
        sim.publish("orders", paid("order-42", 995));
        sim.after(HOUR);
        assert_eq!(balance(&db, "order-42"), None, "two attempts failed");
        sim.after(2 * HOUR);
        assert_eq!(balance(&db, "order-42"), Some(995));
        assert!(sim.payloads("orders.dead").is_empty());
    });
}

fn two_processes(sim: &Sim<'_>, is_careful: bool) -> Db {
    let db = Db::default();
    let books = db.clone();
    sim.service("billing", 2, move |bus| billing(bus, &books, is_careful, 1));
    for n in sim.some(0..20) {
        sim.publish("orders", paid(&format!("order-{}", n % 5), 100));
    }
    sim.chaos(Chaos::new().crashes(3).leaves(2).outages(1).lost_settles(2).failed_publishes(1), 100 * MS);
    sim.settle();
    db
}

fn assert_booked(sim: &Sim<'_>, db: &Db) {
    let mut wanted: BTreeMap<String, i64> = BTreeMap::new();
    for record in sim.published("orders") {
        let order = Envelope::parse(&record.value).expect("as it was published").aggregate_id().to_owned();
        *wanted.entry(order).or_default() += 100;
    }
    assert_eq!(db.lock().unwrap().balances, wanted);
}

#[test]
fn an_order_is_booked_once_whatever_happens() {
    let since = Instant::now();
    sim::seeds(0..1_000).run(|sim| {
        let db = two_processes(sim, true);
        assert_booked(sim, &db);
    });
    println!("1,000 seeds of a service in two processes: {:.2?}", since.elapsed());
}

/// The text of the panic.
fn told(run: impl FnOnce()) -> String {
    let payload = catch_unwind(AssertUnwindSafe(run)).expect_err("it fails");
    payload.downcast_ref::<String>().cloned().expect("the kit panics with a text")
}

#[test]
fn a_careless_handler_gets_a_story_and_the_line_that_runs_it_again() {
    let text = told(|| {
        sim::seeds(0..1_000).run(|sim| {
            let db = two_processes(sim, false);
            assert_booked(sim, &db);
        });
    });
    let seed: u64 = text.strip_prefix("seed ").unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(text.contains(&format!("run it again: KEYLANE_SIM={seed}-")), "{text}");
    // As few acts as it takes: a record, what its schedule needs beside it, and what makes it be handled twice.
    assert!(text.matches("published to `orders`").count() <= 5, "{text}");
    let faults = ["is killed", "leaves", "settle is lost", "reaches nobody"];
    let acts: usize = faults.iter().map(|fault| text.matches(fault).count()).sum();
    assert!((1..=2).contains(&acts), "{acts} acts: {text}");
}

#[test]
fn a_careful_handler_may_run_twice() {
    sim::seeds(0..100).idempotent(|sim| {
        let db = two_processes(sim, true);
        db.lock().unwrap().balances.clone()
    });
}

#[test]
fn a_careless_handler_gets_the_record_that_is_enough() {
    let text = told(|| {
        sim::seeds(0..100).idempotent(|sim| {
            let db = Db::default();
            let books = db.clone();
            sim.service("billing", 1, move |bus| billing(bus, &books, false, 1));
            (0..6).for_each(|n| sim.publish("orders", paid(&format!("order-{}", n % 2), 100)));
            sim.settle();
            db.lock().unwrap().balances.clone()
        });
    });
    for part in [
        r#"{"order-0": 300, "order-1": 300}"#,
        r#"{"order-0": 600, "order-1": 600}"#,
        "enough: orders/",
        "`order-",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn what_does_not_follow_from_the_seed_is_told_as_that() {
    let calls = Arc::new(AtomicU64::new(0));
    let text = told(|| {
        sim::seeds(0..10).run(|sim| {
            let calls = calls.clone();
            sim.service("billing", 1, move |bus| {
                let calls = calls.clone();
                bus.subscribe_envelopes("orders").group("billing").handle(move |_| {
                    // A counter outside of the world.
                    if calls.fetch_add(1, Ordering::Relaxed) == 0 { Err("planned".into()) } else { Ok(()) }
                })
            });
            sim.publish("orders", paid("order-1", 1));
            sim.settle();
            panic!("planned");
        });
    });
    assert!(text.contains("not in the same way") && text.contains("attempt=1"), "{text}");
}

#[test]
fn a_seed_has_one_history() {
    let hashes = || {
        let hashes = Mutex::new(Vec::new());
        sim::seeds(0..100).run(|sim| {
            drop(two_processes(sim, true));
            hashes.lock().unwrap().push((sim.world().hash(), sim.now()));
        });
        hashes.into_inner().unwrap()
    };
    assert_eq!(hashes(), hashes());
}

#[test]
fn ids_and_timestamps_come_from_the_world() {
    let ids = || {
        sim::test(|_| {
            let envelope = paid("order-1", 1);
            (envelope.event_id().to_owned(), envelope.timestamp().to_string())
        })
    };
    let (id, timestamp) = ids();
    assert_eq!((id, timestamp.clone()), ids());
    assert!(timestamp.starts_with("2020-01-01T00:00:00"), "{timestamp}");
}

#[test]
fn an_operator_sees_what_is_held_and_decides() {
    sim::test(|sim| {
        let is_open = Arc::new(Mutex::new(false));
        let bank = is_open.clone();
        sim.service("billing", 1, move |bus| {
            let bank = bank.clone();
            let orders =
                bus.subscribe_envelopes("orders").group("billing").retry(Retry::none()).then(Then::Hold);
            orders.handle(
                move |_| if *bank.lock().unwrap() { Ok(()) } else { Err("the bank is closed".into()) },
            )
        });
        (0..3).for_each(|_| sim.publish("orders", paid("order-1", 1)));
        sim.after(HOUR);
        let held = sim.operator().held();
        assert_eq!((held.len(), held[0].place.offset), (1, 0));
        assert!(!sim.health()[0].is_healthy());
        assert_eq!(sim.operator().skip_held(), 1);
        sim.after(MS);
        *is_open.lock().unwrap() = true;
        assert_eq!(sim.operator().retry_held(), 1);
        sim.settle();
        assert!(sim.operator().held().is_empty());
    });
}

#[test]
fn what_never_ends_is_told_with_its_health() {
    let text = told(|| {
        sim::test(|sim| {
            sim.service("billing", 1, |bus| {
                bus.subscribe_envelopes("orders")
                    .group("billing")
                    .retry(Retry::none())
                    .then(Then::Hold)
                    .handle(|_| Err("no".into()))
            });
            sim.publish("orders", paid("order-1", 1));
            sim.settle();
        });
    });
    assert!(text.contains("30 days") && text.contains("Held"), "{text}");
}

#[test]
fn async_handlers_sleep_by_the_worlds_time() {
    sim::test(|sim| {
        let done = Arc::new(Mutex::new(Vec::new()));
        let told = done.clone();
        sim.service("mail", 1, move |bus| {
            let told = told.clone();
            bus.subscribe_envelopes("orders").group("mail").workers(1).handle_async(move |event| {
                let told = told.clone();
                async move {
                    sim::sleep(HOUR).await;
                    told.lock().unwrap().push(event.offset());
                    Ok(())
                }
            })
        });
        (0..3).for_each(|n| sim.publish("orders", paid(&format!("order-{n}"), 1)));
        sim.after(Duration::from_millis(3_599_999));
        assert_eq!(done.lock().unwrap().len(), 0);
        sim.after(2 * MS);
        assert_eq!(done.lock().unwrap().len(), 3, "they waited beside each other");
    });
}
