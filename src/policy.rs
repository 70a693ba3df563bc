//! What a failure leads to, as data: one [`FailurePolicy`] per subscription.

use std::ops::Range;
use std::time::Duration;
use thiserror::Error;

/// The longest delay that a policy takes: seven days. Beyond it a timer is a mistake in the unit, and the sum with a
/// point in time could overflow.
const LONGEST_DELAY: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What a failed record of one subscription leads to: first attempts, then an outcome.
///
/// While a record waits for its next attempt, the later records of its key wait behind it and every other key goes
/// on. A shutdown, a drain and a rebalance are never counted as an attempt.
///
/// ```
/// use keylane::{DeadLetter, FailurePolicy, Retry, Then};
/// use std::time::Duration;
///
/// let policy = FailurePolicy {
///     retry: Retry::exponential(Duration::from_millis(100)..Duration::from_secs(30)).attempts(5),
///     then: Then::from(DeadLetter::to("orders.dead")),
/// };
/// assert!(policy.validate().is_ok());
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct FailurePolicy {
    /// How often a record is tried, and how long it waits in between.
    pub retry: Retry,
    /// What happens when the attempts are used up, or at once after a terminal failure.
    pub then: Then,
}

impl FailurePolicy {
    /// The default for Envelopes: retried for ever ([`Retry::forever`]), and held after a terminal failure, so that
    /// nothing is lost, nothing is out of order, and what waits is visible.
    ///
    /// ```
    /// use keylane::{FailurePolicy, Then};
    ///
    /// let policy = FailurePolicy::for_envelopes();
    /// assert_eq!(policy.retry.attempts, None);
    /// assert_eq!(policy.then, Then::Hold);
    /// ```
    pub fn for_envelopes() -> Self {
        Self { retry: Retry::forever(), then: Then::Hold }
    }

    /// The default for plain records: tried once, then settled whatever the outcome, so that a failure never blocks.
    ///
    /// ```
    /// use keylane::{FailurePolicy, Then};
    ///
    /// let policy = FailurePolicy::for_plain();
    /// assert_eq!(policy.retry.attempts, Some(1));
    /// assert_eq!(policy.then, Then::Discard);
    /// ```
    pub fn for_plain() -> Self {
        Self { retry: Retry::none(), then: Then::Discard }
    }

    /// Checks every value; a subscription does this when it is built, before any I/O.
    ///
    /// Whether the backend can do what [`then`](Self::then) asks for is not known here: the subscription checks it.
    ///
    /// # Errors
    /// The first value that is out of its range, with its field, what it is and what was expected:
    ///
    /// ```
    /// use keylane::{FailurePolicy, Retry, Then};
    ///
    /// let policy = FailurePolicy { retry: Retry::forever().attempts(0), then: Then::Hold };
    /// let error = policy.validate().unwrap_err();
    /// assert_eq!(error.field(), "retry.attempts");
    /// assert_eq!(
    ///     error.to_string(),
    ///     "retry.attempts is 0: expected at least 1, the first attempt is counted"
    /// );
    /// ```
    pub fn validate(&self) -> Result<(), PolicyError> {
        let Retry { attempts, initial, max, factor, jitter: _ } = self.retry;
        if attempts == Some(0) {
            return Err(PolicyError::new(
                "retry.attempts",
                "0".to_owned(),
                "at least 1, the first attempt is counted",
            ));
        }
        if initial.is_zero() {
            let expected = "more than zero, or a failing record would be tried again without a pause";
            return Err(PolicyError::new("retry.initial", format!("{initial:?}"), expected));
        }
        if max < initial {
            let found = format!("{max:?} with an initial delay of {initial:?}");
            return Err(PolicyError::new("retry.max", found, "at least the initial delay"));
        }
        if max > LONGEST_DELAY {
            return Err(PolicyError::new("retry.max", format!("{max:?}"), "at most seven days"));
        }
        if !(factor.is_finite() && factor >= 1.0) {
            return Err(PolicyError::new(
                "retry.factor",
                factor.to_string(),
                "a finite number of at least 1",
            ));
        }
        match &self.then {
            Then::DeadLetter(DeadLetter { topic }) if topic.trim().is_empty() => {
                Err(PolicyError::new("then.topic", format!("{topic:?}"), "the name of a topic"))
            }
            Then::Redeliver { delay } if delay.is_zero() => {
                let expected = "more than zero, or a failing record would come again without a pause";
                Err(PolicyError::new("then.delay", format!("{delay:?}"), expected))
            }
            Then::Redeliver { delay } if *delay > LONGEST_DELAY => {
                Err(PolicyError::new("then.delay", format!("{delay:?}"), "at most seven days"))
            }
            _ => Ok(()),
        }
    }
}

