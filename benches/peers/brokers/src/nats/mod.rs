//! The contest over NATS JetStream: publishes with acknowledgement, and a preloaded stream that is pulled and
//! acknowledged one by one.

mod publish;
mod pull;
mod streams;

use crate::work::Work;
use crate::{Outcome, plan};
use measure::{Line, Run};
use std::time::Duration;
use streams::Stream;

/// Publishes that are not acknowledged yet.
const IN_FLIGHT: usize = 512;

fn server(url: &str) -> &str {
    url.strip_prefix("nats://").unwrap_or(url).trim_end_matches('/')
}

/// Runs one variant and prints its line.
pub(crate) fn run(
    url: &str,
    variant: &str,
    shape: &str,
    handler_us: u64,
    records: Option<u64>,
) -> Result<(), String> {
    let records = records.unwrap_or_else(|| plan::records("nats", variant, shape, handler_us));
    let Outcome { measured, workers, settings, version } = match shape {
        "publish" => publish::run(url, variant, records),
        "pull" => {
            let stream = Stream::preloaded(records);
            stream.ensure(url)?;
            let work = Work::new(records, Duration::from_micros(handler_us), false);
            pull::run(url, variant, &stream, work)
        }
        _ => Err(format!("there is no shape `{shape}` over NATS; there are: publish pull")),
    }?;
    let (shape, variant) = (shape.to_owned(), variant.to_owned());
    let (contest, producers, n) = ("nats", 1, records);
    Line::new(
        Run { contest, shape, variant, producers, workers, n, handler_us, settings, version },
        &measured,
    )
    .print();
    Ok(())
}

/// Loads the stream of a run that needs one.
pub(crate) fn prepare(
    url: &str,
    variant: &str,
    shape: &str,
    handler_us: u64,
    records: Option<u64>,
) -> Result<(), String> {
    if shape != "pull" {
        return Ok(());
    }
    let records = records.unwrap_or_else(|| plan::records("nats", variant, shape, handler_us));
    Stream::preloaded(records).ensure(url)
}
