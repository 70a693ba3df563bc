//! What a producer's client answers, and what is shared with it.

use super::broker_health::BrokerHealth;
use super::client;
use super::publishes::{DeliveryReport, Number, Publishes};
use super::reasons::Reasons;
use crate::broker::{BrokerError, PublishFault, Stored, Ticket};
use crate::record::Record;
use crate::sync::{Arc, Mutex};
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, ProducerContext};
use std::collections::HashSet;
use std::time::{Instant, UNIX_EPOCH};

pub(super) type Client = BaseProducer<Answers>;

/// A publish without an answer.
pub(super) struct Publish {
    pub(super) topic: Arc<str>,
    pub(super) record: Arc<Record>,
    pub(super) ticket: Box<dyn Ticket>,
}

/// What the callbacks and the callers share. Locks, outermost first: `line`, `client`.
pub(super) struct Shared {
    pub(super) line: Mutex<Publishes<Publish>>,
    pub(super) client: Mutex<Option<Arc<Client>>>,
    /// Topics that exist, and whose leaders know it.
    pub(super) known: Mutex<HashSet<Arc<str>>>,
    pub(super) health: Mutex<BrokerHealth>,
    /// What the client said when it was refused.
    pub(super) refusal: Mutex<Option<String>>,
    /// What was heard of why no broker answers.
    pub(super) reasons: Mutex<Reasons>,
}

/// The callbacks of one client.
pub(super) struct Answers(pub(super) Arc<Shared>);

impl ClientContext for Answers {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else { return };
        let text = if reason.is_empty() { error.to_string() } else { reason.to_owned() };
        if client::is_refusal(code) {
            self.0.refusal.lock().get_or_insert(text.clone());
        }
        if let Some(kind) = client::kind_of(code) {
            self.0.health.lock().heard(kind, &text, Instant::now());
        }
        self.0.reasons.lock().heard(code, &text);
    }
}

impl ProducerContext for Answers {
    type DeliveryOpaque = Number;

    fn delivery(&self, result: &DeliveryResult<'_>, number: Number) {
        let report = match result {
            Ok(message) => match u64::try_from(message.offset()) {
                Ok(offset) => {
                    DeliveryReport::Stored(Stored { partition: message.partition() as u32, offset })
                }
                // No broker said so: the client takes it for stored, since a later one of its partition is. A partition
                // that knows nothing of the producer takes a later one all the same.
                Err(_) => DeliveryReport::Returned(
                    "a record was taken for stored without a broker's word, from what became of a later one"
                        .to_owned(),
                ),
            },
            Err((error, message)) => self.0.report(error, message.topic()),
        };
        let ended = self.0.line.lock().ended(number, report);
        // Without the lock: the publisher goes on from here with its next publishes.
        if let Some((publish, answer)) = ended {
            publish.ticket.answer(answer);
        }
    }
}

impl Shared {
    /// What an error of the client means for a publish.
    pub(super) fn report(&self, error: &KafkaError, topic: &str) -> DeliveryReport {
        use RDKafkaErrorCode as E;
        let refused = |reason: String| DeliveryReport::Refused(PublishFault::Permanent(reason));
        match error.rdkafka_error_code() {
            // The client is given up, or an error poisons its numbering: nothing may pass this publish.
            Some(
                E::PurgeQueue
                | E::PurgeInflight
                | E::Fatal
                | E::BrokerDestroy
                | E::State
                | E::OutOfOrderSequenceNumber
                | E::UnknownProducerId
                | E::InvalidProducerEpoch
                | E::InvalidProducerIdMapping
                | E::GaplessGuarantee,
            ) => DeliveryReport::Returned(error.to_string()),
            Some(E::UnknownTopic | E::UnknownPartition | E::UnknownTopicOrPartition) => {
                self.known.lock().remove(topic);
                refused(no_such_topic(topic))
            }
            Some(E::MessageSizeTooLarge | E::InvalidMessageSize | E::MessageBatchTooLarge) => {
                refused(format!(
                    "the record is larger than topic `{topic}` takes; its limit is the topic's `max.message.bytes`, by \
                 default the brokers' `message.max.bytes`"
                ))
            }
            Some(E::MessageTimedOut) => refused(format!(
                "no acknowledgement from `{topic}` within `message.timeout.ms` of `kafka.properties`; it may be \
                 stored all the same"
            )),
            _ => refused(format!("topic `{topic}`: {error}")),
        }
    }
}

pub(super) fn no_such_topic(topic: &str) -> String {
    BrokerError::NoSuchTopic { topic: topic.to_owned() }.to_string()
}

/// Gives the client a record.
pub(super) fn send(client: &Client, number: Number, publish: &Publish) -> Result<(), KafkaError> {
    let record = &*publish.record;
    let mut message =
        BaseRecord::<[u8], [u8], Number>::with_opaque_to(&publish.topic, number).payload(&record.value[..]);
    if let Some(key) = &record.key {
        message = message.key(&key[..]);
    }
    if let Ok(age) = record.timestamp.duration_since(UNIX_EPOCH) {
        message = message.timestamp(age.as_millis() as i64);
    }
    if !record.headers.is_empty() {
        let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
        for (key, value) in record.headers.iter() {
            headers = headers.insert(Header { key, value: Some(value) });
        }
        message = message.headers(headers);
    }
    client.send(message).map_err(|(error, _)| error)
}
