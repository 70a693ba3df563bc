//! How far the topics go and how far the group is in them: asked by the subscription, answered by the client's thread.

use super::commits::Place;
use super::group::{Client, Group};
use super::topics;
use crate::broker::{BrokerError, Mark};
use crate::wait::Promise;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::HashMap;
use std::time::Duration;

/// What is to be known of each partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    Ends,
    Reached,
}

pub(super) type Marks = Result<Vec<Mark>, BrokerError>;

/// A question at the desk.
pub(super) type Asked = (Question, Promise<Marks>);

impl Group {
    /// The answer, from brokers that may take so long for each request.
    pub(super) fn marks(&self, client: &Client, question: Question, limit: Duration) -> Marks {
        let mut list = TopicPartitionList::new();
        for topic in &self.spec().topics {
            let found = topics::look_up(client.client(), topic, limit)?;
            let found = found.ok_or_else(|| BrokerError::NoSuchTopic { topic: topic.to_string() })?;
            list.add_partition_range(topic, 0, found.partitions.cast_signed() - 1);
        }
        let marks = match question {
            Question::Ends => self.offsets(client, &list, Offset::End, limit),
            Question::Reached => self.reached(client, &list, limit),
        };
        let marks = marks.map_err(|error| {
            let group = &self.spec().group;
            BrokerError::Transient(format!("it is not known how far group `{group}` is: {error}"))
        })?;
        let mark = |((topic, partition), offset)| Mark { topic, partition, offset };
        Ok(marks.into_iter().map(mark).collect())
    }

    /// The ends of what may be read now, or the beginnings: one request to each broker that leads some of them.
    fn offsets(
        &self,
        client: &Client,
        list: &TopicPartitionList,
        which: Offset,
        limit: Duration,
    ) -> KafkaResult<HashMap<Place, u64>> {
        let mut asked = list.clone();
        asked.set_all_offsets(which)?;
        self.found(&client.offsets_for_times(asked, limit)?)
    }

    fn found(&self, list: &TopicPartitionList) -> KafkaResult<HashMap<Place, u64>> {
        let mut found = HashMap::new();
        for element in list.elements() {
            element.error()?;
            if let (Some(place), Offset::Offset(offset)) =
                (self.place(element.topic(), element.partition()), element.offset())
            {
                found.insert(place, offset as u64);
            }
        }
        Ok(found)
    }

    fn reached(
        &self,
        client: &Client,
        list: &TopicPartitionList,
        limit: Duration,
    ) -> KafkaResult<HashMap<Place, u64>> {
        let mut asked = list.clone();
        asked.set_all_offsets(Offset::Invalid)?;
        let mut reached = self.found(&client.committed_offsets(asked, limit)?)?;
        // What was removed from a topic comes to nobody.
        for (place, low) in self.offsets(client, list, Offset::Beginning, limit)? {
            let offset = reached.entry(place).or_default();
            *offset = low.max(*offset);
        }
        // Up to the client's position all was handed over, but for what is still in the mailbox. The position passes
        // what is no record, like the end of a transaction, which no ledger hears of.
        let passed = self.found(&client.position()?)?;
        let own = self.own.lock();
        let state = self.desk.state.lock();
        for assigned in &own.assigned {
            let partition = assigned.partition;
            let place = (partition.topic, partition.partition);
            if let Some(passed) = passed.get(&place)
                && !state.mailbox.has_records_of(partition)
            {
                let offset = reached.entry(place).or_default();
                *offset = (*passed).max(*offset);
            }
        }
        Ok(reached)
    }
}

/// The refusal of a question that the client can't put to anybody now.
pub(super) fn unanswered(reason: &str) -> Marks {
    Err(BrokerError::Transient(reason.to_owned()))
}
