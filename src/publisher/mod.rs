//! The front through which every backend publishes: bounded, in order per key, tried again until the broker answers.

mod answer;
mod line;
mod outcomes;
mod quiet;
mod thread;
mod trouble;
mod under_way;

use crate::broker::{Broker, PublishFault, Stored, Ticket};
use crate::foreign;
use crate::record::Record;
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, MutexGuard, OnceLock, Ordering};
use crate::wait::Op;
use crate::wait::{Clock, Woken, after};
pub use answer::{PublishError, Receipt, TryPublishError};
use foldhash::fast::RandomState;
pub(crate) use line::Room;
use line::{Do, Id, Line, Offer};
use outcomes::tell_of_failure;
pub use outcomes::{NextOutcome, Outcome, Outcomes};
use std::collections::{HashSet, VecDeque};
use std::task::Waker;
use std::time::Duration;
pub use trouble::{Publishing, Unacknowledged};
use under_way::{Closing, Publish, Reply, UnderWay};

/// A cheap handle: clones are the same publisher.
#[derive(Clone)]
pub(crate) struct Publisher(Arc<Inner>);

struct Inner {
    broker: Arc<dyn Broker>,
    max_record_bytes: usize,
    clock: Clock,
    state: Mutex<UnderWay>,
    topics: Mutex<HashSet<Arc<str>, RandomState>>,
    /// Something is in the line. While it is empty a publish that the broker answers at once goes past it.
    is_busy: AtomicBool,
    is_closed: AtomicBool,
    published: AtomicU64,
    retried: AtomicU64,
    /// Counts the wakes for room, so that a wake that overtakes the answer it is for is not missed.
    room: AtomicU64,
    has_thread: AtomicBool,
    thread: OnceLock<Waker>,
}

/// Names kept to spare their allocation; more are a mistake, and are forgotten.
const KEPT_TOPICS: usize = 10_000;

impl Publisher {
    pub(crate) fn new(broker: Arc<dyn Broker>, room: Room, max_record_bytes: usize, clock: Clock) -> Self {
        let state = UnderWay::new(Line::new(room, broker.capabilities().orders_publishes));
        Self(Arc::new(Inner {
            broker,
            max_record_bytes,
            clock,
            state: Mutex::new(state),
            topics: Mutex::default(),
            is_busy: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            published: AtomicU64::new(0),
            retried: AtomicU64::new(0),
            room: AtomicU64::new(0),
            has_thread: AtomicBool::new(false),
            thread: OnceLock::new(),
        }))
    }

    /// See [`Bus::publish`](crate::Bus::publish).
    pub(crate) fn publish(&self, topic: &str, record: Record) -> Op<Result<Receipt, PublishError>> {
        let limit = self.0.max_record_bytes;
        let size = record.size();
        if size > limit {
            return Op::ready(Err(PublishError::TooLarge { topic: topic.to_owned(), size, limit }));
        }
        self.publish_any_size(topic, record)
    }

    /// A dead letter has a few headers more than the record that it tells of, which was accepted before.
    pub(crate) fn publish_any_size(&self, topic: &str, record: Record) -> Op<Result<Receipt, PublishError>> {
        let inner = &self.0;
        let (topic, record) = (inner.topic(topic), Arc::new(record));
        match inner.append_past_the_line(&topic, &record) {
            Some(Ok(receipt)) => Op::ready(Ok(receipt)),
            // What the broker did not take goes through the line, which sends it again.
            Some(Err(_)) | None => inner
                .line_up(topic, record, false)
                .unwrap_or_else(|_| unreachable!("a line takes all that may wait")),
        }
    }

