//! Rules of the house that the compiler does not know, read from the sources.

use std::fs;
use std::path::{Path, PathBuf};

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
    let tests = ["#[cfg(test)]\nmod tests", "#[cfg(all(test, not(loom)))]\nmod tests"];
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
        assert!(bypasses_the_door(Path::new("src/bus.rs"), line), "{line}");
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

#[test]
fn the_core_names_no_runtime_and_no_broker() {
    let core = ["src/pool", "src/delivery", "src/envelope"];
    for (path, text) in core.iter().flat_map(|folder| sources(folder)) {
        if is_test(&path) {
            continue;
        }
        for name in ["tokio::", "smol::", "async_std::", "rdkafka", "async_nats"] {
            let named = shipped(&text).lines().find(|line| line.contains(name) && !is_comment(line));
            assert!(named.is_none(), "{} names {name}: {named:?}", path.display());
        }
    }
}

#[test]
fn a_default_build_has_no_c_dependency_and_no_runtime() {
    let manifest =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).expect("readable");
    let dependencies =
        manifest.split("\n[").find(|part| part.starts_with("dependencies]")).expect("there are some");
    let names: Vec<&str> = dependencies.lines().filter_map(|line| Some(line.split_once(" = ")?.0)).collect();
    // Each is pure Rust; a new one is looked at before it comes in here, and has its reason in ARCHITECTURE.md.
    let known = [
        "bytes",
        "crossbeam-queue",
        "crossbeam-utils",
        "fastrand",
        "foldhash",
        "parking_lot",
        "pin-project-lite",
        "serde",
        "thiserror",
        "toml",
        "tracing",
        "uuid",
    ];
    assert_eq!(names, known);
    let architecture =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md")).expect("readable");
    for name in names {
        assert!(architecture.contains(&format!("`{name}`")), "ARCHITECTURE.md gives no reason for {name}");
    }
}
