//! The results as Markdown.

use crate::summary::{Cell, Latency, Panel, Results, Shape, Spread};
use std::fmt::Write as _;

/// A document with a table for each shape.
pub(crate) fn markdown(results: &Results) -> String {
    let mut text = String::from("# The contest\n\n");
    let machine = &results.machine;
    let kind = if machine.quick { ", quick form" } else { "" };
    write(&mut text, format_args!("{}; {} rounds{kind}.\n\n", machine.line(), machine.rounds));
    text.push_str(
        "Figures are medians with (smallest to largest) of the rounds. CPU, context switches, allocations and their \
         bytes are per message, of the whole process. What each shape is, and what is not equal, is in \
         `benches/README.md`. P: producers, W: workers; an empty cell was not run, or every run of it failed.\n",
    );
    for shape in &results.shapes {
        write(&mut text, format_args!("\n## {}: {}\n\n", shape.contest, shape.name));
        if shape.is_of_latency() { latencies(&mut text, shape) } else { throughput(&mut text, shape) }
    }
    variants(&mut text, results);
    if !results.failures.is_empty() {
        text.push_str("\n## Runs without figures\n\n");
        for failure in &results.failures {
            write(&mut text, format_args!("- `{}`: {}\n", failure.failed, one_line(&failure.why)));
        }
    }
    text
}

fn write(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("a string takes all");
}

/// What a cell of a table can't have in it.
fn one_line(text: &str) -> String {
    text.replace('\n', " ").replace('|', "\\|")
}

fn row(text: &mut String, cells: &[String]) {
    write(text, format_args!("| {} |\n", cells.join(" | ")));
}

fn head(text: &mut String, columns: &[String]) {
    row(text, columns);
    row(text, &columns.iter().map(|_| "---".to_owned()).collect::<Vec<_>>());
}

/// The panel that costs are shown of: one producer and two workers where there is such a crew, else the first.
fn reference(shape: &Shape) -> usize {
    let is_reference = |panel: &Panel| *panel == Panel::Crew { producers: 1, workers: 2 };
    shape.panels.iter().position(is_reference).unwrap_or(0)
}

fn throughput(text: &mut String, shape: &Shape) {
    let reference = reference(shape);
    let panels = shape.panels.iter().map(|panel| format!("{panel}, messages/s"));
    let has_concurrency = shape.cells.iter().flatten().flatten().any(|cell| cell.max_concurrency.is_some());
    let concurrency = has_concurrency.then(|| "handlers at once".to_owned());
    let costs = ["CPU ns", "switches", "allocations", "bytes", "N"].map(str::to_owned);
    let columns = ["variant", "order and count"].map(str::to_owned).into_iter();
    head(text, &columns.chain(panels).chain(concurrency).chain(costs).collect::<Vec<_>>());
    for (number, variant) in shape.variants.iter().enumerate() {
        let mut cells = vec![variant.name.clone(), soundness(shape.row(number))];
        cells.extend(
            shape.row(number).map(|cell| cell.map_or_else(String::new, |cell| spread(cell.per_s, count))),
        );
        if has_concurrency {
            let most = shape.row(number).flatten().filter_map(|cell| cell.max_concurrency).max();
            cells.push(most.map_or_else(String::new, |most| most.to_string()));
        }
        cells.extend(
            shape.cells[reference][number].as_ref().map_or_else(|| [const { String::new() }; 4], costs_of),
        );
        cells.push(samples(shape.row(number).flatten()));
        row(text, &cells);
    }
    write(text, format_args!("\nCosts are of: {}.\n", shape.panels[reference]));
}

fn costs_of(cell: &Cell) -> [String; 4] {
    let switches = cell.voluntary_switches.median + cell.involuntary_switches.median;
    let optional = |figure: Option<Spread>| figure.map_or_else(String::new, |figure| decimals(figure.median));
    [count(cell.cpu_ns.median), decimals(switches), optional(cell.allocs), optional(cell.alloc_bytes)]
}

