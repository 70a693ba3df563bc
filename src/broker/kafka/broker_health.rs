//! Whether the brokers answer: what is heard of errors, and what asking them says. A state machine without a client or a
//! clock in it.

use std::time::{Duration, Instant};

/// How long after an error of a connection the brokers are asked, and how long between two askings while they do not
/// answer.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// What an error says about the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A connection: another one may be there, so the brokers are asked before anything is said.
    Connection,
    /// All connections at once, which says less than what was heard of each.
    Connections,
    /// This user or this topic is refused: over when an asking succeeds.
    Refused,
    /// The group does not take this member, which asking does not show.
    Group,
}

/// What shows that something works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    /// The brokers answered when they were asked.
    Answer,
    /// The group, or the topics, gave what was wanted: partitions, records, a commit.
    Work,
}

#[derive(Debug, Default)]
pub(super) struct BrokerHealth {
    suspected: Option<String>,
    known: Option<(Kind, String)>,
    ask_at: Option<Instant>,
}

impl BrokerHealth {
    /// An error was heard of.
    pub(super) fn heard(&mut self, kind: Kind, reason: &str, now: Instant) {
        match kind {
            Kind::Group => return self.known = Some((kind, reason.to_owned())),
            Kind::Refused => self.known = Some((kind, reason.to_owned())),
            Kind::Connection if self.known.is_none() => self.suspected = Some(reason.to_owned()),
            Kind::Connections if self.known.is_none() => {
                self.suspected.get_or_insert_with(|| reason.to_owned());
            }
            Kind::Connection | Kind::Connections => {}
        }
        self.ask_at.get_or_insert(now);
    }

    /// When the brokers are to be asked.
    pub(super) fn ask_at(&self) -> Option<Instant> {
        self.ask_at
    }

    /// Asking them failed.
    pub(super) fn unanswered(&mut self, reason: &str, now: Instant) {
        let reason = match self.suspected.take() {
            Some(suspected) if suspected != reason => format!("{reason}; before that: {suspected}"),
            Some(_) | None => reason.to_owned(),
        };
        // What was said first says most.
        self.known.get_or_insert((Kind::Connection, reason));
        self.ask_at = Some(now + ASK_EVERY);
    }

    /// Something works.
    pub(super) fn works(&mut self, sign: Sign) {
        match (&self.known, sign) {
            (Some((Kind::Group, _)), Sign::Answer) => (self.suspected, self.ask_at) = (None, None),
            // A suspicion is about one of many connections, and records may come by another.
            (None, Sign::Work) => {}
            (_, Sign::Work | Sign::Answer) => *self = Self::default(),
        }
    }

    /// Why nothing goes on, if that is so.
    pub(super) fn reason(&self) -> Option<&str> {
        self.known.as_ref().map(|(_, reason)| reason.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_lost_connection_is_no_trouble_if_the_brokers_answer() {
        let (mut health, now) = (BrokerHealth::default(), Instant::now());
        health.heard(Kind::Connection, "b:9092 hung up", now);
        assert_eq!((health.ask_at(), health.reason()), (Some(now), None));
        health.works(Sign::Answer);
        assert_eq!((health.ask_at(), health.reason()), (None, None));
    }

    #[test]
    fn brokers_that_do_not_answer_are_trouble_until_they_do() {
        let (mut health, now) = (BrokerHealth::default(), Instant::now());
        health.heard(Kind::Connection, "refused", now);
        health.unanswered("no answer", now);
        assert_eq!(health.reason(), Some("no answer; before that: refused"));
        assert_eq!(health.ask_at(), Some(now + ASK_EVERY));
        health.unanswered("no answer", now);
        health.works(Sign::Answer);
        assert_eq!((health.ask_at(), health.reason()), (None, None));
    }

    #[test]
    fn that_all_are_down_hides_no_reason() {
        let (mut health, now) = (BrokerHealth::default(), Instant::now());
        health.heard(Kind::Connections, "all are down", now);
        health.heard(Kind::Connection, "connection refused", now);
        health.heard(Kind::Connections, "all are down", now);
        assert_eq!((health.ask_at(), health.reason()), (Some(now), None));
        health.unanswered("no answer", now);
        assert_eq!(health.reason(), Some("no answer; before that: connection refused"));
    }

    #[test]
    fn a_refusal_is_said_at_once() {
        let (mut health, now) = (BrokerHealth::default(), Instant::now());
        health.heard(Kind::Refused, "wrong password", now);
        assert_eq!((health.ask_at(), health.reason()), (Some(now), Some("wrong password")));
        health.unanswered("no answer", now);
        assert_eq!(health.reason(), Some("wrong password"), "what was said first says most");
        health.works(Sign::Answer);
        assert_eq!((health.ask_at(), health.reason()), (None, None));
    }

    #[test]
    fn what_the_group_refuses_is_over_when_the_group_works() {
        let (mut health, now) = (BrokerHealth::default(), Instant::now());
        health.heard(Kind::Group, "not authorized", now);
        health.works(Sign::Answer);
        assert_eq!(health.reason(), Some("not authorized"));
        health.works(Sign::Work);
        assert_eq!((health.ask_at(), health.reason()), (None, None));
    }

    #[test]
    fn records_do_not_hide_a_suspicion() {
        let (mut health, now) = (BrokerHealth::default(), Instant::now());
        health.heard(Kind::Connection, "b:9092 hung up", now);
        health.works(Sign::Work);
        assert_eq!(health.ask_at(), Some(now));
    }
}
