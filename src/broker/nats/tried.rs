//! How often a record was tried, as far as anybody can know.
//!
//! A server counts deliveries. They say nothing against a record: after an outage longer than the `ack_wait` all that is
//! in work is delivered again, and no handler sees it twice. What counts is that an owner of the topic had the record in
//! its hands and ended without giving it back: such a record may be one that ends its process. The next owner notes that
//! in the metadata of the consumer, for each record that it recovers, before anything starts.

use std::collections::HashMap;
use std::fmt::Write;

/// The key in the metadata.
pub(super) const KEY: &str = "keylane-tried";
/// A server takes 128 KiB of metadata; what does not fit begins anew.
const MAX_BYTES: usize = 100_000;

/// By sequence.
type Counts = HashMap<u64, u32, foldhash::fast::RandomState>;

#[derive(Debug, Default)]
pub(super) struct Tries {
    /// How many owners ended with it in their hands.
    ended: Counts,
    /// How often this owner gave it back.
    returned: Counts,
}

impl Tries {
    /// Of the records that a new owner recovers, given what was noted before. Its predecessor `ended`, or gave them back.
    pub(super) fn inherited(note: &str, recovered: impl Iterator<Item = u64>, ended: bool) -> Self {
        let noted = read(note);
        let count = |sequence: &u64| noted.get(sequence).copied().unwrap_or(0).saturating_add(ended.into());
        let counts = recovered.map(|sequence| (sequence, count(&sequence)));
        Self { ended: counts.filter(|(_, count)| *count > 0).collect(), returned: Counts::default() }
    }

    /// What to note, the lowest sequence first.
    pub(super) fn note(&self) -> String {
        let mut counts: Vec<(u64, u32)> =
            self.ended.iter().map(|(sequence, count)| (*sequence, *count)).collect();
        counts.sort_unstable();
        note(counts)
    }

    /// Which time this is that somebody has the record, from 1.
    pub(super) fn of(&self, sequence: u64) -> u32 {
        let count = |counts: &Counts| counts.get(&sequence).copied().unwrap_or(0);
        count(&self.ended).saturating_add(count(&self.returned)).saturating_add(1)
    }

    pub(super) fn given_back(&mut self, sequence: u64) {
        let count = self.returned.entry(sequence).or_default();
        *count = count.saturating_add(1);
    }

    pub(super) fn settled(&mut self, sequence: u64) {
        self.returned.remove(&sequence);
    }
}

fn note(counts: impl IntoIterator<Item = (u64, u32)>) -> String {
    let mut text = String::new();
    for (sequence, count) in counts {
        if text.len() >= MAX_BYTES {
            break;
        }
        let _ = write!(text, "{sequence}:{count} ");
    }
    text.truncate(text.trim_end().len());
    text
}

/// What was noted. What can't be read was noted by nobody.
fn read(text: &str) -> Counts {
    let entry = |entry: &str| {
        let (sequence, count) = entry.split_once(':')?;
        Some((sequence.parse().ok()?, count.parse().ok()?))
    };
    text.split(' ').filter_map(entry).collect()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_noted_is_read(counts in prop::collection::hash_map(any::<u64>(), any::<u32>(), 0..40)) {
            let text = note(counts.iter().map(|(sequence, count)| (*sequence, *count)));
            prop_assert_eq!(read(&text), counts.into_iter().collect::<Counts>());
        }

        #[test]
        fn nothing_that_stands_there_panics(text in ".*") {
            let tries = Tries::inherited(&text, [1, 2].into_iter(), true);
            prop_assert!(tries.of(1) >= 2);
        }
    }

    #[test]
    fn a_note_has_an_end() {
        let text = note((0..1_000_000).map(|sequence| (sequence, 1)));
        assert!(text.len() < MAX_BYTES + 100, "{}", text.len());
        assert_eq!(read(&text).len(), text.split(' ').count());
    }

    #[test]
    fn an_owner_that_ends_with_a_record_counts_and_one_that_gives_it_back_does_not() {
        let first = Tries::inherited("", [7, 8].into_iter(), true);
        assert_eq!((first.of(7), first.of(8), first.of(9)), (2, 2, 1));
        // 8 is settled meanwhile, and 9 has come. This one leaves in an orderly way.
        let second = Tries::inherited(&first.note(), [7, 9].into_iter(), false);
        assert_eq!((second.of(7), second.of(9)), (2, 1));
        let third = Tries::inherited(&first.note(), [7, 9].into_iter(), true);
        assert_eq!((third.of(7), third.of(9)), (3, 2));
        assert_eq!(third.note(), "7:2 9:1");
    }

    #[test]
    fn what_is_given_back_and_comes_again_is_another_time() {
        let mut tries = Tries::default();
        assert_eq!(tries.of(3), 1);
        tries.given_back(3);
        tries.given_back(3);
        assert_eq!(tries.of(3), 3);
        tries.settled(3);
        assert_eq!(tries.of(3), 1);
    }
}
