//! The partitions that a subscription has, and the fence that keeps late verdicts from a partition's next generation.

use super::ledger::{Delivered, Ledger, Settled};
use foldhash::fast::FixedState;
use std::collections::HashMap;

/// One assignment of a partition to this subscription. A later one is greater, over all its partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Generation(u64);

/// The place of a partition in [`Partitions`]; the same for all its generations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Slot(u32);

impl Slot {
    /// Slots are numbered from 0 in the order in which their partitions were first assigned.
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a record carries on its way through the pool, so that its verdict finds the ledger that it came from, and no
/// other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Token {
    pub(crate) slot: Slot,
    pub(crate) generation: Generation,
    pub(crate) offset: u64,
}

/// A verdict came for a generation that is over. Nothing changed; the record is delivered again to whoever has the
/// partition now, unless its position was committed in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fenced;

/// The ledgers of the partitions that a subscription has now, each in its generation.
///
/// A partition that was revoked or lost keeps its slot, so memory grows with the partitions of the topics alone.
#[derive(Debug, Default)]
pub(crate) struct Partitions {
    slots: Vec<Assignable>,
    slot_of: HashMap<(u32, u32), Slot, FixedState>,
    generations: u64,
}

#[derive(Debug)]
struct Assignable {
    topic: u32,
    number: u32,
    /// None while another member of the group has the partition.
    current: Option<(Generation, Ledger)>,
}

impl Partitions {
    /// Begins a generation of a partition with its ledger, which knows the committed position. `topic` is the index
    /// of the topic in the subscription. A generation that was not over is, from here on, as by
    /// [`lose`](Self::lose).
    pub(crate) fn assign(&mut self, topic: u32, partition: u32, ledger: Ledger) -> Slot {
        let slot = *self.slot_of.entry((topic, partition)).or_insert_with(|| {
            self.slots.push(Assignable { topic, number: partition, current: None });
            Slot(self.slots.len() as u32 - 1)
        });
        self.generations += 1;
        self.slots[slot.index()].current = Some((Generation(self.generations), ledger));
        slot
    }

    /// Ends a generation and returns its ledger, whose position is the final one: what is settled after this is
    /// fenced. None if the partition is not assigned.
    ///
    /// To be called when what had started is over or out of time. Committing the position may follow, since nothing
    /// changes it any more.
    pub(crate) fn revoke(&mut self, slot: Slot) -> Option<Ledger> {
        self.slots[slot.index()].current.take().map(|(_, ledger)| ledger)
    }

    /// Ends a generation whose partition may have another owner already (the session expired): there is nothing to
    /// commit.
    pub(crate) fn lose(&mut self, slot: Slot) {
        self.slots[slot.index()].current = None;
    }

    /// Takes note of a delivered record in the current generation of its partition. None if the partition is not
    /// assigned: the record was fetched before that and is not to be handled.
    pub(crate) fn deliver(&mut self, slot: Slot, offset: u64, bytes: usize) -> Option<(Token, Delivered)> {
        let (generation, ledger) = self.slots[slot.index()].current.as_mut()?;
        let token = Token { slot, generation: *generation, offset };
        Some((token, ledger.deliver(offset, bytes)))
    }

    /// Settles a record in the generation that it was delivered in ([`Ledger::settle`]).
    ///
    /// # Errors
    /// [`Fenced`] if that generation is over.
    pub(crate) fn settle(&mut self, token: Token, bytes: usize) -> Result<Settled, Fenced> {
        Ok(self.fenced(token)?.settle(token.offset, bytes))
    }

    /// Takes note of a record that was given back to the broker ([`Ledger::returned`]).
    ///
    /// # Errors
    /// [`Fenced`] if its generation is over.
    pub(crate) fn returned(&mut self, token: Token, bytes: usize) -> Result<bool, Fenced> {
        Ok(self.fenced(token)?.returned(token.offset, bytes))
    }

    /// The slot of a partition that is or was assigned.
    pub(crate) fn slot(&self, topic: u32, partition: u32) -> Option<Slot> {
        self.slot_of.get(&(topic, partition)).copied()
    }

    /// The ledger of a partition, if it is assigned.
    pub(crate) fn ledger(&self, slot: Slot) -> Option<&Ledger> {
        self.slots[slot.index()].current.as_ref().map(|(_, ledger)| ledger)
    }

    /// The partitions that are assigned: index of the topic, partition, ledger.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, u32, &Ledger)> {
        self.slots.iter().filter_map(|slot| {
            let (_, ledger) = slot.current.as_ref()?;
            Some((slot.topic, slot.number, ledger))
        })
    }

    fn fenced(&mut self, token: Token) -> Result<&mut Ledger, Fenced> {
        match &mut self.slots[token.slot.index()].current {
            Some((generation, ledger)) if *generation == token.generation => Ok(ledger),
            _ => Err(Fenced),
        }
    }
}

#[cfg(test)]
mod tests;
