//! One member of a group: what its client library does, and what the backend does above that.

use super::cluster::{Cluster, Log, Seat};
use super::{SESSION, away};
use crate::broker::kafka::rules::{Finding, Watch, begin, removed};
use crate::broker::{
    BrokerError, Budget, Committed, Consumer, ConsumerSpec, Durability, Fetched, FetchedRecord, Gone, LogId,
    Mark, Polled, Start, position_text,
};
use crate::delivery::{Lease, Partition, Position};
use crate::sim::is_crashing;
use crate::sim::world::Process;
use crate::sync::{Arc, Mutex};
use crate::wait::Op;
use std::collections::BTreeSet;
use std::task::Waker;
use std::time::{Duration, Instant};

/// What stands beside an offset, at most.
const TEXT: usize = 4_096;

/// What the client library and the backend's own thread keep.
pub(super) struct Client {
    cluster: Arc<Mutex<Cluster>>,
    process: Process,
    spec: ConsumerSpec,
    pub(super) wake: Waker,
    lease: Lease,
    member: Option<u64>,
    held: Vec<Held>,
    /// How many partitions the topics had when this member came.
    partitions_before: Vec<u32>,
    /// What it had before: its first record is the group's, whatever it is told to start with.
    had: BTreeSet<(u32, u32)>,
    mail: Vec<Polled>,
    released: Vec<Partition>,
    generations: u64,
}

struct Held {
    id: Partition,
    topic: Arc<str>,
    /// The id of the log that the position is of.
    log: Option<LogId>,
    /// The coordinator's generation, by which it fences commits.
    fence: u64,
    /// Where the client fetches, and what should come next.
    fetch: u64,
    next: u64,
    watch: Watch,
    is_paused: bool,
    is_revoking: bool,
}

impl Held {
    /// Its log is another one.
    fn begin_anew(&mut self, log: &Log, reason: String, generations: &mut u64, mail: &mut Vec<Polled>) {
        mail.push(Polled::Lost(self.id));
        *generations += 1;
        self.id.generation = *generations;
        let position = Position { watermark: log.low, ahead: Vec::new() };
        mail.push(Polled::Assigned(self.id, position));
        mail.push(Polled::Gone(self.id, Gone { records: log.end()..log.end(), count: 0, reason }));
        (self.fetch, self.next, self.log) = (log.low, log.low, log.id);
    }
}

impl Client {
    pub(super) fn new(
        cluster: Arc<Mutex<Cluster>>,
        process: Process,
        spec: &ConsumerSpec,
        wake: Waker,
    ) -> Self {
        let partitions_before = {
            let cluster = cluster.lock();
            let partitions =
                |topic: &Arc<str>| cluster.topics.get(&**topic).map_or(0, |logs| logs.len() as u32);
            spec.topics.iter().map(partitions).collect()
        };
        Self {
            cluster,
            process,
            spec: spec.clone(),
            wake,
            lease: Lease::over(),
            member: None,
            held: Vec::new(),
            partitions_before,
            had: BTreeSet::new(),
            mail: Vec::new(),
            released: Vec::new(),
            generations: 0,
        }
    }

    fn lose_all(&mut self) {
        self.lease.end();
        self.mail.extend(self.held.drain(..).map(|held| Polled::Lost(held.id)));
        self.released.clear();
        self.member = None;
    }

    /// One heartbeat and its answer, at once. Whether the subscription has something new.
    pub(super) fn heartbeat(&mut self) -> bool {
        let shared = self.cluster.clone();
        let cluster = &mut *shared.lock();
        let now = cluster.clock.now();
        if cluster.cut.contains(&self.process) {
            return false;
        }
        let before = (self.mail.len(), self.lease.holds(now));
        let group = cluster.groups.entry(self.spec.group.to_string()).or_default();
        group.expire(now);
        if self.member.is_none_or(|member| !group.members.contains_key(&member)) {
            if self.member.is_some() {
                self.lose_all();
            }
            cluster.last_member += 1;
            self.member = Some(cluster.last_member);
        }
        let member = self.member.expect("just made");
        let seat = group
            .members
            .entry(member)
            .or_insert_with(|| Seat { topics: self.spec.topics.clone(), heard: now });
        seat.heard = now;
        self.lease.extend(now + SESSION);
        for released in self.released.drain(..) {
            if let Some(at) = self.held.iter().position(|held| held.id == released) {
                let held = self.held.remove(at);
                group.owners.remove(&(held.topic.to_string(), held.id.partition));
            }
        }
        for held in self.held.iter_mut().filter(|held| !held.is_revoking) {
            let log = &cluster.topics[&*held.topic][held.id.partition as usize];
            if log.id != held.log {
                let reason = "the topic was deleted and made anew".to_owned();
                held.begin_anew(log, reason, &mut self.generations, &mut self.mail);
            }
        }
        let target = group.target(&cluster.topics, member);
        for held in self.held.iter_mut().filter(|held| !held.is_revoking) {
            if !target.contains(&(held.topic.to_string(), held.id.partition)) {
                held.is_revoking = true;
                self.mail.push(Polled::Revoked(held.id));
            }
        }
        for (topic, partition) in target {
            let at = (topic, partition);
            if group.owners.contains_key(&at) {
                continue;
            }
            group.generation += 1;
            group.owners.insert(at.clone(), (member, group.generation));
            let fence = group.generation;
            let committed = group.committed.get(&at).cloned();
            let log = &cluster.topics[&at.0][partition as usize];
            self.assign(log, &at.0, partition, fence, committed.as_ref(), now);
        }
        before != (self.mail.len(), self.lease.holds(now))
    }

