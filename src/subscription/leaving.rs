//! The ends: a drain, a partition that is revoked or lost, and the intake's own.

use super::commands::{Command, Commands, Drain};
use super::intake::Intake;
use super::runner::{Delivery, Invoke};
use super::shared::Shared;
use super::timers::Extent;
use super::waits::WaitError;
use crate::broker::Durability;
use crate::delivery::ownership::{GRACE, Leave};
use crate::delivery::{Assignment, Partition};
use crate::foreign;
use crate::observe::health::Status;
use crate::observe::report::DrainReport;
use crate::pool::Pool;
use crate::sync::Arc;
use crate::wait::{Op, after};
use std::time::{Duration, Instant};

/// How long workers have to end when no handler is known to run any more.
const WORKERS_END: Duration = Duration::from_secs(1);

impl<I: Invoke> Intake<I> {
    pub(super) fn begin_drain(&mut self, now: Instant, limit: Duration, halted: Option<String>) {
        let until = after(now, limit);
        self.setup.consumer.hurry(until);
        if self.drain.is_none() {
            self.drain = Some(Drain { promises: Vec::new(), report: DrainReport::default(), halted });
            self.withdraw_batch(|_| true);
        }
        for held in &mut self.assigned {
            held.ownership.leave(until);
            held.assignment.stop();
        }
        // Who reads this may rely on it: no attempt starts any more.
        self.set_status(Status::Draining);
        self.remove_waiting(false);
    }

    /// Takes back what was fetched of these partitions and not handed over: it never started.
    fn withdraw_batch(&mut self, is_leaving: impl Fn(&Assignment) -> bool) {
        for (_, delivery) in self.batch.extract_if(.., |(_, job)| is_leaving(job.event.assignment())) {
            self.in_flight -= 1;
            self.bytes_in_flight -= delivery.bytes;
            // Reported here, with its key, and so not by its ledger.
            let _ = self.partitions.returned(delivery.token, delivery.bytes);
            if let Some(drain) = &mut self.drain {
                drain.report.unsettled.push(delivery.event.place());
            }
            let id = delivery.event.assignment().id;
            if let Some(held) = self.assigned.iter_mut().find(|held| held.assignment.id == id) {
                held.over(delivery.token, delivery.bytes);
                // At most once: the ledger has settled it, but a position is committed only for what is handled.
                if self.setup.shared.settles_first {
                    held.ownership.forget_settled();
                }
            }
        }
    }

    /// Takes the records of stopping partitions out of the pool's waiting keys; with `started` also those that are
    /// leased to a future.
    fn remove_waiting(&self, started: bool) {
        // At most once: they are settled, so they may still be handled until time is up.
        if self.setup.shared.settles_first && !started {
            return;
        }
        // Over when the verdicts come; nobody waits for the operation itself.
        drop(self.setup.pool.visit(move |waiting, _| {
            waiting.remove_where(&mut |job| {
                let assignment = job.event.assignment();
                let is_due = if started { assignment.is_out_of_time() } else { assignment.is_stopping() };
                is_due && (started || job.started.is_none())
            });
        }));
    }

    pub(super) fn revoked(&mut self, id: Partition, now: Instant) {
        let until = after(now, self.setup.bounds.drain_timeout);
        let Some(held) = self.assigned_as(id).filter(|held| !held.ownership.is_gone()) else {
            return self.setup.consumer.release(id);
        };
        foreign::info!(
            topic = &*held.assignment.topic,
            partition = id.partition,
            "partition revoked; what runs may end"
        );
        held.ownership.leave(until);
        held.assignment.stop();
        self.remove_waiting(false);
    }

    pub(super) fn lost(&mut self, id: Partition) {
        let Some(held) = self.assigned_as(id) else { return };
        foreign::warn!(
            topic = &*held.assignment.topic,
            partition = id.partition,
            in_flight = held.ownership.in_flight(),
            "partition lost; nothing of it is committed, and its records come again to its next owner"
        );
        held.ownership.gone();
        held.assignment.stop();
        held.assignment.cancel();
        let slot = held.slot;
        self.partitions.lose(slot);
        self.remove_waiting(true);
    }

    /// Moves partitions that leave one step on.
    pub(super) fn leave(&mut self, now: Instant) {
        for at in 0..self.assigned.len() {
            match self.assigned[at].ownership.next(now) {
                Leave::Wait => {}
                Leave::Cancel => {
                    self.assigned[at].assignment.cancel();
                    self.withdraw_batch(Assignment::is_out_of_time);
                    self.remove_waiting(true);
                }
                Leave::Release { is_last_chance } => self.left(at, now, is_last_chance),
            }
        }
    }

