//! Whether there is a connection, and which one: what was sent over an earlier one may be lost.

use super::denied::{Denial, Denied};
use crate::foreign;
use async_nats::{Event, ServerError};
use std::time::Instant;
use tokio::sync::watch;

/// The connection, as its events tell of it.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) is_up: bool,
    /// Counts the connections.
    pub(super) number: u64,
    /// What was wrong last, while it is not up.
    pub(super) problem: String,
    since: Instant,
}

impl Link {
    /// The first connection, which is there.
    pub(super) fn first() -> watch::Sender<Self> {
        watch::Sender::new(Self { is_up: true, number: 1, problem: String::new(), since: Instant::now() })
    }

    /// Takes note of an event of the client's, and says when a connection begins and ends.
    pub(super) fn heard(link: &watch::Sender<Self>, denied: &Denied, addresses: &str, event: &Event) {
        match event {
            Event::Connected => {
                denied.connected();
                link.send_if_modified(|link| {
                    if link.is_up {
                        return false;
                    }
                    foreign::info!(addresses, after = ?link.since.elapsed(), "connected to NATS again");
                    *link = Self {
                        is_up: true,
                        number: link.number + 1,
                        problem: String::new(),
                        since: Instant::now(),
                    };
                    true
                });
            }
            Event::Disconnected => {
                link.send_if_modified(|link| {
                    if !link.is_up {
                        return false;
                    }
                    foreign::warn!(
                        addresses,
                        "the connection to NATS was lost; connecting until there is one again"
                    );
                    let problem = format!("not connected to NATS at {addresses}; connecting again");
                    (link.is_up, link.problem, link.since) = (false, problem, Instant::now());
                    true
                });
            }
            Event::ClientError(error) => {
                link.send_if_modified(|link| {
                    if !link.is_up {
                        link.problem =
                            format!("not connected to NATS at {addresses}: {error}; connecting again");
                    }
                    !link.is_up
                });
            }
            Event::ServerError(error) => {
                let denial = match error {
                    ServerError::Other(text) => Denial::of(text),
                    _ => None,
                };
                match denial {
                    Some(denial) if denied.heard(denial.clone(), Instant::now()) => {
                        foreign::warn!(addresses, %denial, "NATS does not permit something");
                    }
                    Some(_) => {}
                    None => foreign::warn!(addresses, %error, "NATS reports an error"),
                }
            }
            Event::SlowConsumer(_) => foreign::warn!(
                addresses,
                "more messages came from NATS than were asked for; what was dropped is asked for again"
            ),
            Event::LameDuckMode => foreign::info!(addresses, "the NATS server is about to stop"),
            Event::Draining | Event::Closed => {}
        }
    }
}
