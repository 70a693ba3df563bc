//! The gate against a model of a server that redelivers, loses, forgets and crashes.

use super::*;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::collections::BTreeSet;

/// What a consumer is to its server.
#[derive(Debug, Clone, Default)]
struct Consumer {
    /// The last sequence delivered for the first time.
    upto: u64,
    number: u64,
    /// Delivered and not acknowledged; true: due to be delivered again.
    pending: BTreeMap<u64, bool>,
}

impl Consumer {
    /// The next message for a pull: what is due comes first.
    fn deliver(&mut self, stream: &Stream) -> Option<u64> {
        let is_there = |sequence: &u64| !stream.removed.contains(sequence);
        let mut due = self.pending.iter().filter(|(_, is_due)| **is_due).map(|(sequence, _)| *sequence);
        let again = due.find(is_there);
        let sequence = again.or_else(|| (self.upto + 1..=stream.stored).find(is_there))?;
        self.upto = self.upto.max(sequence);
        self.number += 1;
        self.pending.insert(sequence, false);
        Some(sequence)
    }

    fn acknowledge(&mut self, sequence: u64) {
        self.pending.remove(&sequence);
    }

    fn facts(&self) -> Facts {
        let first = self.pending.keys().next();
        Facts {
            unacknowledged: self.pending.len(),
            sequence: self.upto,
            number: self.number,
            floor: first.map_or(self.upto, |first| first - 1),
        }
    }
}

/// What a stream has of what was stored in it, from 1.
#[derive(Debug, Default)]
struct Stream {
    stored: u64,
    removed: BTreeSet<u64>,
    /// Whether it says what it has no more, or there is too much of it.
    names_removed: bool,
}

impl Stream {
    fn there(&self) -> impl Iterator<Item = u64> {
        (1..=self.stored).filter(|sequence| !self.removed.contains(sequence))
    }

    fn first(&self) -> u64 {
        self.there().next().unwrap_or(self.stored + 1)
    }

    fn left(&self) -> Left {
        let first = self.first();
        let removed: Vec<u64> = self.removed.range(first..).copied().collect();
        let count = removed.len() as u64;
        Left::new(first, count, (self.names_removed || count == 0).then_some(removed))
    }
}

/// A process that has the consumer: the gate, and the ledger of its subscription.
struct Process {
    gate: Gate<u64>,
    /// Handed out and not handled, in the order in which it was handed out.
    queue: Vec<u64>,
    handled: BTreeSet<u64>,
    /// On their way to the server.
    acks: Vec<u64>,
    /// Taken out of the server and on their way: sequence and number.
    arriving: Vec<(u64, u64)>,
    /// What the gate wants next.
    wants: Vec<Action<u64>>,
    collecting: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// Hands out at once, as a client without a gate does.
    Ungated,
    /// Does not look at the numbers of deliveries.
    Uncounted,
    /// Hands out what it held in no order.
    Unsorted,
    /// Takes the first thing that it collects for all.
    Hasty,
    /// Counts what was removed as there.
    Oblivious,
    /// Does not say what nobody was handed.
    Secretive,
}

