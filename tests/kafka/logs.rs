//! What others do to the log: it ends before a position, begins behind it, is made anew, gets partitions.

use crate::cluster::{commit_by_hand, committed, config, connect, fresh, noting, shared};
use crate::support::{eventually, numbered, within};
use keylane::config::GroupProtocol;
use keylane::{Envelope, HandlerError, Problem, Record, Start, Subscription, Then};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::sync::{Arc, Mutex};
use std::time::Duration;

type Admin = AdminClient<DefaultClientContext>;

pub fn admin() -> Admin {
    ClientConfig::new().set("bootstrap.servers", format!("127.0.0.1:{}", shared().port)).create().unwrap()
}

pub fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)))
}

/// Deletes the topic's records below this offset.
fn remove_below(topic: &str, offset: i64) {
    let mut below = TopicPartitionList::new();
    below.add_partition_offset(topic, 0, Offset::Offset(offset)).unwrap();
    let removed = smol::block_on(admin().delete_records(&below, &options())).unwrap();
    removed.elements().iter().for_each(|element| element.error().unwrap());
}

pub fn delete(topic: &str) {
    smol::block_on(admin().delete_topics(&[topic], &options())).unwrap()[0].as_ref().unwrap();
}

/// Makes a topic of this name as soon as the one before is gone.
pub fn make(topic: &str) {
    let admin = admin();
    let new = [NewTopic::new(topic, 1, TopicReplication::Fixed(1))];
    eventually("it is made again", || {
        smol::block_on(admin.create_topics(&new, &options())).is_ok_and(|results| results[0].is_ok())
    })
    .unwrap();
}

/// Deletes the topic and makes it again.
fn make_anew(topic: &str) {
    delete(topic);
    make(topic);
}

#[derive(Debug, PartialEq, Eq)]
struct Lost {
    /// First and last.
    offsets: Option<(u64, u64)>,
    records: u64,
    reason: String,
}

/// What health says is lost.
fn lost(subscription: &Subscription) -> Option<Lost> {
    subscription.health().problems.into_iter().find_map(|problem| match problem {
        Problem::Lost { offsets, records, reason, .. } => Some(Lost { offsets, records, reason }),
        _ => None,
    })
}

#[test]
fn a_position_beyond_the_end_is_told_and_all_that_is_there_is_handled() {
    let (bus, topic) = (connect(1), fresh("beyond"));
    for n in 0..10 {
        bus.publish(&topic, numbered("key", n)).wait().unwrap();
    }
    // As a cluster that was restored from an older state has it.
    commit_by_hand(&topic, &topic, 100, "");
    let (orders, seen) = noting(bus.subscribe_envelopes(&topic).group(&topic));
    within(Duration::from_secs(30), "it is told", || lost(&orders).is_some()).unwrap();
    let Lost { offsets, records, reason } = lost(&orders).unwrap();
    assert_eq!((offsets, records), (None, 0));
    assert!(reason.contains("ends at 10") && reason.contains("position is 100"), "{reason}");
    eventually("all is handled", || seen.lock().unwrap().len() == 10).unwrap();
    orders.acknowledge_lost();
    assert_eq!(lost(&orders), None);
    eventually("its position is one of this log", || {
        committed(shared().port, &topic, &topic, 0).is_some_and(|(offset, _)| offset == 10)
    })
    .unwrap();
}

#[test]
fn a_position_behind_an_open_transaction_is_in_the_log() {
    let (bus, topic) = (connect(1), fresh("open"));
    for n in 0..10 {
        bus.publish(&topic, numbered("key", n)).wait().unwrap();
    }
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", format!("127.0.0.1:{}", shared().port))
        .set("transactional.id", &topic)
        .create()
        .unwrap();
    producer.init_transactions(Duration::from_secs(30)).unwrap();
    producer.begin_transaction().unwrap();
    let record = Record::from(&numbered("key", 10));
    producer
        .send(BaseRecord::to(&topic).key("key").payload(&record.value[..]))
        .map_err(|(error, _)| error)
        .unwrap();
    producer.flush(Duration::from_secs(30)).unwrap();
    // By a tool that sets it to the end, or a member that read what was not committed.
    commit_by_hand(&topic, &topic, 11, "");
    let (orders, seen) = noting(bus.subscribe_envelopes(&topic).group(&topic));
    orders.ready().wait().unwrap();
    producer.commit_transaction(Duration::from_secs(30)).unwrap();
    bus.publish(&topic, numbered("key", 12)).wait().unwrap();
    eventually("what is stored from there on is handled", || seen.lock().unwrap().last() == Some(&12))
        .unwrap();
    assert_eq!((seen.lock().unwrap().clone(), lost(&orders)), (vec![12], None));
}

