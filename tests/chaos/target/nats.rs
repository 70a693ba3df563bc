//! JetStream, by its client library alone.

use super::Held;
use crate::clock::of_wall;
use crate::history::{Id, Place};
use crate::work::{bytes, id_of};
use async_nats::jetstream::{self, consumer::pull};
use futures_util::StreamExt;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// The one stream of a run.
pub const STREAM: &str = "CHAOS";

const LIMIT: Duration = Duration::from_secs(60);

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("tokio starts")
}

/// Asks until there is an answer: a server that was just started, or waits for its disk, may need a moment.
fn answer<T>(mut ask: impl AsyncFnMut() -> Result<T, async_nats::Error>) -> T {
    let (runtime, until) = (runtime(), Instant::now() + LIMIT);
    loop {
        match runtime.block_on(ask()) {
            Ok(answer) => return answer,
            Err(error) => assert!(Instant::now() < until, "JetStream does not answer: {error}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

async fn jetstream(address: &str) -> Result<jetstream::Context, async_nats::Error> {
    Ok(jetstream::new(async_nats::connect(format!("nats://{address}")).await?))
}

pub(super) fn create(address: &str, topic: &str, dead: &str) {
    answer(async || {
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
    let loaded: Result<(), async_nats::Error> = runtime().block_on(async {
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
    loaded.expect("JetStream stores");
}

pub(super) fn read(address: &str, topic: &str) -> Vec<Held> {
    answer(async || all(address, topic).await)
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
