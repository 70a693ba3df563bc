//! Pools that tasks hand messages to. Producers are tasks of the same runtime as the workers, as a user's would be.

use super::{PAUSE_NS, RATE_STEP_NS, WARM_UP, spin_for};
use crate::shape::Shape;
use crate::variant::{Setup, Timed};
use measure::{Message, Meter, Nanos, Percentiles, Source, WINDOW};
use std::collections::VecDeque;
use std::future::Future;
use tokio::task::JoinHandle;

/// A pool of workers that are tasks.
pub(crate) trait AsyncPool: Sized {
    type Producer: AsyncProducer;

    fn start(setup: &Setup) -> impl Future<Output = Self>;
    fn producer(&mut self, number: usize) -> Self::Producer;
    /// All producers are gone. Ready when every message has been handled.
    fn finish(self) -> impl Future<Output = ()>;
}

/// The side of one producer.
pub(crate) trait AsyncProducer: Send + 'static {
    type Answer: Send + 'static;

    fn submit(&mut self, message: Message) -> impl Future<Output = Self::Answer> + Send;
    fn forget(&mut self, message: Message) -> impl Future<Output = ()> + Send;
    fn wait(answer: Self::Answer) -> impl Future<Output = ()> + Send;
    /// Hands a message over from a thread outside of the runtime.
    fn submit_from_outside(&mut self, message: Message) -> Self::Answer;
}

/// A runtime with its default: one thread for each core.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime starts")
}

/// Runs a shape.
pub(crate) fn run<P: AsyncPool>(setup: &Setup, shape: Shape) -> Timed {
    let runtime = runtime();
    runtime.block_on(async {
        match shape {
            Shape::Complete => until_answered::<P>(setup).await,
            Shape::Forget => until_handled::<P>(setup).await,
            Shape::AskHot => ask::<P>(setup, 0).await,
            Shape::AskIdle => ask::<P>(setup, PAUSE_NS).await,
            Shape::Rate => rate::<P>(setup).await,
            Shape::CompleteBatch | Shape::ForgetBatch => unreachable!("the command refuses batches here"),
        }
    })
}

async fn until_answered<P: AsyncPool>(setup: &Setup) -> Timed {
    let mut pool = P::start(setup).await;
    let (n, window) = (setup.n / setup.producers, WINDOW / setup.producers);
    let producers = producers(setup, &mut pool);
    let meter = Meter::start();
    let complete = |(producer, source)| tokio::spawn(complete::<P::Producer>(producer, source, n, window));
    join(producers.into_iter().map(complete).collect()).await;
    let cost = meter.stop();
    pool.finish().await;
    Timed { cost, n: setup.n, latency: None }
}

async fn until_handled<P: AsyncPool>(setup: &Setup) -> Timed {
    let mut pool = P::start(setup).await;
    let n = setup.n / setup.producers;
    let producers = producers(setup, &mut pool);
    let meter = Meter::start();
    let forget = |(producer, source)| tokio::spawn(forget::<P::Producer>(producer, source, n));
    join(producers.into_iter().map(forget).collect()).await;
    pool.finish().await;
    Timed { cost: meter.stop(), n: setup.n, latency: None }
}

fn producers<P: AsyncPool>(setup: &Setup, pool: &mut P) -> Vec<(P::Producer, Source)> {
    let source = |number| Source::new(number, setup.producers);
    (0..setup.producers).map(|number| (pool.producer(number), source(number))).collect()
}

async fn join(tasks: Vec<JoinHandle<()>>) {
    for task in tasks {
        task.await.expect("a producer does not panic");
    }
}

async fn complete<P: AsyncProducer>(mut producer: P, mut source: Source, n: usize, window: usize) {
    let mut answers = VecDeque::with_capacity(window);
    for _ in 0..n {
        if answers.len() == window {
            let oldest = answers.pop_front().expect("the window is full");
            P::wait(oldest).await;
        }
        answers.push_back(producer.submit(source.next_message()).await);
    }
    for answer in answers {
        P::wait(answer).await;
    }
    // Freeing ten thousand payloads is no part of what is measured.
    std::mem::forget(source);
}

async fn forget<P: AsyncProducer>(mut producer: P, mut source: Source, n: usize) {
    for _ in 0..n {
        producer.forget(source.next_message()).await;
    }
    std::mem::forget(source);
}

async fn ask<P: AsyncPool>(setup: &Setup, pause_ns: u64) -> Timed {
    let mut pool = P::start(setup).await;
    let asking = asks(pool.producer(0), setup.work.clock, setup.n, pause_ns);
    let timed = tokio::spawn(asking).await.expect("a producer does not panic");
    pool.finish().await;
    timed
}

async fn asks<P: AsyncProducer>(mut producer: P, clock: Nanos, asks: usize, pause_ns: u64) -> Timed {
    let mut source = Source::new(0, 1);
    let n = asks - WARM_UP;
    let mut latencies = Vec::with_capacity(n);
    let mut meter = Meter::start();
    for number in 0..asks {
        if number == WARM_UP {
            meter = Meter::start();
        }
        if pause_ns > 0 {
            spin_for(clock, pause_ns);
        }
        let message = source.next_message();
        let start = clock.now();
        let answer = producer.submit(message).await;
        P::wait(answer).await;
        let latency_ns = clock.now() - start;
        if number >= WARM_UP {
            latencies.push(latency_ns);
        }
    }
    Timed { cost: meter.stop(), n, latency: Percentiles::of(latencies) }
}

/// The producer is a plain thread, so that its spinning does not take a thread of the runtime. It looks at no answer
/// before the end.
async fn rate<P: AsyncPool>(setup: &Setup) -> Timed {
    let mut pool = P::start(setup).await;
    let (mut producer, clock, n) = (pool.producer(0), setup.work.clock, setup.n);
    let meter = Meter::start();
    let sending = tokio::task::spawn_blocking(move || {
        let mut source = Source::new(0, 1);
        let mut answers = Vec::with_capacity(n);
        let start = clock.now();
        for id in 0..n {
            let due_ns = start + id as u64 * RATE_STEP_NS;
            while clock.now() < due_ns {
                std::hint::spin_loop();
            }
            let message = Message { due_ns, id: id as u32, ..source.next_message() };
            answers.push(producer.submit_from_outside(message));
        }
        answers
    });
    for answer in sending.await.expect("a producer does not panic") {
        P::Producer::wait(answer).await;
    }
    let cost = meter.stop();
    pool.finish().await;
    Timed { cost, n, latency: setup.work.latencies(WARM_UP) }
}
