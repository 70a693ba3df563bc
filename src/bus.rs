//! The bus: a connection to a broker, the publisher on it, and the subscriptions that it keeps.

use crate::broker::memory::MemoryBroker;
use crate::broker::{Broker, BrokerError};
use crate::config::{BusUrl, Config, Scheme, names};
use crate::envelope::Envelope;
use crate::error::ConnectError;
use crate::error::NameError;
use crate::foreign;
use crate::observe::health::Health;
use crate::observe::metrics::Stats;
use crate::policy::FailurePolicy;
use crate::publisher::{self, Outcomes, PublishError, Publisher, Publishing, Receipt, TryPublishError};
use crate::record::Record;
use crate::subscription::{Core, DrainReport, Envelopes, Plain, SubscriptionBuilder};
use crate::sync::{Arc, AtomicBool, Mutex, Ordering, Weak, thread};
use crate::wait::Op;
use crate::wait::{Clock, after};
use std::fmt;
use std::time::Duration;

mod settled;

/// Connects to the bus at this URL, with the default configuration.
///
/// `memory:` is a new bus in this process; `kafka://` and `nats://` need the Cargo features of these names, and are over
/// when a broker has answered. For more than the URL use [`connect_with`].
///
/// # Errors
/// The returned operation fails when the URL is not valid or its backend is not compiled in.
///
/// ```
/// let bus = keylane::connect("memory:").wait()?;
/// bus.create_topic("orders").wait()?;
/// bus.publish("orders", keylane::Record::new("hello")).wait()?;
/// assert_eq!(bus.stats().published, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn connect(url: &str) -> Op<Result<Bus, ConnectError>> {
    let mut config = Config::default();
    url.clone_into(&mut config.url);
    connect_with(config)
}

/// Connects to the bus that a configuration describes.
///
/// # Errors
/// The returned operation fails when the configuration is not valid, which is found before any I/O, or its backend is
/// not compiled in.
///
/// ```
/// use keylane::{Config, Record};
///
/// let mut config = Config::default();
/// config.url = "memory:?topics=orders".to_owned();
/// config.publisher.max_record_bytes = 16;
/// let bus = keylane::connect_with(config).wait()?;
/// assert!(bus.publish("orders", Record::new("paid")).wait().is_ok());
/// assert!(bus.publish("orders", Record::new("paid, and a long story behind it")).wait().is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn connect_with(config: Config) -> Op<Result<Bus, ConnectError>> {
    let checked = config.resolve().map_err(ConnectError::from).and_then(|(url, config)| {
        url.scheme().require_feature()?;
        Ok((url, config))
    });
    match checked {
        Ok((url, config)) if url.scheme() == Scheme::Memory => Op::ready(open(&url, config)),
        Ok((url, config)) => connecting(url, config),
        Err(error) => Op::ready(Err(error)),
    }
}

/// Asks the broker from a thread of its own: its client library may wait, and no caller can be made to lend one.
fn connecting(url: BusUrl, config: Config) -> Op<Result<Bus, ConnectError>> {
    let (promise, op) = Op::pending(|| Err(ConnectError::Abandoned));
    let connect = move || promise.complete(open(&url, config));
    match thread::Builder::new().name("keylane-connect".to_owned()).spawn(connect) {
        Ok(_) => op,
        Err(error) => Op::ready(Err(ConnectError::Thread(error))),
    }
}

#[cfg_attr(
    not(any(feature = "kafka", feature = "nats")),
    expect(clippy::unnecessary_wraps, reason = "only what is remote can fail")
)]
fn open(url: &BusUrl, config: Config) -> Result<Bus, ConnectError> {
    match url.scheme() {
        Scheme::Memory => {
            let memory = &config.memory;
            let mut broker = MemoryBroker::builder()
                .partitions(memory.partitions as u32)
                .retention_records(memory.retention_records as u64)
                .retention_bytes(memory.retention_bytes as u64)
                .create_topics(memory.create_topics);
            for topic in &memory.topics {
                broker = broker.topic(topic);
            }
            Ok(Bus::new(Arc::new(broker.build()), config))
        }
        #[cfg(feature = "kafka")]
        Scheme::Kafka => Ok(Bus::new(crate::broker::kafka::connect(url, &config)?, config)),
        #[cfg(feature = "nats")]
        Scheme::Nats => Ok(Bus::new(crate::broker::nats::connect(url, &config)?, config)),
        #[cfg(not(all(feature = "kafka", feature = "nats")))]
        _ => unreachable!("refused above: this build has not the feature"),
    }
}

