//! How far the topics go and how far the group is in them.
//!
//! The subscription asks, and the client's thread passes it on to one of its own, with a client of its own: on the
//! member's connections a request waits behind a fetch that has nothing to bring, half a second each. Thread and client
//! are there while somebody asks, and for a moment longer.

use super::client;
use super::commits::TopicPartition;
use super::group::{Client, Group};
use super::properties::Properties;
use super::question::{Asked, Marks, Question};
use super::topics;
use crate::broker::{BrokerError, Mark};
use crate::foreign;
use crate::sync::{Arc, thread};
use rdkafka::config::FromClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::HashMap;
use std::sync::mpsc;
use std::time::Duration;

/// How long one request takes at most.
const ASK: Duration = Duration::from_secs(1);
/// How long the client is kept without a question.
const IDLE: Duration = Duration::from_secs(1);

type Offsets = HashMap<TopicPartition, u64>;

impl Group {
    /// Up to where all was handed over of the partitions that are here. The client's position passes what is no record,
    /// like the end of a transaction, which no ledger hears of.
    pub(super) fn passed(&self, client: &Client) -> Offsets {
        let here = self.list(self.own.lock().assigned.iter().map(|assigned| assigned.partition));
        let passed = client.position(here).and_then(|list| offsets_of(&list, &self.spec().topics));
        let mut passed = passed.unwrap_or_default();
        let own = self.own.lock();
        let state = self.handoff.state.lock();
        let has_all = |place: TopicPartition| {
            let assigned = own.assigned.iter().map(|assigned| assigned.partition);
            let mut here = assigned.filter(|partition| (partition.topic, partition.partition) == place);
            here.any(|partition| !state.mailbox.has_records_of(partition))
        };
        passed.retain(|place, _| has_all(*place));
        passed
    }
}

fn offsets_of(list: &TopicPartitionList, topics: &[Arc<str>]) -> KafkaResult<Offsets> {
    let mut found = HashMap::new();
    for element in list.elements() {
        element.error()?;
        let topic = topics.iter().position(|name| **name == *element.topic());
        if let (Some(topic), Offset::Offset(offset)) = (topic, element.offset()) {
            found.insert((topic as u32, element.partition().cast_unsigned()), offset as u64);
        }
    }
    Ok(found)
}

/// The way to the thread that asks. Dropping it waits for the thread's last request.
pub(super) struct Asker {
    topics: Vec<Arc<str>>,
    properties: Properties,
    running: Option<Running>,
}

struct Running {
    questions: mpsc::Sender<(Asked, Offsets)>,
    thread: thread::JoinHandle<()>,
}

impl Asker {
    pub(super) fn new(topics: Vec<Arc<str>>, properties: Properties) -> Self {
        Self { topics, properties, running: None }
    }

    /// Passes a question on, with what is known here of the member's own partitions.
    pub(super) fn ask(&mut self, asked: Asked, passed: Offsets) {
        // One that has just ended for want of questions drops this one, which is asked again.
        let refused = match &self.running {
            Some(running) => running.questions.send((asked, passed)).err().map(|refused| refused.0),
            None => Some((asked, passed)),
        };
        let Some(refused) = refused else { return };
        self.end();
        let (questions, asked) = mpsc::channel();
        let topics = self.topics.clone();
        let properties = self.properties.clone();
        let run = move || match BaseConsumer::from_config(&client::configuration(&properties)) {
            Ok(client) => answer(&client, &topics, &asked),
            Err(error) => foreign::error!(%error, "there is no client to ask how far a group is"),
        };
        match thread::Builder::new().name("keylane-kafka-ask".to_owned()).spawn(run) {
            Ok(thread) => {
                let _ = questions.send(refused);
                self.running = Some(Running { questions, thread });
            }
            Err(error) => {
                foreign::error!(%error, "the thread that asks how far a group is could not be started");
            }
        }
    }

    fn end(&mut self) {
        if let Some(Running { questions, thread }) = self.running.take() {
            drop(questions);
            let _ = thread.join();
        }
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.end();
    }
}

fn answer(client: &BaseConsumer, topics: &[Arc<str>], asked: &mpsc::Receiver<(Asked, Offsets)>) {
    while let Ok(((question, promise), passed)) = asked.recv_timeout(IDLE) {
        promise.complete(marks(client, topics, question, &passed));
    }
}

fn marks(client: &BaseConsumer, topics: &[Arc<str>], question: Question, passed: &Offsets) -> Marks {
    let mut list = TopicPartitionList::new();
    for topic in topics {
        let found = topics::look_up(client.client(), topic, ASK)?;
        let found = found.ok_or_else(|| BrokerError::NoSuchTopic { topic: topic.to_string() })?;
        list.add_partition_range(topic, 0, found.partitions.cast_signed() - 1);
    }
    let offsets = match question {
        Question::Ends => ask(client, topics, &list, Offset::End),
        Question::Reached => reached(client, topics, &list, passed),
    };
    let offsets = offsets.map_err(|error| {
        BrokerError::Transient(format!("the brokers do not say how far topics and groups are: {error}"))
    })?;
    let mark = |((topic, partition), offset)| Mark { topic, partition, offset };
    Ok(offsets.into_iter().map(mark).collect())
}

/// The ends of what may be read now, or the beginnings: one request to each broker that leads some of them.
fn ask(
    client: &BaseConsumer,
    topics: &[Arc<str>],
    list: &TopicPartitionList,
    which: Offset,
) -> KafkaResult<Offsets> {
    let mut asked = list.clone();
    asked.set_all_offsets(which)?;
    offsets_of(&client.offsets_for_times(asked, ASK)?, topics)
}

fn reached(
    client: &BaseConsumer,
    topics: &[Arc<str>],
    list: &TopicPartitionList,
    passed: &Offsets,
) -> KafkaResult<Offsets> {
    let mut asked = list.clone();
    asked.set_all_offsets(Offset::Invalid)?;
    let mut reached = offsets_of(&client.committed_offsets(asked, ASK)?, topics)?;
    // What was removed from a topic comes to nobody.
    let lows = ask(client, topics, list, Offset::Beginning)?;
    for (place, offset) in lows.iter().chain(passed) {
        let reached = reached.entry(*place).or_default();
        *reached = (*offset).max(*reached);
    }
    Ok(reached)
}
