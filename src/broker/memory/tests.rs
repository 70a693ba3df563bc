mod model;

use super::*;
use crate::broker::{Budget, Committed, Durability, Fetched, Partition, Polled, Position, Start};
use crate::sync::{AtomicUsize, thread};
use crate::wait::ManualClock;
use crate::wait::Parker;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::task::Wake;
use std::time::Duration;

/// Counts the wakes.
#[derive(Default)]
struct Counter(AtomicUsize);

impl Counter {
    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn unlimited() -> Budget {
    Budget { records: usize::MAX, bytes: usize::MAX }
}

/// The answer to one publish, which the memory broker gives at once.
fn answer_of(broker: &MemoryBroker, topic: &str, record: Record) -> Result<Stored, PublishFault> {
    struct Slot(Arc<Mutex<Option<Result<Stored, PublishFault>>>>);
    impl Ticket for Slot {
        fn id(&self) -> u64 {
            0
        }

        fn answer(self: Box<Self>, result: Result<Stored, PublishFault>) {
            let before = self.0.lock().replace(result);
            assert!(before.is_none(), "answered twice");
        }
    }
    let slot = Arc::new(Mutex::new(None));
    broker.publish(&topic.into(), Arc::new(record), Box::new(Slot(slot.clone())));
    let answer = slot.lock().take();
    answer.expect("answered at once")
}

/// A member of the group "g", with what it was told.
struct Joined {
    consumer: Box<dyn Consumer>,
    wakes: Arc<Counter>,
    held: BTreeMap<u32, Partition>,
    revoked: Vec<Partition>,
    lost: Vec<Partition>,
}

impl Joined {
    fn to(broker: &MemoryBroker, start: Start) -> Self {
        Self::subscribed(broker, &["t"], start)
    }

    fn subscribed(broker: &MemoryBroker, topics: &[&str], start: Start) -> Self {
        let wakes = Arc::new(Counter::default());
        let topics = topics.iter().map(|&topic| topic.into()).collect();
        let spec = ConsumerSpec { topics, ..ConsumerSpec::for_test("t", "g", start) };
        let consumer = broker.subscribe(&spec, wakes.clone().into()).unwrap();
        Self { consumer, wakes, held: BTreeMap::new(), revoked: Vec::new(), lost: Vec::new() }
    }

    fn poll(&mut self) -> Vec<Fetched> {
        self.poll_within(unlimited())
    }

    fn poll_within(&mut self, budget: Budget) -> Vec<Fetched> {
        let mut out = Vec::new();
        self.consumer.poll(budget, &mut out).unwrap();
        let mut records = Vec::new();
        for polled in out {
            match polled {
                Polled::Assigned(partition, _) => drop(self.held.insert(partition.partition, partition)),
                Polled::Revoked(partition) => self.revoked.push(partition),
                Polled::Lost(partition) => self.lost.push(partition),
                Polled::Record(fetched) => records.push(fetched),
                Polled::CommitFailed(..) | Polled::Gone(..) | Polled::Stuck(..) => {
                    unreachable!("a commit in memory answers at once")
                }
            }
        }
        records
    }

    fn settle(&mut self, partition: u32, watermark: u64) -> Result<Committed, BrokerError> {
        self.commit(self.held[&partition], &Position { watermark, ahead: Vec::new() })
    }

