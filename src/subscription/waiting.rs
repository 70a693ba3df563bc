//! What the intake waits for on behalf of others.

use super::leased;
use super::runner::Delivery;
use super::shared::Shared;
use super::waits::{Condition, WaitError, Waits, Wanted, look};
use crate::broker::{BrokerError, Mark};
use crate::bus::connection::Stamp;
use crate::foreign;
use crate::pool::{WaitingKeys, WaitsFor};
use crate::sync::{Arc, Mutex};
use crate::wait::{Op, Promise};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// What the intake waits for on behalf of others.
#[derive(Default)]
pub(super) struct Waiting {
    untils: Vec<(u64, Condition)>,
    pub(super) catch_ups: Vec<CatchUp>,
    pub(super) reach: Reach,
    pub(super) probes: Probes,
}

impl Waiting {
    /// Takes what was asked for since. True: from now on every change on a worker has to be told.
    pub(super) fn take(&mut self, waits: &Waits) -> bool {
        let was_watched = self.needs_watch();
        let (wanted, probes) = waits.take();
        for (id, wanted) in wanted {
            match wanted {
                Wanted::CaughtUp => self.catch_ups.push(CatchUp::new(id)),
                Wanted::Until(condition) => self.untils.push((id, condition)),
            }
        }
        self.probes.add(probes);
        self.needs_watch() && !was_watched
    }

    pub(super) fn needs_watch(&self) -> bool {
        !self.untils.is_empty() || self.probes.is_any()
    }

    /// Looks at the conditions.
    pub(super) fn look(&mut self, shared: &Shared, depths: impl Iterator<Item = u64>) {
        if self.untils.is_empty() {
            return;
        }
        let stats = shared.stats(depths);
        for (id, mut condition) in std::mem::take(&mut self.untils) {
            let answer =
                if shared.waits.is_given_up(id) { Some(Ok(())) } else { look(&mut condition, &stats) };
            match answer {
                None => self.untils.push((id, condition)),
                Some(answer) => {
                    foreign::discard(condition);
                    shared.waits.answer(id, answer);
                }
            }
        }
    }

    /// When something is to be looked at that no wake tells of.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.reach.ask_at().filter(|_| !self.catch_ups.is_empty())
    }

    /// The intake has ended: a last look, and everyone is told.
    pub(super) fn end(mut self, shared: &Shared, halted: Option<String>) {
        self.look(shared, std::iter::empty());
        self.untils.into_iter().for_each(foreign::discard);
        shared.waits.end(&halted.map_or(WaitError::Ended, WaitError::Halted));
    }
}

/// How often a remote broker is asked while somebody waits for it.
pub(super) const ASK_AGAIN: Duration = Duration::from_millis(100);

pub(super) type Asked = Op<Result<Vec<Mark>, BrokerError>>;

/// One wait for all that was stored.
pub(super) struct CatchUp {
    pub(super) id: u64,
    pub(super) ends: Ends,
}

pub(super) enum Ends {
    /// To be asked for, not before this time.
    Unknown(Option<Instant>),
    Asked(Asked),
    /// Those that were not found to be over for good.
    Known(Vec<Mark>),
}

impl CatchUp {
    pub(super) fn new(id: u64) -> Self {
        Self { id, ends: Ends::Unknown(None) }
    }
}

/// How far the group is, as the broker has said; asked for on behalf of all that wait.
#[derive(Default)]
pub(super) struct Reach {
    pub(super) known: HashMap<(u32, u32), u64>,
    pub(super) asked: Option<(Asked, bool)>,
    pub(super) ask_at: Option<Instant>,
    /// The last answer was asked for when the subscription was paused already.
    pub(super) is_of_pause: bool,
}

impl Reach {
    pub(super) fn ask_at(&self) -> Option<Instant> {
        self.ask_at.filter(|_| self.asked.is_none())
    }

    pub(super) fn is_beyond(&self, end: &Mark) -> bool {
        self.known.get(&(end.topic, end.partition)).is_some_and(|&reached| reached >= end.offset)
    }
}

/// Who asks whether it is quiet, and how far the answer is.
#[derive(Default)]
pub(super) struct Probes {
    pub(super) waiting: Vec<Promise<Stamp>>,
    /// One came, or something moved, since the last visit began.
    pub(super) is_news: bool,
    pub(super) visit: Option<QuietVisit>,
    /// Turns in which the intake did something.
    pub(super) moves: u64,
}

pub(super) struct QuietVisit {
    pub(super) over: Op<()>,
    pub(super) seen: Arc<Mutex<Seen>>,
    /// Those that asked before it began.
    pub(super) promises: Vec<Promise<Stamp>>,
    pub(super) moves: u64,
}

/// What a visit found on all workers.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) at_rest: usize,
    pub(super) is_due: bool,
    pub(super) activity: u64,
}

impl Seen {
    pub(super) fn look(&mut self, waiting: &mut dyn WaitingKeys<Delivery>, now: Instant) {
        waiting.for_each(&mut |key| {
            let is_due = match key.waits_for {
                WaitsFor::Turn => true,
                WaitsFor::Time(at) => at <= now,
                WaitsFor::Future(until) => until.is_some_and(|until| until <= now),
                WaitsFor::Operator => false,
            };
            self.is_due |= is_due;
            self.at_rest += 1 + key.behind;
        });
        self.activity += leased::activity();
    }
}

impl Probes {
    pub(super) fn add(&mut self, probes: Vec<Promise<Stamp>>) {
        self.is_news |= !probes.is_empty();
        self.waiting.extend(probes);
    }

    pub(super) fn is_any(&self) -> bool {
        !self.waiting.is_empty() || self.visit.is_some()
    }

    pub(super) fn moved(&mut self, has_moved: bool) {
        self.moves += u64::from(has_moved);
        self.is_news |= has_moved;
    }
}
