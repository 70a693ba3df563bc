//! The result: a table for people, or a line of JSON for programs.

use crate::ledger::Verdict;
use crate::options::Options;
use serde::Serialize;
use std::time::Duration;

/// How many records the two subscriptions have in flight at most: 4,096 each, which is the default.
const IN_FLIGHT: usize = 2 * 4_096;

/// The fields of the JSON line, in their order.
#[derive(Serialize)]
pub(crate) struct Report {
    records: usize,
    keys: usize,
    without_key: usize,
    handled: usize,
    retries: u64,
    panics: u64,
    dead_lettered: usize,
    lost: usize,
    duplicated: usize,
    out_of_order: usize,
    elapsed_s: f64,
    records_per_s: u64,
    p50_us: u32,
    p99_us: u32,
    max_in_flight: u64,
    #[serde(skip)]
    crashes: u32,
}

/// What was measured besides the ledger.
pub(crate) struct Measured {
    pub(crate) retries: u64,
    pub(crate) panics: u64,
    pub(crate) elapsed: Duration,
    pub(crate) max_in_flight: u64,
    pub(crate) crashes: u32,
}

impl Report {
    pub(crate) fn new(verdict: &Verdict, measured: &Measured) -> Self {
        let elapsed_s = measured.elapsed.as_secs_f64();
        Self {
            records: verdict.records,
            keys: verdict.keys,
            without_key: verdict.without_key,
            handled: verdict.handled,
            retries: measured.retries,
            panics: measured.panics,
            dead_lettered: verdict.dead_lettered,
            lost: verdict.lost,
            duplicated: verdict.duplicated,
            out_of_order: verdict.out_of_order,
            elapsed_s: (elapsed_s * 1e4).round() / 1e4,
            records_per_s: ((verdict.records - verdict.lost) as f64 / elapsed_s) as u64,
            p50_us: verdict.p50_us,
            p99_us: verdict.p99_us,
            max_in_flight: measured.max_in_flight,
            crashes: measured.crashes,
        }
    }

    /// Nothing lost, nothing out of order, and nothing twice but what was in flight when the consumer crashed.
    pub(crate) fn is_good(&self) -> bool {
        let repeats_allowed = self.crashes as usize * IN_FLIGHT;
        self.lost == 0 && self.out_of_order == 0 && self.duplicated <= repeats_allowed
    }

    pub(crate) fn print(&self, options: &Options) -> Result<(), serde_json::Error> {
        if options.json {
            println!("{}", serde_json::to_string(self)?);
        } else {
            self.print_table(options);
        }
        Ok(())
    }

    fn print_table(&self, options: &Options) {
        let file = options.input.file_name().unwrap_or_default().to_string_lossy();
        let handler = if options.is_async { "async" } else { "blocking" };
        println!("{file}, in order per {}, {handler} handler", options.key);
        println!();
        line("rows", &grouped(self.records as u64), "read from the file and published");
        let unkeyed = format!("and {} rows without a key", grouped(self.without_key as u64));
        line("keys", &grouped(self.keys as u64), &unkeyed);
        line("handled", &grouped(self.handled as u64), "rows whose handler succeeded");
        line("dead-lettered", &grouped(self.dead_lettered as u64), "rows found in the dead-letter topic");
        line("retries", &grouped(self.retries), "attempts beyond the first of a delivery");
        line("panics", &grouped(self.panics), "of handlers");
        if self.crashes > 0 {
            line("crashes", &grouped(u64::from(self.crashes)), "of the consumer, without a drain");
        }
        println!();
        line("lost", &grouped(self.lost as u64), "neither handled nor dead-lettered");
        let again = "handled or dead-lettered again";
        let duplicated = if self.crashes > 0 { "repeated, which a crash allows" } else { again };
        line("duplicated", &grouped(self.duplicated as u64), duplicated);
        line("out of order", &grouped(self.out_of_order as u64), "before an earlier row of the key was over");
        println!();
        line("time", &format!("{:.3} s", self.elapsed_s), "from the first publish call to the last end");
        line("rows per second", &grouped(self.records_per_s), "");
        line("median latency", &milliseconds(self.p50_us), "from the publish call to the handling's end");
        line("99th percentile", &milliseconds(self.p99_us), "of the same");
        line("max in flight", &grouped(self.max_in_flight), "delivered and not settled, sampled each ms");
        println!();
        println!("{}", self.conclusion(options));
    }

    fn conclusion(&self, options: &Options) -> String {
        if !self.is_good() {
            return "FAILED: rows were lost, duplicated or out of order".to_owned();
        }
        let or_dead = if self.dead_lettered > 0 { " or dead-lettered" } else { "" };
        format!("PASSED: every row was handled{or_dead}, in order per {}", options.key)
    }
}

/// One line of the table, within 80 columns.
fn line(name: &str, value: &str, note: &str) {
    println!("{}", format!("  {name:<15}  {value:>11}  {note}").trim_end());
}

/// A number with a comma after each group of three digits.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn milliseconds(us: u32) -> String {
    format!("{:.2} ms", f64::from(us) / 1000.0)
}
