//! One instance of a group in one topic, as its server sees it: the task that pulls, acknowledges, and stands by.
//!
//! Of all instances one owns the topic, by the record that its [keeper](super::keeper) keeps. It alone pulls, and only
//! while its lease holds; what its server delivered to the owner before comes again. From there on the gate decides what
//! is handed out.
//!
//! ```text
//!            the record is this one's             the gate opens
//! standby ------------------------> recovering -------------------> flowing
//!    ^                                                                 |
//!    +-------- somebody else has taken it, or this one leaves ---------+
//! ```

mod acknowledge;
mod inspect;
mod leave;
mod pull;
mod timers;
mod watch;

use super::acks::{Acks, Believed};
use super::api::Context;
use super::claim::Change;
use super::consumer::Command;
use super::demand::{Amount, Demand};
use super::durable::Wanted;
use super::identity::Made;
use super::keeper::{Tenure, Told};
use super::link::Link;
use super::mailbox::{Incoming, Mailbox};
use super::message::Delivery;
use super::publish::sleep_until;
use super::recovery::{Action, Arrived, Gate};
use super::tried::Tries;
use crate::broker::{BrokerError, Partition, Position};
use crate::foreign;
use crate::sync::Arc;
use crate::wait::Promise;
use async_nats::datetime::DateTime;
use async_nats::jetstream::{consumer, stream};
use async_nats::{Client, Message, Subject, Subscriber};
use futures_util::{FutureExt, StreamExt};
use std::collections::HashMap;
use std::time::Duration;
use timers::{Timers, take_due};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Messages taken in one go, so that the intake is woken once for all of them.
const TAKEN: usize = 512;
/// How long after a copy of something in work it is looked at how the consumer is set.
const CHECK: Duration = Duration::from_secs(1);
/// After a request that failed, the next try.
const RETRY: Duration = Duration::from_millis(100);

/// What a member is made of.
pub(super) struct Setup {
    pub(super) client: Client,
    pub(super) jetstream: Context,
    pub(super) link: tokio::sync::watch::Receiver<Link>,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) commands: mpsc::UnboundedReceiver<Command>,
    pub(super) tenure: Tenure,
    /// Index into the topics of the subscription, and its name.
    pub(super) topic: (u32, Arc<str>),
    pub(super) stream: stream::Config,
    /// When the stream and the consumer were made, as they are known here.
    pub(super) made: Made<DateTime>,
    pub(super) wanted: Wanted,
    /// The consumer as it was found or created.
    pub(super) consumer: consumer::Config,
    pub(super) prefetch: Amount,
    pub(super) double_ack: bool,
    /// How long the record of who owns the topic may stand still.
    pub(super) takeover_after: Duration,
    /// How long an answer may take.
    pub(super) limit: Duration,
}

pub(super) struct Member {
    setup: Setup,
    /// Where pulled messages come; another one after each doubt, so that nothing of the time before comes any more.
    inbox: String,
    pulled: Subscriber,
    ack_inbox: String,
    acked: Subscriber,
    /// By which fence the topic is this one's, or was until its lease ended.
    fence: Option<u64>,
    gate: Gate<Incoming>,
    demand: Demand,
    /// Where each message in hand, or held by the gate, is acknowledged.
    replies: HashMap<u64, Subject, foldhash::fast::RandomState>,
    acks: Acks<Subject>,
    believed: Believed<Subject>,
    /// The acknowledgement whose answer confirms those before it, and when it was sent.
    barrier: Option<(u64, Instant)>,
    confirms: Vec<(u64, Promise<Result<(), BrokerError>>)>,
    /// How often they were sent again without an answer.
    unanswered: u32,
    generation: u64,
    is_assigned: bool,
    /// The highest sequence that came.
    newest: u64,
    /// Below it all was acknowledged when the consumer was last looked at.
    floor: u64,
    /// Given back and not delivered again.
    given_back: usize,
    tries: Tries,
    /// Those who owned the topic before ended without giving it back, and nobody has noted that yet.
    is_heir: bool,
    /// How many messages are left to collect.
    collecting: usize,
    passing: Vec<Incoming>,
    watching: watch::Watching,
    timers: Timers,
    /// What keeps this one from its work, and what keeps its keeper from the record.
    problems: [Option<String>; 2],
    is_leaving: bool,
}

