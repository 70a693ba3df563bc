//! What can be done wrong on Kafka.

use super::Planted;
use crate::child::Leave;
use crate::history::{Entry, Id, Log};
use crate::work::{Outcome, id_of};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::message::BorrowedMessage;
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

fn consumer(planted: &Planted) -> BaseConsumer {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &planted.address)
        .set("group.id", "planted")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("session.timeout.ms", "2000")
        .set("heartbeat.interval.ms", "300")
        .create()
        .expect("librdkafka starts");
    consumer.subscribe(&[&planted.topic]).expect("a valid topic");
    consumer
}

fn commit_next(consumer: &BaseConsumer, topic: &str, partition: i32, offset: i64, mode: CommitMode) {
    let mut position = TopicPartitionList::new();
    position.add_partition_offset(topic, partition, Offset::Offset(offset + 1)).expect("a valid offset");
    let _ = consumer.commit(&position, mode);
}

fn id(message: &BorrowedMessage<'_>) -> Id {
    id_of(message.payload().expect("no record is empty"))
}

/// Keeps every promise but one: the commits pass the records that wait.
pub(super) fn commit_past_pending(planted: &Planted, retry_after: Duration, log: &Log, leave: &Leave) {
    let work = planted.work;
    let consumer = consumer(planted);
    // For each key what waits, the first one until then.
    let mut waiting: HashMap<u32, (Instant, u32, VecDeque<Id>)> = HashMap::new();
    // Returns the attempt that comes next, if it failed.
    let attempt = |id: Id, attempt: u32| {
        log.append(Entry::Start(id, attempt));
        thread::sleep(work.takes(id));
        let outcome = work.outcome(id, attempt);
        log.append(if outcome == Outcome::Succeeds { Entry::Done(id) } else { Entry::Failed(id) });
        (outcome == Outcome::Fails).then_some(attempt + 1)
    };
    while !leave.is_asked() {
        for (due, next, ids) in waiting.values_mut() {
            while *due <= Instant::now()
                && let Some(&id) = ids.front()
            {
                if let Some(again) = attempt(id, *next) {
                    (*due, *next) = (Instant::now() + retry_after, again);
                } else {
                    ids.pop_front();
                    *next = 1;
                }
            }
        }
        waiting.retain(|_, (_, _, ids)| !ids.is_empty());
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(20)) else { continue };
        let id = id(&message);
        if let Some((_, _, ids)) = waiting.get_mut(&id.key) {
            ids.push_back(id);
        } else if let Some(again) = attempt(id, 1) {
            waiting.insert(id.key, (Instant::now() + retry_after, again, VecDeque::from([id])));
        }
        let (topic, partition, offset) = (message.topic(), message.partition(), message.offset());
        commit_next(&consumer, topic, partition, offset, CommitMode::Sync);
    }
}

/// Handles each partition on a thread of its own, which hears of no rebalance.
pub(super) fn skip_the_drain(planted: &Planted, log: &Log, leave: &Leave) {
    let work = planted.work;
    let consumer = Arc::new(consumer(planted));
    let mut partitions: HashMap<i32, Sender<(Id, i64)>> = HashMap::new();
    thread::scope(|threads| {
        while !leave.is_asked() {
            let Some(Ok(message)) = consumer.poll(Duration::from_millis(20)) else { continue };
            let partition = message.partition();
            let records = partitions.entry(partition).or_insert_with(|| {
                let (records, handled) = channel::<(Id, i64)>();
                let (consumer, topic) = (consumer.clone(), planted.topic.clone());
                threads.spawn(move || {
                    for (id, offset) in handled {
                        if leave.is_asked() {
                            return;
                        }
                        log.append(Entry::Start(id, 1));
                        thread::sleep(work.takes(id));
                        log.append(Entry::Done(id));
                        commit_next(&consumer, &topic, partition, offset, CommitMode::Async);
                    }
                });
                records
            });
            let _ = records.send((id(&message), message.offset()));
        }
        partitions.clear();
    });
}
