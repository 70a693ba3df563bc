//! Records as brokers carry them, and events as handlers see them.

use crate::broker::{Fetched, FetchedRecord};
use crate::cancellation::Cancellation;
use crate::envelope::{Envelope, Parsed};
use crate::observe::health::Place;
use crate::subscription::Assignment;
use crate::sync::Arc;
use bytes::Bytes;
use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::time::{Instant, SystemTime};

/// The headers of a record: ordered, repeated names kept, as Kafka and NATS carry them.
///
/// Names are compared without regard to ASCII case by [`Headers::get`], because the services that meet on one topic
/// do not agree on a spelling.
///
/// ```
/// let mut headers = keylane::Headers::new();
/// headers.push("X-Trace-ID", "t-1");
/// assert_eq!(headers.get("x-trace-id"), Some(&b"t-1"[..]));
/// ```
#[derive(Clone)]
pub struct Headers(Form);

type Header = (Cow<'static, str>, Bytes);

#[derive(Clone)]
enum Form {
    List(Vec<Header>),
    /// As they came over the network, taken apart as somebody looks for one.
    #[cfg_attr(
        not(any(test, feature = "kafka", feature = "nats")),
        expect(dead_code, reason = "memory has lists")
    )]
    Encoded {
        bytes: Bytes,
        at: Range<u32>,
    },
}

impl Headers {
    /// No headers; allocates nothing.
    ///
    /// ```
    /// let headers = keylane::Headers::new();
    /// assert_eq!(headers.len(), 0);
    /// ```
    pub const fn new() -> Self {
        Self(Form::List(Vec::new()))
    }

    /// No headers, with room for `n`.
    ///
    /// ```
    /// let mut headers = keylane::Headers::with_capacity(2);
    /// assert!(headers.is_empty());
    /// headers.push("Account", "acc-7");
    /// assert_eq!(headers.len(), 1);
    /// ```
    pub fn with_capacity(n: usize) -> Self {
        Self(Form::List(Vec::with_capacity(n)))
    }

    /// Adds a header behind those that are there. An equal name is not replaced.
    ///
    /// ```
    /// let mut headers = keylane::Headers::new();
    /// headers.push("Via", "gateway");
    /// headers.push("Via", "billing");
    /// let via: Vec<_> = headers.iter().map(|(_, value)| value).collect();
    /// assert_eq!(via, [&b"gateway"[..], b"billing"]);
    /// ```
    pub fn push(&mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Bytes>) {
        let header = (name.into(), value.into());
        match &mut self.0 {
            Form::List(list) => list.push(header),
            Form::Encoded { bytes, at } => {
                let bytes = bytes.slice(at.start as usize..at.end as usize);
                let name = |range| String::from_utf8_lossy(&bytes[range]).into_owned().into();
                let headers =
                    Encoded { bytes: &bytes, at: 0 }.map(|(n, value)| (name(n), bytes.slice(value)));
                self.0 = Form::List(headers.chain([header]).collect());
            }
        }
    }

