//! Until when a group vouches for its member: what the answers of its coordinator mean for the lease. A state machine without
//! a client or a clock.
//!
//! The coordinator counts a member's session from when a heartbeat reached it, so the lease of an answered heartbeat begins
//! when it was *sent*, and is over before the session is. The client tells that an answer came, and not what is in it: one
//! that says that the member is out looks as any other. So an answer extends a lease that holds, which another owner can't
//! have had part in, and begins none. One that is over begins again by what follows from an answer: the group gave
//! partitions, or the client sent the next heartbeat, which it does not after an answer that has thrown it out, until the
//! loss has been dealt with here.
//!
//! Commits are no sign: by KIP-848 they leave the session as it is.

use std::time::{Duration, Instant};

/// The part of a session by which the lease is shorter: for clocks that run at other speeds, and for what lies between a
/// worker's look at the lease and the first line of the handler.
const MARGIN: u32 = 20;
/// A longer session has no more than this.
const LONGEST_MARGIN: Duration = Duration::from_secs(1);

/// The client tells of each answer twice: when it has come, and when it is dealt with, which may be any time later. What they
/// have in common is how long the answer took, to the microsecond.
#[derive(Debug, Default)]
pub(super) struct Reports(Vec<i64>);

impl Reports {
    /// More answers are never under way; what was told of once only is forgotten.
    const MOST: usize = 8;

    /// Whether this is the first time that an answer is told of which took so long. One that by chance took as long as
    /// another is taken for it, and missed: the next one will not be.
    pub(super) fn is_first(&mut self, took_us: i64) -> bool {
        if let Some(at) = self.0.iter().position(|known| *known == took_us) {
            self.0.remove(at);
            return false;
        }
        if self.0.len() == Self::MOST {
            self.0.remove(0);
        }
        self.0.push(took_us);
        true
    }
}

#[derive(Debug)]
pub(super) struct Vouching {
    /// None: nobody knows it yet, so nothing is vouched for.
    session: Option<Duration>,
    /// When that was sent which began the session last.
    confirmed: Option<Instant>,
    /// When that was sent which was answered last; it is not known what the answer said.
    unconfirmed: Option<Instant>,
    /// What was sent before is about a membership that is over.
    since: Option<Instant>,
    /// Partitions are wanted back and not given yet: until then the client deals with no loss, and goes on sending.
    is_owing: bool,
}

impl Vouching {
    pub(super) fn new(session: Option<Duration>) -> Self {
        Self { session, confirmed: None, unconfirmed: None, since: None, is_owing: false }
    }

    /// Until when the group vouches.
    pub(super) fn until(&self) -> Option<Instant> {
        let session = self.session?;
        self.confirmed.map(|sent| sent + session.saturating_sub((session / MARGIN).min(LONGEST_MARGIN)))
    }

    pub(super) fn holds(&self, now: Instant) -> bool {
        self.until().is_some_and(|until| now < until)
    }

    /// An answer has come to what was sent then.
    pub(super) fn heard(&mut self, sent: Instant, now: Instant) {
        if self.since.is_some_and(|since| sent < since) {
            return;
        }
        let before = self.unconfirmed.replace(sent);
        if self.holds(now) {
            self.confirm();
        } else if before.is_some() && !self.is_owing {
            self.confirmed = self.confirmed.max(before);
        }
    }

    /// The group gave partitions, in the answer that was heard of last or one before it.
    pub(super) fn assigned(&mut self) {
        self.confirm();
    }

    fn confirm(&mut self) {
        self.confirmed = self.confirmed.max(self.unconfirmed);
    }

    /// The member is out, or what it had is lost.
    pub(super) fn ended(&mut self, now: Instant) {
        (self.confirmed, self.unconfirmed, self.since) = (None, None, Some(now));
    }

    /// Partitions are wanted back, or were given.
    pub(super) fn set_owing(&mut self, is_owing: bool) {
        // What came meanwhile may be from a client that is out.
        (self.is_owing, self.unconfirmed) = (is_owing, None);
    }

    pub(super) fn session(&self) -> Option<Duration> {
        self.session
    }

    pub(super) fn set_session(&mut self, session: Duration) {
        self.session = Some(session);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);
    /// 6 s without the margin.
    const LEASE: Duration = Duration::from_millis(5_700);

    fn vouching() -> Vouching {
        Vouching::new(Some(6 * SECOND))
    }

    #[test]
    fn each_answer_is_told_twice_and_counts_once() {
        let mut reports = Reports::default();
        let told = [500, 500, 612, 733, 612, 733, 500].map(|took| reports.is_first(took));
        assert_eq!(told, [true, false, true, true, false, false, true]);
        assert!((0..100).all(|took| reports.is_first(took)), "what is never told again takes no room");
        assert!(reports.0.len() <= Reports::MOST);
    }

    #[test]
    fn a_member_is_vouched_for_from_when_that_was_sent_by_which_it_got_partitions() {
        let (mut vouching, now) = (vouching(), Instant::now());
        vouching.heard(now, now + SECOND);
        assert_eq!(vouching.until(), None, "an answer may say anything");
        vouching.assigned();
        assert_eq!(vouching.until(), Some(now + LEASE));
        assert!(vouching.holds(now + 5 * SECOND) && !vouching.holds(now + LEASE));
    }

