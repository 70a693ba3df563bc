//! The keys of one worker that wait: a state machine without threads, clocks or futures in it.
//!
//! A key waits because its first record waits for a time, is held for an operator, or is leased to a future. Its later
//! records queue behind it in its backlog and every other key goes on. A key that waits for nothing takes no room:
//! memory follows the records that wait, never the keys that were seen.

use super::Key;
use crate::foreign;
use foldhash::fast::FixedState;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Instant;

/// What the first record of a waiting key waits for. `L` is a lease: the future that the record was given to.
pub(crate) enum For<L> {
    /// Until this time, then it starts again.
    Time(Instant),
    /// An operator.
    Operator,
    /// A future, and the time at which its lease ends whether it is ready or not.
    Lease(L, Option<Instant>),
}

/// A record that waits at the head of its key.
struct Entry<J, L> {
    job: Option<J>,
    wait: Wait<L>,
    /// Tells this wait from earlier ones of the key: in timers, and in wakes that come late.
    stamp: u64,
    timer: Option<Instant>,
    backlog: VecDeque<J>,
}

enum Wait<L> {
    /// In the queue of keys whose turn has come.
    Ready,
    Time,
    Operator,
    Lease(L),
    /// Handed out by `start` and not yet over or waiting again.
    Running,
}

/// All keys of one worker that wait.
pub(crate) struct Waiting<J, L> {
    keys: HashMap<Key, Entry<J, L>, FixedState>,
    /// By time; ties in the order in which the waits began.
    timers: BTreeSet<(Instant, u64, Key)>,
    ready: VecDeque<Key>,
    records: u64,
    last_stamp: u64,
}

/// Above this many slots an empty map gives its memory back.
const KEPT_SLOTS: usize = 1_024;

impl<J, L> Waiting<J, L> {
    pub(crate) fn new() -> Self {
        Self {
            keys: HashMap::with_hasher(FixedState::default()),
            timers: BTreeSet::new(),
            ready: VecDeque::new(),
            records: 0,
            last_stamp: 0,
        }
    }

    /// Records that wait, at the head of a key or in its backlog.
    pub(crate) fn records(&self) -> u64 {
        self.records
    }

    /// Keys that wait.
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Puts a record behind its key, if the key waits; otherwise gives it back to be run now.
    #[inline]
    pub(crate) fn queue_behind(&mut self, key: Key, job: J) -> Option<J> {
        if self.keys.is_empty() {
            return Some(job);
        }
        match self.keys.get_mut(&key) {
            None => Some(job),
            Some(entry) => {
                entry.backlog.push_back(job);
                self.records += 1;
                None
            }
        }
    }

    /// The stamp that the next wait will get.
    pub(crate) fn next_stamp(&self) -> u64 {
        self.last_stamp + 1
    }

    /// Makes a key wait whose record was just run. Returns the stamp of this wait.
    pub(crate) fn wait(&mut self, key: Key, job: J, reason: For<L>) -> u64 {
        self.last_stamp += 1;
        let stamp = self.last_stamp;
        let (wait, timer) = match reason {
            For::Time(until) => (Wait::Time, Some(until)),
            For::Operator => (Wait::Operator, None),
            For::Lease(lease, until) => (Wait::Lease(lease), until),
        };
        if let Some(until) = timer {
            self.timers.insert((until, stamp, key));
        }
        let entry = self.keys.entry(key).or_insert_with(|| Entry {
            job: None,
            wait: Wait::Running,
            stamp,
            timer: None,
            backlog: VecDeque::new(),
        });
        debug_assert!(
            matches!(entry.wait, Wait::Running) && entry.job.is_none(),
            "only a running key can wait"
        );
        entry.job = Some(job);
        entry.wait = wait;
        entry.stamp = stamp;
        entry.timer = timer;
        self.records += 1;
        stamp
    }

