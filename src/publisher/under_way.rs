//! What a publisher has under way, behind its lock.

use super::answer::{PublishError, Receipt};
use super::line::{Do, Id, Line};
use super::outcomes::Unread;
use crate::chance;
use crate::record::Record;
use crate::sync::Arc;
use crate::wait::Promise;
use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

pub(super) struct UnderWay {
    pub(super) line: Line,
    pub(super) publishes: BTreeMap<Id, Publish>,
    /// What is to be sent, in order; drained by one thread at a time, without the lock.
    pub(super) outbox: VecDeque<Id>,
    pub(super) is_sending: bool,
    pub(super) flushes: Vec<(Id, Promise<()>)>,
    pub(super) unread: Unread,
    /// It was closed, and all that was under way is answered.
    pub(super) is_over: bool,
    /// The thread looks again in time.
    pub(super) is_watched: bool,
    /// The number of those that waited for room when the ones nobody wants were last taken out.
    pub(super) waiting_after_sweep: usize,
    /// Records whose operations were dropped while they waited for room, so that they are never sent.
    pub(super) withdrawn: u64,
    pub(super) closing: Option<Closing>,
    pub(super) random: fastrand::Rng,
    pub(super) quiet: Quiet,
}

/// Who asks whether it is quiet, and what it takes to know.
#[derive(Default)]
pub(super) struct Quiet {
    pub(super) promises: Vec<Promise<u64>>,
    /// How often something went to the broker.
    pub(super) sent: u64,
    /// The wakes for room that the thread has looked at.
    pub(super) room_seen: Option<u64>,
}

pub(super) struct Closing {
    pub(super) until: Instant,
    pub(super) promises: Vec<Promise<u64>>,
}

pub(super) struct Publish {
    pub(super) topic: Arc<str>,
    pub(super) record: Arc<Record>,
    pub(super) reply: Reply,
    /// It was not admitted at the call, so dropping its operation withdraws it until it is sent.
    pub(super) waits_for_room: bool,
    /// Of an outcome that somebody reads.
    pub(super) keeps_place: bool,
    pub(super) since: Instant,
    /// What its last try failed with.
    pub(super) error: Option<String>,
    pub(super) room_seen: u64,
}

/// Whom the broker's answer is for.
pub(super) enum Reply {
    /// Whoever holds the operation.
    Op(Promise<Result<Receipt, PublishError>>),
    /// Whoever reads the outcomes. Until it is sent somebody may wait for that.
    Outcomes(Option<Promise<Result<(), PublishError>>>),
}

impl Reply {
    /// Nobody wants the record to be sent any more, if it was not.
    pub(super) fn is_detached(&self) -> bool {
        match self {
            Self::Op(promise) => promise.is_detached(),
            Self::Outcomes(promise) => promise.as_ref().is_some_and(Promise::is_detached),
        }
    }
}

impl UnderWay {
    pub(super) fn new(line: Line) -> Self {
        Self {
            line,
            publishes: BTreeMap::new(),
            outbox: VecDeque::new(),
            is_sending: false,
            flushes: Vec::new(),
            unread: Unread::default(),
            is_over: false,
            is_watched: false,
            waiting_after_sweep: 0,
            withdrawn: 0,
            closing: None,
            random: chance::random(),
            quiet: Quiet::default(),
        }
    }

    /// The flushes whose publishes are all answered.
    pub(super) fn flushed(&mut self) -> Vec<Promise<()>> {
        if self.flushes.is_empty() {
            return Vec::new();
        }
        let oldest = self.publishes.keys().next().copied().unwrap_or(Id::MAX);
        let (over, left) =
            std::mem::take(&mut self.flushes).into_iter().partition(|(last, _)| *last < oldest);
        self.flushes = left;
        let over: Vec<(Id, Promise<()>)> = over;
        over.into_iter().map(|(_, promise)| promise).collect()
    }

    /// Whether this topic was full when it was last tried.
    pub(super) fn rests_for_room_in(&self, topic: &str) -> bool {
        self.line
            .resting_for_room()
            .any(|id| self.publishes.get(&id).is_some_and(|rests| *rests.topic == *topic))
    }

    /// Takes out publishes that wait for room and that nobody waits for any more, whenever their number has doubled:
    /// what waits is bounded by what the callers hold. Tells how many.
    pub(super) fn sweep(&mut self) -> u64 {
        if self.line.waiting() < 2 * self.waiting_after_sweep.max(32) {
            return 0;
        }
        let (publishes, before) = (&mut self.publishes, self.line.waiting());
        self.line.withdraw_where(|id| {
            let is_unwanted = publishes[&id].reply.is_detached();
            if is_unwanted {
                publishes.remove(&id);
            }
            is_unwanted
        });
        self.waiting_after_sweep = self.line.waiting();
        let withdrawn = (before - self.waiting_after_sweep) as u64;
        self.withdrawn += withdrawn;
        withdrawn
    }
}

impl UnderWay {
    /// Outcomes were read, or nobody reads them.
    pub(super) fn give_back_places(&mut self, outcomes: usize, out: &mut Vec<Do>) {
        // Behind a close there is no room to wait for, and what it answered never left the line.
        if !self.is_over {
            self.line.read(outcomes, out);
        }
    }
}