    /// See [`Bus::try_publish`](crate::Bus::try_publish).
    pub(crate) fn try_publish(
        &self,
        topic: &str,
        record: Record,
    ) -> Result<Op<Result<Receipt, PublishError>>, TryPublishError> {
        let (inner, limit, size) = (&self.0, self.0.max_record_bytes, record.size());
        if size > limit {
            return Err(PublishError::TooLarge { topic: topic.to_owned(), size, limit }.into());
        }
        let (topic, record) = (inner.topic(topic), Arc::new(record));
        let give_back = |record: Arc<Record>| TryPublishError::Full(Arc::unwrap_or_clone(record));
        match inner.append_past_the_line(&topic, &record) {
            Some(Ok(receipt)) => Ok(Op::ready(Ok(receipt))),
            Some(Err(PublishFault::Full)) => Err(give_back(record)),
            Some(Err(_)) | None => inner.line_up(topic, record, true).map_err(give_back),
        }
    }

    /// See [`Bus::send`](crate::Bus::send).
    pub(crate) fn send(&self, topic: &str, record: Record) -> Op<Result<(), PublishError>> {
        let (inner, limit, size) = (&self.0, self.0.max_record_bytes, record.size());
        if size > limit {
            return Op::ready(Err(PublishError::TooLarge { topic: topic.to_owned(), size, limit }));
        }
        let state = inner.state.lock();
        // ORDERING: Relaxed; a close sets it before it takes this lock.
        if inner.is_closed.load(Ordering::Relaxed) {
            return Op::ready(Err(PublishError::Closed));
        }
        let waits = !state.line.has_room(size);
        let (taken, op) = if waits {
            let (promise, op) = Op::pending(|| Err(PublishError::Closed));
            (Some(promise), op)
        } else {
            (None, Op::ready(Ok(())))
        };
        let keeps_place = state.unread.readers > 0;
        inner.add(state, inner.topic(topic), Arc::new(record), Reply::Outcomes(taken), keeps_place);
        op
    }

    /// See [`Bus::outcomes`](crate::Bus::outcomes).
    pub(crate) fn outcomes(&self) -> Outcomes {
        self.0.outcomes()
    }

    /// Is over when all that was published before has been answered.
    pub(crate) fn flush(&self) -> Op<()> {
        let mut state = self.0.state.lock();
        match state.publishes.keys().next_back().copied() {
            None => Op::ready(()),
            Some(last) => {
                let (promise, op) = Op::pending(|| ());
                state.flushes.push((last, promise));
                op
            }
        }
    }

    /// Records that the broker has acknowledged.
    pub(crate) fn published(&self) -> u64 {
        // ORDERING: Relaxed; a counter.
        self.0.published.load(Ordering::Relaxed)
    }

    /// See [`Bus::publishing`](crate::Bus::publishing).
    pub(crate) fn publishing(&self) -> Publishing {
        self.0.publishing()
    }

    /// Refuses further publishes, waits for the answers of those under way for as long as `limit`, and answers the
    /// rest with [`PublishError::Closed`]; the operation says how many those were.
    pub(crate) fn close(&self, limit: Duration) -> Op<u64> {
        let inner = &self.0;
        // ORDERING: Relaxed; a publish that misses it is under way and answered like the others.
        inner.is_closed.store(true, Ordering::Relaxed);
        let now = inner.clock.now();
        let until = after(now, limit);
        let (promise, op) = Op::pending(|| 0);
        let mut state = inner.state.lock();
        // Nothing is under way, or a close before this one has ended it.
        if state.publishes.is_empty() && state.closing.is_none() && !inner.is_thread_wanted() {
            state.is_over = true;
            let readers = state.unread.waiting.take();
            drop(state);
            readers.wake();
            return Op::ready(0);
        }
        let closing = state.closing.get_or_insert(Closing { until, promises: Vec::new() });
        closing.until = closing.until.min(until);
        closing.promises.push(promise);
        drop(state);
        inner.wake_thread();
        op
    }
}

