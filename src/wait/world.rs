//! Who takes the steps where there are no threads: the world of a simulation, which belongs to its thread.

use super::clock::Clock;
use super::life::Step;
use std::future::Future;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Takes a step; dropped when the life is over.
pub(crate) type Stepped = Box<dyn FnMut() -> Step>;

/// A simulation, as those see it whose threads it stands for.
pub(crate) trait World {
    /// Takes on what would be a thread. It begins with its first step, and is stepped when its waker was woken or its time
    /// has come, and only then.
    fn adopt(&self, name: String, begin: Box<dyn FnOnce(Waker) -> Stepped>);

    /// Steps others until `poll` is ready, or for as long as `limit`: what a thread that blocks is for the others. Whether
    /// it is ready.
    fn block(&self, poll: &mut dyn FnMut(&mut Context<'_>) -> Poll<()>, limit: Option<Duration>) -> bool;

    /// How many jobs a worker takes in its next turn, at most.
    fn batch(&self) -> usize;
}

/// The world that steps what goes by this clock.
///
/// # Panics
/// When the clock is simulated and this is not the thread of its world.
pub(crate) fn of(clock: &Clock) -> Option<Rc<dyn World>> {
    if !clock.is_simulated() {
        return None;
    }
    Some(current().expect("what lives on a simulated clock stays on the thread of its simulation"))
}

/// The world of the calling thread.
pub(crate) fn current() -> Option<Rc<dyn World>> {
    #[cfg(feature = "sim")]
    return CURRENT.try_with(|current| current.borrow().clone()).ok().flatten();
    #[cfg(not(feature = "sim"))]
    None
}

/// Makes it the calling thread's, in place of the one before.
#[cfg(feature = "sim")]
pub(crate) fn set(world: Option<Rc<dyn World>>) {
    drop(CURRENT.replace(world));
}

#[cfg(feature = "sim")]
thread_local! {
    static CURRENT: std::cell::RefCell<Option<Rc<dyn World>>> = const { std::cell::RefCell::new(None) };
}

/// A future as a life.
pub(crate) fn adopt_future(world: &dyn World, name: String, future: impl Future<Output = ()> + 'static) {
    let begin = move |waker: Waker| -> Stepped {
        let mut future = Box::pin(future);
        Box::new(move || match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(()) => Step::Over,
            Poll::Pending => Step::Until(None),
        })
    };
    world.adopt(name, Box::new(begin));
}
