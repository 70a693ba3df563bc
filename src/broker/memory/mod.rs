//! The bus in memory: the reference for what a backend has to do, and the backend for tests of a user's own.
//!
//! Locks, outermost first: the map of groups (joining only), a group (joining, leaving, releasing), a topic's trimming,
//! a partition. Publishing, polling and settling take a partition's lock once per call and partition and no wider one;
//! no waker and no ticket is called with a lock held.

mod consumer;
mod cursor;
mod faults;
mod group;
mod log;
#[cfg(all(test, not(loom)))]
mod tests;
mod topic;

use crate::broker::{
    Broker, BrokerError, Capabilities, Consumer, ConsumerSpec, PublishFault, Stored, Ticket,
};
use crate::record::Record;
use crate::sync::{Arc, AtomicBool, Mutex, Ordering};
use crate::wait::Clock;
use crate::wait::{Listeners, Registration};
use consumer::MemoryConsumer;
pub use faults::Faults;
use group::Group;
use std::collections::HashMap;
use std::fmt;
use std::task::Waker;
use topic::{Retention, Topic, Topics};

/// A broker inside the process: topics with partitions, consumer groups with positions, bounded retention.
///
/// Cloning shares the broker. Several buses may be on one broker: that is how a test plays several processes, and
/// what they left behind is there when the next one connects. It is gone when the last clone is.
///
/// - **Partitions**: a record with a key goes to the partition that a fixed hash of the key chooses, the same in every
///   process, but not the one that Kafka would choose; records without a key go round robin.
/// - **Retention**: a topic keeps up to [`retention_records`](MemoryBrokerBuilder::retention_records) and
///   [`retention_bytes`](MemoryBrokerBuilder::retention_bytes). At the bound the oldest records go, up to a 64th of it
///   at once, but never one that a group has not settled: then the publisher waits, or is told that the topic is full.
///   A group counts from its first subscription on, also while it has no member, until
///   [`delete_group`](MemoryBroker::delete_group).
/// - **Groups**: partitions are spread evenly over the members. A position is kept per group and partition and outlives
///   the members; what was not settled is handed out again.
/// - **Faults and time** can be injected: see [`faults`](MemoryBroker::faults) and
///   [`clock`](MemoryBrokerBuilder::clock).
///
/// Nothing is written to disk.
///
/// ```
/// use keylane::Record;
/// use keylane::memory::MemoryBroker;
///
/// let broker = MemoryBroker::builder().topic("orders").topic_with("audit", 1).build();
/// let (partition, offset) = broker.append("orders", Record::new("paid").with_key("order-42"))?;
/// assert_eq!(offset, 0);
/// assert_eq!(broker.append("orders", Record::new("sent").with_key("order-42"))?, (partition, 1));
/// assert_eq!(broker.records("orders")?.len(), 2);
/// # Ok::<(), keylane::BrokerError>(())
/// ```
#[derive(Clone)]
pub struct MemoryBroker(Arc<Shared>);

struct Shared {
    topics: Topics,
    /// Locked also while a group joins a topic or is deleted, so that one does at a time.
    groups: Mutex<HashMap<Arc<str>, Arc<Group>>>,
    settings: Settings,
    clock: Clock,
    faults: Faults,
    is_closed: AtomicBool,
    members: Arc<Listeners>,
    space: Arc<Listeners>,
}

#[derive(Debug, Clone, Copy)]
struct Settings {
    partitions: u32,
    retention: Retention,
    creates_topics: bool,
}

/// Builds a [`MemoryBroker`]; from [`MemoryBroker::builder`].
///
/// ```
/// use keylane::{Clock, Record, memory::MemoryBroker};
///
/// let (clock, _time) = Clock::manual();
/// let broker = MemoryBroker::builder()
///     .partitions(2)
///     .retention_records(1_000)
///     .retention_bytes(1 << 20)
///     .create_topics(false)
///     .topic("orders")
///     .topic_with("audit", 1)
///     .clock(clock)
///     .build();
/// assert!(broker.append("orders", Record::new("paid")).is_ok());
/// assert!(broker.append("no-such-topic", Record::new("paid")).is_err());
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct MemoryBrokerBuilder {
    settings: Settings,
    topics: Vec<(String, Option<u32>)>,
    clock: Clock,
}

