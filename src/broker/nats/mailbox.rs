//! What the members of a subscription, one for each topic, have for its intake.

use super::message::Delivery;
use crate::broker::{Gone, Partition, Polled, Position, Still, Stuck};
use crate::sync::Mutex;
use std::collections::VecDeque;
use std::task::Waker;

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
    /// In their order, before any record that is there.
    pub(super) events: Vec<Polled>,
}

/// What is there of one topic.
#[derive(Default)]
pub(super) struct Topic {
    pub(super) records: VecDeque<Incoming>,
    /// As it was told to the intake last, and while it has it.
    pub(super) assigned: Option<Partition>,
    pub(super) is_paused: bool,
    pub(super) problem: Option<String>,
}

impl Mailbox {
    pub(super) fn new(topics: usize, wake: Waker) -> Self {
        let topics = (0..topics).map(|_| Topic::default()).collect();
        Self { state: Mutex::new(MailboxState { topics, events: Vec::new() }), wake }
    }

    pub(super) fn with<R>(&self, f: impl FnOnce(&mut MailboxState) -> R) -> R {
        f(&mut self.state.lock())
    }

    pub(super) fn put(&self, topic: u32, records: impl IntoIterator<Item = Incoming>) {
        self.with(|state| state.topics[topic as usize].records.extend(records));
        self.wake.wake_by_ref();
    }

    pub(super) fn assign(&self, partition: Partition, position: Position) {
        self.with(|state| {
            let topic = &mut state.topics[partition.topic as usize];
            topic.assigned = Some(partition);
            topic.is_paused = false;
            state.events.push(Polled::Assigned(partition, position));
        });
        self.wake.wake_by_ref();
    }

    /// What was there of it is gone with it.
    pub(super) fn lose(&self, topic: u32) {
        self.with(|state| {
            let topic = &mut state.topics[topic as usize];
            topic.records.clear();
            if let Some(partition) = topic.assigned.take() {
                state.events.push(Polled::Lost(partition));
            }
        });
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
