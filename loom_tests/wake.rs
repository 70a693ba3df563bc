//! A thread's sleep: `src/park.rs`.

use keylane::loom_internals::Parker;
use loom::sync::atomic::{AtomicBool, Ordering::Relaxed};
use loom::thread;
use std::sync::Arc;

/// If it fails: a thread sleeps on although it was woken, or wakes without seeing what it was woken for, so that it
/// goes back to sleep over it. Of two wakes that meet one unparks nobody; its news must arrive all the same.
#[test]
fn a_wake_ends_the_sleep_and_shows_what_it_was_for() {
    loom::model(|| {
        let news = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
        let parker = Parker::new();
        let wakers: Vec<_> = (0..2)
            .map(|i| {
                let (news, waker) = (news.clone(), parker.waker().clone());
                thread::spawn(move || {
                    news[i].store(true, Relaxed);
                    waker.wake();
                })
            })
            .collect();
        while !news.iter().all(|one| one.load(Relaxed)) {
            assert!(parker.park_until(None), "a sleep without a limit ended without a wake");
        }
        drop(wakers);
    });
}

/// If it fails: a wake that came before the sleep is forgotten.
#[test]
fn a_wake_before_the_sleep_counts() {
    loom::model(|| {
        let parker = Parker::new();
        parker.waker().wake_by_ref();
        assert!(parker.park_until(None));
    });
}
