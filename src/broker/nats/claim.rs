//! Who owns a topic in its group: one member's part in it, as a state machine without clocks or sockets.
//!
//! There is one *record* for each topic and group, in a stream. It names its owner, and says how long it may stand still
//! until another takes it. It is written by compare-and-swap on its sequence alone, so that of several who write at once
//! one is heard; and the sequence, which only grows, is the number to fence with.
//!
//! - **The owner** writes the record again and again. Its lease ends nine tenths of that time behind the *sending* of its
//!   last write that was answered. What was sent and not answered extends nothing.
//! - **Another** takes the record when it has seen it unchanged for the whole time, by its own clock. What it saw was
//!   stored before, and sent before that: so its count begins behind the owner's, and the tenth between the two is for
//!   clocks that run at different speeds and for the moment between a look at the lease and what follows from it.
//! - **Silence counts only while one's own requests are answered.** While a server restarts or elects a leader all records
//!   stand still, and who counted through that would take everybody for dead.
//! - **A write without an answer was stored or was not.** It is sent again under the same number. Once that is refused the
//!   record is read: with one's own name it is one's own, with its sequence.
//! - **A record that was given back** is taken at once.
//! - **A record that has vanished**, with its stream or without, had an owner who does not know it yet: it counts as one
//!   that stands still from when it was missed.
//!
//! ```text
//!              given back, or silent               stored
//!  standing by ---------------------> taking ------------------> owning <---+ renewed; silent while no write is answered
//!    ^    ^                             |                        |  |  |    |
//!    |    +---- somebody else was first +                        |  |  +----+
//!    +----------------- somebody else has taken it --------------+  +--> releasing --> released
//! ```

use std::time::{Duration, Instant};

/// Before a request that was not answered is sent again.
const RETRY: Duration = Duration::from_millis(50);
/// How often one that stands by looks at the record: not rarer, since it also sees by that that it was given back.
const LOOK: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(250));
/// Within which a request is to be answered.
const LIMIT: (Duration, Duration) = (Duration::from_millis(150), Duration::from_secs(1));

/// What stands in a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// It was given back.
    Free,
    /// It is this one's, until it has stood still for so long.
    Held { owner: u128, takeover_after: Duration },
}

/// A record as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) sequence: u64,
    pub(super) content: Content,
}

/// What to ask the stream's leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    Read,
    /// If the sequence of the record is still this one; 0: if there is none.
    Write {
        expected: u64,
        content: Content,
    },
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// What was read; none: there is no record.
    Read(Option<Found>),
    /// It was written, with this sequence.
    Stored(u64),
    /// The sequence is another one.
    Refused,
    /// None: it may have been done or not.
    Nothing,
}

/// What a member has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// The record is this one's. The fence is greater than those of all owners before.
    Taken {
        fence: u64,
        /// Its last owner did not give it back.
        from_silent: bool,
    },
    /// The lease was over, and nobody had taken the record: it goes on.
    Regained,
    /// Another has it.
    Lost,
    /// It is given back, or was not this one's.
    Released,
}

#[derive(Debug)]
pub(super) struct Claim {
    me: u128,
    takeover_after: Duration,
    phase: Phase,
    /// What is under way, and when it was sent.
    asked: Option<(Ask, Instant)>,
    /// When something is to be asked next.
    next_at: Instant,
    /// How long the last record that was seen may stand still; none: there never was one.
    stands: Option<Duration>,
}

#[derive(Debug)]
enum Phase {
    StandingBy(Option<Silence>),
    Taking { record: Known, from_silent: bool },
    Owning { record: Known, until: Instant },
    Releasing(Known),
    Released,
}

/// A record as it was the last time that something was heard of it.
#[derive(Debug, Clone, Copy)]
struct Known {
    sequence: u64,
    /// A write under this number was refused: what is there has to be read.
    is_in_doubt: bool,
}

impl Known {
    fn new(sequence: u64) -> Self {
        Self { sequence, is_in_doubt: false }
    }
}

