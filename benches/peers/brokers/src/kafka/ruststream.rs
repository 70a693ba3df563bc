//! RustStream over its crate for Kafka.

use super::{FETCHING, Place};
use crate::Outcome;
use crate::ruststream::{Body, RUNTIME_THREADS, serve};
use crate::work::Work;
use measure::version_of;
use ruststream::runtime::{AppInfo, RustStream, SubscriberSettings as _, subscriber};
use ruststream_rdkafka::{Commit, KafkaBroker, KafkaTopic, LaneKey, StartOffset};
use std::num::NonZeroUsize;
use std::sync::Arc;

/// How a subscription is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tuning {
    /// As one writes it first: a topic and a handler.
    Default,
    /// The best that was found for handlers of this length.
    Best,
    /// The same with lanes by key, also where one delivery after the other is faster.
    ByKey,
}

/// Lanes for handlers that wait. A lane takes one delivery in hand and one behind it, and a third makes the whole
/// subscription wait: of 1,024, 4,096, 16,384 and 65,536 lanes the last two had the most handlers running, 92 and 96.
const WAITING_LANES: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();
/// As many as keylane has workers.
const BUSY_LANES: NonZeroUsize = NonZeroUsize::new(2).unwrap();

pub(super) fn run(place: &Place, work: Work, tuning: Tuning) -> Result<Outcome, String> {
    let is_waiting = !work.takes().is_zero();
    let work = Arc::new(work);
    let mut topic = KafkaTopic::new(&place.topic)
        .group(&place.group)
        .start(StartOffset::Earliest)
        .lane_key(LaneKey::RecordKey);
    if tuning != Tuning::Default {
        topic = topic.commit(Commit::Tracked);
        for (name, value) in FETCHING {
            topic = topic.config(name, value);
        }
    }
    let lanes = match tuning {
        Tuning::ByKey => Some(BUSY_LANES),
        Tuning::Best if is_waiting => Some(WAITING_LANES),
        Tuning::Best | Tuning::Default => None,
    };
    let app = RustStream::new(AppInfo::new("contest", "0.0.0")).with_broker(
        KafkaBroker::new([place.servers()]),
        |broker| {
            let definition = subscriber(topic, Body(work.clone()));
            match lanes {
                None => drop(broker.include(definition.build())),
                Some(lanes) => drop(broker.include(definition.workers_by_key(lanes).build())),
            }
        },
    );
    let measured = serve(app, &work)?;
    let (commits, fetching) = match tuning {
        Tuning::Default => ("Commit::Auto, librdkafka's defaults for fetching", String::new()),
        _ => ("Commit::Tracked", format!(", {FETCHING:?}")),
    };
    let workers = lanes.map_or_else(
        || "one delivery at a time, in the order of the stream".to_owned(),
        |lanes| format!("LaneKey::RecordKey, workers({lanes}, by_key)"),
    );
    Ok(Outcome {
        measured,
        workers: lanes.map_or(1, NonZeroUsize::get),
        settings: format!(
            "{commits}{fetching}; {workers}; tokio with {RUNTIME_THREADS} threads; the handler takes bytes and reads \
             them by Envelope::parse, and headers, as keylane does; a failed record is answered with HandlerOutcome::retry()"
        ),
        version: format!("{}, {}", version_of("ruststream"), version_of("ruststream-rdkafka")),
    })
}
