//! The pool of keylane, by its public face.

use crate::drive::{BatchProducer, Pool, Producer};
use crate::shape::Shape;
use crate::variant::{About, Setup, Variant};
use ::keylane::pool::{Completion, Idle, Key, PoolBuilder, Request, RequestPool};
use measure::{BATCH, CAPACITY, Message};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

pub(crate) const VARIANT: Variant = Variant {
    worker_of,
    ..Variant::batching::<Lanes<false>>(About {
        name: "keylane",
        crates: &["keylane"],
        settings: "1,024 places for each worker; try_submit and try_send first, submit and send where there is no \
                   room; batches by submit_batch and try_send_batch",
    })
};

/// For machines with a core to spare for each worker and each that asks.
pub(crate) const SPINNING: Variant = Variant {
    worker_of,
    shapes: &Shape::LATENCY,
    ..Variant::blocking::<Lanes<true>>(About {
        name: "keylane_spin",
        crates: &["keylane"],
        settings: "Idle::Spin(100 us), and whoever asks spins as long on is_done before it waits; CPU for latency",
    })
};

const SPIN: Duration = Duration::from_micros(100);

fn worker_of(key: u64, workers: usize) -> usize {
    Key::of_number(key).worker(workers)
}

pub(crate) struct Lanes<const SPINS: bool>(RequestPool<Message, ()>);

pub(crate) struct Submitter<const SPINS: bool> {
    pool: RequestPool<Message, ()>,
    asks: Vec<(Key, Message)>,
    tells: Vec<(Key, Request<Message, ()>)>,
}

impl<const SPINS: bool> Pool for Lanes<SPINS> {
    type Producer = Submitter<SPINS>;

    fn start(setup: &Setup) -> Self {
        let work = setup.work.clone();
        let pool = PoolBuilder::new()
            .workers(setup.workers)
            .capacity(CAPACITY)
            .idle(if SPINS { Idle::Spin(SPIN) } else { Idle::default() })
            .shared(move |message: Message| work.handle(&message));
        Self(pool.expect("a pool starts"))
    }

    fn producer(&mut self, _: usize) -> Submitter<SPINS> {
        Submitter { pool: self.0.clone(), asks: Vec::with_capacity(BATCH), tells: Vec::with_capacity(BATCH) }
    }

    fn finish(self) {
        self.0.close().wait();
    }
}

impl<const SPINS: bool> Producer for Submitter<SPINS> {
    type Answer = Completion<Message, ()>;

    fn submit(&mut self, message: Message) -> Self::Answer {
        let key = Key::of_number(message.key);
        self.pool.try_submit(key, message).unwrap_or_else(|full| {
            self.pool.submit(key, full.into_job()).wait().expect("the pool closes after the producers")
        })
    }

    fn forget(&mut self, message: Message) {
        let key = Key::of_number(message.key);
        if let Err(full) = self.pool.try_send(key, Request::tell(message)) {
            self.pool.send(key, full.into_job()).wait().expect("the pool closes after the producers");
        }
    }

    fn wait(&mut self, answer: Self::Answer) {
        if SPINS {
            let start = Instant::now();
            while !answer.is_done() && start.elapsed() < SPIN {
                std::hint::spin_loop();
            }
        }
        answer.wait().expect("every message is answered");
    }

    fn is_answered(&mut self, answer: &mut Self::Answer) -> bool {
        answer.is_done()
    }
}

impl<const SPINS: bool> BatchProducer for Submitter<SPINS> {
    fn submit_batch(&mut self, messages: &mut Vec<Message>, answers: &mut VecDeque<Self::Answer>) {
        self.asks.extend(messages.drain(..).map(|message| (Key::of_number(message.key), message)));
        loop {
            answers.extend(self.pool.submit_batch(&mut self.asks));
            if self.asks.is_empty() {
                break;
            }
            let (key, message) = self.asks.remove(0);
            let answer = self.pool.submit(key, message).wait().expect("the pool closes after the producers");
            answers.push_back(answer);
        }
    }

    fn forget_batch(&mut self, messages: &mut Vec<Message>) {
        self.tells
            .extend(messages.drain(..).map(|message| (Key::of_number(message.key), Request::tell(message))));
        loop {
            self.pool.try_send_batch(&mut self.tells);
            if self.tells.is_empty() {
                break;
            }
            let (key, request) = self.tells.remove(0);
            self.pool.send(key, request).wait().expect("the pool closes after the producers");
        }
    }
}
