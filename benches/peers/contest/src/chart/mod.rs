//! The results as charts: SVG with a background of its own, so that they read on light and dark pages.
#![allow(clippy::cast_possible_wrap, reason = "rows and columns of a chart are few")]

mod concurrency;
mod latency;
mod sheet;
mod throughput;

use crate::summary::{Cell, Results, Shape};
use crate::table::count;

/// The charts and their file names.
pub(crate) fn all(results: &Results) -> Vec<(String, String)> {
    let mut charts = Vec::new();
    for shape in results.shapes.iter().filter(|shape| !shape.is_of_latency()) {
        let name = |what: &str| format!("{}-{}{what}.svg", shape.contest, shape.name);
        charts.push((name(""), throughput::chart(shape, &results.machine)));
        charts.extend(concurrency::chart(shape, &results.machine).map(|chart| (name("-concurrency"), chart)));
    }
    let mut contests: Vec<_> = results.shapes.iter().map(|shape| &shape.contest).collect();
    contests.dedup();
    for contest in contests {
        let of_contest = |shape: &&Shape| shape.contest == *contest && shape.is_of_latency();
        let shapes: Vec<_> = results.shapes.iter().filter(of_contest).collect();
        if !shapes.is_empty() {
            charts
                .push((format!("{contest}-latency.svg"), latency::chart(contest, &shapes, &results.machine)));
        }
    }
    charts
}

/// What a shape is, in the title of a chart.
fn title(contest: &str, shape: &str) -> String {
    let what = match (contest, shape) {
        ("pool", "complete") => "each message's answer awaited, 1,024 in flight",
        ("pool", "complete_batch") => "each message's answer awaited, 1,024 in flight, batches of 32",
        ("pool", "forget") => "fire and forget, until all are handled",
        ("pool", "forget_batch") => "fire and forget, batches of 32",
        ("bus", "whole_way") => "publish, route, handle, settle; 300 bytes, 1,024 in flight",
        ("bus", "one_failing") => "the whole way, of each hundred records one failing twice",
        ("kafka", "consume") => "records consumed, keys uniform",
        ("kafka", "consume_zipf") => "records consumed, keys by Zipf 1.0",
        ("kafka", "failing") => "records consumed, of each hundred one failing twice",
        ("kafka", "failing_zipf") => "keys by Zipf 1.0, of each hundred one failing twice",
        ("nats", "publish") => "records published and acknowledged",
        ("nats", "pull") => "records pulled, handled and acknowledged",
        ("pool", "ask_hot") => "ask, one after the other",
        ("pool", "ask_idle") => "ask after a pause of 50 us",
        ("pool", "rate") => "100,000/s, from due to end",
        (_, other) => other,
    };
    what.to_owned()
}

/// How many runs and how many messages in each, as far as they differ.
fn samples<'a>(cells: &(impl Iterator<Item = &'a Cell> + Clone)) -> String {
    let range = |figure: fn(&Cell) -> f64| {
        let (min, max) =
            cells.clone().map(figure).fold((f64::MAX, 0.0_f64), |(min, max), n| (min.min(n), max.max(n)));
        (min, max)
    };
    let text = |(min, max): (f64, f64), format: fn(f64) -> String| {
        if min < max { format!("{} to {}", format(min), format(max)) } else { format(max) }
    };
    let runs = text(range(|cell| cell.runs as f64), |runs| format!("{runs:.0}"));
    format!("N = {runs} runs of {} messages", text(range(|cell| cell.n as f64), count))
}
