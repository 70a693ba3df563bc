//! A worker: one lane, one handler, the keys that wait, and [`Worker::step`], the one body that threads, models and
//! tests run.

use super::Key;
use super::end::{Exit, end_lane};
use super::handler::{Handler, Outcome, Turn, WaitingNow, after_panic, guarded};
use super::idle::Idling;
use super::lane::Word;
use super::lease::Lease;
use super::pace::{BATCH, Pace};
use super::visit::{WaitingKey, WaitingKeys, sealed};
use super::waiting::{Due, For, Waiting};
use super::wakeup::{Keyed, Limit, Wakeup, WorkerLane, lane_number};
use crate::foreign;
use crate::sync::Arc;
use crate::wait::{Clock, own_lane};
use std::collections::VecDeque;
use std::future::Future;
use std::task::Waker;
use std::time::Instant;

/// Where jobs stand behind a key that waited and others come new, so many of those are run for each one of the former:
/// a key with a long backlog keeps the others waiting for an eighth longer, and gets on all the same.
const NEW_FOR_ONE: usize = 8;
/// So many futures of one key that are ready at once are taken in a row; then others get their turn.
const LEASES_IN_A_ROW: u32 = 32;
/// Looks that those get who were woken because there is room, before others are woken for the same room.
const PATIENCE: u32 = if cfg!(loom) { 1 } else { 16 };

/// One worker of a pool without threads: see [`PoolBuilder::stepped`](super::PoolBuilder::stepped).
///
/// Dropped before its lane is closed and empty, it abandons what was accepted.
pub struct Worker<H: Handler> {
    pub(super) lane: Arc<WorkerLane<H::Job>>,
    handler: H,
    /// Asked in the middle of a turn alone, and only about what the turn's own time can't tell.
    clock: Clock,
    waiting: Waiting<H::Job, Lease<H::Job, H::Future>>,
    /// Room for what is taken from the lane's list of wakes.
    wakeups: Vec<Wakeup<H::Job>>,
    /// Futures that can go on, with the stamps of their waits.
    polls: VecDeque<(Key, u64)>,
    /// The word as last read; only its WOKEN bit is looked at, and a stale one is corrected before parking.
    seen: Word,
    is_parked: bool,
    /// The key of the job that is being run. A turn that unwinds leaves it, and the job is counted as over.
    in_hand: Option<Key>,
    limit: Limit,
    /// Jobs that are over and not yet released.
    over: u64,
    /// Places given back since those who wait for room were last woken.
    released: u64,
    pace: Pace,
    /// Jobs that the last turn took from the lane.
    last_ran: usize,
    /// Whether there is anything that the clock could end the turn for. Most turns have nothing, and ask no clock.
    watches_clock: bool,
    /// Looks that are left to those who were woken because there is room.
    patience: u32,
    /// Says that it has ended, where no thread does.
    pub(super) exit: Option<Exit>,
}

impl<H: Handler> Worker<H> {
    pub(crate) fn new(lane: Arc<WorkerLane<H::Job>>, handler: H, clock: Clock) -> Self {
        let seen = lane.look();
        Self {
            lane,
            handler,
            clock,
            waiting: Waiting::new(),
            wakeups: Vec::new(),
            polls: VecDeque::new(),
            seen,
            is_parked: false,
            in_hand: None,
            limit: Limit::Never,
            over: 0,
            released: 0,
            pace: Pace::default(),
            last_ran: 0,
            watches_clock: false,
            patience: 0,
            exit: None,
        }
    }

    /// One turn: wakes, times that have come, keys whose turn has come, then a batch of the lane; and if there was none
    /// of these, whether to park or to end. Never blocks, but for what the handler does.
    pub fn step(&mut self, now: Instant) -> Turn {
        if self.run_turn(now) { Turn::Ran } else { self.idle() }
    }

