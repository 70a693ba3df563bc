//! A cluster that goes by Kafka's rules, behind the traits that the backend implements: offsets with a text beside them,
//! sessions, generations, partitions that are revoked or lost, logs that are cut, trimmed or made anew.
//!
//! The rules of the backend's own that need no client (where a group begins, what a quiet partition means, how a position
//! is written) are the shipped ones; what the client library and the brokers do is the model's.

mod client;
mod cluster;

use super::here;
use super::time::sleep;
use super::world::{Process, World};
use crate::broker::{
    Broker, BrokerError, Capabilities, Consumer, ConsumerSpec, PublishFault, Stored, Ticket,
};
use crate::sync::{Arc, Mutex};
use crate::wait::world::adopt_future;
use crate::wait::{Clock, Registration};
use crate::{Bus, Config, Record};
use client::{Client, Member};
use cluster::{Cluster, Log};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::task::Waker;
use std::time::Duration;

/// How long the coordinator waits for a member that it does not hear of.
const SESSION: Duration = Duration::from_secs(6);
const HEARTBEAT: Duration = Duration::from_millis(500);
/// How long an answer is on its way.
const NEAR: Duration = Duration::from_micros(300);

fn away() -> BrokerError {
    BrokerError::Transient("the brokers do not answer".to_owned())
}

/// A simulated cluster. Cloning it is cheap, and all clones are one.
#[derive(Clone)]
pub struct KafkaModel(Arc<Mutex<Cluster>>);

impl KafkaModel {
    /// A cluster in this world with these topics and their numbers of partitions.
    pub fn new(world: &World, topics: &[(&str, u32)]) -> Self {
        let last_id = (1..).zip(topics).last().map_or(0, |(id, _)| id);
        let logs = |id, partitions| (0..partitions).map(|_| Log::new(id)).collect();
        let topics =
            (1..).zip(topics).map(|(id, (name, partitions))| ((*name).to_owned(), logs(id, *partitions)));
        let topics = topics.collect();
        Self(Arc::new(Mutex::new(Cluster {
            clock: world.clock(),
            topics,
            groups: BTreeMap::new(),
            cut: BTreeSet::new(),
            last_member: 0,
            last_id,
            waiting: Vec::new(),
        })))
    }

    /// A bus of a process.
    ///
    /// # Panics
    /// When the configuration is not valid.
    pub fn connect(&self, process: Process, config: Config) -> Bus {
        let (_, config) = config.resolve().expect("the configuration is valid");
        Bus::on(Arc::new(Connection { cluster: self.0.clone(), process }), config)
    }

    /// The records of a topic, partition by partition, in their order.
    pub fn records(&self, topic: &str) -> Vec<Record> {
        let cluster = self.0.lock();
        let logs = cluster.topics.get(topic).into_iter().flatten();
        logs.flat_map(|log| log.records.iter().map(|record| Record::clone(record))).collect()
    }

    /// From here on the process reaches no broker, or reaches them again.
    pub fn cut(&self, process: Process, is_cut: bool) {
        self.change(|cluster| {
            if is_cut {
                cluster.cut.insert(process)
            } else {
                cluster.cut.remove(&process)
            };
        });
    }

    /// Ends all cuts and all transactions.
    pub fn heal(&self) {
        self.change(|cluster| {
            cluster.cut.clear();
            cluster.topics.values_mut().flatten().for_each(|log| log.open_at = None);
        });
    }

    /// An operator deletes a topic and makes it anew: the group's positions in it go with it. What was in it.
    pub fn make_anew(&self, topic: &str) -> Vec<Arc<Record>> {
        self.change(|cluster| {
            cluster.last_id += 1;
            let id = cluster.last_id;
            let logs = cluster.topics.get_mut(topic).into_iter().flatten();
            let gone = logs.flat_map(|log| std::mem::replace(log, Log::new(id)).records).collect();
            for group in cluster.groups.values_mut() {
                group.committed.retain(|(of, _), _| of != topic);
            }
            gone
        })
    }

    /// The last `n` records of each partition are lost, as by an unclean election. Those.
    pub fn truncate(&self, topic: &str, n: usize) -> Vec<Arc<Record>> {
        self.change(|cluster| {
            let logs = cluster.topics.get_mut(topic).into_iter().flatten();
            logs.flat_map(|log| log.records.split_off(log.records.len().saturating_sub(n))).collect()
        })
    }

    /// Retention removes the first `n` records of each partition. Those.
    pub fn trim(&self, topic: &str, n: usize) -> Vec<Arc<Record>> {
        self.change(|cluster| {
            let mut gone = Vec::new();
            for log in cluster.topics.get_mut(topic).into_iter().flatten() {
                let n = n.min(log.records.len());
                log.low += n as u64;
                gone.extend(log.records.drain(..n));
            }
            gone
        })
    }

    /// A topic gets so many partitions more.
    pub fn add_partitions(&self, topic: &str, more: u32) {
        self.change(|cluster| {
            if let Some(logs) = cluster.topics.get_mut(topic) {
                let id = logs.first().and_then(|log| log.id);
                logs.extend((0..more).map(|_| Log { id, ..Log::new(0) }));
            }
        });
    }

