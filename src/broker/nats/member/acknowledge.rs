//! What a member tells its server of the messages that it has.

use super::Member;
use crate::broker::BrokerError;
use crate::broker::nats::message::Delivery;
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
/// After which an answer is taken for lost.
const LOST: Duration = Duration::from_secs(2);
/// Tries, and how long each waits for its answer, before something else is done.
const CONFIRMING: (usize, Duration) = (5, Duration::from_millis(200));
/// After an answer that nobody takes acknowledgements, the next try.
const NOT_YET: Duration = Duration::from_millis(20);

impl Member {
    pub(super) fn progress_every(&self) -> Duration {
        self.setup.wanted.ack_wait / 3
    }

    pub(super) async fn acknowledge(&mut self, reply: Subject) {
        let number = self.acks.push(reply.clone());
        if self.is_up() {
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
        if self.is_up() {
            self.send_ack(newest, Some(number)).await;
        }
        self.barrier = Some((number, Instant::now()));
        self.timers.barrier = Some(Instant::now() + LOST);
    }

    pub(super) async fn confirm_some(&mut self) {
        if self.acks.len() >= CONFIRM.0 && self.barrier.is_none() && !self.setup.double_ack {
            self.send_barrier().await;
        }
    }

    pub(super) async fn barrier_is_due(&mut self) {
        if self.acks.len() == 0 || !self.is_up() {
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
            if self.acks.len() == 0 || !self.is_up() {
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
        if self.is_up() && self.pin.is_some() {
            for reply in self.replies.values() {
                let _ = self.setup.client.publish(reply.clone(), IN_WORK).await;
            }
        }
        self.timers.progress = Some(Instant::now() + self.progress_every());
    }

    pub(super) async fn give_back(&mut self, reply: Subject, delay: Duration) {
        let payload =
            if delay.is_zero() { NAK } else { format!(r#"-NAK {{"delay":{}}}"#, delay.as_nanos()).into() };
        let _ = self.setup.client.publish(reply, payload).await;
    }
}
