//! Who owns a topic in its group: members that are cut off, frozen and not permitted to, and a consumer whose leader
//! changes.

use crate::admin::{Admin, configured};
use crate::crash::{Process, SOON, lines, log_file, publisher};
use crate::support::order::Book;
use crate::support::servers::proxy::{Protocol, Proxy};
use crate::support::servers::{self, Server};
use crate::support::{Gate, eventually, number, numbered, within};
use crate::takeover::soon;
use crate::{connect, connect_to, server};
use keylane::{BrokerError, Bus, Config, DeadLetter, Problem, Retry, SubscribeError, Subscription};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const WORKERS: usize = 4;

/// A handler's start or end: by whom, of which key and number.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    is_start: bool,
    who: u32,
    key: String,
    n: u64,
    /// Of the owner that it was started by.
    fence: u64,
}

/// What handlers of all members did, in its order.
#[derive(Debug, Default)]
struct Diary(Vec<Entry>);

impl Diary {
    fn started(&self, who: u32) -> bool {
        self.0.iter().any(|entry| entry.is_start && entry.who == who)
    }

    /// Starts by one after the first by another.
    fn starts_behind(&self, who: u32, other: u32) -> usize {
        let first = self.0.iter().position(|entry| entry.is_start && entry.who == other);
        let behind = first.map_or(&[][..], |first| &self.0[first..]);
        behind.iter().filter(|entry| entry.is_start && entry.who == who).count()
    }

    /// Starts of a key while another member was at it.
    fn overlaps(&self) -> usize {
        let (mut running, mut overlaps) = (HashMap::<&str, Vec<(u32, u64)>>::new(), 0);
        for Entry { is_start, who, key, n, .. } in &self.0 {
            let running = running.entry(key).or_default();
            if *is_start {
                overlaps += usize::from(running.iter().any(|(other, _)| other != who));
                running.push((*who, *n));
            } else {
                running.retain(|run| run != &(*who, *n));
            }
        }
        overlaps
    }

    /// How often the member that starts is another one than the one before.
    fn changes(&self) -> usize {
        let starts: Vec<u32> = self.0.iter().filter(|entry| entry.is_start).map(|entry| entry.who).collect();
        starts.windows(2).filter(|pair| pair[0] != pair[1]).count()
    }

    /// Whether each owner's fence is greater than those before.
    fn fences_grow(&self) -> bool {
        self.0.iter().filter(|entry| entry.is_start).is_sorted_by_key(|entry| entry.fence)
    }

    /// The first effects, in the order of each key; how many there were.
    fn judged(&self) -> Result<u64, String> {
        let book = Book::default();
        self.0.iter().filter(|entry| !entry.is_start).for_each(|entry| book.effect(&entry.key, entry.n));
        book.verdict().map(|()| book.over())
    }
}

type Shared = Arc<Mutex<Diary>>;

/// A member in this process that notes what it does.
fn member(bus: &Bus, who: u32, diary: &Shared, work: Duration) -> Subscription {
    let diary = diary.clone();
    let builder = bus.subscribe_envelopes("orders").group("billing").workers(WORKERS);
    let subscription = builder
        .handle(move |event| {
            let (key, n) = (event.aggregate_id().unwrap_or_default().to_owned(), number(event));
            let fence = event.fence().expect("JetStream has one");
            let note = |is_start| {
                diary.lock().unwrap().0.push(Entry { is_start, who, key: key.clone(), n, fence });
            };
            note(true);
            std::thread::sleep(work);
            note(false);
            Ok(())
        })
        .unwrap();
    subscription.ready().wait().unwrap();
    subscription
}

fn publish(bus: &Bus, keys: u64, each: std::ops::Range<u64>) {
    let publishes: Vec<_> = each
        .flat_map(|n| (0..keys).map(move |key| (format!("key-{key}"), n)))
        .map(|(key, n)| bus.publish("orders", numbered(&key, n)))
        .collect();
    publishes.into_iter().for_each(|publish| drop(publish.wait().unwrap()));
}

/// Looks at all of it, so not too often.
fn over(diary: &Shared) -> u64 {
    std::thread::sleep(Duration::from_millis(20));
    diary.lock().unwrap().judged().unwrap_or(u64::MAX)
}

