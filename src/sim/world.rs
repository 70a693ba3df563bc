//! The scheduler: who takes the next step, and when the time moves.

use crate::chance::world::Source;
use crate::sync::{Arc, AtomicBool, Ordering};
use crate::wait::world::{self, Stepped};
use crate::wait::{Clock, ManualClock, Step};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant, SystemTime};

/// Steps after which the time has to move, or something spins.
const MANY_STEPS: u64 = 20_000;
/// The longest that a slow thread keeps others waiting who could run, in microseconds.
const SLOW: u64 = 20_000;
/// The largest batch of a worker.
const BATCH: usize = 64;
/// Handlers that keep their threads busy inside of each other; one more is done at once.
const DEEPEST: u32 = 12;

/// A world of its own: its time, its tasks, its decisions. All of it follows from the seed.
///
/// What is a thread elsewhere (an intake, a worker, the publisher's, a close) is a task here. One of those that can go on
/// takes a step, drawn by the seed; when none can, the time moves on to whoever waits for a time. A task is stepped only
/// when its waker was woken or its time has come, so that a wake that is lost in the code is lost here too.
///
/// Buses in it are made on a [`MemoryBroker`](crate::memory::MemoryBroker) with the [`clock`](World::clock) of the world,
/// on the thread that made it. Waiting there (`wait`) steps the others meanwhile.
///
/// ```
/// use keylane::{Config, Record, memory::MemoryBroker, sim::World};
/// use std::time::Duration;
///
/// let world = World::new(7);
/// let broker = MemoryBroker::builder().topic("orders").clock(world.clock()).build();
/// let bus = broker.connect(Config::default())?;
/// let orders = bus.subscribe("orders").group("billing").handle(|_| Ok(()))?;
/// bus.publish("orders", Record::new("paid")).wait()?;
/// world.run_for(Duration::from_secs(1));
/// assert_eq!(orders.stats().succeeded, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct World(Rc<Inner>);

/// A process of a world: what was started inside of [`World::within`] belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Process(pub u32);

pub(super) struct Inner {
    clock: Clock,
    time: ManualClock,
    start: Instant,
    random: RefCell<fastrand::Rng>,
    /// For ids and jitter: what asks for them does not move the schedule.
    chance: RefCell<fastrand::Rng>,
    tasks: RefCell<Vec<Task>>,
    timers: RefCell<BTreeMap<(Instant, u64), Waker>>,
    frozen: RefCell<BTreeMap<Process, Instant>>,
    process: Cell<Process>,
    last_id: Cell<u64>,
    steps: Cell<u64>,
    /// Steps since the time last moved.
    still: Cell<u64>,
    hash: Cell<u64>,
    slowness: Cell<f64>,
    depth: Cell<u32>,
    is_crashing: Cell<bool>,
}

struct Task {
    id: u64,
    process: Process,
    name: String,
    body: Body,
    bell: Arc<Bell>,
    due: Option<Instant>,
}

enum Body {
    New(Box<dyn FnOnce(Waker) -> Stepped>),
    Begun(Stepped),
    /// It is on the stack.
    Running,
}

/// Notes that somebody was woken.
struct Bell(AtomicBool);

impl Bell {
    fn rung() -> Arc<Self> {
        Arc::new(Self(AtomicBool::new(true)))
    }

    fn has_rung(&self) -> bool {
        // ORDERING: Relaxed; all that looks at it is on one thread.
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, has_rung: bool) {
        // ORDERING: Relaxed; see `has_rung`.
        self.0.store(has_rung, Ordering::Relaxed);
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.set(true);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.set(true);
    }
}

/// What can happen next.
enum Next {
    /// The task at this place takes a step.
    Step(usize),
    /// The time moves to then.
    Time(Instant),
    /// Nothing, before the horizon or ever.
    Nothing,
}

impl Inner {
    fn next_id(&self) -> u64 {
        self.last_id.set(self.last_id.get() + 1);
        self.last_id.get()
    }

