//! The paths that are counted: each does the same work in every round, so that the counts of two runs differ by the
//! rounds between them and by nothing else.

use keylane::memory::MemoryBroker;
use keylane::pool::{Handler, Key, Outcome, PoolBuilder, Request, RequestPool, SteppedPool, Turn};
use keylane::{Clock, Config, Envelope};
use std::hint::black_box;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A path, and how much of it is run.
pub(crate) struct Path {
    pub(crate) name: &'static str,
    /// Operations in a round.
    pub(crate) operations: u64,
    /// Runs so many rounds.
    pub(crate) run: fn(u64),
    /// The rounds of the shorter run; the longer one has twice as many.
    pub(crate) rounds: u64,
    /// Functions, as callgrind names them, at whose begin and end counting is turned on or off; none: all counts.
    pub(crate) toggles: &'static [&'static str],
}

/// In the order in which they are told.
pub(crate) const PATHS: [Path; 8] = [
    Path { name: "lane", operations: WINDOW, run: lane, rounds: 20, toggles: &[] },
    Path { name: "lane_batch", operations: WINDOW, run: lane_batch, rounds: 20, toggles: &[] },
    Path { name: "answer", operations: WINDOW, run: answer, rounds: 20, toggles: &[] },
    Path { name: "parse", operations: 1_000, run: parse, rounds: 5, toggles: &[] },
    Path { name: "encode", operations: 1_000, run: encode, rounds: 10, toggles: &[] },
    Path { name: "publish", operations: RECORDS, run: publish, rounds: 2, toggles: &[] },
    Path { name: "bus", operations: RECORDS, run: bus, rounds: 2, toggles: &[] },
    Path { name: "intake", operations: RECORDS, run: bus, rounds: 2, toggles: &INTAKE },
];

/// What one thread does for all records of a subscription: the intake's turns without the worker's, which `bus` has on
/// the same thread.
const INTAKE: [&str; 2] =
    ["keylane::subscription::intake::Intake<*>::turn", "keylane::pool::worker::Worker<*>::run_turn"];

/// `parse` with a loop beside it that costs about a twentieth of it: what the gate has to see.
pub(crate) const PLANTED: Path =
    Path { name: "planted", operations: 1_000, run: parse_slower_by_a_twentieth, rounds: 5, toggles: &[] };

/// Jobs in a lane at once.
const WINDOW: u64 = 1_024;
const BATCH: u64 = 32;
const KEYS: u64 = 1_000;
/// What a subscription costs once is spread over them.
const RECORDS: u64 = 10_000;

/// By a clock that stands still, so never reached.
const LIMIT: Duration = Duration::from_secs(10);

fn key(n: u64) -> Key {
    Key::of_number(n.wrapping_mul(7_919) % KEYS)
}

/// Handles a job that has no answer.
struct Count;

impl Handler for Count {
    type Job = Request<u64, ()>;
    type Future = std::future::Ready<()>;

    fn handle(&mut self, job: &mut Self::Job, _: Instant) -> Outcome<Self::Future> {
        black_box(job);
        Outcome::Done
    }
    fn resolve(&mut self, _: &mut Self::Job, (): (), _: Instant) -> Outcome<Self::Future> {
        Outcome::Done
    }
    fn panicked(&mut self, _: &mut Self::Job, _: String, _: Instant) -> Outcome<Self::Future> {
        Outcome::Done
    }
    fn expired(&mut self, _: &mut Self::Job, _: Instant) -> Outcome<Self::Future> {
        Outcome::Done
    }
}

fn stepped() -> SteppedPool<Count> {
    PoolBuilder::new().workers(1).capacity(WINDOW as usize).stepped(|_| Count).expect("starts")
}

/// Jobs without an answer, handed over one by one, then run: all on one thread.
fn lane(rounds: u64) {
    // The time stands still, so that no turn is a long one.
    let ((pool, mut workers), now) = (stepped(), Instant::now());
    for _ in 0..rounds {
        for n in 0..WINDOW {
            pool.try_send(key(n), Request::tell(n)).expect("room");
        }
        while workers[0].step(now) == Turn::Ran {}
    }
}

/// The same in batches.
fn lane_batch(rounds: u64) {
    let ((pool, mut workers), now) = (stepped(), Instant::now());
    let mut batch = Vec::with_capacity(BATCH as usize);
    for _ in 0..rounds {
        for first in (0..WINDOW).step_by(BATCH as usize) {
            batch.extend((first..first + BATCH).map(|n| (key(n), Request::tell(n))));
            assert_eq!(pool.try_send_batch(&mut batch), BATCH as usize, "room");
        }
        while workers[0].step(now) == Turn::Ran {}
    }
}

