//! A worker's life on a thread of its own.

use super::end::{Exit, end_unmanned, wait_for_push};
use super::handler::{Handler, Turn};
use super::idle::{Idle, Idling};
use super::wakeup::{WorkerLane, lane_number};
use super::worker::Worker;
use crate::foreign;
use crate::sync::{Arc, thread};
use crate::wait::{Backoff, Clock, Parker, own_lane};

/// Runs a closure in the context that a worker's thread needs, a runtime's for instance.
pub type Enter = Arc<dyn Fn(&mut dyn FnMut()) + Send + Sync>;

/// How the threads of a pool live.
#[derive(Clone)]
pub(super) struct Life {
    pub(super) idle: Idle,
    pub(super) clock: Clock,
    pub(super) enter: Option<Enter>,
    /// The workers, and one who submits, are more than the machine has cores.
    pub(super) is_crowded: bool,
}

pub(super) fn spawn(
    name: String,
    body: impl FnOnce() + Send + 'static,
) -> std::io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name(name).spawn(body)
}

/// Makes the worker, steps it until it ends, and drops it. The exit is dropped last, also in an unwind: whoever drains
/// learns that this worker has ended.
pub(super) fn live<H: Handler>(
    life: &Life,
    number: usize,
    lane: &Arc<WorkerLane<H::Job>>,
    make: &impl Fn(usize) -> H,
    exit: Exit,
) {
    // Also around what makes and drops the handler: it is foreign code, and must not wait for its own lane.
    let own = own_lane::enter(lane_number(lane));
    match foreign::call(|| make(number)) {
        Ok(handler) => run(Worker::new(lane.clone(), handler, life.clock.clone()), life),
        Err(panic) => {
            end_unmanned(lane);
            foreign::error!(panic, number, "a worker's handler could not be made");
        }
    }
    drop((own, exit));
}

fn run<H: Handler>(mut worker: Worker<H>, life: &Life) {
    let parker = Parker::new();
    worker.set_sleeper(parker.waker().clone());
    let _registration = life.clock.register(parker.waker().clone());
    let mut idling = Idling::new(life.idle, life.clock.is_manual());
    let mut turns = || {
        let mut backoff = Backoff::default();
        loop {
            match worker.step_or_look(life.clock.now(), &mut idling) {
                Turn::Ran => {
                    backoff = Backoff::default();
                    if worker.ran_few() {
                        idling.rest(life.is_crowded);
                    }
                }
                Turn::Snooze if idling.spins() => backoff.spin(),
                Turn::Snooze => wait_for_push(&mut backoff),
                Turn::Park(until) => {
                    parker.park_until(if life.clock.is_manual() { None } else { until });
                }
                Turn::Exit => break,
            }
        }
    };
    match &life.enter {
        // A hook that panics, or does not run what it was given, ends its worker.
        Some(enter) => foreign::run("the hook around a worker", || enter(&mut turns)),
        None => turns(),
    }
    // Its handler is foreign code, also when it is dropped.
    foreign::discard(worker);
}
