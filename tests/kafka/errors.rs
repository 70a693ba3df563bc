//! What bad input gets.

use crate::cluster::{config, connect, connect_to, fresh, shared};
use crate::support::{numbered, servers};
use keylane::{BrokerError, ConnectError, PublishError, Record, SubscribeError, TopicError};
use std::time::{Duration, Instant};

fn connect_error(tune: impl FnOnce(&mut keylane::Config)) -> ConnectError {
    let mut config = config(servers::free_port(), 1);
    config.kafka.connect_timeout = Duration::from_millis(1_500);
    tune(&mut config);
    keylane::connect_with(config).wait().expect_err("it must not connect")
}

#[test]
fn a_property_that_breaks_a_promise_is_refused_before_any_connection() {
    for (name, value) in [
        ("enable.auto.commit", "true"),
        ("enable.auto.offset.store", "true"),
        ("enable.idempotence", "false"),
        ("acks", "1"),
        ("isolation.level", "read_uncommitted"),
        ("auto.offset.reset", "latest"),
        ("group.id", "other"),
        ("transactional.id", "t"),
        ("no.such.property", "hunter2"),
        ("linger.ms", "hunter2"),
        ("security.protocol", "hunter2"),
    ] {
        let since = Instant::now();
        let error = connect_error(|config| {
            config.kafka.connect_timeout = Duration::from_secs(60);
            config.kafka.properties.0.insert(name.to_owned(), value.to_owned());
        });
        assert!(matches!(error, ConnectError::Config(_)), "{error}");
        assert!(error.to_string().contains(name), "{error}");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "a value is shown: {error}");
        assert!(since.elapsed() < Duration::from_secs(20), "something was tried first");
    }
}

#[test]
fn a_broker_that_is_not_there_is_named() {
    let since = Instant::now();
    let error = connect_error(|_| {});
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("127.0.0.1:"), "{error}");
    assert!(since.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_topic_that_does_not_exist_is_named() {
    let bus = connect_to(shared().port, 1, |config| config.kafka.create_topics = false);
    let topic = fresh("missing");
    let refused = bus.subscribe(&topic).group("g").handle(|_| Ok(()));
    let Err(SubscribeError::Broker(error)) = refused else { panic!("{refused:?}") };
    assert_eq!(error, BrokerError::NoSuchTopic { topic: topic.clone() });
    let since = Instant::now();
    let refused = bus.publish(&topic, Record::new("x").with_key("k")).wait();
    let Err(PublishError::Refused { reason, .. }) = refused else { panic!("{refused:?}") };
    assert!(reason.contains(&topic) && reason.contains("create_topics"), "{reason}");
    assert!(since.elapsed() < Duration::from_secs(20), "told after {:?}", since.elapsed());
    // It is not there because somebody asked for it.
    let refused = bus.subscribe(&topic).group("g").handle(|_| Ok(()));
    assert!(refused.is_err());
}

#[test]
fn a_topic_is_created_where_that_is_allowed() {
    let (bus, topic) = (connect(3), fresh("created"));
    bus.publish(&topic, Record::new("x").with_key("k")).wait().unwrap();
    let other = connect_to(shared().port, 3, |config| config.kafka.create_topics = false);
    other.publish(&topic, Record::new("x").with_key("k")).wait().unwrap();
}

#[test]
fn a_topic_with_other_settings_is_refused_with_both_sides() {
    let (bus, topic) = (connect(3), fresh("otherwise"));
    bus.create_topic(&topic).wait().unwrap();
    bus.create_topic(&topic).wait().unwrap();
    let refused = connect(5).create_topic(&topic).wait();
    let Err(TopicError::Broker(BrokerError::Refused(reason))) = refused else { panic!("{refused:?}") };
    assert!(reason.contains("3 partitions") && reason.contains("`kafka.partitions` = 5"), "{reason}");
    let refused = connect_to(shared().port, 1, |config| config.kafka.replicas = 3)
        .create_topic(&fresh("replicas"))
        .wait();
    let Err(TopicError::Broker(BrokerError::Refused(reason))) = refused else { panic!("{refused:?}") };
    assert!(reason.contains("3 replicas"), "{reason}");
}

#[test]
fn a_record_that_the_topic_does_not_take_is_refused_and_the_next_one_goes_on() {
    let bus = connect_to(shared().port, 1, |config| {
        config.publisher.max_record_bytes = 8 << 20;
        config.publisher.bytes = 32 << 20;
    });
    let topic = fresh("large");
    bus.publish(&topic, numbered("key", 0)).wait().unwrap();
    let mut random = fastrand_bytes(3 << 20);
    let large = bus.publish(&topic, Record::new(std::mem::take(&mut random)).with_key("key"));
    let next = bus.publish(&topic, numbered("key", 1));
    let refused = large.wait();
    let Err(PublishError::Refused { reason, .. }) = refused else { panic!("{refused:?}") };
    assert!(reason.contains(&topic) && reason.contains("max.message.bytes"), "{reason}");
    assert_eq!(next.wait().unwrap().offset(), 1, "stored behind the first");
}

/// Bytes that no compression makes smaller.
fn fastrand_bytes(n: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..n).map(|_| next()).collect()
}

#[test]
fn a_poll_interval_that_ends_before_the_drain_is_refused() {
    let bus = connect_to(shared().port, 1, |config| {
        config.kafka.properties.0.insert("max.poll.interval.ms".to_owned(), "11000".to_owned());
        config.subscription.drain_timeout = Duration::from_secs(20);
    });
    let refused = bus.subscribe(fresh("slow")).group("g").handle(|_| Ok(()));
    let Err(SubscribeError::Broker(BrokerError::Refused(reason))) = refused else { panic!("{refused:?}") };
    assert!(reason.contains("max.poll.interval.ms"), "{reason}");
}
