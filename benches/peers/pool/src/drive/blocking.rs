//! Pools that plain threads hand messages to.

use super::{PAUSE_NS, RATE_STEP_NS, WARM_UP, spin_for};
use crate::shape::Shape;
use crate::variant::{Setup, Timed};
use measure::{BATCH, Cost, Message, Meter, Percentiles, Source, WINDOW};
use std::collections::VecDeque;
use std::sync::{Arc, Barrier};

/// A pool of workers.
pub(crate) trait Pool: Sized {
    type Producer: Producer;

    fn start(setup: &Setup) -> Self;
    /// What producer `number` hands messages over with.
    fn producer(&mut self, number: usize) -> Self::Producer;
    /// All producers are gone. Returns when every message has been handled, and ends the pool.
    fn finish(self);
}

/// The side of one producer.
pub(crate) trait Producer: Send + 'static {
    type Answer: Send;

    /// Hands a message over that has an answer; waits for room.
    fn submit(&mut self, message: Message) -> Self::Answer;
    /// Hands a message over that has none; waits for room.
    fn forget(&mut self, message: Message);
    /// Blocks until the answer is there.
    fn wait(&mut self, answer: Self::Answer);
    /// Whether the answer is there, without blocking. If so it is used up.
    fn is_answered(&mut self, answer: &mut Self::Answer) -> bool;
}

/// A producer that can hand several messages over at less than their number of hand-overs.
pub(crate) trait BatchProducer: Producer {
    /// Takes all messages, waits for room, and appends their answers in their order.
    fn submit_batch(&mut self, messages: &mut Vec<Message>, answers: &mut VecDeque<Self::Answer>);
    /// Takes all messages and waits for room.
    fn forget_batch(&mut self, messages: &mut Vec<Message>);
}

/// Runs a shape without batches.
pub(crate) fn run<P: Pool>(setup: &Setup, shape: Shape) -> Timed {
    match shape {
        Shape::Complete => until_answered::<P>(setup, complete),
        Shape::Forget => until_handled::<P>(setup, forget),
        Shape::AskHot => ask::<P>(setup, 0),
        Shape::AskIdle => ask::<P>(setup, PAUSE_NS),
        Shape::Rate => rate::<P>(setup),
        Shape::CompleteBatch | Shape::ForgetBatch => unreachable!("the command refuses batches here"),
    }
}

/// Runs any shape.
pub(crate) fn batching<P: Pool<Producer: BatchProducer>>(setup: &Setup, shape: Shape) -> Timed {
    match shape {
        Shape::CompleteBatch => until_answered::<P>(setup, complete_batch),
        Shape::ForgetBatch => until_handled::<P>(setup, forget_batch),
        other => run::<P>(setup, other),
    }
}

fn complete<P: Producer>(producer: &mut P, source: &mut Source, n: usize, window: usize) {
    let mut answers = VecDeque::with_capacity(window);
    for _ in 0..n {
        if answers.len() == window {
            let oldest = answers.pop_front().expect("the window is full");
            producer.wait(oldest);
        }
        answers.push_back(producer.submit(source.next_message()));
    }
    answers.into_iter().for_each(|answer| producer.wait(answer));
}

fn complete_batch<P: BatchProducer>(producer: &mut P, source: &mut Source, n: usize, window: usize) {
    let mut answers = VecDeque::with_capacity(window);
    let mut batch = Vec::with_capacity(BATCH);
    let mut left = n;
    while left > 0 {
        let size = left.min(BATCH);
        while answers.len() + size > window {
            let oldest = answers.pop_front().expect("a batch is smaller than the window");
            producer.wait(oldest);
        }
        batch.extend((0..size).map(|_| source.next_message()));
        producer.submit_batch(&mut batch, &mut answers);
        left -= size;
    }
    answers.into_iter().for_each(|answer| producer.wait(answer));
}

fn forget<P: Producer>(producer: &mut P, source: &mut Source, n: usize, _: usize) {
    for _ in 0..n {
        producer.forget(source.next_message());
    }
}

