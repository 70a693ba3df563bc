//! What a program may wait for: that a subscription has caught up, or that a condition on its counters holds. Here is
//! what the handle and the intake share; what the intake looks at is in `caught_up` and `quiet`.

use super::Subscription;
use crate::broker::BrokerError;
use crate::bus::connection::Stamp;
use crate::foreign;
use crate::observe::metrics::Stats;
use crate::sync::{AtomicBool, Mutex, Ordering};
use crate::wait::{Op, Promise};
use std::collections::HashMap;

/// Why a wait ended before what was waited for had come.
///
/// ```
/// use keylane::{Record, WaitError};
///
/// # let bus = keylane::connect("memory:?topics=orders").wait()?;
/// let orders = bus.subscribe("orders").group("billing").handle(|_| Ok(()))?;
/// orders.pause();
/// bus.settled().wait()?;
/// bus.publish("orders", Record::new("paid")).wait()?;
/// assert_eq!(orders.caught_up().wait(), Err(WaitError::Paused));
/// orders.resume();
/// assert_eq!(orders.caught_up().wait(), Ok(()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The subscription was drained or dropped, or its bus closed.
    #[error("the subscription ended before what was waited for had come")]
    Ended,
    /// The subscription stopped by itself, with this error.
    #[error("the subscription stopped before what was waited for had come: {0}")]
    Halted(String),
    /// The subscription is paused, and what is left was not taken before it was.
    #[error("the subscription is paused, and what is stored is not taken before it is resumed")]
    Paused,
    /// The condition panicked, with this message.
    #[error("the condition panicked: {0}")]
    Panicked(String),
    /// The broker does not say how far its topics go, or how far the group is; another try gives the same answer.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

impl Subscription {
    /// Is over when everything that was stored in its topics at the call is over for the group: handled, dead-lettered
    /// or discarded, and settled. What other members of the group have counts, too.
    ///
    /// Of the partitions that this member has, a record is over when it is settled here, before its position is
    /// committed: a crash right after may bring it again. Of other members' partitions it is what the broker knows of
    /// them: in memory at once, and a remote broker is asked ten times in a second while somebody waits. With
    /// [`at_most_once`], where records are settled first, this member's have ended, and other members' have begun.
    ///
    /// A record that is tried again and again, or held for an operator, is not over; neither is what a member that is
    /// paused elsewhere has not taken. [`wait_timeout`](Op::wait_timeout) bounds the wait.
    ///
    /// On Kafka, where a partition of another member ends with what is no record (the end of a transaction), it is over
    /// with the next record of that partition.
    ///
    /// On JetStream it needs the permission to publish to `$JS.API.STREAM.INFO.*`, `$JS.API.CONSUMER.INFO.*.*` and, where
    /// topics share a stream, `$JS.API.STREAM.MSG.GET.*`. The server does not answer what it does not permit, so that it
    /// is asked again and again.
    ///
    /// [`at_most_once`]: crate::SubscriptionBuilder::at_most_once
    ///
    /// # Errors
    /// When the subscription ends or stops before that, when it is paused and what is left was not taken before, and
    /// when the broker refuses to say how far it is. A broker that can't be reached is asked again.
    ///
    /// ```
    /// # use keylane::Record;
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// for _ in 0..100 {
    ///     bus.publish("orders", Record::new("paid")).wait()?;
    /// }
    /// let orders = bus.subscribe("orders").group("billing").handle(|_| Ok(()))?;
    /// orders.caught_up().wait()?;
    /// assert_eq!(orders.stats().succeeded, 100);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn caught_up(&self) -> Op<Result<(), WaitError>> {
        let shared = &self.core.shared;
        match shared.waits.ask(Wanted::CaughtUp) {
            Ok(op) => {
                shared.wake_intake();
                op
            }
            Err((error, _)) => Op::ready(Err(error)),
        }
    }

    /// Is over when the condition holds of the subscription's [`stats`](Self::stats). It is looked at on the
    /// subscription's thread, at once and whenever a counter or a gauge changes.
    ///
    /// Dropping the operation takes the condition back.
    ///
    /// # Errors
    /// When the subscription ends or stops first, after a last look; when the condition panics.
    ///
    /// # Blocking
    /// A condition that blocks holds up the subscription.
    ///
    /// ```
    /// use keylane::{Envelope, Then};
    ///
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// let builder = bus.subscribe_envelopes("orders").group("billing").then(Then::Discard);
    /// let orders = builder.handle(|_| Err(keylane::HandlerError::terminal("no such account")))?;
    /// bus.publish("orders", Envelope::new("order-42", "order.paid", 1, "995")?).wait()?;
    /// orders.until(|stats| stats.discarded == 1).wait()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn until(&self, condition: impl FnMut(&Stats) -> bool + Send + 'static) -> Op<Result<(), WaitError>> {
        let shared = &self.core.shared;
        match shared.waits.ask(Wanted::Until(Box::new(condition))) {
            Ok(op) => {
                shared.wake_intake();
                op
            }
            Err((error, Wanted::Until(mut condition))) => {
                let looked = look(&mut condition, &self.core.shared.stats(self.core.pool.depths()));
                foreign::discard(condition);
                Op::ready(looked.unwrap_or(Err(error)))
            }
            Err((error, _)) => Op::ready(Err(error)),
        }
    }
}

