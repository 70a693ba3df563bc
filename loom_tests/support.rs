//! What the models share: a handler made of a closure, a worker's life on a thread, and a log.
//!
//! The log is behind a lock that loom does not see: it orders nothing and adds no interleaving.
//!
//! A model asks for the time once and passes it to each step of a worker: what a worker does depends on how long its
//! last turn took, and loom's runs must be the same each time.

use keylane::loom_internals::Parker;
use keylane::pool::{Handler, Key, Outcome, Pool, PoolBuilder, Turn, Worker};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Wake;
use std::time::Instant;

/// What was noted, in the order in which it happened.
pub(crate) struct Log<T>(Arc<Mutex<Vec<T>>>);

impl<T> Clone for Log<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Clone> Log<T> {
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    pub(crate) fn note(&self, what: T) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(crate) fn all(&self) -> Vec<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Handled(u32),
    Resolved(u32),
    Panicked(u32),
    Expired(u32),
    Abandoned(u32),
}

pub(crate) type Leased = Pin<Box<dyn Future<Output = ()>>>;

/// A handler made of a closure; it notes how each job ended.
pub(crate) struct Noting<F> {
    handle: F,
    log: Log<End>,
}

impl<F: FnMut(u32, Instant) -> Outcome<Leased> + 'static> Noting<F> {
    pub(crate) fn new(handle: F, log: &Log<End>) -> Self {
        Self { handle, log: log.clone() }
    }
}

impl<F: FnMut(u32, Instant) -> Outcome<Leased> + 'static> Handler for Noting<F> {
    type Job = u32;
    type Future = Leased;

    fn handle(&mut self, job: &mut u32, now: Instant) -> Outcome<Leased> {
        let outcome = (self.handle)(*job, now);
        if matches!(outcome, Outcome::Done) {
            self.log.note(End::Handled(*job));
        }
        outcome
    }

    fn resolve(&mut self, job: &mut u32, (): (), _: Instant) -> Outcome<Leased> {
        self.log.note(End::Resolved(*job));
        Outcome::Done
    }

    fn panicked(&mut self, job: &mut u32, _: String, _: Instant) -> Outcome<Leased> {
        self.log.note(End::Panicked(*job));
        Outcome::Done
    }

    fn expired(&mut self, job: &mut u32, _: Instant) -> Outcome<Leased> {
        self.log.note(End::Expired(*job));
        Outcome::Done
    }

    fn abandoned(&mut self, job: u32) {
        self.log.note(End::Abandoned(job));
    }
}

/// A pool with one worker that the model steps.
pub(crate) fn one_worker<F: FnMut(u32, Instant) -> Outcome<Leased> + 'static>(
    capacity: usize,
    log: &Log<End>,
    handle: F,
) -> (Pool<u32>, Worker<Noting<F>>) {
    let mut handle = Some(handle);
    let (pool, mut workers) = (PoolBuilder::new().workers(1).capacity(capacity))
        .stepped(|_| Noting::new(handle.take().expect("one worker"), log))
        .expect("the settings are in range");
    (pool, workers.remove(0))
}

/// Handles every job at once.
pub(crate) fn at_once(_: u32, _: Instant) -> Outcome<Leased> {
    Outcome::Done
}

/// A worker's life on the calling thread.
pub(crate) struct Life(Parker);

impl Life {
    /// Gives the worker its sleeper, so that it can be stepped from here on.
    pub(crate) fn of<H: Handler>(worker: &Worker<H>) -> Self {
        let parker = Parker::new();
        worker.set_sleeper(parker.waker().clone());
        Self(parker)
    }

    /// Steps until the worker exits or `is_enough` says so after a turn. True: it exited.
    pub(crate) fn goes_on<H: Handler>(
        &self,
        worker: &mut Worker<H>,
        now: Instant,
        is_enough: impl Fn() -> bool,
    ) -> bool {
        while !is_enough() {
            match worker.step(now) {
                Turn::Ran => {}
                Turn::Snooze => loom::thread::yield_now(),
                Turn::Park(_) => {
                    self.0.park_until(None);
                }
                Turn::Exit => return true,
                turn => unreachable!("a model has to be told what {turn:?} is"),
            }
        }
        false
    }
}

