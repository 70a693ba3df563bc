//! Given, when, then: services in a world, what is published, and the time.

use super::judge::{Judge, Twice};
use super::story::{Story, with_log};
use super::world::{Inner, Process, World};
use crate::memory::MemoryBroker;
use crate::{Bus, Config, Envelope, Health, Held, Message, Record, SubscribeError, Subscription};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
/// What a process has to close its bus.
const CLOSE: Duration = Duration::from_secs(10);
/// After a crash a process is there again within so many milliseconds.
const AWAY: u64 = 300;

/// What is left out of a run: the numbers of its acts.
pub(super) type Without = BTreeSet<u32>;

/// A simulation with services, in a world of its own. Made by [`test()`] and [`seeds`](super::seeds).
///
/// Promises are checked without being told: a record that starts before an earlier one of its key is over, two of one key
/// at a time, or what spins fails the test.
pub struct Sim<'a> {
    services: RefCell<Vec<Service<'a>>>,
    publisher: Bus,
    broker: MemoryBroker,
    judge: Rc<Judge>,
    story: Story,
    lives: Cell<u32>,
    acts: Cell<u32>,
    without: Without,
    topics: RefCell<BTreeSet<String>>,
    seed: u64,
    /// Dropped last: what the others drop is dropped in it.
    world: World,
}

/// Starts a process of a service.
type Start<'a> = dyn Fn(&Bus) -> Vec<Subscription> + 'a;

struct Service<'a> {
    name: String,
    start: Box<Start<'a>>,
    processes: Vec<Option<Running>>,
}

struct Running {
    life: Process,
    bus: Bus,
    subscriptions: Vec<Subscription>,
}

/// What a service's start returns: one subscription, or several.
pub trait Subscriptions {
    /// All of them.
    fn all(self) -> Vec<Subscription>;
}

impl Subscriptions for Subscription {
    fn all(self) -> Vec<Subscription> {
        vec![self]
    }
}

impl Subscriptions for Vec<Subscription> {
    fn all(self) -> Vec<Subscription> {
        self
    }
}

impl<const N: usize> Subscriptions for [Subscription; N] {
    fn all(self) -> Vec<Subscription> {
        self.into()
    }
}

/// One world, for given, when, then; its seed is 0. What `run` returns is returned, and what it panics with goes on.
///
/// # Panics
/// With `run`, and when a promise was broken.
pub fn test<'a, R>(run: impl FnOnce(&Sim<'a>) -> R) -> R {
    let sim = Sim::new(0, Without::new(), Twice::None);
    let result = sim.logged(|| run(&sim));
    sim.assert_promises();
    result
}

impl<'a> Sim<'a> {
    pub(super) fn new(seed: u64, without: Without, twice: Twice) -> Self {
        let world = World::new(seed);
        let story = Story::default();
        let inner = world.inner();
        let judge = {
            let (story, process, now) = (story.clone(), inner.clone(), inner.clone());
            Judge::new(move || process.process(), move |text| story.say(now.since_start(), &text))
        };
        judge.set_twice(twice);
        crate::subscription::observed::set(Some(judge.clone()));
        let broker = MemoryBroker::builder().create_topics(true).clock(world.clock()).build();
        let publisher = broker.connect(Config::default()).expect("the defaults are valid");
        Self {
            services: RefCell::default(),
            publisher,
            broker,
            judge,
            story,
            lives: Cell::new(0),
            acts: Cell::new(0),
            without,
            topics: RefCell::default(),
            seed,
            world,
        }
    }

    /// Runs a part of the program in so many processes, of one group if `start` says so. It is given a bus of the
    /// process's own, and called again each time that the process is started after a crash or a leave: what survives
    /// those is what it captures.
    ///
    /// # Panics
    /// When it can't subscribe.
    pub fn service<S: Subscriptions>(
        &self,
        name: &str,
        processes: usize,
        start: impl Fn(&Bus) -> Result<S, SubscribeError> + 'a,
    ) {
        let named = name.to_owned();
        let start = move |bus: &Bus| match start(bus) {
            Ok(subscriptions) => subscriptions.all(),
            Err(error) => panic!("the service `{named}` can't subscribe: {error}"),
        };
        let mut service = Service { name: name.to_owned(), start: Box::new(start), processes: Vec::new() };
        service.processes = (0..processes).map(|_| Some(self.start(&service))).collect();
        self.say(&format!("`{name}` starts, {processes} of it"));
        self.services.borrow_mut().push(service);
    }

    fn start(&self, service: &Service<'a>) -> Running {
        self.lives.set(self.lives.get() + 1);
        let life = Process(self.lives.get());
        self.world.within(life, || {
            let bus = self.broker.connect(Config::default()).expect("the defaults are valid");
            let subscriptions = (service.start)(&bus);
            Running { life, bus, subscriptions }
        })
    }

