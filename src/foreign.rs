//! The one guard around foreign code: handlers, wakers, predicates, hooks, whatever is dropped, who reads the log, and
//! what they panic with.
//!
//! Foreign code may panic wherever it runs, and what it panics with may panic again when it is dropped. Nothing of this
//! may unwind through code of the library that is in the middle of a change, and none of it runs under a lock.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;
use tracing::Span;

/// Runs foreign code; `Err` is the text of its panic.
#[inline]
pub(crate) fn call<R>(run: impl FnOnce() -> R) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(text_of)
}

/// Runs foreign code whose end nothing depends on; a panic is logged with what it was doing.
#[inline]
pub(crate) fn run(doing: &'static str, run: impl FnOnce()) {
    if let Err(panic) = call(run) {
        tell(doing, &panic);
    }
}

/// Out of the way: a line of the log takes much more of a stack than what it is about.
#[cold]
#[inline(never)]
fn tell(doing: &str, panic: &str) {
    error!(panic, "{doing} panicked");
}

/// Wakes a waker. The task that it stands for may not be polled again if it panics.
#[inline]
pub(crate) fn wake(waker: Waker) {
    run("a waker", || waker.wake());
}

/// The same, and keeps the waker.
#[inline]
pub(crate) fn wake_by_ref(waker: &Waker) {
    run("a waker", || waker.wake_by_ref());
}

/// Drops a value whose `Drop` is foreign code.
#[inline]
pub(crate) fn discard<T>(value: T) {
    if std::mem::needs_drop::<T>() {
        run("the drop of a value", || drop(value));
    }
}

/// Runs foreign code inside a span of the log; `Err` is the text of its panic. Who reads the log is foreign code of its
/// own, and a panic of that changes nothing of what runs: neither whether it runs, nor how it ends.
#[inline]
pub(crate) fn in_span<R>(span: impl FnOnce() -> Span, run: impl FnOnce() -> R) -> Result<R, String> {
    let span = call(span).unwrap_or_else(|_| Span::none());
    if span.is_none() {
        return call(run);
    }
    let entered = call(|| span.enter()).ok();
    // Caught inside of the span: one that is left in an unwind, by a reader that panics, would end the process.
    let result = call(run);
    drop(call(|| drop(entered)));
    drop(call(|| drop(span)));
    result
}

/// The text of a panic. A payload that is no text is forgotten: its drop is foreign code once more, and could go on like
/// this for ever.
#[cold]
fn text_of(payload: Box<dyn Any + Send>) -> String {
    let payload = match payload.downcast::<String>() {
        Ok(text) => return *text,
        Err(other) => other,
    };
    match payload.downcast::<&'static str>() {
        Ok(text) => (*text).to_owned(),
        Err(other) => {
            std::mem::forget(other);
            "the panic's payload is not a text".to_owned()
        }
    }
}

/// A line of the log at one of tracing's levels. Who reads the log is foreign code: its panic is dropped, since there is
/// nobody left to tell.
macro_rules! log {
    ($level:ident, $($line:tt)+) => {
        drop($crate::foreign::call(|| ::tracing::$level!($($line)+)))
    };
}
macro_rules! error {
    ($($line:tt)+) => { $crate::foreign::log!(error, $($line)+) };
}
#[cfg_attr(loom, allow(unused_macros, reason = "what only the gated modules use"))]
macro_rules! warning {
    ($($line:tt)+) => { $crate::foreign::log!(warn, $($line)+) };
}
#[cfg_attr(loom, allow(unused_macros, reason = "what only the gated modules use"))]
macro_rules! info {
    ($($line:tt)+) => { $crate::foreign::log!(info, $($line)+) };
}
#[cfg_attr(loom, allow(unused_macros, reason = "what only the gated modules use"))]
macro_rules! debug {
    ($($line:tt)+) => { $crate::foreign::log!(debug, $($line)+) };
}
pub(crate) use {debug, error, info, log, warning as warn};

#[cfg(test)]
mod tests {
    use super::*;

    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("planted: a payload that panics when it is dropped");
        }
    }

    #[test]
    fn a_panic_is_its_text() {
        assert_eq!(call(|| 1), Ok(1));
        assert_eq!(call(|| panic!("planted")), Err::<(), _>("planted".to_owned()));
        assert_eq!(call(|| panic!("planted: {}", 2)), Err::<(), _>("planted: 2".to_owned()));
    }

    #[test]
    fn a_payload_that_is_no_text_is_forgotten() {
        assert_eq!(
            call(|| std::panic::panic_any(Bomb)),
            Err::<(), _>("the panic's payload is not a text".to_owned())
        );
    }

    #[test]
    fn a_drop_that_panics_ends_there() {
        discard(Bomb);
    }
}
