//! The memory of answers, which each thread keeps for itself: `src/wait/blocks.rs`.

use keylane::loom_internals::Kept;
use loom::sync::atomic::{AtomicBool, Ordering::Relaxed};
use loom::thread;
use std::sync::Arc;

/// If it fails: what one thread freed another one uses, with nothing that puts the two in order.
#[test]
fn a_block_stays_with_the_thread_that_frees_it() {
    loom::model(|| {
        let first = Kept::new(1_u64);
        let freed_at = first.at();
        let (is_freed, is_over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let other = {
            let (is_freed, is_over) = (is_freed.clone(), is_over.clone());
            thread::spawn(move || {
                drop(first);
                is_freed.store(true, Relaxed);
                // It keeps what it freed for as long as it lives.
                while !is_over.load(Relaxed) {
                    thread::yield_now();
                }
                assert_eq!(Kept::new(2_u64).at(), freed_at, "who freed it uses it next");
            })
        };
        while !is_freed.load(Relaxed) {
            thread::yield_now();
        }
        let second = Kept::new(3_u64);
        assert_ne!(second.at(), freed_at, "another thread's block");
        is_over.store(true, Relaxed);
        other.join().unwrap();
    });
}
