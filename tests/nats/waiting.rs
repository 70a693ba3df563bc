//! Waiting where a stream has several topics, where its end was removed, and what a server can't be asked.

use crate::admin::Admin;
use crate::{connect, server};
use keylane::{BrokerError, Record};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

#[test]
fn what_is_of_another_topic_in_the_stream_is_not_waited_for() {
    let server = crate::servers::nats(&[]);
    let bus = connect(&server, |config| config.nats.stream = "all".to_owned());
    for topic in ["orders", "other"] {
        bus.create_topic(topic).wait().unwrap();
    }
    bus.publish("orders", Record::new("1")).wait().unwrap();
    for n in 0..10 {
        bus.publish("other", Record::new(n.to_string())).wait().unwrap();
    }
    let orders = bus.subscribe("orders").group("billing").handle(|_| Ok(())).unwrap();
    orders.caught_up().wait_timeout(SOON).expect("it ends").unwrap();
    assert_eq!(orders.stats().succeeded, 1);
    let empty =
        bus.subscribe("orders").group("late").start(keylane::Start::Latest).handle(|_| Ok(())).unwrap();
    empty.caught_up().wait_timeout(SOON).expect("it ends").unwrap();
    bus.close(SOON).wait();
}

#[test]
fn what_was_removed_is_not_waited_for() {
    let server = server(&["orders"]);
    let bus = connect(&server, |_| {});
    for n in 0..3 {
        bus.publish("orders", Record::new(n.to_string())).wait().unwrap();
    }
    Admin::of(&server).delete_message("orders", 3);
    let orders = bus.subscribe("orders").group("billing").handle(|_| Ok(())).unwrap();
    orders.caught_up().wait_timeout(SOON).expect("it ends").unwrap();
    assert_eq!(orders.stats().succeeded, 2);
    bus.close(SOON).wait();
}

#[test]
fn what_others_do_on_the_server_can_t_settle() {
    let server = server(&["orders"]);
    let bus = connect(&server, |_| {});
    let refused = bus.settled().wait().unwrap_err();
    assert!(
        matches!(&refused, BrokerError::Refused(why) if why.contains("nats") && why.contains("caught_up")),
        "{refused}"
    );
    bus.close(SOON).wait();
}
