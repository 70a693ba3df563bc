//! The contestants, one file each.

mod actix;
mod channels;
mod crossbeam;
mod disruptor;
mod flume;
mod kameo;
mod kanal;
mod keylane;
mod machine;
mod parker;
mod ractor;
mod ractor_factory;
mod raw_mpmc;
mod raw_spsc;
mod rayon;
mod tokio;
mod tokio_threads;

use crate::variant::Variant;

/// In the order in which tables show them: what is bare, keylane, then the others.
pub(crate) const VARIANTS: [Variant; 18] = [
    machine::CLOCK,
    machine::CACHE_LINE,
    machine::FUTEX,
    raw_spsc::VARIANT,
    raw_mpmc::VARIANT,
    keylane::VARIANT,
    keylane::SPINNING,
    crossbeam::VARIANT,
    flume::VARIANT,
    kanal::VARIANT,
    tokio::VARIANT,
    tokio_threads::VARIANT,
    ractor::VARIANT,
    ractor_factory::VARIANT,
    kameo::VARIANT,
    actix::VARIANT,
    rayon::VARIANT,
    disruptor::VARIANT,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::measured;
    use measure::Tally;

    /// More than what warms up, more than a queue holds, and no multiple of a batch.
    const N: usize = 3_001;

    fn each_run(check: impl Fn(&str, Tally)) {
        for variant in &VARIANTS {
            for shape in variant.shapes {
                let crews: &[(usize, usize)] =
                    if shape.has_latency() { shape.crews(false) } else { &[(1, 2), (4, 8)] };
                for (producers, workers) in crews {
                    let n = N.next_multiple_of(*producers);
                    let (found, tally) = measured(variant, *shape, *producers, *workers, n);
                    assert!(found.cost.seconds > 0.0 && found.latency.is_some() == shape.has_latency());
                    check(&format!("{} {shape} {producers} {workers}", variant.about.name), tally);
                }
            }
        }
    }

    #[test]
    fn every_variant_handles_each_message_once_and_all_but_rayon_in_order() {
        each_run(|run, tally| {
            let out_of_order = if run.starts_with("rayon") { tally.out_of_order } else { 0 };
            assert_eq!(tally, Tally { out_of_order, ..Tally::default() }, "{run}");
        });
    }
}
