//! The bus on real NATS servers. Each test has servers of its own: one is there in a few milliseconds.

#![allow(unreachable_pub, reason = "the modules of a test program have no public face")]

#[path = "../support/mod.rs"]
mod support;

mod admin;
mod basics;
mod crash;
mod errors;
mod keys;
mod leases;
mod publishes;
mod removed;
mod security;
mod standstill;
mod takeover;
mod waiting;
mod work;

use keylane::{Bus, Config};
use support::servers::{self, Server};

/// A server with these topics in it, each in a stream of its own.
fn server(topics: &[&str]) -> Server {
    let server = servers::nats(&[]);
    let bus = connect(&server, |_| {});
    for topic in topics {
        bus.create_topic(topic).wait().expect("a new server takes a stream");
    }
    bus.close(std::time::Duration::from_secs(60)).wait();
    server
}

/// Logs to the terminal, where somebody wants to see it: `KEYLANE_TEST_LOG=debug`.
fn log() {
    if let Ok(level) = std::env::var("KEYLANE_TEST_LOG") {
        let level: tracing::Level = level.parse().expect("a level");
        let _ = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).try_init();
    }
}

fn connect_to(port: u16, tune: impl FnOnce(&mut Config)) -> Bus {
    log();
    let mut config = Config::default();
    config.url = format!("nats://127.0.0.1:{port}");
    tune(&mut config);
    keylane::connect_with(config).wait().expect("the server takes this client")
}

fn connect(server: &Server, tune: impl FnOnce(&mut Config)) -> Bus {
    connect_to(server.port, tune)
}
