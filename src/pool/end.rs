//! How workers and lanes end, and who is told.

use super::wakeup::{Keyed, WorkerLane};
use crate::foreign;
use crate::sync::{Arc, Mutex};
use crate::wait::{Backoff, Op, Promise};

/// Who waits for the workers of a pool to end, and how many have not.
pub(super) struct Exits {
    running: usize,
    promises: Vec<Promise<()>>,
}

impl Exits {
    pub(super) fn of(workers: usize) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self { running: workers, promises: Vec::new() }))
    }

    /// Over when all have ended.
    pub(super) fn all(exits: &Mutex<Self>) -> Op<()> {
        let mut exits = exits.lock();
        if exits.running == 0 {
            return Op::ready(());
        }
        let (promise, op) = Op::pending(|| ());
        exits.promises.push(promise);
        op
    }
}

/// One worker's mark among those that run. Dropped as the last thing of it.
pub(super) struct Exit(pub(super) Arc<Mutex<Exits>>);

impl Drop for Exit {
    fn drop(&mut self) {
        let mut exits = self.0.lock();
        exits.running -= 1;
        if exits.running == 0 {
            let promises = std::mem::take(&mut exits.promises);
            drop(exits);
            promises.into_iter().for_each(|promise| promise.complete(()));
        }
    }
}

/// Ends a lane whose worker could not be made: what was accepted is dropped.
pub(super) fn end_unmanned<J>(lane: &WorkerLane<J>) {
    lane.close();
    let drop_one = |dropped: &mut u64, job| {
        foreign::discard(job);
        *dropped += 1;
    };
    end_lane(lane, &mut 0, |dropped| *dropped, drop_one);
}

/// Gives all jobs of a closed lane to `end`, and drops its wakes. `over` counts the jobs that are not released.
pub(super) fn end_lane<J, C>(
    lane: &WorkerLane<J>,
    context: &mut C,
    over: fn(&C) -> u64,
    end: impl Fn(&mut C, J),
) {
    let mut backoff = Backoff::default();
    loop {
        while let Some(Keyed { job, .. }) = lane.pop() {
            end(context, job);
        }
        // What was reserved before the close was accepted: its push is still to come.
        if lane.look().pending() <= over(context) {
            break;
        }
        wait_for_push(&mut backoff);
    }
    lane.end_wakes();
}

/// Passes the time while a push is under way: longer and longer, for its thread may have been stopped in the middle of
/// it, and then that is said once.
pub(super) fn wait_for_push(backoff: &mut Backoff) {
    backoff.snooze();
    if backoff.is_very_long() {
        foreign::warn!(
            "a job has been on its way into a lane for about a second: the thread that hands it over does not run"
        );
    }
}
