//! The front through which every backend publishes: bounded, in order per key, tried again until the broker answers.

mod answer;
mod line;
mod outcomes;
mod quiet;
mod trouble;

use crate::broker::{Broker, PublishFault, Stored, Ticket};
use crate::foreign;
use crate::record::Record;
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, MutexGuard, OnceLock, Ordering, Weak, thread};
use crate::wait::Parker;
use crate::wait::Registration;
use crate::wait::{Clock, after};
use crate::wait::{Op, Promise};
pub use answer::{PublishError, Receipt, TryPublishError};
use foldhash::fast::RandomState;
use line::{Do, Id, Line, Offer, Room};
pub use outcomes::{NextOutcome, Outcome, Outcomes};
use outcomes::{Unread, tell_of_failure};
use quiet::Quiet;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::ops::ControlFlow;
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};
use trouble::Telling;
pub use trouble::{Publishing, Unacknowledged};

/// The limits of a publisher.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Unacknowledged records.
    pub(crate) records: usize,
    /// Their bytes.
    pub(crate) bytes: usize,
    pub(crate) max_record_bytes: usize,
}

/// A cheap handle: clones are the same publisher.
#[derive(Clone)]
pub(crate) struct Publisher(Arc<Inner>);

struct Inner {
    broker: Arc<dyn Broker>,
    bounds: Bounds,
    clock: Clock,
    state: Mutex<State>,
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

struct State {
    line: Line,
    publishes: BTreeMap<Id, Publish>,
    /// What is to be sent, in order; drained by one thread at a time, without the lock.
    outbox: VecDeque<Id>,
    is_sending: bool,
    flushes: Vec<(Id, Promise<()>)>,
    unread: Unread,
    /// It was closed, and all that was under way is answered.
    is_over: bool,
    /// The thread looks again in time.
    is_watched: bool,
    /// The number of those that waited for room when the ones nobody wants were last taken out.
    waiting_after_sweep: usize,
    closing: Option<Closing>,
    random: fastrand::Rng,
    quiet: Quiet,
}

struct Closing {
    until: Instant,
    promises: Vec<Promise<u64>>,
}

struct Publish {
    topic: Arc<str>,
    record: Arc<Record>,
    reply: Reply,
    /// It was not admitted at the call, so dropping its operation withdraws it until it is sent.
    waits_for_room: bool,
    /// Of an outcome that somebody reads.
    keeps_place: bool,
    since: Instant,
    /// What its last try failed with.
    error: Option<String>,
    room_seen: u64,
}

/// Whom the broker's answer is for.
enum Reply {
    /// Whoever holds the operation.
    Op(Promise<Result<Receipt, PublishError>>),
    /// Whoever reads the outcomes. Until it is sent somebody may wait for that.
    Outcomes(Option<Promise<Result<(), PublishError>>>),
}

impl Reply {
    /// Nobody wants the record to be sent any more, if it was not.
    fn is_detached(&self) -> bool {
        match self {
            Self::Op(promise) => promise.is_detached(),
            Self::Outcomes(promise) => promise.as_ref().is_some_and(Promise::is_detached),
        }
    }
}

/// How often the publishes to a full topic are tried again without a wake.
const FULL_POLL: Duration = Duration::from_millis(100);
/// Names kept to spare their allocation; more are a mistake, and are forgotten.
const KEPT_TOPICS: usize = 10_000;

impl Publisher {
    pub(crate) fn new(broker: Arc<dyn Broker>, bounds: Bounds, clock: Clock) -> Self {
        let room = Room { records: bounds.records, bytes: bounds.bytes };
        let line = Line::new(room, broker.capabilities().orders_publishes);
        let state = State {
            line,
            publishes: BTreeMap::new(),
            outbox: VecDeque::new(),
            is_sending: false,
            flushes: Vec::new(),
            unread: Unread::default(),
            is_over: false,
            is_watched: false,
            waiting_after_sweep: 0,
            closing: None,
            random: fastrand::Rng::new(),
            quiet: Quiet::default(),
        };
        Self(Arc::new(Inner {
            broker,
            bounds,
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
        let limit = self.0.bounds.max_record_bytes;
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
        let (inner, limit, size) = (&self.0, self.0.bounds.max_record_bytes, record.size());
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
        let (inner, limit, size) = (&self.0, self.0.bounds.max_record_bytes, record.size());
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
            let readers = state.unread.take_wakers();
            drop(state);
            readers.into_iter().for_each(foreign::wake);
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
        mut state: MutexGuard<'_, State>,
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
        state.sweep();
        // A broker in this process answers at once, or with a fault that starts the thread.
        let needs_watch = self.broker.is_remote() && !std::mem::replace(&mut state.is_watched, true);
        self.carry_out(state, out);
        if needs_watch {
            self.wake_thread();
        }
    }

    /// Carries out what the line says, and lets go of the lock for each call to the broker. One thread sends at a
    /// time, so that the order of the line is the order of the calls.
    fn carry_out(self: &Arc<Self>, mut state: MutexGuard<'_, State>, out: Vec<Do>) {
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
        let readers = if state.unread.queue.is_empty() { Vec::new() } else { state.unread.take_wakers() };
        let flushed = state.flushed();
        let quiet = self.take_quiet(&mut state);
        // ORDERING: Relaxed; see `append_past_the_line`.
        self.is_busy.store(!state.line.is_empty(), Ordering::Relaxed);
        let is_closing = state.closing.is_some();
        let must_send = !state.is_sending && !state.outbox.is_empty();
        if must_send {
            state.is_sending = true;
        }
        drop(state);
        unread.iter().for_each(tell_of_failure);
        waiting.into_iter().for_each(foreign::wake);
        readers.into_iter().for_each(foreign::wake);
        flushed.into_iter().for_each(|promise| promise.complete(()));
        quiet.into_iter().for_each(|(promise, sent)| promise.complete(sent));
        if is_closing {
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
                drop(state);
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

    /// Whether there is, or will be, a thread that tries again.
    fn is_thread_wanted(&self) -> bool {
        // ORDERING: Relaxed; set and looked at under the lock of the state, or corrected by the thread's first turn.
        self.has_thread.load(Ordering::Relaxed)
    }

    /// Wakes the thread that tries again, which starts when it is first needed. It looks at the state when it has
    /// noted how it is woken, so a wake that comes before that is not needed.
    fn wake_thread(self: &Arc<Self>) {
        if let Some(thread) = self.thread.get() {
            return thread.wake_by_ref();
        }
        // ORDERING: Relaxed; whoever sets it starts the thread.
        if self.has_thread.swap(true, Ordering::Relaxed) {
            return;
        }
        let room_came = Waker::from(Arc::new(RoomCame(Arc::downgrade(self))));
        let listening = self.broker.on_space(room_came);
        let inner = self.clone();
        let body = move || run(inner, listening);
        if let Err(error) = thread::Builder::new().name("keylane-publisher".to_owned()).spawn(body) {
            foreign::error!(%error, "the publisher's thread could not be started; nothing is tried again");
        }
    }

    /// One turn of the thread; it ends when the publisher is closed.
    fn turn(
        self: &Arc<Self>,
        full: &mut FullTopics,
        telling: &mut Telling,
    ) -> ControlFlow<(), Option<Instant>> {
        let now = self.clock.now();
        let mut out = Vec::new();
        let mut state = self.state.lock();
        state.line.due(now, &mut out);
        // ORDERING: Acquire pairs with the Release of the wake for room.
        let room = self.room.load(Ordering::Acquire);
        let tell_at = state.tell_of_trouble(now, telling);
        if !state.line.rests_for_room() {
            full.poll_at = None;
        } else if room != full.room_seen || full.poll_at.is_some_and(|at| now >= at) {
            state.line.room_came(&mut out);
            full.poll_at = Some(now + FULL_POLL);
        } else {
            full.poll_at.get_or_insert(now + FULL_POLL);
        }
        full.room_seen = room;
        state.quiet.room_seen = Some(room);
        let is_over =
            state.closing.as_ref().is_some_and(|closing| state.publishes.is_empty() || now >= closing.until);
        if is_over && let Some(closing) = state.closing.take() {
            let left = std::mem::take(&mut state.publishes);
            let count = left.len() as u64;
            state.is_over = true;
            let mut waiting = Vec::new();
            for publish in left.into_values() {
                match publish.reply {
                    Reply::Op(promise) => {
                        waiting.extend(promise.complete_quietly(Err(PublishError::Closed)));
                    }
                    Reply::Outcomes(Some(taken)) => taken.complete(Err(PublishError::Closed)),
                    Reply::Outcomes(None) => {
                        let (topic, key) = (publish.topic, publish.record.key.clone());
                        let outcome = Outcome { topic, key, result: Err(PublishError::Closed) };
                        if state.unread.readers > 0 {
                            state.unread.queue.push_back(outcome);
                        } else {
                            tell_of_failure(&outcome);
                        }
                    }
                }
            }
            let readers = state.unread.take_wakers();
            let flushes = std::mem::take(&mut state.flushes);
            let quiet = std::mem::take(&mut state.quiet.promises);
            state.line.withdraw_where(|_| true);
            state.outbox.clear();
            // ORDERING: Relaxed; a later close finds nothing under way, and no thread to wait for.
            self.has_thread.store(false, Ordering::Relaxed);
            drop(state);
            readers.into_iter().for_each(foreign::wake);
            waiting.into_iter().for_each(foreign::wake);
            flushes.into_iter().for_each(|(_, promise)| promise.complete(()));
            drop(quiet);
            closing.promises.into_iter().for_each(|promise| promise.complete(count));
            return ControlFlow::Break(());
        }
        let closing = state.closing.as_ref().map(|closing| closing.until);
        let until = [state.line.next_due(), full.poll_at, closing, tell_at].into_iter().flatten().min();
        state.is_watched = until.is_some();
        self.carry_out(state, out);
        ControlFlow::Continue(until)
    }

    fn wake_for_room(&self) {
        // ORDERING: Release pairs with the Acquire of a send and of an answer.
        self.room.fetch_add(1, Ordering::Release);
        if let Some(thread) = self.thread.get() {
            thread.wake_by_ref();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.get() {
            thread.wake_by_ref();
        }
    }
}

/// What the thread knows of full topics.
struct FullTopics {
    room_seen: u64,
    poll_at: Option<Instant>,
}

/// The thread that tries again.
fn run(inner: Arc<Inner>, listening: Registration) {
    let parker = Parker::new();
    // No number of wakes: room that came before this thread was told of it is looked for in the first turn.
    let mut full = FullTopics { room_seen: u64::MAX, poll_at: None };
    let mut telling = Telling::default();
    let mut clock = None;
    let publisher = Arc::downgrade(&inner);
    let mut kept = Some(inner);
    while let Some(inner) = kept.take().or_else(|| publisher.upgrade()) {
        inner.thread.get_or_init(|| parker.waker().clone());
        clock.get_or_insert_with(|| inner.clock.register(parker.waker().clone()));
        let is_manual = inner.clock.is_manual();
        let ControlFlow::Continue(until) = inner.turn(&mut full, &mut telling) else { break };
        // What rests is under way, and dropping a bus ends nothing: it is sent again although nobody has the bus.
        kept = until.map(|_| inner);
        parker.park_until(if is_manual { None } else { until });
    }
    drop(listening);
}

impl State {
    /// The flushes whose publishes are all answered.
    fn flushed(&mut self) -> Vec<Promise<()>> {
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
    fn rests_for_room_in(&self, topic: &str) -> bool {
        self.line
            .resting_for_room()
            .any(|id| self.publishes.get(&id).is_some_and(|rests| *rests.topic == *topic))
    }

    /// Takes out publishes that wait for room and that nobody waits for any more, whenever their number has doubled:
    /// what waits is bounded by what the callers hold.
    fn sweep(&mut self) {
        if self.line.waiting() < 2 * self.waiting_after_sweep.max(32) {
            return;
        }
        let publishes = &mut self.publishes;
        self.line.withdraw_where(|id| {
            let is_unwanted = publishes[&id].reply.is_detached();
            if is_unwanted {
                publishes.remove(&id);
            }
            is_unwanted
        });
        self.waiting_after_sweep = self.line.waiting();
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

/// Wakes the thread when a full topic has room.
struct RoomCame(Weak<Inner>);

impl Wake for RoomCame {
    fn wake(self: Arc<Self>) {
        if let Some(inner) = self.0.upgrade() {
            inner.wake_for_room();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::broker::{BrokerError, Capabilities, Consumer, ConsumerSpec};
    use crate::sync::AtomicUsize;

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
        let bounds = Bounds { records: 10, bytes: 1_000, max_record_bytes: 100 };
        let publisher = Publisher::new(broker.clone(), bounds, broker.0.clone());
        let op = publisher.publish("t", Record::new("x"));
        assert!(op.wait_timeout(Duration::from_secs(5)).is_ok_and(|stored| stored.is_ok()));
        publisher.close(Duration::from_secs(5)).wait();
    }
}
