//! How the two bare variants wait: a short spin, a few yields, then a sleep.

use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Mutex, PoisonError};
use std::thread::Thread;

const SPINS: u32 = 64;
const YIELDS: u32 = 4;

/// One thread sleeps here; any thread wakes it. The sleeper says that it sleeps, then looks once more; who wakes makes
/// its news visible, then looks whether somebody sleeps. With a full fence between the two steps of each, one of them
/// sees the other, so no wake-up is lost.
#[derive(Default)]
pub(super) struct Parker {
    is_asleep: AtomicBool,
    sleeper: Mutex<Option<Thread>>,
}

impl Parker {
    /// Waits until `is_ready`. Only one thread ever calls this.
    pub(super) fn wait(&self, is_ready: impl Fn() -> bool) {
        for look in 0..SPINS + YIELDS {
            if is_ready() {
                return;
            }
            if look < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        let mut sleeper = self.sleeper.lock().unwrap_or_else(PoisonError::into_inner);
        sleeper.get_or_insert_with(std::thread::current);
        drop(sleeper);
        loop {
            // ORDERING: Relaxed, ordered before the look by the fence, which pairs with the one in `wake`.
            self.is_asleep.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            if is_ready() {
                break;
            }
            std::thread::park();
        }
        // ORDERING: Relaxed; a wake too many only makes the next sleep look once more.
        self.is_asleep.store(false, Ordering::Relaxed);
    }

    /// Wakes the sleeper, if there is one. What it waits for was made visible before.
    #[inline]
    pub(super) fn wake(&self) {
        // ORDERING: the fence orders the caller's news before the look, and pairs with the one in `wait`.
        fence(Ordering::SeqCst);
        // ORDERING: Relaxed; the fence orders the look, and Acquire sees the sleeper's handle, which is behind a lock.
        if self.is_asleep.load(Ordering::Relaxed) && self.is_asleep.swap(false, Ordering::Acquire) {
            let sleeper = self.sleeper.lock().unwrap_or_else(PoisonError::into_inner);
            sleeper.as_ref().expect("who sleeps said who it is").unpark();
        }
    }
}
