//! What every run of the contest measures itself with: the message, the check of order and count, the clock, the
//! system's account of the process, and the line that a run prints.

mod allocations;
mod check;
mod concurrency;
mod latency;
mod line;
mod meter;
mod version;
mod workload;

pub use allocations::Counting;
pub use check::{Check, Tally};
pub use concurrency::{Concurrency, Running};
pub use latency::{Latencies, Percentiles};
pub use line::{Line, Measured, Run};
pub use meter::{Cost, Meter, Nanos};
pub use version::version_of;
pub use workload::{BATCH, CAPACITY, KEYS, Message, Random, Source, WINDOW, worker_of};
