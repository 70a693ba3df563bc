//! What the contest ran on, for the head of the results.

use serde::{Deserialize, Serialize};
use std::process::Command;

/// The machine, and what else decides the figures.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// Its name, as the processor says it.
    cpu: String,
    /// Who made it, and which of its models it is: in a virtual machine the name may be as general as "AMD EPYC".
    /// None in results from before it was written down.
    #[serde(default)]
    cpu_model: Option<String>,
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
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Self {
            cpu: said_of_cpu(&cpuinfo, "model name").unwrap_or_else(|| name(system.machine())),
            cpu_model: cpu_model(&cpuinfo),
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

    /// One line for a table.
    pub(crate) fn line(&self) -> String {
        format!(
            "{}, {}, {}, load {} before it, {}, commit {}",
            self.processor(),
            self.kernel,
            self.rustc,
            self.load,
            self.date,
            self.commit
        )
    }

    /// What ran the programs, for a chart, which has less room.
    pub(crate) fn system(&self) -> String {
        let rustc = self.rustc.split(" (").next().unwrap_or_default();
        format!("{}, {rustc}, {}", self.kernel, self.date)
    }

    /// How many cores of which processor.
    pub(crate) fn processor(&self) -> String {
        let model = self.cpu_model.as_ref().map_or_else(String::new, |model| format!(" ({model})"));
        format!("{} cores of {}{model}", self.cores, self.cpu)
    }
}

/// What `/proc/cpuinfo` says of the first core.
fn said_of_cpu(cpuinfo: &str, what: &str) -> Option<String> {
    let mut lines = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    let (_, said) = lines.find(|(name, _)| name.trim() == what)?;
    Some(said.trim().to_owned())
}

/// The maker and the numbers of the model, and whether it is a virtual machine.
fn cpu_model(cpuinfo: &str) -> Option<String> {
    let said = |what| said_of_cpu(cpuinfo, what);
    let (maker, family, model) = (said("vendor_id")?, said("cpu family")?, said("model")?);
    let is_virtual = said("flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor"));
    let machine = if is_virtual { ", virtual" } else { "" };
    Some(format!("{maker} family {family} model {model}{machine}"))
}

/// What a program writes, or that it is unknown.
fn said_by(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success());
    output.map_or_else(
        || "unknown".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_has_its_name_its_maker_and_its_model() {
        let cpuinfo = "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 1\n\
                       model name\t: AMD EPYC\nflags\t\t: fpu hypervisor\n";
        assert_eq!(said_of_cpu(cpuinfo, "model name").as_deref(), Some("AMD EPYC"));
        assert_eq!(cpu_model(cpuinfo).as_deref(), Some("AuthenticAMD family 25 model 1, virtual"));
        assert_eq!(cpu_model(""), None);
    }

    #[test]
    fn results_of_before_show_the_name_that_they_have() {
        let head = r#"{"machine":{"cpu":"AMD EPYC","cores":2,"kernel":"Linux 6","rustc":"rustc 1","load":"0",
                       "date":"2026-01-01","commit":"1","rounds":5,"quick":false}}"#;
        let Head { machine } = serde_json::from_str(head).expect("what is missing is optional");
        assert_eq!(machine.processor(), "2 cores of AMD EPYC");
    }
}
