//! Of every key of the section `[nats]`, that it changes what the bus does: one observation without it and with it.

use crate::admin::Admin;
use crate::security::{certificates, with_operator, with_tls};
use crate::support::effects::{Effect, none, prove, text};
use crate::support::servers::{self, Server};
use crate::support::{eventually, within};
use keylane::{Bus, Config, Record};
use std::time::Duration;

fn creates() -> String {
    "nats.create_topics = true".to_owned()
}

fn trusts() -> String {
    format!("nats.tls_ca = '{}'", certificates().join("server-ca.pem").display())
}

const EFFECTS: &[Effect] = &[
    Effect {
        key: "nats.connect_timeout",
        value: || "'100ms'".to_owned(),
        besides: none,
        see: gives_up_soon,
        without: "false",
        with: "true",
    },
    Effect {
        key: "nats.tls",
        value: || "true".to_owned(),
        besides: trusts,
        see: connects_by_tls,
        without: "false",
        with: "true",
    },
    Effect {
        key: "nats.tls_ca",
        value: || format!("'{}'", certificates().join("server-ca.pem").display()),
        besides: || "nats.tls = true".to_owned(),
        see: connects_by_tls,
        without: "false",
        with: "true",
    },
    Effect {
        key: "nats.credentials",
        value: || "'<made for the server>'".to_owned(),
        besides: none,
        see: is_a_user_of_the_operator,
        without: "false",
        with: "true",
    },
    Effect {
        key: "nats.stream",
        value: || "'SHOP'".to_owned(),
        besides: creates,
        see: stores_in_shop,
        without: "false",
        with: "true",
    },
    Effect {
        key: "nats.create_topics",
        value: || "true".to_owned(),
        besides: none,
        see: publishes_anywhere,
        without: "false",
        with: "true",
    },
    Effect {
        key: "nats.storage",
        value: || "'memory'".to_owned(),
        besides: creates,
        see: stores_in,
        without: "File",
        with: "Memory",
    },
    Effect {
        key: "nats.replicas",
        value: || "3".to_owned(),
        besides: creates,
        see: publishes_anywhere,
        without: "true",
        with: "false",
    },
    Effect {
        key: "nats.ack_wait",
        value: || "'7s'".to_owned(),
        besides: creates,
        see: waits_for_acks,
        without: "30s",
        with: "7s",
    },
    Effect {
        key: "nats.double_ack",
        value: || "true".to_owned(),
        besides: creates,
        see: asks_for_an_answer_to_each_ack,
        without: "false",
        with: "true",
    },
    Effect {
        key: "nats.takeover_after",
        value: || "'7s'".to_owned(),
        besides: creates,
        see: leases_for,
        without: "5000",
        with: "7000",
    },
];

#[test]
fn every_key_of_nats_changes_what_it_says() {
    prove("nats.", EFFECTS);
}

fn config(toml: &str, port: u16) -> Config {
    let mut config = Config::from_toml(toml).expect("valid");
    config.url = format!("nats://127.0.0.1:{port}");
    config
}

fn bus(toml: &str, server: &Server) -> Bus {
    keylane::connect_with(config(toml, server.port)).wait().expect("the server takes anybody")
}

/// Whether it gives a server up that says nothing.
fn gives_up_soon(toml: &str) -> String {
    let silent = servers::free_listener();
    let port = silent.local_addr().expect("it is bound").port();
    text(keylane::connect_with(config(toml, port)).wait_timeout(Duration::from_millis(1_500)).is_ok())
}

fn connects_by_tls(toml: &str) -> String {
    let server = with_tls("keys");
    text(keylane::connect_with(config(toml, server.port)).wait().is_ok())
}

fn is_a_user_of_the_operator(toml: &str) -> String {
    let (server, credentials) = with_operator("keys");
    let toml = toml.replace("<made for the server>", &credentials.display().to_string());
    text(keylane::connect_with(config(&toml, server.port)).wait().is_ok())
}

fn stores_in_shop(toml: &str) -> String {
    let server = servers::nats(&[]);
    let bus = bus(toml, &server);
    for topic in ["orders", "payments"] {
        bus.publish(topic, Record::new("x")).wait().expect("it is stored");
    }
    text(bus.publish("orders", Record::new("x")).wait().expect("it is stored").offset() == 3)
}

fn publishes_anywhere(toml: &str) -> String {
    let server = servers::nats(&[]);
    let op = bus(toml, &server).publish("orders", Record::new("x"));
    text(matches!(op.wait_timeout(Duration::from_secs(2)), Ok(Ok(_))))
}

fn stores_in(toml: &str) -> String {
    let server = servers::nats(&[]);
    bus(toml, &server).publish("orders", Record::new("x")).wait().expect("it is stored");
    text(Admin::of(&server).stream("orders").config.storage)
}

fn joined(toml: &str, server: &Server) -> (Bus, keylane::Subscription) {
    let bus = bus(toml, server);
    bus.create_topic("orders").wait().expect("it is created");
    let subscription = bus.subscribe("orders").group("billing").handle(|_| Ok(())).expect("it joins");
    subscription.ready().wait().expect("it joins");
    (bus, subscription)
}

fn waits_for_acks(toml: &str) -> String {
    let server = servers::nats(&[]);
    let _joined = joined(toml, &server);
    text(Admin::of(&server).consumer("orders", "billing").config.ack_wait)
}

fn leases_for(toml: &str) -> String {
    let server = servers::nats(&[]);
    let _joined = joined(toml, &server);
    let mut lease = String::new();
    eventually("it owns the topic", || {
        lease = Admin::of(&server).lease("orders", "billing").unwrap_or_default();
        lease.contains("owner")
    })
    .expect("it does");
    let (_, ms) = lease.rsplit_once(':').expect("the time comes last");
    ms.trim_end_matches('}').to_owned()
}

fn asks_for_an_answer_to_each_ack(toml: &str) -> String {
    let server = servers::nats(&[]);
    let (bus, _subscription) = joined(toml, &server);
    let admin = Admin::of(&server);
    let mut acks = admin.watch_acks("orders");
    (0..20).for_each(|_| drop(bus.publish("orders", Record::new("x")).wait().expect("it is stored")));
    let mut seen = Vec::new();
    eventually("all were acknowledged", || {
        while let Ok(has_reply) = acks.try_recv() {
            seen.push(has_reply);
        }
        seen.len() >= 20
    })
    .expect("it acknowledges");
    let _more = within(Duration::from_millis(50), "", || false);
    text(seen.iter().all(|has_reply| *has_reply))
}
