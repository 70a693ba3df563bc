//! The streams that topics are in: found, created where that is wanted, and never taken for what they are not.

use super::api::{self, ApiFault, Context, ErrorCode};
use super::names;
use crate::broker::BrokerError;
use crate::config::{NatsConfig, Storage};
use crate::foreign;
use crate::sync::Mutex;
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, StorageType};
use std::collections::HashSet;
use std::time::Duration;

/// Within which the server knows a publish that it has by its id, so that a publish whose answer was lost is not stored
/// twice when it is sent again. What the server takes by itself, stated so that a stream always says it.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// Two instances that add a subject to one stream at a time overwrite each other's: the loser tries again.
const TRIES: usize = 5;

/// What the configuration says of streams.
pub(super) struct Streams {
    /// The stream of all topics; empty: each has one of its own.
    shared: String,
    creates: bool,
    storage: StorageType,
    replicas: usize,
    /// Those that were warned of.
    lossy: Mutex<HashSet<String>>,
}

impl Streams {
    pub(super) fn new(config: &NatsConfig) -> Self {
        let storage = match config.storage {
            Storage::File => StorageType::File,
            Storage::Memory => StorageType::Memory,
        };
        Self {
            shared: config.stream.clone(),
            creates: config.create_topics,
            storage,
            replicas: config.replicas,
            lossy: Mutex::default(),
        }
    }

    pub(super) fn is_shared(&self) -> bool {
        !self.shared.is_empty()
    }

    /// Whether the configuration keeps records in memory.
    pub(super) fn are_in_memory(&self) -> bool {
        self.storage == StorageType::Memory
    }

    pub(super) fn stream_of(&self, topic: &str) -> String {
        if self.is_shared() { self.shared.clone() } else { names::stream(topic) }
    }

    /// Finds the topic, or creates it where the configuration allows that, and returns its stream as it is.
    pub(super) async fn require(&self, jetstream: &Context, topic: &str) -> Result<Info, BrokerError> {
        if self.creates {
            return self.create(jetstream, topic).await;
        }
        let name = self.stream_of(topic);
        let found = match api::stream_info(jetstream, &name).await {
            Ok(info) => info,
            Err(fault) if fault.code() == Some(ErrorCode::STREAM_NOT_FOUND) => {
                return Err(BrokerError::NoSuchTopic { topic: topic.to_owned() });
            }
            Err(fault) => return Err(failed("asked for", &name, topic, &fault)),
        };
        self.check_use(&found.config, topic)?;
        Ok(found)
    }

    /// Creates the stream of a topic, or adds the topic's subjects to a stream of many, unless all is there.
    pub(super) async fn create(&self, jetstream: &Context, topic: &str) -> Result<Info, BrokerError> {
        let (name, subjects) = (self.stream_of(topic), names::subjects(topic));
        for _ in 0..TRIES {
            let info = match api::stream_info(jetstream, &name).await {
                Ok(info) => info,
                Err(fault) if fault.code() == Some(ErrorCode::STREAM_NOT_FOUND) => {
                    match api::create_stream(jetstream, &self.wanted(&name, &subjects)).await {
                        Ok(info) => info,
                        // Somebody else has created it in this moment.
                        Err(fault) if fault.code() == Some(ErrorCode::STREAM_NAME_EXIST) => continue,
                        Err(fault) => return Err(failed("created", &name, topic, &fault)),
                    }
                }
                Err(fault) => return Err(failed("asked for", &name, topic, &fault)),
            };
            self.check_settings(&info.config, topic)?;
            if takes(&info.config, &subjects) || !self.is_shared() {
                self.check_use(&info.config, topic)?;
                return Ok(info);
            }
            let mut wider = info.config;
            wider.subjects.push(subjects.clone());
            match api::update_stream(jetstream, &wider).await {
                Ok(_) => {}
                Err(fault) => return Err(failed("given more subjects", &name, topic, &fault)),
            }
        }
        Err(BrokerError::Transient(format!(
            "stream `{name}` of topic `{topic}` is changed by others at the same time; it has not taken `{subjects}`"
        )))
    }

    /// What is created: nothing is dropped before a limit, and at a limit that an operator sets later a publish is
    /// refused rather than an old record dropped.
    fn wanted(&self, name: &str, subjects: &str) -> Config {
        Config {
            name: name.to_owned(),
            subjects: vec![subjects.to_owned()],
            storage: self.storage,
            num_replicas: self.replicas,
            discard: DiscardPolicy::New,
            duplicate_window: DUPLICATE_WINDOW,
            max_bytes: -1,
            max_messages: -1,
            max_messages_per_subject: -1,
            max_message_size: -1,
            max_consumers: -1,
            ..Config::default()
        }
    }

