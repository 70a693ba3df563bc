//! Real brokers as backends of the suite, each behind a proxy that cuts its connections.

use crate::backend::{Backend, Cluster, TOPICS};
use crate::support::servers::proxy::{Protocol, Proxy};
use keylane::{Bus, Config};
#[cfg(feature = "kafka")]
use std::sync::atomic::{AtomicU32, Ordering};

/// A proxy before a broker, and what clients are told of it.
struct Real<Broker> {
    proxy: Proxy,
    config: Config,
    /// Before the names of topics and behind those of groups, where tests share a broker.
    prefix: String,
    suffix: String,
    first_offset: u64,
    _broker: Broker,
}

impl<Broker: Send + Sync> Real<Broker> {
    fn with_topics(self) -> Box<Self> {
        let bus = self.connect(&|_| {});
        for topic in TOPICS {
            bus.create_topic(&self.topic(topic)).wait().expect("a topic can be created");
        }
        let _ = bus.close(std::time::Duration::from_secs(60)).wait();
        Box::new(self)
    }
}

impl<Broker: Send + Sync> Cluster for Real<Broker> {
    fn connect(&self, tune: &dyn Fn(&mut Config)) -> Bus {
        let mut config = self.config.clone();
        tune(&mut config);
        keylane::connect_with(config).wait().expect("the broker answers")
    }

    fn topic(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn group(&self, name: &str) -> String {
        format!("{name}{}", self.suffix)
    }

    fn first_offset(&self) -> u64 {
        self.first_offset
    }

    fn fail_next_publishes(&self, topic: &str, n: usize) {
        self.proxy.fail_next_publishes(&self.topic(topic), n);
    }

    fn set_reachable(&self, is_reachable: bool) {
        self.proxy.set_reachable(is_reachable);
    }
}

#[cfg(feature = "kafka")]
pub struct Kafka;

#[cfg(feature = "kafka")]
impl Backend for Kafka {
    fn name(&self) -> &'static str {
        "kafka"
    }

    fn cluster(&self, partitions: u32) -> Box<dyn Cluster> {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let lease = crate::support::servers::lease_listener();
        let proxy = Proxy::start(lease.advertised, lease.port, Protocol::Kafka);
        let mut config = Config::default();
        config.url = format!("kafka://127.0.0.1:{}", lease.advertised);
        config.kafka.partitions = partitions as usize;
        // A rebalance waits for the heartbeats of all members.
        config.kafka.properties.0.insert("heartbeat.interval.ms".to_owned(), "300".to_owned());
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let (prefix, suffix) = (format!("c{number}-"), format!("-c{number}"));
        Real { proxy, config, prefix, suffix, first_offset: 0, _broker: lease }.with_topics()
    }
}

#[cfg(feature = "nats")]
pub struct Nats;

#[cfg(feature = "nats")]
impl Backend for Nats {
    fn name(&self) -> &'static str {
        "nats"
    }

    fn shares_topics(&self) -> bool {
        false
    }

    fn cluster(&self, _partitions: u32) -> Box<dyn Cluster> {
        let server = crate::support::servers::nats(&[]);
        let proxy = Proxy::start(0, server.port, Protocol::Nats);
        let mut config = Config::default();
        config.url = format!("nats://127.0.0.1:{}", proxy.port());
        let (prefix, suffix) = (String::new(), String::new());
        Real { proxy, config, prefix, suffix, first_offset: 1, _broker: server }.with_topics()
    }
}
