//! Records on their way from the broker to the pool, made into deliveries a lot at a time.

use super::next::Next;
use super::prepare::Prepared;
use super::runner::Delivery;
use crate::broker::Fetched;
use crate::delivery::Assignment;
use crate::delivery::partitions::Token;
use crate::event::{Arrived, Event, Owner};
use crate::pool::Key;
use crate::sync::Arc;

/// Records that share an allocation. One that is held keeps the others in memory.
const SHARED_BY: usize = 32;

/// The records that arrived and are no deliveries yet, by worker: what shares an allocation is counted by one thread
/// alone, since several would take its counter from each other at every record.
pub(super) struct Arrivals(Vec<Lot>);

#[derive(Default)]
struct Lot {
    arrived: Vec<Arrived>,
    /// Which of them has the assignment that came new into the lot last.
    owner: Option<u32>,
    /// What else is known of those that arrived, one by one.
    arriving: Vec<(Key, Token, usize, Next)>,
}

impl Arrivals {
    pub(super) fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| Lot::default()).collect())
    }

    /// Adds a record, and moves its worker's lot into `batch` when it is full.
    pub(super) fn push(
        &mut self,
        assignment: &Arc<Assignment>,
        fetched: Fetched,
        (key, prepared): (Key, Prepared),
        token: Token,
        bytes: usize,
        batch: &mut Vec<(Key, Delivery)>,
    ) {
        let Prepared { aggregate, envelope, next, .. } = prepared;
        let worker = key.worker(self.0.len());
        let lot = &mut self.0[worker];
        let is_same = |at: &u32| lot.arrived[*at as usize].owns(assignment);
        let owner = if let Some(at) = lot.owner.filter(is_same) {
            Owner::As(at)
        } else {
            lot.owner = Some(lot.arrived.len() as u32);
            Owner::Own(assignment.clone())
        };
        lot.arrived.push(Arrived::new(owner, fetched, aggregate, envelope));
        lot.arriving.push((key, token, bytes, next));
        if lot.arrived.len() == SHARED_BY {
            lot.flush(batch);
        }
    }

    /// Moves what is left into `batch`.
    pub(super) fn flush(&mut self, batch: &mut Vec<(Key, Delivery)>) {
        self.0.iter_mut().for_each(|lot| lot.flush(batch));
    }
}

impl Lot {
    fn flush(&mut self, batch: &mut Vec<(Key, Delivery)>) {
        if self.arrived.is_empty() {
            return;
        }
        self.owner = None;
        let events = Event::of(self.arrived.drain(..));
        for (event, (key, token, bytes, next)) in events.zip(self.arriving.drain(..)) {
            let delivery = Delivery {
                event,
                token,
                bytes,
                next,
                started: None,
                failure: None,
                awaits_lease: false,
                is_over: false,
            };
            batch.push((key, delivery));
        }
    }
}
