//! The line of JSON that a run prints, one for each run.

use crate::{Cost, Percentiles, Tally};
use serde::{Deserialize, Serialize};

/// What was run.
#[derive(Debug, Clone)]
pub struct Run {
    /// `pool`, `bus`, `kafka` or `nats`.
    pub contest: &'static str,
    /// What is done with each message; defined in `benches/README.md`.
    pub shape: String,
    /// Who does it.
    pub variant: String,
    /// Threads, or tasks, that hand messages over.
    pub producers: usize,
    /// Threads, tasks or actors that handle them.
    pub workers: usize,
    /// Messages that were measured.
    pub n: u64,
    /// How long a handler waits, in microseconds.
    pub handler_us: u64,
    /// What the variant is set to, and what about it is not equal.
    pub settings: String,
    /// Crate and version, from [`version_of`](crate::version_of).
    pub version: String,
}

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// Of all messages together.
    pub cost: Cost,
    /// None where the shape measures no latency.
    pub latency: Option<Percentiles>,
    /// The most handlers that ran at once; none where nobody counted.
    pub max_concurrency: Option<u64>,
    /// What the check of order and count says.
    pub tally: Tally,
}

/// One run, as it is written: flat, every key always there. Figures of cost are per message.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "each name says it, and `Run`, `Cost`, `Percentiles` and `Tally` document it"
)]
pub struct Line {
    pub contest: String,
    pub shape: String,
    pub variant: String,
    pub producers: usize,
    pub workers: usize,
    pub n: u64,
    pub handler_us: u64,
    pub seconds: f64,
    pub per_s: f64,
    pub cpu_ns: f64,
    pub voluntary_switches: f64,
    pub involuntary_switches: f64,
    pub allocs: Option<f64>,
    pub alloc_bytes: Option<f64>,
    pub p50_ns: Option<u64>,
    pub p99_ns: Option<u64>,
    pub p999_ns: Option<u64>,
    pub max_ns: Option<u64>,
    pub max_concurrency: Option<u64>,
    pub out_of_order: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub settings: String,
    pub version: String,
}

impl Line {
    /// Puts what was run and what was found together.
    pub fn new(run: Run, measured: &Measured) -> Self {
        let Measured { cost, latency, max_concurrency, tally } = measured;
        let n = run.n as f64;
        let percentile = |pick: fn(&Percentiles) -> u64| latency.as_ref().map(pick);
        Self {
            contest: run.contest.to_owned(),
            shape: run.shape,
            variant: run.variant,
            producers: run.producers,
            workers: run.workers,
            n: run.n,
            handler_us: run.handler_us,
            seconds: cost.seconds,
            per_s: n / cost.seconds,
            cpu_ns: cost.cpu_ns as f64 / n,
            voluntary_switches: cost.voluntary_switches as f64 / n,
            involuntary_switches: cost.involuntary_switches as f64 / n,
            allocs: cost.allocs.map(|allocs| allocs as f64 / n),
            alloc_bytes: cost.alloc_bytes.map(|bytes| bytes as f64 / n),
            p50_ns: percentile(|p| p.p50_ns),
            p99_ns: percentile(|p| p.p99_ns),
            p999_ns: percentile(|p| p.p999_ns),
            max_ns: percentile(|p| p.max_ns),
            max_concurrency: *max_concurrency,
            out_of_order: tally.out_of_order,
            lost: tally.lost,
            duplicated: tally.duplicated,
            settings: run.settings,
            version: run.version,
        }
    }

    /// Writes the line to standard output.
    pub fn print(&self) {
        println!("{}", serde_json::to_string(self).expect("numbers and text are JSON"));
    }

    /// Whether order was kept and each message handled once.
    pub fn is_sound(&self) -> bool {
        self.out_of_order == 0 && self.lost == 0 && self.duplicated == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_every_key_also_where_nothing_was_measured() {
        let run = Run {
            contest: "pool",
            shape: "forget".to_owned(),
            variant: "keylane".to_owned(),
            producers: 1,
            workers: 2,
            n: 10,
            handler_us: 0,
            settings: String::new(),
            version: "keylane 1".to_owned(),
        };
        let cost = Cost { seconds: 2.0, cpu_ns: 50, ..Cost::default() };
        let line = Line::new(run, &Measured { cost, ..Measured::default() });
        let json = serde_json::to_value(&line).expect("is JSON");
        assert_eq!(json.as_object().expect("flat").len(), 24);
        assert_eq!((&json["per_s"], &json["cpu_ns"]), (&5.0.into(), &5.0.into()));
        assert!(json["p50_ns"].is_null() && json["allocs"].is_null());
    }
}
