//! What a group remembers: positions, what was settled ahead of them, where it begins, gaps.

use crate::cluster::{commit_by_hand, committed, connect, connect_to, fresh, noting, shared};
use crate::support::servers::lease_listener;
use crate::support::servers::proxy::{Protocol, Proxy};
use crate::support::{capture_log, eventually, logged, number, numbered, within};
use keylane::{HandlerError, Record, Start, Then};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::time::Duration;

#[test]
fn what_was_settled_ahead_is_not_handled_again_after_a_crash() {
    let lease = lease_listener();
    let proxy = Proxy::start(lease.advertised, lease.port, Protocol::Kafka);
    let bus = connect_to(lease.advertised, 1, |_| {});
    let topic = fresh("ahead");
    bus.create_topic(&topic).wait().unwrap();
    for n in 0..100 {
        let key = if n % 10 == 3 { "held" } else { "free" };
        bus.publish(&topic, numbered(key, n)).wait().unwrap();
    }
    let orders = bus
        .subscribe_envelopes(&topic)
        .group(&topic)
        .then(Then::Hold)
        .handle(|event| match event.aggregate_id() {
            Some("held") => Err(HandlerError::terminal("planted")),
            _ => Ok(()),
        })
        .unwrap();
    eventually("the others are handled", || orders.stats().succeeded == 90).unwrap();
    let mut before = None;
    eventually("the position says so of all", || {
        let found = committed(shared().port, &topic, &topic, 0);
        let is_last = found == before && found.as_ref().is_some_and(|(offset, _)| *offset == 3);
        before = found;
        // Twice the longest pause between commits.
        std::thread::sleep(Duration::from_millis(400));
        is_last
    })
    .unwrap();
    // It can't say good-bye.
    proxy.set_reachable(false);
    drop(orders);
    let other = connect(1);
    let (again, seen) = noting(other.subscribe_envelopes(&topic).group(&topic));
    within(Duration::from_secs(40), "the held ones are handled", || seen.lock().unwrap().len() >= 10)
        .unwrap();
    eventually("all is committed", || {
        committed(shared().port, &topic, &topic, 0).is_some_and(|(offset, _)| offset == 100)
    })
    .unwrap();
    assert_eq!(*seen.lock().unwrap(), (0..10).map(|n| n * 10 + 3).collect::<Vec<_>>(), "and nothing else");
    drop(again);
}

#[test]
fn a_position_with_somebody_elses_text_beside_it_is_a_position() {
    let (bus, topic) = (connect(1), fresh("foreign"));
    for n in 0..10 {
        bus.publish(&topic, numbered("key", n)).wait().unwrap();
    }
    commit_by_hand(&topic, &topic, 4, "somebody's");
    let (_orders, seen) = noting(bus.subscribe_envelopes(&topic).group(&topic));
    eventually("the rest is handled", || seen.lock().unwrap().len() == 6).unwrap();
    assert_eq!(*seen.lock().unwrap(), (4..10).collect::<Vec<_>>());
}

#[test]
fn a_group_that_begins_at_the_end_misses_nothing_after_it_joined() {
    let lease = lease_listener();
    let proxy = Proxy::start(lease.advertised, lease.port, Protocol::Kafka);
    let bus = connect_to(lease.advertised, 1, |_| {});
    let topic = fresh("latest");
    bus.publish(&topic, numbered("key", 0)).wait().unwrap();
    let orders =
        bus.subscribe_envelopes(&topic).group(&topic).start(Start::Latest).handle(|_| Ok(())).unwrap();
    orders.ready().wait().unwrap();
    // A crash before anything was handled: the position is there all the same.
    assert_eq!(committed(shared().port, &topic, &topic, 0), Some((1, String::new())));
    proxy.set_reachable(false);
    drop(orders);
    let other = connect(1);
    other.publish(&topic, numbered("key", 1)).wait().unwrap();
    let (_again, seen) = noting(other.subscribe_envelopes(&topic).group(&topic).start(Start::Latest));
    within(Duration::from_secs(40), "it is handled", || !seen.lock().unwrap().is_empty()).unwrap();
    assert_eq!(*seen.lock().unwrap(), [1]);
}