/// The most partitions of one topic.
const MAX_PARTITIONS: u32 = 65_536;

fn assert_partitions(partitions: u32) {
    assert!(
        (1..=MAX_PARTITIONS).contains(&partitions),
        "a topic has 1 to {MAX_PARTITIONS} partitions, not {partitions}"
    );
}

impl MemoryBrokerBuilder {
    /// How many partitions a topic has for which nothing else is said: 1 to 65,536, by default 4.
    ///
    /// # Panics
    /// If it is out of that range.
    pub fn partitions(mut self, partitions: u32) -> Self {
        assert_partitions(partitions);
        self.settings.partitions = partitions;
        self
    }

    /// How many records a topic keeps, at least 1; by default 100,000.
    ///
    /// # Panics
    /// If it is 0.
    pub fn retention_records(mut self, records: u64) -> Self {
        assert!(records > 0, "a topic keeps at least one record");
        self.settings.retention.records = records;
        self
    }

    /// How many bytes of records ([`Record::size`]) a topic keeps, at least 1; by default 256 MiB. A larger record is
    /// refused for good.
    ///
    /// # Panics
    /// If it is 0.
    pub fn retention_bytes(mut self, bytes: u64) -> Self {
        assert!(bytes > 0, "a topic keeps at least one byte");
        self.settings.retention.bytes = bytes;
        self
    }

    /// Adds a topic with the [usual number of partitions](Self::partitions), whichever is set last.
    pub fn topic(mut self, name: &str) -> Self {
        self.topics.push((name.to_owned(), None));
        self
    }

    /// Adds a topic with this many partitions, 1 to 65,536.
    ///
    /// # Panics
    /// If it is out of that range.
    pub fn topic_with(mut self, name: &str, partitions: u32) -> Self {
        assert_partitions(partitions);
        self.topics.push((name.to_owned(), Some(partitions)));
        self
    }

    /// Whether a topic is created by the first that publishes to it or subscribes to it; by default `false`, and a
    /// topic that does not exist is an error.
    pub fn create_topics(mut self, creates: bool) -> Self {
        self.settings.creates_topics = creates;
        self
    }

    /// Where the time comes from; by default the system. It decides when a record that was given back with a delay is
    /// due.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// The broker, with its topics.
    pub fn build(self) -> MemoryBroker {
        let (members, space) = (Arc::default(), Arc::default());
        let shared = Shared {
            topics: Topics::default(),
            groups: Mutex::new(HashMap::new()),
            settings: self.settings,
            clock: self.clock,
            faults: Faults::new(Arc::clone(&members), Arc::clone(&space)),
            is_closed: AtomicBool::new(false),
            members,
            space,
        };
        for (name, partitions) in self.topics {
            shared.get_or_create(&name, partitions.unwrap_or(self.settings.partitions));
        }
        MemoryBroker(Arc::new(shared))
    }
}

impl MemoryBroker {
    /// A broker with the defaults of [`MemoryBrokerBuilder`], to be changed.
    pub fn builder() -> MemoryBrokerBuilder {
        let retention = Retention { records: 100_000, bytes: 256 << 20 };
        MemoryBrokerBuilder {
            settings: Settings { partitions: 4, retention, creates_topics: false },
            topics: Vec::new(),
            clock: Clock::system(),
        }
    }

    /// Creates a topic with this many partitions, 1 to 65,536; a topic that is there stays as it is.
    ///
    /// # Panics
    /// If the number is out of that range.
    pub fn create_topic_with(&self, name: &str, partitions: u32) {
        assert_partitions(partitions);
        self.0.get_or_create(name, partitions);
    }

    /// Stores a record without a bus, as another process would have: its partition and offset.
    ///
    /// Returns at once, also when the topic is full.
    ///
    /// # Errors
    /// [`BrokerError::NoSuchTopic`]; [`BrokerError::Closed`]; [`BrokerError::Transient`] if the topic is full or a
    /// fault is planted, with the reason; [`BrokerError::Refused`] if the record is larger than all that the topic may
    /// keep.
    pub fn append(&self, topic: &str, record: Record) -> Result<(u32, u64), BrokerError> {
        self.0.check_open()?;
        let topic = self.0.topic(topic)?;
        match self.0.store(topic, Arc::new(record)) {
            Ok(Stored { partition, offset }) => Ok((partition, offset)),
            Err(PublishFault::Permanent(reason)) => Err(BrokerError::Refused(reason)),
            Err(fault) => Err(BrokerError::Transient(format!("`{}`: {fault}", topic.name))),
        }
    }

