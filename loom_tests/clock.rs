//! A time that is moved by hand, and who is told of it: `src/wait/clock.rs` and the list of wakers under it.

use crate::support::Wakes;
use keylane::loom_internals::Parker;
use keylane::{Clock, Registration};
use loom::cell::UnsafeCell;
use loom::thread;
use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};
use std::time::Duration;

/// What is written before the time is moved and read after.
struct News(UnsafeCell<u32>);

// SAFETY: one thread writes and one reads; that the clock puts them in order is what the model shows.
unsafe impl Sync for News {}

/// If it fails: who sees the new time does not see what was done before it was moved.
#[test]
fn who_sees_the_new_time_sees_what_came_before_it() {
    loom::model(|| {
        let (clock, time) = Clock::manual();
        let begin = clock.now();
        let news = Arc::new(News(UnsafeCell::new(0)));
        let mover = {
            let news = news.clone();
            thread::spawn(move || {
                // SAFETY: nobody reads it before the time is moved.
                news.0.with_mut(|news| unsafe { *news = 1 });
                time.advance(Duration::from_secs(1));
            })
        };
        // A loop, because loom comes back to the last access of an atomic alone, which for `advance` is its own look.
        while clock.now() == begin {
            thread::yield_now();
        }
        // SAFETY: whoever wrote it was through before it moved the time; loom checks that.
        assert_eq!(news.0.with(|news| unsafe { *news }), 1);
        mover.join().unwrap();
    });
}

/// If it fails: who sleeps until a time sleeps on when it has come, because it was woken before it had.
#[test]
fn a_sleeper_that_is_woken_by_the_clock_finds_its_time_come() {
    loom::model(|| {
        let (clock, time) = Clock::manual();
        let due = clock.now() + Duration::from_secs(1);
        let parker = Parker::new();
        let registration = clock.register(parker.waker().clone());
        let mover = thread::spawn(move || time.advance(Duration::from_secs(1)));
        while clock.now() < due {
            parker.park_until(None);
        }
        mover.join().unwrap();
        drop(registration);
    });
}

/// Takes its own registration back when it is woken, as a sleeper may that waits for one move of the time.
struct Once(Mutex<Option<Registration>>);

impl Wake for Once {
    fn wake(self: Arc<Self>) {
        let registration = self.0.lock().unwrap().take();
        drop(registration);
    }
}

/// If it fails: a waker that deregisters while it is woken locks itself out.
#[test]
fn a_waker_may_deregister_while_it_is_woken() {
    loom::model(|| {
        let (clock, time) = Clock::manual();
        let once = Arc::new(Once(Mutex::default()));
        let registration = clock.register(Waker::from(once.clone()));
        *once.0.lock().unwrap() = Some(registration);
        let other = {
            let time = time.clone();
            thread::spawn(move || time.advance(Duration::from_secs(1)))
        };
        time.advance(Duration::from_secs(1));
        other.join().unwrap();
        assert!(once.0.lock().unwrap().is_none());
        assert_eq!(Arc::strong_count(&once), 1, "a waker was left behind");
    });
}

/// If it fails: who deregisters while the time is moved leaves its waker behind, or keeps another one asleep.
#[test]
fn a_registration_that_ends_takes_its_waker_and_no_other() {
    loom::model(|| {
        let (clock, time) = Clock::manual();
        let due = clock.now() + Duration::from_secs(1);
        let wakes = Arc::new(Wakes::default());
        let goes = clock.register(Waker::from(wakes.clone()));
        let parker = Parker::new();
        let _stays = clock.register(parker.waker().clone());
        let mover = {
            let time = time.clone();
            thread::spawn(move || time.advance(Duration::from_secs(1)))
        };
        drop(goes);
        while clock.now() < due {
            parker.park_until(None);
        }
        mover.join().unwrap();
        assert_eq!(Arc::strong_count(&wakes), 1, "a waker was left behind");
        let before = wakes.count();
        time.advance(Duration::from_secs(1));
        assert_eq!(wakes.count(), before, "who deregistered was told");
    });
}
