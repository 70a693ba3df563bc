//! The waiting keys against a model that keeps one list of records and looks through all of it each time; and the same
//! property against waiting keys that are wrong on purpose, which it has to find out.

use super::*;
use proptest::prelude::*;
use proptest::test_runner::{TestError, TestRunner};
use std::time::Duration;

#[derive(Debug, Clone, Copy)]
enum Op {
    /// A record of this key arrives; if its key does not wait it runs and ends so.
    Arrive(u8, End),
    /// The next key whose turn has come runs its first record, which ends so.
    RunReady(End),
    /// Time goes on by so many milliseconds; whoever is due gets his turn, and expired leases end so.
    Pass(u8, End),
    /// The lease of this key is ready.
    EndLease(u8, End),
    /// An operator's retry.
    MakeReady(u8),
    /// Records whose number leaves this remainder by 3 are taken away.
    Remove(u8),
    /// A wake of a lease that may be over: `lease` finds it or not.
    LateWake(u8),
}

#[derive(Debug, Clone, Copy)]
enum End {
    Over,
    RetryIn(u8),
    Hold,
    Lease(Option<u8>),
}

fn ends() -> impl Strategy<Value = End> {
    prop_oneof![
        3 => Just(End::Over),
        2 => (0u8..20).prop_map(End::RetryIn),
        1 => Just(End::Hold),
        2 => prop::option::of(0u8..20).prop_map(End::Lease),
    ]
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let key = 0u8..5;
    let op = prop_oneof![
        6 => (key.clone(), ends()).prop_map(|(key, end)| Op::Arrive(key, end)),
        4 => ends().prop_map(Op::RunReady),
        2 => (0u8..15, ends()).prop_map(|(time, end)| Op::Pass(time, end)),
        2 => (key.clone(), ends()).prop_map(|(key, end)| Op::EndLease(key, end)),
        2 => key.clone().prop_map(Op::MakeReady),
        1 => (0u8..3).prop_map(Op::Remove),
        1 => key.prop_map(Op::LateWake),
    ];
    prop::collection::vec(op, 1..120)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    Time(Instant),
    Operator,
    Lease(Option<Instant>),
}

/// Waiting keys in the order in which they came to be; all else is found by looking.
#[derive(Default)]
struct Model {
    keys: Vec<(Key, State, u64, Vec<u64>)>,
    ready: Vec<Key>,
    waits: u64,
}

impl Model {
    fn at(&mut self, key: Key) -> Option<usize> {
        self.keys.iter().position(|(other, ..)| *other == key)
    }

    fn arrive(&mut self, key: Key, job: u64) -> bool {
        let Some(at) = self.at(key) else { return true };
        self.keys[at].3.push(job);
        false
    }

    /// The first record of this key ran and ended so.
    fn end(&mut self, key: Key, job: u64, end: End, now: Instant) {
        let state = match end {
            End::Over => {
                let Some(at) = self.at(key) else { return };
                if self.keys[at].3.is_empty() {
                    self.keys.remove(at);
                } else {
                    self.keys[at].1 = State::Ready;
                    self.ready.push(key);
                }
                return;
            }
            End::RetryIn(time) => State::Time(now + ms(time)),
            End::Hold => State::Operator,
            End::Lease(time) => State::Lease(time.map(|time| now + ms(time))),
        };
        self.waits += 1;
        match self.at(key) {
            Some(at) => {
                self.keys[at].1 = state;
                self.keys[at].2 = self.waits;
                self.keys[at].3.insert(0, job);
            }
            None => self.keys.push((key, state, self.waits, vec![job])),
        }
    }

    /// Takes the first record of a key away, to run it.
    fn take(&mut self, key: Key) -> u64 {
        let at = self.at(key).expect("it waits");
        self.ready.retain(|ready| *ready != key);
        self.keys[at].3.remove(0)
    }

    fn due(&self) -> Option<(Instant, u64, Key, State)> {
        let timed = self.keys.iter().filter_map(|(key, state, stamp, _)| match state {
            State::Time(until) | State::Lease(Some(until)) => Some((*until, *stamp, *key, *state)),
            _ => None,
        });
        timed.min_by_key(|(until, stamp, ..)| (*until, *stamp))
    }
}

