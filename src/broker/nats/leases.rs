//! The stream of leases: found or made, and one record in it, read from its leader and written by compare-and-swap.
//!
//! A direct get may be answered by any replica, and was stale in 52 of 2,000 reads behind a write: nothing is decided by
//! one.

use super::api::{self, ApiFault, Context, ErrorCode};
use super::claim::{Answer, Ask, Content, Found};
use super::denied::Denial;
use super::names::LEASES;
use super::streams::takes;
use crate::broker::BrokerError;
use async_nats::client::RequestErrorKind;
use async_nats::header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_EXPECTED_STREAM};
use async_nats::jetstream::stream::{Config, LastRawMessageErrorKind, StorageType};
use async_nats::{Client, HeaderMap};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A number that no record of a stream has.
const NEVER: u64 = i64::MAX as u64;
/// Two members that make the stream at a time: the loser looks again. A server that has just started needs some, too.
const TRIES: usize = 5;
/// Before the next one.
const RETRY: Duration = Duration::from_millis(100);

/// The record that says who owns a topic in a group.
pub(super) struct Record {
    pub(super) client: Client,
    pub(super) jetstream: Context,
    pub(super) subject: String,
    /// What a record that nobody can read is taken for: somebody's, for so long.
    pub(super) takeover_after: Duration,
    /// Of the topic's stream: the one of leases is made as safe.
    pub(super) storage: StorageType,
    pub(super) replicas: usize,
}

/// A record as it is written.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Text {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    takeover_after_ms: Option<u64>,
}

/// What a server says of a write.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Written {
    seq: u64,
    error: Option<Refusal>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Refusal {
    err_code: u64,
    description: String,
}

/// Why nothing came of a request.
#[derive(Debug)]
enum Fault {
    /// The stream is gone, or has no leader.
    NoStream(String),
    Denied(Denial),
    Other(String),
}

impl Record {
    /// Carries out what was asked.
    ///
    /// # Errors
    /// Why there is no answer.
    pub(super) async fn ask(&self, ask: Ask, limit: Duration) -> Result<Answer, String> {
        let answer = match ask {
            Ask::Read => self.read(limit).await.map(Answer::Read),
            Ask::Write { expected, content } => self.write(expected, content, limit).await,
        };
        match answer {
            Ok(answer) => Ok(answer),
            Err(Fault::Other(reason)) => Err(reason),
            Err(Fault::Denied(denial)) => Err(denial.to_string()),
            // Somebody may have deleted it.
            Err(Fault::NoStream(reason)) => Err(match self.find_stream().await {
                Ok(()) => reason,
                Err(fault) => fault.to_string(),
            }),
        }
    }

    async fn read(&self, limit: Duration) -> Result<Option<Found>, Fault> {
        let stream = self.jetstream.plain().get_stream_no_info(LEASES.0).await;
        let stream = stream.map_err(|error| Fault::Other(error.to_string()))?;
        let read = tokio::time::timeout(limit, stream.get_last_raw_message_by_subject(&self.subject));
        let read = self.jetstream.unless_denied(&read_subject(), read).await;
        let error = match read.map_err(Fault::Denied)? {
            Ok(Ok(message)) => {
                let content = self.content(&message.payload);
                return Ok(Some(Found { sequence: message.sequence, content }));
            }
            Ok(Err(error)) => error,
            Err(_) => return Err(Fault::Other(no_answer(&read_subject(), limit))),
        };
        match error.kind() {
            LastRawMessageErrorKind::NoMessageFound => Ok(None),
            LastRawMessageErrorKind::JetStream(error)
                if error.error_code() == ErrorCode::STREAM_NOT_FOUND =>
            {
                Err(Fault::NoStream(error.to_string()))
            }
            _ => Err(Fault::Other(error.to_string())),
        }
    }

