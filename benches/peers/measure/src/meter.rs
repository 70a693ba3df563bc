//! What a stretch of a run cost: time, CPU, context switches, allocations.

use crate::allocations;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use std::time::Instant;

/// A clock that counts nanoseconds from its making. Never 0, so that 0 can stand for "no time".
#[derive(Debug, Clone, Copy)]
pub struct Nanos(Instant);

impl Default for Nanos {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Nanos {
    /// The time now.
    #[inline]
    pub fn now(self) -> u64 {
        self.0.elapsed().as_nanos() as u64 + 1
    }
}

/// What a run cost in all: the whole process, every thread.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// By the wall clock.
    pub seconds: f64,
    /// User and system.
    pub cpu_ns: u64,
    /// A thread gave its core away: it waited for something.
    pub voluntary_switches: u64,
    /// A thread was made to.
    pub involuntary_switches: u64,
    /// None where the program does not count them.
    pub allocs: Option<u64>,
    /// None where the program does not count them.
    pub alloc_bytes: Option<u64>,
}

/// Runs from [`Meter::start`] to [`Meter::stop`].
#[derive(Debug)]
pub struct Meter {
    start: Instant,
    before: Cost,
}

impl Meter {
    /// Starts the clock.
    pub fn start() -> Self {
        Self { before: so_far(), start: Instant::now() }
    }

    /// Stops it.
    pub fn stop(self) -> Cost {
        let seconds = self.start.elapsed().as_secs_f64();
        let (before, after) = (self.before, so_far());
        let since = |before: Option<u64>, after: Option<u64>| Some(after? - before.unwrap_or(0));
        Cost {
            seconds,
            cpu_ns: after.cpu_ns - before.cpu_ns,
            voluntary_switches: after.voluntary_switches - before.voluntary_switches,
            involuntary_switches: after.involuntary_switches - before.involuntary_switches,
            allocs: since(before.allocs, after.allocs),
            alloc_bytes: since(before.alloc_bytes, after.alloc_bytes),
        }
    }
}

/// What the process used since it began.
fn so_far() -> Cost {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("a process may ask about itself");
    let (allocs, alloc_bytes) = allocations::so_far().unzip();
    Cost {
        seconds: 0.0,
        cpu_ns: (usage.user_time().num_nanoseconds() + usage.system_time().num_nanoseconds()) as u64,
        voluntary_switches: usage.voluntary_context_switches() as u64,
        involuntary_switches: usage.involuntary_context_switches() as u64,
        allocs,
        alloc_bytes,
    }
}