fn ms(n: u8) -> Duration {
    Duration::from_millis(n.into())
}

/// What is wrong with the waiting keys on purpose.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// A record runs although its key waits.
    Overtakes,
    /// A key's turn comes before its time.
    IsEarly,
    /// A wake of a lease that is over finds the next one.
    LateWakeFinds,
    /// The records behind one that is over are forgotten.
    DropsBacklog,
    /// A key that an operator wakes keeps its timer.
    KeepsTimer,
}

/// Both side by side. A lease is the number of its record.
struct Pair {
    real: Waiting<u64, u64>,
    fault: Option<Fault>,
    model: Model,
    now: Instant,
    last: u64,
    /// The stamps of leases, by key, ended ones included.
    stamps: Vec<(Key, u64)>,
}

impl Pair {
    fn end(&mut self, key: Key, job: u64, end: End) {
        self.model.end(key, job, end, self.now);
        let reason = match end {
            End::Over => {
                if self.real.len() > 0 {
                    if self.fault == Some(Fault::DropsBacklog)
                        && let Some(entry) = self.real.keys.get_mut(&key)
                    {
                        self.real.records -= entry.backlog.len() as u64;
                        entry.backlog.clear();
                    }
                    self.real.over(key);
                }
                return;
            }
            End::RetryIn(time) => For::Time(self.now + ms(time)),
            End::Hold => For::Operator,
            End::Lease(time) => For::Lease(job, time.map(|time| self.now + ms(time))),
        };
        let announced = self.real.next_stamp();
        let stamp = self.real.wait(key, job, reason);
        assert_eq!(stamp, announced, "a lease is told the stamp before it waits");
        if matches!(end, End::Lease(_)) {
            self.stamps.push((key, stamp));
        }
    }

    fn apply(&mut self, op: Op) -> Result<(), TestCaseError> {
        let key = |n: u8| Key::of_number(n.into());
        match op {
            Op::Arrive(n, end) => {
                self.last += 1;
                let job = self.last;
                let runs = self.model.arrive(key(n), job);
                let is_let_through = self.fault == Some(Fault::Overtakes);
                let given_back = if is_let_through { Some(job) } else { self.real.queue_behind(key(n), job) };
                prop_assert_eq!(given_back, runs.then_some(job));
                if runs {
                    self.end(key(n), job, end);
                }
            }
            Op::RunReady(end) => {
                let expected = self.model.ready.first().copied();
                let found = self.real.start_ready();
                prop_assert_eq!(found.map(|(key, _)| key), expected);
                if let Some((key, job)) = found {
                    prop_assert_eq!(job, self.model.take(key));
                    self.end(key, job, end);
                }
            }
            Op::Pass(time, end) => {
                self.now += ms(time);
                let mut turns = 0;
                loop {
                    let expected = self.model.due().filter(|(until, ..)| *until <= self.now);
                    let early = ms(u8::from(self.fault == Some(Fault::IsEarly)));
                    let found = self.real.take_due(self.now + early);
                    let Some((_, _, key, state)) = expected else {
                        prop_assert!(found.is_none(), "something was due too early");
                        break;
                    };
                    match (found, state) {
                        (Some(Due::Ready), State::Time(_)) => {
                            let at = self.model.at(key).expect("it is due");
                            self.model.keys[at].1 = State::Ready;
                            self.model.ready.push(key);
                        }
                        (Some(Due::Expired(found, lease)), State::Lease(_)) => {
                            prop_assert_eq!(found, key);
                            let job = self.model.take(key);
                            prop_assert_eq!((self.real.take_expired(key), lease), (job, job));
                            // Once round is enough: a lease of 0 ms would be due again for ever.
                            turns += 1;
                            self.end(key, job, if turns > 8 { End::Over } else { end });
                        }
                        _ => prop_assert!(false, "{key:?} should be due in {state:?}"),
                    }
                }
            }
            Op::EndLease(n, end) => {
                let at = self.model.at(key(n));
                let is_leased = at.is_some_and(|at| matches!(self.model.keys[at].1, State::Lease(_)));
                if is_leased {
                    let (job, lease) = self.real.end_lease(key(n));
                    prop_assert_eq!((job, lease), (self.model.take(key(n)), job));
                    self.end(key(n), job, end);
                }
            }
            Op::MakeReady(n) => {
                let at = self.model.at(key(n));
                let can = at.filter(|at| matches!(self.model.keys[*at].1, State::Time(_) | State::Operator));
                let timer =
                    self.real.keys.get(&key(n)).and_then(|entry| Some((entry.timer?, entry.stamp, key(n))));
                prop_assert_eq!(self.real.make_ready(key(n)), can.is_some());
                if self.fault == Some(Fault::KeepsTimer) && can.is_some() {
                    self.real.timers.extend(timer);
                }
                if let Some(at) = can {
                    self.model.keys[at].1 = State::Ready;
                    self.model.ready.push(key(n));
                }
            }
            Op::Remove(rest) => self.remove(u64::from(rest))?,
            Op::LateWake(n) => {
                for (key, stamp) in self.stamps.iter().filter(|(other, _)| *other == key(n)) {
                    let current_stamp = self.real.keys.get(key).map_or(*stamp, |entry| entry.stamp);
                    let asked = if self.fault == Some(Fault::LateWakeFinds) { current_stamp } else { *stamp };
                    let current = self.model.keys.iter().find(|(other, ..)| other == key);
                    let is_leased = current
                        .is_some_and(|(_, state, now, _)| matches!(state, State::Lease(_)) && now == stamp);
                    prop_assert_eq!(
                        self.real.lease(*key, asked).is_some(),
                        is_leased,
                        "a late wake found a lease"
                    );
                }
            }
        }
        Ok(())
    }

