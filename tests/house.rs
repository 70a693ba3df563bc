//! Rules of the house that the compiler does not know, read from the sources.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

#[path = "house/documentation.rs"]
mod documentation;
#[path = "house/imports.rs"]
mod imports;

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    fn collect(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(folder).expect("the sources are there") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                collect(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("readable");
                found.push((path, text));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    collect(&root.join(folder), &mut found);
    found.iter_mut().for_each(|(path, _)| *path = path.strip_prefix(root).expect("below it").to_owned());
    found
}

/// The code of a file without its tests.
fn shipped(text: &str) -> &str {
    let tests = ["#[cfg(test)]\nmod tests {", "#[cfg(all(test, not(loom)))]\nmod tests {"];
    tests.iter().filter_map(|tests| text.find(tests)).min().map_or(text, |end| &text[..end])
}

fn is_test(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "tests") || path.ends_with("tests.rs")
}

/// Lines that break a rule, as `file:line: text`.
fn lines_that(is_wrong: impl Fn(&Path, &str) -> bool) -> Vec<String> {
    let mut wrong = Vec::new();
    for (path, text) in sources("src").iter().filter(|(path, _)| !is_test(path)) {
        for (n, line) in shipped(text).lines().enumerate() {
            if is_wrong(path, line) {
                wrong.push(format!("{}:{}: {}", path.display(), n + 1, line.trim()));
            }
        }
    }
    wrong
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

/// What only `src/sync.rs` may name.
const SYNCHRONISATION: [&str; 8] = [
    "std::sync::atomic",
    "std::sync::Mutex",
    "std::sync::RwLock",
    "std::sync::Condvar",
    "std::thread::",
    "parking_lot::",
    "crossbeam_queue::",
    "std::cell::UnsafeCell",
];

fn bypasses_the_door(path: &Path, line: &str) -> bool {
    // How many threads the machine runs at once is a number, not a thread.
    let asks_only = line.contains("std::thread::available_parallelism");
    let is_door = path.ends_with("sync.rs") || path.ends_with("sync/ring.rs");
    !is_door && !is_comment(line) && !asks_only && SYNCHRONISATION.iter().any(|name| line.contains(name))
}

#[test]
fn all_synchronisation_goes_through_one_door() {
    assert_eq!(lines_that(bypasses_the_door), Vec::<String>::new());
}

#[test]
fn the_rule_of_the_door_finds_a_bypass() {
    for line in [
        "use std::sync::atomic::AtomicU8;",
        "    std::thread::spawn(f);",
        "let m = parking_lot::Mutex::new(1);",
    ] {
        assert!(bypasses_the_door(Path::new("src/bus/mod.rs"), line), "{line}");
    }
    assert!(!bypasses_the_door(Path::new("src/sync.rs"), "pub(crate) use parking_lot::Mutex;"));
}

/// Lines with an atomic access whose function says nowhere above it, within so many lines, why its ordering is right.
fn unexplained(text: &str, word: &str, comment: &str) -> Vec<usize> {
    const NEAR: usize = 12;
    let lines: Vec<&str> = shipped(text).lines().collect();
    let is_access =
        |line: &&str| line.contains(word) && !is_comment(line) && !line.trim_start().starts_with("use ");
    (0..lines.len())
        .filter(|n| is_access(&lines[*n]))
        .filter(|n| !lines[n.saturating_sub(NEAR)..*n].iter().any(|line| line.contains(comment)))
        .map(|n| n + 1)
        .collect()
}

#[test]
fn every_ordering_and_every_unsafe_block_says_why() {
    for (path, text) in sources("src").iter().filter(|(path, _)| !is_test(path)) {
        if path.ends_with("sync.rs") {
            continue;
        }
        for (word, comment) in
            [("Ordering::", "ORDERING:"), ("unsafe {", "SAFETY:"), ("unsafe impl", "SAFETY:")]
        {
            // `Ordering` is the order of comparisons, too.
            let is_other =
                word == "Ordering::" && !text.contains("ORDERING:") && !text.contains("Ordering::Relaxed");
            let lines = if is_other { Vec::new() } else { unexplained(text, word, comment) };
            assert!(lines.is_empty(), "{}: no {comment} near lines {lines:?}", path.display());
        }
    }
}

#[test]
fn the_rule_of_orderings_finds_one_without_its_reason() {
    assert_eq!(unexplained("a.load(Ordering::Relaxed);\n", "Ordering::", "ORDERING:"), [1]);
    assert!(
        unexplained("// ORDERING: a hint.\na.load(Ordering::Relaxed);\n", "Ordering::", "ORDERING:")
            .is_empty()
    );
}

/// What a simulation has its own of, and who may ask the machine for it: the shells.
const OF_THE_MACHINE: [(&str, &[&str]); 6] = [
    ("Instant::now", &["src/wait/block.rs", "src/wait/clock.rs", "src/wait/park.rs"]),
    ("SystemTime::now", &["src/chance.rs"]),
    ("fastrand::Rng::new", &["src/chance.rs"]),
    ("now_v7", &["src/chance.rs"]),
    ("thread::Builder", &["src/wait/life.rs"]),
    ("thread::park", &["src/wait/park.rs", "src/sync.rs"]),
];

/// Clients over a network have threads and clocks of their own, which no simulation steps.
fn is_client(path: &Path) -> bool {
    path.starts_with("src/broker/kafka") || path.starts_with("src/broker/nats")
}

fn asks_the_machine(path: &Path, line: &str) -> bool {
    let asks = |(name, shells): &(&str, &[&str])| {
        line.contains(name) && !shells.iter().any(|shell| path == Path::new(shell))
    };
    !is_client(path) && !is_comment(line) && OF_THE_MACHINE.iter().any(asks)
}

#[test]
fn time_threads_and_chance_come_from_the_shells() {
    assert_eq!(lines_that(asks_the_machine), Vec::<String>::new());
}

#[test]
fn the_rule_of_the_shells_finds_who_goes_around_them() {
    for line in ["let now = Instant::now();", "    thread::Builder::new()", "random: fastrand::Rng::new(),"] {
        assert!(asks_the_machine(Path::new("src/subscription/intake.rs"), line), "{line}");
    }
    assert!(!asks_the_machine(Path::new("src/wait/clock.rs"), "None => Instant::now(),"));
}

const RUNTIMES_AND_BROKERS: [&str; 5] = ["tokio::", "smol::", "async_std::", "rdkafka", "async_nats"];

/// The files of the core, which must run without any runtime or broker.
fn is_core(path: &Path) -> bool {
    let folders = ["src/wait", "src/pool", "src/delivery", "src/envelope"];
    path == Path::new("src/route.rs") || folders.iter().any(|folder| path.starts_with(folder))
}

fn names_a_runtime_or_a_broker(path: &Path, line: &str) -> bool {
    is_core(path) && !is_comment(line) && RUNTIMES_AND_BROKERS.iter().any(|name| line.contains(name))
}

#[test]
fn the_core_names_no_runtime_and_no_broker() {
    assert_eq!(lines_that(names_a_runtime_or_a_broker), Vec::<String>::new());
}

#[test]
fn the_rule_of_the_core_looks_at_each_of_its_rooms() {
    for room in ["src/wait/", "src/pool/", "src/delivery/", "src/envelope/", "src/route.rs"] {
        let mut files = sources("src").into_iter().map(|(path, _)| path).filter(|path| !is_test(path));
        let file = files.find(|path| path.to_string_lossy().starts_with(room));
        let file = file.unwrap_or_else(|| panic!("nothing is in {room}"));
        assert!(names_a_runtime_or_a_broker(&file, "    tokio::spawn(f);"), "{}", file.display());
    }
    assert!(!names_a_runtime_or_a_broker(Path::new("src/broker/kafka/mod.rs"), "use rdkafka::Message;"));
}

/// The crates that a build of these kinds of dependencies takes.
fn crates(edges: &str) -> Vec<String> {
    let mut tree = Command::new(env!("CARGO"));
    tree.args(["tree", "--offline", "--locked", "--prefix", "none", "--format", "{p}", "--edges", edges]);
    let output = tree.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("names are text");
    text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

/// Crates that wrap a library in C, or compile one.
fn is_of_c(name: &str) -> bool {
    name.ends_with("-sys") || ["cc", "cmake", "bindgen", "pkg-config", "vcpkg"].contains(&name)
}

#[test]
fn the_default_build_has_no_c_in_it_and_no_runtime() {
    let all = crates("normal,build");
    assert!(all.iter().any(|name| name == "crossbeam-queue"), "it lists the dependencies: {all:?}");
    assert_eq!(all.iter().filter(|name| is_of_c(name)).collect::<Vec<_>>(), Vec::<&String>::new());
    let runtimes = ["tokio", "smol", "async-std", "async-executor", "futures-executor"];
    assert_eq!(all.iter().filter(|name| runtimes.contains(&name.as_str())).count(), 0, "{all:?}");
}

#[test]
fn the_rule_of_dependencies_finds_what_only_tests_have() {
    assert!(crates("normal,dev").iter().any(|name| name == "tokio"));
    assert!(["zstd-sys", "cc"].into_iter().all(is_of_c));
}

/// The files of `src` without their tests.
fn shipped_sources() -> Vec<(PathBuf, String)> {
    let shipped = |(path, text): (PathBuf, String)| (path, shipped(&text).to_owned());
    sources("src").into_iter().filter(|(path, _)| !is_test(path)).map(shipped).collect()
}

/// Most lines of code in one file: above that it is asked what it is two of.
const MOST_LINES: usize = 450;

/// Lines that are neither blank nor a comment.
fn lines_of_code(shipped: &str) -> usize {
    shipped.lines().filter(|line| !line.trim().is_empty() && !is_comment(line)).count()
}

fn too_long(sources: &[(PathBuf, String)]) -> Vec<String> {
    let lines = sources.iter().map(|(path, text)| (path.display().to_string(), lines_of_code(text)));
    lines.filter(|(_, lines)| *lines > MOST_LINES).map(|(path, _)| path).collect()
}

#[test]
fn no_file_is_so_long_that_it_must_be_two() {
    let mut found = too_long(&shipped_sources());
    found.sort();
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn the_rule_of_lengths_counts_code_alone() {
    let code = "let a = 1;\n".repeat(MOST_LINES);
    let comments = "    /// Says so.\n\n// It is so.\n";
    let tests = "\n#[cfg(test)]\nmod tests {\n    let b = 1;\n}\n";
    let planted = |text: &str| vec![(PathBuf::from("src/planted.rs"), shipped(text).to_owned())];
    assert_eq!(too_long(&planted(&format!("{code}{comments}{tests}"))), Vec::<String>::new());
    assert_eq!(too_long(&planted(&format!("{code}{comments}let c = 1;\n{tests}"))), ["src/planted.rs"]);
    assert_eq!(shipped("#[cfg(test)]\nmod tests;\nlet a = 1;\n").lines().count(), 3, "what follows is code");
}
