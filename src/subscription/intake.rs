//! The thread of a subscription: it fetches, routes, hands over to the pool, keeps the ledgers, commits, and carries
//! out what the handle asks for.

use super::arrivals::Arrivals;
use super::commands::{Command, Commands, Drain};
use super::next::Next;
use super::prepare::prepare;
use super::runner::{Delivery, Invoke, Runner};
use super::shared::{End, Shared, Verdict};
use super::timers::{Extent, Outstanding, Timers};
use super::waiting::Waiting;
use crate::broker::{BrokerError, Budget, Consumer, Durability, Fetched, Polled};
use crate::delivery::lease::{self, Lease};
use crate::delivery::ledger::{Delivered, Ledger};
use crate::delivery::ownership::Ownership;
use crate::delivery::partitions::{Partitions, Slot, Token};
use crate::delivery::retry::is_used_up;
use crate::delivery::{Assignment, Partition, Position};
use crate::foreign;
use crate::observe::metrics::Tally;
use crate::pool::{Key, Pool, RoundRobin, Turn, Worker};
use crate::sync::Arc;
use crate::wait::{Backoff, Parker};
use std::time::{Duration, Instant};

/// Records fetched in one turn.
const FETCH: usize = 512;

impl<I: Invoke> Intake<I> {
    /// One turn; true: something was done, so look again before sleeping.
    fn turn(&mut self, now: Instant) -> bool {
        self.take_waits();
        let mut is_busy = self.obey(now);
        is_busy |= self.take_verdicts(now);
        is_busy |= self.settle_behind_handlers(now);
        is_busy |= self.give_back(now);
        self.look_at_lease(now);
        is_busy |= self.fetch(now);
        is_busy |= self.hand_over(now);
        let has_moved = is_busy;
        is_busy |= self.step_direct(now);
        self.commit_if_due(now);
        self.leave(now);
        self.tick(now);
        // Before it is counted: who reads that it was consumed finds it in flight, or its end counted.
        self.setup.shared.counters.set_in_flight(self.in_flight as u64);
        self.setup.shared.counters.add(&mut self.tally);
        self.look_at_waits(now, has_moved, is_busy);
        is_busy
    }
}

/// The life of the thread, from joining the group to leaving it.
pub(crate) fn run<I: Invoke>(setup: Setup, direct: Option<Worker<Runner<I>>>) {
    let parker = Parker::new();
    let is_first = setup.shared.intake.set(parker.waker().clone()).is_ok();
    debug_assert!(is_first, "a subscription has one intake");
    let clock = setup.shared.clock.clone();
    let _registration = clock.register(parker.waker().clone());
    if let Some(worker) = &direct {
        worker.set_sleeper(parker.waker().clone());
    }
    let now = clock.now();
    let round_robin = RoundRobin::new(setup.pool.workers());
    let arrivals = Arrivals::new(setup.pool.workers());
    let timers = Timers::new(setup.bounds.commit_interval, now);
    let lease = setup.consumer.lease();
    let mut intake = Intake {
        setup,
        lease,
        lease_seen: lease::Watch::new(),
        lease_ends: 0,
        direct,
        partitions: Partitions::default(),
        assigned: Vec::new(),
        round_robin,
        polled: Vec::new(),
        arrivals,
        batch: Vec::new(),
        verdicts: Vec::new(),
        give_backs: Vec::new(),
        tally: Tally::default(),
        in_flight: 0,
        bytes_in_flight: 0,
        timers,
        is_paused: false,
        is_ready: false,
        drain: None,
        ticks_with_problems: 0,
        waiting: Waiting::default(),
    };
    loop {
        let now = clock.now();
        let is_busy = intake.turn(now);
        if intake.is_over() {
            break;
        }
        if !is_busy {
            let until = intake.next_due(now);
            let mut backoff = Backoff::default();
            while !parker.is_woken() && !backoff.is_over() {
                backoff.snooze();
            }
            parker.park_until(if clock.is_manual() { None } else { until });
        }
    }
    intake.end();
}

/// What a subscription is started with.
pub(crate) struct Setup {
    pub(crate) shared: Arc<Shared>,
    pub(crate) consumer: Box<dyn Consumer>,
    pub(crate) pool: Pool<Delivery>,
    pub(crate) commands: Arc<Commands>,
    pub(crate) bounds: Bounds,
}

/// The limits of a subscription.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
    pub(crate) watermark_distance: usize,
    pub(crate) drain_timeout: Duration,
    /// None: at each turn.
    pub(crate) commit_interval: Option<Duration>,
}

