//! Whether a handler may see a record twice: the kit handles each twice, and names the one that changes the state.
//!
//!     cargo run --features sim --example handled_twice

use keylane::{Envelope, sim};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

fn main() {
    sim::seeds(0..100).idempotent(|sim| {
        let addresses = Arc::new(Mutex::new(BTreeMap::new()));
        let known = addresses.clone();
        sim.service("customers", 1, move |bus| {
            let known = known.clone();
            bus.subscribe_envelopes("customers").group("addresses").handle(move |event| {
                let moved = event.envelope().ok_or("no Envelope")?;
                // To set is idempotent; to count how often somebody has moved would not be.
                let (customer, address) = (moved.aggregate_id().to_owned(), moved.payload().to_owned());
                known.lock().expect("no handler panics").insert(customer, address);
                Ok(())
            })
        });
        for (customer, address) in [("ann", "\"Rome\""), ("bob", "\"Oslo\""), ("ann", "\"Riga\"")] {
            let moved = Envelope::new(customer, "customer.moved", 1, address);
            sim.publish("customers", moved.expect("it is valid"));
        }
        sim.settle();
        addresses.lock().expect("no handler panics").clone()
    });
    println!("each record may be handled twice");
}
