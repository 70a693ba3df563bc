//! Requests to JetStream, with one way to fail.

use super::denied::{Denial, Denied, denial_of};
use super::left::Left;
use async_nats::jetstream::context::RequestErrorKind;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::{Error, consumer, stream};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub(super) use async_nats::jetstream::ErrorCode;

/// What requests to JetStream begin with.
const API: &str = "$JS.API";
/// Removed messages that are asked for by name, at most: a server lists all of a stream or none.
const NAMED: u64 = 200_000;

/// A way to ask JetStream, and to hear at once what is not permitted.
#[derive(Clone)]
pub(super) struct Context {
    jetstream: async_nats::jetstream::Context,
    denied: Denied,
}

impl Context {
    pub(super) fn new(jetstream: async_nats::jetstream::Context, denied: Denied) -> Self {
        Self { jetstream, denied }
    }

    pub(super) fn denied(&self) -> &Denied {
        &self.denied
    }

    /// The same without an ear for denials.
    pub(super) fn plain(&self) -> &async_nats::jetstream::Context {
        &self.jetstream
    }

    /// What comes of a request to this subject, or why nothing ever will.
    pub(super) async fn unless_denied<T>(
        &self,
        subject: &str,
        answer: impl Future<Output = T>,
    ) -> Result<T, Denial> {
        let mut denials = self.denied.listen();
        // Said once, when answers were first listened for.
        if let Some(denial) = self.denied.of_answers() {
            return Err(denial);
        }
        tokio::select! {
            answer = answer => Ok(answer),
            denial = denial_of(&mut denials, subject) => Err(denial),
        }
    }
}

/// Why a request has no result.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiFault {
    /// The server answered with this error.
    #[error("{0}")]
    Refused(Error),
    /// Nobody answers requests of JetStream: it is disabled for this account, or no server leads it just now.
    #[error("JetStream does not answer: it is not enabled for this account, or has no leader just now")]
    NoJetStream,
    #[error("no answer: {0}")]
    NoAnswer(String),
    /// The server answers nothing that it does not permit.
    #[error("{0}")]
    Denied(Denial),
}

impl ApiFault {
    pub(super) fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused(error) => Some(error.error_code()),
            Self::NoJetStream | Self::NoAnswer(_) | Self::Denied(_) => None,
        }
    }

    /// What to do about a consumer that a server refuses.
    pub(super) fn advice(&self) -> &'static str {
        match self.code() {
            Some(ErrorCode::CONSUMER_MAX_PENDING_ACK_EXCESS) => {
                "; set `subscription.in_flight_records` so low that it and what is fetched beyond it (as many, 1,024 at \
                 most) are within the server's limit"
            }
            Some(ErrorCode::CONSUMER_WQ_MULTIPLE_UNFILTERED | ErrorCode::CONSUMER_WQ_CONSUMER_NOT_UNIQUE) => {
                "; the stream is a work queue, in which each record is for one group, and another group has this topic: \
                 join that one, or set the stream's retention to `limits`"
            }
            Some(ErrorCode::CONSUMER_WQ_CONSUMER_NOT_DELIVER_ALL) => {
                "; the stream is a work queue, which its group begins with the oldest record: begin with `Start::Earliest`"
            }
            Some(ErrorCode::MAXIMUM_CONSUMERS_LIMIT) => {
                "; raise the stream's `max_consumers`, or delete a consumer that is not used any more"
            }
            _ => "",
        }
    }

    /// Whether another try may have another answer: the server is away, or has not come to itself yet.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Refused(error) => {
                error.code() >= 500 && error.error_code() != ErrorCode::JETSTREAM_NOT_ENABLED
            }
            Self::NoJetStream | Self::NoAnswer(_) => true,
            Self::Denied(_) => false,
        }
    }
}

/// What a server takes for an empty request.
#[derive(Serialize)]
struct Nothing {}

