//! The queue that stands in for crossbeam's under loom: Vyukov's bounded MPMC ring
//! (<https://www.1024cores.net/home/lock-free-algorithms/queues/bounded-mpmc-queue>).
//!
//! It is deliberately *weaker* than crossbeam's `ArrayQueue`: the stamps are Acquire/Release, the indices Relaxed, and
//! there is no fence. A protocol that leans on more than that passes over crossbeam by luck and fails here.

use super::{AtomicUsize, Ordering, UnsafeCell};
use std::cmp::Ordering::{Equal, Greater, Less};
use std::mem::MaybeUninit;

struct Slot<T> {
    stamp: AtomicUsize,
    value: UnsafeCell<MaybeUninit<T>>,
}

/// A bounded queue with the interface of `crossbeam_queue::ArrayQueue` that lanes use.
pub(crate) struct Ring<T> {
    head: AtomicUsize,
    tail: AtomicUsize,
    slots: Box<[Slot<T>]>,
}

// SAFETY: a slot's value is written by the one pusher that won its tail index and read by the one popper that won its
// head index; the stamp's Release/Acquire pair orders the two. A `T` is moved between threads, never shared.
unsafe impl<T: Send> Sync for Ring<T> {}
// SAFETY: as above; the ring owns its values.
unsafe impl<T: Send> Send for Ring<T> {}

impl<T> Ring<T> {
    pub(crate) fn new(capacity: usize) -> Self {
        assert!(capacity > 0, "a queue holds at least one");
        // A stamp of twice the index tells "free for this lap"; one more tells "filled".
        let slot =
            |i: usize| Slot { stamp: AtomicUsize::new(2 * i), value: UnsafeCell::new(MaybeUninit::uninit()) };
        Self {
            head: AtomicUsize::new(0),
            tail: AtomicUsize::new(0),
            slots: (0..capacity).map(slot).collect::<Vec<_>>().into_boxed_slice(),
        }
    }

    pub(crate) fn push(&self, value: T) -> Result<(), T> {
        // ORDERING: Relaxed; the index only proposes a slot, its stamp (Acquire) decides.
        let mut tail = self.tail.load(Ordering::Relaxed);
        loop {
            let slot = &self.slots[tail % self.slots.len()];
            // ORDERING: Acquire pairs with the popper's Release, whose read of the value must be over.
            let stamp = slot.stamp.load(Ordering::Acquire);
            match stamp.cmp(&(2 * tail)) {
                Less => return Err(value),
                // ORDERING: Relaxed, as the first look.
                Greater => tail = self.tail.load(Ordering::Relaxed),
                // ORDERING: Relaxed on both; ownership of the slot follows from winning the index.
                Equal => {
                    match self.tail.compare_exchange(tail, tail + 1, Ordering::Relaxed, Ordering::Relaxed) {
                        Ok(_) => {
                            // SAFETY: this pusher won the index and the stamp says that the slot is free.
                            slot.value.with_mut(|v| unsafe { (*v).write(value) });
                            // ORDERING: Release publishes the value to the popper's Acquire.
                            slot.stamp.store(2 * tail + 1, Ordering::Release);
                            return Ok(());
                        }
                        Err(now) => tail = now,
                    }
                }
            }
        }
    }

    pub(crate) fn pop(&self) -> Option<T> {
        // ORDERING: Relaxed; the index only proposes a slot, its stamp (Acquire) decides.
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            let slot = &self.slots[head % self.slots.len()];
            // ORDERING: Acquire pairs with the pusher's Release, so that the value is there.
            let stamp = slot.stamp.load(Ordering::Acquire);
            match stamp.cmp(&(2 * head + 1)) {
                Less => return None,
                // ORDERING: Relaxed, as the first look.
                Greater => head = self.head.load(Ordering::Relaxed),
                // ORDERING: Relaxed on both; ownership of the slot follows from winning the index.
                Equal => {
                    match self.head.compare_exchange(head, head + 1, Ordering::Relaxed, Ordering::Relaxed) {
                        Ok(_) => {
                            // SAFETY: this popper won the index and the stamp says that the slot is filled.
                            let value = slot.value.with_mut(|v| unsafe { (*v).assume_init_read() });
                            // ORDERING: Release hands the slot to the pusher of the next lap.
                            slot.stamp.store(2 * (head + self.slots.len()), Ordering::Release);
                            return Some(value);
                        }
                        Err(now) => head = now,
                    }
                }
            }
        }
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        while self.pop().is_some() {}
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::Ring;
    use crossbeam_queue::ArrayQueue;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_stand_in_answers_as_crossbeams_queue(capacity in 1usize..9, ops in prop::collection::vec(any::<bool>(), 0..200)) {
            let (ring, model) = (Ring::new(capacity), ArrayQueue::new(capacity));
            for (i, push) in ops.into_iter().enumerate() {
                if push {
                    prop_assert_eq!(ring.push(i), model.push(i));
                } else {
                    prop_assert_eq!(ring.pop(), model.pop());
                }
            }
        }
    }

    #[test]
    fn the_stand_in_loses_and_doubles_nothing_between_threads() {
        const EACH: usize = 20_000;
        let ring = Ring::new(8);
        let seen = std::thread::scope(|s| {
            for p in 0..2 {
                let ring = &ring;
                s.spawn(move || {
                    for i in 0..EACH {
                        while ring.push(p * EACH + i).is_err() {
                            std::thread::yield_now();
                        }
                    }
                });
            }
            let mut seen = Vec::new();
            while seen.len() < 2 * EACH {
                ring.pop().map_or_else(std::thread::yield_now, |v| seen.push(v));
            }
            seen
        });
        for p in 0..2 {
            let mine: Vec<_> = seen.iter().filter(|v| **v / EACH == p).collect();
            assert_eq!(mine.len(), EACH);
            assert!(mine.windows(2).all(|w| w[0] < w[1]), "a producer's values came out of order");
        }
    }
}
