//! When the intake has something to do that no wake tells of.

use std::time::{Duration, Instant};

/// How often the intake looks for handlers that hang and problems that last, while there is something in flight.
pub(super) const TICK: Duration = Duration::from_secs(1);
/// After an error of the broker, the next try.
const BROKER_RETRY: Duration = Duration::from_millis(100);
/// How often what is settled ahead of a watermark is committed beside it.
const FULL_COMMIT: Duration = Duration::from_millis(200);

/// How much of a position is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    Watermark,
    /// Also what is settled ahead of it.
    Full,
}

/// What the subscription waits for at the end of a turn.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Outstanding {
    pub(super) has_in_flight: bool,
    pub(super) is_commit_due: bool,
    pub(super) is_lease_over: bool,
}

/// The times of the intake; the time now is passed in.
#[derive(Debug)]
pub(super) struct Timers {
    /// None: at each turn.
    commit_interval: Option<Duration>,
    last_commit: Instant,
    last_full_commit: Instant,
    full_since: Option<Instant>,
    broker_retry_at: Option<Instant>,
    next_tick: Instant,
    next_look: Instant,
}

impl Timers {
    pub(super) fn new(commit_interval: Option<Duration>, now: Instant) -> Self {
        Self {
            commit_interval,
            last_commit: now,
            last_full_commit: now,
            full_since: None,
            broker_retry_at: None,
            next_tick: now + TICK,
            next_look: now,
        }
    }

    pub(super) fn broker_failed(&mut self, now: Instant) {
        self.broker_retry_at = Some(now + BROKER_RETRY);
    }

    /// True: it had failed before.
    pub(super) fn broker_answered(&mut self) -> bool {
        self.broker_retry_at.take().is_some()
    }

    /// Whether it is too early to ask the broker again.
    pub(super) fn is_broker_resting(&self, now: Instant) -> bool {
        self.broker_retry_at.is_some_and(|at| now < at)
    }

    /// Takes note of whether something may be fetched. True: it may again.
    pub(super) fn set_full(&mut self, is_full: bool, now: Instant) -> bool {
        if is_full {
            self.full_since.get_or_insert(now);
            return false;
        }
        self.full_since.take().is_some()
    }

    /// Since when nothing may be fetched, if that has lasted.
    pub(super) fn full_for_long(&self, now: Instant) -> Option<Instant> {
        self.full_since.filter(|since| now.saturating_duration_since(*since) >= TICK)
    }

    /// What a commit takes along, if it is time for one.
    pub(super) fn commit_due(&self, now: Instant) -> Option<Extent> {
        let since = |then: Instant| now.saturating_duration_since(then);
        match self.commit_interval {
            // Where commits have an interval each is a whole position: the broker keeps the last one alone.
            Some(interval) => (since(self.last_commit) >= interval).then_some(Extent::Full),
            None if since(self.last_full_commit) >= FULL_COMMIT => Some(Extent::Full),
            None => Some(Extent::Watermark),
        }
    }

    pub(super) fn committed(&mut self, extent: Extent, now: Instant) {
        self.last_commit = now;
        if extent == Extent::Full {
            self.last_full_commit = now;
        }
    }

    /// Whether it is time to look behind handlers that block; the next time is set then.
    pub(super) fn look_is_due(&mut self, now: Instant) -> bool {
        let is_due = now >= self.next_look;
        if is_due {
            self.next_look = now + self.commit_interval.unwrap_or(TICK).min(TICK);
        }
        is_due
    }

    /// Whether it is time to look for what lasts; the next time is set then.
    pub(super) fn tick_is_due(&mut self, now: Instant) -> bool {
        let is_due = now >= self.next_tick;
        if is_due {
            self.next_tick = now + TICK;
        }
        is_due
    }