#[derive(Debug, Clone, Copy)]
enum Op {
    Publish,
    /// A pull takes so many out of the server.
    Pull(usize),
    /// So many of those on their way arrive.
    Arrive(usize),
    /// So many are handled.
    Handle(usize),
    /// So many acknowledgements reach the server.
    Ack(usize),
    /// So many of those on their way are lost, and nothing tells of it.
    Drop(usize),
    /// The connection is lost with all that is on its way, and there is another one.
    Cut,
    /// The process dies; true: its acknowledgements arrive after all.
    Die(bool),
    /// The server writes down what it knows.
    Save,
    /// The server dies and comes back with what it had written down.
    Crash,
    /// The `ack_wait` of some is over.
    Expire(usize),
    /// What the gate wants is done.
    Obey,
    /// So many are purged from the begin on.
    Purge(usize),
    /// So many expire from the begin on, or are beyond a limit.
    Limit(usize),
    /// One is removed; true: the server forgets that it is unacknowledged.
    Remove(usize, bool),
    /// The consumer is looked at now and then.
    Look,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => Just(Op::Publish),
        6 => (1_usize..6).prop_map(Op::Pull),
        6 => (1_usize..6).prop_map(Op::Arrive),
        5 => (1_usize..5).prop_map(Op::Handle),
        4 => (1_usize..5).prop_map(Op::Ack),
        1 => (1_usize..3).prop_map(Op::Drop),
        1 => Just(Op::Cut),
        1 => any::<bool>().prop_map(Op::Die),
        2 => Just(Op::Save),
        1 => Just(Op::Crash),
        1 => (0_usize..8).prop_map(Op::Expire),
        6 => Just(Op::Obey),
        1 => (1_usize..8).prop_map(Op::Purge),
        1 => (1_usize..4).prop_map(Op::Limit),
        1 => (0_usize..12, any::<bool>()).prop_map(|(which, is_known)| Op::Remove(which, is_known)),
        1 => Just(Op::Look),
    ]
}

struct World {
    stream: Stream,
    server: Consumer,
    saved: Consumer,
    process: Process,
    /// By all processes: the first time that each was handled, in that order.
    effects: Vec<u64>,
    /// What was said to be gone: first, behind the last, and how many.
    told: Vec<(Range<u64>, u64)>,
    /// Given up by the gate, which began anew.
    anew: usize,
    fault: Fault,
}

impl World {
    fn new(fault: Fault, names_removed: bool) -> Self {
        let server = Consumer::default();
        Self {
            stream: Stream { names_removed, ..Stream::default() },
            saved: server.clone(),
            server,
            process: Process::new(),
            effects: Vec::new(),
            told: Vec::new(),
            anew: 0,
            fault,
        }
    }

    fn step(&mut self, op: Op) -> Result<(), TestCaseError> {
        self.act(op)?;
        if self.fault != Fault::Secretive {
            self.told.extend(self.process.gate.take_gone());
        }
        Ok(())
    }

    fn act(&mut self, op: Op) -> Result<(), TestCaseError> {
        match op {
            Op::Publish => self.stream.stored += 1,
            // Nothing is asked for but by an open gate; a new owner takes one message, which makes it the owner.
            Op::Pull(n) => {
                let n = if self.process.gate.is_open() || self.fault == Fault::Ungated { n } else { 0 };
                self.pull(n);
            }
            Op::Arrive(n) => self.arrive(n),
            Op::Handle(n) => {
                for sequence in
                    self.process.queue.drain(..n.min(self.process.queue.len())).collect::<Vec<_>>()
                {
                    prop_assert!(
                        self.process.handled.insert(sequence),
                        "{sequence} was handled twice by one process"
                    );
                    if !self.effects.contains(&sequence) {
                        self.effects.push(sequence);
                    }
                    self.process.gate.forget(sequence);
                    self.process.acks.push(sequence);
                }
            }
            Op::Ack(n) => {
                for sequence in self.process.acks.drain(..n.min(self.process.acks.len())) {
                    self.server.acknowledge(sequence);
                }
            }
            Op::Drop(n) => drop(self.process.arriving.drain(..n.min(self.process.arriving.len()))),
            Op::Cut => {
                self.process.arriving.clear();
                self.process.collecting = 0;
                // What was not confirmed is acknowledged over the next connection, before anything is looked at.
                let acks = std::mem::take(&mut self.process.acks);
                acks.iter().for_each(|sequence| self.server.acknowledge(*sequence));
                let todo = self.look();
                self.want(todo);
            }
            Op::Die(acks_arrive) => {
                if acks_arrive {
                    self.process.acks.iter().for_each(|sequence| self.server.acknowledge(*sequence));
                }
                self.process = Process::new();
            }
            Op::Save => self.saved = self.server.clone(),
            Op::Crash => {
                self.server = self.saved.clone();
                self.step(Op::Cut)?;
            }
            Op::Expire(n) => {
                // A server that looks at what is due forgets what lies before all that it has.
                let first = self.stream.first();
                self.server.pending.retain(|sequence, _| *sequence >= first);
                self.server.pending.values_mut().take(n).for_each(|is_due| *is_due = true);
            }
            Op::Obey => self.obey()?,
            Op::Purge(n) => {
                if let Some(last) = self.remove_first(n) {
                    self.server.upto = self.server.upto.max(last);
                    // What was due is not on its list any more.
                    self.server.pending.values_mut().for_each(|is_due| *is_due = false);
                }
            }
            Op::Limit(n) => drop(self.remove_first(n)),
            Op::Remove(which, is_known) => {
                let sequence = self.stream.there().nth(which);
                if let Some(sequence) = sequence {
                    self.stream.removed.insert(sequence);
                    if is_known {
                        self.server.acknowledge(sequence);
                    }
                }
            }
            Op::Look => self.process.gate.looked(self.server.facts(), self.stream.first()),
        }
        Ok(())
    }

