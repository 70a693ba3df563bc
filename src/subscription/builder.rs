//! What a program says before a subscription starts; everything is checked before the first byte of I/O.

use super::Subscription;
use super::invoke::{Asynchronous, Owned, OwnedHandler, Shared as SharedHandler};
use crate::broker::{BrokerError, Start};
use crate::bus::connection::Connection;
use crate::config::{SubscriptionConfig, Workers};
use crate::error::NameError;
use crate::event::Event;
use crate::handler::HandlerError;
use crate::policy::{FailurePolicy, PolicyError, Retry, Then};
use crate::pool::{Enter, Idle, PoolError};
use crate::route::Route;
use crate::sync::Arc;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::time::Duration;

/// Marks a subscription to Envelopes: never lost, retried, in order through every failure.
///
/// ```
/// use keylane::{Envelopes, Retry, SubscriptionBuilder, Then};
///
/// fn three_times(builder: SubscriptionBuilder<Envelopes>) -> SubscriptionBuilder<Envelopes> {
///     builder.retry(Retry::forever().attempts(3)).then(Then::Discard)
/// }
/// # let bus = keylane::connect("memory:?topics=orders").wait()?;
/// let orders = three_times(bus.subscribe_envelopes("orders").group("billing")).handle(|_| Ok(()))?;
/// assert!(orders.ready().wait().is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub enum Envelopes {}

/// Marks a subscription to plain records: settled when their handler ends, whatever the outcome.
///
/// ```
/// use keylane::{Plain, Start, SubscriptionBuilder};
///
/// fn live(builder: SubscriptionBuilder<Plain>) -> SubscriptionBuilder<Plain> {
///     builder.start(Start::Latest).at_most_once()
/// }
/// # let bus = keylane::connect("memory:?topics=ticks").wait()?;
/// let ticks = live(bus.subscribe("ticks").group("dashboard")).handle(|_| Ok(()))?;
/// assert!(ticks.ready().wait().is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub enum Plain {}

/// A subscription that is being described; [`handle`](Self::handle), [`handle_owned`](Self::handle_owned) or
/// [`handle_async`](Self::handle_async) starts it. What is not said comes from the bus's configuration.
///
/// ```
/// use keylane::{DeadLetter, Envelope, Retry, Route, Start, pool::Idle};
/// use std::time::Duration;
///
/// # let bus = keylane::connect("memory:?topics=orders,payments,orders.dead").wait()?;
/// let orders = bus
///     .subscribe_envelopes("orders")
///     .topic("payments")
///     .group("billing")
///     .start(Start::Earliest)
///     .workers(4)
///     .in_flight_records(1_000)
///     .in_flight_bytes(16 << 20)
///     .watermark_distance(10_000)
///     .max_record_bytes(64 << 10)
///     .drain_timeout(Duration::from_secs(5))
///     .commit_interval(Duration::from_millis(100))
///     .hung_after(Duration::from_secs(60))
///     .idle(Idle::Park)
///     .route(Route::Envelope)
///     .retry(Retry::forever().attempts(5))
///     .then(DeadLetter::to("orders.dead"))
///     .handle(|_| Ok(()))?;
/// bus.publish("payments", Envelope::new("order-42", "order.paid", 1, "995")?).wait()?;
/// orders.drain(Duration::from_secs(10)).wait();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a subscription starts when it is given its handler"]
pub struct SubscriptionBuilder<K> {
    pub(super) connection: Connection,
    pub(super) topics: Vec<String>,
    pub(super) group: Option<String>,
    pub(super) start: Start,
    pub(super) settings: SubscriptionConfig,
    pub(super) policy: FailurePolicy,
    pub(super) route: Route,
    pub(super) enter: Option<Enter>,
    pub(super) is_at_most_once: bool,
    pub(super) takes_envelopes: bool,
    _kind: PhantomData<K>,
}

