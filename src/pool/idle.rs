//! What a worker does when its lane is empty: park, or look again for a moment first.

use crate::sync::thread;
use crate::wait::{SPINS, YIELDS, rest};
use std::time::{Duration, Instant};

/// What a worker does when there is nothing to do.
///
/// Under every policy a worker that stays idle parks, so that an idle pool uses no CPU. Spinning before it trades CPU for
/// the cost of a wake-up (about 6 us for a futex round trip on the machine that the default was chosen on).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Idle {
    /// Park at once.
    Park,
    /// Look again at once and for this long, then park. For latency, on machines with a core to spare for each worker.
    Spin(Duration),
    /// Look again for a few microseconds if work came without a pause since the worker last parked, which says that a
    /// submitter is awake on another core; park at once otherwise. A worker that has just emptied its queue rests for a
    /// microsecond first, which leaves the queue to submitters: for throughput. The default.
    #[default]
    Adaptive,
}

/// Turns with work since the last park after which a submitter counts as awake.
const AWAKE_AFTER: u32 = 2;
/// Looks of an adaptive worker before it parks: some with a pause instruction between them, then some that yield the
/// core, which the submitter may need.
const LOOKS: u32 = SPINS + YIELDS;

/// How long a worker rests after it has emptied its lane: a fraction of what a wake-up costs.
const REST: Duration = Duration::from_micros(1);

/// The state of one worker's policy; pure, the time is passed in.
#[derive(Debug)]
pub(crate) struct Idling {
    policy: Idle,
    busy_turns: u32,
    looks: u32,
    since: Option<Instant>,
}

impl Idling {
    /// On a clock that is moved by hand, time does not go on while a worker looks: none spins there.
    pub(crate) fn new(policy: Idle, is_clock_manual: bool) -> Self {
        let policy = if is_clock_manual && matches!(policy, Idle::Spin(_)) { Idle::Park } else { policy };
        Self { policy, busy_turns: 0, looks: 0, since: None }
    }

    pub(crate) fn was_busy(&mut self) {
        self.busy_turns = self.busy_turns.saturating_add(1);
        self.looks = 0;
        self.since = None;
    }

    /// Lets a submitter work undisturbed for a moment, where the worker is faster than he is: each look of a worker at
    /// an empty lane takes the cache line from him that he pushes with. Measured with one of each: a worker that looks
    /// without a rest lets 4 million jobs a second through, one that rests 40 million.
    ///
    /// Where there are more threads than cores, the submitter may wait for this very core, and gets it.
    pub(crate) fn rest(&self, is_crowded: bool) {
        match self.policy {
            Idle::Adaptive if cfg!(loom) => {}
            Idle::Adaptive if is_crowded => thread::yield_now(),
            Idle::Adaptive => rest(REST),
            Idle::Park | Idle::Spin(_) => {}
        }
    }

    /// Whether it gives its core away only once in a while between two looks, as whoever asked for spinning wants it.
    pub(crate) fn spins(&self) -> bool {
        matches!(self.policy, Idle::Spin(_))
    }

    /// Whether an idle worker looks once more instead of parking.
    pub(crate) fn looks_again(&mut self, now: Instant) -> bool {
        let again = match self.policy {
            Idle::Park => false,
            Idle::Spin(limit) => {
                now.saturating_duration_since(*self.since.get_or_insert(now)) < limit && !limit.is_zero()
            }
            Idle::Adaptive => {
                self.looks += 1;
                self.busy_turns >= AWAKE_AFTER && self.looks <= LOOKS
            }
        };
        if !again {
            (self.busy_turns, self.looks, self.since) = (0, 0, None);
        }
        again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_parks_in_the_end() {
        let start = Instant::now();
        for policy in
            [Idle::Park, Idle::Spin(Duration::ZERO), Idle::Spin(Duration::from_micros(50)), Idle::Adaptive]
        {
            let mut idling = Idling::new(policy, false);
            (0..9).for_each(|_| idling.was_busy());
            let looks =
                (0..1_000u64).take_while(|i| idling.looks_again(start + Duration::from_micros(*i))).count();
            assert!(looks <= 50, "{policy:?} looked {looks} times");
        }
    }

    #[test]
    fn an_adaptive_worker_parks_at_once_after_an_unpark_for_one_job() {
        let mut idling = Idling::new(Idle::Adaptive, false);
        idling.was_busy();
        assert!(!idling.looks_again(Instant::now()));
    }

    #[test]
    fn an_adaptive_worker_looks_again_while_a_submitter_is_awake() {
        let mut idling = Idling::new(Idle::Adaptive, false);
        (0..AWAKE_AFTER).for_each(|_| idling.was_busy());
        assert!(idling.looks_again(Instant::now()));
    }

    #[test]
    fn a_spinning_worker_looks_for_its_time_and_no_longer() {
        let start = Instant::now();
        let mut idling = Idling::new(Idle::Spin(Duration::from_micros(50)), false);
        assert!(idling.looks_again(start));
        assert!(idling.looks_again(start + Duration::from_micros(49)));
        assert!(!idling.looks_again(start + Duration::from_micros(50)));
    }

    #[test]
    fn nobody_spins_by_a_clock_that_is_moved_by_hand() {
        let mut idling = Idling::new(Idle::Spin(Duration::from_micros(50)), true);
        idling.was_busy();
        assert!(!idling.looks_again(Instant::now()));
    }
}
