//! What a stream still has of what was delivered out of it: records are purged, expire, and are removed at a limit.

use std::ops::RangeInclusive;

/// As a stream says it at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Left {
    /// Below it nothing is left.
    first: u64,
    /// From there on what is not there, rising; none: too much of it to be named.
    removed: Option<Vec<u64>>,
    /// How much that is.
    count: u64,
}

impl Left {
    pub(super) fn new(first: u64, count: u64, removed: Option<Vec<u64>>) -> Self {
        Self { first, removed, count }
    }

    /// Whether this one is known to be there.
    pub(super) fn has(&self, sequence: u64) -> bool {
        let is_there = |removed: &Vec<u64>| removed.binary_search(&sequence).is_err();
        sequence >= self.first && self.removed.as_ref().is_some_and(is_there)
    }

    /// What is known not to be there, but for what lies before all that is.
    pub(super) fn removed(&self, within: RangeInclusive<u64>) -> &[u64] {
        let Some(removed) = &self.removed else { return &[] };
        let from = removed.partition_point(|sequence| sequence < within.start());
        let to = removed.partition_point(|sequence| sequence <= within.end());
        removed.get(from..to).unwrap_or_default()
    }

    /// The same as long as nothing more is removed.
    pub(super) fn mark(&self) -> (u64, u64) {
        (self.first, self.count)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::Left;

    #[test]
    fn what_is_known_to_be_there_is_neither_removed_nor_before_the_first() {
        let left = Left::new(3, 2, Some(vec![5, 8]));
        let there: Vec<u64> = (1..=9).filter(|sequence| left.has(*sequence)).collect();
        assert_eq!(there, [3, 4, 6, 7, 9]);
        assert_eq!(left.removed(1..=5), [5]);
        assert_eq!(left.removed(6..=9), [8]);
        assert!(left.removed(6..=7).is_empty());
    }

    #[test]
    fn of_what_is_not_named_nothing_is_known() {
        let left = Left::new(3, 1 << 20, None);
        assert!((1..=9).all(|sequence| !left.has(sequence)));
        assert!(left.removed(1..=9).is_empty());
    }
}