    /// The records that the topic keeps, partition by partition, in their order: what a test looks at in the end, in a
    /// topic of dead letters for example.
    ///
    /// # Errors
    /// [`BrokerError::NoSuchTopic`].
    pub fn records(&self, topic: &str) -> Result<Vec<Record>, BrokerError> {
        let partitions = self.0.topic(topic)?.partitions();
        let records = |state: &topic::PartitionState| -> Vec<Record> {
            state.log.records().map(|record| Record::clone(record)).collect()
        };
        Ok(partitions.iter().flat_map(|partition| records(&partition.lock())).collect())
    }

    /// The first offset that the group has not settled, for each partition of the topic; None if the group never
    /// subscribed to it.
    ///
    /// # Errors
    /// [`BrokerError::NoSuchTopic`].
    pub fn watermarks(&self, group: &str, topic: &str) -> Result<Option<Vec<u64>>, BrokerError> {
        let topic = self.0.topic(topic)?;
        // The map stays locked, so that the group is not deleted meanwhile.
        let groups = self.0.groups.lock();
        let slot = groups.get(group).and_then(|group| group.slot(topic));
        Ok(slot.map(|slot| topic.partitions().iter().map(|p| p.lock().cursor(slot).0.watermark()).collect()))
    }

    /// Deletes the positions of a group, so that it no longer holds back retention. False, and nothing is done, if it
    /// has members or does not exist.
    pub fn delete_group(&self, group: &str) -> bool {
        let mut groups = self.0.groups.lock();
        let Some(found) = groups.get(group).filter(|found| found.members() == 0).cloned() else {
            return false;
        };
        groups.remove(group);
        let topics = found.forget();
        drop(groups);
        topics.iter().for_each(|topic| topic.tell_of_space());
        true
    }

    /// Takes all partitions from a member of the group at once, as the expiry of its session does on another broker:
    /// what it handles still runs, its settles are refused, and others get its partitions. It is told at its next poll
    /// and comes back then.
    ///
    /// `member` counts the members in the order in which they subscribed, from 0. False: there is no such member.
    pub fn expel(&self, group: &str, member: usize) -> bool {
        let group = self.0.groups.lock().get(group).cloned();
        let to_wake = group.and_then(|group| group.expel(member));
        to_wake.is_some_and(|to_wake| {
            to_wake.wake();
            true
        })
    }

    /// Cuts a member of the group off for longer than its session would last, or, with `false`, ends that. While it is cut
    /// off its polls and settles fail, and its lease is over: it starts no handler, and [`Event::cancellation`] tells those
    /// that run. Its partitions stay its own until they are taken by [`expel`](Self::expel), as another broker does when a
    /// session has expired. When it hears of the group again it goes on with what is still its own.
    ///
    /// `member` counts the members in the order in which they subscribed, from 0. False: there is no such member.
    ///
    /// ```
    /// use keylane::memory::MemoryBroker;
    /// use keylane::{Config, Problem};
    ///
    /// let broker = MemoryBroker::builder().topic("orders").build();
    /// let bus = broker.connect(Config::default())?;
    /// let orders = bus.subscribe_envelopes("orders").group("billing").handle(|_| Ok(()))?;
    /// orders.ready().wait()?;
    /// broker.cut_off("billing", 0, true);
    /// while !orders.health().problems.iter().any(|problem| matches!(problem, Problem::LeaseOver { .. })) {
    ///     std::thread::sleep(std::time::Duration::from_millis(1));
    /// }
    /// broker.cut_off("billing", 0, false);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// [`Event::cancellation`]: crate::Event::cancellation
    pub fn cut_off(&self, group: &str, member: usize, is_cut_off: bool) -> bool {
        let group = self.0.groups.lock().get(group).cloned();
        let to_wake = group.and_then(|group| group.cut_off(member, is_cut_off));
        to_wake.is_some_and(|to_wake| {
            to_wake.wake();
            true
        })
    }

    /// Makes the broker fail in chosen ways.
    pub fn faults(&self) -> Faults {
        self.0.faults.clone()
    }

