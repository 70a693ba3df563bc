//! What became of records that were sent without anybody waiting for each of them.

use super::{Inner, PublishError, Receipt};
use crate::foreign;
use crate::sync::Arc;
use crate::wait::{Wakers, block_on};
use bytes::Bytes;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// What became of a record that was [sent](crate::Bus::send).
///
/// ```
/// # use keylane::Record;
/// # let bus = keylane::connect("memory:?topics=orders").wait()?;
/// let mut outcomes = bus.outcomes();
/// bus.send("orders", Record::new("paid").with_key("order-42")).wait()?;
/// let outcome = outcomes.recv().wait().expect("the bus is open");
/// assert_eq!((outcome.topic(), outcome.key()), ("orders", Some(&b"order-42"[..])));
/// assert_eq!(outcome.into_result()?.offset(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Outcome {
    pub(super) topic: Arc<str>,
    pub(super) key: Option<Bytes>,
    pub(super) result: Result<Receipt, PublishError>,
}

impl Outcome {
    /// Where it was sent.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Its key.
    pub fn key(&self) -> Option<&[u8]> {
        self.key.as_deref()
    }

    /// Where it is stored, or why it is not.
    ///
    /// # Errors
    /// Why it is not.
    pub fn result(&self) -> Result<&Receipt, &PublishError> {
        self.result.as_ref()
    }

    /// Where it is stored, or why it is not.
    ///
    /// # Errors
    /// Why it is not.
    pub fn into_result(self) -> Result<Receipt, PublishError> {
        self.result
    }
}

/// The outcomes of all that is [sent](crate::Bus::send), in the order of the broker's answers; from
/// [`Bus::outcomes`](crate::Bus::outcomes).
///
/// While one exists, every outcome is kept until it is read, and holds its record's place among those that may be
/// under way (`publisher.records`): who sends and never reads comes to wait, and nothing is dropped. Several share
/// what there is.
///
/// ```
/// # use keylane::Record;
/// # let bus = keylane::connect("memory:?topics=orders").wait()?;
/// let mut outcomes = bus.outcomes();
/// for n in 0..3 {
///     bus.send("orders", Record::new(n.to_string())).wait()?;
/// }
/// bus.close(std::time::Duration::from_secs(10)).wait();
/// let mut stored = 0;
/// while let Some(outcome) = outcomes.recv().wait() {
///     stored += usize::from(outcome.result().is_ok());
/// }
/// assert_eq!(stored, 3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Outcomes {
    publisher: Arc<Inner>,
    /// Its number among those that wait.
    waiter: Option<u64>,
}

/// What is kept until it is read.
#[derive(Default)]
pub(super) struct Unread {
    pub(super) readers: usize,
    pub(super) queue: VecDeque<Outcome>,
    pub(super) waiting: Wakers,
}

impl Outcomes {
    /// The next outcome; none when the bus is closed and all were read.
    ///
    /// ```
    /// # use keylane::Record;
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// let mut outcomes = bus.outcomes();
    /// bus.send("orders", Record::new("paid")).wait()?;
    /// bus.close(std::time::Duration::from_secs(10)).wait();
    /// assert!(outcomes.recv().wait().is_some_and(|outcome| outcome.result().is_ok()));
    /// assert!(outcomes.recv().wait().is_none(), "all were read");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn recv(&mut self) -> NextOutcome<'_> {
        NextOutcome(self)
    }
}

impl Drop for Outcomes {
    fn drop(&mut self) {
        self.publisher.leave_outcomes(self.waiter);
    }
}

impl fmt::Debug for Outcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outcomes").finish_non_exhaustive()
    }
}

/// Waits for an outcome; from [`Outcomes::recv`]. Dropping it loses none.
///
/// ```
/// # use keylane::Record;
/// # let bus = keylane::connect("memory:?topics=orders").wait()?;
/// let mut outcomes = bus.outcomes();
/// bus.send("orders", Record::new("paid")).wait()?;
/// let outcome = smol::block_on(async { outcomes.recv().await });
/// assert!(outcome.is_some_and(|outcome| outcome.result().is_ok()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "await it or call `.wait()`"]
#[derive(Debug)]
pub struct NextOutcome<'a>(&'a mut Outcomes);

impl NextOutcome<'_> {
    /// Blocks the calling thread until there is one.
    ///
    /// # Blocking
    /// Until the broker answers the next record that is sent, or the bus is closed.
    ///
    /// ```
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// let mut outcomes = bus.outcomes();
    /// bus.close(std::time::Duration::from_secs(10)).wait();
    /// assert!(outcomes.recv().wait().is_none(), "nothing was sent");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait(self) -> Option<Outcome> {
        block_on(self)
    }
}

impl Future for NextOutcome<'_> {
    type Output = Option<Outcome>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Outcomes { publisher, waiter } = &mut *self.0;
        publisher.poll_outcome(waiter, cx.waker())
    }
}

impl Inner {
    pub(super) fn outcomes(self: &Arc<Self>) -> Outcomes {
        self.state.lock().unread.readers += 1;
        Outcomes { publisher: self.clone(), waiter: None }
    }

    fn poll_outcome(self: &Arc<Self>, waiter: &mut Option<u64>, waker: &Waker) -> Poll<Option<Outcome>> {
        let waker = waker.clone();
        let mut state = self.state.lock();
        let found = state.unread.queue.pop_front();
        if found.is_none() && !state.is_over {
            let unneeded = state.unread.waiting.wait(waiter, waker);
            drop(state);
            drop(unneeded);
            return Poll::Pending;
        }
        if found.is_some() {
            let mut out = Vec::new();
            state.give_back_places(1, &mut out);
            self.carry_out(state, out);
        } else {
            drop(state);
        }
        foreign::discard(waker);
        Poll::Ready(found)
    }

    fn leave_outcomes(self: &Arc<Self>, waiter: Option<u64>) {
        let mut state = self.state.lock();
        state.unread.readers -= 1;
        let unneeded = waiter.map(|id| state.unread.waiting.withdraw(id));
        if state.unread.readers > 0 {
            drop(state);
            return drop(unneeded);
        }
        let left = std::mem::take(&mut state.unread.queue);
        let mut out = Vec::new();
        state.give_back_places(left.len(), &mut out);
        self.carry_out(state, out);
        drop(unneeded);
        left.iter().for_each(tell_of_failure);
    }
}

/// A failure that nobody reads is at least said.
pub(super) fn tell_of_failure(outcome: &Outcome) {
    if let Err(error) = &outcome.result {
        let key = outcome.key.as_deref().map(String::from_utf8_lossy);
        foreign::error!(topic = &*outcome.topic, key = key.as_deref(), %error, "a record that was sent is not stored");
    }
}
