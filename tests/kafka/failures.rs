//! Connections that are cut, brokers that are killed, members that are lost.

use crate::cluster::{committed, connect_to, fresh, shared};
use crate::support::order::Book;
use crate::support::servers::proxy::{Protocol, Proxy};
use crate::support::servers::{self, lease_listener};
use crate::support::{Gate, capture_log, eventually, logged, number, numbered, within};
use keylane::{Bus, Config, Subscription};
use rdkafka::ClientConfig;
use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// All that the topic holds: per key the payloads in their order.
fn stored(port: u16, topic: &str, partitions: i32, records: usize) -> HashMap<String, Vec<u64>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", format!("127.0.0.1:{port}"))
        .set("group.id", "reader")
        .set("enable.auto.commit", "false")
        .create()
        .expect("a client");
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&list).unwrap();
    let (mut found, mut count) = (HashMap::<String, Vec<u64>>::new(), 0);
    let mut quiet_since = Instant::now();
    // What is there beyond the expected ones comes within a moment.
    while count < records || quiet_since.elapsed() < Duration::from_millis(500) {
        assert!(quiet_since.elapsed() < Duration::from_secs(60), "{count} of {records} records are there");
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(50)) else { continue };
        let envelope = keylane::Envelope::parse(message.payload().unwrap()).unwrap();
        let n = envelope.payload().parse().unwrap();
        found.entry(envelope.aggregate_id().to_owned()).or_default().push(n);
        count += 1;
        quiet_since = Instant::now();
    }
    found
}

fn handle_into(bus: &Bus, topic: &str, book: &Arc<Book>) -> Subscription {
    let book = book.clone();
    let subscription = bus
        .subscribe_envelopes(topic)
        .group(topic)
        .workers(2)
        .handle(move |event| {
            book.effect(event.aggregate_id().expect("it has one"), number(event));
            Ok(())
        })
        .unwrap();
    subscription.ready().wait_timeout(Duration::from_secs(60)).unwrap().unwrap();
    subscription
}

#[test]
fn publishes_are_stored_once_and_in_order_through_cut_connections() {
    const KEYS: u64 = 10;
    let lease = lease_listener();
    let proxy = Proxy::start(lease.advertised, lease.port, Protocol::Kafka);
    let bus = connect_to(lease.advertised, 3, |_| {});
    let topic = fresh("cut");
    let mut receipts = Vec::new();
    for n in 0..200 {
        if n % 20 == 10 {
            proxy.fail_next_publishes(&topic, 2);
        }
        if n % 50 == 25 {
            proxy.cut();
        }
        receipts.extend((0..KEYS).map(|key| bus.publish(&topic, numbered(&format!("key-{key}"), n))));
        if n % 10 == 0 {
            receipts.pop().map(|receipt| receipt.wait().unwrap());
        }
    }
    receipts.into_iter().for_each(|receipt| drop(receipt.wait().unwrap()));
    let found = stored(shared().port, &topic, 3, 200 * KEYS as usize);
    for key in 0..KEYS {
        assert_eq!(found[&format!("key-{key}")], (0..200).collect::<Vec<_>>(), "key-{key}");
    }
}

#[test]
fn a_broker_that_is_killed_and_comes_back_loses_nothing() {
    const KEYS: u64 = 10;
    capture_log();
    let mut server = servers::kafka(&[], "");
    let bus = connect_to(server.port, 3, |_| {});
    let topic = fresh("killed");
    bus.create_topic(&topic).wait().unwrap();
    let book = Arc::new(Book::default());
    let orders = handle_into(&bus, &topic, &book);
    let (done, publisher) = (Gate::default(), bus.clone());
    let (stop, published_to) = (done.clone(), topic.clone());
    let publishing = std::thread::spawn(move || {
        let (mut n, mut receipts) = (0, Vec::new());
        while !stop.is_open() {
            receipts.extend(
                (0..KEYS).map(|key| publisher.publish(&published_to, numbered(&format!("key-{key}"), n))),
            );
            n += 1;
            std::thread::sleep(Duration::from_millis(5));
        }
        receipts.into_iter().for_each(|receipt| drop(receipt.wait().unwrap()));
        n
    });
    for _ in 0..2 {
        let before = book.over();
        eventually("some are handled", || book.over() >= before + 20 * KEYS).unwrap();
        server.kill();
        within(Duration::from_secs(60), "health says so", || !orders.health().is_healthy()).unwrap();
        server.restart();
        within(Duration::from_secs(60), "health says that it is over", || orders.health().is_healthy())
            .unwrap();
    }
    let before = book.over();
    within(Duration::from_secs(60), "it goes on", || book.over() >= before + 20 * KEYS).unwrap();
    done.open();
    let published = publishing.join().unwrap();
    within(Duration::from_secs(60), "all is handled", || book.over() == published * KEYS).unwrap();
    book.verdict().unwrap();
    assert!(logged(&["the broker does not answer"]) > 0 && logged(&["the broker answers again"]) > 0);
    assert!(logged(&["the producer has no broker"]) > 0 && logged(&["the producer has a broker again"]) > 0);
    let found = stored(server.port, &topic, 3, (published * KEYS) as usize);
    for key in 0..KEYS {
        assert_eq!(found[&format!("key-{key}")], (0..published).collect::<Vec<_>>(), "key-{key}");
    }
}

