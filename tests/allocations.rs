//! How often keylane allocates, how much it holds, and how large its handles are.

#![allow(unreachable_pub, reason = "the modules of a test program have no public face")]

use keylane::memory::MemoryBroker;
use keylane::pool::{Completion, Key, PoolBuilder, Request};
use keylane::{Config, DeadLetter, Envelope, Record, Retry, Status};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// Counts what the whole process allocates and holds.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static HELD: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is left to the system's allocator; counting touches no memory that it hands out.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The tests count for the whole process, so they run one after the other.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Allocations per call of `run`, in the steady state: the least of three rounds, for the threads that run the tests
/// allocate too, when one has ended or the next begins.
fn allocations_each(calls: u64, mut run: impl FnMut(u64)) -> f64 {
    let mut round = || {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        (0..calls).for_each(&mut run);
        ALLOCATIONS.load(Ordering::Relaxed) - before
    };
    round();
    let least = (0..3).map(|_| round()).min().expect("three");
    least as f64 / calls as f64
}

fn key(n: u64) -> Key {
    Key::of_number(n % 97)
}

#[test]
fn a_submit_whose_answer_is_awaited_where_it_was_asked_for_allocates_nothing() {
    let _alone = alone();
    let pool = PoolBuilder::new().workers(2).shared(|n: u64| n).unwrap();
    let each = allocations_each(10_000, |n| {
        assert_eq!(pool.submit(key(n), n).wait().unwrap().wait(), Ok(n));
    });
    assert!(each < 0.01, "{each} allocations for a job and its answer");
    let each = allocations_each(10_000, |n| {
        if let Ok(answer) = pool.try_submit(key(n), n) {
            assert_eq!(answer.wait(), Ok(n));
        }
    });
    assert!(each < 0.01, "{each} allocations for a job and its answer");
    let mut jobs = Vec::with_capacity(32);
    let each = allocations_each(10_000, |n| {
        jobs.extend((n..n + 32).map(|n| (key(n), n)));
        for (n, answer) in (n..).zip(pool.submit_batch(&mut jobs)) {
            assert_eq!(answer.wait(), Ok(n));
        }
        assert!(jobs.is_empty(), "there is room");
    });
    assert!((0.9..=1.1).contains(&each), "{each} allocations for the answers of 32 jobs and their list");
}

#[test]
fn a_submit_whose_answer_is_awaited_elsewhere_allocates_once() {
    let _alone = alone();
    let pool = PoolBuilder::new().workers(2).shared(|n: u64| n).unwrap();
    let (send, receive) = std::sync::mpsc::sync_channel::<Completion<u64, u64>>(1_024);
    let awaits = std::thread::spawn(move || receive.into_iter().map(|answer| answer.wait().unwrap()).sum());
    let each = allocations_each(10_000, |n| {
        send.send(pool.submit(key(n), n).wait().unwrap()).unwrap();
    });
    assert!((0.9..=1.1).contains(&each), "{each} allocations for a job and its answer");
    drop(send);
    let _: u64 = awaits.join().unwrap();
}

#[test]
fn fire_and_forget_allocates_nothing() {
    let _alone = alone();
    let pool = PoolBuilder::new().workers(2).shared(|n: u64| n).unwrap();
    let each = allocations_each(10_000, |n| {
        let mut job = Request::tell(n);
        while let Err(full) = pool.try_send(key(n), job) {
            job = full.into_job();
            std::thread::yield_now();
        }
    });
    assert!(each < 0.001, "{each} allocations for a job without an answer");
}

#[test]
fn a_batch_allocates_nothing() {
    let _alone = alone();
    for workers in [1, 3] {
        let pool = PoolBuilder::new().workers(workers).shared(|n: u64| n).unwrap();
        let mut batch = Vec::with_capacity(32);
        let each = allocations_each(10_000, |n| {
            batch.extend((0..32).map(|i| (key(n + i), Request::tell(i))));
            while pool.try_send_batch(&mut batch) == 0 || !batch.is_empty() {
                std::thread::yield_now();
            }
        });
        assert!(each < 0.001, "{each} allocations for a batch of 32 over {workers} workers");
    }
}

