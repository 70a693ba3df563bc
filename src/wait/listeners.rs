//! Wakers that are woken again and again, until whoever put them there takes them back.

use crate::foreign;
use crate::sync::{Arc, Mutex};
use std::fmt;
use std::task::Waker;

/// Who wants to be told each time that one thing happens.
#[derive(Default)]
pub(crate) struct Listeners(Mutex<List>);

#[derive(Default)]
struct List {
    last: u64,
    wakers: Vec<(u64, Waker)>,
}

impl Listeners {
    pub(crate) fn register(self: &Arc<Self>, waker: Waker) -> Registration {
        let mut list = self.0.lock();
        list.last += 1;
        let id = list.last;
        list.wakers.push((id, waker));
        Registration(Some((self.clone(), id)))
    }

    /// Wakes all of them, without the lock: a waker is foreign code and may register or deregister.
    pub(crate) fn wake_all(&self) {
        let wakers: Vec<Waker> = self.0.lock().wakers.iter().map(|(_, waker)| waker.clone()).collect();
        wakers.into_iter().for_each(foreign::wake);
    }
}

/// A waker's place among those that are told of a thing; dropping it ends that.
///
/// A wake that is already under way when this is dropped may still arrive. Registering and dropping take a lock for a
/// moment and never wait for a waker.
///
/// ```
/// use keylane::{Clock, Registration};
/// # use std::sync::atomic::{AtomicU32, Ordering};
/// # use std::{sync::Arc, task::{Wake, Waker}, time::Duration};
/// # struct Bell(AtomicU32);
/// # impl Wake for Bell {
/// #     fn wake(self: Arc<Self>) { self.0.fetch_add(1, Ordering::Relaxed); }
/// # }
/// # let rings = Arc::new(Bell(AtomicU32::new(0)));
/// # let waker = Waker::from(rings.clone());
///
/// let (clock, time) = Clock::manual();
/// let registration: Registration = clock.register(waker);
/// time.advance(Duration::from_secs(1));
/// drop(registration);
/// time.advance(Duration::from_secs(1));
/// assert_eq!(rings.0.load(Ordering::Relaxed), 1);
/// ```
#[must_use = "dropping it deregisters the waker"]
pub struct Registration(Option<(Arc<Listeners>, u64)>);

impl Registration {
    /// For what never happens: holds nothing.
    pub(crate) fn none() -> Self {
        Self(None)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some((listeners, id)) = &self.0 {
            listeners.0.lock().wakers.retain(|(other, _)| other != id);
        }
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").field("is_registered", &self.0.is_some()).finish()
    }
}
