//! The pool on its own, with real threads.

#![allow(unreachable_pub, reason = "the modules of a test program have no public face")]

mod support;

use keylane::pool::{Handler, JobError, Key, Outcome, PoolBuilder, Request, SendError, Turn};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::{Gate, eventually};

#[test]
fn jobs_of_one_key_run_in_the_order_of_their_submission() {
    let seen = Arc::new(Mutex::new(vec![Vec::new(); 7]));
    let log = seen.clone();
    let pool = PoolBuilder::new()
        .workers(3)
        .capacity(8)
        .shared(move |(key, n): (usize, u32)| log.lock().unwrap()[key].push(n))
        .unwrap();
    for n in 0..1_000 {
        for key in 0..7 {
            pool.send(Key::of_number(key as u64), Request::tell((key, n))).wait().unwrap();
        }
    }
    pool.close().wait();
    for key in &*seen.lock().unwrap() {
        assert_eq!(*key, (0..1_000).collect::<Vec<_>>());
    }
}

#[test]
fn a_completion_says_when_its_answer_is_there() {
    let gate = Gate::default();
    let at_gate = gate.clone();
    let square = move |n: u32| {
        at_gate.pass();
        n * n
    };
    let pool = PoolBuilder::new().workers(1).shared(square).unwrap();
    let answer = pool.submit(Key::of("a"), 7).wait().unwrap();
    assert!(!answer.is_done());
    gate.open();
    eventually("it is answered", || answer.is_done()).unwrap();
    assert_eq!(answer.wait_timeout(Duration::ZERO).expect("it is there"), Ok(49));
}

#[test]
fn a_panic_is_the_answer_of_its_job_and_the_worker_goes_on() {
    let pool = PoolBuilder::new().workers(1).shared(|n: u32| if n == 1 { panic!("one") } else { n }).unwrap();
    let failed = pool.submit(Key::of("a"), 1).wait().unwrap();
    let next = pool.submit(Key::of("a"), 2).wait().unwrap();
    assert_eq!(failed.wait(), Err(JobError::Panicked("one".to_owned())));
    assert_eq!(next.wait(), Ok(2));
}

#[test]
fn a_full_lane_gives_the_job_back_and_submit_waits_for_room() {
    let gate = Arc::new(Mutex::new(()));
    let closed = gate.lock().unwrap();
    let at_gate = gate.clone();
    let pool = PoolBuilder::new()
        .workers(1)
        .capacity(2)
        .shared(move |n: u32| {
            drop(at_gate.lock());
            n
        })
        .unwrap();
    let key = Key::of("a");
    let first = pool.try_submit(key, 1).unwrap();
    let second = pool.try_submit(key, 2).unwrap();
    assert_eq!(pool.try_submit(key, 3).unwrap_err().into_job(), 3);
    let waiting = std::thread::spawn({
        let pool = pool.clone();
        move || pool.submit(key, 4).wait().unwrap().wait()
    });
    drop(closed);
    assert_eq!((first.wait(), second.wait(), waiting.join().unwrap()), (Ok(1), Ok(2), Ok(4)));
}

#[test]
fn a_future_that_waits_blocks_its_key_and_no_other() {
    let gate = support::Gate::default();
    let at = gate.clone();
    let pool = PoolBuilder::new()
        .workers(1)
        .asynchronous(move |n: u32| {
            let at = at.clone();
            async move {
                if n == 0 {
                    at.passed().await;
                }
                Instant::now()
            }
        })
        .unwrap();
    let slow = pool.submit(Key::of("slow"), 0).wait().unwrap();
    let behind = pool.submit(Key::of("slow"), 1).wait().unwrap();
    let other = pool.submit(Key::of("other"), 2).wait().unwrap();
    let other = other.wait().unwrap();
    gate.open();
    let (slow, behind) = (slow.wait().unwrap(), behind.wait().unwrap());
    assert!(other < slow && slow <= behind);
}

#[test]
fn a_cancelled_job_is_given_back_and_never_runs() {
    let gate = support::Gate::default();
    let (at, ran) = (gate.clone(), Arc::new(Mutex::new(Vec::new())));
    let log = ran.clone();
    let pool = PoolBuilder::new()
        .workers(1)
        .shared(move |n: u32| {
            log.lock().unwrap().push(n);
            at.pass();
            n
        })
        .unwrap();
    let running = pool.submit(Key::of("a"), 20).wait().unwrap();
    let queued = pool.submit(Key::of("a"), 1).wait().unwrap();
    assert_eq!(queued.cancel().unwrap(), 1);
    gate.open();
    assert_eq!(running.wait(), Ok(20));
    pool.close().wait();
    assert_eq!(*ran.lock().unwrap(), [20]);
}

