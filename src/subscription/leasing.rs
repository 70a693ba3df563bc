//! What is done about the lease. A worker looks at it before each start, and puts aside what may not start; the intake tells
//! what runs when it ends, and has what waited started when it holds again.

use super::intake::Intake;
use super::leased::Leased;
use super::runner::{Delivery, Invoke, Runner};
use crate::delivery::Assignment;
use crate::delivery::lease::{Change, Watch};
use crate::foreign;
use crate::handler::Failure;
use crate::pool::Outcome;
use std::time::{Duration, Instant};

impl<I: Invoke> Runner<I> {
    /// Whether a handler that failed gave up because it was told to. At most once that counts all the same: the record was
    /// settled before, and a second attempt would be one too many.
    pub(super) fn is_interrupted(&self, job: &Delivery) -> bool {
        let is_once = self.shared.settles_first && !job.event.assignment().is_out_of_time();
        job.event.cancellation().is_cancelled() && !is_once
    }

    /// Such a handler has made no attempt: the record comes again, from the broker or, if only the lease was over, from
    /// where it stands.
    #[cold]
    pub(super) fn interrupted(&mut self, job: &mut Delivery, failure: Failure) -> Outcome<Leased<I::Future>> {
        foreign::discard(failure);
        if job.event.assignment().is_stopping() {
            return self.returned(job);
        }
        job.event.withdraw_attempt();
        self.await_lease(job)
    }

    /// Whether its member owns the partition, by the newest time that this worker knows.
    #[inline]
    pub(super) fn is_owned(&self, assignment: &Assignment, now: Instant) -> bool {
        assignment.lease.holds_by(|| {
            if !I::IS_BLOCKING {
                return self.shared.clock.now();
            }
            // The handlers before it in this turn may have taken any time.
            if self.turn == Some(now) { self.last_end } else { now }
        })
    }

    /// The record waits where it stands, and its key with it, until the lease holds again or the partition goes.
    #[cold]
    pub(super) fn await_lease(&mut self, job: &mut Delivery) -> Outcome<Leased<I::Future>> {
        job.awaits_lease = true;
        self.shared.lease_is_awaited();
        Outcome::Hold
    }
}

impl<I: Invoke> Intake<I> {
    /// Looks whether the lease holds. The workers look for themselves before each start.
    pub(super) fn look_at_lease(&mut self, now: Instant) {
        if self.lease.ends_at().is_none() && self.lease_seen == Watch::Holds {
            return;
        }
        // It was ended by something that the next poll tells: what is lost is no news then.
        if self.drain.is_none() && self.lease.ends() != self.lease_ends {
            return;
        }
        let holds = self.lease.holds(now);
        let owns = self.assigned.iter().any(|held| !held.ownership.is_gone());
        match self.lease_seen.look(holds, owns, now) {
            Some(Change::Ended) => self.lease_ended(owns),
            Some(Change::HoldsAgain(after)) => self.lease_holds_again(after),
            None => {}
        }
        if holds && self.setup.shared.take_lease_awaited() {
            self.start_what_waited();
        }
        let problem = self.lease_seen.problem(owns, now);
        let mut known = self.setup.shared.lease_over.lock();
        if *known != problem {
            *known = problem;
        }
    }

    fn lease_ended(&self, owns: bool) {
        if owns {
            foreign::error!(
                group = &*self.setup.shared.group,
                in_flight = self.in_flight,
                "the group was not heard of for so long that another member may own the partitions: nothing starts, and \
                 what runs is told"
            );
        }
        for held in self.assigned.iter().filter(|held| !held.ownership.is_gone()) {
            held.assignment.lapse();
        }
    }

    fn lease_holds_again(&self, after: Duration) {
        foreign::info!(?after, group = &*self.setup.shared.group, "the group is heard of again");
    }

    /// Each worker runs what it put aside because of the lease. One that puts a record aside later says so, and there is
    /// another look.
    fn start_what_waited(&self) {
        // Over when the workers have run it; nobody waits for the operation itself.
        drop(self.setup.pool.visit(|waiting, _| {
            let mut keys = Vec::new();
            waiting.for_each(&mut |waiting| {
                if waiting.job.awaits_lease {
                    keys.push(waiting.key);
                }
            });
            for key in keys {
                waiting.run_now(key);
            }
        }));
    }
}
