//! After a client that has failed for good, when the next one is made: a state machine without a client or a clock.
//!
//! Where two members have one `group.instance.id` the group takes the later one and throws the other out, whose next client
//! would be the later one: they would throw each other out for ever. So who was thrown out waits until the other has gone.

use rdkafka::error::RDKafkaErrorCode;
use std::time::Duration;

/// Why a client is of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// Another member has joined with this one's name, and the group has thrown this one out.
    Fenced,
    /// Another member has this one's name, and the group has not taken this one.
    Unreleased,
    Other,
}

/// The rest after the first failure, and the longest.
const fn rests(failure: Failure) -> (Duration, Duration) {
    match failure {
        Failure::Fenced => (Duration::from_secs(5), Duration::from_secs(300)),
        // After a crash the brokers keep the name for as long as a session lasts.
        Failure::Unreleased => (Duration::from_secs(2), Duration::from_secs(10)),
        Failure::Other => (Duration::from_secs(1), Duration::from_secs(30)),
    }
}

/// A client that lived for so long was no failure of the ones before it.
const LASTING: Duration = Duration::from_secs(60);

impl Failure {
    pub(super) fn of(code: RDKafkaErrorCode) -> Self {
        match code {
            RDKafkaErrorCode::FencedInstanceId => Self::Fenced,
            RDKafkaErrorCode::UnreleasedInstanceId => Self::Unreleased,
            _ => Self::Other,
        }
    }

    /// What a person is told, and can do.
    pub(super) fn explain(self, reason: &str, group: &str, instance: Option<&str>) -> String {
        let instance = instance.unwrap_or("?");
        let advice = "only one may have it at a time: give each instance its own, or stop the other one";
        match self {
            Self::Fenced => format!(
                "another member of group `{group}` joined with `group.instance.id` = `{instance}` and took the place of \
                 this one, which waits until the other has gone; {advice} ({reason})"
            ),
            Self::Unreleased => format!(
                "another member of group `{group}` has `group.instance.id` = `{instance}`, so this one is not taken; \
                 {advice}. After a crash it is free when the session of the one before is over ({reason})"
            ),
            Self::Other => reason.to_owned(),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Renewals {
    in_a_row: u32,
}

impl Renewals {
    /// A client has failed that lived for so long: how long to rest before the next one.
    pub(super) fn failed(&mut self, failure: Failure, lived: Duration) -> Duration {
        if lived >= LASTING {
            self.in_a_row = 0;
        }
        let (first, longest) = rests(failure);
        let rest = first.saturating_mul(1 << self.in_a_row.min(16)).min(longest);
        self.in_a_row += 1;
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_that_fail_in_a_row_are_made_less_and_less_often() {
        let (mut renewals, second) = (Renewals::default(), Duration::from_secs(1));
        let mut rest = |failure, lived: u32| renewals.failed(failure, lived * second).as_secs();
        assert_eq!([0; 7].map(|lived| rest(Failure::Other, lived)), [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(
            [3_600, 2, 2].map(|lived| rest(Failure::Fenced, lived)),
            [5, 10, 20],
            "one lived for long"
        );
        assert_eq!([60, 0, 0, 0, 0].map(|lived| rest(Failure::Unreleased, lived)), [2, 4, 8, 10, 10]);
        assert_eq!((0..99).map(|_| rest(Failure::Fenced, 0)).last(), Some(300));
    }

    #[test]
    fn what_a_person_reads_names_the_instance_the_group_and_what_to_do() {
        for failure in [Failure::Fenced, Failure::Unreleased] {
            let text = failure.explain("Broker: said so", "billing", Some("node-7"));
            for part in
                ["`billing`", "`group.instance.id` = `node-7`", "give each instance its own", "said so"]
            {
                assert!(text.contains(part), "{text}");
            }
        }
        assert_eq!(Failure::Other.explain("Broker: said so", "billing", None), "Broker: said so");
        assert_eq!(Failure::of(RDKafkaErrorCode::FencedInstanceId), Failure::Fenced);
        assert_eq!(Failure::of(RDKafkaErrorCode::UnreleasedInstanceId), Failure::Unreleased);
        assert_eq!(Failure::of(RDKafkaErrorCode::InvalidRequest), Failure::Other);
    }
}