#[test]
fn what_a_transaction_took_back_is_not_handled() {
    let (bus, topic) = (connect(1), fresh("transactions"));
    bus.create_topic(&topic).wait().unwrap();
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", format!("127.0.0.1:{}", shared().port))
        .set("transactional.id", &topic)
        .create()
        .unwrap();
    producer.init_transactions(Duration::from_secs(30)).unwrap();
    for (first, is_aborted) in [(0, false), (10, true), (20, false), (30, true)] {
        producer.begin_transaction().unwrap();
        for n in first..first + 10 {
            let record = Record::from(&numbered("key", n));
            let record = BaseRecord::to(&topic).key("key").payload(&record.value[..]);
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        if is_aborted {
            producer.flush(Duration::from_secs(30)).unwrap();
            producer.abort_transaction(Duration::from_secs(30)).unwrap();
        } else {
            producer.commit_transaction(Duration::from_secs(30)).unwrap();
        }
    }
    let (orders, seen) = noting(bus.subscribe_envelopes(&topic).group(&topic));
    eventually("the others are handled", || seen.lock().unwrap().len() >= 20).unwrap();
    bus.publish(&topic, numbered("key", 40)).wait().unwrap();
    eventually("the next one is handled", || seen.lock().unwrap().len() >= 21).unwrap();
    assert_eq!(*seen.lock().unwrap(), (0..10).chain(20..30).chain([40]).collect::<Vec<_>>());
    // 40 records, four ends of transactions, and one more.
    eventually("its position is behind the gap", || {
        committed(shared().port, &topic, &topic, 0).is_some_and(|(offset, _)| offset == 45)
    })
    .unwrap();
    assert!(orders.health().is_healthy());
}

#[test]
fn a_compacted_topic_is_handled_over_its_gaps() {
    use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
    let topic = fresh("compacted");
    let admin: AdminClient<_> = ClientConfig::new()
        .set("bootstrap.servers", format!("127.0.0.1:{}", shared().port))
        .create()
        .unwrap();
    let settings = [
        ("cleanup.policy", "compact"),
        ("min.cleanable.dirty.ratio", "0.001"),
        ("segment.ms", "100"),
        ("max.compaction.lag.ms", "100"),
    ];
    let new = settings
        .into_iter()
        .fold(NewTopic::new(&topic, 1, TopicReplication::Fixed(1)), |topic, (name, value)| {
            topic.set(name, value)
        });
    smol::block_on(admin.create_topics(&[new], &AdminOptions::new())).unwrap();
    let bus = connect(1);
    for n in 0..200 {
        bus.publish(&topic, numbered(&format!("key-{}", n % 3), n)).wait().unwrap();
    }
    // Segments that are not the newest are compacted; a group of its own looks how many are left.
    let left = || {
        let group = fresh("look");
        let (orders, seen) = noting(bus.subscribe_envelopes(&topic).group(&group).workers(1));
        let end = committed_is(&group, &topic, 200);
        assert!(orders.health().is_healthy());
        end.unwrap();
        seen.lock().unwrap().clone()
    };
    let mut numbers = Vec::new();
    within(Duration::from_secs(90), "the topic is compacted", || {
        // A new segment needs a record.
        numbers = left();
        numbers.len() < 200
    })
    .unwrap();
    let mut sorted = numbers.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len(), numbers.len(), "each once");
    assert!(numbers.ends_with(&[199]) || numbers.contains(&199));
    for key in 0..3 {
        let of_key: Vec<_> = numbers.iter().filter(|n| *n % 3 == key).collect();
        assert!(of_key.is_sorted(), "{of_key:?}");
    }
}

fn committed_is(group: &str, topic: &str, offset: i64) -> Result<(), String> {
    within(Duration::from_secs(30), "the group is at the end", || {
        committed(shared().port, group, topic, 0).is_some_and(|(at, _)| at == offset)
    })
}

