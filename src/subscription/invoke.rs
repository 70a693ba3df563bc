//! The three kinds of handlers: shared, owned by a worker, and async.

use super::runner::{Invoke, Invoked};
use crate::event::Event;
use crate::foreign;
use crate::handler::HandlerError;
use crate::sync::Arc;
use std::future::Future;

/// A handler with state of its own: one per worker, made by a factory on the worker's thread, and made anew after a
/// panic. A key is always on the same worker, so state per aggregate needs no lock.
///
/// Every `FnMut(&Event) -> Result<(), HandlerError>` is one.
///
/// ```
/// use keylane::{Event, HandlerError, OwnedHandler, Record};
///
/// /// Writes in batches of two.
/// #[derive(Default)]
/// struct Writer { batch: Vec<Vec<u8>>, written: usize }
///
/// impl OwnedHandler for Writer {
///     fn handle(&mut self, event: &Event) -> Result<(), HandlerError> {
///         self.batch.push(event.value().to_vec());
///         if self.batch.len() == 2 { self.written += self.batch.drain(..).len(); }
///         Ok(())
///     }
/// }
/// # let bus = keylane::connect("memory:?topics=orders").wait()?;
/// let orders = bus.subscribe("orders").group("writer").handle_owned(Writer::default)?;
/// bus.publish("orders", Record::new("paid")).wait()?;
/// orders.caught_up().wait()?;
/// assert_eq!(orders.stats().failed, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait OwnedHandler: 'static {
    /// Handles one record.
    ///
    /// # Errors
    /// Whatever went wrong; the subscription's policy says what it leads to.
    ///
    /// ```
    /// use keylane::{Event, HandlerError, OwnedHandler, Record};
    ///
    /// struct Count(u64, std::sync::mpsc::Sender<u64>);
    ///
    /// impl OwnedHandler for Count {
    ///     fn handle(&mut self, _: &Event) -> Result<(), HandlerError> {
    ///         self.0 += 1;
    ///         Ok(self.1.send(self.0)?)
    ///     }
    /// }
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// # let (tell, told) = std::sync::mpsc::channel();
    /// let make = move || Count(0, tell.clone());
    /// let orders = bus.subscribe("orders").group("count").workers(1).handle_owned(make)?;
    /// for _ in 0..2 {
    ///     bus.publish("orders", Record::new("paid")).wait()?;
    /// }
    /// assert_eq!([told.recv()?, told.recv()?], [1, 2]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn handle(&mut self, event: &Event) -> Result<(), HandlerError>;
}

impl<F: FnMut(&Event) -> Result<(), HandlerError> + 'static> OwnedHandler for F {
    fn handle(&mut self, event: &Event) -> Result<(), HandlerError> {
        self(event)
    }
}

/// A future that never is: what a blocking handler returns instead.
type Never = std::future::Pending<Result<(), HandlerError>>;

pub(crate) struct Shared<F>(pub(crate) Arc<F>);

impl<F: Fn(&Event) -> Result<(), HandlerError> + 'static> Invoke for Shared<F> {
    type Future = Never;
    const IS_BLOCKING: bool = true;

    fn invoke(&mut self, event: &Event) -> Invoked<Never> {
        Invoked::Ended((self.0)(event))
    }
}

pub(crate) struct Owned<F, H> {
    make: Arc<F>,
    handler: Option<H>,
}

impl<F, H> Owned<F, H> {
    pub(crate) fn new(make: Arc<F>) -> Self {
        Self { make, handler: None }
    }
}

impl<F: Fn() -> H + 'static, H: OwnedHandler> Invoke for Owned<F, H> {
    type Future = Never;
    const IS_BLOCKING: bool = true;

    fn invoke(&mut self, event: &Event) -> Invoked<Never> {
        Invoked::Ended(self.handler.get_or_insert_with(|| (self.make)()).handle(event))
    }

    fn reset(&mut self) -> bool {
        let Some(handler) = self.handler.take() else { return false };
        foreign::discard(handler);
        true
    }
}

pub(crate) struct Asynchronous<F>(pub(crate) Arc<F>);

impl<F, T> Invoke for Asynchronous<F>
where
    F: Fn(Event) -> T + 'static,
    T: Future<Output = Result<(), HandlerError>> + 'static,
{
    type Future = T;
    const IS_BLOCKING: bool = false;

    fn invoke(&mut self, event: &Event) -> Invoked<T> {
        Invoked::Pending((self.0)(event.clone()))
    }
}
