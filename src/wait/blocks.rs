//! Memory for cells that come and go with each answer: a thread keeps what it frees, and uses it again.
//!
//! Who asks for answers mostly also takes them, so the thread that is through with one cell is the one that makes the
//! next, and an allocator keeps fewer blocks at hand for it than a batch has. Nothing is shared here: a block stays
//! with the thread that frees it, and what is beyond the limit, or larger than the largest size, is the allocator's.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::ptr::NonNull;

/// Blocks are as large as a multiple of this, in bytes.
const STEP: usize = 32;
/// How many such multiples there are.
const SIZES: usize = 16;
/// How blocks are aligned: as allocators do without being asked.
const ALIGN: usize = 16;
/// What a thread keeps of each size, in bytes: some batches of answers, or a window of some hundred.
const KEPT: usize = 32 * 1024;

#[cfg(not(loom))]
thread_local! {
    static BLOCKS: RefCell<Blocks> = const { RefCell::new(Blocks::NONE) };
}
#[cfg(loom)]
loom::thread_local! {
    static BLOCKS: RefCell<Blocks> = RefCell::new(Blocks::NONE);
}

/// What a thread keeps, by size.
struct Blocks([Vec<NonNull<u8>>; SIZES]);

impl Blocks {
    const NONE: Self = Self([const { Vec::new() }; SIZES]);
}

impl Drop for Blocks {
    fn drop(&mut self) {
        for (n, blocks) in self.0.iter_mut().enumerate() {
            for block in blocks.drain(..) {
                used(block, (n + 1) * STEP);
                // SAFETY: it was allocated with the layout of this size, and nobody else has it.
                unsafe { dealloc(block.as_ptr(), layout((n + 1) * STEP)) };
            }
        }
    }
}

const fn layout(size: usize) -> Layout {
    match Layout::from_size_align(size, ALIGN) {
        Ok(layout) => layout,
        Err(_) => panic!("sizes are small"),
    }
}

/// Tells the sanitizer that nobody may touch a block while it is kept, so that a use after the end shows as it would of
/// the allocator's memory.
#[cfg(sanitizing)]
fn unused(block: NonNull<u8>, size: usize) {
    // SAFETY: the block is of this size and this thread's; what is marked is not memory.
    unsafe { __asan_poison_memory_region(block.as_ptr(), size) };
}
#[cfg(not(sanitizing))]
fn unused(_: NonNull<u8>, _: usize) {}

/// Takes that back.
#[cfg(sanitizing)]
fn used(block: NonNull<u8>, size: usize) {
    // SAFETY: as above.
    unsafe { __asan_unpoison_memory_region(block.as_ptr(), size) };
}
#[cfg(not(sanitizing))]
fn used(_: NonNull<u8>, _: usize) {}

#[cfg(sanitizing)]
unsafe extern "C" {
    fn __asan_poison_memory_region(at: *const u8, size: usize);
    fn __asan_unpoison_memory_region(at: *const u8, size: usize);
}

/// How memory for a `T` is allocated, and which of the sizes that is, if any.
struct Of<T>(std::marker::PhantomData<T>);

impl<T> Of<T> {
    const SIZE: Option<usize> = {
        let (size, align) = (size_of::<T>(), align_of::<T>());
        if 0 < size && size <= STEP * SIZES && align <= ALIGN { Some((size - 1) / STEP) } else { None }
    };
    const LAYOUT: Layout = match Self::SIZE {
        Some(n) => layout((n + 1) * STEP),
        None => Layout::new::<T>(),
    };
}

/// A value in memory of its own, until [`free`].
pub(crate) fn keep<T>(value: T) -> NonNull<T> {
    const { assert!(size_of::<T>() > 0, "what has no size needs no memory") };
    let kept = Of::<T>::SIZE.and_then(|n| {
        // A thread that ends has none any more.
        let kept = BLOCKS.try_with(|blocks| blocks.borrow_mut().0[n].pop()).ok().flatten()?;
        used(kept, (n + 1) * STEP);
        Some(kept)
    });
    let block = kept.unwrap_or_else(|| {
        // SAFETY: the layout is not empty, for `T` is not.
        let block = unsafe { alloc(Of::<T>::LAYOUT) };
        NonNull::new(block).unwrap_or_else(|| handle_alloc_error(Of::<T>::LAYOUT))
    });
    let block = block.cast::<T>();
    // SAFETY: the block was allocated with the layout of `T`, or of the size that has room for it and is aligned for it,
    // and nobody else has it.
    unsafe { block.write(value) };
    block
}

