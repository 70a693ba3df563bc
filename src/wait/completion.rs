//! A job and its answer in one block of memory, shared by exactly two sides: the worker's [`Ask`] and the caller's
//! [`Completion`].
//!
//! The shape follows the one-shot channels of faern/oneshot; the cancel, and a worker that wakes without making the
//! caller spin, are this file's own. Each bit of the state is set by one side only and never cleared, but for
//! `WAITING`.

use super::block::{block_on, block_on_timeout, look_until};
use super::{blocks, own_lane};
use crate::foreign;
use crate::sync::{AtomicU8, Ordering, UnsafeCell};
use std::fmt;
use std::future::Future;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::ptr::NonNull;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// The worker took the job. After it a cancel loses.
const STARTED: u8 = 1;
/// The caller asked for the job back. Before `STARTED` it wins, and the job is the caller's.
const CANCELLED: u8 = 2;
/// A waker is in the cell. Set and cleared by the caller; once `DONE` is set beside it the waker is the worker's.
const WAITING: u8 = 4;
/// The answer is in the cell and the caller's. The worker touches nothing more, unless `WAITING` stood beside it.
const DONE: u8 = 8;
/// The worker took the waker and is through with the cell.
const RELEASED: u8 = 16;
/// The caller is through with the cell.
const DETACHED: u8 = 32;

/// Why a job has no answer.
///
/// ```
/// use keylane::pool::{JobError, Key, PoolBuilder};
///
/// let pool = PoolBuilder::new().workers(1).shared(|n: u32| {
///     assert!(n > 0, "nothing to do");
///     100 / n
/// })?;
/// let failed = pool.submit(Key::of("order-42"), 0).wait()?.wait();
/// assert_eq!(failed, Err(JobError::Panicked("nothing to do".to_owned())));
/// assert_eq!(pool.submit(Key::of("order-42"), 4).wait()?.wait(), Ok(25), "the pool goes on");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JobError {
    /// The job was dropped without an answer: its pool was stopped before its turn came.
    #[error("the job was abandoned: its pool ended before it did")]
    Abandoned,
    /// The handler panicked; the text is the panic's message.
    #[error("the handler panicked: {0}")]
    Panicked(String),
    /// A worker tried to block on a job of its own lane, which only it could run.
    #[error(
        "a worker can't block on a job of its own lane: nobody else would run it; await it or send it instead"
    )]
    OwnLane,
}

struct Cell<T, R> {
    state: AtomicU8,
    lane: usize,
    job: UnsafeCell<MaybeUninit<T>>,
    answer: UnsafeCell<MaybeUninit<Result<R, JobError>>>,
    waker: UnsafeCell<MaybeUninit<Waker>>,
}

/// Makes both sides of a job for the lane of this number.
pub(crate) fn completion<T, R>(job: T, lane: usize) -> (Ask<T, R>, Completion<T, R>) {
    let cell = blocks::keep(Cell {
        state: AtomicU8::new(0),
        lane,
        job: UnsafeCell::new(MaybeUninit::new(job)),
        answer: UnsafeCell::new(MaybeUninit::uninit()),
        waker: UnsafeCell::new(MaybeUninit::uninit()),
    });
    (Ask { cell }, Completion { cell, is_taken: false })
}

/// The worker's side: takes the job, gives the answer. Dropped without one, it answers [`JobError::Abandoned`].
pub(crate) struct Ask<T, R> {
    cell: NonNull<Cell<T, R>>,
}

// SAFETY: the job moves to the worker and the answer to the caller; nothing is shared but the state byte, whose
// protocol gives each field to one side at a time.
unsafe impl<T: Send, R: Send> Send for Ask<T, R> {}

impl<T, R> Ask<T, R> {
    fn cell(&self) -> &Cell<T, R> {
        // SAFETY: the cell lives until both sides are through with it, and this side is not.
        unsafe { self.cell.as_ref() }
    }

