//! The results as charts: SVG with a background of its own, light or dark as the page is.
#![allow(clippy::cast_possible_wrap, reason = "rows and columns of a chart are few")]

mod axis;
mod concurrency;
mod drawing;
mod grid;
mod kind;
mod latency;
#[cfg(test)]
mod tests;
mod throughput;

use crate::summary::{Cell, Results, Shape};
use crate::table::count;
use drawing::{Drawing, Ink};
use grid::Row;
use kind::Kind;

/// The charts and their file names.
pub(crate) fn all(results: &Results) -> Vec<(String, String)> {
    drawings(results).into_iter().map(|(name, drawing)| (name, drawing.svg())).collect()
}

fn drawings(results: &Results) -> Vec<(String, Drawing)> {
    let mut charts = Vec::new();
    for shape in &results.shapes {
        let name = |what: &str| format!("{}-{}{what}.svg", shape.contest, shape.name);
        if shape.is_of_latency() {
            charts.push((name(""), latency::chart(shape, &results.machine)));
        } else {
            charts.push((name(""), throughput::chart(shape, &results.machine)));
            let concurrency = concurrency::chart(shape, &results.machine);
            charts.extend(concurrency.map(|chart| (name("-concurrency"), chart)));
        }
    }
    charts
}

/// The variants of a shape.
fn rows(shape: &Shape) -> Vec<Row<'_>> {
    let rows = shape.variants.iter().enumerate();
    rows.map(|(number, variant)| Row {
        name: &variant.name,
        is_sound: shape.row(number).flatten().all(Cell::is_sound),
    })
    .collect()
}

/// The inks of the variants in a panel. `is_ahead` tells whether the first of two did better.
fn inks(shape: &Shape, panel: usize, is_ahead: impl Fn(&Cell, &Cell) -> bool) -> Vec<Ink> {
    let names: Vec<_> = shape.variants.iter().map(|variant| variant.name.as_str()).collect();
    let cells = &shape.cells[panel];
    let kinds = kind::kinds(&names, |one, other| match (&cells[one], &cells[other]) {
        (Some(one), Some(other)) => is_ahead(one, other),
        _ => false,
    });
    let is_sound = |cell: &Option<Cell>| cell.as_ref().is_none_or(Cell::is_sound);
    let ink = |(kind, cell): (Kind, &Option<Cell>)| if is_sound(cell) { kind.ink() } else { Ink::Broken };
    kinds.into_iter().zip(cells).map(ink).collect()
}

/// What a shape is, in the title of a chart.
fn title(contest: &str, shape: &str) -> String {
    let what = match (contest, shape) {
        ("pool", "complete") => "each message's answer awaited, 1,024 in flight",
        ("pool", "complete_batch") => "each message's answer awaited, in batches of 32",
        ("pool", "forget") => "fire and forget, until all are handled",
        ("pool", "forget_batch") => "fire and forget, in batches of 32",
        ("pool", "ask_hot") => "ask, one after the other",
        ("pool", "ask_idle") => "ask after a pause of 50 us",
        ("pool", "rate") => "open loop, 100,000/s, from due to the handler's end",
        ("bus", "whole_way") => "publish, route, handle, settle",
        ("bus", "one_failing") => "the whole way, of each hundred records one failing twice",
        ("kafka", "consume") => "records consumed, keys uniform",
        ("kafka", "consume_zipf") => "records consumed, keys by Zipf 1.0",
        ("kafka", "failing") => "records consumed, of each hundred one failing twice",
        ("kafka", "failing_zipf") => "keys by Zipf 1.0, of each hundred one failing twice",
        ("nats", "publish") => "records published and acknowledged",
        ("nats", "pull") => "records pulled, handled and acknowledged",
        (_, other) => &other.replace('_', " "),
    };
    format!("{contest}: {what}")
}

/// How many runs and how many messages in each, as far as they differ.
fn samples(shape: &Shape) -> String {
    let cells = || shape.cells.iter().flatten().flatten();
    let range = |figure: fn(&Cell) -> f64| {
        cells().map(figure).fold((f64::MAX, 0.0_f64), |(min, max), n| (min.min(n), max.max(n)))
    };
    let text = |(min, max): (f64, f64), format: fn(f64) -> String| {
        if min < max { format!("{} to {}", format(min), format(max)) } else { format(max) }
    };
    let runs = text(range(|cell| cell.runs as f64), |runs| format!("{runs:.0}"));
    let failed = match shape.failed {
        0 => String::new(),
        failed => format!("; {failed} more failed, see table.md"),
    };
    format!("N = {runs} runs of {} messages{failed}", text(range(|cell| cell.n as f64), count))
}
