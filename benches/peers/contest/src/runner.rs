//! Runs one process after the other and writes down what they print.

use crate::machine::{Head, Machine};
use crate::plan::{self, Planned};
use crate::{LINES, Run};
use measure::Line;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::fs::File;
use std::io::{Error, Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// A run takes seconds; one that takes this long hangs.
const LIMIT: Duration = Duration::from_mins(2);

/// The process group of the run that is on; 0 for none.
static RUNNING: AtomicI32 = AtomicI32::new(0);

/// A run that ended without a line, as it is written.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// The program and its arguments.
    pub(crate) failed: String,
    pub(crate) why: String,
}

impl Failure {
    /// Whether it is a timed run of a shape. A contest is a program of its own, or the first argument of one.
    pub(crate) fn is_of(&self, contest: &str, shape: &str) -> bool {
        let words: Vec<_> = self.failed.split(' ').collect();
        words.iter().take(2).any(|word| *word == contest) && words.contains(&shape)
    }
}

/// Runs all that was asked for, and writes one line for each.
pub(crate) fn run(run: &Run) -> Result<(), Error> {
    end_with_the_run()?;
    let planned = plan::all(run)?;
    std::fs::create_dir_all(&run.out)?;
    let mut file = File::create(run.out.join(LINES))?;
    let machine = Machine::here(run.rounds, run.quick);
    writeln!(file, "{}", serde_json::to_string(&Head { machine })?)?;

    for planned in &planned {
        prepare(planned)?;
    }
    let counting = plan::counting(&planned);
    let rounds = (0..run.rounds as usize).flat_map(|number| plan::round(&planned, number));
    let runs: Vec<_> = rounds.chain(&counting).collect();
    let start = Instant::now();
    for (number, planned) in runs.iter().enumerate() {
        println!("[{}/{}, {} s] {}", number + 1, runs.len(), start.elapsed().as_secs(), planned.name());
        let line = once(planned).unwrap_or_else(|why| {
            println!("    failed: {why}");
            let failure = Failure { failed: planned.name(), why: why.to_string() };
            serde_json::to_string(&failure).expect("text is JSON")
        });
        writeln!(file, "{line}")?;
    }
    Ok(())
}

/// Ends the run that is on when this process is told to end: it has a process group of its own, so that a run that
/// hangs can be ended with all that it started.
fn end_with_the_run() -> Result<(), Error> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            end_run();
            std::process::exit(130);
        }
    });
    Ok(())
}

fn end_run() {
    // ORDERING: Relaxed; a number, which orders nothing.
    if let Some(group) = Pid::from_raw(RUNNING.load(Ordering::Relaxed)) {
        // It may have ended by itself.
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// What a run needs and does not measure: records that it consumes, for instance.
fn prepare(planned: &Planned) -> Result<(), Error> {
    let Some(arguments) = &planned.prepare else { return Ok(()) };
    println!("[prepare] {}", planned.name());
    let status = Command::new(&planned.program).args(arguments).status()?;
    if status.success() { Ok(()) } else { Err(Error::other(format!("{}: {status}", arguments.join(" ")))) }
}

/// One run, and the line that it printed.
fn once(planned: &Planned) -> Result<String, Error> {
    let mut command = Command::new(&planned.program);
    command.args(&planned.arguments).process_group(0);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // ORDERING: Relaxed; as above.
    RUNNING.store(child.id().cast_signed(), Ordering::Relaxed);
    // Read by threads: looking whether it has ended would take from the cores that are measured.
    let printed = read_to_end(child.stdout.take().expect("it is piped"));
    let complaint = read_to_end(child.stderr.take().expect("it is piped"));
    let line = printed.recv_timeout(LIMIT);
    if line.is_err() {
        end_run();
    }
    let status = child.wait()?;
    // ORDERING: Relaxed; as above.
    RUNNING.store(0, Ordering::Relaxed);
    let Ok(line) = line else {
        return Err(Error::other(format!("not over after {} s", LIMIT.as_secs())));
    };
    if !status.success() {
        let complaint = complaint.recv().unwrap_or_default();
        // What follows is a backtrace.
        let complaint: Vec<_> = complaint.trim().lines().take(2).collect();
        return Err(Error::other(format!("{status}: {}", complaint.join(" "))));
    }
    let is_line = |line: &&str| serde_json::from_str::<Line>(line).is_ok();
    line.lines().find(is_line).map(str::to_owned).ok_or_else(|| Error::other("it printed no line of figures"))
}

/// All that a process writes, when it has closed that.
fn read_to_end(mut from: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut text = Vec::new();
        // What was read before an error is as good as what is there.
        let _ = from.read_to_end(&mut text);
        // Nobody may want it any more.
        let _ = sender.send(String::from_utf8_lossy(&text).into_owned());
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn a_run_without_figures_says_why() {
        let sh = |script: &str| plan::tests::script(PathBuf::from("sh"), script);
        let why = |script| once(&sh(script)).expect_err("there are none").to_string();
        assert_eq!(why("echo '{}'"), "it printed no line of figures");
        assert!(why("echo no broker >&2; exit 3").ends_with("3: no broker"));
    }
}