    /// As [`Worker::step`], but looks again instead of parking while `idling` says so.
    pub(crate) fn step_or_look(&mut self, now: Instant, idling: &mut Idling) -> Turn {
        if self.run_turn(now) {
            idling.was_busy();
            return Turn::Ran;
        }
        let seen = self.lane.look();
        let is_idle = !seen.is_woken() && !seen.is_closed() && !seen.has_waiters();
        if is_idle && idling.looks_again(now) {
            return Turn::Snooze;
        }
        self.idle()
    }

    /// The next turn takes so many jobs of each kind at most: a thread that is slow, or fast.
    pub(crate) fn limit_turn(&mut self, jobs: usize) {
        self.pace.limit(jobs);
    }

    /// Says who is woken when a worker that parked has something to do, for whoever steps it. To be called before the
    /// first step and once; without it a parked worker tells nobody, and is stepped again when its holder likes.
    pub fn set_sleeper(&self, sleeper: Waker) {
        self.lane.set_sleeper(sleeper);
    }

    /// Whether the last turn emptied the lane before its batch was full: who pushes is slower than this worker.
    pub(crate) fn ran_few(&self) -> bool {
        self.last_ran < self.pace.batch() && !self.waiting.has_ready()
    }

    /// When the next wait for a time or a lease ends.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.waiting.next_due()
    }

    fn run_turn(&mut self, now: Instant) -> bool {
        if std::mem::take(&mut self.is_parked) {
            self.lane.unmark_parked();
        }
        let own = own_lane::enter(lane_number(&self.lane));
        self.end_what_unwound();
        self.pace.begin(now, &self.clock);
        self.watches_clock = self.has_time_to_watch();
        let mut has_run = self.take_wakeups(now);
        has_run |= self.begin_abandoning(now);
        has_run |= self.end_waits(now);
        has_run |= self.run_ready(now);
        has_run |= self.run_lane(now);
        // Released before the handler hands on what it collected: who learns there that a job is over finds its place
        // free.
        self.release();
        if has_run {
            self.pace.ran(now);
            self.flush();
        }
        drop(own);
        has_run
    }

    fn flush(&mut self) {
        let waiting = WaitingNow { keys: self.waiting.len(), records: self.waiting.records() };
        foreign::run("the flush of a handler", || self.handler.flush(waiting));
    }

    /// A turn that unwound, which only a fault of this library can make it do, left its job to nobody. It counts as over:
    /// whoever waits for this lane to be empty would wait for ever otherwise.
    fn end_what_unwound(&mut self) {
        if let Some(key) = self.in_hand.take() {
            self.over += 1;
            self.waiting.over(key);
        }
    }

    /// Whether the turn that began at `now` ends before its next job, because something else has become due.
    #[inline]
    fn is_turn_over(&self, now: Instant) -> bool {
        self.lane.wants_attention()
            || self.watches_clock && self.is_late(now)
            || foreign::call(|| self.handler.is_turn_long(now)).unwrap_or(false)
    }

    #[cold]
    fn is_late(&self, now: Instant) -> bool {
        // What is due since before this turn is ended by it in its order, and ends no turn.
        let next_due = self.waiting.next_due().filter(|due| *due > now);
        let ends = [next_due, self.abandons_at(), self.pace.turn_ends()];
        ends.into_iter().flatten().min().is_some_and(|end| self.clock.now() >= end)
    }

    /// Whether there is anything that the clock could end a turn for.
    fn has_time_to_watch(&self) -> bool {
        self.pace.turn_ends().is_some() || self.waiting.next_due().is_some() || self.abandons_at().is_some()
    }

    /// The time at which abandoning begins, if that is still to come.
    fn abandons_at(&self) -> Option<Instant> {
        match self.limit {
            Limit::At(at) => Some(at),
            Limit::Now | Limit::Never => None,
        }
    }

    fn take_wakeups(&mut self, now: Instant) -> bool {
        let is_woken = self.seen.is_woken();
        if is_woken {
            let mut wakeups = std::mem::take(&mut self.wakeups);
            self.lane.take_wakes(&mut wakeups);
            for wakeup in wakeups.drain(..) {
                match wakeup {
                    Wakeup::Future(key, stamp) => self.polls.push_back((key, stamp)),
                    Wakeup::Visit(visit) => foreign::run("an operation on waiting keys", || visit(self, now)),
                    // A shorter limit than the one before counts.
                    Wakeup::Abandon(limit) => self.limit = self.limit.min(limit),
                }
            }
            self.wakeups = wakeups;
        }
        let mut polled = 0;
        while polled < BATCH
            && (polled == 0 || !self.is_turn_over(now))
            && let Some((key, stamp)) = self.polls.pop_front()
        {
            polled += 1;
            self.poll_lease(key, stamp, now);
        }
        is_woken || polled > 0
    }

    /// From the limit of a drain on nothing starts any more.
    fn begin_abandoning(&mut self, now: Instant) -> bool {
        let Limit::At(at) = self.limit else { return self.abandon_waiting() };
        if now < at {
            return false;
        }
        self.limit = Limit::Now;
        self.abandon_waiting()
    }

    /// What waits is abandoned with its limit.
    fn abandon_waiting(&mut self) -> bool {
        let is_due = self.limit == Limit::Now && self.waiting.len() > 0;
        if is_due {
            WaitingKeys::remove_where(self, &mut |_| true);
        }
        is_due
    }

    fn end_waits(&mut self, now: Instant) -> bool {
        for ended in 0..BATCH {
            let Some(due) = self.waiting.take_due(now) else { return ended > 0 };
            if let Due::Expired(key, lease) = due {
                foreign::discard(lease);
                self.in_hand = Some(key);
                let mut job = self.waiting.take_expired(key);
                let outcome =
                    guarded(&mut self.handler, &mut job, now, |handler, job| handler.expired(job, now));
                self.conclude(key, job, outcome, now);
            }
        }
        true
    }

    fn run_ready(&mut self, now: Instant) -> bool {
        for ran in 0..self.pace.batch() {
            if ran > 0 && (self.has_new() || self.is_turn_over(now)) {
                break;
            }
            let Some((key, job)) = self.waiting.start_ready() else { return ran > 0 };
            self.run(key, job, now);
        }
        true
    }

    /// Whether jobs stand in the lane.
    fn has_new(&self) -> bool {
        self.lane.look().pending() > self.waiting.records() + self.over
    }

    fn run_lane(&mut self, now: Instant) -> bool {
        self.last_ran = 0;
        let most = if self.waiting.has_ready() { NEW_FOR_ONE } else { self.pace.batch() };
        while self.last_ran < most
            && (self.last_ran == 0 || !self.is_turn_over(now))
            && let Some(Keyed { key, job }) = self.lane.pop()
        {
            self.last_ran += 1;
            if let Some(job) = self.waiting.queue_behind(key, job) {
                self.run(key, job, now);
            }
        }
        self.last_ran > 0
    }

    fn run(&mut self, key: Key, mut job: H::Job, now: Instant) {
        self.in_hand = Some(key);
        if self.limit == Limit::Now {
            self.abandon(job);
            self.in_hand = None;
            return self.waiting.over(key);
        }
        match guarded(&mut self.handler, &mut job, now, |handler, job| handler.handle(job, now)) {
            Outcome::Done => self.done(key, job),
            other => self.conclude(key, job, other, now),
        }
    }

    #[inline]
    fn done(&mut self, key: Key, job: H::Job) {
        foreign::discard(job);
        self.in_hand = None;
        self.over += 1;
        if self.waiting.len() > 0 {
            self.waiting.over(key);
        }
    }

    /// Does what the handler said of the job in hand.
    fn conclude(&mut self, key: Key, job: H::Job, outcome: Outcome<H::Future>, now: Instant) {
        match outcome {
            Outcome::Done => self.done(key, job),
            Outcome::RetryAt(at) => self.wait(key, job, For::Time(at)),
            Outcome::Hold => self.wait(key, job, For::Operator),
            Outcome::Lease(future, until) => self.lease(key, job, future, until, now),
        }
    }

    /// Leases a job to a future and polls it: a loop, for it may be ready at once, and lead to another one, and so on.
    fn lease(
        &mut self,
        key: Key,
        mut job: H::Job,
        mut future: H::Future,
        mut until: Option<Instant>,
        now: Instant,
    ) {
        for leases in 0.. {
            let stamp = self.waiting.next_stamp();
            let lease = Lease::new(&self.lane, key, stamp, future);
            self.wait(key, job, For::Lease(lease, until));
            if leases == LEASES_IN_A_ROW {
                return self.polls.push_back((key, stamp));
            }
            let Some(output) = self.poll(key, stamp) else { return };
            let outcome;
            (job, outcome) = self.resolve(key, output, now);
            match outcome {
                Outcome::Lease(next, deadline) => (future, until) = (next, deadline),
                other => return self.conclude(key, job, other, now),
            }
        }
    }

    fn wait(&mut self, key: Key, job: H::Job, reason: For<Lease<H::Job, H::Future>>) {
        self.waiting.wait(key, job, reason);
        self.watches_clock |= self.waiting.next_due().is_some();
        self.in_hand = None;
    }

    fn poll_lease(&mut self, key: Key, stamp: u64, now: Instant) {
        if let Some(output) = self.poll(key, stamp) {
            let (job, outcome) = self.resolve(key, output, now);
            self.conclude(key, job, outcome, now);
        }
    }

    /// What the future of this wait came to, or the message of its panic, if it has ended.
    fn poll(&mut self, key: Key, stamp: u64) -> Option<Result<<H::Future as Future>::Output, String>> {
        // A wake that came after its lease ended finds nothing.
        self.waiting.lease(key, stamp)?.poll()
    }

    /// Ends the lease of this key: its job is in hand again.
    fn resolve(
        &mut self,
        key: Key,
        output: Result<<H::Future as Future>::Output, String>,
        now: Instant,
    ) -> (H::Job, Outcome<H::Future>) {
        self.in_hand = Some(key);
        let (mut job, lease) = self.waiting.end_lease(key);
        foreign::discard(lease);
        let outcome = match output {
            Ok(output) => guarded(&mut self.handler, &mut job, now, |h, job| h.resolve(job, output, now)),
            Err(message) => after_panic(&mut self.handler, &mut job, message, now),
        };
        (job, outcome)
    }

    fn abandon(&mut self, job: H::Job) {
        self.over += 1;
        foreign::run("a handler that was told of an abandoned job", || self.handler.abandoned(job));
    }

    fn release(&mut self) {
        let over = std::mem::take(&mut self.over);
        if over == 0 {
            self.seen = self.lane.look();
            return;
        }
        self.seen = self.lane.release(over);
        self.released += over;
        // Waking a producer for each free place would cost a system call per job; half of the lane amortises it.
        let half = self.lane.capacity() / 2;
        if self.seen.has_waiters() && (self.released >= half || self.seen.pending() <= half) {
            self.wake_waiters(self.released.min(self.room()));
        }
    }

    /// Places that are free, as far as was seen.
    fn room(&self) -> u64 {
        self.lane.capacity().saturating_sub(self.seen.pending())
    }

    fn wake_waiters(&mut self, most: u64) {
        self.released = 0;
        self.patience = PATIENCE;
        self.lane.wake_waiters(most);
    }

    fn idle(&mut self) -> Turn {
        let seen = self.lane.look();
        self.seen = seen;
        if seen.is_woken() || self.waiting.has_ready() || !self.polls.is_empty() {
            return Turn::Ran;
        }
        if seen.has_waiters() && self.room() > 0 {
            // Those who were woken for this room get a moment to come; then the next ones are woken.
            if self.patience > 0 {
                self.patience -= 1;
                return Turn::Snooze;
            }
            self.wake_waiters(self.room());
            return Turn::Ran;
        }
        if seen.pending() > self.waiting.records() {
            return Turn::Snooze;
        }
        if seen.is_closed() && seen.pending() == 0 {
            self.lane.end_wakes();
            drop(self.exit.take());
            return Turn::Exit;
        }
        if !self.lane.try_park(seen) {
            return Turn::Ran;
        }
        self.is_parked = true;
        Turn::Park([self.waiting.next_due(), self.abandons_at()].into_iter().flatten().min())
    }
}

