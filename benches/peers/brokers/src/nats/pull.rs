//! A preloaded stream, pulled by a new durable consumer and acknowledged one by one.

use super::server;
use super::streams::{Stream, runtime};
use crate::Outcome;
use crate::record::Mark;
use crate::ruststream::{Body, RUNTIME_THREADS, serve};
use crate::timers::Timers;
use crate::work::{STALLED, Work};
use async_nats::jetstream::{self, consumer};
use futures_util::StreamExt as _;
use measure::version_of;
use ruststream::runtime::{AppInfo, RustStream, SubscriberSettings as _, subscriber};
use ruststream_nats::{JetStreamSubject, NatsBroker};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

type Error = Box<dyn std::error::Error + Send + Sync>;

const WORKERS: usize = 2;
/// What may be with the consumer unacknowledged: what keylane has in flight by default, and what it fetches ahead.
const ACK_PENDING: i64 = 4_096 + 1_024;
/// The same where handlers wait.
const IN_FLIGHT_WAITING: usize = 16_384;
const ACK_PENDING_WAITING: i64 = 16_384 + 1_024;
const PIN_GROUP: &str = "active";
const PIN_TIMEOUT: Duration = Duration::from_secs(5);
/// As over Kafka.
const LANES: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();

pub(super) fn run(url: &str, variant: &str, stream: &Stream, work: Work) -> Result<Outcome, String> {
    let group = crate::unique(variant);
    match variant {
        "raw" => runtime()?.block_on(raw(url, stream, &group, &work, false)),
        "raw_pinned" => runtime()?.block_on(raw(url, stream, &group, &work, true)),
        "keylane" => keylane(url, stream, &group, work),
        "ruststream" => ruststream(url, stream, &group, work, false),
        "ruststream_best" => ruststream(url, stream, &group, work, true),
        _ => Err(format!("there is no variant `{variant}` over NATS; `brokers list` shows them").into()),
    }
    .map_err(|error| error.to_string())
}

/// `is_pinned`: as keylane asks for it, so that one instance of a group is active and another takes over.
async fn raw(
    url: &str,
    stream: &Stream,
    group: &str,
    work: &Work,
    is_pinned: bool,
) -> Result<Outcome, Error> {
    let client = async_nats::connect(server(url)).await?;
    let mut config = consumer::pull::Config {
        durable_name: Some(group.to_owned()),
        filter_subject: stream.subjects(),
        max_ack_pending: ACK_PENDING,
        ..consumer::pull::Config::default()
    };
    if is_pinned {
        config.priority_policy = consumer::PriorityPolicy::PinnedClient;
        config.priority_groups = vec![PIN_GROUP.to_owned()];
        config.priority_timeout = PIN_TIMEOUT;
    }
    let consumer =
        jetstream::new(client.clone()).get_stream(&stream.name).await?.create_consumer(config).await?;
    let pulls = consumer.stream().max_messages_per_batch(1_024);
    let pulls = if is_pinned { pulls.group(PIN_GROUP) } else { pulls };
    let mut messages = pulls.messages().await?;
    let mut in_vain = Duration::ZERO;
    for _ in 0..work.records() {
        let Ok(Some(message)) = tokio::time::timeout(STALLED, messages.next()).await else {
            in_vain = STALLED;
            break;
        };
        let message = message?;
        work.by_tokio(Mark::read(&message.payload)).await.expect("nothing fails here");
        message.ack().await?;
    }
    client.flush().await?;
    Ok(Outcome {
        measured: work.measured(in_vain)?,
        workers: 1,
        settings: format!(
            "pull consumer{}, max_ack_pending {ACK_PENDING}, 1024 a pull, one thread, one message after the other, \
             nothing handed over; up to a flush behind the last acknowledgement",
            if is_pinned { ", pinned to one client" } else { "" }
        ),
        version: version_of("async-nats"),
    })
}

fn keylane(url: &str, stream: &Stream, group: &str, work: Work) -> Result<Outcome, Error> {
    let bus = Stream::bus(url, super::IN_FLIGHT)?;
    let work = Arc::new(work);
    let shared = work.clone();
    let builder = bus.subscribe(&stream.name).group(group).workers(WORKERS);
    let timers = Timers::start()?;
    let is_waiting = !work.takes().is_zero();
    let subscription = if is_waiting {
        builder.in_flight_records(IN_FLIGHT_WAITING).enter(timers.enter()).handle_async(move |event| {
            let work = shared.clone();
            async move {
                work.by_tokio(Mark::read(event.value())).await.expect("nothing fails here");
                Ok(())
            }
        })
    } else {
        builder.handle(move |event| {
            shared.at_once(Mark::read(event.value())).expect("nothing fails here");
            Ok(())
        })
    }?;
    let in_vain = work.wait();
    subscription.drain(Duration::from_secs(10)).wait();
    let measured = work.measured(in_vain)?;
    bus.close(Duration::from_secs(10)).wait();
    let handler = if is_waiting {
        format!("async handlers with tokio's timers, in_flight_records {IN_FLIGHT_WAITING}")
    } else {
        "handlers that wait for nothing".to_owned()
    };
    Ok(Outcome {
        measured,
        workers: WORKERS,
        settings: format!(
            "subscribe, {handler}, else defaults; up to the end of a drain, which waits for the acknowledgements to \
             be taken in"
        ),
        version: version_of("keylane"),
    })
}

fn ruststream(url: &str, stream: &Stream, group: &str, work: Work, is_best: bool) -> Result<Outcome, Error> {
    let is_waiting = !work.takes().is_zero();
    let work = Arc::new(work);
    let mut source = JetStreamSubject::new(stream.subjects(), &*stream.name).durable(group);
    let pending = if is_waiting { ACK_PENDING_WAITING } else { ACK_PENDING };
    if is_best {
        source = source.max_ack_pending(pending);
    }
    let lanes = (is_best && is_waiting).then_some(LANES);
    let app = RustStream::new(AppInfo::new("contest", "0.0.0")).with_broker(NatsBroker::new(url), |broker| {
        let definition = subscriber(source, Body(work.clone()));
        match lanes {
            None => drop(broker.include(definition.build())),
            Some(lanes) => drop(broker.include(definition.workers_by_key(lanes).build())),
        }
    });
    let measured = serve(app, &work)?;
    let pending = if is_best { format!("max_ack_pending {pending}") } else { "defaults".to_owned() };
    let dispatch = lanes.map_or_else(
        || "one delivery at a time, in the order of the stream".to_owned(),
        |lanes| format!("workers({lanes}, by_key), the key by header"),
    );
    Ok(Outcome {
        measured,
        workers: lanes.map_or(1, NonZeroUsize::get),
        settings: format!(
            "{pending}, {dispatch}; tokio with {RUNTIME_THREADS} threads; the handler takes bytes; up to the end of \
             the last handler; on another version of async-nats"
        ),
        version: format!("{}, {}", version_of("ruststream"), version_of("ruststream-nats")),
    })
}