#[test]
fn one_that_is_cut_off_starts_nothing_beside_the_next_owner() {
    let server = server(&["orders"]);
    let proxy = Proxy::start(0, server.port, Protocol::Nats);
    let (cut_off, other) = (connect_to(proxy.port(), soon), connect(&server, soon));
    let diary = Shared::default();
    let first = member(&cut_off, 1, &diary, Duration::from_millis(20));
    publish(&other, 20, 0..50);
    eventually("it has all of it", || first.stats().in_flight > 500).unwrap();
    let second = member(&other, 2, &diary, Duration::from_millis(20));
    proxy.set_reachable(false);
    let cut = Instant::now();
    let is_over = |problem: &Problem| matches!(problem, Problem::LeaseOver { .. });
    eventually("it shows that nothing starts", || first.health().problems.iter().any(is_over)).unwrap();
    eventually("the other takes over", || diary.lock().unwrap().started(2)).unwrap();
    let took = cut.elapsed();
    within(Duration::from_secs(60), "five seconds have passed", || cut.elapsed() > Duration::from_secs(5))
        .unwrap();
    proxy.set_reachable(true);
    eventually("all is handled", || over(&diary) >= 1_000).unwrap();
    eventually("the first has lost it", || first.stats().in_flight == 0).unwrap();
    eventually("the first stands by", || first.health().is_healthy()).unwrap();
    let diary = diary.lock().unwrap();
    assert_eq!(diary.judged(), Ok(1_000));
    assert_eq!(diary.starts_behind(1, 2), 0, "it started something when another owned the topic");
    assert_eq!(diary.overlaps(), 0);
    assert!(diary.fences_grow());
    assert!(took > SOON.mul_f64(0.69), "it was taken over after {took:?}, while its lease held");
    assert!(took < SOON + Duration::from_secs(3), "it was taken over after {took:?}");
    assert!(second.health().is_healthy());
    eprintln!("cut off: taken over after {took:.1?}");
}

/// A member in a process of its own, which is frozen.
pub fn timed(port: u16, log: &Path) {
    let bus = connect_to(port, soon);
    let log = log.to_owned();
    let _subscription = bus
        .subscribe_envelopes("orders")
        .group("billing")
        .workers(WORKERS)
        .handle_owned(move || {
            let mut file = OpenOptions::new().append(true).open(&log).expect("the log can be written");
            move |event: &keylane::Event| {
                let (key, n) = (event.aggregate_id().unwrap_or_default(), number(event));
                let fence = event.fence().expect("JetStream has one");
                let mut note = |what| {
                    // One write for a line, which nothing divides.
                    file.write_all(format!("{what} {} {key} {n} {fence}\n", std::process::id()).as_bytes())
                };
                note("start")?;
                std::thread::sleep(Duration::from_micros(300));
                note("end")?;
                Ok(())
            }
        })
        .expect("it subscribes");
    loop {
        std::thread::park();
    }
}

fn diary_of(log: &Path) -> Diary {
    let lines = BufReader::new(File::open(log).expect("it is there")).lines();
    let entry = |line: String| {
        let mut words = line.split(' ');
        let mut next = || words.next().expect("five words").to_owned();
        let (what, who) = (next(), next());
        Entry {
            is_start: what == "start",
            who: who.parse().expect("a process"),
            key: next(),
            n: next().parse().expect("a number"),
            fence: next().parse().expect("a number"),
        }
    };
    Diary(lines.map(|line| entry(line.expect("text"))).collect())
}

#[test]
fn one_that_was_frozen_starts_nothing_when_it_wakes_up() {
    let server = server(&["orders"]);
    let log = log_file(&server, "diary");
    let stop = Arc::new(AtomicBool::new(false));
    let frozen = Process::start("timed consumer", server.port, &log);
    let publisher = publisher(server.port, stop.clone(), Duration::from_millis(10));
    eventually("it is at work", || lines(&log) > 1_000).unwrap();
    let next = Process::start("timed consumer", server.port, &log);
    let before = lines(&log);
    // Long enough for the other to have joined.
    eventually("it is at work", || lines(&log) > before + 4_000).unwrap();
    frozen.freeze(true);
    let since = Instant::now();
    eventually("the next one takes over", || diary_of(&log).started(next.id())).unwrap();
    let took = since.elapsed();
    let before = lines(&log);
    eventually("it is at work", || lines(&log) > before + 2_000).unwrap();
    frozen.freeze(false);
    let before = lines(&log);
    eventually("the frozen one has had the time to do something", || lines(&log) > before + 4_000).unwrap();
    stop.store(true, Ordering::Relaxed);
    let published = publisher.join().unwrap();
    let is_done = || diary_of(&log).judged().map_or(true, |over| over >= published);
    within(Duration::from_secs(60), "all is handled", is_done).unwrap();
    let diary = diary_of(&log);
    assert_eq!(diary.judged(), Ok(published));
    let late = diary.starts_behind(frozen.id(), next.id());
    // A worker may have been frozen between its look at the lease and its start.
    assert!(late <= WORKERS, "it started {late} when another owned the topic");
    assert!(took > SOON.mul_f64(0.69), "it was taken over after {took:?}, while its lease held");
    eprintln!("frozen: taken over after {took:.1?}, {late} starts behind that, of workers that were at it");
}

