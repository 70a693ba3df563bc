//! Documentation is written to be read: an example shows what a user would paste, and hides less than it shows; none
//! spins, since a program that waits has something to wait for. What only proves something is a test in `tests/`.

use super::shipped_sources;
use std::path::Path;

/// An example of the documentation.
struct Example {
    /// Where it begins, from one.
    line: usize,
    lines: Vec<String>,
}

/// The examples of a source, or of a text in Markdown, that are Rust.
fn examples(text: &str) -> Vec<Example> {
    let is_source = !text.starts_with("# ");
    let mut found = Vec::new();
    // The block that is open, and whether it is Rust.
    let mut open: Option<(Example, bool)> = None;
    for (n, line) in text.lines().enumerate() {
        let line = line.trim_start();
        let doc = ["///", "//!"].iter().find_map(|prefix| line.strip_prefix(prefix));
        let Some(doc) = (if is_source { doc } else { Some(line) }) else {
            open = None;
            continue;
        };
        match (doc.trim_start().strip_prefix("```"), &mut open) {
            (Some(_), open @ Some(_)) => {
                let (example, is_rust) = open.take().expect("it is open");
                found.extend(is_rust.then_some(example));
            }
            (Some(language), None) => {
                let is_rust = language.split(',').all(|word| {
                    ["", "rust", "no_run", "should_panic", "compile_fail", "ignore"].contains(&word.trim())
                });
                open = Some((Example { line: n + 1, lines: Vec::new() }, is_rust));
            }
            (None, Some((example, _))) => example.lines.push(doc.trim().to_owned()),
            (None, None) => {}
        }
    }
    found
}

impl Example {
    fn is_hidden(line: &str) -> bool {
        line == "#" || line.starts_with("# ")
    }

    /// Whether who reads it sees less of it than there is to it.
    fn hides_more_than_it_shows(&self) -> bool {
        let lines = self.lines.iter().filter(|line| !line.is_empty());
        let hidden = lines.clone().filter(|line| Self::is_hidden(line)).count();
        hidden > lines.count() - hidden
    }

    /// Whether it looks again and again until something is so.
    fn spins(&self) -> bool {
        const LOOKS: [&str; 5] = ["stats()", "is_done()", "depths()", "yield_now", "sleep"];
        let code = self.lines.iter().map(|line| line.strip_prefix("# ").unwrap_or(line));
        let code = code.collect::<Vec<_>>().join("\n");
        let begins = ["while ", "loop {"].iter().flat_map(|word| code.match_indices(word)).map(|(at, _)| at);
        begins
            .map(|at| &code[at..at + length_of_block(&code[at..])])
            .any(|block| LOOKS.iter().any(|look| block.contains(look)))
    }
}

/// How long the text is to the end of its first block in braces.
fn length_of_block(code: &str) -> usize {
    let mut depth = 0_usize;
    for (at, sign) in code.char_indices() {
        match sign {
            '{' => depth += 1,
            '}' if depth <= 1 => return at + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

/// What breaks the rules in a text, each as `line: what`.
fn broken(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for example in examples(text) {
        if example.hides_more_than_it_shows() {
            lines.push(format!("{}: hides more than it shows", example.line));
        }
        if example.spins() {
            lines.push(format!("{}: spins", example.line));
        }
    }
    lines
}

#[test]
fn examples_show_what_a_user_would_paste() {
    let mut texts = shipped_sources();
    texts.push(("README.md".into(), include_str!("../../README.md").to_owned()));
    let lines = texts.iter().flat_map(|(path, text)| {
        broken(text).into_iter().map(move |line| format!("{}:{line}", path.display()))
    });
    assert_eq!(lines.collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn the_documentation_is_looked_at() {
    let count = |path: &str, text: &str| {
        let found = examples(text);
        assert!(found.iter().all(|example| !example.lines.is_empty()), "{path}");
        found.len()
    };
    let sources = shipped_sources();
    let (_, policy) =
        sources.iter().find(|(path, _)| path == Path::new("src/policy.rs")).expect("it is there");
    assert!(count("src/policy.rs", policy) >= 4, "one for each type");
    assert!(count("README.md", include_str!("../../README.md")) >= 1);
}

/// A source with an example of these lines.
fn with_example(lines: &[&str]) -> String {
    let shown = lines.join("\n    /// ");
    format!("    /// Says so.\n    ///\n    /// ```\n    /// {shown}\n    /// ```\n    pub fn f() {{}}\n")
}

#[test]
fn the_rule_of_hidden_lines_finds_an_example_that_hides_its_most() {
    let hidden = "# let bus = connect()?;";
    assert_eq!(broken(&with_example(&[hidden, hidden, "", "f();"])), ["3: hides more than it shows"]);
    assert_eq!(broken(&with_example(&["#", "# use a::B;", "f();"])), ["3: hides more than it shows"]);
    for lines in [&[hidden, "f();"][..], &["#[derive(Debug)]", "struct A;"], &["#![no_std]"]] {
        assert_eq!(broken(&with_example(lines)), Vec::<String>::new(), "{lines:?}");
    }
}

#[test]
fn the_rule_of_waiting_finds_an_example_that_spins() {
    for lines in [
        &["while orders.stats().succeeded == 0 {", "    f();", "}"][..],
        &["# while !answer.is_done() {}", "f();", "g();"],
        &["while pool.depths().iter().any(|n| *n > 0) {", "}"],
        &["while !is_ready {", "    if a { b() }", "    std::thread::yield_now();", "}"],
        &["loop {", "    if f() { break; }", "    std::thread::sleep(MINUTE);", "}"],
    ] {
        assert_eq!(broken(&with_example(lines)), ["3: spins"], "{lines:?}");
    }
    for lines in [
        &["while let Some(outcome) = outcomes.next().wait() {", "    f(outcome);", "}", "bus.stats();"][..],
        &["loop {", "    if next().is_none() { break; }", "}", "std::thread::sleep(MINUTE);"],
    ] {
        assert_eq!(broken(&with_example(lines)), Vec::<String>::new(), "{lines:?}");
    }
}

#[test]
fn what_is_no_rust_is_no_example() {
    let text =
        "//! Says so.\n//!\n//! ```toml\n//! # a comment\n//! ```\n//!\n//! ```rust\n//! f();\n//! ```\n";
    let found: Vec<_> = examples(text).into_iter().map(|example| (example.line, example.lines)).collect();
    assert_eq!(found, [(7, vec!["f();".to_owned()])]);
}
