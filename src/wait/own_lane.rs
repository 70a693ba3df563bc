//! Which lanes the calling thread works on, so that a worker which would wait for itself gets an error instead.

use std::cell::Cell;

#[cfg(not(loom))]
thread_local! {
    static LANE: Cell<usize> = const { Cell::new(0) };
}
#[cfg(loom)]
loom::thread_local! {
    static LANE: Cell<usize> = Cell::new(0);
}

/// Whether the calling thread is just running a job of the lane with this number.
pub(crate) fn is(lane: usize) -> bool {
    lane != 0 && LANE.with(Cell::get) == lane
}

/// Whether the calling thread is just running a job of any lane.
pub(crate) fn is_any() -> bool {
    LANE.with(Cell::get) != 0
}

/// The number of the lane that the calling thread is just running a job of; 0 if none.
pub(crate) fn enter(lane: usize) -> Entered {
    Entered { before: LANE.with(|current| current.replace(lane)) }
}

/// Restores the number that stood before, also in an unwind.
pub(crate) struct Entered {
    before: usize,
}

impl Drop for Entered {
    fn drop(&mut self) {
        LANE.with(|current| current.set(self.before));
    }
}