    /// The value of the first header of this name, in any case.
    ///
    /// ```
    /// let mut headers = keylane::Headers::new();
    /// headers.push("Via", "gateway");
    /// headers.push("Via", "billing");
    /// assert_eq!(headers.get("VIA"), Some(&b"gateway"[..]));
    /// assert_eq!(headers.get("Account"), None);
    /// ```
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v)
    }

    /// All headers in their order.
    ///
    /// ```
    /// let mut headers = keylane::Headers::new();
    /// headers.push("Account", "acc-7");
    /// headers.push("Via", "gateway");
    /// let names: Vec<_> = headers.iter().map(|(name, _)| name).collect();
    /// assert_eq!(names, ["Account", "Via"]);
    /// ```
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let (list, encoded): (&[Header], &[u8]) = match &self.0 {
            Form::List(list) => (list, &[]),
            Form::Encoded { bytes, at } => (&[], &bytes[at.start as usize..at.end as usize]),
        };
        let encoded_headers = Encoded { bytes: encoded, at: 0 }.map(move |(name, value)| {
            // A name was text when it was encoded.
            (std::str::from_utf8(&encoded[name]).unwrap_or_default(), &encoded[value])
        });
        list.iter().map(|(name, value)| (name.as_ref(), &value[..])).chain(encoded_headers)
    }

    /// How many headers there are, repeated names counted each.
    ///
    /// ```
    /// let record = keylane::Record::new("paid").with_header("Via", "gateway").with_header("Via", "billing");
    /// assert_eq!(record.headers.len(), 2);
    /// ```
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether there is none.
    ///
    /// ```
    /// use keylane::Record;
    ///
    /// assert!(Record::new("paid").headers.is_empty());
    /// assert!(!Record::new("paid").with_header("Via", "gateway").headers.is_empty());
    /// ```
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// Headers that were written by [`encode`](Self::encode), one behind the other.
    #[cfg(any(test, feature = "nats"))]
    pub(crate) fn encoded(bytes: Bytes) -> Self {
        let at = 0..u32::try_from(bytes.len()).expect("what a broker carries has less than 4 GiB");
        Self::encoded_in(bytes, at)
    }

    /// The same, of headers in this range of the bytes.
    #[cfg(any(test, feature = "kafka", feature = "nats"))]
    pub(crate) fn encoded_in(bytes: Bytes, at: Range<u32>) -> Self {
        Self(Form::Encoded { bytes, at })
    }

    /// All bytes that they were encoded in, what stands around them included.
    pub(crate) fn around(&self) -> &Bytes {
        static NONE: Bytes = Bytes::new();
        match &self.0 {
            Form::List(_) => &NONE,
            Form::Encoded { bytes, .. } => bytes,
        }
    }

    /// Appends one header to a buffer in the form that [`encoded`](Self::encoded) takes apart.
    #[cfg(any(test, feature = "kafka", feature = "nats"))]
    pub(crate) fn encode(name: &str, value: &[u8], buffer: &mut Vec<u8>) {
        for part in [name.as_bytes(), value] {
            let length = u32::try_from(part.len()).expect("what a broker carries has less than 4 GiB");
            buffer.extend_from_slice(&length.to_le_bytes());
            buffer.extend_from_slice(part);
        }
    }

    /// The bytes of all names and values.
    pub(crate) fn size(&self) -> usize {
        self.iter().map(|(name, value)| name.len() + value.len()).sum()
    }
}

impl Default for Headers {
    fn default() -> Self {
        Self::new()
    }
}

impl PartialEq for Headers {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Headers {}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Walks over encoded headers: where the name and the value of each are.
struct Encoded<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Encoded<'_> {
    fn part(&mut self) -> Option<Range<usize>> {
        let (length, _) = self.bytes.get(self.at..)?.split_first_chunk::<4>()?;
        let begin = self.at + 4;
        let end = begin + u32::from_le_bytes(*length) as usize;
        self.at = end;
        (end <= self.bytes.len()).then_some(begin..end)
    }
}

impl Iterator for Encoded<'_> {
    type Item = (Range<usize>, Range<usize>);

    fn next(&mut self) -> Option<Self::Item> {
        Some((self.part()?, self.part()?))
    }
}

/// A record: what a publisher hands to a broker and what a broker delivers.
///
/// Cloning is cheap: key, value and header values are shared.
///
/// ```
/// use keylane::Record;
///
/// let record = Record::new("paid").with_key("order-42").with_header("Via", "gateway");
/// assert_eq!(record.key.as_deref(), Some(&b"order-42"[..]));
/// assert_eq!(record.value, "paid");
/// assert_eq!(record.headers.get("via"), Some(&b"gateway"[..]));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What the broker partitions by, and one of the places where routing looks for the aggregate id.
    pub key: Option<Bytes>,
    /// The payload, untouched.
    pub value: Bytes,
    /// The headers, in order.
    pub headers: Headers,
    /// When the record was made (set by the publisher; brokers carry it in milliseconds).
    pub timestamp: SystemTime,
}

impl Record {
    /// A record without a key or headers, made now.
    ///
    /// ```
    /// use keylane::Record;
    ///
    /// let record = Record::new(r#"{"cents":995}"#);
    /// assert_eq!(record.value, r#"{"cents":995}"#);
    /// assert!(record.key.is_none() && record.headers.is_empty());
    /// ```
    pub fn new(value: impl Into<Bytes>) -> Self {
        Self { key: None, value: value.into(), headers: Headers::new(), timestamp: SystemTime::now() }
    }

