//! The keys of one worker that wait: a state machine without threads, clocks or futures in it.
//!
//! A key waits because its first record waits for a time, is held for an operator, or is leased to a future. Its later
//! records queue behind it in its backlog and every other key goes on. A key that waits for nothing takes no room:
//! memory follows the records that wait, never the keys that were seen.

use super::visit::WaitingKey;
use super::{Key, WaitsFor};
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

/// Up to so many slots of a table are kept while they are empty.
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
            self.give_back_room();
        }
    }

    /// Memory follows what waits now: what is mostly empty is made smaller, to twice of what is in it, so that each key
    /// that went pays for a move or two.
    fn give_back_room(&mut self) {
        let kept = |len: usize| (len * 2).max(KEPT_SLOTS);
        let is_too_large = |len: usize, capacity: usize| capacity > KEPT_SLOTS && len < capacity / 8;
        if is_too_large(self.keys.len(), self.keys.capacity()) {
            self.keys.shrink_to(kept(self.keys.len()));
        }
        if is_too_large(self.ready.len(), self.ready.capacity()) {
            self.ready.shrink_to(kept(self.ready.len()));
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

    /// Each key that waits.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = WaitingKey<'_, J>> {
        self.keys.iter_mut().filter_map(|(key, entry)| {
            let waits_for = match &entry.wait {
                Wait::Ready => WaitsFor::Turn,
                Wait::Time => WaitsFor::Time(entry.timer.expect("a timed wait has its time")),
                Wait::Operator => WaitsFor::Operator,
                Wait::Lease(_) => WaitsFor::Future(entry.timer),
                Wait::Running => return None,
            };
            Some(WaitingKey { key: *key, job: entry.job.as_mut()?, waits_for, behind: entry.backlog.len() })
        })
    }

    /// Removes waiting records, heads and backlogs alike, for which `is_gone` says so; what stays keeps its order. A
    /// head that goes while its key waits takes its wait and its lease with it, and the next of its key gets its turn.
    ///
    /// All are asked before the first one moves: `is_gone` is foreign code, and where it panics nothing has changed.
    pub(crate) fn remove_where(&mut self, mut is_gone: impl FnMut(&mut J) -> bool) -> Removed<J, L> {
        let mut decided = Vec::new();
        for (key, entry) in &mut self.keys {
            let head = entry.job.as_mut().is_some_and(&mut is_gone);
            let behind: Vec<bool> = entry.backlog.iter_mut().map(&mut is_gone).collect();
            if head || behind.contains(&true) {
                decided.push((*key, head, behind));
            }
        }
        let mut removed = Removed { jobs: Vec::new(), leases: Vec::new() };
        let mut has_left_ready = false;
        for (key, is_head_gone, behind) in decided {
            let entry = self.keys.get_mut(&key).expect("just looked at");
            let before = removed.jobs.len();
            let mut behind = behind.into_iter();
            let is_gone = |_: &mut J| behind.next().expect("each was asked");
            let head = if is_head_gone { entry.job.take() } else { None };
            removed.jobs.extend(head);
            let backlog = std::mem::take(&mut entry.backlog);
            let (gone, stays) = split(backlog, is_gone);
            removed.jobs.extend(gone);
            entry.backlog = stays;
            self.records -= (removed.jobs.len() - before) as u64;
            if !is_head_gone {
                continue;
            }
            if let Some(until) = entry.timer.take() {
                self.timers.remove(&(until, entry.stamp, key));
            }
            // A key whose turn had come keeps its place with its next record.
            let had_its_turn = match std::mem::replace(&mut entry.wait, Wait::Ready) {
                Wait::Ready => true,
                Wait::Lease(lease) => {
                    removed.leases.push(lease);
                    false
                }
                Wait::Time | Wait::Operator => false,
                Wait::Running => unreachable!("a running key has no head to go"),
            };
            entry.job = entry.backlog.pop_front();
            match (entry.job.is_some(), had_its_turn) {
                (true, true) => {}
                (true, false) => self.ready.push_back(key),
                (false, _) => {
                    self.keys.remove(&key);
                    has_left_ready |= had_its_turn;
                }
            }
        }
        if has_left_ready {
            let keys = &self.keys;
            self.ready.retain(|key| keys.get(key).is_some_and(|entry| matches!(entry.wait, Wait::Ready)));
        }
        self.give_back_room();
        removed
    }
}

/// What [`Waiting::remove_where`] took away. Both are foreign code, also when they are dropped.
pub(crate) struct Removed<J, L> {
    pub(crate) jobs: Vec<J>,
    pub(crate) leases: Vec<L>,
}

/// Those of which `is_gone` says so, and the others, each in their order.
fn split<J>(backlog: VecDeque<J>, mut is_gone: impl FnMut(&mut J) -> bool) -> (Vec<J>, VecDeque<J>) {
    let (mut gone, mut stays) = (Vec::new(), VecDeque::new());
    for mut job in backlog {
        if is_gone(&mut job) {
            gone.push(job);
        } else {
            stays.push_back(job);
        }
    }
    (gone, stays)
}

/// What [`Waiting::take_due`] found.
pub(crate) enum Due<L> {
    /// A key's turn has come.
    Ready,
    /// A lease ended before its future did; [`Waiting::take_expired`] gives its record.
    Expired(Key, L),
}

#[cfg(all(test, not(loom)))]
mod tests;