/// The state of the thread.
pub(super) struct Intake<I: Invoke> {
    pub(super) setup: Setup,
    pub(super) lease: Lease,
    pub(super) lease_seen: lease::Watch,
    /// Of how many of its ends it is known what was lost.
    pub(super) lease_ends: u64,
    /// With `workers(0)` the intake handles on its own thread.
    pub(super) direct: Option<Worker<Runner<I>>>,
    pub(super) partitions: Partitions,
    /// By slot.
    pub(super) assigned: Vec<Assigned>,
    round_robin: RoundRobin,
    polled: Vec<Polled>,
    arrivals: Arrivals,
    pub(super) batch: Vec<(Key, Delivery)>,
    verdicts: Vec<Verdict>,
    give_backs: Vec<(Partition, u64, Duration)>,
    pub(super) tally: Tally,
    pub(super) in_flight: usize,
    pub(super) bytes_in_flight: usize,
    pub(super) timers: Timers,
    pub(super) is_paused: bool,
    pub(super) is_ready: bool,
    pub(super) drain: Option<Drain>,
    pub(super) ticks_with_problems: u64,
    /// What others wait for.
    pub(super) waiting: Waiting,
}

/// A partition that the subscription has, or had.
pub(super) struct Assigned {
    pub(super) slot: Slot,
    pub(super) assignment: Arc<Assignment>,
    pub(super) ownership: Ownership,
    /// At most once: what has ended, for who waits for that; the other ledger has settled what was handed over.
    pub(super) handled: Option<Ledger>,
}

impl Assigned {
    /// A record of it was given back, or its handler has ended.
    pub(super) fn over(&mut self, token: Token, bytes: usize) {
        self.ownership.over();
        if let Some(handled) = &mut self.handled {
            // What is not known here was over before this assignment.
            handled.settle(token.offset, bytes);
        }
    }
}

impl<I: Invoke> Intake<I> {
    fn obey(&mut self, now: Instant) -> bool {
        let commands = self.setup.commands.take();
        let is_busy = !commands.is_empty();
        for command in commands {
            match command {
                Command::Pause(is_paused) => {
                    self.is_paused = is_paused;
                    if self.drain.is_none() {
                        self.set_status(self.undrained_status());
                    }
                }
                Command::Drain(limit, promise) => {
                    self.begin_drain(now, limit, None);
                    self.drain.as_mut().expect("just begun").promises.extend(promise);
                }
            }
        }
        is_busy
    }

    fn take_verdicts(&mut self, now: Instant) -> bool {
        std::mem::swap(&mut *self.setup.shared.verdicts.lock(), &mut self.verdicts);
        let is_busy = !self.verdicts.is_empty();
        let mut verdicts = std::mem::take(&mut self.verdicts);
        for Verdict { partition, token, bytes, end } in verdicts.drain(..) {
            if let End::Halt(error) = end {
                foreign::error!(error, "the subscription stops, as its policy says");
                let limit = self.setup.bounds.drain_timeout;
                self.begin_drain(now, limit, Some(error));
                continue;
            }
            self.in_flight -= 1;
            self.bytes_in_flight -= bytes;
            // An earlier assignment of the same partition has nothing to say any more.
            let held =
                self.assigned.get_mut(token.slot.index()).filter(|held| held.assignment.id == partition);
            let mut is_owned = false;
            if let Some(held) = held {
                held.over(token, bytes);
                let ownership = &mut held.ownership;
                // At most once: what was settled first was committed before it was handed over.
                if matches!(end, End::Settled) && !self.setup.shared.settles_first {
                    ownership.settled();
                }
                is_owned = ownership.is_owned();
            }
            if is_owned && matches!(end, End::Returned(_)) {
                self.lost_worker(now);
            }
            match end {
                End::Settled => self.settle(partition, token, bytes),
                End::Returned(place) => {
                    // Of a generation that is over nothing is kept.
                    let _ = self.partitions.returned(token, bytes);
                    if let Some(drain) = &mut self.drain {
                        drain.report.unsettled.push(*place);
                    }
                }
                End::Redeliver(delay) => {
                    if self.partitions.returned(token, bytes) == Ok(true) {
                        self.give_backs.push((partition, token.offset, delay));
                    }
                }
                End::Halt(_) => unreachable!("dealt with above"),
            }
        }
        self.verdicts = verdicts;
        is_busy
    }