    /// The last of those that were removed.
    fn remove_first(&mut self, n: usize) -> Option<u64> {
        let last = self.stream.there().take(n).last()?;
        self.stream.removed.extend(1..=last);
        self.server.pending.retain(|sequence, _| *sequence > last);
        Some(last)
    }

    fn pull(&mut self, n: usize) {
        for _ in 0..n {
            let Some(sequence) = self.server.deliver(&self.stream) else { break };
            self.process.arriving.push((sequence, self.server.number));
        }
    }

    fn look(&mut self) -> Action<u64> {
        let left = if self.fault == Fault::Oblivious {
            Left::new(1, 0, Some(Vec::new()))
        } else {
            self.stream.left()
        };
        self.process.gate.inspected(self.server.facts(), &left)
    }

    fn arrive(&mut self, n: usize) {
        for (sequence, number) in
            self.process.arriving.drain(..n.min(self.process.arriving.len())).collect::<Vec<_>>()
        {
            let number = match (self.fault, self.process.gate.next()) {
                (Fault::Uncounted, Some(next)) => next,
                _ => number,
            };
            if self.fault == Fault::Ungated {
                self.hand_out(vec![sequence]);
                continue;
            }
            let (arrived, mut todo) = self.process.gate.arrived(sequence, number, sequence);
            match arrived {
                Arrived::Pass(sequence) => self.hand_out(vec![sequence]),
                Arrived::Settled => self.process.acks.push(sequence),
                Arrived::Held | Arrived::Copy => {}
            }
            if todo.is_nothing() && self.process.collecting > 0 {
                self.process.collecting -= 1;
                if self.process.collecting == 0 || self.fault == Fault::Hasty {
                    self.process.collecting = 0;
                    todo = self.process.gate.collected();
                }
            }
            if !todo.is_nothing() {
                // What was asked for before comes no more.
                self.process.collecting = 0;
                self.process.arriving.clear();
                self.want(todo);
                break;
            }
        }
    }

    /// To the ledger, which knows what is in hand and what was handled.
    fn hand_out(&mut self, mut sequences: Vec<u64>) {
        if self.fault == Fault::Unsorted {
            sequences.reverse();
        }
        for sequence in sequences {
            if self.process.handled.contains(&sequence) {
                self.process.gate.forget(sequence);
                self.process.acks.push(sequence);
            } else if !self.process.queue.contains(&sequence) {
                self.process.queue.push(sequence);
            }
        }
    }

    /// Handing out is done at once; what waits for an answer is done later, unless something else is wanted by then.
    fn want(&mut self, todo: Action<u64>) {
        if todo.is_nothing() {
            return;
        }
        self.process.wants.clear();
        match todo {
            Action::Open(held) => self.hand_out(held),
            todo => self.process.wants.push(todo),
        }
    }

