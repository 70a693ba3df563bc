//! Wakers that are woken again and again, until whoever put them there takes them back.

use super::wakers::Wakers;
use crate::foreign;
use crate::sync::{Arc, Mutex};
use std::fmt;
use std::task::{Wake, Waker};

/// Who wants to be told each time that one thing happens.
#[derive(Default)]
pub(crate) struct Listeners(Mutex<Wakers>);

/// A foreign waker behind one of the library's own, which can be cloned under a lock.
struct Relay(Waker);

impl Wake for Relay {
    fn wake(self: Arc<Self>) {
        foreign::wake_by_ref(&self.0);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        foreign::wake_by_ref(&self.0);
    }
}

impl Listeners {
    pub(crate) fn register(self: &Arc<Self>, waker: Waker) -> Registration {
        let mut id = None;
        let unneeded = self.0.lock().wait(&mut id, Waker::from(Arc::new(Relay(waker))));
        drop(unneeded);
        Registration(id.map(|id| (self.clone(), id)))
    }

    /// Wakes all of them, without the lock: a waker is foreign code and may register or deregister.
    pub(crate) fn wake_all(&self) {
        let all = self.0.lock().all();
        all.wake();
    }
}

/// A waker's place among those that are told of a thing; dropping it ends that.
///
/// A wake that is already under way when this is dropped may still arrive. Registering and dropping take a lock for a
/// moment and never wait for a waker.
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
            let unneeded = listeners.0.lock().withdraw(*id);
            drop(unneeded);
        }
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").field("is_registered", &self.0.is_some()).finish()
    }
}
