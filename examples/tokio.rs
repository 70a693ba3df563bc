//! The bus on tokio: everything is awaited, and handlers use tokio's timers.

use keylane::Envelope;
use std::time::Duration;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bus = keylane::connect("memory:?topics=orders").await?;
    let runtime = tokio::runtime::Handle::current();
    let orders = bus
        .subscribe_envelopes("orders")
        .group("billing")
        // The workers poll the futures themselves; inside the runtime's context its timers and sockets work.
        .enter(move |run| {
            let _context = runtime.enter();
            run();
        })
        .handle_async(|event| async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            println!("{} by tokio: {}", event.aggregate_id().unwrap_or("?"), event.offset());
            Ok(())
        })?;
    orders.ready().await?;
    for order in ["order-1", "order-2", "order-1"] {
        bus.publish("orders", Envelope::new(order, "order.changed", 1, "{}")?).await?;
    }
    orders.caught_up().await?;
    bus.close(Duration::from_secs(10)).await;
    Ok(())
}
