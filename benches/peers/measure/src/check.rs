//! The check of order and count that every run makes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What broke. All zero for a run that is sound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages handled after a later one of their key.
    pub out_of_order: u64,
    /// Messages never handled.
    pub lost: u64,
    /// How often a message was handled once more.
    pub duplicated: u64,
}

/// Keys start on lines of their own for each worker, so that the check makes no worker wait for another's.
const LINE: usize = 16;

/// Takes down which messages were handled, in the order in which it happened.
///
/// Messages of one key are counted from 1. While they come in their order, one costs a load and a store of a word that
/// its worker alone writes. Anything else goes to a map behind a lock.
#[derive(Debug)]
pub struct Check {
    slots: Box<[u32]>,
    last: Box<[AtomicU64]>,
    /// By key and number: how often it was passed over, less how often it came late.
    odd: Mutex<HashMap<(u64, u64), Odd>>,
}

#[derive(Debug, Default)]
struct Odd {
    skipped: u64,
    late: u64,
}

impl Check {
    /// For keys below `keys`, handled by the worker that `worker_of` tells.
    pub fn new(keys: u64, worker_of: impl Fn(u64) -> usize) -> Self {
        let mut by_worker: Vec<u64> = (0..keys).collect();
        by_worker.sort_by_key(|key| worker_of(*key));
        let mut slots = vec![0; keys as usize].into_boxed_slice();
        let (mut next, mut worker) = (0, 0);
        for key in by_worker {
            if worker_of(key) != worker {
                worker = worker_of(key);
                next = (next + LINE).next_multiple_of(LINE);
            }
            slots[key as usize] = next as u32;
            next += 1;
        }
        let last = (0..next + LINE).map(|_| AtomicU64::new(0)).collect();
        Self { slots, last, odd: Mutex::default() }
    }

    /// A message was handled (successfully, where it is retried), by the only thread that handles its key at this moment.
    #[inline]
    pub fn handled(&self, key: u64, seq: u64) {
        let last = &self.last[self.slots[key as usize] as usize];
        // ORDERING: Relaxed; the threads that handle a key, one after the other, are ordered by what is measured, and
        // a peer that lets two at a key at once is found out by what they make of the number.
        let before = last.load(Ordering::Relaxed);
        last.store(before.max(seq), Ordering::Relaxed);
        if seq != before + 1 {
            self.handled_oddly(key, seq, before);
        }
    }

    /// The same for peers that handle several messages of a key at once.
    #[inline]
    pub fn handled_concurrently(&self, key: u64, seq: u64) {
        // ORDERING: Relaxed; one word, which orders nothing else.
        let before = self.last[self.slots[key as usize] as usize].fetch_max(seq, Ordering::Relaxed);
        if seq != before + 1 {
            self.handled_oddly(key, seq, before);
        }
    }

    /// Not the one after the last one. Whether what was passed over comes late, and what comes late had been passed
    /// over, is told at the end: two threads may get here in either order.
    #[cold]
    fn handled_oddly(&self, key: u64, seq: u64, before: u64) {
        let mut odd = self.odd.lock().unwrap_or_else(PoisonError::into_inner);
        if seq <= before {
            odd.entry((key, seq)).or_default().late += 1;
        } else {
            (before + 1..seq).for_each(|passed| odd.entry((key, passed)).or_default().skipped += 1);
        }
    }

    /// Waits until each of so many messages was handled, or until none was for as long as `patience`. Tells whether all
    /// were. Looks five thousand times a second.
    ///
    /// # Blocking
    /// It sleeps between its looks.
    pub fn wait_for(&self, sent: u64, patience: Duration) -> bool {
        let (mut lost, mut since) = (u64::MAX, Instant::now());
        loop {
            let now_lost = self.tally(sent).lost;
            if now_lost == 0 {
                return true;
            }
            if now_lost < lost {
                (lost, since) = (now_lost, Instant::now());
            } else if since.elapsed() > patience {
                return false;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// The end of a run in which so many messages were sent.
    pub fn tally(&self, sent: u64) -> Tally {
        let odd = self.odd.lock().unwrap_or_else(PoisonError::into_inner);
        // ORDERING: Relaxed; at the end of a run its threads are done, and before it this is a look.
        let reached = self.last.iter().map(|last| last.load(Ordering::Relaxed)).sum();
        let mut tally = Tally { lost: sent.saturating_sub(reached), ..Tally::default() };
        for Odd { skipped, late } in odd.values() {
            tally.lost += skipped.saturating_sub(*late);
            tally.out_of_order += *skipped.min(late);
            tally.duplicated += late.saturating_sub(*skipped);
        }
        tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(handled: &[(u64, u64)], sent: u64) -> [Tally; 2] {
        let (one, several) = (Check::new(4, |key| key as usize % 2), Check::new(4, |_| 0));
        for (key, seq) in handled {
            one.handled(*key, *seq);
            several.handled_concurrently(*key, *seq);
        }
        [one.tally(sent), several.tally(sent)]
    }

    #[test]
    fn messages_of_different_keys_have_no_order() {
        assert_eq!(tally(&[(0, 1), (1, 1), (3, 1), (0, 2), (1, 2)], 5), [Tally::default(); 2]);
    }

    #[test]
    fn a_message_after_a_later_one_is_out_of_order_and_not_lost() {
        let broken = Tally { out_of_order: 2, ..Tally::default() };
        assert_eq!(tally(&[(0, 3), (1, 1), (0, 1), (0, 2), (0, 4)], 5), [broken; 2]);
    }

    #[test]
    fn what_is_never_handled_is_lost_at_the_end_and_in_between() {
        let broken = Tally { lost: 3, ..Tally::default() };
        assert_eq!(tally(&[(0, 1), (0, 3), (1, 1)], 6), [broken; 2]);
    }

    #[test]
    fn waiting_for_what_never_comes_ends() {
        let check = Check::new(4, |_| 0);
        check.handled(0, 1);
        assert!(check.wait_for(1, Duration::ZERO));
        assert!(!check.wait_for(2, Duration::from_millis(1)));
    }

    #[test]
    fn what_is_handled_again_is_duplicated() {
        let broken = Tally { duplicated: 2, ..Tally::default() };
        assert_eq!(tally(&[(0, 1), (0, 2), (0, 2), (0, 1), (0, 3)], 3), [broken; 2]);
    }
}
