//! The thread of one member of a consumer group: it owns the client, and nothing else calls it.

use super::arena::Arena;
use super::broker_health::{BrokerHealth, Kind, Sign};
use super::events::{Found, Message};
use super::fencing::{Failure, Renewals};
use super::flow::{Flow, Turn};
use super::group::{Client, Group};
use super::handoff::Handoff;
use super::headers::each_header;
use super::marks::Asker;
use super::properties::Properties;
use super::question::{self, Question};
use super::session;
use super::silence::{find_stalled, removed};
use super::topics;
use super::watermarks::known_low;
use crate::broker::{BrokerError, Budget, Fetched, Polled};
use crate::foreign;
use crate::sync::Arc;
use crate::wait::Parker;
use crate::wait::Promise;
use rdkafka::error::KafkaError;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The client wakes this thread when it has something. It is asked so often all the same, so that a wake that it missed
/// costs no more than that, and so that the group sees a member that lives.
const TICK: Duration = Duration::from_millis(200);
/// How long one asking of the brokers takes at most before anything is fetched.
const ASK: Duration = Duration::from_millis(500);
/// How long the last commits may take before the group is left without them.
const FLUSH: Duration = Duration::from_secs(2);
/// How often a member that was thrown out looks whether the other one with its name has gone.
const LOOK_FOR_NAME: Duration = Duration::from_secs(5);
/// How long one look takes at most, and how many have no answer before it goes on without.
const LOOK_LASTS: Duration = Duration::from_secs(2);
const LOOKS: u32 = 12;
/// A member that the group has taken and that gets no partition is said to have joined after this time.
const WITHOUT_PARTITIONS: Duration = Duration::from_secs(3);

pub(super) struct Setup {
    pub(super) handoff: Arc<Handoff>,
    pub(super) properties: Properties,
}

enum End {
    Closing,
    /// The client is of no use any more.
    Failed(Failure, String),
}

/// The life of the thread. `tell` learns whether there is a client.
pub(super) fn run(setup: &Setup, tell: Promise<Result<(), String>>) {
    let parker = Arc::new(Parker::new());
    let is_first = setup.handoff.member.set(parker.waker().clone()).is_ok();
    debug_assert!(is_first, "a handoff has one member");
    let mut tell = Some(tell);
    let mut renewals = Renewals::default();
    let mut trouble = None;
    loop {
        let since = Instant::now();
        let end = match Member::new(setup, &parker, trouble.as_deref()) {
            Ok(mut member) => {
                if let Some(tell) = tell.take() {
                    tell.complete(Ok(()));
                }
                let end = member.run();
                member.end(&end);
                end
            }
            Err(error) => match tell.take() {
                Some(tell) => return tell.complete(Err(error.to_string())),
                None => End::Failed(Failure::Other, error.to_string()),
            },
        };
        let End::Failed(failure, reason) = end else { return };
        let group = &*setup.handoff.spec.group;
        let reason = failure.explain(&reason, group, setup.properties.instance());
        let rest = renewals.failed(failure, since.elapsed());
        foreign::error!(reason, group, ?rest, "the consumer has failed for good and is replaced");
        setup.handoff.state.lock().problem = Some(reason.clone());
        setup.handoff.wake_subscription();
        trouble = Some(reason);
        if !rest_from(setup, &parker, failure, rest) {
            return;
        }
    }
}

/// Waits before the next client is made, and for as long as another member has its name. False: none is wanted any more.
fn rest_from(setup: &Setup, parker: &Parker, failure: Failure, rest: Duration) -> bool {
    let (mut until, mut unanswered) = (Instant::now() + rest, 0);
    loop {
        if setup.handoff.state.lock().is_closing {
            return false;
        }
        if Instant::now() < until {
            parker.park_until(Some(until));
            continue;
        }
        let Some(name) = setup.properties.instance().filter(|_| failure == Failure::Fenced) else {
            return true;
        };
        match topics::has_instance(&setup.properties, &setup.handoff.spec.group, name, LOOK_LASTS) {
            Some(true) => unanswered = 0,
            // Nobody may be allowed to ask.
            None if unanswered < LOOKS => unanswered += 1,
            Some(false) | None => return true,
        }
        until = Instant::now() + LOOK_FOR_NAME;
    }
}

