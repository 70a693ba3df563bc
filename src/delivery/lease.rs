//! Until when a member owns what its group gave it, by this process's own clock.
//!
//! A group's authority takes a partition away from a member that it has not heard of for a session, and can tell it so
//! only when it hears of it again. So ownership ends here, without a word from anybody: with the session that the last
//! sign of life began, before the authority's own session of the same sign ends.

use crate::sync::{Arc, AtomicU64, Mutex, Ordering};
use crate::wait::after;
use std::time::{Duration, Instant};

/// Until when the authority of a group vouches for what its member owns, by this process's own clock. Cloning shares it.
///
/// Whoever starts a handler looks whether it [`holds`](Self::holds). [`extend`](Self::extend) and [`end`](Self::end) are
/// the backend's, which wakes its subscription when it extends one that was over, so that what waits goes on.
///
/// After an end it holds again only when the subscription has [heard](Self::heard) of it. What it was assigned before may
/// be another member's now, and an intake that was busy, with a commit that somebody waits for, has not been told: its
/// workers would go on with all of it under a lease that is about something else.
#[derive(Debug, Clone)]
pub(crate) struct Lease(Arc<Term>);

#[derive(Debug)]
struct Term {
    base: Instant,
    /// In nanoseconds since `base`. 0: it is over.
    until_ns: AtomicU64,
    /// How often it was ended. Changed with `told` locked.
    ends: AtomicU64,
    told: Mutex<Told>,
}

#[derive(Debug)]
struct Told {
    /// Since the last end.
    vouched_ns: u64,
    /// Of how many ends the subscription has heard.
    heard: u64,
}

/// No time is behind it.
const FOR_EVER: u64 = u64::MAX;

impl Lease {
    /// Of a member that nobody can take anything from without its knowing.
    pub(crate) fn forever() -> Self {
        Self::until_ns(FOR_EVER)
    }

    /// Of a member that nobody has vouched for yet.
    #[cfg(any(feature = "kafka", feature = "nats", test))]
    pub(crate) fn over() -> Self {
        Self::until_ns(0)
    }

    fn until_ns(until_ns: u64) -> Self {
        Self(Arc::new(Term {
            base: Instant::now(),
            until_ns: AtomicU64::new(until_ns),
            ends: AtomicU64::new(0),
            told: Mutex::new(Told { vouched_ns: until_ns, heard: 0 }),
        }))
    }

    /// It holds until then, or longer if it did before.
    pub(crate) fn extend(&self, until: Instant) {
        let until_ns = self.0.since_base(until).min(FOR_EVER - 1);
        let mut told = self.0.told.lock();
        told.vouched_ns = told.vouched_ns.max(until_ns);
        self.0.update(&told);
    }

    /// It is over from now on, until it is extended again and the subscription has heard of the end. What was lost with it
    /// is to be told by the first poll that begins after this.
    pub(crate) fn end(&self) {
        let mut told = self.0.told.lock();
        told.vouched_ns = 0;
        // ORDERING: Release pairs with the Acquire of `ends`: a poll that follows finds what was lost.
        self.0.ends.fetch_add(1, Ordering::Release);
        self.0.update(&told);
    }

    /// How often it was ended, to be asked before a poll.
    pub(crate) fn ends(&self) -> u64 {
        // ORDERING: Acquire; see `end`.
        self.0.ends.load(Ordering::Acquire)
    }

    /// What a poll told is done that was begun after so many ends.
    pub(crate) fn heard(&self, ends: u64) {
        let mut told = self.0.told.lock();
        told.heard = ends;
        self.0.update(&told);
    }

    /// Whether it holds at this time.
    #[inline]
    pub(crate) fn holds(&self, now: Instant) -> bool {
        self.holds_by(|| now)
    }

    /// Whether it holds at the time that this clock says, which is asked only if that matters.
    #[inline]
    pub(crate) fn holds_by(&self, now: impl FnOnce() -> Instant) -> bool {
        // ORDERING: Relaxed; the value alone decides. A worker that misses an end once starts one attempt more, as if it had
        // started before, and one that looks too early for an extension waits, and is woken after it.
        let until_ns = self.0.until_ns.load(Ordering::Relaxed);
        until_ns == FOR_EVER || self.0.since_base(now()) < until_ns
    }

