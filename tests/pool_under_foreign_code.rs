//! Whatever a user's code does to a pool, by a panic or a drop where nobody expects one, a caller gets an answer, other
//! jobs go on, and the pool ends.

#![allow(unreachable_pub, reason = "the modules of a test program have no public face")]

mod support;

use keylane::Clock;
use keylane::pool::{
    Handler, JobError, Key, Outcome, Pool, PoolBuilder, Request, RequestPool, Sending, Turn, WaitingNow,
    Worker,
};
use std::future::Future;
use std::panic::panic_any;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};
use support::quiet_planted_panics;

const SOON: Duration = Duration::from_secs(60);

type Ready = std::future::Ready<()>;

/// Panics when it is dropped, unless it was made harmless.
#[derive(Debug)]
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "planted: a drop");
    }
}

fn ends(pool: &Pool<impl Send>) {
    assert!(pool.close().wait_timeout(SOON).is_ok(), "the pool does not end");
}

#[test]
fn a_payload_that_panics_when_it_is_dropped_is_the_answer_of_its_job_alone() {
    quiet_planted_panics();
    let handle = |n: u32| if n == 1 { panic_any(Bomb) } else { n };
    let pool = PoolBuilder::new().workers(1).shared(handle).unwrap();
    let answer = pool.try_submit(Key::of("a"), 1).unwrap();
    assert!(matches!(answer.wait(), Err(JobError::Panicked(message)) if message.contains("not a text")));
    assert_eq!(pool.try_submit(Key::of("a"), 2).unwrap().wait(), Ok(2));
    ends(&pool);
    let futures = PoolBuilder::new().workers(1).asynchronous(move |n: u32| async move { handle(n) }).unwrap();
    assert!(futures.try_submit(Key::of("a"), 1).unwrap().wait().is_err());
    assert_eq!(futures.try_submit(Key::of("a"), 2).unwrap().wait(), Ok(2));
    ends(&futures);
}

#[test]
fn a_job_whose_drop_panics_answers_when_it_is_abandoned() {
    quiet_planted_panics();
    let pool = PoolBuilder::new().workers(1).shared(|bomb: Bomb| std::mem::forget(bomb)).unwrap();
    // A stepped worker would be dropped on this thread; a hook that never runs its turns is the quickest end.
    let never_run =
        PoolBuilder::new().workers(1).enter(|_| {}).shared(|bomb: Bomb| std::mem::forget(bomb)).unwrap();
    let mut left = Vec::new();
    for _ in 0..100 {
        match never_run.try_submit(Key::of("a"), Bomb) {
            Ok(answer) => left.push(answer),
            Err(refused) => std::mem::forget(refused.into_job()),
        }
    }
    for answer in left {
        assert_eq!(answer.wait(), Err(JobError::Abandoned));
    }
    ends(&never_run);
    assert_eq!(pool.try_submit(Key::of("a"), Bomb).expect("there is room").wait(), Ok(()));
    ends(&pool);
}

/// Holds its jobs until an operator comes, then notes them; its parts panic where it is told to.
#[derive(Default)]
struct Held {
    is_released: Arc<AtomicBool>,
    ended: Arc<Mutex<Vec<u32>>>,
    abandoned: Arc<Mutex<Vec<u32>>>,
    panics_in_flush: bool,
    panics_in_is_turn_long: bool,
    panics_in_abandoned: bool,
    bomb: Option<Bomb>,
}

impl Handler for Held {
    type Job = u32;
    type Future = Ready;

    fn handle(&mut self, job: &mut u32, _: Instant) -> Outcome<Ready> {
        if !self.is_released.load(Relaxed) {
            return Outcome::Hold;
        }
        self.ended.lock().unwrap().push(*job);
        Outcome::Done
    }
    fn abandoned(&mut self, job: u32) {
        self.abandoned.lock().unwrap().push(job);
        assert!(!self.panics_in_abandoned, "planted: abandoned");
    }
    fn is_turn_long(&self, _: Instant) -> bool {
        assert!(!self.panics_in_is_turn_long, "planted: is_turn_long");
        false
    }
    fn flush(&mut self, _: WaitingNow) {
        assert!(!self.panics_in_flush, "planted: flush");
    }
}

