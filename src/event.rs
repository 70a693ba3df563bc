//! Events, as handlers see them.

use crate::broker::{Fetched, FetchedRecord};
use crate::delivery::Assignment;
use crate::envelope::{Envelope, Parsed};
use crate::observe::health::Place;
use crate::record::Headers;
use crate::sync::Arc;
use crate::wait::Cancellation;
use std::fmt;
use std::time::{Instant, SystemTime};

/// A record as a handler sees it.
///
/// Cloning is cheap: everything but the attempt is shared.
///
/// ```
/// use keylane::Record;
///
/// # let bus = keylane::connect("memory:?topics=orders").wait()?;
/// let (tell, told) = std::sync::mpsc::channel();
/// let orders = bus.subscribe("orders").group("billing").handle(move |event| {
///     tell.send(event.clone())?;
///     Ok(())
/// })?;
/// bus.publish("orders", Record::new("paid").with_key("order-42")).wait()?;
/// let event = told.recv()?;
/// assert_eq!((event.topic(), event.aggregate_id(), event.value()), ("orders", Some("order-42"), &b"paid"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Event {
    /// Those that arrived together, so that they share one allocation.
    arrived: Arc<[Arrived]>,
    index: u32,
    attempt: u32,
    deadline: Option<Instant>,
}

/// What is known of a record before its first attempt.
pub(crate) struct Arrived {
    owner: Owner,
    offset: u64,
    record: FetchedRecord,
    redeliveries: u32,
    aggregate: Aggregate,
    envelope: Option<Parsed>,
}

/// The assignment that a record came by.
pub(crate) enum Owner {
    Own(Arc<Assignment>),
    /// That of the record at this index of those that arrived together, which spares a counter that every worker and
    /// the intake would change at every record.
    As(u32),
}

/// Where the aggregate id of a record is.
pub(crate) enum Aggregate {
    None,
    /// In the Envelope that was parsed.
    Envelope,
    /// The record's key, which was checked.
    Key,
    /// Somewhere else: a header, a subject, a function of the user's.
    Text(Box<str>),
}

impl Arrived {
    pub(crate) fn new(
        owner: Owner,
        fetched: Fetched,
        aggregate: Aggregate,
        envelope: Option<Parsed>,
    ) -> Self {
        let Fetched { offset, record, redeliveries, .. } = fetched;
        Self { owner, offset, record, redeliveries, aggregate, envelope }
    }

    /// Whether this is a record that brings the assignment for others.
    pub(crate) fn owns(&self, assignment: &Arc<Assignment>) -> bool {
        matches!(&self.owner, Owner::Own(own) if Arc::ptr_eq(own, assignment))
    }
}

impl Event {
    /// The events of records that arrived together. Each keeps all of them in memory, so they should be few.
    pub(crate) fn of(arrived: impl ExactSizeIterator<Item = Arrived>) -> impl Iterator<Item = Self> {
        let arrived: Arc<[Arrived]> = arrived.collect();
        (0..arrived.len() as u32).map(move |index| Self {
            arrived: arrived.clone(),
            index,
            attempt: 0,
            deadline: None,
        })
    }

    fn inner(&self) -> &Arrived {
        &self.arrived[self.index as usize]
    }

    pub(crate) fn begin_attempt(&mut self, deadline: Option<Instant>) {
        self.attempt = self.attempt.saturating_add(1);
        self.deadline = deadline;
    }

    pub(crate) fn assignment(&self) -> &Assignment {
        let at = match &self.inner().owner {
            Owner::Own(assignment) => return assignment,
            Owner::As(at) => *at,
        };
        match &self.arrived[at as usize].owner {
            Owner::Own(assignment) => assignment,
            Owner::As(_) => unreachable!("who is pointed at has its own"),
        }
    }

