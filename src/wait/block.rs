//! A thread that blocks on a future.

use super::park::{Backoff, Parker};
use super::world::{self, World};
#[cfg(not(loom))]
use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

#[cfg(not(loom))]
thread_local! {
    /// Kept, so that waiting allocates nothing. Taken out while in use: a wait inside a wait gets one of its own.
    static PARKER: RefCell<Option<Parker>> = const { RefCell::new(None) };
}

/// Looks for a moment whether something is done, so that what is about to be costs no sleep.
pub(crate) fn look_until(is_done: impl Fn() -> bool) {
    if world::current().is_some() {
        return;
    }
    let mut backoff = Backoff::default();
    while !is_done() && !backoff.is_over() {
        backoff.snooze();
    }
}

/// Runs a future to its end on this thread.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let blocked = match world::current() {
        Some(world) => block_in(&*world, future, None),
        None => block_until(future, None),
    };
    blocked.expect("there is no time limit")
}

/// Runs a future to its end on this thread, for as long as `limit`.
pub(crate) fn block_on_timeout<F: Future>(future: F, limit: Duration) -> Option<F::Output> {
    if let Some(world) = world::current() {
        return block_in(&*world, future, Some(limit));
    }
    // A limit beyond what the clock can express is no limit.
    block_until(future, Instant::now().checked_add(limit))
}

/// In a simulation the others take their steps meanwhile, on this very thread.
fn block_in<F: Future>(world: &dyn World, future: F, limit: Option<Duration>) -> Option<F::Output> {
    let (mut future, mut output) = (pin!(future), None);
    let mut poll = |cx: &mut Context<'_>| future.as_mut().poll(cx).map(|value| output = Some(value));
    world.block(&mut poll, limit);
    output
}

fn block_until<F: Future>(future: F, until: Option<Instant>) -> Option<F::Output> {
    let mut future = pin!(future);
    if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        return Some(value);
    }
    #[cfg(not(loom))]
    // A thread whose locals are being dropped has none any more, and may wait all the same.
    let parker = PARKER.try_with(RefCell::take).ok().flatten().unwrap_or_else(Parker::new);
    #[cfg(loom)]
    let parker = Parker::new();
    let mut cx = Context::from_waker(parker.waker());
    let mut is_over = false;
    let value = loop {
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(value) => break Some(value),
            Poll::Pending if is_over => break None,
            Poll::Pending => is_over = !parker.park_until(until),
        }
    };
    #[cfg(not(loom))]
    drop(PARKER.try_with(|kept| kept.replace(Some(parker))));
    value
}
