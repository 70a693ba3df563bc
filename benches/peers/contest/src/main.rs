//! Runs the whole contest, one process for each run, and writes what came out as a table and as charts.

mod chart;
mod machine;
mod plan;
mod runner;
mod summary;
mod table;

use clap::{Parser, Subcommand, ValueEnum};
use std::fmt;
use std::io::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Measures keylane beside what a user could pick instead.
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the contests, then reports.
    Run(Run),
    /// Makes the table and the charts again, out of `contest.jsonl`.
    Report {
        /// Where `contest.jsonl` is and the rest goes.
        #[arg(long)]
        out: PathBuf,
    },
}

/// What is run, and where it goes.
#[derive(clap::Args)]
struct Run {
    /// Where the programs of the contest are.
    #[arg(long)]
    programs: PathBuf,
    /// Where `contest.jsonl`, `table.md` and the charts go; what is there of an earlier run is replaced.
    #[arg(long)]
    out: PathBuf,
    /// Which contests; all by default.
    #[arg(long, value_delimiter = ',', default_values_t = [Contest::Pool, Contest::Bus, Contest::Kafka, Contest::Nats])]
    only: Vec<Contest>,
    /// Runs of each variant in each shape.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=100))]
    rounds: u64,
    /// Shorter runs, and fewer of them.
    #[arg(long)]
    quick: bool,
    /// `kafka://host:port` of a broker that nobody else uses meanwhile.
    #[arg(long)]
    kafka: Option<String>,
    /// `nats://host:port` of a server that nobody else uses meanwhile.
    #[arg(long)]
    nats: Option<String>,
}

/// One of the contests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Contest {
    Pool,
    Bus,
    Kafka,
    Nats,
}

impl fmt::Display for Contest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().expect("no contest is skipped").get_name())
    }
}

fn main() -> ExitCode {
    let done = match Options::parse().command {
        Command::Run(run) => runner::run(&run).and_then(|()| report(&run.out)),
        Command::Report { out } => report(&out),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("contest: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The lines of all runs, below the directory of the results.
const LINES: &str = "contest.jsonl";

fn report(out: &Path) -> Result<(), Error> {
    let results = summary::read(&out.join(LINES))?;
    std::fs::write(out.join("table.md"), table::markdown(&results))?;
    for (name, svg) in chart::all(&results) {
        std::fs::write(out.join(name), svg)?;
    }
    println!("contest: table.md and charts are in {}", out.display());
    Ok(())
}