impl Inner {
    fn topic(&self, name: &str) -> Arc<str> {
        let mut topics = self.topics.lock();
        if let Some(topic) = topics.get(name) {
            return topic.clone();
        }
        if topics.len() >= KEPT_TOPICS {
            topics.clear();
        }
        let topic: Arc<str> = name.into();
        topics.insert(topic.clone());
        topic
    }

    /// Stores at once, where nothing is in the line and the broker can.
    fn append_past_the_line(
        &self,
        topic: &Arc<str>,
        record: &Arc<Record>,
    ) -> Option<Result<Receipt, PublishFault>> {
        // ORDERING: Relaxed; a thread whose earlier publish of this key is still in the line set the flag itself, in
        // that call, and it is cleared only when the line is empty. Between threads no order is promised.
        if self.is_busy.load(Ordering::Relaxed) || self.is_closed.load(Ordering::Relaxed) {
            return None;
        }
        let stored = match self.broker.append(topic, record)? {
            Ok(stored) => stored,
            Err(fault) => return Some(Err(fault)),
        };
        // ORDERING: Relaxed; a counter.
        self.published.fetch_add(1, Ordering::Relaxed);
        Some(Ok(Receipt { topic: topic.clone(), stored }))
    }

    /// Takes a record into the line; with `only_if_room` gives it back where it would have to wait for room.
    fn line_up(
        self: &Arc<Self>,
        topic: Arc<str>,
        record: Arc<Record>,
        only_if_room: bool,
    ) -> Result<Op<Result<Receipt, PublishError>>, Arc<Record>> {
        let state = self.state.lock();
        // ORDERING: Relaxed; a close sets it before it takes this lock.
        if self.is_closed.load(Ordering::Relaxed) {
            return Ok(Op::ready(Err(PublishError::Closed)));
        }
        if only_if_room && (!state.line.has_room(record.size()) || state.rests_for_room_in(&topic)) {
            return Err(record);
        }
        let (promise, op) = Op::pending(|| Err(PublishError::Closed));
        self.add(state, topic, record, Reply::Op(promise), false);
        Ok(op)
    }

    fn add(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, UnderWay>,
        topic: Arc<str>,
        record: Arc<Record>,
        reply: Reply,
        keeps_place: bool,
    ) {
        let bytes = record.size();
        let waits_for_room = !state.line.has_room(bytes);
        // ORDERING: Relaxed; see `append_past_the_line`.
        self.is_busy.store(true, Ordering::Relaxed);
        let order = record.key.clone().map(|key| (topic.clone(), key));
        let mut out = Vec::new();
        let id = state.line.offer(Offer { order, bytes, keeps_place }, &mut out);
        let since = self.clock.now();
        let publish =
            Publish { topic, record, reply, waits_for_room, keeps_place, since, error: None, room_seen: 0 };
        state.publishes.insert(id, publish);
        let (withdrawn, all_withdrawn) = (state.sweep(), state.withdrawn);
        // A broker in this process answers at once, or with a fault that starts the thread.
        let needs_watch = self.broker.is_remote() && !std::mem::replace(&mut state.is_watched, true);
        self.carry_out(state, out);
        trouble::tell_withdrawn(withdrawn, all_withdrawn);
        if needs_watch {
            self.wake_thread();
        }
    }