#[test]
fn a_worker_that_would_wait_for_itself_gets_an_error() {
    let pool = Arc::new(std::sync::OnceLock::<keylane::pool::RequestPool<u32, bool>>::new());
    let inner = pool.clone();
    let started = PoolBuilder::new()
        .workers(1)
        .shared(move |n: u32| {
            let Some(pool) = inner.get() else { return false };
            n == 0 || pool.submit(Key::of("b"), 0).wait().unwrap().wait() == Err(JobError::OwnLane)
        })
        .unwrap();
    pool.set(started).unwrap();
    assert_eq!(pool.get().unwrap().submit(Key::of("a"), 1).wait().unwrap().wait(), Ok(true));
    pool.get().unwrap().close().wait();
}

/// A handler that does nothing with its jobs.
struct Nothing;
impl Handler for Nothing {
    type Job = Request<u32, u32>;
    type Future = std::future::Ready<()>;
    fn handle(&mut self, _: &mut Self::Job, _: Instant) -> Outcome<Self::Future> {
        Outcome::Done
    }
    fn resolve(&mut self, _: &mut Self::Job, (): (), _: Instant) -> Outcome<Self::Future> {
        Outcome::Done
    }
    fn panicked(&mut self, _: &mut Self::Job, _: String, _: Instant) -> Outcome<Self::Future> {
        Outcome::Done
    }
    fn expired(&mut self, _: &mut Self::Job, _: Instant) -> Outcome<Self::Future> {
        Outcome::Done
    }
}

#[test]
fn a_handler_that_cannot_be_made_ends_its_worker_and_leaves_nobody_waiting() {
    support::quiet_planted_panics();
    let gate = support::Gate::default();
    let at = gate.clone();
    let pool = PoolBuilder::new()
        .workers(1)
        .start(move |_| -> Nothing {
            at.pass();
            panic!("planted")
        })
        .unwrap();
    let accepted = pool.submit(Key::of("a"), 1).wait().unwrap();
    gate.open();
    assert_eq!(accepted.wait(), Err(JobError::Abandoned));
    assert!(matches!(pool.submit(Key::of("a"), 2).wait(), Err(SendError::Closed(2))));
    pool.close().wait();
}

#[test]
fn a_stepped_worker_without_a_sleeper_is_stepped_by_its_holder_alone() {
    let (pool, mut workers) = PoolBuilder::new().workers(1).stepped(|_| Nothing).unwrap();
    let now = Instant::now();
    assert_eq!(workers[0].step(now), Turn::Park(None));
    pool.try_send(Key::of("a"), Request::tell(1)).unwrap();
    assert_eq!(workers[0].step(now), Turn::Ran);
    assert_eq!(workers[0].step(now), Turn::Park(None));
    drop(pool.close());
    assert_eq!(workers[0].step(now), Turn::Exit);
}

/// Notes the keys of the jobs that ended, and tries the first job of key 0 again at `at`.
struct OneWaits {
    at: Instant,
    ended: Arc<Mutex<Vec<u64>>>,
    has_waited: bool,
}

impl Handler for OneWaits {
    type Job = u64;
    type Future = std::future::Ready<()>;

    fn handle(&mut self, key: &mut u64, _: Instant) -> Outcome<Self::Future> {
        if *key == 0 && !std::mem::replace(&mut self.has_waited, true) {
            return Outcome::RetryAt(self.at);
        }
        self.ended.lock().unwrap().push(*key);
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

#[test]
fn a_long_backlog_and_new_jobs_take_turns() {
    let (ended, now) = (Arc::new(Mutex::new(Vec::new())), Instant::now());
    let at = now + Duration::from_secs(1);
    let handler = |_| OneWaits { at, ended: ended.clone(), has_waited: false };
    let (pool, mut workers) = PoolBuilder::new().workers(1).capacity(512).stepped(handler).unwrap();
    let send = |key: u64, jobs: usize| {
        (0..jobs).for_each(|_| pool.try_send(Key::of_number(key), key).expect("there is room"));
    };
    send(0, 200);
    while workers[0].step(now) == Turn::Ran {}
    assert!(ended.lock().unwrap().is_empty(), "the first one waits, and the others behind it");
    for key in 1..=40 {
        send(key, 1);
    }
    while workers[0].step(at) == Turn::Ran {}
    let ended = ended.lock().unwrap();
    assert_eq!(ended.len(), 240, "neither starves");
    let before_new = |n: u64| {
        let end = ended.iter().position(|key| *key == n).expect("it has ended");
        ended[..end].iter().filter(|key| **key == 0).count()
    };
    // One of the backlog for eight new ones.
    assert_eq!([1, 8, 9, 40].map(before_new), [1, 1, 2, 5]);
}
