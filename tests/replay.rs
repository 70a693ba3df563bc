//! The main job, `examples/replay`: run as a program in every documented variant; and its ledger, with planted faults.

// The ledger is all of the program's judgement, so it is tested on its own too: it has to see what it is there to see.
#[allow(dead_code, reason = "the program uses more of it than the tests do")]
#[path = "../examples/replay/ledger.rs"]
mod ledger;

use ledger::{Ledger, Place};
use serde_json::Value;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::SystemTime;

const FIELDS: [&str; 15] = [
    "records",
    "keys",
    "without_key",
    "handled",
    "retries",
    "panics",
    "dead_lettered",
    "lost",
    "duplicated",
    "out_of_order",
    "elapsed_s",
    "records_per_s",
    "p50_us",
    "p99_us",
    "max_in_flight",
];

/// The result of a run, its numbers by name.
struct Report(Value);

impl Report {
    fn number(&self, field: &str) -> u64 {
        self.0[field].as_u64().unwrap_or_else(|| panic!("{field} is not a whole number: {}", self.0))
    }

    /// What holds for every run, whatever was asked of it.
    fn assert_sound(&self) {
        assert_eq!(self.number("lost"), 0, "{}", self.0);
        assert_eq!(self.number("out_of_order"), 0, "{}", self.0);
        assert_eq!(
            self.number("handled") + self.number("dead_lettered"),
            self.number("records"),
            "{}",
            self.0
        );
        assert!(self.number("p50_us") > 0 && self.number("p50_us") <= self.number("p99_us"), "{}", self.0);
        assert!(self.0["elapsed_s"].as_f64().is_some_and(|s| s > 0.0), "{}", self.0);
        assert!(self.number("records_per_s") > 0, "{}", self.0);
    }

    fn assert_counts<const N: usize>(&self, expected: [(&str, u64); N]) {
        for (field, expected) in expected {
            assert_eq!(self.number(field), expected, "{field} of {}", self.0);
        }
    }
}

