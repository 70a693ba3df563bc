//! What the machine itself takes, without any pool and without any message: the least that an ask can cost.

use crate::drive::{PAUSE_NS, WARM_UP, spin_for};
use crate::shape::Shape;
use crate::variant::{About, Setup, Timed, Variant};
use measure::{Meter, Nanos, Percentiles};
use rustix::thread::futex::{self, Flags};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

pub(crate) const FUTEX: Variant = machine(
    "machine_futex",
    "a round trip of two threads, each of which sleeps in the kernel until the other one wakes it",
    &[Shape::AskHot, Shape::AskIdle],
    futex,
);

pub(crate) const CACHE_LINE: Variant = machine(
    "machine_cache_line",
    "a round trip of two threads that spin, on two cores; no sleep, no wake-up",
    &[Shape::AskHot],
    cache_line,
);

pub(crate) const CLOCK: Variant = machine(
    "machine_clock",
    "two reads of the clock, which is what every latency here has in it",
    &[Shape::AskHot],
    clock,
);

const fn machine(
    name: &'static str,
    settings: &'static str,
    shapes: &'static [Shape],
    run: fn(&Setup, Shape) -> Timed,
) -> Variant {
    Variant {
        about: About { name, crates: &[], settings },
        worker_of: measure::worker_of,
        is_concurrent: false,
        handles_messages: false,
        shapes,
        run,
    }
}

/// A number on lines of cache of its own.
#[derive(Default)]
#[repr(align(128))]
struct Mailbox(AtomicU32);

#[derive(Default)]
struct Pair {
    there: Mailbox,
    back: Mailbox,
}

fn futex(setup: &Setup, shape: Shape) -> Timed {
    fn post(mailbox: &Mailbox, number: u32) {
        // ORDERING: Release for the other side's Acquire; the kernel orders the store before the wake.
        mailbox.0.store(number, Ordering::Release);
        futex::wake(&mailbox.0, Flags::PRIVATE, 1).expect("the address is valid");
    }
    fn await_number(mailbox: &Mailbox, number: u32) {
        loop {
            // ORDERING: Acquire, as above.
            let seen = mailbox.0.load(Ordering::Acquire);
            if seen == number {
                return;
            }
            // An error says that the number changed meanwhile, or that a signal came: look again.
            let _ = futex::wait(&mailbox.0, Flags::PRIVATE, seen, None);
        }
    }
    round_trips(setup, shape, None, post, await_number)
}

fn cache_line(setup: &Setup, shape: Shape) -> Timed {
    fn post(mailbox: &Mailbox, number: u32) {
        // ORDERING: Release for the other side's Acquire.
        mailbox.0.store(number, Ordering::Release);
    }
    fn await_number(mailbox: &Mailbox, number: u32) {
        // ORDERING: Acquire, as above.
        while mailbox.0.load(Ordering::Acquire) != number {
            std::hint::spin_loop();
        }
    }
    // Two spinning threads on one core would wait for the end of each other's time slice.
    round_trips(setup, shape, two_cores(), post, await_number)
}

/// The first two cores that this process may use.
fn two_cores() -> Option<[usize; 2]> {
    let allowed = sched_getaffinity(None).expect("a process may ask about itself");
    let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
    Some([cores.next()?, cores.next()?])
}

fn pin(core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).expect("the core is one that this process may use");
}

fn round_trips(
    setup: &Setup,
    shape: Shape,
    cores: Option<[usize; 2]>,
    post: fn(&Mailbox, u32),
    await_number: fn(&Mailbox, u32),
) -> Timed {
    let (pair, trips) = (Arc::new(Pair::default()), setup.n as u32);
    let other = pair.clone();
    let thread = std::thread::spawn(move || {
        cores.iter().for_each(|cores| pin(cores[1]));
        for number in 1..=trips {
            await_number(&other.there, number);
            post(&other.back, number);
        }
    });
    cores.iter().for_each(|cores| pin(cores[0]));
    let timed = sample(setup, |clock, number| {
        if shape == Shape::AskIdle {
            spin_for(clock, PAUSE_NS);
        }
        let start = clock.now();
        post(&pair.there, number);
        await_number(&pair.back, number);
        clock.now() - start
    });
    thread.join().expect("it does not panic");
    timed
}

fn clock(setup: &Setup, _: Shape) -> Timed {
    sample(setup, |clock, _| {
        let start = clock.now();
        clock.now() - start
    })
}

/// Takes as many samples as there are messages; `once` gets the number of the sample, from 1.
fn sample(setup: &Setup, mut once: impl FnMut(Nanos, u32) -> u64) -> Timed {
    let clock = setup.work.clock;
    let (warm_up, trips) = (WARM_UP as u32, setup.n as u32);
    for number in 1..=warm_up {
        once(clock, number);
    }
    let n = setup.n - WARM_UP;
    let mut latencies = Vec::with_capacity(n);
    let meter = Meter::start();
    latencies.extend((warm_up + 1..=trips).map(|number| once(clock, number)));
    Timed { cost: meter.stop(), n, latency: Percentiles::of(latencies) }
}
