//! The thread of a subscription: it fetches, routes, hands over to the pool, keeps the ledgers, commits, and carries
//! out what the handle asks for.

use super::arrivals::{Arrivals, Prepared};
use super::runner::{Delivery, Invoke, Next, Runner};
use super::shared::{End, Shared, Since, Verdict};
use super::waits::{WaitError, Waiting};
use crate::broker::{BrokerError, Budget, Committed, Consumer, Durability, Fetched, Polled};
use crate::delivery::ledger::{Delivered, Ledger, Settled};
use crate::delivery::partitions::{Partitions, Slot, Token};
use crate::delivery::retry::is_used_up;
use crate::delivery::{Assignment, Partition, Position};
use crate::envelope::{self, Limits};
use crate::event::Aggregate;
use crate::foreign;
use crate::observe::health::{Place, Status};
use crate::observe::metrics::Tally;
use crate::pool::{Key, Pool, RoundRobin, Turn, Worker};
use crate::route::{RecordView, Route, Routing, Source, looks_like_envelope};
use crate::sync::{Arc, Mutex};
use crate::wait::after;
use crate::wait::{Backoff, Parker};
use crate::wait::{Op, Promise};
use std::time::{Duration, Instant};

/// What the handle asks of the intake.
pub(crate) enum Command {
    Pause(bool),
    /// End: what runs may finish for this long. The promise learns what was left.
    Drain(Duration, Option<Promise<DrainReport>>),
}

/// The way from the handle to the intake.
#[derive(Default)]
pub(crate) struct Commands(Mutex<Asked>);

#[derive(Default)]
struct Asked {
    commands: Vec<Command>,
    has_joined: bool,
    /// Who waits for the subscription to join its group.
    ready: Vec<Promise<Result<(), BrokerError>>>,
    /// Set when the intake has ended: nobody takes commands any more.
    ended: Option<DrainReport>,
}

impl Commands {
    /// Queues a command, or answers it when the intake has ended.
    pub(crate) fn push(&self, command: Command) {
        let mut asked = self.0.lock();
        match (&asked.ended, command) {
            (Some(report), Command::Drain(_, Some(promise))) => {
                let report = report.clone();
                drop(asked);
                promise.complete(report);
            }
            (Some(_), _) => {}
            (None, command) => asked.commands.push(command),
        }
    }

    /// Is over when the subscription has joined its group, or has ended without.
    pub(crate) fn ready(&self) -> Op<Result<(), BrokerError>> {
        let mut asked = self.0.lock();
        if asked.has_joined {
            return Op::ready(Ok(()));
        }
        if asked.ended.is_some() {
            return Op::ready(Err(BrokerError::Closed));
        }
        let (promise, op) = Op::pending(|| Err(BrokerError::Closed));
        asked.ready.push(promise);
        op
    }

    fn joined(&self) {
        let mut asked = self.0.lock();
        asked.has_joined = true;
        let ready = std::mem::take(&mut asked.ready);
        drop(asked);
        ready.into_iter().for_each(|promise| promise.complete(Ok(())));
    }

    /// Whether the intake has ended, or is about to.
    pub(crate) fn has_ended(&self) -> bool {
        self.0.lock().ended.is_some()
    }

    fn take(&self) -> Vec<Command> {
        std::mem::take(&mut self.0.lock().commands)
    }

    /// The intake has ended; what was asked in the last moment is returned.
    fn end(&self, report: &DrainReport) -> Vec<Command> {
        let mut asked = self.0.lock();
        asked.ended = Some(report.clone());
        let (commands, ready) = (std::mem::take(&mut asked.commands), std::mem::take(&mut asked.ready));
        drop(asked);
        // Who still waits to be ready learns that it ended.
        drop(ready);
        commands
    }
}

/// How a subscription ended.
///
/// ```
/// use std::time::Duration;
/// # use keylane::{Envelope, HandlerError};
/// # let bus = keylane::connect("memory:?topics=orders,orders.dead").wait()?;
/// # let orders = bus.subscribe_envelopes("orders").group("billing").handle(|event| {
/// #     if event.attempt() == 1 { Err(HandlerError::terminal("no such account")) } else { Ok(()) }
/// # })?;
/// # bus.publish("orders", Envelope::new("order-42", "order.paid", 1, "995")?).wait()?;
///
/// bus.settled().wait()?;
/// let report = orders.drain(Duration::from_secs(10)).wait();
/// assert_eq!(report.unsettled[0].key.as_deref(), Some("order-42"), "it comes again");
/// assert!(report.still_running.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DrainReport {
    /// Records that were delivered and are not settled; they come again to whoever takes the group's place. Of a
    /// subscription with `at_most_once` also those that were settled first and not handled within the limit, which are
    /// lost.
    pub unsettled: Vec<Place>,
    /// Of those, the ones whose blocking handler was still running at the limit. Nobody can end such a handler; its
    /// thread ends with it, and its result counts no more. Where a future blocked its worker's thread, all that were
    /// with that worker: which of them it is can't be told.
    pub still_running: Vec<Place>,
}