    /// A transaction begins in each partition and stays open until [`heal`](Self::heal): what comes behind is not read.
    pub fn open_transaction(&self, topic: &str) {
        self.change(|cluster| {
            for log in cluster.topics.get_mut(topic).into_iter().flatten() {
                log.open_at.get_or_insert(log.low + log.records.len() as u64);
            }
        });
    }

    /// Somebody else writes another text beside the group's offsets, as a mirror that copies it to other offsets does.
    pub fn write_texts(&self, group: &str, text: &str) {
        self.change(|cluster| {
            let committed =
                cluster.groups.get_mut(group).into_iter().flat_map(|group| group.committed.values_mut());
            committed.for_each(|(_, beside)| text.clone_into(beside));
        });
    }

    /// The first offset that the group has not settled, by partition; where it has committed nothing, none.
    pub fn committed(&self, group: &str, topic: &str) -> BTreeMap<u32, u64> {
        let cluster = self.0.lock();
        let committed = cluster.groups.get(group).into_iter().flat_map(|group| &group.committed);
        committed
            .filter(|((of, _), _)| of == topic)
            .map(|((_, partition), (offset, _))| (*partition, *offset))
            .collect()
    }

    /// The end of each partition.
    pub fn ends(&self, topic: &str) -> Vec<u64> {
        self.0.lock().topics.get(topic).into_iter().flatten().map(Log::end).collect()
    }

    fn change<R>(&self, change: impl FnOnce(&mut Cluster) -> R) -> R {
        let mut cluster = self.0.lock();
        let result = change(&mut cluster);
        let waiting = std::mem::take(&mut cluster.waiting);
        drop(cluster);
        waiting.into_iter().for_each(Waker::wake);
        result
    }
}

impl fmt::Debug for KafkaModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaModel").finish_non_exhaustive()
    }
}

/// What a process has of the cluster.
struct Connection {
    cluster: Arc<Mutex<Cluster>>,
    process: Process,
}

impl Connection {
    fn store(&self, topic: &str, record: &Arc<Record>) -> Result<Stored, PublishFault> {
        KafkaModel(self.cluster.clone()).change(|cluster| {
            if cluster.cut.contains(&self.process) {
                return Err(PublishFault::Transient("the brokers do not answer".to_owned()));
            }
            let Some(logs) = cluster.topics.get_mut(topic) else {
                return Err(PublishFault::Permanent(format!("no topic `{topic}`")));
            };
            let sum =
                record.key.iter().flatten().fold(7_u64, |sum, byte| sum.wrapping_mul(31) + u64::from(*byte));
            let partition = (sum % logs.len() as u64) as u32;
            let log = &mut logs[partition as usize];
            let offset = log.end();
            log.records.push_back(record.clone());
            Ok(Stored { partition, offset })
        })
    }
}

impl Broker for Connection {
    fn system(&self) -> &'static str {
        "kafka"
    }

    fn capabilities(&self) -> Capabilities {
        // The model's client sends at once, and so one after the other: the publisher keeps the order.
        Capabilities { redeliver: false, orders_publishes: false, counts_deliveries: false }
    }

    fn clock(&self) -> Clock {
        self.cluster.lock().clock.clone()
    }

    fn commit_interval(&self) -> Option<Duration> {
        Some(Duration::from_millis(20))
    }

    fn partitions(&self, topic: &str) -> Result<u32, BrokerError> {
        let cluster = self.cluster.lock();
        let found = cluster.topics.get(topic).map(|logs| logs.len() as u32);
        found.ok_or_else(|| BrokerError::NoSuchTopic { topic: topic.to_owned() })
    }

    fn create_topic(&self, topic: &str) -> Result<(), BrokerError> {
        let cluster = &mut *self.cluster.lock();
        cluster.last_id += 1;
        cluster.topics.entry(topic.to_owned()).or_insert_with(|| vec![Log::new(cluster.last_id)]);
        Ok(())
    }

    fn publish(&self, topic: &Arc<str>, record: Arc<Record>, ticket: Box<dyn Ticket>) {
        let answer = self.store(topic, &record);
        // It comes later, as an answer over a network does.
        let answered = async move {
            sleep(NEAR).await;
            ticket.answer(answer);
        };
        adopt_future(&*here(), "kafka-answer".to_owned(), answered);
    }

    fn on_space(&self, _: Waker) -> Registration {
        Registration::none()
    }

    fn subscribe(&self, spec: &ConsumerSpec, wake: Waker) -> Result<Box<dyn Consumer>, BrokerError> {
        let client = Client::new(self.cluster.clone(), self.process, spec, wake);
        let client = Arc::new(Mutex::new(client));
        let beating = Arc::downgrade(&client);
        let beats = async move {
            while let Some(client) = beating.upgrade() {
                let is_changed = client.lock().heartbeat();
                if is_changed {
                    let wake = client.lock().wake.clone();
                    wake.wake();
                }
                drop(client);
                sleep(HEARTBEAT).await;
            }
        };
        adopt_future(&*here(), "kafka-heartbeat".to_owned(), beats);
        Ok(Box::new(Member(client)))
    }
}
