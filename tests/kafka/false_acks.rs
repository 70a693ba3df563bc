//! An acknowledgement that the brokers never gave, against librdkafka's own cluster of mock brokers, which can be told
//! what to answer.
//!
//! A partition takes any sequence number from a producer that it knows nothing of. So when its leader refuses a
//! producer's first batch and takes the second (it has become the leader in between), the client, which takes the
//! second for a proof that the first is stored, acknowledges a record that is nowhere.

use crate::support::{eventually, numbered};
use keylane::{Bus, Envelope};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use std::thread;
use std::time::{Duration, Instant};

const ROUND_TRIP: Duration = Duration::from_millis(200);

fn cluster() -> (MockCluster<'static, DefaultProducerContext>, Bus) {
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic("orders", 1, 1).unwrap();
    let bus = keylane::connect(&format!("kafka://{}", mock.bootstrap_servers())).wait().unwrap();
    (mock, bus)
}

/// The numbers in the topic in their order, when there are so many.
fn stored(mock: &MockCluster<'static, DefaultProducerContext>, count: usize) -> Vec<u64> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", mock.bootstrap_servers())
        .set("group.id", "reader")
        .create()
        .unwrap();
    let mut from = TopicPartitionList::new();
    from.add_partition_offset("orders", 0, Offset::Beginning).unwrap();
    consumer.assign(&from).unwrap();
    let mut numbers = Vec::new();
    eventually("all are read", || {
        while let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
            let envelope = Envelope::parse(message.payload().unwrap()).unwrap();
            numbers.push(serde_json::from_slice(envelope.payload_bytes()).unwrap());
        }
        numbers.len() >= count
    })
    .unwrap();
    numbers
}

#[test]
fn a_record_is_acknowledged_by_the_broker_and_not_by_a_later_one() {
    let (mock, bus) = cluster();
    // The topic is known, and the producer has its number.
    bus.publish("orders", numbered("order-1", 0)).wait().unwrap();
    mock.broker_round_trip_time(1, ROUND_TRIP).unwrap();
    mock.request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION],
    );
    let first = bus.publish("orders", numbered("order-1", 1));
    // In a batch of its own, beside the first: the client sends what it has after a millisecond.
    thread::sleep(ROUND_TRIP / 4);
    let second = bus.publish("orders", numbered("order-1", 2));
    let offsets = [first, second].map(|publish| publish.wait().unwrap().offset());
    // The second was stored ahead of the first, so it is there again behind it.
    assert_eq!(stored(&mock, 4), [0, 2, 1, 2]);
    assert_eq!(offsets, [2, 3]);
}

#[test]
fn nothing_is_sent_before_the_leader_knows_that_it_leads() {
    let (mock, bus) = cluster();
    let not_yet = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION; 2];
    mock.request_errors(RDKafkaApiKey::ListOffsets, &not_yet);
    let since = Instant::now();
    bus.publish("orders", numbered("order-1", 0)).wait().unwrap();
    // It asks again five times a second.
    assert!(since.elapsed() >= Duration::from_millis(400), "sent after {:?}", since.elapsed());
}