    /// The job, unless it was cancelled. Called at most once.
    pub(crate) fn start(&self) -> Option<T> {
        // ORDERING: Relaxed; the job was written before the cell came here, and a canceller that wins is not raced.
        let before = self.cell().state.fetch_or(STARTED, Ordering::Relaxed);
        debug_assert_eq!(before & STARTED, 0, "a job starts once");
        if before & CANCELLED != 0 {
            return None;
        }
        // SAFETY: STARTED was set by this side with CANCELLED unset, so the job is this side's, and still there.
        Some(self.cell().job.with_mut(|job| unsafe { (*job).assume_init_read() }))
    }

    /// Whether the caller is through with the job: its answer is wanted no more.
    pub(crate) fn is_detached(&self) -> bool {
        // ORDERING: Relaxed; a hint, which orders nothing.
        self.cell().state.load(Ordering::Relaxed) & DETACHED != 0
    }

    /// Gives the answer to a job that was started.
    pub(crate) fn finish(self, answer: Result<R, JobError>) {
        let this = std::mem::ManuallyDrop::new(self);
        // SAFETY: `this` is this side and is not used after the call.
        wake_waiting(unsafe { finish(this.cell, answer) });
    }

    /// The same without a wake: who waits is to be woken by the caller, with [`foreign::wake`] and no lock held.
    pub(crate) fn finish_quietly(self, answer: Result<R, JobError>) -> Option<Waker> {
        let this = std::mem::ManuallyDrop::new(self);
        // SAFETY: `this` is this side and is not used after the call.
        unsafe { finish(this.cell, answer) }
    }
}

impl<T, R> Drop for Ask<T, R> {
    fn drop(&mut self) {
        // ORDERING: Relaxed; only this side sets STARTED.
        if self.cell().state.load(Ordering::Relaxed) & STARTED == 0 {
            // Foreign code, also when it is dropped: the caller must not go without an answer for it.
            foreign::discard(self.start());
        }
        // SAFETY: this side ends here.
        wake_waiting(unsafe { finish(self.cell, Err(JobError::Abandoned)) });
    }
}

fn wake_waiting(waker: Option<Waker>) {
    if let Some(waker) = waker {
        foreign::wake(waker);
    }
}

/// Returns who waits for the answer, and is to be woken.
///
/// # Safety
/// The caller is the worker's side of the cell and does not use it afterwards.
unsafe fn finish<T, R>(at: NonNull<Cell<T, R>>, answer: Result<R, JobError>) -> Option<Waker> {
    // SAFETY: the worker's side is not through yet, so the cell lives.
    let cell = unsafe { at.as_ref() };
    // SAFETY: until DONE is set the answer is the worker's to write.
    cell.answer.with_mut(|slot| unsafe {
        (*slot).write(answer);
    });
    // ORDERING: Release publishes the answer to the caller's Acquire; Acquire sees the waker that WAITING announces and
    // all that a detached caller did.
    let before = cell.state.fetch_or(DONE, Ordering::AcqRel);
    if before & DETACHED != 0 {
        // SAFETY: the caller was through before DONE was set, and took its waker with it.
        unsafe { free(at, true) };
        None
    } else if before & WAITING != 0 {
        // SAFETY: WAITING stood beside DONE, so the waker is this side's from here on.
        let waker = cell.waker.with_mut(|slot| unsafe { (*slot).assume_init_read() });
        // ORDERING: Release orders the read of the waker before a free by the caller; Acquire sees what the caller did
        // before it detached.
        let before = cell.state.fetch_or(RELEASED, Ordering::AcqRel);
        if before & DETACHED != 0 {
            // SAFETY: the caller detached between DONE and RELEASED and left the cell to this side, without an answer.
            unsafe { free(at, false) };
        }
        Some(waker)
    } else {
        None
    }
}

/// # Safety
/// Both sides are through with the cell; the flag tells whether the answer is still in it.
unsafe fn free<T, R>(at: NonNull<Cell<T, R>>, has_answer: bool) {
    // SAFETY: the cell was made in `completion`, and nobody else uses it.
    let cell = unsafe { at.as_ref() };
    #[cfg(loom)]
    {
        // A free touches everything; loom only sees what is touched through its cells.
        cell.job.with_mut(|_| ());
        cell.answer.with_mut(|_| ());
        cell.waker.with_mut(|_| ());
    }
    if has_answer {
        // SAFETY: the caller says that an answer is there.
        foreign::discard(cell.answer.with_mut(|slot| unsafe { (*slot).assume_init_read() }));
    }
    // SAFETY: `cell` is used no more, and `blocks::keep` made it.
    unsafe { blocks::free(at) };
}

