//! What a subscription's logs have lost: one entry for each partition, until it is acknowledged or old.

use crate::broker::Gone;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// For how long a loss is shown.
pub(crate) const SHOWN: Duration = Duration::from_secs(3_600);

/// By topic, an index into those of the subscription, and partition.
#[derive(Debug, Default)]
pub(crate) struct Losses(BTreeMap<(u32, u32), Loss>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loss {
    /// First and last.
    pub(crate) offsets: Option<(u64, u64)>,
    pub(crate) records: u64,
    pub(crate) reason: String,
    pub(crate) at: Instant,
}

impl Losses {
    /// Adds to what the partition has lost.
    pub(crate) fn add(&mut self, place: (u32, u32), gone: Gone, now: Instant) {
        let Gone { records, count, reason } = gone;
        let offsets = (!records.is_empty()).then(|| (records.start, records.end - 1));
        let loss =
            self.0.entry(place).or_insert(Loss { offsets, records: 0, reason: String::new(), at: now });
        loss.offsets = match (loss.offsets, offsets) {
            (Some((first, last)), Some((from, to))) => Some((first.min(from), last.max(to))),
            (known, new) => known.or(new),
        };
        loss.records += count;
        (loss.reason, loss.at) = (reason, now);
    }

    pub(crate) fn shown(&self, now: Instant) -> impl Iterator<Item = (&(u32, u32), &Loss)> {
        self.0.iter().filter(move |(_, loss)| now.saturating_duration_since(loss.at) < SHOWN)
    }

    pub(crate) fn acknowledge(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone(records: std::ops::Range<u64>) -> Gone {
        Gone { count: records.end - records.start, records, reason: "retention".to_owned() }
    }

    #[test]
    fn what_a_partition_loses_adds_up_and_is_shown_for_an_hour_or_until_it_is_acknowledged() {
        let (mut losses, now) = (Losses::default(), Instant::now());
        losses.add((0, 1), gone(5..7), now);
        losses.add((0, 1), gone(9..10), now + SHOWN / 2);
        losses.add((0, 2), gone(0..0), now);
        let shown: Vec<_> = losses.shown(now + SHOWN).collect();
        assert_eq!(shown.len(), 1, "the other is an hour old");
        let expected =
            Loss { offsets: Some((5, 9)), records: 3, reason: "retention".to_owned(), at: now + SHOWN / 2 };
        assert_eq!(shown[0], (&(0, 1), &expected));
        losses.acknowledge();
        assert_eq!(losses.shown(now).count(), 0);
    }

    #[test]
    fn a_log_that_is_another_one_is_told_without_offsets() {
        let (mut losses, now) = (Losses::default(), Instant::now());
        losses.add((0, 0), gone(0..0), now);
        let (_, loss) = losses.shown(now).next().unwrap();
        assert_eq!((loss.offsets, loss.records), (None, 0));
    }
}
