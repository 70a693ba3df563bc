//! What a slow key and a poisoned key cost the others: their latencies with and without it, in interleaved rounds. The
//! shapes are defined in `benches/README.md`.

use keylane::Envelope;
use keylane::pool::Key;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const ROUNDS: usize = 15;
const WORKERS: usize = 2;
const KEYS: u64 = 200;
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
}

/// Latencies in microseconds from the time at which a record was to be published to the end of its handler.
struct Latencies {
    all: Vec<u64>,
    /// Of the keys that share the bad key's worker.
    neighbours: Vec<u64>,
}

fn run(case: Case) -> Latencies {
    let bus = keylane::connect("memory:?topics=orders").wait().expect("connects");
    let latencies = Arc::new(Mutex::new(Latencies { all: Vec::new(), neighbours: Vec::new() }));
    let (noted, begin) = (latencies.clone(), Instant::now());
    let orders = bus
        .subscribe_envelopes("orders")
        .group("bench")
        .workers(WORKERS)
        .handle_async(move |event| {
            let noted = noted.clone();
            async move {
                let key = event.aggregate_id().expect("an Envelope has one");
                if key == BAD {
                    match case {
                        Case::Without => {}
                        Case::Slow => drop(smol::Timer::after(Duration::from_millis(100)).await),
                        Case::Poisoned => return Err("poisoned".into()),
                    }
                    return Ok(());
                }
                let due: u64 = event.envelope().expect("an Envelope").payload().parse()?;
                let latency = (begin.elapsed().as_micros() as u64).saturating_sub(due);
                let mut latencies = noted.lock().expect("nobody panics");
                latencies.all.push(latency);
                if Key::of(key).worker(WORKERS) == Key::of(BAD).worker(WORKERS) {
                    latencies.neighbours.push(latency);
                }
                Ok(())
            }
        })
        .expect("starts");
    orders.ready().wait().expect("joins");
    let (first, mut sent) = (begin.elapsed(), 0);
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
        let envelope =
            Envelope::new(format!("key-{}", sent % KEYS), "bench.good", 1, due.as_micros().to_string());
        bus.publish("orders", envelope.expect("valid")).wait().expect("stored");
        sent += 1;
    }
    let good = || latencies.lock().expect("nobody panics").all.len() as u64;
    while good() < sent {
        std::thread::sleep(Duration::from_millis(1));
    }
    bus.close(Duration::ZERO).wait();
    Arc::try_unwrap(latencies).map_or_else(
        |shared| {
            let mut shared = shared.lock().expect("nobody panics");
            Latencies {
                all: std::mem::take(&mut shared.all),
                neighbours: std::mem::take(&mut shared.neighbours),
            }
        },
        |latencies| latencies.into_inner().expect("nobody panics"),
    )
}

fn percentile(values: &mut [u64], percent: usize) -> u64 {
    values.sort_unstable();
    values[(values.len() * percent).div_ceil(100).saturating_sub(1)]
}

/// Median, smallest and largest.
fn spread(mut values: Vec<u64>) -> (u64, String) {
    values.sort_unstable();
    let median = values[values.len() / 2];
    (median, format!("{median} ({}-{})", values[0], values[values.len() - 1]))
}

fn main() {
    let cases = [Case::Without, Case::Slow, Case::Poisoned];
    // For each case: p50 and p99 of all good keys, and p99 of the neighbours, by round.
    let mut measured = [const { [const { Vec::new() }; 3] }; 3];
    for _ in 0..ROUNDS {
        for (case, rounds) in cases.iter().zip(&mut measured) {
            let Latencies { mut all, mut neighbours } = run(*case);
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
