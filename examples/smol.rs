//! The bus on smol, whose timers need no context: its reactor has a thread of its own.

use keylane::Envelope;
use std::time::Duration;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    smol::block_on(async {
        let bus = keylane::connect("memory:?topics=orders").await?;
        let orders = bus.subscribe_envelopes("orders").group("billing").handle_async(|event| async move {
            smol::Timer::after(Duration::from_millis(10)).await;
            println!("{} by smol: {}", event.aggregate_id().unwrap_or("?"), event.offset());
            Ok(())
        })?;
        orders.ready().await?;
        for order in ["order-1", "order-2", "order-1"] {
            bus.publish("orders", Envelope::new(order, "order.changed", 1, "{}")?).await?;
        }
        orders.caught_up().await?;
        bus.close(Duration::from_secs(10)).await;
        Ok(())
    })
}
