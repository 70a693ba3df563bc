//! Counts allocations, in programs that ask for it: counting slows what is timed, so those are programs of their own.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

static ALLOCS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

/// The system's allocator, counting. A program that has it as its `#[global_allocator]` fills the fields `allocs` and
/// `alloc_bytes` of its lines.
#[derive(Debug)]
pub struct Counting;

// SAFETY: every call is handed to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size.saturating_sub(layout.size()));
        // SAFETY: the caller keeps the contract.
        unsafe { System.realloc(at, layout, size) }
    }
}

fn count(bytes: usize) {
    // ORDERING: Relaxed; counters that are read when the threads that raise them are done.
    ALLOCS.fetch_add(1, Ordering::Relaxed);
    BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
}

/// Allocations and their bytes since the program began. None in a program that does not count: one that does has
/// allocated before its `main`.
pub(crate) fn so_far() -> Option<(u64, u64)> {
    // ORDERING: Relaxed; as above.
    let allocs = ALLOCS.load(Ordering::Relaxed);
    (allocs > 0).then(|| (allocs, BYTES.load(Ordering::Relaxed)))
}
