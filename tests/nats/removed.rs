//! Records that operators and limits remove from a stream, while they are in hand, on their way, and not yet delivered:
//! order holds, what is there is handled, and what no handler saw is told.

use crate::admin::Admin;
use crate::support::servers::{proxy::Protocol, proxy::Proxy};
use crate::support::{eventually, number, numbered, within};
use crate::{connect, connect_to, server};
use async_nats::jetstream::stream::DiscardPolicy;
use keylane::{Bus, Problem, Subscription};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const RECORDS: u64 = 30;
/// In flight, and as many are fetched beyond.
const IN_FLIGHT: u64 = 5;

/// A subscription whose handler takes as many records as it is allowed.
struct Slow {
    subscription: Subscription,
    allowed: Arc<AtomicU64>,
    came: Arc<Mutex<Vec<(String, u64)>>>,
}

impl Slow {
    fn start(bus: &Bus) -> Self {
        let (allowed, came) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (limit, kept) = (allowed.clone(), came.clone());
        let builder = bus.subscribe_envelopes("orders").group("slow").workers(2);
        let subscription = builder
            .in_flight_records(IN_FLIGHT as usize)
            .handle(move |event| {
                while limit.load(Ordering::Acquire) <= number(event) {
                    std::thread::sleep(Duration::from_micros(200));
                }
                let key = event.aggregate_id().unwrap_or_default().to_owned();
                kept.lock().unwrap().push((key, number(event)));
                Ok(())
            })
            .unwrap();
        subscription.ready().wait().unwrap();
        Self { subscription, allowed, came }
    }

    fn allow(&self, records: u64) {
        self.allowed.store(records, Ordering::Release);
    }

    /// What was handled of a key, in that order.
    fn of(&self, key: &str) -> Vec<u64> {
        self.came.lock().unwrap().iter().filter(|(other, _)| other == key).map(|(_, n)| *n).collect()
    }

    /// First and last offset, and how many records no handler saw.
    fn lost(&self) -> Option<(Option<(u64, u64)>, u64)> {
        self.subscription.health().problems.into_iter().find_map(|problem| match problem {
            Problem::Lost { offsets, records, reason, .. } => {
                assert!(reason.contains("removed"), "{reason}");
                Some((offsets, records))
            }
            _ => None,
        })
    }
}

/// Records 0 to 29 under one key, or in turn under two; 0 to 4 are handled, 5 to 9 are in hand, and 10 to 14 were
/// delivered and lost on their way when the act is done; then the connection is cut, and everything may be handled.
fn removed_and_cut(keys: &[&str], act: impl FnOnce(&Admin)) -> Slow {
    let server = server(&["orders"]);
    let admin = Admin::of(&server);
    let direct = connect(&server, |_| {});
    for n in 0..RECORDS {
        let key = keys[n as usize % keys.len()];
        direct.publish("orders", numbered(key, n)).wait().unwrap();
    }
    let proxy = Proxy::start(0, server.port, Protocol::Nats);
    // No pull and no lease ends while nothing is heard.
    let bus = connect_to(proxy.port(), |config| config.nats.takeover_after = Duration::from_secs(60));
    let slow = Slow::start(&bus);
    let state = || {
        let info = admin.consumer("orders", "slow");
        (info.delivered.stream_sequence, info.num_ack_pending as u64)
    };
    eventually("what is in flight and as much again is delivered", || {
        state() == (2 * IN_FLIGHT, 2 * IN_FLIGHT)
    })
    .unwrap();
    let mut passed = (proxy.answered(), Instant::now());
    eventually("all of that has come through", || {
        if proxy.answered() != passed.0 {
            passed = (proxy.answered(), Instant::now());
        }
        passed.1.elapsed() > Duration::from_millis(200)
    })
    .unwrap();
    proxy.set_deaf(true);
    slow.allow(IN_FLIGHT);
    eventually("five are acknowledged, and five more are on their way", || {
        state() == (3 * IN_FLIGHT, 2 * IN_FLIGHT)
    })
    .unwrap();
    act(&admin);
    proxy.set_deaf(false);
    proxy.cut();
    slow.allow(RECORDS);
    let subscription = &slow.subscription;
    within(Duration::from_secs(60), "all that is there is handled", || {
        let info = admin.consumer("orders", "slow");
        info.num_pending == 0 && info.num_ack_pending == 0 && subscription.stats().in_flight == 0
    })
    .unwrap();
    slow
}

