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
use summary::Results;

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
    /// Runs of each variant in each shape, also in the quick form.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=100))]
    rounds: u64,
    /// Shorter runs and fewer cases, each in as many rounds.
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
    for (name, text) in files(&summary::read(&out.join(LINES))?) {
        std::fs::write(out.join(name), text)?;
    }
    println!("contest: table.md and charts are in {}", out.display());
    Ok(())
}

/// What the results are shown as, by the names of the files.
fn files(results: &Results) -> Vec<(String, String)> {
    let mut files = chart::all(results);
    files.push(("table.md".to_owned(), table::markdown(results)));
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn both_forms_have_five_rounds_unless_told_otherwise() {
        let rounds = |more: &[&str]| {
            let line = ["contest", "run", "--programs", "bin", "--out", "results"];
            match Options::parse_from(line.iter().chain(more)).command {
                Command::Run(run) => run.rounds,
                Command::Report { .. } => unreachable!("it was told to run"),
            }
        };
        assert_eq!([rounds(&[]), rounds(&["--quick"]), rounds(&["--quick", "--rounds", "1"])], [5, 5, 1]);
    }

    #[test]
    fn what_is_kept_of_the_results_is_what_their_lines_give() {
        let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../results");
        let results = summary::read(&kept.join(LINES)).expect("the lines of the last contest are kept");
        let entries = std::fs::read_dir(&kept).expect("the directory is there").map(|entry| {
            let path = entry.expect("it can be read").path();
            let name = path.file_name().expect("it is in a directory").to_string_lossy().into_owned();
            (name, std::fs::read_to_string(path).expect("it is text"))
        });
        let found: BTreeMap<_, _> = entries.filter(|(name, _)| name != LINES).collect();
        let expected: BTreeMap<_, _> = files(&results).into_iter().collect();
        let names = |files: &BTreeMap<String, String>| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&found), names(&expected));
        for (name, text) in &expected {
            assert!(found[name] == *text, "{name} is not what `contest report` makes of {LINES}");
        }
    }
}
