//! Looks after the partitions of a member: whether each goes on, and whether its log is still the one that its position was
//! taken in.
//!
//! The brokers are asked for all topics at once every few seconds, and for the ends of partitions that look still; nobody waits
//! for the answers.

use super::anew::log_made_anew;
use super::commits::TopicPartition;
use super::group::Client;
use super::handoff::Handoff;
use super::identity::Ids;
use super::inquiry::{Answer, Described, Inquiry};
use super::motion::{Cause, Motion, Obstacle, Presence, Sight};
use super::watermarks::known_end;
use crate::broker::{LogId, Partition, Polled, Still, Stuck};
use crate::foreign;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::mem::{Discriminant, discriminant};
use std::time::{Duration, Instant};

/// How often partitions are looked at, which asks nobody.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often the brokers are asked about the topics: until then a log that was made anew is read at the old position.
const DESCRIBE_EVERY: Duration = Duration::from_secs(3);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(3);

/// Dropped before its client.
pub(super) struct Lookout {
    inquiry: Inquiry,
    topics: Vec<Topic>,
    motions: BTreeMap<Partition, Motion>,
    /// What the subscription was told of partitions that stand.
    told: BTreeMap<Partition, Discriminant<Cause>>,
    next_look: Instant,
    next_description: Instant,
}

/// What is new in what was said of the topics.
struct News {
    /// It is to be asked again at once.
    is_doubtful: bool,
    /// Topics that were missing.
    is_back: Vec<usize>,
}

/// What was said of a topic.
#[derive(Default)]
struct Topic {
    presence: Presence,
    /// They tell this user nothing of it, since when and why.
    refused: Option<(Instant, String)>,
    is_denied: bool,
    leaderless: BTreeSet<u32>,
    is_told: bool,
}

impl Topic {
    fn obstacle(&self, partition: u32) -> Option<Obstacle> {
        if self.is_denied {
            Some(Obstacle::NotPermitted)
        } else {
            self.leaderless.contains(&partition).then_some(Obstacle::NoLeader)
        }
    }

    /// Why all of it stands, and since when.
    fn standstill(&self) -> Option<(Instant, String)> {
        let missing = self.presence.missing_since().map(|since| {
            let reason = "the topic does not exist any more: somebody has deleted it; create it again, or end the \
                          subscription";
            (since, reason.to_owned())
        });
        missing.or_else(|| self.refused.clone())
    }
}

impl Lookout {
    pub(super) fn new(client: &Client, now: Instant) -> Self {
        // The client before this one may have told of a topic what is over.
        let topic = |_| Topic { is_told: true, ..Topic::default() };
        let topics = client.context().spec().topics.iter().map(topic).collect();
        Self {
            inquiry: Inquiry::new(client),
            topics,
            motions: BTreeMap::new(),
            told: BTreeMap::new(),
            next_look: now,
            next_description: now + DESCRIBE_EVERY,
        }
    }

    /// Whether it is known why nothing of the partition comes: fetching it anew would not help.
    pub(super) fn knows_why(&self, partition: Partition) -> bool {
        let topic = &self.topics[partition.topic as usize];
        topic.standstill().is_some() || topic.obstacle(partition.partition).is_some()
    }

    /// The brokers do not answer, which is told by itself: no partition is to blame.
    pub(super) fn rest(&mut self, now: Instant) {
        for (partition, motion) in &mut self.motions {
            if !self.told.contains_key(partition) {
                motion.goes_on(motion.position(), now);
            }
        }
    }

    /// Takes an answer, looks, tells and asks, each if it is time. `limit` is for questions that have to be waited for: where
    /// a log turns out to be another one.
    pub(super) fn look(&mut self, client: &Client, handoff: &Handoff, limit: Duration, now: Instant) {
        match self.inquiry.answer(client, Duration::ZERO) {
            None => {}
            Some(Answer::Topics(described)) => {
                let News { is_doubtful, is_back } = self.described(client, described, now);
                if is_doubtful {
                    (self.next_look, self.next_description) = (now, now);
                }
                for topic in is_back {
                    // The client hears of it by itself, too, within minutes.
                    let _ = client.client().fetch_metadata(Some(&*handoff.spec.topics[topic]), limit);
                }
                compare(client, handoff, limit);
            }
            Some(Answer::Offsets(ends)) => {
                for (partition, motion) in &mut self.motions {
                    if let Some(end) = ends.get(&(partition.topic, partition.partition)) {
                        motion.answered(*end);
                    }
                }
            }
            Some(Answer::Failed(code, reason)) => {
                foreign::debug!(%code, reason, group = &*handoff.spec.group, "what was asked in passing has no answer");
            }
        }
        if now < self.next_look {
            return;
        }
        self.next_look = now + LOOK_EVERY;
        self.look_at_partitions(client, now);
        self.tell(client, handoff, now);
        self.ask(client, handoff, now);
    }

    /// Takes note of what was said of the topics.
    fn described(&mut self, client: &Client, mut described: HashMap<u32, Described>, now: Instant) -> News {
        let mut news = News { is_doubtful: false, is_back: Vec::new() };
        for (index, topic) in (0..).zip(&mut self.topics) {
            let found = described.remove(&index);
            if topic.presence.missing_since().is_some() && matches!(found, Some(Described::There { .. })) {
                news.is_back.push(index as usize);
            }
            topic.presence.answered(!matches!(found, Some(Described::Missing)), now);
            match found {
                Some(Described::There { id, is_readable, leaderless }) => {
                    if let Some(id) = id {
                        news.is_doubtful |=
                            client.context().own.lock().ids.entry(index).or_default().said(id);
                    }
                    (topic.is_denied, topic.leaderless, topic.refused) = (!is_readable, leaderless, None);
                }
                Some(Described::Refused(reason)) => {
                    let reason = format!(
                        "this user is told nothing of the topic: {reason}; it needs the permission to read it"
                    );
                    topic.refused.get_or_insert((now, reason));
                }
                Some(Described::Missing) | None => {}
            }
        }
        news
    }