    fn give_back(&mut self, now: Instant) -> bool {
        if self.give_backs.is_empty() || self.timers.is_broker_resting(now) {
            return false;
        }
        while let Some((partition, offset, delay)) = self.give_backs.last().copied() {
            match self.setup.consumer.give_back(partition, offset, delay) {
                Ok(()) | Err(BrokerError::Fenced { .. }) => drop(self.give_backs.pop()),
                Err(error) => {
                    self.broker_failed(now, &error);
                    return false;
                }
            }
        }
        true
    }

    fn fetch(&mut self, now: Instant) -> bool {
        if self.drain.is_some() || self.timers.is_broker_resting(now) {
            return false;
        }
        let bounds = self.setup.bounds;
        let room = bounds.records.saturating_sub(self.in_flight);
        let bytes = bounds.bytes.saturating_sub(self.bytes_in_flight);
        let has_room = room > 0 && bytes > 0;
        let (is_far, distance_left) = self.pause_far_partitions();
        if self.timers.set_full(!has_room || is_far, now) {
            *self.setup.shared.window_full.lock() = None;
        }
        // With no room the poll goes on, for rebalances, and hands out no record.
        let is_leased = self.lease.holds(now);
        let takes = has_room && !self.is_paused && self.batch.is_empty() && is_leased;
        let records = if takes { room.min(distance_left).min(FETCH) } else { 0 };
        let mut polled = std::mem::take(&mut self.polled);
        let lease_ends = self.lease.ends();
        match self.setup.consumer.poll(Budget { records, bytes }, &mut polled) {
            // A position that can't be committed is trouble that goes on, whatever a poll says.
            Ok(()) if self.is_commit_failing() => {}
            Ok(()) => self.broker_answered(now),
            Err(error) => self.broker_failed(now, &error),
        }
        let mut is_busy = !polled.is_empty();
        for found in polled.drain(..) {
            match found {
                Polled::Assigned(partition, position) => self.assigned(partition, position),
                Polled::Revoked(partition) => self.revoked(partition, now),
                Polled::Lost(partition) => self.lost(partition),
                Polled::CommitFailed(partition, error) => self.commit_failed(partition, now, error),
                Polled::Gone(partition, gone) => self.gone(partition, gone, now),
                Polled::Record(fetched) => self.deliver(fetched),
            }
        }
        self.polled = polled;
        if self.lease_ends != lease_ends {
            self.lease_ends = lease_ends;
            self.lease.heard(lease_ends);
            is_busy = true;
        }
        // What waits for it goes on with the next turn.
        is_busy |= !is_leased && self.lease.holds(now);
        self.arrivals.flush(&mut self.batch);
        is_busy
    }

    /// Stops partitions that are as far beyond their watermark as they may be, each alone. Tells whether one is, and how
    /// many records may come before the next one is.
    fn pause_far_partitions(&mut self) -> (bool, usize) {
        let bound = self.setup.bounds.watermark_distance;
        let (mut is_far, mut left) = (false, bound);
        for Assigned { slot, assignment, ownership, .. } in &mut self.assigned {
            let Some(ledger) = self.partitions.ledger(*slot) else { continue };
            let room = ownership.room(ledger.distance(), bound);
            if room == 0 {
                is_far = true;
            } else {
                left = left.min(room);
            }
            if ownership.set_paused(room == 0) {
                self.setup.consumer.set_paused(assignment.id, room == 0);
            }
        }
        (is_far, left)
    }

    fn assigned(&mut self, id: Partition, position: Position) {
        let topic = self.setup.shared.topics[id.topic as usize].clone();
        foreign::info!(
            topic = &*topic,
            partition = id.partition,
            offset = position.watermark,
            "partition assigned"
        );
        let settles_first = self.setup.shared.settles_first;
        let handled =
            settles_first.then(|| Ledger::restore(position.watermark, position.ahead.iter().cloned()));
        let ledger = Ledger::restore(position.watermark, position.ahead);
        let slot = self.partitions.assign(id.topic, id.partition, ledger);
        let assignment =
            Arc::new(Assignment::new(topic, id, self.lease.clone(), self.setup.consumer.fence(id)));
        let assigned = Assigned { slot, assignment, ownership: Ownership::new(), handled };
        match self.assigned.get_mut(slot.index()) {
            Some(before) => *before = assigned,
            None => self.assigned.push(assigned),
        }
    }

    /// The partition, if it is still in this generation.
    pub(super) fn assigned_as(&mut self, id: Partition) -> Option<&mut Assigned> {
        let slot = self.partitions.slot(id.topic, id.partition)?;
        self.assigned.get_mut(slot.index()).filter(|held| held.assignment.id == id)
    }

