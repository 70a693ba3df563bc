//! What a bad key costs the others, in a time that the handlers alone move: each attempt takes so long, and nothing else
//! takes any. So latencies are exact and the same on every machine; `benches/neighbours.rs` measures them by the clock.

#![allow(unreachable_pub, reason = "the modules of a test program have no public face")]

mod support;

use keylane::memory::MemoryBroker;
use keylane::{Clock, Config, Event, HandlerError, Jitter, ManualClock, Registration, Retry, Route};
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};
use support::draw::{self, Shares};
use support::{Checked, eventually, number, numbered};

/// How long an attempt takes.
const COST: Duration = Duration::from_micros(10);
/// Records that come at once, of as many keys.
const BURST: u64 = 20;
/// From one burst to the next; the worker is busy for a twentieth of it.
const PERIOD: Duration = Duration::from_millis(4);
const BURSTS: u64 = 300;
/// The other key has a record in each of so many bursts: 20 in a second.
const BAD_EVERY: u64 = 12;
const BAD: &str = "bad";
/// Of so many keys the records of [`Case::Hot`] are drawn; the first one's share is a sixth.
const DRAWN_KEYS: usize = 200;
/// The payload of a record of which the first two attempts fail.
const FAILS_TWICE: u64 = u64::MAX;

/// What the other key is.
#[derive(Debug, Clone, Copy)]
enum Case {
    /// As good as the others.
    Without,
    /// 100 ms in an async handler for each record.
    Slow,
    /// No attempt succeeds; tried again for ever, as the default policy says.
    Poisoned,
    /// There is none, but of the others one is hot: their records are drawn by Zipf 1.0. And one in a hundred fails twice.
    Hot,
    /// What keylane cannot make up for: each record keeps its worker for so long.
    Blocks(Duration),
    /// As `Slow`, with all keys routed as one.
    SlowAndRoutedAsOne,
}

