//! What a part of the bus does for as long as it lives: one step after the other, taken by a thread of its own, or by the
//! world of a simulation.

use super::clock::Clock;
use super::park::{Backoff, Parker};
use crate::sync::thread;
use std::time::Instant;

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Something was done, or is about to come: step again.
    Again,
    /// There is nothing to do until a wake, or until this time.
    Until(Option<Instant>),
    Over,
}

/// A life in steps; whoever takes them was named to it by a waker at its beginning.
pub(crate) trait Life {
    /// Whether its thread looks for a wake for a moment before it sleeps.
    const LOOKS: bool = false;

    fn step(&mut self) -> Step;
}

/// Starts a thread: the one place of the core that does.
pub(crate) fn spawn(
    name: String,
    body: impl FnOnce() + Send + 'static,
) -> std::io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name(name).spawn(body)
}

/// Lives a life on this thread.
pub(crate) fn live<L: Life>(life: &mut L, parker: &Parker, clock: &Clock) {
    loop {
        match life.step() {
            Step::Again => {}
            Step::Until(until) => {
                if L::LOOKS {
                    let mut backoff = Backoff::default();
                    while !parker.is_woken() && !backoff.is_over() {
                        backoff.snooze();
                    }
                }
                // A time that is moved by hand wakes who sleeps.
                parker.park_until(if clock.is_manual() { None } else { until });
            }
            Step::Over => return,
        }
    }
}
