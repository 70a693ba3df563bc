//! What keeps publishes waiting, and how it is told.

use super::under_way::{Publish, UnderWay};
use super::{Inner, Publisher};
use crate::foreign;
use std::time::{Duration, Instant};

/// How long a publish is unanswered before it is said: then after 2, 4, 8, ... times as long.
const TELL_AFTER: Duration = Duration::from_secs(1);
/// How long a publish may be unanswered before it is a problem.
const PROBLEM_AFTER: Duration = Duration::from_secs(5);

/// What the publisher of a bus has under way just now, from [`Bus::publishing`](crate::Bus::publishing).
///
/// ```
/// # let bus = keylane::connect("memory:?topics=orders").wait()?;
/// bus.publish("orders", keylane::Record::new("paid")).wait()?;
/// let publishing = bus.publishing();
/// assert!(publishing.is_healthy() && publishing.unacknowledged == 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Publishing {
    /// Records that the broker was sent, or is to be sent again, and has not acknowledged.
    pub unacknowledged: u64,
    /// Records that wait for room.
    pub waiting_for_room: u64,
    /// Sends beyond the first of a record, so far.
    pub retried: u64,
    /// Records that are never sent, since their operations were dropped while they waited for room, so far.
    pub withdrawn: u64,
    /// The record that has been unacknowledged for longest.
    pub oldest: Option<Unacknowledged>,
}

impl Publishing {
    /// Whether no record has been unacknowledged for 5 s or longer.
    pub fn is_healthy(&self) -> bool {
        self.oldest.as_ref().is_none_or(|oldest| oldest.age < PROBLEM_AFTER)
    }
}

/// A record that the broker has not acknowledged, and why if that is known.
///
/// ```
/// use keylane::{Config, Record, memory::MemoryBroker};
///
/// let broker = MemoryBroker::builder().topic("orders").build();
/// let bus = broker.connect(Config::default())?;
/// broker.faults().pause_deliveries(true);
/// let publish = bus.publish("orders", Record::new("paid").with_key("order-42"));
/// let oldest = bus.publishing().oldest.expect("it is under way");
/// assert_eq!((&oldest.topic[..], oldest.key.as_deref()), ("orders", Some("order-42")));
/// assert!(oldest.error.is_some_and(|error| error.contains("unreachable")));
/// # broker.faults().pause_deliveries(false);
/// # publish.wait()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unacknowledged {
    /// Where it is published.
    pub topic: String,
    /// Its key, as text.
    pub key: Option<String>,
    /// Since it was published.
    pub age: Duration,
    /// What the last try failed with; none: the broker has not answered.
    pub error: Option<String>,
}

/// Says that records were withdrawn, at the first and whenever there are twice as many in all.
pub(super) fn tell_withdrawn(now: u64, all: u64) {
    if now > 0 && all.ilog2() != (all - now).checked_ilog2().unwrap_or(u32::MAX) {
        foreign::warn!(
            withdrawn = all,
            "records are not sent: their operations were dropped while they waited for room; wait for the operation, or \
             use `send`, which is over when there was room"
        );
    }
}

/// When the oldest publish is spoken of next.
pub(super) struct Telling {
    after: Duration,
}

impl Default for Telling {
    fn default() -> Self {
        Self { after: TELL_AFTER }
    }
}

impl Publish {
    fn unacknowledged(&self, now: Instant) -> Unacknowledged {
        Unacknowledged {
            topic: self.topic.to_string(),
            key: self.record.key.as_deref().map(|key| String::from_utf8_lossy(key).into_owned()),
            age: now.saturating_duration_since(self.since),
            error: self.error.clone(),
        }
    }
}

impl Inner {
    pub(super) fn publishing(&self) -> Publishing {
        let (state, now) = (self.state.lock(), self.clock.now());
        Publishing {
            unacknowledged: state.line.records() as u64,
            waiting_for_room: state.line.waiting() as u64,
            retried: self.retried(),
            withdrawn: state.withdrawn,
            oldest: state.oldest().map(|publish| publish.unacknowledged(now)),
        }
    }
}

impl Publisher {
    /// What the last try of a record for this topic failed with that is still to be stored, the oldest of them.
    pub(crate) fn trouble_with(&self, topic: &str) -> Option<String> {
        let state = self.0.state.lock();
        state
            .publishes
            .values()
            .filter(|publish| *publish.topic == *topic)
            .find_map(|publish| publish.error.clone())
    }
}

impl UnderWay {
    /// What was published first is also admitted first.
    fn oldest(&self) -> Option<&Publish> {
        self.publishes.first_key_value().map(|(_, publish)| publish)
    }

    /// Says what has not been acknowledged for long, and for how long; and when to look again.
    pub(super) fn tell_of_trouble(&self, now: Instant, telling: &mut Telling) -> Option<Instant> {
        let oldest = self.oldest()?;
        let age = now.saturating_duration_since(oldest.since);
        if age < TELL_AFTER {
            telling.after = TELL_AFTER;
        } else if age >= telling.after {
            telling.after = age.saturating_mul(2);
            let Unacknowledged { topic, key, error, .. } = oldest.unacknowledged(now);
            let publishes = self.publishes.len();
            foreign::warn!(topic, key, ?age, error, publishes, "publishes wait for the broker");
        }
        oldest.since.checked_add(telling.after)
    }
}
