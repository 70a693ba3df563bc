//! A time that is moved by hand: `src/wait/clock.rs`.

use keylane::Clock;
use keylane::loom_internals::Parker;
use loom::cell::UnsafeCell;
use loom::thread;
use std::sync::Arc;
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
