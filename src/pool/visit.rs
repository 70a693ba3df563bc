//! An operator's look at the keys that wait on a worker.

use super::Key;
use std::time::Instant;

/// A look at the waiting keys of one worker, on its own thread.
pub(crate) type Visit<J> = Box<dyn FnOnce(&mut dyn WaitingKeys<J>, Instant) + Send>;

/// What a visit may look at and do, on the worker's own thread between two jobs; see [`Pool::visit`](super::Pool::visit).
///
/// What it calls may panic: then the visit is over, and what waits is as it was before that call.
///
/// ```
/// use keylane::pool::{Key, PoolBuilder};
/// use std::time::Duration;
///
/// let pool = PoolBuilder::new().workers(2).asynchronous(|_: u64| std::future::pending::<()>())?;
/// let _running = pool.submit(Key::of("order-42"), 1).wait()?;
/// pool.visit(|keys, _now| {
///     keys.for_each(&mut |waiting| println!("{:?} waits for {:?}", waiting.key, waiting.waits_for));
/// })
/// .wait();
/// pool.drain(Duration::ZERO).wait();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait WaitingKeys<J>: sealed::Sealed {
    /// Calls `each` with every waiting key.
    fn for_each(&mut self, each: &mut dyn FnMut(WaitingKey<'_, J>));

    /// Runs the first job of a key now, if it waits for a time or an operator. False: it does not.
    fn run_now(&mut self, key: Key) -> bool;

    /// Takes away every waiting job for which `is_gone` says so; the handler's `abandoned` gets it. All are asked before
    /// the first one goes.
    fn remove_where(&mut self, is_gone: &mut dyn FnMut(&mut J) -> bool);
}

/// Only a worker has waiting keys.
pub(crate) mod sealed {
    pub trait Sealed {}
}

/// A key that waits.
#[derive(Debug)]
#[non_exhaustive]
pub struct WaitingKey<'a, J> {
    /// The key.
    pub key: Key,
    /// Its first job.
    pub job: &'a mut J,
    /// What the first job waits for.
    pub waits_for: WaitsFor,
    /// How many jobs are behind the first one.
    pub behind: usize,
}

/// What a waiting key waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitsFor {
    /// Its turn on its worker, which has come.
    Turn,
    /// A time: the next attempt.
    Time(Instant),
    /// An operator: it is held.
    Operator,
    /// A future, until the given deadline if there is one.
    Future(Option<Instant>),
}
