//! What is wrong with a subscription just now. Nothing that stops progress is only a log line.

use std::fmt;
use std::time::Duration;

/// Where a record stands, as health, logs and operators name it.
///
/// ```
/// use keylane::Place;
///
/// let place = Place { topic: "orders".to_owned(), partition: 1, offset: 7, key: Some("order-42".to_owned()) };
/// assert_eq!(place.to_string(), "offset 7 of `orders`/1, key `order-42`");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// The offset (on a stream its sequence).
    pub offset: u64,
    /// The aggregate id; none for a record without one, or where nobody can tell it any more.
    pub key: Option<String>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "offset {} of `{}`/{}", self.offset, self.topic, self.partition)?;
        match &self.key {
            Some(key) => write!(f, ", key `{key}`"),
            None => f.write_str(", without a key"),
        }
    }
}

/// What a subscription is doing.
///
/// ```
/// use keylane::Status;
///
/// # let bus = keylane::connect("memory:?topics=orders").wait()?;
/// let orders = bus.subscribe("orders").group("billing").handle(|_| Ok(()))?;
/// orders.ready().wait()?;
/// assert_eq!(orders.health().status, Status::Running);
/// orders.drain(std::time::Duration::from_secs(10)).wait();
/// assert_eq!(orders.health().status, Status::Closed);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// It has not joined its group yet.
    Starting,
    /// It takes records and handles them.
    Running,
    /// It was told to take no records for now.
    Paused,
    /// It takes no more records and ends when what runs is over.
    Draining,
    /// It has stopped by its policy (`Halt`); the text is the error.
    Halted(String),
    /// It has ended.
    Closed,
}

/// Something that stops or slows progress.
///
/// ```
/// use keylane::Problem;
/// # use keylane::{Envelope, HandlerError};
/// # let bus = keylane::connect("memory:?topics=orders,orders.dead").wait()?;
/// # let orders = bus.subscribe_envelopes("orders").group("billing").handle(|event| {
/// #     if event.attempt() == 1 { Err(HandlerError::terminal("no such account")) } else { Ok(()) }
/// # })?;
/// # bus.publish("orders", Envelope::new("order-42", "order.paid", 1, "995")?).wait()?;
///
/// bus.settled().wait()?;
/// let problems = orders.health().problems;
/// let Some(Problem::Held { place, error, .. }) = problems.first() else { panic!("{problems:?}") };
/// assert_eq!((place.key.as_deref(), &error[..]), (Some("order-42"), "no such account"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// A key waits for an operator.
    Held {
        /// Its first record.
        place: Place,
        /// Why its last attempt failed.
        error: String,
        /// For how long.
        age: Duration,
    },
    /// A key waits for its next attempt, or for its dead letter to be written.
    Failing {
        /// Its first record.
        place: Place,
        /// Why its last attempt failed.
        error: String,
        /// Attempts so far.
        attempts: u32,
        /// Since the first failure.
        age: Duration,
    },
    /// A blocking handler runs for longer than `hung_after`; its worker's other keys wait for it.
    Hung {
        /// The record that it handles.
        place: Place,
        /// For how long it has been running.
        age: Duration,
    },
    /// As many records or bytes as allowed are in flight, or a partition is as far beyond its watermark as allowed:
    /// nothing is fetched until this record is over.
    WindowFull {
        /// The oldest record that is not over.
        place: Place,
        /// For how long.
        age: Duration,
    },
    /// The broker does not answer.
    Broker {
        /// What it said last.
        error: String,
        /// For how long.
        age: Duration,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held { place, error, age } => {
                write!(f, "{place} is held for an operator since {age:.1?}: {error}")
            }
            Self::Failing { place, error, attempts, age } => {
                write!(f, "{place} fails since {age:.1?} ({attempts} attempts): {error}")
            }
            Self::Hung { place, age } => write!(f, "the handler of {place} has been running for {age:.1?}"),
            Self::WindowFull { place, age } => {
                write!(f, "nothing is fetched since {age:.1?}: the window is full behind {place}")
            }
            Self::Broker { error, age } => write!(f, "the broker does not answer since {age:.1?}: {error}"),
        }
    }
}

/// The state of a subscription, and all that stops or slows it.
///
/// ```
/// use keylane::{Health, Problem, Status};
///
/// fn status_code(health: &Health) -> u16 {
///     let is_broken = matches!(health.status, Status::Halted(_)) || !health.problems.is_empty();
///     if is_broken { 503 } else { 200 }
/// }
/// let mut health = Health { status: Status::Running, problems: Vec::new() };
/// assert_eq!(status_code(&health), 200);
/// health.status = Status::Halted("no such account".to_owned());
/// assert_eq!(status_code(&health), 503);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// What it is doing.
    pub status: Status,
    /// What is wrong just now; empty is healthy.
    pub problems: Vec<Problem>,
}

impl Health {
    /// Whether it runs and nothing is wrong.
    ///
    /// ```
    /// use keylane::{Health, Status};
    ///
    /// assert!(Health { status: Status::Running, problems: vec![] }.is_healthy());
    /// assert!(!Health { status: Status::Paused, problems: vec![] }.is_healthy(), "it does not run");
    /// ```
    pub fn is_healthy(&self) -> bool {
        self.problems.is_empty() && matches!(self.status, Status::Running)
    }
}
