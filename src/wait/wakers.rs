//! Tasks and threads that wait for one thing.

use crate::foreign;
use std::task::Waker;

/// A list of wakers, each under a number that it withdraws by. Kept under the lock of whatever is waited for.
#[derive(Debug, Default)]
pub(crate) struct Wakers {
    last: u64,
    list: Vec<(u64, Waker)>,
}

impl Wakers {
    /// Notes who waits under the number `id`, given on the first call.
    pub(crate) fn wait(&mut self, id: &mut Option<u64>, waker: &Waker) {
        let id = *id.get_or_insert_with(|| {
            self.last += 1;
            self.last
        });
        match self.list.iter_mut().find(|(other, _)| *other == id) {
            Some((_, old)) => old.clone_from(waker),
            None => self.list.push((id, waker.clone())),
        }
    }

    /// Who waits under this number waits no longer.
    pub(crate) fn withdraw(&mut self, id: u64) {
        self.list.retain(|(other, _)| *other != id);
    }

    /// Takes all of them, to be woken without the lock.
    pub(crate) fn take(&mut self) -> Woken {
        Woken(std::mem::take(&mut self.list))
    }
}

/// Wakers that were taken and are owed their wake.
#[must_use = "who was taken from the list must be woken"]
pub(crate) struct Woken(Vec<(u64, Waker)>);

impl Woken {
    pub(crate) fn wake(self) {
        self.0.into_iter().for_each(|(_, waker)| foreign::wake(waker));
    }
}
