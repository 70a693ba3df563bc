//! The shape in which a process is killed in the middle, and a second one of its group goes on.

use super::load;
use crate::Run;
use crate::book::Book;
use crate::record::Keys;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

/// Those that commit how far they are, and write down what they handle.
const VARIANTS: [&str; 5] = ["raw_lanes", "keylane", "ruststream", "ruststream_by_key", "ruststream_best"];
const SIGKILL: i32 = 9;
/// Where the records come at a pace.
const EVERY: Duration = Duration::from_millis(1);

/// Makes a topic, and fills it at a pace from now on, whatever becomes of who consumes it.
pub(super) fn fill(
    url: &str,
    topic: String,
    keys: Keys,
    records: u64,
) -> Result<JoinHandle<Result<(), String>>, String> {
    let bus = load::create(url, &topic).map_err(|error| error.to_string())?;
    let fill =
        move || load::publish(&bus, &topic, keys.marks(records), EVERY).map_err(|error| error.to_string());
    Ok(spawn(fill))
}

/// The book of this process: of the one that dies, or, when that is dead, of the one that goes on.
pub(super) fn book(run: &Run, keys: Keys, records: u64, group: &str) -> Result<Book, String> {
    let variant = &run.variant;
    if !VARIANTS.contains(&&**variant) {
        return Err(format!("`{variant}` is not killed; what is: {}", VARIANTS.join(" ")));
    }
    let dies_after = run.dies_in.as_ref().map(|_| records / 2);
    if dies_after.is_none() {
        first_process(run, records, group)?;
    }
    let path = std::env::temp_dir().join(format!("{group}.handled"));
    Book::open(&path, keys, records, dies_after).map_err(|error| format!("{}: {error}", path.display()))
}

/// Runs the process that dies, to its end.
fn first_process(run: &Run, records: u64, group: &str) -> Result<(), String> {
    let Run { variant, shape, handler_us, url, .. } = run;
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let ended = Command::new(program)
        .args(["kafka", variant, shape])
        .args([handler_us.to_string(), "--n".to_owned(), records.to_string()])
        .args(["--url", url, "--dies-in", group])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .map_err(|error| error.to_string())?;
    match ended.signal() {
        Some(SIGKILL) => Ok(()),
        _ => Err(format!("the first process was to die of SIGKILL, and ended with {ended}")),
    }
}
