//! Where a group begins in a partition: a function of what is committed and of what the log has.

use crate::broker::position_text::{self, Text};
use crate::broker::{Gone, Position, Start};

/// Where a group begins in a partition.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Begin {
    pub(crate) position: Position,
    /// What the log has no more.
    pub(crate) gone: Option<Gone>,
    /// What stands beside the position and is not believed, and why.
    pub(crate) unread: Option<String>,
}

/// By what is committed (the offset and the text beside it), by the first offset of the log and the one behind the last,
/// and by where a group without a position starts.
pub(crate) fn begin(committed: Option<(u64, &str)>, (low, high): (u64, u64), start: Start) -> Begin {
    let at = |watermark| Position { watermark, ahead: Vec::new() };
    let Some((offset, text)) = committed else {
        let watermark = match start {
            Start::Earliest => low,
            Start::Latest => high,
        };
        return Begin { position: at(watermark), gone: None, unread: None };
    };
    if offset > high {
        let reason = format!(
            "the log ends at {high} and the group's position is {offset}: the log was cut, made anew, or is another \
             cluster's, or the position was set by somebody"
        );
        let gone = Gone { records: high..high, count: 0, reason };
        return Begin { position: at(low), gone: Some(gone), unread: None };
    }
    let (mut ahead, unread) = match position_text::decode(text, offset) {
        Text::Ahead(ahead) => (ahead, None),
        Text::Beside(other) => (Vec::new(), Some(format!("it was written beside offset {other}"))),
        Text::Foreign => (Vec::new(), Some(format!("it is nothing that is known here: {text:?}"))),
    };
    let mut gone = None;
    if low > offset {
        let handled: u64 = ahead.iter().map(|range| range.end.min(low).saturating_sub(range.start)).sum();
        let reason = "retention, or somebody, removed them before the group had handled them".to_owned();
        gone = Some(Gone { records: offset..low, count: low - offset - handled, reason });
        ahead.retain_mut(|range| {
            range.start = range.start.max(low);
            range.start < range.end
        });
    }
    Begin { position: Position { watermark: offset.max(low), ahead }, gone, unread }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::position_text::encode;

    /// Ranges as pairs of the first offset and the one behind the last.
    fn position(watermark: u64, ahead: &[(u64, u64)]) -> Position {
        Position { watermark, ahead: ahead.iter().map(|(start, end)| *start..*end).collect() }
    }

    #[test]
    fn a_group_without_a_position_starts_where_it_is_told_to() {
        for (start, watermark) in [(Start::Earliest, 3), (Start::Latest, 9)] {
            let expected = Begin { position: position(watermark, &[]), gone: None, unread: None };
            assert_eq!(begin(None, (3, 9), start), expected);
        }
    }

    #[test]
    fn a_position_is_taken_up_with_what_is_settled_ahead_of_it() {
        let position = position(5, &[(7, 9), (12, 13)]);
        let (text, _) = encode(&position, 100);
        assert_eq!(
            begin(Some((5, &text)), (0, 20), Start::Latest),
            Begin { position, gone: None, unread: None }
        );
    }

    #[test]
    fn a_text_beside_another_offset_or_of_somebody_else_is_told_and_not_believed() {
        let (text, _) = encode(&position(5, &[(7, 9)]), 100);
        for (text, said) in [(text.as_str(), "offset 5"), ("mirrored", "mirrored"), ("kl3:rA", "kl3:rA")] {
            let found = begin(Some((105, text)), (0, 200), Start::Earliest);
            assert_eq!((found.position, found.gone), (position(105, &[]), None));
            assert!(found.unread.unwrap().contains(said));
        }
    }

    #[test]
    fn what_was_removed_before_it_was_handled_is_counted() {
        let (text, _) = encode(&position(5, &[(7, 9), (12, 15)]), 100);
        let found = begin(Some((5, &text)), (13, 20), Start::Earliest);
        assert_eq!(found.position, position(13, &[(13, 15)]));
        let gone = found.gone.unwrap();
        assert_eq!((gone.records, gone.count), (5..13, 5), "5, 6, 9, 10 and 11");
    }

    #[test]
    fn a_log_that_ends_before_the_position_is_another_one_and_is_handled_from_its_first_record() {
        let (text, _) = encode(&position(50, &[(52, 54)]), 100);
        let found = begin(Some((50, &text)), (2, 20), Start::Latest);
        assert_eq!(found.position, position(2, &[]));
        let gone = found.gone.unwrap();
        assert!(
            gone.count == 0 && gone.reason.contains("ends at 20") && gone.reason.contains("position is 50")
        );
        assert_eq!(begin(Some((20, "")), (2, 20), Start::Latest).gone, None, "the end is in the log");
    }
}
