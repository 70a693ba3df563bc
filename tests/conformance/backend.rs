//! What the suite needs of a backend, the memory bus as one, and backends with a planted fault.

use crate::support::{Behaviour, Checked, Kind, start};
use keylane::memory::MemoryBroker;
use keylane::{
    Bus, CloseReport, Config, DrainReport, Envelopes, Event, Message, Plain, Retry, Route, Subscription,
    SubscriptionBuilder, Then,
};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The topics that every cluster has.
pub const TOPICS: [&str; 4] = ["orders", "payments", "orders.dead", "other"];

/// A backend under test. Everything beyond `name` and `cluster` is what a planted fault changes.
pub trait Backend: Sync {
    fn name(&self) -> &'static str;

    /// Brokers with the empty [`TOPICS`], of so many partitions each.
    fn cluster(&self, partitions: u32) -> Box<dyn Cluster>;

    /// Whether the members of a group share a topic. Where not, one has all of it and the others stand by.
    fn shares_topics(&self) -> bool {
        true
    }

    /// The last word on how a subscription is started.
    fn envelopes(&self, builder: SubscriptionBuilder<Envelopes>) -> SubscriptionBuilder<Envelopes> {
        builder
    }

    fn plain(&self, builder: SubscriptionBuilder<Plain>) -> SubscriptionBuilder<Plain> {
        builder
    }

    fn at_most_once(&self, builder: SubscriptionBuilder<Plain>) -> SubscriptionBuilder<Plain> {
        builder.at_most_once()
    }

    /// The handler that is really called. Asked once for each subscription.
    fn handler(&self, handler: Behaviour) -> Behaviour {
        handler
    }

    /// Publishes; what is returned waits for the broker's answer.
    fn publish(&self, bus: &Bus, topic: &str, message: Message) -> Answer {
        let op = bus.publish(topic, message);
        Box::new(move || op.wait().map(drop).map_err(|error| error.to_string()))
    }

    fn drain(&self, subscription: Subscription, limit: Duration) -> DrainReport {
        subscription.drain(limit).wait()
    }

    fn close(&self, bus: &Bus, limit: Duration) -> CloseReport {
        bus.close(limit).wait()
    }
}

/// Brokers that outlive every bus on them.
pub trait Cluster: Send + Sync {
    /// A bus as another process would have it.
    fn connect(&self, tune: &dyn Fn(&mut Config)) -> Bus;
    /// What one of [`TOPICS`] is called on it.
    fn topic(&self, name: &str) -> String {
        name.to_owned()
    }

    /// What a group is called on it. Groups of one name would be one group where clusters share a broker.
    fn group(&self, name: &str) -> String {
        name.to_owned()
    }

    /// The offset of a partition's first record.
    fn first_offset(&self) -> u64 {
        0
    }

    /// Lets the next publishes into one of [`TOPICS`] fail in a way that passes: `usize::MAX` all, 0 none any more.
    fn fail_next_publishes(&self, topic: &str, n: usize);
    fn set_reachable(&self, is_reachable: bool);
}

impl dyn Backend + '_ {
    pub fn start_envelopes(
        &self,
        builder: SubscriptionBuilder<Envelopes>,
        kind: Kind,
        handler: Behaviour,
    ) -> Result<Subscription, String> {
        joined(start(self.envelopes(builder), kind, &self.handler(handler))?)
    }

    pub fn start_plain(
        &self,
        builder: SubscriptionBuilder<Plain>,
        kind: Kind,
        handler: Behaviour,
    ) -> Result<Subscription, String> {
        joined(start(self.plain(builder), kind, &self.handler(handler))?)
    }
}

fn joined(subscription: Subscription) -> Result<Subscription, String> {
    match subscription.ready().wait_timeout(Duration::from_secs(30)) {
        Ok(Ok(())) => Ok(subscription),
        other => Err(format!("the subscription did not become ready: {other:?}")),
    }
}

pub struct Memory;

impl Backend for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn cluster(&self, partitions: u32) -> Box<dyn Cluster> {
        let builder = MemoryBroker::builder().partitions(partitions);
        Box::new(TOPICS.iter().fold(builder, |builder, topic| builder.topic(topic)).build())
    }
}

impl Cluster for MemoryBroker {
    fn connect(&self, tune: &dyn Fn(&mut Config)) -> Bus {
        let mut config = Config::default();
        tune(&mut config);
        MemoryBroker::connect(self, config).expect("the test's configuration is valid")
    }

    fn fail_next_publishes(&self, topic: &str, n: usize) {
        self.faults().fail_next_publishes(topic, n);
    }

    fn set_reachable(&self, is_reachable: bool) {
        self.faults().pause_deliveries(!is_reachable);
    }
}

