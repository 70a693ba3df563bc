//! The bus: a connection to a broker, the publisher on it, and the subscriptions that it keeps.

mod connect;
pub(crate) mod connection;
mod message;
mod settled;

pub use connect::{connect, connect_with};
pub use connection::TopicError;
pub use message::Message;

use crate::broker::{Broker, BrokerError};
use crate::config::{Config, names};
use crate::foreign;
use crate::observe::health::Health;
use crate::observe::metrics::Stats;
use crate::observe::report::DrainReport;
use crate::policy::FailurePolicy;
use crate::publisher::{Outcomes, PublishError, Publishing, Receipt, TryPublishError};
use crate::subscription::{Envelopes, Plain, SubscriptionBuilder};
use crate::sync::Arc;
use crate::wait::world;
use crate::wait::{Op, after, block_on, spawn};
use connection::Connection;
use std::fmt;
use std::time::Duration;

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
    connection: Connection,
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
    pub(crate) fn on(broker: Arc<dyn Broker>, config: Config) -> Self {
        Self { connection: Connection::new(broker, config) }
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
        let broker = match names::topic(topic)
            .map_err(TopicError::from)
            .and_then(|()| Ok(self.connection.broker()?))
        {
            Ok(broker) => broker.clone(),
            Err(error) => return Op::ready(Err(error)),
        };
        let (topic, is_remote) = (topic.to_owned(), broker.is_remote());
        let create = move || broker.create_topic(&topic).map_err(TopicError::from);
        if !is_remote {
            return Op::ready(create());
        }
        let (promise, op) = Op::pending(|| Err(BrokerError::Closed.into()));
        // Waiting for the answer needs a thread, and no caller can be made to lend one.
        match spawn("keylane-topic".to_owned(), move || promise.complete(create())) {
            Ok(_) => op,
            Err(error) => Op::ready(Err(BrokerError::Transient(error.to_string()).into())),
        }
    }

    /// Publishes an [`Envelope`](crate::Envelope) or a [`Record`](crate::Record).
    ///
    /// It takes effect at the call if the publisher's bounds have room, and otherwise in the order of the calls as
    /// room appears: records of one key are stored in the order in which they were published, also when one of them
    /// fails and is tried again. The operation is over when the broker has acknowledged the record. Dropping it
    /// withdraws a record that still waits for room, which is logged and counted
    /// ([`Publishing::withdrawn`](crate::Publishing::withdrawn)), and leaves any other under way.
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
        match message.into().checked(topic) {
            Ok(record) => self.connection.publisher().publish(topic, record),
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
        let record = message.into().checked(topic).map_err(TryPublishError::Failed)?;
        self.connection.publisher().try_publish(topic, record)
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
        match message.into().checked(topic) {
            Ok(record) => self.connection.publisher().send(topic, record),
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
        self.connection.publisher().outcomes()
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
        self.connection.publisher().flush()
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
        match self.connection.broker() {
            Ok(broker) if broker.is_remote() => Op::ready(Err(BrokerError::Refused(format!(
                "`settled` is for the bus in memory: what {} brokers have, and others do there, is not known here; wait \
                 for `caught_up` or `until` of each subscription",
                broker.system()
            )))),
            Ok(_) => settled::settled(self.connection.clone()),
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
        let policy = self.connection.config().subscription.policy();
        SubscriptionBuilder::new(self.connection.clone(), topic.into(), policy, true)
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
    /// assert_eq!((ticks.stats().discarded, ticks.stats().retried), (1, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn subscribe(&self, topic: impl Into<String>) -> SubscriptionBuilder<Plain> {
        SubscriptionBuilder::new(self.connection.clone(), topic.into(), FailurePolicy::for_plain(), false)
    }

    /// The counters of the publisher and of all subscriptions that have not been dropped or have not ended, added up.
    ///
    /// ```
    /// # use keylane::Record;
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// let billing = bus.subscribe("orders").group("billing").handle(|_| Ok(()))?;
    /// let shipping = bus.subscribe("orders").group("shipping").handle(|_| Ok(()))?;
    /// bus.publish("orders", Record::new("paid")).wait()?;
    /// billing.caught_up().wait()?;
    /// shipping.caught_up().wait()?;
    /// assert_eq!((bus.stats().published, bus.stats().succeeded), (1, 2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stats(&self) -> Stats {
        let published = Stats { published: self.connection.publisher().published(), ..Stats::default() };
        self.connection.kept().iter().fold(published, |sum, kept| sum.plus(kept.stats()))
    }

    /// What is under way to the broker, and what has been for longest. A record that is not acknowledged for a second is
    /// also told by a log line, and again while it lasts.
    pub fn publishing(&self) -> Publishing {
        self.connection.publisher().publishing()
    }

    /// The health of each subscription that has not been dropped or has not ended.
    ///
    /// ```
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// let orders = bus.subscribe("orders").group("billing").handle(|_| Ok(()))?;
    /// orders.ready().wait()?;
    /// assert!(bus.health().iter().all(|health| health.is_healthy()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn health(&self) -> Vec<Health> {
        self.connection.kept().iter().map(|kept| kept.health()).collect()
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
        self.connection.refuse();
        let connection = self.connection.clone();
        let (clock, world) = (connection.clock().clone(), world::of(connection.clock()));
        let until = after(clock.now(), limit);
        let close = async move {
            let kept = connection.kept();
            let drains: Vec<_> = kept.iter().map(|subscription| subscription.drain(limit)).collect();
            let mut subscriptions = Vec::with_capacity(drains.len());
            for drain in drains {
                subscriptions.push(drain.await);
            }
            kept.iter().for_each(|subscription| subscription.join());
            let left = until.saturating_duration_since(clock.now());
            let unacknowledged = connection.close(left).await;
            promise.complete(CloseReport { subscriptions, unacknowledged });
        };
        let name = "keylane-close".to_owned();
        if let Some(world) = world {
            world::adopt_future(&*world, name, close);
        // Waiting needs a thread, and no caller can be made to lend one; it ends with the bus.
        } else if let Err(error) = spawn(name, move || block_on(close)) {
            foreign::error!(%error, "the thread that closes the bus could not be started");
        }
        op
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bus").field(&self.connection).finish()
    }
}
