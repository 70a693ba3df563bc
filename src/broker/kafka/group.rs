//! What the client tells its thread inside a poll: partitions that come and go, answers to commits, errors.

use super::beginning::Begin;
use super::broker_health::Kind;
use super::client;
use super::commits::{Answer, TopicPartition};
use super::group_client::{GroupClient, GroupContext};
use super::handoff::Handoff;
use super::life::Life;
use super::properties::Properties;
use super::stall::Watch;
use crate::broker::{ConsumerSpec, Gone, Partition, Polled};
use crate::foreign;
use crate::sync::{Arc, Mutex};
use crate::wait::Parker;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// What the subscription needs beyond its drain timeout to let a partition go: to cancel, and to commit.
const GRACE: Duration = Duration::from_secs(6);
/// How often it is looked whether a partition that is being drained was lost meanwhile.
pub(super) const LOOK: Duration = Duration::from_millis(100);

pub(super) type Client = GroupClient<Group>;

/// A partition that the client fetches from.
pub(super) struct Assigned {
    pub(super) partition: Partition,
    /// What comes next has this offset or a higher one.
    pub(super) next: u64,
    pub(super) watch: Watch,
    /// The client was told to stop it.
    pub(super) is_stopped: bool,
}

/// What belongs to the client's thread, which is inside a poll when the callbacks need it.
#[derive(Default)]
pub(super) struct Own {
    pub(super) assigned: Vec<Assigned>,
    /// Where a partition is in `assigned`, per topic.
    index: Vec<Vec<Option<usize>>>,
    /// Errors that came by themselves.
    pub(super) heard: Vec<(Kind, String)>,
    /// The group gave partitions or took a commit.
    pub(super) has_worked: bool,
    /// Partitions came or went.
    pub(super) is_reassigned: bool,
    /// How many partitions each topic had when this member began; none where that is not known.
    pub(super) partitions_before: Vec<Option<u32>>,
    /// Partitions that this member has had before.
    had: BTreeSet<TopicPartition>,
    /// What logs were found to have no more, to be told.
    pub(super) gone: Vec<(Partition, Gone)>,
}

impl Own {
    pub(super) fn find(&mut self, topic: usize, partition: i32) -> Option<&mut Assigned> {
        let index = (*self.index.get(topic)?.get(usize::try_from(partition).ok()?)?)?;
        self.assigned.get_mut(index)
    }

    /// Whether a partition without a position is one that came while the group was there, so that its first record is the
    /// group's: it was added, or its topic was made anew.
    pub(super) fn is_later(&self, place: TopicPartition) -> bool {
        let before = self.partitions_before.get(place.0 as usize).copied().flatten();
        self.had.contains(&place) || before.is_some_and(|before| place.1 >= before)
    }

    fn changed(&mut self) {
        self.is_reassigned = true;
        self.index.clear();
        for (at, Assigned { partition, .. }) in self.assigned.iter().enumerate() {
            let (topic, number) = (partition.topic as usize, partition.partition as usize);
            if self.index.len() <= topic {
                self.index.resize_with(topic + 1, Vec::new);
            }
            if self.index[topic].len() <= number {
                self.index[topic].resize(number + 1, None);
            }
            self.index[topic][number] = Some(at);
        }
    }

    fn take(&mut self, places: &[TopicPartition]) -> Vec<Assigned> {
        let places: BTreeSet<_> = places.iter().collect();
        let of = |p: &Partition| (p.topic, p.partition);
        let taken = self.assigned.extract_if(.., |a| places.contains(&of(&a.partition))).collect();
        self.changed();
        taken
    }
}

/// The callbacks of one client.
pub(super) struct Group {
    pub(super) handoff: Arc<Handoff>,
    pub(super) parker: Arc<Parker>,
    pub(super) own: Mutex<Own>,
    /// Of the client.
    pub(super) properties: Properties,
    pub(super) life: Arc<Life>,
}