/// Drops the value; its memory is used again.
///
/// # Safety
/// The pointer came from [`keep`] and nobody uses it any more.
pub(crate) unsafe fn free<T>(at: NonNull<T>) {
    // SAFETY: the caller says that the value is there and that nobody else uses it.
    unsafe { at.drop_in_place() };
    let block = at.cast::<u8>();
    let is_kept = Of::<T>::SIZE.is_some_and(|n| {
        let keep = |blocks: &RefCell<Blocks>| {
            let blocks = &mut blocks.borrow_mut().0[n];
            let has_room = blocks.len() < KEPT / ((n + 1) * STEP);
            if has_room {
                blocks.push(block);
                unused(block, (n + 1) * STEP);
            }
            has_room
        };
        BLOCKS.try_with(keep).unwrap_or(false)
    });
    if !is_kept {
        // SAFETY: `keep` allocated it with this layout.
        unsafe { dealloc(block.as_ptr(), Of::<T>::LAYOUT) };
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::{Arc, thread};

    fn kept<T>() -> usize {
        BLOCKS.with_borrow(|blocks| Of::<T>::SIZE.map_or(0, |n| blocks.0[n].len()))
    }

    /// # Safety
    /// As for [`free`].
    unsafe fn take<T: Copy>(at: NonNull<T>) -> T {
        // SAFETY: the caller says that it is there, and nobody's.
        unsafe {
            let value = at.read();
            free(at);
            value
        }
    }

    #[test]
    fn what_is_freed_is_used_next_by_whatever_has_its_size() {
        let first = keep([1_u64; 12]);
        // SAFETY: it was just made, and is used by nobody else, as below.
        assert_eq!(unsafe { take(first) }, [1; 12]);
        let (second, third) = (keep([2_u8; 70]), keep([3_u64; 12]));
        assert_eq!(second.cast::<u8>(), first.cast(), "96 bytes hold 70");
        assert_ne!(third, first);
        // SAFETY: as above.
        assert_eq!(unsafe { (take(second), take(third)) }, ([2; 70], [3; 12]));
        assert_eq!(kept::<[u64; 12]>(), 2);
    }

    #[test]
    fn a_thread_keeps_no_more_than_its_limit() {
        let all: Vec<_> = (0..2_000_u64).map(|n| keep([n; 8])).collect();
        for (n, block) in all.into_iter().enumerate() {
            // SAFETY: it was just made, and is used by nobody else.
            assert_eq!(unsafe { take(block) }, [n as u64; 8]);
        }
        assert_eq!(kept::<[u64; 8]>(), KEPT / 64);
    }

    #[test]
    fn what_is_too_large_or_aligned_by_more_is_the_allocators() {
        #[repr(align(64))]
        #[derive(Debug, Clone, Copy, PartialEq)]
        struct Line(u8);

        let (large, line) = (keep([7_u8; 513]), keep(Line(7)));
        assert!(line.is_aligned());
        // SAFETY: they were just made, and are used by nobody else.
        assert_eq!(unsafe { (take(large), take(line)) }, ([7; 513], Line(7)));
        assert_eq!((kept::<[u8; 513]>(), kept::<Line>()), (0, 0));
    }

    #[test]
    fn a_block_that_ends_on_another_thread_stays_there() {
        struct Given(NonNull<Arc<()>>);
        // SAFETY: what it points to is given away with it, and may be sent.
        unsafe impl Send for Given {}

        let counted = Arc::new(());
        let given = Given(keep(counted.clone()));
        let elsewhere = thread::spawn(move || {
            let Given(block) = { given };
            // SAFETY: the other thread gave it away.
            unsafe { free(block) };
            kept::<Arc<()>>()
        });
        assert_eq!((elsewhere.join().expect("it ends"), kept::<Arc<()>>()), (1, 0));
        assert_eq!(Arc::strong_count(&counted), 1, "it is dropped");
    }

    /// Looks at what a pointer points to, where the compiler can't take that away.
    #[cfg(sanitizing)]
    fn look<T: Copy>(at: NonNull<T>) -> T {
        // SAFETY: none; it is what the sanitizer is to find.
        unsafe { at.read_volatile() }
    }

    #[cfg(sanitizing)]
    #[test]
    #[ignore = "planted: the sanitizer has to find it"]
    fn a_planted_leak() {
        thread::spawn(|| look(keep([1_u64; 12]))).join().expect("it ends");
    }

    #[cfg(sanitizing)]
    #[test]
    #[ignore = "planted: the sanitizer has to find it"]
    fn a_planted_use_after_free() {
        let large = keep([7_u8; 513]);
        // SAFETY: it was just made; the fault is what comes after.
        unsafe { free(large) };
        look(large);
    }

    #[cfg(sanitizing)]
    #[test]
    #[ignore = "planted: the sanitizer has to find it"]
    fn a_planted_use_of_a_kept_block() {
        let kept = keep([7_u64; 12]);
        // SAFETY: as above.
        unsafe { free(kept) };
        look(kept);
    }
}