    fn obey(&mut self) -> Result<(), TestCaseError> {
        let Some(todo) = self.process.wants.pop() else {
            if self.process.collecting > 0 && self.process.arriving.is_empty() {
                // What should have come did not.
                self.process.collecting = 0;
                let todo = self.look();
                self.want(todo);
            }
            return Ok(());
        };
        let next = match todo {
            Action::Nothing => Action::Nothing,
            Action::Inspect => {
                self.process.arriving.clear();
                self.step(Op::Ack(usize::MAX))?;
                self.look()
            }
            Action::Clear(removed) => {
                removed.into_iter().for_each(|sequence| self.server.acknowledge(sequence));
                self.look()
            }
            Action::Collect(records) => {
                self.process.collecting = records;
                self.pull(records);
                if self.process.arriving.len() < records {
                    // The server says that there is no more, behind what there is.
                    self.arrive_all_and_end();
                }
                Action::Nothing
            }
            Action::Expire { .. } => {
                self.step(Op::Expire(usize::MAX))?;
                self.process.gate.expired()
            }
            Action::Open(_) => unreachable!("done as soon as it is wanted"),
            Action::BeginAnew => {
                self.anew += 1;
                self.process = Process::new();
                Action::Nothing
            }
        };
        self.want(next);
        Ok(())
    }

    fn arrive_all_and_end(&mut self) {
        let collecting = std::mem::replace(&mut self.process.collecting, 0);
        self.arrive(usize::MAX);
        if self.process.wants.is_empty() && collecting > 0 {
            let todo = self.process.gate.collected();
            self.want(todo);
        }
    }
}

impl Process {
    fn new() -> Self {
        Self {
            gate: Gate::new(),
            queue: Vec::new(),
            handled: BTreeSet::new(),
            acks: Vec::new(),
            arriving: Vec::new(),
            wants: vec![Action::Inspect],
            collecting: 0,
        }
    }
}

fn run((ops, names_removed): (Vec<Op>, bool), fault: Fault) -> Result<(), TestCaseError> {
    let mut world = World::new(fault, names_removed);
    // A server that has forgotten acknowledgements alone looks like one that was counted wrongly.
    let crashes = ops.iter().filter(|op| matches!(op, Op::Crash)).count();
    let dies = ops.iter().any(|op| matches!(op, Op::Die(_)));
    for op in ops {
        world.step(op)?;
    }
    // Everything comes to rest.
    for round in 0..400 {
        for op in [Op::Obey, Op::Pull(8), Op::Arrive(usize::MAX), Op::Handle(usize::MAX), Op::Ack(usize::MAX)]
        {
            world.step(op)?;
        }
        if round == 200 {
            // A pull that has not ended when it should have is noticed, and the consumer is looked at.
            world.step(Op::Cut)?;
        }
        if round % 8 == 7 {
            world.step(Op::Expire(usize::MAX))?;
        }
    }
    world.step(Op::Look)?;
    let (effects, removed) = (&world.effects, &world.stream.removed);
    prop_assert!(effects.is_sorted(), "something overtook: {effects:?}");
    let unhandled: Vec<u64> = world.stream.there().filter(|sequence| !effects.contains(sequence)).collect();
    prop_assert!(unhandled.is_empty(), "{unhandled:?} are there and were not handled: {effects:?}");
    let unacknowledged: Vec<_> =
        world.server.pending.keys().filter(|sequence| !removed.contains(sequence)).collect();
    prop_assert!(unacknowledged.is_empty(), "not all was acknowledged: {unacknowledged:?}");
    prop_assert!(world.anew <= crashes, "it began anew without need");
    let gone: Vec<u64> = removed.iter().copied().filter(|sequence| !effects.contains(sequence)).collect();
    // A server that has forgotten what an earlier process handled tells the next one nothing of it.
    let is_known = crashes == 0 || (!dies && world.anew == 0);
    for (range, count) in world.told.iter().filter(|_| is_known) {
        let of_these = gone.iter().filter(|sequence| range.contains(sequence)).count() as u64;
        prop_assert!(of_these >= *count, "{count} of {range:?} are told to be gone: {gone:?}");
    }
    // Whoever comes next can't know what was removed before.
    if !dies && world.anew == 0 {
        let begin = world.process.gate.origin.as_ref().map_or(u64::MAX, |origin| origin.upto);
        let end = world.server.upto.max(world.stream.first() - 1);
        let expected = gone.iter().filter(|sequence| **sequence > begin && **sequence <= end).count() as u64;
        let told: u64 = world.told.iter().map(|(_, count)| count).sum();
        prop_assert_eq!(told, expected, "told {:?}, gone {:?}", world.told, gone);
    }
    Ok(())
}

