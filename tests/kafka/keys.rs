//! Of every key of the section `[kafka]`, that it changes what the bus does: one observation without it and with it.

use crate::cluster::{fresh, shared};
use crate::security::{authority, secured, url_with_user};
use crate::support::effects::{Effect, none, prove, text};
use crate::support::{eventually, servers};
use keylane::{Config, Record};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use std::time::Duration;

fn creates() -> String {
    "kafka.create_topics = true".to_owned()
}

fn trusts() -> String {
    format!("kafka.tls_ca = '{}'", authority("server").display())
}

const EFFECTS: &[Effect] = &[
    Effect {
        key: "kafka.connect_timeout",
        value: || "'100ms'".to_owned(),
        besides: none,
        see: gives_up_soon,
        without: "false",
        with: "true",
    },
    Effect {
        key: "kafka.group_protocol",
        value: || "'range'".to_owned(),
        besides: creates,
        see: protocol_of_its_group,
        without: "cooperative-sticky",
        with: "range",
    },
    Effect {
        key: "kafka.tls",
        value: || "true".to_owned(),
        besides: trusts,
        see: connects_by_tls,
        without: "false",
        with: "true",
    },
    Effect {
        key: "kafka.tls_ca",
        value: || format!("'{}'", authority("server").display()),
        besides: || "kafka.tls = true".to_owned(),
        see: connects_by_tls,
        without: "false",
        with: "true",
    },
    Effect {
        key: "kafka.sasl",
        value: || "'scram-sha-256'".to_owned(),
        besides: none,
        see: is_taken_by_scram,
        without: "false",
        with: "true",
    },
    Effect {
        key: "kafka.create_topics",
        value: || "true".to_owned(),
        besides: none,
        see: publishes_where_no_topic_is,
        without: "false",
        with: "true",
    },
    Effect {
        key: "kafka.partitions",
        value: || "5".to_owned(),
        besides: creates,
        see: partitions_of_a_new_topic,
        without: "8",
        with: "5",
    },
    Effect {
        key: "kafka.replicas",
        value: || "3".to_owned(),
        besides: creates,
        // There is one broker.
        see: publishes_where_no_topic_is,
        without: "true",
        with: "false",
    },
    Effect {
        key: "kafka.properties",
        value: || "{ 'message.max.bytes' = '2000' }".to_owned(),
        besides: creates,
        see: publishes_5000_bytes,
        without: "true",
        with: "false",
    },
];

#[test]
fn every_key_of_kafka_changes_what_it_says() {
    prove("kafka.", EFFECTS);
}

fn config(toml: &str, port: u16) -> Config {
    let mut config = Config::from_toml(toml).expect("valid");
    config.url = format!("kafka://127.0.0.1:{port}");
    config
}

fn bus(toml: &str) -> keylane::Bus {
    keylane::connect_with(config(toml, shared().port)).wait().expect("the broker takes anybody")
}

/// Whether it gives a broker up that says nothing.
fn gives_up_soon(toml: &str) -> String {
    let silent = servers::free_listener();
    let port = silent.local_addr().expect("it is bound").port();
    text(keylane::connect_with(config(toml, port)).wait_timeout(Duration::from_millis(2_500)).is_ok())
}

fn protocol_of_its_group(toml: &str) -> String {
    let (bus, topic) = (bus(toml), fresh("protocol"));
    let orders = bus.subscribe(&topic).group(&topic).handle(|_| Ok(())).expect("it is created");
    orders.ready().wait().expect("it joins");
    let client: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", format!("127.0.0.1:{}", shared().port))
        .create()
        .unwrap();
    let mut found = String::new();
    eventually("the group is stable", || {
        let groups =
            client.fetch_group_list(Some(&topic), Duration::from_secs(10)).expect("the broker answers");
        found = groups.groups().iter().map(|group| group.protocol().to_owned()).collect();
        !found.is_empty()
    })
    .unwrap();
    found
}

fn connects_by_tls(toml: &str) -> String {
    let mut config = config(toml, secured().tls);
    config.kafka.connect_timeout = Duration::from_secs(5);
    text(keylane::connect_with(config).wait().is_ok())
}

fn is_taken_by_scram(toml: &str) -> String {
    let mut config = config(toml, secured().scram);
    config.url = url_with_user(secured().scram);
    text(keylane::connect_with(config).wait().is_ok())
}

fn publishes_where_no_topic_is(toml: &str) -> String {
    text(bus(toml).publish(&fresh("new"), Record::new("x")).wait().is_ok())
}

fn partitions_of_a_new_topic(toml: &str) -> String {
    let (bus, topic) = (bus(toml), fresh("counted"));
    bus.publish(&topic, Record::new("x")).wait().expect("it is created");
    let client: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", format!("127.0.0.1:{}", shared().port))
        .create()
        .unwrap();
    let metadata = client.fetch_metadata(Some(&topic), Duration::from_secs(10)).expect("the broker answers");
    text(metadata.topics()[0].partitions().len())
}

fn publishes_5000_bytes(toml: &str) -> String {
    text(bus(toml).publish(&fresh("long"), Record::new(vec![7; 5_000])).wait().is_ok())
}
