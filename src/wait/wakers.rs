//! Those who wait for one thing, or listen for it.
//!
//! A waker is foreign code: cloning, dropping and waking it may do anything, also wait for the very lock that the list
//! is kept under. So none of it happens under that lock: what is put in was cloned before, and what comes out is dropped
//! or woken behind it.

use crate::foreign;
use std::collections::BTreeMap;
use std::task::Waker;

/// Wakers, each under a number; the lower one came first. Kept under the lock of whatever is waited for.
#[derive(Debug, Default)]
pub(crate) struct Wakers {
    last: u64,
    list: BTreeMap<u64, Waker>,
}

impl Wakers {
    /// Notes who waits under the number `id`, which is given on the first call and keeps its place in the order. Returns
    /// what is not needed any more.
    #[must_use = "it is dropped without the lock"]
    pub(crate) fn wait(&mut self, id: &mut Option<u64>, waker: Waker) -> Unneeded {
        let id = *id.get_or_insert_with(|| {
            self.last += 1;
            self.last
        });
        Unneeded(match self.list.get_mut(&id) {
            Some(standing) if standing.will_wake(&waker) => Some(waker),
            Some(standing) => Some(std::mem::replace(standing, waker)),
            None => self.list.insert(id, waker),
        })
    }

    /// Who waits under this number waits no longer.
    #[must_use = "it is dropped without the lock"]
    pub(crate) fn withdraw(&mut self, id: u64) -> Unneeded {
        Unneeded(self.list.remove(&id))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Takes all of them, to be woken without the lock.
    pub(crate) fn take(&mut self) -> Woken {
        Woken(std::mem::take(&mut self.list).into_values().collect())
    }

    /// Takes at most so many, who came first, to be woken without the lock.
    pub(crate) fn take_first(&mut self, most: u64) -> Woken {
        if most >= self.list.len() as u64 {
            return self.take();
        }
        Woken((0..most).map_while(|_| self.list.pop_first()).map(|(_, waker)| waker).collect())
    }

    /// All of them, who stay in the list. For wakers whose clone is not foreign code: see
    /// `Listeners`.
    pub(super) fn all(&self) -> Woken {
        Woken(self.list.values().cloned().collect())
    }
}

/// A waker that nobody needs any more.
pub(crate) struct Unneeded(Option<Waker>);

impl Drop for Unneeded {
    fn drop(&mut self) {
        foreign::discard(self.0.take());
    }
}

/// Wakers that were taken and are owed their wake.
#[must_use = "who was taken from the list must be woken"]
pub(crate) struct Woken(Vec<Waker>);

impl Woken {
    pub(crate) fn wake(self) {
        self.0.into_iter().for_each(foreign::wake);
    }
}