struct Member {
    handoff: Arc<Handoff>,
    parker: Arc<Parker>,
    client: Client,
    flow: Flow,
    health: BrokerHealth,
    /// How long one asking of the brokers takes at most.
    ask: Duration,
    arena: Arena,
    /// What was in the arena, made before the lock is taken that the subscription waits for.
    fetched: Vec<(Fetched, usize)>,
    /// As the subscription was told.
    has_joined: bool,
    /// Since when the group's protocol is known.
    taken_since: Option<Instant>,
    /// What the client before this one failed of is still to be shown.
    is_troubled: bool,
    fatal: Option<(Failure, String)>,
    asker: Asker,
}

impl Member {
    /// `trouble`: what the client before this one failed of.
    fn new(setup: &Setup, parker: &Arc<Parker>, trouble: Option<&str>) -> Result<Self, KafkaError> {
        let group = Group::new(setup.handoff.clone(), parker.clone(), setup.properties.clone());
        let client = Client::new(&setup.properties, group, parker.waker().clone())?;
        let mut health = BrokerHealth::default();
        if let Some(trouble) = trouble {
            health.heard(Kind::Group, trouble, Instant::now());
        }
        let topics: Vec<&str> = setup.handoff.spec.topics.iter().map(|topic| &**topic).collect();
        let before = |topic: &&str| topics::look_up(client.client(), topic, ASK).ok().flatten();
        let before: Vec<_> = topics.iter().map(|topic| before(topic).map(|found| found.partitions)).collect();
        client.context().own.lock().partitions_before = before;
        client.subscribe(&topics)?;
        Ok(Self {
            handoff: setup.handoff.clone(),
            parker: parker.clone(),
            client,
            flow: Flow::new(),
            health,
            ask: setup.properties.behind_a_fetch(),
            arena: Arena::default(),
            fetched: Vec::new(),
            has_joined: false,
            taken_since: None,
            is_troubled: trouble.is_some(),
            fatal: None,
            asker: Asker::new(setup.handoff.spec.topics.clone(), setup.properties.clone()),
        })
    }

    fn run(&mut self) -> End {
        loop {
            let now = Instant::now();
            let (room, left, commit_at) = {
                let mut state = self.handoff.state.lock();
                if state.is_closing {
                    return End::Closing;
                }
                let (room, left) = state.mailbox.room();
                state.is_room_wanted = false;
                (room, left, state.commits.due(now))
            };
            if commit_at.is_some_and(|at| at <= now) {
                self.client.context().commit_later(&self.client);
            }
            let turn = self.flow.turn(room, now);
            self.stop_and_resume();
            let mut until = now + TICK;
            let is_drained = match turn {
                Turn::Ask => self.serve(left, now),
                // Nothing should come, and what comes all the same is taken.
                Turn::Paused => self.serve(Budget { records: 1, bytes: 1 }, now),
                Turn::Rest(rest) => {
                    until = until.min(rest);
                    true
                }
            };
            if let Some((failure, reason)) = self.fatal.take() {
                return End::Failed(failure, reason);
            }
            self.look_after(now);
            self.answer();
            let (due, has_room) = {
                let mut state = self.handoff.state.lock();
                let is_open = matches!(turn, Turn::Ask);
                state.is_room_wanted = !is_open || state.mailbox.room().1.records == 0;
                // Room that came since is not announced.
                let has_room = !is_open && state.mailbox.room().0 != room;
                (state.commits.due(now), has_room)
            };
            until = [due, self.health.ask_at()].into_iter().flatten().fold(until, Instant::min);
            if is_drained && !has_room {
                self.parker.park_until(Some(until));
            }
        }
    }

