//! Configuration: one struct, from code, TOML and the environment, checked before the first byte of I/O.
//!
//! Layers, each over the one before: the defaults, TOML, environment variables (`KEYLANE_` and the path in capitals,
//! `__` between its levels: `KEYLANE_SUBSCRIPTION__WORKERS=4`), and for the section `[memory]` the options of a
//! `memory:` URL. A key that does not exist is an error that names the nearest one.
//!
//! In TOML, durations are strings of a whole number and a unit (`ns`, `us`, `ms`, `s`, `m`, `h`): `"100ms"`. In
//! environment variables and URLs, lists are separated by commas.
//!
//! ```toml
//! url = "kafka://one:9092,two:9092/?group=billing"
//! publisher = { records = 4096 }
//!
//! [subscription]
//! workers = 4
//! drain_timeout = "5s"
//! retry = { attempts = 5, max = "10s" }
//! then = { kind = "dead_letter", topic = "orders.dead" }
//! ```
//!
#![doc = include_str!("keys.md")]

mod duration;
mod input;
mod keys;
mod load;
pub(crate) mod names;
mod suggest;
mod url;

pub use url::{BusUrl, Credentials, Host, Scheme, Secret};

use crate::policy::{DeadLetter, FailurePolicy, Jitter, Retry, Then};
use crate::pool::Idle;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Everything about a bus that can be set. The keys, defaults and ranges are in the table of [this module](self).
///
/// It is a plain value: [`validate`](Self::validate) is run by connecting, whatever it was made from. `Deserialize`
/// reads it as a section of a program's own configuration, with the same errors as [`from_toml`](Self::from_toml);
/// `Serialize` and `Debug` write `***` for a password or a token in the URL.
///
/// ```
/// use keylane::Config;
/// use keylane::config::Workers;
///
/// let toml = "url = 'memory:?topics=orders'\nsubscription.workers = 2"; // std::fs::read_to_string("keylane.toml")?
/// let mut config = Config::load(Some(toml), std::env::vars())?;
/// config.subscription.workers = Workers::Count(4);
/// let bus = keylane::connect_with(config).wait()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Config {
    /// Where the bus is, see [`BusUrl`]; default `memory:`.
    #[serde(serialize_with = "url_text")]
    pub url: String,
    /// What the publisher may have under way.
    pub publisher: PublisherConfig,
    /// What every subscription starts from.
    pub subscription: SubscriptionConfig,
    /// The memory bus, read for `memory:` only.
    pub memory: MemoryConfig,
    /// Kafka, read for `kafka://` only.
    pub kafka: KafkaConfig,
    /// NATS JetStream, read for `nats://` only.
    pub nats: NatsConfig,
}

/// The section `[publisher]`: what may be published and not acknowledged yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PublisherConfig {
    /// Unacknowledged publishes; at the limit a publish waits. 1 to 1,048,576, default 1,024.
    pub records: usize,
    /// Their bytes; at least [`max_record_bytes`](Self::max_record_bytes), up to 64 GiB, default 16 MiB.
    pub bytes: usize,
    /// The longest record that may be published; 1 byte to 1 GiB, default 1 MiB.
    pub max_record_bytes: usize,
}

/// The section `[subscription]`: the defaults of every subscription, which each may override.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SubscriptionConfig {
    /// Worker threads; 0 to 1,024, default [`Workers::Auto`].
    pub workers: Workers,
    /// Records delivered and not settled; at the limit fetching rests. 1 to 1,048,576, default 4,096.
    pub in_flight_records: usize,
    /// Their bytes; at least [`max_record_bytes`](Self::max_record_bytes), up to 64 GiB, default 64 MiB.
    pub in_flight_bytes: usize,
    /// Records of one partition from the first unsettled to the newest delivered; at the limit that partition rests.
    /// 1 to 16,777,216, default 100,000.
    pub watermark_distance: usize,
    /// The longest record that is handled, a longer one is a terminal failure; 1 byte to 1 GiB, default 1 MiB.
    pub max_record_bytes: usize,
    /// How long running handlers may take to finish when a partition is taken away; up to 1 h, default 10 s.
    #[serde(serialize_with = "duration_text")]
    pub drain_timeout: Duration,
    /// How often a position that moved is committed; 1 ms to 1 h, default none: as the backend does best, which is at
    /// each turn in memory, and every 20 ms on Kafka, or less often where its answers take more than a millisecond.
    #[serde(serialize_with = "interval_text")]
    pub commit_interval: Option<Duration>,
    /// A blocking handler that runs longer shows in health; 1 ms to 24 h, default 30 s.
    #[serde(serialize_with = "duration_text")]
    pub hung_after: Duration,
    /// How long an async handler may take before it is cancelled and has failed; 1 ms to 24 h, default none.
    #[serde(serialize_with = "deadline_text")]
    pub handler_deadline: Option<Duration>,
    /// What a worker with nothing to do does; default [`Idle::Adaptive`].
    #[serde(serialize_with = "idle_text")]
    pub idle: Idle,
    /// How a failed record is tried again.
    pub retry: RetryConfig,
    /// What follows when the attempts are over; default [`ThenConfig::Hold`].
    pub then: ThenConfig,
}