    /// The next time at which [`Waiting::take_due`] has something.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.timers.first().map(|(until, _, _)| *until)
    }

    /// Whether some key's turn has come.
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// A key whose time has come by `now`. One that waited for its time is ready from here on; a lease is over.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<Due<L>> {
        let (until, _, key) = *self.timers.first()?;
        if until > now {
            return None;
        }
        self.timers.pop_first();
        let entry = self.keys.get_mut(&key).expect("a timer belongs to a waiting key");
        entry.timer = None;
        match std::mem::replace(&mut entry.wait, Wait::Ready) {
            Wait::Time => {
                self.ready.push_back(key);
                Some(Due::Ready)
            }
            Wait::Lease(lease) => {
                entry.wait = Wait::Running;
                Some(Due::Expired(key, lease))
            }
            Wait::Ready | Wait::Operator | Wait::Running => unreachable!("these waits have no timer"),
        }
    }

    /// Takes the first record of the next key whose turn has come.
    pub(crate) fn start_ready(&mut self) -> Option<(Key, J)> {
        let key = self.ready.pop_front()?;
        let entry = self.keys.get_mut(&key).expect("a ready key is in the map");
        debug_assert!(matches!(entry.wait, Wait::Ready));
        entry.wait = Wait::Running;
        let job = entry.job.take().expect("a ready key has its record");
        self.records -= 1;
        Some((key, job))
    }

    /// The lease of this wait, to be polled, if it is still the one that the key waits for.
    pub(crate) fn lease(&mut self, key: Key, stamp: u64) -> Option<&mut L> {
        match self.keys.get_mut(&key) {
            Some(Entry { wait: Wait::Lease(lease), stamp: current, .. }) if *current == stamp => Some(lease),
            _ => None,
        }
    }

    /// Ends a lease whose future is ready: its record is running again, and its key still blocked.
    pub(crate) fn end_lease(&mut self, key: Key) -> (J, L) {
        let entry = self.keys.get_mut(&key).expect("a lease belongs to a waiting key");
        if let Some(until) = entry.timer.take() {
            self.timers.remove(&(until, entry.stamp, key));
        }
        let Wait::Lease(lease) = std::mem::replace(&mut entry.wait, Wait::Running) else {
            unreachable!("the caller was given this lease")
        };
        self.records -= 1;
        (entry.job.take().expect("a leased key has its record"), lease)
    }

    /// Takes the record whose lease [`Waiting::take_due`] ended.
    pub(crate) fn take_expired(&mut self, key: Key) -> J {
        let entry = self.keys.get_mut(&key).expect("an expired lease belongs to a waiting key");
        debug_assert!(matches!(entry.wait, Wait::Running));
        self.records -= 1;
        entry.job.take().expect("an expired key has its record")
    }

    /// A record that was running is over: the next of its key gets its turn, or the key waits no longer.
    pub(crate) fn over(&mut self, key: Key) {
        let Some(entry) = self.keys.get_mut(&key) else { return };
        debug_assert!(matches!(entry.wait, Wait::Running) && entry.job.is_none());
        if let Some(next) = entry.backlog.pop_front() {
            entry.job = Some(next);
            entry.wait = Wait::Ready;
            self.ready.push_back(key);
        } else {
            self.keys.remove(&key);
            if self.keys.is_empty() && self.keys.capacity() > KEPT_SLOTS {
                self.keys.shrink_to(KEPT_SLOTS);
            }
        }
    }

    /// Ends the wait of a key that waits for its time or for an operator: its turn has come. False: it waits for
    /// something else, or not at all.
    pub(crate) fn make_ready(&mut self, key: Key) -> bool {
        let Some(entry) = self.keys.get_mut(&key) else { return false };
        if !matches!(entry.wait, Wait::Time | Wait::Operator) {
            return false;
        }
        if let Some(until) = entry.timer.take() {
            self.timers.remove(&(until, entry.stamp, key));
        }
        entry.wait = Wait::Ready;
        self.ready.push_back(key);
        true
    }

    /// Each key that waits with its first record and the number of records behind it.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (Key, &mut J, WaitsFor, usize)> {
        self.keys.iter_mut().filter_map(|(key, entry)| {
            let waits_for = match &entry.wait {
                Wait::Ready => WaitsFor::Turn,
                Wait::Time => WaitsFor::Time(entry.timer.expect("a timed wait has its time")),
                Wait::Operator => WaitsFor::Operator,
                Wait::Lease(_) => WaitsFor::Future(entry.timer),
                Wait::Running => return None,
            };
            Some((*key, entry.job.as_mut()?, waits_for, entry.backlog.len()))
        })
    }

    /// Removes waiting records, heads and backlogs alike, for which `is_gone` says so; what stays keeps its order. A
    /// head that goes while its key waits takes its wait and its lease with it.
    pub(crate) fn remove_where(&mut self, mut is_gone: impl FnMut(&mut J) -> bool, mut gone: impl FnMut(J)) {
        let keys: Vec<Key> = self.keys.keys().copied().collect();
        for key in keys {
            let entry = self.keys.get_mut(&key).expect("just listed");
            for _ in 0..entry.backlog.len() {
                let mut job = entry.backlog.pop_front().expect("counted");
                if is_gone(&mut job) {
                    self.records -= 1;
                    gone(job);
                } else {
                    entry.backlog.push_back(job);
                }
            }
            if !entry.job.as_mut().is_some_and(&mut is_gone) {
                continue;
            }
            if let Some(until) = entry.timer.take() {
                self.timers.remove(&(until, entry.stamp, key));
            }
            match std::mem::replace(&mut entry.wait, Wait::Running) {
                Wait::Ready => self.ready.retain(|ready| *ready != key),
                // A future is foreign code, also when it is dropped.
                Wait::Lease(lease) => foreign::discard(lease),
                Wait::Time | Wait::Operator | Wait::Running => {}
            }
            self.records -= 1;
            gone(entry.job.take().expect("just looked at"));
            self.over(key);
        }
    }
}