    /// Takes what the client has, as far as there is room and up to an arena. Whether there was no more.
    fn serve(&mut self, left: Budget, now: Instant) -> bool {
        let mut is_full = false;
        let is_drained = loop {
            if is_full || self.arena.records() >= left.records || self.arena.size() >= left.bytes {
                break false;
            }
            match self.client.look() {
                Found::Record(message) => {
                    is_full = take(&mut self.arena, &self.client, &self.handoff, &message, now);
                }
                Found::Failed(code, reason) => {
                    self.fatal = Some((Failure::of(code), reason));
                    break false;
                }
                Found::Served => {}
                Found::Nothing => break true,
            }
        };
        let gone = std::mem::take(&mut self.client.context().own.lock().gone);
        if !gone.is_empty() {
            let mut state = self.handoff.state.lock();
            gone.into_iter().for_each(|(of, gone)| state.mailbox.push_event(Polled::Gone(of, gone)));
            drop(state);
            self.handoff.wake_subscription();
        }
        if self.arena.records() > 0 {
            self.fetched.extend(self.arena.drain());
            {
                let mut state = self.handoff.state.lock();
                self.fetched.drain(..).for_each(|(fetched, bytes)| state.mailbox.push(fetched, bytes));
            }
            self.health.works(Sign::Work);
            self.handoff.wake_subscription();
        }
        is_drained
    }

    /// Tells the client which partitions are not wanted now, where that has changed.
    fn stop_and_resume(&mut self) {
        let group = self.client.context();
        let (stop, resume) = {
            let mut own = group.own.lock();
            let mut state = self.handoff.state.lock();
            let is_changed =
                std::mem::take(&mut state.is_stopping_changed) | std::mem::take(&mut own.is_reassigned);
            let is_paused = self.flow.is_paused();
            if !is_changed && own.assigned.iter().all(|assigned| assigned.is_stopped == is_paused) {
                return;
            }
            let (mut stop, mut resume) = (Vec::new(), Vec::new());
            for assigned in &mut own.assigned {
                let is_stopped = is_paused || state.mailbox.is_stopped(assigned.partition);
                if is_stopped != assigned.is_stopped {
                    assigned.is_stopped = is_stopped;
                    assigned.watch.is_alive(Instant::now());
                    if is_stopped { &mut stop } else { &mut resume }.push(assigned.partition);
                }
            }
            (stop, resume)
        };
        for (partitions, is_stop) in [(stop, true), (resume, false)] {
            if partitions.is_empty() {
                continue;
            }
            let list = group.list(partitions.into_iter());
            let done = if is_stop { self.client.pause(&list) } else { self.client.resume(&list) };
            if let Err(error) = done {
                foreign::warn!(%error, group = &*self.handoff.spec.group, "partitions could not be stopped or resumed");
            }
        }
    }

    /// Looks for trouble and for its end, for partitions that have stopped without a word, and whether the group has
    /// taken this member.
    fn look_after(&mut self, now: Instant) {
        let (heard, has_worked) = {
            let mut own = self.client.context().own.lock();
            (std::mem::take(&mut own.heard), std::mem::take(&mut own.has_worked))
        };
        for (kind, reason) in heard {
            self.health.heard(kind, &reason, now);
        }
        if has_worked {
            self.health.works(Sign::Work);
        }
        if self.client.context().tell_overdue(now) {
            self.handoff.wake_subscription();
        }
        if self.client.context().life.asks_for_session(now) {
            session::ask(&self.client);
        }
        // A member without partitions has no other sign that the group has taken it.
        if self.is_troubled && self.handoff.lease.holds(now) {
            self.is_troubled = false;
            self.health.works(Sign::Work);
        }
        if self.health.ask_at().is_some_and(|at| now >= at) {
            match self.ask() {
                Ok(()) => self.health.works(Sign::Answer),
                Err(reason) => self.health.unanswered(&reason, Instant::now()),
            }
        }
        // The client's main thread answers that, so it is asked no longer than it matters.
        if !self.has_joined {
            self.taken_since = self.client.is_joining().then(|| self.taken_since.unwrap_or(now));
        }
        let is_changed = {
            let mut state = self.handoff.state.lock();
            let problem = self.health.reason();
            let is_long = |since| now.saturating_duration_since(since) >= WITHOUT_PARTITIONS;
            let joins = !state.has_joined && self.taken_since.is_some_and(is_long);
            state.has_joined |= joins;
            self.has_joined = state.has_joined;
            let is_changed = joins || state.problem.as_deref() != problem;
            if is_changed {
                state.problem = problem.map(str::to_owned);
            }
            is_changed
        };
        if is_changed {
            self.handoff.wake_subscription();
        }
        if self.health.reason().is_none() {
            find_stalled(&self.client, &self.handoff, now, self.ask);
        }
    }