/// The section `[subscription.retry]`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RetryConfig {
    /// How often a record is tried, the first time counted; 1 to 1,000,000, default [`Attempts::Forever`].
    pub attempts: Attempts,
    /// The wait before the second attempt; 1 ms to 24 h, default 100 ms.
    #[serde(serialize_with = "duration_text")]
    pub initial: Duration,
    /// The longest wait; at least [`initial`](Self::initial), up to 24 h, default 30 s.
    #[serde(serialize_with = "duration_text")]
    pub max: Duration,
    /// What each wait is multiplied by for the next; 1 to 100, default 2.
    pub factor: f64,
    /// How a wait is drawn; default [`Jitter::Full`].
    #[serde(serialize_with = "jitter_text")]
    pub jitter: Jitter,
}

/// The section `[memory]`, which the options of a `memory:` URL override.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MemoryConfig {
    /// Partitions of each topic that is created; 1 to 1,024, default 4.
    pub partitions: usize,
    /// Records that a topic keeps; what a group has not settled is never dropped, publishing waits instead.
    /// 1 to 1,073,741,824, default 100,000.
    pub retention_records: usize,
    /// Their bytes; at least [`PublisherConfig::max_record_bytes`], up to 64 GiB, default 256 MiB.
    pub retention_bytes: usize,
    /// Whether a topic that does not exist is created when it is first used; default false.
    pub create_topics: bool,
    /// Topics created at connect, each once; default none.
    pub topics: Vec<String>,
}

/// The section `[kafka]`. Users and passwords are in the URL.
///
/// ```
/// use keylane::Config;
/// use keylane::config::GroupProtocol;
///
/// let config = Config::from_toml(
///     "[kafka]\ngroup_protocol = 'consumer'\nproperties = { 'compression.codec' = 'zstd', 'linger.ms' = '1' }",
/// )?;
/// assert_eq!(config.kafka.group_protocol, GroupProtocol::Consumer);
/// assert_eq!(config.kafka.properties["linger.ms"], "1");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct KafkaConfig {
    /// How long the first answer of a broker may take; 100 ms to 5 min, default 10 s.
    #[serde(serialize_with = "duration_text")]
    pub connect_timeout: Duration,
    /// How partitions move between the members of a group; default [`GroupProtocol::CooperativeSticky`].
    pub group_protocol: GroupProtocol,
    /// Whether connections are encrypted and the broker's certificate is checked; default false.
    pub tls: bool,
    /// A PEM file of the authorities that the broker's certificate is checked against; default none, which are those
    /// of the system.
    pub tls_ca: String,
    /// How the user of the URL authenticates; default [`Sasl::Plain`].
    pub sasl: Sasl,
    /// Whether a topic that does not exist is created when it is first used; default false.
    pub create_topics: bool,
    /// Partitions of a topic that is created; 1 to 10,000, default 8.
    pub partitions: usize,
    /// Copies of each partition of a topic that is created; 0 to 100, default 0: as the brokers do by default.
    pub replicas: usize,
    /// Properties of librdkafka, by their names there, over what keylane sets. Those that would break a promise are
    /// refused. Their values are never shown: some are secrets.
    #[serde(serialize_with = "hidden_values")]
    pub properties: Properties,
}

/// Names and values of a client library's own settings. `Debug` and `Serialize` write `***` for the values.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Properties(pub BTreeMap<String, String>);

impl std::ops::Deref for Properties {
    type Target = BTreeMap<String, String>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.keys().map(|name| (name, format_args!("***")))).finish()
    }
}