    /// Publishes, from outside of the services. Nobody waits for the acknowledgement. A topic that is not there is made.
    pub fn publish(&self, topic: &str, message: impl Into<Message>) {
        self.topics.borrow_mut().insert(topic.to_owned());
        self.say(&format!("published to `{topic}`"));
        drop(self.publisher.publish(topic, message));
    }

    /// These numbers, of which some are left out when a failure is told in as few acts as it takes: for what a test
    /// publishes in a loop.
    pub fn some(&self, numbers: Range<u64>) -> impl Iterator<Item = u64> + '_ {
        numbers.filter(|_| self.next_act())
    }

    /// Lets time pass.
    pub fn after(&self, time: Duration) {
        self.world.run_for(time);
    }

    /// How long the simulation has been running, by its own time.
    pub fn now(&self) -> Duration {
        self.world.now()
    }

    /// The records of a topic, partition by partition, in their order; none where nobody has published to it.
    pub fn published(&self, topic: &str) -> Vec<Record> {
        self.broker.records(topic).unwrap_or_default()
    }

    /// The payloads of a topic's Envelopes, and the bytes of its other records as text, in the same order.
    pub fn payloads(&self, topic: &str) -> Vec<String> {
        let payload = |record: &Record| match Envelope::parse(&record.value) {
            Ok(envelope) => envelope.payload().to_owned(),
            Err(_) => String::from_utf8_lossy(&record.value).into_owned(),
        };
        self.published(topic).iter().map(payload).collect()
    }

    /// Whoever operates the services: looks at what is held, and decides about it.
    pub fn operator(&self) -> Operator<'_, 'a> {
        Operator(self)
    }

    /// The health of every subscription that runs.
    pub fn health(&self) -> Vec<Health> {
        self.each(|running| running.bus.health()).into_iter().flatten().collect()
    }

    /// Kills a process of a service, counted from 0; it is there again within 300 ms, which have passed when this returns.
    pub fn crash(&self, service: &str, process: usize) {
        let at = self.services.borrow().iter().position(|known| known.name == service);
        let at = at.unwrap_or_else(|| panic!("there is no service `{service}`"));
        self.restart(at, process, true, AWAY / 2);
    }

    /// The broker, to plant faults in or to look at.
    pub fn broker(&self) -> &MemoryBroker {
        &self.broker
    }

    /// The world under it.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Ends the faults, and lets everything come to its end: all that was published is handled, and all that handlers
    /// publish.
    ///
    /// # Panics
    /// When that takes longer than 30 days of its time, with the health of those that run: a record is held, or fails for
    /// ever.
    pub fn settle(&self) {
        self.broker.faults().clear();
        self.world.thaw();
        // Short looks first; what is retried by the hour takes days.
        let looks = [(SECOND, 120), (60 * SECOND, 120), (3_600 * SECOND, 30 * 24)];
        for (pause, count) in looks {
            for _ in 0..count {
                if self.has_settled(pause) {
                    return;
                }
            }
        }
        let health: Vec<String> = self.health().iter().map(|health| format!("{health:?}")).collect();
        panic!("not everything came to its end within 30 days of the simulation: {}", health.join("; "));
    }

    /// Whether everybody catches up within this time, and nothing was published meanwhile.
    fn has_settled(&self, within: Duration) -> bool {
        let published = self.publishes();
        let waits = self
            .each(|running| running.subscriptions.iter().map(Subscription::caught_up).collect::<Vec<_>>());
        let waits: Vec<_> = waits.into_iter().flatten().collect();
        let has_caught_up = || {
            let is_idle =
                || self.each(|running| running.bus.stats().in_flight).into_iter().all(|left| left == 0);
            (waits.iter().all(crate::Op::is_done) || is_idle() && self.is_all_over())
                && self.is_acknowledged()
        };
        let has_failed =
            |wait: crate::Op<Result<(), crate::WaitError>>| wait.is_done() && wait.wait().is_err();
        self.world.run_until(within, has_caught_up)
            && !waits.into_iter().any(has_failed)
            && self.publishes() == published
    }

    /// Whether everything that is stored is over: where a settle was lost the broker does not know it, and nobody tells it
    /// again before the next one.
    fn is_all_over(&self) -> bool {
        let is_over = |subscription: &Subscription| {
            let (group, topics) = subscription.takes();
            topics.iter().all(|topic| self.judge.over(group, topic) == self.published(topic).len())
        };
        self.each(|running| running.subscriptions.iter().all(is_over)).into_iter().all(|is_over| is_over)
    }

    fn publishes(&self) -> u64 {
        self.publisher.stats().published
            + self.each(|running| running.bus.stats().published).iter().sum::<u64>()
    }

    fn is_acknowledged(&self) -> bool {
        let has_all = |bus: &Bus| {
            let publishing = bus.publishing();
            publishing.unacknowledged + publishing.waiting_for_room == 0
        };
        has_all(&self.publisher)
            && self.each(|running| has_all(&running.bus)).into_iter().all(|has_all| has_all)
    }

    fn each<R>(&self, of: impl Fn(&Running) -> R) -> Vec<R> {
        let services = self.services.borrow();
        services.iter().flat_map(|service| service.processes.iter().flatten()).map(of).collect()
    }

    /// Kills, or ends, any process, and starts it again.
    pub(super) fn restart_any(&self, drawn: u64, is_crash: bool) {
        let services = self.services.borrow();
        if services.is_empty() {
            return;
        }
        let at = drawn as usize % services.len();
        let processes = services[at].processes.len().max(1);
        drop(services);
        self.restart(at, drawn as usize / 7 % processes, is_crash, drawn % AWAY);
    }

    fn restart(&self, service: usize, process: usize, is_crash: bool, away: u64) {
        let mut services = self.services.borrow_mut();
        let name = services[service].name.clone();
        let Some(running) = services[service].processes.get_mut(process).and_then(Option::take) else {
            return;
        };
        drop(services);
        let life = running.life;
        if is_crash {
            self.say(&format!("`{name}` {process} is killed"));
            self.judge.killed(life);
            self.world.crash(life);
        } else {
            self.say(&format!("`{name}` {process} leaves"));
            let close = self.world.within(life, || running.bus.close(CLOSE));
            let has_left = self.world.run_until(CLOSE + SECOND, || close.is_done());
            assert!(has_left, "P8, close ends: `{name}` {process} did not leave within {CLOSE:?}");
        }
        drop(running);
        self.after(Duration::from_millis(away));
        let again = self.start(&self.services.borrow()[service]);
        self.services.borrow_mut()[service].processes[process] = Some(again);
        self.say(&format!("`{name}` {process} is there again"));
    }

    /// Whether the next act is part of this run.
    pub(super) fn next_act(&self) -> bool {
        let number = self.acts.replace(self.acts.get() + 1);
        !self.without.contains(&number)
    }

    pub(super) fn say(&self, text: &str) {
        self.story.say(self.now(), text);
    }

    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    pub(super) fn topics(&self) -> Vec<String> {
        self.topics.borrow().iter().cloned().collect()
    }

    pub(super) fn acts(&self) -> u32 {
        self.acts.get()
    }

    pub(super) fn story(&self) -> Story {
        self.story.clone()
    }

    pub(super) fn handled(&self) -> Vec<String> {
        self.judge.handled()
    }

    /// Runs with this thread's log in the story.
    pub(super) fn logged<R>(&self, run: impl FnOnce() -> R) -> R {
        let (story, world): (Story, Rc<Inner>) = (self.story.clone(), self.world.inner());
        // What is dropped with a process that is killed says nothing any more.
        let tell = move |line: &str| {
            if !world.is_crashing() {
                story.say(world.since_start(), line);
            }
        };
        with_log(Rc::new(tell), run)
    }

    /// # Panics
    /// When a promise was broken.
    pub(super) fn assert_promises(&self) {
        let broken = self.judge.broken();
        assert!(broken.is_empty(), "{}", broken.join("\n"));
    }
}

