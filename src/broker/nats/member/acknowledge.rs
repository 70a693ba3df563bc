//! What a member tells its server of the messages that it has.

use super::Member;
use crate::broker::BrokerError;
use crate::broker::nats::api;
use crate::broker::nats::message::Delivery;
use crate::foreign;
use crate::wait::Promise;
use async_nats::{Message, Subject};
use bytes::Bytes;
use futures_util::StreamExt;
use std::time::Duration;
use tokio::time::Instant;

const ACK: Bytes = Bytes::from_static(b"+ACK");
const IN_WORK: Bytes = Bytes::from_static(b"+WPI");
const NAK: Bytes = Bytes::from_static(b"-NAK");
/// Acknowledgements after which an answer is asked for, and how long the last ones wait for that.
const CONFIRM: (usize, Duration) = (256, Duration::from_millis(500));
/// How often it is looked at which acknowledgements the server has: while that moves, and while it does not.
const FLOOR: Duration = Duration::from_secs(1);
const FLOOR_HELD: Duration = Duration::from_secs(5);
/// With so many it is looked sooner.
const MANY: usize = 8_192;
/// After which an answer is taken for lost.
const LOST: Duration = Duration::from_secs(2);
/// Tries, and how long each waits for its answer, before something else is done.
const CONFIRMING: (usize, Duration) = (5, Duration::from_millis(200));
/// How long the answer to what is given back is waited for.
const GIVEN_BACK: Duration = Duration::from_millis(300);
/// After an answer that nobody takes acknowledgements, the next try.
const NOT_YET: Duration = Duration::from_millis(20);

impl Member {
    pub(super) fn progress_every(&self) -> Duration {
        self.setup.wanted.ack_wait / 3
    }

    /// What may not be sent just now is sent when the consumer is looked at.
    pub(super) async fn acknowledge(&mut self, sequence: u64, reply: Subject, may_act: bool) {
        let number = self.acks.push(reply.clone());
        self.believed.push(sequence, reply.clone());
        self.timers.floor.get_or_insert_with(|| Instant::now() + FLOOR);
        if may_act {
            self.send_ack(reply, self.setup.double_ack.then_some(number)).await;
        }
        self.timers.barrier.get_or_insert_with(|| Instant::now() + CONFIRM.1);
    }

    /// With a number the server answers.
    async fn send_ack(&mut self, reply: Subject, number: Option<u64>) {
        // What is lost is sent again over the next connection.
        let _ = match number {
            Some(number) => {
                self.setup.client.publish_with_reply(reply, format!("{}.{number}", self.ack_inbox), ACK).await
            }
            None => self.setup.client.publish(reply, ACK).await,
        };
    }

    /// Asks for an answer that confirms all that was sent so far.
    async fn send_barrier(&mut self) {
        let Some(newest) = self.acks.newest().cloned() else { return };
        let number = self.acks.last();
        if self.may_act() {
            self.send_ack(newest, Some(number)).await;
        }
        self.barrier = Some((number, Instant::now()));
        self.timers.barrier = Some(Instant::now() + LOST);
    }

    pub(super) async fn confirm_some(&mut self) {
        if self.believed.len() >= MANY {
            let soon = Instant::now() + FLOOR / 10;
            self.timers.floor = Some(self.timers.floor.map_or(soon, |at| at.min(soon)));
        }
        if self.acks.len() >= CONFIRM.0 && self.barrier.is_none() && !self.setup.double_ack {
            self.send_barrier().await;
        }
    }

    pub(super) async fn barrier_is_due(&mut self) {
        if self.acks.len() == 0 || !self.may_act() {
            // Sent when the consumer is looked at, as it is when there is a connection and the lease holds again.
            return;
        }
        let is_lost = self.setup.double_ack || self.barrier.is_some_and(|(_, sent)| sent.elapsed() >= LOST);
        if is_lost {
            self.resend().await;
        } else if self.barrier.is_none() {
            self.send_barrier().await;
        }
        self.timers.barrier.get_or_insert(Instant::now() + LOST);
    }

    /// Looks whether the server has all that it has answered for, and sends again what it has not.
    pub(super) async fn look_at_floor(&mut self) {
        if self.believed.len() == 0 {
            return;
        }
        let mut next = FLOOR_HELD;
        if self.may_act() {
            // What is acknowledged from here on makes the floor only higher.
            let unconfirmed = self.acks.unconfirmed().filter_map(|reply| Delivery::of(reply));
            let pending = unconfirmed.map(|delivery| delivery.sequence).chain(self.replies.keys().copied());
            let pending = pending.min().unwrap_or(u64::MAX);
            let (stream, consumer) = (&self.setup.stream.name, &self.setup.wanted.name);
            if let Ok(info) = api::consumer_info(&self.setup.jetstream, stream, consumer).await {
                let before = self.believed.len();
                let missing = self.believed.missing(info.ack_floor.stream_sequence, pending);
                if !missing.is_empty() {
                    foreign::info!(
                        topic = &*self.setup.topic.1,
                        consumer,
                        records = missing.len(),
                        "the server's floor is below acknowledgements that it answered for, as after a change of the \
                         consumer's leader; they are sent again"
                    );
                }
                if !missing.is_empty() || self.believed.len() < before {
                    next = FLOOR;
                }
                for reply in missing {
                    self.send_ack(reply, None).await;
                }
            }
        }
        // Behind a key that is held nothing moves for as long as that takes.
        self.timers.floor = (self.believed.len() > 0).then(|| Instant::now() + next);
    }

