//! What a program says before a subscription starts; everything is checked before the first byte of I/O.

use super::intake::{self, Bounds, Commands, LastWord, Setup};
use super::invoke::{Asynchronous, Owned, OwnedHandler, Shared as SharedHandler};
use super::runner::{Invoke, Runner};
use super::shared::Shared;
use super::waits::Waits;
use super::{Core, Subscription};
use crate::broker::{BrokerError, Budget, ConsumerSpec, Start};
use crate::bus::Bus;
use crate::config::{SubscriptionConfig, Workers, names};
use crate::error::NameError;
use crate::event::Event;
use crate::handler::HandlerError;
use crate::observe::health::Status;
use crate::observe::metrics::Counters;
use crate::policy::{FailurePolicy, PolicyError, Retry, Then};
use crate::pool::{Enter, Idle, PoolBuilder, PoolError};
use crate::route::Route;
use crate::sync::{Arc, AtomicU64, Mutex, OnceLock, thread};
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::task::{Wake, Waker};
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
/// orders.caught_up().wait()?;
/// assert!(orders.health().is_healthy());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a subscription starts when it is given its handler"]
pub struct SubscriptionBuilder<K> {
    bus: Bus,
    topics: Vec<String>,
    group: Option<String>,
    start: Start,
    settings: SubscriptionConfig,
    policy: FailurePolicy,
    route: Route,
    enter: Option<Enter>,
    is_at_most_once: bool,
    takes_envelopes: bool,
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
    pub(crate) fn new(bus: Bus, topic: String, policy: FailurePolicy, takes_envelopes: bool) -> Self {
        let settings = bus.config().subscription.clone();
        Self {
            bus,
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
    ///
    /// ```
    /// # use keylane::Record;
    /// # let bus = keylane::connect("memory:?topics=orders,payments").wait()?;
    /// let both = bus.subscribe("orders").topic("payments").group("billing").handle(|_| Ok(()))?;
    /// bus.publish("orders", Record::new("placed").with_key("order-42")).wait()?;
    /// bus.publish("payments", Record::new("paid").with_key("order-42")).wait()?;
    /// both.caught_up().wait()?;
    /// assert_eq!(both.stats().succeeded, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn topic(mut self, topic: impl Into<String>) -> Self {
        self.topics.push(topic.into());
        self
    }

    /// The consumer group, whose position outlives the subscription. Needed.
    ///
    /// ```
    /// # use keylane::Record;
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// let billing = bus.subscribe("orders").group("billing").handle(|_| Ok(()))?;
    /// let shipping = bus.subscribe("orders").group("shipping").handle(|_| Ok(()))?;
    /// bus.publish("orders", Record::new("paid")).wait()?;
    /// bus.settled().wait()?;
    /// assert_eq!(billing.stats().succeeded, 1, "each group has every record once");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// Where a group without a position begins. Default: with the oldest record that is kept.
    ///
    /// ```
    /// # use keylane::{Record, Start};
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// # let (tell, told) = std::sync::mpsc::channel();
    /// bus.publish("orders", Record::new("before")).wait()?;
    /// let orders = bus.subscribe("orders").group("alerts").start(Start::Earliest).handle(move |event| {
    ///     tell.send(event.value().to_vec())?;
    ///     Ok(())
    /// })?;
    /// assert_eq!(told.recv()?, b"before");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// Worker threads, 0 to 1,024. 0: records are handled on the thread that delivers them, one at a time; nothing is
    /// fetched meanwhile. Default: as many as the machine has cores.
    ///
    /// ```
    /// # use keylane::Record;
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// # let (tell, told) = std::sync::mpsc::channel();
    /// let orders = bus.subscribe("orders").group("billing").workers(0).handle(move |_| {
    ///     tell.send(std::thread::current().name().map(str::to_owned))?;
    ///     Ok(())
    /// })?;
    /// bus.publish("orders", Record::new("paid")).wait()?;
    /// assert_eq!(told.recv()?.as_deref(), Some("keylane-billing"), "the thread that delivers");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn workers(mut self, workers: usize) -> Self {
        self.settings.workers = Workers::Count(workers);
        self
    }

