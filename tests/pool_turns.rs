//! What a worker does in one turn, and that nothing in it holds up the rest: wakes, times, the limit of a drain, long
//! queues. Workers are stepped here, by a clock that is moved by hand.

use keylane::pool::{Handler, Key, Outcome, Pool, PoolBuilder, PoolError, Turn, Worker};
use keylane::{Clock, ManualClock};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Barrier, Mutex, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

const MS: Duration = Duration::from_millis(1);
/// More jobs than any turn takes.
const MANY: u64 = 1_000;

type Ready = std::future::Ready<()>;

/// A handler made of a closure.
struct Calls<J>(Handle<J>);

type Handle<J> = Box<dyn FnMut(&mut J, Instant) -> Outcome<Ready>>;

impl<J: Send + 'static> Handler for Calls<J> {
    type Job = J;
    type Future = Ready;

    fn handle(&mut self, job: &mut J, now: Instant) -> Outcome<Ready> {
        (self.0)(job, now)
    }
}

/// One worker of a pool that is stepped, the pool in a place where handlers find it too, and its time.
struct Stepped<J: Send + 'static> {
    pool: Shared<J>,
    worker: Worker<Calls<J>>,
    clock: Clock,
    time: ManualClock,
}

type Shared<J> = Arc<OnceLock<Mutex<Option<Pool<J>>>>>;

impl<J: Send + std::fmt::Debug + 'static> Stepped<J> {
    fn new<F>(capacity: usize, make: impl FnOnce(Shared<J>, Clock, ManualClock) -> F) -> Self
    where
        F: FnMut(&mut J, Instant) -> Outcome<Ready> + 'static,
    {
        let (clock, time) = Clock::manual();
        let pool = Shared::<J>::default();
        let mut handle = Some(make(pool.clone(), clock.clone(), time.clone()));
        let settings = PoolBuilder::new().workers(1).capacity(capacity).clock(clock.clone());
        let make = |_| Calls(Box::new(handle.take().expect("one worker")));
        let (made, mut workers) = settings.stepped(make).expect("the settings are in range");
        assert!(pool.set(Mutex::new(Some(made))).is_ok());
        Self { pool, worker: workers.remove(0), clock, time }
    }

    fn send(&self, jobs: impl IntoIterator<Item = (u64, J)>) {
        with(&self.pool, |pool| {
            for (key, job) in jobs {
                pool.try_send(Key::of_number(key), job).expect("there is room");
            }
        });
    }

    fn step(&mut self) -> Turn {
        let now = self.clock.now();
        self.worker.step(now)
    }

    /// Steps until there is nothing to do now.
    fn settle(&mut self) -> Turn {
        loop {
            match self.step() {
                Turn::Ran | Turn::Snooze => {}
                turn => return turn,
            }
        }
    }
}

fn with<J: Send + 'static, R>(pool: &Shared<J>, run: impl FnOnce(&Pool<J>) -> R) -> R {
    let pool = pool.get().expect("it is set before the first step").lock().unwrap();
    run(pool.as_ref().expect("it is still there"))
}

fn take<J: Send + 'static>(pool: &Shared<J>) -> Pool<J> {
    pool.get().expect("it is set before the first step").lock().unwrap().take().expect("it is still there")
}

/// What handlers noted, in their order.
type Log = Arc<Mutex<Vec<u64>>>;

#[test]
fn nothing_starts_after_a_pool_is_dropped_or_drained_without_time() {
    for is_dropped in [false, true] {
        let log = Log::default();
        let started = log.clone();
        let mut stepped = Stepped::new(4_096, |pool, _, _| {
            move |n: &mut u64, _| {
                started.lock().unwrap().push(*n);
                match *n {
                    1 if is_dropped => drop(take(&pool)),
                    1 => with(&pool, |pool| drop(pool.drain(Duration::ZERO))),
                    _ => {}
                }
                Outcome::Done
            }
        });
        // So many short turns that a turn takes as many jobs as it ever does.
        stepped.send((0..MANY).map(|n| (n, 0)));
        stepped.settle();
        stepped.send([(0, 1)].into_iter().chain((1..MANY).map(|n| (n, 2))));
        assert_eq!(stepped.settle(), Turn::Exit, "is dropped: {is_dropped}");
        let log = log.lock().unwrap();
        assert_eq!(log[MANY as usize..], [1], "is dropped: {is_dropped}");
    }
}

