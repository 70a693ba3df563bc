//! The contest over real brokers: keylane, the clients alone, RustStream, and two variants on the JVM. Each run is one
//! process that prints one line of JSON. What the shapes are is defined in `benches/README.md`.

mod book;
mod java;
mod kafka;
mod nats;
mod plan;
mod record;
mod ruststream;
mod timers;
mod work;

use clap::{Args, Parser, Subcommand};
use measure::{Line, Measured};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

/// What a variant has to say when its run is over.
#[derive(Debug)]
struct Outcome {
    measured: Measured,
    workers: usize,
    settings: String,
    version: String,
}

/// Measures variants over real brokers.
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Prints the arguments of each run, one run a line; add `--url`.
    List {
        /// Fewer records, and fewer runs.
        #[arg(long)]
        quick: bool,
    },
    /// Loads the topic or stream of a run, where it is not there yet, and builds what the run needs.
    Prepare {
        #[command(subcommand)]
        contest: Contest,
    },
    /// Runs one.
    #[command(flatten)]
    Run(Contest),
}

#[derive(Subcommand)]
enum Contest {
    /// Over a broker of Kafka that nobody else uses meanwhile.
    Kafka(Run),
    /// Over a server of NATS that nobody else uses meanwhile.
    Nats(Run),
}

#[derive(Args)]
struct Run {
    variant: String,
    shape: String,
    /// How long a handler waits.
    handler_us: u64,
    /// `kafka://host:port` or `nats://host:port`.
    #[arg(long)]
    url: String,
    /// Records; by default as many as fit the variant and the handler.
    #[arg(long)]
    n: Option<u64>,
    /// The group in which this process is the one that is killed.
    #[arg(long, hide = true)]
    dies_in: Option<String>,
}

impl Run {
    fn records(&self, contest: &str) -> u64 {
        self.n.unwrap_or_else(|| plan::records(contest, &self.variant, &self.shape, self.handler_us))
    }

    /// Prints the line of this run over so many records.
    fn print(&self, contest: &'static str, n: u64, outcome: Outcome) {
        let Outcome { measured, workers, settings, version } = outcome;
        let (shape, variant) = (self.shape.clone(), self.variant.clone());
        let (producers, handler_us) = (1, self.handler_us);
        let run =
            measure::Run { contest, shape, variant, producers, workers, n, handler_us, settings, version };
        Line::new(run, &measured).print();
    }
}

/// The program, whatever allocator it has.
pub fn main() -> ExitCode {
    let done = match Options::parse().command {
        Command::List { quick } => {
            plan::all(quick).iter().for_each(|plan| println!("{plan}"));
            Ok(())
        }
        Command::Prepare { contest: Contest::Kafka(run) } => kafka::prepare(&run),
        Command::Prepare { contest: Contest::Nats(run) } => nats::prepare(&run),
        Command::Run(Contest::Kafka(run)) => kafka::run(&run),
        Command::Run(Contest::Nats(run)) => nats::run(&run),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("brokers: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A name that no run had before.
fn unique(name: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{name}-{}-{}", now.as_millis(), std::process::id())
}
