//! Subscriptions: what a program asks for, and the handle that it keeps.

mod arrivals;
mod builder;
mod caught_up;
mod commands;
mod doing;
mod intake;
mod invoke;
mod launch;
mod leased;
mod leasing;
mod leaving;
mod losses;
mod next;
#[cfg(not(feature = "sim"))]
mod observed;
#[cfg(feature = "sim")]
pub(crate) mod observed;
mod positions;
mod prepare;
mod quiet;
mod runner;
mod shared;
mod stuck;
mod telling;
mod timers;
mod waiting;
mod waits;
mod watch;

pub use builder::{Envelopes, Plain, SubscribeError, SubscriptionBuilder};
pub use invoke::OwnedHandler;
pub use waits::WaitError;

use crate::broker::BrokerError;
use crate::bus::connection::{Keep, Stamp, TopicError};
use crate::config::names;
use crate::delivery::partitions::Token;
use crate::foreign;
use crate::observe::health::{Health, Place};
use crate::observe::metrics::Stats;
use crate::observe::report::DrainReport;
use crate::pool::{Key, Pool, WaitingKey, WaitsFor};
use crate::sync::{Arc, Mutex, thread};
use crate::wait::{Op, Promise, spawn};
use commands::{Command, Commands};
use next::Next;
use runner::Delivery;
use shared::{Failing, Shared};
use std::fmt;
use std::time::{Duration, Instant};

/// A running subscription.
///
/// Dropping it ends the subscription without a drain: no further record starts, blocking handlers that run finish in
/// the background, futures are dropped, and what was not settled comes again to whoever takes the group's place. Call
/// [`drain`](Subscription::drain) to let what runs finish.
///
/// ```
/// use keylane::{Record, Subscription};
/// use std::time::Duration;
///
/// # let bus = keylane::connect("memory:?topics=orders").wait()?;
/// let orders: Subscription = bus.subscribe("orders").group("billing").handle(|_| Ok(()))?;
/// bus.publish("orders", Record::new("paid")).wait()?;
/// let report = orders.drain(Duration::from_secs(10)).wait();
/// assert!(report.unsettled.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a subscription ends when it is dropped"]
pub struct Subscription {
    core: Arc<Core>,
}

pub(crate) struct Core {
    shared: Arc<Shared>,
    commands: Arc<Commands>,
    pool: Pool<Delivery>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
    /// With `workers(0)`: a handler that hangs keeps the intake itself from answering a drain.
    handles_on_intake: bool,
}

impl Subscription {
    /// Is over when the subscription has joined its group: what is published from now on reaches it.
    ///
    /// # Errors
    /// When the subscription ended before it had joined.
    pub fn ready(&self) -> Op<Result<(), BrokerError>> {
        self.core.commands.ready()
    }

    /// Takes no further records until [`resume`](Subscription::resume); what was taken is handled. Membership of the
    /// group goes on. Returns at once.
    pub fn pause(&self) {
        self.core.command(Command::Pause(true));
    }

    /// Takes records again. Returns at once.
    pub fn resume(&self) {
        self.core.command(Command::Pause(false));
    }

    /// Ends the subscription: takes no further records, starts no further attempt, lets what runs finish for as long
    /// as `limit` and settles it, commits, and leaves the group. Records that did not start, or wait for a retry, are
    /// left unsettled, and that counts as no attempt; with `at_most_once`, where they are settled already, they are
    /// handled. At the limit futures are dropped and [`Event::cancellation`]
    /// tells blocking handlers; one that still runs 50 ms later is reported and left behind.
    ///
    /// Called again, it waits for the same end.
    ///
    /// [`Event::cancellation`]: crate::Event::cancellation
    pub fn drain(&self, limit: Duration) -> Op<DrainReport> {
        self.core.drain(limit)
    }

    /// Its group, and its topics.
    #[cfg(feature = "sim")]
    pub(crate) fn takes(&self) -> (&str, &[Arc<str>]) {
        (&self.core.shared.group, &self.core.shared.topics)
    }

    /// The counters and gauges now.
    pub fn stats(&self) -> Stats {
        self.core.stats()
    }

    /// What it is doing, and all that stops or slows it now.
    pub fn health(&self) -> Health {
        self.core.shared.health()
    }

    /// Takes note of what its logs have lost: the [`Problem::Lost`](crate::Problem::Lost) that health shows now are shown
    /// no more. What is lost from here on shows again; [`Stats::lost`](crate::Stats::lost) counts on.
    pub fn acknowledge_lost(&self) {
        self.core.shared.losses.lock().acknowledge();
    }

    /// The records that are held for an operator, each at the head of its key; also those whose dead letters were refused,
    /// which are written again and again until an operator decides otherwise.
    pub fn held(&self) -> Vec<Held> {
        let failing = self.core.shared.failing.lock();
        let mut held: Vec<_> = failing
            .iter()
            .filter(|(_, failing)| failing.is_held)
            .map(|(token, Failing { place, error, attempts, since, .. })| Held {
                place: place.clone(),
                error: error.clone(),
                attempts: *attempts,
                since: *since,
                token: *token,
            })
            .collect();
        held.sort_by(|a, b| (a.since, &a.place).cmp(&(b.since, &b.place)));
        held
    }

    /// Attempts a held record again, now. The answer says whether it was still held. Asked by a handler of this
    /// subscription, it is what is known at the call: the handler can't wait for its own worker.
    pub fn retry_held(&self, held: &Held) -> Op<bool> {
        self.core.release_held(held, Next::Attempt)
    }

