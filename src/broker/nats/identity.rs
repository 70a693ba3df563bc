//! Which log a sequence belongs to: a stream is its name and when it was made, and a name can be used again.

use crate::broker::Gone;
use std::fmt::Debug;

/// When the stream and its consumer were made, as the server says it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Made<T> {
    pub(super) stream: T,
    pub(super) consumer: T,
}

/// Whether a stream that was found is another one than the one that was known, whatever it holds, and what to say of
/// that. `newest` is the highest sequence that came out of the known one: a stream that ends before it has lost it,
/// with its identity or without.
pub(super) fn another<T: PartialEq + Debug>(known: &T, newest: u64, found: &T, last: u64) -> Option<Gone> {
    let reason = if known != found {
        format!("the stream was deleted and made anew: it was made at {known:?}, and now at {found:?}")
    } else if last < newest {
        format!("the stream ends at {last}, and record {newest} of it was here")
    } else {
        return None;
    };
    Some(Gone { records: 0..0, count: 0, reason })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::another;

    #[test]
    fn a_stream_made_at_another_time_is_another_one_however_much_it_holds() {
        for last in [0, 4, 5, 6, 100] {
            let gone = another(&"monday", 5, &"tuesday", last).expect("it is another one");
            assert!(gone.reason.contains("monday") && gone.reason.contains("tuesday"), "{}", gone.reason);
            assert_eq!((gone.records, gone.count), (0..0, 0));
        }
    }

    #[test]
    fn the_same_stream_is_another_log_only_when_it_ends_before_what_came() {
        for (last, is_another) in [(4, true), (5, false), (6, false)] {
            assert_eq!(another(&"monday", 5, &"monday", last).is_some(), is_another, "{last}");
        }
    }
}
