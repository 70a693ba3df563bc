//! An actor of ractor for each worker, chosen by the hash of the key; a message carries a port for its answer.

use crate::drive::{AsyncPool, AsyncProducer};
use crate::variant::{About, Setup, Variant};
use crate::work::Work;
use ::ractor::concurrency::OneshotReceiver;
use ::ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use measure::{Message, worker_of};
use std::sync::Arc;

pub(crate) const VARIANT: Variant = Variant::asynchronous::<Actors>(About {
    name: "ractor",
    crates: &["ractor", "tokio"],
    settings: "an actor for each worker; its mailbox has no bound, so that forget queues everything",
});

/// A message, and where its answer goes if it has one.
pub(super) struct Handle(pub(super) Message, pub(super) Option<RpcReplyPort<()>>);

impl Handle {
    /// One that has an answer.
    pub(super) fn asking(message: Message) -> (Self, OneshotReceiver<()>) {
        let (answer, answered) = ::ractor::concurrency::oneshot();
        (Self(message, Some(answer.into())), answered)
    }

    pub(super) fn by(self, work: &Work) {
        work.handle(&self.0);
        if let Some(answer) = self.1 {
            assert!(answer.send(()).is_ok(), "every answer is waited for");
        }
    }
}

struct Worker;

impl Actor for Worker {
    type Msg = Handle;
    type State = Arc<Work>;
    type Arguments = Arc<Work>;

    async fn pre_start(&self, _: ActorRef<Handle>, work: Arc<Work>) -> Result<Arc<Work>, ActorProcessingErr> {
        Ok(work)
    }

    async fn handle(
        &self,
        _: ActorRef<Handle>,
        handle: Handle,
        work: &mut Arc<Work>,
    ) -> Result<(), ActorProcessingErr> {
        handle.by(work);
        Ok(())
    }
}

pub(crate) struct Actors(Vec<ActorRef<Handle>>);

pub(crate) struct Refs(Vec<ActorRef<Handle>>);

impl AsyncPool for Actors {
    type Producer = Refs;

    async fn start(setup: &Setup) -> Self {
        let mut actors = Vec::new();
        for _ in 0..setup.workers {
            let (actor, _) = Actor::spawn(None, Worker, setup.work.clone()).await.expect("an actor starts");
            actors.push(actor);
        }
        Self(actors)
    }

    fn producer(&mut self, _: usize) -> Refs {
        Refs(self.0.clone())
    }

    async fn finish(self) {
        for actor in self.0 {
            actor.drain_and_wait(None).await.expect("an actor ends");
        }
    }
}

impl Refs {
    fn send(&self, handle: Handle) {
        let sent = self.0[worker_of(handle.0.key, self.0.len())].send_message(handle);
        assert!(sent.is_ok(), "the actor ends after the producers");
    }
}

impl AsyncProducer for Refs {
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