fn latencies(text: &mut String, shape: &Shape) {
    for (number, (panel, cells)) in shape.panels.iter().zip(&shape.cells).enumerate() {
        let gap = if number > 0 { "\n" } else { "" };
        write(text, format_args!("{gap}### {panel}\n\n"));
        head(
            text,
            &["variant", "order and count", "p50", "p99", "p99.9", "max", "CPU", "switches", "N"]
                .map(str::to_owned),
        );
        for (variant, cell) in shape.variants.iter().zip(cells) {
            let timed = cell.as_ref().and_then(|cell| Some((cell, cell.latency?)));
            let Some((cell, Latency { p50, p99, p999, max })) = timed else { continue };
            let switches = cell.voluntary_switches.median + cell.involuntary_switches.median;
            let mut columns = vec![variant.name.clone(), soundness(std::iter::once(Some(cell)))];
            columns.extend([p50, p99, p999, max].map(|figure| spread(figure, duration)));
            columns.extend([
                duration(cell.cpu_ns.median),
                decimals(switches),
                format!("{} x {}", cell.runs, cell.n),
            ]);
            row(text, &columns);
        }
    }
}

/// How many runs of how many messages.
fn samples<'a>(cells: impl Iterator<Item = &'a Cell>) -> String {
    let mut samples: Vec<_> = cells.map(|cell| format!("{} x {}", cell.runs, count(cell.n as f64))).collect();
    samples.dedup();
    samples.join(", ")
}

fn soundness<'a>(cells: impl Iterator<Item = Option<&'a Cell>>) -> String {
    let broken: Vec<_> = cells
        .flatten()
        .filter(|cell| !cell.is_sound())
        .map(|cell| format!("**{}**", cell.broken()))
        .collect();
    if broken.is_empty() { "kept".to_owned() } else { broken.join("; ") }
}

fn variants(text: &mut String, results: &Results) {
    text.push_str("\n## What the variants are\n\n");
    head(text, &["contest", "variant", "version", "settings, and what is not equal"].map(str::to_owned));
    let mut told = Vec::new();
    for shape in &results.shapes {
        for variant in &shape.variants {
            let what = (&shape.contest, &variant.name, &variant.settings);
            if !told.contains(&what) {
                told.push(what);
                let cells = [&shape.contest, &variant.name, &variant.version, &variant.settings];
                row(text, &cells.map(|cell| one_line(cell)));
            }
        }
    }
}

impl std::fmt::Display for Panel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Crew { producers, workers } => write!(f, "P{producers} W{workers}"),
            Self::Handler { us: 0 } => f.write_str("handler 0"),
            Self::Handler { us } if us % 1_000 == 0 => write!(f, "handler {} ms", us / 1_000),
            Self::Handler { us } => write!(f, "handler {us} us"),
        }
    }
}

fn spread(spread: Spread, format: fn(f64) -> String) -> String {
    if (spread.max - spread.min).abs() < f64::EPSILON {
        return format(spread.median);
    }
    format!("{} ({} to {})", format(spread.median), format(spread.min), format(spread.max))
}

/// Three digits and a unit of thousands.
pub(crate) fn count(figure: f64) -> String {
    let (figure, unit) = match figure {
        1e6.. => (figure / 1e6, " M"),
        1e3.. => (figure / 1e3, " k"),
        _ => (figure, ""),
    };
    format!("{}{unit}", three_digits(figure))
}

/// Three digits and a unit of time, of nanoseconds.
pub(crate) fn duration(ns: f64) -> String {
    let (figure, unit) = match ns {
        1e9.. => (ns / 1e9, "s"),
        1e6.. => (ns / 1e6, "ms"),
        1e3.. => (ns / 1e3, "us"),
        _ => (ns, "ns"),
    };
    format!("{} {unit}", three_digits(figure))
}

fn three_digits(figure: f64) -> String {
    match figure {
        100.0.. => format!("{figure:.0}"),
        10.0.. => format!("{figure:.1}"),
        _ => format!("{figure:.2}"),
    }
}

/// Few events per message.
fn decimals(figure: f64) -> String {
    match figure {
        10.0.. => format!("{figure:.0}"),
        0.005.. => format!("{figure:.2}"),
        _ => "0".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_and_a_unit() {
        assert_eq!([count(20_345_678.0), count(1_234.0), count(7.0)], ["20.3 M", "1.23 k", "7.00"]);
        assert_eq!([duration(18.0), duration(5_312.0), duration(2e9)], ["18.0 ns", "5.31 us", "2.00 s"]);
        assert_eq!([decimals(0.0), decimals(0.259), decimals(307.2)], ["0", "0.26", "307"]);
    }
}