impl MemoryBroker {
    /// A bus on this broker. Several may share one, as processes share a server.
    ///
    /// The section `[memory]` and the URL of the configuration are not read: the broker is there already.
    ///
    /// # Errors
    /// When the configuration is not valid.
    ///
    /// ```
    /// use keylane::{Config, Record, memory::MemoryBroker};
    ///
    /// let broker = MemoryBroker::builder().topic("orders").build();
    /// let (one, other) = (broker.connect(Config::default())?, broker.connect(Config::default())?);
    /// one.publish("orders", Record::new("hello")).wait()?;
    /// assert_eq!(other.stats().published, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn connect(&self, config: Config) -> Result<Bus, ConnectError> {
        let (_, config) = config.resolve()?;
        Ok(Bus::new(Arc::new(self.clone()), config))
    }
}

/// A connection to a broker, to publish and to subscribe through. A cheap handle: clones are the same bus.
///
/// Dropping it ends nothing: subscriptions live as long as their handles, and publishes that are under way go on.
/// [`close`](Bus::close) ends all of it.
///
/// ```
/// use keylane::Record;
///
/// let bus = keylane::connect("memory:?topics=orders").wait()?;
/// let same = bus.clone();
/// std::thread::spawn(move || same.publish("orders", Record::new("paid")).wait()).join().unwrap()?;
/// assert_eq!(bus.stats().published, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Bus {
    inner: Arc<Inner>,
}

struct Inner {
    broker: Arc<dyn Broker>,
    publisher: Publisher,
    clock: Clock,
    config: Config,
    /// The group of subscriptions that name none, from the URL.
    group: Option<String>,
    is_closed: AtomicBool,
    subscriptions: Mutex<Vec<Weak<Core>>>,
}

/// Why a topic can't be used.
///
/// ```
/// use keylane::TopicError;
///
/// let bus = keylane::connect("memory:").wait()?;
/// let refused = bus.create_topic("orders paid").wait();
/// assert!(matches!(refused, Err(TopicError::Name(error)) if error.offset == 6));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopicError {
    /// Its name is not valid.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The broker refused.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

/// How a bus ended.
///
/// ```
/// use std::time::Duration;
///
/// # let bus = keylane::connect("memory:?topics=orders").wait()?;
/// let orders = bus.subscribe("orders").group("billing").handle(|_| Ok(()))?;
/// let report = bus.close(Duration::from_secs(10)).wait();
/// assert_eq!(report.subscriptions.len(), 1);
/// assert!(report.subscriptions[0].unsettled.is_empty(), "all was settled");
/// assert_eq!(report.unacknowledged, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CloseReport {
    /// How each subscription that was still running ended, also one whose handle was dropped a moment before.
    pub subscriptions: Vec<DrainReport>,
    /// Publishes that the broker had not acknowledged at the limit; each was answered with an error.
    pub unacknowledged: u64,
}

impl Bus {
    pub(crate) fn new(broker: Arc<dyn Broker>, config: Config) -> Self {
        let clock = broker.clock();
        let limits = &config.publisher;
        let bounds = publisher::Bounds {
            records: limits.records,
            bytes: limits.bytes,
            max_record_bytes: limits.max_record_bytes,
        };
        let publisher = Publisher::new(broker.clone(), bounds, clock.clone());
        let is_closed = AtomicBool::new(false);
        let url = BusUrl::parse(&config.url).ok();
        let group = url.and_then(|url| url.option("group").map(str::to_owned));
        Self {
            inner: Arc::new(Inner {
                broker,
                publisher,
                clock,
                config,
                group,
                is_closed,
                subscriptions: Mutex::default(),
            }),
        }
    }