    fn deliver(&mut self, fetched: Fetched) {
        let id = fetched.partition;
        let Some(slot) = self.partitions.slot(id.topic, id.partition) else { return };
        let Assigned { assignment, ownership, handled, .. } = &mut self.assigned[slot.index()];
        if assignment.id != id || !ownership.is_owned() {
            return;
        }
        let bytes = fetched.record.size();
        let Some((token, delivered)) = self.partitions.deliver(slot, fetched.offset, bytes) else { return };
        match delivered {
            Delivered::New => {}
            Delivered::InFlight => return,
            // It was over before; a broker that hears of each record hears of each copy.
            Delivered::Settled => return self.setup.consumer.settled(id, fetched.offset),
        }
        self.tally.consumed += 1;
        self.in_flight += 1;
        self.bytes_in_flight += bytes;
        ownership.delivered();
        if let Some(handled) = handled {
            handled.deliver(fetched.offset, bytes);
        }
        if self.setup.shared.settles_first {
            ownership.settled();
            self.settle(id, token, bytes);
        }
        let assignment = &self.assigned[slot.index()].assignment;
        let shared = &self.setup.shared;
        let redeliveries = fetched.redeliveries;
        let is_used_up = shared.rules.takes_envelopes
            && shared.broker.capabilities().counts_deliveries
            && is_used_up(&shared.policy, redeliveries);
        let subject = fetched.subject.as_deref();
        let mut prepared = prepare(&shared.rules, &fetched.record, bytes, subject, is_used_up);
        let key = prepared.key.unwrap_or_else(|| {
            self.tally.without_aggregate += 1;
            if shared.rules.takes_envelopes {
                foreign::warn!(
                    topic = &*assignment.topic,
                    partition = id.partition,
                    offset = fetched.offset,
                    "a record of an Envelope subscription has no aggregate id and no key, so it has no order"
                );
            }
            self.round_robin.next_key()
        });
        if prepared.next == Next::Attempt && is_used_up {
            prepared.next = Next::GiveUp { redeliveries };
        }
        self.arrivals.push(assignment, fetched, (key, prepared), token, bytes, &mut self.batch);
    }

    fn hand_over(&mut self, now: Instant) -> bool {
        if self.batch.is_empty() {
            return false;
        }
        // At most once: the position is durable before the first handler starts, and what is not handed over yet is not
        // lost with it.
        if self.setup.shared.settles_first
            && (!self.lease.holds(now)
                || self.timers.is_broker_resting(now)
                || !self.commit(now, Extent::Full, Durability::Confirmed))
        {
            return false;
        }
        // A lane is as large as the window, and a worker gives a place back before it tells that the record is over: so
        // nothing is left but where a worker has ended.
        let taken = self.setup.pool.try_send_batch(&mut self.batch);
        if taken == 0 && self.setup.pool.has_ended_worker() {
            self.lost_worker(now);
        }
        taken > 0
    }

    /// The keys of a worker that has ended would wait for ever.
    fn lost_worker(&mut self, now: Instant) {
        let error = "a worker's thread ended before its time, by a panic or an `enter` that did not run it";
        foreign::error!(error, group = &*self.setup.shared.group, "the subscription stops");
        self.begin_drain(now, self.setup.bounds.drain_timeout, Some(error.to_owned()));
    }

    fn step_direct(&mut self, now: Instant) -> bool {
        match self.direct.as_mut().map(|worker| worker.step(now)) {
            Some(Turn::Ran | Turn::Snooze) => true,
            Some(Turn::Park(_) | Turn::Exit) | None => false,
        }
    }

    /// When the next turn has something to do that no wake tells of.
    fn next_due(&self, now: Instant) -> Option<Instant> {
        let outstanding = Outstanding {
            has_in_flight: self.in_flight > 0,
            is_commit_due: self.is_commit_due(),
            is_lease_over: self.lease_seen != lease::Watch::Holds
                && self.setup.shared.lease_over.lock().is_some(),
        };
        let leaving = self.assigned.iter().filter_map(|held| held.ownership.next_due());
        let others = [
            self.timers.next_due(now, outstanding),
            self.setup.consumer.next_due(),
            self.waiting.next_due(),
            self.direct.as_ref().and_then(Worker::next_due),
            self.lease.ends_at(),
            self.lease_seen.next_due(),
        ];
        others.into_iter().flatten().chain(leaving).filter(|due| *due > now).min()
    }
}
