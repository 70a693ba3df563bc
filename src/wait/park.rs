//! A thread that sleeps until a waker wakes it or a time comes.

use crate::sync::{Arc, AtomicBool, Ordering, park_for, thread};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

/// Looks with a pause instruction between them before the first that yields: less than two microseconds. None under
/// loom, where only a yield lets another thread run.
pub(crate) const SPINS: u32 = if cfg!(loom) { 0 } else { 8 };
/// Looks that yield the core before a thread parks: it may be the other side that needs it.
pub(crate) const YIELDS: u32 = if cfg!(loom) { 1 } else { 4 };

/// Yields after which one that still waits sleeps between its looks: who is waited for does not run.
const MANY_YIELDS: u32 = 10_000;
/// How long it sleeps.
const SLEEP: Duration = Duration::from_millis(1);
/// So many sleeps are worth a word.
const MANY_SLEEPS: u32 = 1_000;

/// Looks of one that spins before it yields once: a microsecond or two.
const LOOKS_PER_YIELD: u32 = 32;

/// Passes the time between two looks at something that is about to change: pauses first, then yields, then sleeps.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    looks: u32,
}

impl Backoff {
    /// Whether it is time to park instead.
    pub(crate) fn is_over(&self) -> bool {
        self.looks >= SPINS + YIELDS
    }

    /// Looks again at once, and yields after many looks alone: who is waited for may need this very core.
    pub(crate) fn spin(&mut self) {
        self.looks = self.looks.wrapping_add(1);
        if cfg!(loom) || self.looks.is_multiple_of(LOOKS_PER_YIELD) {
            thread::yield_now();
        } else {
            pause(1);
        }
    }

    /// Whether the last snooze made the wait a very long one, of a second or so: true once.
    pub(crate) fn is_very_long(&self) -> bool {
        self.looks == SPINS + MANY_YIELDS + MANY_SLEEPS
    }

    pub(crate) fn snooze(&mut self) {
        self.looks = self.looks.saturating_add(1);
        if self.looks > SPINS + MANY_YIELDS {
            park_for(SLEEP);
        } else if self.looks > SPINS {
            thread::yield_now();
        } else {
            pause(1 << self.looks.min(5));
        }
    }
}

/// Passes this time without the memory bus. How long a pause instruction takes differs by ten between processors, so
/// the clock is asked.
pub(crate) fn rest(time: Duration) {
    let since = Instant::now();
    while since.elapsed() < time {
        pause(8);
    }
}

fn pause(n: u32) {
    (0..n).for_each(|_| std::hint::spin_loop());
}

/// One thread's sleep. Used by the thread that made it; its [`waker`](Parker::waker) by anyone.
pub(crate) struct Parker {
    unparker: Arc<Unparker>,
    waker: Waker,
}

struct Unparker {
    thread: thread::Thread,
    /// The wake itself: an unpark alone could be consumed by a foreign `park` on the same thread.
    is_notified: AtomicBool,
}

impl Parker {
    /// For the calling thread.
    pub(crate) fn new() -> Self {
        let unparker = Arc::new(Unparker { thread: thread::current(), is_notified: AtomicBool::new(false) });
        let waker = Waker::from(unparker.clone());
        Self { unparker, waker }
    }

    pub(crate) fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Whether a wake has come since the last sleep ended, so that the next one would end at once.
    pub(crate) fn is_woken(&self) -> bool {
        // ORDERING: Relaxed; a hint, which `park_until` confirms.
        self.unparker.is_notified.load(Ordering::Relaxed)
    }

    /// Sleeps until woken, or until the time has come. A wake since the last sleep ended makes it return at once.
    /// True: it was woken.
    pub(crate) fn park_until(&self, until: Option<Instant>) -> bool {
        loop {
            // ORDERING: Acquire pairs with the Release of the wake, so that this thread sees what it was woken for.
            if self.unparker.is_notified.swap(false, Ordering::Acquire) {
                return true;
            }
            match until {
                None => thread::park(),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return false;
                    }
                    park_for(left);
                }
            }
        }
    }
}

impl Wake for Unparker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // ORDERING: Release pairs with the Acquire of the sleeper; see there.
        if !self.is_notified.swap(true, Ordering::Release) {
            self.thread.unpark();
        }
    }
}
