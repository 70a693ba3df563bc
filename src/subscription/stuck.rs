//! What of a subscription's logs stands still: one entry for each partition, and for each topic as a whole, until it goes
//! on or goes away.

use crate::broker::Stuck;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Instant;

/// A topic, as an index into those of the subscription, and one of its partitions; none: all of it.
pub(crate) type Where = (u32, Option<u32>);

#[derive(Debug, Default)]
pub(crate) struct Standstills(BTreeMap<Where, Stuck>);

/// What is new in what was told, and so worth a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    /// It came to stand, or another cause is known.
    Stands(Stuck),
    GoesOn {
        /// When it came to stand.
        since: Instant,
    },
}

impl Standstills {
    /// Takes note of what is told. A standstill goes on through a change of its cause or of its offset.
    pub(crate) fn set(&mut self, place: Where, stuck: Option<Stuck>) -> Change {
        match (self.0.entry(place), stuck) {
            (Entry::Vacant(_), None) => Change::None,
            (Entry::Vacant(none), Some(stuck)) => Change::Stands(none.insert(stuck).clone()),
            (Entry::Occupied(known), None) => Change::GoesOn { since: known.remove().since },
            (Entry::Occupied(mut known), Some(stuck)) => {
                let known = known.get_mut();
                let is_news = known.reason != stuck.reason;
                *known = Stuck { since: known.since.min(stuck.since), ..stuck };
                if is_news { Change::Stands(known.clone()) } else { Change::None }
            }
        }
    }

    /// A partition that goes away takes what was said of it along.
    pub(crate) fn forget(&mut self, place: Where) {
        self.0.remove(&place);
    }

    pub(crate) fn shown(&self) -> impl Iterator<Item = (&Where, &Stuck)> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);

    fn stuck(offset: u64, reason: &str, since: Instant) -> Stuck {
        Stuck { offset: Some(offset), reason: reason.to_owned(), since }
    }

    #[test]
    fn a_standstill_is_said_once_for_each_cause_and_lasts_through_them() {
        let (mut still, now, place) = (Standstills::default(), Instant::now(), (0, Some(1)));
        assert_eq!(still.set(place, None), Change::None);
        let first = stuck(7, "no leader", now);
        assert_eq!(still.set(place, Some(first.clone())), Change::Stands(first));
        assert_eq!(still.set(place, Some(stuck(7, "no leader", now + SECOND))), Change::None);
        let other = still.set(place, Some(stuck(8, "a transaction", now + SECOND)));
        assert_eq!(other, Change::Stands(stuck(8, "a transaction", now)), "it has stood since then");
        assert_eq!(still.shown().collect::<Vec<_>>(), [(&place, &stuck(8, "a transaction", now))]);
        assert_eq!(still.set(place, None), Change::GoesOn { since: now });
        assert_eq!(still.shown().count(), 0);
    }

    #[test]
    fn partitions_and_their_topic_stand_each_for_themselves() {
        let (mut still, now) = (Standstills::default(), Instant::now());
        still.set((0, Some(1)), Some(stuck(7, "no leader", now)));
        still.set((0, None), Some(Stuck { offset: None, reason: "deleted".to_owned(), since: now }));
        still.forget((0, Some(1)));
        assert_eq!(still.shown().map(|(place, _)| *place).collect::<Vec<_>>(), [(0, None)]);
        assert_eq!(still.set((0, Some(1)), None), Change::None, "it was forgotten, so nothing goes on");
    }
}
