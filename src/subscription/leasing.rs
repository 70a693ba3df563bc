//! What the intake does about the lease: it tells what runs when it ends, and starts what waited when it holds again.

use super::intake::Intake;
use super::runner::Invoke;
use crate::delivery::lease::Change;
use crate::foreign;
use std::time::{Duration, Instant};

impl<I: Invoke> Intake<I> {
    /// Looks whether the lease holds. The workers look for themselves before each start.
    pub(super) fn look_at_lease(&mut self, now: Instant) {
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
