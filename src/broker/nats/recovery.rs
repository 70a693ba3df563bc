//! In which order deliveries of a durable consumer may be handed out: a state machine without clocks or sockets.
//!
//! A JetStream server delivers in order, once. What was delivered and not acknowledged comes again when its
//! `ack_wait` is over, and by then newer messages have been delivered: handed out as they come, records of a key would
//! overtake each other after every crash. So whoever takes a consumer over first gets everything into its hands that
//! is delivered and not acknowledged, and then hands it out by sequence.
//!
//! - **How it knows that something is missing.** The server counts its deliveries. A number that does not follow the
//!   one before means that a delivery was lost on its way, or that the server has forgotten some (it lost its last
//!   writes in a crash). Nothing newer is handed out until what is missing is there.
//! - **How it knows that nothing is missing.** The server says how many messages are delivered and not acknowledged, at
//!   a moment at which nothing is asked for, and then what the stream still has. When as many are in hand that are
//!   there, those are the ones: what is in hand is not acknowledged. One that was removed counts for nothing: the server
//!   may have forgotten it, and then another one that is missing would be taken for it.
//! - **What is counted and can't come.** A server may go on counting what was removed (a purge of some subjects leaves
//!   it). That is acknowledged, and counted again. Where nobody can name it, everything is waited for until it is due,
//!   and collected: when all of that came, and the rest is still counted and nothing more was removed meanwhile, the
//!   rest can't come.
//! - **A message that is settled can come again**, when its acknowledgement was lost. It is handed out like any other;
//!   the ledger of the subscription knows it, and has it acknowledged again.
//! - **A stranger** is a message from before this gate opened that was not among those that were recovered. After the
//!   server has forgotten something it is one that an earlier owner had settled. Otherwise the count was wrong (an
//!   acknowledgement of a process that is thought dead came between): all begins anew, with a new ledger, for the one
//!   that is there may take it for settled.
//!
//! What it relies on: this is the only one that the server delivers to, and a process that is thought dead acknowledges
//! nothing that was delivered here in the moment of the count.

use super::left::Left;
use super::unseen::Unseen;
use std::collections::BTreeMap;
use std::ops::Range;

/// Of sequences, which nobody chooses to collide.
type HashSet<T> = std::collections::HashSet<T, foldhash::fast::RandomState>;

/// What a server says of a consumer at a moment at which nothing is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    /// Messages delivered and not acknowledged.
    pub(super) unacknowledged: usize,
    /// The highest sequence delivered.
    pub(super) sequence: u64,
    /// The number of the last delivery.
    pub(super) number: u64,
    /// Up to this sequence all is acknowledged.
    pub(super) floor: u64,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action<T> {
    Nothing,
    /// Ask for nothing more, forget what was asked for, and look at the consumer.
    Inspect,
    /// Acknowledge these, which were removed, and look at the consumer again.
    Clear(Vec<u64>),
    /// Fetch so many messages, as far as they are there, and tell when no more come.
    Collect(usize),
    /// Have everything delivered again that is not acknowledged. With `patiently` by waiting for it.
    Expire {
        patiently: bool,
    },
    /// Hand these out, in this order, and then what passes.
    Open(Vec<T>),
    /// Give up everything and begin anew.
    BeginAnew,
}

impl<T> Action<T> {
    pub(super) fn is_nothing(&self) -> bool {
        matches!(self, Self::Nothing)
    }
}

/// What becomes of a delivery.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrived<T> {
    /// To be handed out.
    Pass(T),
    /// Kept back.
    Held,
    /// A copy of one that is in hand.
    Copy,
    /// Settled by an earlier owner: to be acknowledged, and nothing else.
    Settled,
}

/// Fast rounds before it waits until everything has expired by itself.
const FAST_ROUNDS: u32 = 4;

#[derive(Debug)]
enum Phase {
    Inspecting,
    Collecting(Round),
    Expiring,
    Open,
}

#[derive(Debug)]
struct Round {
    /// How many messages of the count are not known to be in hand.
    missing: usize,
    /// Up to which sequence the count goes.
    upto: u64,
    /// Which were in hand and there when it was counted, whatever has become of them.
    in_hand: HashSet<u64>,
    got: HashSet<u64>,
}

/// How far it is shown that what is missing can't come: everything was due, and then it was collected.
#[derive(Debug)]
enum Sweep {
    None,
    /// Waits until all is due, since a moment at which the stream had this.
    Waits((u64, u64)),
    /// All is due, and is collected.
    Collects((u64, u64)),
    /// All that there is came: these, and so many did not.
    Over {
        mark: (u64, u64),
        got: HashSet<u64>,
        missing: usize,
    },
}

/// What was delivered before the gate opened for the first time.
#[derive(Debug)]
struct Origin {
    upto: u64,
    recovered: HashSet<u64>,
}

