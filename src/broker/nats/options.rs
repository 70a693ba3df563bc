//! How the client connects: addresses, who it is, TLS.

use crate::config::{BusUrl, Credentials, NatsConfig};
use crate::error::{ConfigError, ConnectError, Origin, shown_path};
use async_nats::{ConnectOptions, ServerAddr};
use std::time::Duration;

/// A server that is gone is tried again after at most this long.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A connection that is dead without an end is noticed after two of these.
const PING: Duration = Duration::from_secs(10);
/// The commands that the client takes before it has written any.
const COMMANDS: usize = 8_192;
/// Messages that a subscription holds before its reader has seen any. What is asked for is bounded far below.
const MESSAGES: usize = 1 << 18;

/// The addresses as errors name them.
pub(super) fn addresses(url: &BusUrl) -> String {
    let hosts: Vec<String> = url.hosts().iter().map(ToString::to_string).collect();
    hosts.join(", ")
}

pub(super) fn servers(url: &BusUrl, is_tls: bool) -> Result<Vec<ServerAddr>, ConnectError> {
    let scheme = if is_tls { "tls" } else { "nats" };
    let server = |host| format!("{scheme}://{host}").parse();
    url.hosts()
        .iter()
        .map(server)
        .collect::<Result<_, _>>()
        .map_err(|error: std::io::Error| refused(url, error.to_string()))
}

pub(super) fn refused(url: &BusUrl, reason: impl Into<String>) -> ConnectError {
    ConnectError::Refused { system: "nats", addresses: addresses(url), reason: reason.into() }
}

/// Everything but what happens on events. Reads the files that the configuration names.
pub(super) fn options(url: &BusUrl, config: &NatsConfig) -> Result<ConnectOptions, ConnectError> {
    let mut options = ConnectOptions::new()
        .name("keylane")
        .connection_timeout(config.connect_timeout)
        .request_timeout(Some(config.connect_timeout))
        .max_reconnects(None)
        .reconnect_delay_callback(pause)
        .ping_interval(PING)
        .client_capacity(COMMANDS)
        .subscription_capacity(MESSAGES)
        .read_buffer_capacity(u16::MAX)
        // All are made here, out of names that were checked, or come from the server.
        .skip_subject_validation(true);
    match url.credentials() {
        Some(Credentials::Password { user, password }) => {
            options = options.user_and_password(user.clone(), password.expose().to_owned());
        }
        Some(Credentials::Token(token)) => options = options.token(token.expose().to_owned()),
        None => {}
    }
    if !config.credentials.is_empty() {
        // The file holds a secret: an error names the file and nothing of what is in it.
        let text = read("nats.credentials", &config.credentials)?;
        options = options.credentials(&text).map_err(|_| {
            let problem = "holds no JWT and seed".to_owned();
            unusable(
                "nats.credentials",
                &config.credentials,
                problem,
                "a file as `nsc generate creds` writes it",
            )
        })?;
    }
    if config.tls {
        options = options.require_tls(true);
        if !config.tls_ca.is_empty() {
            read("nats.tls_ca", &config.tls_ca)?;
            options = options.add_root_certificates(config.tls_ca.clone().into());
        }
    }
    Ok(options)
}

fn read(key: &'static str, path: &str) -> Result<String, ConnectError> {
    std::fs::read_to_string(path)
        .map_err(|error| unusable(key, path, format!("can't be read: {error}"), "the path of a file of text"))
}

fn unusable(key: &'static str, path: &str, problem: String, expected: &str) -> ConnectError {
    let value = shown_path(path);
    let expected = expected.to_owned();
    ConfigError::Value { key, value, origin: Origin::Code, problem, expected }.into()
}

/// Before the next try: none at first, then longer, so that a server that restarts is found soon and one that is away
/// is left alone.
fn pause(tries: usize) -> Duration {
    let doublings = tries.saturating_sub(1).min(8) as u32;
    if tries <= 1 {
        Duration::ZERO
    } else {
        (Duration::from_millis(5) * 2_u32.pow(doublings)).min(LONGEST_PAUSE)
    }
}