/// Three keys, the first job of each held and another behind it: 11, 12, 21, 22, 31, 32.
fn three_held() -> (Pool<u32>, Worker<Held>, Held) {
    quiet_planted_panics();
    let held = Held::default();
    let (is_released, ended, abandoned) =
        (held.is_released.clone(), held.ended.clone(), held.abandoned.clone());
    let shown = Held { is_released, ended, abandoned, ..Held::default() };
    let mut held = Some(held);
    let (pool, mut workers) = PoolBuilder::new().workers(1).stepped(|_| held.take().expect("one")).unwrap();
    for job in [11, 21, 31, 12, 22, 32] {
        pool.try_send(Key::of_number(u64::from(job) / 10), job).unwrap();
    }
    let mut worker = workers.remove(0);
    settle(&mut worker);
    (pool, worker, shown)
}

fn settle<H: Handler>(worker: &mut Worker<H>) -> Turn {
    let now = Instant::now();
    loop {
        match worker.step(now) {
            Turn::Ran | Turn::Snooze => {}
            turn => return turn,
        }
    }
}

#[test]
fn a_visit_that_panics_loses_no_job_and_no_place_and_breaks_no_order() {
    for asked in 0..6 {
        let (pool, mut worker, shown) = three_held();
        let visit = pool.visit(move |keys, _| {
            let mut asked = asked;
            keys.remove_where(&mut |_| {
                assert!(asked > 0, "planted: a predicate");
                asked -= 1;
                true
            });
        });
        settle(&mut worker);
        assert!(visit.is_done(), "a visit that panics is over");
        let visit = pool.visit(|keys, _| keys.for_each(&mut |_| panic!("planted: a look")));
        settle(&mut worker);
        assert!(visit.is_done());
        assert_eq!(pool.depths().sum::<u64>(), 6);
        shown.is_released.store(true, Relaxed);
        drop(pool.visit(|keys, _| {
            for key in 1..=3 {
                assert!(keys.run_now(Key::of_number(key)));
            }
        }));
        settle(&mut worker);
        let ended = shown.ended.lock().unwrap().clone();
        for key in 1..=3 {
            let of_key: Vec<u32> = ended.iter().copied().filter(|job| job / 10 == key).collect();
            assert_eq!(of_key, [key * 10 + 1, key * 10 + 2]);
        }
        assert_eq!(pool.depths().sum::<u64>(), 0, "a place is lost");
        drop(pool.close());
        assert_eq!(settle(&mut worker), Turn::Exit);
    }
}

#[test]
fn a_handler_that_panics_in_its_small_parts_goes_on_and_ends() {
    quiet_planted_panics();
    let parts: [fn(&mut Held); 4] = [
        |held| held.panics_in_flush = true,
        |held| held.panics_in_is_turn_long = true,
        |held| held.panics_in_abandoned = true,
        |held| held.bomb = Some(Bomb),
    ];
    for part in parts {
        let ended = Arc::new(Mutex::new(Vec::new()));
        let abandoned = Arc::new(Mutex::new(Vec::new()));
        let (log, left) = (ended.clone(), abandoned.clone());
        let make = move |_| {
            let mut held = Held { ended: log.clone(), abandoned: left.clone(), ..Held::default() };
            held.is_released.store(true, Relaxed);
            part(&mut held);
            held
        };
        let pool = PoolBuilder::new().workers(1).start(make).unwrap();
        for n in 0..200 {
            pool.send(Key::of_number(n.into()), n).wait().unwrap();
        }
        support::eventually("all are handled", || ended.lock().unwrap().len() == 200).unwrap();
        pool.send(Key::of("a"), 200).wait().unwrap();
        assert!(pool.drain(Duration::ZERO).wait_timeout(SOON).is_ok());
        assert_eq!(ended.lock().unwrap().len() + abandoned.lock().unwrap().len(), 201);
    }
}

#[test]
fn a_sleeper_that_panics_is_not_the_submitters_panic() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("planted: a sleeper");
        }
    }
    quiet_planted_panics();
    let (pool, mut workers) = PoolBuilder::new().workers(1).stepped(|_| Held::default()).unwrap();
    workers[0].set_sleeper(Waker::from(Arc::new(Panics)));
    for _ in 0..2 {
        assert_eq!(settle(&mut workers[0]), Turn::Park(None));
        assert!(pool.try_send(Key::of("a"), 1).is_ok());
    }
    drop(pool.visit(|_, _| ()));
    settle(&mut workers[0]);
    drop(pool.drain(Duration::ZERO));
    assert_eq!(settle(&mut workers[0]), Turn::Exit);
}