/// How the members of a Kafka group agree on who has which partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum GroupProtocol {
    /// The classic protocol; only the partitions that move stop.
    CooperativeSticky,
    /// The classic protocol; all partitions stop at each rebalance.
    Range,
    /// The protocol of KIP-848, by which the brokers assign; for Kafka 4.0 and newer.
    Consumer,
}

/// How a user authenticates to Kafka.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum Sasl {
    /// The password itself is sent: only over TLS, or where nobody listens.
    #[serde(rename = "plain")]
    Plain,
    /// SCRAM with SHA-256.
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    /// SCRAM with SHA-512.
    #[serde(rename = "scram-sha-512")]
    ScramSha512,
}

/// The section `[nats]`. Users, passwords and tokens are in the URL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct NatsConfig {
    /// How long the first answer of a server may take; 100 ms to 5 min, default 10 s.
    #[serde(serialize_with = "duration_text")]
    pub connect_timeout: Duration,
    /// Whether connections are encrypted and the server's certificate is checked; default false.
    pub tls: bool,
    /// A PEM file of the authorities that the server's certificate is checked against; default none, which are those
    /// of the system.
    pub tls_ca: String,
    /// A credentials file, as `nsc` writes it; default none.
    pub credentials: String,
    /// The stream that all topics are in, as the option `stream` of the URL; default none: each topic is in a stream of
    /// its own.
    pub stream: String,
    /// Whether a stream that does not exist is created when its topic is first used; default false.
    pub create_topics: bool,
    /// Where a stream that is created keeps its records; default [`Storage::File`]. With [`Storage::Memory`] Envelopes are
    /// taken from streams in memory, too, which is refused otherwise.
    pub storage: Storage,
    /// Copies of a stream that is created, and of its consumers; 1 to 5, default 1.
    pub replicas: usize,
    /// How long a record may be with a consumer without a sign of life before the server hands it out again; 1 s to
    /// 1 h, default 30 s.
    #[serde(serialize_with = "duration_text")]
    pub ack_wait: Duration,
    /// Whether each acknowledgement is itself acknowledged by the server; default false.
    pub double_ack: bool,
    /// How long the lease of a group's active instance may stand still before another takes over; 1 s to 1 h, default 5 s.
    ///
    /// The instance renews it three times in nine tenths of that, and starts nothing once those have passed since it sent
    /// the last renewal that was answered. So what a crashed instance had is taken over at most this long after the crash,
    /// and at least seven tenths of it; up to a second later, with the look at the lease and until what was delivered comes
    /// again, the next instance is at work.
    #[serde(serialize_with = "duration_text")]
    pub takeover_after: Duration,
}

/// Where a JetStream stream keeps its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Storage {
    /// In files; a server flushes them to the disk every two minutes by default, so that a loss of power may lose
    /// what it had acknowledged.
    File,
    /// In memory: gone with the server.
    Memory,
}

/// How many worker threads a subscription has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Workers {
    /// As many as the machine runs at once; in TOML `"auto"`.
    Auto,
    /// That many; 0: handled on the delivering thread.
    Count(usize),
}

/// How often a record is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempts {
    /// Until it succeeds; in TOML `"forever"`.
    Forever,
    /// That often, the first time counted.
    Limited(u32),
}

