//! Replays a CSV through the bus, key by key, and checks that nothing was lost, repeated or reordered.
//!
//! `cargo run --release --example replay` takes a month of departures from New York, aircraft by aircraft; `--help`
//! lists what can be asked of it: another file, slow, failing, panicking and poisoned handlers, a consumer that crashes.
//!
//! In the order of reading: `rows` reads the file, `publisher` publishes it, `consumer` handles it, with the failures
//! that `faults` plants; `ledger` notes what happened to each row, and `progress` and `report` show it.

mod consumer;
mod faults;
mod ledger;
mod options;
mod progress;
mod publisher;
mod report;
mod rows;

use clap::Parser;
use consumer::{Consumer, Topics, Work};
use faults::Faults;
use keylane::Bus;
use ledger::{Ledger, Place};
use options::Options;
use progress::Progress;
use report::{Measured, Report};
use rows::Rows;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

/// After how long without any progress, beyond the time that a handler takes, the replay is given up.
const PATIENCE: Duration = Duration::from_secs(30);

type Error = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let options = Options::parse();
    match replay(&options) {
        Ok(report) if report.is_good() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn replay(options: &Options) -> Result<Report, Error> {
    // What is wrong with the options is said before anything starts.
    let (rows, places) = Rows::survey(options)?;
    let rows = Arc::new(rows);
    check_counts(options, places.len(), rows.keys.len())?;
    let topics = Arc::new(Topics::new(&options.topic));
    let bus = connect(options, &topics)?;

    let ledger = Ledger::new(places, rows.keys.len());
    let faults = Faults::new(options, &rows.keys, &ledger);
    let work = Arc::new(Work::new(ledger, faults));
    faults::silence_planted_panics();

    // One thread publishes the rows while the subscriptions handle them, and this one watches until all are over.
    let dead_letters = consumer::watch_dead_letters(&bus, &topics, &work)?;
    let mut consumer = Consumer::start(&bus, &topics, options, &work)?;
    let begin = Instant::now();
    let mut publisher = Some({
        let (bus, topics, rows, work) = (bus.clone(), topics.clone(), rows.clone(), work.clone());
        thread::spawn(move || publisher::publish(&bus, &topics, &rows, &work))
    });
    let mut progress = Progress::new(work.ledger.records(), !options.json);
    let mut patience = Patience::new(options);
    let (mut crashes, mut max_in_flight) = (0, 0);
    loop {
        if let Some(thread) = publisher.take_if(|thread| thread.is_finished()) {
            thread.join().map_err(|_| "the publisher panicked")??;
        }
        if crashes == 0 && options.crash_after.is_some_and(|rows| work.ledger.over() >= rows) {
            drop(consumer);
            consumer = Consumer::start(&bus, &topics, options, &work)?;
            crashes += 1;
        }
        if work.ledger.over() == work.ledger.records() {
            break;
        }
        let in_flight = consumer.in_flight();
        max_in_flight = max_in_flight.max(in_flight);
        progress.update(&work, &consumer, in_flight);
        if patience.is_over(&work) {
            tell_what_is_missing(&bus, &rows, &work);
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    let elapsed = begin.elapsed();
    progress.finish();

    // What still runs may repeat a row, and that counts: so the end of all handlers is waited for, also of those that
    // a crash left behind.
    bus.close(Duration::from_secs(5)).wait();
    drop((consumer, dead_letters));
    while work.running.load(Relaxed) > 0 && !patience.is_over(&work) {
        thread::sleep(Duration::from_millis(1));
    }
    let (retries, panics) = (work.retries.load(Relaxed), work.panics.load(Relaxed));
    let measured = Measured { retries, panics, elapsed, max_in_flight, crashes };
    let report = Report::new(&work.ledger.verdict(), &measured);
    report.print(options)?;
    Ok(report)
}

fn check_counts(options: &Options, rows: usize, keys: usize) -> Result<(), Error> {
    let Options { poison, crash_after, input, .. } = options;
    if *poison > keys {
        return Err(
            format!("--poison {poison}: expected at most {keys}, the keys of {}", input.display()).into()
        );
    }
    match crash_after {
        Some(n) if *n >= rows => {
            Err(format!("--crash-after {n}: expected less than {rows}, the rows of {}", input.display())
                .into())
        }
        _ => Ok(()),
    }
}

fn connect(options: &Options, topics: &Topics) -> Result<Bus, Error> {
    let bus =
        keylane::connect(&options.bus).wait().map_err(|error| format!("--bus {}: {error}", options.bus))?;
    for topic in [&topics.keyed, &topics.unkeyed, &topics.dead] {
        bus.create_topic(topic).wait().map_err(|error| format!("--topic {}: {error}", options.topic))?;
    }
    Ok(bus)
}

/// How long the replay goes on without any attempt and without any row that is over.
struct Patience {
    limit: Duration,
    seen: (u64, usize),
    since: Instant,
}

impl Patience {
    fn new(options: &Options) -> Self {
        let limit = PATIENCE + Duration::from_micros(options.handler_us);
        Self { limit, seen: (0, 0), since: Instant::now() }
    }

    fn is_over(&mut self, work: &Work) -> bool {
        let now = (work.attempts.load(Relaxed), work.ledger.over());
        if self.seen != now {
            (self.seen, self.since) = (now, Instant::now());
        }
        self.since.elapsed() > self.limit
    }
}

fn tell_what_is_missing(bus: &Bus, rows: &Rows, work: &Work) {
    let missing: Vec<_> = work.ledger.missing().collect();
    eprintln!("no progress for {PATIENCE:?}; rows neither handled nor dead-lettered: {}", missing.len());
    for row in missing.iter().take(10) {
        let place = work.ledger.place(*row);
        let key = place.map_or("without a key", |Place { key, .. }| &rows.keys[key as usize]);
        let of_key =
            place.map_or(String::new(), |Place { sequence, .. }| format!(", number {}", sequence + 1));
        eprintln!("  row {} ({key}{of_key})", row + 1);
    }
    bus.health().iter().for_each(|health| eprintln!("  {health:?}"));
}
