//! What librdkafka is told, and why: a pure function of the URL, the configuration and the subscription.
//!
//! Each default is written down with its reason, also where it is librdkafka's own. A property of `kafka.properties`
//! replaces any of them, but for those on which a promise rests.

use crate::broker::ConsumerSpec;
use crate::config::{BusUrl, Config, Credentials, GroupProtocol, Sasl};
use crate::error::{ConfigError, Origin, shown};
use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::time::Duration;

/// Names and values; `Debug` shows no value, since some are secrets.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Properties(BTreeMap<String, String>);

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Properties {
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// How long one asking of the brokers may take on a consumer's own connections, where a broker answers it behind a
    /// fetch that it holds back for want of records.
    pub(super) fn behind_a_fetch(&self) -> Duration {
        /// librdkafka's own, should the value be none that it takes.
        const HELD: u64 = 500;
        let held = self.get("fetch.wait.max.ms").and_then(|held| held.parse().ok()).unwrap_or(HELD);
        Duration::from_millis(held) + ANSWER
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// For how long the group waits for a silent member; none where the brokers alone say that.
    pub(super) fn session(&self) -> Option<Duration> {
        /// librdkafka's own, should the value be none that it takes.
        const SESSION: u64 = 45_000;
        if self.get("group.protocol") == Some("consumer") {
            return None;
        }
        let session = self.get("session.timeout.ms").and_then(|session| session.parse().ok());
        Some(Duration::from_millis(session.unwrap_or(SESSION)))
    }

    /// What this member is called for ever, if it is.
    pub(super) fn instance(&self) -> Option<&str> {
        self.get("group.instance.id")
    }

    fn set(&mut self, name: &str, value: impl Display) {
        self.0.insert(name.to_owned(), value.to_string());
    }
}

/// How long a broker may take to answer that has nothing to wait for.
const ANSWER: Duration = Duration::from_secs(1);

/// Why a property is not the user's to set.
const REFUSED: &[(&str, &str)] = &[
    ("bootstrap.servers", "the addresses are in the URL"),
    ("metadata.broker.list", "the addresses are in the URL"),
    ("group.id", "a subscription names its group, or the URL does"),
    ("enable.auto.commit", "positions are committed when records are over, not when they were handed out"),
    ("auto.commit.enable", "positions are committed when records are over, not when they were handed out"),
    ("auto.commit.interval.ms", "`subscription.commit_interval` says how often positions are committed"),
    (
        "enable.auto.offset.store",
        "positions are committed when records are over, not when they were handed out",
    ),
    ("offset.store.method", "positions are kept by the brokers, with the group"),
    ("transactional.id", "publishes are no transactions: each would wait for one that nobody ends"),
    ("enable.partition.eof", "the end of a partition is no event here"),
    ("group.protocol", "`kafka.group_protocol` says it"),
    ("partition.assignment.strategy", "`kafka.group_protocol` says it"),
    ("statistics.interval.ms", "nobody reads librdkafka's statistics here"),
];

/// Values without which a promise does not hold, of properties that may be spelled out all the same.
const FIXED: &[(&str, &[&str], &str)] = &[
    (
        "enable.idempotence",
        &["true"],
        "without it a publish that is sent again is stored twice and out of order",
    ),
    ("acks", &["all", "-1"], "an acknowledged record must not be lost with one broker"),
    ("request.required.acks", &["all", "-1"], "an acknowledged record must not be lost with one broker"),
];

/// What the protocol of KIP-848 leaves to the brokers.
const OF_THE_BROKERS: &[&str] = &["session.timeout.ms", "heartbeat.interval.ms", "group.protocol.type"];

/// Finds what of `kafka.properties` may not be set.
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    for (name, value) in config.kafka.properties.iter() {
        if let Some((_, why)) = REFUSED.iter().find(|(refused, _)| refused == name) {
            return Err(refused(name, &format!("is not to be set: {why}"), "another property"));
        }
        if let Some((_, allowed, why)) = FIXED.iter().find(|(fixed, ..)| fixed == name)
            && !allowed.contains(&value.as_str())
        {
            return Err(refused(name, &format!("would break a promise: {why}"), allowed[0]));
        }
        if config.kafka.group_protocol == GroupProtocol::Consumer && OF_THE_BROKERS.contains(&name.as_str()) {
            let problem =
                "is not to be set with `kafka.group_protocol = \"consumer\"`, by which the brokers say it";
            return Err(refused(name, problem, "a group's setting on the brokers"));
        }
    }
    Ok(())
}

