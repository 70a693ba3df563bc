//! From a description to a running subscription, in three steps: checking what was said, asking the broker, starting.

use super::builder::{SubscribeError, SubscriptionBuilder};
use super::commands::Commands;
use super::intake::{Bounds, Setup, Subscribed};
use super::leaving::LastWord;
use super::prepare::Rules;
use super::runner::{Invoke, Runner};
use super::shared::Shared;
use super::waits::Waits;
use super::{Core, Subscription};
use crate::broker::{Broker, Budget, ConsumerSpec};
use crate::bus::connection::Keep;
use crate::config::{Workers, names};
use crate::observe::health::Status;
use crate::observe::metrics::Counters;
use crate::policy::Then;
use crate::pool::{Enter, PoolBuilder, workers_by_default};
use crate::route::Route;
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, OnceLock, thread};
use crate::wait::world::{self, Stepped};
use crate::wait::{self, Clock, Life, Parker, Step, live};
use std::collections::HashMap;
use std::task::{Wake, Waker};

impl<K> SubscriptionBuilder<K> {
    pub(super) fn launch<I: Invoke>(
        self,
        invoke: impl Fn() -> I + Send + Sync + 'static,
    ) -> Result<Subscription, SubscribeError> {
        let group = self.check()?;
        let broker = self.ask()?;
        self.start_as(&group, &broker, invoke)
    }

    /// What can be known without the broker: names, policy, ranges. The group.
    fn check(&self) -> Result<Arc<str>, SubscribeError> {
        for topic in &self.topics {
            names::topic(topic)?;
        }
        if let Route::Header(name) = &self.route {
            names::header_name(name)?;
        }
        let Some(group) = self.group.as_ref().or(self.connection.group()) else {
            return Err(SubscribeError::NoGroup { topic: self.topics[0].clone() });
        };
        names::group(group)?;
        self.policy.validate()?;
        if let Then::DeadLetter(dead_letter) = &self.policy.then {
            names::topic(&dead_letter.topic)?;
        }
        let ranges = [
            ("in_flight_records", self.settings.in_flight_records, 1..=1 << 20, "1 to 1048576"),
            ("in_flight_bytes", self.settings.in_flight_bytes, 1..=1 << 36, "1 to 64 GiB"),
            ("watermark_distance", self.settings.watermark_distance, 1..=1 << 24, "1 to 16777216"),
            ("max_record_bytes", self.settings.max_record_bytes, 1..=1 << 30, "1 to 1 GiB"),
        ];
        for (setting, value, range, expected) in ranges {
            if !range.contains(&value) {
                return Err(SubscribeError::OutOfRange { setting, value: value.to_string(), expected });
            }
        }
        let mut topics: Vec<_> = self.topics.iter().collect();
        topics.sort_unstable();
        let twice = topics.windows(2).find_map(|pair| {
            if let [one, next] = pair
                && one == next
            {
                Some(one)
            } else {
                None
            }
        });
        if let Some(topic) = twice {
            let value = format!("`{topic}` twice");
            return Err(SubscribeError::OutOfRange { setting: "topic", value, expected: "each topic once" });
        }
        Ok(group.as_str().into())
    }

    /// What only the broker knows: whether it can do what was asked, and whether the topics are there. The broker.
    fn ask(&self) -> Result<Arc<dyn Broker>, SubscribeError> {
        let broker = self.connection.broker()?;
        if matches!(self.policy.then, Then::Redeliver { .. }) && !broker.capabilities().redeliver {
            return Err(SubscribeError::Unsupported {
                system: broker.system(),
                what: "give a record back with a delay (`Then::Redeliver`)",
            });
        }
        for topic in &self.topics {
            self.connection.require_topic(topic)?;
        }
        if let Then::DeadLetter(dead_letter) = &self.policy.then {
            self.connection.require_topic(&dead_letter.topic)?;
        }
        Ok(broker.clone())
    }

    /// Joins the group, and starts the workers and the intake.
    fn start_as<I: Invoke>(
        self,
        group: &Arc<str>,
        broker: &Arc<dyn Broker>,
        invoke: impl Fn() -> I + Send + Sync + 'static,
    ) -> Result<Subscription, SubscribeError> {
        let workers = match self.settings.workers {
            Workers::Auto => workers_by_default(),
            Workers::Count(workers) => workers,
        };
        let spec = self.consumer_spec(group);
        let shared = self.shared(&spec, broker, workers.max(1));
        let consumer = broker.subscribe(&spec, Waker::from(Arc::new(WakeIntake(shared.clone()))))?;
        let pool = self.pool(group, workers.max(1));
        let make = {
            let shared = shared.clone();
            move |worker| Runner::new(invoke(), shared.clone(), worker)
        };
        // With `workers(0)` the worker is made, stepped and dropped on the intake's thread: its futures stay there.
        let (pool, direct) = if workers == 0 {
            let (pool, lanes) = pool.unmanned()?;
            (pool, Some(move || lanes.man(make).pop().expect("a pool has a lane")))
        } else {
            (pool.start(make)?, None)
        };
        let commands = Arc::new(Commands::default());
        let core = Arc::new(Core {
            shared: shared.clone(),
            commands: commands.clone(),
            pool: pool.clone(),
            thread: Mutex::default(),
            handles_on_intake: workers == 0,
        });
        let last_word = LastWord { shared: shared.clone(), commands: commands.clone(), pool: pool.clone() };
        let running = core.clone();
        let bounds = self.bounds(&**broker);
        let clock = shared.clock.clone();
        let setup = Setup { shared, consumer, pool, commands, bounds };
        let begin = move |waker: &Waker| Subscribed::begin(setup, direct.map(|make| make()), waker);
        let enter = self.enter.filter(|_| workers == 0);
        // Kept to its end, so that a close of the bus also waits for a subscription whose handle was dropped.
        let kept = (last_word, running);
        *core.thread.lock() = spawn(format!("keylane-{group}"), clock, enter, kept, begin)?;
        let kept: Arc<dyn Keep> = core.clone();
        self.connection.keep(&Arc::downgrade(&kept));
        Ok(Subscription { core })
    }

