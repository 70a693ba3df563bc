//! JetStream, by its client library alone.

use super::Held;
use crate::clock::of_wall;
use crate::history::Place;
use crate::work::id_of;
use async_nats::jetstream::{self, consumer::pull};
use futures_util::StreamExt;
use std::time::Duration;

/// The one stream of a run.
pub const STREAM: &str = "CHAOS";

pub(super) fn read(address: &str, topic: &str) -> Vec<Held> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("tokio starts");
    runtime.block_on(all(address, topic)).unwrap_or_else(|error| panic!("{topic} could not be read: {error}"))
}

async fn all(address: &str, topic: &str) -> Result<Vec<Held>, async_nats::Error> {
    let client = async_nats::connect(format!("nats://{address}")).await?;
    let stream = jetstream::new(client).get_stream(STREAM).await?;
    let config = pull::Config {
        filter_subject: format!("{topic}.*"),
        ack_policy: jetstream::consumer::AckPolicy::None,
        inactive_threshold: Duration::from_secs(60),
        ..pull::Config::default()
    };
    let consumer = stream.create_consumer(config).await?;
    let total = consumer.cached_info().num_pending as usize;
    let mut held = Vec::with_capacity(total);
    while held.len() < total {
        let mut batch = consumer.fetch().max_messages(1_000).messages().await?;
        while let Some(message) = batch.next().await {
            let message = message?;
            let info = message.info()?;
            held.push(Held {
                id: id_of(&message.payload),
                place: Place { partition: 0, offset: info.stream_sequence },
                time: of_wall(Duration::from_nanos(info.published.unix_timestamp_nanos() as u64)),
            });
        }
    }
    Ok(held)
}
