//! The one producer of a bus, and the thread that serves its answers.
//!
//! A publish goes to the client on the caller's thread. What has no answer is kept in the order of the calls
//! ([`Publishes`]): a topic that is not known yet is looked up first, a client that is full is given the rest when
//! answers have made room, and a client that failed for good is replaced, and its successor is given all of it again. So
//! no caller is ever told to try again, which could not keep the order.

use super::answers::{Answers, Client, Publish, Shared, no_such_topic, send};
use super::broker_health::Sign;
use super::client;
use super::properties::Properties;
use super::publishes::{DeliveryReport, Publishes};
use super::queue_waker::QueueWaker;
use super::reasons::Reasons;
use super::topics::{self, Creator, Layout};
use crate::broker::{BrokerError, PublishFault, Ticket};
use crate::foreign;
use crate::record::Record;
use crate::sync::{Arc, AtomicBool, Mutex, OnceLock, Ordering, thread};
use crate::wait::Parker;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{Producer as _, PurgeConfig};
use std::task::Waker;
use std::time::{Duration, Instant};

/// The client wakes the thread when it has something; it is looked at so often all the same.
const TICK: Duration = Duration::from_millis(200);
/// How long a client that is given up has to tell what became of its publishes.
const GIVE_UP: Duration = Duration::from_secs(5);
/// After a failed attempt (to look a topic up, to make a client), the next.
const REST: Duration = Duration::from_millis(200);
/// How long one asking of the brokers takes at most.
const ASK: Duration = Duration::from_millis(500);

pub(super) struct Producer {
    properties: Properties,
    addresses: String,
    creator: Arc<Creator>,
    creates_topics: bool,
    /// Shared with the client's callbacks.
    shared: Arc<Shared>,
    is_closed: AtomicBool,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
    /// Wakes the thread, which sets it.
    waker: OnceLock<Waker>,
}

impl Producer {
    /// A producer whose client is made and not served yet.
    ///
    /// # Errors
    /// If librdkafka does not take the properties.
    pub(super) fn new(
        properties: Properties,
        addresses: String,
        creator: Arc<Creator>,
        creates_topics: bool,
    ) -> Result<Self, KafkaError> {
        let shared = Arc::new(Shared {
            line: Mutex::new(Publishes::new()),
            client: Mutex::default(),
            known: Mutex::default(),
            health: Mutex::default(),
            refusal: Mutex::default(),
            reasons: Mutex::default(),
        });
        let producer = Self {
            properties,
            addresses,
            creator,
            creates_topics,
            shared,
            is_closed: AtomicBool::new(false),
            thread: Mutex::default(),
            waker: OnceLock::new(),
        };
        producer.renew()?;
        Ok(producer)
    }

    fn renew(&self) -> Result<(), KafkaError> {
        let answers = Answers(self.shared.clone());
        let client = Client::from_config_and_context(&client::configuration(&self.properties), answers)?;
        let mut line = self.shared.line.lock();
        *self.shared.client.lock() = Some(Arc::new(client));
        line.open();
        Ok(())
    }

    /// The client, for questions; none when it is being replaced.
    pub(super) fn client(&self) -> Option<Arc<Client>> {
        self.shared.client.lock().clone()
    }

    /// What the client said when it was refused.
    pub(super) fn refusal(&self) -> Option<String> {
        self.shared.refusal.lock().clone()
    }

    /// What the client has said of why no broker answers.
    pub(super) fn reasons(&self) -> Reasons {
        self.shared.reasons.lock().clone()
    }

    pub(super) fn forget_reasons(&self) {
        *self.shared.reasons.lock() = Reasons::default();
    }

    /// Starts the thread.
    pub(super) fn start(self: &Arc<Self>) -> std::io::Result<()> {
        let producer = self.clone();
        let run = move || producer.run();
        let started = thread::Builder::new().name("keylane-kafka-producer".to_owned()).spawn(run)?;
        *self.thread.lock() = Some(started);
        Ok(())
    }

    pub(super) fn publish(&self, topic: &Arc<str>, record: Arc<Record>, ticket: Box<dyn Ticket>) {
        // ORDERING: Relaxed; the publisher is closed before this, so that a publish after it is none that anybody awaits.
        if self.is_closed.load(Ordering::Relaxed) {
            return ticket.answer(Err(PublishFault::Permanent(BrokerError::Closed.to_string())));
        }
        self.shared.line.lock().offer(Publish { topic: topic.clone(), record, ticket });
        if !self.give() {
            self.wake();
        }
    }