/// The caller's side of a job that was submitted: a future of its answer that any runtime can await, and that a plain
/// thread can [`wait`](Completion::wait) for.
///
/// Dropping it does not cancel the job; the answer is dropped when it comes. One allocation holds job and answer, and
/// none is made where the thread that submits also takes its answers: it uses the memory of former ones again, of which
/// each thread keeps up to 32 KiB of a size.
///
/// ```
/// use keylane::pool::{Completion, Key, PoolBuilder};
///
/// let pool = PoolBuilder::new().workers(2).shared(|n: u64| n * n)?;
/// let first: Completion<u64, u64> = pool.submit(Key::of("a"), 3).wait()?;
/// let second = pool.submit(Key::of("b"), 4).wait()?;
/// assert_eq!(first.wait()? + smol::block_on(second)?, 25, "a thread waits, or a task does");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "without it nobody learns how the job ended; a job without an answer is sent, not submitted"]
pub struct Completion<T, R> {
    cell: NonNull<Cell<T, R>>,
    is_taken: bool,
}

// SAFETY: as for `Ask`: each field of the cell is one side's at a time, and a `&Completion` gives access to none.
unsafe impl<T: Send, R: Send> Send for Completion<T, R> {}
// SAFETY: as above; no method takes `&self` to the job, the answer or the waker.
unsafe impl<T: Send, R: Send> Sync for Completion<T, R> {}

impl<T, R> Unpin for Completion<T, R> {}

impl<T, R> Completion<T, R> {
    fn cell(&self) -> &Cell<T, R> {
        // SAFETY: the cell lives until both sides are through with it, and this side is not.
        unsafe { self.cell.as_ref() }
    }

    /// Whether the answer is there, so that awaiting it does not wait.
    pub fn is_done(&self) -> bool {
        // ORDERING: Relaxed; who wants the answer polls, with Acquire.
        self.is_taken || self.cell().state.load(Ordering::Relaxed) & DONE != 0
    }

