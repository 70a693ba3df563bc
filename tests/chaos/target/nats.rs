//! JetStream, by its client library alone.

use super::Held;
use crate::clock::of_wall;
use crate::history::{Id, Place};
use crate::work::{bytes, id_of};
use async_nats::jetstream::{self, consumer::pull};
use futures_util::StreamExt;
use std::time::Duration;

/// The one stream of a run.
pub const STREAM: &str = "CHAOS";

fn block_on<T>(future: impl Future<Output = Result<T, async_nats::Error>>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("tokio starts");
    runtime.block_on(future).expect("JetStream answers")
}

async fn jetstream(address: &str) -> Result<jetstream::Context, async_nats::Error> {
    Ok(jetstream::new(async_nats::connect(format!("nats://{address}")).await?))
}

pub(super) fn create(address: &str, topic: &str, dead: &str) {
    block_on(async {
        let config = jetstream::stream::Config {
            name: STREAM.to_owned(),
            subjects: [topic, dead].map(|topic| format!("{topic}.*")).to_vec(),
            ..jetstream::stream::Config::default()
        };
        jetstream(address).await?.create_stream(config).await?;
        Ok(())
    });
}

pub(super) fn load(address: &str, topic: &str, ids: impl Iterator<Item = Id>) {
    block_on(async {
        let jetstream = jetstream(address).await?;
        let mut acks = Vec::new();
        for id in ids {
            acks.push(jetstream.publish(format!("{topic}.{}", id.key), bytes(id).into()).await?);
        }
        for ack in acks {
            ack.await?;
        }
        Ok(())
    });
}

pub(super) fn read(address: &str, topic: &str) -> Vec<Held> {
    block_on(all(address, topic))
}

async fn all(address: &str, topic: &str) -> Result<Vec<Held>, async_nats::Error> {
    let stream = jetstream(address).await?.get_stream(STREAM).await?;
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
