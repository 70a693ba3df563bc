//! What a member looks at now and then, since nothing tells of it: whether records were removed before they were
//! delivered, and whether somebody keeps the consumer from bringing any.

use super::inspect::facts_of;
use super::{Incoming, Member};
use crate::broker::nats::api::{self, ApiFault};
use crate::broker::nats::recovery::Action;
use crate::broker::nats::{standstill, streams};
use crate::broker::{Gone, Partition, Still, Stuck};
use async_nats::jetstream::consumer;
use std::time::Duration;
use tokio::time::Instant;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(10);
/// Losses are told this often at most, those that have gathered together.
const TOLD_EVERY: Duration = Duration::from_secs(1);
/// For how long a denial is taken for one that lasts: what is not permitted is tried again sooner.
const DENIED_FOR: Duration = Duration::from_secs(25);

#[derive(Debug, Default)]
pub(super) struct Watching {
    /// When records that are gone were told of last.
    told_at: Option<Instant>,
    /// What is told to stand still, and since when.
    stuck: Option<(Still, std::time::Instant)>,
}

impl Member {
    /// After each event: tells what was found, and sees that it is looked.
    pub(super) fn tend(&mut self) {
        if self.is_up() {
            self.timers.watch.get_or_insert_with(|| Instant::now() + EVERY);
        }
        self.tell_gone();
    }

    /// What no handler sees any more. In a stream that has other records, too, nobody knows whose they were.
    fn tell_gone(&mut self) {
        if !self.gate.has_gone() {
            return;
        }
        let now = Instant::now();
        if let Some(told_at) = self.watching.told_at
            && now < told_at + TOLD_EVERY
        {
            let next = told_at + TOLD_EVERY;
            self.timers.watch = Some(self.timers.watch.map_or(next, |at| at.min(next)));
            return;
        }
        let Some((records, count)) = self.gate.take_gone() else { return };
        if !self.is_assigned || !streams::has_nothing_else(&self.setup.stream, &self.setup.wanted.filter) {
            return;
        }
        self.watching.told_at = Some(now);
        let reason =
            "somebody, or a limit of the stream, removed them before they were handed out".to_owned();
        let partition = Partition { topic: self.setup.topic.0, partition: 0, generation: self.generation };
        self.setup.mailbox.gone(partition, Gone { records, count, reason });
    }

    pub(super) async fn watch(&mut self) {
        self.timers.watch = Some(Instant::now() + EVERY);
        let (jetstream, stream, name) =
            (&self.setup.jetstream, &self.setup.stream.name, &self.setup.wanted.name);
        let looked: Result<_, ApiFault> = async {
            // In this order: what is before all that the stream has, and not delivered later, never will be.
            let stream = api::stream_info(jetstream, stream).await?;
            Ok((stream.state.first_sequence, api::consumer_info(jetstream, &stream.config.name, name).await?))
        }
        .await;
        match looked {
            Ok((first, info)) => {
                // Without the lease it may be another's by now, and what was delivered that one's.
                if self.may_act() {
                    self.gate.looked(facts_of(&info), first);
                }
                self.tell_gone();
                self.tell_stuck(self.cause(&info));
            }
            Err(fault @ ApiFault::Denied(_)) => self.tell_stuck(Some(fault.to_string())),
            // Whoever asks for something that it needs says so.
            Err(ApiFault::Refused(_) | ApiFault::NoJetStream | ApiFault::NoAnswer(_)) => {}
        }
    }

    /// Why it brings nothing though it should.
    fn cause(&self, info: &consumer::Info) -> Option<String> {
        let (stream, name) = (&self.setup.stream.name, &self.setup.wanted.name);
        if info.paused {
            return Some(standstill::paused(name, stream, info.config.pause_until.as_ref()));
        }
        let is_ours = |subject: &str| standstill::is_of_consumer(subject, stream, name);
        let begin = std::time::Instant::now().checked_sub(DENIED_FOR)?;
        let denied = self.setup.jetstream.denied();
        let denial = denied.of_answers();
        let denial =
            denial.or_else(|| denied.since(begin, |denial| denial.published_to().is_some_and(is_ours)));
        denial.map(|denial| denial.to_string())
    }

    fn tell_stuck(&mut self, reason: Option<String>) {
        let topic = self.setup.topic.0;
        let partition = Partition { topic, partition: 0, generation: self.generation };
        let still = if self.is_assigned { Still::Partition(partition) } else { Still::Topic(topic) };
        let known = self.watching.stuck.take();
        if let Some((other, _)) = known
            && (reason.is_none() || other != still)
        {
            self.setup.mailbox.stuck(other, None);
        }
        let Some(reason) = reason else { return };
        let since = known.map_or_else(std::time::Instant::now, |(_, since)| since);
        self.watching.stuck = Some((still, since));
        self.setup.mailbox.stuck(still, Some(Stuck { offset: None, reason, since }));
    }

    /// Acknowledges what was removed: the server may count it, and it never comes again.
    pub(super) async fn clear(&mut self, removed: Vec<u64>) -> Action<Incoming> {
        let consumer = format!("$JS.ACK.{}.{}", self.setup.stream.name, self.setup.wanted.name);
        let may_act = self.may_act();
        for sequence in removed {
            self.acknowledge(sequence, format!("{consumer}.1.{sequence}.0.0.0").into(), may_act).await;
        }
        Action::Inspect
    }
}