    async fn write(&self, expected: u64, content: Content, limit: Duration) -> Result<Answer, Fault> {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected.to_string());
        headers.insert(NATS_EXPECTED_STREAM, LEASES.0);
        let request = async_nats::client::Request::new()
            .headers(headers)
            .payload(text(content).into())
            .timeout(Some(limit));
        let written = self.client.send_request(self.subject.clone(), request);
        let written = self.jetstream.unless_denied(&self.subject, written).await;
        let message = match written.map_err(Fault::Denied)? {
            Ok(message) => message,
            Err(error) if error.kind() == RequestErrorKind::NoResponders => {
                return Err(Fault::NoStream(
                    "nobody takes leases: their stream has no leader just now".into(),
                ));
            }
            Err(error) if error.kind() == RequestErrorKind::TimedOut => {
                return Err(Fault::Other(no_answer(&self.subject, limit)));
            }
            Err(error) => return Err(Fault::Other(error.to_string())),
        };
        match serde_json::from_slice::<Written>(&message.payload) {
            Ok(Written { error: None, seq }) if seq > 0 => Ok(Answer::Stored(seq)),
            // With the number that is there, or without one while another write is under way.
            Ok(Written { error: Some(refusal), .. })
                if matches!(
                    ErrorCode(refusal.err_code),
                    ErrorCode::STREAM_WRONG_LAST_SEQUENCE | ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT
                ) =>
            {
                Ok(Answer::Refused)
            }
            Ok(Written { error: Some(refusal), .. }) => {
                Err(Fault::Other(format!("{} (error code {})", refusal.description, refusal.err_code)))
            }
            Ok(_) | Err(_) => Err(Fault::Other("the answer to a write was none".to_owned())),
        }
    }

    fn content(&self, payload: &[u8]) -> Content {
        let unreadable = Content::Held { owner: 0, takeover_after: self.takeover_after };
        match serde_json::from_slice::<Text>(payload) {
            Ok(Text { owner: None, .. }) => Content::Free,
            Ok(Text { owner: Some(owner), takeover_after_ms: Some(ms) }) => {
                let owner = u128::from_str_radix(&owner, 16).unwrap_or_default();
                Content::Held { owner, takeover_after: Duration::from_millis(ms) }
            }
            Ok(_) | Err(_) => unreadable,
        }
    }

    /// Sees to it that the stream is there, and that this client may read the record and write it.
    ///
    /// # Errors
    /// [`BrokerError::Refused`] with what to permit, or to make, where a permission is missing.
    pub(super) async fn prepare(&self) -> Result<(), BrokerError> {
        let mut tries = 0;
        loop {
            let fault = match self.try_out().await {
                Ok(()) => return Ok(()),
                Err(Unready::Refused(text)) => return Err(BrokerError::Refused(text)),
                Err(Unready::Asked(text)) => text,
            };
            tries += 1;
            if tries == TRIES {
                let text = format!("it can't be known who owns `{}`: {fault}", self.subject);
                return Err(BrokerError::Transient(text));
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Finds the stream, reads the record, and sees whether it may be written.
    async fn try_out(&self) -> Result<(), Unready> {
        self.find_stream().await?;
        let limit = Duration::from_secs(1);
        self.read(limit).await?;
        // No record has this number, so that it is never written: who may not write hears that instead.
        self.write(NEVER, Content::Free, limit).await?;
        Ok(())
    }

    /// Finds the stream, or makes it.
    async fn find_stream(&self) -> Result<(), Unready> {
        let (name, subjects) = LEASES;
        let unready = |what: &str, fault: &ApiFault| {
            let text = format!("the stream `{name}` of leases could not be {what}: {fault}");
            match fault {
                ApiFault::Denied(denial) => denied(denial),
                ApiFault::Refused(_) if !fault.is_transient() => Unready::Refused(text),
                _ => Unready::Asked(text),
            }
        };
        match api::stream_info(&self.jetstream, name).await {
            Ok(info) => {
                if info.config.no_ack || !takes(&info.config, subjects) {
                    return Err(Unready::Refused(format!(
                        "the stream `{name}` is not as leases need it: its subjects are {:?} and it {}; it has to take \
                         `{subjects}` and to acknowledge",
                        info.config.subjects,
                        if info.config.no_ack { "acknowledges nothing" } else { "acknowledges" },
                    )));
                }
                return Ok(());
            }
            Err(fault) if fault.code() == Some(ErrorCode::STREAM_NOT_FOUND) => {}
            Err(fault) => return Err(unready("asked for", &fault)),
        }
        let config = Config {
            name: name.to_owned(),
            description: Some(
                "Which member of a keylane group is active: not to be emptied while any runs".to_owned(),
            ),
            subjects: vec![subjects.to_owned()],
            storage: self.storage,
            num_replicas: self.replicas,
            // The last one says it all. None is ever too old: a member that is gone leaves one record for its group.
            max_messages_per_subject: 1,
            max_bytes: -1,
            max_messages: -1,
            max_message_size: -1,
            max_consumers: -1,
            ..Config::default()
        };
        match api::create_stream(&self.jetstream, &config).await {
            Ok(_) => Ok(()),
            // Somebody else has made it in this moment.
            Err(fault) if fault.code() == Some(ErrorCode::STREAM_NAME_EXIST) => Ok(()),
            Err(fault) => Err(unready("made", &fault)),
        }
    }
}

fn no_answer(subject: &str, limit: Duration) -> String {
    format!("no answer within {limit:?} to `{subject}`")
}

/// What records are read by.
fn read_subject() -> String {
    format!("$JS.API.STREAM.MSG.GET.{}", LEASES.0)
}

/// Why there is no stream of leases.
#[derive(Debug, thiserror::Error)]
enum Unready {
    #[error("{0}")]
    Refused(String),
    /// What was asked was not answered, or can't be just now.
    #[error("{0}")]
    Asked(String),
}

impl From<Fault> for Unready {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Denied(denial) => denied(&denial),
            Fault::NoStream(reason) | Fault::Other(reason) => Self::Asked(reason),
        }
    }
}

fn denied(denial: &Denial) -> Unready {
    let (stream, subjects) = LEASES;
    Unready::Refused(format!(
        "the members of a group agree by the stream `{stream}` on which of them is active, and {denial}. What that takes \
         is to publish to `$JS.API.STREAM.INFO.{stream}`, `$JS.API.STREAM.MSG.GET.{stream}` and `{subjects}`, and to \
         `$JS.API.STREAM.CREATE.{stream}`, or that you make the stream: `nats stream add {stream} --subjects \
         '{subjects}' --max-msgs-per-subject 1 --storage file --defaults`"
    ))
}

fn text(content: Content) -> String {
    let text = match content {
        Content::Free => Text::default(),
        Content::Held { owner, takeover_after } => Text {
            owner: Some(format!("{owner:032x}")),
            takeover_after_ms: Some(u64::try_from(takeover_after.as_millis()).unwrap_or(u64::MAX)),
        },
    };
    serde_json::to_string(&text).expect("numbers and text")
}
