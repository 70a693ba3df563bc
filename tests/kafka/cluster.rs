//! The broker that these tests share, and what they do with it besides.

use crate::support::number;
use crate::support::servers::{self, Server};
use keylane::{Bus, Config, Envelopes, Subscription, SubscriptionBuilder};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A topic and a group that no other test has.
pub fn fresh(name: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("{name}-{}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

pub fn shared() -> &'static Server {
    &servers::shared_kafka().0
}

/// A configuration for the broker at this port, that may create topics of so many partitions.
pub fn config(port: u16, partitions: usize) -> Config {
    let mut config = Config::default();
    config.url = format!("kafka://127.0.0.1:{port}");
    config.kafka.create_topics = true;
    config.kafka.partitions = partitions;
    config.kafka.connect_timeout = Duration::from_secs(60);
    config
}

/// A bus on the broker at this port, as another process would have it.
pub fn connect_to(port: u16, partitions: usize, tune: impl FnOnce(&mut Config)) -> Bus {
    let mut config = config(port, partitions);
    tune(&mut config);
    keylane::connect_with(config).wait().expect("the broker answers")
}

pub fn connect(partitions: usize) -> Bus {
    connect_to(shared().port, partitions, |_| {})
}

/// Offset and metadata that the group has committed.
pub fn committed(port: u16, group: &str, topic: &str, partition: i32) -> Option<(i64, String)> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", format!("127.0.0.1:{port}"))
        .set("group.id", group)
        .create()
        .expect("a client");
    let mut list = TopicPartitionList::new();
    list.add_partition(topic, partition);
    let mut found = consumer.committed_offsets(list.clone(), Duration::from_secs(10));
    // A broker that has just started loads its groups first.
    for _ in 0..100 {
        if found.is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
        found = consumer.committed_offsets(list.clone(), Duration::from_secs(10));
    }
    let found = found.expect("the broker answers");
    let element = found.find_partition(topic, partition)?;
    match element.offset() {
        Offset::Offset(offset) => Some((offset, element.metadata().to_owned())),
        _ => None,
    }
}

/// Commits a position of partition 0, with text beside it, as another program would.
pub fn commit_by_hand(group: &str, topic: &str, offset: i64, text: &str) {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", format!("127.0.0.1:{}", shared().port))
        .set("group.id", group)
        .create()
        .expect("a client");
    let mut list = TopicPartitionList::new();
    let mut element = list.add_partition(topic, 0);
    element.set_offset(Offset::Offset(offset)).expect("a valid offset");
    element.set_metadata(text);
    consumer.commit(&list, CommitMode::Sync).expect("the broker answers");
}

pub type Seen = Arc<Mutex<Vec<u64>>>;

/// Starts a subscription that handles everything, and notes the numbers of what it handled.
pub fn noting(builder: SubscriptionBuilder<Envelopes>) -> (Subscription, Seen) {
    let seen = Seen::default();
    let handled = seen.clone();
    let subscription = builder.handle(move |event| {
        handled.lock().unwrap().push(number(event));
        Ok(())
    });
    (subscription.unwrap(), seen)
}