/// An error that names the property and never its value.
pub(super) fn refused(name: &str, problem: &str, expected: &str) -> ConfigError {
    ConfigError::Value {
        key: "kafka.properties",
        value: format!("{{ {} = *** }}", shown(name.as_bytes())),
        origin: Origin::Code,
        problem: problem.to_owned(),
        expected: expected.to_owned(),
    }
}

/// Whether a password would cross the network as it is.
pub(super) fn sends_password_in_clear(url: &BusUrl, config: &Config) -> bool {
    url.credentials().is_some() && !config.kafka.tls && config.kafka.sasl == Sasl::Plain
}

/// What producer, consumers and the client that creates topics have in common.
pub(super) fn common(url: &BusUrl, config: &Config) -> Properties {
    let mut properties = Properties(BTreeMap::new());
    let hosts: Vec<String> = url.hosts().iter().map(ToString::to_string).collect();
    properties.set("bootstrap.servers", hosts.join(","));
    // As brokers name the client in their logs and quotas.
    properties.set("client.id", "keylane");
    // A topic is created where `create_topics` allows it, with its settings, and never because somebody asked for it.
    properties.set("allow.auto.create.topics", false);
    // Finds out that the other side is gone when nothing is sent for long.
    properties.set("socket.keepalive.enable", true);
    // Small requests are not held back for larger packets.
    properties.set("socket.nagle.disable", true);
    // A broker that comes back is noticed within a second; the default waits for up to ten.
    properties.set("reconnect.backoff.ms", 50);
    properties.set("reconnect.backoff.max.ms", 1_000);
    // A host that does not answer is given up before the connect timeout is over, so that the next one is tried.
    properties.set(
        "socket.connection.setup.timeout.ms",
        config.kafka.connect_timeout.as_millis().clamp(1_000, 10_000),
    );
    let tls = config.kafka.tls;
    let is_authenticated = url.credentials().is_some();
    properties.set(
        "security.protocol",
        match (tls, is_authenticated) {
            (false, false) => "plaintext",
            (true, false) => "ssl",
            (false, true) => "sasl_plaintext",
            (true, true) => "sasl_ssl",
        },
    );
    if tls && !config.kafka.tls_ca.is_empty() {
        properties.set("ssl.ca.location", &config.kafka.tls_ca);
    }
    if let Some(Credentials::Password { user, password }) = url.credentials() {
        properties.set(
            "sasl.mechanism",
            match config.kafka.sasl {
                Sasl::Plain => "PLAIN",
                Sasl::ScramSha256 => "SCRAM-SHA-256",
                Sasl::ScramSha512 => "SCRAM-SHA-512",
            },
        );
        properties.set("sasl.username", user);
        properties.set("sasl.password", password.expose());
    }
    properties
}

fn overridden(mut properties: Properties, config: &Config) -> Properties {
    for (name, value) in config.kafka.properties.iter() {
        properties.set(name, value);
    }
    properties
}

pub(super) fn client(url: &BusUrl, config: &Config) -> Properties {
    overridden(common(url, config), config)
}

pub(super) fn producer(url: &BusUrl, config: &Config) -> Properties {
    let mut properties = common(url, config);
    // Numbers each record, so that brokers store it once and in order however often it is sent.
    properties.set("enable.idempotence", true);
    properties.set("acks", "all");
    // Nothing is given up while the brokers are away; a caller gives up waiting when it wants to.
    properties.set("message.timeout.ms", 0);
    // Costs less time than it saves on the network.
    properties.set("compression.codec", "lz4");
    // Short, since callers wait for the acknowledgement; what is offered meanwhile makes the next batch anyway.
    properties.set("linger.ms", 1);
    // As Java's client places keys, so that one key is in one partition whoever publishes it.
    properties.set("partitioner", "murmur2_random");
    // The publisher's own bounds come first; room for them twice, and for a dead letter's headers.
    let publisher = &config.publisher;
    properties.set("queue.buffering.max.messages", (publisher.records * 2 + 1_000).min(10_000_000));
    properties.set("queue.buffering.max.kbytes", (publisher.bytes / 1024 * 2 + 65_536).min(2_097_151));
    // Not the client's limit but the topic's is to say what is too large.
    properties.set("message.max.bytes", (publisher.max_record_bytes + (128 << 10)).min(1_000_000_000));
    // A topic is looked up before anything is sent to it, so one that is not there was deleted meanwhile.
    properties.set("topic.metadata.propagation.max.ms", 5_000);
    overridden(properties, config)
}

