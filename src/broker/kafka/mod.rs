//! Apache Kafka, by librdkafka.
//!
//! A bus has one producer, with a thread that serves its answers, and each subscription one consumer, on a thread of its
//! own that nothing else enters: publishers and subscriptions leave what they want at a handoff and are woken. Decisions are
//! state machines ([`publishes`], [`commits`], [`mailbox`], [`flow`], [`broker_health`], [`stall`],
//! [`vouching`], [`fencing`]); what librdkafka is told is a
//! pure function ([`properties`]).

mod answers;
mod arena;
mod begin;
mod beginning;
mod broker_health;
mod client;
mod commits;
mod consumer;
mod events;
mod fencing;
mod flow;
mod group;
mod group_client;
mod handoff;
mod headers;
mod life;
mod mailbox;
mod marks;
mod member;
mod patience;
mod producer;
mod properties;
mod publishes;
mod question;
mod queue_waker;
mod session;
mod silence;
mod stall;
#[cfg(test)]
mod tests;
mod topics;
mod vouching;
mod watermarks;

use crate::broker::{Broker, BrokerError, Capabilities, Consumer, ConsumerSpec, Ticket};
use crate::config::{BusUrl, Config};
use crate::error::ConnectError;
use crate::foreign;
use crate::record::Record;
use crate::sync::{Arc, AtomicBool, Mutex, Ordering, thread};
use crate::wait::Registration;
use consumer::KafkaConsumer;
use handoff::Handoff;
use producer::Producer;
use rdkafka::producer::Producer as _;
use std::task::Waker;
use std::time::{Duration, Instant};
use topics::{Creator, Layout};

/// How often positions are committed where nothing else is said: after a crash, what was handled since comes again. Less
/// often where the brokers take long to answer.
const COMMIT_INTERVAL: Duration = Duration::from_millis(20);
/// How long one look at the connection takes while the first answer is waited for.
const LOOK: Duration = Duration::from_millis(20);

/// A connection to a cluster.
pub(crate) struct Kafka {
    url: BusUrl,
    config: Config,
    producer: Arc<Producer>,
    creator: Arc<Creator>,
    /// Threads of consumers that had not left their groups when they were dropped.
    leaving: Leaving,
    is_closed: AtomicBool,
}

/// Threads that end by themselves, and up to when that is worth a wait.
type Leaving = Arc<Mutex<Vec<(thread::JoinHandle<()>, Instant)>>>;

/// Connects to a cluster: a broker has answered when this returns.
///
/// # Errors
/// If a property is refused or unknown, before any I/O; if no broker answers within `kafka.connect_timeout`; if one
/// answers and refuses.
///
/// # Blocking
/// Until the first answer.
pub(crate) fn connect(url: &BusUrl, config: &Config) -> Result<Arc<dyn Broker>, ConnectError> {
    client::check_properties(config)?;
    if properties::sends_password_in_clear(url, config) {
        foreign::warn!(
            %url,
            "the password is sent as it is over connections that are not encrypted; set `kafka.tls`, or a SCRAM \
             mechanism as `kafka.sasl`"
        );
    }
    let addresses = url.hosts().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let refused =
        |reason: String| ConnectError::Refused { system: "kafka", addresses: addresses.clone(), reason };
    let creator = Arc::new(Creator::new(properties::client(url, config), &config.kafka));
    let properties = properties::producer(url, config);
    let producer = Producer::new(properties, addresses.clone(), creator.clone(), config.kafka.create_topics)
        .map_err(|error| refused(error.to_string()))?;
    let within = config.kafka.connect_timeout;
    let until = Instant::now() + within;
    loop {
        let client = producer.client().expect("it was made with one");
        client.poll(LOOK);
        // Known with the first answer.
        if client.client().fetch_cluster_id(LOOK).is_some() {
            break;
        }
        if let Some(reason) = producer.refusal() {
            return Err(refused(reason));
        }
        if Instant::now() >= until {
            let reason = producer.last_error().unwrap_or_else(|| "nothing was heard from them".to_owned());
            return Err(ConnectError::Unreachable { system: "kafka", addresses, within, reason });
        }
    }
    let producer = Arc::new(producer);
    producer.start().map_err(ConnectError::Thread)?;
    Ok(Arc::new(Kafka {
        url: url.clone(),
        config: config.clone(),
        producer,
        creator,
        leaving: Leaving::default(),
        is_closed: AtomicBool::new(false),
    }))
}

