//! What a slow key, a poisoned key, and a hot key with failures cost the others: their latencies with and without it, in
//! interleaved rounds. The shapes are defined in `benches/README.md`.

#![allow(unreachable_pub, reason = "the modules of a bench have no public face")]

#[path = "../tests/support/mod.rs"]
mod support;

use keylane::pool::Key;
use keylane::{Envelope, Retry};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::draw::{self, Shares};

const ROUNDS: usize = 15;
const WORKERS: usize = 2;
const KEYS: usize = 200;
/// Records a second of all good keys together, and for how long.
const RATE: u64 = 5_000;
const TIME: Duration = Duration::from_millis(1_500);
/// Records a second of the bad key.
const BAD_RATE: u64 = 20;
const BAD: &str = "bad";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    /// The key is as good as the others.
    Without,
    /// 100 ms in an async handler for each record.
    Slow,
    /// No attempt succeeds; tried again for ever, as the default policy says.
    Poisoned,
    /// The key is as good as the others, but their records are drawn by Zipf 1.0, and one in a hundred fails twice. Only
    /// cold keys count: half of all, which never fail.
    Hot,
}

impl Case {
    fn shares(self) -> Shares {
        if self == Self::Hot { Shares::Zipf } else { Shares::Uniform }
    }

    /// Whether the latencies of this good key count.
    fn counts(self, key: usize) -> bool {
        self != Self::Hot || key % 2 == 1
    }

    fn retry(self) -> Retry {
        // The default of 100 ms and more would hold the hot key back for good: it has 850 records a second.
        if self == Self::Hot {
            Retry::exponential(Duration::from_millis(1)..Duration::from_millis(10))
        } else {
            Retry::forever()
        }
    }

    /// The key whose neighbours are looked at.
    fn bad_key(self) -> &'static str {
        if self == Self::Hot { "key-0" } else { BAD }
    }
}

/// A record of this type fails twice.
const FAILS_TWICE: &str = "bench.fails-twice";
const GOOD: &str = "bench.good";

/// Latencies in microseconds from the time at which a record was to be published to the end of its handler.
#[derive(Default)]
struct Latencies {
    all: Vec<u64>,
    /// Of the keys that share the bad key's worker.
    neighbours: Vec<u64>,
    /// When the last record of each good key that was handled was due.
    last_due: Vec<u64>,
    out_of_order: u64,
    lost: u64,
}

