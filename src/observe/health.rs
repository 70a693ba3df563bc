//! What is wrong with a subscription just now. Nothing that stops progress is only a log line.

use std::fmt;
use std::time::Duration;

/// Where a record stands, as health, logs and operators name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Place {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// The offset (on a stream its sequence).
    pub offset: u64,
    /// What it is ordered by, bytes that are no text escaped; none for a record without an order, or where nobody can tell
    /// it any more.
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
///
/// fn alarm(problem: &Problem) -> Option<String> {
///     match problem {
///         Problem::Held { place, error, .. } => Some(format!("an operator has to look at {place}: {error}")),
///         Problem::Broker { .. } | Problem::Hung { .. } => Some(problem.to_string()),
///         _ => None,
///     }
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// A key waits for an operator.
    #[non_exhaustive]
    Held {
        /// Its first record.
        place: Place,
        /// Why its last attempt failed.
        error: String,
        /// For how long.
        age: Duration,
    },
    /// A key waits for its next attempt, or for its dead letter to be written.
    #[non_exhaustive]
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
    /// A handler, or the future that it returned, has been running for `hung_after` or longer. Later records of its key
    /// wait for it, and while it blocks its worker's thread the worker's other keys wait, too.
    #[non_exhaustive]
    Hung {
        /// The record that it handles.
        place: Place,
        /// For how long it has been running.
        age: Duration,
    },
    /// As many records or bytes as allowed are in flight, or a partition is as far beyond its watermark as allowed:
    /// nothing is fetched until this record is over.
    #[non_exhaustive]
    WindowFull {
        /// The oldest record that is not over.
        place: Place,
        /// For how long.
        age: Duration,
    },
    /// Records were gone from the log before a handler saw them, or the log is another one than the group's position was
    /// taken in. Shown for an hour, or until
    /// [`Subscription::acknowledge_lost`](crate::Subscription::acknowledge_lost).
    #[non_exhaustive]
    Lost {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// The first and the last offset that are gone; none where nobody can say which they were.
        offsets: Option<(u64, u64)>,
        /// How many records no handler saw, since it was acknowledged.
        records: u64,
        /// What happened to the log.
        reason: String,
        /// Since it was last seen.
        age: Duration,
    },
    /// The group has not been heard of for so long that another member may own the partitions by now. Nothing starts,
    /// what waits keeps its order, and it goes on when the group is heard of again and has taken nothing away.
    #[non_exhaustive]
    LeaseOver {
        /// For how long nothing has started.
        age: Duration,
    },
    /// The broker does not answer.
    #[non_exhaustive]
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
            Self::Lost { topic, partition, offsets, records, reason, age } => {
                write!(f, "`{topic}`/{partition} lost {records} records")?;
                if let Some((first, last)) = offsets {
                    write!(f, ", offsets {first} to {last},")?;
                }
                write!(f, " {age:.1?} ago: {reason}")
            }
            Self::LeaseOver { age } => {
                write!(
                    f,
                    "nothing starts since {age:.1?}: the group was not heard of for so long that another member may \
                     own the partitions"
                )
            }
            Self::Broker { error, age } => write!(f, "the broker does not answer since {age:.1?}: {error}"),
        }
    }
}

/// The state of a subscription, and all that stops or slows it.
///
/// ```
/// use keylane::{Health, Status};
///
/// fn status_code(health: &Health) -> u16 {
///     match health.status {
///         Status::Halted(_) => 500,
///         _ if health.problems.is_empty() => 200,
///         _ => 503,
///     }
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// What it is doing.
    pub status: Status,
    /// What is wrong just now; empty is healthy.
    pub problems: Vec<Problem>,
}

impl Health {
    /// Whether it runs and nothing is wrong.
    pub fn is_healthy(&self) -> bool {
        self.problems.is_empty() && matches!(self.status, Status::Running)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(key: Option<&str>) -> Place {
        Place { topic: "orders".to_owned(), partition: 1, offset: 7, key: key.map(str::to_owned) }
    }

    #[test]
    fn a_problem_names_its_record_its_age_and_its_reason() {
        let (error, age) = ("no such account".to_owned(), Duration::from_millis(90_500));
        let place = || place(Some("order-42"));
        let at = "offset 7 of `orders`/1, key `order-42`";
        for (problem, text) in [
            (
                Problem::Held { place: place(), error: error.clone(), age },
                format!("{at} is held for an operator since 90.5s: no such account"),
            ),
            (
                Problem::Failing { place: place(), error: error.clone(), attempts: 3, age },
                format!("{at} fails since 90.5s (3 attempts): no such account"),
            ),
            (
                Problem::Hung { place: place(), age },
                format!("the handler of {at} has been running for 90.5s"),
            ),
            (
                Problem::WindowFull { place: place(), age },
                format!("nothing is fetched since 90.5s: the window is full behind {at}"),
            ),
            (
                Problem::Lost {
                    topic: "orders".to_owned(),
                    partition: 1,
                    offsets: Some((3, 9)),
                    records: 6,
                    reason: "retention took them".to_owned(),
                    age,
                },
                "`orders`/1 lost 6 records, offsets 3 to 9, 90.5s ago: retention took them".to_owned(),
            ),
            (
                Problem::LeaseOver { age },
                "nothing starts since 90.5s: the group was not heard of for so long that another member may own the \
                 partitions"
                    .to_owned(),
            ),
            (
                Problem::Broker { error, age },
                "the broker does not answer since 90.5s: no such account".to_owned(),
            ),
        ] {
            assert_eq!(problem.to_string(), text);
        }
    }

    #[test]
    fn a_record_without_a_key_says_so() {
        assert_eq!(place(None).to_string(), "offset 7 of `orders`/1, without a key");
    }

    #[test]
    fn only_what_runs_without_a_problem_is_healthy() {
        let health = |status, problems| Health { status, problems };
        let away = Problem::Broker { error: "away".to_owned(), age: Duration::ZERO };
        assert!(health(Status::Running, vec![]).is_healthy());
        assert!(!health(Status::Running, vec![away]).is_healthy());
        for status in [Status::Starting, Status::Paused, Status::Draining, Status::Closed] {
            assert!(!health(status, vec![]).is_healthy());
        }
    }
}
