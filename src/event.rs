//! Events, as handlers see them.

use crate::broker::{Fetched, FetchedRecord};
use crate::delivery::Assignment;
use crate::envelope::{Envelope, Parsed};
use crate::observe::health::Place;
use crate::record::Headers;
use crate::route::key_text;
use crate::sync::{Arc, OnceLock};
use crate::wait::Cancellation;
use std::fmt;
use std::time::{Instant, SystemTime};

/// A record as a handler sees it.
///
/// Cloning is cheap: everything but the attempt is shared.
///
/// ```
/// use keylane::{Event, HandlerError};
///
/// fn bill(event: &Event) -> Result<(), HandlerError> {
///     let envelope = event.envelope().ok_or("not an Envelope")?;
///     if envelope.event_type() == "order.paid" {
///         let cents: u64 = envelope.payload().parse().map_err(HandlerError::terminal)?;
///         println!("{}: {cents} cents, attempt {}", envelope.aggregate_id(), event.attempt());
///     }
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct Event {
    /// Those that arrived together, so that they share one allocation.
    arrived: Arc<[Arrived]>,
    index: u32,
    attempt: u32,
    deadline: Option<Instant>,
    /// None: the assignment's first.
    cancellation: Option<Cancellation>,
}

/// What is known of a record before its first attempt.
pub(crate) struct Arrived {
    owner: Owner,
    offset: u64,
    record: FetchedRecord,
    redeliveries: u32,
    aggregate: Aggregate,
    /// Set before the first attempt, if it is one.
    envelope: OnceLock<Parsed>,
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
    /// The record's key.
    Key,
    /// Somewhere else: a header, a subject, a function of the user's.
    Bytes(Box<[u8]>),
}

impl Arrived {
    pub(crate) fn new(owner: Owner, fetched: Fetched, aggregate: Aggregate, parsed: Option<Parsed>) -> Self {
        let Fetched { offset, record, redeliveries, .. } = fetched;
        let envelope = OnceLock::new();
        if let Some(parsed) = parsed {
            let _ = envelope.set(parsed);
        }
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
            cancellation: None,
        })
    }

    fn inner(&self) -> &Arrived {
        &self.arrived[self.index as usize]
    }

    pub(crate) fn begin_attempt(&mut self, deadline: Option<Instant>) {
        self.attempt = self.attempt.saturating_add(1);
        self.deadline = deadline;
        // Once there is a later one, every attempt has one.
        if let Some(later) = self.assignment().later() {
            self.cancellation = Some(later);
        }
    }

    /// The attempt that was begun last counts for nothing.
    pub(crate) fn withdraw_attempt(&mut self) {
        self.attempt = self.attempt.saturating_sub(1);
    }

    /// What its bytes are, where that was not looked for before it came to its worker.
    pub(crate) fn set_envelope(&self, parsed: Parsed) {
        let is_first = self.inner().envelope.set(parsed).is_ok();
        debug_assert!(is_first, "a record is parsed once");
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
    pub fn topic(&self) -> &str {
        &self.assignment().topic
    }

    /// The partition of the topic; 0 where the broker has none.
    pub fn partition(&self) -> u32 {
        self.assignment().id.partition
    }

    /// The record's place in its partition (on a stream, its sequence).
    pub fn offset(&self) -> u64 {
        self.inner().offset
    }

    /// The record's key, as the broker carries it.
    pub fn key(&self) -> Option<&[u8]> {
        self.inner().record.key()
    }

    /// The record's bytes, untouched.
    pub fn value(&self) -> &[u8] {
        self.inner().record.value()
    }

    /// The record's headers, in order.
    pub fn headers(&self) -> &Headers {
        self.inner().record.headers()
    }

    /// When the record was made, as its publisher said.
    pub fn timestamp(&self) -> SystemTime {
        self.inner().record.timestamp()
    }

    /// What the record is ordered by, as text; none: it has no order, or what orders it is no text (a key of other bytes,
    /// which [`key`](Self::key) has).
    pub fn aggregate_id(&self) -> Option<&str> {
        std::str::from_utf8(self.ordered_by()?).ok()
    }

    /// What the record is ordered by.
    fn ordered_by(&self) -> Option<&[u8]> {
        match &self.inner().aggregate {
            Aggregate::None => None,
            Aggregate::Envelope => Some(self.inner().envelope.get()?.aggregate_id(self.value()).as_bytes()),
            Aggregate::Key => self.key(),
            Aggregate::Bytes(bytes) => Some(bytes),
        }
    }

    /// Which attempt this is, from 1, counted since the record was delivered to this program.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// How often the broker had handed the record out before, as far as it knows.
    pub fn redeliveries(&self) -> u32 {
        self.inner().redeliveries
    }

    /// When an async handler is stopped, whether it is ready or not. None: never, or the handler blocks.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// A number that grows with each owner of the record's partition, to guard a write with: where the number of the last
    /// write is kept beside what was written, and a write with a lower one is refused, a handler that goes on after its
    /// member has lost the partition changes nothing.
    ///
    /// It compares within a topic, a partition and a group. In memory it is the group's own count; on Kafka the generation
    /// of the group (the epoch of the member with KIP-848) in which the partition came, which begins anew when the group is
    /// deleted; on JetStream the sequence under which the topic's lease was taken, which begins anew when the stream
    /// `KEYLANE_LEASES` is deleted. None where the broker has no such number.
    ///
    /// ```
    /// use keylane::{Event, HandlerError};
    ///
    /// fn book(event: &Event, execute: impl Fn(&str, u64) -> Result<u64, HandlerError>) -> Result<(), HandlerError> {
    ///     let fence = event.fence().ok_or_else(|| HandlerError::terminal("a broker without a fence"))?;
    ///     match execute("UPDATE balance SET cents = cents - 995, fence = $1 WHERE id = 7 AND fence <= $1", fence)? {
    ///         0 => Err("another owner has written".into()),
    ///         _ => Ok(()),
    ///     }
    /// }
    /// ```
    pub fn fence(&self) -> Option<u64> {
        self.assignment().fence
    }

    /// Tells when the result is not wanted any more.
    ///
    /// ```
    /// use keylane::{Event, HandlerError};
    ///
    /// fn report(event: &Event) -> Result<(), HandlerError> {
    ///     for page in event.value().chunks(4096) {
    ///         if event.cancellation().is_cancelled() {
    ///             return Err("the partition has gone, or the program ends".into());
    ///         }
    ///         std::io::Write::write_all(&mut std::io::stdout(), page)?;
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub fn cancellation(&self) -> &Cancellation {
        self.cancellation.as_ref().unwrap_or_else(|| &self.assignment().cancellation)
    }

    /// Whether the record is an Envelope.
    pub fn is_envelope(&self) -> bool {
        self.inner().envelope.get().is_some()
    }

    /// The Envelope that the record is, borrowed from its bytes; parsed once, before the handler.
    pub fn envelope(&self) -> Option<Envelope<'_>> {
        Some(self.inner().envelope.get()?.view(self.value()))
    }

    pub(crate) fn record(&self) -> &FetchedRecord {
        &self.inner().record
    }

    pub(crate) fn place(&self) -> Place {
        Place {
            topic: self.topic().to_owned(),
            partition: self.partition(),
            offset: self.offset(),
            key: self.ordered_by().map(key_text),
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
