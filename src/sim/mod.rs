//! A whole bus in one thread, by a seed: tests that find what happens once in a thousand times, and find it again.
//!
//! The shipped code runs: intakes, workers, ledgers, retries and the publisher, on the bus in memory. What is a thread
//! elsewhere takes its steps in an order that is drawn by a seed, and the time is the simulation's: an hour of retries
//! takes milliseconds, a crash is a call, and the same seed gives the same history.
//!
//! ```
//! use keylane::{Envelope, Jitter, Retry, sim};
//! use std::sync::{Arc, Mutex};
//! use std::time::Duration;
//!
//! const HOUR: Duration = Duration::from_secs(3_600);
//!
//! sim::test(|sim| {
//!     // given: a service that books payments, and a bank that opens at the third try
//!     let booked = Arc::new(Mutex::new(0));
//!     sim.service("billing", 1, {
//!         let booked = booked.clone();
//!         move |bus| {
//!             let booked = booked.clone();
//!             let hourly = Retry::exponential(HOUR..HOUR).jitter(Jitter::None).attempts(5);
//!             bus.subscribe_envelopes("orders").group("billing").retry(hourly).handle(move |event| {
//!                 if event.attempt() < 3 {
//!                     return Err("the bank is closed".into());
//!                 }
//!                 *booked.lock().unwrap() += 995;
//!                 Ok(())
//!             })
//!         }
//!     });
//!     // when: an order is paid, and time passes
//!     sim.publish("orders", Envelope::new("order-42", "order.paid", 1, "995").unwrap());
//!     sim.after(HOUR);
//!     assert_eq!(*booked.lock().unwrap(), 0);
//!     sim.after(2 * HOUR);
//!     // then
//!     assert_eq!(*booked.lock().unwrap(), 995);
//! });
//! ```
//!
//! [`seeds`] runs a test a thousand times with crashes, outages and lost settles, tells of a failure in the fewest acts
//! that it takes, and says how to run it again; [`Seeds::idempotent`] finds the record that a handler must not handle
//! twice, and does.
//!
//! # What it can't do
//! It interleaves what is between two steps, not what is inside of one: races of atomics and locks are for loom. A handler
//! that blocks (`std::thread::sleep`, a socket) holds up the whole world: use [`busy`], or [`sleep`] in an async one. What a
//! handler takes from elsewhere (`SystemTime::now`, the order of a `HashMap`, another thread) does not follow from the
//! seed. A handler that blocks is never killed in its middle.

mod chaos;
mod judge;
#[cfg(feature = "kafka")]
mod kafka;
mod kit;
mod quiet;
mod seeds;
mod story;
mod time;
mod world;

pub use chaos::Chaos;
#[cfg(feature = "kafka")]
pub use kafka::KafkaModel;
pub use kit::{Operator, Sim, Subscriptions, test};
pub use seeds::{Seeds, seeds};
pub use time::{Sleep, busy, number, sleep};
pub use world::{Process, World};

use std::cell::RefCell;
use std::rc::Rc;
use world::Inner;

thread_local! {
    static HERE: RefCell<Option<Rc<Inner>>> = const { RefCell::new(None) };
}

/// From here on this thread is this world's.
fn enter(world: Option<Rc<Inner>>) {
    crate::chance::world::set(world.clone().map(|world| -> Rc<dyn crate::chance::world::Source> { world }));
    crate::wait::world::set(world.clone().map(|world| -> Rc<dyn crate::wait::world::World> { world }));
    drop(HERE.replace(world));
}

/// The calling thread's world.
fn here() -> Rc<Inner> {
    HERE.with(|here| here.borrow().clone()).expect("this is for handlers and tests inside of a simulation")
}

/// Whether a process of the calling thread's world is being killed: what is dropped now ends nothing.
pub fn is_crashing() -> bool {
    HERE.try_with(|here| here.borrow().as_ref().is_some_and(|world| world.is_crashing())).unwrap_or(false)
}
