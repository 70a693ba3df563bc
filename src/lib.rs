//! An event bus that a program embeds, that keeps every aggregate in order, also when things fail, and handles
//! different aggregates in parallel.
//!
//! A program [`connect`]s to a bus, publishes [`Envelope`]s or plain [`Record`]s, and subscribes to either. Records of
//! one aggregate are handled in the order in which they were stored, one at a time; a record that fails is tried again
//! while its key waits and every other key goes on. The README lists the promises, P1 to P8, one by one.
//!
//! Everything that waits returns an [`Op`]: a `Future` that any runtime can await, and that a plain thread can
//! [`wait`](Op::wait) for. The [`pool`] of workers underneath is usable without any bus.
//!
//! ```
//! use keylane::{DeadLetter, Envelope, Retry};
//! use std::time::Duration;
//!
//! let bus = keylane::connect("memory:?topics=orders,orders.dead").wait()?;
//! let orders = bus
//!     .subscribe_envelopes("orders")
//!     .group("billing")
//!     .retry(Retry::exponential(Duration::from_millis(100)..Duration::from_secs(30)).attempts(5))
//!     .then(DeadLetter::to("orders.dead"))
//!     .handle(|event| {
//!         println!("{:?}: {:?}", event.aggregate_id(), event.envelope());
//!         Ok(())
//!     })?;
//! bus.publish("orders", Envelope::new("order-42", "order.paid", 1, r#"{"cents":995}"#)?).wait()?;
//! orders.caught_up().wait()?;
//! bus.close(Duration::from_secs(10)).wait();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![cfg_attr(loom, allow(dead_code, unused_imports, reason = "what only the gated modules use"))]

// loom models the synchronisation alone: the pool, its completions and what it sleeps by.
#[cfg(not(loom))]
mod broker;
#[cfg(not(loom))]
mod bus;
mod chance;
#[cfg(not(loom))]
pub mod config;
#[cfg(not(loom))]
mod delivery;
#[cfg(not(loom))]
mod envelope;
#[cfg(not(loom))]
mod error;
#[cfg(not(loom))]
mod event;
mod foreign;
#[cfg(not(loom))]
mod handler;
#[cfg(loom)]
#[doc(hidden)]
pub mod loom_internals;
#[cfg_attr(loom, expect(dead_code, reason = "the models run the counters alone"))]
mod observe;
#[cfg(not(loom))]
mod policy;
pub mod pool;
#[cfg(not(loom))]
mod publisher;
mod record;
#[cfg(not(loom))]
mod route;
#[cfg(all(feature = "sim", not(loom)))]
pub mod sim;
#[cfg(not(loom))]
mod subscription;
mod sync;
mod wait;

#[cfg(not(loom))]
pub use broker::{BrokerError, Start};
#[cfg(not(loom))]
pub use bus::{Bus, CloseReport, Message, TopicError, connect, connect_with};
#[cfg(not(loom))]
pub use config::{BusUrl, Config};
#[cfg(not(loom))]
pub use envelope::{Envelope, EnvelopeError, EnvelopeErrorKind, Limits, Timestamp, TimestampError};
#[cfg(not(loom))]
pub use error::{ConfigError, ConnectError, NameError, Origin, UrlError};
#[cfg(not(loom))]
pub use event::Event;
#[cfg(not(loom))]
pub use handler::HandlerError;
#[cfg(not(loom))]
pub use observe::health::{Health, Place, Problem, Status};
pub use observe::metrics::Stats;
#[cfg(not(loom))]
pub use observe::report::DrainReport;
#[cfg(not(loom))]
pub use policy::{DeadLetter, FailurePolicy, Jitter, PolicyError, Retry, Then};
#[cfg(not(loom))]
pub use publisher::{
    NextOutcome, Outcome, Outcomes, PublishError, Publishing, Receipt, TryPublishError, Unacknowledged,
};
pub use record::{Headers, Record};
#[cfg(not(loom))]
pub use route::{RecordView, Route};
#[cfg(not(loom))]
pub use subscription::{
    Envelopes, Held, OwnedHandler, Plain, SubscribeError, Subscription, SubscriptionBuilder, WaitError,
};
pub use wait::{Cancellation, Cancelled, Clock, ManualClock, Op, Registration};

/// The bus in memory: a broker inside the process, with topics, consumer groups and bounded retention.
#[cfg(not(loom))]
pub mod memory {
    pub use crate::broker::memory::{Faults, MemoryBroker, MemoryBrokerBuilder};
}

/// What the fuzz targets reach beyond the public face.
#[cfg(all(fuzzing, not(loom)))]
#[doc(hidden)]
pub mod fuzzing {
    /// See `broker/position_text.rs`.
    #[doc(hidden)]
    pub fn position_text(text: &str, watermark: u64) {
        crate::broker::position_text::survives(text, watermark);
    }
}

/// Its examples use the test kit.
#[cfg(all(doctest, feature = "sim"))]
#[doc = include_str!("../README.md")]
struct Readme;