impl ClientContext for Group {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if let Some(kind) = error.rdkafka_error_code().and_then(client::kind_of) {
            self.own
                .lock()
                .heard
                .push((kind, if reason.is_empty() { error.to_string() } else { reason.to_owned() }));
        }
    }
}

impl GroupContext for Group {
    fn group(&self) -> &str {
        &self.spec().group
    }

    fn life(&self) -> &Arc<Life> {
        &self.life
    }

    fn came(&self, client: &Client, list: &TopicPartitionList) {
        self.assign(client, list);
    }

    fn go(&self, client: &Client, list: &TopicPartitionList) {
        self.revoke(client, list);
    }

    fn commit_answered(&self, result: &KafkaResult<()>, answers: Vec<(String, i32, KafkaResult<()>)>) {
        let partitions = self.own.lock().partitions();
        let mut state = self.handoff.state.lock();
        let all = answers.iter().map(|(.., answer)| answer).chain([result]);
        if all.filter_map(|answer| answer.as_ref().err()).any(is_out) {
            self.life.ended();
        }
        if !state.commits.is_expected() {
            return;
        }
        let answers: BTreeMap<TopicPartition, KafkaResult<()>> = answers
            .into_iter()
            .filter_map(|(topic, partition, answer)| Some((self.place(&topic, partition)?, answer)))
            .collect();
        let answer = |place| {
            let own = answers.get(&place).and_then(|answer| answer.as_ref().err());
            let failed = own.or(result.as_ref().err());
            failed.map_or(Answer::Committed, failed_commit)
        };
        let report = state.commits.answered(answer, Instant::now());
        let has_committed = report.has_committed;
        let told = state.committed(report, &partitions);
        drop(state);
        self.own.lock().has_worked |= has_committed;
        told.into_iter().for_each(|(waiter, result)| waiter.complete(result));
        self.handoff.wake_subscription();
    }
}

impl Own {
    fn partitions(&self) -> Vec<Partition> {
        self.assigned.iter().map(|assigned| assigned.partition).collect()
    }
}

/// What an error of a commit means.
fn failed_commit(error: &KafkaError) -> Answer {
    use RDKafkaErrorCode as E;
    match error.rdkafka_error_code() {
        Some(
            // The last: joined anew since it was sent. Outside of a rebalance the partitions are lost, which is told
            // by the group.
            E::RebalanceInProgress
            | E::StaleMemberEpoch
            | E::CoordinatorLoadInProgress
            | E::NotCoordinator
            | E::IllegalGeneration,
        ) => Answer::NotNow(error.to_string()),
        _ => Answer::Failed(error.to_string()),
    }
}

/// Whether the answer to a commit says that the member is none of the group's any more.
fn is_out(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as E;
    matches!(
        error.rdkafka_error_code(),
        Some(E::UnknownMemberId | E::FencedInstanceId | E::FencedMemberEpoch)
    )
}

impl Group {
    pub(super) fn new(handoff: Arc<Handoff>, parker: Arc<Parker>, properties: Properties) -> Self {
        let life = Arc::new(Life::new(handoff.clone(), properties.session()));
        Self { handoff, parker, own: Mutex::default(), properties, life }
    }

    pub(super) fn spec(&self) -> &ConsumerSpec {
        &self.handoff.spec
    }

    pub(super) fn place(&self, topic: &str, partition: i32) -> Option<TopicPartition> {
        let topic = self.spec().topics.iter().position(|name| **name == *topic)?;
        Some((topic as u32, u32::try_from(partition).ok()?))
    }

    fn places(&self, list: &TopicPartitionList) -> Vec<TopicPartition> {
        list.elements().iter().filter_map(|e| self.place(e.topic(), e.partition())).collect()
    }

    pub(super) fn is_closing(&self) -> bool {
        self.handoff.state.lock().is_closing
    }

