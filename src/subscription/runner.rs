//! What a worker does with a record: attempt it, decide what a failure leads to, write its dead letter, and say how it
//! ended.

use super::doing::{Doing, Watch};
use super::leased::{Leased, Output, activity, moved};
use super::next::Next;
use super::observed;
use super::prepare::parse;
use super::shared::{End, Failing, Shared, Verdict};
use crate::chance;
use crate::delivery::dead_letter::DeadRecord;
use crate::delivery::partitions::Token;
use crate::delivery::retry::{Decision, dead_letter_backoff, decide};
use crate::event::Event;
use crate::foreign;
use crate::handler::{Failure, HandlerError};
use crate::observe::metrics::Tally;
use crate::policy::Then;
use crate::pool::{Handler, LONG_TURN, Outcome, WaitingNow};
use crate::publisher::{PublishError, Receipt};
use crate::sync::{Arc, Ordering};
use crate::wait::after;
use std::future::Future;
use std::time::Instant;

/// Futures that a log line each is written of when they are dropped in one turn.
const SAID: usize = 8;

/// A record on its way through the pool.
pub(crate) struct Delivery {
    pub(crate) event: Event,
    pub(crate) token: Token,
    pub(crate) bytes: usize,
    pub(crate) next: Next,
    /// Since when an attempt or a dead letter is under way, which a drain lets end.
    pub(crate) started: Option<Instant>,
    pub(crate) failure: Option<Box<Failure>>,
    /// Its turn had come while the lease was over.
    pub(crate) awaits_lease: bool,
    /// Its verdict was given.
    pub(crate) is_over: bool,
}

/// The three kinds of handlers, as a worker calls them.
pub(crate) trait Invoke: 'static {
    type Future: Future<Output = Result<(), HandlerError>> + 'static;
    /// Whether a worker's thread is busy for as long as the handler runs.
    const IS_BLOCKING: bool;

    fn invoke(&mut self, event: &Event) -> Invoked<Self::Future>;

    /// After a panic. True: the handler had state and is made anew.
    fn reset(&mut self) -> bool {
        false
    }
}

pub(crate) enum Invoked<F> {
    Ended(Result<(), HandlerError>),
    Pending(F),
}

/// One worker's part of a subscription.
pub(crate) struct Runner<I: Invoke> {
    invoke: I,
    pub(super) shared: Arc<Shared>,
    worker: usize,
    doing: Arc<Doing>,
    verdicts: Vec<Verdict>,
    /// How many of the verdicts stand where the intake finds them while this thread is blocked.
    shown: usize,
    tally: Tally,
    /// The end of the last attempt, which is the start of the next: one reading of the clock per record.
    pub(super) last_end: Instant,
    pub(super) turn: Option<Instant>,
    /// Futures that were dropped in this turn before their end.
    dropped: usize,
    /// The activity that the intake was told of, where somebody waits for it.
    told: u64,
    random: fastrand::Rng,
}

impl<I: Invoke> Runner<I> {
    pub(crate) fn new(invoke: I, shared: Arc<Shared>, worker: usize) -> Self {
        let last_end = shared.clock.now();
        let doing = shared.doing[worker].clone();
        Self {
            invoke,
            shared,
            worker,
            doing,
            verdicts: Vec::new(),
            shown: 0,
            tally: Tally::default(),
            last_end,
            turn: None,
            dropped: 0,
            told: 0,
            random: chance::random(),
        }
    }