/// Jobs with an answer. Only a worker of its own thread gives one; it is kept at the first job of a round until all are
/// submitted, and the last answer is awaited first, so that the threads take turns in the same way each time.
fn answer(rounds: u64) {
    let gate = Arc::new(Mutex::new(()));
    let at = gate.clone();
    let (clock, _time) = Clock::manual();
    let pool: RequestPool<u64, u64> = PoolBuilder::new()
        .workers(1)
        // An answer may be there a moment before its job's place is given back.
        .capacity(2 * WINDOW as usize)
        .clock(clock)
        .shared(move |n| {
            if n == 0 {
                drop(at.lock());
            }
            black_box(n) + 1
        })
        .expect("starts");
    let mut answers = Vec::with_capacity(WINDOW as usize);
    for _ in 0..rounds {
        let closed = gate.lock().expect("nobody panics");
        answers.extend((0..WINDOW).map(|n| pool.try_submit(key(n), n).expect("room")));
        drop(closed);
        while let Some(answer) = answers.pop() {
            assert_eq!(answer.wait(), Ok(answers.len() as u64 + 1));
        }
    }
}

/// A record of 300 bytes as services publish it.
const TYPICAL: &str = concat!(
    r#"{"event_id":"01890a5d-ac96-774b-bcce-b302099a8057","aggregate_id":"order-4711","#,
    r#""event_type":"order.paid","event_version":1,"timestamp":"2025-10-31T08:00:00.123456789Z","#,
    r#""trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","tenant_id":7,"#,
    r#""payload":{"cents":995,"currency":"EUR","customer":"c-1","lines":[1,2]}}"#,
);

fn parse(rounds: u64) {
    for _ in 0..rounds * 1_000 {
        black_box(Envelope::parse(black_box(TYPICAL.as_bytes())).expect("a valid record"));
    }
}

fn parse_slower_by_a_twentieth(rounds: u64) {
    for _ in 0..rounds * 1_000 {
        black_box(Envelope::parse(black_box(TYPICAL.as_bytes())).expect("a valid record"));
        for n in 0..black_box(PLANTED_LOOPS) {
            black_box(n);
        }
    }
}

/// Each turn of the loop is four instructions, if it is not unrolled.
const PLANTED_LOOPS: u32 = 66;

fn encode(rounds: u64) {
    let envelope = Envelope::parse(TYPICAL.as_bytes()).expect("a valid record");
    let mut record = Vec::with_capacity(1_024);
    for _ in 0..rounds * 1_000 {
        record.clear();
        black_box(&envelope).encode_into(&mut record);
        black_box(&record);
    }
}

/// Envelopes as [`TYPICAL`], each of another aggregate.
fn envelopes() -> Vec<Envelope<'static>> {
    let record = |n: u64| TYPICAL.replace("order-4711", &format!("order-{:04}", 1_000 + n));
    let parsed = |n| Envelope::parse(record(n).as_bytes()).expect("a valid record").into_owned();
    (0..KEYS).map(parsed).collect()
}

/// A bus whose topic keeps the records of one round, so that each record that is stored frees one of the round before. Its
/// time stands still, so that nothing is done because time has passed.
fn bus_of_one_round() -> keylane::Bus {
    let (clock, _time) = Clock::manual();
    let broker = MemoryBroker::builder().topic("orders").retention_records(RECORDS).clock(clock).build();
    broker.connect(Config::default()).expect("connects")
}

fn publish_round(bus: &keylane::Bus, envelopes: &[Envelope<'static>]) {
    for n in 0..RECORDS {
        bus.publish("orders", &envelopes[(n % KEYS) as usize]).wait().expect("stored");
    }
}

/// Encoded, published and stored.
fn publish(rounds: u64) {
    let (bus, envelopes) = (bus_of_one_round(), envelopes());
    (0..rounds).for_each(|_| publish_round(&bus, &envelopes));
}

/// The same, then delivered, parsed, routed, handed over, handled, settled and committed, on the delivering thread. The
/// threads take turns: one publishes, then the other handles.
fn bus(rounds: u64) {
    let (bus, envelopes) = (bus_of_one_round(), envelopes());
    for _ in 0..rounds {
        publish_round(&bus, &envelopes);
        let (done, all_done) = channel();
        let count = move || {
            let (done, mut handled) = (done.clone(), 0);
            move |event: &keylane::Event| {
                black_box(event.value());
                handled += 1;
                if handled == RECORDS {
                    done.send(())?;
                }
                Ok(())
            }
        };
        let orders = bus.subscribe_envelopes("orders").group("g").workers(0).handle_owned(count);
        let orders = orders.expect("starts");
        all_done.recv().expect("the handler runs");
        let report = orders.drain(LIMIT).wait();
        assert!(report.unsettled.is_empty(), "{report:?}");
    }
    // Its records would be freed by whichever thread is the last to let go, also after the end of the process.
    std::mem::forget(bus);
}
