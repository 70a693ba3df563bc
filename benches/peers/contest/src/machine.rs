//! What the contest ran on, for the head of the results.

use serde::{Deserialize, Serialize};
use std::process::Command;

/// The machine, and what else decides the figures.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    kernel: String,
    rustc: String,
    /// Of the last minute, before the first run.
    load: String,
    date: String,
    commit: String,
    pub(crate) rounds: u64,
    pub(crate) quick: bool,
}

/// The first line of the results.
#[derive(Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) machine: Machine,
}

impl Machine {
    pub(crate) fn here(rounds: u64, quick: bool) -> Self {
        let system = rustix::system::uname();
        let name = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
        Self {
            cpu: cpu().unwrap_or_else(|| name(system.machine())),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: format!("{} {}", name(system.sysname()), name(system.release())),
            rustc: said_by("rustc", &["--version"]),
            load: std::fs::read_to_string("/proc/loadavg")
                .ok()
                .and_then(|text| text.split(' ').next().map(str::to_owned))
                .unwrap_or_else(|| "unknown".to_owned()),
            date: said_by("date", &["-u", "+%F"]),
            commit: said_by("git", &["describe", "--always", "--dirty"]),
            rounds,
            quick,
        }
    }

    /// One line for a table or a chart.
    pub(crate) fn line(&self) -> String {
        format!(
            "{} cores of {}, {}, {}, load {} before it, {}, commit {}",
            self.cores, self.cpu, self.kernel, self.rustc, self.load, self.date, self.commit
        )
    }

    /// The same for a chart, which has less room.
    pub(crate) fn short_line(&self) -> String {
        let rustc = self.rustc.split(" (").next().unwrap_or_default();
        format!("{} cores of {}, {}, {rustc}, {}", self.cores, self.cpu, self.kernel, self.date)
    }
}

fn cpu() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split(':').nth(1)?.trim().to_owned())
}

/// What a program writes, or that it is unknown.
fn said_by(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success());
    output.map_or_else(
        || "unknown".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}