/// A record that stands still.
#[derive(Debug, Clone, Copy)]
struct Silence {
    sequence: u64,
    /// For how long it was seen to.
    seen: Duration,
    /// The last look, unless one behind it was not answered.
    looked: Option<Instant>,
}

impl Claim {
    /// `me` is the name of this member, which nobody else ever had.
    pub(super) fn new(me: u128, takeover_after: Duration, now: Instant) -> Self {
        Self { me, takeover_after, phase: Phase::StandingBy(None), asked: None, next_at: now, stands: None }
    }

    /// How long an owner may start work behind a write that was answered.
    fn lease(&self) -> Duration {
        self.takeover_after / 10 * 9
    }

    fn look_every(&self) -> Duration {
        (self.takeover_after / 20).clamp(LOOK.0, LOOK.1)
    }

    /// Within which an answer counts as one.
    pub(super) fn limit(&self) -> Duration {
        (self.takeover_after / 5).clamp(LIMIT.0, LIMIT.1)
    }

    fn mine(&self) -> Content {
        Content::Held { owner: self.me, takeover_after: self.takeover_after }
    }

    fn is_mine(&self, content: Content) -> bool {
        matches!(content, Content::Held { owner, .. } if owner == self.me)
    }

    /// When the lease ends, or has ended; none: the record is not this one's.
    pub(super) fn until(&self) -> Option<Instant> {
        match self.phase {
            Phase::Owning { until, .. } => Some(until),
            _ => None,
        }
    }

    /// When there is something to ask; none: not before what is under way is answered.
    pub(super) fn due(&self) -> Option<Instant> {
        (self.asked.is_none() && !matches!(self.phase, Phase::Released)).then_some(self.next_at)
    }

    /// What to ask now, if anything.
    pub(super) fn ask(&mut self, now: Instant) -> Option<Ask> {
        if self.due()? > now {
            return None;
        }
        let (record, content) = match &self.phase {
            Phase::StandingBy(_) => (None, Content::Free),
            Phase::Taking { record, .. } | Phase::Owning { record, .. } => (Some(record), self.mine()),
            Phase::Releasing(record) => (Some(record), Content::Free),
            Phase::Released => return None,
        };
        let ask = match record {
            Some(Known { sequence, is_in_doubt: false }) => Ask::Write { expected: *sequence, content },
            _ => Ask::Read,
        };
        self.asked = Some((ask, now));
        Some(ask)
    }

    /// What was asked has been answered, or has waited for its answer for too long.
    pub(super) fn answered(&mut self, now: Instant, answer: Answer) -> Option<Change> {
        let (ask, sent) = self.asked.take()?;
        match (ask, answer) {
            (Ask::Read, Answer::Read(found)) => self.found(now, found),
            (Ask::Write { content, .. }, Answer::Stored(sequence)) => {
                self.stored(now, sent, sequence, content)
            }
            (Ask::Write { .. }, Answer::Refused) => {
                if let Phase::Taking { record, .. }
                | Phase::Owning { record, .. }
                | Phase::Releasing(record) = &mut self.phase
                {
                    record.is_in_doubt = true;
                }
                self.next_at = now;
                None
            }
            _ => {
                if let Phase::StandingBy(Some(silence)) = &mut self.phase {
                    silence.looked = None;
                }
                self.next_at = now.max(sent + RETRY);
                None
            }
        }
    }

    /// Gives the record back. From here on nothing of it is this one's.
    pub(super) fn release(&mut self, now: Instant) -> Option<Change> {
        let record = match self.phase {
            // What was sent may have been stored, whatever was heard of it.
            Phase::Taking { record, .. } => Known { is_in_doubt: true, ..record },
            Phase::Owning { record, .. } => record,
            Phase::StandingBy(_) => {
                self.phase = Phase::Released;
                return Some(Change::Released);
            }
            Phase::Releasing(_) | Phase::Released => return None,
        };
        self.phase = Phase::Releasing(record);
        self.next_at = now;
        None
    }