/// How often a failed record is tried again, and how long its key waits in between.
///
/// The delay after the n-th failed attempt is `min(max, initial * factor^(n-1))`, and with [`Jitter::Full`] a random
/// part of that. Values are checked by [`FailurePolicy::validate`], not here.
///
/// ```
/// use keylane::{Jitter, Retry};
/// use std::time::Duration;
///
/// let retry = Retry::exponential(Duration::from_millis(50)..Duration::from_secs(5))
///     .attempts(4)
///     .factor(3.0)
///     .jitter(Jitter::None);
/// assert_eq!(retry.attempts, Some(4));
/// assert_eq!(retry.max, Duration::from_secs(5));
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Retry {
    /// How often a record is tried in total, the first attempt counted; `None` is for ever. Zero is refused.
    pub attempts: Option<u32>,
    /// The delay after the first failed attempt, before jitter. More than zero.
    pub initial: Duration,
    /// The longest delay, before jitter. From `initial` to seven days.
    pub max: Duration,
    /// By how much the delay grows from one attempt to the next. Finite, at least 1; 2 by default.
    pub factor: f64,
    /// How much of a delay is random; [`Jitter::Full`] by default.
    pub jitter: Jitter,
}

impl Retry {
    /// One attempt and no other.
    ///
    /// ```
    /// assert_eq!(keylane::Retry::none().attempts, Some(1));
    /// ```
    pub const fn none() -> Self {
        Self::forever().attempts(1)
    }

    /// Attempts without end, after 100 ms at first and at most 30 s, doubling, with full jitter.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let retry = keylane::Retry::forever();
    /// assert_eq!(retry.attempts, None);
    /// assert_eq!((retry.initial, retry.max), (Duration::from_millis(100), Duration::from_secs(30)));
    /// ```
    pub const fn forever() -> Self {
        Self::exponential(Duration::from_millis(100)..Duration::from_secs(30))
    }

    /// Attempts without end whose delays grow from the start of the range to its end, doubling, with full jitter.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let retry = keylane::Retry::exponential(Duration::from_millis(10)..Duration::from_secs(1)).attempts(3);
    /// assert_eq!(retry.initial, Duration::from_millis(10));
    /// assert_eq!(retry.factor, 2.0);
    /// ```
    pub const fn exponential(delays: Range<Duration>) -> Self {
        Self { attempts: None, initial: delays.start, max: delays.end, factor: 2.0, jitter: Jitter::Full }
    }

    /// The same with `attempts` attempts in total, the first one counted. Zero is refused when the subscription is
    /// built.
    ///
    /// ```
    /// assert_eq!(keylane::Retry::forever().attempts(5).attempts, Some(5));
    /// ```
    #[must_use]
    pub const fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = Some(attempts);
        self
    }

    /// The same with delays that grow by `factor`; 1 keeps them equal.
    ///
    /// ```
    /// assert_eq!(keylane::Retry::forever().factor(1.5).factor, 1.5);
    /// ```
    #[must_use]
    pub const fn factor(mut self, factor: f64) -> Self {
        self.factor = factor;
        self
    }

    /// The same with another jitter.
    ///
    /// ```
    /// use keylane::{Jitter, Retry};
    ///
    /// assert_eq!(Retry::forever().jitter(Jitter::None).jitter, Jitter::None);
    /// ```
    #[must_use]
    pub const fn jitter(mut self, jitter: Jitter) -> Self {
        self.jitter = jitter;
        self
    }
}

/// How much of a delay is random.
///
/// ```
/// use keylane::{Jitter, Retry};
///
/// assert_eq!(Retry::forever().jitter, Jitter::Full);
/// let config = keylane::Config::from_toml("subscription.retry.jitter = 'none'")?;
/// assert_eq!(config.subscription.retry.jitter, Jitter::None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Jitter {
    /// A delay is drawn evenly between zero and its full length, so that keys that failed together do not come back
    /// together.
    Full,
    /// A delay has its full length, always.
    None,
}

/// What happens to a record when its attempts are used up, or at once after a terminal failure.
///
/// Bytes that are no valid Envelope follow it too, with one exception that is told at [`Then::Redeliver`].
///
/// ```
/// use keylane::{DeadLetter, Then};
///
/// assert_eq!(Then::from(DeadLetter::to("orders.dead")), Then::DeadLetter(DeadLetter::to("orders.dead")));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Then {
    /// Written to another topic; the key waits until the broker acknowledged it, however long that takes.
    DeadLetter(DeadLetter),
    /// The key stays held and its record unsettled until an operator retries, dead-letters or skips it. Others go
    /// on, up to the limits on what is in flight.
    Hold,
    /// Settled, counted and logged: the record is lost by choice.
    Discard,
    /// The subscription stops with the error; the record stays unsettled.
    Halt,
    /// Given back to the broker, to be delivered again after a delay.
    ///
    /// This **gives up the order of the key**: its later records go on meanwhile. A backend that cannot do it
    /// (Kafka) refuses it at subscribe. Bytes that are no valid Envelope are held instead: they would come back the
    /// same for ever.
    Redeliver {
        /// How long the broker keeps the record back. More than zero, at most seven days.
        delay: Duration,
    },
}

