//! keylane: an Envelope subscription with tracked commits.

use super::{BACKOFF, Place};
use crate::Outcome;
use crate::record::Mark;
use crate::timers::Timers;
use crate::work::{Planted, Work};
use keylane::{Config, HandlerError, Retry};
use measure::version_of;
use std::sync::Arc;
use std::time::Duration;

const WORKERS: usize = 2;
/// So that each of the keys can have several records waiting behind the one that is handled.
const IN_FLIGHT_WAITING: usize = 16_384;

impl From<Planted> for HandlerError {
    fn from(_: Planted) -> Self {
        Self::retriable("planted")
    }
}

pub(super) fn run(place: &Place, work: Work) -> Result<Outcome, String> {
    consume(place, work).map_err(|error| error.to_string())
}

fn consume(place: &Place, work: Work) -> Result<Outcome, Box<dyn std::error::Error>> {
    let mut config = Config::default();
    place.url.clone_into(&mut config.url);
    let is_waiting = !work.takes().is_zero();
    if is_waiting {
        config.subscription.in_flight_records = IN_FLIGHT_WAITING;
    }
    let in_flight = config.subscription.in_flight_records;
    let bus = keylane::connect_with(config).wait()?;
    let builder = bus
        .subscribe_envelopes(&place.topic)
        .group(&place.group)
        .workers(WORKERS)
        .retry(Retry::exponential(BACKOFF));
    let work = Arc::new(work);
    let shared = work.clone();
    let timers = Timers::start()?;
    let subscription = if is_waiting {
        builder.enter(timers.enter()).handle_async(move |event| {
            let work = shared.clone();
            async move { Ok(work.by_tokio(mark(&event)).await?) }
        })
    } else {
        builder.handle(move |event| Ok(shared.at_once(mark(event))?))
    }?;
    let in_vain = work.wait();
    let measured = work.measured(in_vain)?;
    drop(subscription);
    bus.close(Duration::from_secs(10)).wait();
    let handler =
        if is_waiting { "async handlers with tokio's timers" } else { "handlers that wait for nothing" };
    Ok(Outcome {
        measured,
        workers: WORKERS,
        settings: format!(
            "subscribe_envelopes, {handler}, in_flight_records {in_flight}, else defaults: tracked commits, one in \
             20 ms at most; a failed record is tried again after {BACKOFF:?}, exponential, full jitter, its key waiting"
        ),
        version: version_of("keylane"),
    })
}

#[inline]
fn mark(event: &keylane::Event) -> Mark {
    let envelope = event.envelope().expect("the load is valid Envelopes");
    Mark::read(envelope.payload().as_bytes())
}
