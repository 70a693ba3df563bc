//! NATS JetStream: a stream for each topic or one for all, a durable pull consumer for each group.
//!
//! The client needs tokio. It has a runtime of its own on one thread for each bus, and everything that waits is a task
//! there: what the bus calls posts to one and returns.

mod acks;
mod api;
mod claim;
mod consumer;
mod demand;
mod denied;
mod durable;
mod identity;
mod keeper;
mod leases;
mod left;
mod link;
mod mailbox;
mod marks;
mod member;
mod message;
mod names;
mod options;
mod probe;
mod publish;
mod readable;
mod recovery;
mod runtime;
mod standstill;
mod streams;
mod tried;
mod unseen;

use crate::broker::{Broker, BrokerError, Capabilities, Consumer, ConsumerSpec, PublishFault, Ticket};
use crate::config::{BusUrl, Config};
use crate::error::ConnectError;
use crate::record::Record;
use crate::sync::Arc;
use crate::wait::Op;
use crate::wait::Registration;
use api::Context;
use async_nats::Client;
use consumer::NatsConsumer;
use demand::Amount;
use durable::Wanted;
use identity::Made;
use keeper::Keeper;
use link::Link;
use mailbox::Mailbox;
use marks::Asker;
use member::{Member, Setup};
use publish::Publishing;
use runtime::Runtime;
use std::task::Waker;
use std::time::Duration;
use streams::Streams;
use tokio::sync::{mpsc, watch};

/// Fetched beyond what a subscription has in flight, at most.
const PREFETCH: Amount = Amount { records: 1024, bytes: 16 << 20 };

pub(crate) struct NatsBroker {
    runtime: Runtime,
    publishes: mpsc::UnboundedSender<publish::Request>,
    streams: Arc<Streams>,
    settings: Settings,
    client: Client,
    jetstream: Context,
    /// The same with a short limit, for those that ask again.
    quick: Context,
    link: watch::Receiver<Link>,
}

/// What consumers are set to.
#[derive(Debug, Clone, Copy)]
struct Settings {
    limit: Duration,
    ack_wait: Duration,
    double_ack: bool,
    takeover_after: Duration,
}

/// Connects, and sees that JetStream is there.
///
/// # Errors
/// [`ConnectError::Unreachable`] when nothing answered within `nats.connect_timeout`, [`ConnectError::Refused`] when a
/// server answered and does not take this client, or has no JetStream.
pub(crate) fn connect(url: &BusUrl, config: &Config) -> Result<Arc<dyn Broker>, ConnectError> {
    let nats = &config.nats;
    let (runtime, connected) = runtime::start(url, nats)?;
    let runtime::Connected { client, jetstream, quick, link } = connected;
    let streams = Arc::new(Streams::new(nats));
    let (publishes, requests) = mpsc::unbounded_channel();
    let limit = nats.connect_timeout;
    let publishing = Publishing::new(client.clone(), quick.clone(), streams.clone(), link.clone(), limit);
    runtime.spawn(publishing.run(requests));
    let settings = Settings {
        limit,
        ack_wait: nats.ack_wait,
        double_ack: nats.double_ack,
        takeover_after: nats.takeover_after,
    };
    Ok(Arc::new(NatsBroker { runtime, publishes, streams, settings, client, jetstream, quick, link }))
}

impl NatsBroker {
    /// Waits for an answer. Not for callers on the runtime's own thread.
    fn ask<T: Send + 'static>(
        &self,
        what: &str,
        answer: impl Future<Output = Result<T, BrokerError>> + Send + 'static,
    ) -> Result<T, BrokerError> {
        {
            let link = self.link.borrow();
            if !link.is_up {
                return Err(BrokerError::Transient(link.problem.clone()));
            }
        }
        let (promise, op) = Op::pending(|| Err(BrokerError::Closed));
        self.runtime.spawn(async move { promise.complete(answer.await) });
        // Several requests may follow each other, each with this limit of its own.
        let limit = self.settings.limit.saturating_mul(2);
        op.wait_timeout(limit).unwrap_or_else(|_| {
            Err(BrokerError::Transient(format!("no answer from NATS within {limit:?} to {what}")))
        })
    }
}

