//! From a URL or a configuration to a bus.

use super::Bus;
use crate::broker::memory::MemoryBroker;
use crate::config::{BusUrl, Config, Scheme};
use crate::error::ConnectError;
use crate::sync::Arc;
use crate::wait::{Op, spawn};

/// Connects to the bus at this URL, with the default configuration.
///
/// `memory:` is a new bus in this process; `kafka://` and `nats://` need the Cargo features of these names, and are over
/// when a broker has answered. For more than the URL use [`connect_with`].
///
/// # Errors
/// The returned operation fails when the URL is not valid or its backend is not compiled in.
///
/// ```
/// let bus = keylane::connect("memory:").wait()?;
/// bus.create_topic("orders").wait()?;
/// bus.publish("orders", keylane::Record::new("hello")).wait()?;
/// assert_eq!(bus.stats().published, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn connect(url: &str) -> Op<Result<Bus, ConnectError>> {
    let mut config = Config::default();
    url.clone_into(&mut config.url);
    connect_with(config)
}

/// Connects to the bus that a configuration describes.
///
/// # Errors
/// The returned operation fails when the configuration is not valid, which is found before any I/O, or its backend is
/// not compiled in.
///
/// ```
/// use keylane::{Config, Record};
///
/// let mut config = Config::default();
/// config.url = "memory:?topics=orders".to_owned();
/// config.publisher.max_record_bytes = 16;
/// let bus = keylane::connect_with(config).wait()?;
/// assert!(bus.publish("orders", Record::new("paid")).wait().is_ok());
/// assert!(bus.publish("orders", Record::new("paid, and a long story behind it")).wait().is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn connect_with(config: Config) -> Op<Result<Bus, ConnectError>> {
    let checked = config.resolve().map_err(ConnectError::from).and_then(|(url, config)| {
        url.scheme().require_feature()?;
        Ok((url, config))
    });
    match checked {
        Ok((url, config)) if url.scheme() == Scheme::Memory => Op::ready(open(&url, config)),
        Ok((url, config)) => connecting(url, config),
        Err(error) => Op::ready(Err(error)),
    }
}

/// Asks the broker from a thread of its own: its client library may wait, and no caller can be made to lend one.
fn connecting(url: BusUrl, config: Config) -> Op<Result<Bus, ConnectError>> {
    let (promise, op) = Op::pending(|| Err(ConnectError::Abandoned));
    let connect = move || promise.complete(open(&url, config));
    match spawn("keylane-connect".to_owned(), connect) {
        Ok(_) => op,
        Err(error) => Op::ready(Err(ConnectError::Thread(error))),
    }
}

#[cfg_attr(
    not(any(feature = "kafka", feature = "nats")),
    expect(clippy::unnecessary_wraps, reason = "only what is remote can fail")
)]
fn open(url: &BusUrl, config: Config) -> Result<Bus, ConnectError> {
    match url.scheme() {
        Scheme::Memory => {
            let memory = &config.memory;
            let mut broker = MemoryBroker::builder()
                .partitions(memory.partitions as u32)
                .retention_records(memory.retention_records as u64)
                .retention_bytes(memory.retention_bytes as u64)
                .create_topics(memory.create_topics);
            for topic in &memory.topics {
                broker = broker.topic(topic);
            }
            Ok(Bus::on(Arc::new(broker.build()), config))
        }
        #[cfg(feature = "kafka")]
        Scheme::Kafka => Ok(Bus::on(crate::broker::kafka::connect(url, &config)?, config)),
        #[cfg(feature = "nats")]
        Scheme::Nats => Ok(Bus::on(crate::broker::nats::connect(url, &config)?, config)),
        #[cfg(not(all(feature = "kafka", feature = "nats")))]
        _ => unreachable!("refused above: this build has not the feature"),
    }
}

/// Lives here and not with the broker: a broker knows nothing of the bus above it.
impl MemoryBroker {
    /// A bus on this broker. Several may share one, as processes share a server.
    ///
    /// The section `[memory]` and the URL of the configuration are not read: the broker is there already.
    ///
    /// # Errors
    /// When the configuration is not valid.
    ///
    /// ```
    /// use keylane::{Config, Record, memory::MemoryBroker};
    ///
    /// let broker = MemoryBroker::builder().topic("orders").build();
    /// let (one, other) = (broker.connect(Config::default())?, broker.connect(Config::default())?);
    /// one.publish("orders", Record::new("hello")).wait()?;
    /// assert_eq!(other.stats().published, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn connect(&self, config: Config) -> Result<Bus, ConnectError> {
        let (_, config) = config.resolve()?;
        Ok(Bus::on(Arc::new(self.clone()), config))
    }
}
