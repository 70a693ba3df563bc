//! Topics: looked up, and created where that is allowed.

use super::client;
use super::properties::Properties;
use crate::broker::BrokerError;
use crate::config::KafkaConfig;
use crate::foreign;
use crate::wait::block_on_timeout;
use rdkafka::ClientContext;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::bindings::rd_kafka_offsets_for_times;
use rdkafka::client::{Client, DefaultClientContext};
use rdkafka::config::FromClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _, DefaultConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::groups::GroupInfo;
use rdkafka::{Offset, TopicPartitionList};
use std::time::Duration;

/// What a topic is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) partitions: u32,
    /// Copies of each partition; 0: as the brokers do by default.
    pub(super) replicas: u32,
}

/// What the brokers say of a topic; none if it does not exist.
pub(super) fn look_up<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    limit: Duration,
) -> Result<Option<Layout>, BrokerError> {
    let metadata = client.fetch_metadata(Some(topic), limit).map_err(|error| {
        BrokerError::Transient(format!("the brokers do not answer when asked about topic `{topic}`: {error}"))
    })?;
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else { return Ok(None) };
    match found.error().map(RDKafkaErrorCode::from) {
        None | Some(RDKafkaErrorCode::NoError) => {}
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => return Ok(None),
        Some(code @ RDKafkaErrorCode::LeaderNotAvailable) => {
            return Err(BrokerError::Transient(format!("topic `{topic}`: {code}")));
        }
        Some(code) => return Err(BrokerError::Refused(format!("topic `{topic}`: {code}"))),
    }
    let replicas = found.partitions().first().map_or(0, |partition| partition.replicas().len() as u32);
    // It was created a moment ago, and the brokers have no leaders for it yet.
    if found.partitions().is_empty() {
        return Err(BrokerError::Transient(format!("topic `{topic}` has no partitions yet")));
    }
    Ok(Some(Layout { partitions: found.partitions().len() as u32, replicas }))
}

/// Whether no leader of the topic's partitions says that it is none yet.
///
/// Leaders are named before they know it themselves. One that refuses a producer's first batch and takes the second, out
/// of the producer's order, has the client take the first for stored too: so none is sent before. A leader that does not
/// answer within the limit holds up no publish to the others.
pub(super) fn is_led<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    partitions: u32,
    limit: Duration,
) -> bool {
    let mut ends = TopicPartitionList::with_capacity(partitions as usize);
    for partition in 0..partitions {
        ends.add_partition(topic, partition.cast_signed());
    }
    // Cannot fail: it is a place that lists of partitions may have. As a time, which is what is asked for, it is the end.
    if ends.set_all_offsets(Offset::End).is_err() {
        return true;
    }
    // By hand, since the crate gives the question only to consumers.
    // SAFETY: client and list live longer than the call, which takes the list's places for times and writes over them.
    let code =
        unsafe { rd_kafka_offsets_for_times(client.native_ptr(), ends.ptr(), limit.as_millis() as i32) };
    !matches!(
        RDKafkaErrorCode::from(code),
        RDKafkaErrorCode::NotLeaderForPartition
            | RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::ReplicaNotAvailable
    )
}

/// The offset behind the last record of the log, also where a transaction is open. A consumer that reads what is committed
/// is told the place of that as the end, and a group's position may be behind it.
pub(super) fn log_end(
    properties: &Properties,
    topic: &str,
    partition: i32,
    limit: Duration,
) -> KafkaResult<u64> {
    let mut configuration = client::configuration(properties);
    configuration.set("isolation.level", "read_uncommitted");
    let (_, end) = BaseConsumer::<DefaultConsumerContext>::from_config(&configuration)?
        .fetch_watermarks(topic, partition, limit)?;
    Ok(end as u64)
}

/// Whether a member of the group has this name, as its `group.instance.id`; none: the brokers do not say. Of a group of
/// KIP-848 they do not.
pub(super) fn has_instance(
    properties: &Properties,
    group: &str,
    instance: &str,
    limit: Duration,
) -> Option<bool> {
    let configuration = client::configuration(properties);
    let client = BaseConsumer::<DefaultConsumerContext>::from_config(&configuration).ok()?;
    let found = client.fetch_group_list(Some(group), limit).ok()?;
    // A member that has one is called by it, and by a number behind it.
    let has_it = |id: &str| id.strip_prefix(instance).is_some_and(|number| number.starts_with('-'));
    Some(found.groups().iter().flat_map(GroupInfo::members).any(|member| has_it(member.id())))
}

