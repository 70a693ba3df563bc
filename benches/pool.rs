//! The pool on its own: hand-over, answers, batches. The shapes are defined in `benches/README.md`.

use divan::Bencher;
use divan::counter::ItemsCount;
use keylane::pool::{Completion, Handler, Key, Outcome, PoolBuilder, Request, RequestPool, Turn};
use std::collections::VecDeque;
use std::time::Instant;

fn main() {
    divan::main();
}

const JOBS: u64 = 1_000_000;
const KEYS: u64 = 10_000;
const WINDOW: usize = 1_024;
const BATCH: u64 = 32;

fn key(n: u64) -> Key {
    // A fixed walk over the keys; 7,919 is prime to their number.
    Key::of_number(n.wrapping_mul(7_919) % KEYS)
}

fn pool(workers: usize) -> RequestPool<u64, u64> {
    pool_of(workers, WINDOW)
}

fn pool_of(workers: usize, capacity: usize) -> RequestPool<u64, u64> {
    PoolBuilder::new()
        .workers(workers)
        .capacity(capacity)
        .shared(|n: u64| divan::black_box(n) + 1)
        .expect("starts")
}

#[divan::bench(sample_count = 9, sample_size = 1)]
fn forget_single(bencher: Bencher) {
    bencher.counter(ItemsCount::new(JOBS)).with_inputs(|| pool(1)).bench_values(|pool| {
        for n in 0..JOBS {
            if let Err(full) = pool.try_send(key(n), Request::tell(n)) {
                pool.send(key(n), full.into_job()).wait().expect("the pool is open");
            }
        }
        pool.close().wait();
    });
}

#[divan::bench(args = [1_024, 65_536], sample_count = 9, sample_size = 1)]
fn forget_batches_of_32(bencher: Bencher, capacity: usize) {
    bencher.counter(ItemsCount::new(JOBS)).with_inputs(|| pool_of(1, capacity)).bench_values(|pool| {
        let mut batch = Vec::with_capacity(BATCH as usize);
        for first in (0..JOBS).step_by(BATCH as usize) {
            batch.extend((first..first + BATCH).map(|n| (key(n), Request::tell(n))));
            while !batch.is_empty() && pool.try_send_batch(&mut batch) == 0 {
                let (key, job) = batch.remove(0);
                pool.send(key, job).wait().expect("the pool is open");
            }
        }
        pool.close().wait();
    });
}

#[divan::bench(args = [2, 8], sample_count = 9, sample_size = 1)]
fn answers_in_a_window_of_1024(bencher: Bencher, workers: usize) {
    bencher.counter(ItemsCount::new(JOBS)).with_inputs(|| pool(workers)).bench_values(|pool| {
        let mut window: VecDeque<Completion<u64, u64>> = VecDeque::with_capacity(WINDOW);
        for n in 0..JOBS {
            if window.len() == WINDOW {
                window.pop_front().expect("it is full").wait().expect("an answer");
            }
            window.push_back(match pool.try_submit(key(n), n) {
                Ok(answer) => answer,
                Err(full) => pool.submit(key(n), full.into_job()).wait().expect("the pool is open"),
            });
        }
        for answer in window {
            answer.wait().expect("an answer");
        }
    });
}

#[divan::bench]
fn ask_and_wait(bencher: Bencher) {
    let pool = pool(1);
    bencher.bench_local(|| pool.submit(key(1), 1).wait().expect("open").wait().expect("an answer"));
}

/// A handler that a bench steps on its own thread.
struct Count;

impl Handler for Count {
    type Job = u64;
    type Future = std::future::Ready<()>;

    fn handle(&mut self, job: &mut u64, _: Instant) -> Outcome<Self::Future> {
        divan::black_box(*job);
        Outcome::Done
    }
    fn resolve(&mut self, _: &mut u64, (): (), _: Instant) -> Outcome<Self::Future> {
        Outcome::Done
    }
    fn panicked(&mut self, _: &mut u64, _: String, _: Instant) -> Outcome<Self::Future> {
        Outcome::Done
    }
    fn expired(&mut self, _: &mut u64, _: Instant) -> Outcome<Self::Future> {
        Outcome::Done
    }
}

#[divan::bench]
fn lane_64_jobs_on_one_thread(bencher: Bencher) {
    let (pool, mut workers) = PoolBuilder::new().workers(1).capacity(64).stepped(|_| Count).expect("starts");
    let now = Instant::now();
    bencher.counter(ItemsCount::new(64_u32)).bench_local(|| {
        for n in 0..64 {
            pool.try_send(key(n), n).expect("room");
        }
        while workers[0].step(now) == Turn::Ran {}
    });
}
