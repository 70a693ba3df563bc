//! Whether a partition goes on, and if not, what keeps it: state machines without a client or a clock in them.
//!
//! A look costs no request: the position and the end that the last fetch was told. Only of a partition that looks still, with
//! something behind its position, the end of what may be read is asked for.

use std::time::{Duration, Instant};

/// How long a partition stands until it is asked for the end of what may be read, and how often that is asked again.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// A leader is elected in less, if there is one to elect.
const WITHOUT_LEADER: Duration = Duration::from_secs(10);
/// Transactions take less that somebody still works on.
const IN_A_TRANSACTION: Duration = Duration::from_secs(15);
/// Where no cause is known: fetching has been begun anew before that.
const WITHOUT_A_CAUSE: Duration = Duration::from_secs(26);
/// How many answers in a row say that a topic is not there: one that is made anew is not there for a moment, and not every
/// broker hears of it at once.
const ANSWERS: u32 = 2;

/// What the brokers say of a partition that keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Obstacle {
    NotPermitted,
    NoLeader,
}

/// What a look at a partition shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sight {
    /// Behind what was handed out, and behind what is no record, like the end of a transaction.
    pub(super) position: u64,
    /// The end of the log, where a fetch was told it.
    pub(super) end: Option<u64>,
    pub(super) obstacle: Option<Obstacle>,
}

/// Why a partition stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    NotPermitted,
    NoLeader,
    /// A transaction is open that begins at `from`; behind it the log goes up to `end`.
    Transaction {
        from: u64,
        end: u64,
    },
    /// Up to here there is something that may be read, and it does not come.
    Unknown {
        end: u64,
    },
}

/// A partition as it is looked at.
#[derive(Debug)]
pub(super) struct Motion {
    sight: Sight,
    /// Since when it has stood with something to come; while there is nothing, the last look.
    since: Instant,
    asked: Option<Instant>,
    /// The end of what may be read, asked at this position.
    readable: Option<u64>,
}

impl Motion {
    pub(super) fn new(position: u64, now: Instant) -> Self {
        let sight = Sight { position, end: None, obstacle: None };
        Self { sight, since: now, asked: None, readable: None }
    }

    /// Where it was at the last look.
    pub(super) fn position(&self) -> u64 {
        self.sight.position
    }

    /// It moved, or nothing of it is wanted, or nobody can tell.
    pub(super) fn goes_on(&mut self, position: u64, now: Instant) {
        *self = Self::new(position, now);
    }

    pub(super) fn look(&mut self, sight: Sight, now: Instant) {
        let has_more = sight.end.is_some_and(|end| end > sight.position);
        let is_still = sight.position == self.sight.position && (has_more || sight.obstacle.is_some());
        // What was in the way is gone: it has its time to go on.
        let is_freed = self.sight.obstacle.is_some() && sight.obstacle.is_none();
        if !is_still || is_freed {
            self.goes_on(sight.position, now);
        }
        self.sight = sight;
    }

    /// Whether the end of what may be read is to be asked for.
    pub(super) fn is_to_be_asked(&self, now: Instant) -> bool {
        let lasts = |since: Instant| now.saturating_duration_since(since) >= ASK_EVERY;
        self.sight.obstacle.is_none() && lasts(self.since) && self.asked.is_none_or(lasts)
    }

    pub(super) fn asked(&mut self, now: Instant) {
        self.asked = Some(now);
    }

    /// The end of what may be read.
    pub(super) fn answered(&mut self, readable: u64) {
        self.readable = Some(readable);
    }

    /// Why it stands, if it does for long, and since when.
    pub(super) fn standstill(&self, now: Instant) -> Option<(Cause, Instant)> {
        let Sight { position, end, obstacle } = self.sight;
        let (cause, patience) = match (obstacle, end, self.readable) {
            (Some(Obstacle::NotPermitted), ..) => (Cause::NotPermitted, Duration::ZERO),
            (Some(Obstacle::NoLeader), ..) => (Cause::NoLeader, WITHOUT_LEADER),
            (None, Some(end), Some(from)) if from <= position && end > position => {
                (Cause::Transaction { from, end }, IN_A_TRANSACTION)
            }
            (None, _, Some(end)) if end > position => (Cause::Unknown { end }, WITHOUT_A_CAUSE),
            _ => return None,
        };
        (now.saturating_duration_since(self.since) >= patience).then_some((cause, self.since))
    }
}

/// Whether a topic is there, as one answer after the other says.
#[derive(Debug, Default)]
pub(super) struct Presence {
    /// Since when it is not, and how many answers said so.
    missing: Option<(Instant, u32)>,
}

