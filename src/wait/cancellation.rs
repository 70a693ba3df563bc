//! How a handler learns that its result is not wanted any more.

use super::wakers::Wakers;
use crate::foreign;
use crate::sync::{Arc, AtomicBool, Mutex, Ordering};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Tells a handler that its partition is gone, that the group has not been heard of for so long that another member may
/// own it, or that the limit of a drain has passed: whatever it still does is repeated elsewhere, so it may stop.
///
/// A cheap handle; clones tell the same.
///
/// ```
/// # use keylane::Envelope;
/// # use std::time::Duration;
/// # let bus = keylane::connect("memory:?topics=reports").wait()?;
/// # let (tell, told) = std::sync::mpsc::channel();
/// let reports = bus.subscribe_envelopes("reports").group("printer").handle(move |event| {
///     let cancellation = event.cancellation().clone();
///     tell.send("started")?;
///     smol::block_on(cancellation.cancelled());
///     tell.send("stopped")?;
///     Err("not wanted any more".into())
/// })?;
/// # bus.publish("reports", Envelope::new("report-1", "report.asked", 1, "{}")?).wait()?;
/// assert_eq!(told.recv()?, "started");
/// let report = reports.drain(Duration::from_millis(1)).wait();
/// assert_eq!(told.recv()?, "stopped");
/// assert_eq!(report.unsettled.len(), 1, "it comes again elsewhere");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Cancellation(Arc<Token>);

#[derive(Debug, Default)]
struct Token {
    is_cancelled: AtomicBool,
    waiting: Mutex<Wakers>,
}

impl Cancellation {
    /// Whether it has happened. Cheap enough for a loop.
    ///
    /// ```
    /// use keylane::{Event, HandlerError};
    ///
    /// fn print(event: &Event, pages: &[&str]) -> Result<(), HandlerError> {
    ///     for page in pages {
    ///         if event.cancellation().is_cancelled() {
    ///             return Err("not wanted any more".into());
    ///         }
    ///         println!("{page}");
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub fn is_cancelled(&self) -> bool {
        // ORDERING: Relaxed; a hint to stop, which orders nothing.
        self.0.is_cancelled.load(Ordering::Relaxed)
    }

    /// A future that is ready when it has happened.
    pub fn cancelled(&self) -> Cancelled {
        Cancelled { token: self.0.clone(), id: None }
    }

    pub(crate) fn cancel(&self) {
        let woken = {
            let mut waiting = self.0.waiting.lock();
            // ORDERING: Relaxed; who waits looks at it under the same lock.
            self.0.is_cancelled.store(true, Ordering::Relaxed);
            waiting.take()
        };
        woken.wake();
    }
}

/// A future that is ready when its [`Cancellation`] has happened.
#[derive(Debug)]
pub struct Cancelled {
    token: Arc<Token>,
    id: Option<u64>,
}

impl Future for Cancelled {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { token, id } = &mut *self;
        let waker = cx.waker().clone();
        let mut waiting = token.waiting.lock();
        // ORDERING: Relaxed; set under this lock.
        if token.is_cancelled.load(Ordering::Relaxed) {
            drop(waiting);
            foreign::discard(waker);
            return Poll::Ready(());
        }
        let unneeded = waiting.wait(id, waker);
        drop(waiting);
        drop(unneeded);
        Poll::Pending
    }
}

impl Drop for Cancelled {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            let unneeded = self.token.waiting.lock().withdraw(id);
            drop(unneeded);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_a_cancellation_is_woken_by_it() {
        let cancellation = Cancellation::default();
        let waiting = cancellation.cancelled();
        let thread = std::thread::spawn(move || crate::wait::block_on(waiting));
        assert!(!cancellation.is_cancelled());
        cancellation.cancel();
        thread.join().unwrap();
        assert!(cancellation.is_cancelled());
        crate::wait::block_on(cancellation.cancelled());
    }
}
