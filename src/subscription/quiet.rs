//! Whether a subscription is quiet: nothing of it moves without time going on, an operator, or somebody outside.
//!
//! The intake knows of itself; of the workers it learns by a visit, which each answers between two turns. A record is at
//! rest where it waits for a time to come, for an operator or for a future, or behind one that does; when as many are at
//! rest as are in flight, none is queued, running or on its way back.
//!
//! Each answer carries a stamp that counts what has moved. Who asks all parts of a bus twice, and gets the same stamps,
//! knows that between the two rounds nothing moved anywhere: what one part had sent to another would have been found
//! there in the second round, as something queued.

use super::intake::Intake;
use super::runner::Invoke;
use super::waiting::{QuietVisit, Seen};
use crate::bus::connection::Stamp;
use crate::sync::{Arc, Mutex};
use crate::wait::Op;
use std::future::Future;
use std::pin::Pin;
use std::task::Context;

impl<I: Invoke> Intake<I> {
    /// In a turn that did nothing: looks whether the workers are at rest, too.
    pub(super) fn look_for_quiet(&mut self) {
        if !self.waiting.probes.is_any() {
            return;
        }
        let shared = &self.setup.shared;
        let probes = &mut self.waiting.probes;
        if let Some(visit) = &mut probes.visit {
            let waker = shared.intake.get().expect("set before the first turn");
            if Pin::new(&mut visit.over).poll(&mut Context::from_waker(waker)).is_pending() {
                return;
            }
            let Some(QuietVisit { seen, promises, moves, .. }) = probes.visit.take() else { return };
            let seen = seen.lock();
            if moves == probes.moves && !seen.is_due && seen.at_rest == self.in_flight {
                let gone = self.assigned.iter().filter(|held| held.ownership.is_gone()).count() as u64;
                let stamp = Stamp(vec![moves, gone, seen.activity]);
                drop(seen);
                promises.into_iter().for_each(|promise| promise.complete(stamp.clone()));
            } else {
                probes.waiting.extend(promises);
            }
        }
        probes.waiting.retain(|promise| !promise.is_detached());
        // Where a visit found something queued or running, the worker tells when it goes on.
        let is_news = std::mem::take(&mut probes.is_news) | shared.waits.take_changed();
        if probes.waiting.is_empty() || !is_news {
            return;
        }
        let seen = Arc::new(Mutex::new(Seen::default()));
        let finds = seen.clone();
        let promises = std::mem::take(&mut probes.waiting);
        let mut over = self.setup.pool.visit(move |waiting, now| finds.lock().look(waiting, now));
        let waker = shared.intake.get().expect("set before the first turn");
        // A wake comes when it is over, also where that is now.
        if Pin::new(&mut over).poll(&mut Context::from_waker(waker)).is_ready() {
            over = Op::ready(());
            waker.wake_by_ref();
        }
        probes.visit = Some(QuietVisit { over, seen, promises, moves: probes.moves });
    }
}