    /// Creates a topic unless it is there.
    ///
    /// # Errors
    /// The returned operation fails when the name is not valid or the broker refuses.
    ///
    /// ```
    /// # use keylane::Record;
    /// let bus = keylane::connect("memory:").wait()?;
    /// assert!(bus.publish("orders", Record::new("paid")).wait().is_err());
    /// bus.create_topic("orders").wait()?;
    /// bus.create_topic("orders").wait()?; // does nothing: it is there
    /// assert!(bus.publish("orders", Record::new("paid")).wait().is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn create_topic(&self, topic: &str) -> Op<Result<(), TopicError>> {
        let broker =
            match names::topic(topic).map_err(TopicError::from).and_then(|()| Ok(self.broker()?.clone())) {
                Ok(broker) => broker,
                Err(error) => return Op::ready(Err(error)),
            };
        let topic = topic.to_owned();
        let create = move || broker.create_topic(&topic).map_err(TopicError::from);
        if !self.inner.broker.is_remote() {
            return Op::ready(create());
        }
        let (promise, op) = Op::pending(|| Err(BrokerError::Closed.into()));
        // Waiting for the answer needs a thread, and no caller can be made to lend one.
        match thread::Builder::new()
            .name("keylane-topic".to_owned())
            .spawn(move || promise.complete(create()))
        {
            Ok(_) => op,
            Err(error) => Op::ready(Err(BrokerError::Transient(error.to_string()).into())),
        }
    }

    /// Publishes an [`Envelope`] or a [`Record`].
    ///
    /// It takes effect at the call if the publisher's bounds have room, and otherwise in the order of the calls as
    /// room appears: records of one key are stored in the order in which they were published, also when one of them
    /// fails and is tried again. The operation is over when the broker has acknowledged the record. Dropping it
    /// withdraws a record that still waits for room and leaves any other under way.
    ///
    /// # Errors
    /// The operation fails when the topic, the key or a header is not valid or the record is too large (nothing is
    /// sent then), when the broker refuses for good, and when the bus is closed. What can pass is tried again.
    ///
    /// ```
    /// use keylane::{Envelope, Record};
    ///
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// let placed = bus.publish("orders", Envelope::new("order-42", "order.placed", 1, r#"{"cents":995}"#)?);
    /// let paid = bus.publish("orders", Record::new("paid").with_key("order-42"));
    /// let (placed, paid) = (placed.wait()?, paid.wait()?);
    /// assert_eq!(paid.partition(), placed.partition());
    /// assert!(paid.offset() > placed.offset(), "stored in the order of the calls");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn publish(&self, topic: &str, message: impl Into<Message>) -> Op<Result<Receipt, PublishError>> {
        match Self::checked(topic, message.into()) {
            Ok(record) => self.inner.publisher.publish(topic, record),
            Err(error) => Op::ready(Err(error)),
        }
    }

    /// Publishes if there is room now.
    ///
    /// # Errors
    /// [`TryPublishError::Full`] gives the record back when the publisher's bounds are reached or the topic is full;
    /// the rest as [`publish`](Bus::publish).
    ///
    /// ```
    /// use keylane::{Config, Record, TryPublishError, memory::MemoryBroker};
    ///
    /// # let broker = MemoryBroker::builder().topic("orders").build();
    /// let mut config = Config::default();
    /// config.publisher.records = 1;
    /// let bus = broker.connect(config)?;
    /// broker.faults().pause_deliveries(true);
    /// let first = bus.try_publish("orders", Record::new("placed"))?;
    /// let Err(TryPublishError::Full(record)) = bus.try_publish("orders", Record::new("paid")) else {
    ///     panic!("there was room");
    /// };
    /// assert_eq!(record.value, "paid");
    /// # broker.faults().pause_deliveries(false);
    /// # first.wait()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_publish(
        &self,
        topic: &str,
        message: impl Into<Message>,
    ) -> Result<Op<Result<Receipt, PublishError>>, TryPublishError> {
        let record = Self::checked(topic, message.into()).map_err(TryPublishError::Failed)?;
        self.inner.publisher.try_publish(topic, record)
    }

    /// Publishes without waiting for the broker: what became of the record is told by [`outcomes`](Self::outcomes).
    ///
    /// The operation is over when there was room for the record; until then dropping it withdraws the record. If
    /// nobody reads outcomes, a record that is not stored in the end is told by a log line alone.
    ///
    /// # Errors
    /// The operation fails when the topic, the key or a header is not valid, the record is too large, or the bus is
    /// closed.
    ///
    /// ```
    /// # use keylane::Record;
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// let mut outcomes = bus.outcomes();
    /// bus.send("orders", Record::new("paid")).wait()?;
    /// bus.send("payments", Record::new("paid")).wait()?;
    /// let (paid, lost) = (outcomes.recv().wait().expect("open"), outcomes.recv().wait().expect("open"));
    /// assert!(paid.result().is_ok() && lost.result().is_err(), "there is no topic `payments`");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn send(&self, topic: &str, message: impl Into<Message>) -> Op<Result<(), PublishError>> {
        match Self::checked(topic, message.into()) {
            Ok(record) => self.inner.publisher.send(topic, record),
            Err(error) => Op::ready(Err(error)),
        }
    }

    /// What becomes of the records that are [sent](Self::send) from now on.
    ///
    /// ```
    /// # let bus = keylane::connect("memory:").wait()?;
    /// let mut outcomes = bus.outcomes();
    /// bus.close(std::time::Duration::from_secs(10)).wait();
    /// assert!(outcomes.recv().wait().is_none(), "nothing was sent");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn outcomes(&self) -> Outcomes {
        self.inner.publisher.outcomes()
    }

    fn checked(topic: &str, Message { record, is_checked }: Message) -> Result<Record, PublishError> {
        names::topic(topic)?;
        if is_checked {
            return Ok(record);
        }
        if let Some(key) = &record.key {
            names::key(key)?;
        }
        for (name, value) in record.headers.iter() {
            names::header_name(name)?;
            names::header_value(value)?;
        }
        Ok(record)
    }

    /// Is over when everything that was published before the call has been answered.
    ///
    /// ```
    /// # use keylane::Record;
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// let publishes: Vec<_> = (0..100).map(|n| bus.publish("orders", Record::new(n.to_string()))).collect();
    /// bus.flush().wait();
    /// assert!(publishes.iter().all(|publish| publish.is_done()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn flush(&self) -> Op<()> {
        self.inner.publisher.flush()
    }

    /// Is over when nothing of the bus moves without time going on: nothing is queued, running, or on its way to the
    /// broker, and its subscriptions have taken what is stored and what they may take. What is left waits for a time to
    /// come (a retry, a dead letter's next try), for an operator, for a future that somebody else wakes, for room, or for
    /// [`resume`](crate::Subscription::resume).
    ///
    /// It is for tests: with a [manual clock](crate::Clock::manual) it is the point at which to look, and to move the time
    /// on. What comes from outside meanwhile, as publishes of other threads do, it may or may not wait for; handlers that
    /// wait for it wait for themselves.
    ///
    /// # Errors
    /// Of a bus on brokers of another process, which may have records that nobody here knows of: it is refused at once.
    /// [`caught_up`](crate::Subscription::caught_up) and [`until`](crate::Subscription::until) work there, too. When the
    /// bus is closed.
    ///
    /// ```
    /// use keylane::{Clock, Config, Envelope, Jitter, Retry, memory::MemoryBroker};
    /// use std::time::Duration;
    ///
    /// let (clock, time) = Clock::manual();
    /// let bus = MemoryBroker::builder().topic("orders").clock(clock).build().connect(Config::default())?;
    /// let hour = Duration::from_secs(3_600);
    /// let hourly = Retry::exponential(hour..hour).jitter(Jitter::None);
    /// let orders = bus.subscribe_envelopes("orders").group("billing").retry(hourly).handle(|event| {
    ///     if event.attempt() == 1 { Err("the bank is closed".into()) } else { Ok(()) }
    /// })?;
    /// bus.publish("orders", Envelope::new("order-42", "order.paid", 1, "995")?).wait()?;
    /// bus.settled().wait()?;
    /// assert_eq!((orders.stats().failed, orders.stats().succeeded), (1, 0));
    /// time.advance(hour);
    /// bus.settled().wait()?;
    /// assert_eq!(orders.stats().succeeded, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn settled(&self) -> Op<Result<(), BrokerError>> {
        match self.broker() {
            Ok(broker) if broker.is_remote() => Op::ready(Err(BrokerError::Refused(format!(
                "`settled` is for the bus in memory: what {} brokers have, and others do there, is not known here; wait \
                 for `caught_up` or `until` of each subscription",
                broker.system()
            )))),
            Ok(_) => settled::settled(self.clone()),
            Err(error) => Op::ready(Err(error)),
        }
    }

    /// Begins a subscription to Envelopes: never lost, tried again, in order per aggregate through every failure.
    ///
    /// ```
    /// use keylane::Envelope;
    ///
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// let (tell, told) = std::sync::mpsc::channel();
    /// let orders = bus.subscribe_envelopes("orders").group("billing").handle(move |event| {
    ///     let envelope = event.envelope().ok_or("an Envelope")?;
    ///     tell.send(envelope.event_type().to_owned())?;
    ///     Ok(())
    /// })?;
    /// bus.publish("orders", Envelope::new("order-42", "order.paid", 1, "995")?).wait()?;
    /// assert_eq!(told.recv()?, "order.paid");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn subscribe_envelopes(&self, topic: impl Into<String>) -> SubscriptionBuilder<Envelopes> {
        let policy = self.inner.config.subscription.policy();
        SubscriptionBuilder::new(self.clone(), topic.into(), policy, true)
    }

    /// Begins a subscription to plain records: settled when their handler ends, whatever the outcome.
    ///
    /// ```
    /// use keylane::Record;
    ///
    /// # let bus = keylane::connect("memory:?topics=ticks").wait()?;
    /// let ticks = bus.subscribe("ticks").group("dashboard").handle(|_| Err("the screen is off".into()))?;
    /// bus.publish("ticks", Record::new("tick")).wait()?;
    /// ticks.caught_up().wait()?;
    /// assert_eq!(ticks.stats().retried, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn subscribe(&self, topic: impl Into<String>) -> SubscriptionBuilder<Plain> {
        SubscriptionBuilder::new(self.clone(), topic.into(), FailurePolicy::for_plain(), false)
    }

    /// The counters of the publisher and of all subscriptions that have not been dropped or have not ended, added up.
    ///
    /// ```
    /// # use keylane::Record;
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// let billing = bus.subscribe("orders").group("billing").handle(|_| Ok(()))?;
    /// let shipping = bus.subscribe("orders").group("shipping").handle(|_| Ok(()))?;
    /// bus.publish("orders", Record::new("paid")).wait()?;
    /// bus.settled().wait()?;
    /// assert_eq!((bus.stats().published, bus.stats().succeeded), (1, 2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stats(&self) -> Stats {
        let published = Stats { published: self.inner.publisher.published(), ..Stats::default() };
        self.cores().iter().fold(published, |sum, core| sum.plus(core.stats()))
    }

    /// What is under way to the broker, and what has been for longest. A record that is not acknowledged for a second is
    /// also told by a log line, and again while it lasts.
    ///
    /// ```
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// assert_eq!(bus.publishing().unacknowledged, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn publishing(&self) -> Publishing {
        self.inner.publisher.publishing()
    }

    /// The health of each subscription that has not been dropped or has not ended.
    ///
    /// ```
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// let orders = bus.subscribe("orders").group("billing").handle(|_| Ok(()))?;
    /// orders.ready().wait()?;
    /// assert!(bus.health().iter().all(|health| health.is_healthy()));
    /// orders.drain(std::time::Duration::from_secs(10)).wait();
    /// drop(orders);
    /// assert!(bus.health().is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn health(&self) -> Vec<Health> {
        self.cores().iter().map(|core| core.health()).collect()
    }

    /// Ends the bus: every subscription as by [`Subscription::drain`](crate::Subscription::drain), then the publisher,
    /// all within `limit`. After it no handler runs, but for those that the report names, and no thread of the bus is
    /// left. Everything asked of the bus afterwards is answered at once, with an error that says so. Called again, it
    /// waits for the same end.
    ///
    /// ```
    /// use keylane::{PublishError, Record};
    /// use std::time::Duration;
    ///
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// let report = bus.close(Duration::from_secs(10)).wait();
    /// assert_eq!(report.unacknowledged, 0);
    /// assert_eq!(bus.publish("orders", Record::new("paid")).wait(), Err(PublishError::Closed));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn close(&self, limit: Duration) -> Op<CloseReport> {
        let (promise, op) = Op::pending(CloseReport::default);
        // ORDERING: Relaxed; who subscribes at this moment is found by the lock of the list.
        self.inner.is_closed.store(true, Ordering::Relaxed);
        let inner = self.inner.clone();
        let until = after(std::time::Instant::now(), limit);
        let close = move || {
            let cores: Vec<_> = inner.subscriptions.lock().iter().filter_map(Weak::upgrade).collect();
            let drains: Vec<_> = cores.iter().map(|core| core.drain(limit)).collect();
            let subscriptions = drains.into_iter().map(Op::wait).collect();
            cores.iter().for_each(|core| core.join());
            let left = until.saturating_duration_since(std::time::Instant::now());
            let unacknowledged = inner.publisher.close(left).wait();
            inner.broker.close();
            promise.complete(CloseReport { subscriptions, unacknowledged });
        };
        // Waiting needs a thread, and no caller can be made to lend one; it ends with the bus.
        if let Err(error) = thread::Builder::new().name("keylane-close".to_owned()).spawn(close) {
            foreign::error!(%error, "the thread that closes the bus could not be started");
        }
        op
    }

    fn cores(&self) -> Vec<Arc<Core>> {
        let mut subscriptions = self.inner.subscriptions.lock();
        subscriptions.retain(|core| core.strong_count() > 0);
        subscriptions.iter().filter_map(Weak::upgrade).collect()
    }

    pub(crate) fn config(&self) -> &Config {
        &self.inner.config
    }

    pub(crate) fn group(&self) -> Option<&String> {
        self.inner.group.as_ref()
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.inner.clock
    }

    pub(crate) fn publisher(&self) -> &Publisher {
        &self.inner.publisher
    }

    pub(crate) fn broker(&self) -> Result<&Arc<dyn Broker>, BrokerError> {
        // ORDERING: Relaxed; see `close`.
        if self.inner.is_closed.load(Ordering::Relaxed) {
            Err(BrokerError::Closed)
        } else {
            Ok(&self.inner.broker)
        }
    }

    pub(crate) fn require_topic(&self, topic: &str) -> Result<(), BrokerError> {
        self.broker()?.partitions(topic).map(drop)
    }

    /// Keeps a subscription that was just started, so that closing the bus ends it.
    pub(crate) fn keep(&self, core: &Arc<Core>) {
        let mut subscriptions = self.inner.subscriptions.lock();
        subscriptions.retain(|core| core.strong_count() > 0);
        subscriptions.push(Arc::downgrade(core));
        // ORDERING: Relaxed; a close that came before takes the lock after this and finds the subscription.
        if self.inner.is_closed.load(Ordering::Relaxed) {
            drop(core.drain(Duration::ZERO));
        }
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

/// What can be published: an [`Envelope`], or a [`Record`] as it is.
///
/// ```
/// use keylane::{Envelope, Message, Record};
///
/// # let bus = keylane::connect("memory:?topics=orders").wait()?;
/// let paid = Envelope::new("order-42", "order.paid", 1, "995")?;
/// let messages = [Message::from(&paid), Message::from(paid), Message::from(Record::new("plain"))];
/// for message in messages {
///     bus.publish("orders", message).wait()?;
/// }
/// assert_eq!(bus.stats().published, 3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Message {
    record: Record,
    /// Its key and headers are within what every broker takes: the rules of an Envelope are stricter.
    is_checked: bool,
}

impl From<Record> for Message {
    fn from(record: Record) -> Self {
        Self { record, is_checked: false }
    }
}

impl From<Envelope<'_>> for Message {
    fn from(envelope: Envelope<'_>) -> Self {
        Self::from(&envelope)
    }
}

impl From<&Envelope<'_>> for Message {
    fn from(envelope: &Envelope<'_>) -> Self {
        Self { record: envelope.into(), is_checked: true }
    }
}