impl Broker for NatsBroker {
    fn system(&self) -> &'static str {
        "nats"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { redeliver: true, orders_publishes: false, counts_deliveries: true }
    }

    fn is_remote(&self) -> bool {
        true
    }

    fn partitions(&self, topic: &str) -> Result<u32, BrokerError> {
        let (jetstream, streams, name) = (self.jetstream.clone(), self.streams.clone(), topic.to_owned());
        self.ask(&format!("looking for topic `{topic}`"), async move {
            streams.require(&jetstream, &name).await.map(|_| 1)
        })
    }

    fn create_topic(&self, topic: &str) -> Result<(), BrokerError> {
        let (jetstream, streams, name) = (self.jetstream.clone(), self.streams.clone(), topic.to_owned());
        self.ask(&format!("creating topic `{topic}`"), async move {
            streams.create(&jetstream, &name).await.map(drop)
        })
    }

    fn publish(&self, topic: &Arc<str>, record: Arc<Record>, ticket: Box<dyn Ticket>) {
        let request = publish::Request { topic: topic.clone(), record, ticket };
        if let Err(mpsc::error::SendError(request)) = self.publishes.send(request) {
            request.ticket.answer(Err(PublishFault::Permanent(BrokerError::Closed.to_string())));
        }
    }

    /// A server does not say when a stream has room: who waits for it tries again now and then.
    fn on_space(&self, _wake: Waker) -> Registration {
        Registration::none()
    }

    fn subscribe(&self, spec: &ConsumerSpec, wake: Waker) -> Result<Box<dyn Consumer>, BrokerError> {
        let mailbox = Arc::new(Mailbox::new(spec.topics.len(), wake));
        let prefetch = Amount {
            records: PREFETCH.records.min(spec.budget.records),
            bytes: PREFETCH.bytes.min(spec.budget.bytes),
        };
        let needs = readable::Needs {
            takes_envelopes: spec.takes_envelopes,
            allows_memory: self.streams.are_in_memory(),
            is_shared: self.streams.is_shared(),
        };
        let (mut members, mut places) = (Vec::new(), Vec::new());
        for (index, topic) in spec.topics.iter().enumerate() {
            let (tell, commands) = mpsc::unbounded_channel();
            let wanted = Wanted {
                name: names::consumer(&spec.group, self.streams.is_shared().then_some(topic)),
                filter: names::subjects(topic),
                start: spec.start,
                ack_wait: self.settings.ack_wait,
                max_ack_pending: spec.budget.records.saturating_add(prefetch.records),
            };
            let (streams, jetstream, client) =
                (self.streams.clone(), self.jetstream.clone(), self.client.clone());
            let (quick, link, mailbox, settings) =
                (self.quick.clone(), self.link.clone(), mailbox.clone(), self.settings);
            let name = topic.clone();
            places.push(marks::Place {
                stream: streams.stream_of(topic),
                is_shared: streams.is_shared(),
                subjects: wanted.filter.clone(),
                consumer: wanted.name.clone(),
            });
            let member =
                self.ask(&format!("joining group `{}` in topic `{topic}`", spec.group), async move {
                    let stream = streams.require(&jetstream, &name).await?;
                    let takeover_after = settings.takeover_after;
                    let record = leases::Record {
                        client: client.clone(),
                        jetstream: quick.clone(),
                        subject: names::lease(&stream.config.name, &wanted.name),
                        takeover_after,
                        storage: stream.config.storage,
                        replicas: stream.config.num_replicas,
                    };
                    readable::check(&jetstream, &stream.config, &name, &wanted, needs).await?;
                    record.prepare().await?;
                    let info = durable::ensure(&jetstream, &stream.config, &wanted, None).await?;
                    let (keeper, tenure) = Keeper::new(record, link.clone(), mailbox.clone(), index as u32);
                    let member = Member::start(Setup {
                        jetstream: quick,
                        client,
                        link,
                        mailbox,
                        commands,
                        tenure,
                        topic: (index as u32, name),
                        made: Made { stream: stream.created, consumer: info.created },
                        stream: stream.config,
                        wanted,
                        consumer: info.config,
                        prefetch,
                        double_ack: settings.double_ack,
                        takeover_after,
                        limit: settings.limit,
                    })
                    .await?;
                    Ok((member, keeper))
                })?;
            members.push((consumer::MemberHandle::new(topic.clone(), tell), member));
        }
        let mut sides = Vec::new();
        for (side, (member, keeper)) in members {
            self.runtime.spawn(member.run());
            self.runtime.spawn(keeper.run());
            sides.push(side);
        }
        let asker = Asker::new(self.runtime.handle(), self.quick.clone(), self.link.clone(), places);
        Ok(Box::new(NatsConsumer::new(mailbox, sides, asker, self.settings.limit)))
    }

    fn close(&self) {
        self.runtime.end();
    }
}
