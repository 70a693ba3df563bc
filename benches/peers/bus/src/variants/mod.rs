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

#[cfg(test)]
mod tests {
    use super::*;
    use measure::Tally;

    const N: u64 = 3_000;

    fn tally(variant: &Variant, has_failures: bool) -> Tally {
        let work = Arc::new(Work::new(has_failures));
        let cost = (variant.run)(&Setup { workers: 2, n: N, work: work.clone() });
        assert!(cost.seconds > 0.0);
        work.tally(N)
    }

    #[test]
    fn every_variant_handles_each_record_once_and_in_order() {
        for variant in &VARIANTS {
            assert_eq!(tally(variant, false), Tally::default(), "{}", variant.name);
        }
    }

    #[test]
    fn a_record_that_fails_is_handled_in_the_end_by_all_and_in_its_turn_by_keylane() {
        for variant in VARIANTS.iter().filter(|variant| variant.retries) {
            let found = tally(variant, true);
            let out_of_order = if variant.name.starts_with("keylane") { 0 } else { found.out_of_order };
            assert_eq!(found, Tally { out_of_order, ..Tally::default() }, "{}", variant.name);
        }
    }
}