impl<H: Handler> sealed::Sealed for Worker<H> {}

impl<H: Handler> WaitingKeys<H::Job> for Worker<H> {
    fn for_each(&mut self, each: &mut dyn FnMut(WaitingKey<'_, H::Job>)) {
        self.waiting.iter_mut().for_each(each);
    }

    fn run_now(&mut self, key: Key) -> bool {
        self.waiting.make_ready(key)
    }

    fn remove_where(&mut self, is_gone: &mut dyn FnMut(&mut H::Job) -> bool) {
        let removed = self.waiting.remove_where(is_gone);
        removed.leases.into_iter().for_each(foreign::discard);
        removed.jobs.into_iter().for_each(|job| self.abandon(job));
    }
}

impl<H: Handler> Drop for Worker<H> {
    /// Whatever is left, on a worker that is dropped before its lane is closed and empty, is abandoned.
    fn drop(&mut self) {
        let own = own_lane::enter(lane_number(&self.lane));
        self.lane.close();
        self.end_what_unwound();
        let before = self.over;
        WaitingKeys::remove_where(self, &mut |_| true);
        let lane = self.lane.clone();
        end_lane(&lane, self, |worker| worker.over, Self::abandon);
        // There is no further turn to hand on what the handler was told just now.
        if self.over > before {
            self.flush();
        }
        drop(own);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::pool::{Pool, PoolBuilder};

    struct Holds;

    impl Handler for Holds {
        type Job = u32;
        type Future = std::future::Ready<()>;

        fn handle(&mut self, job: &mut u32, _: Instant) -> Outcome<Self::Future> {
            if *job == 0 { Outcome::Hold } else { Outcome::Done }
        }
    }

    /// A worker whose turn has unwound with a job of the first key in hand, which has another one behind it.
    fn unwound() -> (Pool<u32>, Worker<Holds>) {
        let (pool, mut workers) =
            PoolBuilder::new().workers(1).capacity(2).stepped(|_| Holds).expect("starts");
        let (mut worker, key, now) = (workers.remove(0), Key::of("a"), Instant::now());
        for job in 0..2 {
            pool.try_send(key, job).expect("there is room");
        }
        while worker.step(now) == Turn::Ran {}
        assert!(worker.waiting.make_ready(key));
        let (taken, job) = worker.waiting.start_ready().expect("its turn has come");
        assert_eq!((taken, job), (key, 0));
        worker.in_hand = Some(key);
        (pool, worker)
    }

    #[test]
    fn a_turn_that_unwound_leaves_no_place_behind_and_no_key_blocked() {
        let (pool, mut worker) = unwound();
        while worker.step(Instant::now()) == Turn::Ran {}
        assert_eq!(pool.depths().sum::<u64>(), 0, "the one behind it was handled");
    }

    #[test]
    fn a_worker_that_is_dropped_after_a_turn_unwound_ends() {
        let (pool, worker) = unwound();
        let ended = std::thread::spawn({
            let worker = AssertSend(worker);
            move || drop(worker)
        });
        let until = Instant::now() + std::time::Duration::from_secs(60);
        while !ended.is_finished() {
            assert!(Instant::now() < until, "it looks for a push that does not come");
            std::thread::yield_now();
        }
        assert!(pool.close().is_done());
    }

    /// The worker is the only one who has its handler, and goes with it.
    struct AssertSend(#[expect(dead_code, reason = "it is dropped")] Worker<Holds>);
    // SAFETY: `Holds` has nothing in it, and no future was made.
    unsafe impl Send for AssertSend {}
}