/// A worker's life on the calling thread, until `is_enough` says so after a turn.
pub(crate) fn work_until<H: Handler>(worker: &mut Worker<H>, is_enough: impl Fn() -> bool) {
    let has_exited = Life::of(worker).goes_on(worker, Instant::now(), is_enough);
    assert!(!has_exited, "a worker exited with work to come");
}

/// A worker's life on the calling thread, until it exits.
pub(crate) fn work<H: Handler>(worker: &mut Worker<H>) {
    assert!(Life::of(worker).goes_on(worker, Instant::now(), || false));
}

/// Does this with a pool, on a thread beside the worker.
pub(crate) fn beside<T: 'static>(
    pool: &Pool<u32>,
    does: impl FnOnce(Pool<u32>) -> T + 'static,
) -> loom::thread::JoinHandle<T> {
    let pool = pool.clone();
    loom::thread::spawn(move || does(pool))
}

/// A key; equal numbers are equal keys.
pub(crate) fn key(number: u64) -> Key {
    Key::of_number(number)
}

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator. It counts what holds a [`Tracked`], which nothing else is aligned like, and overwrites it
/// when it is freed, so that a leak, a second free and a use after the free show.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: allocates and frees by the system's allocator, and writes only into what is about to be freed.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() == align_of::<Tracked>() {
            LIVE.with(|live| live.set(live.get() + 1));
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if layout.align() == align_of::<Tracked>() {
            LIVE.with(|live| live.set(live.get() - 1));
            // SAFETY: the block is of this size and nobody else's: it is being freed.
            unsafe { at.write_bytes(0xff, layout.size()) };
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

/// A value that loom misses at the end of a model if it is not dropped, and that makes the allocation around it count.
#[repr(align(512))]
pub(crate) struct Tracked {
    _dropped: loom::alloc::Track<()>,
}

impl Tracked {
    pub(crate) fn new() -> Self {
        Self { _dropped: loom::alloc::Track::new(()) }
    }
}

/// Runs a model, and checks each time that no allocation around a [`Tracked`] is left.
pub(crate) fn model_without_leaks(model: impl Fn() + Send + Sync + 'static) {
    loom::model(with_room(leaving_nothing(model)));
}

/// A run of a model, and the check that no allocation around a [`Tracked`] is left.
pub(crate) fn leaving_nothing(model: impl Fn() + Send + Sync + 'static) -> impl Fn() + Send + Sync + 'static {
    move || {
        LIVE.with(|live| live.set(0));
        model();
        assert_eq!(LIVE.with(Cell::get), 0, "allocations that were never freed, or freed twice");
    }
}

/// A thread whose stack has room for several [`Tracked`] without any optimisation, which a thread of loom's has not.
pub(crate) fn spawn<T: Send + 'static>(
    body: impl FnOnce() -> T + Send + 'static,
) -> loom::thread::JoinHandle<T> {
    const STACK: usize = 1 << 18;
    loom::thread::Builder::new().stack_size(STACK).spawn(body).expect("loom starts it")
}

/// A run of a model on such a thread.
pub(crate) fn with_room(model: impl Fn() + Send + Sync + 'static) -> impl Fn() + Send + Sync + 'static {
    let model = Arc::new(model);
    move || {
        let model = model.clone();
        spawn(move || model()).join().expect("it ends well");
    }
}

/// A model of so many threads and steps that it has a lower bound than the others: this many preemptions, beside all
/// orders in which threads go on when another one waits or yields.
pub(crate) fn wide_model(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

/// Counts its wakes, and by its `Arc` the wakers that are left.
#[derive(Default)]
pub(crate) struct Wakes(AtomicUsize);

impl Wakes {
    pub(crate) fn count(&self) -> usize {
        self.0.load(Relaxed)
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}