/// The properties of one subscription's consumer.
///
/// # Errors
/// If the partitions could be lost before what runs has ended.
pub(super) fn consumer(url: &BusUrl, config: &Config, spec: &ConsumerSpec) -> Result<Properties, String> {
    let mut properties = common(url, config);
    properties.set("group.id", &spec.group);
    // A position is committed when what lies before it is over, and at no other time.
    properties.set("enable.auto.commit", false);
    properties.set("enable.auto.offset.store", false);
    // Each assignment says where to begin. So this counts only where that place is gone (retention, a topic that was
    // made anew): all that is there is handled rather than skipped.
    properties.set("auto.offset.reset", "earliest");
    // What a transaction took back was never published.
    properties.set("isolation.level", "read_committed");
    // The default of a second rests each time that a partition's queue is full: measured, a seventh of the speed.
    properties.set("fetch.queue.backoff.ms", 5);
    // librdkafka's default, spelled out: what is asked on the same connection waits as long.
    properties.set("fetch.wait.max.ms", 500);
    // What is fetched ahead, over all partitions: half of what the subscription may have in flight.
    properties.set("queued.max.messages.kbytes", (spec.budget.bytes / 2048).clamp(1_024, 65_536));
    // Bounded by the bytes above long before; librdkafka's default, spelled out.
    properties.set("queued.min.messages", 100_000);
    match config.kafka.group_protocol {
        GroupProtocol::Consumer => properties.set("group.protocol", "consumer"),
        classic => {
            properties.set("group.protocol", "classic");
            let is_range = classic == GroupProtocol::Range;
            properties
                .set("partition.assignment.strategy", if is_range { "range" } else { "cooperative-sticky" });
            // A member that died is noticed after this time, and heartbeats come from a thread that never waits for a
            // handler: shorter than the default of 45 s. Members hear of a rebalance by a heartbeat.
            properties.set("session.timeout.ms", 10_000);
            properties.set("heartbeat.interval.ms", 1_000);
        }
    }
    // Partitions are drained inside a poll, so this must be longer.
    let drain = spec.drain_timeout;
    properties.set(
        "max.poll.interval.ms",
        (drain * 2 + Duration::from_secs(30)).as_millis().clamp(300_000, 86_400_000),
    );
    let properties = overridden(properties, config);
    let longest = properties.0["max.poll.interval.ms"].parse().map_or(Duration::MAX, Duration::from_millis);
    if longest <= drain {
        return Err(format!(
            "`max.poll.interval.ms` of `kafka.properties` is not longer than the drain timeout of {drain:?}: the \
             partitions would be lost before what runs has ended"
        ));
    }
    Ok(properties)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::Start;

    fn config(toml: &str) -> Config {
        Config::from_toml(toml).expect("valid")
    }

    fn url(text: &str) -> BusUrl {
        BusUrl::parse(text).expect("valid")
    }

    fn spec() -> ConsumerSpec {
        ConsumerSpec::for_test("orders", "billing", Start::Earliest)
    }

    fn get<'a>(properties: &'a Properties, name: &str) -> Option<&'a str> {
        properties.0.get(name).map(String::as_str)
    }

    #[test]
    fn the_contract_rests_on_these() {
        let (url, config) = (url("kafka://a,b:9093"), config(""));
        let producer = producer(&url, &config);
        let consumer = consumer(&url, &config, &spec()).unwrap();
        for (properties, name, value) in [
            (&producer, "bootstrap.servers", "a:9092,b:9093"),
            (&producer, "enable.idempotence", "true"),
            (&producer, "acks", "all"),
            (&producer, "message.timeout.ms", "0"),
            (&producer, "allow.auto.create.topics", "false"),
            (&producer, "security.protocol", "plaintext"),
            (&consumer, "group.id", "billing"),
            (&consumer, "enable.auto.commit", "false"),
            (&consumer, "enable.auto.offset.store", "false"),
            (&consumer, "isolation.level", "read_committed"),
            (&consumer, "allow.auto.create.topics", "false"),
            (&consumer, "auto.offset.reset", "earliest"),
            (&consumer, "fetch.queue.backoff.ms", "5"),
            (&consumer, "queued.max.messages.kbytes", "32768"),
            (&consumer, "partition.assignment.strategy", "cooperative-sticky"),
            (&consumer, "max.poll.interval.ms", "300000"),
        ] {
            assert_eq!(get(properties, name), Some(value), "{name}");
        }
    }

    #[test]
    fn what_is_asked_behind_a_fetch_may_take_longer_than_the_fetch() {
        for (toml, limit) in [("", 1_500), ("kafka.properties = { 'fetch.wait.max.ms' = '3000' }", 4_000)] {
            let properties = consumer(&url("kafka://a"), &config(toml), &spec()).unwrap();
            assert_eq!(properties.behind_a_fetch(), Duration::from_millis(limit));
        }
    }

    #[test]
    fn the_group_protocol_decides_what_else_is_said() {
        let of = |toml| consumer(&url("kafka://a"), &config(toml), &spec()).unwrap();
        let range = of("kafka.group_protocol = 'range'");
        assert_eq!(get(&range, "partition.assignment.strategy"), Some("range"));
        let consumer = of("kafka.group_protocol = 'consumer'");
        assert_eq!(get(&consumer, "group.protocol"), Some("consumer"));
        for name in ["partition.assignment.strategy", "session.timeout.ms", "heartbeat.interval.ms"] {
            assert_eq!(get(&consumer, name), None, "{name} is refused by that protocol");
        }
    }

    #[test]
    fn who_connects_and_how_is_in_the_url_and_the_section() {
        for (address, toml, protocol, mechanism) in [
            ("kafka://a", "kafka.tls = true", "ssl", None),
            ("kafka://ann:s3cr3t@a", "", "sasl_plaintext", Some("PLAIN")),
            (
                "kafka://ann:s3cr3t@a",
                "kafka = { tls = true, sasl = 'scram-sha-256' }",
                "sasl_ssl",
                Some("SCRAM-SHA-256"),
            ),
            ("kafka://ann:s3cr3t@a", "kafka.sasl = 'scram-sha-512'", "sasl_plaintext", Some("SCRAM-SHA-512")),
        ] {
            let properties = client(&url(address), &config(toml));
            assert_eq!(get(&properties, "security.protocol"), Some(protocol));
            assert_eq!(get(&properties, "sasl.mechanism"), mechanism);
            assert_eq!(get(&properties, "sasl.password"), mechanism.map(|_| "s3cr3t"));
            assert!(!format!("{properties:?}").contains("s3cr3t"));
        }
        assert!(sends_password_in_clear(&url("kafka://ann:s3cr3t@a"), &config("")));
        assert!(!sends_password_in_clear(&url("kafka://ann:s3cr3t@a"), &config("kafka.tls = true")));
        assert!(!sends_password_in_clear(
            &url("kafka://ann:s3cr3t@a"),
            &config("kafka.sasl = 'scram-sha-256'")
        ));
        let properties = client(&url("kafka://a"), &config("kafka = { tls = true, tls_ca = '/ca.pem' }"));
        assert_eq!(get(&properties, "ssl.ca.location"), Some("/ca.pem"));
    }

    #[test]
    fn any_other_property_is_the_users() {
        let config =
            config("kafka.properties = { 'linger.ms' = '20', 'fetch.wait.max.ms' = '9', 'acks' = 'all' }");
        check(&config).unwrap();
        assert_eq!(get(&producer(&url("kafka://a"), &config), "linger.ms"), Some("20"));
        assert_eq!(
            get(&consumer(&url("kafka://a"), &config, &spec()).unwrap(), "fetch.wait.max.ms"),
            Some("9")
        );
    }

    #[test]
    fn what_a_promise_rests_on_is_refused_by_name_and_without_its_value() {
        let cases = REFUSED.iter().map(|(name, _)| (*name, "hunter2"));
        let fixed = [("enable.idempotence", "false"), ("acks", "1"), ("request.required.acks", "0")];
        for (name, value) in cases.chain(fixed) {
            let mut config = Config::default();
            config.kafka.properties.0.insert(name.to_owned(), value.to_owned());
            let error = check(&config).unwrap_err().to_string();
            assert!(error.contains(name) && !error.contains("hunter2"), "{error}");
        }
        let text = "kafka = { group_protocol = 'consumer', properties = { 'session.timeout.ms' = '9000' } }";
        assert!(check(&config(text)).unwrap_err().to_string().contains("session.timeout.ms"));
    }

    #[test]
    fn a_drain_ends_before_the_group_throws_the_member_out() {
        let (url, mut spec) = (url("kafka://a"), spec());
        spec.drain_timeout = Duration::from_secs(600);
        let properties = consumer(&url, &config(""), &spec).unwrap();
        assert_eq!(get(&properties, "max.poll.interval.ms"), Some("1230000"));
        let short = config("kafka.properties = { 'max.poll.interval.ms' = '600000' }");
        assert!(consumer(&url, &short, &spec).unwrap_err().contains("max.poll.interval.ms"));
    }
}
