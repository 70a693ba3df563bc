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

/// In the order in which tables show them: the floors, keylane, then the others.
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
