//! A subscription's side of its members: what the intake calls. Nothing here waits, but for what is to be confirmed.

use super::demand::Amount;
use super::mailbox::{Incoming, Mailbox};
use super::marks::{Asker, Marks};
use super::message;
use crate::broker::{
    BrokerError, Budget, Committed, Consumer, Durability, Fetched, Partition, Polled, Position,
};
use crate::delivery::Lease;
use crate::sync::Arc;
use crate::wait::{Op, Promise};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;

/// What a member is told.
pub(super) enum Command {
    /// These are over, each of an assignment's generation, and so much was taken out of the mailbox.
    Turn { settled: Vec<(u64, u64)>, taken: Amount },
    /// Answer when the server has all acknowledgements so far.
    Confirm(Promise<Result<(), BrokerError>>),
    /// To be delivered again after the delay.
    GiveBack(u64, Duration),
    /// Everything that may end has ended: let go, and end.
    Leave(Promise<()>),
}

/// How long a drain waits for what is let go to be there for others.
const LEAVING: Duration = Duration::from_secs(2);

pub(super) struct NatsConsumer {
    mailbox: Arc<Mailbox>,
    topics: Vec<MemberHandle>,
    asker: Asker,
    limit: Duration,
    /// Where the next poll begins.
    first: usize,
    taken: Vec<(usize, Partition, Incoming)>,
}

/// A member, as the intake sees it.
pub(super) struct MemberHandle {
    topic: Arc<str>,
    commands: UnboundedSender<Command>,
    /// Generation and sequence.
    settled: Vec<(u64, u64)>,
    taken: Amount,
}

impl MemberHandle {
    pub(super) fn new(topic: Arc<str>, commands: UnboundedSender<Command>) -> Self {
        Self { topic, commands, settled: Vec::new(), taken: Amount::NONE }
    }

    /// Sends what has gathered since the last time.
    fn send(&mut self) {
        if !self.settled.is_empty() || self.taken.records > 0 {
            let (settled, taken) =
                (std::mem::take(&mut self.settled), std::mem::replace(&mut self.taken, Amount::NONE));
            // A member that has ended has nothing to do any more.
            let _ = self.commands.send(Command::Turn { settled, taken });
        }
    }
}

impl NatsConsumer {
    pub(super) fn new(
        mailbox: Arc<Mailbox>,
        topics: Vec<MemberHandle>,
        asker: Asker,
        limit: Duration,
    ) -> Self {
        Self { mailbox, topics, asker, limit, first: 0, taken: Vec::new() }
    }

    fn member(&mut self, partition: Partition) -> &mut MemberHandle {
        &mut self.topics[partition.topic as usize]
    }

    /// Refuses what an assignment that is over has to say.
    fn check_owned(&self, partition: Partition) -> Result<(), BrokerError> {
        let assigned = self.mailbox.with(|state| state.topics[partition.topic as usize].assigned);
        if assigned == Some(partition) {
            return Ok(());
        }
        let topic = self.topics[partition.topic as usize].topic.to_string();
        Err(BrokerError::Fenced { topic, partition: partition.partition })
    }
}

impl Consumer for NatsConsumer {
    fn poll(&mut self, budget: Budget, out: &mut Vec<Polled>) -> Result<(), BrokerError> {
        let topics = self.topics.len();
        self.first = (self.first + 1) % topics;
        let (first, taken) = (self.first, &mut self.taken);
        let problem = self.mailbox.with(|state| {
            out.append(&mut state.events);
            let (mut records, mut bytes) = (budget.records, budget.bytes);
            for index in (first..topics).chain(0..first) {
                let topic = &mut state.topics[index];
                let Some(partition) = topic.assigned else { continue };
                let mut at = 0;
                while records > 0 && (bytes > 0 || taken.is_empty()) {
                    // While it is paused only what was given back comes.
                    if topic.is_paused {
                        let again = topic.records.iter().skip(at).position(|next| next.delivery.times > 1);
                        let Some(again) = again else { break };
                        at += again;
                    }
                    let Some(next) = topic.records.remove(at) else { break };
                    records -= 1;
                    bytes = bytes.saturating_sub(next.bytes());
                    taken.push((index, partition, next));
                }
            }
            state.topics.iter().find_map(|topic| topic.problem.clone())
        });
        for (index, partition, Incoming { message, delivery }) in self.taken.drain(..) {
            let member = &mut self.topics[index];
            member.taken.records += 1;
            member.taken.bytes += message.length;
            let (record, subject) = message::record_of(message, &delivery);
            out.push(Polled::Record(Fetched {
                partition,
                offset: delivery.sequence,
                record,
                subject: Some(subject),
                redeliveries: delivery.times.saturating_sub(1),
            }));
        }
        self.topics.iter_mut().for_each(MemberHandle::send);
        problem.map_or(Ok(()), |problem| Err(BrokerError::Transient(problem)))
    }