/// Published, encoded before, and handled, when all arrive together and so share what they can.
#[test]
fn a_record_over_the_memory_bus_allocates_less_than_three_times() {
    let _alone = alone();
    let broker = MemoryBroker::builder().topic("orders").retention_records(1_000).build();
    let bus = broker.connect(Config::default()).unwrap();
    let record = |n: u64| Record::from(&Envelope::new(format!("key-{n}"), "test.key", 1, "1").unwrap());
    let records: Vec<Record> = (0..97).map(record).collect();
    for workers in [0, 2] {
        let orders =
            bus.subscribe_envelopes("orders").group("g").workers(workers).handle(|_| Ok(())).unwrap();
        let mut published = 0;
        let each = allocations_each(20, |n| {
            orders.pause();
            while orders.health().status != Status::Paused {
                std::thread::yield_now();
            }
            for i in 0..500 {
                bus.publish("orders", records[((n + i) % 97) as usize].clone()).wait().unwrap();
            }
            orders.resume();
            published += 500;
            while orders.stats().succeeded < published {
                std::thread::yield_now();
            }
        }) / 500.0;
        assert!(each < 3.0, "{each} allocations for a record, {workers} workers");
        orders.drain(Duration::from_secs(10)).wait();
    }
}

#[test]
fn memory_does_not_grow_with_the_keys_ever_seen() {
    let _alone = alone();
    let pool = PoolBuilder::new().workers(2).asynchronous(|n: u64| async move {
        // Half of them wait once, so that they go through the waiting keys.
        if n.is_multiple_of(2) {
            let mut is_second = false;
            std::future::poll_fn(|cx| {
                if std::mem::replace(&mut is_second, true) {
                    return std::task::Poll::Ready(());
                }
                cx.waker().wake_by_ref();
                std::task::Poll::Pending
            })
            .await;
        }
    });
    let pool = pool.unwrap();
    let held_after = |keys: std::ops::Range<u64>| {
        for n in keys {
            pool.send(Key::of(n.to_le_bytes()), Request::tell(n)).wait().unwrap();
        }
        while pool.depths().sum::<u64>() > 0 {
            std::thread::yield_now();
        }
        HELD.load(Ordering::Relaxed)
    };
    let few = held_after(0..1_000);
    let many = held_after(1_000..1_000_000);
    assert!(many.saturating_sub(few) < 256 << 10, "after 10^3 keys {few} bytes are held, after 10^6 {many}");
}

#[test]
fn a_bus_does_not_grow_with_the_keys_ever_seen() {
    let _alone = alone();
    let broker = MemoryBroker::builder().topic("orders").topic("dead").retention_records(500).build();
    let bus = broker.connect(Config::default()).unwrap();
    // Some fail, some die: every map that is kept by key is used.
    let orders = bus
        .subscribe_envelopes("orders")
        .group("g")
        .workers(2)
        .retry(Retry::exponential(Duration::from_millis(1)..Duration::from_millis(2)).attempts(2))
        .then(DeadLetter::to("dead"))
        .handle(|event| match (event.offset() % 10, event.attempt()) {
            (0, 1) | (1, _) => Err("planted".into()),
            _ => Ok(()),
        })
        .unwrap();
    let held_after = |keys: std::ops::Range<u64>| {
        let end = keys.end;
        for n in keys {
            let envelope = Envelope::new(format!("key-{n}"), "test.key", 1, "1").unwrap();
            bus.publish("orders", envelope).wait().unwrap();
        }
        while orders.stats().succeeded + orders.stats().dead_lettered < end {
            std::thread::yield_now();
        }
        HELD.load(Ordering::Relaxed)
    };
    let few = held_after(0..3_000);
    let many = held_after(3_000..100_000);
    assert!(
        many.saturating_sub(few) < 512 << 10,
        "after 3,000 keys {few} bytes are held, after 100,000 {many}"
    );
}
