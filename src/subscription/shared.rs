//! What the intake of a subscription, its workers and its handle share.

use super::doing::{Doing, Running};
use super::losses::Losses;
use super::prepare::Rules;
use super::waits::Waits;
use crate::broker::Broker;
use crate::delivery::Partition;
use crate::delivery::partitions::Token;
use crate::observe::health::{Health, Place, Problem, Status};
use crate::observe::metrics::{Counters, Stats};
use crate::policy::FailurePolicy;
use crate::publisher::Publisher;
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, OnceLock, Ordering};
use crate::wait::Clock;
use std::collections::HashMap;
use std::task::Waker;
use std::time::{Duration, Instant};

/// What a worker says of a record that it is through with.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) partition: Partition,
    pub(crate) token: Token,
    pub(crate) bytes: usize,
    pub(crate) end: End,
}

#[derive(Debug)]
pub(crate) enum End {
    Settled,
    /// Not handled, or not to its end; it comes again from the broker.
    Returned(Box<Place>),
    Redeliver(Duration),
    /// The subscription stops with this error; the record stays unsettled.
    Halt(String),
}

/// Why a record is not over after its last attempt.
#[derive(Debug, Clone)]
pub(crate) struct Failing {
    pub(crate) place: Place,
    pub(crate) error: String,
    pub(crate) attempts: u32,
    pub(crate) since: Instant,
    /// An operator may decide about it: it is held, or its dead letter was refused.
    pub(crate) is_held: bool,
    /// Where its dead letter is being written.
    pub(crate) dead_letter: Option<Arc<str>>,
}

/// A state that lasts, and since when.
#[derive(Debug, Clone)]
pub(crate) struct Since<T> {
    pub(crate) what: T,
    pub(crate) since: Instant,
}

pub(crate) struct Shared {
    pub(crate) group: Arc<str>,
    /// `messaging.system` of spans.
    pub(crate) system: &'static str,
    pub(crate) rules: Rules,
    /// At most once: a record is settled before its handler starts.
    pub(crate) settles_first: bool,
    pub(crate) policy: FailurePolicy,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) publisher: Publisher,
    pub(crate) deadline: Option<Duration>,
    pub(crate) hung_after: Duration,
    pub(crate) clock: Clock,
    pub(crate) counters: Counters,
    pub(crate) verdicts: Mutex<Vec<Verdict>>,
    pub(crate) intake: OnceLock<Waker>,
    /// By worker.
    pub(crate) doing: Vec<Arc<Doing>>,
    /// By worker: keys that wait.
    pub(crate) waiting_keys: Vec<AtomicU64>,
    /// Records that failed and are not over; bounded by what is in flight.
    pub(crate) failing: Mutex<HashMap<Token, Failing>>,
    pub(crate) status: Mutex<Status>,
    pub(crate) window_full: Mutex<Option<Since<Place>>>,
    pub(crate) broker_error: Mutex<Option<Since<String>>>,
    /// Since when the lease is over, where that is a problem.
    pub(crate) lease_over: Mutex<Option<Instant>>,
    /// Records wait in the pool for the lease to hold again.
    pub(crate) is_lease_awaited: AtomicBool,
    pub(crate) losses: Mutex<Losses>,
    pub(crate) topics: Vec<Arc<str>>,
    pub(crate) waits: Waits,
}

impl Shared {
    pub(crate) fn wake_intake(&self) {
        if let Some(intake) = self.intake.get() {
            intake.wake_by_ref();
        }
    }

    /// A record waits in the pool for the lease: the intake looks whether it holds by now, or when it does again.
    pub(crate) fn lease_is_awaited(&self) {
        // ORDERING: Release pairs with the Acquire of `take_lease_awaited`: the visit that follows it is run by this
        // thread, and so after the record has been put to wait.
        if !self.is_lease_awaited.swap(true, Ordering::Release) {
            self.wake_intake();
        }
    }

    /// Whether records wait for the lease; from here on none is known to.
    pub(crate) fn take_lease_awaited(&self) -> bool {
        // ORDERING: the load is a hint that the swap confirms, which is Acquire; see `lease_is_awaited`.
        self.is_lease_awaited.load(Ordering::Relaxed) && self.is_lease_awaited.swap(false, Ordering::Acquire)
    }