impl Kafka {
    fn layout(&self, topic: &str) -> Result<Option<Layout>, BrokerError> {
        // ORDERING: Relaxed; a question that comes at this moment may still be answered.
        if self.is_closed.load(Ordering::Relaxed) {
            return Err(BrokerError::Closed);
        }
        self.producer.layout(topic, self.config.kafka.connect_timeout)
    }
}

impl Broker for Kafka {
    fn system(&self) -> &'static str {
        "kafka"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { redeliver: false, orders_publishes: true, counts_deliveries: false }
    }

    fn is_remote(&self) -> bool {
        true
    }

    fn commit_interval(&self) -> Option<Duration> {
        Some(COMMIT_INTERVAL)
    }

    fn partitions(&self, topic: &str) -> Result<u32, BrokerError> {
        let until = Instant::now() + self.config.kafka.connect_timeout;
        let mut has_created = false;
        loop {
            match self.layout(topic)? {
                Some(layout) => return Ok(layout.partitions),
                // It is there, and not every broker has heard of it.
                None if has_created && Instant::now() < until => thread::sleep(LOOK),
                None if self.config.kafka.create_topics && !has_created => {
                    self.creator.create(topic)?;
                    has_created = true;
                }
                None => return Err(BrokerError::NoSuchTopic { topic: topic.to_owned() }),
            }
        }
    }

    fn create_topic(&self, topic: &str) -> Result<(), BrokerError> {
        if let Some(found) = self.layout(topic)? {
            return self.creator.compare(topic, found);
        }
        self.creator.create(topic)?;
        // Until the brokers know of it, nothing can be done with it.
        let until = Instant::now() + self.config.kafka.connect_timeout;
        loop {
            match self.layout(topic)? {
                Some(found) => return self.creator.compare(topic, found),
                None if Instant::now() < until => thread::sleep(LOOK),
                None => {
                    return Err(BrokerError::Transient(format!(
                        "topic `{topic}` was created, and the brokers do not know of it yet"
                    )));
                }
            }
        }
    }

    fn publish(&self, topic: &Arc<str>, record: Arc<Record>, ticket: Box<dyn Ticket>) {
        self.producer.publish(topic, record, ticket);
    }

    fn on_space(&self, _: Waker) -> Registration {
        // No publish is ever answered `Full`: what the client has no room for waits here, in its order.
        Registration::none()
    }

    fn subscribe(&self, spec: &ConsumerSpec, wake: Waker) -> Result<Box<dyn Consumer>, BrokerError> {
        // ORDERING: Relaxed; see `layout`.
        if self.is_closed.load(Ordering::Relaxed) {
            return Err(BrokerError::Closed);
        }
        let properties = properties::consumer(&self.url, &self.config, spec).map_err(BrokerError::Refused)?;
        let handoff = Arc::new(Handoff::new(spec.clone(), wake));
        let consumer = KafkaConsumer::start(member::Setup { handoff, properties }, self.leaving.clone())?;
        Ok(Box::new(consumer))
    }

    fn close(&self) {
        // ORDERING: Relaxed; see `layout`.
        self.is_closed.store(true, Ordering::Relaxed);
        self.producer.close();
        for (leaving, until) in self.leaving.lock().drain(..) {
            while !leaving.is_finished() && Instant::now() < until {
                thread::sleep(LOOK);
            }
            if leaving.is_finished() {
                let _ = leaving.join();
            } else {
                foreign::error!(
                    "a consumer has not left its group, since no broker answers; its thread ends when one does"
                );
            }
        }
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        self.close();
    }
}
