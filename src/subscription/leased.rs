//! What a record is leased to while its worker goes on with others, and how often a worker ran something.

use super::doing::Watch;
use crate::handler::HandlerError;
use crate::publisher::{PublishError, Receipt};
use crate::wait::Op;
use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

pin_project_lite::pin_project! {
    /// What a record is leased to.
    #[project = LeasedPin]
    pub(crate) enum Leased<F> {
        Handler { #[pin] future: F, watch: Watch },
        DeadLetter { op: Op<Result<Receipt, PublishError>> },
    }
}

pub(crate) enum Output {
    Handled(Result<(), HandlerError>),
    DeadLettered(Result<Receipt, PublishError>),
}

impl<F: Future<Output = Result<(), HandlerError>>> Future for Leased<F> {
    type Output = Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Output> {
        moved();
        match self.project() {
            LeasedPin::Handler { future, watch } => {
                watch.poll_begins();
                let polled = future.poll(cx);
                watch.poll_ended(polled.is_pending());
                polled.map(Output::Handled)
            }
            LeasedPin::DeadLetter { op } => Pin::new(op).poll(cx).map(Output::DeadLettered),
        }
    }
}

thread_local! {
    /// How often a handler or a future of this thread was run, or a record ended.
    static ACTIVITY: Cell<u64> = const { Cell::new(0) };
}

pub(super) fn moved() {
    ACTIVITY.set(ACTIVITY.get().wrapping_add(1));
}

/// What has moved on this worker until now.
pub(super) fn activity() -> u64 {
    ACTIVITY.get()
}
