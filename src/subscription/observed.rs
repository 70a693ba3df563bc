//! What a simulation sees of the records of the subscriptions on its thread, and what it asks of them. Nothing in a build
//! without it.

use crate::event::Event;
#[cfg(feature = "sim")]
use std::{cell::RefCell, rc::Rc};

/// Who looks on.
#[cfg(feature = "sim")]
pub(crate) trait Observer {
    /// A handler is about to be called.
    fn starts(&self, group: &str, event: &Event);
    /// It has ended, or its future was dropped.
    fn ends(&self, group: &str, event: &Event);
    /// It returned `Ok`. True: the record is to be handled once more, as after a crash between effect and commit.
    fn repeats(&self, group: &str, event: &Event) -> bool;
    /// The record is settled.
    fn settles(&self, group: &str, event: &Event);
}

#[cfg(feature = "sim")]
thread_local! {
    static OBSERVER: RefCell<Option<Rc<dyn Observer>>> = const { RefCell::new(None) };
}

/// From here on this one looks on, on this thread.
#[cfg(feature = "sim")]
pub(crate) fn set(observer: Option<Rc<dyn Observer>>) {
    drop(OBSERVER.replace(observer));
}

#[cfg(feature = "sim")]
fn with<R>(tell: impl FnOnce(&dyn Observer) -> R) -> Option<R> {
    let observer = OBSERVER.try_with(|observer| observer.borrow().clone()).ok().flatten()?;
    Some(tell(&*observer))
}

macro_rules! tell {
    ($($name:ident)+) => {
        $(#[inline]
        pub(super) fn $name(group: &str, event: &Event) {
            #[cfg(feature = "sim")]
            with(|observer| observer.$name(group, event));
            #[cfg(not(feature = "sim"))]
            let _ = (group, event);
        })+
    };
}
tell!(starts ends settles);

#[inline]
pub(super) fn repeats(group: &str, event: &Event) -> bool {
    #[cfg(feature = "sim")]
    return with(|observer| observer.repeats(group, event)).unwrap_or(false);
    #[cfg(not(feature = "sim"))]
    {
        let _ = (group, event);
        false
    }
}
