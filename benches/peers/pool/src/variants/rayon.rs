//! rayon's `spawn_fifo`. It has no order per key.

use crate::drive::{Pool, Producer};
use crate::variant::{About, Setup, Variant};
use crate::work::Work;
use ::rayon::{ThreadPool, ThreadPoolBuilder};
use measure::Message;
use std::sync::Arc;

pub(crate) const VARIANT: Variant = Variant {
    is_concurrent: true,
    ..Variant::blocking::<Stealing>(About {
        name: "rayon",
        crates: &["rayon", "oneshot"],
        settings: "no order per key; the queue has no bound, so that forget queues everything; answers by oneshot",
    })
};

pub(crate) struct Stealing {
    pool: Arc<ThreadPool>,
    work: Arc<Work>,
    sent: u64,
}

pub(crate) struct Spawning {
    pool: Arc<ThreadPool>,
    work: Arc<Work>,
}

impl Pool for Stealing {
    type Producer = Spawning;

    fn start(setup: &Setup) -> Self {
        let pool = ThreadPoolBuilder::new().num_threads(setup.workers).build().expect("threads start");
        Self { pool: Arc::new(pool), work: setup.work.clone(), sent: setup.n as u64 }
    }

    fn producer(&mut self, _: usize) -> Spawning {
        Spawning { pool: self.pool.clone(), work: self.work.clone() }
    }

    fn finish(self) {
        self.work.wait_for(self.sent);
    }
}

impl Producer for Spawning {
    type Answer = oneshot::Receiver<()>;

    fn submit(&mut self, message: Message) -> Self::Answer {
        let (answer, answered) = oneshot::channel();
        let work = self.work.clone();
        self.pool.spawn_fifo(move || {
            work.handle(&message);
            answer.send(()).expect("every answer is waited for");
        });
        answered
    }

    fn forget(&mut self, message: Message) {
        let work = self.work.clone();
        self.pool.spawn_fifo(move || work.handle(&message));
    }

    fn wait(&mut self, answer: Self::Answer) {
        answer.recv().expect("every message is answered");
    }

    fn is_answered(&mut self, answer: &mut Self::Answer) -> bool {
        answer.try_recv().is_ok()
    }
}
