//! How a subscription ended.

use super::health::Place;

/// How a subscription ended.
///
/// ```
/// use std::time::Duration;
///
/// # let bus = keylane::connect("memory:?topics=orders").wait()?;
/// let orders = bus.subscribe("orders").group("billing").handle(|_| Ok(()))?;
/// let report = orders.drain(Duration::from_secs(10)).wait();
/// for place in &report.unsettled {
///     println!("{place} comes again");
/// }
/// assert!(report.still_running.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DrainReport {
    /// Records that were delivered and are not settled; they come again to whoever takes the group's place. Of a
    /// subscription with `at_most_once` also those that were settled first and not handled within the limit, which are
    /// lost.
    pub unsettled: Vec<Place>,
    /// Of those, the ones whose blocking handler, or a poll of whose future, was still running at the limit. Nobody can
    /// end it; its thread ends with it, and its result counts no more. Where something else blocked a worker's thread,
    /// the drop of a future for instance, all that are unsettled. A future that was only pending is dropped at the
    /// limit and is told by a log line.
    pub still_running: Vec<Place>,
}
