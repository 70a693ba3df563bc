//! Partitions and their ledgers against a naive model, in one list of operations; and the same property against
//! ledgers that are wrong on purpose, which it has to find out.

use super::*;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestError, TestRunner};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

const PARTITIONS: usize = 2;

#[derive(Debug, Clone)]
enum Op {
    /// The broker delivers the next record, this far behind the newest.
    Deliver {
        partition: usize,
        gap: u64,
        bytes: usize,
    },
    /// The broker delivers an offset this far below the newest: a copy, a returned record, or one that is late.
    DeliverAgain {
        partition: usize,
        back: u64,
        bytes: usize,
    },
    /// A verdict on any record ever delivered, so also a second one, or one of a generation that is over.
    Settle {
        token: prop::sample::Index,
    },
    /// A verdict on an offset near it.
    SettleOther {
        token: prop::sample::Index,
        by: u64,
    },
    Return {
        token: prop::sample::Index,
    },
    /// What a crash would come back to.
    Commit {
        partition: usize,
    },
    /// Gives the partition back, committed.
    Revoke {
        partition: usize,
    },
    Lose {
        partition: usize,
    },
    /// Another member has the partition meanwhile, handles this many offsets and commits.
    HandledElsewhere {
        partition: usize,
        offsets: u64,
    },
    Assign {
        partition: usize,
        with_metadata: bool,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let partition = || 0..PARTITIONS;
    let token = any::<prop::sample::Index>;
    let gap = prop_oneof![8 => Just(0), 3 => 1_u64..4, 1 => 50_u64..200, 1 => 10_000_u64..1_000_000];
    prop_oneof![
        20 => (partition(), gap, 0_usize..100)
            .prop_map(|(partition, gap, bytes)| Op::Deliver { partition, gap, bytes }),
        5 => (partition(), 0_u64..40, 0_usize..100)
            .prop_map(|(partition, back, bytes)| Op::DeliverAgain { partition, back, bytes }),
        16 => token().prop_map(|token| Op::Settle { token }),
        1 => (token(), 0_u64..80).prop_map(|(token, by)| Op::SettleOther { token, by }),
        3 => token().prop_map(|token| Op::Return { token }),
        1 => partition().prop_map(|partition| Op::Commit { partition }),
        1 => partition().prop_map(|partition| Op::Revoke { partition }),
        1 => partition().prop_map(|partition| Op::Lose { partition }),
        1 => (partition(), 0_u64..20)
            .prop_map(|(partition, offsets)| Op::HandledElsewhere { partition, offsets }),
        3 => (partition(), any::<bool>())
            .prop_map(|(partition, with_metadata)| Op::Assign { partition, with_metadata }),
    ]
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(op(), 0..200)
}

#[derive(Debug, PartialEq)]
struct View {
    position: u64,
    oldest_pending: Option<u64>,
    records_in_flight: usize,
    in_flight: Vec<u64>,
    bytes_in_flight: usize,
    distance: usize,
    ahead: Vec<Range<u64>>,
}

impl From<&Ledger> for View {
    fn from(ledger: &Ledger) -> Self {
        Self {
            position: ledger.position_to_commit(),
            oldest_pending: ledger.oldest_pending(),
            records_in_flight: ledger.records_in_flight(),
            in_flight: ledger.in_flight().collect(),
            bytes_in_flight: ledger.bytes_in_flight(),
            distance: ledger.distance(),
            ahead: ledger.settled_ahead().collect(),
        }
    }
}

/// One generation of one partition as anybody would write it down: every offset that was delivered, for ever.
struct Naive {
    start: u64,
    records: BTreeMap<u64, (NaiveState, usize)>,
    settled_before: BTreeSet<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum NaiveState {
    InFlight,
    Returned,
    Settled,
}

impl Naive {
    fn new(start: u64, ahead: &[Range<u64>]) -> Self {
        let settled_before = ahead.iter().cloned().flatten().filter(|&offset| offset >= start).collect();
        Self { start, records: BTreeMap::new(), settled_before }
    }

    fn next(&self) -> u64 {
        self.records.keys().next_back().map_or(self.start, |newest| newest + 1)
    }

    fn oldest_pending(&self) -> Option<u64> {
        self.records.iter().find(|(_, (state, _))| *state != NaiveState::Settled).map(|(&offset, _)| offset)
    }

    fn position(&self) -> u64 {
        self.oldest_pending().unwrap_or(self.next())
    }

