//! What can be done wrong on JetStream.

use super::Planted;
use crate::child::Leave;
use crate::history::{Entry, Log};
use crate::target::STREAM;
use crate::work::id_of;
use async_nats::jetstream::{self, consumer::pull};
use futures_util::StreamExt;
use std::time::Duration;

pub(super) fn ack_first(planted: &Planted, log: &Log, leave: &Leave) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("tokio starts");
    runtime.block_on(consume(planted, log, leave)).expect("nats-server answers");
}

async fn consume(planted: &Planted, log: &Log, leave: &Leave) -> Result<(), async_nats::Error> {
    let client = async_nats::connect(format!("nats://{}", planted.address)).await?;
    let stream = jetstream::new(client).get_stream(STREAM).await?;
    let config = pull::Config {
        durable_name: Some("planted".to_owned()),
        filter_subject: format!("{}.*", planted.topic),
        ..pull::Config::default()
    };
    let consumer = stream.get_or_create_consumer("planted", config).await?;
    while !leave.is_asked() {
        let mut batch =
            consumer.batch().max_messages(20).expires(Duration::from_millis(200)).messages().await?;
        let mut messages = Vec::new();
        while let Some(message) = batch.next().await {
            let message = message?;
            message.double_ack().await?;
            messages.push(message);
        }
        for message in messages {
            let id = id_of(&message.payload);
            log.append(Entry::Start(id, 1));
            tokio::time::sleep(planted.work.takes(id)).await;
            log.append(Entry::Done(id));
        }
    }
    Ok(())
}
