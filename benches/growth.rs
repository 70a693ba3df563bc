//! What a record costs in time and memory, over how many there have been and over how many keys. The shapes are defined
//! in `benches/README.md`.
//!
//! Each run is a process of its own, so that its memory is its own.

use keylane::memory::MemoryBroker;
use keylane::pool::{Key, PoolBuilder, Request};
use keylane::{Config, Envelope};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const ROUNDS: usize = 3;
const WORKERS: usize = 2;
/// At most so many are not handled.
const WINDOW: u64 = 1_024;
/// What a topic keeps: the window and what is handled and not yet settled.
const RETENTION: u64 = 8_192;
/// Records before the clock is started.
const WARM_UP: u64 = 10_000;
/// Without progress for so long, what is missing is lost.
const PATIENCE: Duration = Duration::from_secs(30);

/// Records and keys.
const CASES: [(u64, u64); 8] = [
    (10_000, 1_000),
    (100_000, 1_000),
    (1_000_000, 1_000),
    (10_000_000, 1_000),
    (2_000_000, 10),
    (2_000_000, 1_000),
    (2_000_000, 100_000),
    (2_000_000, 1_000_000),
];

/// What was handled, and whether in order: a record's number tells its key and its place among that key's records.
struct Log {
    /// By key, how many were handled.
    handled_of: Vec<AtomicU32>,
    handled: AtomicU64,
    out_of_order: AtomicU64,
}

impl Log {
    fn new(keys: u64) -> Self {
        // Written, so that these pages are there before memory is measured.
        let handled_of = (0..keys).map(|_| AtomicU32::new(u32::MAX)).collect::<Vec<_>>();
        handled_of.iter().for_each(|handled| handled.store(0, Ordering::Relaxed));
        Self { handled_of, handled: AtomicU64::new(0), out_of_order: AtomicU64::new(0) }
    }

    fn key(&self, n: u64) -> u64 {
        // A fixed walk over the keys: 7,919 is prime to their number, so each comes once in as many records.
        n.wrapping_mul(7_919) % self.handled_of.len() as u64
    }

    fn note(&self, n: u64) {
        let place = (n / self.handled_of.len() as u64) as u32;
        if self.handled_of[self.key(n) as usize].fetch_add(1, Ordering::Relaxed) != place {
            self.out_of_order.fetch_add(1, Ordering::Relaxed);
        }
        self.handled.fetch_add(1, Ordering::Release);
    }

    /// How many of the first `sent` records were never handled, and how many once too often.
    fn lost_and_duplicated(&self, sent: u64) -> (u64, u64) {
        let keys = self.handled_of.len() as u64;
        let mut due = vec![sent / keys; keys as usize];
        (sent - sent % keys..sent).for_each(|n| due[self.key(n) as usize] += 1);
        let handled = self.handled_of.iter().map(|handled| u64::from(handled.load(Ordering::Relaxed)));
        handled.zip(due).fold((0, 0), |(lost, duplicated), (handled, due)| {
            (lost + due.saturating_sub(handled), duplicated + handled.saturating_sub(due))
        })
    }

    /// Waits until at most so many of the first `sent` records are not handled. False: no progress.
    fn wait_for(&self, sent: u64, left: u64) -> bool {
        let (mut seen, mut since) = (self.handled.load(Ordering::Acquire), Instant::now());
        while sent - seen > left {
            std::thread::yield_now();
            let now = self.handled.load(Ordering::Acquire);
            if now != seen {
                (seen, since) = (now, Instant::now());
            } else if since.elapsed() > PATIENCE {
                return false;
            }
        }
        true
    }
}

/// Sends all records, at most [`WINDOW`] ahead, and tells how long those behind the warm-up took.
fn drive(log: &Log, records: u64, mut send: impl FnMut(u64)) -> Duration {
    let mut began = Instant::now();
    for n in 0..WARM_UP + records {
        if n == WARM_UP {
            log.wait_for(n, 0);
            began = Instant::now();
        }
        if n - log.handled.load(Ordering::Relaxed) >= WINDOW && !log.wait_for(n, WINDOW - 1) {
            break;
        }
        send(n);
    }
    log.wait_for(WARM_UP + records, 0);
    began.elapsed()
}

fn through_the_pool(log: &Arc<Log>, records: u64) -> Duration {
    let noted = log.clone();
    let pool = PoolBuilder::new().workers(WORKERS).shared(move |n: u64| noted.note(n)).expect("starts");
    drive(log, records, |n| {
        let key = Key::of(log.key(n).to_le_bytes());
        pool.try_send(key, Request::tell(n)).expect("a worker has room for more than the window");
    })
}

fn over_the_bus(log: &Arc<Log>, records: u64) -> Duration {
    let broker = MemoryBroker::builder().topic("orders").retention_records(RETENTION).build();
    let bus = broker.connect(Config::default()).expect("connects");
    let noted = log.clone();
    let orders = bus
        .subscribe_envelopes("orders")
        .group("bench")
        .workers(WORKERS)
        .handle(move |event| {
            noted.note(event.envelope().expect("an Envelope").payload().parse()?);
            Ok(())
        })
        .expect("starts");
    orders.ready().wait().expect("joins");
    let took = drive(log, records, |n| {
        let id = format!("order-{}", log.key(n));
        let envelope = Envelope::new(id, "order.changed", 1, n.to_string()).expect("valid");
        bus.publish("orders", envelope).wait().expect("stored");
    });
    bus.close(Duration::from_secs(10)).wait();
    took
}