    fn lease(&self) -> Lease {
        self.mailbox.lease()
    }

    fn fence(&self, partition: Partition) -> Option<u64> {
        self.mailbox.with(|state| {
            let topic = &state.topics[partition.topic as usize];
            // What was lost meanwhile is heard of before anything of it starts.
            (topic.assigned == Some(partition)).then_some(topic.fence)
        })
    }

    fn settled(&mut self, partition: Partition, offset: u64) {
        self.member(partition).settled.push((partition.generation, offset));
    }

    /// Each record is acknowledged by itself, so that a position says nothing new: what is waited for is that the
    /// server has the acknowledgements.
    fn commit(
        &mut self,
        partition: Partition,
        _position: &Position,
        durability: Durability,
    ) -> Result<Committed, BrokerError> {
        self.check_owned(partition)?;
        let limit = self.limit;
        let member = self.member(partition);
        member.send();
        if durability == Durability::Accepted {
            return Ok(Committed::All);
        }
        let (promise, op) = Op::pending(|| Err(BrokerError::Closed));
        let _ = member.commands.send(Command::Confirm(promise));
        op.wait_timeout(limit).unwrap_or_else(|_| {
            Err(BrokerError::Transient(format!(
                "the server did not confirm the acknowledgements in `{}` within {limit:?}",
                self.topics[partition.topic as usize].topic
            )))
        })?;
        Ok(Committed::All)
    }

    fn give_back(&mut self, partition: Partition, offset: u64, delay: Duration) -> Result<(), BrokerError> {
        self.check_owned(partition)?;
        // After a problem it is asked again: what is sent without a connection is lost.
        let problem = self.mailbox.with(|state| state.topics[partition.topic as usize].problem.clone());
        if let Some(problem) = problem {
            return Err(BrokerError::Transient(problem));
        }
        let _ = self.member(partition).commands.send(Command::GiveBack(offset, delay));
        Ok(())
    }

    /// The server delivers it when it is due.
    fn next_due(&self) -> Option<Instant> {
        None
    }

    fn release(&mut self, partition: Partition) {
        let member = self.member(partition);
        member.send();
        let (promise, _) = Op::pending(|| ());
        let _ = member.commands.send(Command::Leave(promise));
    }

    fn ends(&mut self) -> Op<Marks> {
        self.asker.ends()
    }

    fn reached(&mut self) -> Op<Marks> {
        self.asker.reached()
    }

    fn set_paused(&mut self, partition: Partition, is_paused: bool) {
        self.mailbox.with(|state| {
            let topic = &mut state.topics[partition.topic as usize];
            if topic.assigned == Some(partition) {
                topic.is_paused = is_paused;
            }
        });
    }
}

impl Drop for NatsConsumer {
    fn drop(&mut self) {
        let until = Instant::now() + LEAVING.min(self.limit);
        let leave = |member: &mut MemberHandle| {
            member.send();
            // Abandoned, and so over, when the member has ended.
            let (promise, op) = Op::pending(|| ());
            let _ = member.commands.send(Command::Leave(promise));
            op
        };
        let leaving: Vec<_> = self.topics.iter_mut().map(leave).collect();
        for op in leaving {
            let _ = op.wait_timeout(until.saturating_duration_since(Instant::now()));
        }
    }
}
