//! Members that come and go, with each protocol.

use crate::cluster::{connect_to, fresh, shared};
use crate::support::order::Book;
use crate::support::{number, numbered, within};
use keylane::config::GroupProtocol;
use keylane::{Bus, Config, Subscription};
use std::sync::Arc;
use std::time::Duration;

const KEYS: u64 = 20;

fn quick(protocol: GroupProtocol) -> impl Fn(&mut Config) {
    move |config| {
        config.kafka.group_protocol = protocol;
        if protocol != GroupProtocol::Consumer {
            config.kafka.properties.0.insert("heartbeat.interval.ms".to_owned(), "200".to_owned());
        }
    }
}

fn member(bus: &Bus, topic: &str, book: &Arc<Book>) -> Subscription {
    let book = book.clone();
    let builder = bus.subscribe_envelopes(topic).group(topic).workers(2);
    let handler = move |event: &keylane::Event| {
        let (key, n) = (event.aggregate_id().expect("it has one").to_owned(), number(event));
        book.begin(&key, n);
        // Long enough that a rebalance comes in between.
        std::thread::sleep(Duration::from_micros(500));
        book.end(&key, n, true);
        Ok(())
    };
    let subscription = builder.handle(handler).unwrap();
    subscription.ready().wait_timeout(Duration::from_secs(60)).unwrap().unwrap();
    subscription
}

fn publish(bus: &Bus, topic: &str, numbers: std::ops::Range<u64>) {
    let published: Vec<_> = numbers
        .flat_map(|n| (0..KEYS).map(move |key| (format!("key-{key}"), n)))
        .map(|(key, n)| bus.publish(topic, numbered(&key, n)))
        .collect();
    published.into_iter().for_each(|receipt| drop(receipt.wait().unwrap()));
}

fn through_rebalances(protocol: GroupProtocol) {
    if std::env::var("KEYLANE_LOG").is_ok() {
        let _ = tracing_subscriber::fmt().try_init();
    }
    let (bus, topic) = (connect_to(shared().port, 4, quick(protocol)), fresh("rebalance"));
    let book = Arc::new(Book::default());
    let mut members = vec![member(&bus, &topic, &book)];
    let mut published = 0;
    for turn in 0..8 {
        publish(&bus, &topic, published..published + 30);
        published += 30;
        if turn % 2 == 0 {
            // As another process.
            let other = connect_to(shared().port, 4, quick(protocol));
            members.push(member(&other, &topic, &book));
        } else {
            let report = members.remove(0).drain(Duration::from_secs(60)).wait();
            assert!(report.still_running.is_empty(), "{report:?}");
        }
    }
    within(Duration::from_secs(60), "all is handled", || {
        book.over() == published * KEYS || book.has_violation()
    })
    .unwrap();
    book.verdict().unwrap();
    assert_eq!(book.repeats(), 0, "what was over came again");
}

#[test]
fn members_come_and_go_with_cooperative_sticky() {
    through_rebalances(GroupProtocol::CooperativeSticky);
}

#[test]
fn members_come_and_go_with_range() {
    through_rebalances(GroupProtocol::Range);
}

#[test]
fn members_come_and_go_with_kip_848() {
    through_rebalances(GroupProtocol::Consumer);
}
