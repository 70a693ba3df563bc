//! The contest over Kafka: a preloaded topic is consumed from its start to its end by a new group.

mod keylane;
mod lanes;
mod load;
mod raw;
mod ruststream;

use crate::record::Keys;
use crate::work::Work;
use crate::{Run, java};
use load::Topic;
use std::time::Duration;

/// Partitions of each topic.
const PARTITIONS: usize = 8;

/// What a failing record waits for before it is tried again, at first and at last, where that can be said.
const BACKOFF: std::ops::Range<Duration> = Duration::from_millis(1)..Duration::from_millis(10);

/// How librdkafka fetches wherever it can be told, as keylane tells it: what is fetched ahead has a bound in bytes, and
/// a partition whose queue is full rests for 5 ms instead of a second.
const FETCHING: [(&str, &str); 4] = [
    ("isolation.level", "read_committed"),
    ("fetch.queue.backoff.ms", "5"),
    ("queued.max.messages.kbytes", "32768"),
    ("queued.min.messages", "100000"),
];

/// One run's place.
struct Place {
    /// `kafka://host:port`.
    url: String,
    topic: String,
    group: String,
}

impl Place {
    /// As librdkafka and Java take them.
    fn servers(&self) -> &str {
        servers(&self.url)
    }
}

fn servers(url: &str) -> &str {
    url.strip_prefix("kafka://").unwrap_or(url).trim_end_matches('/')
}

fn shape_of(shape: &str) -> Option<(Keys, bool)> {
    Some(match shape {
        "consume" => (Keys::Uniform, false),
        "consume_zipf" => (Keys::Zipf, false),
        "failing" => (Keys::Uniform, true),
        "failing_zipf" => (Keys::Zipf, true),
        _ => return None,
    })
}

/// Runs one variant and prints its line.
pub(crate) fn run(run: &Run) -> Result<(), String> {
    let Run { url, variant, shape, handler_us, .. } = run;
    let (keys, is_failing) = shape_of(shape).ok_or_else(|| {
        format!(
            "there is no shape `{shape}` over Kafka; there are: consume consume_zipf failing failing_zipf"
        )
    })?;
    let records = run.records("kafka");
    let topic = Topic { keys, records };
    topic.ensure(url)?;
    let place = Place { url: url.to_owned(), topic: topic.name(), group: crate::unique(variant) };
    let work = Work::new(records, Duration::from_micros(*handler_us), is_failing);
    let outcome = match &**variant {
        "raw" => raw::run(&place, &work),
        "raw_lanes" => lanes::run(&place, work),
        "keylane" => keylane::run(&place, work),
        "ruststream" => ruststream::run(&place, work, ruststream::Tuning::Default),
        "ruststream_by_key" => ruststream::run(&place, work, ruststream::Tuning::ByKey),
        "ruststream_best" => ruststream::run(&place, work, ruststream::Tuning::Best),
        "parallel_consumer" | "plain_consumer" => {
            let (servers, topic, group) = (place.servers(), &place.topic, &place.group);
            let handler_us = *handler_us;
            let contest = java::Contest { servers, topic, group, shape, handler_us, records, is_failing };
            return java::become_jvm(variant, &contest);
        }
        _ => return Err(format!("there is no variant `{variant}` over Kafka; `brokers list` shows them")),
    }?;
    run.print("kafka", records, outcome);
    Ok(())
}

/// Loads the topic of a run, and builds what it needs.
pub(crate) fn prepare(run: &Run) -> Result<(), String> {
    let Run { url, variant, shape, .. } = run;
    let (keys, _) = shape_of(shape).ok_or_else(|| format!("there is no shape `{shape}` over Kafka"))?;
    if variant.ends_with("_consumer") {
        java::build(variant)?;
    }
    Topic { keys, records: run.records("kafka") }.ensure(url)
}
