//! The failures that are planted in the handlers. Which rows they hit depends on the file and the options only, so
//! that every run repeats.

use crate::ledger::{Ledger, Place};
use crate::options::Options;
use keylane::{Event, HandlerError};
use std::collections::HashSet;

/// How often a record is attempted before it goes to the dead-letter topic. The most that a planted fault asks for is
/// a panic, two failures and a success.
pub(crate) const ATTEMPTS: u32 = 5;

const PLANTED_PANIC: &str = "a panic that --panic planted";

pub(crate) struct Faults {
    fail: f64,
    panic: f64,
    /// Rows that never succeed.
    poisoned: HashSet<usize>,
}

/// What an attempt comes to.
pub(crate) enum Fate {
    Success,
    Failure,
    Panic,
}

impl Faults {
    pub(crate) fn new(options: &Options, keys: &[String], ledger: &Ledger) -> Self {
        let poisoned = poisoned_rows(options.poison, keys, ledger);
        Self { fail: options.fail, panic: options.panic, poisoned }
    }

    pub(crate) fn fate(&self, event: &Event, row: usize, place: Place) -> Fate {
        let key = event.aggregate_id().unwrap_or_default();
        let panics = u32::from(is_chosen(self.panic, "panic", key, place.sequence));
        let failures = 2 * u32::from(is_chosen(self.fail, "fail", key, place.sequence));
        if event.attempt() <= panics {
            Fate::Panic
        } else if self.poisoned.contains(&row) || event.attempt() <= panics + failures {
            Fate::Failure
        } else {
            Fate::Success
        }
    }
}

pub(crate) fn planted_error() -> HandlerError {
    HandlerError::retriable("a failure that was planted")
}

pub(crate) fn planted_panic() -> ! {
    std::panic::panic_any(PLANTED_PANIC)
}

/// Keeps the planted panics, and no others, from printing a message over the progress view.
pub(crate) fn silence_planted_panics() {
    let others = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.payload().downcast_ref() != Some(&PLANTED_PANIC) {
            others(panic);
        }
    }));
}

/// One row in the middle of each of `count` keys, so that where a key has several rows, some come after it.
fn poisoned_rows(count: usize, keys: &[String], ledger: &Ledger) -> HashSet<usize> {
    let mut order: Vec<usize> = (0..keys.len()).collect();
    order.sort_by_cached_key(|&key| hash("poison", &keys[key], 0));
    let chosen: HashSet<usize> = order.into_iter().take(count).collect();
    let mut rows_of_key = vec![0; keys.len()];
    let places = || (0..ledger.records()).filter_map(|row| Some((row, ledger.place(row)?)));
    places().for_each(|(_, place)| rows_of_key[place.key as usize] += 1);
    places()
        .filter(|(_, Place { key, sequence })| {
            chosen.contains(&(*key as usize)) && *sequence == (rows_of_key[*key as usize] - 1) / 2
        })
        .map(|(row, _)| row)
        .collect()
}

fn is_chosen(rate: f64, purpose: &str, key: &str, sequence: u32) -> bool {
    // The upper 53 bits as a number from 0 to just below 1, so that a rate of 1 chooses all.
    rate > 0.0 && ((hash(purpose, key, sequence) >> 11) as f64) < rate * (1_u64 << 53) as f64
}

/// FNV-1a with a final mix: the same on every machine and in every version of Rust, which std's hasher is not.
fn hash(purpose: &str, key: &str, sequence: u32) -> u64 {
    let bytes = purpose.bytes().chain(key.bytes()).chain(sequence.to_le_bytes());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, b| (hash ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let hash = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ (hash >> 29)
}
