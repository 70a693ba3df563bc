//! The publisher over the memory broker: order through failures, bounds, dropped operations, a close in the middle.

#![allow(unreachable_pub, reason = "the modules of a test program have no public face")]

mod support;

use keylane::memory::MemoryBroker;
use keylane::{Bus, Config, PublishError, Receipt, Record, Status, TryPublishError};
use std::time::Duration;
use support::{capture_log, eventually, logged};

fn broker(tune: impl FnOnce(&mut Config)) -> (MemoryBroker, Bus) {
    let broker = MemoryBroker::builder().topic_with("t", 1).retention_records(10).build();
    let mut config = Config::default();
    tune(&mut config);
    let bus = broker.connect(config).unwrap();
    (broker, bus)
}

fn stored(broker: &MemoryBroker) -> Vec<u8> {
    broker.records("t").unwrap().iter().map(|record| record.value[0]).collect()
}

#[test]
fn a_publish_that_fails_holds_back_later_ones_of_its_key() {
    let (broker, bus) = broker(|_| {});
    broker.faults().fail_next_publishes("t", 3);
    let ops: Vec<_> = (0..10).map(|n| bus.publish("t", Record::new(vec![n]).with_key("k"))).collect();
    for op in ops {
        op.wait().unwrap();
    }
    assert_eq!(stored(&broker), (0..10).collect::<Vec<_>>());
    assert_eq!(bus.stats().published, 10);
}

#[test]
fn a_publish_that_fails_holds_back_no_other_key() {
    let (broker, bus) = broker(|_| {});
    broker.faults().fail_publishes_when(|_, record| record.key.as_deref() == Some(b"bad"));
    let bad = bus.publish("t", Record::new(vec![0]).with_key("bad"));
    bus.publish("t", Record::new(vec![1]).with_key("good")).wait().unwrap();
    assert!(!bad.is_done());
    broker.faults().clear();
    bad.wait().unwrap();
    assert_eq!(stored(&broker), [1, 0]);
}

#[test]
fn a_full_topic_makes_publishers_wait_and_drops_nothing() {
    let (broker, bus) = broker(|config| config.publisher.records = 4);
    let subscription = bus.subscribe("t").group("g").handle(|_| Ok(())).unwrap();
    subscription.ready().wait().unwrap();
    subscription.pause();
    eventually("it pauses", || subscription.health().status == Status::Paused).unwrap();
    for n in 0..10 {
        bus.publish("t", Record::new(vec![n])).wait().unwrap();
    }
    let refused = bus.try_publish("t", Record::new("x")).unwrap_err();
    assert_eq!(refused, TryPublishError::Full(Record::new("x").with_timestamp(refused_time(&refused))));
    let ops: Vec<_> = (10..40).map(|n| bus.publish("t", Record::new(vec![n]).with_key("k"))).collect();
    assert!(ops.iter().all(|op| !op.is_done()));
    let flush = bus.flush();
    assert!(!flush.is_done());
    subscription.resume();
    for op in ops {
        op.wait().unwrap();
    }
    flush.wait();
    eventually("all arrived", || subscription.stats().succeeded == 40).unwrap();
    eventually("all is settled", || broker.watermarks("g", "t").unwrap() == Some(vec![40])).unwrap();
}

fn refused_time(refused: &TryPublishError) -> std::time::SystemTime {
    let TryPublishError::Full(record) = refused else { panic!("{refused}") };
    record.timestamp
}

#[test]
fn dropping_an_operation_withdraws_it_while_it_waits_for_room_and_not_after() {
    capture_log();
    let (broker, bus) = broker(|config| config.publisher.records = 2);
    broker.faults().pause_deliveries(true);
    let mut ops: Vec<_> =
        (0..4).map(|n| Some(bus.publish("t", Record::new(vec![n]).with_key("k")))).collect();
    // The first is with the publisher, the fourth still waits for room.
    drop((ops[0].take(), ops[3].take()));
    broker.faults().pause_deliveries(false);
    for op in ops.into_iter().flatten() {
        op.wait().unwrap();
    }
    bus.flush().wait();
    assert_eq!(stored(&broker), [0, 1, 2]);
    assert_eq!(bus.publishing().withdrawn, 1);
    assert!(logged(&["WARN", "records are not sent: their operations were dropped", "withdrawn=1"]) > 0);
}

#[test]
fn what_is_withdrawn_in_a_crowd_is_counted() {
    let (broker, bus) = broker(|config| config.publisher.records = 2);
    broker.faults().pause_deliveries(true);
    for n in 0..1_000_u32 {
        drop(bus.publish("t", Record::new(n.to_le_bytes().to_vec()).with_key("k")));
    }
    broker.faults().pause_deliveries(false);
    bus.flush().wait();
    assert_eq!(broker.records("t").unwrap().len() as u64 + bus.publishing().withdrawn, 1_000);
}

#[test]
fn what_a_flush_waits_for_is_over_when_it_is() {
    let broker = MemoryBroker::builder().topic_with("t", 1).build();
    let bus = broker.connect(Config::default()).unwrap();
    for n in 0..100_u32 {
        // Tried again, and so answered on the publisher's own thread.
        broker.faults().fail_next_publishes("t", 2);
        let op = bus.publish("t", Record::new(n.to_le_bytes().to_vec()).with_key("k"));
        while !bus.flush().is_done() {
            std::hint::spin_loop();
        }
        assert!(op.is_done(), "publish {n} was under way when a flush found nothing");
        op.wait().unwrap();
    }
}

