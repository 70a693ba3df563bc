//! The workers of [`tokio`](super::tokio), fed by plain threads.

use super::tokio::{Item, start_workers};
use crate::drive::{Pool, Producer, runtime};
use crate::variant::{About, Setup, Variant};
use ::tokio::runtime::Runtime;
use ::tokio::sync::{mpsc, oneshot};
use ::tokio::task::JoinHandle;
use measure::{Message, worker_of};

pub(crate) const VARIANT: Variant = Variant::blocking::<FromThreads>(About {
    name: "tokio_threads",
    crates: &["tokio"],
    settings: "a task for each worker on a runtime with a thread per core; producers are threads of their own; 1,024 \
               places for each worker",
});

pub(crate) struct FromThreads {
    runtime: Runtime,
    senders: Vec<mpsc::Sender<Item>>,
    tasks: Vec<JoinHandle<()>>,
}

pub(crate) struct Senders(Vec<mpsc::Sender<Item>>);

impl Pool for FromThreads {
    type Producer = Senders;

    fn start(setup: &Setup) -> Self {
        let runtime = runtime();
        let context = runtime.enter();
        let (senders, tasks) = start_workers(setup);
        drop(context);
        Self { runtime, senders, tasks }
    }

    fn producer(&mut self, _: usize) -> Senders {
        Senders(self.senders.clone())
    }

    fn finish(self) {
        drop(self.senders);
        self.runtime.block_on(async {
            for task in self.tasks {
                task.await.expect("a worker does not panic");
            }
        });
    }
}

impl Senders {
    fn send(&self, item: Item) {
        let sent = self.0[worker_of(item.0.key, self.0.len())].blocking_send(item);
        assert!(sent.is_ok(), "the worker ends after the producers");
    }
}

impl Producer for Senders {
    type Answer = oneshot::Receiver<()>;

    fn submit(&mut self, message: Message) -> Self::Answer {
        let (answer, answered) = oneshot::channel();
        self.send((message, Some(answer)));
        answered
    }

    fn forget(&mut self, message: Message) {
        self.send((message, None));
    }

    fn wait(&mut self, answer: Self::Answer) {
        answer.blocking_recv().expect("every message is answered");
    }

    fn is_answered(&mut self, answer: &mut Self::Answer) -> bool {
        answer.try_recv().is_ok()
    }
}
