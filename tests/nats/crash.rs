//! Processes and servers that are killed: nothing is lost, nothing overtakes, and how long it takes to go on.

use crate::support::order::Book;
use crate::support::servers::Server;
use crate::support::{eventually, number, within};
use crate::{connect, connect_to, server};
use keylane::{Config, DeadLetter, Envelope, HandlerError, Record, Retry};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const KEYS: u64 = 100;
const CHILD: &str = "KEYLANE_TEST_CHILD";
/// How long the lease of one of those that are not patient may stand still.
pub const SOON: Duration = Duration::from_secs(2);
/// How often the tests of crashes kill; more where the figures are measured.
const CRASHES: &str = "KEYLANE_TEST_CRASHES";

fn crashes() -> usize {
    std::env::var(CRASHES).ok().and_then(|text| text.parse().ok()).unwrap_or(3)
}

/// A process of this program that is killed when it is dropped.
pub struct Process(Child);

impl Process {
    /// `what` is taken apart by [`child`].
    pub fn start(what: &str, port: u16, log: &Path) -> Self {
        let child = Command::new(std::env::current_exe().expect("a program knows itself"))
            .args(["crash::child", "--exact", "--ignored", "--nocapture"])
            .env(CHILD, format!("{what}\n{port}\n{}", log.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it runs again");
        Self(child)
    }

    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Stops it, or lets it go on.
    pub fn freeze(&self, is_frozen: bool) {
        let pid = rustix::process::Pid::from_child(&self.0);
        let signal = if is_frozen { rustix::process::Signal::STOP } else { rustix::process::Signal::CONT };
        rustix::process::kill_process(pid, signal).expect("it runs");
    }

    fn has_ended(&mut self) -> bool {
        self.0.try_wait().expect("it is a child").is_some()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What the processes of these tests do; run by them alone.
#[test]
#[ignore = "a part of other tests, in a process of its own"]
fn child() {
    let what = std::env::var(CHILD).expect("other tests start it");
    let mut parts = what.lines();
    let mut next = || parts.next().expect("three lines");
    let (what, port, log) = (next(), next().parse().expect("a port"), PathBuf::from(next()));
    match what {
        "consumer" => consume(port, &log, |_| {}, |_| Ok(())),
        "soon consumer" => consume(port, &log, |config| config.nats.takeover_after = SOON, |_| Ok(())),
        "timed consumer" => crate::leases::timed(port, &log),
        "killer" => consume(
            port,
            &log,
            |_| {},
            |event| {
                if event.aggregate_id() == Some("killer") {
                    std::process::abort();
                }
                Ok(())
            },
        ),
        "idle" => crate::work::idle(port, &log),
        other => panic!("no child does {other}"),
    }
}

/// Writes a line for each effect until it is killed.
fn consume(
    port: u16,
    log: &Path,
    tune: impl FnOnce(&mut Config),
    before: impl Fn(&keylane::Event) -> Result<(), HandlerError> + Send + Sync + 'static,
) {
    let bus = connect_to(port, tune);
    let log = log.to_owned();
    let mut builder = bus.subscribe_envelopes("orders").group("billing").workers(4);
    if log.to_string_lossy().contains("killer") {
        builder =
            builder.retry(Retry::exponential(Duration::from_millis(1)..Duration::from_millis(2)).attempts(3));
        builder = builder.then(DeadLetter::to("orders.dead"));
    }
    let before = Arc::new(before);
    let _subscription = builder
        .handle_owned(move || {
            let mut file =
                OpenOptions::new().append(true).create(true).open(&log).expect("the log can be written");
            let before = before.clone();
            move |event: &keylane::Event| {
                before(event)?;
                std::thread::sleep(Duration::from_micros(200));
                let line = format!("{} {}\n", event.aggregate_id().unwrap_or_default(), number(event));
                // One write for a line, which no kill divides.
                file.write_all(line.as_bytes())?;
                Ok(())
            }
        })
        .expect("it subscribes");
    loop {
        std::thread::park();
    }
}

pub fn log_file(server: &Server, name: &str) -> PathBuf {
    let log = server.folder().join(name);
    File::create(&log).expect("target can be written");
    log
}

pub fn lines(log: &Path) -> u64 {
    BufReader::new(File::open(log).expect("it is there")).lines().count() as u64
}

/// The effects of a log: how many records had one, and how many effects were repeats. Fails on an overtaking.
pub fn judge(log: &Path) -> Result<(u64, u64), String> {
    let book = Book::default();
    for line in BufReader::new(File::open(log).expect("it is there")).lines() {
        let line = line.expect("text");
        let (key, n) = line.split_once(' ').expect("two words");
        book.effect(key, n.parse().expect("a number"));
    }
    book.verdict()?;
    Ok((book.over(), book.repeats()))
}

/// Publishes to all keys in turn until it is told to stop; returns how many.
pub fn publisher(port: u16, stop: Arc<AtomicBool>, pace: Duration) -> std::thread::JoinHandle<u64> {
    std::thread::spawn(move || {
        let bus = connect_to(port, |_| {});
        let mut n = 0;
        let mut waiting = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            for _ in 0..20 {
                let envelope = Envelope::new(format!("key-{}", n % KEYS), "t", 1, (n / KEYS).to_string())
                    .expect("valid");
                waiting.push(bus.publish("orders", envelope));
                n += 1;
            }
            std::thread::sleep(pace);
        }
        for publish in waiting {
            publish.wait().expect("it is stored");
        }
        bus.close(Duration::from_secs(60)).wait();
        n
    })
}

#[test]
fn order_holds_through_killed_clients_and_nothing_is_lost() {
    let server = server(&["orders"]);
    let log = log_file(&server, "effects");
    let stop = Arc::new(AtomicBool::new(false));
    let publisher = publisher(server.port, stop.clone(), Duration::from_millis(8));
    let mut process = Process::start("consumer", server.port, &log);
    eventually("it handles", || lines(&log) > 500).unwrap();
    let mut recoveries = Vec::new();
    for crash in 0..crashes() {
        let before = lines(&log);
        eventually("it is at work", || lines(&log) > before + 300 + 70 * (crash as u64 % 5)).unwrap();
        process.kill();
        let before = lines(&log);
        let killed = Instant::now();
        process = Process::start("consumer", server.port, &log);
        eventually("the next one handles", || lines(&log) > before).unwrap();
        recoveries.push(killed.elapsed());
    }
    stop.store(true, Ordering::Relaxed);
    let published = publisher.join().unwrap();
    within(Duration::from_secs(60), "all is handled", || {
        judge(&log).is_ok_and(|(over, _)| over >= published) || judge(&log).is_err()
    })
    .unwrap();
    let (over, repeats) = judge(&log).unwrap();
    assert_eq!(over, published);
    recoveries.sort_unstable();
    eprintln!(
        "{} clients killed: {published} records, 0 overtakings, {repeats} repeats, recovery {:.0?} (median), {:.0?} (longest)",
        recoveries.len(),
        recoveries[recoveries.len() / 2],
        recoveries[recoveries.len() - 1],
    );
}

#[test]
fn order_holds_through_killed_servers_and_nothing_is_lost_or_stored_twice() {
    let mut server = server(&["orders"]);
    let bus = connect(&server, |_| {});
    let book = Arc::new(Book::default());
    let last = Arc::new(AtomicU64::new(0));
    let (kept, newest) = (book.clone(), last.clone());
    let subscription = bus
        .subscribe_envelopes("orders")
        .group("billing")
        .workers(4)
        .handle(move |event| {
            let (key, n) = (event.aggregate_id().unwrap_or_default(), number(event));
            kept.begin(key, n);
            std::thread::sleep(Duration::from_micros(200));
            kept.end(key, n, true);
            newest.fetch_max(event.offset(), Ordering::Relaxed);
            Ok(())
        })
        .unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let publisher = publisher(server.port, stop.clone(), Duration::from_millis(8));
    eventually("it handles", || book.over() > 500).unwrap();
    let mut recoveries = Vec::new();
    for crash in 0..crashes() {
        let before = book.over();
        eventually("it is at work", || book.over() > before + 300 + 70 * (crash as u64 % 5)).unwrap();
        server.kill();
        let before = book.over();
        server.restart();
        let restarted = Instant::now();
        // What had been delivered goes on without a server: beyond it is what came anew.
        let newest = last.load(Ordering::Relaxed) + 600;
        eventually("it goes on", || book.over() > before && last.load(Ordering::Relaxed) > newest).unwrap();
        recoveries.push(restarted.elapsed());
    }
    stop.store(true, Ordering::Relaxed);
    let published = publisher.join().unwrap();
    within(Duration::from_secs(60), "all is handled", || book.over() >= published || book.has_violation())
        .unwrap();
    book.verdict().unwrap();
    let stored = bus.publish("orders", Record::new("last")).wait().unwrap().offset();
    assert_eq!((book.over(), stored), (published, published + 1), "handled, and stored with one more");
    recoveries.sort_unstable();
    eprintln!(
        "{} servers killed: {published} records, 0 overtakings, {} repeats, going on after {:.0?} (median), {:.0?} (longest)",
        recoveries.len(),
        book.repeats(),
        recoveries[recoveries.len() / 2],
        recoveries[recoveries.len() - 1],
    );
    drop(subscription);
}

#[test]
fn a_record_that_kills_its_process_ends_as_a_dead_letter() {
    let server = server(&["orders", "orders.dead"]);
    let log = log_file(&server, "killer-effects");
    let bus = connect(&server, |_| {});
    bus.publish("orders", Envelope::new("killer", "t", 1, "0").unwrap()).wait().unwrap();
    let dead = Arc::new(AtomicU64::new(0));
    let count = dead.clone();
    let watch = bus.subscribe("orders.dead").group("watch").handle(move |event| {
        assert_eq!(event.aggregate_id(), Some("killer"));
        count.fetch_add(1, Ordering::Relaxed);
        Ok(())
    });
    let _watch = watch.unwrap();
    let mut deaths = 0;
    while dead.load(Ordering::Relaxed) == 0 {
        let mut process = Process::start("killer", server.port, &log);
        within(Duration::from_secs(30), "it dies, or writes the dead letter", || {
            process.has_ended() || dead.load(Ordering::Relaxed) > 0
        })
        .unwrap();
        deaths += u32::from(process.has_ended());
        assert!(deaths <= 3, "it has three attempts");
    }
    assert_eq!(deaths, 3);
    let _survivor = Process::start("killer", server.port, &log);
    bus.publish("orders", Envelope::new("killer-not", "t", 1, "0").unwrap()).wait().unwrap();
    eventually("what comes behind it is handled", || lines(&log) > 0).unwrap();
}
