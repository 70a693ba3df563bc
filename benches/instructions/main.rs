//! Counts the instructions of the hottest paths by callgrind and compares them with what was recorded, so that none gets
//! slower unnoticed. Why this way: `ARCHITECTURE.md`; what the paths are: `paths.rs`.
//!
//!     cargo bench --bench instructions              # compares, and fails if one is not as recorded
//!     RECORD=1 cargo bench --bench instructions     # writes down what it counts
//!
//! The program runs itself under valgrind, each path with so many rounds and with twice as many. The difference of the
//! two counts is what the rounds cost: whatever happens once, at the start and at the end, is in both.

mod figures;
mod paths;

use figures::{Recorded, Verdict, change_percent};
use paths::{PATHS, PLANTED, Path};
use std::process::{Command, ExitCode};

const BASELINE: &str = "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX512BW,-AVX2,-AVX,-BMI1,-BMI2,-LZCNT,-MOVBE,-ERMS,\
                        -FSRM,-RTM,-AVX_Fast_Unaligned_Load,-Prefer_No_VZEROUPPER,-SSSE3,-SSE4_1,-SSE4_2,\
                        -Fast_Unaligned_Copy,-Fast_Unaligned_Load,-Fast_Copy_Backward";
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions/recorded.txt");

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let ended = match &arguments[..] {
        [_, name, rounds] => run(name, rounds),
        _ if std::env::var_os("RECORD").is_some() => record(),
        _ => compare(),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("instructions: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What is counted: a path, run under valgrind.
fn run(name: &str, rounds: &str) -> Result<(), String> {
    let path = PATHS.iter().chain([&PLANTED]).find(|path| path.name == name);
    let path = path.ok_or_else(|| format!("there is no path `{name}`"))?;
    let rounds = rounds.parse().map_err(|error| format!("`{rounds}` rounds: {error}"))?;
    (path.run)(rounds);
    Ok(())
}

fn recorded() -> Result<Recorded, String> {
    let text = std::fs::read_to_string(FILE).map_err(|error| format!("{FILE}: {error}"))?;
    Recorded::parse(&text).map_err(|error| format!("{FILE}: {error}"))
}

fn record() -> Result<(), String> {
    let mut recorded = recorded()?;
    recorded.compiler = compiler()?;
    recorded.paths.clear();
    for path in &PATHS {
        let counted = instructions(path)?;
        println!("{:<12} {counted:>12.1}", path.name);
        recorded.paths.push((path.name.to_owned(), counted));
    }
    std::fs::write(FILE, recorded.to_text()).map_err(|error| format!("{FILE}: {error}"))
}

fn compare() -> Result<(), String> {
    let recorded = recorded()?;
    let compiler = compiler()?;
    let is_same_compiler = recorded.compiler == compiler;
    println!("{:<12} {:>12} {:>12} {:>10}", "instructions", "recorded", "counted", "change");
    let mut faults = Vec::new();
    let mut counted_parse = None;
    for path in &PATHS {
        let name = path.name;
        let counted = instructions(path)?;
        if name == "parse" {
            counted_parse = Some(counted);
        }
        let Some(before) = recorded.of(name) else {
            faults.push(format!("{name}: recorded nothing, counted {counted:.1}"));
            continue;
        };
        let change = change_percent(before, counted);
        println!("{name:<12} {before:>12.1} {counted:>12.1} {change:>+8.2} %");
        let said = format!("{name}: recorded {before:.1}, counted {counted:.1} ({change:+.2} %)");
        match recorded.judge(before, counted) {
            Verdict::AsRecorded => {}
            Verdict::Slower => {
                faults.push(format!("{said}: slower. `callgrind_annotate {}` says where", out_file(name)));
            }
            // A figure that is too high would let the next one that is slower pass. Only where the compiler may be the
            // reason it stays as it is.
            Verdict::Faster if is_same_compiler => {
                faults.push(format!("{said}: faster, so the figure must be lowered"));
            }
            Verdict::Faster => println!("{said}: faster, with another compiler"),
        }
    }
    let before = counted_parse.expect("`parse` is one of the paths");
    let planted = instructions(&PLANTED)?;
    let change = change_percent(before, planted);
    println!("{:<12} {before:>12.1} {planted:>12.1} {change:>+8.2} %, which has to be seen", PLANTED.name);
    if recorded.judge(before, planted) != Verdict::Slower {
        faults.push(format!("a planted slowdown of {change:+.2} % was not seen"));
    }
    if faults.is_empty() {
        return Ok(());
    }
    if !is_same_compiler {
        faults.push(format!("recorded with {}, counted with {compiler}", recorded.compiler));
    }
    faults.push(format!(
        "more than {} % off; if that is meant, `RECORD=1 tests/run instructions` writes it down",
        recorded.allowed_percent
    ));
    Err(faults.join("\n    "))
}

/// Of one operation of the path.
fn instructions(path: &Path) -> Result<f64, String> {
    let (shorter, longer) = (count(path, path.rounds)?, count(path, 2 * path.rounds)?);
    Ok((longer as f64 - shorter as f64) / (path.rounds * path.operations) as f64)
}

/// Of the whole process with so many rounds.
fn count(path: &Path, rounds: u64) -> Result<u64, String> {
    let name = path.name;
    let program = std::env::current_exe().map_err(|error| format!("where is this program? {error}"))?;
    let mut valgrind = Command::new("valgrind");
    valgrind
        // The size of the environment moves the stack.
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        // The C library copies and compares by what the processor has; this is what all of them have.
        .env("GLIBC_TUNABLES", BASELINE)
        .args(["--tool=callgrind", &format!("--callgrind-out-file={}", out_file(name))])
        .args(path.toggles.iter().map(|function| format!("--toggle-collect={function}")))
        .arg(program)
        .args([name, &rounds.to_string()]);
    let output = valgrind.output().map_err(|error| format!("valgrind can't be run: {error}; install it"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said.lines().filter_map(|line| line.split_once("Collected : ")).next_back();
    match collected.map(|(_, count)| count.trim().parse()) {
        Some(Ok(count)) if output.status.success() => Ok(count),
        _ => Err(format!("valgrind did not count `{name}`: {}\n{said}", output.status)),
    }
}

fn out_file(name: &str) -> String {
    format!("{}/instructions.{name}.out", env!("CARGO_TARGET_TMPDIR"))
}

fn compiler() -> Result<String, String> {
    let output = Command::new("rustc").arg("--version").output();
    let output = output.map_err(|error| format!("rustc can't be run: {error}"))?;
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok(format!("{version}, {}", std::env::consts::ARCH))
}
