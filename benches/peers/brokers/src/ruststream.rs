//! What the variants of RustStream have in common, whatever broker they are on.

use crate::record::Mark;
use crate::work::Work;
use keylane::Envelope;
use measure::Measured;
use ruststream::prelude::*;
use std::convert::Infallible;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Builder;

/// Of tokio, as many as there are cores where this is measured.
pub(crate) const RUNTIME_THREADS: usize = 2;

/// The bytes of a delivery, as they came.
#[derive(Debug)]
pub(crate) struct Bytes<'a>(&'a [u8]);

impl Deserialized for Bytes<'_> {
    type Output<'a> = Bytes<'a>;
    type Error = Infallible;

    fn from_payload(payload: &[u8]) -> Result<Bytes<'_>, Infallible> {
        Ok(Bytes(payload))
    }
}

impl Input for Bytes<'_> {
    type Axis = SoloDeserialized<Bytes<'static>>;
}

/// The handler. What begins as an Envelope does is read as one.
#[derive(Debug)]
pub(crate) struct Body(pub(crate) Arc<Work>);

impl<'p> Handle<Bytes<'p>> for Body {
    async fn handle(
        &self,
        bytes: &Bytes<'p>,
        _outs: &(),
        context: &mut Context<'_>,
    ) -> Result<(), HandlerOutcome> {
        let mark = decode(bytes.0, context);
        self.0.by_tokio(mark).await.map_err(|_| HandlerOutcome::retry())
    }
}

#[inline]
fn decode(bytes: &[u8], context: &Context<'_>) -> Mark {
    if !bytes.starts_with(b"{") {
        return Mark::read(bytes);
    }
    let envelope = Envelope::parse(bytes).expect("the load is valid Envelopes");
    black_box(context.headers().iter().map(|(name, _)| name.len()).sum::<usize>());
    black_box(envelope.aggregate_id());
    Mark::read(envelope.payload().as_bytes())
}

/// Runs the service until all is handled.
pub(crate) fn serve(app: impl App, work: &Arc<Work>) -> Result<Measured, String> {
    let runtime = Builder::new_multi_thread().worker_threads(RUNTIME_THREADS).enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let running = runtime.block_on(app.start()).map_err(|error| error.to_string())?;
    let in_vain = work.wait();
    let measured = work.measured(in_vain);
    // What it can't end by itself is of no interest any more.
    let ended = async { tokio::time::timeout(Duration::from_secs(10), running.shutdown()).await };
    let _ = runtime.block_on(ended);
    runtime.shutdown_timeout(Duration::from_secs(1));
    measured
}