enum Event {
    Link,
    Command(Option<Command>),
    Pulled(Message),
    Acked(Message),
    Told(Told),
    Timer,
    /// The client has ended.
    End,
}

impl Member {
    pub(super) async fn start(setup: Setup) -> Result<Self, BrokerError> {
        let failed = |error: async_nats::SubscribeError| BrokerError::Transient(error.to_string());
        let (inbox, ack_inbox) = (setup.client.new_inbox(), setup.client.new_inbox());
        let pulled = setup.client.subscribe(format!("{inbox}.*")).await.map_err(failed)?;
        let acked = setup.client.subscribe(format!("{ack_inbox}.*")).await.map_err(failed)?;
        let demand = Demand::new(setup.prefetch);
        Ok(Self {
            setup,
            inbox,
            pulled,
            ack_inbox,
            acked,
            fence: None,
            gate: Gate::new(),
            demand,
            replies: HashMap::default(),
            acks: Acks::new(),
            believed: Believed::new(),
            barrier: None,
            confirms: Vec::new(),
            unanswered: 0,
            generation: 0,
            is_assigned: false,
            newest: 0,
            floor: 0,
            given_back: 0,
            tries: Tries::default(),
            is_heir: false,
            collecting: 0,
            passing: Vec::new(),
            watching: watch::Watching::default(),
            timers: Timers::default(),
            problems: [None, None],
            is_leaving: false,
        })
    }

    pub(super) async fn run(mut self) {
        self.setup.link.mark_changed();
        while !self.is_leaving {
            let wake_at = self.timers.next();
            let event = tokio::select! {
                biased;
                changed = self.setup.link.changed() => if changed.is_ok() { Event::Link } else { Event::End },
                command = self.setup.commands.recv() => Event::Command(command),
                message = self.pulled.next() => message.map_or(Event::End, Event::Pulled),
                message = self.acked.next() => message.map_or(Event::End, Event::Acked),
                Some(told) = self.setup.tenure.told.recv() => Event::Told(told),
                () = sleep_until(wake_at) => Event::Timer,
            };
            match event {
                Event::Link => self.link_changed().await,
                Event::Command(command) => self.obey(command).await,
                Event::Pulled(message) => self.pulled(message).await,
                Event::Acked(message) => self.acked(&message),
                Event::Told(told) => self.told(told).await,
                Event::Timer => self.timer().await,
                Event::End => return,
            }
            self.tend();
            self.ask().await;
        }
    }

    fn is_up(&self) -> bool {
        self.setup.link.borrow().is_up
    }

    /// Whether the topic is this one's just now: nothing is asked of its consumer, and nothing said to it, otherwise.
    fn may_act(&self) -> bool {
        self.is_up() && !self.vouched_for().is_zero()
    }

    /// How long the topic is this one's still.
    fn vouched_for(&self) -> Duration {
        self.fence.map_or(Duration::ZERO, |fence| self.setup.mailbox.vouched_for(self.setup.topic.0, fence))
    }

    async fn told(&mut self, told: Told) {
        match told {
            Told::Change(Change::Taken { fence, from_silent }) => {
                let (topic, group) = (&*self.setup.topic.1, &self.setup.wanted.name);
                if from_silent {
                    foreign::info!(topic, consumer = group, "the active instance is gone; it is taken over");
                }
                foreign::info!(
                    topic,
                    consumer = group,
                    fence,
                    "this instance is the active one of its group"
                );
                (self.fence, self.is_heir) = (Some(fence), from_silent);
                self.carry_out(Action::Inspect).await;
            }
            // Acknowledgements were kept, and pulls have ended.
            Told::Change(Change::Regained) => self.carry_out(Action::Inspect).await,
            Told::Change(Change::Lost) => {
                foreign::warn!(
                    topic = &*self.setup.topic.1,
                    consumer = self.setup.wanted.name,
                    "another instance of the group is the active one now"
                );
                self.fence = None;
                self.timers = Timers::default();
                self.reset_inbox().await;
                let others = "another instance of the group owns the topic now".to_owned();
                self.forget_acks(&Err(BrokerError::Transient(others)));
                self.lose();
                self.problem(None);
            }
            Told::Change(Change::Released) => self.fence = None,
            Told::Problem(problem) => self.set_problem(1, problem),
        }
    }

