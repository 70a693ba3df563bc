//! The thread that tries again what the broker did not take, looks after full topics, and answers the rest at a close. It
//! starts when it is first needed.

use super::outcomes::{Outcome, tell_of_failure};
use super::trouble::Telling;
use super::under_way::{Closing, Reply, UnderWay};
use super::{Inner, PublishError};
use crate::foreign;
use crate::sync::{Arc, MutexGuard, Ordering, Weak};
use crate::wait::world::{self, Stepped};
use crate::wait::{Life, Parker, Registration, Step, live, spawn};
use std::ops::ControlFlow;
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

/// How often the publishes to a full topic are tried again without a wake.
const FULL_POLL: Duration = Duration::from_millis(100);

/// What the thread knows of full topics.
struct FullTopics {
    room_seen: u64,
    poll_at: Option<Instant>,
}

/// What tries again.
struct Tries {
    publisher: Weak<Inner>,
    kept: Option<Arc<Inner>>,
    full: FullTopics,
    telling: Telling,
    /// By the clock, and by the broker when there is room.
    _told: [Registration; 2],
}

impl Tries {
    fn begin(inner: Arc<Inner>, listening: Registration, waker: &Waker) -> Self {
        inner.thread.get_or_init(|| waker.clone());
        Self {
            publisher: Arc::downgrade(&inner),
            _told: [inner.clock.register(waker.clone()), listening],
            kept: Some(inner),
            // No number of wakes: room that came before this was told of it is looked for in the first turn.
            full: FullTopics { room_seen: u64::MAX, poll_at: None },
            telling: Telling::default(),
        }
    }
}

impl Life for Tries {
    fn step(&mut self) -> Step {
        let Some(inner) = self.kept.take().or_else(|| self.publisher.upgrade()) else { return Step::Over };
        let ControlFlow::Continue(until) = inner.turn(&mut self.full, &mut self.telling) else {
            return Step::Over;
        };
        // What rests is under way, and dropping a bus ends nothing: it is sent again although nobody has the bus.
        self.kept = until.map(|_| inner);
        Step::Until(until)
    }
}

impl Inner {
    /// Whether there is, or will be, a thread that tries again.
    pub(super) fn is_thread_wanted(&self) -> bool {
        // ORDERING: Relaxed; set and looked at under the lock of the state, or corrected by the thread's first turn.
        self.has_thread.load(Ordering::Relaxed)
    }

    /// Wakes the thread that tries again, which starts when it is first needed. It looks at the state when it has
    /// noted how it is woken, so a wake that comes before that is not needed.
    pub(super) fn wake_thread(self: &Arc<Self>) {
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
        let (clock, name) = (self.clock.clone(), "keylane-publisher".to_owned());
        if let Some(world) = world::of(&clock) {
            let begin = move |waker: Waker| -> Stepped {
                let mut tries = Tries::begin(inner, listening, &waker);
                Box::new(move || tries.step())
            };
            return world.adopt(name, Box::new(begin));
        }
        let body = move || {
            let parker = Parker::new();
            live(&mut Tries::begin(inner, listening, parker.waker()), &parker, &clock);
        };
        if let Err(error) = spawn(name, body) {
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
            self.answer_the_rest(state, closing);
            return ControlFlow::Break(());
        }
        let closing = state.closing.as_ref().map(|closing| closing.until);
        let until = [state.line.next_due(), full.poll_at, closing, tell_at].into_iter().flatten().min();
        state.is_watched = until.is_some();
        self.carry_out(state, out);
        ControlFlow::Continue(until)
    }

    /// What is under way when a close is at its limit.
    fn answer_the_rest(&self, mut state: MutexGuard<'_, UnderWay>, closing: Closing) {
        let left = std::mem::take(&mut state.publishes);
        let count = left.len() as u64;
        state.is_over = true;
        // Told without the lock: who waits, and who reads the log, is foreign code.
        let (mut waiting, mut unread) = (Vec::new(), Vec::new());
        for publish in left.into_values() {
            match publish.reply {
                Reply::Op(promise) => {
                    waiting.extend(promise.complete_quietly(Err(PublishError::Closed)));
                }
                Reply::Outcomes(Some(taken)) => {
                    waiting.extend(taken.complete_quietly(Err(PublishError::Closed)));
                }
                Reply::Outcomes(None) => {
                    let (topic, key) = (publish.topic, publish.record.key.clone());
                    let outcome = Outcome { topic, key, result: Err(PublishError::Closed) };
                    if state.unread.readers > 0 {
                        state.unread.queue.push_back(outcome);
                    } else {
                        unread.push(outcome);
                    }
                }
            }
        }
        let readers = state.unread.waiting.take();
        let flushes = std::mem::take(&mut state.flushes);
        let quiet = std::mem::take(&mut state.quiet.promises);
        state.line.withdraw_where(|_| true);
        state.outbox.clear();
        // ORDERING: Relaxed; a later close finds nothing under way, and no thread to wait for.
        self.has_thread.store(false, Ordering::Relaxed);
        drop(state);
        unread.iter().for_each(tell_of_failure);
        readers.wake();
        waiting.into_iter().for_each(foreign::wake);
        flushes.into_iter().for_each(|(_, promise)| promise.complete(()));
        drop(quiet);
        closing.promises.into_iter().for_each(|promise| promise.complete(count));
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

/// Wakes the thread when a full topic has room.
struct RoomCame(Weak<Inner>);

impl Wake for RoomCame {
    fn wake(self: Arc<Self>) {
        if let Some(inner) = self.0.upgrade() {
            inner.wake_for_room();
        }
    }
}
