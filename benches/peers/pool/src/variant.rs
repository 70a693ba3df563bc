//! An entry of the list of variants.

use crate::drive::{self, AsyncPool, BatchProducer, Pool};
use crate::shape::Shape;
use crate::work::Work;
use measure::{Cost, Percentiles};
use std::sync::Arc;

/// What a pool is started with.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) producers: usize,
    pub(crate) workers: usize,
    /// Of all producers together, and divisible by their number.
    pub(crate) n: usize,
    pub(crate) work: Arc<Work>,
}

/// What a driver measured.
pub(crate) struct Timed {
    pub(crate) cost: Cost,
    /// How many messages the cost is of: warming up is not.
    pub(crate) n: usize,
    pub(crate) latency: Option<Percentiles>,
}

/// What a variant tells about itself.
pub(crate) struct About {
    pub(crate) name: &'static str,
    /// The crates that it is made of, the first one first.
    pub(crate) crates: &'static [&'static str],
    /// What it is set to, and what about it is not equal.
    pub(crate) settings: &'static str,
}

/// One contestant.
pub(crate) struct Variant {
    pub(crate) about: About,
    /// Which worker handles a key.
    pub(crate) worker_of: fn(u64, usize) -> usize,
    /// Whether several threads may handle messages of one key at once.
    pub(crate) is_concurrent: bool,
    /// False for what only times the machine: there is nothing to check.
    pub(crate) handles_messages: bool,
    /// What it takes part in.
    pub(crate) shapes: &'static [Shape],
    pub(crate) run: fn(&Setup, Shape) -> Timed,
}

impl Variant {
    /// A pool that threads hand messages to.
    pub(crate) const fn blocking<P: Pool>(about: About) -> Self {
        Self {
            about,
            worker_of: measure::worker_of,
            is_concurrent: false,
            handles_messages: true,
            shapes: &Shape::SINGLE,
            run: drive::blocking::<P>,
        }
    }

    /// The same for one that takes batches as well.
    pub(crate) const fn batching<P: Pool<Producer: BatchProducer>>(about: About) -> Self {
        Self { shapes: &Shape::ALL, run: drive::batching::<P>, ..Self::blocking::<P>(about) }
    }

    /// A pool that tasks of a runtime hand messages to.
    pub(crate) const fn asynchronous<P: AsyncPool>(about: About) -> Self {
        Self {
            about,
            worker_of: measure::worker_of,
            is_concurrent: false,
            handles_messages: true,
            shapes: &Shape::SINGLE,
            run: drive::asynchronous::<P>,
        }
    }
}