    /// Carries out what the line says, and lets go of the lock for each call to the broker. One thread sends at a
    /// time, so that the order of the line is the order of the calls.
    fn carry_out(self: &Arc<Self>, mut state: MutexGuard<'_, UnderWay>, out: Vec<Do>) {
        let (mut waiting, mut unread) = (Vec::new(), Vec::new());
        let mut commands = VecDeque::from(out);
        while let Some(command) = commands.pop_front() {
            match command {
                Do::Send(id) => {
                    state.quiet.sent += 1;
                    state.outbox.push_back(id);
                }
                Do::Complete(id, result) => {
                    // After a close there is nobody to tell.
                    let Some(publish) = state.publishes.remove(&id) else { continue };
                    let Publish { topic, record, reply, keeps_place, .. } = publish;
                    let result = self.result(topic.clone(), result);
                    match reply {
                        // Under the lock: who finds nothing under way finds its publishes over.
                        Reply::Op(promise) => waiting.extend(promise.complete_quietly(result)),
                        // Withdrawn before it was sent: nobody wants to know.
                        Reply::Outcomes(Some(_)) => {}
                        Reply::Outcomes(None) => {
                            let outcome = Outcome { topic, key: record.key.clone(), result };
                            if keeps_place && state.unread.readers > 0 {
                                state.unread.queue.push_back(outcome);
                                continue;
                            }
                            unread.push(outcome);
                        }
                    }
                    if keeps_place {
                        let mut more = Vec::new();
                        state.give_back_places(1, &mut more);
                        commands.extend(more);
                    }
                }
            }
        }
        let readers = (!state.unread.queue.is_empty()).then(|| state.unread.waiting.take());
        let flushed = state.flushed();
        let quiet = self.take_quiet(&mut state);
        // ORDERING: Relaxed; see `append_past_the_line`.
        self.is_busy.store(!state.line.is_empty(), Ordering::Relaxed);
        // A close waits for the last answer; its limit wakes the thread without this.
        let is_close_over = state.closing.is_some() && state.publishes.is_empty();
        let must_send = !state.is_sending && !state.outbox.is_empty();
        if must_send {
            state.is_sending = true;
        }
        drop(state);
        unread.iter().for_each(tell_of_failure);
        waiting.into_iter().for_each(foreign::wake);
        readers.into_iter().for_each(Woken::wake);
        flushed.into_iter().for_each(|promise| promise.complete(()));
        quiet.into_iter().for_each(|(promise, sent)| promise.complete(sent));
        if is_close_over {
            self.wake_thread();
        }
        if must_send {
            self.send_all();
        }
    }

    /// Sends what is in the outbox. By one thread at a time, which is the one that set `is_sending`.
    fn send_all(self: &Arc<Self>) {
        loop {
            let mut state = self.state.lock();
            let Some(id) = state.outbox.pop_front() else {
                state.is_sending = false;
                return;
            };
            // ORDERING: Acquire pairs with the Release of the wake for room: one that came before is not counted.
            let room_seen = self.room.load(Ordering::Acquire);
            let Some(publish) = state.publishes.get_mut(&id) else { continue };
            if std::mem::take(&mut publish.waits_for_room) && publish.reply.is_detached() {
                state.withdrawn += 1;
                let all_withdrawn = state.withdrawn;
                drop(state);
                trouble::tell_withdrawn(1, all_withdrawn);
                self.answered(id, Err(PublishFault::Permanent("withdrawn before it was sent".to_owned())));
                continue;
            }
            publish.room_seen = room_seen;
            let taken = if let Reply::Outcomes(taken) = &mut publish.reply { taken.take() } else { None };
            let (topic, record) = (publish.topic.clone(), publish.record.clone());
            drop(state);
            if let Some(taken) = taken {
                taken.complete(Ok(()));
            }
            self.broker.publish(&topic, record, Box::new(Answer { inner: self.clone(), id }));
        }
    }

    fn result(&self, topic: Arc<str>, result: Result<Stored, String>) -> Result<Receipt, PublishError> {
        match result {
            Ok(stored) => {
                // ORDERING: Relaxed; a counter.
                self.published.fetch_add(1, Ordering::Relaxed);
                Ok(Receipt { topic, stored })
            }
            Err(reason) => Err(PublishError::Refused { topic: topic.to_string(), reason }),
        }
    }

