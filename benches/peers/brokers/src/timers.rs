//! Tokio's timers for keylane's handlers, so that handlers of all variants in Rust wait by the same ones.

use std::io;
use tokio::runtime::{Builder, Runtime};

/// A runtime that runs nothing but its clock.
#[derive(Debug)]
pub(crate) struct Timers(Runtime);

impl Timers {
    pub(crate) fn start() -> io::Result<Self> {
        Builder::new_multi_thread().worker_threads(1).enable_time().build().map(Self)
    }

    /// What a subscription runs its workers in.
    pub(crate) fn enter(&self) -> impl Fn(&mut dyn FnMut()) + Send + Sync + 'static {
        let handle = self.0.handle().clone();
        move |run| {
            let _entered = handle.enter();
            run();
        }
    }
}
