//! Kafka, by its client library alone.

use super::Held;
use crate::clock::of_wall;
use crate::history::{Id, Place};
use crate::work::{bytes, id_of};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use std::time::{Duration, Instant};

pub(super) const PARTITIONS: i32 = 6;
const LIMIT: Duration = Duration::from_secs(60);

/// The topics of a run. The broker's clock tells when a dead letter was stored.
pub(super) fn create(address: &str, topic: &str, dead: &str) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", address);
    let admin: AdminClient<DefaultClientContext> = config.create().expect("librdkafka starts");
    let topics = [topic, dead].map(|topic| {
        NewTopic::new(topic, PARTITIONS, TopicReplication::Fixed(1))
            .set("message.timestamp.type", "LogAppendTime")
    });
    let until = Instant::now() + LIMIT;
    loop {
        let options = AdminOptions::new().request_timeout(Some(Duration::from_secs(10)));
        match smol::block_on(admin.create_topics(&topics, &options)) {
            Ok(results) => {
                for result in results {
                    match result {
                        // By a try before this one, whose answer came too late.
                        Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                        Err((topic, error)) => panic!("{topic} was not created: {error}"),
                    }
                }
                return;
            }
            // A broker that was just started.
            Err(error) => assert!(Instant::now() < until, "the topics of the run were not created: {error}"),
        }
    }
}

pub(super) fn load(address: &str, topic: &str, ids: impl Iterator<Item = Id>) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", address)
        .set("enable.idempotence", "true")
        .create()
        .expect("librdkafka starts");
    for id in ids {
        let (key, value) = (id.key.to_string(), bytes(id));
        let record = BaseRecord::to(topic).key(&key).payload(&value);
        producer.send(record).expect("the producer's queue has room for the records of a test");
    }
    producer.flush(LIMIT).expect("the broker acknowledges");
}

pub(super) fn read(address: &str, topic: &str) -> Vec<Held> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", address)
        .set("group.id", "chaos-checker")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("fetch.queue.backoff.ms", "10")
        .create()
        .expect("librdkafka starts");
    let mut from = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        from.add_partition_offset(topic, partition, Offset::Beginning).expect("a valid offset");
    }
    consumer.assign(&from).expect("it is valid");
    let (mut held, mut ended) = (Vec::new(), 0);
    let until = Instant::now() + LIMIT;
    while ended < PARTITIONS {
        assert!(Instant::now() < until, "{topic} could not be read to its end within {LIMIT:?}");
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                let millis = message.timestamp().to_millis().expect("the topic keeps times");
                held.push(Held {
                    id: id_of(message.payload().expect("no record is empty")),
                    place: Place {
                        partition: message.partition().cast_unsigned(),
                        offset: message.offset().cast_unsigned(),
                    },
                    time: of_wall(Duration::from_millis(millis.cast_unsigned())),
                });
            }
            Some(Err(KafkaError::PartitionEOF(_))) => ended += 1,
            // A broker that was just started.
            Some(Err(_)) | None => {}
        }
    }
    held
}