    /// Gives a held record up: it is settled without success, and its key goes on. The answer is that of
    /// [`retry_held`](Self::retry_held).
    pub fn skip_held(&self, held: &Held) -> Op<bool> {
        self.core.release_held(held, Next::Skip)
    }

    /// Sends a held record to a dead-letter topic; its key goes on when the broker has acknowledged it there. The
    /// answer is that of [`retry_held`](Self::retry_held).
    ///
    /// # Errors
    /// When the topic's name is not valid or the topic does not exist.
    ///
    /// # Blocking
    /// Asks the broker for the topic.
    pub fn dead_letter_held(&self, held: &Held, topic: &str) -> Result<Op<bool>, TopicError> {
        names::topic(topic)?;
        self.core.shared.broker.partitions(topic)?;
        Ok(self.core.release_held(held, Next::DeadLetter { topic: topic.into(), tries: 0 }))
    }
}

/// A record that is held for an operator.
///
/// ```
/// use keylane::{Held, Subscription};
///
/// /// Attempts once more what failed for a reason that may have passed.
/// fn retry_all(subscription: &Subscription, reason: &str) -> usize {
///     let may_pass = |held: &Held| held.error.contains(reason);
///     subscription.held().iter().filter(|held| may_pass(held) && subscription.retry_held(held).wait()).count()
/// }
/// # let bus = keylane::connect("memory:?topics=orders").wait()?;
/// let orders = bus.subscribe_envelopes("orders").group("billing").handle(|_| Ok(()))?;
/// assert_eq!(retry_all(&orders, "disk"), 0, "nothing is held");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Held {
    /// Where it stands, and its key.
    pub place: Place,
    /// Why its last attempt failed.
    pub error: String,
    /// Attempts so far; 0 for bytes that are no Envelope.
    pub attempts: u32,
    /// When it first failed.
    pub since: Instant,
    token: Token,
}

impl Core {
    fn command(&self, command: Command) {
        self.commands.push(command);
        self.shared.wake_intake();
    }

    /// A promise for the intake, whose answer goes to this one; if none comes in time, a thread answers instead.
    fn watched(&self, limit: Duration, promise: Promise<DrainReport>) -> Promise<DrainReport> {
        let (inner, drained) = Op::pending(DrainReport::default);
        let shared = self.shared.clone();
        let watch = move || promise.complete(leaving::drained_or_hung(drained, &shared, limit));
        let name = format!("keylane-{}-end", self.shared.group);
        if let Err(error) = spawn(name, watch) {
            foreign::error!(%error, "the thread that watches over a drain could not be started");
        }
        inner
    }

    fn release_held(&self, held: &Held, next: Next) -> Op<bool> {
        let (token, shared) = (held.token, self.shared.clone());
        let (promise, mut op) = Op::pending(|| false);
        if self.pool.is_running_here() {
            // Its worker is busy with the handler that asks, and whoever waited for it would wait for ever.
            let is_held = shared.failing.lock().get(&token).is_some_and(|failing| failing.is_held);
            op = Op::ready(is_held);
        }
        // One worker finds the record and answers; if none does, the promise is dropped and the answer is no.
        let promise = Mutex::new(Some(promise));
        drop(self.pool.visit(move |waiting, _| {
            let mut found: Option<Key> = None;
            waiting.for_each(&mut |waiting: WaitingKey<'_, Delivery>| {
                // Held, or its dead letter was refused and is to be written again.
                let is_open = match waiting.waits_for {
                    WaitsFor::Operator => true,
                    WaitsFor::Time(_) => matches!(waiting.job.next, Next::DeadLetter { .. }),
                    _ => false,
                };
                if waiting.job.token == token && is_open {
                    waiting.job.next = next.clone();
                    found = Some(waiting.key);
                }
            });
            if let Some(key) = found
                && waiting.run_now(key)
                && let Some(promise) = promise.lock().take()
            {
                if let Some(failing) = shared.failing.lock().get_mut(&token) {
                    (failing.is_held, failing.dead_letter) = (false, None);
                }
                promise.complete(true);
            }
        }));
        op
    }
}

impl Keep for Core {
    fn stats(&self) -> Stats {
        self.shared.stats(self.pool.depths())
    }

    fn health(&self) -> Health {
        self.shared.health()
    }

    fn drain(&self, limit: Duration) -> Op<DrainReport> {
        let (mut promise, op) = Op::pending(DrainReport::default);
        // A manual clock is a test's, and so is the limit then.
        if self.handles_on_intake && !self.shared.clock.is_manual() {
            promise = self.watched(limit, promise);
        }
        self.command(Command::Drain(limit, Some(promise)));
        op
    }

    /// Waits for the intake's thread, unless a handler that hangs keeps it from its end.
    fn join(&self) {
        let thread = self.thread.lock().take().filter(|_| self.commands.has_ended());
        let is_here = |thread: &thread::JoinHandle<()>| thread.thread().id() == thread::current().id();
        if thread.filter(|thread| !is_here(thread)).is_some_and(|thread| thread.join().is_err()) {
            foreign::error!("the thread of a subscription panicked");
        }
    }

    fn quiet(&self) -> Op<Stamp> {
        let op = self.shared.waits.quiet();
        self.shared.wake_intake();
        op
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if self.core.commands.has_ended() {
            // After a drain its thread is on its last steps.
            self.core.join();
        } else {
            self.core.command(Command::Drain(Duration::ZERO, None));
        }
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("group", &self.core.shared.group)
            .field("health", &self.core.shared.health())
            .finish_non_exhaustive()
    }
}