    fn answered(self: &Arc<Self>, id: Id, answer: Result<Stored, PublishFault>) {
        let mut out = Vec::new();
        let mut state = self.state.lock();
        let now = self.clock.now();
        let unit = state.random.f64();
        let is_full = answer == Err(PublishFault::Full);
        let fault =
            if let Err(PublishFault::Transient(fault)) = &answer { Some(fault.clone()) } else { None };
        let retries = state.line.answered(id, answer, now, unit, &mut out);
        let publish = state.publishes.get_mut(&id);
        if let (Some(tries), Some(publish)) = (retries, &publish) {
            // ORDERING: Relaxed; a counter.
            self.retried.fetch_add(1, Ordering::Relaxed);
            if tries.is_power_of_two() {
                let key = publish.record.key.as_deref().map(String::from_utf8_lossy);
                foreign::warn!(
                    topic = &*publish.topic,
                    key = key.as_deref(),
                    tries,
                    error = fault.as_deref(),
                    "a record could not be published; it is tried again until the broker answers, and later ones of \
                     its key wait"
                );
            }
        }
        let room_seen = publish.map(|publish| {
            publish.error = if is_full { Some(PublishFault::Full.to_string()) } else { fault };
            publish.room_seen
        });
        // ORDERING: Acquire pairs with the Release of the wake for room.
        if is_full && room_seen.is_some_and(|seen| self.room.load(Ordering::Acquire) != seen) {
            state.line.room_came(&mut out);
        }
        let needs_thread = retries.is_some() || is_full;
        self.carry_out(state, out);
        if needs_thread {
            self.wake_thread();
        }
    }

    fn retried(&self) -> u64 {
        // ORDERING: Relaxed; a counter.
        self.retried.load(Ordering::Relaxed)
    }
}

/// Where the broker answers.
struct Answer {
    inner: Arc<Inner>,
    id: Id,
}

impl Ticket for Answer {
    fn id(&self) -> u64 {
        self.id
    }

    fn answer(self: Box<Self>, result: Result<Stored, PublishFault>) {
        self.inner.answered(self.id, result);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::broker::{BrokerError, Capabilities, Consumer, ConsumerSpec};
    use crate::sync::AtomicUsize;
    use crate::wait::Registration;

    /// Full at the first publish; room comes before the publisher has said whom to tell.
    struct RoomComesEarly(Clock, AtomicUsize);

    impl Broker for RoomComesEarly {
        fn system(&self) -> &'static str {
            "test"
        }
        fn capabilities(&self) -> Capabilities {
            Capabilities { redeliver: false, orders_publishes: false, counts_deliveries: false }
        }
        fn partitions(&self, _: &str) -> Result<u32, BrokerError> {
            Ok(1)
        }
        fn create_topic(&self, _: &str) -> Result<(), BrokerError> {
            Ok(())
        }
        fn publish(&self, _: &Arc<str>, _: Arc<Record>, ticket: Box<dyn Ticket>) {
            let offset = self.1.fetch_add(1, Ordering::Relaxed) as u64;
            let stored = Stored { partition: 0, offset };
            ticket.answer(if offset == 0 { Err(PublishFault::Full) } else { Ok(stored) });
        }
        fn on_space(&self, _: Waker) -> Registration {
            Registration::none()
        }
        fn subscribe(&self, _: &ConsumerSpec, _: Waker) -> Result<Box<dyn Consumer>, BrokerError> {
            Err(BrokerError::Closed)
        }
    }

    #[test]
    fn room_that_comes_before_the_publisher_listens_for_it_is_found() {
        // The time stands still, so nothing is tried again by time alone.
        let (clock, _time) = Clock::manual();
        let broker = Arc::new(RoomComesEarly(clock.clone(), AtomicUsize::new(0)));
        let room = Room { records: 10, bytes: 1_000 };
        let publisher = Publisher::new(broker.clone(), room, 100, broker.0.clone());
        let op = publisher.publish("t", Record::new("x"));
        assert!(op.wait_timeout(Duration::from_secs(5)).is_ok_and(|stored| stored.is_ok()));
        publisher.close(Duration::from_secs(5)).wait();
    }
}