    fn mix(&self, value: u64) {
        let mixed = (self.hash.get() ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.hash.set(mixed ^ (mixed >> 29));
    }

    /// One step of one task, as soon as there is one. False: there is none until `horizon`, which the time has reached.
    fn step(&self, horizon: Option<Instant>) -> bool {
        loop {
            self.fire();
            match self.next(horizon) {
                Next::Step(at) => {
                    self.run(at);
                    return true;
                }
                Next::Time(to) => self.advance_to(to),
                Next::Nothing => {
                    horizon.into_iter().for_each(|horizon| self.advance_to(horizon));
                    return false;
                }
            }
            if horizon.is_some_and(|horizon| self.clock.now() >= horizon) {
                return false;
            }
        }
    }

    fn next(&self, horizon: Option<Instant>) -> Next {
        let now = self.clock.now();
        let (mut ready, mut soonest) = (Vec::with_capacity(16), None::<Instant>);
        let mut waits_until = |at: Instant| soonest = Some(soonest.map_or(at, |soonest| soonest.min(at)));
        let frozen = self.frozen.borrow();
        for (at, task) in self.tasks.borrow().iter().enumerate() {
            if matches!(task.body, Body::Running) {
                continue;
            }
            let thaws = frozen.get(&task.process).copied().filter(|until| *until > now);
            let is_ready = task.bell.has_rung() || task.due.is_some_and(|due| due <= now);
            match (is_ready, thaws) {
                (true, None) => ready.push(at),
                (true, Some(thaws)) => waits_until(thaws),
                (false, _) => task
                    .due
                    .into_iter()
                    .for_each(|due| waits_until(thaws.map_or(due, |thaws| due.max(thaws)))),
            }
        }
        self.timers.borrow().keys().next().into_iter().for_each(|(at, _)| waits_until(*at));
        let mut random = self.random.borrow_mut();
        let is_slow = random.f64() < self.slowness.get();
        if ready.is_empty() {
            return match soonest {
                Some(at) if horizon.is_none_or(|horizon| at <= horizon) => Next::Time(at),
                _ => Next::Nothing,
            };
        }
        if is_slow {
            let to = now + Duration::from_micros(random.u64(1..SLOW));
            return Next::Time(horizon.map_or(to, |horizon| horizon.min(to)));
        }
        Next::Step(ready[random.usize(..ready.len())])
    }

    fn advance_to(&self, to: Instant) {
        let by = to.saturating_duration_since(self.clock.now());
        if !by.is_zero() {
            self.mix(by.as_nanos() as u64);
            self.still.set(0);
            self.time.advance(by);
        }
    }

    /// Wakes whose time has come.
    fn fire(&self) {
        let now = self.clock.now();
        loop {
            let mut timers = self.timers.borrow_mut();
            let Some(first) = timers.first_entry().filter(|first| first.key().0 <= now) else { return };
            let waker = first.remove();
            drop(timers);
            waker.wake();
        }
    }

    fn run(&self, at: usize) {
        let (id, process, bell, body) = {
            let task = &mut self.tasks.borrow_mut()[at];
            task.bell.set(false);
            task.due = None;
            (task.id, task.process, task.bell.clone(), std::mem::replace(&mut task.body, Body::Running))
        };
        self.steps.set(self.steps.get() + 1);
        self.still.set(self.still.get() + 1);
        assert!(
            self.still.get() < MANY_STEPS,
            "something spins: {MANY_STEPS} steps, and the time stands still; the last was of `{}`",
            self.name_of(id)
        );
        self.mix(id);
        let before = self.process.replace(process);
        self.depth.set(self.depth.get() + 1);
        let mut body = match body {
            Body::New(begin) => begin(Waker::from(bell)),
            Body::Begun(body) => body,
            Body::Running => unreachable!("who is on the stack is not chosen"),
        };
        let step = body();
        self.depth.set(self.depth.get() - 1);
        self.process.set(before);
        // What ends, and what was killed in its own step, is dropped without the list: it may wake and start others.
        let over = {
            let mut tasks = self.tasks.borrow_mut();
            match tasks.iter().position(|task| task.id == id) {
                None => Some(body),
                Some(at) if step == Step::Over => {
                    drop(tasks.remove(at));
                    Some(body)
                }
                Some(at) => {
                    let task = &mut tasks[at];
                    task.body = Body::Begun(body);
                    match step {
                        Step::Until(until) => task.due = until,
                        Step::Again | Step::Over => task.bell.set(true),
                    }
                    None
                }
            }
        };
        drop(over);
    }

    fn name_of(&self, id: u64) -> String {
        self.tasks
            .borrow()
            .iter()
            .find(|task| task.id == id)
            .map(|task| task.name.clone())
            .unwrap_or_default()
    }
}

impl world::World for Inner {
    fn adopt(&self, name: String, begin: Box<dyn FnOnce(Waker) -> Stepped>) {
        let (id, process) = (self.next_id(), self.process.get());
        let task = Task { id, process, name, body: Body::New(begin), bell: Bell::rung(), due: None };
        self.tasks.borrow_mut().push(task);
    }