fn ops() -> impl Strategy<Value = (Vec<Op>, bool)> {
    (prop::collection::vec(op(), 1..160), any::<bool>())
}

proptest! {
    #![proptest_config(Config::with_cases(2_000))]

    #[test]
    fn through_losses_crashes_and_removals_all_that_is_there_is_handed_out_in_its_order(ops in ops()) {
        run(ops, Fault::None)?;
    }
}

#[test]
fn the_property_finds_a_planted_fault() {
    let faults =
        [Fault::Ungated, Fault::Uncounted, Fault::Unsorted, Fault::Hasty, Fault::Oblivious, Fault::Secretive];
    for fault in faults {
        let mut runner = TestRunner::new(Config {
            failure_persistence: None,
            max_shrink_iters: 0,
            ..Config::with_cases(3_000)
        });
        let found = runner.run(&ops(), |ops| run(ops, fault));
        assert!(found.is_err(), "{fault:?} was not found");
    }
}

/// Nothing was ever removed.
fn all() -> Left {
    Left::new(1, 0, Some(Vec::new()))
}

fn facts(unacknowledged: usize, sequence: u64, number: u64) -> Facts {
    Facts { unacknowledged, sequence, number, floor: 0 }
}

/// A gate that was opened with two recovered messages, 3 and 4 of 5.
fn opened() -> Gate<u64> {
    let mut gate = Gate::new();
    assert_eq!(gate.inspected(facts(2, 5, 5), &all()), Action::Collect(2));
    assert_eq!(gate.arrived(4, 6, 4), (Arrived::Held, Action::Nothing));
    assert_eq!(gate.arrived(3, 7, 3), (Arrived::Held, Action::Nothing));
    assert_eq!(gate.collected(), Action::Open(vec![3, 4]));
    gate
}

#[test]
fn a_connection_that_lost_nothing_costs_nothing() {
    let mut gate = opened();
    assert!(gate.is_whole(7), "what the stream has need not be asked");
    assert_eq!(gate.inspected(facts(2, 5, 7), &all()), Action::Nothing);
    assert_eq!(gate.arrived(6, 8, 6), (Arrived::Pass(6), Action::Nothing));
}

#[test]
fn a_stranger_makes_it_begin_anew_unless_the_server_has_forgotten_something() {
    // It was counted as acknowledged when the gate opened, and was not.
    assert_eq!(opened().arrived(2, 8, 2), (Arrived::Held, Action::BeginAnew));
    let mut gate = opened();
    assert_eq!(gate.inspected(facts(3, 5, 5), &all()), Action::Collect(3));
    assert_eq!(gate.arrived(2, 6, 2), (Arrived::Settled, Action::Nothing), "an earlier owner had settled it");
}

#[test]
fn it_waits_when_fast_rounds_bring_nothing() {
    let mut gate = Gate::<u64>::new();
    for round in 0..=FAST_ROUNDS {
        assert_eq!(gate.inspected(facts(1, 5, 5), &all()), Action::Collect(1));
        assert_eq!(gate.collected(), Action::Expire { patiently: round == FAST_ROUNDS });
        assert_eq!(gate.expired(), Action::Inspect);
    }
}

/// A gate with 1 to 5 in hand.
fn with_five() -> Gate<u64> {
    let mut gate = Gate::new();
    assert_eq!(gate.inspected(facts(0, 0, 0), &all()), Action::Open(Vec::new()));
    for sequence in 1..=5 {
        assert_eq!(gate.arrived(sequence, sequence, sequence), (Arrived::Pass(sequence), Action::Nothing));
    }
    gate
}

