//! ractor's factory: one actor dispatches to the workers, a key always to the same.

use super::ractor::Handle;
use crate::drive::{AsyncPool, AsyncProducer};
use crate::variant::{About, Setup, Variant};
use crate::work::Work;
use ::ractor::concurrency::OneshotReceiver;
use ::ractor::factory::{
    Factory, FactoryArguments, FactoryMessage, Job, Worker, queues, routing, worker_builder,
};
use ::ractor::{Actor, ActorProcessingErr, ActorRef};
use measure::Message;
use std::sync::Arc;

pub(crate) const VARIANT: Variant = Variant::asynchronous::<Dispatched>(About {
    name: "ractor_factory",
    crates: &["ractor", "tokio"],
    settings: "KeyPersistentRouting, DefaultQueue; the queue has no bound, so that forget queues everything",
});

type Routing = routing::KeyPersistentRouting<u64, Handle>;
type Queue = queues::DefaultQueue<u64, Handle>;
type Ref = ActorRef<FactoryMessage<u64, Handle>>;

struct Handling;

impl Worker for Handling {
    type Key = u64;
    type Message = Handle;
    type State = Arc<Work>;
    type Arguments = Arc<Work>;

    async fn pre_start(&self, _: usize, _: &Ref, work: Arc<Work>) -> Result<Arc<Work>, ActorProcessingErr> {
        Ok(work)
    }

    async fn handle(
        &self,
        _: usize,
        _: &Ref,
        Job { key, msg, .. }: Job<u64, Handle>,
        work: &mut Arc<Work>,
    ) -> Result<u64, ActorProcessingErr> {
        msg.by(work);
        Ok(key)
    }
}

pub(crate) struct Dispatched {
    factory: Ref,
    work: Arc<Work>,
    sent: u64,
}

pub(crate) struct Dispatching(Ref);

impl AsyncPool for Dispatched {
    type Producer = Dispatching;

    async fn start(setup: &Setup) -> Self {
        let work = setup.work.clone();
        let arguments = FactoryArguments::builder()
            .worker_builder(Box::new(worker_builder(move |_| (Handling, work.clone()))))
            .queue(Queue::default())
            .router(Routing::default())
            .num_initial_workers(setup.workers)
            .build();
        let factory = Factory::<u64, Handle, Arc<Work>, Handling, Routing, Queue>::default();
        let (factory, _) = Actor::spawn(None, factory, arguments).await.expect("a factory starts");
        Self { factory, work: setup.work.clone(), sent: setup.n as u64 }
    }

    fn producer(&mut self, _: usize) -> Dispatching {
        Dispatching(self.factory.clone())
    }

    async fn finish(self) {
        let (work, sent) = (self.work, self.sent);
        let waiting = ::tokio::task::spawn_blocking(move || work.wait_for(sent));
        waiting.await.expect("the wait does not panic");
        self.factory.stop(None);
    }
}

impl Dispatching {
    fn send(&self, handle: Handle) {
        let sent = self.0.dispatch(handle.0.key, handle);
        assert!(sent.is_ok(), "the factory ends after the producers");
    }
}

impl AsyncProducer for Dispatching {
    type Answer = OneshotReceiver<()>;

    async fn submit(&mut self, message: Message) -> Self::Answer {
        self.submit_from_outside(message)
    }

    async fn forget(&mut self, message: Message) {
        self.send(Handle(message, None));
    }

    async fn wait(answer: Self::Answer) {
        answer.await.expect("every message is answered");
    }

    fn submit_from_outside(&mut self, message: Message) -> Self::Answer {
        let (handle, answered) = Handle::asking(message);
        self.send(handle);
        answered
    }
}
