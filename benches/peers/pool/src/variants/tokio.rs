//! A task for each worker, on tokio's multi-threaded runtime, with a bounded channel of tokio. Producers are tasks too.

use crate::drive::{AsyncPool, AsyncProducer};
use crate::variant::{About, Setup, Variant};
use ::tokio::sync::{mpsc, oneshot};
use ::tokio::task::JoinHandle;
use measure::{CAPACITY, Message, worker_of};

pub(crate) const VARIANT: Variant = Variant::asynchronous::<Tasks>(About {
    name: "tokio",
    crates: &["tokio"],
    settings: "a task for each worker and for each producer on one runtime with a thread per core; 1,024 places for \
               each worker; in the shape rate the producer is a thread",
});

/// A message, and where its answer goes if it has one.
pub(super) type Item = (Message, Option<oneshot::Sender<()>>);

/// The workers, started in the runtime that the caller is in.
pub(super) fn start_workers(setup: &Setup) -> (Vec<mpsc::Sender<Item>>, Vec<JoinHandle<()>>) {
    let start = |_| {
        let (sender, mut receiver) = mpsc::channel::<Item>(CAPACITY);
        let work = setup.work.clone();
        let task = ::tokio::spawn(async move {
            while let Some((message, answer)) = receiver.recv().await {
                work.handle(&message);
                if let Some(answer) = answer {
                    answer.send(()).expect("every answer is waited for");
                }
            }
        });
        (sender, task)
    };
    (0..setup.workers).map(start).unzip()
}

pub(crate) struct Tasks {
    senders: Vec<mpsc::Sender<Item>>,
    tasks: Vec<JoinHandle<()>>,
}

pub(crate) struct Senders(Vec<mpsc::Sender<Item>>);

impl AsyncPool for Tasks {
    type Producer = Senders;

    async fn start(setup: &Setup) -> Self {
        let (senders, tasks) = start_workers(setup);
        Self { senders, tasks }
    }

    fn producer(&mut self, _: usize) -> Senders {
        Senders(self.senders.clone())
    }

    async fn finish(self) {
        drop(self.senders);
        for task in self.tasks {
            task.await.expect("a worker does not panic");
        }
    }
}

impl Senders {
    fn sender_for(&self, message: &Message) -> &mpsc::Sender<Item> {
        &self.0[worker_of(message.key, self.0.len())]
    }
}

impl AsyncProducer for Senders {
    type Answer = oneshot::Receiver<()>;

    async fn submit(&mut self, message: Message) -> Self::Answer {
        let (answer, answered) = oneshot::channel();
        let sent = self.sender_for(&message).send((message, Some(answer))).await;
        assert!(sent.is_ok(), "the worker ends after the producers");
        answered
    }

    async fn forget(&mut self, message: Message) {
        let sent = self.sender_for(&message).send((message, None)).await;
        assert!(sent.is_ok(), "the worker ends after the producers");
    }

    async fn wait(answer: Self::Answer) {
        answer.await.expect("every message is answered");
    }

    fn submit_from_outside(&mut self, message: Message) -> Self::Answer {
        let (answer, answered) = oneshot::channel();
        let sent = self.sender_for(&message).blocking_send((message, Some(answer)));
        assert!(sent.is_ok(), "the worker ends after the producers");
        answered
    }
}