    fn deliver(&mut self, offset: u64, bytes: usize) -> Delivered {
        if offset >= self.next() && self.settled_before.contains(&offset) {
            self.records.insert(offset, (NaiveState::Settled, bytes));
            return Delivered::Settled;
        }
        if offset < self.position() {
            return Delivered::Settled;
        }
        match self.records.get(&offset) {
            Some((NaiveState::InFlight, _)) => Delivered::InFlight,
            Some((NaiveState::Settled, _)) => Delivered::Settled,
            Some((NaiveState::Returned, _)) | None => {
                self.records.insert(offset, (NaiveState::InFlight, bytes));
                Delivered::New
            }
        }
    }

    fn settle(&mut self, offset: u64) -> Settled {
        if offset < self.position() {
            return Settled::Again;
        }
        match self.records.get_mut(&offset) {
            None => Settled::Unknown,
            Some((NaiveState::Settled, _)) => Settled::Again,
            Some((state, _)) => {
                *state = NaiveState::Settled;
                Settled::First
            }
        }
    }

    fn returned(&mut self, offset: u64) -> bool {
        match self.records.get_mut(&offset) {
            Some((state @ NaiveState::InFlight, _)) => {
                *state = NaiveState::Returned;
                true
            }
            _ => false,
        }
    }

    fn view(&self) -> View {
        let (position, next) = (self.position(), self.next());
        let in_flight = || self.records.iter().filter(|(_, (state, _))| *state == NaiveState::InFlight);
        let settled = self.records.range(position..).filter(|(_, (state, _))| *state == NaiveState::Settled);
        let mut ahead: Vec<Range<u64>> = Vec::new();
        for offset in settled.map(|(&offset, _)| offset).chain(self.settled_before.range(next..).copied()) {
            match ahead.last_mut() {
                Some(range) if range.end == offset => range.end += 1,
                _ => ahead.push(offset..offset + 1),
            }
        }
        View {
            position,
            oldest_pending: self.oldest_pending(),
            records_in_flight: in_flight().count(),
            in_flight: in_flight().map(|(&offset, _)| offset).collect(),
            bytes_in_flight: in_flight().map(|(_, (_, bytes))| bytes).sum(),
            distance: self.records.range(position..).count(),
            ahead,
        }
    }
}

/// What is to be kept of the promises: the shipped types, or these with one fault.
struct Subject {
    partitions: Partitions,
    fault: Option<Fault>,
    /// What the faults need to know: per partition the start, and every offset settled.
    seen: [(u64, BTreeSet<u64>); PARTITIONS],
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// The classic: commits behind the highest record that was settled.
    PositionBehindHighestSettled,
    /// Waits for `offset + 1`, so that a gap is waited for for ever.
    PositionByCounting,
    NoFence,
    ReturnedIsSettled,
    CopyIsNew,
    AheadIsForgotten,
    AssignsOverAnOldLedger,
}

impl Subject {
    fn new(fault: Option<Fault>) -> Self {
        Self { partitions: Partitions::default(), fault, seen: Default::default() }
    }

    fn slot(&self, partition: usize) -> Option<Slot> {
        self.partitions.slot(0, partition as u32)
    }

    fn assign(&mut self, partition: usize, start: u64, ahead: &[Range<u64>]) {
        self.seen[partition] = (start, BTreeSet::new());
        if self.fault == Some(Fault::AssignsOverAnOldLedger) && self.view(partition).is_some() {
            return;
        }
        let ahead = if self.fault == Some(Fault::AheadIsForgotten) { &[] } else { ahead };
        let slot = self.partitions.assign(0, partition as u32, Ledger::restore(start, ahead.iter().cloned()));
        assert_eq!(self.slot(partition), Some(slot));
    }

    fn deliver(&mut self, partition: usize, offset: u64, bytes: usize) -> Option<(Token, Delivered)> {
        let (token, delivered) = self.partitions.deliver(self.slot(partition)?, offset, bytes)?;
        match (delivered, self.fault) {
            (Delivered::InFlight, Some(Fault::CopyIsNew)) => Some((token, Delivered::New)),
            _ => Some((token, delivered)),
        }
    }

    fn settle(&mut self, partition: usize, mut token: Token, bytes: usize) -> Result<Settled, Fenced> {
        if self.fault == Some(Fault::NoFence)
            && let Some((now, _)) = &self.partitions.slots[token.slot.0 as usize].current
        {
            token.generation = *now;
        }
        let settled = self.partitions.settle(token, bytes);
        if settled == Ok(Settled::First) {
            self.seen[partition].1.insert(token.offset);
        }
        settled
    }

