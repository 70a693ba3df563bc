//! A thousand worlds in which processes crash, leave and are cut off: an order is booked once whatever happens.
//!
//!     cargo run --features sim --example thousand_crashes

use keylane::sim::{self, Chaos};
use keylane::{Bus, Envelope, SubscribeError, Subscription};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What survives a crash. It remembers which events are booked: take that out, and see what the kit says.
#[derive(Default)]
struct Database {
    booked: BTreeSet<String>,
    balance: i64,
}

fn billing(bus: &Bus, db: Arc<Mutex<Database>>) -> Result<Subscription, SubscribeError> {
    bus.subscribe_envelopes("orders").group("billing").workers(2).handle(move |event| {
        let envelope = event.envelope().ok_or("no Envelope")?;
        let mut db = db.lock().expect("no handler panics");
        if db.booked.insert(envelope.event_id().to_owned()) {
            db.balance += envelope.payload().parse::<i64>()?;
        }
        Ok(())
    })
}

fn main() {
    let since = Instant::now();
    sim::seeds(0..1_000).run(|sim| {
        let db = Arc::new(Mutex::new(Database::default()));
        let books = db.clone();
        sim.service("billing", 2, move |bus| billing(bus, books.clone()));
        for n in sim.some(0..20) {
            let paid = Envelope::new(format!("order-{}", n % 5), "order.paid", 1, "100");
            sim.publish("orders", paid.expect("it is valid"));
        }
        let rough = Chaos::new().crashes(3).leaves(2).outages(1).lost_settles(2);
        sim.chaos(rough, Duration::from_millis(100));
        sim.settle();
        let booked = db.lock().expect("no handler panics").balance;
        assert_eq!(booked, sim.published("orders").iter().map(|_| 100).sum::<i64>());
    });
    println!("1,000 worlds, each order booked once, in {:.2?}", since.elapsed());
}
