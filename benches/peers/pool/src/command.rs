//! The command line.

use crate::drive::WARM_UP;
use crate::shape::Shape;
use crate::variant::{Setup, Timed, Variant};
use crate::variants::VARIANTS;
use crate::work::Work;
use clap::{CommandFactory as _, Parser, Subcommand, error::ErrorKind};
use measure::{Line, Measured, Run, Tally, version_of};
use std::sync::Arc;

/// Measures keyed dispatch to a pool of workers: 10,000 keys, payloads of 64 bytes behind an `Arc`, at most 1,024
/// messages in flight. Prints one line of JSON for one run.
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// One variant through one shape.
    Run {
        /// One of those that `list` shows.
        variant: String,
        shape: Shape,
        #[arg(value_parser = clap::value_parser!(u64).range(1..=64))]
        producers: u64,
        #[arg(value_parser = clap::value_parser!(u64).range(1..=64))]
        workers: u64,
        /// Messages; some more than 2,000, which warm up, where each is timed.
        n: u64,
    },
    /// The arguments of all runs that the contest does, one run a line.
    List {
        /// A quarter of the messages, and P1 W2 alone where single messages are not timed.
        #[arg(long)]
        quick: bool,
    },
}

/// What the programs of this crate do.
pub fn main() {
    match Options::parse().command {
        Command::Run { variant, shape, producers, workers, n } => {
            run(&variant, shape, producers as usize, workers as usize, n as usize);
        }
        Command::List { quick } => runs(quick).for_each(|run| println!("{run}")),
    }
}

fn refuse(why: impl std::fmt::Display) -> ! {
    Options::command().error(ErrorKind::ValueValidation, why).exit()
}

fn run(name: &str, shape: Shape, producers: usize, workers: usize, n: usize) {
    let Some(variant) = VARIANTS.iter().find(|variant| variant.about.name == name) else {
        let names: Vec<_> = VARIANTS.iter().map(|variant| variant.about.name).collect();
        refuse(format_args!("no variant '{name}'; there are: {}", names.join(" ")));
    };
    if !variant.shapes.contains(&shape) {
        let shapes: Vec<_> = variant.shapes.iter().map(Shape::to_string).collect();
        refuse(format_args!("{name} has no {shape}; it has: {}", shapes.join(" ")));
    }
    if shape.has_latency() && (producers != 1 || n <= WARM_UP) {
        refuse(format_args!("{shape} is for 1 producer and more than {WARM_UP} messages"));
    }
    let (found, tally) = measured(variant, shape, producers, workers, n.next_multiple_of(producers));
    let versions: Vec<_> = variant.about.crates.iter().map(|name| version_of(name)).collect();
    let run = Run {
        contest: "pool",
        shape: shape.to_string(),
        variant: name.to_owned(),
        producers,
        workers,
        n: found.n as u64,
        handler_us: 0,
        settings: variant.about.settings.to_owned(),
        version: versions.join(" + "),
    };
    Line::new(run, &Measured { cost: found.cost, latency: found.latency, max_concurrency: None, tally })
        .print();
}

/// Runs a variant, and checks what it handled.
pub(crate) fn measured(
    variant: &Variant,
    shape: Shape,
    producers: usize,
    workers: usize,
    n: usize,
) -> (Timed, Tally) {
    let timed = if shape == Shape::Rate { n } else { 0 };
    let worker_of = |key| (variant.worker_of)(key, workers);
    let work = Arc::new(Work::new(worker_of, timed, variant.is_concurrent));
    let found = (variant.run)(&Setup { producers, workers, n, work: work.clone() }, shape);
    let tally = if variant.handles_messages { work.tally(n as u64) } else { Tally::default() };
    (found, tally)
}

/// Each shape with each number of producers and workers, and within it all variants, so that what is compared runs
/// close together.
fn runs(quick: bool) -> impl Iterator<Item = String> {
    let shapes = Shape::ALL.into_iter();
    let crews = shapes.flat_map(move |shape| shape.crews(quick).iter().map(move |crew| (shape, crew)));
    crews.flat_map(move |(shape, (producers, workers))| {
        let variants = VARIANTS.iter().filter(move |variant| variant.shapes.contains(&shape));
        variants.map(move |variant| {
            let n = messages(variant, shape) / if quick { 4 } else { 1 };
            format!("run {} {shape} {producers} {workers} {n}", variant.about.name)
        })
    })
}

/// A run takes half a second to two seconds.
fn messages(variant: &Variant, shape: Shape) -> usize {
    match shape {
        Shape::AskHot => 52_000,
        Shape::AskIdle => 12_000,
        Shape::Rate => 202_000,
        // Dispatches through one actor, at a tenth of the others' rate.
        _ if variant.about.name == "ractor_factory" => 500_000,
        _ => 2_000_000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use measure::CAPACITY;

    #[test]
    fn keylane_is_asked_by_one_producer_with_one_worker_beside_two() {
        for quick in [false, true] {
            let runs: Vec<_> = runs(quick).collect();
            for ask in ["ask_hot", "ask_idle"] {
                for workers in [1, 2] {
                    let start = format!("run keylane {ask} 1 {workers} ");
                    assert!(runs.iter().any(|run| run.starts_with(&start)), "{start}");
                }
            }
        }
    }

    #[test]
    fn batches_of_keylane_without_answers_run_at_1024_places_with_each_crew() {
        let runs: Vec<_> = runs(false).filter(|run| run.starts_with("run keylane forget_batch ")).collect();
        let crews = ["1 1", "1 2", "1 8", "4 2", "4 8"];
        let expected = crews.map(|crew| format!("run keylane forget_batch {crew} 2000000"));
        assert_eq!(runs, expected);
        assert_eq!(CAPACITY, 1_024);
    }
}