type Jobs = RequestPool<Box<dyn FnOnce() + Send>, ()>;

#[test]
fn the_last_handle_may_go_on_a_worker_while_another_waits_for_it() {
    let pool: Jobs = PoolBuilder::new().workers(2).shared(|job: Box<dyn FnOnce() + Send>| job()).unwrap();
    let key =
        |worker| (0..1_000).map(Key::of_number).find(|key| key.worker(2) == worker).expect("there is one");
    let (slot, gate, waiting) =
        (Arc::new(Mutex::new(None::<Jobs>)), support::Gate::default(), support::Gate::default());
    let (taken, at, waits_now) = (slot.clone(), gate.clone(), waiting.clone());
    let drops: Box<dyn FnOnce() + Send> = Box::new(move || {
        at.pass();
        drop(taken.lock().unwrap().take());
    });
    let over = pool.try_submit(key(0), drops).expect("there is room");
    let behind = pool.try_submit(key(0), Box::new(|| ())).expect("there is room");
    let waits: Box<dyn FnOnce() + Send> = Box::new(move || {
        waits_now.open();
        assert_eq!(behind.wait(), Err(JobError::Abandoned));
    });
    let other = pool.try_submit(key(1), waits).expect("there is room");
    waiting.pass();
    *slot.lock().unwrap() = Some(pool);
    gate.open();
    assert_eq!(over.wait_timeout(SOON).ok(), Some(Ok(())));
    assert_eq!(other.wait_timeout(SOON).ok(), Some(Ok(())));
}

/// Waits in its flush for a job of its own lane.
struct WaitsForItself {
    pool: Arc<OnceLock<RequestPool<u32, u32>>>,
    found: Arc<Mutex<Vec<Result<u32, JobError>>>>,
}

impl Handler for WaitsForItself {
    type Job = Request<u32, u32>;
    type Future = Ready;

    fn handle(&mut self, _: &mut Self::Job, _: Instant) -> Outcome<Ready> {
        Outcome::Done
    }
    fn flush(&mut self, _: WaitingNow) {
        let is_first = self.found.lock().unwrap().is_empty();
        if let (true, Some(pool)) = (is_first, self.pool.get()) {
            let answer = pool.try_submit(Key::of("a"), 2).expect("there is room");
            let answer = answer
                .wait_timeout(SOON)
                .expect_err("it is given back at once, and can be awaited elsewhere");
            self.found.lock().unwrap().push(answer.wait());
        }
    }
}

#[test]
fn a_wait_for_the_own_lane_is_recognised_in_a_flush_too() {
    let (pool, found) = (Arc::new(OnceLock::new()), Arc::new(Mutex::new(Vec::new())));
    let (slot, log) = (pool.clone(), found.clone());
    let make = move |_| WaitsForItself { pool: slot.clone(), found: log.clone() };
    pool.set(PoolBuilder::new().workers(1).start(make).unwrap()).expect("it is set once");
    let pool = pool.get().expect("just set");
    pool.try_send(Key::of("a"), Request::tell(1)).unwrap();
    support::eventually("the flush has tried to wait", || !found.lock().unwrap().is_empty()).unwrap();
    assert_eq!(*found.lock().unwrap(), [Err(JobError::OwnLane)]);
    ends(pool);
}

#[test]
fn a_thread_may_wait_while_its_locals_are_dropped() {
    static POOL: OnceLock<RequestPool<u32, u32>> = OnceLock::new();
    static ANSWER: OnceLock<Result<u32, JobError>> = OnceLock::new();
    struct Waits;
    impl Drop for Waits {
        fn drop(&mut self) {
            let answer = POOL.get().expect("it is set").try_submit(Key::of("a"), 7).expect("there is room");
            ANSWER.set(answer.wait()).expect("one thread drops it");
        }
    }
    thread_local!(static WAITS: Waits = const { Waits });

    let gate = support::Gate::default();
    let at = gate.clone();
    let handle = move |n: u32| {
        at.pass();
        n
    };
    let pool =
        POOL.get_or_init(|| PoolBuilder::new().workers(1).shared(handle).expect("the settings are in range"));
    let thread = std::thread::spawn(move || {
        // Dropped behind what the library keeps for waits, which is used first below.
        WAITS.with(|_| ());
        let first = pool.try_submit(Key::of("a"), 1).expect("there is room");
        gate.open();
        first.wait().expect("it is handled");
    });
    thread.join().expect("it ends");
    assert_eq!(ANSWER.get(), Some(&Ok(7)));
}