    fn remove(&mut self, rest: u64) -> Result<(), TestCaseError> {
        let is_gone = |job: u64| job % 3 == rest;
        let mut gone = Vec::new();
        let removed = self.real.remove_where(|job| is_gone(*job));
        gone.extend(removed.jobs);
        let mut expected: Vec<u64> = Vec::new();
        // Keys that become ready do so in an order that only the map knows: it is taken over.
        let mut made_ready = Vec::new();
        self.model.keys.retain_mut(|(key, state, _, jobs)| {
            let was_head = jobs[0];
            expected.extend(jobs.iter().filter(|job| is_gone(**job)));
            jobs.retain(|job| !is_gone(*job));
            if jobs.first() == Some(&was_head) {
                return true;
            }
            if jobs.is_empty() {
                self.model.ready.retain(|ready| ready != key);
                return false;
            }
            // A key whose turn had come keeps its place with its next record.
            if *state == State::Ready {
                return true;
            }
            *state = State::Ready;
            made_ready.push(*key);
            true
        });
        gone.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(gone, expected);
        let real = &self.real.ready;
        prop_assert!(made_ready.iter().all(|key| real.contains(key)));
        let order: Vec<Key> = real.iter().filter(|key| made_ready.contains(key)).copied().collect();
        self.model.ready.extend(order);
        Ok(())
    }

    fn compare(&mut self) -> Result<(), TestCaseError> {
        let records: usize = self.model.keys.iter().map(|(.., jobs)| jobs.len()).sum();
        prop_assert_eq!(self.real.records(), records as u64);
        prop_assert_eq!(self.real.len(), self.model.keys.len());
        prop_assert_eq!(self.real.next_due(), self.model.due().map(|(until, ..)| until));
        prop_assert_eq!(self.real.has_ready(), !self.model.ready.is_empty());
        let mut seen: Vec<_> = self
            .real
            .iter_mut()
            .map(|waiting| (waiting.key, *waiting.job, waiting.waits_for, waiting.behind))
            .collect();
        seen.sort_unstable_by_key(|(key, ..)| *key);
        let mut expected: Vec<_> = (self.model.keys.iter())
            .map(|(key, state, _, jobs)| {
                let waits_for = match state {
                    State::Ready => WaitsFor::Turn,
                    State::Time(until) => WaitsFor::Time(*until),
                    State::Operator => WaitsFor::Operator,
                    State::Lease(until) => WaitsFor::Future(*until),
                };
                (*key, jobs[0], waits_for, jobs.len() - 1)
            })
            .collect();
        expected.sort_unstable_by_key(|(key, ..)| *key);
        prop_assert_eq!(seen, expected);
        Ok(())
    }
}