impl Presence {
    pub(super) fn answered(&mut self, is_there: bool, now: Instant) {
        self.missing = match self.missing {
            _ if is_there => None,
            None => Some((now, 1)),
            Some((since, answers)) => Some((since, answers.saturating_add(1))),
        };
    }

    /// Since when it is not there, once that is sure.
    pub(super) fn missing_since(&self) -> Option<Instant> {
        self.missing.filter(|(_, answers)| *answers >= ANSWERS).map(|(since, _)| since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};

    const SECOND: Duration = Duration::from_secs(1);

    fn sight(position: u64, end: u64) -> Sight {
        Sight { position, end: Some(end), obstacle: None }
    }

    /// Looks once a second at the same sight, and answers what is asked, for so long.
    fn watch(motion: &mut Motion, sight: Sight, readable: u64, from: Instant, seconds: u32) -> Instant {
        for second in 0..=seconds {
            let now = from + second * SECOND;
            motion.look(sight, now);
            if motion.is_to_be_asked(now) {
                motion.asked(now);
                motion.answered(readable);
            }
        }
        from + seconds * SECOND
    }

    #[test]
    fn a_partition_at_its_end_is_asked_nothing_and_stands_for_nothing() {
        let start = Instant::now();
        let mut motion = Motion::new(7, start);
        for second in 0..3_600 {
            let now = start + second * SECOND;
            motion.look(sight(7, 7), now);
            assert!(!motion.is_to_be_asked(now) && motion.standstill(now).is_none());
        }
        motion.look(Sight { end: None, ..sight(7, 7) }, start + 3_600 * SECOND);
        assert!(!motion.is_to_be_asked(start + 3_600 * SECOND), "nothing was fetched yet");
    }

    #[test]
    fn a_busy_partition_is_asked_nothing() {
        let start = Instant::now();
        let mut motion = Motion::new(0, start);
        for second in 0..100 {
            let now = start + second * SECOND;
            // Far behind, and moving every other second.
            motion.look(sight(u64::from(second) / 2, 1_000), now);
            assert!(!motion.is_to_be_asked(now) && motion.standstill(now).is_none());
        }
    }

    #[test]
    fn an_open_transaction_is_told_within_the_time_and_until_it_ends() {
        let start = Instant::now();
        let mut motion = Motion::new(7, start);
        let early = watch(&mut motion, sight(7, 12), 7, start, 14);
        assert_eq!(motion.standstill(early), None);
        let late = watch(&mut motion, sight(7, 12), 7, early, 6);
        assert_eq!(motion.standstill(late), Some((Cause::Transaction { from: 7, end: 12 }, start)));
        // A group may be ahead of it, set by somebody who reads what is not committed.
        let mut ahead = Motion::new(9, start);
        let late = watch(&mut ahead, sight(9, 12), 7, start, 20);
        assert!(matches!(ahead.standstill(late), Some((Cause::Transaction { .. }, _))));
        motion.look(sight(12, 12), late + SECOND);
        assert_eq!(motion.standstill(late + SECOND), None);
    }

    #[test]
    fn what_is_in_the_way_is_told_and_has_its_time_to_go() {
        let start = Instant::now();
        for (obstacle, cause, patience) in [
            (Obstacle::NotPermitted, Cause::NotPermitted, Duration::ZERO),
            (Obstacle::NoLeader, Cause::NoLeader, WITHOUT_LEADER),
        ] {
            let mut motion = Motion::new(7, start);
            let blocked = Sight { position: 7, end: None, obstacle: Some(obstacle) };
            motion.look(blocked, start);
            assert!(!motion.is_to_be_asked(start + ASK_EVERY), "nobody could answer");
            assert_eq!(motion.standstill(start + patience), Some((cause, start)));
            motion.look(sight(7, 9), start + 60 * SECOND);
            assert_eq!(motion.standstill(start + 60 * SECOND), None);
            assert!(!motion.is_to_be_asked(start + 60 * SECOND));
        }
    }

    #[test]
    fn what_does_not_come_for_no_reason_is_told_when_fetching_anew_did_not_help() {
        let start = Instant::now();
        let mut motion = Motion::new(7, start);
        let early = watch(&mut motion, sight(7, 12), 12, start, 20);
        assert_eq!(motion.standstill(early), None);
        let late = watch(&mut motion, sight(7, 12), 12, early, 6);
        assert_eq!(motion.standstill(late), Some((Cause::Unknown { end: 12 }, start)));
    }

    #[test]
    fn a_topic_is_missing_when_it_is_said_twice() {
        let (mut presence, now) = (Presence::default(), Instant::now());
        presence.answered(false, now);
        assert_eq!(presence.missing_since(), None, "it may be made anew just now");
        presence.answered(true, now);
        presence.answered(false, now);
        assert_eq!(presence.missing_since(), None);
        presence.answered(false, now + SECOND);
        assert_eq!(presence.missing_since(), Some(now));
        presence.answered(true, now + SECOND);
        assert_eq!(presence.missing_since(), None);
    }

    #[derive(Debug, Clone, Copy)]
    struct Step {
        moves: u64,
        behind: u64,
        obstacle: Option<Obstacle>,
        readable: u64,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let obstacle = prop_oneof![
            12 => Just(None),
            1 => Just(Some(Obstacle::NoLeader)),
            1 => Just(Some(Obstacle::NotPermitted)),
        ];
        let step =
            (0..12_u64, 0..3_u64, obstacle, 0..3_u64).prop_map(|(moves, behind, obstacle, readable)| Step {
                moves: u64::from(moves == 0),
                behind: behind.min(1),
                obstacle,
                readable: readable.min(1),
            });
        // Runs of one and the same are what lasts.
        prop::collection::vec((step, 1..20_usize), 1..12)
            .prop_map(|runs| runs.into_iter().flat_map(|(step, n)| vec![step; n]).collect())
    }

    /// Against a look back over all that was seen. `is_faulty` plants a machine that forgets that it moved.
    fn run(steps: &[Step], is_faulty: bool) -> Result<(), TestCaseError> {
        let start = Instant::now();
        let mut motion = Motion::new(0, start);
        let (mut position, mut seen) = (0, Vec::<(Sight, Option<u64>)>::new());
        for (second, step) in (1..).zip(steps) {
            let now = start + second * SECOND;
            position += step.moves;
            let sight = Sight { position, end: Some(position + step.behind), obstacle: step.obstacle };
            motion.look(
                if is_faulty { Sight { position: 0, end: Some(step.behind), ..sight } } else { sight },
                now,
            );
            if motion.is_to_be_asked(now) {
                motion.asked(now);
                motion.answered(position + step.readable);
                seen.push((sight, Some(position + step.readable)));
            } else {
                seen.push((sight, None));
            }
            // How long, by the looks alone, it has been here with something to come and nothing freed.
            let mut stands = 0;
            for (at, (then, _)) in seen.iter().enumerate().rev() {
                let before = at
                    .checked_sub(1)
                    .map_or(Sight { position: 0, end: None, obstacle: None }, |at| seen[at].0);
                let has_more = then.end.is_some_and(|end| end > then.position) || then.obstacle.is_some();
                let is_freed = before.obstacle.is_some() && then.obstacle.is_none();
                if then.position != before.position || !has_more || is_freed {
                    break;
                }
                stands += 1;
            }
            let (sight, _) = *seen.last().expect("just seen");
            let told = motion.standstill(now);
            if sight.obstacle == Some(Obstacle::NotPermitted) && stands > 0 {
                prop_assert!(matches!(told, Some((Cause::NotPermitted, _))), "{told:?}");
            }
            match told {
                None => {}
                Some((Cause::NotPermitted, _)) => {
                    prop_assert_eq!(sight.obstacle, Some(Obstacle::NotPermitted));
                }
                Some((Cause::NoLeader, _)) => {
                    prop_assert_eq!(sight.obstacle, Some(Obstacle::NoLeader));
                    prop_assert!(stands >= 10, "told after {} s", stands);
                }
                Some((Cause::Transaction { from, end }, since)) => {
                    prop_assert!(stands >= 15 && from <= position && end > position, "{} s", stands);
                    prop_assert_eq!(now.saturating_duration_since(since), stands * SECOND);
                }
                Some((Cause::Unknown { end }, _)) => {
                    prop_assert!(stands >= 26 && end > position, "told after {} s", stands);
                }
            }
            let answered = seen.iter().rev().take(stands as usize).find_map(|(_, readable)| *readable);
            let is_transaction =
                sight.obstacle.is_none() && answered.is_some_and(|readable| readable <= position);
            prop_assert!(told.is_some() || !(is_transaction && stands >= 15), "not told after {} s", stands);
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn what_stands_is_told_in_time_and_nothing_else(steps in steps()) {
            run(&steps, false)?;
        }
    }

    #[test]
    fn the_property_finds_a_machine_that_does_not_see_it_move() {
        let config = Config { failure_persistence: None, max_shrink_iters: 0, ..Config::default() };
        assert!(TestRunner::new(config).run(&steps(), |steps| run(&steps, true)).is_err());
    }
}