fn forget_batch<P: BatchProducer>(producer: &mut P, source: &mut Source, n: usize, _: usize) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut left = n;
    while left > 0 {
        let size = left.min(BATCH);
        batch.extend((0..size).map(|_| source.next_message()));
        producer.forget_batch(&mut batch);
        left -= size;
    }
}

/// What one producer does: with what, from where, how many messages, how many of them in flight.
type Produce<P> = fn(&mut P, &mut Source, usize, usize);

fn until_answered<P: Pool>(setup: &Setup, produce: Produce<P::Producer>) -> Timed {
    let (pool, cost) = produce_all::<P, _>(setup, produce, |pool, meter| (pool, meter.stop()));
    pool.finish();
    timed(cost, setup.n)
}

fn until_handled<P: Pool>(setup: &Setup, produce: Produce<P::Producer>) -> Timed {
    let cost = produce_all::<P, _>(setup, produce, |pool, meter| {
        pool.finish();
        meter.stop()
    });
    timed(cost, setup.n)
}

fn timed(cost: Cost, n: usize) -> Timed {
    Timed { cost, n, latency: None }
}

/// Lets all producers run at once, and calls `then` when they are done.
fn produce_all<P: Pool, T>(
    setup: &Setup,
    produce: Produce<P::Producer>,
    then: impl FnOnce(P, Meter) -> T,
) -> T {
    let mut pool = P::start(setup);
    let (n, window) = (setup.n / setup.producers, WINDOW / setup.producers);
    let barrier = Arc::new(Barrier::new(setup.producers + 1));
    for number in 0..setup.producers {
        let mut producer = pool.producer(number);
        let mut source = Source::new(number, setup.producers);
        let barrier = barrier.clone();
        std::thread::spawn(move || {
            barrier.wait();
            produce(&mut producer, &mut source, n, window);
            drop(producer);
            barrier.wait();
            // Freeing ten thousand payloads is no part of what is measured.
            std::mem::forget(source);
        });
    }
    barrier.wait();
    let meter = Meter::start();
    barrier.wait();
    then(pool, meter)
}

fn ask<P: Pool>(setup: &Setup, pause_ns: u64) -> Timed {
    let mut pool = P::start(setup);
    let (mut producer, mut source, clock) = (pool.producer(0), Source::new(0, 1), setup.work.clock);
    let mut once = || {
        if pause_ns > 0 {
            spin_for(clock, pause_ns);
        }
        let message = source.next_message();
        let start = clock.now();
        let answer = producer.submit(message);
        producer.wait(answer);
        clock.now() - start
    };
    for _ in 0..WARM_UP {
        once();
    }
    let n = setup.n - WARM_UP;
    let mut latencies = Vec::with_capacity(n);
    let meter = Meter::start();
    latencies.extend((0..n).map(|_| once()));
    let cost = meter.stop();
    drop(producer);
    pool.finish();
    Timed { cost, n, latency: Percentiles::of(latencies) }
}

fn rate<P: Pool>(setup: &Setup) -> Timed {
    let mut pool = P::start(setup);
    let (mut producer, mut source, clock) = (pool.producer(0), Source::new(0, 1), setup.work.clock);
    let mut answers: VecDeque<<P::Producer as Producer>::Answer> = VecDeque::with_capacity(WINDOW);
    let meter = Meter::start();
    let start = clock.now();
    for id in 0..setup.n {
        let due_ns = start + id as u64 * RATE_STEP_NS;
        while clock.now() < due_ns {
            if answers.front_mut().is_some_and(|oldest| producer.is_answered(oldest)) {
                answers.pop_front();
            } else {
                std::hint::spin_loop();
            }
        }
        if answers.len() == WINDOW {
            let oldest = answers.pop_front().expect("the window is full");
            producer.wait(oldest);
        }
        answers.push_back(producer.submit(Message { due_ns, id: id as u32, ..source.next_message() }));
    }
    answers.into_iter().for_each(|answer| producer.wait(answer));
    let cost = meter.stop();
    drop(producer);
    pool.finish();
    Timed { cost, n: setup.n, latency: setup.work.latencies(WARM_UP) }
}
