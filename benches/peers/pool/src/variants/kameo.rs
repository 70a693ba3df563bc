//! An actor of kameo for each worker, chosen by the hash of the key, with a bounded mailbox.

use crate::drive::{AsyncPool, AsyncProducer};
use crate::variant::{About, Setup, Variant};
use crate::work::Work;
use ::kameo::Actor;
use ::kameo::actor::{ActorRef, Spawn as _};
use ::kameo::message::Context;
use ::kameo::request::PendingReply;
use measure::{CAPACITY, Message, worker_of};
use std::sync::Arc;

pub(crate) const VARIANT: Variant = Variant::asynchronous::<Actors>(About {
    name: "kameo",
    crates: &["kameo", "tokio"],
    settings: "an actor for each worker, 1,024 places in its mailbox; asks are enqueued, then their replies awaited",
});

#[derive(Actor)]
pub(crate) struct Worker(Arc<Work>);

impl ::kameo::message::Message<Message> for Worker {
    type Reply = ();

    async fn handle(&mut self, message: Message, _: &mut Context<Self, ()>) {
        self.0.handle(&message);
    }
}

pub(crate) struct Actors(Vec<ActorRef<Worker>>);

pub(crate) struct Refs(Vec<ActorRef<Worker>>);

impl AsyncPool for Actors {
    type Producer = Refs;

    async fn start(setup: &Setup) -> Self {
        let start = |_| {
            let mailbox = ::kameo::mailbox::bounded(CAPACITY);
            Worker::spawn_with_mailbox(Worker(setup.work.clone()), mailbox)
        };
        Self((0..setup.workers).map(start).collect())
    }

    fn producer(&mut self, _: usize) -> Refs {
        Refs(self.0.clone())
    }

    async fn finish(self) {
        for actor in self.0 {
            actor.stop_gracefully().await.expect("the actor runs");
            actor.wait_for_shutdown().await;
        }
    }
}

impl Refs {
    fn actor_for(&self, message: &Message) -> &ActorRef<Worker> {
        &self.0[worker_of(message.key, self.0.len())]
    }
}

impl AsyncProducer for Refs {
    type Answer = PendingReply<Message, ()>;

    async fn submit(&mut self, message: Message) -> Self::Answer {
        let actor = self.actor_for(&message);
        actor.ask(message).enqueue().await.expect("the actor ends after the producers")
    }

    async fn forget(&mut self, message: Message) {
        let told = self.actor_for(&message).tell(message).send().await;
        assert!(told.is_ok(), "the actor ends after the producers");
    }

    async fn wait(answer: Self::Answer) {
        assert!(answer.await.is_ok(), "every message is answered");
    }

    fn submit_from_outside(&mut self, message: Message) -> Self::Answer {
        futures::executor::block_on(self.submit(message))
    }
}