    fn stored(&mut self, now: Instant, sent: Instant, sequence: u64, content: Content) -> Option<Change> {
        let until = sent + self.lease();
        match &mut self.phase {
            Phase::Taking { from_silent, .. } => {
                let from_silent = *from_silent;
                self.next_at = sent + self.lease() / 3;
                self.phase = Phase::Owning { record: Known::new(sequence), until };
                Some(Change::Taken { fence: sequence, from_silent })
            }
            Phase::Owning { record, until: before } => {
                let was_over = *before <= now;
                *record = Known::new(sequence);
                *before = until.max(*before);
                self.next_at = sent + self.lease() / 3;
                (was_over && now < until).then_some(Change::Regained)
            }
            Phase::Releasing(_) if content == Content::Free => {
                self.phase = Phase::Released;
                Some(Change::Released)
            }
            // The answer to what was sent before that.
            Phase::Releasing(record) => {
                *record = Known::new(sequence);
                self.next_at = now;
                None
            }
            Phase::StandingBy(_) | Phase::Released => None,
        }
    }

    fn found(&mut self, now: Instant, found: Option<Found>) -> Option<Change> {
        let own = found.filter(|found| self.is_mine(found.content));
        match (&mut self.phase, own) {
            (
                Phase::Taking { record, .. } | Phase::Owning { record, .. } | Phase::Releasing(record),
                Some(own),
            ) => {
                *record = Known::new(own.sequence);
                self.next_at = now;
                None
            }
            (Phase::Releasing(_), None) => {
                self.phase = Phase::Released;
                Some(Change::Released)
            }
            // Refused for a write that was under way: nothing has changed yet.
            (Phase::Taking { record, .. }, None)
                if record.sequence == found.map_or(0, |found| found.sequence) =>
            {
                record.is_in_doubt = false;
                self.next_at = now + RETRY;
                None
            }
            (Phase::Taking { .. }, None) => {
                self.phase = Phase::StandingBy(None);
                self.look(now, found);
                None
            }
            (Phase::Owning { .. }, None) => {
                self.phase = Phase::StandingBy(None);
                self.stands.get_or_insert(self.takeover_after);
                self.look(now, found);
                Some(Change::Lost)
            }
            (Phase::StandingBy(_), _) => {
                self.look(now, found);
                None
            }
            (Phase::Released, _) => None,
        }
    }

    /// One that stands by has read the record.
    fn look(&mut self, now: Instant, found: Option<Found>) {
        let (sequence, stands) = match (found, self.stands) {
            (None, None) => return self.take(now, 0, false),
            (None, Some(stands)) => (0, stands),
            (Some(Found { sequence, content: Content::Free }), _) => {
                self.stands = Some(self.takeover_after);
                return self.take(now, sequence, false);
            }
            (Some(Found { sequence, content: Content::Held { takeover_after, .. } }), _) => {
                self.stands = Some(takeover_after);
                (sequence, takeover_after)
            }
        };
        // What lies between two looks counts as far as it is what looks are apart: this one may have been frozen, with
        // the server and everybody else.
        let most = self.look_every() + self.limit();
        let mut silence = match self.phase {
            Phase::StandingBy(Some(silence)) if silence.sequence == sequence => silence,
            _ => Silence { sequence, seen: Duration::ZERO, looked: None },
        };
        if let Some(before) = silence.looked.replace(now) {
            silence.seen += now.saturating_duration_since(before).min(most);
        }
        self.phase = Phase::StandingBy(Some(silence));
        let left = stands.saturating_sub(silence.seen);
        if left.is_zero() {
            return self.take(now, sequence, true);
        }
        self.next_at = now + self.look_every().min(left);
    }

    fn take(&mut self, now: Instant, sequence: u64, from_silent: bool) {
        self.phase = Phase::Taking { record: Known::new(sequence), from_silent };
        self.next_at = now;
    }
}

#[cfg(all(test, not(loom)))]
#[path = "claim/tests.rs"]
mod tests;
