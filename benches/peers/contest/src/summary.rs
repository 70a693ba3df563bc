//! What the lines of all runs say together.

use crate::machine::{Head, Machine};
use crate::runner::Failure;
use measure::Line;
use std::io::Error;
use std::path::Path;

/// Everything that was read.
pub(crate) struct Results {
    pub(crate) machine: Machine,
    /// In the order of the runs.
    pub(crate) shapes: Vec<Shape>,
    pub(crate) failures: Vec<Failure>,
}

/// A shape of a contest: what is compared.
pub(crate) struct Shape {
    pub(crate) contest: String,
    pub(crate) name: String,
    pub(crate) panels: Vec<Panel>,
    pub(crate) variants: Vec<Variant>,
    /// For each panel and each variant, what it did there.
    pub(crate) cells: Vec<Vec<Option<Cell>>>,
    /// Timed runs that ended without figures.
    pub(crate) failed: usize,
}

/// Under which circumstances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Panel {
    Crew {
        producers: usize,
        workers: usize,
    },
    /// How long a handler waits. How many threads it has is part of the variant.
    Handler {
        us: u64,
    },
}

/// A row of a table or a chart.
#[derive(Clone)]
pub(crate) struct Variant {
    pub(crate) name: String,
    pub(crate) settings: String,
    pub(crate) version: String,
}

/// The runs of a variant in a panel.
#[derive(Clone, Default)]
pub(crate) struct Cell {
    pub(crate) runs: usize,
    pub(crate) n: u64,
    pub(crate) per_s: Spread,
    pub(crate) cpu_ns: Spread,
    pub(crate) voluntary_switches: Spread,
    pub(crate) involuntary_switches: Spread,
    pub(crate) allocs: Option<Spread>,
    pub(crate) alloc_bytes: Option<Spread>,
    pub(crate) latency: Option<Latency>,
    pub(crate) max_concurrency: Option<u64>,
    /// Of all runs together.
    pub(crate) out_of_order: u64,
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
}

/// Of single messages, in nanoseconds.
#[derive(Clone, Copy)]
pub(crate) struct Latency {
    pub(crate) p50: Spread,
    pub(crate) p99: Spread,
    pub(crate) p999: Spread,
    pub(crate) max: Spread,
}

/// A figure in several runs.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// None of no figures.
    fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Some(Self { median, min, max })
    }
}

impl Shape {
    /// Whether its runs time single messages at a rate that the contest sets: then how many there were says nothing.
    pub(crate) fn is_of_latency(&self) -> bool {
        ["ask_hot", "ask_idle", "rate"].contains(&self.name.as_str())
    }

    /// The cells of a variant, in the order of the panels.
    pub(crate) fn row(&self, variant: usize) -> impl Iterator<Item = Option<&Cell>> {
        self.cells.iter().map(move |panel| panel[variant].as_ref())
    }
}

impl Cell {
    fn of(lines: &[&Line]) -> Option<Self> {
        let last = lines.last()?;
        // A program that counts allocations is slower: where there is one that does not, it alone is timed.
        let uncounted: Vec<_> = lines.iter().copied().filter(|line| line.allocs.is_none()).collect();
        let timed = if uncounted.is_empty() { lines } else { &uncounted[..] };
        let spread = |figure: fn(&Line) -> f64| Spread::of(timed.iter().map(|line| figure(line)));
        let some =
            |figure: fn(&Line) -> Option<f64>| Spread::of(lines.iter().filter_map(|line| figure(line)));
        let percentile = |figure: fn(&Line) -> Option<u64>| {
            Spread::of(timed.iter().filter_map(|line| Some(figure(line)? as f64)))
        };
        let latency = || {
            Some(Latency {
                p50: percentile(|line| line.p50_ns)?,
                p99: percentile(|line| line.p99_ns)?,
                p999: percentile(|line| line.p999_ns)?,
                max: percentile(|line| line.max_ns)?,
            })
        };
        Some(Self {
            runs: timed.len(),
            n: last.n,
            per_s: spread(|line| line.per_s)?,
            cpu_ns: spread(|line| line.cpu_ns)?,
            voluntary_switches: spread(|line| line.voluntary_switches)?,
            involuntary_switches: spread(|line| line.involuntary_switches)?,
            allocs: some(|line| line.allocs),
            alloc_bytes: some(|line| line.alloc_bytes),
            latency: latency(),
            max_concurrency: timed.iter().filter_map(|line| line.max_concurrency).max(),
            out_of_order: lines.iter().map(|line| line.out_of_order).sum(),
            lost: lines.iter().map(|line| line.lost).sum(),
            duplicated: lines.iter().map(|line| line.duplicated).sum(),
        })
    }