    pub(crate) fn stats(&self, depths: impl Iterator<Item = u64>) -> Stats {
        Stats {
            // ORDERING: Relaxed; gauges that go on.
            waiting_keys: self.waiting_keys.iter().map(|keys| keys.load(Ordering::Relaxed)).sum(),
            lane_depth: depths.max().unwrap_or(0),
            hung_handlers: self.hung(0).0 as u64,
            ..self.counters.snapshot()
        }
    }

    pub(crate) fn health(&self) -> Health {
        Health { status: self.status.lock().clone(), problems: self.problems(usize::MAX).0 }
    }

    /// How many handlers and futures hang, and the oldest of them, at most `most`.
    fn hung(&self, most: usize) -> (usize, Vec<Running>) {
        let now = self.clock.now();
        let (mut count, mut oldest) = (0, Vec::new());
        for doing in &self.doing {
            let (hung, some) = doing.hung(now, self.hung_after, most);
            count += hung;
            oldest.extend(some);
        }
        oldest.sort_by_key(|running| running.since);
        oldest.truncate(most);
        (count, oldest)
    }

    /// The problems, and how many there are in all. Of records that hang and of those that failed at most `most` each:
    /// the oldest first, and those that are held first.
    pub(crate) fn problems(&self, most: usize) -> (Vec<Problem>, usize) {
        let now = self.clock.now();
        let age = |since: Instant| now.saturating_duration_since(since);
        let mut problems = Vec::new();
        if let Some(Since { what, since }) = &*self.broker_error.lock() {
            problems.push(Problem::Broker { error: what.clone(), age: age(*since) });
        }
        if let Some(since) = *self.lease_over.lock() {
            problems.push(Problem::LeaseOver { age: age(since) });
        }
        if let Some(Since { what, since }) = &*self.window_full.lock() {
            problems.push(Problem::WindowFull { place: what.clone(), age: age(*since) });
        }
        for ((topic, partition), loss) in self.losses.lock().shown(now) {
            problems.push(Problem::Lost {
                topic: self.topics[*topic as usize].to_string(),
                partition: *partition,
                offsets: loss.offsets,
                records: loss.records,
                reason: loss.reason.clone(),
                age: age(loss.at),
            });
        }
        let (hung, running) = self.hung(most);
        let others = problems.len() + hung;
        let hung = running.iter().map(|Running { event, since }| (event.place(), age(*since)));
        problems.extend(hung.map(|(place, age)| Problem::Hung { place, age }));
        let failing = self.failing.lock();
        let total = others + failing.len();
        let mut records: Vec<&Failing> = failing.values().collect();
        records.sort_unstable_by(|a, b| (b.is_held, &a.place).cmp(&(a.is_held, &b.place)));
        problems.extend(records.into_iter().take(most).map(|failing| {
            let Failing { place, mut error, attempts, since, is_held, dead_letter } = failing.clone();
            if let Some(topic) = dead_letter {
                let reason = self.publisher.trouble_with(&topic).map(|reason| format!(": {reason}"));
                let reason = reason.unwrap_or_default();
                error = format!("{error}; its dead letter is being written to `{topic}`{reason}");
            }
            let age = age(since);
            if is_held {
                Problem::Held { place, error, age }
            } else {
                Problem::Failing { place, error, attempts, age }
            }
        }));
        (problems, total)
    }

    /// The records whose handlers, or polls of whose futures, have the workers' threads just now.
    pub(crate) fn still_running(&self) -> Vec<Place> {
        self.doing.iter().filter_map(|doing| doing.on_the_thread()).collect()
    }

    /// The key of a record that is in the way, if some worker runs it or it has failed.
    pub(crate) fn place_of(&self, topic: &str, partition: u32, offset: u64) -> Place {
        let is_it =
            |place: &Place| place.topic == topic && place.partition == partition && place.offset == offset;
        let failing = self.failing.lock().values().map(|failing| failing.place.clone()).find(is_it);
        let running = || self.doing.iter().find_map(|doing| doing.place_of(topic, partition, offset));
        failing.or_else(running).unwrap_or_else(|| Place {
            topic: topic.to_owned(),
            partition,
            offset,
            key: None,
        })
    }
}
