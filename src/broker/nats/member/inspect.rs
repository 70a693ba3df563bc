//! Looking at the consumer, and having it deliver again what is not acknowledged.

use super::{Action, Incoming, Member, RETRY};
use crate::broker::nats::api::{self, ApiFault, ErrorCode};
use crate::broker::nats::durable;
use crate::broker::nats::identity;
use crate::broker::nats::left::Left;
use crate::broker::nats::recovery::Facts;
use crate::broker::nats::tried::{self, Tries};
use crate::broker::{BrokerError, Partition};
use crate::foreign;
use async_nats::jetstream::{consumer, stream};
use std::time::Duration;
use tokio::time::Instant;

/// The `ack_wait` by which everything expires, and how long that takes until the server has seen it.
const LOWERED: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(350));
/// How often acknowledgements are sent again before they are taken for those of deliveries that nobody knows any more.
const UNANSWERED: u32 = 5;
/// What a server may take beyond an `ack_wait`.
const LATE: Duration = Duration::from_secs(1);

pub(super) fn facts_of(info: &consumer::Info) -> Facts {
    Facts {
        unacknowledged: info.num_ack_pending,
        sequence: info.delivered.stream_sequence,
        number: info.delivered.consumer_sequence,
        floor: info.ack_floor.stream_sequence,
    }
}

impl Member {
    /// Asks for nothing more, and looks at the consumer.
    pub(super) async fn inspect(&mut self) -> Action<Incoming> {
        if !self.may_act() {
            // It is looked at when there is a connection, and the lease holds.
            return Action::Nothing;
        }
        if self.demand.is_asking() || self.gate.is_collecting() {
            self.reset_inbox().await;
        }
        // An acknowledgement names a number, and means another record in a stream that was made anew.
        if self.acks.len() > 0
            && let Err(fault) = self.is_made_anew().await
        {
            return self.inspect_later(&self.unseen(&fault));
        }
        // Before the count, in which they would be missing.
        let is_confirmed = self.confirm_before().await;
        let Some(info) = self.info().await else { return Action::Nothing };
        if !is_confirmed && self.acks.len() > 0 {
            self.unanswered += 1;
            if self.unanswered < UNANSWERED {
                return self.inspect_later("the server does not answer acknowledgements");
            }
            // What is missing for it comes again, and is acknowledged again.
            self.forget_acks(&Err(BrokerError::Transient("acknowledgements were not answered".to_owned())));
        }
        self.unanswered = 0;
        let facts = facts_of(&info);
        // Behind the count: what the stream has then it had at the count, too.
        let left = if self.gate.is_whole(facts.number) {
            Left::default()
        } else {
            match api::left(&self.setup.jetstream, &self.setup.stream.name).await {
                Ok(left) => left,
                Err(fault) => return self.inspect_later(&self.unseen(&fault)),
            }
        };
        self.problem(None);
        self.gate.inspected(facts, &left)
    }

    /// Sets the consumer as it should be, if it is not.
    pub(super) async fn check(&mut self) {
        let (jetstream, stream, wanted) = (&self.setup.jetstream, &self.setup.stream, &self.setup.wanted);
        if let Ok(info) = durable::ensure(jetstream, stream, wanted, None).await {
            self.setup.consumer = info.config;
        }
    }

    fn inspect_later(&mut self, problem: &str) -> Action<Incoming> {
        if self.is_up() {
            self.problem(Some(problem.to_owned()));
        }
        self.timers.inspect = Some(Instant::now() + RETRY);
        Action::Nothing
    }

    /// The consumer as it is, set as it should be. None: it is tried again later.
    async fn info(&mut self) -> Option<consumer::Info> {
        let (jetstream, stream, wanted) = (&self.setup.jetstream, &self.setup.stream, &self.setup.wanted);
        let found = match api::consumer_info(jetstream, &stream.name, &wanted.name).await {
            Ok(info) if info.config == self.setup.consumer => Ok(info),
            // Somebody has changed it, or died while it was changed for a recovery.
            Ok(_) => durable::ensure(jetstream, stream, wanted, None).await,
            Err(fault) if fault.code() == Some(ErrorCode::CONSUMER_NOT_FOUND) => {
                self.create_again().await;
                return None;
            }
            Err(fault) => Err(BrokerError::Transient(self.unseen(&fault))),
        };
        match found {
            Ok(info) => {
                if info.created != self.setup.made.consumer {
                    // Somebody else has made it, in this stream or in another one of its name.
                    if let Err(fault) = self.is_made_anew().await {
                        self.inspect_later(&self.unseen(&fault));
                        return None;
                    }
                    self.setup.made.consumer = info.created;
                }
                self.setup.consumer = info.config.clone();
                self.floor = info.ack_floor.stream_sequence;
                if self.gate.would_forget(info.delivered.consumer_sequence) {
                    self.forget_deliveries(info.delivered.consumer_sequence);
                }
                Some(info)
            }
            Err(error) => {
                self.inspect_later(&error.to_string());
                None
            }
        }
    }

    fn unseen(&self, fault: &ApiFault) -> String {
        let (name, stream, topic) = (&self.setup.wanted.name, &self.setup.stream.name, &self.setup.topic.1);
        format!("consumer `{name}` of stream `{stream}` (topic `{topic}`) could not be looked at: {fault}")
    }