    fn block(&self, poll: &mut dyn FnMut(&mut Context<'_>) -> Poll<()>, limit: Option<Duration>) -> bool {
        let bell = Bell::rung();
        let waker = Waker::from(bell.clone());
        let until = limit.and_then(|limit| self.clock.now().checked_add(limit));
        loop {
            if bell.has_rung() {
                bell.set(false);
                if poll(&mut Context::from_waker(&waker)).is_ready() {
                    return true;
                }
            }
            if until.is_some_and(|until| self.clock.now() >= until) {
                return false;
            }
            let has_moved = self.step(until);
            assert!(
                has_moved || until.is_some() || bell.has_rung(),
                "waited for what never comes: no task can go on, and none waits for a time"
            );
        }
    }

    fn batch(&self) -> usize {
        let mut random = self.random.borrow_mut();
        if random.u8(..4) == 0 { random.usize(1..=BATCH) } else { random.usize(1..=3) }
    }
}

impl Source for Inner {
    fn wall_time(&self) -> SystemTime {
        self.clock.system_time()
    }

    fn number(&self) -> u64 {
        self.chance.borrow_mut().u64(..)
    }
}

impl World {
    /// A world whose every decision follows from this seed. It is its thread's until it is dropped.
    pub fn new(seed: u64) -> Self {
        let (clock, time) = Clock::simulated();
        let inner = Rc::new(Inner {
            start: clock.now(),
            clock,
            time,
            random: RefCell::new(fastrand::Rng::with_seed(seed ^ 0x5EED)),
            chance: RefCell::new(fastrand::Rng::with_seed(seed ^ 0xC4A_4CE)),
            tasks: RefCell::default(),
            timers: RefCell::default(),
            frozen: RefCell::default(),
            process: Cell::default(),
            last_id: Cell::new(0),
            steps: Cell::new(0),
            still: Cell::new(0),
            hash: Cell::new(seed),
            slowness: Cell::new(0.02),
            depth: Cell::new(0),
            is_crashing: Cell::new(false),
        });
        super::enter(Some(inner.clone()));
        Self(inner)
    }

    /// The clock that everything in this world goes by.
    pub fn clock(&self) -> Clock {
        self.0.clock.clone()
    }

    /// How long the world has been there, by its own time.
    pub fn now(&self) -> Duration {
        self.0.clock.now() - self.0.start
    }

    /// Steps that were taken.
    pub fn steps(&self) -> u64 {
        self.0.steps.get()
    }

    /// What has happened, in a number: two runs with the same hash had the same history.
    pub fn hash(&self) -> u64 {
        self.0.hash.get()
    }

    /// Takes a fact into the [`hash`](World::hash).
    pub fn note(&self, fact: u64) {
        self.0.mix(fact);
    }

    /// A number below `end`, by the seed.
    ///
    /// # Panics
    /// When `end` is 0.
    pub fn number(&self, end: u64) -> u64 {
        self.0.random.borrow_mut().u64(..end)
    }

