//! An ownership against a naive model that keeps the history and reads each answer out of it.

use super::*;
use proptest::prelude::*;

#[derive(Debug, Clone, Copy)]
enum Op {
    Deliver,
    /// A record is over, if one is in flight.
    Over,
    Settle,
    Leave {
        in_ms: u64,
    },
    Lose,
    Commit {
        is_all: bool,
    },
    CommitFails,
    /// Time passes, and somebody looks.
    Look {
        after_ms: u64,
    },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => Just(Op::Deliver),
        3 => Just(Op::Over),
        2 => Just(Op::Settle),
        2 => (0..200_u64).prop_map(|in_ms| Op::Leave { in_ms }),
        1 => Just(Op::Lose),
        2 => any::<bool>().prop_map(|is_all| Op::Commit { is_all }),
        1 => Just(Op::CommitFails),
        5 => (0..80_u64).prop_map(|after_ms| Op::Look { after_ms }),
    ]
}

/// What happened, each with its time.
#[derive(Default)]
struct History(Vec<(Instant, Op)>);

impl History {
    fn in_flight(&self) -> usize {
        self.0.iter().fold(0, |count, (_, op)| match op {
            Op::Deliver => count + 1,
            Op::Over => count - 1,
            _ => count,
        })
    }

    fn is_lost(&self) -> bool {
        self.0.iter().any(|(_, op)| matches!(op, Op::Lose))
    }

    /// The shortest limit that was set before the history's first look at or after it; and that look.
    fn limit_and_cancellation(&self) -> (Option<Instant>, Option<Instant>) {
        let mut limit: Option<Instant> = None;
        for (at, op) in &self.0 {
            match op {
                Op::Leave { in_ms } => {
                    let until = *at + Duration::from_millis(*in_ms);
                    limit = Some(limit.map_or(until, |before| before.min(until)));
                }
                Op::Look { .. } if limit.is_some_and(|limit| *at >= limit) => return (limit, Some(*at)),
                _ => {}
            }
        }
        (limit, None)
    }

    /// What a look now, which is the last of the history, is told.
    fn next(&self) -> Leave {
        let now = self.0.last().expect("it looks").0;
        let looks_before = History(self.0[..self.0.len() - 1].to_vec());
        match (looks_before.limit_and_cancellation(), self.limit_and_cancellation()) {
            _ if self.is_lost() => Leave::Wait,
            ((_, None), (_, Some(_))) => Leave::Cancel,
            ((_, Some(cancelled)), _) if self.in_flight() == 0 || now >= cancelled + GRACE => {
                Leave::Release { is_last_chance: true }
            }
            ((_, Some(_)), _) | (_, (None, None)) => Leave::Wait,
            (_, (Some(_), None)) if self.in_flight() == 0 => Leave::Release { is_last_chance: false },
            (_, (Some(_), None)) => Leave::Wait,
        }
    }

    fn is_commit_due(&self) -> bool {
        let last = |is_it: fn(&Op) -> bool| self.0.iter().rposition(|(_, op)| is_it(op));
        let committed = last(|op| matches!(op, Op::Commit { is_all: true }));
        let changed = last(|op| matches!(op, Op::Settle | Op::CommitFails | Op::Commit { is_all: false }));
        changed > committed
    }

    fn is_commit_failing(&self) -> bool {
        let is_about_commits = |op: &Op| matches!(op, Op::Commit { .. } | Op::CommitFails);
        let last = self.0.iter().rev().find(|(_, op)| is_about_commits(op));
        !self.is_lost() && last.is_some_and(|(_, op)| matches!(op, Op::CommitFails))
    }
}

proptest! {
    #[test]
    fn an_ownership_is_what_its_history_says(ops in prop::collection::vec(op(), 1..60)) {
        let mut now = Instant::now();
        let (mut owned, mut history) = (Ownership::new(), History::default());
        for op in ops {
            if matches!(op, Op::Over) && history.in_flight() == 0 {
                continue;
            }
            if let Op::Look { after_ms } = op {
                now += Duration::from_millis(after_ms);
            }
            history.0.push((now, op));
            match op {
                Op::Deliver => owned.delivered(),
                Op::Over => owned.over(),
                Op::Settle => owned.settled(),
                Op::Leave { in_ms } => owned.leave(now + Duration::from_millis(in_ms)),
                Op::Lose => owned.gone(),
                Op::Commit { is_all } => drop(owned.committed(is_all)),
                Op::CommitFails => owned.commit_failed(),
                Op::Look { .. } => prop_assert_eq!(owned.next(now), history.next()),
            }
            let (limit, _) = history.limit_and_cancellation();
            prop_assert_eq!(owned.in_flight(), history.in_flight());
            prop_assert_eq!(owned.is_owned(), limit.is_none() && !history.is_lost());
            prop_assert_eq!(owned.is_commit_due(), history.is_commit_due());
            prop_assert_eq!(owned.is_commit_failing(), history.is_commit_failing());
            // Whoever sleeps until the time it names misses nothing.
            if let (Some(due), false) = (owned.next_due(), matches!(op, Op::Look { .. })) {
                prop_assert!(due <= now || owned.clone().next(now) != Leave::Cancel);
                prop_assert_ne!(owned.clone().next(due), Leave::Wait);
            }
        }
    }
}

#[test]
fn a_partition_has_room_up_to_its_bound_and_none_while_it_is_crowded() {
    let mut owned = Ownership::new();
    assert_eq!([owned.room(0, 10), owned.room(9, 10), owned.room(11, 10)], [10, 1, 0]);
    owned.set_crowded(true);
    assert_eq!(owned.room(0, 10), 0);
    assert_eq!(
        [owned.set_paused(true), owned.set_paused(true), owned.set_paused(false)],
        [true, false, true]
    );
}