    /// The first time to come. What was due in the turn that began at `now` had its chance in it: if it could not be
    /// done (paused, no room, no broker) it waits for a wake or for another time, and would keep the thread spinning.
    pub(super) fn next_due(&self, now: Instant, outstanding: Outstanding) -> Option<Instant> {
        let full_commit = outstanding.is_commit_due.then(|| self.last_full_commit + FULL_COMMIT);
        // An interval beyond what the clock can express never ends.
        let commit = self.commit_interval.filter(|_| outstanding.is_commit_due);
        let commit = commit.and_then(|interval| self.last_commit.checked_add(interval));
        let look = outstanding.has_in_flight.then(|| self.next_look.max(now + Duration::from_millis(1)));
        let lasts = outstanding.has_in_flight
            || outstanding.is_lease_over
            || self.full_since.is_some()
            || self.broker_retry_at.is_some();
        let tick = lasts.then_some(self.next_tick);
        let times = [self.broker_retry_at, full_commit, commit, look, tick];
        times.into_iter().flatten().filter(|due| *due > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const BUSY: Outstanding = Outstanding { has_in_flight: true, is_commit_due: true, is_lease_over: false };

    #[test]
    fn a_subscription_that_waits_for_nothing_has_no_time() {
        let now = Instant::now();
        assert_eq!(Timers::new(None, now).next_due(now, Outstanding::default()), None);
    }

    #[test]
    fn a_broker_that_failed_rests_and_is_asked_again() {
        let now = Instant::now();
        let mut timers = Timers::new(None, now);
        timers.broker_failed(now);
        assert!(timers.is_broker_resting(now) && !timers.is_broker_resting(now + BROKER_RETRY));
        assert_eq!(timers.next_due(now, Outstanding::default()), Some(now + BROKER_RETRY));
        assert!(timers.broker_answered() && !timers.broker_answered());
    }

    #[test]
    fn without_an_interval_each_turn_commits_and_some_commit_all() {
        let now = Instant::now();
        let mut timers = Timers::new(None, now);
        assert_eq!(timers.commit_due(now), Some(Extent::Watermark));
        timers.committed(Extent::Watermark, now + FULL_COMMIT);
        assert_eq!(timers.commit_due(now + FULL_COMMIT), Some(Extent::Full));
        timers.committed(Extent::Full, now + FULL_COMMIT);
        assert_eq!(timers.commit_due(now + FULL_COMMIT), Some(Extent::Watermark));
    }

    #[test]
    fn with_an_interval_a_commit_is_whole_and_waits_for_it() {
        let now = Instant::now();
        let mut timers = Timers::new(Some(10 * MS), now);
        assert_eq!([timers.commit_due(now), timers.commit_due(now + 10 * MS)], [None, Some(Extent::Full)]);
        assert!(timers.look_is_due(now));
        assert_eq!(timers.next_due(now, BUSY), Some(now + 10 * MS));
        timers.committed(Extent::Full, now + 10 * MS);
        assert_eq!(timers.commit_due(now + 19 * MS), None);
        let never = Timers::new(Some(Duration::MAX), now);
        assert_eq!(never.commit_due(now + FULL_COMMIT), None);
    }

    #[test]
    fn what_was_due_in_this_turn_is_no_time_to_sleep_until() {
        let start = Instant::now();
        let (mut timers, now) = (Timers::new(None, start), start + FULL_COMMIT);
        assert!(timers.look_is_due(now) && !timers.look_is_due(now));
        let due = timers.next_due(now, BUSY).unwrap();
        assert!(due > now && due <= now + TICK, "{:?}", due - now);
    }

    #[test]
    fn a_window_is_full_for_long_after_a_tick_and_no_more_when_it_has_room() {
        let now = Instant::now();
        let mut timers = Timers::new(None, now);
        assert!(!timers.set_full(true, now) && !timers.set_full(true, now + TICK));
        assert_eq!([timers.full_for_long(now), timers.full_for_long(now + TICK)], [None, Some(now)]);
        assert!(timers.set_full(false, now) && !timers.set_full(false, now));
        assert_eq!(timers.full_for_long(now + TICK), None);
        assert!(timers.tick_is_due(now + TICK) && !timers.tick_is_due(now + TICK));
    }
}