    fn assign(
        &mut self,
        log: &Log,
        topic: &str,
        partition: u32,
        fence: u64,
        committed: Option<&(u64, String)>,
        now: Instant,
    ) {
        let index = self.spec.topics.iter().position(|of| **of == *topic).expect("it asked for it");
        let place = (index as u32, partition);
        let is_later = self.had.contains(&place) || partition >= self.partitions_before[index];
        self.had.insert(place);
        let start = if is_later { Start::Earliest } else { self.spec.start };
        let committed = committed.map(|(offset, text)| (*offset, text.as_str()));
        let begun = begin(committed, log.id, (log.low, log.end()), start);
        self.generations += 1;
        let id = Partition { topic: place.0, partition, generation: self.generations };
        let next = begun.position.watermark;
        self.mail.push(Polled::Assigned(id, begun.position));
        self.mail.extend(begun.gone.map(|gone| Polled::Gone(id, gone)));
        let topic = self.spec.topics[index].clone();
        let (watch, is_paused, is_revoking) = (Watch::new(now), false, false);
        self.held.push(Held {
            id,
            topic,
            log: begun.log,
            fence,
            fetch: next,
            next,
            watch,
            is_paused,
            is_revoking,
        });
    }

    /// Partitions that were quiet for long, or whose log is not what it was.
    fn look_after(&mut self, cluster: &Cluster, now: Instant) {
        for held in self.held.iter_mut().filter(|held| !held.is_paused && !held.is_revoking) {
            if now < held.watch.ask_at() {
                continue;
            }
            let log = &cluster.topics[&*held.topic][held.id.partition as usize];
            match held.watch.answered(held.next, (log.low, log.readable()), now) {
                Finding::Stalled => held.fetch = held.next,
                Finding::Gone => {
                    self.mail.push(Polled::Gone(held.id, removed(held.next, log.low)));
                    (held.fetch, held.next) = (log.low, log.low);
                }
                Finding::Ended if log.end() < held.next => {
                    let reason = format!("the log ends at {} and {} was to come next", log.end(), held.next);
                    held.begin_anew(log, reason, &mut self.generations, &mut self.mail);
                }
                Finding::Nothing | Finding::Ended => {}
            }
        }
    }

    fn fetch(&mut self, cluster: &Cluster, budget: Budget, now: Instant, out: &mut Vec<Polled>) {
        let mut room = budget.records;
        for held in self.held.iter_mut().filter(|held| !held.is_paused && !held.is_revoking) {
            let Some(log) = cluster.topics[&*held.topic].get(held.id.partition as usize) else { continue };
            if held.fetch < log.low || held.fetch > log.end() {
                // Out of range: the client library resets to the first record.
                held.fetch = log.low;
            }
            while held.fetch < log.readable() && room > 0 {
                let offset = held.fetch;
                held.fetch += 1;
                if offset < held.next {
                    held.watch.is_suspect(now);
                    continue;
                }
                if offset > held.next && log.low > held.next {
                    self.mail.push(Polled::Gone(held.id, removed(held.next, log.low.min(offset))));
                }
                held.next = offset + 1;
                held.watch.is_alive(now);
                room -= 1;
                let record = FetchedRecord::Shared(log.records[(offset - log.low) as usize].clone());
                out.push(Polled::Record(Fetched {
                    partition: held.id,
                    offset,
                    record,
                    subject: None,
                    redeliveries: 0,
                }));
            }
        }
    }