impl From<DeadLetter> for Then {
    fn from(dead_letter: DeadLetter) -> Self {
        Self::DeadLetter(dead_letter)
    }
}

/// Where records go that could not be handled: original bytes, key and headers, plus headers that say why.
///
/// ```
/// use keylane::{Config, DeadLetter, Envelope, HandlerError, memory::MemoryBroker};
///
/// let broker = MemoryBroker::builder().topic("orders").topic("orders.dead").build();
/// let bus = broker.connect(Config::default())?;
/// let orders = bus
///     .subscribe_envelopes("orders")
///     .group("billing")
///     .then(DeadLetter::to("orders.dead"))
///     .handle(|_| Err(HandlerError::terminal("no such account")))?;
/// bus.publish("orders", Envelope::new("order-42", "order.paid", 1, "995")?).wait()?;
/// orders.caught_up().wait()?;
/// assert_eq!(broker.records("orders.dead")?[0].key.as_deref(), Some(&b"order-42"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The topic (stream subject, memory topic) that dead letters are written to; not blank.
    pub topic: String,
}

impl DeadLetter {
    /// Dead letters to this topic.
    ///
    /// ```
    /// assert_eq!(keylane::DeadLetter::to("orders.dead").topic, "orders.dead");
    /// ```
    pub fn to(topic: impl Into<String>) -> Self {
        Self { topic: topic.into() }
    }
}

/// A value of a [`FailurePolicy`] that is out of its range.
///
/// ```
/// use keylane::{DeadLetter, FailurePolicy, Retry};
///
/// let policy = FailurePolicy { retry: Retry::forever(), then: DeadLetter::to("").into() };
/// let error = policy.validate().unwrap_err();
/// assert_eq!(error.to_string(), r#"then.topic is "": expected the name of a topic"#);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{field} is {found}: expected {expected}")]
pub struct PolicyError {
    field: &'static str,
    found: String,
    expected: &'static str,
}

impl PolicyError {
    fn new(field: &'static str, found: String, expected: &'static str) -> Self {
        Self { field, found, expected }
    }

    /// The field that holds the value, as a path from the policy: `retry.attempts`.
    ///
    /// ```
    /// use keylane::{FailurePolicy, Retry, Then};
    ///
    /// let policy = FailurePolicy { retry: Retry::forever().factor(0.5), then: Then::Hold };
    /// assert_eq!(policy.validate().unwrap_err().field(), "retry.factor");
    /// ```
    pub fn field(&self) -> &'static str {
        self.field
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn refused(retry: Retry, then: Then) -> String {
        FailurePolicy { retry, then }.validate().expect_err("the policy is out of range").to_string()
    }

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(FailurePolicy::for_envelopes().validate(), Ok(()));
        assert_eq!(FailurePolicy::for_plain().validate(), Ok(()));
    }

    #[test]
    fn a_value_out_of_range_is_refused_with_its_field_and_what_was_expected() {
        let retry = Retry::forever();
        assert_eq!(
            refused(retry.attempts(0), Then::Hold),
            "retry.attempts is 0: expected at least 1, the first attempt is counted"
        );
        assert_eq!(
            refused(Retry::exponential(9 * MS..8 * MS), Then::Hold),
            "retry.max is 8ms with an initial delay of 9ms: expected at least the initial delay"
        );
        assert!(
            refused(Retry::exponential(Duration::ZERO..MS), Then::Hold).starts_with("retry.initial is 0ns: ")
        );
        assert!(refused(Retry::exponential(MS..Duration::MAX), Then::Hold).contains("at most seven days"));
        for factor in [0.99, 0.0, -2.0, f64::NAN, f64::INFINITY] {
            assert_eq!(
                refused(retry.factor(factor), Then::Hold),
                format!("retry.factor is {factor}: expected a finite number of at least 1")
            );
        }
        assert_eq!(
            refused(retry, DeadLetter::to(" ").into()),
            "then.topic is \" \": expected the name of a topic"
        );
        assert!(refused(retry, Then::Redeliver { delay: Duration::ZERO }).starts_with("then.delay is 0ns: "));
        assert!(refused(retry, Then::Redeliver { delay: Duration::MAX }).contains("at most seven days"));
    }

    #[test]
    fn the_bounds_themselves_are_accepted() {
        let policies = [
            (Retry::forever().attempts(1), Then::Halt),
            (Retry::forever().factor(1.0), Then::Discard),
            (Retry::exponential(MS..MS), Then::Redeliver { delay: Duration::from_nanos(1) }),
            (Retry::exponential(MS..LONGEST_DELAY), Then::Redeliver { delay: LONGEST_DELAY }),
        ];
        for (retry, then) in policies {
            let policy = FailurePolicy { retry, then };
            assert_eq!(policy.validate(), Ok(()), "{policy:?}");
        }
    }
}