    /// How often the time moves on although somebody could go on, 0.0 to 1.0: threads that are slow. By default 0.02.
    pub fn set_slowness(&self, chance: f64) {
        self.0.slowness.set(chance);
    }

    /// What is started in the closure belongs to this process. Elsewhere it is process 0.
    pub fn within<R>(&self, process: Process, run: impl FnOnce() -> R) -> R {
        let before = self.0.process.replace(process);
        let result = run();
        self.0.process.set(before);
        result
    }

    /// Lets this much time pass.
    pub fn run_for(&self, time: Duration) {
        self.run_until(time, || false);
    }

    /// Lets time pass until `is_done`, for as long as `limit`. Whether it is done.
    pub fn run_until(&self, limit: Duration, mut is_done: impl FnMut() -> bool) -> bool {
        let until = self.0.clock.now() + limit;
        loop {
            if is_done() {
                return true;
            }
            if self.0.clock.now() >= until {
                return false;
            }
            self.0.step(Some(until));
        }
    }

    /// Kills a process: nothing of it takes another step. Handlers that run as futures are dropped.
    pub fn crash(&self, process: Process) {
        let dead = |task: &mut Task| task.process == process;
        let mut dead: Vec<_> = self.0.tasks.borrow_mut().extract_if(.., dead).collect();
        // An intake goes before its workers, which were there first: nothing that they drop is told to the broker.
        dead.reverse();
        let before = self.0.is_crashing.replace(true);
        dead.into_iter().for_each(drop);
        self.0.is_crashing.set(before);
    }

    /// A process takes no step for this long, as under a debugger or on a machine that stands still.
    pub fn freeze(&self, process: Process, time: Duration) {
        self.0.frozen.borrow_mut().insert(process, self.0.clock.now() + time);
    }

    /// Ends all freezes.
    pub fn thaw(&self) {
        self.0.frozen.borrow_mut().clear();
    }

    /// The names of what a process has under way: of its threads, if it had some.
    pub fn tasks(&self, process: Process) -> Vec<String> {
        let tasks = self.0.tasks.borrow();
        tasks.iter().filter(|task| task.process == process).map(|task| task.name.clone()).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.0.is_crashing.set(true);
        let tasks = std::mem::take(&mut *self.0.tasks.borrow_mut());
        drop(tasks);
        super::enter(None);
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("now", &self.now())
            .field("steps", &self.steps())
            .finish_non_exhaustive()
    }
}

impl World {
    pub(super) fn inner(&self) -> Rc<Inner> {
        self.0.clone()
    }
}

impl Inner {
    pub(super) fn process(&self) -> Process {
        self.process.get()
    }

    pub(super) fn since_start(&self) -> Duration {
        self.clock.now() - self.start
    }

    pub(super) fn is_crashing(&self) -> bool {
        self.is_crashing.get()
    }

    pub(super) fn now(&self) -> Instant {
        self.clock.now()
    }

    pub(super) fn draw(&self, end: u64) -> u64 {
        self.random.borrow_mut().u64(..end)
    }

    /// Has the waker woken then; again with the same number it replaces the waker.
    pub(super) fn wake_at(&self, at: Instant, number: u64, waker: Waker) {
        self.timers.borrow_mut().insert((at, number), waker);
    }

    pub(super) fn forget(&self, at: Instant, number: u64) {
        self.timers.borrow_mut().remove(&(at, number));
    }

    pub(super) fn new_timer(&self) -> u64 {
        self.next_id()
    }

