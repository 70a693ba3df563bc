//! One member of a consumer group, as its subscription's thread drives it: the near side of the mailbox.

use super::handoff::{Handoff, Waiter};
use super::patience::Patience;
use super::question::{self, Marks, Question};
use super::{Leaving, member};
use crate::broker::position_text::encode;
use crate::broker::{
    BrokerError, Budget, Committed, Consumer, ConsumerSpec, Durability, Partition, Polled, Position,
};
use crate::delivery::Lease;
use crate::foreign;
use crate::sync::{Arc, thread};
use crate::wait::Op;
use std::time::{Duration, Instant};

/// What a broker takes beside an offset (`offset.metadata.max.bytes`).
const METADATA_BYTES: usize = 4_096;
/// How far commits may be behind while records are begun. A member of a classic group that is being rebalanced can't
/// commit: librdkafka sends the commit behind the request to join, which the broker answers when all members have
/// joined or are given up, and then refuses the commit, for the generation that it names is over.
const COMMITS_BEHIND: Duration = Duration::from_secs(1);

/// How long the close of the bus waits at most for a member that had not left its group.
const LEFT_BEHIND: Duration = Duration::from_secs(5);

pub(super) struct KafkaConsumer {
    handoff: Arc<Handoff>,
    thread: Option<thread::JoinHandle<()>>,
    ended: Option<Op<()>>,
    leaving: Leaving,
    patience: Patience,
}

impl KafkaConsumer {
    /// Joins the group, from a thread of its own.
    pub(super) fn start(setup: member::Setup, leaving: Leaving) -> Result<Self, BrokerError> {
        let handoff = setup.handoff.clone();
        let (end, ended) = Op::pending(|| ());
        let (tell, started) = Op::pending(|| Err("its thread ended before it began".to_owned()));
        let run = move || {
            member::run(&setup, tell);
            end.complete(());
        };
        let thread = thread::Builder::new()
            .name(format!("keylane-kafka-{}", handoff.spec.group))
            .spawn(run)
            .map_err(|error| {
                BrokerError::Transient(format!("the thread of the consumer could not be started: {error}"))
            })?;
        let patience = Patience::default();
        let consumer = Self { handoff, thread: Some(thread), ended: Some(ended), leaving, patience };
        match started.wait() {
            Ok(()) => Ok(consumer),
            Err(reason) => Err(BrokerError::Refused(reason)),
        }
    }

    fn ask(&self, question: Question) -> Op<Marks> {
        let (promise, answer) = Op::pending(|| question::unanswered("the consumer has ended"));
        self.handoff.state.lock().asked.push((question, promise));
        self.handoff.wake_member();
        answer
    }

    fn fenced(&self, partition: Partition) -> BrokerError {
        let ConsumerSpec { topics, .. } = &self.handoff.spec;
        let topic = topics[partition.topic as usize].to_string();
        BrokerError::Fenced { topic, partition: partition.partition }
    }
}

impl Consumer for KafkaConsumer {
    fn poll(&mut self, budget: Budget, out: &mut Vec<Polled>) -> Result<(), BrokerError> {
        let (is_room_wanted, problem) = {
            let mut state = self.handoff.state.lock();
            // What is begun now would be repeated after a crash, all of it.
            let is_behind = state.commits.behind(Instant::now()) >= COMMITS_BEHIND;
            let budget = if is_behind { Budget { records: 0, ..budget } } else { budget };
            state.mailbox.take(budget, out);
            (std::mem::take(&mut state.is_room_wanted), state.problem.clone())
        };
        if is_room_wanted {
            self.handoff.wake_member();
        }
        problem.map_or(Ok(()), |reason| Err(BrokerError::Transient(reason)))
    }

    fn has_joined(&self) -> bool {
        self.handoff.state.lock().has_joined
    }

    fn lease(&self) -> Lease {
        self.handoff.lease.clone()
    }

    fn fence(&self, partition: Partition) -> Option<u64> {
        self.handoff.state.lock().fences.get(&(partition.topic, partition.partition)).copied()
    }

    fn commit(
        &mut self,
        partition: Partition,
        position: &Position,
        durability: Durability,
    ) -> Result<Committed, BrokerError> {
        let (text, committed) = encode(position, METADATA_BYTES);
        let place = (partition.topic, partition.partition);
        let (waiter, answer): (Option<Waiter>, _) = match durability {
            Durability::Accepted => (None, None),
            Durability::Confirmed => {
                let (waiter, answer) = Op::pending(|| Err("the consumer has ended".to_owned()));
                (Some(waiter), Some(answer))
            }
        };
        let failing = {
            let mut state = self.handoff.state.lock();
            if !state.mailbox.holds(partition) {
                drop(state);
                return Err(self.fenced(partition));
            }
            let now = Instant::now();
            state.commits.want(place, position.watermark, text, waiter, now).map(str::to_owned)
        };
        self.handoff.wake_member();
        let Some(answer) = answer else {
            return failing.map_or(Ok(committed), |reason| Err(BrokerError::Transient(reason)));
        };
        let limit = self.patience.commit(Instant::now());
        match answer.wait_timeout(limit) {
            Ok(Ok(())) => Ok(committed),
            Ok(Err(_)) if !self.handoff.state.lock().mailbox.holds(partition) => Err(self.fenced(partition)),
            Ok(Err(reason)) => Err(BrokerError::Transient(reason)),
            Err(_) => Err(BrokerError::Transient(format!(
                "the brokers did not answer a commit of group `{}` within {limit:?}",
                self.handoff.spec.group
            ))),
        }
    }

    fn give_back(&mut self, _: Partition, _: u64, _: Duration) -> Result<(), BrokerError> {
        Err(BrokerError::Refused("Kafka can't take a record back".to_owned()))
    }

    fn next_due(&self) -> Option<Instant> {
        None
    }

    fn hurry(&mut self, until: Instant) {
        self.patience.hurry(until);
    }

    fn release(&mut self, partition: Partition) {
        {
            let mut state = self.handoff.state.lock();
            state.mailbox.release(partition);
            state.is_stopping_changed = true;
        }
        self.handoff.wake_member();
    }

    fn ends(&mut self) -> Op<Marks> {
        self.ask(Question::Ends)
    }

    fn reached(&mut self) -> Op<Marks> {
        self.ask(Question::Reached)
    }

    fn set_paused(&mut self, partition: Partition, is_paused: bool) {
        {
            let mut state = self.handoff.state.lock();
            state.mailbox.set_paused(partition, is_paused);
            state.is_stopping_changed = true;
        }
        self.handoff.wake_member();
    }
}

impl Drop for KafkaConsumer {
    fn drop(&mut self) {
        self.handoff.state.lock().is_closing = true;
        self.handoff.wake_member();
        let limit = self.patience.leave(Instant::now());
        let has_ended = self.ended.take().is_none_or(|ended| ended.wait_timeout(limit).is_ok());
        let Some(thread) = self.thread.take() else { return };
        if has_ended {
            let _ = thread.join();
        } else {
            // No broker answers. Closing the bus waits for it once more.
            let until = self.patience.left_behind(Instant::now(), LEFT_BEHIND);
            self.leaving.lock().push((thread, until));
            foreign::warn!(group = &*self.handoff.spec.group, "leaving the group goes on in the background");
        }
    }
}