/// So much is settled ahead in single records that it does not fit beside the offset: fetching stops before anything is
/// cut, and goes on when the first of the held ones is over.
#[test]
fn what_does_not_fit_beside_the_offset_stops_fetching_and_breaks_no_commit() {
    const RECORDS: u64 = 40_000;
    let bus = connect_to(shared().port, 1, |config| {
        config.publisher.records = 20_000;
        // As many as are held where the room is taken, and no more than half as many behind them.
        config.subscription.in_flight_records = 14_000;
        config.subscription.watermark_distance = 100_000;
        // Told by a commit, so that few are fetched between two.
        config.subscription.commit_interval = Some(Duration::from_millis(20));
    });
    let topic = fresh("crowded");
    bus.create_topic(&topic).wait().unwrap();
    // Every other record is held, so that each settled one is a range of its own.
    let receipts: Vec<_> = (0..RECORDS)
        .map(|n| {
            bus.publish(&topic, numbered(&format!("{}-{n}", if n % 2 == 0 { "held" } else { "free" }), n))
        })
        .collect();
    receipts.into_iter().for_each(|receipt| drop(receipt.wait().unwrap()));
    let orders =
        bus.subscribe_envelopes(&topic)
            .group(&topic)
            .workers(1)
            .then(Then::Hold)
            .handle(|event| {
                if number(event).is_multiple_of(2) { Err(HandlerError::terminal("planted")) } else { Ok(()) }
            })
            .unwrap();
    let text = || committed(shared().port, &topic, &topic, 0).map(|(offset, text)| (offset, text.len()));
    let mut seen = None;
    within(Duration::from_secs(60), "the room beside the offset is almost taken", || {
        seen = text();
        seen.is_some_and(|(offset, bytes)| offset == 0 && bytes > 4_096 / 4 * 3)
    })
    .unwrap_or_else(|error| panic!("{error}; it has come to {seen:?}"));
    // What was fetched before that is handled, and then nothing moves though there is more.
    let mut handled = 0;
    within(Duration::from_secs(30), "fetching has stopped", || {
        let now = orders.stats().succeeded;
        std::thread::sleep(Duration::from_millis(500));
        std::mem::replace(&mut handled, orders.stats().succeeded) == now && now > 0
    })
    .unwrap();
    // The window alone would stop it when as many have been handled as are held.
    assert!(handled < 13_500, "{handled} were handled: it did not stop where its room was taken");
    let (offset, bytes) = text().expect("committed");
    assert!(offset == 0 && bytes <= 4_096, "offset {offset} with {bytes} bytes");
    let problems = orders.health().problems;
    assert!(!problems.iter().any(|problem| problem.to_string().contains("does not answer")), "{problems:?}");
}

#[test]
fn records_that_were_removed_before_they_were_handled_are_missed_aloud() {
    use rdkafka::admin::{AdminClient, AdminOptions};
    capture_log();
    let (bus, topic) = (connect(1), fresh("removed"));
    for n in 0..10 {
        bus.publish(&topic, numbered("key", n)).wait().unwrap();
    }
    let client: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", format!("127.0.0.1:{}", shared().port))
        .set("group.id", &topic)
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&topic, 0, Offset::Offset(2)).unwrap();
    client.commit(&list, CommitMode::Sync).unwrap();
    let admin: AdminClient<_> = ClientConfig::new()
        .set("bootstrap.servers", format!("127.0.0.1:{}", shared().port))
        .create()
        .unwrap();
    list.set_all_offsets(Offset::Offset(6)).unwrap();
    smol::block_on(admin.delete_records(&list, &AdminOptions::new())).unwrap();
    let (_orders, seen) = noting(bus.subscribe_envelopes(&topic).group(&topic));
    eventually("the rest is handled", || seen.lock().unwrap().len() == 4).unwrap();
    assert_eq!(*seen.lock().unwrap(), [6, 7, 8, 9]);
    assert_eq!(
        logged(&["ERROR", "records of the log are gone", &topic, "first=2", "last=5", "records=4"]),
        1,
        "nobody said so"
    );
}