#[test]
fn what_was_removed_is_not_taken_for_what_is_missing() {
    let mut gate = with_five();
    // 6 to 10 were lost on their way; 1 to 5 are purged, and the server counts the five others.
    let purged = Facts { floor: 5, ..facts(5, 10, 10) };
    let left = Left::new(6, 0, Some(Vec::new()));
    assert_eq!(gate.inspected(purged, &left), Action::Collect(5));
    for sequence in 6..=10 {
        assert_eq!(gate.arrived(sequence, sequence + 5, sequence), (Arrived::Held, Action::Nothing));
    }
    assert_eq!(gate.collected(), Action::Open(vec![6, 7, 8, 9, 10]));
    assert!(!gate.has_gone(), "the five are in hand, so they are handled");
}

#[test]
fn what_the_server_counts_though_it_was_removed_is_acknowledged_first() {
    let mut gate = with_five();
    // 6 to 8 were lost, and 7 was removed.
    let left = Left::new(1, 1, Some(vec![7]));
    assert_eq!(gate.inspected(facts(8, 8, 8), &left), Action::Clear(vec![7]));
    assert_eq!(gate.inspected(facts(7, 8, 8), &left), Action::Collect(7));
    assert_eq!(gate.arrived(6, 9, 6), (Arrived::Held, Action::Nothing));
    assert_eq!(gate.arrived(8, 10, 8), (Arrived::Held, Action::Nothing));
    assert_eq!(gate.collected(), Action::Open(vec![6, 8]));
    assert_eq!(gate.take_gone(), Some((7..8, 1)), "no handler saw it");
}

#[test]
fn what_can_not_come_is_given_up_when_all_that_was_due_has_come() {
    let mut gate = with_five();
    // 6 to 8 were lost and one of them was removed; nobody says which.
    let left = Left::new(1, 1_000_000, None);
    for round in 0..=FAST_ROUNDS {
        assert_eq!(gate.inspected(facts(8, 8, 8), &left), Action::Collect(8));
        assert_eq!(gate.collected(), Action::Expire { patiently: round == FAST_ROUNDS });
        assert_eq!(gate.expired(), Action::Inspect);
    }
    assert_eq!(gate.inspected(facts(8, 8, 8), &left), Action::Collect(8));
    assert!(gate.is_sweeping());
    assert_eq!(gate.arrived(6, 9, 6), (Arrived::Held, Action::Nothing));
    assert_eq!(gate.arrived(8, 10, 8), (Arrived::Held, Action::Nothing));
    assert_eq!(gate.collected(), Action::Inspect, "whether all of them came");
    assert_eq!(gate.inspected(facts(8, 8, 10), &left), Action::Open(vec![6, 8]));
    assert_eq!(gate.take_gone(), Some((7..8, 1)));
}

#[test]
fn nothing_is_given_up_while_deliveries_are_lost_or_more_is_removed() {
    for (number, count) in [(11, 1_000_000), (10, 1_000_001)] {
        let mut gate = with_five();
        let left = |count| Left::new(1, count, None);
        for _ in 0..=FAST_ROUNDS {
            gate.inspected(facts(8, 8, 8), &left(1_000_000));
            gate.collected();
            gate.expired();
        }
        gate.inspected(facts(8, 8, 8), &left(1_000_000));
        gate.arrived(6, 9, 6);
        gate.arrived(8, 10, 8);
        assert_eq!(gate.collected(), Action::Inspect);
        assert_eq!(gate.inspected(facts(8, 8, number), &left(count)), Action::Collect(8));
    }
}

#[test]
fn what_is_passed_over_is_told_with_the_next_record_or_at_a_look() {
    let mut gate = with_five();
    assert_eq!(gate.arrived(9, 6, 9), (Arrived::Pass(9), Action::Nothing));
    assert_eq!(gate.take_gone(), Some((6..9, 3)));
    gate.looked(facts(6, 20, 7), 20);
    assert!(!gate.has_gone(), "a delivery is under way");
    gate.looked(facts(6, 12, 6), 5);
    assert_eq!(gate.take_gone(), Some((10..13, 3)), "the consumer was moved by a purge");
    gate.looked(facts(6, 12, 6), 16);
    assert_eq!(gate.take_gone(), Some((13..16, 3)), "they expired");
}
