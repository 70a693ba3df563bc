//! A thread's sleep: `src/wait/park.rs`.
//!
//! loom has no clock, and what it runs must be the same each time: a sleep ends at a time that has passed or never comes.

use keylane::loom_internals::Parker;
use loom::sync::atomic::{AtomicBool, Ordering::Relaxed};
use loom::thread::{self, JoinHandle};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A thread that has news and wakes for it.
fn bringing(news: &Arc<AtomicBool>, parker: &Parker) -> JoinHandle<()> {
    let (news, waker) = (news.clone(), parker.waker().clone());
    thread::spawn(move || {
        news.store(true, Relaxed);
        waker.wake();
    })
}

/// If it fails: a thread sleeps on although it was woken, or wakes without seeing what it was woken for, so that it
/// goes back to sleep over it. Of two wakes that meet one unparks nobody; its news must arrive all the same.
#[test]
fn a_wake_ends_the_sleep_and_shows_what_it_was_for() {
    loom::model(|| {
        let parker = Parker::new();
        let news = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let wakers = news.each_ref().map(|one| bringing(one, &parker));
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

/// If it fails: a wake that comes just as the time of a sleep is over is forgotten, and its news with it.
#[test]
fn a_wake_that_meets_the_end_of_a_timed_sleep_counts() {
    loom::model(|| {
        let (parker, news) = (Parker::new(), Arc::new(AtomicBool::new(false)));
        let waker = bringing(&news, &parker);
        if !parker.park_until(Some(Instant::now())) {
            assert!(parker.park_until(None));
        }
        assert!(news.load(Relaxed), "woken without the news");
        waker.join().unwrap();
        assert!(!parker.park_until(Some(Instant::now())), "a wake counted twice");
    });
}

/// If it fails: a sleep ends before its time though nobody woke it: a return of the system is taken for the time.
#[test]
fn a_timed_sleep_ends_by_its_wake_and_not_before() {
    loom::model(|| {
        let (parker, news) = (Parker::new(), Arc::new(AtomicBool::new(false)));
        let waker = bringing(&news, &parker);
        assert!(parker.park_until(Some(Instant::now() + Duration::from_secs(3_600))));
        assert!(news.load(Relaxed), "woken without the news");
        waker.join().unwrap();
    });
}
