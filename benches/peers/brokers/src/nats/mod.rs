//! The contest over NATS JetStream: publishes with acknowledgement, and a preloaded stream that is pulled and
//! acknowledged one by one.

mod publish;
mod pull;
mod streams;

use crate::Run;
use crate::work::Work;
use std::time::Duration;
use streams::Stream;

/// Publishes that are not acknowledged yet.
const IN_FLIGHT: usize = 512;

fn server(url: &str) -> &str {
    url.strip_prefix("nats://").unwrap_or(url).trim_end_matches('/')
}

/// Runs one variant and prints its line.
pub(crate) fn run(run: &Run) -> Result<(), String> {
    let Run { url, variant, shape, handler_us, .. } = run;
    let records = run.records("nats");
    let outcome = match &**shape {
        "publish" => publish::run(url, variant, records),
        "pull" => {
            let stream = Stream::preloaded(records);
            stream.ensure(url)?;
            let work = Work::new(records, Duration::from_micros(*handler_us), false);
            pull::run(url, variant, &stream, work)
        }
        _ => Err(format!("there is no shape `{shape}` over NATS; there are: publish pull")),
    }?;
    run.print("nats", records, outcome);
    Ok(())
}

/// Loads the stream of a run that needs one.
pub(crate) fn prepare(run: &Run) -> Result<(), String> {
    if run.shape != "pull" {
        return Ok(());
    }
    Stream::preloaded(run.records("nats")).ensure(&run.url)
}