    /// When it ends unless it is extended; none: never. One that is over ended at some time in the past.
    pub(crate) fn ends_at(&self) -> Option<Instant> {
        // ORDERING: Relaxed; who sleeps until then looks again.
        let until_ns = self.0.until_ns.load(Ordering::Relaxed);
        (until_ns != FOR_EVER).then(|| after(self.0.base, Duration::from_nanos(until_ns)))
    }
}

impl Default for Lease {
    fn default() -> Self {
        Self::forever()
    }
}

impl Term {
    fn update(&self, told: &Told) {
        // ORDERING: Relaxed; written with `told` locked.
        let is_heard = told.heard == self.ends.load(Ordering::Relaxed);
        // ORDERING: Relaxed; see `holds_by`.
        self.until_ns.store(if is_heard { told.vouched_ns } else { 0 }, Ordering::Relaxed);
    }

    fn since_base(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.base).as_nanos()).unwrap_or(FOR_EVER - 1)
    }
}

/// For how long what was assigned may wait for the first sign of life before that is a problem: it usually comes with it.
const FIRST_SIGN: Duration = Duration::from_secs(2);

/// The lease of a member as its intake has seen it, look by look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Watch {
    /// It never held. Since when it is waited for, by a member that was assigned something.
    NotYet(Option<Instant>),
    Holds,
    /// It held, and does not since then.
    Over(Instant),
}

/// What a look at a lease finds that the one before did not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// What runs is to be told that another owner may have begun.
    Ended,
    /// After so long what waited may start.
    HoldsAgain(Duration),
}

impl Watch {
    pub(crate) fn new() -> Self {
        Self::NotYet(None)
    }

    /// `owns`: something is assigned, which the lease is about.
    pub(crate) fn look(&mut self, holds: bool, owns: bool, now: Instant) -> Option<Change> {
        match (*self, holds) {
            (Self::Over(since), true) => {
                *self = Self::Holds;
                Some(Change::HoldsAgain(now.saturating_duration_since(since)))
            }
            (Self::NotYet(_) | Self::Holds, true) => {
                *self = Self::Holds;
                None
            }
            (Self::Holds, false) => {
                *self = Self::Over(now);
                Some(Change::Ended)
            }
            (Self::NotYet(since), false) => {
                *self = Self::NotYet(if owns { since.or(Some(now)) } else { None });
                None
            }
            (Self::Over(_), false) => None,
        }
    }

    /// Since when nothing starts, where that is worth a word.
    pub(crate) fn problem(&self, owns: bool, now: Instant) -> Option<Instant> {
        match *self {
            Self::Over(since) => Some(since).filter(|_| owns),
            Self::NotYet(since) => {
                since.filter(|since| owns && now.saturating_duration_since(*since) >= FIRST_SIGN)
            }
            Self::Holds => None,
        }
    }

