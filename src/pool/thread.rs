//! A worker's life on a thread of its own.

use super::end::{Exit, end_unmanned, wait_for_push};
use super::handler::{Handler, Turn};
use super::idle::{Idle, Idling};
use super::wakeup::{WorkerLane, lane_number};
use super::worker::Worker;
use crate::foreign;
use crate::sync::{Arc, thread};
use crate::wait::world::{self, Stepped, World};
use crate::wait::{Backoff, Clock, Life, Parker, Step, live, own_lane, spawn};
use std::task::Waker;

/// Runs a closure in the context that a worker's thread needs, a runtime's for instance.
pub type Enter = Arc<dyn Fn(&mut dyn FnMut()) + Send + Sync>;

/// How the threads of a pool live.
#[derive(Clone)]
pub(super) struct Manner {
    pub(super) idle: Idle,
    pub(super) clock: Clock,
    pub(super) enter: Option<Enter>,
    /// The workers, and one who submits, are more than the machine has cores.
    pub(super) is_crowded: bool,
}

/// A lane that is to get a worker.
pub(super) struct Post<H: Handler, M> {
    pub(super) number: usize,
    pub(super) lane: Arc<WorkerLane<H::Job>>,
    pub(super) make: Arc<M>,
    pub(super) manner: Manner,
    /// Dropped last, also in an unwind: whoever drains learns that this worker has ended.
    pub(super) exit: Exit,
}

impl<H: Handler, M: Fn(usize) -> H + Send + Sync + 'static> Post<H, M> {
    /// Starts the worker's thread, which makes the worker, steps it until it ends, and drops it. In a simulation there is
    /// none.
    pub(super) fn start(self, name: String) -> std::io::Result<Option<thread::JoinHandle<()>>> {
        if let Some(world) = world::of(&self.manner.clock) {
            self.adopt(name, &*world);
            return Ok(None);
        }
        spawn(name, move || self.live()).map(Some)
    }

    fn live(self) {
        // Also around what makes and drops the handler: it is foreign code, and must not wait for its own lane.
        let own = own_lane::enter(lane_number(&self.lane));
        let parker = Parker::new();
        if let Some(mut working) = self.begin(parker.waker()) {
            let clock = &self.manner.clock;
            let _registration = clock.register(parker.waker().clone());
            let mut turns = || live(&mut working, &parker, clock);
            match &self.manner.enter {
                // A hook that panics, or does not run what it was given, ends its worker.
                Some(enter) => foreign::run("the hook around a worker", || enter(&mut turns)),
                None => turns(),
            }
            // Its handler is foreign code, also when it is dropped.
            foreign::discard(working.worker);
        }
        drop((own, self.exit));
    }

    fn begin(&self, waker: &Waker) -> Option<Working<H>> {
        let Self { number, lane, make, manner, .. } = self;
        match foreign::call(|| make(*number)) {
            Ok(handler) => {
                let worker = Worker::new(lane.clone(), handler, manner.clock.clone());
                worker.set_sleeper(waker.clone());
                Some(Working::new(worker, manner))
            }
            Err(panic) => {
                end_unmanned(lane);
                foreign::error!(panic, number, "a worker's handler could not be made");
                None
            }
        }
    }

    /// The same where a world takes the steps; the hook is around each of them.
    fn adopt(self, name: String, world: &dyn World) {
        let begin = move |waker: Waker| -> Stepped {
            // The worker is dropped before its exit.
            let mut held = (self.begin(&waker), self);
            Box::new(move || {
                let (Some(working), Self { manner, .. }) = &mut held else { return Step::Over };
                if let Some(world) = world::of(&manner.clock) {
                    working.worker.limit_turn(world.batch());
                }
                let mut step = Step::Over;
                let mut turn = || step = working.step();
                match &manner.enter {
                    Some(enter) => foreign::run("the hook around a worker", || enter(&mut turn)),
                    None => turn(),
                }
                step
            })
        };
        world.adopt(name, Box::new(begin));
    }
}

/// A worker as a thread has it: with what it does without work.
struct Working<H: Handler> {
    worker: Worker<H>,
    idling: Idling,
    backoff: Backoff,
    clock: Clock,
    is_crowded: bool,
}

impl<H: Handler> Working<H> {
    fn new(worker: Worker<H>, manner: &Manner) -> Self {
        Self {
            worker,
            idling: Idling::new(manner.idle, manner.clock.is_manual()),
            backoff: Backoff::default(),
            clock: manner.clock.clone(),
            is_crowded: manner.is_crowded,
        }
    }
}

impl<H: Handler> Life for Working<H> {
    #[inline]
    fn step(&mut self) -> Step {
        match self.worker.step_or_look(self.clock.now(), &mut self.idling) {
            Turn::Ran => {
                self.backoff = Backoff::default();
                if self.worker.ran_few() {
                    self.idling.rest(self.is_crowded);
                }
                Step::Again
            }
            Turn::Snooze if self.idling.spins() => {
                self.backoff.spin();
                Step::Again
            }
            Turn::Snooze => {
                wait_for_push(&mut self.backoff);
                Step::Again
            }
            Turn::Park(until) => Step::Until(until),
            Turn::Exit => Step::Over,
        }
    }
}
