//! How long a member of a group waits for brokers that may never answer: as long as is usual, and not beyond what the
//! caller of a drain or a close has given.

use crate::wait::after;
use std::time::{Duration, Instant};

/// How long a commit is waited for.
const COMMIT: Duration = Duration::from_secs(5);
/// How long leaving the group is waited for; it goes on by itself.
const LEAVE: Duration = Duration::from_secs(3);
/// What brokers that answer need, and have also where the caller's time is up: all commits of a member together, and then
/// its leaving.
const LAST: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Patience {
    /// Up to where the caller's time goes, once somebody waits for the end.
    until: Option<Instant>,
}

impl Patience {
    /// Somebody waits for the end until then. A limit that was shorter stays.
    pub(super) fn hurry(&mut self, until: Instant) {
        self.until = Some(self.until.map_or(until, |before| before.min(until)));
    }

    /// What is left of the caller's time; all of it where nobody waits.
    fn left(&self, now: Instant) -> Duration {
        self.until.map_or(Duration::MAX, |until| until.saturating_duration_since(now))
    }

    /// How long a commit is waited for that begins now.
    pub(super) fn commit(&self, now: Instant) -> Duration {
        // Many partitions that commit one after the other share the last of it.
        self.until.map_or(COMMIT, |until| after(until, LAST).saturating_duration_since(now).min(COMMIT))
    }

    /// How long the leaving of the group is waited for that begins now.
    pub(super) fn leave(&self, now: Instant) -> Duration {
        self.left(now).clamp(LAST, LEAVE)
    }

    /// Up to when it is worth a wait that a leaving ends that went on by itself, and may take so long.
    pub(super) fn left_behind(&self, now: Instant, limit: Duration) -> Instant {
        now + self.left(now).min(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn while_nobody_waits_the_usual_limits_hold() {
        let (patience, now) = (Patience::default(), Instant::now());
        assert_eq!((patience.commit(now), patience.leave(now)), (COMMIT, LEAVE));
        assert_eq!(patience.left_behind(now, 5 * SECOND), now + 5 * SECOND);
    }

    #[test]
    fn all_commits_of_a_close_end_with_its_limit_and_what_is_left_over_for_the_last() {
        let (mut patience, now) = (Patience::default(), Instant::now());
        patience.hurry(now + 2 * SECOND);
        patience.hurry(now + 9 * SECOND);
        assert_eq!(patience.commit(now), 2 * SECOND + LAST, "the shorter limit stays");
        assert_eq!(patience.commit(now + 2 * SECOND), LAST);
        assert_eq!(patience.commit(now + 2 * SECOND + LAST), Duration::ZERO, "the ones before had it");
    }

    #[test]
    fn leaving_has_what_is_left_and_never_nothing() {
        let (mut patience, now) = (Patience::default(), Instant::now());
        patience.hurry(now + 2 * SECOND);
        assert_eq!(patience.leave(now), 2 * SECOND);
        assert_eq!(patience.leave(now + 3 * SECOND), LAST);
        assert_eq!(patience.left_behind(now + SECOND, 5 * SECOND), now + 2 * SECOND);
        assert_eq!(patience.left_behind(now + 3 * SECOND, 5 * SECOND), now + 3 * SECOND);
    }

    #[test]
    fn a_caller_with_much_time_changes_nothing() {
        let (mut patience, now) = (Patience::default(), Instant::now());
        patience.hurry(now + 3_600 * SECOND);
        assert_eq!((patience.commit(now), patience.leave(now)), (COMMIT, LEAVE));
    }
}