    /// What started is over, or out of time: commit, fence, and let the partition go.
    fn left(&mut self, at: usize, now: Instant, is_last_chance: bool) {
        if self.assigned[at].ownership.is_commit_due()
            && (is_last_chance || !self.timers.is_broker_resting(now))
        {
            self.commit_one(at, now, Extent::Full, Durability::Confirmed);
        }
        if self.assigned[at].ownership.is_commit_due() {
            if !is_last_chance {
                return;
            }
            let Assignment { topic, id, .. } = &*self.assigned[at].assignment;
            foreign::error!(
                topic = &**topic,
                partition = id.partition,
                "the position could not be committed in time; what was handled since the last commit comes again"
            );
        }
        self.assigned[at].ownership.gone();
        let Assignment { topic, id, .. } = &*self.assigned[at].assignment;
        let ledger = self.partitions.revoke(self.assigned[at].slot);
        if let (Some(drain), Some(ledger)) = (&mut self.drain, ledger) {
            let place = |offset| self.setup.shared.place_of(topic, id.partition, offset);
            drain.report.unsettled.extend(ledger.in_flight().map(place));
        }
        self.setup.consumer.release(*id);
    }

    pub(super) fn is_over(&self) -> bool {
        self.drain.is_some() && self.assigned.iter().all(|held| held.ownership.is_gone())
    }

    /// Nothing is assigned any more: leaves the group, ends the workers, and reports.
    pub(super) fn end(mut self) {
        self.setup.shared.counters.add(&mut self.tally);
        let Drain { mut promises, mut report, halted } =
            self.drain.take().expect("an intake ends by a drain");
        // First of all, so that no partition comes to a member that takes nothing any more.
        drop(self.setup.consumer);
        let shared = &self.setup.shared;
        report.still_running = shared.still_running();
        // Its handler is foreign code, also when it is dropped.
        foreign::discard(self.direct.take());
        let ended = self.setup.pool.drain(Duration::ZERO);
        let has_ended = report.still_running.is_empty() && ended.wait_timeout(WORKERS_END).is_ok();
        if has_ended {
            self.setup.pool.join();
        } else {
            if report.still_running.is_empty() {
                // What blocks a worker is neither a handler nor a future: the drop of one, for instance.
                report.still_running.clone_from(&report.unsettled);
            }
            foreign::error!(still_running = ?report.still_running, "handlers did not end within the limit of the drain");
            self.setup.pool.detach();
        }
        shared.counters.set_in_flight(report.still_running.len() as u64);
        *shared.status.lock() = halted.clone().map_or(Status::Closed, Status::Halted);
        foreign::info!(unsettled = report.unsettled.len(), "the subscription has ended");
        for command in self.setup.commands.end(&report) {
            if let Command::Drain(_, promise) = command {
                promises.extend(promise);
            }
        }
        self.waiting.end(shared, halted);
        for promise in promises {
            promise.complete(report.clone());
        }
    }
}

/// Answers for an intake whose thread ends before its time, by a panic in foreign code: whoever waits for a drain
/// would wait for ever otherwise.
pub(crate) struct LastWord {
    pub(crate) shared: Arc<Shared>,
    pub(crate) commands: Arc<Commands>,
    pub(crate) pool: Pool<Delivery>,
}

impl Drop for LastWord {
    fn drop(&mut self) {
        if self.commands.has_ended() {
            return;
        }
        let error = "its thread ended before its time, by a panic or an `enter` that did not run it";
        foreign::error!(error, group = &*self.shared.group, "the subscription has stopped");
        *self.shared.status.lock() = Status::Halted(error.to_owned());
        // Nothing of it is settled any more, so nothing of it starts.
        drop(self.pool.drain(Duration::ZERO));
        self.shared.waits.end(&WaitError::Halted(error.to_owned()));
        let report = DrainReport::default();
        for command in self.commands.end(&report) {
            if let Command::Drain(_, Some(promise)) = command {
                promise.complete(report.clone());
            }
        }
    }
}

/// What a drain with this limit reports, or what hangs where the intake handles itself and so can't report it. The
/// drain goes on when the handler ends, if it ever does.
pub(super) fn drained_or_hung(drained: Op<DrainReport>, shared: &Shared, limit: Duration) -> DrainReport {
    let is_hung = || !shared.still_running().is_empty();
    let drained = drained
        .wait_timeout(limit.saturating_add(2 * GRACE))
        .or_else(|drained| if is_hung() { Err(drained) } else { drained.wait_timeout(WORKERS_END) });
    drained.unwrap_or_else(|_| {
        let still_running = shared.still_running();
        *shared.status.lock() = Status::Draining;
        shared.waits.end(&WaitError::Ended);
        foreign::error!(
            ?still_running,
            "a handler on the delivering thread did not end within the limit of the drain"
        );
        DrainReport { unsettled: still_running.clone(), still_running }
    })
}