/// Why a subscription did not start.
///
/// ```
/// use keylane::SubscribeError;
///
/// # let bus = keylane::connect("memory:?topics=orders").wait()?;
/// let refused = bus.subscribe("orders").handle(|_| Ok(()));
/// assert!(matches!(refused, Err(SubscribeError::NoGroup { topic }) if topic == "orders"));
/// let refused = bus.subscribe("orders").group("billing").in_flight_records(0).handle(|_| Ok(()));
/// assert_eq!(refused.unwrap_err().to_string(), "`in_flight_records` is 0; expected 1 to 1048576");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The name of a topic, the group or a header is not valid.
    #[error(transparent)]
    Name(#[from] NameError),
    /// No group was given: two subscriptions without one would share their records unnoticed.
    #[error("the subscription to `{topic}` has no consumer group; name one with `.group(\"...\")`")]
    NoGroup {
        /// Its first topic.
        topic: String,
    },
    /// The failure policy contradicts itself.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A number is out of its range.
    #[error("`{setting}` is {value}; expected {expected}")]
    OutOfRange {
        /// Its name.
        setting: &'static str,
        /// What was given.
        value: String,
        /// What is accepted.
        expected: &'static str,
    },
    /// The backend cannot do what was asked; it never does less silently.
    #[error("the {system} backend can't {what}")]
    Unsupported {
        /// The backend.
        system: &'static str,
        /// What was asked.
        what: &'static str,
    },
    /// The broker refused.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The workers could not be started.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The system refused the subscription's thread.
    #[error("the thread of the subscription could not be started")]
    Thread(#[source] std::io::Error),
}

impl<K> SubscriptionBuilder<K> {
    pub(crate) fn new(
        connection: Connection,
        topic: String,
        policy: FailurePolicy,
        takes_envelopes: bool,
    ) -> Self {
        let settings = connection.config().subscription.clone();
        Self {
            connection,
            topics: vec![topic],
            group: None,
            start: Start::default(),
            settings,
            policy,
            route: Route::Auto,
            enter: None,
            is_at_most_once: false,
            takes_envelopes,
            _kind: PhantomData,
        }
    }

    /// One topic more. A key that occurs in several topics of one subscription is handled one record at a time.
    pub fn topic(mut self, topic: impl Into<String>) -> Self {
        self.topics.push(topic.into());
        self
    }

    /// The consumer group, whose position outlives the subscription. Needed.
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// Where a group without a position begins. Default: with the oldest record that is kept.
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// Worker threads, 0 to 1,024. 0: records are handled on the thread that delivers them, one at a time; nothing is
    /// fetched meanwhile. Default: as many as the machine has cores.
    pub fn workers(mut self, workers: usize) -> Self {
        self.settings.workers = Workers::Count(workers);
        self
    }

    /// How many records may be delivered and not settled. Default: 4,096.
    pub fn in_flight_records(mut self, records: usize) -> Self {
        self.settings.in_flight_records = records;
        self
    }

    /// How many bytes of records may be delivered and not settled; one record always may. Default: 64 MiB.
    pub fn in_flight_bytes(mut self, bytes: usize) -> Self {
        self.settings.in_flight_bytes = bytes;
        self
    }

    /// How far, in records, a partition may be delivered beyond its first unsettled record. Default: 100,000.
    pub fn watermark_distance(mut self, records: usize) -> Self {
        self.settings.watermark_distance = records;
        self
    }

    /// The longest record that is handled; a longer one is a terminal failure. Default: 1 MiB.
    pub fn max_record_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_record_bytes = bytes;
        self
    }

    /// How long what runs may take to end when a partition moves to another member. Default: 10 s.
    pub fn drain_timeout(mut self, limit: Duration) -> Self {
        self.settings.drain_timeout = limit;
        self
    }

    /// How often the position is committed. Default: at each turn where that is no round trip (memory), else 20 ms
    /// (Kafka), and less often where the broker takes more than 10 ms to answer: a commit is under way for half of the
    /// time at most, and begins 200 ms after the last answer at the latest.
    pub fn commit_interval(mut self, interval: Duration) -> Self {
        self.settings.commit_interval = Some(interval);
        self
    }

    /// After how long a blocking handler that still runs shows in health. Default: 30 s.
    pub fn hung_after(mut self, limit: Duration) -> Self {
        self.settings.hung_after = limit;
        self
    }

    /// After how long an async handler is stopped and counts as failed. Default: never.
    pub fn deadline(mut self, limit: Duration) -> Self {
        self.settings.handler_deadline = Some(limit);
        self
    }

    /// What an idle worker does before it parks. Default: [`Idle::Adaptive`].
    pub fn idle(mut self, idle: Idle) -> Self {
        self.settings.idle = idle;
        self
    }

    /// Where that is found by which a record is ordered. Default: the first that is there of an Envelope's aggregate id, the
    /// header `X-Aggregate-ID`, the key of the record, its subject; see [`Route::Auto`](crate::Route::Auto).
    pub fn route(mut self, route: Route) -> Self {
        self.route = route;
        self
    }

    /// Runs each worker's thread inside a context, so that futures find their runtime: see
    /// [`PoolBuilder::enter`](crate::pool::PoolBuilder::enter).
    pub fn enter(mut self, enter: impl Fn(&mut dyn FnMut()) + Send + Sync + 'static) -> Self {
        self.enter = Some(Arc::new(enter));
        self
    }

    /// Starts with one handler that all workers share.
    ///
    /// # Errors
    /// What is wrong with the description, or why the broker or the system refused it; nothing has started then.
    ///
    /// # Blocking
    /// Asks the broker for the topics.
    ///
    /// ```
    /// use keylane::Record;
    ///
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// let (paid, orders_paid) = std::sync::mpsc::channel();
    /// let orders = bus.subscribe("orders").group("billing").handle(move |event| {
    ///     let order = event.aggregate_id().ok_or("a record without an order")?;
    ///     Ok(paid.send(order.to_owned())?)
    /// })?;
    /// bus.publish("orders", Record::new("paid").with_key("order-42")).wait()?;
    /// assert_eq!(orders_paid.recv()?, "order-42");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn handle(
        self,
        handler: impl Fn(&Event) -> Result<(), HandlerError> + Send + Sync + 'static,
    ) -> Result<Subscription, SubscribeError> {
        let handler = Arc::new(handler);
        self.launch(move || SharedHandler(handler.clone()))
    }

    /// Starts with a handler for each worker, made by `make` on the worker's thread before its first record and made
    /// anew after a panic. A key is always on the same worker, so that state per aggregate needs no lock.
    ///
    /// # Errors
    /// As [`handle`](Self::handle).
    ///
    /// # Blocking
    /// Asks the broker for the topics.
    ///
    /// ```
    /// use keylane::{Event, Record};
    /// use std::collections::HashMap;
    ///
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// # let (tell, told) = std::sync::mpsc::channel();
    /// let orders = bus.subscribe("orders").group("billing").handle_owned(move || {
    ///     let (mut totals, tell) = (HashMap::<String, u64>::new(), tell.clone());
    ///     move |event: &Event| {
    ///         let order = event.aggregate_id().ok_or("a record without an order")?;
    ///         let total = totals.entry(order.to_owned()).or_default();
    ///         *total += std::str::from_utf8(event.value())?.parse::<u64>()?;
    ///         Ok(tell.send(*total)?)
    ///     }
    /// })?;
    /// bus.publish("orders", Record::new("5").with_key("order-42")).wait()?;
    /// bus.publish("orders", Record::new("7").with_key("order-42")).wait()?;
    /// assert_eq!([told.recv()?, told.recv()?], [5, 12]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn handle_owned<H: OwnedHandler>(
        self,
        make: impl Fn() -> H + Send + Sync + 'static,
    ) -> Result<Subscription, SubscribeError> {
        let make = Arc::new(make);
        self.launch(move || Owned::new(make.clone()))
    }

    /// Starts with a handler that returns futures, polled by the workers themselves: one per key at a time, thousands
    /// at once, none of which has to be `Send`.
    ///
    /// # Errors
    /// As [`handle`](Self::handle).
    ///
    /// # Blocking
    /// Asks the broker for the topics.
    ///
    /// ```
    /// use keylane::Record;
    ///
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// async fn charge(cents: u64) -> Result<u64, std::io::Error> {
    ///     if cents > 0 { Ok(cents) } else { Err(std::io::Error::other("nothing to charge")) }
    /// }
    /// let (charged, all_charged) = std::sync::mpsc::channel();
    /// let orders = bus.subscribe("orders").group("billing").handle_async(move |event| {
    ///     let charged = charged.clone();
    ///     async move {
    ///         let cents = std::str::from_utf8(event.value())?.parse()?;
    ///         Ok(charged.send(charge(cents).await?)?)
    ///     }
    /// })?;
    /// bus.publish("orders", Record::new("995")).wait()?;
    /// assert_eq!(all_charged.recv()?, 995);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn handle_async<F>(
        self,
        handler: impl Fn(Event) -> F + Send + Sync + 'static,
    ) -> Result<Subscription, SubscribeError>
    where
        F: Future<Output = Result<(), HandlerError>> + 'static,
    {
        let handler = Arc::new(handler);
        self.launch(move || Asynchronous(handler.clone()))
    }
}

impl SubscriptionBuilder<Envelopes> {
    /// How a failed Envelope is tried again. Default: for ever, from 100 ms to 30 s, with full jitter.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.policy.retry = retry;
        self
    }

    /// What follows when the attempts are over, or the error is terminal. Default: [`Then::Hold`].
    pub fn then(mut self, then: impl Into<Then>) -> Self {
        self.policy.then = then.into();
        self
    }
}

impl SubscriptionBuilder<Plain> {
    /// Settles each record before its handler starts, so that a crash loses what was running rather than repeats it.
    pub fn at_most_once(mut self) -> Self {
        self.is_at_most_once = true;
        self
    }
}

impl<K> fmt::Debug for SubscriptionBuilder<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubscriptionBuilder")
            .field("topics", &self.topics)
            .field("group", &self.group)
            .field("settings", &self.settings)
            .field("policy", &self.policy)
            .field("route", &self.route)
            .finish_non_exhaustive()
    }
}
