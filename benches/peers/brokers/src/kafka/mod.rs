//! The contest over Kafka: a preloaded topic is consumed from its start to its end by a new group.

mod keylane;
mod killed;
mod lanes;
mod load;
mod raw;
mod ruststream;

use crate::record::Keys;
use crate::work::Work;
use crate::{Run, java};
use load::Topic;
use std::sync::Arc;
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

/// What is done with the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    keys: Keys,
    is_failing: bool,
    /// A process is killed in the middle, and a second one goes on.
    is_killed: bool,
    /// The records are published while they are consumed, not before.
    is_paced: bool,
}

impl Shape {
    fn named(name: &str) -> Result<Self, String> {
        let all = Self { keys: Keys::Uniform, is_failing: false, is_killed: false, is_paced: false };
        let zipf = Self { keys: Keys::Zipf, ..all };
        match name {
            "consume" => Ok(all),
            "consume_zipf" => Ok(zipf),
            "failing" => Ok(Self { is_failing: true, ..all }),
            "failing_zipf" => Ok(Self { is_failing: true, ..zipf }),
            "killed" => Ok(Self { is_killed: true, ..zipf }),
            "killed_paced" => Ok(Self { is_killed: true, is_paced: true, ..zipf }),
            _ => Err(format!(
                "there is no shape `{name}` over Kafka; there are: consume consume_zipf failing failing_zipf killed \
                 killed_paced"
            )),
        }
    }
}

/// Runs one variant and prints its line.
pub(crate) fn run(run: &Run) -> Result<(), String> {
    let Run { url, variant, shape, handler_us, .. } = run;
    let Shape { keys, is_failing, is_killed, is_paced } = Shape::named(shape)?;
    let records = run.records("kafka");
    let group = run.dies_in.clone().unwrap_or_else(|| crate::unique(variant));
    let topic = if is_paced {
        format!("peers-{group}")
    } else {
        let topic = Topic { keys, records };
        topic.ensure(url)?;
        topic.name()
    };
    let place = Place { url: url.to_owned(), topic, group };
    let is_first = run.dies_in.is_some();
    let filled =
        (is_paced && !is_first).then(|| killed::fill(url, place.topic.clone(), keys, records)).transpose()?;
    let mut work = Work::new(records, Duration::from_micros(*handler_us), is_failing);
    let mut book = None;
    if is_killed {
        let shared = Arc::new(killed::book(run, keys, records, &place.group)?);
        work = work.written_in(shared.clone());
        book = Some(shared);
    }
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
    if let Some(filled) = filled {
        filled.join().map_err(|_| "the thread that publishes has panicked")??;
    }
    // Of two processes this is the second one, and what it handled is what was measured.
    run.print("kafka", book.map_or(records, |book| book.own()), outcome);
    Ok(())
}

/// Loads the topic of a run, and builds what it needs.
pub(crate) fn prepare(run: &Run) -> Result<(), String> {
    let Run { url, variant, shape, .. } = run;
    let Shape { keys, .. } = Shape::named(shape)?;
    if variant.ends_with("_consumer") {
        java::build(variant)?;
    }
    Topic { keys, records: run.records("kafka") }.ensure(url)
}
