//! A lane: the queue of one worker, and the one word that decides who may push, park, close and exit.
//!
//! The protocol and why it loses no wake-up: `src/pool/README.md`.

use crate::foreign;
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, OnceLock, Ordering, Queue};
use crate::wait::Wakers;
use crossbeam_utils::CachePadded;
use std::fmt;
use std::task::Waker;

/// The control word of a lane: `pending << 4 | WAITERS | WOKEN | CLOSED | PARKED`.
///
/// `pending` counts reservations that are not yet released: jobs that are being pushed, queued, running, waiting for
/// their time or leased to a future.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word(u64);

impl Word {
    /// The worker is parked, or about to. Set by the worker alone; who clears it owes the unpark.
    const PARKED: u64 = 1;
    /// No further reservation is accepted. Never cleared.
    const CLOSED: u64 = 2;
    /// Something other than a job wants the worker's attention. Set by anyone, cleared by the worker *before* it looks.
    const WOKEN: u64 = 4;
    /// Somebody waits for capacity. Set under the waiters' lock, cleared by who takes the last of them to wake them.
    const WAITERS: u64 = 8;
    const ONE: u64 = 16;

    pub(crate) fn pending(self) -> u64 {
        self.0 / Self::ONE
    }
    pub(crate) fn is_parked(self) -> bool {
        self.0 & Self::PARKED != 0
    }
    pub(crate) fn is_closed(self) -> bool {
        self.0 & Self::CLOSED != 0
    }
    pub(crate) fn is_woken(self) -> bool {
        self.0 & Self::WOKEN != 0
    }
    pub(crate) fn has_waiters(self) -> bool {
        self.0 & Self::WAITERS != 0
    }
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Word")
            .field("pending", &self.pending())
            .field("is_parked", &self.is_parked())
            .field("is_closed", &self.is_closed())
            .field("is_woken", &self.is_woken())
            .field("has_waiters", &self.has_waiters())
            .finish()
    }
}

/// Why a lane did not take a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    Full,
    Closed,
}

/// One worker's queue of `T`, with wakes of `W` beside it.
pub(crate) struct Lane<T, W> {
    word: CachePadded<AtomicU64>,
    capacity: u64,
    queue: Queue<T>,
    /// None once the worker has ended.
    wakes: Mutex<Option<Vec<W>>>,
    /// Who waits for capacity.
    waiters: Mutex<Wakers>,
    sleeper: OnceLock<Waker>,
    /// That WOKEN was set, for a worker in the middle of a turn. A hint: between two jobs it costs next to nothing to
    /// look at what is written rarely, while each look at the word takes its cache line from those who push.
    attention: CachePadded<AtomicBool>,
}