impl Drop for Sim<'_> {
    fn drop(&mut self) {
        crate::subscription::observed::set(None);
    }
}

impl fmt::Debug for Sim<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sim").field("seed", &self.seed).field("now", &self.now()).finish_non_exhaustive()
    }
}

/// Whoever operates the services of a simulation; from [`Sim::operator`]. What is decided has been done when a call
/// returns.
#[derive(Debug)]
pub struct Operator<'s, 'a>(&'s Sim<'a>);

impl Operator<'_, '_> {
    /// All records that are held.
    pub fn held(&self) -> Vec<Held> {
        self.0
            .each(|running| running.subscriptions.iter().flat_map(Subscription::held).collect::<Vec<_>>())
            .concat()
    }

    /// Has everything that is held tried again; how many records that were.
    pub fn retry_held(&self) -> usize {
        self.decide("has what is held tried again", Subscription::retry_held)
    }

    /// Skips everything that is held; how many records that were.
    pub fn skip_held(&self) -> usize {
        self.decide("skips what is held", Subscription::skip_held)
    }

    /// No subscription takes further records.
    pub fn pause(&self) {
        self.0.say("the operator pauses all");
        self.0.each(|running| running.subscriptions.iter().for_each(Subscription::pause));
    }

    /// They take records again.
    pub fn resume(&self) {
        self.0.say("the operator resumes all");
        self.0.each(|running| running.subscriptions.iter().for_each(Subscription::resume));
    }

    fn decide(&self, what: &str, decide: fn(&Subscription, &Held) -> crate::Op<bool>) -> usize {
        self.0.say(&format!("the operator {what}"));
        let asked = self.0.each(|running| {
            let all = |of: &Subscription| of.held().iter().map(|held| decide(of, held)).collect::<Vec<_>>();
            running.subscriptions.iter().flat_map(all).collect::<Vec<_>>()
        });
        asked.into_iter().flatten().map(crate::Op::wait).filter(|was_held| *was_held).count()
    }
}