    /// Gives the client what it takes, in order. False: the next one waits for the thread, to look its topic up or to
    /// replace the client.
    fn give(&self) -> bool {
        loop {
            let mut line = self.shared.line.lock();
            let Some((number, publish)) = line.next() else { return line.is_open() };
            // Looked up by the thread.
            if !self.shared.known.lock().contains(&publish.topic) {
                return false;
            }
            let Some(client) = self.client() else { return false };
            let error = match send(&client, number, publish) {
                Ok(()) => {
                    line.given(number);
                    continue;
                }
                // Answers make room, and the thread comes back.
                Err(KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)) => return true,
                Err(error) => error,
            };
            let topic = publish.topic.clone();
            let answer = match error.rdkafka_error_code() {
                // It was deleted: looked up again, to be told or created.
                Some(
                    RDKafkaErrorCode::UnknownTopic
                    | RDKafkaErrorCode::UnknownPartition
                    | RDKafkaErrorCode::UnknownTopicOrPartition,
                ) => {
                    self.shared.known.lock().remove(&topic);
                    return false;
                }
                _ => match self.shared.report(&error, &topic) {
                    DeliveryReport::Refused(fault) => Err(fault),
                    // The thread replaces the client.
                    DeliveryReport::Stored(_) | DeliveryReport::Returned(_) => {
                        line.close();
                        return false;
                    }
                },
            };
            let publish = line.remove(number);
            drop(line);
            if let Some(publish) = publish {
                publish.ticket.answer(answer);
            }
        }
    }

    fn run(&self) {
        let parker = Parker::new();
        let is_first = self.waker.set(parker.waker().clone()).is_ok();
        debug_assert!(is_first, "a producer has one thread");
        let mut told_since = None;
        // ORDERING: Relaxed; nothing is handed over by it.
        while !self.is_closed.load(Ordering::Relaxed) {
            let queue_waker = self.client().and_then(|client| {
                let queue_waker = QueueWaker::register(client.clone(), parker.waker().clone())?;
                Some((client, queue_waker))
            });
            let Some((client, queue_waker)) = queue_waker else {
                if let Err(error) = self.renew() {
                    foreign::error!(%error, "no new producer; trying again");
                    parker.park_until(Some(Instant::now() + REST));
                }
                continue;
            };
            if let Some(fatal) = self.serve(&client, &queue_waker, &parker, &mut told_since) {
                drop(queue_waker);
                self.replace(&client, &fatal);
            }
        }
        drop(self.shared.client.lock().take());
        // Whoever waits for these was answered by the publisher, which is closed first.
        drop(self.shared.line.lock().drain());
    }

    /// Serves one client until the producer is closed, or the client has failed for good.
    fn serve(
        &self,
        client: &Client,
        queue_waker: &QueueWaker,
        parker: &Parker,
        told_since: &mut Option<Instant>,
    ) -> Option<String> {
        let mut rest_until = None;
        // ORDERING: Relaxed; see `run`.
        while !self.is_closed.load(Ordering::Relaxed) {
            // Each poll serves one.
            (0..queue_waker.waiting()).for_each(|_| client.poll(Duration::ZERO));
            if let Some((_, reason)) = client.client().fatal_error() {
                return Some(reason);
            }
            let line = self.shared.line.lock();
            if !line.is_open() {
                return Some(line.reason().unwrap_or("it lost count of its records").to_owned());
            }
            drop(line);
            let now = Instant::now();
            if rest_until.is_none_or(|until| now >= until) {
                rest_until = if self.look_up_next(client) { None } else { Some(now + REST) };
            }
            self.give();
            self.watch(client, now, told_since);
            let ask_at = self.shared.health.lock().ask_at();
            let until = [rest_until, ask_at].into_iter().flatten().fold(now + TICK, Instant::min);
            if queue_waker.waiting() == 0 {
                parker.park_until(Some(until));
            }
        }
        None
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }

    /// Looks up the topic of the next publish, if that is what it waits for. False: not now.
    fn look_up_next(&self, client: &Client) -> bool {
        loop {
            let topic = {
                let line = self.shared.line.lock();
                let Some((_, publish)) = line.next() else { return true };
                publish.topic.clone()
            };
            if self.shared.known.lock().contains(&topic) {
                return true;
            }
            let found = match topics::look_up(client.client(), &topic, ASK) {
                Ok(None) if self.creates_topics => self.creator.create(&topic).and_then(|_| {
                    let created = topics::look_up(client.client(), &topic, ASK)?;
                    let not_yet = || {
                        BrokerError::Transient(format!("topic `{topic}` was created and is not there yet"))
                    };
                    created.ok_or_else(not_yet).map(Some)
                }),
                found => found,
            };
            let refused = match found {
                Ok(Some(layout)) => {
                    if !topics::is_led(client.client(), &topic, layout.partitions, ASK) {
                        foreign::debug!(
                            topic = &*topic,
                            "the topic's leaders do not know it yet; trying again"
                        );
                        return false;
                    }
                    self.shared.known.lock().insert(topic);
                    self.give();
                    continue;
                }
                Err(BrokerError::Transient(reason)) => {
                    foreign::debug!(reason, "a topic could not be looked up; trying again");
                    return false;
                }
                Ok(None) => no_such_topic(&topic),
                Err(error) => error.to_string(),
            };
            // All of it that waits is refused alike; publishes to other topics go on.
            let first = {
                let mut line = self.shared.line.lock();
                let number =
                    line.next().filter(|(_, publish)| publish.topic == topic).map(|(number, _)| number);
                number.and_then(|number| line.remove(number))
            };
            if let Some(publish) = first {
                publish.ticket.answer(Err(PublishFault::Permanent(refused)));
            }
        }
    }

    /// Gives the client up: what it has no answer for comes back, and a new one is given all of it in order.
    fn replace(&self, client: &Client, reason: &str) {
        self.shared.line.lock().close();
        drop(self.shared.client.lock().take());
        client.purge(PurgeConfig::default().queue().inflight());
        let until = Instant::now() + GIVE_UP;
        while client.in_flight_count() > 0 && Instant::now() < until {
            client.poll(Duration::from_millis(5));
        }
        let unanswered = self.shared.line.lock().len();
        foreign::warn!(
            reason,
            unanswered,
            "the producer has failed for good and is replaced; what was not acknowledged is sent again in its order, so \
             that some records may be stored twice"
        );
    }

    /// Says when the brokers do not answer, and when they do again.
    fn watch(&self, client: &Client, now: Instant, told_since: &mut Option<Instant>) {
        let is_due = self.shared.health.lock().ask_at().is_some_and(|at| now >= at);
        if is_due {
            // Of a topic that is known anyway; without one, of all.
            let topic = self.shared.known.lock().iter().next().cloned();
            let asked = client.client().fetch_metadata(topic.as_deref(), ASK);
            let mut health = self.shared.health.lock();
            match asked {
                Ok(_) => health.works(Sign::Answer),
                Err(error) => health.unanswered(&error.to_string(), Instant::now()),
            }
        }
        let reason = self.shared.health.lock().reason().map(str::to_owned);
        match (reason, *told_since) {
            (Some(reason), None) => {
                *told_since = Some(now);
                let unacknowledged = self.shared.line.lock().len();
                let addresses = &*self.addresses;
                foreign::warn!(
                    reason,
                    addresses,
                    unacknowledged,
                    "the producer has no broker; publishes wait until one answers"
                );
            }
            (None, Some(since)) => {
                *told_since = None;
                let after = now.saturating_duration_since(since);
                foreign::info!(?after, "the producer has a broker again");
            }
            _ => {}
        }
    }

    /// Looks a topic up for somebody who waits.
    pub(super) fn layout(&self, topic: &str, limit: Duration) -> Result<Option<Layout>, BrokerError> {
        let Some(client) = self.client() else {
            return Err(BrokerError::Transient("the producer is being replaced".to_owned()));
        };
        let until = Instant::now() + limit;
        loop {
            let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(100));
            match topics::look_up(client.client(), topic, left) {
                // A topic that was created a moment ago has its leaders soon.
                Err(BrokerError::Transient(_)) if Instant::now() < until => {
                    thread::sleep(Duration::from_millis(50));
                }
                found => return found,
            }
        }
    }

    /// Ends the thread and the client.
    pub(super) fn close(&self) {
        // ORDERING: Relaxed; see `publish`.
        self.is_closed.store(true, Ordering::Relaxed);
        self.wake();
        let Some(serving) = self.thread.lock().take() else { return };
        // The last one who has the bus may be an answer, which comes on that thread; then it ends by itself.
        if serving.thread().id() != thread::current().id() && serving.join().is_err() {
            foreign::error!("the producer's thread ended by a panic");
        }
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        // Its callbacks keep what they share with it.
        drop(self.shared.client.lock().take());
    }
}
