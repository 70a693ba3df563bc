//! Whether a partition has stopped without a word: nothing arrives though the broker has more.

use std::time::{Duration, Instant};

/// How long nothing arrives before the broker is asked whether there is more.
const QUIET: Duration = Duration::from_secs(20);

/// One partition as it is watched.
#[derive(Debug)]
pub(super) struct Watch {
    since: Instant,
    /// The next offset and the end at which fetching was begun anew: what lies between may be no records at all (ends of
    /// transactions), so that is not done twice.
    begun_anew_at: Option<(u64, u64)>,
}

impl Watch {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, begun_anew_at: None }
    }

    /// Something arrived, or nothing is wanted: the partition is paused, or there is no room.
    pub(super) fn is_alive(&mut self, now: Instant) {
        self.since = now;
    }

    /// When the broker is to be asked.
    pub(super) fn ask_at(&self) -> Instant {
        self.since + QUIET
    }

    /// The broker's answer, the offset behind its last record, and whether fetching is to begin anew at `next`.
    pub(super) fn answered(&mut self, next: u64, end: u64, now: Instant) -> bool {
        self.since = now;
        let is_stalled = end > next && self.begun_anew_at != Some((next, end));
        if is_stalled {
            self.begun_anew_at = Some((next, end));
        }
        is_stalled
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
        assert!(!watch.answered(7, 7, now), "all has arrived");
        assert!(watch.answered(7, 9, now), "two are missing");
    }

    #[test]
    fn what_brought_nothing_is_not_done_again_until_there_is_more() {
        let now = Instant::now();
        let mut watch = Watch::new(now);
        assert!(watch.answered(7, 9, now));
        assert!(!watch.answered(7, 9, now), "7 and 8 may be no records");
        assert!(watch.answered(7, 10, now));
        assert!(watch.answered(9, 10, now));
    }
}