    fn look_at_partitions(&mut self, client: &Client, now: Instant) {
        let group = client.context();
        let seen: Vec<_> =
            group.own.lock().assigned.iter().map(|a| (a.partition, a.next, a.is_stopped)).collect();
        let mut before = std::mem::take(&mut self.motions);
        let mut positions = None;
        for (partition, next, is_stopped) in seen {
            let mut motion = before.remove(&partition).unwrap_or_else(|| Motion::new(next, now));
            if is_stopped || next > motion.position() {
                motion.goes_on(next, now);
            } else {
                let topic = &group.spec().topics[partition.topic as usize];
                let end = known_end(client, topic, partition.partition.cast_signed());
                let mut position = motion.position();
                // The client's own passes what is no record.
                if end.is_some_and(|end| end > position) {
                    let positions: &HashMap<TopicPartition, u64> =
                        positions.get_or_insert_with(|| group.client_positions(client));
                    let place = (partition.topic, partition.partition);
                    position = positions.get(&place).copied().unwrap_or_default().max(position);
                }
                let obstacle = self.topics[partition.topic as usize].obstacle(partition.partition);
                motion.look(Sight { position, end, obstacle }, now);
            }
            self.motions.insert(partition, motion);
        }
        self.told.retain(|partition, _| self.motions.contains_key(partition));
    }

    fn tell(&mut self, client: &Client, handoff: &Handoff, now: Instant) {
        let mut news = Vec::new();
        for (partition, motion) in &self.motions {
            let stands = motion.standstill(now);
            let kind = stands.map(|(cause, _)| discriminant(&cause));
            if self.told.get(partition).copied() == kind {
                continue;
            }
            match kind {
                Some(kind) => drop(self.told.insert(*partition, kind)),
                None => drop(self.told.remove(partition)),
            }
            let stuck = stands.map(|(cause, since)| {
                let said = client.context().own.lock().said.clone();
                let topic = &handoff.spec.topics[partition.topic as usize];
                Stuck {
                    offset: Some(motion.position()),
                    reason: reason(cause, topic, said.as_deref()),
                    since,
                }
            });
            news.push(Polled::Stuck(Still::Partition(*partition), stuck));
        }
        for (index, topic) in (0..).zip(&mut self.topics) {
            let stands = topic.standstill();
            if stands.is_some() != topic.is_told {
                topic.is_told = stands.is_some();
                let stuck = stands.map(|(since, reason)| Stuck { offset: None, reason, since });
                news.push(Polled::Stuck(Still::Topic(index), stuck));
            }
        }
        if news.is_empty() {
            return;
        }
        let mut state = handoff.state.lock();
        news.into_iter().for_each(|news| state.mailbox.push_event(news));
        drop(state);
        handoff.wake_subscription();
    }

    fn ask(&mut self, client: &Client, handoff: &Handoff, now: Instant) {
        if self.inquiry.is_under_way() {
            return;
        }
        if now >= self.next_description {
            self.next_description = now + DESCRIBE_EVERY;
            return self.inquiry.describe(client, &handoff.spec.topics, ANSWER);
        }
        let mut list = TopicPartitionList::new();
        for (partition, motion) in &mut self.motions {
            if motion.is_to_be_asked(now) {
                motion.asked(now);
                let topic = &handoff.spec.topics[partition.topic as usize];
                list.add_partition(topic, partition.partition.cast_signed());
            }
        }
        self.inquiry.list(client, list, Offset::End, ANSWER);
    }
}

/// Begins anew where a topic has another id than the one that a partition's position was taken in.
fn compare(client: &Client, handoff: &Handoff, limit: Duration) {
    let mut others: BTreeMap<u32, (LogId, Vec<Partition>)> = BTreeMap::new();
    {
        let own = client.context().own.lock();
        let mut state = handoff.state.lock();
        for partition in own.assigned.iter().map(|assigned| assigned.partition) {
            let Some(current) = own.ids.get(&partition.topic).and_then(Ids::current) else { continue };
            let log = state.logs.entry((partition.topic, partition.partition)).or_insert(current);
            if *log != current {
                others.entry(partition.topic).or_insert((current, Vec::new())).1.push(partition);
            }
        }
    }
    for (current, partitions) in others.into_values() {
        log_made_anew(client, handoff, &partitions, current, limit);
    }
}

/// What keeps a partition, in words for an operator.
fn reason(cause: Cause, topic: &str, said: Option<&str>) -> String {
    match cause {
        Cause::NotPermitted => format!("this user may not read it: grant it `Read` on topic `{topic}`"),
        Cause::NoLeader => {
            "the partition has no leader: no broker that has a copy of it, in sync, is there; start \
                            one of them"
                .to_owned()
        }
        Cause::Transaction { from, .. } => format!(
            "a transaction is open since offset {from}, and what was published behind it waits for its end: end its \
             producer, or abort it with `kafka-transactions.sh`"
        ),
        Cause::Unknown { .. } => {
            let said = said.map(|said| format!("; the client said last: {said}")).unwrap_or_default();
            format!("the broker has records from here on, and none of them comes{said}")
        }
    }
}