    /// The topic that the record is from.
    ///
    /// ```
    /// # use keylane::Record;
    /// # let bus = keylane::connect("memory:?topics=orders,payments").wait()?;
    /// # let (tell, told) = std::sync::mpsc::channel();
    /// let both = bus.subscribe("orders").topic("payments").group("audit").handle(move |event| {
    ///     tell.send(event.topic().to_owned())?;
    ///     Ok(())
    /// })?;
    /// bus.publish("payments", Record::new("paid")).wait()?;
    /// assert_eq!(told.recv()?, "payments");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn topic(&self) -> &str {
        &self.assignment().topic
    }

    /// The partition of the topic; 0 where the broker has none.
    ///
    /// ```
    /// # use keylane::Record;
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// # let (tell, told) = std::sync::mpsc::channel();
    /// let orders = bus.subscribe("orders").group("billing").handle(move |event| {
    ///     tell.send(event.partition())?;
    ///     Ok(())
    /// })?;
    /// let receipt = bus.publish("orders", Record::new("paid")).wait()?;
    /// assert_eq!(told.recv()?, receipt.partition());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn partition(&self) -> u32 {
        self.assignment().id.partition
    }

    /// The record's place in its partition (on a stream, its sequence).
    ///
    /// ```
    /// # use keylane::Record;
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// # let (tell, told) = std::sync::mpsc::channel();
    /// let orders = bus.subscribe("orders").group("billing").handle(move |event| {
    ///     tell.send(event.offset())?;
    ///     Ok(())
    /// })?;
    /// let receipt = bus.publish("orders", Record::new("paid")).wait()?;
    /// assert_eq!(told.recv()?, receipt.offset());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn offset(&self) -> u64 {
        self.inner().offset
    }

    /// The record's key, as the broker carries it.
    ///
    /// ```
    /// # use keylane::Record;
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// # let (tell, told) = std::sync::mpsc::channel();
    /// let orders = bus.subscribe("orders").group("billing").handle(move |event| {
    ///     tell.send(event.key().map(<[u8]>::to_vec))?;
    ///     Ok(())
    /// })?;
    /// bus.publish("orders", Record::new("paid").with_key("order-42")).wait()?;
    /// assert_eq!(told.recv()?.as_deref(), Some(&b"order-42"[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn key(&self) -> Option<&[u8]> {
        self.inner().record.key()
    }

    /// The record's bytes, untouched.
    ///
    /// ```
    /// # use keylane::Record;
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// # let (tell, told) = std::sync::mpsc::channel();
    /// let orders = bus.subscribe("orders").group("billing").handle(move |event| {
    ///     let cents: u64 = std::str::from_utf8(event.value())?.parse()?;
    ///     tell.send(cents)?;
    ///     Ok(())
    /// })?;
    /// bus.publish("orders", Record::new("995")).wait()?;
    /// assert_eq!(told.recv()?, 995);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn value(&self) -> &[u8] {
        self.inner().record.value()
    }

    /// The record's headers, in order.
    ///
    /// ```
    /// # use keylane::Record;
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// # let (tell, told) = std::sync::mpsc::channel();
    /// let orders = bus.subscribe("orders").group("billing").handle(move |event| {
    ///     tell.send(event.headers().get("via").map(<[u8]>::to_vec))?;
    ///     Ok(())
    /// })?;
    /// bus.publish("orders", Record::new("paid").with_header("Via", "gateway")).wait()?;
    /// assert_eq!(told.recv()?.as_deref(), Some(&b"gateway"[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn headers(&self) -> &Headers {
        self.inner().record.headers()
    }

    /// When the record was made, as its publisher said.
    ///
    /// ```
    /// # use keylane::Record;
    /// # use std::time::{Duration, SystemTime};
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// # let (tell, told) = std::sync::mpsc::channel();
    /// let orders = bus.subscribe("orders").group("billing").handle(move |event| {
    ///     tell.send(event.timestamp())?;
    ///     Ok(())
    /// })?;
    /// let mut record = Record::new("paid long ago");
    /// record.timestamp = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    /// bus.publish("orders", record.clone()).wait()?;
    /// assert_eq!(told.recv()?, record.timestamp);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn timestamp(&self) -> SystemTime {
        self.inner().record.timestamp()
    }

    /// What the record is ordered by; none: it has no order.
    ///
    /// ```
    /// # use keylane::Envelope;
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// # let (tell, told) = std::sync::mpsc::channel();
    /// let orders = bus.subscribe_envelopes("orders").group("billing").handle(move |event| {
    ///     tell.send(event.aggregate_id().map(str::to_owned))?;
    ///     Ok(())
    /// })?;
    /// bus.publish("orders", Envelope::new("order-42", "order.paid", 1, "995")?).wait()?;
    /// assert_eq!(told.recv()?.as_deref(), Some("order-42"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn aggregate_id(&self) -> Option<&str> {
        match &self.inner().aggregate {
            Aggregate::None => None,
            Aggregate::Envelope => Some(self.inner().envelope.as_ref()?.aggregate_id(self.value())),
            Aggregate::Key => std::str::from_utf8(self.key()?).ok(),
            Aggregate::Text(text) => Some(text),
        }
    }

    /// Which attempt this is, from 1, counted since the record was delivered to this program.
    ///
    /// ```
    /// # use keylane::{Envelope, Retry};
    /// # use std::time::Duration;
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// # let (tell, told) = std::sync::mpsc::channel();
    /// # let retry = Retry::exponential(Duration::from_millis(1)..Duration::from_millis(1));
    /// let orders = bus.subscribe_envelopes("orders").group("billing").retry(retry).handle(move |event| {
    ///     tell.send(event.attempt())?;
    ///     if event.attempt() < 3 { Err("the bank does not answer".into()) } else { Ok(()) }
    /// })?;
    /// bus.publish("orders", Envelope::new("order-42", "order.paid", 1, "995")?).wait()?;
    /// assert_eq!([told.recv()?, told.recv()?, told.recv()?], [1, 2, 3]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// How often the broker had handed the record out before, as far as it knows.
    ///
    /// ```
    /// # use keylane::{Envelope, Retry, Then};
    /// # use std::time::Duration;
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// # let (tell, told) = std::sync::mpsc::channel();
    /// let orders = bus
    ///     .subscribe_envelopes("orders")
    ///     .group("billing")
    ///     .retry(Retry::none())
    ///     .then(Then::Redeliver { delay: Duration::from_millis(1) })
    ///     .handle(move |event| {
    ///         tell.send((event.attempt(), event.redeliveries()))?;
    ///         if event.redeliveries() == 0 { Err("not yet".into()) } else { Ok(()) }
    ///     })?;
    /// bus.publish("orders", Envelope::new("order-42", "order.paid", 1, "995")?).wait()?;
    /// assert_eq!([told.recv()?, told.recv()?], [(1, 0), (1, 1)]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn redeliveries(&self) -> u32 {
        self.inner().redeliveries
    }

    /// When an async handler is stopped, whether it is ready or not. None: never, or the handler blocks.
    ///
    /// ```
    /// # use keylane::Record;
    /// # use std::time::{Duration, Instant};
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// # let (tell, told) = std::sync::mpsc::channel();
    /// let minute = Duration::from_secs(60);
    /// let orders = bus.subscribe("orders").group("billing").deadline(minute).handle_async(move |event| {
    ///     let tell = tell.clone();
    ///     async move {
    ///         tell.send(event.deadline())?;
    ///         Ok(())
    ///     }
    /// })?;
    /// bus.publish("orders", Record::new("paid")).wait()?;
    /// assert!(told.recv()?.is_some_and(|deadline| deadline <= Instant::now() + minute));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Tells when the result is not wanted any more.
    ///
    /// ```
    /// # use keylane::Envelope;
    /// # use std::time::Duration;
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// # let (tell, told) = std::sync::mpsc::channel();
    /// let orders = bus.subscribe_envelopes("orders").group("billing").handle(move |event| {
    ///     tell.send("started")?;
    ///     while !event.cancellation().is_cancelled() {
    ///         std::thread::yield_now(); // a piece of a long job
    ///     }
    ///     tell.send("stopped")?;
    ///     Err("not wanted any more".into())
    /// })?;
    /// bus.publish("orders", Envelope::new("order-42", "order.paid", 1, "995")?).wait()?;
    /// assert_eq!(told.recv()?, "started");
    /// orders.drain(Duration::from_millis(1)).wait();
    /// assert_eq!(told.recv()?, "stopped");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn cancellation(&self) -> &Cancellation {
        &self.assignment().cancellation
    }

    /// Whether the record is an Envelope.
    ///
    /// ```
    /// # use keylane::{Envelope, Record};
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// # let (tell, told) = std::sync::mpsc::channel();
    /// let orders = bus.subscribe("orders").group("audit").workers(1).handle(move |event| {
    ///     tell.send((event.value() == b"plain", event.is_envelope()))?;
    ///     Ok(())
    /// })?;
    /// bus.publish("orders", Record::new("plain").with_key("order-42")).wait()?;
    /// bus.publish("orders", Envelope::new("order-42", "order.paid", 1, "995")?).wait()?;
    /// assert_eq!([told.recv()?, told.recv()?], [(true, false), (false, true)]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is_envelope(&self) -> bool {
        self.inner().envelope.is_some()
    }

    /// The Envelope that the record is, borrowed from its bytes; parsed once, before the handler.
    ///
    /// ```
    /// # use keylane::Envelope;
    /// # let bus = keylane::connect("memory:?topics=orders").wait()?;
    /// # let (tell, told) = std::sync::mpsc::channel();
    /// let orders = bus.subscribe_envelopes("orders").group("billing").handle(move |event| {
    ///     let envelope = event.envelope().ok_or("a subscription to Envelopes has them")?;
    ///     let cents: u64 = envelope.payload().parse()?;
    ///     tell.send((envelope.event_type().to_owned(), cents))?;
    ///     Ok(())
    /// })?;
    /// bus.publish("orders", Envelope::new("order-42", "order.paid", 1, "995")?).wait()?;
    /// assert_eq!(told.recv()?, ("order.paid".to_owned(), 995));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn envelope(&self) -> Option<Envelope<'_>> {
        Some(self.inner().envelope.as_ref()?.view(self.value()))
    }

    pub(crate) fn record(&self) -> &FetchedRecord {
        &self.inner().record
    }

    pub(crate) fn place(&self) -> Place {
        Place {
            topic: self.topic().to_owned(),
            partition: self.partition(),
            offset: self.offset(),
            key: self.aggregate_id().map(str::to_owned),
        }
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("topic", &self.topic())
            .field("partition", &self.partition())
            .field("offset", &self.offset())
            .field("aggregate_id", &self.aggregate_id())
            .field("attempt", &self.attempt)
            .field("redeliveries", &self.redeliveries())
            .finish_non_exhaustive()
    }
}
