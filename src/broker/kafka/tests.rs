//! The producer against librdkafka's own cluster of mocks, which can be made to fail as no real one does on demand.

use super::producer::Producer;
use super::properties;
use super::topics::Creator;
use crate::broker::{PublishFault, Stored, Ticket};
use crate::config::{BusUrl, Config};
use crate::record::Record;
use crate::sync::{Arc, Mutex};
use rdkafka::ClientConfig;
use rdkafka::bindings::rd_kafka_test_fatal_error;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{DefaultProducerContext, Producer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

type Answers = Arc<Mutex<Vec<(u64, Result<Stored, PublishFault>)>>>;

struct Noted(u64, Answers);

impl Ticket for Noted {
    fn id(&self) -> u64 {
        self.0
    }

    fn answer(self: Box<Self>, result: Result<Stored, PublishFault>) {
        self.1.lock().push((self.0, result));
    }
}

fn producer(cluster: &MockCluster<'_, DefaultProducerContext>) -> Arc<Producer> {
    let config = Config::default();
    let url = BusUrl::parse(&format!("kafka://{}", cluster.bootstrap_servers())).unwrap();
    let creator = Arc::new(Creator::new(properties::client(&url, &config), &config.kafka));
    let producer =
        Arc::new(Producer::new(properties::producer(&url, &config), String::new(), creator, false).unwrap());
    producer.start().unwrap();
    producer
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < until, "it did not come to this: {what}");
        crate::sync::thread::sleep(Duration::from_millis(2));
    }
}

fn stored(cluster: &MockCluster<'_, DefaultProducerContext>, topic: &str) -> Vec<u64> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", cluster.bootstrap_servers())
        .set("group.id", "reader")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
    consumer.assign(&list).unwrap();
    let (_, end) = consumer.fetch_watermarks(topic, 0, Duration::from_secs(10)).unwrap();
    let mut found = Vec::new();
    while found.len() < usize::try_from(end).unwrap() {
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) else { continue };
        found.push(std::str::from_utf8(message.payload().unwrap()).unwrap().parse().unwrap());
    }
    found
}

#[test]
fn a_producer_that_fails_for_good_is_replaced_and_keeps_the_order() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("orders", 1, 1).unwrap();
    let (producer, answers) = (producer(&cluster), Answers::default());
    let topic: Arc<str> = "orders".into();
    for n in 0..3_000 {
        let record = Arc::new(Record::new(n.to_string()).with_key("key"));
        producer.publish(&topic, record, Box::new(Noted(n, answers.clone())));
        if n % 1_000 == 500 {
            eventually("there is one", || producer.client().is_some());
            let client = producer.client().expect("just seen");
            // SAFETY: the client lives through the call, and the reason is a string that ends with a zero.
            unsafe {
                rd_kafka_test_fatal_error(
                    client.client().native_ptr(),
                    RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
                    c"planted".as_ptr(),
                );
            }
            let failed = Arc::downgrade(&client);
            drop(client);
            // Publishes go on meanwhile in one of the rounds, and wait for the new one in the others.
            if n > 1_000 {
                eventually("it is replaced", || failed.strong_count() == 0 && producer.client().is_some());
            }
        }
    }
    eventually("all are answered", || answers.lock().len() == 3_000);
    assert!(answers.lock().iter().all(|(_, answer)| answer.is_ok()), "none is refused");
    let each: BTreeSet<u64> = answers.lock().iter().map(|(n, _)| *n).collect();
    assert_eq!(each.len(), 3_000, "each once");
    let stored = stored(&cluster, "orders");
    // What was stored already may be there twice, but no first copy stands behind a later one.
    let mut newest = None;
    for n in &stored {
        assert!(
            newest.is_some_and(|newest| *n <= newest) || *n == newest.map_or(0, |n: u64| n + 1),
            "{n} is early"
        );
        newest = newest.max(Some(*n));
    }
    assert_eq!(newest, Some(2_999));
    producer.close();
}

#[test]
fn a_topic_that_does_not_exist_holds_up_no_other() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("orders", 1, 1).unwrap();
    let (producer, answers) = (producer(&cluster), Answers::default());
    // The mocks create what is asked for; this name is one that no broker takes.
    for (n, topic) in ["orders", "no topic", "orders"].into_iter().enumerate() {
        let record = Arc::new(Record::new(n.to_string()));
        producer.publish(&topic.into(), record, Box::new(Noted(n as u64, answers.clone())));
    }
    eventually("those of the other topic are answered", || {
        answers.lock().iter().filter(|(n, _)| n % 2 == 0).count() == 2
    });
    producer.close();
}
