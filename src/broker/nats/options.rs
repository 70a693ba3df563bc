//! How the client connects: addresses, who it is, TLS.

use crate::config::{BusUrl, Credentials, NatsConfig};
use crate::error::ConnectError;
use async_nats::{ConnectOptions, ServerAddr};
use std::path::Path;
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
        .map_err(|error: std::io::Error| refused(url, error))
}

pub(super) fn refused(url: &BusUrl, reason: impl ToString) -> ConnectError {
    ConnectError::Refused { system: "nats", addresses: addresses(url), reason: reason.to_string() }
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
        .read_buffer_capacity(u16::MAX);
    match url.credentials() {
        Some(Credentials::Password { user, password }) => {
            options = options.user_and_password(user.clone(), password.expose().to_owned());
        }
        Some(Credentials::Token(token)) => options = options.token(token.expose().to_owned()),
        None => {}
    }
    if !config.credentials.is_empty() {
        // The file holds a secret: an error names the file and nothing of what is in it.
        let unusable = |problem: &str| {
            let path = &config.credentials;
            refused(url, format!("the credentials file `{path}` of `nats.credentials` {problem}"))
        };
        let text = std::fs::read_to_string(&config.credentials)
            .map_err(|error| unusable(&format!("can't be read: {error}")))?;
        options = options
            .credentials(&text)
            .map_err(|_| unusable("holds no JWT and seed, as `nsc generate creds` writes them"))?;
    }
    if config.tls {
        options = options.require_tls(true);
        if !config.tls_ca.is_empty() {
            let path = Path::new(&config.tls_ca);
            std::fs::metadata(path).map_err(|error| {
                refused(url, format!("the file `{}` of `nats.tls_ca` can't be read: {error}", path.display()))
            })?;
            options = options.add_root_certificates(path.to_owned());
        }
    }
    Ok(options)
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
