//! How threads and tasks wait: for a wake, an answer, an operation, a cancellation, a time.

mod block;
pub(crate) mod blocks;
mod cancellation;
mod clock;
mod completion;
mod life;
mod listeners;
mod op;
pub(crate) mod own_lane;
mod park;
mod wakers;
pub(crate) mod world;

#[cfg(feature = "kafka")]
pub(crate) use block::block_on_timeout;
pub(crate) use block::{block_on, look_until};
pub use cancellation::{Cancellation, Cancelled};
pub(crate) use clock::after;
#[cfg_attr(loom, allow(unused_imports, reason = "of leases"))]
pub(crate) use clock::epoch;
pub use clock::{Clock, ManualClock};
pub(crate) use completion::{Ask, completion};
pub use completion::{Completion, JobError};
pub(crate) use life::{Life, Step, live, spawn};
pub(crate) use listeners::Listeners;
pub use listeners::Registration;
pub use op::Op;
pub(crate) use op::Promise;
pub(crate) use park::{Backoff, Parker, SPINS, YIELDS, rest};
#[cfg_attr(loom, allow(unused_imports, reason = "of the publisher"))]
pub(crate) use wakers::{Wakers, Woken};