#[test]
fn text_that_belongs_to_another_offset_hides_no_record() {
    let (bus, topic) = (connect(1), fresh("mirrored"));
    for n in 0..40 {
        let key = if n == 0 { "held" } else { "free" };
        bus.publish(&topic, numbered(key, n)).wait().unwrap();
    }
    let held = |event: &keylane::Event| match event.aggregate_id() {
        Some("held") => Err(HandlerError::terminal("planted")),
        _ => Ok(()),
    };
    let builder = bus.subscribe_envelopes(&topic).group(&topic).then(Then::Hold);
    let orders = builder.handle(held).unwrap();
    eventually("the others are handled", || orders.stats().succeeded == 39).unwrap();
    orders.drain(Duration::from_secs(10)).wait();
    let (offset, text) = committed(shared().port, &topic, &topic, 0).unwrap();
    assert!(offset == 0 && !text.is_empty(), "{offset} {text}");
    // As MirrorMaker 2 does: the offset is translated, and the text copied.
    let mirror = fresh("mirror");
    for n in 0..60 {
        bus.publish(&mirror, numbered("key", n)).wait().unwrap();
    }
    commit_by_hand(&mirror, &mirror, 20, &text);
    let (_orders, seen) = noting(bus.subscribe_envelopes(&mirror).group(&mirror));
    eventually("all from there on is handled", || seen.lock().unwrap().len() == 40).unwrap();
    assert_eq!(*seen.lock().unwrap(), (20..60).collect::<Vec<_>>());
}

#[test]
fn records_that_are_removed_before_a_group_begins_are_counted_and_named() {
    let (bus, topic) = (connect(1), fresh("removed"));
    for n in 0..50 {
        bus.publish(&topic, numbered("key", n)).wait().unwrap();
    }
    commit_by_hand(&topic, &topic, 5, "");
    remove_below(&topic, 30);
    let (orders, seen) = noting(bus.subscribe_envelopes(&topic).group(&topic));
    eventually("the rest is handled", || seen.lock().unwrap().len() == 20).unwrap();
    let Lost { offsets, records, reason } = lost(&orders).expect("it is told");
    assert_eq!((offsets, records, orders.stats().lost), (Some((5, 29)), 25, 25), "{reason}");
    assert_eq!(*seen.lock().unwrap(), (30..50).collect::<Vec<_>>());
}

#[test]
fn records_that_are_removed_before_a_running_member_are_counted_and_named() {
    const RECORDS: u64 = 1_000;
    const KEPT: u64 = 900;
    let (bus, topic) = (connect(1), fresh("overtaken"));
    bus.create_topic(&topic).wait().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let handled = seen.clone();
    // Far less is fetched ahead than there is.
    let builder = bus.subscribe_envelopes(&topic).group(&topic).in_flight_bytes(1 << 20);
    let orders = builder.handle(move |event| {
        handled.lock().unwrap().push(event.offset());
        Ok(())
    });
    let orders = orders.unwrap();
    orders.ready().wait().unwrap();
    orders.pause();
    let payload = format!("\"{}\"", "x".repeat(50_000));
    for _ in 0..RECORDS {
        let envelope = Envelope::new("key", "test.large", 1, payload.as_str()).unwrap();
        bus.publish(&topic, envelope).wait().unwrap();
    }
    remove_below(&topic, KEPT.cast_signed());
    orders.resume();
    within(Duration::from_secs(60), "the rest is handled", || {
        seen.lock().unwrap().last() == Some(&(RECORDS - 1))
    })
    .unwrap();
    let seen = seen.lock().unwrap().clone();
    let first = (RECORDS - KEPT) as usize;
    let ahead = seen.len() - first;
    assert_eq!(seen[ahead..], (KEPT..RECORDS).collect::<Vec<_>>());
    assert_eq!(seen[..ahead], (0..ahead as u64).collect::<Vec<_>>());
    let Lost { offsets, records, reason } = lost(&orders).expect("it is told");
    assert_eq!((offsets, records), (Some((ahead as u64, KEPT - 1)), KEPT - ahead as u64), "{reason}");
    assert_eq!(orders.stats().lost, records);
}

#[test]
fn a_partition_that_is_added_later_begins_with_its_first_record() {
    let (bus, topic) = (connect(2), fresh("added"));
    bus.create_topic(&topic).wait().unwrap();
    let mut config = config(shared().port, 2);
    config.kafka.create_topics = false;
    config.kafka.properties.0.insert("topic.metadata.refresh.interval.ms".into(), "1000".into());
    let other = keylane::connect_with(config).wait().unwrap();
    let (orders, seen) = noting(other.subscribe_envelopes(&topic).group(&topic).start(Start::Latest));
    orders.ready().wait().unwrap();
    smol::block_on(admin().create_partitions(&[NewPartitions::new(&topic, 8)], &options())).unwrap();
    let fresh = connect(8);
    // Whoever publishes sees the new partitions at once, the group later.
    let mut in_new = 0;
    for n in 0..40 {
        let receipt = fresh.publish(&topic, numbered(&format!("key-{n}"), n)).wait().unwrap();
        in_new += u64::from(receipt.partition() >= 2);
    }
    assert!(in_new > 0, "no record is in a new partition");
    within(Duration::from_secs(60), "all is handled", || seen.lock().unwrap().len() == 40).unwrap();
}

