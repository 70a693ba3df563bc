//! What a subscription needs of the bus: the broker, the publisher, the clock, the configuration, and to be kept until the
//! bus is closed. It knows of a subscription only what [`Keep`] says.

use crate::broker::{Broker, BrokerError};
use crate::config::{BusUrl, Config};
use crate::error::NameError;
use crate::observe::health::Health;
use crate::observe::metrics::Stats;
use crate::observe::report::DrainReport;
use crate::publisher::{self, Publisher};
use crate::sync::{Arc, AtomicBool, Mutex, Ordering, Weak};
use crate::wait::{Clock, Op};
use std::fmt;
use std::time::Duration;

/// What a bus asks of the subscriptions that it keeps.
pub(crate) trait Keep: Send + Sync {
    fn stats(&self) -> Stats;
    fn health(&self) -> Health;
    fn drain(&self, limit: Duration) -> Op<DrainReport>;
    /// Waits for its threads, once it is drained.
    fn join(&self);
    /// Is over when nothing of it moves without time going on, and says how much has moved until then.
    fn quiet(&self) -> Op<Stamp>;
}

/// How much of a subscription has moved; the default of one that has ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stamp(pub(crate) Vec<u64>);

/// A cheap handle: clones are the same connection.
#[derive(Clone)]
pub(crate) struct Connection(Arc<Inner>);

struct Inner {
    broker: Arc<dyn Broker>,
    publisher: Publisher,
    clock: Clock,
    config: Config,
    /// The group of subscriptions that name none, from the URL.
    group: Option<String>,
    is_closed: AtomicBool,
    kept: Mutex<Vec<Weak<dyn Keep>>>,
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

impl Connection {
    pub(super) fn new(broker: Arc<dyn Broker>, config: Config) -> Self {
        let clock = broker.clock();
        let limits = &config.publisher;
        let room = publisher::Room { records: limits.records, bytes: limits.bytes };
        let publisher = Publisher::new(broker.clone(), room, limits.max_record_bytes, clock.clone());
        let is_closed = AtomicBool::new(false);
        let url = BusUrl::parse(&config.url).ok();
        let group = url.and_then(|url| url.option("group").map(str::to_owned));
        let kept = Mutex::default();
        Self(Arc::new(Inner { broker, publisher, clock, config, group, is_closed, kept }))
    }

    pub(crate) fn config(&self) -> &Config {
        &self.0.config
    }

    pub(crate) fn group(&self) -> Option<&String> {
        self.0.group.as_ref()
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.0.clock
    }

    pub(crate) fn publisher(&self) -> &Publisher {
        &self.0.publisher
    }

    /// The broker, until the bus is closed.
    pub(crate) fn broker(&self) -> Result<&Arc<dyn Broker>, BrokerError> {
        // ORDERING: Relaxed; see `refuse`.
        if self.0.is_closed.load(Ordering::Relaxed) { Err(BrokerError::Closed) } else { Ok(&self.0.broker) }
    }

    pub(crate) fn require_topic(&self, topic: &str) -> Result<(), BrokerError> {
        self.broker()?.partitions(topic).map(drop)
    }

    /// Keeps a subscription that was just started, so that closing the bus ends it.
    pub(crate) fn keep(&self, subscription: &Weak<dyn Keep>) {
        let mut kept = self.0.kept.lock();
        kept.retain(|other| other.strong_count() > 0);
        kept.push(subscription.clone());
        // ORDERING: Relaxed; a close that came before takes the lock after this and finds the subscription.
        if self.0.is_closed.load(Ordering::Relaxed)
            && let Some(subscription) = subscription.upgrade()
        {
            drop(subscription.drain(Duration::ZERO));
        }
    }

    /// The subscriptions that have not been dropped or have not ended.
    pub(super) fn kept(&self) -> Vec<Arc<dyn Keep>> {
        let mut kept = self.0.kept.lock();
        kept.retain(|subscription| subscription.strong_count() > 0);
        kept.iter().filter_map(Weak::upgrade).collect()
    }

    /// From here on nobody subscribes.
    pub(super) fn refuse(&self) {
        // ORDERING: Relaxed; who subscribes at this moment is found by the lock of the list.
        self.0.is_closed.store(true, Ordering::Relaxed);
    }

    /// Ends the connection; the publishes that are under way have this long for their answers. How many had none.
    pub(super) async fn close(&self, limit: Duration) -> u64 {
        let unacknowledged = self.0.publisher.close(limit).await;
        self.0.broker.close();
        unacknowledged
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("config", &self.0.config).finish_non_exhaustive()
    }
}
