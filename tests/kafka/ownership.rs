//! Members that are cut off from their group, and members with one name, with each protocol.

use crate::cluster::{connect_to, fresh, shared};
use crate::support::order::Book;
use crate::support::servers::lease_listener;
use crate::support::servers::proxy::{Protocol, Proxy};
use crate::support::{capture_log, logged, number, numbered, within};
use keylane::config::GroupProtocol;
use keylane::{Bus, Config, Event, Problem, Subscription};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const KEYS: u64 = 40;
const SOON: Duration = Duration::from_secs(60);
/// What the brokers of these tests say for KIP-848.
const SESSION: Duration = Duration::from_secs(6);

/// The same session whoever says it.
fn quick(protocol: GroupProtocol) -> impl Fn(&mut Config) {
    move |config| {
        config.kafka.group_protocol = protocol;
        if protocol != GroupProtocol::Consumer {
            for (name, value) in [("session.timeout.ms", "6000"), ("heartbeat.interval.ms", "500")] {
                config.kafka.properties.0.insert(name.to_owned(), value.to_owned());
            }
        }
    }
}

fn named(protocol: GroupProtocol, name: &str) -> impl Fn(&mut Config) {
    let name = name.to_owned();
    move |config| {
        quick(protocol)(config);
        config.kafka.properties.0.insert("group.instance.id".to_owned(), name.clone());
    }
}

fn publish(bus: &Bus, topic: &str, numbers: std::ops::Range<u64>) {
    let published: Vec<_> = numbers
        .flat_map(|n| (0..KEYS).map(move |key| (format!("key-{key}"), n)))
        .map(|(key, n)| bus.publish(topic, numbered(&key, n)))
        .collect();
    published.into_iter().for_each(|receipt| drop(receipt.wait().unwrap()));
}

type Starts = Arc<Mutex<Vec<(Instant, Option<u64>)>>>;

/// Takes its time for each record, and notes when it starts one, and as which owner.
fn member(bus: &Bus, topic: &str, book: &Arc<Book>) -> (Subscription, Starts) {
    let (book, starts) = (book.clone(), Starts::default());
    let noted = starts.clone();
    let handler = move |event: &Event| {
        let (key, n) = (event.aggregate_id().expect("it has one").to_owned(), number(event));
        book.begin(&key, n);
        noted.lock().unwrap().push((Instant::now(), event.fence()));
        std::thread::sleep(Duration::from_millis(12));
        book.end(&key, n, true);
        Ok(())
    };
    let subscription = bus.subscribe_envelopes(topic).group(topic).workers(2).handle(handler).unwrap();
    (subscription, starts)
}

fn is_over(subscription: &Subscription) -> bool {
    let is_it = |problem: &Problem| matches!(problem, Problem::LeaseOver { .. });
    subscription.health().problems.iter().any(is_it)
}

/// What says that another member has its name.
fn about_its_name(subscription: &Subscription, name: &str) -> bool {
    let name = format!("`group.instance.id` = `{name}`");
    let is_it = |problem: &Problem| matches!(problem, Problem::Broker { error, .. } if error.contains(&name));
    subscription.health().problems.iter().any(is_it)
}

fn last(starts: &Starts) -> Option<Instant> {
    starts.lock().unwrap().last().map(|(at, _)| *at)
}