    /// Asks the brokers about the topics.
    fn ask(&self) -> Result<(), String> {
        for topic in &self.handoff.spec.topics {
            match topics::look_up(self.client.client(), topic, self.ask) {
                Ok(Some(_)) => {}
                Ok(None) => return Err(BrokerError::NoSuchTopic { topic: topic.to_string() }.to_string()),
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    }

    /// Passes the subscription's questions on, if the brokers answer.
    fn answer(&mut self) {
        let asked = std::mem::take(&mut self.handoff.state.lock().asked);
        for (question, promise) in asked {
            if let Some(reason) = self.health.reason() {
                promise.complete(question::unanswered(reason));
                continue;
            }
            let passed = match question {
                Question::Ends => HashMap::new(),
                Question::Reached => self.client.context().passed(&self.client),
            };
            self.asker.ask((question, promise), passed);
        }
    }

    /// Commits what was accepted and is not committed yet; the partitions have been released since.
    fn flush(&mut self) {
        let until = Instant::now() + FLUSH;
        while !self.handoff.state.lock().commits.is_idle() {
            let now = Instant::now();
            if now >= until || self.health.reason().is_some() {
                foreign::error!(
                    group = &*self.handoff.spec.group,
                    "the last positions could not be committed; what was handled since the commits before comes again"
                );
                return;
            }
            self.client.context().commit_later(&self.client);
            if self.serve(Budget { records: 1, bytes: 1 }, now) {
                let due = self.handoff.state.lock().commits.due(now);
                self.parker
                    .park_until(Some(due.unwrap_or(until).clamp(now + Duration::from_millis(1), until)));
            }
        }
    }

    /// Leaves the group, or tells the subscription that all is lost with the client.
    fn end(mut self, end: &End) {
        if let End::Failed(..) = end {
            let own = std::mem::take(&mut *self.client.context().own.lock());
            let unheard: Vec<_> = {
                let mut state = self.handoff.state.lock();
                self.client.context().life.ended();
                own.assigned.iter().for_each(|assigned| state.mailbox.lose(assigned.partition));
                let places = own.assigned.iter().map(|a| (a.partition.topic, a.partition.partition));
                places.flat_map(|place| state.commits.forget(place)).collect()
            };
            for waiter in unheard {
                waiter.complete(Err("the consumer has failed".to_owned()));
            }
            self.handoff.wake_subscription();
        } else {
            self.flush();
        }
        drop(self.client);
    }
}

/// Copies a record that is expected. Whether the arena is full.
fn take(arena: &mut Arena, client: &Client, handoff: &Handoff, message: &Message<'_>, now: Instant) -> bool {
    let topics = &handoff.spec.topics;
    // Its name is looked at only where it can be another one.
    let is_it = |name: &Arc<str>| name.as_bytes() == message.topic().to_bytes();
    let topic = if topics.len() == 1 { Some(0) } else { topics.iter().position(is_it) };
    let mut own = client.context().own.lock();
    let Some(assigned) = topic.and_then(|topic| own.find(topic, message.partition())) else { return false };
    let offset = message.offset() as u64;
    // Fetched again after a pause, or from a time before the partition was ours; or the log is another one.
    if offset < assigned.next {
        assigned.watch.is_suspect(now);
        return false;
    }
    let (next, partition) = (assigned.next, assigned.partition);
    assigned.next = offset + 1;
    assigned.watch.is_alive(now);
    // A gap may be what transactions and compaction leave: the log's start tells, as the broker said it last.
    if offset > next
        && let Some(low) = known_low(client, message).filter(|low| *low > next)
    {
        own.gone.push((partition, removed(next, low.min(offset))));
    }
    drop(own);
    let value = message.payload().unwrap_or_default();
    arena.push((partition, offset, message.timestamp_ms()), message.key(), value, |each| {
        each_header(message, each);
    })
}