    /// Partitions come: finds where each begins, and has the client fetch from there.
    fn assign(&self, client: &Client, list: &TopicPartitionList) {
        if list.count() > 0 && !client.assignment_lost() {
            self.life.assigned();
        }
        // Without positions nothing of it is taken in, which only happens when it is lost or the end is near.
        let positions: BTreeMap<_, _> =
            self.positions(client, list).unwrap_or_default().into_iter().collect();
        for mut element in list.elements() {
            let place = self.place(element.topic(), element.partition());
            if let Some(begin) = place.and_then(|place| positions.get(&place)) {
                let offset = Offset::Offset(begin.position.watermark.cast_signed());
                element.set_offset(offset).expect("an offset is not negative");
            }
        }
        if let Err(error) = client.assign(list) {
            self.own.lock().heard.push((Kind::Group, format!("partitions could not be taken: {error}")));
            return;
        }
        let (now, fence) = (Instant::now(), client.generation());
        let mut own = self.own.lock();
        let mut state = self.handoff.state.lock();
        for ((topic, partition), Begin { position, gone, .. }) in positions {
            state.generations += 1;
            let partition = Partition { topic, partition, generation: state.generations };
            let next = position.watermark;
            let place = (topic, partition.partition);
            state.fences.remove(&place);
            state.fences.extend(fence.map(|fence| (place, fence)));
            state.mailbox.assign(partition, position);
            if let Some(gone) = gone {
                state.mailbox.push_event(Polled::Gone(partition, gone));
            }
            own.had.insert(place);
            own.assigned.push(Assigned { partition, next, watch: Watch::new(now), is_stopped: false });
        }
        own.changed();
        own.has_worked = true;
        state.has_joined = true;
        drop((state, own));
        self.handoff.wake_subscription();
    }

    /// Partitions go: has the subscription finish what started and commit, while heartbeats go on without this thread.
    fn revoke(&self, client: &Client, list: &TopicPartitionList) {
        let places = self.places(list);
        let mut going = self.own.lock().take(&places);
        if self.is_closing() {
            // Nobody is left who could release them, or all were released.
        } else if client.assignment_lost() {
            self.lose(&going);
        } else {
            self.life.set_owing(true);
            self.drain(client, &going);
            self.life.set_owing(false);
        }
        let unheard = {
            let mut state = self.handoff.state.lock();
            for gone in &going {
                state.mailbox.release(gone.partition);
            }
            places.iter().flat_map(|place| state.commits.forget(*place)).collect::<Vec<_>>()
        };
        for waiter in unheard {
            waiter.complete(Err("the partition has gone to another member".to_owned()));
        }
        // A later assignment of the same partition begins without a stop.
        going.retain(|gone| gone.is_stopped);
        let _ = client.resume(&self.list(going.iter().map(|gone| gone.partition)));
        if let Err(error) = client.unassign(list) {
            foreign::warn!(%error, group = &*self.spec().group, "partitions could not be given up");
        }
    }

    fn lose(&self, going: &[Assigned]) {
        {
            let mut state = self.handoff.state.lock();
            self.life.ended();
            going.iter().for_each(|gone| state.mailbox.lose(gone.partition));
        }
        self.handoff.wake_subscription();
    }