    fn attempt(&mut self, job: &mut Delivery, now: Instant) -> Outcome<Leased<I::Future>> {
        if self.turn != Some(now) {
            (self.turn, self.last_end) = (Some(now), now);
        }
        let since = self.last_end;
        let deadline =
            if I::IS_BLOCKING { None } else { self.shared.deadline.map(|limit| after(since, limit)) };
        job.event.begin_attempt(deadline);
        job.started = Some(since);
        let settled =
            self.verdicts[self.shown..].iter().filter(|verdict| matches!(verdict.end, End::Settled));
        let settled = settled.map(|verdict| (verdict.partition, verdict.token, verdict.bytes));
        let number = self.doing.begin(&job.event, since, settled);
        self.shown = self.verdicts.len();
        let span = || {
            tracing::debug_span!(
                "process",
                messaging.system = self.shared.system,
                messaging.destination.name = job.event.topic(),
                messaging.consumer.group.name = &*self.shared.group,
                partition = job.event.partition(),
                offset = job.event.offset(),
                key = job.event.aggregate_id(),
                attempt = job.event.attempt(),
            )
        };
        observed::starts(&self.shared.group, &job.event);
        match foreign::in_span(span, || self.invoke.invoke(&job.event)) {
            Ok(Invoked::Pending(future)) => {
                let watch = Watch::new(self.doing.clone(), number);
                Outcome::Lease(Leased::Handler { future, watch }, deadline)
            }
            Ok(Invoked::Ended(result)) => {
                self.doing.end(number);
                self.attempt_ended(job, result.map_err(Failure::Error))
            }
            Err(panic) => {
                self.doing.end(number);
                self.panicked(job, panic, now)
            }
        }
    }

    fn attempt_ended(
        &mut self,
        job: &mut Delivery,
        result: Result<(), Failure>,
    ) -> Outcome<Leased<I::Future>> {
        let now = self.shared.clock.now();
        if I::IS_BLOCKING {
            self.last_end = now;
        }
        observed::ends(&self.shared.group, &job.event);
        if let Some(started) = job.started.take() {
            let took = now.saturating_duration_since(started).as_nanos() as u64;
            self.tally.handling_ns += took;
            self.tally.handling_max_ns = self.tally.handling_max_ns.max(took);
        }
        match result {
            Ok(()) if observed::repeats(&self.shared.group, &job.event) => Outcome::RetryAt(now),
            Ok(()) => {
                self.tally.succeeded += 1;
                self.over(job, End::Settled)
            }
            Err(failure) if self.is_interrupted(job) => self.interrupted(job, failure),
            Err(failure) => self.failed(job, failure, now),
        }
    }

    #[cold]
    fn failed(&mut self, job: &mut Delivery, failure: Failure, now: Instant) -> Outcome<Leased<I::Future>> {
        self.tally.failed += 1;
        let (event, attempts) = (&job.event, job.event.attempt());
        if !self.shared.rules.takes_envelopes {
            foreign::warn!(
                topic = event.topic(),
                partition = event.partition(),
                offset = event.offset(),
                key = event.aggregate_id(),
                error = format!("{failure:#}"),
                "a plain record's handler failed; the record is settled and not tried again"
            );
            self.tally.discarded += 1;
            return self.over(job, End::Settled);
        }
        let decision = decide(&self.shared.policy, &failure, attempts.max(1), self.random.f64());
        foreign::warn!(
            topic = event.topic(),
            partition = event.partition(),
            offset = event.offset(),
            key = event.aggregate_id(),
            attempt = attempts,
            error = format!("{failure:#}"),
            ?decision,
            "an Envelope was not handled; its key waits, other keys go on"
        );
        // A drain or a rebalance waits for no further attempt and no operator.
        if event.assignment().is_stopping() && matches!(decision, Decision::RetryAfter(_) | Decision::Hold) {
            return self.returned(job);
        }
        let is_held = matches!(decision, Decision::Hold | Decision::Halt);
        let mut failing = self.shared.failing.lock();
        let entry = failing.entry(job.token).or_insert_with(|| Failing {
            place: event.place(),
            error: String::new(),
            attempts,
            since: now,
            is_held,
            dead_letter: None,
        });
        (entry.error, entry.attempts, entry.is_held) = (format!("{failure:#}"), attempts, is_held);
        drop(failing);
        // A handler's error is foreign code, also when it is dropped.
        if let Some(before) = job.failure.replace(Box::new(failure)) {
            foreign::discard(before);
        }
        match decision {
            Decision::RetryAfter(delay) => {
                self.tally.retried += 1;
                Outcome::RetryAt(now + delay)
            }
            Decision::DeadLetter => {
                let Then::DeadLetter(dead_letter) = &self.shared.policy.then else {
                    unreachable!("only a policy with a dead-letter topic decides for it")
                };
                job.next = Next::DeadLetter { topic: dead_letter.topic.as_str().into(), tries: 0 };
                if !job.event.assignment().lease.holds(now) {
                    return self.await_lease(job);
                }
                self.write_dead_letter(job)
            }
            Decision::Hold => Outcome::Hold,
            Decision::Discard => {
                self.tally.discarded += 1;
                self.over(job, End::Settled)
            }
            Decision::Halt => {
                let error = format!("{}: {:#}", job.event.place(), job.failure.as_ref().expect("just set"));
                let partition = job.event.assignment().id;
                self.verdicts.push(Verdict { partition, token: job.token, bytes: 0, end: End::Halt(error) });
                Outcome::Hold
            }
            Decision::Redeliver(delay) => {
                self.tally.redelivered += 1;
                self.over(job, End::Redeliver(delay))
            }
        }
    }