/// A way to break a promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Records of a key go to every worker in turn.
    Unordered,
    /// What fails is given up at once.
    GivesUp,
    /// Publishes of one key go through different publishers.
    PublishesApart,
    /// A record is acknowledged when its handler is about to be called, not when it has ended.
    AcknowledgesEarly,
    /// A failing plain record is handled again on the spot.
    RetriesPlain,
    /// At most once is not asked for.
    AtLeastOnce,
    /// All records have one key.
    OneKey,
    /// No bounds.
    Unbounded,
    /// A panic counts as success.
    SwallowsPanics,
    /// Nothing ever hangs.
    NeverHung,
    /// The brokers can't be stopped.
    AlwaysReachable,
    /// A drain is not carried out.
    Forgets,
    /// Of two publishes the second is taken for the first, and not stored.
    StoresOnce,
}

/// A backend with a fault planted in it.
pub struct Planted<'a>(pub &'a dyn Backend, pub Fault);

impl Planted<'_> {
    fn tune<K>(&self, builder: SubscriptionBuilder<K>) -> SubscriptionBuilder<K> {
        match self.1 {
            Fault::Unordered => builder.route(Route::RoundRobin),
            Fault::OneKey => builder.route(Route::With(Arc::new(|_| Some("all".to_owned())))),
            Fault::Unbounded => {
                builder.in_flight_records(1 << 20).in_flight_bytes(1 << 30).watermark_distance(1 << 20)
            }
            Fault::NeverHung => builder.hung_after(Duration::from_secs(86_400)),
            _ => builder,
        }
    }
}

impl Backend for Planted<'_> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn cluster(&self, partitions: u32) -> Box<dyn Cluster> {
        let cluster = self.0.cluster(partitions);
        if self.1 == Fault::AlwaysReachable { Box::new(Unstoppable(cluster)) } else { cluster }
    }

    fn envelopes(&self, builder: SubscriptionBuilder<Envelopes>) -> SubscriptionBuilder<Envelopes> {
        let builder = self.tune(builder);
        if self.1 == Fault::GivesUp { builder.retry(Retry::none()).then(Then::Discard) } else { builder }
    }

    fn plain(&self, builder: SubscriptionBuilder<Plain>) -> SubscriptionBuilder<Plain> {
        self.tune(builder)
    }

    fn at_most_once(&self, builder: SubscriptionBuilder<Plain>) -> SubscriptionBuilder<Plain> {
        if self.1 == Fault::AtLeastOnce { builder } else { builder.at_most_once() }
    }

    fn handler(&self, handler: Behaviour) -> Behaviour {
        match self.1 {
            Fault::SwallowsPanics => {
                Arc::new(move |event| catch_unwind(AssertUnwindSafe(|| handler(event))).unwrap_or(Ok(())))
            }
            Fault::RetriesPlain => Arc::new(move |event| handler(event).or_else(|_| handler(event))),
            Fault::AcknowledgesEarly => {
                let kept = Mutex::new(None::<Event>);
                Arc::new(move |event| {
                    let before = kept.lock().unwrap().replace(event.clone());
                    before.map_or(Ok(()), |before| handler(&before))
                })
            }
            _ => handler,
        }
    }

    fn publish(&self, bus: &Bus, topic: &str, message: Message) -> Answer {
        thread_local! {
            static IS_SECOND: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
        }
        if self.1 == Fault::StoresOnce && IS_SECOND.replace(!IS_SECOND.get()) {
            return Box::new(|| Ok(()));
        }
        if self.1 != Fault::PublishesApart {
            return self.0.publish(bus, topic, message);
        }
        // Each from a thread of its own, as a program does that forgets that order needs one.
        let (bus, topic) = (bus.clone(), topic.to_owned());
        let thread = std::thread::spawn(move || bus.publish(&topic, message).wait().map(drop));
        Box::new(move || thread.join().expect("it does not panic").map_err(|error| error.to_string()))
    }

    fn drain(&self, subscription: Subscription, limit: Duration) -> DrainReport {
        if self.1 == Fault::Forgets {
            std::mem::forget(subscription);
            return DrainReport::default();
        }
        self.0.drain(subscription, limit)
    }

    fn close(&self, bus: &Bus, limit: Duration) -> CloseReport {
        if self.1 == Fault::Forgets { CloseReport::default() } else { self.0.close(bus, limit) }
    }
}

struct Unstoppable(Box<dyn Cluster>);

impl Cluster for Unstoppable {
    fn connect(&self, tune: &dyn Fn(&mut Config)) -> Bus {
        self.0.connect(tune)
    }

    fn fail_next_publishes(&self, topic: &str, n: usize) {
        self.0.fail_next_publishes(topic, n);
    }

    fn set_reachable(&self, _: bool) {}

    fn topic(&self, name: &str) -> String {
        self.0.topic(name)
    }

    fn group(&self, name: &str) -> String {
        self.0.group(name)
    }

    fn first_offset(&self) -> u64 {
        self.0.first_offset()
    }
}

/// Waits for the broker's answer to a publish.
pub type Answer = Box<dyn FnOnce() -> Checked>;

/// A check of a promise.
pub type Check = fn(&dyn Backend) -> Checked;
