//! How much a worker does in one turn: a state machine, into which the time is passed.

use crate::wait::Clock;
use std::time::{Duration, Instant};

/// Jobs taken from the lane in one turn: enough to share one release, few enough not to keep others waiting. A turn
/// polls no more futures and ends no more waits than this either, so that each kind of work gets on beside the others.
pub(super) const BATCH: usize = 64;
/// A turn longer than this shrinks the next batch to what fits, so that places and verdicts are given back in time when
/// jobs are slow; a shorter one doubles it. While batches are shrunk, a turn ends when it has lasted so long.
pub(crate) const LONG_TURN: Duration = Duration::from_micros(200);
/// The first batch: small, until turns have shown to be short. Under loom no time goes by, and each turn costs a model
/// more interleavings.
const FIRST_BATCH: usize = if cfg!(loom) { BATCH } else { 1 };
/// How large the turns of one worker are.
#[derive(Debug)]
pub(super) struct Pace {
    batch: usize,
    /// When the last turn began, if it did anything.
    last: Option<Instant>,
    /// By the clock, while batches are shrunk.
    turn_ends: Option<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { batch: FIRST_BATCH, last: None, turn_ends: None }
    }
}

impl Pace {
    /// A turn begins at `now`: the one before it took until then. The clock is asked while batches are shrunk alone.
    #[inline]
    pub(super) fn begin(&mut self, now: Instant, clock: &Clock) {
        if let Some(last) = self.last.take() {
            let took = now.saturating_duration_since(last);
            self.batch = if took > LONG_TURN {
                let fits = self.batch as u128 * LONG_TURN.as_nanos() / took.as_nanos();
                (fits as usize).clamp(1, (self.batch / 2).max(1))
            } else {
                (self.batch * 2).min(BATCH)
            };
        }
        self.turn_ends = if self.batch < BATCH { clock.now().checked_add(LONG_TURN) } else { None };
    }

    /// The next turn may take so many, however long the one before took.
    pub(super) fn limit(&mut self, jobs: usize) {
        (self.batch, self.last) = (jobs.clamp(1, BATCH), None);
    }

    /// The turn that began at `now` did something.
    #[inline]
    pub(super) fn ran(&mut self, now: Instant) {
        self.last = Some(now);
    }

    /// Jobs that this turn may take.
    #[inline]
    pub(super) fn batch(&self) -> usize {
        self.batch
    }

    /// When this turn has lasted long enough, if that matters.
    #[inline]
    pub(super) fn turn_ends(&self) -> Option<Instant> {
        self.turn_ends
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// The batches of turns that take so long each.
    fn batches(pace: &mut Pace, took: Duration, turns: usize) -> Vec<usize> {
        let (clock, mut now) = (Clock::manual().0, Instant::now());
        let mut turn = || {
            pace.begin(now, &clock);
            pace.ran(now);
            now += took;
            pace.batch()
        };
        (0..turns).map(|_| turn()).collect()
    }

    #[test]
    fn turns_begin_small_and_grow_while_they_are_short() {
        let mut pace = Pace::default();
        assert_eq!(batches(&mut pace, Duration::from_micros(10), 9), [1, 2, 4, 8, 16, 32, 64, 64, 64]);
        assert_eq!(pace.turn_ends(), None, "where jobs are fast no clock is asked");
    }

    #[test]
    fn a_long_turn_shrinks_the_next_to_what_fits() {
        let mut pace = Pace { batch: BATCH, ..Pace::default() };
        assert_eq!(batches(&mut pace, 4 * LONG_TURN, 5)[1..], [16, 4, 1, 1]);
        assert!(pace.turn_ends().is_some());
        let mut pace = Pace { batch: BATCH, ..Pace::default() };
        assert_eq!(batches(&mut pace, Duration::from_secs(1), 3)[1..], [1, 1]);
    }
}