async fn request<T: DeserializeOwned>(
    jetstream: &Context,
    subject: String,
    payload: &(impl Serialize + ?Sized),
) -> Result<T, ApiFault> {
    let full = format!("{API}.{subject}");
    let asking = jetstream.jetstream.request(subject, payload);
    match jetstream.unless_denied(&full, asking).await.map_err(ApiFault::Denied)? {
        Ok(Response::Ok(answer)) => Ok(answer),
        Ok(Response::Err { error }) => Err(ApiFault::Refused(error)),
        Err(error) if error.kind() == RequestErrorKind::NoResponders => Err(ApiFault::NoJetStream),
        Err(error) => Err(ApiFault::NoAnswer(error.to_string())),
    }
}

pub(super) async fn account(jetstream: &Context) -> Result<(), ApiFault> {
    request::<serde::de::IgnoredAny>(jetstream, "INFO".to_owned(), &Nothing {}).await.map(drop)
}

pub(super) async fn stream_info(jetstream: &Context, name: &str) -> Result<stream::Info, ApiFault> {
    request(jetstream, format!("STREAM.INFO.{name}"), &Nothing {}).await
}

#[derive(Serialize)]
struct WithDetails {
    deleted_details: bool,
}

/// What a stream still has, by name where that is not too much.
pub(super) async fn left(jetstream: &Context, name: &str) -> Result<Left, ApiFault> {
    let state = stream_info(jetstream, name).await?.state;
    let count = state.deleted_count.unwrap_or(0);
    if count == 0 || count > NAMED {
        return Ok(Left::new(state.first_sequence, count, (count == 0).then(Vec::new)));
    }
    let details = WithDetails { deleted_details: true };
    let info: stream::Info = request(jetstream, format!("STREAM.INFO.{name}"), &details).await?;
    let mut removed = info.state.deleted.unwrap_or_default();
    removed.sort_unstable();
    Ok(Left::new(info.state.first_sequence, removed.len() as u64, Some(removed)))
}

pub(super) async fn create_stream(
    jetstream: &Context,
    config: &stream::Config,
) -> Result<stream::Info, ApiFault> {
    request(jetstream, format!("STREAM.CREATE.{}", config.name), config).await
}

pub(super) async fn update_stream(
    jetstream: &Context,
    config: &stream::Config,
) -> Result<stream::Info, ApiFault> {
    request(jetstream, format!("STREAM.UPDATE.{}", config.name), config).await
}

pub(super) async fn consumer_info(
    jetstream: &Context,
    stream: &str,
    consumer: &str,
) -> Result<consumer::Info, ApiFault> {
    request(jetstream, format!("CONSUMER.INFO.{stream}.{consumer}"), &Nothing {}).await
}

#[derive(Serialize)]
struct LastOf<'a> {
    last_by_subj: &'a str,
}

#[derive(Deserialize)]
struct Found {
    message: Sequence,
}

#[derive(Deserialize)]
struct Sequence {
    seq: u64,
}

/// The sequence of the last message of these subjects; none if there is no message.
pub(super) async fn last_of(
    jetstream: &Context,
    stream: &str,
    subjects: &str,
) -> Result<Option<u64>, ApiFault> {
    let subject = format!("STREAM.MSG.GET.{stream}");
    match request::<Found>(jetstream, subject, &LastOf { last_by_subj: subjects }).await {
        Ok(found) => Ok(Some(found.message.seq)),
        Err(fault) if fault.code() == Some(ErrorCode::NO_MESSAGE_FOUND) => Ok(None),
        Err(fault) => Err(fault),
    }
}

#[derive(Serialize)]
struct SetConsumer<'a> {
    stream_name: &'a str,
    config: &'a consumer::Config,
    action: &'static str,
}

/// Creates a consumer that is not there, or changes one that is.
pub(super) async fn set_consumer(
    jetstream: &Context,
    stream: &str,
    config: &consumer::Config,
    is_new: bool,
) -> Result<consumer::Info, ApiFault> {
    let name = config.durable_name.as_deref().unwrap_or_default();
    let action = if is_new { "create" } else { "update" };
    let payload = SetConsumer { stream_name: stream, config, action };
    request(jetstream, format!("CONSUMER.CREATE.{stream}.{name}"), &payload).await
}