#[test]
fn a_broker_that_is_away_shows_in_an_idle_subscription_and_its_end_too() {
    let lease = lease_listener();
    let proxy = Proxy::start(lease.advertised, lease.port, Protocol::Kafka);
    let bus = connect_to(lease.advertised, 1, |_| {});
    let topic = fresh("away");
    let orders = bus.subscribe(&topic).group(&topic).handle(|_| Ok(())).unwrap();
    orders.ready().wait().unwrap();
    proxy.set_reachable(false);
    within(Duration::from_secs(60), "it is noticed", || !orders.health().is_healthy()).unwrap();
    let shown = orders.health().problems.iter().map(ToString::to_string).collect::<String>();
    assert!(!shown.is_empty(), "health says nothing");
    proxy.set_reachable(true);
    within(Duration::from_secs(60), "its end is noticed", || orders.health().is_healthy()).unwrap();
}

/// What asks the broker about a quiet partition is answered behind the fetch that the broker holds.
#[test]
fn a_subscription_without_records_is_healthy() {
    let bus = connect_to(shared().port, 1, |config| {
        // Longer than by default, so that it is held at whatever moment the broker is asked.
        config.kafka.properties.0.insert("fetch.wait.max.ms".to_owned(), "3000".to_owned());
    });
    let topic = fresh("idle");
    bus.create_topic(&topic).wait().unwrap();
    let orders = bus.subscribe(&topic).group(&topic).handle(|_| Ok(())).unwrap();
    orders.ready().wait().unwrap();
    // A partition is asked about when it was quiet for 20 s.
    let until = Instant::now() + Duration::from_secs(26);
    while Instant::now() < until {
        let health = orders.health();
        assert!(health.is_healthy(), "{:?}", health.problems);
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A broker that hangs as a machine does: connections stay, and nothing is ever answered.
#[test]
fn a_close_ends_in_time_with_many_partitions_and_a_broker_that_hangs() {
    const PARTITIONS: usize = 8;
    const RECORDS: u64 = 200;
    const LIMIT: Duration = Duration::from_secs(2);
    let server = servers::kafka(&[], "");
    let bus = connect_to(server.port, PARTITIONS, |_| {});
    let topic = fresh("hangs");
    bus.create_topic(&topic).wait().unwrap();
    let gate = Gate::default();
    let held = gate.clone();
    let handler = move |_: keylane::Event| {
        let held = held.clone();
        async move {
            held.passed().await;
            Ok(())
        }
    };
    let orders = bus.subscribe_envelopes(&topic).group(&topic).workers(2).handle_async(handler).unwrap();
    orders.ready().wait().unwrap();
    for n in 0..RECORDS {
        bus.publish(&topic, numbered(&format!("key-{n}"), n)).wait().unwrap();
    }
    eventually("all have begun", || orders.stats().in_flight == RECORDS).unwrap();
    server.freeze(true);
    gate.open();
    eventually("all are handled", || orders.stats().succeeded == RECORDS).unwrap();
    let since = Instant::now();
    let closed = bus.close(LIMIT).wait_timeout(Duration::from_secs(120));
    let took = since.elapsed();
    server.freeze(false);
    assert!(closed.is_ok() && took < LIMIT + Duration::from_millis(2_500), "it took {took:?}");
}

/// A member whose session ends without its knowledge: another one has its partitions, and what it does late changes
/// nothing.
#[test]
fn a_lost_member_is_fenced_and_comes_back() {
    let lease = lease_listener();
    let proxy = Proxy::start(lease.advertised, lease.port, Protocol::Kafka);
    let soon = |config: &mut Config| {
        for (name, value) in [("session.timeout.ms", "4000"), ("heartbeat.interval.ms", "300")] {
            config.kafka.properties.0.insert(name.to_owned(), value.to_owned());
        }
    };
    let cut_off = connect_to(lease.advertised, 1, soon);
    let topic = fresh("lost");
    cut_off.create_topic(&topic).wait().unwrap();
    let (gate, begun) = (Gate::default(), Gate::default());
    let (late, has_begun) = (gate.clone(), begun.clone());
    let first = cut_off
        .subscribe_envelopes(&topic)
        .group(&topic)
        .handle(move |event| {
            if number(event) == 0 {
                has_begun.open();
                late.pass();
            }
            Ok(())
        })
        .unwrap();
    first.ready().wait().unwrap();
    let other = connect_to(shared().port, 1, soon);
    for n in 0..10 {
        other.publish(&topic, numbered("key", n)).wait().unwrap();
    }
    eventually("the first has begun", || begun.is_open()).unwrap();
    proxy.set_reachable(false);
    let (handled, gave) = (Arc::new(AtomicU64::new(0)), Arc::new(Gate::default()));
    let (count, holds) = (handled.clone(), gave.clone());
    let second = other
        .subscribe_envelopes(&topic)
        .group(&topic)
        .handle(move |event| {
            // The last one is held back, so that a position behind it can only come from the lost member.
            if number(event) == 9 {
                holds.pass();
            }
            count.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
        .unwrap();
    within(Duration::from_secs(60), "the second has the partition", || handled.load(Ordering::Relaxed) == 9)
        .unwrap();
    // The first one's handler ends late, and it can reach the broker again.
    gate.open();
    proxy.set_reachable(true);
    within(Duration::from_secs(60), "the first is healthy again", || first.health().is_healthy()).unwrap();
    eventually("its verdict is there", || first.stats().succeeded > 0).unwrap();
    // For longer than a commit takes nothing of it may show.
    let position = || committed(shared().port, &topic, &topic, 0).map(|(offset, _)| offset);
    let until = Instant::now() + Duration::from_millis(600);
    while Instant::now() < until {
        assert!(position().is_none_or(|offset| offset <= 9), "the lost member moved the position");
    }
    gave.open();
    within(Duration::from_secs(60), "the rest is handled", || {
        handled.load(Ordering::Relaxed) + first.stats().succeeded >= 10
    })
    .unwrap();
    within(Duration::from_secs(60), "all is committed", || position() == Some(10)).unwrap();
    drop(second);
}
