//! Publishes with acknowledgement: what is under way, and what each answer means.

use super::api::{Context, ErrorCode};
use super::denied::Denial;
use super::link::Link;
use super::message;
use super::names::{self, Token};
use super::streams::Streams;
use crate::broker::{BrokerError, PublishFault, Stored, Ticket};
use crate::chance;
use crate::record::Record;
use crate::sync::Arc;
use async_nats::{Client, Message, PublishErrorKind, StatusCode, Subscriber};
use futures_util::StreamExt;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// A publish as the bus asks for it.
pub(super) struct Request {
    pub(super) topic: Arc<str>,
    pub(super) record: Arc<Record>,
    pub(super) ticket: Box<dyn Ticket>,
}

/// Requests taken at a time, so that answers are not kept waiting for long.
const TAKEN: usize = 64;

/// The task that publishes.
pub(super) struct Publishing {
    pub(super) client: Client,
    pub(super) jetstream: Context,
    pub(super) streams: Arc<Streams>,
    pub(super) link: watch::Receiver<Link>,
    /// How long an answer may take.
    pub(super) limit: Duration,
    /// Told apart from every other publisher there ever was.
    pub(super) instance: String,
    /// Sent and not answered, by number.
    sent: BTreeMap<u64, Request>,
    /// Not sent, because there is no connection.
    waiting: VecDeque<Request>,
    /// When answers are due, in the order of sending.
    due: VecDeque<(Instant, u64)>,
    last: u64,
    known: HashMap<Arc<str>, Known>,
}

/// A topic whose stream was found.
struct Known {
    prefix: String,
    stream: String,
}

/// What a server says of a publish.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    seq: u64,
    error: Option<Refusal>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Refusal {
    code: u64,
    err_code: u64,
    description: String,
}

impl Publishing {
    pub(super) fn new(
        client: Client,
        jetstream: Context,
        streams: Arc<Streams>,
        link: watch::Receiver<Link>,
        limit: Duration,
    ) -> Self {
        Self {
            client,
            jetstream,
            streams,
            link,
            limit,
            instance: chance::event_id().simple().to_string(),
            sent: BTreeMap::new(),
            waiting: VecDeque::new(),
            due: VecDeque::new(),
            last: 0,
            known: HashMap::new(),
        }
    }

