//! The command line.

use crate::variants::{Setup, VARIANTS};
use crate::work::Work;
use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum, error::ErrorKind};
use measure::{Line, Measured, Run, version_of};
use std::fmt;
use std::sync::Arc;

/// Measures the whole way over a bus in memory: records of 300 bytes over 10,000 keys, one producer, at most 1,024
/// records published and not handled. Prints one line of JSON for one run.
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// One variant through one shape.
    Run {
        /// One of those that `list` shows, with `-` for each blank and no comma.
        variant: String,
        shape: Shape,
        #[arg(value_parser = clap::value_parser!(u64).range(1..=64))]
        workers: u64,
        #[arg(value_parser = clap::value_parser!(u64).range(1..))]
        records: u64,
    },
    /// The arguments of all runs that the contest does, one run a line.
    List {
        /// Fewer records, and one number of workers.
        #[arg(long)]
        quick: bool,
    },
}

/// What happens to a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Shape {
    /// Published with its acknowledgement, routed, handled, settled.
    WholeWay,
    /// The same, and of each hundred records one fails twice before it is handled.
    OneFailing,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().expect("no shape is skipped").get_name())
    }
}

/// What the programs of this crate do.
pub fn main() {
    match Options::parse().command {
        Command::Run { variant, shape, workers, records } => run(&variant, shape, workers as usize, records),
        Command::List { quick } => list(quick),
    }
}

fn refuse(why: impl fmt::Display) -> ! {
    Options::command().error(ErrorKind::ValueValidation, why).exit()
}

/// A name as an argument.
fn argument(name: &str) -> String {
    name.replace(", ", "-").replace(' ', "-")
}

fn run(name: &str, shape: Shape, workers: usize, records: u64) {
    let Some(variant) = VARIANTS.iter().find(|variant| argument(variant.name) == name) else {
        let names: Vec<_> = VARIANTS.iter().map(|variant| argument(variant.name)).collect();
        refuse(format_args!("no variant '{name}'; there are: {}", names.join(" ")));
    };
    let has_failures = shape == Shape::OneFailing;
    if has_failures && !variant.retries {
        refuse(format_args!("{name} does not try again"));
    }
    let work = Arc::new(Work::new(has_failures));

    let cost = (variant.run)(&Setup { workers, n: records, work: work.clone() });

    let versions: Vec<_> = variant.crates.iter().map(|name| version_of(name)).collect();
    let run = Run {
        contest: "bus",
        shape: shape.to_string(),
        variant: variant.name.to_owned(),
        producers: 1,
        workers,
        n: records,
        handler_us: 0,
        settings: variant.settings.to_owned(),
        version: versions.join(" + "),
    };
    let tally = work.tally(records);
    Line::new(run, &Measured { cost, tally, ..Measured::default() }).print();
}

/// Each shape, and within it all variants, so that what is compared runs close together.
fn list(quick: bool) {
    let records = if quick { 100_000 } else { 500_000 };
    let crews: &[usize] = if quick { &[2] } else { &[2, 4] };
    for shape in [Shape::WholeWay, Shape::OneFailing] {
        for workers in crews {
            for variant in VARIANTS.iter().filter(|variant| variant.retries || shape == Shape::WholeWay) {
                println!("run {} {shape} {workers} {records}", argument(variant.name));
            }
        }
    }
}