fn run(case: Case) -> Latencies {
    let bus = keylane::connect("memory:?topics=orders").wait().expect("connects");
    let latencies = Arc::new(Mutex::new(Latencies {
        all: Vec::new(),
        neighbours: Vec::new(),
        last_due: vec![0; KEYS],
        out_of_order: 0,
        lost: 0,
    }));
    let (noted, begin) = (latencies.clone(), Instant::now());
    let all_handled = Arc::new(AtomicU64::new(0));
    let seen = all_handled.clone();
    let orders = bus
        .subscribe_envelopes("orders")
        .group("bench")
        .workers(WORKERS)
        .retry(case.retry())
        .handle_async(move |event| {
            let (noted, handled) = (noted.clone(), seen.clone());
            async move {
                let key = event.aggregate_id().expect("an Envelope has one");
                if key == BAD {
                    match case {
                        Case::Without | Case::Hot => {}
                        Case::Slow => drop(smol::Timer::after(Duration::from_millis(100)).await),
                        Case::Poisoned => return Err("poisoned".into()),
                    }
                    return Ok(());
                }
                let envelope = event.envelope().expect("an Envelope");
                if envelope.event_type() == FAILS_TWICE && event.attempt() <= 2 {
                    return Err("fails twice".into());
                }
                let number: usize = key.trim_start_matches("key-").parse()?;
                let due: u64 = envelope.payload().parse()?;
                let latency = (begin.elapsed().as_micros() as u64).saturating_sub(due);
                let mut latencies = noted.lock().expect("nobody panics");
                handled.fetch_add(1, Ordering::Relaxed);
                let before = std::mem::replace(&mut latencies.last_due[number], due);
                latencies.out_of_order += u64::from(before >= due);
                if !case.counts(number) {
                    return Ok(());
                }
                latencies.all.push(latency);
                if Key::of(key).worker(WORKERS) == Key::of(case.bad_key()).worker(WORKERS) {
                    latencies.neighbours.push(latency);
                }
                Ok(())
            }
        })
        .expect("starts");
    orders.ready().wait().expect("joins");
    let (first, mut sent, mut to_fail) = (begin.elapsed(), 0, 0);
    let mut draw = draw::keys(case.shares(), KEYS);
    loop {
        let due = first + Duration::from_micros(sent * 1_000_000 / RATE);
        if due >= first + TIME {
            break;
        }
        std::thread::sleep(due.saturating_sub(begin.elapsed()));
        if sent.is_multiple_of(RATE / BAD_RATE) {
            bus.publish("orders", Envelope::new(BAD, "bench.bad", 1, "0").expect("valid"))
                .wait()
                .expect("stored");
        }
        let key = draw();
        to_fail += u64::from(case == Case::Hot && sent % 100 == 99);
        let fails = to_fail > 0 && !case.counts(key);
        to_fail -= u64::from(fails);
        let event_type = if fails { FAILS_TWICE } else { GOOD };
        let envelope = Envelope::new(format!("key-{key}"), event_type, 1, due.as_micros().to_string());
        bus.publish("orders", envelope.expect("valid")).wait().expect("stored");
        sent += 1;
    }
    let patience = Instant::now() + Duration::from_secs(30);
    while all_handled.load(Ordering::Relaxed) < sent && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(1));
    }
    bus.close(Duration::ZERO).wait();
    let mut latencies = latencies.lock().expect("nobody panics");
    latencies.lost = sent.saturating_sub(all_handled.load(Ordering::Relaxed));
    std::mem::take(&mut *latencies)
}

fn percentile(values: &mut [u64], percent: usize) -> u64 {
    values.sort_unstable();
    values.get((values.len() * percent).div_ceil(100).saturating_sub(1)).copied().unwrap_or(0)
}

/// Median, smallest and largest.
fn spread(mut values: Vec<u64>) -> (u64, String) {
    values.sort_unstable();
    let median = values[values.len() / 2];
    (median, format!("{median} ({}-{})", values[0], values[values.len() - 1]))
}

fn main() {
    let cases = [Case::Without, Case::Slow, Case::Poisoned, Case::Hot];
    // For each case: p50 and p99 of all good keys, and p99 of the neighbours, by round.
    let mut measured = [const { [const { Vec::new() }; 3] }; 4];
    for _ in 0..ROUNDS {
        for (case, rounds) in cases.iter().zip(&mut measured) {
            let Latencies { mut all, mut neighbours, out_of_order, lost, .. } = run(*case);
            if out_of_order + lost > 0 {
                println!("{case:?}: {out_of_order} out of order, {lost} lost!");
            }
            rounds[0].push(percentile(&mut all, 50));
            rounds[1].push(percentile(&mut all, 99));
            rounds[2].push(percentile(&mut neighbours, 99));
        }
    }
    println!("{ROUNDS} rounds, {RATE} records/s over {KEYS} keys, {WORKERS} workers; us, median (min-max)");
    println!("{:<10} {:>20} {:>20} {:>24}", "bad key", "p50", "p99", "p99 on its worker");
    let mut without = [0; 3];
    for (case, rounds) in cases.iter().zip(measured) {
        let [p50, p99, near] = rounds.map(spread);
        let name = format!("{case:?}").to_lowercase();
        println!("{name:<10} {:>20} {:>20} {:>24}", p50.1, p99.1, near.1);
        if *case == Case::Without {
            without = [p50.0, p99.0, near.0];
        } else {
            let ratio = |now: u64, before: u64| now as f64 / before.max(1) as f64;
            let [p50, p99, near] =
                [ratio(p50.0, without[0]), ratio(p99.0, without[1]), ratio(near.0, without[2])];
            println!("{:<10} {p50:>19.2}x {p99:>19.2}x {near:>23.2}x", "");
        }
    }
}
