//! Which runs there are, and with how many records each.

use crate::java;

/// One run: the arguments of this program but for the URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    contest: &'static str,
    variant: &'static str,
    shape: &'static str,
    handler_us: u64,
    /// None for those of [`records`].
    records: Option<u64>,
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {} {}", self.contest, self.variant, self.shape, self.handler_us)?;
        self.records.map_or(Ok(()), |records| write!(f, " --n {records}"))
    }
}

/// Handlers that wait for nothing, for a millisecond, for ten.
const HANDLERS_US: [u64; 3] = [0, 1_000, 10_000];
/// Variants that handle one record after the other.
const SERIAL: [&str; 4] = ["raw", "raw_pinned", "ruststream", "plain_consumer"];

/// How many records a run has: enough to last a second or more where it is fast, and not many times as long where it
/// is slow. It depends on nothing but these, so that the topics can be loaded ahead.
pub(crate) fn records(contest: &str, variant: &str, shape: &str, handler_us: u64) -> u64 {
    // Who is killed has as many as the others, however long they take it.
    let is_serial = SERIAL.contains(&variant) && handler_us > 0 && !shape.starts_with("killed");
    match (contest, shape, handler_us) {
        // One after the other, 1 s to 5 s.
        (_, _, 1..5_000) if is_serial => 2_000,
        (_, _, 5_000..) if is_serial => 300,
        // 10 s and more.
        ("kafka", _, 0) if variant == "parallel_consumer" => 200_000,
        ("kafka", _, 0) => 1_000_000,
        ("nats", "publish", _) => 100_000,
        ("nats", _, 0) => 200_000,
        // The first key alone has 13 of 100, one after the other: 2.7 s.
        (_, "consume_zipf" | "failing_zipf" | "killed" | "killed_paced", 1..5_000) => 20_000,
        (_, "consume_zipf" | "failing_zipf" | "killed" | "killed_paced", _) => 2_000,
        // 20 to 100 for each key.
        ("kafka", _, 1..5_000) => 100_000,
        ("kafka", ..) => 40_000,
        (_, _, 1..5_000) => 50_000,
        _ => 20_000,
    }
}

/// All that the contest compares, so none that is killed; those that are quick have a quarter of the records, no handlers of 10 ms and no keys by Zipf.
pub(crate) fn all(is_quick: bool) -> Vec<Plan> {
    let mut plans = Vec::new();
    let mut variants =
        vec!["raw", "raw_lanes", "ruststream", "ruststream_by_key", "ruststream_best", "keylane"];
    match java::missing() {
        None => variants.extend(["plain_consumer", "parallel_consumer"]),
        Some(missing) => {
            eprintln!("brokers: left out plain_consumer and parallel_consumer: there is no `{missing}` here");
        }
    }
    for shape in ["consume", "consume_zipf", "failing", "failing_zipf"] {
        for handler_us in HANDLERS_US {
            for variant in variants.iter().copied() {
                let plan = Plan { contest: "kafka", variant, shape, handler_us, records: None };
                plans.extend(is_telling(&plan).then_some(plan));
            }
        }
    }
    for variant in ["raw", "ruststream", "keylane"] {
        plans.push(Plan { contest: "nats", variant, shape: "publish", handler_us: 0, records: None });
    }
    for handler_us in HANDLERS_US {
        for variant in ["raw", "raw_pinned", "ruststream", "ruststream_best", "keylane"] {
            plans.push(Plan { contest: "nats", variant, shape: "pull", handler_us, records: None });
        }
    }
    if is_quick {
        plans.retain(|plan| plan.handler_us <= 1_000 && !plan.shape.ends_with("_zipf"));
        for plan in &mut plans {
            plan.records = Some(records(plan.contest, plan.variant, plan.shape, plan.handler_us) / 4);
        }
    }
    plans
}

/// Whether a run says what no other one does.
fn is_telling(plan: &Plan) -> bool {
    let is_serial = SERIAL.contains(&plan.variant);
    match (plan.shape, plan.handler_us) {
        // A second set of lanes beside the best setting, which at this handler time has none.
        _ if plan.variant == "ruststream_by_key" && plan.handler_us > 0 => false,
        // A hot key is nothing to who handles one record after the other.
        ("consume_zipf", 1..) | ("failing_zipf", _) if is_serial => false,
        // Failures are handled as with 1 ms; what they cost shows there, too.
        ("failing", 0) | ("failing_zipf", 0 | 5_000..) => false,
        ("failing", 5_000..) => !is_serial,
        _ => true,
    }
}
