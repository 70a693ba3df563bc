//! The contestants.

mod keylane;
mod ruststream;

use crate::work::Work;
use measure::Cost;
use std::sync::Arc;

/// What a variant is run with.
pub(crate) struct Setup {
    pub(crate) workers: usize,
    pub(crate) n: u64,
    pub(crate) work: Arc<Work>,
}

/// One contestant.
pub(crate) struct Variant {
    pub(crate) name: &'static str,
    /// The crates that it is made of, the first one first.
    pub(crate) crates: &'static [&'static str],
    /// What it is set to, and what about it is not equal.
    pub(crate) settings: &'static str,
    /// Whether a handler can fail and be tried again.
    pub(crate) retries: bool,
    pub(crate) run: fn(&Setup) -> Cost,
}

/// In the order in which tables show them.
pub(crate) const VARIANTS: [Variant; 6] = [
    keylane::DECODED,
    ruststream::WORKERS_DECODED,
    ruststream::THREADS_DECODED,
    keylane::BYTES,
    ruststream::WORKERS_BYTES,
    ruststream::THREADS_BYTES,
];