    fn drain(&self, client: &Client, going: &[Assigned]) {
        let until = Instant::now() + self.spec().drain_timeout + GRACE;
        let mut held: Vec<Partition> = Vec::new();
        {
            let mut state = self.handoff.state.lock();
            held.extend(going.iter().map(|gone| gone.partition).filter(|p| state.mailbox.revoke(*p)));
            // Its answer would come by a poll, and this is inside one.
            state.commits.overtake();
        }
        self.handoff.wake_subscription();
        let partitions = {
            let own = self.own.lock();
            [own.partitions(), going.iter().map(|gone| gone.partition).collect()].concat()
        };
        let uncommitted = loop {
            self.commit_now(client, &partitions);
            let (uncommitted, due) = {
                let state = self.handoff.state.lock();
                held.retain(|partition| state.mailbox.holds(*partition));
                if state.is_closing {
                    drop(state);
                    // What was accepted in the last moment.
                    return self.commit_now(client, &partitions);
                }
                // Released with a position that was taken for committed, and is on its way.
                let is_wanted =
                    |gone: &&Assigned| state.commits.wants((gone.partition.topic, gone.partition.partition));
                (going.iter().filter(is_wanted).count(), state.commits.due(Instant::now()))
            };
            let now = Instant::now();
            if held.is_empty() && uncommitted == 0 {
                return;
            }
            if client.assignment_lost() || now >= until {
                break uncommitted;
            }
            let next = due.map_or(now + LOOK, |due| due.min(now + LOOK));
            self.parker.park_until(Some(until.min(next)));
        };
        foreign::warn!(
            group = &*self.spec().group,
            partitions = held.len(),
            uncommitted,
            "partitions had to be given up before what runs had ended, or before their positions were committed; it \
             comes again to their next owners"
        );
        {
            let mut state = self.handoff.state.lock();
            if client.assignment_lost() {
                self.life.ended();
            }
            held.iter().for_each(|partition| state.mailbox.lose(*partition));
        }
        self.handoff.wake_subscription();
    }

    /// Tells the subscription of commits that have had no answer for long. Whether there are any.
    pub(super) fn tell_overdue(&self, now: Instant) -> bool {
        let partitions = self.own.lock().partitions();
        let mut state = self.handoff.state.lock();
        let overdue = state.commits.overdue(now);
        let is_any = !overdue.is_empty();
        state.failed(overdue, &partitions);
        is_any
    }

    /// Commits what is wanted and waits for the answer.
    fn commit_now(&self, client: &Client, partitions: &[Partition]) {
        let Some(list) = self.next_commit() else { return };
        let answer = match client.commit(&list) {
            Ok(()) => Answer::Committed,
            Err(error) => {
                if is_out(&error) {
                    self.life.ended();
                }
                failed_commit(&error)
            }
        };
        let told = {
            let mut state = self.handoff.state.lock();
            let report = state.commits.answered(|_| answer.clone(), Instant::now());
            state.committed(report, partitions)
        };
        told.into_iter().for_each(|(waiter, result)| waiter.complete(result));
        self.handoff.wake_subscription();
    }

    /// Commits what is wanted; the answer comes by a poll.
    pub(super) fn commit_later(&self, client: &Client) {
        let Some(list) = self.next_commit() else { return };
        let Err(error) = client.begin_commit(&list) else { return };
        let partitions = self.own.lock().partitions();
        let answer = failed_commit(&error);
        let told = {
            let mut state = self.handoff.state.lock();
            let report = state.commits.answered(|_| answer.clone(), Instant::now());
            state.committed(report, &partitions)
        };
        told.into_iter().for_each(|(waiter, result)| waiter.complete(result));
        self.handoff.wake_subscription();
    }

    fn next_commit(&self) -> Option<TopicPartitionList> {
        let mut state = self.handoff.state.lock();
        let commits = state.commits.begin(Instant::now())?;
        let mut list = TopicPartitionList::with_capacity(commits.len());
        for ((topic, partition), commit) in commits {
            let mut element =
                list.add_partition(&self.spec().topics[*topic as usize], partition.cast_signed());
            element
                .set_offset(Offset::Offset(commit.offset.cast_signed()))
                .expect("an offset is not negative");
            if !commit.metadata.is_empty() {
                element.set_metadata(&commit.metadata);
            }
        }
        Some(list)
    }

    /// The client's list of these partitions.
    pub(super) fn list(&self, partitions: impl Iterator<Item = Partition>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(
                &self.spec().topics[partition.topic as usize],
                partition.partition.cast_signed(),
            );
        }
        list
    }
}