/// Creates topics as the configuration says.
pub(super) struct Creator {
    properties: Properties,
    wanted: Layout,
    limit: Duration,
}

impl Creator {
    pub(super) fn new(properties: Properties, config: &KafkaConfig) -> Self {
        let wanted = Layout { partitions: config.partitions as u32, replicas: config.replicas as u32 };
        Self { properties, wanted, limit: config.connect_timeout }
    }

    /// What is asked for and what is there, if they differ.
    pub(super) fn compare(&self, topic: &str, found: Layout) -> Result<(), BrokerError> {
        let Layout { partitions, replicas } = self.wanted;
        let is_same = found.partitions == partitions && (replicas == 0 || found.replicas == replicas);
        if is_same {
            return Ok(());
        }
        let wanted_replicas = if replicas == 0 { "any".to_owned() } else { replicas.to_string() };
        Err(BrokerError::Refused(format!(
            "topic `{topic}` exists with {} partitions and {} replicas; `kafka.partitions` = {partitions} and \
             `kafka.replicas` = {wanted_replicas} were asked for: change these, or the topic",
            found.partitions, found.replicas,
        )))
    }

    /// Creates the topic. Whether it was not there: somebody else may have been first.
    pub(super) fn create(&self, topic: &str) -> Result<bool, BrokerError> {
        let Layout { partitions, replicas } = self.wanted;
        // A client of its own: it has a thread, which is not kept for something so rare.
        let admin =
            AdminClient::<DefaultClientContext>::from_config(&client::configuration(&self.properties))
                .map_err(|error| {
                    BrokerError::Refused(format!("topic `{topic}` can't be created: {error}"))
                })?;
        let replication = TopicReplication::Fixed(if replicas == 0 { -1 } else { replicas.cast_signed() });
        let topics = [NewTopic::new(topic, partitions.cast_signed(), replication)];
        let limits =
            AdminOptions::new().request_timeout(Some(self.limit)).operation_timeout(Some(self.limit));
        let created =
            block_on_timeout(admin.create_topics(&topics, &limits), self.limit + Duration::from_secs(1));
        let code = match created {
            None => RDKafkaErrorCode::OperationTimedOut,
            Some(Ok(results)) => match results.into_iter().next() {
                None | Some(Ok(_)) => RDKafkaErrorCode::NoError,
                Some(Err((_, code))) => code,
            },
            Some(Err(KafkaError::AdminOp(code))) => code,
            Some(Err(error)) => return Err(BrokerError::Transient(format!("topic `{topic}`: {error}"))),
        };
        match code {
            RDKafkaErrorCode::NoError => {
                let replicas = if replicas == 0 {
                    "as the brokers do by default".to_owned()
                } else {
                    replicas.to_string()
                };
                foreign::info!(topic, partitions, replicas, "topic created");
                Ok(true)
            }
            RDKafkaErrorCode::TopicAlreadyExists => Ok(false),
            RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::RequestTimedOut
            | RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::NotController => {
                Err(BrokerError::Transient(format!("topic `{topic}` could not be created: {code}")))
            }
            code => Err(BrokerError::Refused(format!(
                "topic `{topic}` can't be created with {partitions} partitions and {replicas} replicas (0: the \
                 brokers' default): {code}"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{BusUrl, Config};

    fn creator(toml: &str) -> Creator {
        let config = Config::from_toml(toml).unwrap();
        let url = BusUrl::parse("kafka://localhost").unwrap();
        Creator::new(super::super::properties::client(&url, &config), &config.kafka)
    }

    #[test]
    fn a_topic_that_is_otherwise_is_refused_with_both_sides() {
        let creator = creator("kafka = { partitions = 4, replicas = 3 }");
        assert_eq!(creator.compare("orders", Layout { partitions: 4, replicas: 3 }), Ok(()));
        let found = Layout { partitions: 8, replicas: 1 };
        let error = creator.compare("orders", found).unwrap_err().to_string();
        for part in
            ["`orders`", "8 partitions", "1 replicas", "`kafka.partitions` = 4", "`kafka.replicas` = 3"]
        {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn the_brokers_default_of_replicas_is_not_compared() {
        let creator = creator("kafka.partitions = 4");
        assert_eq!(creator.compare("orders", Layout { partitions: 4, replicas: 3 }), Ok(()));
        assert!(creator.compare("orders", Layout { partitions: 5, replicas: 3 }).is_err());
    }
}
