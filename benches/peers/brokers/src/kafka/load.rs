//! The topics, loaded once: each run consumes one of them with a group of its own.

use super::{PARTITIONS, servers};
use crate::record::{Keys, Mark};
use keylane::{Bus, Config, Envelope};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(10);
/// Publishes without an answer yet.
const WINDOW: usize = 50_000;

/// A topic of Envelopes of 300 bytes.
#[derive(Debug)]
pub(super) struct Topic {
    pub(super) keys: Keys,
    pub(super) records: u64,
}

impl Topic {
    pub(super) fn name(&self) -> String {
        format!("peers-{}-{}", self.keys.name(), self.records)
    }

    /// Loads it unless it is there, whole.
    pub(super) fn ensure(&self, url: &str) -> Result<(), String> {
        let name = self.name();
        match self.stored(url)? {
            Some(stored) if stored == self.records => Ok(()),
            Some(stored) => Err(format!(
                "topic `{name}` has {stored} records instead of {}, so nothing can be counted on it; delete it",
                self.records
            )),
            None => self.load(url).map_err(|error| format!("topic `{name}` could not be loaded: {error}")),
        }
    }

    fn stored(&self, url: &str) -> Result<Option<u64>, String> {
        let failed = |error| format!("the broker at {url} does not answer: {error}");
        let client: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", servers(url)).create().map_err(failed)?;
        let metadata = client.fetch_metadata(None, TIMEOUT).map_err(failed)?;
        let name = self.name();
        let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == name) else {
            return Ok(None);
        };
        let mut stored = 0;
        for partition in topic.partitions() {
            let (low, high) = client.fetch_watermarks(&name, partition.id(), TIMEOUT).map_err(failed)?;
            stored += (high - low) as u64;
        }
        Ok(Some(stored))
    }

    fn load(&self, url: &str) -> Result<(), Failed> {
        let name = self.name();
        publish(&create(url, &name)?, &name, self.keys.marks(self.records), Duration::ZERO)
    }
}

pub(super) type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Makes a topic; what is told publishes to it.
pub(super) fn create(url: &str, name: &str) -> Result<Bus, Failed> {
    let mut config = Config::default();
    url.clone_into(&mut config.url);
    config.kafka.create_topics = true;
    config.kafka.partitions = PARTITIONS;
    config.publisher.records = 2 * WINDOW;
    config.publisher.bytes = 256 << 20;
    let bus = keylane::connect_with(config).wait()?;
    bus.create_topic(name).wait()?;
    Ok(bus)
}

/// Publishes the records of a topic, one each time that `every` has passed, and closes the bus.
pub(super) fn publish(
    bus: &Bus,
    topic: &str,
    marks: impl Iterator<Item = Mark>,
    every: Duration,
) -> Result<(), Failed> {
    let mut due = Instant::now();
    let mut receipts = VecDeque::new();
    for mark in marks {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        due += every;
        receipts.push_back(bus.publish(topic, envelope(mark)?));
        if receipts.len() >= WINDOW {
            receipts.pop_front().map(keylane::Op::wait).transpose()?;
        }
    }
    for receipt in receipts {
        receipt.wait()?;
    }
    bus.close(TIMEOUT).wait();
    Ok(())
}

/// 300 bytes as it is stored.
fn envelope(mark: Mark) -> Result<Envelope<'static>, keylane::EnvelopeError> {
    let at = mark.write();
    let payload = format!(r#"{{"at":{at},"pad":"{:x>width$}"}}"#, "", width = 82 - at.len());
    Envelope::new(format!("order-{}", mark.key), "order.changed", 1, payload)
}