#[test]
fn the_limit_of_a_drain_begins_with_the_call_and_ends_between_two_jobs() {
    let log = Log::default();
    let started = log.clone();
    let mut stepped = Stepped::new(4_096, |pool, _, time| {
        move |n: &mut u64, _| {
            started.lock().unwrap().push(*n);
            match *n {
                0 => {}
                1 => {
                    with(&pool, |pool| drop(pool.drain(100 * MS)));
                    time.advance(60 * MS);
                }
                _ => time.advance(20 * MS),
            }
            Outcome::Done
        }
    });
    stepped.send((0..MANY).map(|n| (n, 0)));
    stepped.settle();
    stepped.send([(0, 1)].into_iter().chain((1..MANY).map(|n| (n, 2))));
    assert_eq!(stepped.settle(), Turn::Exit);
    // 60 ms, then twice 20 ms.
    assert_eq!(log.lock().unwrap()[MANY as usize..], [1, 2, 2]);
}

#[test]
fn a_record_that_waits_for_its_time_starts_behind_the_job_in_which_the_time_came() {
    let log = Log::default();
    let started = log.clone();
    let mut stepped = Stepped::new(4_096, |_, clock, time| {
        let due = clock.now() + 50 * MS;
        move |n: &mut u64, now| {
            if *n == 0 && now < due {
                return Outcome::RetryAt(due);
            }
            started.lock().unwrap().push(*n);
            if *n > 0 {
                time.advance(20 * MS);
            }
            Outcome::Done
        }
    });
    stepped.send([(0, 0)]);
    stepped.settle();
    stepped.send((1..MANY).map(|n| (n, n)));
    stepped.settle();
    // The time comes in the third job; its key's turn comes in the next turn, before further jobs of the lane.
    assert_eq!(log.lock().unwrap()[..5], [1, 2, 3, 0, 4]);
}

#[test]
fn slow_jobs_shrink_a_turn_to_one_of_them() {
    let in_turn = Arc::new(AtomicUsize::new(0));
    let ran = in_turn.clone();
    let mut stepped = Stepped::new(4_096, |_, _, time| {
        move |is_slow: &mut bool, _| {
            ran.fetch_add(1, Relaxed);
            if *is_slow {
                time.advance(20 * MS);
            }
            Outcome::Done
        }
    });
    stepped.send((0..MANY).map(|n| (n, true)));
    // The first turns are small before any of them has told how long jobs take.
    for turn in 0..5 {
        assert_eq!(stepped.step(), Turn::Ran);
        assert_eq!(in_turn.swap(0, Relaxed), 1, "turn {turn}");
    }
    stepped.settle();
    stepped.send((0..MANY).map(|n| (n, false)));
    stepped.settle();
    in_turn.store(0, Relaxed);
    stepped.send((0..MANY).map(|n| (n, true)));
    // One large turn at most, before it is known that jobs have become slow.
    assert_eq!(stepped.step(), Turn::Ran);
    in_turn.store(0, Relaxed);
    for turn in 0..5 {
        assert_eq!(stepped.step(), Turn::Ran);
        assert_eq!(in_turn.swap(0, Relaxed), 1, "turn {turn}");
    }
}