    /// Sends all again that the server is not known to have.
    async fn resend(&mut self) {
        let unconfirmed: Vec<Subject> = self.acks.unconfirmed().cloned().collect();
        for reply in unconfirmed {
            self.send_ack(reply, None).await;
        }
        self.send_barrier().await;
    }

    pub(super) async fn confirm_all(&mut self, promise: Promise<Result<(), BrokerError>>) {
        let last = self.acks.last();
        if self.acks.is_confirmed(last) {
            return promise.complete(Ok(()));
        }
        if !self.is_up() {
            let problem = self.setup.link.borrow().problem.clone();
            return promise.complete(Err(BrokerError::Transient(problem)));
        }
        if !self.may_act() {
            let problem =
                "the lease on the topic is over: what is settled is acknowledged when it holds again";
            return promise.complete(Err(BrokerError::Transient(problem.to_owned())));
        }
        self.confirms.push((last, promise));
        if !self.setup.double_ack {
            self.send_barrier().await;
        }
    }

    pub(super) fn acked(&mut self, message: &Message) {
        let Some(number) = message.subject.rsplit('.').next().and_then(|token| token.parse().ok()) else {
            return;
        };
        if message.status.is_some() {
            // Nobody takes acknowledgements just now: it is sent again.
            return;
        }
        self.acks.confirm(number);
        if self.barrier.is_some_and(|(barrier, _)| self.acks.is_confirmed(barrier)) {
            self.barrier = None;
        }
        if self.acks.len() == 0 {
            self.timers.barrier = None;
        } else if self.barrier.is_none() {
            self.timers.barrier = Some(Instant::now() + CONFIRM.1);
        }
        let acks = &self.acks;
        for (_, promise) in self.confirms.extract_if(.., |(number, _)| acks.is_confirmed(*number)) {
            promise.complete(Ok(()));
        }
    }

    /// Sends again what is not confirmed, and waits until it is. Not for long: acknowledgements of deliveries that the
    /// server has forgotten are never answered.
    pub(super) async fn confirm_before(&mut self) -> bool {
        for _ in 0..CONFIRMING.0 {
            if self.acks.len() == 0 || !self.may_act() {
                break;
            }
            self.resend().await;
            let until = Instant::now() + CONFIRMING.1;
            let mut has_answered = false;
            while self.acks.len() > 0
                && let Ok(Some(message)) = tokio::time::timeout_at(until, self.acked.next()).await
            {
                if message.status.is_some() {
                    has_answered = true;
                    // A server that has just started does not take acknowledgements yet.
                    tokio::time::sleep(NOT_YET).await;
                    break;
                }
                self.acked(&message);
                has_answered = true;
            }
            if !has_answered {
                break;
            }
        }
        self.acks.len() == 0
    }

    /// The server has forgotten all deliveries behind this number. What was acknowledged of them comes again, and is
    /// acknowledged again then; until it does, nobody would answer.
    pub(super) fn forget_deliveries(&mut self, last: u64) {
        self.forget_acks(&Ok(()));
        self.believed.clear();
        self.replies.retain(|_, reply| Delivery::of(reply).is_some_and(|delivery| delivery.number <= last));
    }

    pub(super) fn forget_acks(&mut self, result: &Result<(), BrokerError>) {
        self.acks.confirm(self.acks.last());
        self.barrier = None;
        self.timers.barrier = None;
        for (_, promise) in self.confirms.drain(..) {
            promise.complete(result.clone());
        }
    }

    /// Says of all that is in hand, or waits for the gate to open, that it is in work.
    pub(super) async fn tell_progress(&mut self) {
        if self.replies.is_empty() {
            return;
        }
        if self.may_act() {
            for reply in self.replies.values() {
                let _ = self.setup.client.publish(reply.clone(), IN_WORK).await;
            }
        }
        self.timers.progress = Some(Instant::now() + self.progress_every());
    }

    pub(super) async fn give_back(&mut self, reply: Subject, delay: Duration) {
        let payload =
            if delay.is_zero() { NAK } else { format!(r#"-NAK {{"delay":{}}}"#, delay.as_nanos()).into() };
        // What is not sent comes again when its `ack_wait` is over.
        if self.may_act() {
            let _ = self.setup.client.publish(reply, payload).await;
        }
    }

    /// Gives back all of these at once, and waits until the server has it.
    pub(super) async fn give_back_all(&mut self, left: Vec<Subject>) {
        let Some((last, others)) = left.split_last() else { return };
        for reply in others {
            self.give_back(reply.clone(), Duration::ZERO).await;
        }
        if self.may_act() {
            // The server handles those of one connection in their order, so that one answer is enough.
            let request = async_nats::client::Request::new().payload(NAK).timeout(Some(GIVEN_BACK));
            let _ = self.setup.client.send_request(last.clone(), request).await;
        }
    }
}
