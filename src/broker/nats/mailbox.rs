//! What the members of a subscription, one for each topic, have for its intake.

use super::message::Delivery;
use crate::broker::{Gone, Partition, Polled, Position, Still, Stuck};
use crate::delivery::Lease;
use crate::sync::Mutex;
use std::collections::VecDeque;
use std::task::Waker;
use std::time::{Duration, Instant};

/// A message that may be handed out.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) message: async_nats::Message,
    pub(super) delivery: Delivery,
}

impl Incoming {
    pub(super) fn bytes(&self) -> usize {
        self.message.length
    }
}

/// Between the members, which put something in, and the intake, which takes it out.
pub(super) struct Mailbox {
    state: Mutex<MailboxState>,
    wake: Waker,
}

pub(super) struct MailboxState {
    pub(super) topics: Vec<Topic>,
    /// Of all topics together: it ends with the first of theirs.
    lease: Lease,
    /// In their order, before any record that is there.
    pub(super) events: Vec<Polled>,
}

/// What is there of one topic.
#[derive(Default)]
pub(super) struct Topic {
    pub(super) records: VecDeque<Incoming>,
    /// As it was told to the intake last, and while it has it.
    pub(super) assigned: Option<Partition>,
    /// By which fence it was assigned last.
    pub(super) fence: u64,
    pub(super) is_paused: bool,
    pub(super) problem: Option<String>,
    /// By which fence it is this member's, and until when; none: it is not.
    vouched: Option<(u64, Instant)>,
}

impl MailboxState {
    fn lose(&mut self, topic: u32) {
        let topic = &mut self.topics[topic as usize];
        topic.records.clear();
        if let Some(partition) = topic.assigned.take() {
            self.events.push(Polled::Lost(partition));
        }
    }

    /// The lease of all ends with the first of those that are vouched for.
    fn renew(&self) {
        let Some(until) = self.topics.iter().filter_map(|topic| Some(topic.vouched?.1)).min() else { return };
        // A topic that has come to the others may have a shorter one. Rare: it was just taken.
        if self.lease.ends_at().is_some_and(|ends| until < ends) {
            self.lease.end();
        }
        self.lease.extend(until);
    }
}

impl Mailbox {
    pub(super) fn new(topics: usize, wake: Waker) -> Self {
        let topics = (0..topics).map(|_| Topic::default()).collect();
        let state = MailboxState { topics, lease: Lease::over(), events: Vec::new() };
        Self { state: Mutex::new(state), wake }
    }

    pub(super) fn lease(&self) -> Lease {
        self.with(|state| state.lease.clone())
    }

    /// The topic is this member's until then.
    pub(super) fn vouch(&self, topic: u32, fence: u64, until: Instant) {
        let held = self.with(|state| {
            let held = state.lease.holds(Instant::now());
            state.topics[topic as usize].vouched = Some((fence, until));
            state.renew();
            held
        });
        // What waits in the pool is started by the intake.
        if !held {
            self.wake.wake_by_ref();
        }
    }

    /// How long the topic is this member's still, by this fence.
    pub(super) fn vouched_for(&self, topic: u32, fence: u64) -> Duration {
        let now = Instant::now();
        let vouched = self.with(|state| state.topics[topic as usize].vouched);
        let until = vouched.filter(|(vouched, _)| *vouched == fence).map(|(_, until)| until);
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }

    /// The topic is another's: nothing starts until the intake knows. What was there of it is gone with it.
    pub(super) fn lost(&self, topic: u32) {
        self.with(|state| {
            state.lease.end();
            state.topics[topic as usize].vouched = None;
            state.lose(topic);
            state.renew();
        });
        self.wake.wake_by_ref();
    }

    /// The topic is let go, and the intake has nothing of it any more.
    pub(super) fn left(&self, topic: u32) {
        self.with(|state| {
            state.topics[topic as usize].vouched = None;
            if state.topics.iter().all(|topic| topic.vouched.is_none()) {
                state.lease.end();
            }
            state.renew();
        });
    }