#[test]
fn close_answers_what_the_broker_did_not() {
    let (broker, bus) = broker(|_| {});
    broker.faults().fail_publishes_when(|_, _| true);
    let op = bus.publish("t", Record::new("x"));
    assert_eq!(bus.close(Duration::from_millis(50)).wait().unacknowledged, 1);
    assert_eq!(op.wait(), Err(PublishError::Closed));
    assert_eq!(bus.publish("t", Record::new("x")).wait(), Err(PublishError::Closed));
}

#[test]
fn a_publish_that_is_tried_again_outlives_its_bus() {
    let (broker, bus) = broker(|_| {});
    broker.faults().fail_next_publishes("t", 2);
    let op = bus.publish("t", Record::new(vec![7]).with_key("k"));
    drop(bus);
    op.wait().unwrap();
    assert_eq!(stored(&broker), [7]);
}

#[test]
fn a_try_at_a_full_topic_gets_full_also_while_others_wait_for_it() {
    let (broker, bus) = broker(|_| {});
    broker.create_topic_with("other", 1);
    let subscription = bus.subscribe("t").group("g").handle(|_| Ok(())).unwrap();
    subscription.ready().wait().unwrap();
    subscription.pause();
    eventually("it pauses", || subscription.health().status == Status::Paused).unwrap();
    for n in 0..10 {
        bus.publish("t", Record::new(vec![n])).wait().unwrap();
    }
    let waits = bus.publish("t", Record::new("x"));
    for _ in 0..3 {
        let refused = bus.try_publish("t", Record::new("x"));
        assert!(matches!(refused, Err(TryPublishError::Full(_))), "{refused:?}");
    }
    bus.try_publish("other", Record::new("x")).unwrap().wait().unwrap();
    assert!(!waits.is_done());
}

#[test]
fn a_topic_that_stays_full_is_logged_with_its_name_and_key() {
    support::capture_log();
    let broker = MemoryBroker::builder().topic_with("stays-full", 1).retention_records(1).build();
    let bus = broker.connect(Config::default()).unwrap();
    let subscription = bus.subscribe("stays-full").group("g").handle(|_| Ok(())).unwrap();
    subscription.ready().wait().unwrap();
    subscription.pause();
    eventually("it pauses", || subscription.health().status == Status::Paused).unwrap();
    bus.publish("stays-full", Record::new("x")).wait().unwrap();
    let waits = bus.publish("stays-full", Record::new("x").with_key("key-7"));
    eventually("it is said", || support::logged(&["WARN", "topic=\"stays-full\"", "key-7"]) > 0).unwrap();
    subscription.resume();
    waits.wait().unwrap();
}

#[test]
fn outcomes_that_nobody_reads_hold_their_places_and_none_is_dropped() {
    let (broker, bus) = broker(|config| config.publisher.records = 4);
    let mut outcomes = bus.outcomes();
    for n in 0..4 {
        bus.send("t", Record::new(vec![n]).with_key("k")).wait().unwrap();
    }
    let fifth = bus.send("t", Record::new(vec![4]).with_key("k"));
    assert!(!fifth.is_done(), "there was room for a fifth of 4");
    assert!(matches!(bus.try_publish("t", Record::new("x")), Err(TryPublishError::Full(_))));
    assert_eq!(outcomes.recv().wait().unwrap().result().unwrap().offset(), 0);
    fifth.wait().unwrap();
    for n in 1..5 {
        assert_eq!(outcomes.recv().wait().unwrap().result().unwrap().offset(), n);
    }
    assert_eq!(stored(&broker), [0, 1, 2, 3, 4]);
}

#[test]
fn who_stops_reading_outcomes_gives_their_places_back() {
    let (broker, bus) = broker(|config| config.publisher.records = 2);
    let outcomes = bus.outcomes();
    let sent: Vec<_> = (0..5).map(|n| bus.send("t", Record::new(vec![n]))).collect();
    assert!(!sent[2].is_done());
    drop(outcomes);
    sent.into_iter().for_each(|sent| sent.wait().unwrap());
    bus.flush().wait();
    assert_eq!(stored(&broker).len(), 5);
}

#[test]
fn outcomes_tell_of_records_that_a_close_left_behind_and_then_end() {
    let (broker, bus) = broker(|_| {});
    let mut outcomes = bus.outcomes();
    broker.faults().pause_deliveries(true);
    bus.send("t", Record::new("x").with_key("k")).wait().unwrap();
    let report = bus.close(Duration::from_millis(10)).wait();
    assert_eq!(report.unacknowledged, 1);
    let left = outcomes.recv().wait().unwrap();
    assert_eq!((left.topic(), left.key(), left.result()), ("t", Some(&b"k"[..]), Err(&PublishError::Closed)));
    assert!(outcomes.recv().wait().is_none());
}

#[test]
fn an_outcome_says_what_was_stored_and_where() {
    let (_broker, bus) = broker(|_| {});
    let mut outcomes = bus.outcomes();
    for offset in 0..2 {
        bus.send("t", Record::new("x").with_key("k")).wait().unwrap();
        let outcome = outcomes.recv().wait().unwrap();
        assert_eq!((outcome.topic(), outcome.key()), ("t", Some(&b"k"[..])));
        assert_eq!(outcome.result().map(Receipt::offset), Ok(offset));
        assert_eq!(outcome.into_result().map(|receipt| receipt.offset()), Ok(offset));
    }
}

#[test]
fn who_waits_for_an_outcome_is_woken_by_it_and_by_the_close() {
    let (_broker, bus) = broker(|_| {});
    let mut outcomes = bus.outcomes();
    let reader = std::thread::spawn(move || {
        let first = outcomes.recv().wait().map(|outcome| outcome.result().is_ok());
        (first, outcomes.recv().wait().is_none())
    });
    bus.send("t", Record::new("x")).wait().unwrap();
    bus.close(Duration::from_secs(60)).wait();
    assert_eq!(reader.join().unwrap(), (Some(true), true));
}