    /// When time alone makes it a problem that the lease does not hold.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        match *self {
            Self::NotYet(since) => since.map(|since| since + FIRST_SIGN),
            Self::Holds | Self::Over(_) => None,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    #[derive(Debug, Clone, Copy)]
    enum Op {
        /// From the time it is said on; 0: a time that has passed.
        Extend(u32),
        End,
        /// The subscription polls, and does what it is told.
        Poll,
        Look {
            after_ms: u32,
        },
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            3 => (0..100_u32).prop_map(Op::Extend),
            1 => Just(Op::End),
            2 => Just(Op::Poll),
            4 => (0..60_u32).prop_map(|after_ms| Op::Look { after_ms }),
        ]
    }

    proptest! {
        #[test]
        fn a_lease_holds_until_the_latest_time_said_since_an_end_that_was_heard_of(
            ops in prop::collection::vec(op(), 1..60)
        ) {
            let lease = Lease::over();
            let (other, mut now) = (lease.clone(), Instant::now());
            let (mut until, mut is_unheard) = (None::<Instant>, false);
            for op in ops {
                match op {
                    Op::Extend(ms) => {
                        lease.extend(now + ms * MS);
                        until = until.max(Some(now + ms * MS));
                    }
                    Op::End => {
                        lease.end();
                        (until, is_unheard) = (None, true);
                    }
                    Op::Poll => {
                        lease.heard(lease.ends());
                        is_unheard = false;
                    }
                    Op::Look { after_ms } => now += after_ms * MS,
                }
                prop_assert_eq!(other.holds(now), !is_unheard && until.is_some_and(|until| now < until));
                let ends_at = other.ends_at().expect("it ends");
                prop_assert_eq!(until.filter(|_| !is_unheard).unwrap_or(ends_at), ends_at);
                prop_assert!(!other.holds(ends_at));
            }
        }

        /// Against the whole history: what was told last, and whether it held at any look.
        #[test]
        fn each_end_is_told_once_and_each_return_after_it(
            looks in prop::collection::vec((any::<bool>(), any::<bool>(), 0..1_500_u32), 1..60)
        ) {
            let (mut watch, mut now) = (Watch::new(), Instant::now());
            let mut history: Vec<(bool, bool, Instant)> = Vec::new();
            for (holds, owns, after_ms) in looks {
                now += after_ms * MS;
                let before = history.last().map(|(holds, ..)| *holds);
                history.push((holds, owns, now));
                let has_held = history.iter().any(|(holds, ..)| *holds);
                let not_holding = history.iter().rev().take_while(|(holds, ..)| !holds).count();
                let since_end = history.len() - not_holding;
                let change = watch.look(holds, owns, now);
                match (before, holds) {
                    (Some(true), false) => prop_assert_eq!(change, Some(Change::Ended)),
                    (Some(false), true) if history.iter().rev().skip(1).any(|(holds, ..)| *holds) => {
                        prop_assert!(matches!(change, Some(Change::HoldsAgain(_))));
                    }
                    _ => prop_assert_eq!(change, None),
                }
                let problem = watch.problem(owns, now);
                if holds || !owns {
                    prop_assert_eq!(problem, None);
                } else if has_held {
                    prop_assert_eq!(problem, Some(history[since_end].2));
                } else {
                    let waits = history.iter().rev().take_while(|(_, owns, _)| *owns).last();
                    let since = waits.expect("it owns something").2;
                    prop_assert_eq!(problem, Some(since).filter(|since| now - *since >= FIRST_SIGN));
                    prop_assert_eq!(watch.next_due(), Some(since + FIRST_SIGN));
                }
            }
        }
    }

    #[test]
    fn one_that_is_for_ever_has_no_end_unless_it_is_ended() {
        let (lease, now) = (Lease::default(), Instant::now());
        lease.extend(now);
        assert!(lease.holds(now + Duration::from_secs(u64::from(u32::MAX))));
        assert_eq!(lease.ends_at(), None);
        assert!(lease.holds_by(|| panic!("no clock is asked")));
        lease.end();
        lease.extend(now + 10 * MS);
        assert!(!lease.holds(now), "nobody has heard of the end");
        lease.heard(lease.ends());
        assert!(lease.holds(now + 9 * MS) && !lease.holds(now + 10 * MS));
    }

    #[test]
    fn a_poll_that_began_before_an_end_has_not_heard_of_it() {
        let (lease, now) = (Lease::over(), Instant::now());
        let before = lease.ends();
        lease.end();
        lease.extend(now + 10 * MS);
        lease.heard(before);
        assert!(!lease.holds(now));
        lease.heard(lease.ends());
        assert!(lease.holds(now));
    }

    #[test]
    fn a_member_begins_without_a_lease_and_with_no_time_before_it() {
        let long_ago = Instant::now();
        let lease = Lease::over();
        assert!(!lease.holds(long_ago));
        lease.extend(long_ago);
        assert!(!lease.holds(long_ago));
    }
}
