//! What is run, in which order.

use crate::{Contest, Run};
use std::io::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One process.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    /// What is done before all runs, outside of what is measured: the arguments for the same program.
    pub(crate) prepare: Option<Vec<String>>,
    /// What it is compared with has the same.
    group: String,
}

impl Planned {
    /// What it is called in messages.
    pub(crate) fn name(&self) -> String {
        let program = self.program.file_name().unwrap_or_default().to_string_lossy();
        format!("{program} {}", self.arguments.join(" "))
    }
}

/// Programs list their own runs; this asks them.
pub(crate) fn all(run: &Run) -> Result<Vec<Planned>, Error> {
    let mut planned = Vec::new();
    for contest in [Contest::Pool, Contest::Bus] {
        if run.only.contains(&contest) {
            let program = run.programs.join(contest.to_string());
            planned.extend(listed(&program, run.quick)?.into_iter().map(|arguments| {
                // Of `run VARIANT SHAPE ... N`.
                let group = arguments[2..arguments.len() - 1].join(" ");
                Planned { program: program.clone(), arguments, prepare: None, group }
            }));
        }
    }
    let urls = [(Contest::Kafka, &run.kafka), (Contest::Nats, &run.nats)];
    let urls: Vec<_> = urls.into_iter().filter(|(contest, _)| run.only.contains(contest)).collect();
    if !urls.is_empty() {
        let program = run.programs.join("brokers");
        let lines = listed(&program, run.quick)?;
        for (contest, url) in urls {
            let contest = contest.to_string();
            let url = url.as_ref().ok_or_else(|| {
                Error::other(format!(
                    "{contest} needs --{contest} {contest}://host:port, or leave it out by --only"
                ))
            })?;
            planned.extend(lines.iter().filter(|arguments| arguments[0] == contest).map(|arguments| {
                // Of `CONTEST VARIANT SHAPE HANDLER ...`.
                let group = [&arguments[0], &arguments[2], &arguments[3]].map(String::as_str).join(" ");
                let arguments = [arguments.as_slice(), &["--url".to_owned(), url.clone()]].concat();
                let prepare = Some([&["prepare".to_owned()], arguments.as_slice()].concat());
                Planned { program: program.clone(), arguments, prepare, group }
            }));
        }
    }
    Ok(planned)
}

/// The lines that a program lists.
fn listed(program: &Path, quick: bool) -> Result<Vec<Vec<String>>, Error> {
    let named = |error: &dyn std::fmt::Display| Error::other(format!("{} list: {error}", program.display()));
    let mut list = Command::new(program);
    list.arg("list").args(quick.then_some("--quick"));
    let output = list.output().map_err(|error| named(&error))?;
    if !output.status.success() {
        return Err(named(&String::from_utf8_lossy(&output.stderr)));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<Vec<_>> =
        text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect();
    match lines.iter().find(|line: &&Vec<String>| line.len() < 4) {
        Some(short) => {
            Err(named(&format_args!("a run has four arguments or more, not '{}'", short.join(" "))))
        }
        None => Ok(lines),
    }
}

/// One round: what is compared runs one after the other, and whose turn is first moves on from round to round, so that
/// a machine that slows down or warms up does so for all.
pub(crate) fn round(planned: &[Planned], round: usize) -> Vec<&Planned> {
    const STEP: usize = 3;
    planned
        .chunk_by(|one, next| one.group == next.group)
        .flat_map(|group| {
            let first = round * STEP % group.len();
            group[first..].iter().chain(&group[..first])
        })
        .collect()
}

/// The runs that are repeated with the program that counts allocations: those with one producer and two workers, or
/// without a handler that waits.
pub(crate) fn counting(planned: &[Planned]) -> Vec<Planned> {
    let is_counted = |planned: &&Planned| {
        let of = |prefix: &str| planned.group.starts_with(prefix);
        let has_crew = planned.group.ends_with(" 1 2") && !of("ask") && !of("rate");
        let has_workers = planned.group.ends_with("way 2");
        let is_plain = ["kafka consume 0", "nats publish 0", "nats pull 0"].contains(&planned.group.as_str());
        has_crew || has_workers || is_plain
    };
    let to_counting = |planned: &Planned| {
        let name = planned.program.file_name().unwrap_or_default().to_string_lossy();
        Planned { program: planned.program.with_file_name(format!("{name}_counting")), ..planned.clone() }
    };
    planned.iter().filter(is_counted).map(to_counting).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A run of the shell.
    pub(crate) fn script(program: PathBuf, script: &str) -> Planned {
        let arguments = vec!["-c".to_owned(), script.to_owned()];
        Planned { program, arguments, prepare: None, group: String::new() }
    }

    fn planned(arguments: &[&str], group: &str) -> Planned {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Planned { program: PathBuf::from("bin/pool"), arguments, prepare: None, group: group.to_owned() }
    }

    #[test]
    fn each_round_has_every_run_and_another_one_first() {
        let all: Vec<_> = ["a", "b", "c", "d", "e"]
            .map(|variant| planned(&["run", variant], if variant < "e" { "forget 1 2" } else { "rate 1 2" }))
            .to_vec();
        let order = |n| round(&all, n).iter().map(|planned| planned.arguments[1].clone()).collect::<String>();
        assert_eq!([order(0), order(1), order(2)], ["abcde", "dabce", "cdabe"]);
    }

    #[test]
    fn allocations_are_counted_by_another_program_and_not_where_latency_is_timed() {
        let all = [planned(&["run", "a"], "forget 1 2"), planned(&["run", "a"], "rate 1 2")];
        let counted = counting(&all);
        assert_eq!((counted.len(), counted[0].name()), (1, "pool_counting run a".to_owned()));
    }
}