    /// That a stream which was there is what the configuration says that it should be.
    fn check_settings(&self, found: &Config, topic: &str) -> Result<(), BrokerError> {
        if (found.storage, found.num_replicas) == (self.storage, self.replicas) {
            return Ok(());
        }
        Err(BrokerError::Refused(format!(
            "stream `{}` of topic `{topic}` exists with storage {} and {} replicas; the configuration asks for storage {} \
             and {} (`nats.storage`, `nats.replicas`): change one of the two",
            found.name,
            storage_name(found.storage),
            found.num_replicas,
            storage_name(self.storage),
            self.replicas,
        )))
    }

    /// That a stream takes the topic's records and answers for them.
    fn check_use(&self, found: &Config, topic: &str) -> Result<(), BrokerError> {
        let subjects = names::subjects(topic);
        if let Some(reason) = mirror(found, topic) {
            return Err(BrokerError::Refused(reason));
        }
        if !takes(found, &subjects) {
            return Err(BrokerError::Refused(format!(
                "stream `{}` exists and has the subjects {:?}; topic `{topic}` needs `{subjects}`: add it, or allow that \
                 with `create_topics`",
                found.name, found.subjects,
            )));
        }
        if found.no_ack {
            return Err(BrokerError::Refused(format!(
                "stream `{}` of topic `{topic}` acknowledges nothing (`no_ack`), so no publish into it is ever over",
                found.name,
            )));
        }
        let is_limited = found.max_messages > 0 || found.max_bytes > 0 || found.max_messages_per_subject > 0;
        let drops = is_limited && found.discard == DiscardPolicy::Old || !found.max_age.is_zero();
        if drops && self.lossy.lock().insert(found.name.clone()) {
            foreign::warn!(
                stream = found.name,
                topic,
                max_messages = found.max_messages,
                max_bytes = found.max_bytes,
                max_age = ?found.max_age,
                "the stream drops its oldest records at its limits, whether they were handled or not; with `discard: \
                 new` and no age it would not"
            );
        }
        Ok(())
    }
}

/// A mirror takes no publishes, and has no subjects of its own.
fn mirror(stream: &Config, topic: &str) -> Option<String> {
    let origin = &stream.mirror.as_ref()?.name;
    Some(format!(
        "stream `{}` is a mirror of stream `{origin}`, and nothing is published into a mirror: topic `{topic}` needs a \
         stream that takes its records, such as `{origin}`",
        stream.name
    ))
}

fn storage_name(storage: StorageType) -> &'static str {
    match storage {
        StorageType::File => "file",
        StorageType::Memory => "memory",
    }
}

fn failed(what: &str, stream: &str, topic: &str, fault: &ApiFault) -> BrokerError {
    let text = format!("stream `{stream}` of topic `{topic}` could not be {what}: {fault}");
    if fault.is_transient() { BrokerError::Transient(text) } else { BrokerError::Refused(text) }
}

/// Whether all records of a stream are of these subjects, and each of its numbers is one of them.
pub(super) fn has_nothing_else(stream: &Config, subjects: &str) -> bool {
    let is_own = stream.subjects.iter().all(|pattern| covers(subjects, pattern));
    let is_as_published = stream.mirror.is_none() && stream.subject_transform.is_none();
    is_own && is_as_published && stream.sources.as_ref().is_none_or(Vec::is_empty)
}

pub(super) fn takes(stream: &Config, subjects: &str) -> bool {
    stream.subjects.iter().any(|pattern| covers(pattern, subjects))
}

/// Whether every subject that `wanted` stands for is one that `pattern` stands for.
fn covers(pattern: &str, wanted: &str) -> bool {
    let (mut pattern, mut wanted) = (pattern.split('.'), wanted.split('.'));
    loop {
        match (pattern.next(), wanted.next()) {
            (None, None) | (Some(">"), Some(_)) => return true,
            (Some("*"), Some(token)) if token != ">" => {}
            (Some(a), Some(b)) if a == b => {}
            _ => return false,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use async_nats::jetstream::stream::Source;

    #[test]
    fn a_pattern_covers_what_it_stands_for() {
        for (pattern, wanted, is_covered) in [
            ("orders.*", "orders.*", true),
            ("orders.>", "orders.*", true),
            ("orders.>", "orders.dead.*", true),
            (">", "orders.*", true),
            ("*.*", "orders.*", true),
            ("orders.*", "orders.dead.*", false),
            ("orders.dead.*", "orders.*", false),
            ("orders.a", "orders.*", false),
            ("orders", "orders.*", false),
            ("orders.*.>", "orders.*", false),
        ] {
            assert_eq!(covers(pattern, wanted), is_covered, "{pattern} covers {wanted}");
        }
    }

    #[test]
    fn a_mirror_names_the_stream_that_takes_records() {
        let stream = Config { name: "mine".to_owned(), ..Config::default() };
        let source = Source { name: "old".to_owned(), ..Source::default() };
        let text = mirror(&Config { mirror: Some(source), ..stream.clone() }, "orders").expect("it is one");
        assert!(text.contains("mirror of stream `old`") && !text.contains("add it"), "{text}");
        assert_eq!(mirror(&stream, "orders"), None);
    }
}