    pub(super) fn with<R>(&self, f: impl FnOnce(&mut MailboxState) -> R) -> R {
        f(&mut self.state.lock())
    }

    pub(super) fn put(&self, topic: u32, records: impl IntoIterator<Item = Incoming>) {
        self.with(|state| state.topics[topic as usize].records.extend(records));
        self.wake.wake_by_ref();
    }

    /// By this fence, unless that was lost in this moment and its member has not heard of it yet.
    pub(super) fn assign(&self, partition: Partition, fence: u64, position: Position) {
        self.with(|state| {
            let topic = &mut state.topics[partition.topic as usize];
            if topic.vouched.is_none_or(|(vouched, _)| vouched != fence) {
                return;
            }
            topic.records.clear();
            (topic.assigned, topic.fence) = (Some(partition), fence);
            topic.is_paused = false;
            state.events.push(Polled::Assigned(partition, position));
        });
        self.wake.wake_by_ref();
    }

    /// What was there of it is gone with it.
    pub(super) fn lose(&self, topic: u32) {
        self.with(|state| state.lose(topic));
        self.wake.wake_by_ref();
    }

    /// The log is not the one that it was.
    pub(super) fn gone(&self, partition: Partition, gone: Gone) {
        self.with(|state| state.events.push(Polled::Gone(partition, gone)));
        self.wake.wake_by_ref();
    }

    /// It brings nothing though it should; none: it goes on again.
    pub(super) fn stuck(&self, still: Still, stuck: Option<Stuck>) {
        self.with(|state| state.events.push(Polled::Stuck(still, stuck)));
        self.wake.wake_by_ref();
    }

    /// What keeps the member from its work; none: nothing any more.
    pub(super) fn set_problem(&self, topic: u32, problem: Option<String>) {
        self.with(|state| state.topics[topic as usize].problem = problem);
        self.wake.wake_by_ref();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn assigned(mailbox: &Mailbox) -> Vec<bool> {
        mailbox.with(|state| state.topics.iter().map(|topic| topic.assigned.is_some()).collect())
    }

    #[test]
    fn one_lease_ends_with_the_first_of_all_topics_that_are_owned() {
        let mailbox = Mailbox::new(2, Waker::noop().clone());
        let (lease, now) = (mailbox.lease(), Instant::now());
        mailbox.vouch(0, 7, now + 9 * SECOND);
        assert!(lease.holds(now + 8 * SECOND), "the other topic is not owned");
        mailbox.vouch(1, 3, now + 5 * SECOND);
        lease.heard(lease.ends());
        assert!(lease.holds(now + 4 * SECOND) && !lease.holds(now + 6 * SECOND));
        // Lost, and nobody has heard of it: what is here of it may start under no lease.
        mailbox.lost(1);
        mailbox.vouch(0, 7, now + 20 * SECOND);
        assert!(!lease.holds(now));
        lease.heard(lease.ends());
        assert!(lease.holds(now + 19 * SECOND));
        mailbox.left(0);
        assert!(!lease.holds(now));
    }

    #[test]
    fn a_topic_that_was_lost_is_not_assigned_by_the_fence_of_before() {
        let mailbox = Mailbox::new(1, Waker::noop().clone());
        let until = Instant::now() + 9 * SECOND;
        let assign = |fence, generation| {
            let partition = Partition { topic: 0, partition: 0, generation };
            mailbox.assign(partition, fence, Position { watermark: 1, ahead: Vec::new() });
        };
        assign(7, 1);
        assert_eq!(assigned(&mailbox), [false], "it is not this one's");
        mailbox.vouch(0, 7, until);
        assign(7, 2);
        assert_eq!(assigned(&mailbox), [true]);
        mailbox.lost(0);
        mailbox.vouch(0, 9, until);
        assign(7, 3);
        assert_eq!(assigned(&mailbox), [false], "its member has not heard that it is another tenure");
        assert!(mailbox.vouched_for(0, 7).is_zero() && !mailbox.vouched_for(0, 9).is_zero());
        let told = mailbox.with(|state| state.events.len());
        assert_eq!(told, 2, "assigned, and lost");
    }
}
