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
    fn deliver(&mut self, stored: u64) -> Option<u64> {
        let again = self.pending.iter().find(|(_, is_due)| **is_due).map(|(sequence, _)| *sequence);
        let sequence = again.or_else(|| (self.upto < stored).then_some(self.upto + 1))?;
        self.upto = self.upto.max(sequence);
        self.number += 1;
        self.pending.insert(sequence, false);
        Some(sequence)
    }

    fn acknowledge(&mut self, sequence: u64) {
        self.pending.remove(&sequence);
    }

    fn facts(&self) -> Facts {
        Facts { unacknowledged: self.pending.len(), sequence: self.upto, number: self.number }
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
    ]
}

struct World {
    stored: u64,
    server: Consumer,
    saved: Consumer,
    process: Process,
    /// By all processes: the first time that each was handled, in that order.
    effects: Vec<u64>,
    /// Given up by the gate, which began anew.
    anew: usize,
    fault: Fault,
}

impl World {
    fn new(fault: Fault) -> Self {
        let server = Consumer::default();
        Self {
            stored: 0,
            saved: server.clone(),
            server,
            process: Process::new(),
            effects: Vec::new(),
            anew: 0,
            fault,
        }
    }

    fn step(&mut self, op: Op) -> Result<(), TestCaseError> {
        match op {
            Op::Publish => self.stored += 1,
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
            Op::Expire(n) => self.server.pending.values_mut().take(n).for_each(|is_due| *is_due = true),
            Op::Obey => self.obey()?,
        }
        Ok(())
    }

    fn pull(&mut self, n: usize) {
        for _ in 0..n {
            let Some(sequence) = self.server.deliver(self.stored) else { break };
            self.process.arriving.push((sequence, self.server.number));
        }
    }

    fn look(&mut self) -> Action<u64> {
        self.process.gate.inspected(self.server.facts())
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

fn run(ops: Vec<Op>, fault: Fault) -> Result<(), TestCaseError> {
    let mut world = World::new(fault);
    // A server that has forgotten acknowledgements alone looks like one that was counted wrongly.
    let crashes = ops.iter().filter(|op| matches!(op, Op::Crash)).count();
    for op in ops {
        world.step(op)?;
    }
    // Everything comes to rest.
    for round in 0..400 {
        for op in [Op::Obey, Op::Pull(8), Op::Arrive(usize::MAX), Op::Handle(usize::MAX), Op::Ack(usize::MAX)]
        {
            world.step(op)?;
        }
        if round % 8 == 7 {
            world.step(Op::Expire(usize::MAX))?;
        }
    }
    prop_assert!(world.effects.is_sorted(), "something overtook: {:?}", world.effects);
    prop_assert_eq!(world.effects.len() as u64, world.stored, "not all was handled: {:?}", world.effects);
    prop_assert!(world.server.pending.is_empty(), "not all was acknowledged: {:?}", world.server.pending);
    prop_assert!(world.anew <= crashes, "it began anew without need");
    Ok(())
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(op(), 1..160)
}

proptest! {
    #![proptest_config(Config::with_cases(2_000))]

    #[test]
    fn through_losses_and_crashes_all_is_handed_out_in_its_order(ops in ops()) {
        run(ops, Fault::None)?;
    }
}

#[test]
fn the_property_finds_a_planted_fault() {
    for fault in [Fault::Ungated, Fault::Uncounted, Fault::Unsorted, Fault::Hasty] {
        let mut runner = TestRunner::new(Config {
            failure_persistence: None,
            max_shrink_iters: 0,
            ..Config::with_cases(3_000)
        });
        let found = runner.run(&ops(), |ops| run(ops, fault));
        assert!(found.is_err(), "{fault:?} was not found");
    }
}

/// A gate that was opened with two recovered messages, 3 and 4 of 5.
fn opened() -> Gate<u64> {
    let mut gate = Gate::new();
    assert_eq!(gate.inspected(Facts { unacknowledged: 2, sequence: 5, number: 5 }), Action::Collect(2));
    assert_eq!(gate.arrived(4, 6, 4), (Arrived::Held, Action::Nothing));
    assert_eq!(gate.arrived(3, 7, 3), (Arrived::Held, Action::Nothing));
    assert_eq!(gate.collected(), Action::Open(vec![3, 4]));
    gate
}

#[test]
fn a_connection_that_lost_nothing_costs_nothing() {
    let mut gate = opened();
    assert_eq!(gate.inspected(Facts { unacknowledged: 2, sequence: 5, number: 7 }), Action::Nothing);
    assert_eq!(gate.arrived(6, 8, 6), (Arrived::Pass(6), Action::Nothing));
}

#[test]
fn a_stranger_makes_it_begin_anew_unless_the_server_has_forgotten_something() {
    // It was counted as acknowledged when the gate opened, and was not.
    assert_eq!(opened().arrived(2, 8, 2), (Arrived::Held, Action::BeginAnew));
    let mut gate = opened();
    assert_eq!(gate.inspected(Facts { unacknowledged: 3, sequence: 5, number: 5 }), Action::Collect(3));
    assert_eq!(gate.arrived(2, 6, 2), (Arrived::Settled, Action::Nothing), "an earlier owner had settled it");
}

#[test]
fn it_waits_when_fast_rounds_bring_nothing() {
    let mut gate = Gate::<u64>::new();
    for round in 0..=FAST_ROUNDS {
        assert_eq!(gate.inspected(Facts { unacknowledged: 1, sequence: 5, number: 5 }), Action::Collect(1));
        assert_eq!(gate.collected(), Action::Expire { patiently: round == FAST_ROUNDS });
        assert_eq!(gate.expired(), Action::Inspect);
    }
}