pub(super) type Condition = Box<dyn FnMut(&Stats) -> bool + Send>;

/// What the intake is asked to wait for.
pub(crate) enum Wanted {
    CaughtUp,
    Until(Condition),
}

/// The answer to who waits for the condition, if there is one.
pub(super) fn look(condition: &mut Condition, stats: &Stats) -> Option<Result<(), WaitError>> {
    match foreign::call(|| condition(stats)) {
        Ok(holds) => holds.then_some(Ok(())),
        Err(panic) => Some(Err(WaitError::Panicked(panic))),
    }
}

/// What the handle, the workers and the intake share of the waits.
#[derive(Default)]
pub(crate) struct Waits {
    asked: Mutex<Asked>,
    is_watched: AtomicBool,
    has_changed: AtomicBool,
}

#[derive(Default)]
struct Asked {
    last: u64,
    /// Not taken by the intake yet.
    wanted: Vec<(u64, Wanted)>,
    probes: Vec<Promise<Stamp>>,
    /// Kept here, so that they are answered also where the intake hangs in a handler.
    promises: HashMap<u64, Promise<Result<(), WaitError>>>,
    ended: Option<WaitError>,
}

impl Waits {
    /// Notes a wait; whoever asks wakes the intake afterwards. When it has ended the wait is given back, with why.
    fn ask(&self, wanted: Wanted) -> Result<Op<Result<(), WaitError>>, (WaitError, Wanted)> {
        let mut asked = self.asked.lock();
        if let Some(error) = asked.ended.clone() {
            drop(asked);
            return Err((error, wanted));
        }
        let (promise, op) = Op::pending(|| Err(WaitError::Ended));
        asked.last += 1;
        let id = asked.last;
        asked.promises.insert(id, promise);
        asked.wanted.push((id, wanted));
        Ok(op)
    }

    /// Is over when nothing of the subscription moves without time going on, and says how much has moved until then.
    pub(crate) fn quiet(&self) -> Op<Stamp> {
        let (promise, op) = Op::pending(Stamp::default);
        let mut asked = self.asked.lock();
        if asked.ended.is_none() {
            asked.probes.push(promise);
        }
        op
    }

    pub(super) fn take(&self) -> (Vec<(u64, Wanted)>, Vec<Promise<Stamp>>) {
        let mut asked = self.asked.lock();
        (std::mem::take(&mut asked.wanted), std::mem::take(&mut asked.probes))
    }

    pub(super) fn answer(&self, id: u64, result: Result<(), WaitError>) {
        let promise = self.asked.lock().promises.remove(&id);
        if let Some(promise) = promise {
            promise.complete(result);
        }
    }

    /// Whether nobody waits for this any more.
    pub(super) fn is_given_up(&self, id: u64) -> bool {
        let mut asked = self.asked.lock();
        let is_given_up = asked.promises.get(&id).is_none_or(Promise::is_detached);
        let promise = if is_given_up { asked.promises.remove(&id) } else { None };
        drop(asked);
        drop(promise);
        is_given_up
    }

    /// The subscription has ended: what was waited for does not come any more.
    pub(super) fn end(&self, error: &WaitError) {
        let mut asked = self.asked.lock();
        let Asked { wanted, probes, promises, .. } = std::mem::take(&mut *asked);
        asked.ended = Some(error.clone());
        drop(asked);
        foreign::discard(wanted);
        promises.into_values().for_each(|promise| promise.complete(Err(error.clone())));
        drop(probes);
    }

    /// Whether a change on a worker is told to the intake although nothing is over.
    pub(super) fn is_watched(&self) -> bool {
        // ORDERING: Relaxed; every worker runs a turn by a visit after this was set, and so sees it from that turn on,
        // in which it tells what has changed before.
        self.is_watched.load(Ordering::Relaxed)
    }

    pub(super) fn watch(&self, is_watched: bool) {
        // ORDERING: Relaxed; see `is_watched`.
        self.is_watched.store(is_watched, Ordering::Relaxed);
    }

    /// Something has changed on a worker, which wakes the intake next.
    pub(super) fn changed(&self) {
        // ORDERING: Release pairs with the Acquire of `take_changed`.
        self.has_changed.store(true, Ordering::Release);
    }

    pub(super) fn take_changed(&self) -> bool {
        // ORDERING: Acquire pairs with the Release of `changed`: a visit that is begun now sees what has changed.
        self.has_changed.swap(false, Ordering::Acquire)
    }
}
