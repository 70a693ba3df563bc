//! Who waits for a cancellation: `src/wait/cancellation.rs` and the list of wakers under it.

use crate::support::Wakes;
use keylane::Cancellation;
use keylane::loom_internals::{block_on, cancel};
use loom::thread;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};

/// If it fails: a handler that comes to wait just as its work is cancelled waits forever.
#[test]
fn a_cancellation_reaches_all_who_wait_for_it() {
    loom::model(|| {
        let cancellation = Cancellation::default();
        let waiting: Vec<_> = (0..2)
            .map(|_| {
                let cancelled = cancellation.cancelled();
                thread::spawn(move || block_on(cancelled))
            })
            .collect();
        cancel(&cancellation);
        assert!(cancellation.is_cancelled());
        waiting.into_iter().for_each(|one| one.join().unwrap());
    });
}

/// If it fails: a task that moved to another waker is woken by the old one only.
#[test]
fn a_cancellation_reaches_a_waker_that_changed() {
    loom::model(|| {
        let cancellation = Cancellation::default();
        let mut cancelled = cancellation.cancelled();
        assert!(Pin::new(&mut cancelled).poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let canceller = thread::spawn(move || cancel(&cancellation));
        block_on(cancelled);
        canceller.join().unwrap();
    });
}

/// If it fails: who stops waiting leaves a waker behind for as long as the partition lives, or takes the place of one
/// who waits on.
#[test]
fn who_stops_waiting_for_a_cancellation_leaves_nothing_behind() {
    loom::model(|| {
        let cancellation = Cancellation::default();
        let stays = {
            let cancelled = cancellation.cancelled();
            thread::spawn(move || block_on(cancelled))
        };
        let wakes = Arc::new(Wakes::default());
        let mut goes = cancellation.cancelled();
        let waker = wakes.clone().into();
        assert!(Pin::new(&mut goes).poll(&mut Context::from_waker(&waker)).is_pending());
        drop((goes, waker));
        assert_eq!(Arc::strong_count(&wakes), 1, "a waker was left behind");
        cancel(&cancellation);
        stays.join().unwrap();
        assert_eq!(wakes.count(), 0);
    });
}