    /// How many records may be delivered and not settled. Default: 4,096.
    ///
    /// ```
    /// # use keylane::Record;
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// let orders = bus.subscribe("orders").group("billing").in_flight_records(2).handle_async(|_| {
    ///     std::future::pending() // as long as nobody answers
    /// })?;
    /// for order in ["order-1", "order-2", "order-3"] {
    ///     bus.publish("orders", Record::new("paid").with_key(order)).wait()?;
    /// }
    /// bus.settled().wait()?;
    /// assert_eq!(orders.stats().in_flight, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn in_flight_records(mut self, records: usize) -> Self {
        self.settings.in_flight_records = records;
        self
    }

    /// How many bytes of records may be delivered and not settled; one record always may. Default: 64 MiB.
    ///
    /// ```
    /// # use keylane::Record;
    /// let bus = keylane::connect("memory:?topics=orders&partitions=1").wait()?;
    /// let orders = bus.subscribe("orders").group("billing").in_flight_bytes(8).handle_async(|_| {
    ///     std::future::pending() // as long as nobody answers
    /// })?;
    /// bus.publish("orders", Record::new("paid, and a long story behind it")).wait()?;
    /// bus.publish("orders", Record::new("paid")).wait()?;
    /// bus.settled().wait()?;
    /// assert_eq!(orders.stats().in_flight, 1, "one record always may be under way");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn in_flight_bytes(mut self, bytes: usize) -> Self {
        self.settings.in_flight_bytes = bytes;
        self
    }

    /// How far, in records, a partition may be delivered beyond its first unsettled record. Default: 100,000.
    ///
    /// ```
    /// # use keylane::{Envelope, HandlerError};
    /// # let bus = keylane::connect("memory:?topics=orders&partitions=1").wait()?;
    /// let orders = bus.subscribe_envelopes("orders").group("billing").watermark_distance(10).handle(|event| {
    ///     if event.offset() == 0 { Err(HandlerError::terminal("no such account")) } else { Ok(()) }
    /// })?;
    /// orders.ready().wait()?;
    /// for n in 0..100 {
    ///     bus.publish("orders", Envelope::new(format!("order-{n}"), "order.paid", 1, "995")?).wait()?;
    /// }
    /// bus.settled().wait()?;
    /// assert_eq!(orders.stats().succeeded, 9, "the rest waits for the first one");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn watermark_distance(mut self, records: usize) -> Self {
        self.settings.watermark_distance = records;
        self
    }

    /// The longest record that is handled; a longer one is a terminal failure. Default: 1 MiB.
    ///
    /// ```
    /// # use keylane::Record;
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// let orders = bus.subscribe("orders").group("billing").max_record_bytes(8).handle(|_| Ok(()))?;
    /// bus.publish("orders", Record::new("paid, and a long story behind it")).wait()?;
    /// orders.caught_up().wait()?;
    /// assert_eq!(orders.stats().succeeded, 0, "no handler saw it");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn max_record_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_record_bytes = bytes;
        self
    }

    /// How long what runs may take to end when a partition moves to another member. Default: 10 s.
    ///
    /// ```
    /// # use keylane::Record;
    /// # use std::time::Duration;
    /// # let bus = keylane::connect("memory:?topics=orders&partitions=1").wait()?;
    /// let limit = Duration::from_millis(10);
    /// let slow = bus.subscribe("orders").group("billing").drain_timeout(limit).handle_async(|_| {
    ///     std::future::pending() // a call that is never answered
    /// })?;
    /// bus.publish("orders", Record::new("paid")).wait()?;
    /// slow.until(|stats| stats.in_flight == 1).wait()?;
    /// let quick = [(); 2].map(|()| bus.subscribe("orders").group("billing").handle(|_| Ok(())));
    /// # let quick = quick.into_iter().collect::<Result<Vec<_>, _>>()?;
    /// slow.drain(limit).wait();
    /// bus.settled().wait()?;
    /// assert!(quick.iter().any(|quick| quick.stats().succeeded == 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn drain_timeout(mut self, limit: Duration) -> Self {
        self.settings.drain_timeout = limit;
        self
    }

    /// How often the position is committed. Default: at each turn where that is no round trip (memory), else 200 ms.
    ///
    /// ```
    /// # use keylane::{Config, Record, memory::MemoryBroker};
    /// # use std::time::Duration;
    /// # let broker = MemoryBroker::builder().topic_with("orders", 1).build();
    /// # let bus = broker.connect(Config::default())?;
    /// let rarely = Duration::from_secs(3_600);
    /// let orders = bus.subscribe("orders").group("billing").commit_interval(rarely).handle(|_| Ok(()))?;
    /// bus.publish("orders", Record::new("paid")).wait()?;
    /// orders.caught_up().wait()?;
    /// assert_eq!(broker.watermarks("billing", "orders")?, Some(vec![0]), "a crash would repeat it");
    /// orders.drain(Duration::from_secs(10)).wait();
    /// assert_eq!(broker.watermarks("billing", "orders")?, Some(vec![1]), "a drain commits");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn commit_interval(mut self, interval: Duration) -> Self {
        self.settings.commit_interval = Some(interval);
        self
    }

    /// After how long a blocking handler that still runs shows in health. Default: 30 s.
    ///
    /// ```
    /// # use keylane::{Clock, Config, Problem, Record, memory::MemoryBroker};
    /// # use std::{sync::{Mutex, mpsc}, time::Duration};
    /// # let (start, started) = mpsc::channel();
    /// # let (release, released) = mpsc::channel::<()>();
    /// # let released = Mutex::new(released);
    /// let (clock, time) = Clock::manual();
    /// let bus = MemoryBroker::builder().topic("orders").clock(clock).build().connect(Config::default())?;
    /// let minute = Duration::from_secs(60);
    /// let orders = bus.subscribe("orders").group("billing").hung_after(minute).handle(move |_| {
    ///     start.send(())?;
    ///     released.lock().unwrap().recv()?; // the bank takes its time
    ///     Ok(())
    /// })?;
    /// bus.publish("orders", Record::new("paid")).wait()?;
    /// started.recv()?;
    /// time.advance(minute);
    /// assert!(matches!(orders.health().problems[..], [Problem::Hung { .. }]));
    /// # release.send(())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn hung_after(mut self, limit: Duration) -> Self {
        self.settings.hung_after = limit;
        self
    }

    /// After how long an async handler is stopped and counts as failed. Default: never.
    ///
    /// ```
    /// # use keylane::Record;
    /// # use std::time::Duration;
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// let limit = Duration::from_millis(1);
    /// let orders = bus.subscribe("orders").group("billing").deadline(limit).handle_async(|_| {
    ///     std::future::pending() // a call that is never answered
    /// })?;
    /// bus.publish("orders", Record::new("paid")).wait()?;
    /// orders.until(|stats| stats.failed == 1).wait()?;
    /// assert_eq!(orders.stats().succeeded, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn deadline(mut self, limit: Duration) -> Self {
        self.settings.handler_deadline = Some(limit);
        self
    }

    /// What an idle worker does before it parks. Default: [`Idle::Adaptive`].
    ///
    /// ```
    /// use keylane::pool::Idle;
    ///
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// // On a machine that others share: no look more than is needed.
    /// let orders = bus.subscribe("orders").group("billing").idle(Idle::Park).handle(|_| Ok(()))?;
    /// orders.ready().wait()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn idle(mut self, idle: Idle) -> Self {
        self.settings.idle = idle;
        self
    }

    /// Where the aggregate id of a record is found. Default: the first valid one of Envelope, header, key, subject.
    ///
    /// ```
    /// # use keylane::{Record, Route};
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// # let (tell, told) = std::sync::mpsc::channel();
    /// let by_account = Route::Header("Account".to_owned());
    /// let orders = bus.subscribe("orders").group("billing").route(by_account).handle(move |event| {
    ///     tell.send(event.aggregate_id().map(str::to_owned))?;
    ///     Ok(())
    /// })?;
    /// bus.publish("orders", Record::new("paid").with_key("order-42").with_header("Account", "acc-7")).wait()?;
    /// assert_eq!(told.recv()?.as_deref(), Some("acc-7"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn route(mut self, route: Route) -> Self {
        self.route = route;
        self
    }

    /// Runs each worker's thread inside a context, so that futures find their runtime: see
    /// [`PoolBuilder::enter`](crate::pool::PoolBuilder::enter).
    ///
    /// ```
    /// # use keylane::Record;
    /// # use std::time::Duration;
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build()?;
    /// let handle = runtime.handle().clone();
    /// let orders = bus
    ///     .subscribe("orders")
    ///     .group("billing")
    ///     .enter(move |run| { let _context = handle.enter(); run() })
    ///     .handle_async(|_| async { tokio::time::sleep(Duration::from_millis(1)).await; Ok(()) })?;
    /// bus.publish("orders", Record::new("paid")).wait()?;
    /// orders.caught_up().wait()?;
    /// assert_eq!(orders.stats().failed, 0, "the timer found its runtime");
    /// # drop(orders);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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
    /// use std::{collections::HashSet, sync::{Arc, Mutex}};
    ///
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// let paid = Arc::new(Mutex::new(HashSet::new()));
    /// let seen = paid.clone();
    /// let orders = bus.subscribe("orders").group("billing").handle(move |event| {
    ///     let order = event.aggregate_id().ok_or("a record without an order")?;
    ///     seen.lock().unwrap().insert(order.to_owned());
    ///     Ok(())
    /// })?;
    /// bus.publish("orders", Record::new("paid").with_key("order-42")).wait()?;
    /// orders.caught_up().wait()?;
    /// assert!(paid.lock().unwrap().contains("order-42"));
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
    /// async fn charge(cents: u64) -> Result<(), std::io::Error> {
    ///     if cents > 0 { Ok(()) } else { Err(std::io::Error::other("nothing to charge")) }
    /// }
    /// let orders = bus.subscribe("orders").group("billing").handle_async(|event| async move {
    ///     let cents = std::str::from_utf8(event.value())?.parse()?;
    ///     charge(cents).await?;
    ///     Ok(())
    /// })?;
    /// bus.publish("orders", Record::new("995")).wait()?;
    /// orders.caught_up().wait()?;
    /// assert_eq!(orders.stats().failed, 0);
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

    fn check(&self) -> Result<Arc<str>, SubscribeError> {
        for topic in &self.topics {
            names::topic(topic)?;
        }
        if let Route::Header(name) = &self.route {
            names::header_name(name)?;
        }
        let Some(group) = self.group.as_ref().or(self.bus.group()) else {
            return Err(SubscribeError::NoGroup { topic: self.topics[0].clone() });
        };
        names::group(group)?;
        self.policy.validate()?;
        if let Then::DeadLetter(dead_letter) = &self.policy.then {
            names::topic(&dead_letter.topic)?;
        }
        let ranges = [
            ("in_flight_records", self.settings.in_flight_records, 1..=1 << 20, "1 to 1048576"),
            ("in_flight_bytes", self.settings.in_flight_bytes, 1..=1 << 36, "1 to 64 GiB"),
            ("watermark_distance", self.settings.watermark_distance, 1..=1 << 24, "1 to 16777216"),
            ("max_record_bytes", self.settings.max_record_bytes, 1..=1 << 30, "1 to 1 GiB"),
        ];
        for (setting, value, range, expected) in ranges {
            if !range.contains(&value) {
                return Err(SubscribeError::OutOfRange { setting, value: value.to_string(), expected });
            }
        }
        let mut topics: Vec<_> = self.topics.iter().collect();
        topics.sort_unstable();
        let twice = topics.windows(2).find_map(|pair| {
            if let [one, next] = pair
                && one == next
            {
                Some(one)
            } else {
                None
            }
        });
        if let Some(topic) = twice {
            let value = format!("`{topic}` twice");
            return Err(SubscribeError::OutOfRange { setting: "topic", value, expected: "each topic once" });
        }
        Ok(group.as_str().into())
    }

    fn launch<I: Invoke>(
        self,
        invoke: impl Fn() -> I + Send + Sync + 'static,
    ) -> Result<Subscription, SubscribeError> {
        let group = self.check()?;
        let broker = self.bus.broker()?;
        if matches!(self.policy.then, Then::Redeliver { .. }) && !broker.capabilities().redeliver {
            return Err(SubscribeError::Unsupported {
                system: broker.system(),
                what: "give a record back with a delay (`Then::Redeliver`)",
            });
        }
        for topic in &self.topics {
            self.bus.require_topic(topic)?;
        }
        if let Then::DeadLetter(dead_letter) = &self.policy.then {
            self.bus.require_topic(&dead_letter.topic)?;
        }
        let settings = &self.settings;
        let workers = match settings.workers {
            Workers::Auto => std::thread::available_parallelism().map_or(1, usize::from),
            Workers::Count(workers) => workers,
        };
        let lanes = workers.max(1);
        let clock = self.bus.clock().clone();
        let shared = Arc::new(Shared {
            group: group.clone(),
            system: broker.system(),
            takes_envelopes: self.takes_envelopes,
            settles_first: self.is_at_most_once,
            policy: self.policy,
            broker: broker.clone(),
            publisher: self.bus.publisher().clone(),
            deadline: settings.handler_deadline,
            hung_after: settings.hung_after,
            clock: clock.clone(),
            counters: Counters::default(),
            verdicts: Mutex::default(),
            intake: OnceLock::new(),
            doing: (0..lanes).map(|_| Mutex::default()).collect(),
            waiting_keys: (0..lanes).map(|_| AtomicU64::new(0)).collect(),
            failing: Mutex::new(HashMap::new()),
            status: Mutex::new(Status::Starting),
            window_full: Mutex::default(),
            broker_error: Mutex::default(),
            waits: Waits::default(),
        });
        let topics: Vec<Arc<str>> = self.topics.iter().map(|topic| topic.as_str().into()).collect();
        let budget = Budget { records: settings.in_flight_records, bytes: settings.in_flight_bytes };
        let drain_timeout = settings.drain_timeout;
        let spec = ConsumerSpec {
            topics: topics.clone(),
            group: group.clone(),
            start: self.start,
            budget,
            drain_timeout,
        };
        let consumer = broker.subscribe(&spec, Waker::from(Arc::new(WakeIntake(shared.clone()))))?;
        // A lane holds the whole window, so that handing over never waits for a lane.
        let mut pool = PoolBuilder::new()
            .workers(lanes)
            .capacity(settings.in_flight_records)
            .name(&*group)
            .idle(settings.idle)
            .clock(clock);
        if let Some(enter) = self.enter.clone() {
            pool = pool.enter(move |run| enter(run));
        }
        let commands = Arc::new(Commands::default());
        let bounds = Bounds {
            records: settings.in_flight_records,
            bytes: settings.in_flight_bytes,
            watermark_distance: settings.watermark_distance,
            max_record_bytes: settings.max_record_bytes,
            drain_timeout: settings.drain_timeout,
            commit_interval: settings.commit_interval.or(broker.commit_interval()),
        };
        let make = {
            let shared = shared.clone();
            move |worker| Runner::new(invoke(), shared.clone(), worker)
        };
        // With `workers(0)` the worker is made, stepped and dropped on the intake's thread: its futures stay there.
        let (pool, direct) = if workers == 0 {
            let (pool, lanes) = pool.unmanned()?;
            (pool, Some(move || lanes.man(make).pop().expect("a pool has a lane")))
        } else {
            (pool.start(make)?, None)
        };
        let core = Arc::new(Core {
            shared: shared.clone(),
            commands: commands.clone(),
            pool: pool.clone(),
            thread: Mutex::default(),
            handles_on_intake: workers == 0,
        });
        let enter = self.enter;
        let last_word =
            LastWord { shared: shared.clone(), commands: commands.clone(), pool: core.pool.clone() };
        let running = core.clone();
        let setup = Setup { shared, consumer, topics, pool, commands, bounds, route: self.route };
        let mut start = Some((setup, direct));
        let mut run = move || {
            let (setup, direct) = start.take().expect("a thread runs once");
            intake::run::<I>(setup, direct.map(|make| make()));
        };
        let body = move || {
            // Kept to its end, so that a close of the bus also waits for a subscription whose handle was dropped.
            let _kept = (last_word, running);
            match enter {
                Some(enter) if workers == 0 => enter(&mut run),
                _ => run(),
            }
        };
        let thread = thread::Builder::new().name(format!("keylane-{group}")).spawn(body);
        *core.thread.lock() = Some(thread.map_err(SubscribeError::Thread)?);
        self.bus.keep(&core);
        Ok(Subscription { core })
    }
}