    /// Publishes until nobody can ask for more.
    pub(super) async fn run(mut self, mut requests: mpsc::UnboundedReceiver<Request>) {
        let inbox = self.client.new_inbox();
        let Ok(mut answers) = self.client.subscribe(format!("{inbox}.*")).await else { return };
        let mut denials = self.jetstream.denied().listen();
        let mut taken = Vec::with_capacity(TAKEN);
        loop {
            let due = self.due.front().map(|(due, _)| *due);
            tokio::select! {
                n = requests.recv_many(&mut taken, TAKEN) => {
                    if n == 0 {
                        return;
                    }
                    for request in taken.drain(..) {
                        self.send(request, &inbox).await;
                    }
                }
                answer = answers.next() => {
                    let Some(answer) = answer else { return };
                    self.answered(&answer);
                    self.take_answers(&mut answers);
                }
                changed = self.link.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.link_changed(&inbox).await;
                }
                // Those that are missed are found by their limit.
                Ok(denial) = denials.recv() => self.denied(&denial),
                () = sleep_until(due) => self.expire(),
            }
        }
    }

    fn take_answers(&mut self, answers: &mut Subscriber) {
        for _ in 0..TAKEN {
            match futures_util::FutureExt::now_or_never(answers.next()) {
                Some(Some(answer)) => self.answered(&answer),
                Some(None) | None => return,
            }
        }
    }

    /// Sends a record, or keeps it until there is a connection: otherwise it would wait in the client,
    /// where nobody can give it up.
    async fn send(&mut self, request: Request, inbox: &str) {
        if !self.link.borrow().is_up {
            return self.waiting.push_back(request);
        }
        let Request { topic, record, ticket } = request;
        let sent = match self.find(&topic).await {
            Ok(()) => self.try_send(&topic, &record, ticket.id(), inbox).await,
            Err(fault) => Err(fault),
        };
        match sent {
            Ok(number) => {
                self.sent.insert(number, Request { topic, record, ticket });
                self.due.push_back((Instant::now() + self.limit, number));
            }
            Err(fault) => ticket.answer(Err(fault)),
        }
    }

    /// Sees that the topic has its stream, once: a server that finds none for a subject says only that nobody answers.
    async fn find(&mut self, topic: &Arc<str>) -> Result<(), PublishFault> {
        if self.known.contains_key(topic) {
            return Ok(());
        }
        match self.streams.require(&self.jetstream, topic).await {
            Ok(stream) => {
                let known = Known { prefix: names::subject_prefix(topic), stream: stream.config.name };
                self.known.insert(topic.clone(), known);
                Ok(())
            }
            Err(error @ BrokerError::NoSuchTopic { .. }) => {
                let stream = self.streams.stream_of(topic);
                Err(PublishFault::Permanent(format!("{error} (it would be in the stream `{stream}`)")))
            }
            Err(BrokerError::Refused(reason)) => Err(PublishFault::Permanent(reason)),
            Err(error) => Err(PublishFault::Transient(error.to_string())),
        }
    }

    async fn try_send(
        &mut self,
        topic: &Arc<str>,
        record: &Record,
        ticket: u64,
        inbox: &str,
    ) -> Result<u64, PublishFault> {
        let token = names::token(record.key.as_deref());
        // Of this publish, not of its event: the server knows by it what is sent again because its answer was lost, and
        // an event that somebody publishes again is stored again.
        let id = format!("{}-{ticket}", self.instance);
        let headers =
            message::headers_of(record, &id, matches!(token, Token::Hashed(_))).map_err(|name| {
                PublishFault::Permanent(format!("no header of NATS can be called `{}`", name.escape_debug()))
            })?;
        let subject = format!("{}.{}", self.known[topic].prefix, token.as_str());
        self.last += 1;
        let reply = format!("{inbox}.{}", self.last);
        let sent =
            self.client.publish_with_reply_and_headers(subject, reply, headers, record.value.clone()).await;
        match sent {
            Ok(()) => Ok(self.last),
            Err(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => {
                Err(PublishFault::Permanent(format!(
                    "with its headers it is larger than the {} bytes that the server takes (`max_payload`)",
                    self.client.max_payload()
                )))
            }
            Err(error) if error.kind() == PublishErrorKind::InvalidSubject => {
                Err(PublishFault::Permanent(error.to_string()))
            }
            Err(error) => Err(PublishFault::Transient(error.to_string())),
        }
    }

    fn answered(&mut self, message: &Message) {
        let number = message.subject.as_str().rsplit('.').next().and_then(|token| token.parse().ok());
        // Of one that was given up a moment ago.
        let Some(Request { topic, ticket, .. }) = number.and_then(|number: u64| self.sent.remove(&number))
        else {
            return;
        };
        while self.due.front().is_some_and(|(_, number)| !self.sent.contains_key(number)) {
            self.due.pop_front();
        }
        let result = if message.status == Some(StatusCode::NO_RESPONDERS) {
            // The stream is gone, or JetStream is: the next try asks.
            let stream = self.known.remove(&topic).map_or_else(String::new, |known| known.stream);
            Err(PublishFault::Transient(format!(
                "nobody takes records of topic `{topic}`: its stream `{stream}` is gone or has no leader just now"
            )))
        } else {
            match serde_json::from_slice::<Answer>(&message.payload) {
                Ok(Answer { error: Some(refusal), .. }) => Err(fault_of(&refusal)),
                Ok(Answer { seq, error: None }) if seq > 0 => Ok(Stored { partition: 0, offset: seq }),
                Ok(_) | Err(_) => Err(PublishFault::Transient("the answer to a publish was none".to_owned())),
            }
        };
        ticket.answer(result);
    }

    /// A server answers nothing that it does not permit.
    fn denied(&mut self, denial: &Denial) {
        let Some(subject) = denial.published_to() else { return };
        let sent = self
            .sent
            .iter()
            .filter(|(_, request)| self.subject_of(&request.topic, &request.record) == subject);
        let sent: Vec<u64> = sent.map(|(number, _)| *number).collect();
        for number in sent {
            let Some(Request { ticket, .. }) = self.sent.remove(&number) else { continue };
            ticket.answer(Err(PublishFault::Permanent(denial.to_string())));
        }
    }

    /// Of a topic that is known.
    fn subject_of(&self, topic: &Arc<str>, record: &Record) -> String {
        let prefix = self.known.get(topic).map_or("", |known| &*known.prefix);
        format!("{prefix}.{}", names::token(record.key.as_deref()).as_str())
    }

    /// What was sent over a connection that is lost may have been stored or not, and its answer does not come any more:
    /// it is sent again, in the order of before, and the server knows what it has.
    async fn link_changed(&mut self, inbox: &str) {
        let is_up = self.link.borrow_and_update().is_up;
        self.due.clear();
        if is_up {
            let again = std::mem::take(&mut self.sent).into_values();
            let all: Vec<Request> = again.chain(std::mem::take(&mut self.waiting)).collect();
            for request in all {
                self.send(request, inbox).await;
            }
        }
    }

    fn expire(&mut self) {
        let now = Instant::now();
        while let Some((due, number)) = self.due.front().copied()
            && (due <= now || !self.sent.contains_key(&number))
        {
            self.due.pop_front();
            if let Some(Request { topic, ticket, .. }) = self.sent.remove(&number) {
                let limit = self.limit;
                ticket.answer(Err(PublishFault::Transient(format!(
                    "the server did not answer a publish to topic `{topic}` within {limit:?}"
                ))));
            }
        }
    }
}

fn fault_of(Refusal { code, err_code, description }: &Refusal) -> PublishFault {
    let text = format!("{description} (error code {err_code})");
    match ErrorCode(*err_code) {
        ErrorCode::STREAM_STORE_FAILED if description.starts_with("maximum") => PublishFault::Full,
        ErrorCode::STORAGE_RESOURCES_EXCEEDED
        | ErrorCode::MEMORY_RESOURCES_EXCEEDED
        | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED => PublishFault::Full,
        _ if *code >= 500 => PublishFault::Transient(text),
        _ => PublishFault::Permanent(text),
    }
}

/// Sleeps until then, or for ever.
pub(super) async fn sleep_until(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_full_or_permanent_or_passes() {
        let of = |code, err_code, description: &str| {
            fault_of(&Refusal { code, err_code, description: description.to_owned() })
        };
        assert_eq!(of(503, 10077, "maximum messages exceeded"), PublishFault::Full);
        assert_eq!(of(503, 10077, "maximum bytes exceeded"), PublishFault::Full);
        assert!(matches!(of(503, 10077, "no space left on device"), PublishFault::Transient(_)));
        assert!(matches!(
            of(503, 10008, "JetStream system temporarily unavailable"),
            PublishFault::Transient(_)
        ));
        assert!(matches!(of(400, 10054, "message size exceeds maximum allowed"), PublishFault::Permanent(_)));
    }
}
