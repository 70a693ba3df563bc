//! Why there is no connection: what, where, why and what to do, at once where waiting does not help.

use crate::cluster::{config, shared};
use crate::security::{authority, secured, url_with_user};
use crate::support::servers::proxy::{Protocol, Proxy};
use crate::support::servers::{self, lease_listener};
use crate::support::{capture_log, eventually, logged};
use keylane::{Config, ConnectError};
use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

/// The connect limit of those that should not need it.
const LIMIT: Duration = Duration::from_secs(60);
const AT_ONCE: Duration = Duration::from_secs(12);

fn failed(config: Config, parts: &[&str]) -> (ConnectError, Duration) {
    let since = Instant::now();
    let error = keylane::connect_with(config).wait().expect_err("it must not connect");
    let text = error.to_string();
    assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    (error, since.elapsed())
}

/// Fails long before the limit.
fn refused(mut config: Config, parts: &[&str]) {
    config.kafka.connect_timeout = LIMIT;
    let (error, after) = failed(config, parts);
    assert!(matches!(error, ConnectError::Refused { .. }), "{error}");
    assert!(after < AT_ONCE, "after {after:?}: {error}");
}

/// Fails at the limit, and said why long before.
fn unreachable(mut config: Config, parts: &[&str]) {
    capture_log();
    config.kafka.connect_timeout = Duration::from_secs(3);
    let (error, after) = failed(config, parts);
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
    assert!(after >= Duration::from_secs(3), "after {after:?}: {error}");
    let line = [&["WARN", "no broker answers yet"], parts].concat();
    assert!(logged(&line) > 0, "it was not said: {error}");
}

#[test]
fn a_host_that_nobody_knows_is_named() {
    let mut config = config(9092, 1);
    config.url = "kafka://no-such-host.invalid:9092".to_owned();
    unreachable(config, &["resolve 'no-such-host.invalid:9092'", "check it in the URL"]);
}

#[test]
fn a_port_where_nobody_listens_is_named() {
    let port = servers::free_port();
    let address = format!("127.0.0.1:{port}");
    unreachable(config(port, 1), &[&address, "Connection refused", "is the broker running"]);
}

#[test]
fn a_broker_that_is_just_starting_is_waited_for() {
    capture_log();
    let port = servers::free_port();
    let connecting = std::thread::spawn(move || {
        let mut config = config(port, 1);
        config.kafka.connect_timeout = LIMIT;
        keylane::connect_with(config).wait()
    });
    let address = format!("127.0.0.1:{port}");
    eventually("it is said why", || logged(&["WARN", "no broker answers yet", &address, "refused"]) > 0)
        .unwrap();
    let _proxy = Proxy::start(port, shared().port, Protocol::Kafka);
    connecting.join().unwrap().expect("it answers now");
}

#[test]
fn tls_on_a_listener_without_is_told_at_once() {
    let mut config = config(shared().port, 1);
    config.kafka.tls = true;
    config.kafka.tls_ca = authority("server").display().to_string();
    refused(config, &["127.0.0.1", "speak no TLS", "`kafka.tls`"]);
}

#[test]
fn no_tls_on_a_listener_with_it_is_told_at_once() {
    refused(config(secured().tls, 1), &["127.0.0.1", "`kafka.tls = true`"]);
}

#[test]
fn another_protocol_is_told_at_once() {
    let listener = servers::free_listener();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let _ = client.read(&mut [0; 64]);
            let _ = client.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
        }
    });
    refused(config(port, 1), &[&format!("127.0.0.1:{port}"), "no Kafka broker"]);
}

#[test]
fn a_user_that_is_missing_is_told_at_once() {
    refused(config(secured().scram, 1), &["127.0.0.1", "user and a password"]);
}

#[test]
fn a_user_where_none_is_wanted_is_told_at_once() {
    let mut config = config(shared().port, 1);
    config.url = url_with_user(shared().port);
    refused(config, &["127.0.0.1", "takes no user"]);
}

#[test]
fn a_broker_that_sends_its_clients_where_nobody_is_is_told_at_once() {
    // Nobody listens where this listener says that it is.
    let lease = lease_listener();
    let address = format!("127.0.0.1:{}", lease.advertised);
    refused(config(lease.port, 1), &[&address, "`advertised.listeners`"]);
}