/// The section `[subscription.then]`: what follows when the attempts are over.
///
/// A layer that sets another `kind` than the layer below drops what belonged to that.
///
/// ```
/// use keylane::{Config, config::ThenConfig};
///
/// let config = Config::from_toml("subscription.then = { kind = 'dead_letter', topic = 'orders.dead' }")?;
/// assert_eq!(config.subscription.then, ThenConfig::DeadLetter { topic: "orders.dead".to_owned() });
/// # Ok::<(), keylane::ConfigError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ThenConfig {
    /// The record goes to another topic.
    DeadLetter {
        /// That topic; needed.
        topic: String,
    },
    /// The key waits for an operator.
    Hold,
    /// The record is settled and counted.
    Discard,
    /// The subscription stops.
    Halt,
    /// The record is given back to the broker: other records of its key overtake it.
    Redeliver {
        /// When it is delivered again; needed, 1 ms to 24 h.
        #[serde(serialize_with = "duration_text")]
        delay: Duration,
    },
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: "memory:".to_owned(),
            publisher: PublisherConfig { records: 1024, bytes: 16 << 20, max_record_bytes: 1 << 20 },
            subscription: SubscriptionConfig {
                workers: Workers::Auto,
                in_flight_records: 4096,
                in_flight_bytes: 64 << 20,
                watermark_distance: 100_000,
                max_record_bytes: 1 << 20,
                drain_timeout: Duration::from_secs(10),
                commit_interval: None,
                hung_after: Duration::from_secs(30),
                handler_deadline: None,
                idle: Idle::Adaptive,
                retry: RetryConfig {
                    attempts: Attempts::Forever,
                    initial: Duration::from_millis(100),
                    max: Duration::from_secs(30),
                    factor: 2.0,
                    jitter: Jitter::Full,
                },
                then: ThenConfig::Hold,
            },
            memory: MemoryConfig {
                partitions: 4,
                retention_records: 100_000,
                retention_bytes: 256 << 20,
                create_topics: false,
                topics: Vec::new(),
            },
            kafka: KafkaConfig {
                connect_timeout: Duration::from_secs(10),
                group_protocol: GroupProtocol::CooperativeSticky,
                tls: false,
                tls_ca: String::new(),
                sasl: Sasl::Plain,
                create_topics: false,
                partitions: 8,
                replicas: 0,
                properties: Properties::default(),
            },
            nats: NatsConfig {
                connect_timeout: Duration::from_secs(10),
                tls: false,
                tls_ca: String::new(),
                credentials: String::new(),
                stream: String::new(),
                create_topics: false,
                storage: Storage::File,
                replicas: 1,
                ack_wait: Duration::from_secs(30),
                double_ack: false,
                takeover_after: Duration::from_secs(5),
            },
        }
    }
}

impl SubscriptionConfig {
    /// What a failure leads to in a subscription to Envelopes that says nothing else.
    pub(crate) fn policy(&self) -> FailurePolicy {
        let RetryConfig { attempts, initial, max, factor, jitter } = self.retry;
        let mut retry = Retry::exponential(initial..max).factor(factor).jitter(jitter);
        if let Attempts::Limited(attempts) = attempts {
            retry = retry.attempts(attempts);
        }
        let then = match &self.then {
            ThenConfig::DeadLetter { topic } => Then::from(DeadLetter::to(topic)),
            ThenConfig::Hold => Then::Hold,
            ThenConfig::Discard => Then::Discard,
            ThenConfig::Halt => Then::Halt,
            ThenConfig::Redeliver { delay } => Then::Redeliver { delay: *delay },
        };
        FailurePolicy { retry, then }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("url", &url::redacted(&self.url))
            .field("publisher", &self.publisher)
            .field("subscription", &self.subscription)
            .field("memory", &self.memory)
            .field("kafka", &self.kafka)
            .field("nats", &self.nats)
            .finish()
    }
}

pub(crate) fn idle(idle: Idle) -> String {
    match idle {
        Idle::Park => "park".to_owned(),
        Idle::Adaptive => "adaptive".to_owned(),
        Idle::Spin(time) => format!("spin:{}", duration::format(time)),
    }
}

fn idle_text<S: Serializer>(value: &Idle, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&idle(*value))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference to the field")]
fn jitter_text<S: Serializer>(jitter: &Jitter, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match jitter {
        Jitter::Full => "full",
        Jitter::None => "none",
    })
}

impl Serialize for Workers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Count(n) => n.serialize(serializer),
        }
    }
}

impl Serialize for Attempts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Forever => serializer.serialize_str("forever"),
            Self::Limited(n) => n.serialize(serializer),
        }
    }
}

fn url_text<S: Serializer>(url: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&url::redacted(url))
}

fn hidden_values<S: Serializer>(properties: &Properties, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(properties.keys().map(|name| (name, "***")))
}

fn duration_text<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&duration::format(*duration))
}

#[expect(clippy::ref_option, reason = "serde passes a reference to the field")]
fn interval_text<S: Serializer>(interval: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match interval {
        Some(interval) => duration_text(interval, serializer),
        None => serializer.serialize_str("auto"),
    }
}

#[expect(clippy::ref_option, reason = "serde passes a reference to the field")]
fn deadline_text<S: Serializer>(deadline: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match deadline {
        Some(deadline) => duration_text(deadline, serializer),
        None => serializer.serialize_str("none"),
    }
}
