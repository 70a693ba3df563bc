//! A job with an answer that waits for room: `Submitting` in `src/pool/request.rs`.

use crate::support::{Life, Log, Tracked, Wakes, key, leaving_nothing, spawn, wide_model, with_room};
use keylane::loom_internals::block_on;
use keylane::pool::{Handler, JobError, Outcome, PoolBuilder, Request, RequestPool, SendError, Worker};
use std::future::{Future, Ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::time::Instant;

/// Drops each job, whose answer is then that it was abandoned.
struct Dropping(Log<()>);

impl Handler for Dropping {
    type Job = Request<Tracked, Tracked>;
    type Future = Ready<()>;

    fn handle(&mut self, _: &mut Self::Job, _: Instant) -> Outcome<Ready<()>> {
        self.0.note(());
        Outcome::Done
    }

    fn resolve(&mut self, _: &mut Self::Job, (): (), _: Instant) -> Outcome<Ready<()>> {
        unreachable!("nothing is leased")
    }

    fn panicked(&mut self, _: &mut Self::Job, message: String, _: Instant) -> Outcome<Ready<()>> {
        unreachable!("{message}")
    }

    fn expired(&mut self, _: &mut Self::Job, _: Instant) -> Outcome<Ready<()>> {
        unreachable!("nothing is leased")
    }
}

/// A worker with room for one job, and a job in it.
fn full(log: &Log<()>) -> (RequestPool<Tracked, Tracked>, Worker<Dropping>) {
    let (pool, mut workers) =
        PoolBuilder::new().workers(1).capacity(1).stepped(|_| Dropping(log.clone())).expect("it is in range");
    drop(pool.try_submit(key(1), Tracked::new()).expect("there is room"));
    (pool, workers.remove(0))
}

/// If it fails: one that waits for room and is dropped, perhaps just when it is woken, takes the turn of another one
/// with it, or its job is leaked.
#[test]
fn a_submit_that_is_dropped_while_it_waits_is_in_nobodys_way() {
    let model = || {
        let log = Log::new();
        let (pool, mut worker) = full(&log);
        let wakes = Arc::new(Wakes::default());
        let mut waits = pool.submit(key(1), Tracked::new());
        let early = Pin::new(&mut waits).poll(&mut Context::from_waker(&wakes.clone().into()));
        assert!(early.is_pending());
        let goes = spawn(move || drop(waits));
        let other = {
            let pool = pool.clone();
            spawn(move || drop(block_on(pool.submit(key(1), Tracked::new())).expect("it is open")))
        };
        Life::of(&worker).goes_on(&mut worker, Instant::now(), || log.len() == 2);
        goes.join().unwrap();
        other.join().unwrap();
        assert_eq!(Arc::strong_count(&wakes), 1, "a waker was left behind");
    };
    wide_model(1, with_room(leaving_nothing(model)));
}

/// If it fails: a job that waits for room when its pool is closed is neither handled nor given back, or both.
#[test]
fn a_submit_that_waits_gives_its_job_back_when_the_pool_is_closed() {
    let model = || {
        let log = Log::new();
        let (pool, mut worker) = full(&log);
        let submitter = {
            let pool = pool.clone();
            spawn(move || match block_on(pool.submit(key(1), Tracked::new())) {
                Ok(answer) => {
                    assert_eq!(answer.wait().err(), Some(JobError::Abandoned), "it was accepted and handled");
                    true
                }
                Err(SendError::Closed(_job)) => false,
                Err(refused) => panic!("this is no worker: {refused:?}"),
            })
        };
        let closer = {
            let pool = pool.clone();
            spawn(move || pool.close().wait())
        };
        assert!(Life::of(&worker).goes_on(&mut worker, Instant::now(), || false));
        let handled = log.len();
        closer.join().unwrap();
        assert_eq!(handled, 1 + usize::from(submitter.join().unwrap()));
    };
    wide_model(1, with_room(leaving_nothing(model)));
}
