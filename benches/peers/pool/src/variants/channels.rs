//! What the variants with a bounded channel for each worker have in common; an answer is a channel of the crate
//! `oneshot`.

use crate::drive::{Pool, Producer};
use crate::variant::Setup;
use measure::{CAPACITY, Message, worker_of};
use std::thread::JoinHandle;

/// A message, and where its answer goes if it has one.
pub(super) type Item = (Message, Option<oneshot::Sender<()>>);

/// A crate's bounded channel.
pub(super) trait Channel: 'static {
    type Sender: Clone + Send + 'static;
    type Receiver: Send + 'static;

    fn bounded(capacity: usize) -> (Self::Sender, Self::Receiver);
    /// Waits for room; the receiver is there.
    fn send(sender: &Self::Sender, item: Item);
    /// None when all senders are gone and the channel is empty.
    fn receive(receiver: &Self::Receiver) -> Option<Item>;
}

pub(super) struct Channels<C: Channel> {
    senders: Vec<C::Sender>,
    threads: Vec<JoinHandle<()>>,
}

pub(super) struct Senders<C: Channel>(Vec<C::Sender>);

impl<C: Channel> Pool for Channels<C> {
    type Producer = Senders<C>;

    fn start(setup: &Setup) -> Self {
        let start = |_| {
            let (sender, receiver) = C::bounded(CAPACITY);
            let work = setup.work.clone();
            let thread = std::thread::spawn(move || {
                while let Some((message, answer)) = C::receive(&receiver) {
                    work.handle(&message);
                    if let Some(answer) = answer {
                        answer.send(()).expect("every answer is waited for");
                    }
                }
            });
            (sender, thread)
        };
        let (senders, threads) = (0..setup.workers).map(start).unzip();
        Self { senders, threads }
    }

    fn producer(&mut self, _: usize) -> Senders<C> {
        Senders(self.senders.clone())
    }

    fn finish(self) {
        drop(self.senders);
        self.threads.into_iter().for_each(|thread| thread.join().expect("a worker does not panic"));
    }
}

impl<C: Channel> Senders<C> {
    #[inline]
    fn sender_for(&self, message: &Message) -> &C::Sender {
        &self.0[worker_of(message.key, self.0.len())]
    }
}

impl<C: Channel> Producer for Senders<C> {
    type Answer = oneshot::Receiver<()>;

    fn submit(&mut self, message: Message) -> Self::Answer {
        let (answer, answered) = oneshot::channel();
        C::send(self.sender_for(&message), (message, Some(answer)));
        answered
    }

    fn forget(&mut self, message: Message) {
        C::send(self.sender_for(&message), (message, None));
    }

    fn wait(&mut self, answer: Self::Answer) {
        answer.recv().expect("every message is answered");
    }

    fn is_answered(&mut self, answer: &mut Self::Answer) -> bool {
        answer.try_recv().is_ok()
    }
}