#[test]
fn keys_that_are_all_due_at_once_take_turns_with_new_jobs() {
    const KEYS: u64 = 20_000;
    let log = Log::default();
    let ended = log.clone();
    let mut stepped = Stepped::new(1 << 15, |_, clock, _| {
        let due = clock.now() + 50 * MS;
        move |n: &mut u64, now| {
            if now < due {
                return Outcome::RetryAt(due);
            }
            ended.lock().unwrap().push(*n);
            Outcome::Done
        }
    });
    stepped.send((0..KEYS).map(|n| (n, n)));
    stepped.settle();
    stepped.time.advance(50 * MS);
    stepped.send([(KEYS, KEYS)]);
    assert_eq!(stepped.step(), Turn::Ran);
    let first = log.lock().unwrap().clone();
    assert!(first.len() <= 128, "{} of the keys that are due ended in one turn", first.len());
    assert!(first.contains(&KEYS), "the new one did not get its turn beside those that are due");
    stepped.settle();
    assert_eq!(log.lock().unwrap().len(), KEYS as usize + 1);
}

/// Leases its job, as often as it says, to futures that are ready at once.
struct Chain {
    ended: Log,
}

impl Handler for Chain {
    type Job = u64;
    type Future = Ready;

    fn handle(&mut self, left: &mut u64, now: Instant) -> Outcome<Ready> {
        self.resolve(left, (), now)
    }

    fn resolve(&mut self, left: &mut u64, (): (), _: Instant) -> Outcome<Ready> {
        if *left == 0 {
            self.ended.lock().unwrap().push(*left);
            return Outcome::Done;
        }
        *left -= 1;
        Outcome::Lease(std::future::ready(()), None)
    }
}

#[test]
fn leases_that_are_ready_again_and_again_overflow_no_stack_and_let_others_by() {
    let ended = Log::default();
    let make = |_| Chain { ended: ended.clone() };
    let (pool, mut workers) = PoolBuilder::new().workers(1).stepped(make).unwrap();
    let now = Instant::now();
    pool.try_send(Key::of_number(1), 200_000).unwrap();
    assert_eq!(workers[0].step(now), Turn::Ran);
    pool.try_send(Key::of_number(2), 0).unwrap();
    assert_eq!(workers[0].step(now), Turn::Ran);
    assert_eq!(ended.lock().unwrap().len(), 1, "the other key waits for the chain");
    while workers[0].step(now) == Turn::Ran {}
    assert_eq!((ended.lock().unwrap().len(), pool.depths().sum::<u64>()), (2, 0));
}

/// Counts its wakes.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

#[test]
fn as_many_are_woken_for_room_as_there_is_room_for_and_in_the_order_in_which_they_came() {
    const WAITING: usize = 500;
    let log = Log::default();
    let ended = log.clone();
    let mut stepped = Stepped::new(2, |_, _, _| {
        move |n: &mut u64, _| {
            ended.lock().unwrap().push(*n);
            Outcome::Done
        }
    });
    stepped.send([(0, 0), (0, 0)]);
    let mut waiting: Vec<_> = (1..=WAITING as u64)
        .map(|n| (with(&stepped.pool, |pool| pool.send(Key::of_number(n), n)), Arc::new(Wakes::default())))
        .collect();
    let poll = |(sending, wakes): &mut (keylane::pool::Sending<u64>, Arc<Wakes>)| {
        let waker = Waker::from(wakes.clone());
        Pin::new(sending).poll(&mut Context::from_waker(&waker))
    };
    assert!(waiting.iter_mut().all(|one| poll(one).is_pending()));
    let woken =
        |waiting: &[(_, Arc<Wakes>)]| waiting.iter().map(|(_, wakes)| wakes.0.load(Relaxed)).sum::<usize>();
    assert_eq!(stepped.step(), Turn::Ran);
    let first = woken(&waiting);
    assert!((1..=2).contains(&first), "{first} were woken for two places");
    // Each time those who were woken come, and in the end all of them get in, one after the other.
    let mut steps = 0;
    while !waiting.is_empty() {
        waiting.retain_mut(|one| one.1.0.swap(0, Relaxed) == 0 || poll(one).is_pending());
        stepped.step();
        steps += 1;
        assert!(steps < 100 * WAITING, "{} wait for ever", waiting.len());
    }
    stepped.settle();
    assert_eq!(log.lock().unwrap()[2..], (1..=WAITING as u64).collect::<Vec<_>>());
}