/// Where cargo puts examples: beside the directory that this test is in. A plain `cargo test` builds them, `--test` and
/// `--tests` do not, so one that is older than its sources is refused too.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let name = format!("replay{}", std::env::consts::EXE_SUFFIX);
    let program = test.ancestors().nth(2).unwrap().join("examples").join(name);
    let built = program.metadata().and_then(|file| file.modified());
    let written = newest(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/replay"))
        .max(newest(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")));
    assert!(
        built.is_ok_and(|built| built >= written),
        "{} is missing or older than its sources: run `cargo build --example replay`, or `cargo test` without --test",
        program.display()
    );
    program
}

/// When the newest file under a directory was written.
fn newest(directory: &Path) -> SystemTime {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let times = entries.map(|path| {
        if path.is_dir() { newest(&path) } else { path.metadata().and_then(|file| file.modified()).unwrap() }
    });
    times.max().unwrap_or(SystemTime::UNIX_EPOCH)
}

fn run(arguments: &[&str]) -> Output {
    Command::new(program()).args(arguments).output().unwrap()
}

fn replay(arguments: &[&str]) -> Report {
    let output = run(&[arguments, &["--json"]].concat());
    let (stdout, stderr) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{arguments:?}: {}\n{stdout}{stderr}", output.status);
    assert_eq!(stderr, "", "{arguments:?}");
    assert_eq!(stdout.lines().count(), 1, "{arguments:?}: {stdout}");
    assert_eq!(names(&stdout), FIELDS, "{arguments:?}: {stdout}");
    let report = Report(serde_json::from_str(&stdout).unwrap());
    report.assert_sound();
    report
}

/// The names of the fields in their order, which a parsed object does not keep.
fn names(json: &str) -> Vec<&str> {
    json.split('"').skip(1).step_by(2).collect()
}

/// A CSV with this many rows and keys. Keys come in bursts and some much more often than others; a few hold characters
/// that no aggregate id has, and every 1,000th row has none.
fn generate(name: &str, rows: usize, keys: usize) -> PathBuf {
    let mut csv = String::from("at,customer,amount,note\n");
    let mut random = 1_u64;
    for row in 0..rows {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let share = (random >> 40) as f64 / (1_u64 << 24) as f64;
        let key = if row < keys { row } else { (share * share * keys as f64) as usize };
        let customer = match (row, key) {
            _ if row >= keys && row % 1000 == 0 => "NA".to_owned(),
            (_, 0..10) => format!("Zoë & {key}"),
            _ => format!("c{key}"),
        };
        writeln!(csv, "{row},{customer},{},\"a \"\"note\"\", {row}\"", row % 997).unwrap();
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, csv).unwrap();
    path
}

#[test]
fn the_default_run_handles_every_departure_once() {
    let report = replay(&[]);
    report.assert_counts([
        ("records", 27_004),
        ("keys", 3_148),
        ("without_key", 155),
        ("handled", 27_004),
        ("retries", 0),
        ("panics", 0),
        ("dead_lettered", 0),
        ("duplicated", 0),
    ]);
}

#[test]
fn planted_failures_are_tried_again_and_runs_repeat() {
    let options = ["--fail", "0.05", "--panic", "0.01", "--poison", "5"];
    let (blocking, asynchronous) = (replay(&options), replay(&[&options[..], &["--async"]].concat()));
    for report in [&blocking, &asynchronous] {
        report.assert_counts([("handled", 26_999), ("dead_lettered", 5), ("duplicated", 0)]);
        assert_eq!(report.number("retries"), blocking.number("retries"));
        assert_eq!(report.number("panics"), blocking.number("panics"));
        let panics = report.number("panics");
        assert!((200..340).contains(&panics), "one row in a hundred panics: {panics}");
        // A panic asks for one retry, a failure for two. A poisoned row has four, of which a panic may be the first.
        let failing = (report.number("retries") - panics - 20) / 2;
        assert!((1200..1500).contains(&failing), "one row in twenty fails: {failing}");
    }
}

#[test]
fn with_every_row_failing_all_are_handled_all_the_same() {
    let report = replay(&["--fail", "1", "--panic", "1"]);
    let keyed = 27_004 - 155;
    report.assert_counts([("handled", 27_004), ("retries", 3 * keyed), ("panics", keyed), ("duplicated", 0)]);
}

#[test]
fn a_poisoned_row_of_every_key_stops_no_key() {
    let report = replay(&["--poison", "3148"]);
    report.assert_counts([("dead_lettered", 3_148), ("retries", 4 * 3_148), ("duplicated", 0)]);
}

#[test]
fn async_handlers_wait_side_by_side() {
    let report = replay(&["--async", "--handler-us", "500"]);
    report.assert_counts([("handled", 27_004), ("duplicated", 0)]);
    assert!(report.number("max_in_flight") > 10, "{}", report.0);
    assert!(report.number("p50_us") >= 500, "{}", report.0);
}

#[test]
fn a_crash_loses_nothing_and_reorders_nothing() {
    replay(&["--crash-after", "5000"]).assert_counts([("handled", 27_004)]);
    let all = ["--crash-after", "9000", "--fail", "0.05", "--panic", "0.01", "--poison", "5"];
    replay(&all).assert_counts([("handled", 26_999), ("dead_lettered", 5)]);
    replay(&[&all[..], &["--async", "--handler-us", "100"]].concat()).assert_counts([("dead_lettered", 5)]);
    // After the last row: nothing is left to be handled by the consumer that comes.
    replay(&["--crash-after", "27003"]).assert_counts([("handled", 27_004)]);
}

/// A handler that a crash leaves behind ends after its repetition may have started: a duplicate, never a disorder.
#[test]
fn handlers_that_outlive_a_crash_count_as_duplicates() {
    let csv = generate("outlived.csv", 400, 60);
    let report = replay(&[
        "--input",
        csv.to_str().unwrap(),
        "--key",
        "customer",
        "--workers",
        "64",
        "--handler-us",
        "100000",
        "--crash-after",
        "100",
    ]);
    // Only what ran may be repeated: one row for each worker of the keyed rows, and one for the others' worker.
    assert!((1..=65).contains(&report.number("duplicated")), "{}", report.0);
}

#[test]
fn few_partitions_a_short_retention_and_any_number_of_workers_do() {
    for workers in ["0", "1", "7"] {
        replay(&["--workers", workers, "--bus", "memory:?partitions=1&retention_records=100"])
            .assert_counts([("handled", 27_004), ("duplicated", 0)]);
    }
}

#[test]
fn other_files_replay_in_the_same_way() {
    let csv = generate("customers.csv", 70_000, 24_000);
    let options = ["--input", csv.to_str().unwrap(), "--key", "customer"];
    let counts = [("records", 70_000), ("keys", 24_000), ("without_key", 46)];
    replay(&options).assert_counts(counts);
    let report =
        replay(&[&options[..], &["--crash-after", "30000", "--fail", "0.02", "--poison", "50"]].concat());
    report.assert_counts(counts);
    report.assert_counts([("dead_lettered", 50)]);

    // Gzipped, and with fewer keys that have more rows each.
    let csv = generate("accounts.csv", 100_000, 4_000);
    let gzipped = csv.with_extension("csv.gz");
    let mut encoder =
        flate2::write::GzEncoder::new(std::fs::File::create(&gzipped).unwrap(), flate2::Compression::fast());
    encoder.write_all(&std::fs::read(&csv).unwrap()).unwrap();
    encoder.finish().unwrap();
    replay(&["--input", gzipped.to_str().unwrap(), "--key", "customer"]).assert_counts([
        ("records", 100_000),
        ("keys", 4_000),
        ("without_key", 96),
        ("duplicated", 0),
    ]);
}

#[test]
fn the_table_fits_80_columns_and_ends_with_its_judgement() {
    let output = run(&["--fail", "0.05", "--panic", "0.01", "--poison", "5", "--crash-after", "5000"]);
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{table}");
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    assert!(table.contains("  rows                  27,004  read from the file and published\n"), "{table}");
    assert!(table.lines().last().unwrap().starts_with("PASSED"), "{table}");
}

/// The option, what was given and what is expected; and nothing on stdout, because nothing has started.
#[test]
fn a_bad_option_says_what_is_expected() {
    let csv = |name: &str, text: &str| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (empty, twice, ragged) =
        (csv("empty.csv", "a,b\n"), csv("twice.csv", "a,b,a\n1,2,3\n"), csv("ragged.csv", "a,b\n1,2\n3\n"));
    let long = csv("long.csv", &format!("a\nx\n{}\n", "y".repeat(257)));
    let cases: &[(&[&str], &str)] = &[
        (&["--fail", "1.5"], "invalid value '1.5' for '--fail <RATE>': expected a share from 0 to 1"),
        (&["--panic", "-0.1"], "invalid value '-0.1' for '--panic <RATE>': expected a share from 0 to 1"),
        (&["--panic", "NaN"], "invalid value 'NaN' for '--panic <RATE>': expected a share from 0 to 1"),
        (
            &["--workers", "-1"],
            "invalid value '-1' for '--workers <N>': expected a whole number from 0 to 1024",
        ),
        (&["--workers", "1025"], "invalid value '1025' for '--workers <N>': expected a whole number"),
        (&["--handler-us", "1.5"], "invalid value '1.5' for '--handler-us <N>': expected whole microseconds"),
        (&["--poison", "many"], "invalid value 'many' for '--poison <KEYS>': expected a whole number, 0 or"),
        (&["--poison", "3149"], "--poison 3149: expected at most 3148, the keys of"),
        (&["--crash-after", "0"], "invalid value '0' for '--crash-after <N>': expected a whole number, 1 or"),
        (&["--crash-after", "27004"], "--crash-after 27004: expected less than 27004, the rows of"),
        (&["--key", "tail"], "--key tail: expected a column of"),
        (
            &["--key", "tail"],
            "which are: scheduled_departure, carrier, flight, tail_number, origin, destination,",
        ),
        (&["--input", "no/such.csv"], "--input no/such.csv: No such file"),
        (&["--input", &empty, "--key", "a"], "expected at least one row after the header"),
        (&["--input", &twice, "--key", "a"], "expected columns of different names, but two are 'a'"),
        (
            &["--input", &ragged, "--key", "a"],
            "found record with 1 fields, but the previous record has 2 fields",
        ),
        (&["--input", &long, "--key", "a"], "line 3: expected a key of at most 256 bytes, but 'a' is 'yyy"),
        (&["--bus", "orders"], "--bus orders: `url`: `orders` has no scheme; expected `memory:`"),
        (&["--bus", "memory:?partition=3"], "the nearest known option is `partitions`"),
        (&["--topic", "a/b"], "--topic a/b: topic `a/b` breaks a rule at byte 1: a topic is 1 to 249 bytes"),
    ];
    for (arguments, expected) in cases {
        let output = run(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(expected), "{arguments:?}: expected {expected:?} in {stderr:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

/// Three rows of key 0, one of key 1, one without a key.
fn small_ledger() -> Ledger {
    let place = |key, sequence| Some(Place { key, sequence });
    Ledger::new(vec![place(0, 0), place(0, 1), place(1, 0), place(0, 2), None], 2)
}

fn handle(ledger: &Ledger, rows: &[usize]) {
    for row in rows {
        ledger.starts(*row);
        ledger.succeeds(*row);
    }
}

/// Lost, duplicated, out of order.
fn faults(ledger: &Ledger) -> (usize, usize, usize) {
    let verdict = ledger.verdict();
    (verdict.lost, verdict.duplicated, verdict.out_of_order)
}

#[test]
fn the_ledger_finds_nothing_where_nothing_is_wrong() {
    let ledger = small_ledger();
    handle(&ledger, &[4, 0, 2, 1, 3]);
    let verdict = ledger.verdict();
    assert_eq!((verdict.records, verdict.keys, verdict.without_key, verdict.handled), (5, 2, 1, 5));
    assert_eq!(faults(&ledger), (0, 0, 0));
    assert_eq!((ledger.over(), ledger.missing().count()), (5, 0));
}

#[test]
fn the_ledger_counts_a_lost_row() {
    let ledger = small_ledger();
    handle(&ledger, &[0, 1, 2, 4]);
    assert_eq!(faults(&ledger), (1, 0, 0));
    assert_eq!(ledger.missing().collect::<Vec<_>>(), [3]);
    assert_eq!(ledger.over(), 4);
}

#[test]
fn the_ledger_counts_each_duplicate_and_no_row_twice() {
    let ledger = small_ledger();
    handle(&ledger, &[0, 1, 0, 1, 1, 2, 3, 4, 4]);
    assert_eq!(faults(&ledger), (0, 4, 0));
    assert_eq!((ledger.verdict().handled, ledger.over()), (5, 5));
}

#[test]
fn the_ledger_counts_rows_that_take_effect_too_early_and_those_that_they_overtook() {
    let ledger = small_ledger();
    handle(&ledger, &[0, 3, 1, 2, 4]);
    assert_eq!(faults(&ledger), (0, 0, 2));
}

#[test]
fn the_ledger_counts_a_row_that_starts_too_early_though_it_ends_in_order() {
    let ledger = small_ledger();
    ledger.starts(0);
    ledger.starts(1);
    ledger.succeeds(0);
    ledger.succeeds(1);
    handle(&ledger, &[3, 2, 4]);
    assert_eq!(faults(&ledger), (0, 0, 1));
}

#[test]
fn the_ledger_counts_a_row_that_follows_a_lost_one() {
    let ledger = small_ledger();
    handle(&ledger, &[1, 3, 2, 4]);
    assert_eq!(faults(&ledger), (1, 0, 1), "row 3 follows row 1 as it should");
}

#[test]
fn the_ledger_lets_a_key_go_on_after_a_dead_letter_and_misses_one_that_is_not_found() {
    let ledger = small_ledger();
    ledger.starts(0);
    ledger.gives_up(0);
    handle(&ledger, &[1, 2, 3, 4]);
    assert_eq!(faults(&ledger), (1, 0, 0), "given up is not yet dead-lettered");
    ledger.is_dead_lettered(0);
    assert_eq!((faults(&ledger), ledger.verdict().dead_lettered), ((0, 0, 0), 1));
    ledger.is_dead_lettered(0);
    ledger.is_dead_lettered(1);
    assert_eq!(faults(&ledger), (0, 2, 0), "a second dead letter, and one of a row that was handled");
}

/// The handler that a crash left behind and the repetition of its row, in every order of their ends.
#[test]
fn the_ledger_takes_a_late_effect_for_a_duplicate() {
    let ledger = small_ledger();
    ledger.starts(0);
    handle(&ledger, &[0, 1]);
    ledger.succeeds(0);
    handle(&ledger, &[2, 3, 4]);
    assert_eq!(faults(&ledger), (0, 1, 0));
}

/// Threads that repeat each other's rows: however their effects interleave, each row is in order once.
#[test]
fn the_ledger_holds_when_threads_repeat_each_other() {
    let rows = 20_000;
    let ledger = Ledger::new((0..rows).map(|sequence| Some(Place { key: 0, sequence })).collect(), 1);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| (0..rows as usize).for_each(|row| handle(&ledger, &[row])));
        }
    });
    assert_eq!(faults(&ledger), (0, 2 * rows as usize, 0));
}