    /// The same record under this key.
    ///
    /// ```
    /// use keylane::{Record, Route};
    ///
    /// let record = Record::new("paid").with_key("order-42");
    /// assert_eq!(Route::Key.aggregate_id_of(&record).as_deref(), Some("order-42"));
    /// ```
    #[must_use]
    pub fn with_key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The same record with one more header.
    ///
    /// ```
    /// use keylane::{Envelope, Record, Route};
    ///
    /// let record = Record::new("paid").with_header(Envelope::AGGREGATE_ID_HEADER, "order-42");
    /// assert_eq!(Route::Auto.aggregate_id_of(&record).as_deref(), Some("order-42"));
    /// ```
    #[must_use]
    pub fn with_header(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Bytes>) -> Self {
        self.headers.push(name, value);
        self
    }

    /// What the record takes of a limit in bytes: key, value, header names and header values.
    ///
    /// ```
    /// use keylane::Record;
    ///
    /// assert_eq!(Record::new("paid").size(), 4);
    /// assert_eq!(Record::new("paid").with_key("order-42").with_header("Via", "web").size(), 4 + 8 + 3 + 3);
    /// ```
    pub fn size(&self) -> usize {
        self.key.as_ref().map_or(0, Bytes::len) + self.value.len() + self.headers.size()
    }
}

/// An Envelope as it is published: its JSON under its aggregate id as the key, with the headers `X-Event-ID`,
/// `X-Aggregate-ID`, `X-Event-Type`, `X-Event-Version` and, where they are set, `X-Trace-ID`, `X-Correlation-ID` and
/// `X-Tenant-ID`.
///
/// ```
/// use keylane::{Envelope, Record};
///
/// let record = Record::from(&Envelope::new("order-42", "order.paid", 1, "995")?);
/// assert_eq!(record.key.as_deref(), Some(&b"order-42"[..]));
/// assert_eq!(record.headers.get("X-Event-Type"), Some(&b"order.paid"[..]));
/// # Ok::<(), keylane::EnvelopeError>(())
/// ```
impl From<&Envelope<'_>> for Record {
    fn from(envelope: &Envelope<'_>) -> Self {
        let (key, value, headers) = envelope.to_parts();
        Self { key: Some(key), value, headers, timestamp: SystemTime::now() }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(headers: &[(String, Vec<u8>)]) -> Bytes {
        let mut buffer = Vec::new();
        headers.iter().for_each(|(name, value)| Headers::encode(name, value, &mut buffer));
        buffer.into()
    }

    proptest! {
        #[test]
        fn encoded_headers_are_the_headers(
            headers in prop::collection::vec(("[a-zA-Z-]{0,6}", prop::collection::vec(any::<u8>(), 0..9)), 0..6),
            wanted in "[a-z-]{0,2}",
            before in prop::collection::vec(any::<u8>(), 0..9),
            behind in prop::collection::vec(any::<u8>(), 0..9),
        ) {
            let mut list = Headers::new();
            headers.iter().for_each(|(name, value)| list.push(name.clone(), value.clone()));
            let mut bytes = before.clone();
            bytes.extend_from_slice(&encoded(&headers));
            let at = before.len() as u32..bytes.len() as u32;
            bytes.extend_from_slice(&behind);
            let mut lazy = Headers::encoded_in(bytes.into(), at);
            prop_assert_eq!(lazy.get(&wanted), list.get(&wanted));
            prop_assert_eq!((lazy.len(), lazy.is_empty(), lazy.size()), (list.len(), list.is_empty(), list.size()));
            prop_assert_eq!(&lazy, &list);
            lazy.push("Via", "web");
            list.push("Via", "web");
            prop_assert_eq!(lazy, list);
        }

        #[test]
        fn bytes_that_are_no_headers_panic_nowhere(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let headers = Headers::encoded(bytes.into());
            prop_assert_eq!(headers.iter().count(), headers.len());
            prop_assert!(headers.get("a").is_none_or(|value| value.len() < 40));
        }
    }
}
