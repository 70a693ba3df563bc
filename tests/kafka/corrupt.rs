//! A batch that is not what was written: nothing of it, and nothing behind it, reaches a handler until it is repaired.

use crate::cluster::{connect_to, fresh};
use crate::support::servers;
use crate::support::{capture_log, eventually, logged, within};
use keylane::{Problem, Subscription};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Partition, offset and reason of what stands.
fn stuck(subscription: &Subscription) -> Vec<(Option<u32>, Option<u64>, String)> {
    let problems = subscription.health().problems.into_iter();
    let stuck = problems.filter_map(|problem| match problem {
        Problem::Stuck { partition, offset, reason, .. } => Some((partition, offset, reason)),
        _ => None,
    });
    stuck.collect()
}

fn a_damaged_batch_stops_its_partition_alone(compression: &str, said: &str) {
    const BATCH: u64 = 5;
    capture_log();
    let server = servers::kafka(&[], "");
    let (bus, topic) = (connect_to(server.port, 2, |_| {}), fresh("damaged"));
    bus.create_topic(&topic).wait().unwrap();
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", format!("127.0.0.1:{}", server.port))
        .set("compression.codec", compression)
        .set("linger.ms", "100")
        .create()
        .unwrap();
    let publish = |partition: i32, first: u64| {
        for n in first..first + BATCH {
            let text = format!("{n} {}", "payload ".repeat(20));
            let record = BaseRecord::<str, str>::to(&topic).partition(partition).key("key").payload(&text);
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(Duration::from_secs(30)).unwrap();
    };
    (0..3).for_each(|batch| publish(0, batch * BATCH));
    // Some bytes in the middle of the second batch, in place.
    let log = server.folder().join("data").join(format!("{topic}-0")).join("00000000000000000000.log");
    let bytes = fs::read(&log).unwrap();
    let first = u32::from_be_bytes(bytes[8..12].try_into().unwrap()) as usize + 12;
    let at = first + 61 + 20;
    let file = OpenOptions::new().write(true).open(&log).unwrap();
    file.write_all_at(&[0xaa; 3], at as u64).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let handled = seen.clone();
    let orders = bus.subscribe(&topic).group(&topic).handle(move |event| {
        handled.lock().unwrap().push((event.partition(), event.offset()));
        Ok(())
    });
    let orders = orders.unwrap();
    let of = |partition: u32| {
        let seen = seen.lock().unwrap();
        seen.iter().filter(|(of, _)| *of == partition).map(|(_, offset)| *offset).collect::<Vec<_>>()
    };
    within(Duration::from_secs(30), "it is told", || !stuck(&orders).is_empty())
        .unwrap_or_else(|error| panic!("{error}; {:?} {:?}", of(0), orders.health()));
    let [(partition, offset, reason)] = &stuck(&orders)[..] else { panic!("{:?}", orders.health()) };
    assert_eq!((*partition, *offset), (Some(0), Some(BATCH)), "{reason}");
    assert!(reason.contains(said), "{reason}");
    publish(1, 0);
    eventually("the other partition goes on", || of(1).len() as u64 == BATCH).unwrap();
    let errors = || logged(&["ERROR", &topic, said]);
    let before = errors();
    assert!(before > 0, "nobody said so");
    eventually("it is tried again, and said again", || errors() > before).unwrap();
    assert!(errors() < before + 10, "it is tried all the time");
    assert_eq!(of(0), (0..BATCH).collect::<Vec<_>>(), "nothing behind it, and nothing twice");
    // As a replica that was repaired.
    file.write_all_at(&bytes[at..at + 3], at as u64).unwrap();
    within(Duration::from_secs(40), "it goes on", || of(0).len() as u64 == 3 * BATCH).unwrap();
    assert_eq!(of(0), (0..3 * BATCH).collect::<Vec<_>>());
    within(Duration::from_secs(10), "it is over", || orders.health().is_healthy())
        .unwrap_or_else(|error| panic!("{error}; {:?}", orders.health()));
}

#[test]
fn a_batch_whose_checksum_is_wrong_stops_its_partition_alone_until_it_is_repaired() {
    a_damaged_batch_stops_its_partition_alone("none", "CRC");
}

#[test]
fn a_compressed_batch_whose_checksum_is_wrong_stops_its_partition_alone_until_it_is_repaired() {
    a_damaged_batch_stops_its_partition_alone("lz4", "CRC");
}