impl SubscriptionBuilder<Envelopes> {
    /// How a failed Envelope is tried again. Default: for ever, from 100 ms to 30 s, with full jitter.
    ///
    /// ```
    /// # use keylane::{Envelope, Retry};
    /// # use std::time::Duration;
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// let retry = Retry::exponential(Duration::from_millis(1)..Duration::from_millis(10)).attempts(3);
    /// let orders = bus.subscribe_envelopes("orders").group("billing").retry(retry).handle(|_| {
    ///     Err("the bank does not answer".into())
    /// })?;
    /// bus.publish("orders", Envelope::new("order-42", "order.paid", 1, "995")?).wait()?;
    /// orders.until(|stats| stats.failed == 3).wait()?;
    /// assert_eq!(orders.held()[0].attempts, 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn retry(mut self, retry: Retry) -> Self {
        self.policy.retry = retry;
        self
    }

    /// What follows when the attempts are over, or the error is terminal. Default: [`Then::Hold`].
    ///
    /// ```
    /// # use keylane::{Envelope, HandlerError, Then};
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// let orders = bus.subscribe_envelopes("orders").group("billing").then(Then::Discard).handle(|_| {
    ///     Err(HandlerError::terminal("no such account"))
    /// })?;
    /// bus.publish("orders", Envelope::new("order-42", "order.paid", 1, "995")?).wait()?;
    /// orders.caught_up().wait()?;
    /// assert!(orders.held().is_empty() && orders.health().problems.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn then(mut self, then: impl Into<Then>) -> Self {
        self.policy.then = then.into();
        self
    }
}

impl SubscriptionBuilder<Plain> {
    /// Settles each record before its handler starts, so that a crash loses what was running rather than repeats it.
    ///
    /// ```
    /// # use keylane::{Config, Record, memory::MemoryBroker};
    /// # let (tell, told) = std::sync::mpsc::channel();
    /// let broker = MemoryBroker::builder().topic_with("ticks", 1).build();
    /// let bus = broker.connect(Config::default())?;
    /// let positions = broker.clone();
    /// let ticks = bus.subscribe("ticks").group("dashboard").at_most_once().handle(move |_| {
    ///     tell.send(positions.watermarks("dashboard", "ticks")?)?;
    ///     Ok(())
    /// })?;
    /// bus.publish("ticks", Record::new("tick")).wait()?;
    /// assert_eq!(told.recv()?, Some(vec![1]), "settled before the handler started");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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

/// Wakes the intake of a subscription, also one whose thread has not started yet: it looks before it first sleeps.
struct WakeIntake(Arc<Shared>);

impl Wake for WakeIntake {
    fn wake(self: Arc<Self>) {
        self.0.wake_intake();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.wake_intake();
    }
}
