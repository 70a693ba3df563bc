//! Runs a variant through a shape.

mod asynchronous;
mod blocking;

pub(crate) use asynchronous::{AsyncPool, AsyncProducer, run as asynchronous, runtime};
pub(crate) use blocking::{BatchProducer, Pool, Producer, batching, run as blocking};

use measure::Nanos;

/// How long [`Shape::AskIdle`](crate::shape::Shape) spins before each message: a worker that is not made to spin this
/// long sleeps by then.
pub(crate) const PAUSE_NS: u64 = 50_000;
/// Messages before those that are measured, in the shapes that time each one.
pub(crate) const WARM_UP: usize = 2_000;
/// 100,000 messages in a second.
const RATE_STEP_NS: u64 = 10_000;

/// Keeps the core busy.
pub(crate) fn spin_for(clock: Nanos, pause_ns: u64) {
    let start = clock.now();
    while clock.now() - start < pause_ns {
        std::hint::spin_loop();
    }
}