    fn marks(&self, mark: impl Fn(&Cluster, &str, u32) -> u64) -> Result<Vec<Mark>, BrokerError> {
        let cluster = self.cluster.lock();
        if cluster.cut.contains(&self.process) {
            return Err(away());
        }
        let mut marks = Vec::new();
        for (topic, name) in (0..).zip(&self.spec.topics) {
            for partition in 0..cluster.topics[&**name].len() as u32 {
                marks.push(Mark { topic, partition, offset: mark(&cluster, name, partition) });
            }
        }
        Ok(marks)
    }
}

/// The client as its subscription has it.
pub(super) struct Member(pub(super) Arc<Mutex<Client>>);

impl Consumer for Member {
    fn poll(&mut self, budget: Budget, out: &mut Vec<Polled>) -> Result<(), BrokerError> {
        let client = &mut *self.0.lock();
        let shared = client.cluster.clone();
        let cluster = &mut *shared.lock();
        let now = cluster.clock.now();
        if !cluster.waiting.iter().any(|waiting| waiting.will_wake(&client.wake)) {
            cluster.waiting.push(client.wake.clone());
        }
        let is_cut = cluster.cut.contains(&client.process);
        if !is_cut {
            client.look_after(cluster, now);
        }
        out.append(&mut client.mail);
        if is_cut {
            return Err(away());
        }
        client.fetch(cluster, budget, now, out);
        out.append(&mut client.mail);
        Ok(())
    }

    fn has_joined(&self) -> bool {
        self.0.lock().member.is_some()
    }

    fn lease(&self) -> Lease {
        self.0.lock().lease.clone()
    }

    fn commit(
        &mut self,
        id: Partition,
        position: &Position,
        _: Durability,
    ) -> Result<Committed, BrokerError> {
        let client = &mut *self.0.lock();
        let cluster = &mut *client.cluster.lock();
        if cluster.cut.contains(&client.process) {
            return Err(away());
        }
        let topic = client.spec.topics[id.topic as usize].to_string();
        let held = client.held.iter().find(|held| held.id == id);
        let (fence, log) = (held.map(|held| held.fence), held.and_then(|held| held.log));
        let group = cluster.groups.entry(client.spec.group.to_string()).or_default();
        let at = (topic.clone(), id.partition);
        let owner = client.member.zip(fence);
        if owner.is_none() || group.owners.get(&at).copied() != owner {
            return Err(BrokerError::Fenced { topic, partition: id.partition });
        }
        let (text, committed) = position_text::encode(position, log, TEXT);
        group.committed.insert(at, (position.watermark, text));
        Ok(committed)
    }

    fn give_back(&mut self, _: Partition, _: u64, _: Duration) -> Result<(), BrokerError> {
        Err(BrokerError::Refused("a record can't be given back to Kafka".to_owned()))
    }

    fn next_due(&self) -> Option<Instant> {
        let client = self.0.lock();
        let watched = client.held.iter().filter(|held| !held.is_paused && !held.is_revoking);
        watched.map(|held| held.watch.ask_at()).min()
    }

    fn release(&mut self, partition: Partition) {
        self.0.lock().released.push(partition);
    }

    fn ends(&mut self) -> Op<Result<Vec<Mark>, BrokerError>> {
        let client = self.0.lock();
        Op::ready(
            client.marks(|cluster, topic, partition| cluster.topics[topic][partition as usize].readable()),
        )
    }

    fn reached(&mut self) -> Op<Result<Vec<Mark>, BrokerError>> {
        let client = self.0.lock();
        let group = client.spec.group.to_string();
        Op::ready(client.marks(|cluster, topic, partition| {
            let committed = cluster
                .groups
                .get(&group)
                .and_then(|group| group.committed.get(&(topic.to_owned(), partition)));
            committed.map_or(cluster.topics[topic][partition as usize].low, |(offset, _)| *offset)
        }))
    }

    fn set_paused(&mut self, partition: Partition, is_paused: bool) {
        let client = &mut *self.0.lock();
        let now = client.cluster.lock().clock.now();
        if let Some(held) = client.held.iter_mut().find(|held| held.id == partition) {
            held.is_paused = is_paused;
            held.watch.is_alive(now);
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // A process that is killed does not leave: its session runs out.
        if is_crashing() {
            return;
        }
        let client = self.0.lock();
        let cluster = &mut *client.cluster.lock();
        if let (Some(member), false) = (client.member, cluster.cut.contains(&client.process))
            && let Some(group) = cluster.groups.get_mut(&*client.spec.group)
        {
            group.members.remove(&member);
            group.owners.retain(|_, (owner, _)| *owner != member);
        }
    }
}
