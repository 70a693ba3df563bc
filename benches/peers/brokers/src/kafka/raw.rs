//! A loop over librdkafka, as one writes it first: one record after the other on one thread.

use super::{FETCHING, Place};
use crate::Outcome;
use crate::record::Mark;
use crate::work::{JOINING, STALLED, Work};
use keylane::Envelope;
use measure::version_of;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::{ClientConfig, error::KafkaError};
use std::hint::black_box;
use std::time::{Duration, Instant};

pub(super) fn run(place: &Place, work: &Work) -> Result<Outcome, String> {
    let in_vain = consume(place, work).map_err(|error| error.to_string())?;
    Ok(Outcome {
        measured: work.measured(in_vain)?,
        workers: 1,
        settings: format!(
            "BaseConsumer::poll, one thread, one record after the other, {FETCHING:?}; Envelope::parse and headers as \
             keylane reads them; commits nothing, hands nothing over; a failed record is tried again in place after \
             {:?}",
            super::BACKOFF.start
        ),
        version: version_of("rdkafka"),
    })
}

/// What both hand-written variants tell librdkafka.
pub(super) fn client(place: &Place) -> ClientConfig {
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", place.servers())
        .set("group.id", &place.group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest");
    for (name, value) in FETCHING {
        client.set(name, value);
    }
    client
}

/// For how long nothing came at the end.
fn consume(place: &Place, work: &Work) -> Result<Duration, KafkaError> {
    let consumer: BaseConsumer = client(place).create()?;
    consumer.subscribe(&[&place.topic])?;
    let (mut count, mut last, mut in_vain) = (0, Instant::now(), Duration::ZERO);
    while count < work.records() {
        match consumer.poll(Duration::from_millis(100)) {
            Some(message) => {
                let mark = decode(&message?);
                // In place: nothing overtakes it.
                while work.blocking(mark).is_err() {
                    std::thread::sleep(super::BACKOFF.start);
                }
                count += 1;
                if count % 1_024 == 0 {
                    last = Instant::now();
                }
            }
            None if last.elapsed() > if count == 0 { JOINING } else { STALLED } => {
                in_vain = last.elapsed();
                break;
            }
            None => {}
        }
    }
    Ok(in_vain)
}

/// Reads a record as deeply as keylane does: the Envelope is checked, headers are looked at.
#[inline]
pub(super) fn decode(message: &BorrowedMessage<'_>) -> Mark {
    let envelope =
        Envelope::parse(message.payload().unwrap_or_default()).expect("the load is valid Envelopes");
    let mark = Mark::read(envelope.payload().as_bytes());
    if let Some(headers) = message.headers() {
        black_box(headers.iter().map(|header| header.key.len()).sum::<usize>());
    }
    black_box(envelope.aggregate_id());
    mark
}
