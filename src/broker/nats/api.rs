//! Requests to JetStream, with one way to fail.

use async_nats::jetstream::context::RequestErrorKind;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::{Context, Error, consumer, stream};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub(super) use async_nats::jetstream::ErrorCode;

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
}

impl ApiFault {
    pub(super) fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused(error) => Some(error.error_code()),
            Self::NoJetStream | Self::NoAnswer(_) => None,
        }
    }

    /// Whether another try may have another answer: the server is away, or has not come to itself yet.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Refused(error) => {
                error.code() >= 500 && error.error_code() != ErrorCode::JETSTREAM_NOT_ENABLED
            }
            Self::NoJetStream | Self::NoAnswer(_) => true,
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
    match jetstream.request(subject, payload).await {
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