    pub(crate) fn is_sound(&self) -> bool {
        self.out_of_order == 0 && self.lost == 0 && self.duplicated == 0
    }

    /// What broke, in words; empty if nothing did.
    pub(crate) fn broken(&self) -> String {
        let broken = [(self.out_of_order, "out of order"), (self.lost, "lost"), (self.duplicated, "twice")];
        let broken: Vec<_> =
            broken.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
        broken.join(", ")
    }
}

fn panel_of(line: &Line) -> Panel {
    match line.contest.as_str() {
        "pool" | "bus" => Panel::Crew { producers: line.producers, workers: line.workers },
        _ => Panel::Handler { us: line.handler_us },
    }
}

/// Reads what a contest wrote.
pub(crate) fn read(path: &Path) -> Result<Results, Error> {
    let named = |error: Error| Error::other(format!("{}: {error}", path.display()));
    parse(&std::fs::read_to_string(path).map_err(named)?).map_err(named)
}

/// The first line is that of the machine, each other one a run or a failure.
pub(crate) fn parse(text: &str) -> Result<Results, Error> {
    let mut rows = text.lines();
    let head = rows.next().ok_or_else(|| Error::other("it is empty"))?;
    let Head { machine } = serde_json::from_str(head)?;
    let (mut lines, mut failures) = (Vec::<Line>::new(), Vec::<Failure>::new());
    for row in rows {
        match serde_json::from_str(row) {
            Ok(line) => lines.push(line),
            Err(not_a_line) => failures.push(serde_json::from_str(row).map_err(|_| not_a_line)?),
        }
    }
    Ok(Results { machine, shapes: shapes(&lines, &failures), failures })
}

fn shapes(lines: &[Line], failures: &[Failure]) -> Vec<Shape> {
    let mut shapes = Vec::new();
    for (contest, name) in distinct(lines.iter().map(|line| (&line.contest, &line.shape))) {
        let own: Vec<_> =
            lines.iter().filter(|line| (&line.contest, &line.shape) == (contest, name)).collect();
        let panels = distinct(own.iter().map(|line| panel_of(line)));
        let variants = distinct(own.iter().map(|line| &line.variant));
        let cell = |panel: Panel, variant: &String| {
            let of_cell = |line: &&Line| panel_of(line) == panel && line.variant == *variant;
            Cell::of(&own.iter().copied().filter(of_cell).collect::<Vec<_>>())
        };
        let cells = panels
            .iter()
            .map(|panel| variants.iter().map(|variant| cell(*panel, variant)).collect())
            .collect();
        let described = |name: &&String| {
            let line = own.iter().find(|line| line.variant == **name).expect("it came from a line");
            Variant {
                name: line.variant.clone(),
                settings: line.settings.clone(),
                version: line.version.clone(),
            }
        };
        let variants = variants.iter().map(described).collect();
        let failed = failures.iter().filter(|failure| failure.is_of(contest, name)).count();
        shapes.push(Shape { contest: contest.clone(), name: name.clone(), panels, variants, cells, failed });
    }
    shapes
}

/// Each value once, in the order in which they came first.
fn distinct<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut distinct = Vec::new();
    for value in values {
        if !distinct.contains(&value) {
            distinct.push(value);
        }
    }
    distinct
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_of_an_even_number_is_between_the_two_in_the_middle() {
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 9.0]), Some(Spread { median: 3.0, min: 1.0, max: 9.0 }));
        assert_eq!(Spread::of([]), None);
    }
}