/// What [`Waiting::take_due`] found.
pub(crate) enum Due<L> {
    /// A key's turn has come.
    Ready,
    /// A lease ended before its future did; [`Waiting::take_expired`] gives its record.
    Expired(Key, L),
}

/// What a waiting key waits for, as an operator sees it.
///
/// ```
/// use keylane::pool::{Key, PoolBuilder, WaitsFor};
/// # use keylane::pool::{Handler, Outcome, Turn};
/// # use std::time::Instant;
/// # struct Review;
/// # impl Handler for Review {
/// #     type Job = bool;
/// #     type Future = std::future::Ready<()>;
/// #     fn handle(&mut self, is_approved: &mut bool, _: Instant) -> Outcome<Self::Future> {
/// #         if std::mem::replace(is_approved, true) { Outcome::Done } else { Outcome::Hold }
/// #     }
/// #     fn resolve(&mut self, _: &mut bool, (): (), _: Instant) -> Outcome<Self::Future> { Outcome::Done }
/// #     fn panicked(&mut self, _: &mut bool, _: String, _: Instant) -> Outcome<Self::Future> { Outcome::Done }
/// #     fn expired(&mut self, _: &mut bool, _: Instant) -> Outcome<Self::Future> { Outcome::Done }
/// # }
///
/// let (pool, mut workers) = PoolBuilder::new().workers(1).stepped(|_| Review)?;
/// pool.try_send(Key::of("order-42"), false)?; // a job that is held for a review
/// while workers[0].step(Instant::now()) == Turn::Ran {}
/// let (tell, told) = std::sync::mpsc::channel();
/// drop(pool.visit(move |waiting, _| {
///     waiting.for_each(&mut |key, _job, waits_for, _behind| drop(tell.send((key, waits_for))));
/// }));
/// while workers[0].step(Instant::now()) == Turn::Ran {}
/// assert_eq!(told.recv()?, (Key::of("order-42"), WaitsFor::Operator));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitsFor {
    /// Its turn on its worker, which has come.
    Turn,
    /// A time: the next attempt.
    Time(Instant),
    /// An operator: it is held.
    Operator,
    /// A future, until the given deadline if there is one.
    Future(Option<Instant>),
}

#[cfg(all(test, not(loom)))]
mod tests;