/// A line of `/proc/self/status`, in KiB.
fn memory_kib(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("this benchmark runs on Linux");
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).expect("a number of KiB")
}

/// What one process has measured.
#[derive(Clone, Copy)]
struct Run {
    ns_per_record: f64,
    /// The most that it ever held beyond what it held at the start.
    peak_kib: u64,
    out_of_order: u64,
    lost: u64,
    duplicated: u64,
}

fn run(path: &str, records: u64, keys: u64) -> Run {
    let log = Arc::new(Log::new(keys));
    let before_kib = memory_kib("VmRSS");
    let took = match path {
        "pool" => through_the_pool(&log, records),
        _ => over_the_bus(&log, records),
    };
    let peak_kib = memory_kib("VmHWM").saturating_sub(before_kib);
    let (lost, duplicated) = log.lost_and_duplicated(WARM_UP + records);
    Run {
        ns_per_record: took.as_nanos() as f64 / records as f64,
        peak_kib,
        out_of_order: log.out_of_order.load(Ordering::Relaxed),
        lost,
        duplicated,
    }
}

fn in_its_own_process(path: &str, records: u64, keys: u64) -> Result<Run, String> {
    let program = std::env::current_exe().map_err(|error| format!("where is this program? {error}"))?;
    let output = Command::new(program).args([path, &records.to_string(), &keys.to_string()]).output();
    let output = output.map_err(|error| format!("a run can't be started: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let fields: Vec<f64> = text.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    let &[ns_per_record, peak_kib, out_of_order, lost, duplicated] = &fields[..] else {
        return Err(format!("{path} {records} {keys}: {}", String::from_utf8_lossy(&output.stderr)));
    };
    let [peak_kib, out_of_order, lost, duplicated] =
        [peak_kib, out_of_order, lost, duplicated].map(|n| n as u64);
    Ok(Run { ns_per_record, peak_kib, out_of_order, lost, duplicated })
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, path, records, keys] = &arguments[..] {
        let number = |text: &String| text.parse().expect("a number");
        let Run { ns_per_record, peak_kib, out_of_order, lost, duplicated } =
            run(path, number(records), number(keys));
        println!("{ns_per_record} {peak_kib} {out_of_order} {lost} {duplicated}");
        return ExitCode::SUCCESS;
    }
    let mut measured = vec![Vec::new(); 2 * CASES.len()];
    for _ in 0..ROUNDS {
        for (at, runs) in measured.iter_mut().enumerate() {
            let (path, (records, keys)) = (PATHS[at / CASES.len()], CASES[at % CASES.len()]);
            match in_its_own_process(path, records, keys) {
                Ok(run) => runs.push(run),
                Err(error) => {
                    eprintln!("growth: {error}");
                    return ExitCode::FAILURE;
                }
            }
        }
    }
    println!("{ROUNDS} rounds, {WORKERS} workers, at most {WINDOW} not handled; ns per record: median");
    println!("(min-max); x: beside the first of its group; MiB: largest peak beyond the start");
    println!();
    println!("{:<5} {:>10} {:>9}  {:>22} {:>6} {:>8}  faults", "path", "records", "keys", "ns", "x", "MiB");
    let mut first = 0.0;
    for (at, runs) in measured.iter_mut().enumerate() {
        let case = at % CASES.len();
        runs.sort_by(|a, b| a.ns_per_record.total_cmp(&b.ns_per_record));
        let median = runs[runs.len() / 2].ns_per_record;
        if case == 0 || case == SAME_RECORDS {
            first = median;
        }
        let (records, keys) = CASES[case];
        let (min, max) = (runs[0].ns_per_record, runs[runs.len() - 1].ns_per_record);
        let ns = format!("{median:.0} ({min:.0}-{max:.0})");
        let mib = runs.iter().map(|run| run.peak_kib).max().unwrap_or(0) as f64 / 1_024.0;
        println!(
            "{:<5} {records:>10} {keys:>9}  {ns:>22} {:>6.2} {mib:>8.1}  {}",
            PATHS[at / CASES.len()],
            median / first,
            faults(runs)
        );
    }
    ExitCode::SUCCESS
}

const PATHS: [&str; 2] = ["pool", "bus"];
/// From this case on the number of keys grows, before it that of records.
const SAME_RECORDS: usize = 4;

fn faults(runs: &[Run]) -> String {
    let sum = |of: fn(&Run) -> u64| runs.iter().map(of).sum::<u64>();
    let faults = [
        ("out of order", sum(|run| run.out_of_order)),
        ("lost", sum(|run| run.lost)),
        ("twice", sum(|run| run.duplicated)),
    ];
    let faults: Vec<_> =
        faults.iter().filter(|(_, n)| *n > 0).map(|(what, n)| format!("{n} {what}!")).collect();
    if faults.is_empty() { "none".to_owned() } else { faults.join(" ") }
}