/// The limits of a subscription.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
    pub(crate) watermark_distance: usize,
    pub(crate) max_record_bytes: usize,
    pub(crate) drain_timeout: Duration,
    /// None: at each turn.
    pub(crate) commit_interval: Option<Duration>,
}

/// Records fetched in one turn.
const FETCH: usize = 512;
/// How often the intake looks for handlers that hang and problems that last, while there is something in flight.
const TICK: Duration = Duration::from_secs(1);
/// Problems that a log line each is written of at a time.
const SAID: usize = 8;
/// After an error of the broker, the next try.
const BROKER_RETRY: Duration = Duration::from_millis(100);

/// A partition that the subscription has, or had.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct State {
    slot: Slot,
    assignment: Arc<Assignment>,
    /// Delivered in this assignment and neither settled nor returned.
    in_flight: usize,
    is_paused: bool,
    /// Something was settled since the last commit.
    is_dirty: bool,
    /// The last commit failed and is to be tried again.
    is_commit_failing: bool,
    /// What is settled ahead of the watermark takes all the room that a commit has for it.
    is_crowded: bool,
    pub(super) leaving: Leaving,
    /// At most once: what was handed over and has ended, where the ledger settles before.
    pub(super) handled: Option<Ledger>,
}

impl State {
    /// Its handler has ended, or it comes to none any more.
    fn has_ended(&mut self, token: Token, bytes: usize) {
        if let Some(handled) = &mut self.handled {
            handled.settle(token.offset, bytes);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    No,
    /// Nothing starts any more; what has started may end until then.
    Until(Instant),
    /// Time is up: futures are dropped and cancellation is signalled; blocking handlers have until then to notice.
    Cancelled(Instant),
    Gone,
}

/// A drain under way.
struct Drain {
    promises: Vec<Promise<DrainReport>>,
    report: DrainReport,
    halted: Option<String>,
}

/// What a subscription is started with.
pub(crate) struct Setup {
    pub(crate) shared: Arc<Shared>,
    pub(crate) consumer: Box<dyn Consumer>,
    pub(crate) topics: Vec<Arc<str>>,
    pub(crate) pool: Pool<Delivery>,
    pub(crate) commands: Arc<Commands>,
    pub(crate) bounds: Bounds,
    pub(crate) route: Route,
}

/// The state of the thread.
pub(super) struct Intake<I: Invoke> {
    pub(super) setup: Setup,
    /// With `workers(0)` the intake handles on its own thread.
    direct: Option<Worker<Runner<I>>>,
    pub(super) partitions: Partitions,
    pub(super) slots: Vec<State>,
    round_robin: RoundRobin,
    polled: Vec<Polled>,
    arrivals: Arrivals,
    batch: Vec<(Key, Delivery)>,
    verdicts: Vec<Verdict>,
    give_backs: Vec<(Partition, u64, Duration)>,
    tally: Tally,
    pub(super) in_flight: usize,
    bytes_in_flight: usize,
    last_commit: Instant,
    last_full_commit: Instant,
    full_since: Option<Instant>,
    pub(super) is_paused: bool,
    is_ready: bool,
    drain: Option<Drain>,
    broker_retry_at: Option<Instant>,
    next_tick: Instant,
    next_look: Instant,
    ticks_with_problems: u64,
    pub(super) waiting: Waiting,
}

/// Answers for an intake whose thread ends before its time, by a panic in foreign code: whoever waits for a drain
/// would wait for ever otherwise.
pub(crate) struct LastWord {
    pub(crate) shared: Arc<Shared>,
    pub(crate) commands: Arc<Commands>,
    pub(crate) pool: Pool<Delivery>,
}

impl Drop for LastWord {
    fn drop(&mut self) {
        if self.commands.has_ended() {
            return;
        }
        let error = "its thread ended before its time, by a panic or an `enter` that did not run it";
        foreign::error!(error, group = &*self.shared.group, "the subscription has stopped");
        *self.shared.status.lock() = Status::Halted(error.to_owned());
        // Nothing of it is settled any more, so nothing of it starts.
        drop(self.pool.drain(Duration::ZERO));
        self.shared.waits.end(&WaitError::Halted(error.to_owned()));
        let report = DrainReport::default();
        for command in self.commands.end(&report) {
            if let Command::Drain(_, Some(promise)) = command {
                promise.complete(report.clone());
            }
        }
    }
}

/// What a drain with this limit reports, or what hangs where the intake handles itself and so can't report it. The
/// drain goes on when the handler ends, if it ever does.
pub(super) fn drained_or_hung(drained: Op<DrainReport>, shared: &Shared, limit: Duration) -> DrainReport {
    let is_hung = || shared.doing.iter().any(|doing| doing.lock().running.is_some());
    let drained = drained
        .wait_timeout(limit.saturating_add(2 * GRACE))
        .or_else(|drained| if is_hung() { Err(drained) } else { drained.wait_timeout(WORKERS_END) });
    drained.unwrap_or_else(|_| {
        let still_running = shared.still_running();
        *shared.status.lock() = Status::Draining;
        shared.waits.end(&WaitError::Ended);
        foreign::error!(
            ?still_running,
            "a handler on the delivering thread did not end within the limit of the drain"
        );
        DrainReport { unsettled: still_running.clone(), still_running }
    })
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
    let mut intake = Intake {
        setup,
        direct,
        partitions: Partitions::default(),
        slots: Vec::new(),
        round_robin,
        polled: Vec::new(),
        arrivals,
        batch: Vec::new(),
        verdicts: Vec::new(),
        give_backs: Vec::new(),
        tally: Tally::default(),
        in_flight: 0,
        bytes_in_flight: 0,
        last_commit: now,
        last_full_commit: now,
        full_since: None,
        is_paused: false,
        is_ready: false,
        drain: None,
        broker_retry_at: None,
        next_tick: now + TICK,
        next_look: now,
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

impl<I: Invoke> Intake<I> {
    /// One turn; true: something was done, so look again before sleeping.
    fn turn(&mut self, now: Instant) -> bool {
        self.take_waits();
        let mut is_busy = self.obey(now);
        is_busy |= self.take_verdicts(now);
        is_busy |= self.settle_behind_handlers(now);
        is_busy |= self.give_back(now);
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

    /// Takes what is waited for, before the commands: whoever resumes and then waits is not told of the pause.
    fn take_waits(&mut self) {
        let Setup { shared, pool, .. } = &self.setup;
        if self.waiting.take(&shared.waits) {
            shared.waits.watch(true);
            // Every worker runs a turn, and from that on tells what changes.
            drop(pool.visit(|_, _| ()));
        }
    }

    /// Looks whether what is waited for has come.
    fn look_at_waits(&mut self, now: Instant, has_moved: bool, is_busy: bool) {
        let Setup { shared, pool, .. } = &self.setup;
        self.waiting.probes.moved(has_moved);
        self.waiting.look(shared, pool.depths());
        self.look_at_ends(now);
        if !is_busy {
            self.look_for_quiet();
        }
        if self.setup.shared.waits.is_watched() && !self.waiting.needs_watch() {
            self.setup.shared.waits.watch(false);
        }
    }

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

    fn begin_drain(&mut self, now: Instant, limit: Duration, halted: Option<String>) {
        let until = after(now, limit);
        if self.drain.is_none() {
            self.drain = Some(Drain { promises: Vec::new(), report: DrainReport::default(), halted });
            self.withdraw_batch(|_| true);
        }
        for slot in &mut self.slots {
            match slot.leaving {
                // A shorter limit than the one before counts.
                Leaving::Until(before) => slot.leaving = Leaving::Until(before.min(until)),
                Leaving::No => slot.leaving = Leaving::Until(until),
                Leaving::Cancelled(_) | Leaving::Gone => {}
            }
            slot.assignment.stop();
        }
        // Who reads this may rely on it: no attempt starts any more.
        self.set_status(Status::Draining);
        self.remove_waiting(false);
    }

    /// Takes back what was fetched of these partitions and not handed over: it never started.
    fn withdraw_batch(&mut self, is_leaving: impl Fn(&Assignment) -> bool) {
        for (_, delivery) in self.batch.extract_if(.., |(_, job)| is_leaving(job.event.assignment())) {
            self.in_flight -= 1;
            self.bytes_in_flight -= delivery.bytes;
            // Reported here, with its key, and so not by its ledger.
            let _ = self.partitions.returned(delivery.token, delivery.bytes);
            if let Some(drain) = &mut self.drain {
                drain.report.unsettled.push(delivery.event.place());
            }
            let id = delivery.event.assignment().id;
            if let Some(slot) = self.slots.iter_mut().find(|slot| slot.assignment.id == id) {
                slot.in_flight -= 1;
                slot.has_ended(delivery.token, delivery.bytes);
                // At most once: the ledger has settled it, but a position is committed only for what is handled.
                slot.is_dirty &= !self.setup.shared.settles_first;
            }
        }
    }

    /// Takes the records of stopping partitions out of the pool's waiting keys; with `started` also those that are
    /// leased to a future.
    fn remove_waiting(&self, started: bool) {
        // At most once: they are settled, so they may still be handled until time is up.
        if self.setup.shared.settles_first && !started {
            return;
        }
        // Over when the verdicts come; nobody waits for the operation itself.
        drop(self.setup.pool.visit(move |waiting, _| {
            waiting.remove_where(&mut |job| {
                let assignment = job.event.assignment();
                let is_due =
                    if started { assignment.cancellation.is_cancelled() } else { assignment.is_stopping() };
                is_due && (started || job.started.is_none())
            });
        }));
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
            let slot = self.slots.get_mut(token.slot.index()).filter(|slot| slot.assignment.id == partition);
            let mut is_leaving = true;
            if let Some(slot) = slot {
                slot.in_flight -= 1;
                slot.has_ended(token, bytes);
                // At most once: what was settled first was committed before it was handed over.
                slot.is_dirty |= matches!(end, End::Settled) && !self.setup.shared.settles_first;
                is_leaving = slot.leaving != Leaving::No;
            }
            if !is_leaving && matches!(end, End::Returned(_)) {
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

    /// Settles what is over on threads that a handler blocks, and whose verdicts would come when it ends: a crash
    /// meanwhile would repeat it. The rest of each verdict, its places among what is in flight, waits for the thread.
    fn settle_behind_handlers(&mut self, now: Instant) -> bool {
        if now < self.next_look || self.in_flight == 0 {
            return false;
        }
        self.next_look = now + self.setup.bounds.commit_interval.unwrap_or(TICK).min(TICK);
        let settled: Vec<_> =
            self.setup.shared.doing.iter().flat_map(|doing| doing.lock().settled.clone()).collect();
        let mut is_busy = false;
        for (id, token, bytes) in settled {
            if let Ok(Settled::First) = self.partitions.settle(token, bytes) {
                self.setup.consumer.settled(id, token.offset);
                is_busy = true;
                if let Some(slot) = self.slot_of(id) {
                    slot.is_dirty = true;
                }
            }
        }
        is_busy
    }

    fn settle(&mut self, id: Partition, token: Token, bytes: usize) {
        match self.partitions.settle(token, bytes) {
            Ok(Settled::First) => self.setup.consumer.settled(id, token.offset),
            // Settled while its worker's thread was blocked.
            Ok(Settled::Again | Settled::Unknown) => {}
            Err(_) => foreign::debug!(?token, "a verdict of an assignment that is over changes nothing"),
        }
    }

    fn give_back(&mut self, now: Instant) -> bool {
        if self.give_backs.is_empty() || self.is_broker_resting(now) {
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
        if self.drain.is_some() || self.is_broker_resting(now) {
            return false;
        }
        let bounds = self.setup.bounds;
        let room = bounds.records.saturating_sub(self.in_flight);
        let bytes = bounds.bytes.saturating_sub(self.bytes_in_flight);
        let has_room = room > 0 && bytes > 0;
        let (is_far, distance_left) = self.pause_far_partitions();
        if has_room && !is_far {
            if self.full_since.take().is_some() {
                *self.setup.shared.window_full.lock() = None;
            }
        } else {
            self.full_since.get_or_insert(now);
        }
        // With no room the poll goes on, for rebalances, and hands out no record.
        let takes = has_room && !self.is_paused && self.batch.is_empty();
        let records = if takes { room.min(distance_left).min(FETCH) } else { 0 };
        let mut polled = std::mem::take(&mut self.polled);
        match self.setup.consumer.poll(Budget { records, bytes }, &mut polled) {
            // A position that can't be committed is trouble that goes on, whatever a poll says.
            Ok(()) if self.is_commit_failing() => {}
            Ok(()) => self.broker_answered(now),
            Err(error) => self.broker_failed(now, &error),
        }
        let is_busy = !polled.is_empty();
        for found in polled.drain(..) {
            match found {
                Polled::Assigned(partition, position) => self.assigned(partition, position),
                Polled::Revoked(partition) => self.revoked(partition, now),
                Polled::Lost(partition) => self.lost(partition),
                Polled::CommitFailed(partition, error) => self.commit_failed(partition, now, error),
                Polled::Record(fetched) => self.deliver(fetched),
            }
        }
        self.polled = polled;
        self.arrivals.flush(&mut self.batch);
        is_busy
    }

    /// Stops partitions that are as far beyond their watermark as they may be, each alone. Tells whether one is, and how
    /// many records may come before the next one is.
    fn pause_far_partitions(&mut self) -> (bool, usize) {
        let bound = self.setup.bounds.watermark_distance;
        let (mut is_far, mut left) = (false, bound);
        for state in &mut self.slots {
            let Some(ledger) = self.partitions.ledger(state.slot) else { continue };
            let should_pause = ledger.distance() >= bound || state.is_crowded;
            if should_pause {
                is_far = true;
            } else {
                left = left.min(bound - ledger.distance());
            }
            if should_pause != state.is_paused {
                state.is_paused = should_pause;
                self.setup.consumer.set_paused(state.assignment.id, should_pause);
            }
        }
        (is_far, left)
    }

    fn assigned(&mut self, id: Partition, position: Position) {
        let topic = self.setup.topics[id.topic as usize].clone();
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
        let state = State {
            slot,
            assignment: Arc::new(Assignment::new(topic, id)),
            in_flight: 0,
            is_paused: false,
            is_dirty: false,
            is_commit_failing: false,
            is_crowded: false,
            leaving: Leaving::No,
            handled,
        };
        match self.slots.get_mut(slot.index()) {
            Some(before) => *before = state,
            None => self.slots.push(state),
        }
    }

    fn slot_of(&mut self, id: Partition) -> Option<&mut State> {
        let slot = self.partitions.slot(id.topic, id.partition)?;
        self.slots.get_mut(slot.index()).filter(|state| state.assignment.id == id)
    }

    fn revoked(&mut self, id: Partition, now: Instant) {
        let until = after(now, self.setup.bounds.drain_timeout);
        let Some(slot) = self.slot_of(id) else { return self.setup.consumer.release(id) };
        foreign::info!(
            topic = &*slot.assignment.topic,
            partition = id.partition,
            "partition revoked; what runs may end"
        );
        slot.leaving = Leaving::Until(until);
        slot.assignment.stop();
        self.remove_waiting(false);
    }

    fn lost(&mut self, id: Partition) {
        let Some(slot) = self.slot_of(id) else { return };
        foreign::warn!(
            topic = &*slot.assignment.topic,
            partition = id.partition,
            in_flight = slot.in_flight,
            "partition lost; nothing of it is committed, and its records come again to its next owner"
        );
        slot.leaving = Leaving::Gone;
        slot.assignment.stop();
        slot.assignment.cancellation.cancel();
        let slot = slot.slot;
        self.partitions.lose(slot);
        self.remove_waiting(true);
    }

    fn deliver(&mut self, fetched: Fetched) {
        let id = fetched.partition;
        let Some(slot) = self.partitions.slot(id.topic, id.partition) else { return };
        let state = &mut self.slots[slot.index()];
        if state.assignment.id != id || state.leaving != Leaving::No {
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
        if let Some(handled) = &mut state.handled {
            handled.deliver(fetched.offset, bytes);
        }
        state.in_flight += 1;
        if self.setup.shared.settles_first {
            state.is_dirty = true;
            self.settle(id, token, bytes);
        }
        let prepared = self.prepare(slot, &fetched, bytes);
        let assignment = &self.slots[slot.index()].assignment;
        self.arrivals.push(assignment, fetched, prepared, token, bytes, &mut self.batch);
    }

    /// Parses and routes a record.
    fn prepare(&mut self, slot: Slot, fetched: &Fetched, bytes: usize) -> Prepared {
        let limit = self.setup.bounds.max_record_bytes;
        let record = &fetched.record;
        let takes_envelopes = self.setup.shared.takes_envelopes;
        let parsed = if bytes > limit {
            Err(format!("the record has {bytes} bytes; at most {limit} are accepted"))
        } else if takes_envelopes || looks_like_envelope(record.value()) {
            let limits = Limits { max_bytes: limit, ..Limits::default() };
            envelope::parse_spans(record.value(), &limits)
                .map_err(|error| format!("no valid Envelope: {error}"))
        } else {
            Err(String::new())
        };
        let view = RecordView {
            envelope_aggregate_id: parsed.as_ref().ok().map(|(parsed, text)| parsed.aggregate_id_in(text)),
            key: record.key(),
            headers: record.headers(),
            subject: fetched.subject.as_deref().and_then(|subject| std::str::from_utf8(subject).ok()),
            value: record.value(),
        };
        // A route may be foreign code. Its panic is the record's failure: without its aggregate it must not run.
        let found = foreign::call(|| self.setup.route.find(view));
        let (routing, panicked) = match found {
            Ok(routing) => (routing, None),
            Err(message) => (Routing::Invalid(Source::Function), Some(message)),
        };
        let (key, aggregate) = match routing {
            Routing::Aggregate { id, source } => {
                let key = Key::of(id.as_bytes());
                let aggregate = match source {
                    Source::Envelope => Aggregate::Envelope,
                    Source::Key => Aggregate::Key,
                    Source::Header | Source::Subject | Source::Function => Aggregate::Text(id.into()),
                };
                (key, aggregate)
            }
            Routing::Invalid(_) | Routing::Absent => {
                self.tally.without_aggregate += 1;
                if takes_envelopes {
                    foreign::warn!(
                        topic = &*self.slots[slot.index()].assignment.topic,
                        partition = fetched.partition.partition,
                        offset = fetched.offset,
                        ?routing,
                        "a record of an Envelope subscription has no aggregate id, so it has no order"
                    );
                }
                (self.round_robin.next_key(), Aggregate::None)
            }
        };
        let (envelope, next) = match (panicked, parsed) {
            (Some(message), parsed) => {
                let reason = format!("the function that routes it panicked: {message}");
                (parsed.ok().map(|(parsed, _)| parsed), Next::Unhandleable(reason.into()))
            }
            (None, Ok((parsed, _))) => {
                let shared = &self.setup.shared;
                let redeliveries = fetched.redeliveries;
                let counts = takes_envelopes && shared.broker.capabilities().counts_deliveries;
                let next = if counts && is_used_up(&shared.policy, redeliveries) {
                    Next::GiveUp { redeliveries }
                } else {
                    Next::Attempt
                };
                (Some(parsed), next)
            }
            (None, Err(reason)) if takes_envelopes || bytes > limit => {
                (None, Next::Unhandleable(reason.into()))
            }
            (None, Err(_)) => (None, Next::Attempt),
        };
        Prepared { key, aggregate, envelope, next }
    }

    fn hand_over(&mut self, now: Instant) -> bool {
        if self.batch.is_empty() {
            return false;
        }
        // At most once: the position is durable before the first handler starts.
        if self.setup.shared.settles_first
            && (self.is_broker_resting(now) || !self.commit(now, true, Durability::Confirmed))
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

    fn commit_if_due(&mut self, now: Instant) {
        let is_due = match self.setup.bounds.commit_interval {
            None => true,
            Some(interval) => now.saturating_duration_since(self.last_commit) >= interval,
        };
        if is_due && !self.is_broker_resting(now) && self.slots.iter().any(|slot| slot.is_dirty) {
            // Where commits have an interval each is a whole position: the broker keeps the last one alone.
            let is_full = self.setup.bounds.commit_interval.is_some()
                || now.saturating_duration_since(self.last_full_commit) >= FULL_COMMIT;
            self.commit(now, is_full, Durability::Accepted);
        }
    }

    /// Commits what has changed; with `is_full` also what is settled ahead of the watermarks. False: not all of it.
    fn commit(&mut self, now: Instant, is_full: bool, durability: Durability) -> bool {
        let mut is_done = true;
        for slot in 0..self.slots.len() {
            if self.slots[slot].is_dirty {
                is_done &= self.commit_slot(slot, now, is_full, durability);
            }
        }
        self.last_commit = now;
        if is_full {
            self.last_full_commit = now;
        }
        is_done
    }

    fn commit_slot(&mut self, slot: usize, now: Instant, is_full: bool, durability: Durability) -> bool {
        let Some(ledger) = self.partitions.ledger(self.slots[slot].slot) else {
            self.slots[slot].is_dirty = false;
            return true;
        };
        let ahead = if is_full { ledger.settled_ahead().collect() } else { Vec::new() };
        let is_all = is_full || ledger.oldest_pending().is_none();
        let position = Position { watermark: ledger.position_to_commit(), ahead };
        match self.setup.consumer.commit(self.slots[slot].assignment.id, &position, durability) {
            Ok(committed) => {
                self.slots[slot].is_dirty = !is_all;
                if is_full {
                    self.slots[slot].is_crowded = committed == Committed::Crowded;
                }
                self.commit_answered(slot, now);
                true
            }
            Err(error @ BrokerError::Fenced { .. }) => {
                foreign::warn!(%error, "a commit came too late");
                self.slots[slot].is_dirty = false;
                self.commit_answered(slot, now);
                true
            }
            Err(error) => {
                self.slots[slot].is_commit_failing = true;
                self.broker_failed(now, &error);
                false
            }
        }
    }

    /// The trouble is over when no partition has it any more.
    fn commit_answered(&mut self, slot: usize, now: Instant) {
        if std::mem::take(&mut self.slots[slot].is_commit_failing) && !self.is_commit_failing() {
            self.broker_answered(now);
        }
    }

    /// What was taken for committed was not.
    fn commit_failed(&mut self, id: Partition, now: Instant, error: String) {
        let Some(slot) = self.slot_of(id) else { return };
        slot.is_dirty = true;
        slot.is_commit_failing = true;
        self.broker_failed(now, &BrokerError::Transient(error));
    }

    fn is_commit_failing(&self) -> bool {
        self.slots.iter().any(|slot| slot.is_commit_failing && slot.leaving != Leaving::Gone)
    }

    /// Moves partitions that leave one step on.
    fn leave(&mut self, now: Instant) {
        for slot in 0..self.slots.len() {
            let State { leaving, in_flight, .. } = self.slots[slot];
            match leaving {
                Leaving::Until(until) if in_flight == 0 && now < until => self.left(slot, now, false),
                Leaving::Cancelled(_) if in_flight == 0 => self.left(slot, now, true),
                Leaving::Until(until) if now >= until => {
                    self.slots[slot].leaving = Leaving::Cancelled(now + GRACE);
                    self.slots[slot].assignment.cancellation.cancel();
                    self.withdraw_batch(|assignment| assignment.cancellation.is_cancelled());
                    self.remove_waiting(true);
                }
                Leaving::Cancelled(until) if now >= until => self.left(slot, now, true),
                Leaving::No | Leaving::Gone | Leaving::Until(_) | Leaving::Cancelled(_) => {}
            }
        }
    }

    /// What started is over, or out of time: commit, fence, and let the partition go.
    fn left(&mut self, slot: usize, now: Instant, is_last_chance: bool) {
        if self.slots[slot].is_dirty && (is_last_chance || !self.is_broker_resting(now)) {
            self.commit_slot(slot, now, true, Durability::Confirmed);
        }
        if self.slots[slot].is_dirty {
            if !is_last_chance {
                return;
            }
            let Assignment { topic, id, .. } = &*self.slots[slot].assignment;
            foreign::error!(
                topic = &**topic,
                partition = id.partition,
                "the position could not be committed in time; what was handled since the last commit comes again"
            );
        }
        self.slots[slot].leaving = Leaving::Gone;
        let Assignment { topic, id, .. } = &*self.slots[slot].assignment;
        let ledger = self.partitions.revoke(self.slots[slot].slot);
        if let (Some(drain), Some(ledger)) = (&mut self.drain, ledger) {
            let place = |offset| self.setup.shared.place_of(topic, id.partition, offset);
            drain.report.unsettled.extend(ledger.in_flight().map(place));
        }
        self.setup.consumer.release(*id);
    }

    fn is_over(&self) -> bool {
        self.drain.is_some() && self.slots.iter().all(|slot| slot.leaving == Leaving::Gone)
    }

    /// When the next turn has something to do that no wake tells of. What was due in the turn that began at `now` had
    /// its chance in it: if it could not be done (paused, no room, no broker) it waits for a wake or for another time,
    /// and would keep the thread spinning here.
    fn next_due(&self, now: Instant) -> Option<Instant> {
        let mut due: Vec<Instant> = Vec::new();
        due.extend(self.broker_retry_at);
        due.extend(self.setup.consumer.next_due());
        due.extend(self.waiting.next_due());
        due.extend(self.direct.as_ref().and_then(Worker::next_due));
        if self.slots.iter().any(|slot| slot.is_dirty) {
            due.push(self.last_full_commit + FULL_COMMIT);
            // An interval beyond what the clock can express never ends.
            due.extend(
                self.setup.bounds.commit_interval.and_then(|every| self.last_commit.checked_add(every)),
            );
        }
        for slot in &self.slots {
            if let Leaving::Until(until) | Leaving::Cancelled(until) = slot.leaving {
                due.push(until);
            }
        }
        if self.in_flight > 0 {
            due.push(self.next_look.max(now + Duration::from_millis(1)));
        }
        if self.in_flight > 0 || self.full_since.is_some() || self.broker_retry_at.is_some() {
            due.push(self.next_tick);
        }
        due.into_iter().filter(|due| *due > now).min()
    }

    fn is_broker_resting(&self, now: Instant) -> bool {
        self.broker_retry_at.is_some_and(|at| now < at)
    }

    fn broker_failed(&mut self, now: Instant, error: &BrokerError) {
        self.broker_retry_at = Some(now + BROKER_RETRY);
        let mut known = self.setup.shared.broker_error.lock();
        let since = known.as_ref().map_or(now, |known| known.since);
        if known.is_none() {
            foreign::warn!(%error, "the broker does not answer; trying again until it does");
        }
        *known = Some(Since { what: error.to_string(), since });
    }

    fn broker_answered(&mut self, now: Instant) {
        if self.broker_retry_at.take().is_some()
            && let Some(known) = self.setup.shared.broker_error.lock().take()
        {
            let after = now.saturating_duration_since(known.since);
            foreign::info!(?after, "the broker answers again");
        }
        if !self.is_ready && self.setup.consumer.has_joined() {
            self.is_ready = true;
            self.set_status(self.undrained_status());
            self.setup.commands.joined();
        }
    }

    /// Looks for what lasts, and says it: after 1, 2, 4, ... seconds, then every minute.
    fn tick(&mut self, now: Instant) {
        if now < self.next_tick {
            return;
        }
        self.next_tick = now + TICK;
        let shared = &self.setup.shared;
        let is_full = self.full_since.is_some_and(|since| now.saturating_duration_since(since) >= TICK);
        let oldest = is_full.then(|| {
            let behind = self.partitions.iter().filter_map(|(topic, partition, ledger)| {
                Some((ledger.distance(), topic, partition, ledger.oldest_pending()?))
            });
            let (_, topic, partition, offset) = behind.max()?;
            Some(shared.place_of(&self.setup.topics[topic as usize], partition, offset))
        });
        let since = self.full_since.unwrap_or(now);
        *shared.window_full.lock() = oldest.flatten().map(|what| Since { what, since });
        let (problems, total) = shared.problems(SAID);
        if total == 0 {
            self.ticks_with_problems = 0;
            return;
        }
        self.ticks_with_problems += 1;
        if self.ticks_with_problems.is_power_of_two() || self.ticks_with_problems.is_multiple_of(60) {
            for problem in problems.iter().take(SAID) {
                foreign::warn!(%problem, group = &*shared.group, problems = total, "progress is held up");
            }
        }
    }

    fn undrained_status(&self) -> Status {
        match (self.is_paused, self.is_ready) {
            (true, _) => Status::Paused,
            (false, true) => Status::Running,
            (false, false) => Status::Starting,
        }
    }

    fn set_status(&self, status: Status) {
        *self.setup.shared.status.lock() = status;
    }

    /// Nothing is assigned any more: leaves the group, ends the workers, and reports.
    fn end(mut self) {
        self.setup.shared.counters.add(&mut self.tally);
        let Drain { mut promises, mut report, halted } =
            self.drain.take().expect("an intake ends by a drain");
        // First of all, so that no partition comes to a member that takes nothing any more.
        drop(self.setup.consumer);
        let shared = &self.setup.shared;
        report.still_running = shared.still_running();
        // Its handler is foreign code, also when it is dropped.
        foreign::discard(self.direct.take());
        let ended = self.setup.pool.drain(Duration::ZERO);
        let has_ended = report.still_running.is_empty() && ended.wait_timeout(WORKERS_END).is_ok();
        if has_ended {
            self.setup.pool.join();
        } else {
            if report.still_running.is_empty() {
                // A future that blocks its worker, which nobody can end either.
                report.still_running.clone_from(&report.unsettled);
            }
            foreign::error!(still_running = ?report.still_running, "handlers did not end within the limit of the drain");
            self.setup.pool.detach();
        }
        shared.counters.set_in_flight(report.still_running.len() as u64);
        *shared.status.lock() = halted.clone().map_or(Status::Closed, Status::Halted);
        foreign::info!(unsettled = report.unsettled.len(), "the subscription has ended");
        for command in self.setup.commands.end(&report) {
            if let Command::Drain(_, promise) = command {
                promises.extend(promise);
            }
        }
        self.waiting.end(shared, halted);
        for promise in promises {
            promise.complete(report.clone());
        }
    }
}

/// How often what is settled ahead of a watermark is committed beside it.
const FULL_COMMIT: Duration = Duration::from_millis(200);
/// How long a blocking handler has to notice a cancellation before it is left behind.
const GRACE: Duration = Duration::from_millis(50);
/// How long workers have to end when no handler is known to run any more.
const WORKERS_END: Duration = Duration::from_secs(1);
