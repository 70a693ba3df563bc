//! Runs that may panic a thousand times, of which one is told.

use crate::foreign;
use std::cell::RefCell;
use std::panic;
use std::sync::Once;

thread_local! {
    /// Where the last panic of a quiet run of this thread was. None: the run is not quiet.
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs it; `Err` is the text of its panic, with its place. Panics inside of it are not printed: of the handlers that a
/// run calls, and of a run that is made again and again to find out what it takes, one is enough.
pub(super) fn call<R>(run: impl FnOnce() -> R) -> Result<R, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            let is_quiet = PLACE.with_borrow_mut(|place| {
                let Some(kept) = place else { return false };
                *kept = panic.location().map_or_else(String::new, |place| format!(" ({place})"));
                true
            });
            if !is_quiet {
                before(panic);
            }
        }));
    });
    PLACE.set(Some(String::new()));
    let result = foreign::call(run);
    let place = PLACE.take().unwrap_or_default();
    result.map_err(|text| text + &place)
}