#[test]
fn a_purge_of_what_is_in_hand_lets_nothing_overtake_what_was_lost_on_its_way() {
    let slow = removed_and_cut(&["key"], |admin| admin.purge_before("orders", 11));
    assert_eq!(slow.of("key"), (0..30).collect::<Vec<_>>(), "what was in hand is handled, too");
    assert_eq!(slow.lost(), None);
}

#[test]
fn a_limit_that_removes_what_is_in_hand_and_more_lets_nothing_overtake() {
    let slow = removed_and_cut(&["key"], |admin| {
        admin.configure("orders", |config| {
            (config.max_messages, config.discard) = (17, DiscardPolicy::Old);
        });
    });
    let expected: Vec<u64> = (0..10).chain(13..30).collect();
    assert_eq!(slow.of("key"), expected);
    eventually("what was removed on its way is told", || slow.lost() == Some((Some((11, 13)), 3))).unwrap();
    assert_eq!(slow.subscription.stats().lost, 3);
}

#[test]
fn single_messages_that_are_deleted_let_nothing_overtake() {
    let slow = removed_and_cut(&["key"], |admin| {
        [6, 7, 8, 9, 10, 12].into_iter().for_each(|sequence| admin.delete_message("orders", sequence));
    });
    let expected: Vec<u64> = (0..11).chain(12..30).collect();
    assert_eq!(slow.of("key"), expected);
    eventually("the one that nobody saw is told", || slow.lost() == Some((Some((12, 12)), 1))).unwrap();
}

#[test]
fn a_purge_of_one_key_leaves_the_others_their_order() {
    // The server goes on counting what was delivered and is not there any more.
    let slow = removed_and_cut(&["a", "b"], |admin| admin.purge_subjects("orders", "orders.a"));
    assert_eq!(slow.of("a"), [0, 2, 4, 6, 8], "up to what was in hand");
    assert_eq!(slow.of("b"), (0..30).filter(|n| n % 2 == 1).collect::<Vec<_>>());
    eventually("what is gone of the other key is told", || {
        slow.lost().is_some_and(|(_, records)| records == 10)
    })
    .unwrap();
}

#[test]
fn records_that_are_removed_before_they_are_delivered_are_told_without_a_reconnect() {
    let server = server(&["orders"]);
    let (admin, bus) = (Admin::of(&server), connect(&server, |_| {}));
    for n in 0..RECORDS {
        bus.publish("orders", numbered("key", n)).wait().unwrap();
    }
    let slow = Slow::start(&bus);
    eventually("some are delivered", || {
        admin.consumer("orders", "slow").delivered.stream_sequence == 2 * IN_FLIGHT
    })
    .unwrap();
    admin.purge_before("orders", 21);
    slow.allow(RECORDS);
    eventually("what is left is handled", || slow.of("key").len() == 20).unwrap();
    assert_eq!(slow.of("key"), (0..10).chain(20..30).collect::<Vec<_>>());
    eventually("it is told", || slow.lost() == Some((Some((11, 20)), 10))).unwrap();
    assert_eq!(slow.subscription.stats().lost, 10);
    slow.subscription.acknowledge_lost();
    // Where nothing comes behind them, it is found by a look.
    slow.allow(0);
    for n in RECORDS..2 * RECORDS {
        bus.publish("orders", numbered("key", n)).wait().unwrap();
    }
    eventually("some are delivered", || {
        admin.consumer("orders", "slow").delivered.stream_sequence == RECORDS + 2 * IN_FLIGHT
    })
    .unwrap();
    admin.purge("orders");
    within(Duration::from_secs(30), "it is told", || slow.lost() == Some((Some((41, 60)), 20))).unwrap();
    slow.allow(u64::MAX);
    eventually("what was in hand is handled", || slow.of("key").len() == 30).unwrap();
    slow.subscription.acknowledge_lost();
    eventually("it is healthy", || slow.subscription.health().is_healthy()).unwrap();
}
