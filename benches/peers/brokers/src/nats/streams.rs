//! The streams: those that are loaded once, and those that a run fills and removes.

use super::{IN_FLIGHT, server};
use crate::record::{KEYS, Keys, Mark};
use crate::work::STALLED;
use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::{self, consumer};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use keylane::Config;
use measure::{Check, Cost, Meter, Tally};
use std::future::IntoFuture as _;
use tokio::runtime::{Builder, Runtime};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The header by which RustStream knows the key of a record; every variant that pulls gets it. It has to come from
/// another client: keylane renames headers that are the server's.
const PARTITION_KEY: &str = "nats-partition-key";
/// The header that keylane gives each of its records.
pub(super) const TIME: (&str, &str) = ("Nats-Keylane-Time", "1764075600000");

/// Plain records of 100 bytes in one file-stored stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) name: String,
    pub(super) records: u64,
}

/// What is published for a record.
pub(super) struct Message {
    pub(super) key: String,
    pub(super) value: String,
}

impl From<Mark> for Message {
    fn from(mark: Mark) -> Self {
        Self { key: format!("key-{}", mark.key), value: format!("{:x<100}", mark.write()) }
    }
}

/// What tells a second copy from a new record, as long as keylane's.
pub(super) fn id(n: usize) -> String {
    format!("019ab9c1f2a37c1e8a4e0f1d2c3b4a59-{n}")
}

impl Stream {
    /// One that stays.
    pub(super) fn preloaded(records: u64) -> Self {
        Self { name: format!("peers-{records}"), records }
    }

    /// One that nobody has filled yet.
    pub(super) fn fresh(records: u64) -> Self {
        Self { name: crate::unique("peers-published"), records }
    }

    /// The subjects of all keys.
    pub(super) fn subjects(&self) -> String {
        format!("{}.*", self.name)
    }

    /// In the order in which they are published.
    pub(super) fn messages(&self) -> impl Iterator<Item = Message> + use<> {
        Keys::Uniform.marks(self.records).map(Message::from)
    }

    /// A connection of keylane that may have so many publishes in flight.
    pub(super) fn bus(url: &str, in_flight: usize) -> Result<keylane::Bus, keylane::ConnectError> {
        let mut config = Config::default();
        url.clone_into(&mut config.url);
        config.nats.create_topics = true;
        config.publisher.records = in_flight;
        keylane::connect_with(config).wait()
    }

    /// Loads it unless it is there, whole.
    pub(super) fn ensure(&self, url: &str) -> Result<(), String> {
        let runtime = runtime()?;
        match runtime.block_on(self.stored(url)) {
            Ok(Some(stored)) if stored == self.records => Ok(()),
            Ok(Some(stored)) => Err(format!(
                "stream `{}` has {stored} records instead of {}, so nothing can be counted on it; delete it",
                self.name, self.records
            )),
            Ok(None) => runtime
                .block_on(async {
                    self.create(url).await?;
                    self.fill(url, true).await
                })
                .map(drop)
                .map_err(|error| format!("stream `{}` could not be loaded: {error}", self.name)),
            Err(error) => Err(format!("the server at {url} does not answer: {error}")),
        }
    }

    async fn stored(&self, url: &str) -> Result<Option<u64>, Error> {
        let jetstream = jetstream::new(async_nats::connect(server(url)).await?);
        match jetstream.get_stream(&self.name).await {
            Ok(mut stream) => Ok(Some(stream.info().await?.state.messages)),
            Err(error) if error.to_string().contains("not found") => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Creates it as keylane does, for those that do not do it themselves.
    pub(super) async fn create(&self, url: &str) -> Result<(), Error> {
        let config = jetstream::stream::Config {
            name: self.name.clone(),
            subjects: vec![self.subjects()],
            ..jetstream::stream::Config::default()
        };
        jetstream::new(async_nats::connect(server(url)).await?).create_stream(config).await?;
        Ok(())
    }

    /// Publishes its records by the client alone; where somebody is to know their keys by it, with [`PARTITION_KEY`].
    pub(super) async fn fill(&self, url: &str, has_partition_key: bool) -> Result<Cost, Error> {
        let client = async_nats::connect(server(url)).await?;
        let jetstream = ContextBuilder::new().max_ack_inflight(IN_FLIGHT).build(client);
        let mut in_flight = FuturesUnordered::new();
        let meter = Meter::start();
        for (n, Message { key, value }) in self.messages().enumerate() {
            let mut headers = async_nats::HeaderMap::new();
            headers.insert("Nats-Msg-Id", id(n));
            headers.insert(TIME.0, TIME.1);
            if has_partition_key {
                headers.insert(PARTITION_KEY, key.as_str());
            }
            let subject = format!("{}.{key}", self.name);
            let stored = jetstream.publish_with_headers(subject, headers, value.into()).await?;
            in_flight.push(stored.into_future());
            if in_flight.len() >= IN_FLIGHT {
                in_flight.next().await.transpose()?;
            }
        }
        while let Some(stored) = in_flight.next().await {
            stored?;
        }
        Ok(meter.stop())
    }

    /// What a run has stored of it, and in which order; removes it.
    pub(super) async fn checked(&self, url: &str) -> Result<Tally, Error> {
        let jetstream = jetstream::new(async_nats::connect(server(url)).await?);
        let mut stream = jetstream.get_stream(&self.name).await?;
        let stored = stream.info().await?.state.messages;
        let config = consumer::pull::OrderedConfig::default();
        let mut messages = stream.create_consumer(config).await?.messages().await?;
        let check = Check::new(KEYS, |_| 0);
        for _ in 0..stored {
            match tokio::time::timeout(STALLED, messages.next()).await {
                Ok(Some(message)) => {
                    let mark = Mark::read(&message?.payload);
                    check.handled_concurrently(mark.key, mark.seq);
                }
                Ok(None) | Err(_) => break,
            }
        }
        jetstream.delete_stream(&self.name).await?;
        Ok(check.tally(self.records))
    }
}

/// For what is done once, and for the client alone, which one thread serves best.
pub(super) fn runtime() -> Result<Runtime, String> {
    Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())
}
