//! What a run says at its end.

use crate::checker::Verdict;
use std::fmt::Write;
use std::time::Duration;

pub struct Report {
    pub name: String,
    /// What its consumers' buses were told.
    pub consumers: String,
    pub lasted: Duration,
    pub killed_consumers: usize,
    pub killed_publishers: usize,
    pub killed_brokers: usize,
    pub stopped: usize,
    pub left: usize,
    pub joined: usize,
    /// How long what was stored took to be over when the faults had ended.
    pub settled_after: Duration,
}

impl Report {
    pub fn new(name: String, consumers: &str) -> Self {
        Self {
            name,
            consumers: consumers.trim().replace('\n', ", "),
            lasted: Duration::ZERO,
            killed_consumers: 0,
            killed_publishers: 0,
            killed_brokers: 0,
            stopped: 0,
            left: 0,
            joined: 0,
            settled_after: Duration::ZERO,
        }
    }

    pub const fn kills(&self) -> usize {
        self.killed_consumers + self.killed_publishers + self.killed_brokers
    }

    /// One table for each run, in one piece: runs print beside each other.
    pub fn print(&self, verdict: &Verdict) {
        let rows = [
            ("consumers", self.consumers.clone()),
            ("seconds", format!("{:.1}", self.lasted.as_secs_f64())),
            (
                "kills",
                format!(
                    "{} (consumers {}, publishers {}, broker {})",
                    self.kills(),
                    self.killed_consumers,
                    self.killed_publishers,
                    self.killed_brokers
                ),
            ),
            ("others", format!("stopped {}, left {}, joined {}", self.stopped, self.left, self.joined)),
            ("records", verdict.records.to_string()),
            ("acknowledged", verdict.acknowledged.to_string()),
            ("handled", verdict.handled.to_string()),
            ("dead-lettered", verdict.dead_lettered.to_string()),
            ("lost", verdict.lost.to_string()),
            ("out of order", verdict.out_of_order.to_string()),
            (
                "overlaps",
                format!(
                    "{} allowed, longest {:.3} s; {} beyond",
                    verdict.overlaps,
                    verdict.longest_overlap as f64 / 1e9,
                    verdict.forbidden_overlaps
                ),
            ),
            (
                "duplicates",
                format!(
                    "{} of at most {}: by kills {}, by freezes {}, by outages {}, unexplained {}",
                    verdict.duplicates,
                    verdict.bound,
                    verdict.by_kills,
                    verdict.by_silence,
                    verdict.by_outages,
                    verdict.unexplained
                ),
            ),
            ("over after", format!("{:.1} s", self.settled_after.as_secs_f64())),
        ];
        let mut table = format!("{}\n", self.name);
        for (name, value) in rows {
            let _ = writeln!(table, "  {name:<14} {value}");
        }
        for violation in &verdict.violations {
            let _ = writeln!(table, "  VIOLATION: {violation}");
        }
        println!("{table}");
    }
}