    fn commit(&mut self, partition: Partition, position: &Position) -> Result<Committed, BrokerError> {
        self.consumer.commit(partition, position, Durability::Accepted)
    }
}

fn broker() -> MemoryBroker {
    MemoryBroker::builder().topic_with("t", 1).build()
}

fn timed_broker() -> (MemoryBroker, ManualClock) {
    let (clock, time) = Clock::manual();
    (MemoryBroker::builder().topic_with("t", 1).clock(clock).build(), time)
}

fn publish(broker: &MemoryBroker, n: usize) {
    for i in 0..n {
        broker.append("t", Record::new(i.to_string())).unwrap();
    }
}

fn offsets(records: &[Fetched]) -> Vec<u64> {
    records.iter().map(|fetched| fetched.offset).collect()
}

#[test]
fn records_without_a_key_go_round_robin() {
    let broker = MemoryBroker::builder().partitions(3).topic("t").build();
    let mut counts = [0; 3];
    for _ in 0..300 {
        counts[broker.append("t", Record::new("x")).unwrap().0 as usize] += 1;
    }
    assert_eq!(counts, [100; 3]);
}

#[test]
fn keys_are_spread_and_not_along_the_buckets_of_the_pool() {
    let broker = MemoryBroker::builder().partitions(4).topic("t").build();
    // Of the keys of one partition, how many fall to each of 4 workers: an equal hash would give one worker all.
    let mut counts = [[0_u32; 4]; 4];
    for n in 0..4_000 {
        let key = format!("order-{n}");
        let worker = crate::pool::Key::of(&key).worker(4);
        let (partition, _) = broker.append("t", Record::new("x").with_key(key)).unwrap();
        counts[partition as usize][worker] += 1;
    }
    assert!(counts.iter().flatten().all(|count| (180..=320).contains(count)), "{counts:?}");
}

#[test]
fn a_topic_that_does_not_exist_is_an_error_unless_topics_are_created() {
    let spec = ConsumerSpec::for_test("new", "g", Start::Earliest);
    let missing = BrokerError::NoSuchTopic { topic: "new".to_owned() };
    let strict = broker();
    assert_eq!(strict.partitions("new"), Err(missing.clone()));
    assert_eq!(strict.subscribe(&spec, Waker::noop().clone()).err(), Some(missing.clone()));
    let refused = PublishFault::Permanent(missing.to_string());
    assert_eq!(answer_of(&strict, "new", Record::new("x")), Err(refused));
    strict.create_topic("new").unwrap();
    assert_eq!(strict.partitions("new"), Ok(4));

    let lenient = MemoryBroker::builder().partitions(2).create_topics(true).build();
    assert!(lenient.subscribe(&spec, Waker::noop().clone()).is_ok());
    assert_eq!(lenient.partitions("new"), Ok(2));
}

#[test]
fn many_topics_are_each_found() {
    let broker = MemoryBroker::builder().create_topics(true).partitions(1).build();
    for n in 0..200 {
        broker.append(&format!("t{n}"), Record::new(n.to_string())).unwrap();
    }
    for n in 0..200 {
        assert_eq!(broker.records(&format!("t{n}")).unwrap()[0].value, n.to_string());
    }
}

#[test]
fn a_group_that_begins_at_the_end_misses_nothing_published_after_it_joined() {
    let broker = broker();
    publish(&broker, 3);
    let mut member = Joined::to(&broker, Start::Latest);
    publish(&broker, 2);
    assert_eq!(offsets(&member.poll()), [3, 4]);
}

#[test]
fn a_subscription_to_several_topics_tells_them_apart() {
    let broker = MemoryBroker::builder().topic_with("a", 1).topic_with("b", 2).build();
    broker.append("a", Record::new("of a")).unwrap();
    broker.append("b", Record::new("of b")).unwrap();
    let mut member = Joined::subscribed(&broker, &["b", "a"], Start::Earliest);
    let mut found: Vec<_> =
        member.poll().iter().map(|f| (f.partition.topic, Bytes::copy_from_slice(f.record.value()))).collect();
    found.sort();
    assert_eq!(found, [(0, "of b".into()), (1, "of a".into())]);
}

#[test]
fn a_long_backlog_in_one_partition_does_not_starve_another() {
    let broker = MemoryBroker::builder().topic_with("t", 2).build();
    let mut member = Joined::to(&broker, Start::Earliest);
    let (long, _) = broker.append("t", Record::new("x").with_key("long")).unwrap();
    for _ in 0..100 {
        broker.append("t", Record::new("x").with_key("long")).unwrap();
    }
    let other = (0..).map(|n: u32| Record::new("x").with_key(n.to_string()));
    other.take(20).for_each(|record| drop(broker.append("t", record)));
    let budget = Budget { records: 10, bytes: usize::MAX };
    let seen: BTreeSet<u32> =
        (0..2).flat_map(|_| member.poll_within(budget)).map(|fetched| fetched.partition.partition).collect();
    assert_eq!(seen, BTreeSet::from([long, 1 - long]));
}

#[test]
fn a_record_larger_than_the_budget_comes_alone_and_is_not_overtaken_for_ever() {
    let broker = broker();
    broker.append("t", Record::new("small")).unwrap();
    broker.append("t", Record::new(vec![0; 1_000])).unwrap();
    broker.append("t", Record::new("small")).unwrap();
    let mut member = Joined::to(&broker, Start::Earliest);
    let budget = Budget { records: 10, bytes: 100 };
    assert_eq!(offsets(&member.poll_within(budget)), [0]);
    assert_eq!(offsets(&member.poll_within(budget)), [1]);
    assert_eq!(offsets(&member.poll_within(budget)), [2]);
}

#[test]
fn a_partition_moves_only_when_its_owner_has_released_it() {
    let broker = MemoryBroker::builder().topic_with("t", 2).build();
    publish(&broker, 4);
    let mut old = Joined::to(&broker, Start::Earliest);
    assert_eq!(old.poll().len(), 4);
    let mut new = Joined::to(&broker, Start::Earliest);
    assert!(new.poll().is_empty() && new.held.is_empty(), "not released yet");
    assert!(old.wakes.count() > 0);
    assert!(old.poll().is_empty());
    let [revoked] = old.revoked[..] else { panic!("one of two partitions moves: {:?}", old.revoked) };
    old.settle(revoked.partition, 1).expect("a revoked partition is still its owner's");
    old.consumer.release(revoked);
    assert_eq!(offsets(&new.poll()), [1]);
    assert!(new.held[&revoked.partition].generation > revoked.generation);
    assert!(matches!(old.settle(revoked.partition, 2), Err(BrokerError::Fenced { .. })));
    assert_eq!(broker.watermarks("g", "t").unwrap().unwrap()[revoked.partition as usize], 1);
}

#[test]
fn what_a_dropped_consumer_did_not_settle_moves_at_once_and_says_that_it_comes_again() {
    let broker = broker();
    publish(&broker, 3);
    let mut first = Joined::to(&broker, Start::Earliest);
    let mut second = Joined::to(&broker, Start::Earliest);
    assert_eq!(first.poll().len(), 3);
    first.settle(0, 1).unwrap();
    drop(first);
    assert!(second.wakes.count() > 0);
    let again = second.poll();
    assert_eq!(offsets(&again), [1, 2]);
    assert!(again.iter().all(|fetched| fetched.redeliveries == 1));
}

#[test]
fn an_expelled_member_loses_all_at_once_and_comes_back() {
    let broker = MemoryBroker::builder().topic_with("t", 2).build();
    publish(&broker, 2);
    let mut first = Joined::to(&broker, Start::Earliest);
    let mut second = Joined::to(&broker, Start::Earliest);
    // Both are assigned one before the first has polled anything.
    first.poll();
    let moving = first.revoked[0];
    first.consumer.release(moving);
    second.poll();
    assert!(broker.expel("g", 0));
    assert!(!broker.expel("g", 2) && !broker.expel("other", 0));
    let kept = 1 - moving.partition;
    assert!(matches!(first.settle(kept, 1), Err(BrokerError::Fenced { .. })));
    assert_eq!(second.poll().len(), 1, "the other member has it already");
    first.poll();
    assert_eq!(first.lost.iter().map(|lost| lost.partition).collect::<Vec<_>>(), [kept]);
    second.poll();
    let back = second.revoked[0];
    second.consumer.release(back);
    assert_eq!(first.poll().len(), 1, "it came back and has a share again");
}

#[test]
fn what_is_given_back_comes_when_it_is_due_and_not_before() {
    let (broker, time) = timed_broker();
    publish(&broker, 2);
    let mut member = Joined::to(&broker, Start::Earliest);
    assert_eq!(member.poll().len(), 2);
    let wakes = member.wakes.count();
    member.consumer.give_back(member.held[&0], 0, Duration::from_secs(5)).unwrap();
    time.advance(Duration::from_secs(4));
    assert!(member.poll().is_empty());
    let left = member.consumer.next_due().unwrap() - broker.0.clock.now();
    assert_eq!(left, Duration::from_secs(1));
    time.advance(Duration::from_secs(1));
    assert!(member.wakes.count() > wakes, "moving the time wakes");
    let again = member.poll();
    assert_eq!((offsets(&again), again[0].redeliveries), (vec![0], 1));
    assert_eq!(member.consumer.next_due(), None);
    let ahead = Position { watermark: 0, ahead: std::iter::once(1..2).collect() };
    member.commit(member.held[&0], &ahead).unwrap();
    member.consumer.give_back(member.held[&0], 0, Duration::MAX).unwrap();
    member.settle(0, 2).unwrap();
    time.advance(Duration::from_secs(200 * 365 * 86_400));
    assert!(member.poll().is_empty(), "what is settled does not come back, given back or not");
}

#[test]
fn a_settle_takes_nothing_back() {
    let broker = broker();
    publish(&broker, 4);
    let mut member = Joined::to(&broker, Start::Earliest);
    member.poll();
    let partition = member.held[&0];
    member.commit(partition, &Position { watermark: 2, ahead: std::iter::once(3..4).collect() }).unwrap();
    member.commit(partition, &Position { watermark: 1, ahead: Vec::new() }).unwrap();
    drop(member);
    assert_eq!(offsets(&Joined::to(&broker, Start::Earliest).poll()), [2]);
}

#[test]
fn a_full_topic_tells_when_a_settle_made_room() {
    let broker = MemoryBroker::builder().topic_with("t", 1).retention_records(3).build();
    let mut member = Joined::to(&broker, Start::Earliest);
    let told = Arc::new(Counter::default());
    let registration = broker.on_space(told.clone().into());
    publish(&broker, 3);
    assert_eq!(answer_of(&broker, "t", Record::new("x")), Err(PublishFault::Full));
    member.poll();
    assert_eq!(told.count(), 0);
    member.settle(0, 1).unwrap();
    assert_eq!(told.count(), 1);
    assert!(answer_of(&broker, "t", Record::new("x")).is_ok());
    member.settle(0, 2).unwrap();
    assert_eq!(told.count(), 1, "nobody was refused since");
    drop(registration);
}

#[test]
fn a_deleted_group_holds_back_nothing() {
    let broker = MemoryBroker::builder().topic_with("t", 1).retention_records(1).build();
    let told = Arc::new(Counter::default());
    let _registration = broker.on_space(told.clone().into());
    let member = Joined::to(&broker, Start::Earliest);
    publish(&broker, 1);
    assert_eq!(answer_of(&broker, "t", Record::new("x")), Err(PublishFault::Full));
    assert!(!broker.delete_group("g"), "it has a member");
    drop(member);
    assert_eq!(answer_of(&broker, "t", Record::new("x")), Err(PublishFault::Full), "it comes back for it");
    assert!(broker.delete_group("g"));
    assert_eq!(told.count(), 1);
    assert!(answer_of(&broker, "t", Record::new("x")).is_ok());
}

#[test]
fn a_record_larger_than_all_that_is_kept_is_refused_for_good() {
    let broker = MemoryBroker::builder().topic("t").retention_bytes(10).build();
    assert!(matches!(answer_of(&broker, "t", Record::new("12345678901")), Err(PublishFault::Permanent(_))));
    assert!(matches!(broker.append("t", Record::new("12345678901")), Err(BrokerError::Refused(_))));
    assert!(broker.append("t", Record::new("1234567890")).is_ok());
}

#[test]
fn planted_publish_faults_store_nothing_and_end() {
    let broker = MemoryBroker::builder().topic_with("t", 1).topic("other").build();
    let faults = broker.faults();
    faults.fail_next_publishes("t", 2);
    let failed =
        |topic| matches!(answer_of(&broker, topic, Record::new("x")), Err(PublishFault::Transient(_)));
    assert!(!failed("other"));
    assert_eq!([failed("t"), failed("t"), failed("t")], [true, true, false]);
    faults.fail_publishes_when(|topic, record| topic == "t" && record.value == "x");
    assert!(failed("t") && !failed("other"));
    assert!(broker.append("t", Record::new("y")).is_ok());
    faults.clear();
    assert!(!failed("t"));
    assert_eq!(broker.records("t").unwrap().len(), 3);
}

#[test]
fn a_lost_settle_is_answered_as_if_kept_and_the_record_comes_again() {
    let broker = broker();
    publish(&broker, 2);
    let mut member = Joined::to(&broker, Start::Earliest);
    member.poll();
    broker.faults().lose_next_settles(1);
    assert_eq!(member.settle(0, 1), Ok(Committed::All));
    assert_eq!(broker.watermarks("g", "t"), Ok(Some(vec![0])));
    drop(member);
    let mut member = Joined::to(&broker, Start::Earliest);
    assert_eq!(offsets(&member.poll()), [0, 1]);
    assert_eq!(member.settle(0, 1), Ok(Committed::All));
    assert_eq!(broker.watermarks("g", "t"), Ok(Some(vec![1])));
}

#[test]
fn a_failed_settle_says_so_and_changes_nothing() {
    let broker = broker();
    publish(&broker, 1);
    let mut member = Joined::to(&broker, Start::Earliest);
    member.poll();
    broker.faults().fail_next_settles(1);
    assert!(matches!(member.settle(0, 1), Err(BrokerError::Transient(_))));
    assert_eq!(broker.watermarks("g", "t"), Ok(Some(vec![0])));
    assert_eq!(member.settle(0, 1), Ok(Committed::All));
    assert_eq!(broker.watermarks("g", "t"), Ok(Some(vec![1])));
}

#[test]
fn an_unreachable_broker_does_nothing_and_tells_when_it_is_back() {
    let broker = broker();
    publish(&broker, 1);
    let mut member = Joined::to(&broker, Start::Earliest);
    let space = Arc::new(Counter::default());
    let _registration = broker.on_space(space.clone().into());
    assert_eq!(member.poll().len(), 1);
    broker.faults().pause_deliveries(true);
    let wakes = member.wakes.count();
    let mut out = Vec::new();
    assert!(matches!(member.consumer.poll(unlimited(), &mut out), Err(BrokerError::Transient(_))));
    assert!(matches!(member.settle(0, 1), Err(BrokerError::Transient(_))));
    assert!(matches!(answer_of(&broker, "t", Record::new("x")), Err(PublishFault::Transient(_))));
    broker.faults().pause_deliveries(false);
    assert!(member.wakes.count() > wakes && space.count() > 0);
    assert_eq!(member.settle(0, 1), Ok(Committed::All));
}

#[test]
fn a_closed_broker_answers_closed_and_wakes_who_waits() {
    let broker = broker();
    let mut member = Joined::to(&broker, Start::Earliest);
    member.poll();
    let wakes = member.wakes.count();
    broker.close();
    assert!(member.wakes.count() > wakes);
    assert_eq!(member.consumer.poll(unlimited(), &mut Vec::new()), Err(BrokerError::Closed));
    assert_eq!(member.settle(0, 0), Err(BrokerError::Closed));
    assert_eq!(member.consumer.give_back(member.held[&0], 0, Duration::ZERO), Err(BrokerError::Closed));
    let spec = ConsumerSpec::for_test("t", "g", Start::Earliest);
    assert_eq!(broker.subscribe(&spec, Waker::noop().clone()).err(), Some(BrokerError::Closed));
    assert_eq!(broker.partitions("t"), Err(BrokerError::Closed));
    assert_eq!(Broker::create_topic(&broker, "u"), Err(BrokerError::Closed));
    let closed = PublishFault::Permanent(BrokerError::Closed.to_string());
    assert_eq!(answer_of(&broker, "t", Record::new("x")), Err(closed));
}

/// Two publishers that wait when the topic is full, two members that sleep when there is nothing.
#[test]
fn threads_that_sleep_for_room_and_for_records_lose_no_wake_and_no_record() {
    const EACH: usize = 20_000;
    const KEYS: usize = 16;
    let broker = MemoryBroker::builder().topic_with("t", 4).retention_records(64).build();
    let left = Arc::new(AtomicUsize::new(2 * EACH));
    let seen = Arc::new(Mutex::new(BTreeMap::<Bytes, Vec<u64>>::new()));
    let wakers = Arc::new(Mutex::new(Vec::<Waker>::new()));
    // The group has to be there before the first record, or retention may drop it.
    drop(Joined::to(&broker, Start::Earliest));
    let members: Vec<_> = (0..2)
        .map(|_| {
            let (broker, left, seen, wakers) = (broker.clone(), left.clone(), seen.clone(), wakers.clone());
            thread::spawn(move || {
                let parker = Parker::new();
                wakers.lock().push(parker.waker().clone());
                let spec = ConsumerSpec::for_test("t", "g", Start::Earliest);
                let mut consumer = broker.subscribe(&spec, parker.waker().clone()).unwrap();
                while left.load(Ordering::Acquire) > 0 {
                    let mut out = Vec::new();
                    consumer.poll(Budget { records: 8, bytes: usize::MAX }, &mut out).unwrap();
                    if out.is_empty() {
                        parker.park_until(None);
                    }
                    for polled in out {
                        match polled {
                            Polled::Revoked(partition) => consumer.release(partition),
                            Polled::Record(fetched) => {
                                let n = u64::from_be_bytes(fetched.record.value().try_into().unwrap());
                                let position = Position { watermark: fetched.offset + 1, ahead: Vec::new() };
                                seen.lock()
                                    .entry(Bytes::copy_from_slice(fetched.record.key().unwrap()))
                                    .or_default()
                                    .push(n);
                                consumer.commit(fetched.partition, &position, Durability::Accepted).unwrap();
                                if left.fetch_sub(1, Ordering::AcqRel) == 1 {
                                    wakers.lock().iter().for_each(Waker::wake_by_ref);
                                }
                            }
                            Polled::Assigned(..)
                            | Polled::Lost(_)
                            | Polled::CommitFailed(..)
                            | Polled::Gone(..)
                            | Polled::Stuck(..) => {}
                        }
                    }
                }
            })
        })
        .collect();
    let publishers = (0..2).map(|publisher| {
        let broker = broker.clone();
        thread::spawn(move || {
            let parker = Parker::new();
            let _registration = broker.on_space(parker.waker().clone());
            for n in 0..EACH {
                let key = format!("{publisher}-{}", n % KEYS);
                let record = Record::new((n as u64).to_be_bytes().to_vec()).with_key(key);
                while answer_of(&broker, "t", record.clone()) == Err(PublishFault::Full) {
                    parker.park_until(None);
                }
            }
        })
    });
    let publishers: Vec<_> = publishers.collect();
    publishers.into_iter().chain(members).for_each(|thread| thread.join().unwrap());
    let seen = seen.lock();
    assert_eq!(seen.len(), 2 * KEYS);
    for (key, numbers) in seen.iter() {
        assert!(numbers.is_sorted_by(|a, b| a < b), "out of order under {key:?}");
        assert_eq!(numbers.len(), EACH / KEYS);
    }
}