fn check(fault: Option<Fault>, ops: Vec<Op>) -> Result<(), TestCaseError> {
    let (real, model, now) = (Waiting::new(), Model::default(), Instant::now());
    let mut pair = Pair { real, fault, model, now, last: 0, stamps: Vec::new() };
    for op in ops {
        pair.apply(op)?;
        pair.compare()?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn waiting_keys_do_as_a_naive_model_does(ops in ops()) {
        check(None, ops)?;
    }
}

#[test]
fn the_comparison_finds_each_planted_fault() {
    for fault in
        [Fault::Overtakes, Fault::IsEarly, Fault::LateWakeFinds, Fault::DropsBacklog, Fault::KeepsTimer]
    {
        let config = ProptestConfig {
            cases: 2_000,
            max_shrink_iters: 0,
            failure_persistence: None,
            ..Default::default()
        };
        let found = TestRunner::new(config).run(&ops(), |ops| check(Some(fault), ops));
        assert!(matches!(found, Err(TestError::Fail(..))), "{fault:?} was not found");
    }
}

/// A key that waits for its turn, one for its time, one for an operator and one that is leased, each with two more
/// records behind; records are numbered in the order of their keys.
fn one_of_each(now: Instant) -> Waiting<u64, ()> {
    let mut waiting = Waiting::new();
    let reasons = [For::Operator, For::Time(now), For::Operator, For::Lease((), Some(now))];
    for (n, reason) in (0..).zip(reasons) {
        waiting.wait(Key::of_number(n), n * 3, reason);
        (1..3).for_each(|behind| assert_eq!(waiting.queue_behind(Key::of_number(n), n * 3 + behind), None));
    }
    assert!(waiting.make_ready(Key::of_number(0)));
    waiting
}

#[test]
fn a_predicate_that_panics_has_removed_nothing() {
    let now = Instant::now();
    for calls in 0..12 {
        let mut waiting = one_of_each(now);
        let mut left: u32 = calls;
        let removed = crate::foreign::call(|| {
            waiting.remove_where(|_| {
                left = left.checked_sub(1).expect("planted");
                true
            })
        });
        assert!(removed.is_err());
        assert_eq!((waiting.records(), waiting.len(), waiting.next_due()), (12, 4, Some(now)));
        let mut behind: Vec<_> = waiting.iter_mut().map(|waiting| (*waiting.job, waiting.behind)).collect();
        behind.sort_unstable();
        assert_eq!(behind, [(0, 2), (3, 2), (6, 2), (9, 2)]);
        assert_eq!(waiting.start_ready().map(|(_, job)| job), Some(0));
    }
}

#[test]
fn tables_that_are_mostly_empty_give_their_memory_back() {
    for kept in [0, 1, 100] {
        let mut waiting = Waiting::<u64, ()>::new();
        for n in 0..100_000 {
            waiting.wait(Key::of_number(n), n, For::Operator);
            assert!(n < kept || waiting.make_ready(Key::of_number(n)));
        }
        while let Some((key, _)) = waiting.start_ready() {
            waiting.over(key);
        }
        assert_eq!((waiting.len(), waiting.records()), (kept as usize, kept));
        assert!(waiting.keys.capacity() < 10_000, "{} slots are kept", waiting.keys.capacity());
        assert!(waiting.ready.capacity() < 10_000, "{} places are kept", waiting.ready.capacity());
    }
}

#[test]
fn who_leaves_a_long_queue_of_turns_does_not_look_through_it_for_each() {
    let mut waiting = Waiting::<u64, ()>::new();
    for n in 0..100_000 {
        waiting.wait(Key::of_number(n), n, For::Operator);
        assert!(waiting.make_ready(Key::of_number(n)));
    }
    // Every second one, and each of those in its place: by looking through the queue for each this takes minutes.
    let removed = waiting.remove_where(|job| *job % 2 == 0);
    assert_eq!(removed.jobs.len(), 50_000);
    let left: Vec<u64> = std::iter::from_fn(|| waiting.start_ready()).map(|(_, job)| job).collect();
    assert_eq!(left, (0..100_000).filter(|n| n % 2 == 1).collect::<Vec<_>>());
    assert!(waiting.remove_where(|_| true).jobs.is_empty());
}
