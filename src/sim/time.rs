//! How handlers take time in a simulation.

use super::world::Inner;
use crate::wait::world::World as _;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Is over after this much time of the calling thread's world; for async handlers.
///
/// # Panics
/// Outside of a simulation.
///
/// ```
/// use keylane::sim;
/// use std::time::Duration;
///
/// let world = sim::World::new(1);
/// let sleep = sim::sleep(Duration::from_secs(3_600));
/// # let _ = sleep;
/// ```
pub fn sleep(time: Duration) -> Sleep {
    let world = super::here();
    Sleep { until: world.now() + time, number: world.new_timer(), world }
}

/// Keeps the thread of a blocking handler busy for this much time of its world; the others go on meanwhile.
///
/// They are stepped inside of the call, so a dozen such handlers at most are busy at once; a further one is done at
/// once.
///
/// # Panics
/// Outside of a simulation.
pub fn busy(time: Duration) {
    let world = super::here();
    if world.has_depth() {
        world.block(&mut |_| Poll::Pending, Some(time));
    }
}

/// A number below `end`, by the seed of the calling thread's world.
///
/// # Panics
/// Outside of a simulation, and when `end` is 0.
pub fn number(end: u64) -> u64 {
    super::here().draw(end)
}

/// A wait by a world's time; made by [`sleep`]. It is bound to its thread, so a handler's future makes it where it awaits
/// it.
pub struct Sleep {
    until: Instant,
    number: u64,
    world: Rc<Inner>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.world.now() >= self.until {
            return Poll::Ready(());
        }
        self.world.wake_at(self.until, self.number, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.world.forget(self.until, self.number);
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleep").finish_non_exhaustive()
    }
}