    fn shared(&self, spec: &ConsumerSpec, broker: &Arc<dyn Broker>, workers: usize) -> Arc<Shared> {
        Arc::new(Shared {
            group: spec.group.clone(),
            system: broker.system(),
            rules: Rules {
                route: self.route.clone(),
                max_record_bytes: self.settings.max_record_bytes,
                takes_envelopes: self.takes_envelopes,
            },
            settles_first: self.is_at_most_once,
            policy: self.policy.clone(),
            broker: broker.clone(),
            publisher: self.connection.publisher().clone(),
            deadline: self.settings.handler_deadline,
            hung_after: self.settings.hung_after,
            clock: self.connection.clock().clone(),
            counters: Counters::default(),
            verdicts: Mutex::default(),
            intake: OnceLock::new(),
            doing: (0..workers).map(|_| Arc::default()).collect(),
            waiting_keys: (0..workers).map(|_| AtomicU64::new(0)).collect(),
            failing: Mutex::new(HashMap::new()),
            status: Mutex::new(Status::Starting),
            window_full: Mutex::default(),
            broker_error: Mutex::default(),
            lease_over: Mutex::default(),
            is_lease_awaited: AtomicBool::new(false),
            losses: Mutex::default(),
            standstills: Mutex::default(),
            topics: spec.topics.clone(),
            waits: Waits::default(),
        })
    }

    fn consumer_spec(&self, group: &Arc<str>) -> ConsumerSpec {
        let settings = &self.settings;
        ConsumerSpec {
            topics: self.topics.iter().map(|topic| topic.as_str().into()).collect(),
            group: group.clone(),
            start: self.start,
            takes_envelopes: self.takes_envelopes,
            budget: Budget { records: settings.in_flight_records, bytes: settings.in_flight_bytes },
            drain_timeout: settings.drain_timeout,
        }
    }

    /// A lane holds the whole window, so that handing over never waits for a lane.
    fn pool(&self, group: &str, workers: usize) -> PoolBuilder {
        let pool = PoolBuilder::new()
            .workers(workers)
            .capacity(self.settings.in_flight_records)
            .name(group)
            .idle(self.settings.idle)
            .clock(self.connection.clock().clone());
        match self.enter.clone() {
            Some(enter) => pool.enter(move |run| enter(run)),
            None => pool,
        }
    }

    fn bounds(&self, broker: &dyn Broker) -> Bounds {
        let settings = &self.settings;
        Bounds {
            records: settings.in_flight_records,
            bytes: settings.in_flight_bytes,
            watermark_distance: settings.watermark_distance,
            drain_timeout: settings.drain_timeout,
            commit_interval: settings.commit_interval.or(broker.commit_interval()),
        }
    }
}

/// Starts the intake's thread: what `begin` makes is stepped inside of `enter` to its end, then `kept` is dropped. In a
/// simulation there is no thread, and each step is inside of `enter`.
fn spawn<L: Life + 'static, K: Send + 'static>(
    name: String,
    clock: Clock,
    enter: Option<Enter>,
    kept: K,
    begin: impl FnOnce(&Waker) -> L + Send + 'static,
) -> Result<Option<thread::JoinHandle<()>>, SubscribeError> {
    let enter = move |run: &mut dyn FnMut()| match &enter {
        Some(enter) => enter(run),
        None => run(),
    };
    let mut begin = Some(begin);
    let mut begin = move |waker: &Waker| begin.take().map(|begin| begin(waker)).expect("it begins once");
    if let Some(world) = world::of(&clock) {
        let adopted = move |waker: Waker| -> Stepped {
            let mut held = (None::<L>, kept);
            Box::new(move || {
                let (life, _) = &mut held;
                let mut step = Step::Over;
                enter(&mut || step = life.get_or_insert_with(|| begin(&waker)).step());
                step
            })
        };
        world.adopt(name, Box::new(adopted));
        return Ok(None);
    }
    let body = move || {
        let _kept = kept;
        enter(&mut || {
            let parker = Parker::new();
            live(&mut begin(parker.waker()), &parker, &clock);
        });
    };
    wait::spawn(name, body).map(Some).map_err(SubscribeError::Thread)
}

/// Wakes the intake of a subscription, also one whose thread has not started yet: it looks before it first sleeps.
struct WakeIntake(Arc<Shared>);

impl Wake for WakeIntake {
    fn wake(self: Arc<Self>) {
        self.0.wake_intake();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.wake_intake();
    }
}
