//! Three events of one order, the second of which fails once; another order goes by meanwhile.
//!
//! Prints `order-1: 1`, `order-1: 2 failed`, `order-2: 1`, `order-1: 2`, `order-1: 3` (where `order-2` comes is open):
//! the third never overtakes the second.

use keylane::{DeadLetter, Envelope, Retry};
use std::time::Duration;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bus = keylane::connect("memory:?topics=orders,orders.dead").wait()?;
    let orders = bus
        .subscribe_envelopes("orders")
        .group("billing")
        .retry(Retry::exponential(Duration::from_millis(20)..Duration::from_secs(1)).attempts(5))
        .then(DeadLetter::to("orders.dead"))
        .handle(|event| {
            let (order, n) = (event.aggregate_id().unwrap_or("?"), event.envelope().ok_or("no Envelope")?);
            let n = n.payload();
            if order == "order-1" && n == "2" && event.attempt() == 1 {
                println!("{order}: {n} failed");
                return Err("the printer was busy".into());
            }
            println!("{order}: {n}");
            Ok(())
        })?;
    orders.ready().wait()?;
    for (order, n) in [("order-1", "1"), ("order-1", "2"), ("order-1", "3"), ("order-2", "1")] {
        bus.publish("orders", Envelope::new(order, "order.changed", 1, n)?).wait()?;
    }
    orders.caught_up().wait()?;
    bus.close(Duration::from_secs(10)).wait();
    Ok(())
}
