//! The command line.

use clap::Parser;
use std::path::PathBuf;

const DEFAULT_INPUT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/flights-2013-01.csv.gz");

/// Replays a CSV through keylane, key by key, and compares what the handlers saw with what was read.
///
/// Exits with 1 if a row was lost, handled out of order or handled twice, but for what was in flight at a crash.
#[derive(Parser, Debug)]
#[command(name = "replay", version)]
pub(crate) struct Options {
    /// The rows to publish, a CSV with a header, plain or gzipped [default: departures from New York in January 2013]
    #[arg(long, value_name = "FILE", default_value = DEFAULT_INPUT, hide_default_value = true)]
    pub(crate) input: PathBuf,

    /// The column whose rows are kept in order; a row where it is empty or NA has no key
    #[arg(long, value_name = "COLUMN", default_value = "tail_number")]
    pub(crate) key: String,

    /// Where the bus is
    #[arg(long, value_name = "URL", default_value = "memory:")]
    pub(crate) bus: String,

    /// Where rows go; those without a key go to NAME.unkeyed, dead letters to NAME.dead
    #[arg(long, value_name = "NAME", default_value = "replay")]
    pub(crate) topic: String,

    /// Threads that handle rows; 0: the thread that delivers them [default: one per core]
    #[arg(long, value_name = "N", value_parser = workers, allow_negative_numbers = true)]
    pub(crate) workers: Option<usize>,

    /// How long a handler takes, in microseconds
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = microseconds, allow_negative_numbers = true)]
    pub(crate) handler_us: u64,

    /// Use an async handler, which waits by a timer, rather than a blocking one
    #[arg(long = "async")]
    pub(crate) is_async: bool,

    /// The share of rows whose handler fails twice and then succeeds
    #[arg(long, value_name = "RATE", default_value_t = 0.0, value_parser = rate, allow_negative_numbers = true)]
    pub(crate) fail: f64,

    /// The share of rows whose handler panics once
    #[arg(long, value_name = "RATE", default_value_t = 0.0, value_parser = rate, allow_negative_numbers = true)]
    pub(crate) panic: f64,

    /// How many keys have one row that never succeeds and ends as a dead letter
    #[arg(long, value_name = "KEYS", default_value_t = 0, value_parser = count, allow_negative_numbers = true)]
    pub(crate) poison: usize,

    /// Drop the consumer without a drain when N rows are over, and subscribe again
    #[arg(long, value_name = "N", value_parser = count_from_1, allow_negative_numbers = true)]
    pub(crate) crash_after: Option<usize>,

    /// Print the result as one line of JSON
    #[arg(long)]
    pub(crate) json: bool,
}

fn rate(text: &str) -> Result<f64, &'static str> {
    text.parse()
        .ok()
        .filter(|rate| (0.0..=1.0).contains(rate))
        .ok_or("expected a share from 0 to 1, such as 0.05")
}

fn workers(text: &str) -> Result<usize, &'static str> {
    text.parse().ok().filter(|n| *n <= 1024).ok_or("expected a whole number from 0 to 1024")
}

fn microseconds(text: &str) -> Result<u64, &'static str> {
    let hour = 3_600_000_000;
    text.parse()
        .ok()
        .filter(|us| *us <= hour)
        .ok_or("expected whole microseconds from 0 to 3600000000 (an hour)")
}

fn count(text: &str) -> Result<usize, &'static str> {
    text.parse().map_err(|_| "expected a whole number, 0 or above")
}

fn count_from_1(text: &str) -> Result<usize, &'static str> {
    text.parse().ok().filter(|n| *n > 0).ok_or("expected a whole number, 1 or above")
}
