//! Partitions that can't be read where they are, since a batch is not what was written: a state machine without a client or
//! a clock in it.
//!
//! librdkafka goes on behind such a batch at a place that it has read out of the damaged bytes, or asks for it again and again.
//! So the partition is stopped with the first error, alone, and tried again from the same place after a rest: a replica may
//! have been repaired, or another one become the leader.

use crate::broker::Partition;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a partition rests until it is tried again.
const REST: Duration = Duration::from_secs(10);
/// A try that has brought neither a record nor an error for so long has found nothing that is damaged.
const PROVEN: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(super) struct Unreadable(BTreeMap<Partition, Bad>);

#[derive(Debug)]
struct Bad {
    /// What was to come next.
    next: u64,
    since: Instant,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    RestsUntil(Instant),
    TriedAt(Instant),
}

impl Unreadable {
    /// What is next can't be read. Since when that is so.
    pub(super) fn failed(&mut self, partition: Partition, next: u64, now: Instant) -> Instant {
        let state = State::RestsUntil(now + REST);
        let bad = self.0.entry(partition).or_insert(Bad { next, since: now, state });
        // Behind one that could be read after all there is another one.
        if next > bad.next {
            (bad.next, bad.since) = (next, now);
        }
        bad.state = state;
        bad.since
    }

    /// Whether nothing of the partition is wanted just now.
    pub(super) fn rests(&self, partition: Partition) -> bool {
        self.0.get(&partition).is_some_and(|bad| matches!(bad.state, State::RestsUntil(_)))
    }

    /// Partitions that are to be tried now, each from there on.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(Partition, u64)> {
        let mut due = Vec::new();
        for (partition, bad) in &mut self.0 {
            if matches!(bad.state, State::RestsUntil(until) if now >= until) {
                bad.state = State::TriedAt(now);
                due.push((*partition, bad.next));
            }
        }
        due
    }

    /// Partitions that go on, by what should come next of each; those that are gone are forgotten.
    pub(super) fn healed(&mut self, next: impl Fn(Partition) -> Option<u64>, now: Instant) -> Vec<Partition> {
        self.0.retain(|partition, _| next(*partition).is_some());
        let goes_on = |(partition, bad): (&Partition, &Bad)| {
            let State::TriedAt(at) = bad.state else { return None };
            let has_come = next(*partition).is_some_and(|next| next > bad.next);
            (has_come || now.saturating_duration_since(at) >= PROVEN).then_some(*partition)
        };
        let healed: Vec<_> = self.0.iter().filter_map(goes_on).collect();
        for partition in &healed {
            self.0.remove(partition);
        }
        healed
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(generation: u64) -> Partition {
        Partition { topic: 0, partition: 1, generation }
    }

    #[test]
    fn a_partition_that_can_not_be_read_is_tried_again_after_a_rest_and_from_the_same_place() {
        let (mut unreadable, now, bad) = (Unreadable::default(), Instant::now(), partition(1));
        assert_eq!(unreadable.failed(bad, 7, now), now);
        assert!(unreadable.rests(bad) && unreadable.due(now + REST / 2).is_empty());
        assert_eq!(unreadable.due(now + REST), [(bad, 7)]);
        assert!(!unreadable.rests(bad) && unreadable.due(now + REST).is_empty(), "it is under way");
        assert_eq!(unreadable.failed(bad, 7, now + REST), now, "it has been so since then");
        assert!(unreadable.rests(bad));
        assert_eq!(unreadable.due(now + 2 * REST), [(bad, 7)]);
    }

    #[test]
    fn what_could_be_read_after_all_goes_on() {
        let (mut unreadable, now, bad) = (Unreadable::default(), Instant::now(), partition(1));
        unreadable.failed(bad, 7, now);
        assert!(unreadable.healed(|_| Some(7), now + REST).is_empty(), "it rests");
        unreadable.due(now + REST);
        assert!(unreadable.healed(|_| Some(7), now + REST).is_empty());
        assert_eq!(unreadable.failed(bad, 9, now + REST), now + REST, "the next batch is damaged, too");
        unreadable.due(now + 2 * REST);
        assert_eq!(unreadable.healed(|_| Some(12), now + 2 * REST), [bad]);
        assert!(unreadable.is_empty());
        unreadable.failed(bad, 12, now);
        unreadable.due(now + REST);
        assert_eq!(
            unreadable.healed(|_| Some(12), now + REST + PROVEN),
            [bad],
            "it was removed, and nothing is behind"
        );
    }

    #[test]
    fn a_partition_that_is_gone_is_forgotten() {
        let (mut unreadable, now, bad) = (Unreadable::default(), Instant::now(), partition(1));
        unreadable.failed(bad, 7, now);
        assert!(unreadable.healed(|_| None, now).is_empty() && unreadable.is_empty());
        assert!(!unreadable.rests(partition(2)));
    }
}
