//! Whether everything that was stored is over: the ends of the partitions are asked for once, and then each is compared
//! with the ledger, where the partition is here, or with what the broker says of the group.

use super::intake::Intake;
use super::runner::Invoke;
use super::waiting::{ASK_AGAIN, Asked, CatchUp, Ends, Reach};
use super::waits::WaitError;
use crate::broker::{BrokerError, Mark};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

/// How a partition stands to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Over,
    /// Something below the end is here and not over.
    Pending,
    /// Nothing below the end is here; whether there is something elsewhere the broker knows.
    Open {
        is_here: bool,
    },
}

/// The answer, if it is there; who asked is woken when it is.
fn poll(asked: &mut Asked, waker: &Waker) -> Option<Result<Vec<Mark>, BrokerError>> {
    match Pin::new(asked).poll(&mut Context::from_waker(waker)) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}

fn is_passing(error: &BrokerError) -> bool {
    matches!(error, BrokerError::Transient(_) | BrokerError::Fenced { .. })
}

impl<I: Invoke> Intake<I> {
    /// Looks whether those that wait have caught up, and asks the broker for what it takes to know.
    pub(super) fn look_at_ends(&mut self, now: Instant) {
        if self.waiting.catch_ups.is_empty() {
            return;
        }
        if !self.is_paused {
            self.waiting.reach.is_of_pause = false;
        }
        let is_open = self.look_at_each(now);
        // What a broker in this process says is looked at in the same turn: it tells when it would say otherwise.
        if is_open && self.ask_how_far(now) {
            self.look_at_each(now);
        }
        if self.waiting.catch_ups.is_empty() {
            self.waiting.reach = Reach::default();
        }
    }

    /// Whether one of them can't be told without the broker.
    fn look_at_each(&mut self, now: Instant) -> bool {
        let mut is_open = false;
        for mut catch_up in std::mem::take(&mut self.waiting.catch_ups) {
            let answer = if self.setup.shared.waits.is_given_up(catch_up.id) {
                Some(Ok(()))
            } else {
                self.look_at_one(&mut catch_up, now, &mut is_open)
            };
            match answer {
                Some(answer) => self.setup.shared.waits.answer(catch_up.id, answer),
                None => self.waiting.catch_ups.push(catch_up),
            }
        }
        is_open
    }

    fn look_at_one(
        &mut self,
        catch_up: &mut CatchUp,
        now: Instant,
        is_open: &mut bool,
    ) -> Option<Result<(), WaitError>> {
        if let Ends::Unknown(at) = catch_up.ends
            && at.is_none_or(|at| now >= at)
        {
            catch_up.ends = Ends::Asked(self.setup.consumer.ends());
        }
        if let Ends::Asked(asked) = &mut catch_up.ends {
            let waker = self.setup.shared.intake.get().expect("set before the first turn");
            catch_up.ends = match poll(asked, waker)? {
                Ok(ends) => Ends::Known(ends),
                Err(error) if is_passing(&error) => {
                    // A broker in this process wakes when it is worth another try.
                    let is_remote = self.setup.shared.broker.is_remote();
                    Ends::Unknown(is_remote.then(|| *self.waiting.reach.ask_at.insert(now + ASK_AGAIN)))
                }
                Err(error) => return Some(Err(error.into())),
            };
        }
        let Ends::Known(ends) = &mut catch_up.ends else { return None };
        // What the broker has said stays so. What is over here alone is looked at again, for it would come again if its
        // partition were lost.
        ends.retain(|end| !self.waiting.reach.is_beyond(end) || self.is_pending(end));
        let at = ends.iter().position(|end| self.standing(end) != Standing::Over);
        let Some(at) = at else { return Some(Ok(())) };
        // Where it is found to be not over it is looked first.
        ends.swap(0, at);
        if let Standing::Open { is_here } = self.standing(&ends[0]) {
            if is_here && self.is_paused && self.waiting.reach.is_of_pause {
                return Some(Err(WaitError::Paused));
            }
            *is_open = true;
        }
        None
    }

    fn is_pending(&self, end: &Mark) -> bool {
        self.standing(end) == Standing::Pending
    }

    fn standing(&self, end: &Mark) -> Standing {
        let slot = self.partitions.slot(end.topic, end.partition);
        let here = slot.and_then(|slot| Some((self.partitions.ledger(slot)?, &self.assigned[slot.index()])));
        if let Some((ledger, state)) = here {
            // At most once: the ledger has settled what was handed over, so another one knows what has ended.
            let ledger = state.handled.as_ref().unwrap_or(ledger);
            if ledger.oldest_pending().is_some_and(|pending| pending < end.offset) {
                return Standing::Pending;
            }
            if ledger.position_to_commit() >= end.offset {
                return Standing::Over;
            }
        }
        if self.waiting.reach.is_beyond(end) {
            return Standing::Over;
        }
        Standing::Open { is_here: here.is_some() }
    }

    /// Asks the broker how far the group is, at its pace. Whether there is an answer.
    fn ask_how_far(&mut self, now: Instant) -> bool {
        let is_remote = self.setup.shared.broker.is_remote();
        let reach = &mut self.waiting.reach;
        if reach.asked.is_none() && is_remote && now < *reach.ask_at.get_or_insert(now + ASK_AGAIN) {
            return false;
        }
        let is_paused = self.is_paused;
        let (asked, is_of_pause) =
            reach.asked.get_or_insert_with(|| (self.setup.consumer.reached(), is_paused));
        let is_of_pause = *is_of_pause;
        let waker = self.setup.shared.intake.get().expect("set before the first turn");
        let Some(answer) = poll(asked, waker) else { return false };
        reach.asked = None;
        if is_remote {
            reach.ask_at = Some(now + ASK_AGAIN);
        }
        match answer {
            Ok(marks) => {
                reach.known = marks.iter().map(|m| ((m.topic, m.partition), m.offset)).collect();
                reach.is_of_pause = is_of_pause;
                true
            }
            Err(error) if is_passing(&error) => false,
            Err(error) => {
                for catch_up in std::mem::take(&mut self.waiting.catch_ups) {
                    self.setup.shared.waits.answer(catch_up.id, Err(error.clone().into()));
                }
                false
            }
        }
    }
}