    /// Whether one more handler may keep its thread busy while others run inside of it.
    pub(super) fn has_depth(&self) -> bool {
        self.depth.get() < DEEPEST
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sim::sleep;
    use crate::wait::world::{World as _, adopt_future};
    use std::future::poll_fn;

    const MS: Duration = Duration::from_millis(1);

    /// Tasks that each say their number a few times, and sleep in between.
    fn said(seed: u64) -> Vec<u64> {
        let (world, said) = (World::new(seed), Rc::new(RefCell::new(Vec::new())));
        for number in 0..4 {
            let said = said.clone();
            let talks = async move {
                for _ in 0..3 {
                    said.borrow_mut().push(number);
                    sleep(MS).await;
                }
            };
            adopt_future(&*world.0, "talks".to_owned(), talks);
        }
        world.run_for(100 * MS);
        said.take()
    }

    #[test]
    fn a_seed_has_one_schedule_and_others_have_others() {
        assert_eq!(said(7), said(7));
        assert!((0..10).any(|seed| said(seed) != said(7)));
        assert_eq!(said(7).len(), 12);
    }

    #[test]
    fn a_wake_that_is_lost_stays_lost() {
        let world = World::new(1);
        let polls = Rc::new(Cell::new(0));
        let counts = polls.clone();
        let waits = poll_fn(move |_| {
            counts.set(counts.get() + 1);
            Poll::<()>::Pending
        });
        adopt_future(&*world.0, "waits".to_owned(), waits);
        world.run_for(Duration::from_secs(3_600));
        assert_eq!(polls.get(), 1, "nobody woke it");
        assert_eq!(world.tasks(Process(0)), ["waits"]);
    }

    #[test]
    #[should_panic(expected = "something spins")]
    fn what_spins_is_told() {
        let world = World::new(1);
        world.set_slowness(0.0);
        world.0.adopt("spins".to_owned(), Box::new(|_| Box::new(|| Step::Again)));
        world.run_for(MS);
    }

    #[test]
    #[should_panic(expected = "what never comes")]
    fn a_wait_for_what_never_comes_is_told() {
        let _world = World::new(1);
        crate::wait::block_on(std::future::pending::<()>());
    }

    #[test]
    fn who_is_killed_takes_no_step_and_is_dropped_as_that() {
        struct Ends(Rc<Cell<Option<bool>>>);
        impl Drop for Ends {
            fn drop(&mut self) {
                self.0.set(Some(crate::sim::is_crashing()));
            }
        }
        let (world, ended) = (World::new(1), Rc::new(Cell::new(None)));
        let ends = Ends(ended.clone());
        let sleeps = async move {
            sleep(10 * MS).await;
            drop(ends);
        };
        world.within(Process(1), || adopt_future(&*world.0, "sleeps".to_owned(), sleeps));
        world.run_for(5 * MS);
        world.crash(Process(1));
        assert_eq!(ended.get(), Some(true));
        assert!(world.tasks(Process(1)).is_empty());
        world.run_for(20 * MS);
    }

    #[test]
    fn who_is_frozen_goes_on_later() {
        let (world, at) = (World::new(1), Rc::new(Cell::new(Duration::ZERO)));
        world.set_slowness(0.0);
        let (told, clock) = (at.clone(), world.0.clone());
        let sleeps = async move {
            sleep(MS).await;
            told.set(clock.since_start());
        };
        world.within(Process(1), || adopt_future(&*world.0, "sleeps".to_owned(), sleeps));
        world.freeze(Process(1), 50 * MS);
        world.run_for(10 * MS);
        assert_eq!(at.get(), Duration::ZERO);
        world.run_for(60 * MS);
        assert!(at.get() >= 50 * MS, "{:?}", at.get());
    }

    #[test]
    fn time_does_not_pass_beyond_what_is_asked_for() {
        let world = World::new(1);
        let sleeps = async { sleep(Duration::from_secs(10)).await };
        adopt_future(&*world.0, "sleeps".to_owned(), sleeps);
        world.run_for(Duration::from_secs(4));
        assert_eq!(world.now(), Duration::from_secs(4));
        assert!(!world.run_until(Duration::from_secs(5), || world.tasks(Process(0)).is_empty()));
        assert!(world.run_until(Duration::from_secs(5), || world.tasks(Process(0)).is_empty()));
        assert_eq!(world.now(), Duration::from_secs(10));
    }
}