#[test]
fn who_was_woken_for_room_and_does_not_come_keeps_nobody_waiting() {
    let mut stepped = Stepped::new(1, |_, _, _| |_: &mut u64, _| Outcome::Done);
    stepped.send([(0, 0)]);
    let sending = |n| with(&stepped.pool, |pool| pool.send(Key::of_number(n), n));
    let (mut never, mut comes) = (sending(1), sending(2));
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(wakes.clone());
    assert!(Pin::new(&mut never).poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert!(Pin::new(&mut comes).poll(&mut Context::from_waker(&waker)).is_pending());
    assert_eq!(stepped.settle(), Turn::Park(None));
    assert_eq!(wakes.0.load(Relaxed), 1, "the worker went to sleep with room and somebody waiting for it");
    assert!(matches!(Pin::new(&mut comes).poll(&mut Context::from_waker(&waker)), Poll::Ready(Ok(()))));
}

#[test]
fn batches_that_meet_take_all_the_room_there_is() {
    for _ in 0..2_000 {
        let stepped = Stepped::new(64, |_, _, _| |_: &mut u64, _| Outcome::Done);
        let barrier = Barrier::new(2);
        let one = || {
            let mut batch: Vec<_> = (0..48).map(|n| (Key::of_number(n), n)).collect();
            let pool = with(&stepped.pool, Pool::clone);
            barrier.wait();
            pool.try_send_batch(&mut batch)
        };
        let taken: usize = std::thread::scope(|scope| {
            let other = scope.spawn(one);
            one() + other.join().unwrap()
        });
        assert_eq!(taken, 64);
    }
}

#[test]
fn a_pool_without_threads_is_over_when_its_workers_are() {
    let mut stepped = Stepped::new(4, |_, _, _| |_: &mut u64, _| Outcome::Done);
    stepped.send([(0, 0)]);
    let over = with(&stepped.pool, Pool::close);
    assert!(!over.is_done(), "its worker has a job to run");
    assert_eq!(stepped.settle(), Turn::Exit);
    assert!(over.is_done() && with(&stepped.pool, Pool::close).is_done());
    // Dropped before it is empty, a worker ends too.
    let Stepped { pool, worker, .. } = Stepped::new(4, |_, _, _| |_: &mut u64, _| Outcome::Done);
    let over = with(&pool, |pool| {
        pool.try_send(Key::of("a"), 1).unwrap();
        pool.close()
    });
    drop(worker);
    assert!(over.is_done());
}

#[test]
fn a_name_that_no_thread_can_have_is_refused() {
    let refused = PoolBuilder::new().workers(1).name("a\0b").shared(|n: u32| n);
    assert!(matches!(&refused, Err(PoolError::Name(name)) if name == "a\0b"), "{refused:?}");
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("zero byte") && text.contains(r#""a\0b""#), "{text}");
}

#[test]
fn a_million_keys_that_waited_leave_no_room_behind_while_one_is_held() {
    const KEYS: u64 = 200_000;
    let mut stepped = Stepped::new(1 << 18, |_, clock, _| {
        let due = clock.now() + 50 * MS;
        move |n: &mut u64, now| match *n {
            0 => Outcome::Hold,
            _ if now < due => Outcome::RetryAt(due),
            _ => Outcome::Done,
        }
    });
    stepped.send((0..KEYS).map(|n| (n, n)));
    stepped.settle();
    stepped.time.advance(50 * MS);
    stepped.settle();
    // A look at one key in a table made for all of them takes as long as a look at all: thousands of times as long.
    let look = |stepped: &mut Stepped<u64>| {
        let found = Arc::new(AtomicUsize::new(0));
        let count = found.clone();
        let over = with(&stepped.pool, |pool| {
            pool.visit(move |keys, _| keys.for_each(&mut |_| _ = count.fetch_add(1, Relaxed)))
        });
        let since = Instant::now();
        stepped.settle();
        assert!(over.is_done());
        (found.load(Relaxed), since.elapsed())
    };
    let (found, took) = look(&mut stepped);
    assert_eq!(found, 1);
    assert!(took < 50 * MS, "a look at one key took {took:?}");
}
