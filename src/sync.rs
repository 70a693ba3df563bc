//! The one door to synchronisation: std, `parking_lot` and crossbeam in a build, loom's checked twins under
//! `--cfg loom`.
//!
//! Nothing else in the crate names an atomic, a lock or a thread, so that the loom models run the shipped types and
//! not a copy of them. `tests/house.rs` reads the sources for it: clippy's `disallowed-types` looks through
//! re-exports and would refuse every use of this module. `Arc` is std's in both: its counting is not ours to prove.

#[cfg(any(loom, test))]
pub(crate) mod ring;

#[cfg(loom)]
pub(crate) use modelled::*;
#[cfg(not(loom))]
pub(crate) use real::*;
pub(crate) use std::sync::{Arc, Weak};

#[cfg(not(loom))]
mod real {
    pub(crate) use crossbeam_queue::ArrayQueue as Queue;
    pub(crate) use parking_lot::{Mutex, MutexGuard};
    pub(crate) use std::sync::OnceLock;
    #[cfg(test)]
    pub(crate) use std::sync::atomic::AtomicUsize;
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
    pub(crate) use std::thread;

    /// std's cell with loom's interface, so that one text serves both.
    #[derive(Debug)]
    pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self(std::cell::UnsafeCell::new(value))
        }

        #[inline]
        pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            f(self.0.get())
        }
    }

    /// Sleeps until unparked or until the time is over; may return early.
    pub(crate) fn park_for(limit: std::time::Duration) {
        thread::park_timeout(limit);
    }
}

#[cfg(loom)]
mod modelled {
    pub(crate) use super::ring::Ring as Queue;
    pub(crate) use loom::cell::UnsafeCell;
    pub(crate) use loom::sync::MutexGuard;
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
    pub(crate) use loom::thread;

    /// loom's lock without the poison, which `parking_lot` does not have either.
    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
        }
    }

    /// std's cell as loom sees it: whoever is not ordered after the `set` may find nothing.
    #[derive(Debug)]
    pub(crate) struct OnceLock<T> {
        value: std::sync::OnceLock<T>,
        is_set: AtomicBool,
    }

    impl<T> OnceLock<T> {
        pub(crate) fn new() -> Self {
            Self { value: std::sync::OnceLock::new(), is_set: AtomicBool::new(false) }
        }

        pub(crate) fn set(&self, value: T) -> Result<(), T> {
            let set = self.value.set(value);
            // ORDERING: Release pairs with the Acquire in `get`, as std promises of its own.
            self.is_set.store(true, Ordering::Release);
            set
        }

        pub(crate) fn get(&self) -> Option<&T> {
            // ORDERING: Acquire pairs with the Release in `set`.
            if self.is_set.load(Ordering::Acquire) { self.value.get() } else { None }
        }
    }

    /// loom has no clock: a timed park is a yield, after which the time may be over or not.
    pub(crate) fn park_for(_: std::time::Duration) {
        thread::yield_now();
    }
}