    async fn link_changed(&mut self) {
        let link = self.setup.link.borrow_and_update().clone();
        if !link.is_up {
            self.demand.forget();
            self.timers =
                Timers { progress: self.timers.progress, expired: self.timers.expired, ..Timers::default() };
            self.problem(Some(link.problem));
            return;
        }
        // What had come before is looked at first, so that nothing of it counts as lost.
        while let Some(Some(message)) = self.pulled.next().now_or_never() {
            let todo = self.message(message).await;
            self.hand_out();
            self.carry_out(todo).await;
        }
        self.problem(None);
        self.carry_out(Action::Inspect).await;
    }

    async fn obey(&mut self, command: Option<Command>) {
        match command {
            Some(Command::Turn { settled, taken }) => {
                self.demand.taken(taken);
                let may_act = self.may_act();
                for (generation, sequence) in settled {
                    // The same number may be another record by now, which nobody has handled.
                    if !self.is_assigned || generation != self.generation {
                        continue;
                    }
                    self.gate.forget(sequence);
                    self.tries.settled(sequence);
                    if let Some(reply) = self.replies.remove(&sequence) {
                        self.acknowledge(sequence, reply, may_act).await;
                    }
                }
                self.confirm_some().await;
            }
            Some(Command::Confirm(promise)) => self.confirm_all(promise).await,
            Some(Command::GiveBack(sequence, delay)) => {
                self.gate.forget(sequence);
                if let Some(reply) = self.replies.remove(&sequence) {
                    self.given_back += 1;
                    self.tries.given_back(sequence);
                    self.give_back(reply, delay).await;
                }
            }
            Some(Command::Leave(promise)) => {
                self.leave().await;
                promise.complete(());
            }
            // Its subscription has ended without a word.
            None => self.leave().await,
        }
    }

    async fn pulled(&mut self, first: Message) {
        let mut todo = self.message(first).await;
        for _ in 1..TAKEN {
            if !todo.is_nothing() {
                break;
            }
            let Some(Some(message)) = self.pulled.next().now_or_never() else { break };
            todo = self.message(message).await;
        }
        self.hand_out();
        self.carry_out(todo).await;
    }

    fn hand_out(&mut self) {
        if !self.passing.is_empty() {
            self.setup.mailbox.put(self.setup.topic.0, self.passing.drain(..));
        }
    }

    /// A message that was pulled, or what the server says of a pull.
    async fn message(&mut self, message: Message) -> Action<Incoming> {
        let delivery = message.reply.as_ref().and_then(|reply| Delivery::of(reply));
        let (Some(mut delivery), None) = (delivery, message.status) else { return self.status(&message) };
        if self.fence.is_none() {
            // Of a pull that reached the server when another owned the topic already: it comes to that one again.
            return Action::Nothing;
        }
        let reply = message.reply.clone().expect("a delivery has one");
        let Delivery { sequence, number, .. } = delivery;
        self.newest = self.newest.max(sequence);
        let bytes = message.length;
        self.demand.arrived(bytes);
        if delivery.times > 1 {
            self.given_back = self.given_back.saturating_sub(1);
        }
        delivery.times = self.tries.of(sequence);
        if self.gate.would_forget(number - 1) {
            // Dropped, it comes again when the consumer is looked at.
            let Ok(false) = self.is_made_anew().await else { return Action::Inspect };
            self.forget_deliveries(number - 1);
        }
        let (arrived, next) = self.gate.arrived(sequence, number, Incoming { message, delivery });
        match arrived {
            Arrived::Pass(incoming) => {
                self.replies.insert(sequence, reply);
                self.demand.waits(bytes);
                self.passing.push(incoming);
            }
            Arrived::Held => drop(self.replies.insert(sequence, reply)),
            Arrived::Copy => {
                self.replies.insert(sequence, reply);
                // It was told to be in work: somebody may have died who had lowered the `ack_wait`.
                self.timers.check.get_or_insert_with(|| Instant::now() + CHECK);
            }
            Arrived::Settled => {
                let may_act = self.may_act();
                self.acknowledge(sequence, reply, may_act).await;
            }
        }
        if self.timers.progress.is_none() {
            self.timers.progress = Some(Instant::now() + self.progress_every());
        }
        if !next.is_nothing() {
            return next;
        }
        if self.gate.is_collecting() {
            self.timers.pull_ends = Some(Instant::now() + self.collected_in());
            self.collecting = self.collecting.saturating_sub(1);
            if self.collecting == 0 {
                return self.gate.collected();
            }
        }
        Action::Nothing
    }