    #[test]
    fn each_answer_extends_what_holds() {
        let (mut vouching, now) = (vouching(), Instant::now());
        vouching.heard(now, now);
        vouching.assigned();
        vouching.heard(now + 3 * SECOND, now + 4 * SECOND);
        assert_eq!(vouching.until(), Some(now + 3 * SECOND + LEASE));
    }

    #[test]
    fn the_first_answer_after_a_silence_begins_nothing_and_the_next_one_does() {
        let (mut vouching, now) = (vouching(), Instant::now());
        vouching.heard(now, now);
        vouching.assigned();
        let back = now + 60 * SECOND;
        vouching.heard(back, back);
        assert!(!vouching.holds(back));
        vouching.heard(back + SECOND, back + SECOND);
        assert_eq!(vouching.until(), Some(back + LEASE), "the one before it was good");
    }

    #[test]
    fn who_was_thrown_out_is_vouched_for_when_the_group_gives_partitions_again() {
        let (mut vouching, now) = (vouching(), Instant::now());
        vouching.heard(now, now);
        vouching.assigned();
        vouching.ended(now + SECOND);
        vouching.heard(now + SECOND / 2, now + 2 * SECOND);
        vouching.heard(now + 2 * SECOND, now + 2 * SECOND);
        assert_eq!(vouching.until(), None, "the one before was sent by the member that is out");
        vouching.assigned();
        assert_eq!(vouching.until(), Some(now + 2 * SECOND + LEASE));
    }

    #[test]
    fn while_partitions_are_wanted_back_nothing_begins_and_what_holds_goes_on() {
        let (mut vouching, now) = (vouching(), Instant::now());
        vouching.heard(now, now);
        vouching.assigned();
        vouching.set_owing(true);
        vouching.heard(now + 3 * SECOND, now + 3 * SECOND);
        assert!(vouching.holds(now + 8 * SECOND));
        for n in 3..9_u32 {
            let at = now + 10 * SECOND * n;
            vouching.heard(at, at);
            assert!(!vouching.holds(at));
        }
        vouching.set_owing(false);
        vouching.heard(now + 200 * SECOND, now + 200 * SECOND);
        vouching.heard(now + 201 * SECOND, now + 201 * SECOND);
        assert!(vouching.holds(now + 201 * SECOND));
    }

    #[test]
    fn without_a_session_nobody_is_vouched_for_and_with_a_shorter_one_for_less() {
        let (mut vouching, now) = (Vouching::new(None), Instant::now());
        vouching.heard(now, now);
        vouching.assigned();
        assert_eq!(vouching.until(), None);
        vouching.set_session(45 * SECOND);
        assert_eq!(vouching.until(), Some(now + 44 * SECOND), "a second is margin enough");
        vouching.set_session(6 * SECOND);
        assert_eq!(vouching.until(), Some(now + LEASE));
    }

    /// A coordinator and a client as they are: what is answered, and what the client does about it.
    #[derive(Debug, Clone, Copy)]
    enum Op {
        /// A heartbeat goes out and is answered after so long.
        Heartbeat { ms: u32 },
        /// It never arrives.
        Silence { ms: u32 },
        /// The client has dealt with being out and joins anew.
        Rejoin,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            6 => (0..900_u32).prop_map(|ms| Op::Heartbeat { ms }),
            2 => (0..9_000_u32).prop_map(|ms| Op::Silence { ms }),
            1 => Just(Op::Rejoin),
        ]
    }

    proptest! {
        /// The coordinator's session ends by its own clock; behind it a heartbeat is answered, with an error inside.
        #[test]
        fn no_lease_holds_when_the_coordinators_session_is_over(ops in prop::collection::vec(op(), 1..80)) {
            let mut vouching = vouching();
            let mut now = Instant::now();
            // When the coordinator throws the member out; none: it is out.
            let mut expires: Option<Instant> = None;
            // The client was told that it is out and sends nothing until that is dealt with.
            let mut is_told = true;
            for op in ops {
                let sent = now;
                match op {
                    Op::Silence { ms } => now += Duration::from_millis(ms.into()),
                    Op::Heartbeat { .. } if is_told => now += SECOND,
                    Op::Heartbeat { ms } => {
                        let reached = now + Duration::from_millis(u64::from(ms) / 2);
                        let is_in = expires.is_some_and(|at| reached < at);
                        expires = is_in.then(|| reached + 6 * SECOND);
                        now += Duration::from_millis(ms.into());
                        vouching.heard(sent, now);
                        // Between the answer and what the client does about it.
                        prop_assert!(is_in || !vouching.holds(now));
                        is_told = !is_in;
                    }
                    Op::Rejoin => {
                        vouching.ended(now);
                        vouching.heard(now, now);
                        vouching.assigned();
                        (expires, is_told) = (Some(now + 6 * SECOND), false);
                    }
                }
                prop_assert!(!vouching.holds(now) || expires.is_some_and(|at| now < at));
                if let Some(until) = vouching.until().filter(|until| *until > now) {
                    prop_assert!(expires.is_some_and(|at| until <= at));
                }
            }
        }
    }
}