/// A server with one user who may do so much.
fn restricted(name: &str, permissions: &str) -> (Server, String) {
    let server = configured(
        name,
        &format!(
            "authorization {{ users = [ {{ user: ann, password: pw, permissions: {{ {permissions} }} }} ] }}\n"
        ),
    );
    let url = format!("nats://ann:pw@127.0.0.1:{}", server.port);
    (server, url)
}

fn bus_of(url: &str, tune: impl FnOnce(&mut Config)) -> Bus {
    let mut config = Config::default();
    url.clone_into(&mut config.url);
    config.nats.create_topics = true;
    tune(&mut config);
    keylane::connect_with(config).wait().expect("the server takes this client")
}

#[test]
fn two_that_may_subscribe_to_inboxes_alone_do_not_rob_each_other() {
    let (_server, url) = restricted("inboxes", r#"publish: ">", subscribe: "_INBOX.>""#);
    let briefly = |config: &mut Config| config.nats.takeover_after = Duration::from_secs(1);
    let (one, other) = (bus_of(&url, briefly), bus_of(&url, briefly));
    one.create_topic("orders").wait().unwrap();
    let diary = Shared::default();
    let (first, second) = (
        member(&one, 1, &diary, Duration::from_millis(1)),
        member(&other, 2, &diary, Duration::from_millis(1)),
    );
    let began = Instant::now();
    let mut n = 0;
    while began.elapsed() < Duration::from_secs(6) {
        publish(&one, 20, n..n + 1);
        n += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    eventually("all is handled", || over(&diary) >= 20 * n).unwrap();
    let diary = diary.lock().unwrap();
    assert_eq!((diary.judged(), diary.changes(), diary.overlaps()), (Ok(20 * n), 0, 0));
    assert!(first.health().is_healthy() && second.health().is_healthy());
}

#[test]
fn who_may_not_write_or_make_the_lease_is_told_what_to_permit() {
    for (name, denied) in [
        ("no-lease", "keylane.lease.>"),
        ("no-stream", "$JS.API.STREAM.CREATE.KEYLANE_LEASES"),
        ("no-look", "$JS.API.STREAM.MSG.GET.KEYLANE_LEASES"),
    ] {
        let permissions = format!(r#"publish: {{ deny: "{denied}" }}, subscribe: ">""#);
        let (_server, url) = restricted(name, &permissions);
        let bus = bus_of(&url, |_| {});
        bus.create_topic("orders").wait().unwrap();
        let subscribed = bus.subscribe("orders").group("billing").handle(|_| Ok(()));
        let Err(SubscribeError::Broker(BrokerError::Refused(text))) = subscribed.map(drop) else {
            panic!("{denied}: it subscribed, or said that it would be worth another try")
        };
        for part in ["KEYLANE_LEASES", "keylane.lease.>", "may not publish to"] {
            assert!(text.contains(part), "{denied}: {text}");
        }
    }
}

#[test]
fn a_consumer_that_was_made_with_a_pin_goes_on_where_it_is_without() {
    let server = server(&["orders"]);
    let (bus, admin) = (connect(&server, |_| {}), Admin::of(&server));
    publish(&bus, 1, 0..10);
    let pinned = r#"{"stream_name":"orders","config":{"durable_name":"billing","name":"billing","ack_policy":"explicit",
        "deliver_policy":"all","ack_wait":30000000000,"filter_subject":"orders.*","max_ack_pending":5120,
        "priority_policy":"pinned_client","priority_groups":["keylane"],"priority_timeout":5000000000},"action":"create"}"#;
    let made = admin.api("CONSUMER.CREATE.orders.billing", pinned);
    assert!(made.contains("pinned_client"), "{made}");
    admin.take_as_pinned("orders", "billing", "keylane", 4);
    let diary = Shared::default();
    let _member = member(&bus, 1, &diary, Duration::ZERO);
    eventually("the rest is handled", || diary.lock().unwrap().0.len() == 12).unwrap();
    let first = diary.lock().unwrap().0[0].clone();
    assert_eq!((first.key, first.n), ("key-0".to_owned(), 4), "where the one before was");
    let config = admin.consumer("orders", "billing").config;
    assert_eq!(config.priority_groups, Vec::<String>::new());
}

#[test]
fn outages_count_as_no_attempt_and_a_crash_counts_once() {
    let server = server(&["orders", "orders.dead"]);
    let proxy = Proxy::start(0, server.port, Protocol::Nats);
    let briefly = |config: &mut Config| {
        config.nats.takeover_after = Duration::from_secs(1);
        config.nats.ack_wait = Duration::from_secs(1);
    };
    let (bus, other) = (connect_to(proxy.port(), briefly), connect(&server, briefly));
    let admin = Admin::of(&server);
    publish(&other, 10, 0..1);
    let policy = |bus: &Bus| {
        let retry = Retry::exponential(Duration::from_millis(1)..Duration::from_millis(2)).attempts(3);
        let builder = bus.subscribe_envelopes("orders").group("billing").workers(1);
        builder.retry(retry).then(DeadLetter::to("orders.dead"))
    };
    let gate = Gate::default();
    let at = gate.clone();
    let stuck = policy(&bus)
        .handle(move |_| {
            at.pass();
            Ok(())
        })
        .unwrap();
    eventually("it has all of it, and is at the first", || stuck.stats().in_flight == 10).unwrap();
    let delivered = || admin.consumer("orders", "billing").delivered.consumer_sequence;
    for outage in 0..3 {
        let before = delivered();
        proxy.set_reachable(false);
        let since = Instant::now();
        within(Duration::from_secs(60), "it lasts", || since.elapsed() > Duration::from_millis(2_500))
            .unwrap();
        proxy.set_reachable(true);
        eventually("the server delivers it again", || delivered() >= before + 10).unwrap();
        assert_eq!(stuck.stats().dead_lettered, 0, "outage {outage}");
    }
    proxy.set_reachable(false);
    drop(stuck);
    gate.open();
    let handled = Arc::new(AtomicU64::new(0));
    let count = handled.clone();
    let next = policy(&other)
        .handle(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
        .unwrap();
    eventually("what no handler was through with is handled", || handled.load(Ordering::Relaxed) == 10)
        .unwrap();
    eventually("it counts them", || next.stats().succeeded == 10).unwrap();
    assert_eq!(next.stats().dead_lettered, 0);
}

/// The pin of a consumer is memory of its leader; the lease is not, and an acknowledgement that reached no leader is sent
/// again.
#[test]
fn a_change_of_the_consumers_leader_changes_no_owner_and_loses_no_acknowledgement() {
    let servers = servers::nats_cluster();
    let url = |first: usize| {
        let host = |n: usize| format!("127.0.0.1:{}", servers[(first + n) % 3].port);
        format!("nats://{},{},{}", host(0), host(1), host(2))
    };
    // A server that has heard of no leader swallows what it is asked.
    let connected = |first: usize| {
        crate::log();
        let mut config = Config::default();
        (config.url, config.nats.replicas) = (url(first), 3);
        config.nats.connect_timeout = Duration::from_secs(2);
        let mut bus = None;
        eventually("it connects", || {
            bus = keylane::connect_with(config.clone()).wait().ok();
            bus.is_some()
        })
        .unwrap();
        bus.expect("it has connected")
    };
    let [one, other, publisher] = [0, 1, 2].map(connected);
    // Until all three know each other.
    eventually("the topic is made", || publisher.create_topic("orders").wait().is_ok()).unwrap();
    let diary = Shared::default();
    let (first, second) = (
        member(&one, 1, &diary, Duration::from_millis(2)),
        member(&other, 2, &diary, Duration::from_millis(2)),
    );
    let admin = Admin::of(&servers[0]);
    let mut n = 0;
    for blow in ["CONSUMER.LEADER.STEPDOWN.orders.billing", "STREAM.LEADER.STEPDOWN.KEYLANE_LEASES"].repeat(4)
    {
        let began = Instant::now();
        let mut is_struck = false;
        while began.elapsed() < Duration::from_millis(1_500) {
            publish(&publisher, 20, n..n + 1);
            n += 1;
            // Fewer than the handlers are through with.
            std::thread::sleep(Duration::from_millis(25));
            if !is_struck && began.elapsed() > Duration::from_millis(500) {
                is_struck = true;
                let answer = admin.api(blow, "");
                assert!(answer.contains("true"), "{blow}: {answer}");
            }
        }
    }
    eventually("all is handled", || over(&diary) >= 20 * n).unwrap();
    // Far sooner than the `ack_wait` of 30 s is over.
    let unacknowledged = || admin.consumer("orders", "billing").num_ack_pending;
    within(Duration::from_secs(12), "all is acknowledged", || unacknowledged() == 0).unwrap();
    let diary = diary.lock().unwrap();
    assert_eq!((diary.judged(), diary.overlaps(), diary.changes()), (Ok(20 * n), 0, 0));
    assert!(first.health().is_healthy() && second.health().is_healthy());
}
