//! Deliveries that say nothing against a record: those that a member gave back when it left.
//!
//! A server counts every delivery, and a record that was delivered too often is given up as one that kills its process.
//! A process that ends in an orderly way was not killed. So it notes in the metadata of the consumer how often what it
//! gives back had been delivered by then, and whoever takes the record next begins to count there.

use std::collections::HashMap;
use std::fmt::Write;

/// The key in the metadata.
pub(super) const KEY: &str = "keylane-returned";
/// A server takes 128 KiB of metadata; what does not fit is counted.
const MAX_BYTES: usize = 100_000;

/// Notes sequences and how often each was delivered, the lowest first.
pub(super) fn note(returned: impl IntoIterator<Item = (u64, u32)>) -> String {
    let mut text = String::new();
    for (sequence, times) in returned {
        if text.len() >= MAX_BYTES {
            break;
        }
        let _ = write!(text, "{sequence}:{times} ");
    }
    text.truncate(text.trim_end().len());
    text
}

/// What was noted. What can't be read was noted by nobody.
pub(super) fn read(text: &str) -> HashMap<u64, u32> {
    let entry = |entry: &str| {
        let (sequence, times) = entry.split_once(':')?;
        Some((sequence.parse().ok()?, times.parse().ok()?))
    };
    text.split(' ').filter_map(entry).collect()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_noted_is_read(returned in prop::collection::hash_map(any::<u64>(), any::<u32>(), 0..40)) {
            let text = note(returned.iter().map(|(sequence, times)| (*sequence, *times)));
            prop_assert_eq!(read(&text), returned);
        }

        #[test]
        fn nothing_that_stands_there_panics(text in ".*") {
            read(&text);
        }
    }

    #[test]
    fn a_note_has_an_end() {
        let text = note((0..1_000_000).map(|sequence| (sequence, 1)));
        assert!(text.len() < MAX_BYTES + 100, "{}", text.len());
        assert_eq!(read(&text).len(), text.split(' ').count());
    }
}