/// Owns something else that waits, which goes with it.
struct Owns<T>(Mutex<Option<T>>);

impl<T: Send> Wake for Owns<T> {
    fn wake(self: Arc<Self>) {
        let owned = self.0.lock().unwrap().take();
        drop(owned);
    }
}

fn owner_of<T: Send + 'static>(owned: T) -> Waker {
    Waker::from(Arc::new(Owns(Mutex::new(Some(owned)))))
}

fn poll<F: Future + Unpin>(future: &mut F, waker: &Waker) -> bool {
    Pin::new(future).poll(&mut Context::from_waker(waker)).is_ready()
}

/// Runs what may lock itself out on a thread of its own.
fn in_time(what: &str, run: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(run);
    support::eventually(what, || thread.is_finished()).unwrap();
    thread.join().expect("it ends well");
}

#[test]
fn a_waker_may_own_another_one_that_waits_for_room() {
    in_time("wakers that own others that wait are replaced, dropped and woken", || {
        let (pool, mut workers) =
            PoolBuilder::new().workers(1).capacity(1).stepped(|_| Held::default()).unwrap();
        pool.try_send(Key::of("a"), 1).unwrap();
        let waiting = || {
            let mut sending: Sending<u32> = pool.send(Key::of("a"), 2);
            assert!(!poll(&mut sending, Waker::noop()));
            sending
        };
        // Replaced, withdrawn, woken, and dropped with the lane's other wakers at a close.
        let mut one = pool.send(Key::of("a"), 3);
        assert!(!poll(&mut one, &owner_of(waiting())));
        assert!(!poll(&mut one, &owner_of(waiting())));
        drop(one);
        let mut left: Vec<_> = (0..3).map(|n| pool.send(Key::of("a"), n)).collect();
        for one in &mut left {
            assert!(!poll(one, &owner_of(waiting())));
        }
        drop(pool.drain(Duration::ZERO));
        assert_eq!(settle(&mut workers[0]), Turn::Exit);
    });
}

#[test]
fn a_waker_may_own_another_one_that_listens_to_the_clock() {
    in_time("wakers that own registrations are woken and dropped", || {
        let (clock, time) = Clock::manual();
        let outer = clock.register(owner_of(clock.register(Waker::noop().clone())));
        let kept = clock.register(owner_of(clock.register(Waker::noop().clone())));
        drop(outer);
        time.advance(Duration::from_secs(1));
        drop(kept);
    });
}

/// Panics at whatever is logged.
struct Panics;

impl tracing::Subscriber for Panics {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        panic!("planted: a subscriber");
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// Panics in each of its parts.
struct PanicsAlways;

impl Handler for PanicsAlways {
    type Job = u32;
    type Future = Ready;

    fn handle(&mut self, _: &mut u32, _: Instant) -> Outcome<Ready> {
        panic!("planted: handle")
    }
    fn panicked(&mut self, _: &mut u32, _: String, _: Instant) -> Outcome<Ready> {
        panic!("planted: panicked")
    }
    fn abandoned(&mut self, _: u32) {
        panic!("planted: abandoned")
    }
    fn flush(&mut self, _: WaitingNow) {
        panic!("planted: flush")
    }
}

#[test]
fn who_reads_the_log_may_panic_at_every_line_of_it() {
    quiet_planted_panics();
    tracing::subscriber::with_default(Panics, || {
        let (pool, mut workers) = PoolBuilder::new().workers(1).stepped(|_| PanicsAlways).unwrap();
        for n in 0..3 {
            pool.try_send(Key::of("a"), n).unwrap();
        }
        settle(&mut workers[0]);
        assert_eq!(pool.depths().sum::<u64>(), 0, "each job is over");
        let visit = pool.visit(|_, _| panic!("planted: a visit"));
        settle(&mut workers[0]);
        assert!(visit.is_done());
        pool.try_send(Key::of("a"), 3).unwrap();
        drop(pool.drain(Duration::ZERO));
        assert_eq!(settle(&mut workers[0]), Turn::Exit);
    });
}
