//! Whether a partition has stopped without a word: nothing arrives though the broker has more, or what was next is gone.

use std::time::{Duration, Instant};

/// How long nothing arrives before the broker is asked whether there is more.
const QUIET: Duration = Duration::from_secs(20);

/// How often a partition is asked about at most that hands out what it had handed out before, and how long it takes until
/// it is asked once more whether its log has ended.
const SUSPECT: Duration = Duration::from_secs(1);

/// What the broker's answer means for a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finding {
    Nothing,
    /// There is more: fetching is to begin anew.
    Stalled,
    /// What was next is gone, up to the first offset that is there.
    Gone,
    /// The log ends before what was next: it is another one, or was cut.
    Ended,
}

/// One partition as it is watched.
#[derive(Debug)]
pub(crate) struct Watch {
    since: Instant,
    asked: Option<Instant>,
    /// What should come next, beyond the end of the log as the last answer has it: a leader that was just elected may not
    /// know of all yet, so it counts when it is said again.
    ended: Option<u64>,
    /// The next offset and the end at which fetching was begun anew: what lies between may be no records at all (ends of
    /// transactions), so that is not done twice.
    begun_anew_at: Option<(u64, u64)>,
}

impl Watch {
    pub(crate) fn new(now: Instant) -> Self {
        Self { since: now, asked: None, ended: None, begun_anew_at: None }
    }

    /// Something arrived, or nothing is wanted: the partition is paused, or there is no room.
    pub(crate) fn is_alive(&mut self, now: Instant) {
        (self.since, self.ended) = (now, None);
    }

    /// Something arrived that had arrived before, which a log does that was cut or begun anew.
    pub(crate) fn is_suspect(&mut self, now: Instant) {
        let is_asked = self.asked.is_some_and(|asked| now.saturating_duration_since(asked) < SUSPECT);
        if let Some(long_ago) = now.checked_sub(QUIET).filter(|_| !is_asked) {
            self.since = self.since.min(long_ago);
        }
    }

    /// When the broker is to be asked.
    pub(crate) fn ask_at(&self) -> Instant {
        let rest = if self.ended.is_some() { SUSPECT } else { QUIET };
        self.since + rest
    }

    /// The broker's answer: the first offset that is there, and the one behind the last. `next` is what should come next.
    pub(crate) fn answered(&mut self, next: u64, (low, end): (u64, u64), now: Instant) -> Finding {
        (self.since, self.asked) = (now, Some(now));
        let was_ended = self.ended.take() == Some(next);
        if end < next {
            if was_ended {
                return Finding::Ended;
            }
            self.ended = Some(next);
            Finding::Nothing
        } else if low > next {
            Finding::Gone
        } else if end > next && self.begun_anew_at != Some((next, end)) {
            self.begun_anew_at = Some((next, end));
            Finding::Stalled
        } else {
            Finding::Nothing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_asked_about_when_it_was_quiet_for_long() {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        assert_eq!(watch.ask_at(), start + QUIET);
        watch.is_alive(start + QUIET / 2);
        assert_eq!(watch.ask_at(), start + QUIET / 2 + QUIET);
    }

    #[test]
    fn fetching_begins_anew_only_where_there_is_more() {
        let now = Instant::now();
        let mut watch = Watch::new(now);
        assert_eq!(watch.answered(7, (0, 7), now), Finding::Nothing, "all has arrived");
        assert_eq!(watch.answered(7, (0, 9), now), Finding::Stalled, "two are missing");
    }

    #[test]
    fn what_brought_nothing_is_not_done_again_until_there_is_more() {
        let now = Instant::now();
        let mut watch = Watch::new(now);
        assert_eq!(watch.answered(7, (0, 9), now), Finding::Stalled);
        assert_eq!(watch.answered(7, (0, 9), now), Finding::Nothing, "7 and 8 may be no records");
        assert_eq!(watch.answered(7, (0, 10), now), Finding::Stalled);
        assert_eq!(watch.answered(9, (0, 10), now), Finding::Stalled);
    }

    #[test]
    fn a_log_that_was_cut_or_has_lost_its_beginning_is_told_from_one_that_is_slow() {
        let now = Instant::now() + 2 * QUIET;
        let mut watch = Watch::new(now);
        assert_eq!(watch.answered(7, (0, 5), now), Finding::Nothing, "it is asked once more");
        assert!(watch.ask_at() <= now + SUSPECT);
        assert_eq!(watch.answered(7, (0, 5), now + SUSPECT), Finding::Ended);
        assert_eq!(watch.answered(7, (0, 5), now), Finding::Nothing);
        assert_eq!(
            watch.answered(7, (0, 8), now),
            Finding::Stalled,
            "it was a leader that did not know of all"
        );
        assert_eq!(watch.answered(7, (0, 5), now), Finding::Nothing);
        assert_eq!(watch.answered(7, (9, 12), now), Finding::Gone);
        assert_eq!(watch.answered(7, (9, 9), now), Finding::Gone, "all of it");
        assert_eq!(watch.answered(7, (7, 7), now), Finding::Nothing);
    }

    #[test]
    fn what_arrives_again_has_the_broker_asked_soon_and_not_all_the_time() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let now = start + 2 * QUIET;
        let mut watch = Watch::new(now);
        watch.is_suspect(now);
        assert!(watch.ask_at() <= now);
        assert_eq!(watch.answered(7, (0, 7), now), Finding::Nothing);
        watch.is_suspect(now + second / 2);
        assert!(watch.ask_at() > now + second);
        watch.is_suspect(now + second);
        assert!(watch.ask_at() <= now + second);
    }
}
