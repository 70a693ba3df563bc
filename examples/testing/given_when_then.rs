//! Three hours of retries in some milliseconds: a service, what is published, the time, and what must be then.
//!
//!     cargo run --features sim --example given_when_then

use keylane::{Bus, DeadLetter, Envelope, Jitter, Retry, SubscribeError, Subscription, sim};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3_600);

/// The code under test: books payments, and tries hourly while the bank is closed.
fn billing(bus: &Bus, booked: Arc<Mutex<i64>>) -> Result<Subscription, SubscribeError> {
    let hourly = Retry::exponential(HOUR..HOUR).jitter(Jitter::None).attempts(5);
    let orders = bus.subscribe_envelopes("orders").group("billing").retry(hourly);
    orders.then(DeadLetter::to("orders.dead")).handle(move |event| {
        if event.attempt() < 3 {
            return Err("the bank is closed".into());
        }
        let envelope = event.envelope().ok_or("no Envelope")?;
        *booked.lock().expect("no handler panics") += envelope.payload().parse::<i64>()?;
        Ok(())
    })
}

fn main() {
    sim::test(|sim| {
        // given
        let booked = Arc::new(Mutex::new(0));
        let books = booked.clone();
        sim.service("billing", 1, move |bus| billing(bus, books.clone()));
        // when
        sim.publish("orders", Envelope::new("order-42", "order.paid", 1, "995").expect("it is valid"));
        sim.after(HOUR);
        assert_eq!(*booked.lock().expect("no handler panics"), 0, "two attempts failed");
        sim.after(2 * HOUR);
        // then
        assert_eq!(*booked.lock().expect("no handler panics"), 995);
        assert!(sim.payloads("orders.dead").is_empty());
        println!("order-42 was booked after {:?}", sim.now());
    });
}