    fn write_dead_letter(&mut self, job: &mut Delivery) -> Outcome<Leased<I::Future>> {
        let (Next::DeadLetter { topic, .. }, Some(failure)) = (&job.next, &job.failure) else {
            unreachable!("a dead letter has its topic, and a failure that it tells of")
        };
        job.started = Some(self.shared.clock.now());
        let event = &job.event;
        let headers = DeadRecord {
            topic: event.topic(),
            partition: event.partition(),
            offset: event.offset(),
            headers: event.headers(),
            failure,
            attempts: event.attempt(),
            time: self.shared.clock.system_time(),
        }
        .headers();
        let record = event.record().with_headers(headers);
        if let Some(failing) = self.shared.failing.lock().get_mut(&job.token) {
            failing.dead_letter = Some(topic.clone());
        }
        let op = self.shared.publisher.publish_any_size(topic, record);
        Outcome::Lease(Leased::DeadLetter { op }, None)
    }

    fn dead_lettered(
        &mut self,
        job: &mut Delivery,
        result: Result<Receipt, PublishError>,
    ) -> Outcome<Leased<I::Future>> {
        job.started = None;
        let Next::DeadLetter { tries, .. } = &mut job.next else {
            unreachable!("only a dead letter is written")
        };
        let event = &job.event;
        match result {
            Ok(receipt) => {
                self.tally.dead_lettered += 1;
                foreign::warn!(
                    topic = event.topic(),
                    partition = event.partition(),
                    offset = event.offset(),
                    key = event.aggregate_id(),
                    dead_letter_topic = receipt.topic(),
                    dead_letter_offset = receipt.offset(),
                    "an Envelope went to the dead-letter topic"
                );
                self.over(job, End::Settled)
            }
            // A drain waits for no further try.
            Err(_) if event.assignment().is_stopping() => self.returned(job),
            Err(error) => {
                *tries = tries.saturating_add(1);
                let failure = job.failure.as_ref().map(|failure| format!("{failure:#}")).unwrap_or_default();
                if let Some(failing) = self.shared.failing.lock().get_mut(&job.token) {
                    failing.error = format!("{failure}; its dead letter could not be written: {error}");
                    (failing.is_held, failing.dead_letter) = (true, None);
                }
                let delay = dead_letter_backoff(*tries, self.random.f64());
                foreign::error!(
                    topic = event.topic(), partition = event.partition(), offset = event.offset(),
                    key = event.aggregate_id(), tries, %error, ?delay,
                    "a dead letter could not be written; the record stays unsettled and its key waits"
                );
                Outcome::RetryAt(self.shared.clock.now() + delay)
            }
        }
    }

    #[cold]
    fn future_dropped(&mut self, event: &Event, since: Instant) {
        self.dropped += 1;
        if self.dropped <= SAID {
            foreign::warn!(
                topic = event.topic(),
                partition = event.partition(),
                offset = event.offset(),
                key = event.aggregate_id(),
                age = ?self.shared.clock.now().saturating_duration_since(since),
                "a future was dropped before its end: a drain is at its limit, or its partition has moved"
            );
        }
    }

    pub(super) fn returned(&mut self, job: &mut Delivery) -> Outcome<Leased<I::Future>> {
        let place = Box::new(job.event.place());
        self.over(job, End::Returned(place))
    }

    fn over(&mut self, job: &mut Delivery, end: End) -> Outcome<Leased<I::Future>> {
        if job.failure.is_some() {
            self.shared.failing.lock().remove(&job.token);
        }
        job.is_over = true;
        if matches!(end, End::Settled) {
            observed::settles(&self.shared.group, &job.event);
        }
        self.verdicts.push(Verdict {
            partition: job.event.assignment().id,
            token: job.token,
            bytes: job.bytes,
            end,
        });
        Outcome::Done
    }
}