    fn returned(&mut self, token: Token, bytes: usize) -> Result<bool, Fenced> {
        if self.fault == Some(Fault::ReturnedIsSettled) {
            return Ok(self.partitions.settle(token, bytes)? == Settled::First);
        }
        self.partitions.returned(token, bytes)
    }

    fn view(&self, partition: usize) -> Option<View> {
        let mut view = View::from(self.partitions.ledger(self.slot(partition)?)?);
        let (start, settled) = &self.seen[partition];
        match self.fault {
            Some(Fault::PositionBehindHighestSettled) => {
                view.position = settled.last().map_or(*start, |highest| highest + 1);
            }
            Some(Fault::PositionByCounting) => {
                let run = settled.range(start..).zip(*start..).take_while(|(offset, n)| *offset == n).count();
                view.position = start + run as u64;
            }
            _ => {}
        }
        Some(view)
    }

    fn revoke(&mut self, partition: usize) -> Option<View> {
        let view = self.view(partition);
        let ledger = self.partitions.revoke(self.slot(partition)?);
        assert_eq!(view.is_some(), ledger.is_some());
        view
    }

    fn lose(&mut self, partition: usize) {
        if let Some(slot) = self.slot(partition) {
            self.partitions.lose(slot);
        }
    }
}

/// What the broker and the test know of a partition.
#[derive(Default)]
struct Truth {
    committed: (u64, Vec<Range<u64>>),
    /// What this member handed to a handler, over all generations.
    handed_out: BTreeSet<u64>,
    /// What may be committed past: settled in time by whoever had the partition.
    completed: BTreeSet<u64>,
}

/// A record that was handed out, with the generation in the model's own count.
struct Issued {
    partition: usize,
    generation: usize,
    offset: u64,
    bytes: usize,
    token: Token,
}

/// Runs the operations on both and compares every answer. Beside the model it holds every position against what was
/// completed: a position past a record that nobody completed is a lost record, whatever a model says.
fn check(mut subject: Subject, ops: &[Op]) -> Result<(), TestCaseError> {
    let mut model: [Option<(usize, Naive)>; PARTITIONS] = Default::default();
    let mut truth: [Truth; PARTITIONS] = Default::default();
    let mut generations = 0;
    let mut issued: Vec<Issued> = Vec::new();

    for op in ops {
        match op {
            Op::Deliver { partition, .. } | Op::DeliverAgain { partition, .. } => {
                let naive = model[*partition].as_mut();
                let next = naive.as_ref().map_or(0, |(_, naive)| naive.next());
                let (offset, bytes) = match op {
                    Op::Deliver { gap, bytes, .. } => (next + gap, *bytes),
                    Op::DeliverAgain { back, bytes, .. } => (next.saturating_sub(1 + back), *bytes),
                    _ => unreachable!("matched above"),
                };
                // What the broker skips it has no more: compacted, so nobody waits for it.
                truth[*partition].handed_out.retain(|handed| !(next..offset).contains(handed));
                let answer = subject.deliver(*partition, offset, bytes);
                let expected = naive.map(|(generation, naive)| (*generation, naive.deliver(offset, bytes)));
                let delivered = answer.map(|(_, delivered)| delivered);
                prop_assert_eq!(delivered, expected.map(|(_, delivered)| delivered), "{:?}", op);
                if let (Some((token, Delivered::New)), Some((generation, _))) = (answer, expected) {
                    truth[*partition].handed_out.insert(offset);
                    issued.push(Issued { partition: *partition, generation, offset, bytes, token });
                }
            }
            Op::Settle { token } | Op::SettleOther { token, .. } | Op::Return { token } => {
                if issued.is_empty() {
                    continue;
                }
                let Issued { partition, generation, mut offset, bytes, mut token } = *token.get(&issued);
                if let Op::SettleOther { by, .. } = op {
                    offset = (offset + 40).saturating_sub(*by);
                    token.offset = offset;
                }
                let naive = model[partition].as_mut().filter(|(current, _)| *current == generation);
                // Who settles another record gives that record's size, as the real caller does.
                let bytes =
                    naive.as_ref().and_then(|(_, naive)| naive.records.get(&offset)).map_or(bytes, |r| r.1);
                if let Op::Return { .. } = op {
                    let expected = naive.map(|(_, naive)| naive.returned(offset)).ok_or(Fenced);
                    prop_assert_eq!(subject.returned(token, bytes), expected, "{:?}", op);
                } else {
                    let expected = naive.map(|(_, naive)| naive.settle(offset)).ok_or(Fenced);
                    prop_assert_eq!(subject.settle(partition, token, bytes), expected, "{:?}", op);
                    if expected == Ok(Settled::First) {
                        truth[partition].completed.insert(offset);
                    }
                }
            }
            Op::Commit { partition } => {
                if let Some(view) = subject.view(*partition) {
                    truth[*partition].committed = (view.position, view.ahead);
                }
            }
            Op::Revoke { partition } => {
                let expected = model[*partition].take().map(|(_, naive)| naive.view());
                let last = subject.revoke(*partition);
                prop_assert_eq!(&last, &expected, "{:?}", op);
                if let Some(view) = last {
                    truth[*partition].committed = (view.position, view.ahead);
                }
            }
            Op::Lose { partition } => {
                subject.lose(*partition);
                model[*partition] = None;
            }
            Op::HandledElsewhere { partition, offsets } => {
                if model[*partition].is_none() {
                    let Truth { committed, completed, .. } = &mut truth[*partition];
                    completed.extend(committed.0..committed.0 + offsets);
                    committed.0 += offsets;
                }
            }
            Op::Assign { partition, with_metadata } => {
                let (position, ahead) = &truth[*partition].committed;
                let ahead = if *with_metadata { &ahead[..] } else { &[] };
                subject.assign(*partition, *position, ahead);
                generations += 1;
                model[*partition] = Some((generations, Naive::new(*position, ahead)));
            }
        }

        for (partition, naive) in model.iter().enumerate() {
            let view = subject.view(partition);
            if let Some(view) = &view {
                let Truth { handed_out, completed, .. } = &truth[partition];
                let lost = handed_out.range(..view.position).find(|offset| !completed.contains(offset));
                prop_assert_eq!(lost, None, "position {} is past a record not completed", view.position);
            }
            prop_assert_eq!(view, naive.as_ref().map(|(_, naive)| naive.view()), "after {:?}", op);
        }
        let assigned = subject.partitions.iter().map(|(topic, partition, _)| (topic, partition as usize));
        let expected = (0..PARTITIONS).filter(|&n| model[n].is_some()).map(|n| (0, n));
        prop_assert_eq!(assigned.collect::<BTreeSet<_>>(), expected.collect::<BTreeSet<_>>());
    }
    Ok(())
}

proptest! {
    #![proptest_config(Config { cases: 512, failure_persistence: None, ..Config::default() })]

    #[test]
    fn ledgers_and_their_fence_answer_as_a_naive_model_does(ops in ops()) {
        check(Subject::new(None), &ops)?;
    }
}

#[test]
fn the_property_finds_each_planted_fault() {
    let faults = [
        Fault::PositionBehindHighestSettled,
        Fault::PositionByCounting,
        Fault::NoFence,
        Fault::ReturnedIsSettled,
        Fault::CopyIsNew,
        Fault::AheadIsForgotten,
        Fault::AssignsOverAnOldLedger,
    ];
    for fault in faults {
        let config =
            Config { cases: 512, max_shrink_iters: 0, failure_persistence: None, ..Config::default() };
        let found = TestRunner::new(config).run(&ops(), |ops| check(Subject::new(Some(fault)), &ops));
        assert!(matches!(found, Err(TestError::Fail(..))), "{fault:?} was not found");
    }
}

#[test]
fn a_late_verdict_cannot_touch_the_next_generation() {
    let mut partitions = Partitions::default();
    let slot = partitions.assign(0, 3, Ledger::new(10));
    let (old, _) = partitions.deliver(slot, 10, 1).unwrap();
    partitions.lose(slot);
    assert_eq!(partitions.settle(old, 1), Err(Fenced));
    assert_eq!(partitions.assign(0, 3, Ledger::new(10)), slot);
    let (new, delivered) = partitions.deliver(slot, 10, 1).unwrap();
    assert_eq!(delivered, Delivered::New);
    assert_eq!(partitions.settle(old, 1), Err(Fenced));
    assert_eq!(partitions.returned(old, 1), Err(Fenced));
    assert_eq!(partitions.ledger(slot).unwrap().position_to_commit(), 10);
    assert_eq!(partitions.settle(new, 1), Ok(Settled::First));
    assert_eq!(partitions.revoke(slot).unwrap().position_to_commit(), 11);
    assert!(partitions.deliver(slot, 11, 1).is_none());
}