/// Stands between what a server delivers and what is handed out. `T` is a delivery.
#[derive(Debug)]
pub(super) struct Gate<T> {
    phase: Phase,
    /// The number of the next delivery if none is lost.
    next: Option<u64>,
    held: BTreeMap<u64, T>,
    /// Handed out and neither settled nor given back.
    in_hand: HashSet<u64>,
    /// The highest sequence handed out.
    newest: u64,
    origin: Option<Origin>,
    has_forgotten: bool,
    rounds: u32,
    sweep: Sweep,
    /// What the stream had when the consumer was looked at last.
    mark: (u64, u64),
    /// Acknowledged because they were removed, since it closed.
    cleared: HashSet<u64>,
    unseen: Unseen,
}

impl<T> Gate<T> {
    /// Closed, and to be inspected.
    pub(super) fn new() -> Self {
        Self {
            phase: Phase::Inspecting,
            next: None,
            held: BTreeMap::new(),
            in_hand: HashSet::default(),
            newest: 0,
            origin: None,
            has_forgotten: false,
            rounds: 0,
            sweep: Sweep::None,
            mark: (0, 0),
            cleared: HashSet::default(),
            unseen: Unseen::default(),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    pub(super) fn is_collecting(&self) -> bool {
        matches!(self.phase, Phase::Collecting(_))
    }

    /// Whether what does not come now is taken for what can't.
    pub(super) fn is_sweeping(&self) -> bool {
        self.is_collecting() && matches!(self.sweep, Sweep::Collects(_))
    }

    /// Whether nothing is known to be lost when the last delivery has this number: it need not be looked at further.
    pub(super) fn is_whole(&self, number: u64) -> bool {
        self.is_open() && self.next.is_none_or(|next| next == number + 1)
    }

    /// The number of the next delivery if none is lost.
    #[cfg(test)]
    pub(super) fn next(&self) -> Option<u64> {
        self.next
    }

    /// A delivery: its sequence in the stream, its number among the consumer's deliveries, and what it is.
    pub(super) fn arrived(&mut self, sequence: u64, number: u64, item: T) -> (Arrived<T>, Action<T>) {
        let follows = self.next.is_none_or(|next| next == number);
        self.note(number);
        self.next = Some(number + 1);
        if let Phase::Collecting(round) = &mut self.phase
            && sequence <= round.upto
            && !round.in_hand.contains(&sequence)
        {
            round.got.insert(sequence);
        }
        let todo = match self.phase {
            Phase::Open | Phase::Collecting(_) if !follows => {
                self.phase = Phase::Inspecting;
                self.sweep = Sweep::None;
                Action::Inspect
            }
            _ => Action::Nothing,
        };
        if self.in_hand.contains(&sequence) {
            return (Arrived::Copy, todo);
        }
        if self.is_stranger(sequence) {
            if self.has_forgotten {
                return (Arrived::Settled, todo);
            }
            return (Arrived::Held, Action::BeginAnew);
        }
        // One that was handed out before is no news to the ledger, and none to the order. Held, it would count as
        // unacknowledged when its acknowledgement is on its way.
        if self.is_open() || self.was_handed_out(sequence) {
            self.in_hand.insert(sequence);
            self.newest = self.newest.max(sequence);
            self.unseen.handed_out(sequence);
            return (Arrived::Pass(item), todo);
        }
        // The first copy stays: it says how often the message was handed out before this recovery.
        self.held.entry(sequence).or_insert(item);
        (Arrived::Held, todo)
    }

    /// The number of the next delivery is this one: if it is one that was there, the server has forgotten it.
    fn note(&mut self, number: u64) {
        if self.next.is_some_and(|next| next > number) {
            self.has_forgotten = true;
        }
    }

    /// Whether the server would have forgotten something if its last delivery has this number.
    pub(super) fn would_forget(&self, last: u64) -> bool {
        self.next.is_some_and(|next| next > last + 1)
    }

    fn was_handed_out(&self, sequence: u64) -> bool {
        self.origin.as_ref().is_some_and(|origin| {
            if sequence <= origin.upto {
                origin.recovered.contains(&sequence)
            } else {
                sequence <= self.newest
            }
        })
    }

    fn is_stranger(&self, sequence: u64) -> bool {
        self.origin
            .as_ref()
            .is_some_and(|origin| sequence <= origin.upto && !origin.recovered.contains(&sequence))
    }

    /// The consumer was looked at: asked for, or because the connection is a new one; and behind it, at what the stream
    /// has, unless [`is_whole`](Self::is_whole).
    pub(super) fn inspected(&mut self, facts: Facts, left: &Left) -> Action<T> {
        if self.is_whole(facts.number) {
            self.unseen.reached(facts.sequence);
            return Action::Nothing;
        }
        let has_lost_none = self.next == Some(facts.number + 1);
        self.note(facts.number + 1);
        self.next = Some(facts.number + 1);
        self.mark = left.mark();
        // Their deliveries are forgotten: they come again behind what comes before them.
        self.held.retain(|sequence, _| *sequence <= facts.sequence);
        let removed = left.removed(facts.floor + 1..=facts.sequence).iter().copied();
        let stale: Vec<u64> = removed.filter(|sequence| self.cleared.insert(*sequence)).collect();
        if !stale.is_empty() {
            self.phase = Phase::Inspecting;
            self.sweep = Sweep::None;
            return Action::Clear(stale);
        }
        let counts = |sequence: &u64| *sequence <= facts.sequence && left.has(*sequence);
        let mut in_hand: HashSet<u64> =
            self.in_hand.iter().chain(self.held.keys()).copied().filter(counts).collect();
        if let Some(missing) = self.can_not_come(has_lost_none, &mut in_hand)
            && facts.unacknowledged.saturating_sub(in_hand.len()) <= missing
        {
            return self.open(facts.sequence);
        }
        let missing = facts.unacknowledged.saturating_sub(in_hand.len());
        if missing == 0 {
            return self.open(facts.sequence);
        }
        self.phase =
            Phase::Collecting(Round { missing, upto: facts.sequence, in_hand, got: HashSet::default() });
        Action::Collect(facts.unacknowledged)
    }

    /// How many of those that are counted can't come, if that is shown by now. What came is there.
    fn can_not_come(&mut self, has_lost_none: bool, in_hand: &mut HashSet<u64>) -> Option<usize> {
        let mark = self.mark;
        match std::mem::replace(&mut self.sweep, Sweep::None) {
            Sweep::Collects(began) if began == mark => self.sweep = Sweep::Collects(mark),
            Sweep::Over { mark: began, got, missing } if began == mark && has_lost_none => {
                in_hand.extend(got);
                return Some(missing);
            }
            _ => {}
        }
        None
    }

    /// No more comes of what was to be collected.
    pub(super) fn collected(&mut self) -> Action<T> {
        let Phase::Collecting(round) = &mut self.phase else { return Action::Nothing };
        if round.got.len() >= round.missing {
            let upto = round.upto;
            return self.open(upto);
        }
        if let Sweep::Collects(mark) = self.sweep {
            let got = std::mem::take(&mut round.got);
            self.sweep = Sweep::Over { mark, missing: round.missing - got.len(), got };
            self.phase = Phase::Inspecting;
            return Action::Inspect;
        }
        self.rounds += 1;
        self.phase = Phase::Expiring;
        let patiently = self.rounds > FAST_ROUNDS;
        self.sweep = if patiently { Sweep::Waits(self.mark) } else { Sweep::None };
        Action::Expire { patiently }
    }

    /// What is not acknowledged is there to be delivered again.
    pub(super) fn expired(&mut self) -> Action<T> {
        self.phase = Phase::Inspecting;
        if let Sweep::Waits(mark) = self.sweep {
            self.sweep = Sweep::Collects(mark);
        }
        Action::Inspect
    }

    fn open(&mut self, upto: u64) -> Action<T> {
        self.phase = Phase::Open;
        self.rounds = 0;
        self.sweep = Sweep::None;
        self.cleared.clear();
        let held = std::mem::take(&mut self.held);
        self.unseen.begin(upto);
        held.keys().for_each(|sequence| self.unseen.handed_out(*sequence));
        self.unseen.reached(upto);
        if self.origin.is_none() {
            let recovered = held.range(..=upto).map(|(sequence, _)| *sequence).collect();
            self.origin = Some(Origin { upto, recovered });
        }
        self.in_hand.extend(held.keys());
        self.newest = held.keys().next_back().copied().unwrap_or(0).max(self.newest);
        Action::Open(held.into_values().collect())
    }

    /// The consumer was looked at while all passes, and before it at which record the stream begins: what was removed
    /// before it was delivered is passed over by then, or never will be delivered.
    pub(super) fn looked(&mut self, facts: Facts, first: u64) {
        if self.is_whole(facts.number) {
            self.unseen.reached(facts.sequence.max(first.saturating_sub(1)));
        }
    }

    /// Whether something was removed before it was handed out, and is not [told](Self::take_gone).
    pub(super) fn has_gone(&self) -> bool {
        !self.unseen.is_empty()
    }

    /// From the first to the last of those that were removed before they were handed out, and how many they are.
    pub(super) fn take_gone(&mut self) -> Option<(Range<u64>, u64)> {
        self.unseen.take()
    }

    /// One that was handed out is over, or was given back to the server.
    pub(super) fn forget(&mut self, sequence: u64) {
        self.in_hand.remove(&sequence);
    }
}

#[cfg(all(test, not(loom)))]
#[path = "recovery/tests.rs"]
mod tests;