impl<I: Invoke> Handler for Runner<I> {
    type Job = Delivery;
    type Future = Leased<I::Future>;

    fn handle(&mut self, job: &mut Delivery, now: Instant) -> Outcome<Self::Future> {
        moved();
        let assignment = job.event.assignment();
        // At most once: what was settled before is lost unless it is handled, so only the end of the time stops it.
        let settles_first = self.shared.settles_first;
        if assignment.is_stopping() && (!settles_first || assignment.is_out_of_time()) {
            return self.returned(job);
        }
        if !self.is_owned(assignment, now) {
            return self.await_lease(job);
        }
        job.awaits_lease = false;
        if job.next == Next::Parse {
            job.next = match parse(&self.shared.rules, job.event.record(), job.bytes) {
                Ok(parsed) => {
                    parsed.into_iter().for_each(|parsed| job.event.set_envelope(parsed));
                    Next::Attempt
                }
                Err(reason) => Next::Unhandleable(reason.into()),
            };
        }
        match &job.next {
            Next::Attempt => self.attempt(job, now),
            Next::Parse => unreachable!("parsed above"),
            Next::DeadLetter { .. } => self.write_dead_letter(job),
            Next::Unhandleable(reason) => {
                let failure = Failure::Undecodable(reason.to_string());
                self.failed(job, failure, now)
            }
            Next::GiveUp { redeliveries } => {
                let failure = Failure::Unsurvived { redeliveries: *redeliveries };
                self.failed(job, failure, now)
            }
            Next::Skip => {
                self.tally.discarded += 1;
                self.over(job, End::Settled)
            }
        }
    }

    fn resolve(&mut self, job: &mut Delivery, output: Output, _: Instant) -> Outcome<Self::Future> {
        match output {
            Output::Handled(result) => self.attempt_ended(job, result.map_err(Failure::Error)),
            Output::DeadLettered(result) => self.dead_lettered(job, result),
        }
    }

    fn panicked(&mut self, job: &mut Delivery, message: String, _: Instant) -> Outcome<Self::Future> {
        if job.is_over {
            foreign::error!(
                panic = message,
                "the drop of a handler's error panicked; its record was over before"
            );
            return Outcome::Done;
        }
        self.tally.panicked += 1;
        self.tally.restarts += u64::from(self.invoke.reset());
        self.attempt_ended(job, Err(Failure::Panic(message)))
    }

    fn expired(&mut self, job: &mut Delivery, _: Instant) -> Outcome<Self::Future> {
        moved();
        let limit = self.shared.deadline.unwrap_or_default();
        self.attempt_ended(job, Err(Failure::DeadlineExceeded(limit)))
    }

    fn abandoned(&mut self, mut job: Delivery) {
        moved();
        if let (Some(since), Next::Attempt) = (job.started, &job.next) {
            observed::ends(&self.shared.group, &job.event);
            self.future_dropped(&job.event, since);
        }
        self.returned(&mut job);
    }

    fn is_turn_long(&self, now: Instant) -> bool {
        I::IS_BLOCKING && self.turn == Some(now) && self.last_end.saturating_duration_since(now) > LONG_TURN
    }

    fn flush(&mut self, waiting: WaitingNow) {
        // ORDERING: Relaxed; a gauge.
        self.shared.waiting_keys[self.worker].store(waiting.keys as u64, Ordering::Relaxed);
        self.shared.counters.add(&mut self.tally);
        let unsaid = std::mem::take(&mut self.dropped).saturating_sub(SAID);
        if unsaid > 0 {
            foreign::warn!(unsaid, "more futures were dropped before their end");
        }
        if !self.verdicts.is_empty() {
            self.shared.verdicts.lock().append(&mut self.verdicts);
            if std::mem::take(&mut self.shown) > 0 {
                self.doing.clear_settled();
            }
            self.shared.wake_intake();
        }
        if self.shared.waits.is_watched() && self.told != activity() {
            self.told = activity();
            self.shared.waits.changed();
            self.shared.wake_intake();
        }
    }
}