/// Ready at a time of this clock.
async fn sleep_until(clock: &Clock, at: Instant) {
    let mut registered: Option<Registration> = None;
    poll_fn(|cx| {
        // Registered first: a move of the time after the look wakes.
        registered = Some(clock.register(cx.waker().clone()));
        if clock.now() >= at { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// The records of a burst: keys and payloads.
fn records(case: Case) -> impl FnMut(u64) -> Vec<(String, u64)> {
    let (mut draw, mut drawn, mut to_fail) = (draw::keys(Shares::Zipf, DRAWN_KEYS), 0, 0);
    move |burst| {
        if !matches!(case, Case::Hot) {
            let bad = burst.is_multiple_of(BAD_EVERY).then(|| (BAD.to_owned(), burst));
            return bad.into_iter().chain((0..BURST).map(|key| (format!("key-{key}"), burst))).collect();
        }
        let mut record = || {
            let key = draw();
            drawn += 1;
            to_fail += u64::from(drawn % 100 == 0);
            let fails = to_fail > 0 && !is_cold(key);
            to_fail -= u64::from(fails);
            (format!("key-{key}"), if fails { FAILS_TWICE } else { burst })
        };
        (0..BURST).map(|_| record()).collect()
    }
}

/// Every other key never fails, nor is it the hot one.
fn is_cold(key: usize) -> bool {
    key % 2 == 1
}

/// Whether what this key's records wait counts.
fn is_good(case: Case, key: &str) -> bool {
    match case {
        Case::Hot => key.strip_prefix("key-").and_then(|key| key.parse().ok()).is_some_and(is_cold),
        _ => key != BAD,
    }
}

async fn attempt(case: Case, event: &Event, clock: &Clock, time: &ManualClock) -> Result<(), HandlerError> {
    time.advance(COST);
    if matches!(case, Case::Hot) && number(event) == FAILS_TWICE && event.attempt() <= 2 {
        return Err("fails twice".into());
    }
    if event.aggregate_id() != Some(BAD) && event.key() != Some(BAD.as_bytes()) {
        return Ok(());
    }
    match case {
        Case::Without | Case::Hot => {}
        Case::Slow | Case::SlowAndRoutedAsOne => {
            sleep_until(clock, clock.now() + Duration::from_millis(100)).await;
        }
        Case::Poisoned => return Err("poisoned".into()),
        Case::Blocks(extra) => time.advance(extra),
    }
    Ok(())
}

/// The 99th percentile of the good keys' latencies, from publish to the end of the handler. One worker, or none: all keys
/// are the other one's neighbours.
fn p99(case: Case, workers: usize) -> Result<Duration, String> {
    let (clock, time) = Clock::manual();
    let broker = MemoryBroker::builder().topic_with("orders", 1).clock(clock.clone()).build();
    let bus = broker.connect(Config::default()).map_err(|error| error.to_string())?;
    let latencies = Arc::new(Mutex::new(Vec::new()));
    let builder = bus.subscribe_envelopes("orders").group("neighbours").workers(workers);
    let builder = match case {
        Case::SlowAndRoutedAsOne => builder.route(Route::With(Arc::new(|_| Some("all".to_owned())))),
        _ => builder,
    };
    let builder = match case {
        // Short and without chance: a backlog that is run while the test is still handing over what is due would take
        // its time from nobody. How a long one and new jobs take turns is tested on the pool.
        Case::Hot => builder.retry(
            Retry::exponential(Duration::from_millis(1)..Duration::from_millis(10)).jitter(Jitter::None),
        ),
        _ => builder,
    };
    let due = Arc::new(Mutex::new(clock.now()));
    let (noted, seen_due, seen_clock, moved) = (latencies.clone(), due.clone(), clock.clone(), time.clone());
    let orders = builder.handle_async(move |event| {
        let (noted, due) = (noted.clone(), seen_due.clone());
        let (clock, time) = (seen_clock.clone(), moved.clone());
        async move {
            attempt(case, &event, &clock, &time).await?;
            let key = event.key().map(String::from_utf8_lossy).expect("it was published with one");
            if is_good(case, &key) {
                noted.lock().unwrap().push(clock.now() - *due.lock().unwrap());
            }
            Ok(())
        }
    });
    let orders = orders.map_err(|error| error.to_string())?;
    orders.ready().wait().map_err(|error| error.to_string())?;
    let (begin, mut records, mut good) = (clock.now(), records(case), 0);
    for burst in 0..BURSTS {
        time.advance((begin + PERIOD * burst as u32).saturating_duration_since(clock.now()));
        *due.lock().unwrap() = clock.now();
        for (key, payload) in records(burst) {
            good += usize::from(is_good(case, &key));
            broker.append("orders", (&numbered(&key, payload)).into()).map_err(|error| error.to_string())?;
        }
        eventually("the good keys of a burst were handled", || latencies.lock().unwrap().len() >= good)?;
    }
    let mut latencies = std::mem::take(&mut *latencies.lock().unwrap());
    latencies.sort_unstable();
    Ok(latencies[latencies.len() * 99 / 100])
}

/// Whether the 99th percentile stays within 1.2 times what it is without the bad key.
fn check(case: Case) -> Checked {
    for workers in [0, 1] {
        let (without, with) = (p99(Case::Without, workers)?, p99(case, workers)?);
        ensure!(
            with <= without.mul_f64(1.2),
            "{case:?}, {workers} workers: the others' p99 is {with:?}, {without:?} without it"
        );
    }
    Ok(())
}

#[test]
fn a_slow_key_leaves_the_others_as_quick_as_without_it() {
    check(Case::Slow).unwrap();
}

#[test]
fn a_poisoned_key_leaves_the_others_as_quick_as_without_it() {
    check(Case::Poisoned).unwrap();
}

#[test]
fn a_hot_key_and_records_that_fail_leave_the_others_as_quick_as_without_them() {
    check(Case::Hot).unwrap();
}

#[test]
fn the_check_finds_a_key_that_keeps_its_worker_and_one_that_keeps_others_waiting() {
    support::be_impatient();
    for case in [Case::Blocks(Duration::from_micros(100)), Case::SlowAndRoutedAsOne] {
        assert!(check(case).is_err(), "{case:?} was not found");
    }
}