    /// The consumer was deleted. Where it was is known here: it goes on there, unless the stream is another one.
    async fn create_again(&mut self) {
        let stream = match api::stream_info(&self.setup.jetstream, &self.setup.stream.name).await {
            Ok(info) => info,
            Err(fault) => {
                self.inspect_later(&self.unseen(&fault));
                return;
            }
        };
        let lowest = self.replies.keys().min().copied();
        let mut from = Some(lowest.unwrap_or((self.newest + 1).max(self.floor + 1)));
        if self.follow(&stream, self.newest).await {
            from = Some(1);
        } else {
            foreign::error!(
                topic = &*self.setup.topic.1,
                stream = stream.config.name,
                consumer = self.setup.wanted.name,
                from,
                "the consumer was deleted by somebody; it is created again and goes on from there"
            );
        }
        self.setup.stream = stream.config;
        let made = durable::ensure(&self.setup.jetstream, &self.setup.stream, &self.setup.wanted, from).await;
        match made {
            Ok(info) => {
                (self.setup.made.consumer, self.setup.consumer) = (info.created, info.config);
                self.reset_inbox().await;
                // Soon, but not in here: looking may find the same again.
                self.timers.inspect = Some(Instant::now());
            }
            Err(error) => drop(self.inspect_later(&error.to_string())),
        }
    }

    /// Looks whether the stream is another one than it was, and begins anew if so. By its identity alone: a leader that
    /// has just been elected may not have all yet.
    pub(super) async fn is_made_anew(&mut self) -> Result<bool, ApiFault> {
        let found = api::stream_info(&self.setup.jetstream, &self.setup.stream.name).await?;
        Ok(self.follow(&found, 0).await)
    }

    /// Gives up all that belongs to a stream that is no more, tells of it, and goes over to this one.
    async fn follow(&mut self, found: &stream::Info, newest: u64) -> bool {
        let (known, last) = (self.setup.made.stream, found.state.last_sequence);
        let Some(gone) = identity::another(&known, newest, &found.created, last) else { return false };
        // What is on its way to the old one is of the stream of before.
        self.reset_inbox().await;
        self.setup.made.stream = found.created;
        (self.newest, self.floor) = (0, 0);
        self.forget_acks(&Err(BrokerError::Transient(gone.reason.clone())));
        self.lose();
        let (topic, generation) = (self.setup.topic.0, self.generation);
        self.setup.mailbox.gone(Partition { topic, partition: 0, generation }, gone);
        true
    }

    /// Has all that is not acknowledged delivered again: soon, by an `ack_wait` that is lowered for a moment, or when it
    /// is over by itself.
    pub(super) async fn expire(&mut self, patiently: bool) {
        if patiently {
            let wait = self.setup.wanted.ack_wait + LATE;
            foreign::warn!(
                topic = &*self.setup.topic.1,
                consumer = self.setup.wanted.name,
                ?wait,
                "not all that is unacknowledged came again; waiting until it has to"
            );
            self.timers.expired = Some((Instant::now() + wait, false));
            return;
        }
        let (jetstream, stream) = (&self.setup.jetstream, &self.setup.stream.name);
        self.timers.expired = Some((Instant::now() + LOWERED.1, true));
        if let Err(fault) = durable::set_ack_wait(jetstream, stream, &self.setup.consumer, LOWERED.0).await {
            foreign::warn!(topic = &*self.setup.topic.1, %fault, "the recovery could not be begun; it is tried again");
        }
    }

    pub(super) async fn expired(&mut self, is_lowered: bool) {
        if !self.may_act() {
            // Whoever looks at the consumer next sets it as it should be.
            return;
        }
        if is_lowered {
            let (jetstream, stream) = (&self.setup.jetstream, &self.setup.stream.name);
            let wait = self.setup.wanted.ack_wait;
            if let Err(fault) = durable::set_ack_wait(jetstream, stream, &self.setup.consumer, wait).await {
                foreign::warn!(topic = &*self.setup.topic.1, %fault, "the `ack_wait` could not be set back yet");
                self.timers.expired = Some((Instant::now() + RETRY, true));
                return;
            }
        }
        let todo = self.gate.expired();
        self.timers.inspect = matches!(todo, Action::Inspect).then(Instant::now);
    }

    /// What the owner before had in its hands when it ended without a word counts as tried by it: one of these may have
    /// ended it.
    pub(super) async fn inherit(&mut self, held: &[Incoming]) {
        let noted = self.setup.consumer.metadata.get(tried::KEY).map_or("", String::as_str);
        let sequences = held.iter().map(|incoming| incoming.delivery.sequence);
        self.tries = Tries::inherited(noted, sequences, self.is_heir);
        if !std::mem::take(&mut self.is_heir) || held.is_empty() {
            return;
        }
        let note = (tried::KEY, self.tries.note());
        let (jetstream, stream) = (&self.setup.jetstream, &self.setup.stream.name);
        if let Err(fault) = durable::note(jetstream, stream, &self.setup.consumer, note).await {
            foreign::warn!(
                topic = &*self.setup.topic.1,
                consumer = self.setup.wanted.name,
                %fault,
                "that an owner ended with records in its hands could not be noted: it does not count as an attempt of each"
            );
        }
    }
}