/// A member is cut off for longer than its session while it has more in hand than it can handle in that time.
fn cut_off(protocol: GroupProtocol) {
    capture_log();
    let listener = lease_listener();
    let proxy = Proxy::start(listener.advertised, listener.port, Protocol::Kafka);
    let (a, b) =
        (connect_to(listener.advertised, 1, quick(protocol)), connect_to(shared().port, 1, quick(protocol)));
    let (topic, book) = (fresh("cut-off"), Arc::new(Book::default()));
    a.create_topic(&topic).wait().unwrap();
    publish(&b, &topic, 0..60);
    let (first, firsts) = member(&a, &topic, &book);
    within(SOON, "the first has its window", || first.stats().in_flight > 2_000 && book.over() > 20).unwrap();
    proxy.set_reachable(false);
    let cut = Instant::now();
    let (second, seconds) = member(&b, &topic, &book);
    // A client of the classic protocols finds out a moment later that its session is over, and gives up what it had.
    let is_new = protocol == GroupProtocol::Consumer;
    if is_new {
        within(SOON, "health says that it starts nothing", || is_over(&first)).unwrap();
    }
    let shown = Instant::now();
    within(SOON, "the second begins", || !seconds.lock().unwrap().is_empty()).unwrap();
    let begun = seconds.lock().unwrap()[0].0;
    let ended = last(&firsts).expect("it has started some");
    assert!(ended - cut < SESSION && ended < begun, "{:?} and {:?} after the cut", ended - cut, begun - cut);
    if is_new {
        assert!(shown < ended + Duration::from_secs(2), "{:?} after its last start", shown - ended);
        assert!(first.stats().in_flight > 1_000, "it had more to do");
    }
    assert!(!first.health().is_healthy());
    let before = seconds.lock().unwrap().len();
    within(SOON, "the second goes on", || seconds.lock().unwrap().len() > before + 200).unwrap();
    assert_eq!(last(&firsts), Some(ended), "the first started something beside the second");
    // It is back, and hears of what it lost before it starts anything.
    proxy.set_reachable(true);
    within(SOON, "the first is healthy again", || first.health().is_healthy()).unwrap();
    // The others give a member back what it had only where one has too much.
    let stays = protocol != GroupProtocol::Range;
    assert!(!stays || last(&firsts) == Some(ended), "it has no partition");
    let report = second.drain(SOON).wait();
    assert!(report.still_running.is_empty(), "{report:?}");
    let given = last(&seconds).expect("it has started some");
    within(SOON, "the first goes on", || last(&firsts) > Some(ended)).unwrap();
    let again = firsts.lock().unwrap().iter().map(|(at, _)| *at).find(|at| *at > ended);
    assert!(!stays || again > Some(given), "both at once");
    publish(&b, &topic, 60..62);
    within(SOON, "all is handled", || book.over() == 62 * KEYS || book.has_violation()).unwrap();
    book.verdict().unwrap();
    assert!(first.health().is_healthy());
    let mut all: Vec<_> =
        [firsts, seconds].iter().flat_map(|starts| starts.lock().unwrap().clone()).collect();
    all.sort_unstable();
    let owners: Vec<_> = all.chunk_by(|a, b| a.1 == b.1).map(|owned| owned[0].1).collect();
    assert!(owners[0].is_some() && owners.is_sorted() && owners.len() >= 3, "{owners:?}");
}

#[test]
fn who_is_cut_off_starts_nothing_beside_the_next_owner_with_kip_848() {
    cut_off(GroupProtocol::Consumer);
}

#[test]
fn who_is_cut_off_starts_nothing_beside_the_next_owner_with_cooperative_sticky() {
    cut_off(GroupProtocol::CooperativeSticky);
}

#[test]
fn who_is_cut_off_starts_nothing_beside_the_next_owner_with_range() {
    cut_off(GroupProtocol::Range);
}

/// Nobody takes over, so that all that it had in hand is its own again when it is back.
#[test]
fn who_was_cut_off_alone_goes_on_in_order() {
    let listener = lease_listener();
    let proxy = Proxy::start(listener.advertised, listener.port, Protocol::Kafka);
    let bus = connect_to(listener.advertised, 2, quick(GroupProtocol::Consumer));
    let (topic, book) = (fresh("alone"), Arc::new(Book::default()));
    bus.create_topic(&topic).wait().unwrap();
    publish(&bus, &topic, 0..50);
    let (orders, starts) = member(&bus, &topic, &book);
    within(SOON, "it has begun", || book.over() > 20).unwrap();
    proxy.set_reachable(false);
    within(SOON, "health says that it starts nothing", || is_over(&orders)).unwrap();
    let ended = last(&starts);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(last(&starts), ended);
    assert!(book.over() < 50 * KEYS, "something waits");
    proxy.set_reachable(true);
    within(SOON, "all is handled", || book.over() == 50 * KEYS || book.has_violation()).unwrap();
    book.verdict().unwrap();
    within(SOON, "it is healthy", || orders.health().is_healthy()).unwrap();
}

