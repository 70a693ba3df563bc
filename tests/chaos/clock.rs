//! Times that the processes of a run can compare.

use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, SystemTime};

/// Nanoseconds of the monotonic clock, which the processes of a machine share, nobody sets, and a stopped process
/// does not stop.
pub type Nanos = u64;

pub fn now() -> Nanos {
    let time = clock_gettime(ClockId::Monotonic);
    nanos(Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32))
}

pub const fn nanos(time: Duration) -> Nanos {
    time.as_nanos() as Nanos
}

/// When it was on the monotonic clock that a broker's clock showed this time since 1970.
pub fn of_wall(time: Duration) -> Nanos {
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is after 1970");
    let ago = wall.saturating_sub(time);
    now().saturating_sub(nanos(ago))
}
