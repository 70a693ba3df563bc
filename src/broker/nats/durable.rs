//! The durable consumer of a group in a stream: what it is set to, and that it is.

use super::api::{self, ApiFault, Context, ErrorCode};
use crate::broker::{BrokerError, Start};
use crate::foreign;
use async_nats::jetstream::consumer;
use async_nats::jetstream::consumer::{AckPolicy, Config, DeliverPolicy, Info};
use async_nats::jetstream::stream::{self, StorageType};
use std::time::Duration;

/// Two instances that create or change a consumer at a time: the loser looks again.
const TRIES: usize = 5;

/// What is asked of a consumer.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) filter: String,
    pub(super) start: Start,
    pub(super) ack_wait: Duration,
    pub(super) max_ack_pending: usize,
}

impl Wanted {
    fn config(&self, stream: &stream::Config, deliver_policy: DeliverPolicy) -> Config {
        Config {
            durable_name: Some(self.name.clone()),
            name: Some(self.name.clone()),
            deliver_policy,
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.ack_wait,
            // How often a record is tried is decided here, and known to whoever asks for its dead letter.
            max_deliver: -1,
            filter_subject: self.filter.clone(),
            max_ack_pending: i64::try_from(self.max_ack_pending).unwrap_or(i64::MAX),
            // No priority group: a pin is memory of the consumer's leader, and says nothing of who owns what it delivers.
            // As safe as the records that it counts.
            num_replicas: stream.num_replicas,
            memory_storage: stream.storage == StorageType::Memory,
            ..Config::default()
        }
    }
}

/// The name of a setting, what was found, and what is asked for.
type Difference = (&'static str, String, String);

/// In what of all that matters here two configurations differ. Where a consumer begins can't be changed, and is the
/// business of whoever created it.
fn differences(found: &Config, wanted: &Config) -> Vec<Difference> {
    let mut all: Vec<Difference> = Vec::new();
    let mut compare = |name: &'static str, found: String, wanted: String| {
        if found != wanted {
            all.push((name, found, wanted));
        }
    };
    let filters = |config: &Config| {
        let mut filters = config.filter_subjects.clone();
        filters.extend((!config.filter_subject.is_empty()).then(|| config.filter_subject.clone()));
        format!("{filters:?}")
    };
    let pins = |config: &Config| format!("{:?} {:?}", config.priority_policy, config.priority_groups);
    let replicas =
        |config: &Config| if config.num_replicas == 0 { wanted.num_replicas } else { config.num_replicas };
    let delivers =
        |config: &Config| if config.deliver_subject.is_some() { "pushes" } else { "is pulled from" };
    compare("delivery", delivers(found).to_owned(), delivers(wanted).to_owned());
    compare("ack_policy", format!("{:?}", found.ack_policy), format!("{:?}", wanted.ack_policy));
    compare("ack_wait", format!("{:?}", found.ack_wait), format!("{:?}", wanted.ack_wait));
    compare("max_deliver", found.max_deliver.to_string(), wanted.max_deliver.to_string());
    compare("max_ack_pending", found.max_ack_pending.to_string(), wanted.max_ack_pending.to_string());
    compare("filter", filters(found), filters(wanted));
    compare("replicas", replicas(found).to_string(), replicas(wanted).to_string());
    compare("memory storage", found.memory_storage.to_string(), wanted.memory_storage.to_string());
    compare("priority group", pins(found), pins(wanted));
    compare(
        "priority_timeout",
        format!("{:?}", found.priority_timeout),
        format!("{:?}", wanted.priority_timeout),
    );
    compare("headers_only", found.headers_only.to_string(), wanted.headers_only.to_string());
    compare("max_batch", found.max_batch.to_string(), wanted.max_batch.to_string());
    compare("max_bytes", found.max_bytes.to_string(), wanted.max_bytes.to_string());
    compare("max_expires", format!("{:?}", found.max_expires), format!("{:?}", wanted.max_expires));
    compare("backoff", format!("{:?}", found.backoff), format!("{:?}", wanted.backoff));
    all
}

/// Sees to it that the consumer is there and is what is wanted, by creating or changing it. `from` is where one that
/// has to be created begins.
pub(super) async fn ensure(
    jetstream: &Context,
    stream: &stream::Config,
    wanted: &Wanted,
    from: Option<u64>,
) -> Result<Info, BrokerError> {
    let (stream_name, name) = (&stream.name, &wanted.name);
    let failed = |what: &str, fault: &ApiFault| {
        let advice = fault.advice();
        let text =
            format!("consumer `{name}` of stream `{stream_name}` could not be {what}: {fault}{advice}");
        if fault.is_transient() { BrokerError::Transient(text) } else { BrokerError::Refused(text) }
    };
    for _ in 0..TRIES {
        let found = match api::consumer_info(jetstream, stream_name, name).await {
            Ok(info) => info,
            Err(fault) if fault.code() == Some(ErrorCode::CONSUMER_NOT_FOUND) => {
                let begin = match (from, wanted.start) {
                    (Some(sequence), _) => DeliverPolicy::ByStartSequence { start_sequence: sequence.max(1) },
                    (None, Start::Earliest) => DeliverPolicy::All,
                    (None, Start::Latest) => DeliverPolicy::New,
                };
                let config = wanted.config(stream, begin);
                match api::set_consumer(jetstream, stream_name, &config, true).await {
                    Ok(info) => info,
                    // Somebody else has created it in this moment.
                    Err(fault) if fault.code() == Some(ErrorCode::CONSUMER_ALREADY_EXISTS) => continue,
                    Err(fault) => return Err(failed("created", &fault)),
                }
            }
            Err(fault) => return Err(failed("asked for", &fault)),
        };
        let config = Config {
            // What members noted there, and what the server did.
            metadata: found.config.metadata.clone(),
            // It is an operator's, and goes on.
            pause_until: found.config.pause_until,
            ..wanted.config(stream, found.config.deliver_policy)
        };
        let differences = differences(&found.config, &config);
        if differences.is_empty() {
            return Ok(found);
        }
        foreign::info!(
            stream = stream_name,
            consumer = name,
            ?differences,
            "the consumer is set as configured"
        );
        if let Err(fault) = api::set_consumer(jetstream, stream_name, &config, false).await {
            let both: Vec<String> = differences
                .iter()
                .map(|(name, found, wanted)| format!("{name} {found}, asked for {wanted}"))
                .collect();
            return Err(failed(&format!("changed; it has {}", both.join("; ")), &fault));
        }
    }
    Err(BrokerError::Transient(format!(
        "consumer `{name}` of stream `{stream_name}` is changed by others at the same time"
    )))
}

/// Writes something into the metadata. The rest stays.
pub(super) async fn note(
    jetstream: &Context,
    stream: &str,
    config: &consumer::Config,
    (key, value): (&str, String),
) -> Result<(), ApiFault> {
    let mut config = config.clone();
    config.metadata.insert(key.to_owned(), value);
    api::set_consumer(jetstream, stream, &config, false).await.map(drop)
}

/// Sets how long a message may be with a client. The rest stays.
pub(super) async fn set_ack_wait(
    jetstream: &Context,
    stream: &str,
    config: &consumer::Config,
    ack_wait: Duration,
) -> Result<(), ApiFault> {
    let config = Config { ack_wait, ..config.clone() };
    api::set_consumer(jetstream, stream, &config, false).await.map(drop)
}