    /// Hands out what the gate held; from now on it passes.
    async fn open(&mut self, mut held: Vec<Incoming>) {
        self.problem(None);
        let topic = self.setup.topic.0;
        if let Some(fence) = self.fence.filter(|_| !self.is_assigned) {
            // Noted before anything of it can start.
            self.inherit(&held).await;
            self.is_assigned = true;
            self.generation += 1;
            let partition = Partition { topic, partition: 0, generation: self.generation };
            let first = held.first().map_or(u64::MAX, |incoming| incoming.delivery.sequence);
            let watermark = first.min(self.floor + 1);
            if !held.is_empty() {
                foreign::info!(
                    topic = &*self.setup.topic.1,
                    consumer = self.setup.wanted.name,
                    records = held.len(),
                    "what was delivered before and not acknowledged is handled first, in its order"
                );
            }
            self.setup.mailbox.assign(partition, fence, Position { watermark, ahead: Vec::new() });
        }
        for incoming in &mut held {
            incoming.delivery.times = self.tries.of(incoming.delivery.sequence);
            self.demand.waits(incoming.bytes());
        }
        self.setup.mailbox.put(topic, held);
    }

    /// What is here counts no more.
    fn lose(&mut self) {
        self.passing.clear();
        self.replies.clear();
        self.believed.clear();
        self.gate = Gate::new();
        self.demand = Demand::new(self.setup.prefetch);
        self.given_back = 0;
        self.tries = Tries::default();
        if std::mem::take(&mut self.is_assigned) {
            self.setup.mailbox.lose(self.setup.topic.0);
        }
    }

    /// What keeps this one from its work, for the health of its subscription; none: nothing any more.
    fn problem(&mut self, problem: Option<String>) {
        self.set_problem(0, problem);
    }

    fn set_problem(&mut self, which: usize, problem: Option<String>) {
        if self.problems[which] != problem {
            self.problems[which] = problem;
            let first = self.problems.iter().flatten().next().cloned();
            self.setup.mailbox.set_problem(self.setup.topic.0, first);
        }
    }

    async fn timer(&mut self) {
        let now = Instant::now();
        if take_due(&mut self.timers.progress, now) {
            self.tell_progress().await;
        }
        if take_due(&mut self.timers.barrier, now) {
            self.barrier_is_due().await;
        }
        if take_due(&mut self.timers.floor, now) {
            self.look_at_floor().await;
        }
        if let Some((_, is_lowered)) = self.timers.expired.take_if(|(at, _)| *at <= now) {
            self.expired(is_lowered).await;
        }
        // Asked again behind each event.
        take_due(&mut self.timers.pull_again, now);
        let has_ended = take_due(&mut self.timers.pull_ends, now);
        if has_ended && self.gate.is_collecting() {
            // A server that may not deliver anything new, for what is unacknowledged, does not say that no more comes.
            self.reset_inbox().await;
            let todo = self.gate.collected();
            self.carry_out(todo).await;
        } else if has_ended && self.demand.is_asking() {
            foreign::warn!(
                topic = &*self.setup.topic.1,
                consumer = self.setup.wanted.name,
                "a pull has not ended when it should have; it is begun anew"
            );
            self.carry_out(Action::Inspect).await;
        }
        if take_due(&mut self.timers.check, now) && self.timers.expired.is_none() && self.may_act() {
            self.check().await;
        }
        if take_due(&mut self.timers.inspect, now) {
            self.carry_out(Action::Inspect).await;
        }
        if take_due(&mut self.timers.watch, now) && self.is_up() {
            self.watch().await;
        }
    }

    async fn carry_out(&mut self, mut todo: Action<Incoming>) {
        loop {
            todo = match todo {
                Action::Nothing => return,
                Action::Inspect => self.inspect().await,
                Action::Clear(removed) => self.clear(removed).await,
                Action::Collect(records) => return self.collect(records).await,
                Action::Expire { patiently } => return self.expire(patiently).await,
                Action::Open(held) => return self.open(held).await,
                Action::BeginAnew => {
                    self.lose();
                    Action::Inspect
                }
            };
        }
    }
}