/// A lease is extended by each heartbeat, also where nothing else is ever sent.
#[test]
fn no_lease_ends_while_the_group_is_heard_of() {
    let members: Vec<_> = [GroupProtocol::Consumer, GroupProtocol::CooperativeSticky, GroupProtocol::Range]
        .into_iter()
        .map(|protocol| {
            let (bus, topic) = (connect_to(shared().port, 2, quick(protocol)), fresh("quiet"));
            bus.create_topic(&topic).wait().unwrap();
            let orders = bus.subscribe(&topic).group(&topic).handle(|_| Ok(())).unwrap();
            orders.ready().wait().unwrap();
            (orders, bus)
        })
        .collect();
    let until = Instant::now() + 3 * SESSION;
    while Instant::now() < until {
        for (orders, _) in &members {
            assert!(!is_over(orders), "{:?}", orders.health());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn two_members_with_one_name_do_not_throw_each_other_out_for_ever() {
    capture_log();
    let (topic, name) = (fresh("one-name"), "node-7");
    let connect = || connect_to(shared().port, 1, named(GroupProtocol::CooperativeSticky, name));
    let (a, b) = (connect(), connect());
    a.create_topic(&topic).wait().unwrap();
    let first = a.subscribe(&topic).group(&topic).handle(|_| Ok(())).unwrap();
    first.ready().wait().unwrap();
    let second = b.subscribe(&topic).group(&topic).handle(|_| Ok(())).unwrap();
    within(SOON, "the first is told why", || about_its_name(&first, name)).unwrap();
    within(SOON, "the second has its place", || second.health().is_healthy()).unwrap();
    let until = Instant::now() + Duration::from_secs(15);
    while Instant::now() < until {
        assert!(about_its_name(&first, name), "{:?}", first.health());
        assert!(second.health().is_healthy(), "{:?}", second.health());
        std::thread::sleep(Duration::from_millis(5));
    }
    let failed = || logged(&["the consumer has failed for good", &topic]);
    assert_eq!(failed(), 1);
    b.publish(&topic, numbered("key", 0)).wait().unwrap();
    within(SOON, "the second handles", || second.stats().succeeded == 1).unwrap();
    // Its name is free when its session is over.
    second.drain(SOON).wait();
    within(SOON, "the first takes its place again", || first.health().is_healthy()).unwrap();
    b.publish(&topic, numbered("key", 1)).wait().unwrap();
    within(SOON, "the first handles", || first.stats().succeeded == 1).unwrap();
    assert_eq!(failed(), 1);
}

#[test]
fn who_comes_second_with_a_name_by_kip_848_says_so_until_it_is_free() {
    capture_log();
    let (topic, name) = (fresh("second"), "node-8");
    let connect = || connect_to(shared().port, 1, named(GroupProtocol::Consumer, name));
    let (a, b) = (connect(), connect());
    a.create_topic(&topic).wait().unwrap();
    let first = a.subscribe(&topic).group(&topic).handle(|_| Ok(())).unwrap();
    first.ready().wait().unwrap();
    let second = b.subscribe(&topic).group(&topic).handle(|_| Ok(())).unwrap();
    within(SOON, "the second is told why", || about_its_name(&second, name)).unwrap();
    let until = Instant::now() + Duration::from_secs(12);
    while Instant::now() < until {
        assert!(about_its_name(&second, name), "{:?}", second.health());
        assert!(first.health().is_healthy(), "{:?}", first.health());
        std::thread::sleep(Duration::from_millis(5));
    }
    // After rests of 2, 4 and 8 s.
    let failed = logged(&["the consumer has failed for good", &topic]);
    assert!(failed <= 4, "{failed} clients in 12 s");
    first.drain(SOON).wait();
    within(SOON, "the second is taken", || second.health().is_healthy()).unwrap();
    a.publish(&topic, numbered("key", 0)).wait().unwrap();
    within(SOON, "the second handles", || second.stats().succeeded == 1).unwrap();
}