impl<T, W> Lane<T, W> {
    /// A lane that holds at most `capacity` jobs, from their reservation to their release.
    pub(crate) fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self {
            word: CachePadded::new(AtomicU64::new(0)),
            capacity: capacity as u64,
            queue: Queue::new(capacity),
            wakes: Mutex::new(Some(Vec::new())),
            waiters: Mutex::new(Wakers::default()),
            sleeper: OnceLock::new(),
            attention: CachePadded::new(AtomicBool::new(false)),
        })
    }

    /// Tells how the worker is unparked. Called once, before the worker parks for the first time; without it nobody is
    /// told, and whoever steps the worker looks by himself.
    pub(crate) fn set_sleeper(&self, sleeper: Waker) {
        let is_first = self.sleeper.set(sleeper).is_ok();
        debug_assert!(is_first, "a lane has one worker");
    }

    pub(crate) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// The word as it was a moment ago.
    pub(crate) fn look(&self) -> Word {
        // ORDERING: Relaxed; a hint, or a value that a later CAS on the same word confirms.
        Word(self.word.load(Ordering::Relaxed))
    }

    /// Whether a reservation is worth a try.
    pub(crate) fn may_have_room(&self) -> bool {
        let seen = self.look();
        seen.is_closed() || seen.pending() < self.capacity
    }

    /// Reserves up to `n` places, at least one: as many as there are when it is its turn.
    #[inline]
    pub(crate) fn reserve(&self, n: u64) -> Result<Reservation<'_, T, W>, Refused> {
        let seen = self.look();
        if seen.is_closed() {
            return Err(Refused::Closed);
        }
        let want = n.min(self.capacity.saturating_sub(seen.pending()));
        if want == 0 {
            return Err(Refused::Full);
        }
        // ORDERING: Acquire pairs with the worker's Release in `release`: the places that it gave back are free in the
        // queue too, so that the push below finds room.
        let before = Word(self.word.fetch_add(want * Word::ONE, Ordering::Acquire));
        let room = if before.is_closed() { 0 } else { self.capacity.saturating_sub(before.pending()) };
        let left = want.min(room);
        if left < want {
            self.give_back(want - left);
        }
        if left == 0 {
            return Err(if before.is_closed() { Refused::Closed } else { Refused::Full });
        }
        Ok(Reservation { lane: self, left, must_unpark: before.is_parked() })
    }

    /// Pushes one job, or gives it back.
    #[inline]
    pub(crate) fn push(&self, job: T) -> Result<(), (T, Refused)> {
        match self.reserve(1) {
            Ok(mut place) => {
                place.push(job);
                Ok(())
            }
            Err(why) => Err((job, why)),
        }
    }

    /// Takes the next job. Only the worker calls this.
    pub(crate) fn pop(&self) -> Option<T> {
        self.queue.pop()
    }

    /// Gives back the places of `n` jobs that are over, and tells the word as it is then. Only the worker calls this,
    /// and it owes those who wait for capacity a wake before it parks.
    pub(crate) fn release(&self, n: u64) -> Word {
        // ORDERING: Release pairs with the Acquire in `reserve`; see there.
        let before = self.word.fetch_sub(n * Word::ONE, Ordering::Release);
        debug_assert!(Word(before).pending() >= n, "released more than was reserved");
        Word(before - n * Word::ONE)
    }

    /// Undoes a reservation that was not used.
    #[cold]
    fn give_back(&self, n: u64) {
        // ORDERING: Relaxed; nothing was put into the queue or taken from it under this reservation.
        let before = self.word.fetch_sub(n * Word::ONE, Ordering::Relaxed);
        // Who came to wait because of this reservation must look again: no release may follow.
        if Word(before).has_waiters() {
            self.wake_waiters(u64::MAX);
        }
    }

    /// Parks the worker if the word is still `seen`. False: something changed, look again.
    pub(crate) fn try_park(&self, seen: Word) -> bool {
        debug_assert!(!seen.is_parked() && !seen.is_woken());
        let (from, to) = (seen.0, seen.0 | Word::PARKED);
        // ORDERING: Release pairs with the Acquire in `unpark`, which must find the sleeper that was set before; Relaxed
        // on failure, for the word is looked at anew. Park and unpark order the rest.
        self.word.compare_exchange(from, to, Ordering::Release, Ordering::Relaxed).is_ok()
    }

    /// The worker is awake, whoever woke it.
    pub(crate) fn unmark_parked(&self) {
        // ORDERING: Relaxed; the word itself is what is agreed on.
        self.word.fetch_and(!Word::PARKED, Ordering::Relaxed);
    }

    #[cold]
    fn unpark(&self) {
        // ORDERING: Acquire pairs with the Release in `try_park`; see there. One of those who see PARKED clears it, and
        // that one unparks, which orders the rest.
        let before = Word(self.word.fetch_and(!Word::PARKED, Ordering::Acquire));
        if before.is_parked()
            && let Some(sleeper) = self.sleeper.get()
        {
            foreign::wake_by_ref(sleeper);
        }
    }

    /// Asks for the worker's attention. One that has ended gives none: what it was asked is dropped.
    pub(crate) fn wake(&self, wake: W) {
        let late = match &mut *self.wakes.lock() {
            Some(wakes) => {
                wakes.push(wake);
                None
            }
            None => Some(wake),
        };
        if let Some(late) = late {
            // Not under the lock: it is foreign code.
            return foreign::discard(late);
        }
        // ORDERING: Relaxed; a hint, see the field. Before the bit, so that the worker who clears the bit clears this.
        self.attention.store(true, Ordering::Relaxed);
        // ORDERING: Relaxed; the list's lock orders the content, and the word's own order decides: either the worker's
        // `try_park` finds the word changed, or this finds PARKED.
        let before = Word(self.word.fetch_or(Word::WOKEN, Ordering::Relaxed));
        if before.is_parked() {
            self.unpark();
        }
    }

    /// Takes what was queued by [`Lane::wake`]. The bit is cleared first: a wake that comes later sets it again.
    pub(crate) fn take_wakes(&self, into: &mut Vec<W>) {
        // ORDERING: Relaxed; a hint, see the field.
        self.attention.store(false, Ordering::Relaxed);
        // ORDERING: Relaxed; had this read the bit of a wake whose entry is not seen below, the list's lock would put
        // that entry's push after this clearing, and so its bit.
        self.word.fetch_and(!Word::WOKEN, Ordering::Relaxed);
        if let Some(wakes) = &mut *self.wakes.lock() {
            into.append(wakes);
        }
    }

    /// Whether something other than a job wants the worker's attention: a hint, for one that is in the middle of a turn.
    #[inline]
    pub(crate) fn wants_attention(&self) -> bool {
        // ORDERING: Relaxed; a hint, see the field.
        self.attention.load(Ordering::Relaxed)
    }

    /// The worker has ended: drops what was queued by [`Lane::wake`], and whatever comes later.
    pub(crate) fn end_wakes(&self) {
        let left = self.wakes.lock().take();
        left.into_iter().flatten().for_each(foreign::discard);
    }

    /// Refuses every reservation from now on. What was reserved before is still run. False: it was closed already.
    pub(crate) fn close(&self) -> bool {
        // ORDERING: Relaxed; whether a reservation came before is decided by the word's own order.
        let before = Word(self.word.fetch_or(Word::CLOSED, Ordering::Relaxed));
        if before.is_parked() {
            self.unpark();
        }
        self.wake_waiters(u64::MAX);
        !before.is_closed()
    }

    /// Notes that `waker` waits for capacity under the number `id` (given on the first call, and its place among those
    /// who wait). False: there is room, or the lane is closed, by now; try again.
    pub(crate) fn wait_for_capacity(&self, id: &mut Option<u64>, waker: &Waker) -> bool {
        let waker = waker.clone();
        let mut waiters = self.waiters.lock();
        let unneeded = waiters.wait(id, waker);
        // ORDERING: Relaxed; either this finds the room that a release made, or that release finds the bit.
        let before = Word(self.word.fetch_or(Word::WAITERS, Ordering::Relaxed));
        drop(waiters);
        drop(unneeded);
        !before.is_closed() && before.pending() >= self.capacity
    }

    /// The waiter of this number waits no longer.
    pub(crate) fn withdraw(&self, id: u64) {
        let unneeded = self.waiters.lock().withdraw(id);
        drop(unneeded);
    }

    /// Wakes at most so many of those who wait for capacity, who came first. Who wakes fewer than all owes the others a
    /// wake: the worker pays that before it parks.
    pub(crate) fn wake_waiters(&self, most: u64) {
        let woken = {
            let mut waiters = self.waiters.lock();
            let woken = waiters.take_first(most);
            if waiters.is_empty() {
                // ORDERING: Relaxed; who comes to wait later takes the lock after this and sets the bit again.
                self.word.fetch_and(!Word::WAITERS, Ordering::Relaxed);
            }
            woken
        };
        woken.wake();
    }
}

impl<T, W> fmt::Debug for Lane<T, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane")
            .field("word", &self.look())
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

/// Places in a lane that are still to be filled. Dropped, it gives back the rest and unparks the worker if that is
/// owed.
pub(crate) struct Reservation<'a, T, W> {
    lane: &'a Lane<T, W>,
    left: u64,
    must_unpark: bool,
}

impl<T, W> Reservation<'_, T, W> {
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// Fills one place.
    #[inline]
    pub(crate) fn push(&mut self, job: T) {
        debug_assert!(self.left > 0, "pushed more than was reserved");
        self.left -= 1;
        let refused = self.lane.queue.push(job).is_err();
        // The queue is as large as the capacity, and a release orders its pop before the reservation.
        assert!(!refused, "a reserved place was not free");
    }
}

impl<T, W> Drop for Reservation<'_, T, W> {
    fn drop(&mut self) {
        if self.left > 0 {
            self.lane.give_back(self.left);
        }
        if self.must_unpark {
            self.lane.unpark();
        }
    }
}