fn a_topic_made_anew_is_handled_from_its_first_record(protocol: GroupProtocol) {
    let (bus, topic) = (connect(1), fresh("anew"));
    for n in 0..20 {
        bus.publish(&topic, numbered("key", n)).wait().unwrap();
    }
    let mut config = config(shared().port, 1);
    config.kafka.group_protocol = protocol;
    config.kafka.properties.0.insert("topic.metadata.refresh.interval.ms".into(), "1000".into());
    let other = keylane::connect_with(config).wait().unwrap();
    let (_orders, seen) = noting(other.subscribe_envelopes(&topic).group(&topic));
    eventually("all is handled", || seen.lock().unwrap().len() == 20).unwrap();
    make_anew(&topic);
    let fresh = connect(1);
    for n in 100..107 {
        fresh.publish(&topic, numbered("key", n)).wait().unwrap();
    }
    within(Duration::from_secs(60), "the new records are handled", || seen.lock().unwrap().len() == 27)
        .unwrap();
    assert_eq!(seen.lock().unwrap()[20..], (100..107).collect::<Vec<_>>());
}

#[test]
fn a_topic_made_anew_is_handled_from_its_first_record_in_a_classic_group() {
    a_topic_made_anew_is_handled_from_its_first_record(GroupProtocol::CooperativeSticky);
}

#[test]
fn a_topic_made_anew_is_handled_from_its_first_record_with_kip_848() {
    a_topic_made_anew_is_handled_from_its_first_record(GroupProtocol::Consumer);
}

/// Records enough that the old position is one of the new log, too.
fn a_topic_made_anew_with_more_records_is_handled_from_its_first_record(protocol: GroupProtocol) {
    let (bus, topic) = (connect(1), fresh("longer"));
    for n in 0..20 {
        bus.publish(&topic, numbered("key", n)).wait().unwrap();
    }
    let mut config = config(shared().port, 1);
    config.kafka.group_protocol = protocol;
    let other = keylane::connect_with(config).wait().unwrap();
    let (orders, seen) = noting(other.subscribe_envelopes(&topic).group(&topic));
    eventually("all is handled", || seen.lock().unwrap().len() == 20).unwrap();
    make_anew(&topic);
    let fresh = connect(1);
    for n in 100..140 {
        fresh.publish(&topic, numbered("key", n)).wait().unwrap();
    }
    let all: Vec<u64> = (100..140).collect();
    // Some may have been handled before it was seen that the log is another one.
    within(Duration::from_secs(30), "the new records are handled from the first on", || {
        seen.lock().unwrap().ends_with(&all)
    })
    .unwrap_or_else(|error| panic!("{error}: {:?}, {:?}", seen.lock().unwrap(), orders.health()));
    let Lost { offsets, records, reason } = lost(&orders).expect("it is told");
    assert_eq!((offsets, records), (None, 0));
    assert!(reason.contains("made anew"), "{reason}");
    eventually("its position is one of this log", || {
        committed(shared().port, &topic, &topic, 0).is_some_and(|(offset, _)| offset == 40)
    })
    .unwrap();
}

#[test]
fn a_topic_made_anew_with_more_records_is_handled_from_its_first_record_in_a_classic_group() {
    a_topic_made_anew_with_more_records_is_handled_from_its_first_record(GroupProtocol::CooperativeSticky);
}

#[test]
fn a_topic_made_anew_with_more_records_is_handled_from_its_first_record_with_kip_848() {
    a_topic_made_anew_with_more_records_is_handled_from_its_first_record(GroupProtocol::Consumer);
}

#[test]
fn a_position_of_another_log_is_told_and_that_log_is_handled_from_its_first_record() {
    let (bus, topic) = (connect(1), fresh("restored"));
    for n in 0..20 {
        bus.publish(&topic, numbered("key", n)).wait().unwrap();
    }
    let (orders, seen) = noting(bus.subscribe_envelopes(&topic).group(&topic));
    eventually("all is handled", || seen.lock().unwrap().len() == 20).unwrap();
    orders.drain(Duration::from_secs(10)).wait();
    let (offset, text) = committed(shared().port, &topic, &topic, 0).unwrap();
    assert!(offset == 20 && !text.is_empty(), "{offset} {text}");
    make_anew(&topic);
    let fresh = connect(1);
    for n in 100..140 {
        fresh.publish(&topic, numbered("key", n)).wait().unwrap();
    }
    // As another cluster has it, to which the positions were copied.
    commit_by_hand(&topic, &topic, offset, &text);
    let (orders, seen) = noting(fresh.subscribe_envelopes(&topic).group(&topic));
    eventually("all is handled", || seen.lock().unwrap().len() == 40).unwrap();
    assert_eq!(*seen.lock().unwrap(), (100..140).collect::<Vec<_>>());
    let Lost { offsets, records, reason } = lost(&orders).expect("it is told");
    assert_eq!((offsets, records), (None, 0));
    assert!(reason.contains("another log"), "{reason}");
}
