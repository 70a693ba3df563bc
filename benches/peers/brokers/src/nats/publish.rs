//! Publishes with acknowledgement. What was stored is read back and checked when the clock has stopped.

use super::IN_FLIGHT;
use super::streams::{Message, Stream, TIME, id, runtime};
use crate::Outcome;
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt as _, poll};
use keylane::Record;
use measure::{Cost, Measured, Meter, version_of};
use ruststream::{Broker as _, HeaderMap, OutgoingMessage};
use ruststream_nats::{JetStreamOptions, JetStreamPublish, NatsBroker};
use std::task::Poll;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::task::unconstrained;

type Error = Box<dyn std::error::Error + Send + Sync>;

pub(super) fn run(url: &str, variant: &str, records: u64) -> Result<Outcome, String> {
    let runtime = runtime()?;
    let stream = Stream::fresh(records);
    runtime.block_on(stream.create(url)).map_err(|error| error.to_string())?;
    let published = match variant {
        "raw" => runtime.block_on(stream.fill(url, false)),
        "ruststream" => runtime.block_on(ruststream(url, &stream)),
        "keylane" => keylane(url, &stream),
        _ => Err(format!("`{variant}` does not publish; those that do: raw ruststream keylane").into()),
    };
    outcome(&runtime, url, variant, &stream, published).map_err(|error| error.to_string())
}

fn outcome(
    runtime: &Runtime,
    url: &str,
    variant: &str,
    stream: &Stream,
    published: Result<Cost, Error>,
) -> Result<Outcome, Error> {
    // Removes the stream, also after a failure.
    let tally = runtime.block_on(stream.checked(url));
    let (cost, tally) = (published?, tally?);
    let (how, version) = match variant {
        "raw" => ("Context::publish_with_headers on one thread", version_of("async-nats")),
        "ruststream" => (
            "JetStreamPublisher::publish_ack on one thread, each polled at once, so that it is sent in its turn; on \
             another version of async-nats",
            format!("{}, {}", version_of("ruststream"), version_of("ruststream-nats")),
        ),
        _ => (
            "Bus::publish from a thread without a runtime; the client is on a thread of keylane's",
            version_of("keylane"),
        ),
    };
    Ok(Outcome {
        measured: Measured { cost, tally, ..Measured::default() },
        workers: 1,
        settings: format!(
            "{how}; each publish acknowledged, {IN_FLIGHT} in flight, 100 bytes, an id against duplicates and a time \
             as headers; order is that of the stream, read back"
        ),
        version,
    })
}

async fn ruststream(url: &str, stream: &Stream) -> Result<Cost, Error> {
    let broker = NatsBroker::new(url).connect().await?;
    let publisher = broker.publisher(JetStreamPublish::default());
    let mut in_flight = FuturesUnordered::new();
    let meter = Meter::start();
    for (n, Message { key, value }) in stream.messages().enumerate() {
        let subject = format!("{}.{key}", stream.name);
        let publisher = &publisher;
        let mut stored = Box::pin(unconstrained(async move {
            let mut headers = HeaderMap::new();
            headers.insert(TIME.0, TIME.1);
            let message = OutgoingMessage::new(&subject, value.as_bytes()).with_headers(headers);
            let options = JetStreamOptions { message_id: Some(id(n)), ..JetStreamOptions::default() };
            publisher.publish_ack(message, Some(&options)).await
        }));
        // Nothing is sent before it is polled, those in flight are polled in no order, and a task that has used up its
        // budget would send nothing when it is polled.
        match poll!(&mut stored) {
            Poll::Ready(stored) => drop(stored?),
            Poll::Pending => in_flight.push(stored),
        }
        if in_flight.len() >= IN_FLIGHT {
            in_flight.next().await.transpose()?;
        }
    }
    while let Some(stored) = in_flight.next().await {
        stored?;
    }
    Ok(meter.stop())
}

fn keylane(url: &str, stream: &Stream) -> Result<Cost, Error> {
    let bus = Stream::bus(url, IN_FLIGHT)?;
    let mut in_flight = std::collections::VecDeque::new();
    let meter = Meter::start();
    for Message { key, value } in stream.messages() {
        let record = Record::new(value).with_key(key);
        in_flight.push_back(bus.publish(&stream.name, record));
        if in_flight.len() >= IN_FLIGHT {
            in_flight.pop_front().map(keylane::Op::wait).transpose()?;
        }
    }
    for stored in in_flight {
        stored.wait()?;
    }
    let cost = meter.stop();
    bus.close(Duration::from_secs(10)).wait();
    Ok(cost)
}