    /// Ends the broker for everyone on it: from now on everything is answered with [`BrokerError::Closed`].
    pub fn close(&self) {
        // ORDERING: Release pairs with the Acquire of `is_closed`: who is woken below sees it.
        self.0.is_closed.store(true, Ordering::Release);
        self.0.members.wake_all();
        self.0.space.wake_all();
    }
}

impl Shared {
    fn append(&self, topic: &str, record: Arc<Record>) -> Result<Stored, PublishFault> {
        match self.check_open().and_then(|()| self.topic(topic)) {
            Ok(topic) => self.store(topic, record),
            Err(error) => Err(PublishFault::Permanent(error.to_string())),
        }
    }

    fn is_closed(&self) -> bool {
        // ORDERING: Acquire: see `close`.
        self.is_closed.load(Ordering::Acquire)
    }

    fn check_open(&self) -> Result<(), BrokerError> {
        if self.is_closed() { Err(BrokerError::Closed) } else { Ok(()) }
    }

    fn topic(&self, name: &str) -> Result<&Arc<Topic>, BrokerError> {
        match self.topics.get(name) {
            Some(topic) => Ok(topic),
            None if self.settings.creates_topics => Ok(self.get_or_create(name, self.settings.partitions)),
            None => Err(BrokerError::NoSuchTopic { topic: name.to_owned() }),
        }
    }

    fn get_or_create(&self, name: &str, partitions: u32) -> &Arc<Topic> {
        self.topics.get_or_insert(name, || {
            Topic::new(name.into(), partitions, self.settings.retention, self.space.clone())
        })
    }

    fn store(&self, topic: &Topic, record: Arc<Record>) -> Result<Stored, PublishFault> {
        if self.faults.is_unreachable() {
            return Err(PublishFault::Transient(unreachable()));
        }
        if self.faults.takes_publish(&topic.name, &record) {
            return Err(PublishFault::Transient("the publish failed: a planted fault".to_owned()));
        }
        topic.append(record)
    }
}

fn unreachable() -> String {
    "the memory broker is unreachable: a planted fault".to_owned()
}

impl Broker for MemoryBroker {
    fn system(&self) -> &'static str {
        "memory"
    }

    fn clock(&self) -> Clock {
        self.0.clock.clone()
    }

    fn capabilities(&self) -> Capabilities {
        // A publish that a fault took is tried again by the publisher, behind what was stored meanwhile.
        Capabilities { redeliver: true, orders_publishes: false, counts_deliveries: false }
    }

    fn partitions(&self, topic: &str) -> Result<u32, BrokerError> {
        self.0.check_open()?;
        Ok(self.0.topic(topic)?.partitions().len() as u32)
    }

    fn create_topic(&self, topic: &str) -> Result<(), BrokerError> {
        self.0.check_open()?;
        self.0.get_or_create(topic, self.0.settings.partitions);
        Ok(())
    }

    fn publish(&self, topic: &Arc<str>, record: Arc<Record>, ticket: Box<dyn Ticket>) {
        ticket.answer(self.0.append(topic, record));
    }

    fn append(&self, topic: &Arc<str>, record: &Arc<Record>) -> Option<Result<Stored, PublishFault>> {
        Some(self.0.append(topic, record.clone()))
    }

    fn on_space(&self, wake: Waker) -> Registration {
        self.0.space.register(wake)
    }

    fn subscribe(&self, spec: &ConsumerSpec, wake: Waker) -> Result<Box<dyn Consumer>, BrokerError> {
        self.0.check_open()?;
        let topics: Vec<Arc<Topic>> =
            spec.topics.iter().map(|name| self.0.topic(name).cloned()).collect::<Result<_, _>>()?;
        let wakes = [self.0.members.register(wake.clone()), self.0.clock.register(wake.clone())];
        let mut groups = self.0.groups.lock();
        let group = groups.entry(spec.group.clone()).or_default().clone();
        let (member, slots, to_wake) = group.join(topics, spec.start, wake);
        drop(groups);
        to_wake.wake();
        Ok(Box::new(MemoryConsumer::new(self.0.clone(), group, member, slots, wakes)))
    }
}

impl fmt::Debug for MemoryBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBroker")
            .field("settings", &self.0.settings)
            .field("is_closed", &self.0.is_closed())
            .finish_non_exhaustive()
    }
}
