//! What every operation that waits returns: a value that is a `Future` and has `.wait()`.

use super::block::{block_on, block_on_timeout, look_until};
use super::completion::{Ask, Completion, completion};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// An operation under way: a future that any runtime can await, and that a plain thread can [`wait`](Op::wait) for.
///
/// The operation began when the call that returned this was made; dropping it does not undo it. No runtime is
/// involved: whoever completes the operation wakes the task or the thread.
///
/// ```
/// let bus = keylane::connect("memory:").wait()?;
/// let report = bus.close(std::time::Duration::from_secs(1)).wait();
/// assert!(report.unacknowledged == 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "an operation is under way; await it or call `.wait()` to learn how it ended"]
pub struct Op<T>(State<T>);

enum State<T> {
    Ready(Option<T>),
    Pending { answer: Completion<(), T>, if_abandoned: fn() -> T },
}

impl<T> Unpin for Op<T> {}

impl<T> Op<T> {
    /// An operation that is over already.
    pub(crate) fn ready(value: T) -> Self {
        Self(State::Ready(Some(value)))
    }

    /// An operation and the side that completes it. Dropped without completing, it answers `if_abandoned`.
    pub(crate) fn pending(if_abandoned: fn() -> T) -> (Promise<T>, Self) {
        let (ask, answer) = completion((), 0);
        ask.start();
        (Promise(ask), Self(State::Pending { answer, if_abandoned }))
    }

    /// Whether the operation is over, so that awaiting it does not wait.
    pub fn is_done(&self) -> bool {
        match &self.0 {
            State::Ready(_) => true,
            State::Pending { answer, .. } => answer.is_done(),
        }
    }

    /// Blocks the calling thread until the operation is over, and returns its result.
    ///
    /// # Blocking
    /// For as long as the operation takes; async code awaits it instead.
    pub fn wait(mut self) -> T {
        look_until(|| self.is_done());
        block_on(&mut self)
    }

    /// Blocks until the operation is over, or for as long as `limit`.
    ///
    /// # Errors
    /// The operation itself when the time is over first; it goes on.
    ///
    /// # Blocking
    /// For as long as `limit`.
    ///
    /// ```
    /// # use keylane::{Config, Record, memory::MemoryBroker};
    /// # use std::time::Duration;
    /// # let broker = MemoryBroker::builder().topic("orders").build();
    /// # let bus = broker.connect(Config::default())?;
    /// broker.faults().pause_deliveries(true);
    /// let publish = bus.publish("orders", Record::new("paid"));
    /// let publish = publish.wait_timeout(Duration::from_millis(1)).expect_err("the broker has not answered");
    /// broker.faults().pause_deliveries(false);
    /// assert!(publish.wait().is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait_timeout(mut self, limit: Duration) -> Result<T, Self> {
        block_on_timeout(&mut self, limit).ok_or(self)
    }
}

impl<T> Future for Op<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match &mut self.0 {
            State::Ready(value) => {
                Poll::Ready(value.take().expect("an operation was polled after it was over"))
            }
            State::Pending { answer, if_abandoned } => {
                let answer = std::task::ready!(Pin::new(answer).poll(cx));
                Poll::Ready(answer.unwrap_or_else(|_| if_abandoned()))
            }
        }
    }
}

impl<T> fmt::Debug for Op<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Op").field("is_done", &self.is_done()).finish_non_exhaustive()
    }
}

/// The side that completes an [`Op`].
pub(crate) struct Promise<T>(Ask<(), T>);

impl<T> Promise<T> {
    /// Whether the operation was dropped: nobody waits for it.
    pub(crate) fn is_detached(&self) -> bool {
        self.0.is_detached()
    }

    pub(crate) fn complete(self, value: T) {
        self.0.finish(Ok(value));
    }

    /// The operation is over from here on, also where a lock is held; who waits for it is woken when it is not, with
    /// [`foreign::wake`](crate::foreign::wake).
    pub(crate) fn complete_quietly(self, value: T) -> Option<Waker> {
        self.0.finish_quietly(Ok(value))
    }
}
