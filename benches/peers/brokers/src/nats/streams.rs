//! The streams: those that are loaded once, and those that a run fills and removes.

use super::server;
use crate::record::{KEYS, Keys, Mark};
use crate::work::STALLED;
use async_nats::jetstream::{self, consumer};
use futures_util::StreamExt as _;
use keylane::{Config, Record};
use measure::{Check, Tally};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The header by which RustStream knows the key of a record; every variant gets it.
pub(super) const PARTITION_KEY: &str = "nats-partition-key";

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
            Ok(None) => self
                .load(url)
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

    fn load(&self, url: &str) -> Result<(), Error> {
        let bus = Self::bus(url, super::IN_FLIGHT)?;
        bus.create_topic(&self.name).wait()?;
        let mut receipts = VecDeque::new();
        for Message { key, value } in self.messages() {
            let record = Record::new(value).with_header(PARTITION_KEY, key.clone()).with_key(key);
            receipts.push_back(bus.publish(&self.name, record));
            if receipts.len() >= super::IN_FLIGHT {
                receipts.pop_front().map(keylane::Op::wait).transpose()?;
            }
        }
        for receipt in receipts {
            receipt.wait()?;
        }
        bus.close(Duration::from_secs(10)).wait();
        Ok(())
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