    /// Takes the job back, if it has not started: exactly then it never will.
    ///
    /// # Errors
    /// The completion itself, when the job has started: its answer is still to come, or there.
    ///
    /// ```
    /// # use keylane::pool::{Key, PoolBuilder};
    /// let pool = PoolBuilder::new().workers(1).asynchronous(|_: u64| std::future::pending::<()>())?;
    /// let _running = pool.submit(Key::of("a"), 1).wait()?;
    /// let behind = pool.submit(Key::of("a"), 2).wait()?;
    /// assert_eq!(behind.cancel().ok(), Some(2), "it had not started");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn cancel(self) -> Result<T, Self> {
        // ORDERING: Relaxed; the job was written by this side, and STARTED only says that it is the worker's now.
        let before = self.cell().state.fetch_or(CANCELLED, Ordering::Relaxed);
        if before & (STARTED | CANCELLED) != 0 {
            return Err(self);
        }
        // SAFETY: CANCELLED was set before STARTED, so the job is this side's, and still there.
        Ok(self.cell().job.with_mut(|job| unsafe { (*job).assume_init_read() }))
    }

    /// Blocks until the answer is there.
    ///
    /// # Errors
    /// Why there is none: the handler panicked, the pool ended first, or the calling thread is the worker whose lane
    /// the job is in ([`JobError::OwnLane`], at once; the job is run all the same, and
    /// [`wait_timeout`](Self::wait_timeout) would have kept the completion).
    ///
    /// # Blocking
    /// For as long as the job takes to start and to end; async code awaits the completion instead.
    #[inline]
    pub fn wait(mut self) -> Result<R, JobError> {
        if !self.is_done() && own_lane::is(self.cell().lane) {
            return Err(JobError::OwnLane);
        }
        look_until(|| self.is_done());
        block_on(&mut self)
    }

    /// Blocks until the answer is there, or for as long as `limit`.
    ///
    /// # Errors
    /// The completion itself when the time is over; at once, where the calling thread is the worker whose lane the job
    /// is in, which would wait for itself.
    ///
    /// # Blocking
    /// For as long as `limit`.
    pub fn wait_timeout(mut self, limit: Duration) -> Result<Result<R, JobError>, Self> {
        if !self.is_done() && own_lane::is(self.cell().lane) {
            return Err(self);
        }
        block_on_timeout(&mut self, limit).ok_or(self)
    }

    /// Makes the waker this side's again, unless `DONE` was set beside it. Tells the state as it is then.
    fn take_waker_back(&self) -> u8 {
        let cell = self.cell();
        // ORDERING: Acquire pairs with the Release that sets DONE or RELEASED, so that the answer is there.
        let mut state = cell.state.load(Ordering::Acquire);
        while state & (WAITING | DONE) == WAITING {
            let free = state & !WAITING;
            // ORDERING: Relaxed on success, for this side wrote the waker itself; Acquire on failure, as the load.
            match cell.state.compare_exchange(state, free, Ordering::Relaxed, Ordering::Acquire) {
                Ok(_) => {
                    // SAFETY: WAITING was unset before DONE was set, so the waker is this side's.
                    foreign::discard(cell.waker.with_mut(|slot| unsafe { (*slot).assume_init_read() }));
                    return free;
                }
                Err(now) => state = now,
            }
        }
        state
    }

    fn take(&mut self) -> Result<R, JobError> {
        assert!(!self.is_taken, "a completion was polled after it gave its answer");
        self.is_taken = true;
        // SAFETY: the caller of `take` saw DONE with Acquire, so the answer is this side's, and it is taken once.
        self.cell().answer.with_mut(|slot| unsafe { (*slot).assume_init_read() })
    }
}

impl<T, R> Future for Completion<T, R> {
    type Output = Result<R, JobError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let cell = self.cell();
        let mut state = self.take_waker_back();
        while state & DONE == 0 {
            // SAFETY: neither WAITING nor DONE is set, so the slot is this side's, and empty.
            cell.waker.with_mut(|slot| unsafe {
                (*slot).write(cx.waker().clone());
            });
            // ORDERING: Release publishes the waker to the worker's Acquire; Acquire on failure sees the answer.
            let waiting = state | WAITING;
            match cell.state.compare_exchange(state, waiting, Ordering::Release, Ordering::Acquire) {
                Ok(_) => return Poll::Pending,
                Err(now) => {
                    // SAFETY: the exchange failed, so the waker written above is still this side's.
                    foreign::discard(cell.waker.with_mut(|slot| unsafe { (*slot).assume_init_read() }));
                    state = now;
                }
            }
        }
        Poll::Ready(self.take())
    }
}

impl<T, R> Drop for Completion<T, R> {
    fn drop(&mut self) {
        let state = self.take_waker_back();
        let is_waker_due = state & WAITING != 0;
        let mut has_answer = !self.is_taken;
        if is_waker_due && has_answer {
            // From the DETACHED below on the worker may free the cell, and finds no answer to drop.
            foreign::discard(self.take());
            has_answer = false;
        }
        if state & DONE != 0 && !is_waker_due {
            // SAFETY: the worker touches nothing after a DONE without WAITING.
            return unsafe { free(self.cell, has_answer) };
        }
        // ORDERING: Release orders all of this side's accesses before a free by the worker; Acquire sees the worker's
        // last access when it is through.
        let before = self.cell().state.fetch_or(DETACHED, Ordering::AcqRel);
        let is_worker_through = if is_waker_due { before & RELEASED != 0 } else { before & DONE != 0 };
        if is_worker_through {
            // SAFETY: the worker saw no waker and ended with DONE, or took the waker and ended with RELEASED.
            unsafe { free(self.cell, has_answer) };
        }
    }
}

impl<T, R> fmt::Debug for Completion<T, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completion").field("is_done", &self.is_done()).finish_non_exhaustive()
    }
}
