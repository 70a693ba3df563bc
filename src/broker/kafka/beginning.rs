//! Where a group begins in a partition: a function of what is committed and of what the log has.

use crate::broker::position_text::{self, Text};
use crate::broker::{Gone, LogId, Position, Start};

/// Where a group begins in a partition.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Begin {
    pub(crate) position: Position,
    /// What the log has no more.
    pub(crate) gone: Option<Gone>,
    /// What stands beside the position and is not believed, and why.
    pub(crate) unread: Option<String>,
    /// The log that the position is of: what the brokers say, or else what stands beside the position.
    pub(crate) log: Option<LogId>,
}

/// By what is committed (the offset and the text beside it), by the log (its id, the first offset and the one behind the
/// last), and by where a group without a position starts.
pub(crate) fn begin(
    committed: Option<(u64, &str)>,
    log: Option<LogId>,
    (low, high): (u64, u64),
    start: Start,
) -> Begin {
    let at = |watermark| Position { watermark, ahead: Vec::new() };
    let Some((offset, text)) = committed else {
        let watermark = match start {
            Start::Earliest => low,
            Start::Latest => high,
        };
        return Begin { position: at(watermark), gone: None, unread: None, log };
    };
    let another = |reason: String| {
        let gone = Gone { records: high..high, count: 0, reason };
        Begin { position: at(low), gone: Some(gone), unread: None, log }
    };
    let (mut ahead, written_in, unread) = match position_text::decode(text, offset) {
        Text::Ahead(ahead, written_in) => (ahead, written_in, None),
        Text::Beside(other) => (Vec::new(), None, Some(format!("it was written beside offset {other}"))),
        Text::Foreign => (Vec::new(), None, Some(format!("it is nothing that is known here: {text:?}"))),
    };
    if let (Some(now), Some(then)) = (log, written_in)
        && now != then
    {
        return another(format!(
            "the group's position {offset} was taken in another log: the topic was made anew, or is another cluster's \
             (its id is {now}, and was {then}); it is handled from its first record"
        ));
    }
    if offset > high {
        return another(format!(
            "the log ends at {high} and the group's position is {offset}: the log was cut, made anew, or is another \
             cluster's, or the position was set by somebody"
        ));
    }
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
    let position = Position { watermark: offset.max(low), ahead };
    Begin { position, gone, unread, log: log.or(written_in) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::position_text::encode;

    /// Ranges as pairs of the first offset and the one behind the last.
    fn position(watermark: u64, ahead: &[(u64, u64)]) -> Position {
        Position { watermark, ahead: ahead.iter().map(|(start, end)| *start..*end).collect() }
    }

    fn log(id: i64) -> Option<LogId> {
        LogId::from_halves(id, id)
    }

    #[test]
    fn a_group_without_a_position_starts_where_it_is_told_to() {
        for (start, watermark) in [(Start::Earliest, 3), (Start::Latest, 9)] {
            let expected = Begin { position: position(watermark, &[]), gone: None, unread: None, log: None };
            assert_eq!(begin(None, None, (3, 9), start), expected);
        }
    }

    #[test]
    fn a_position_is_taken_up_with_what_is_settled_ahead_of_it() {
        let position = position(5, &[(7, 9), (12, 13)]);
        for (log, now) in [(None, None), (log(1), None), (log(1), log(1)), (None, log(1))] {
            let (text, _) = encode(&position, log, 100);
            let expected = Begin { position: position.clone(), gone: None, unread: None, log: now.or(log) };
            assert_eq!(begin(Some((5, &text)), now, (0, 20), Start::Latest), expected);
        }
    }

    #[test]
    fn a_text_beside_another_offset_or_of_somebody_else_is_told_and_not_believed() {
        // As a mirror has it: another offset, of another log.
        let (text, _) = encode(&position(5, &[(7, 9)]), log(1), 100);
        for (text, said) in [(text.as_str(), "offset 5"), ("mirrored", "mirrored"), ("kl3:rA", "kl3:rA")] {
            let found = begin(Some((105, text)), log(2), (0, 200), Start::Earliest);
            assert_eq!((found.position, found.gone), (position(105, &[]), None));
            assert!(found.unread.unwrap().contains(said));
        }
    }

    #[test]
    fn what_was_removed_before_it_was_handled_is_counted() {
        let (text, _) = encode(&position(5, &[(7, 9), (12, 15)]), None, 100);
        let found = begin(Some((5, &text)), None, (13, 20), Start::Earliest);
        assert_eq!(found.position, position(13, &[(13, 15)]));
        let gone = found.gone.unwrap();
        assert_eq!((gone.records, gone.count), (5..13, 5), "5, 6, 9, 10 and 11");
    }

    #[test]
    fn a_log_that_ends_before_the_position_is_another_one_and_is_handled_from_its_first_record() {
        let (text, _) = encode(&position(50, &[(52, 54)]), None, 100);
        let found = begin(Some((50, &text)), None, (2, 20), Start::Latest);
        assert_eq!(found.position, position(2, &[]));
        let gone = found.gone.unwrap();
        assert!(
            gone.count == 0 && gone.reason.contains("ends at 20") && gone.reason.contains("position is 50")
        );
        assert_eq!(begin(Some((20, "")), None, (2, 20), Start::Latest).gone, None, "the end is in the log");
    }

    #[test]
    fn a_log_of_another_id_is_handled_from_its_first_record_however_long_it_is() {
        let (text, _) = encode(&position(5, &[(7, 9)]), log(1), 100);
        let found = begin(Some((5, &text)), log(2), (3, 20), Start::Latest);
        assert_eq!((found.position, found.log), (position(3, &[]), log(2)));
        let gone = found.gone.unwrap();
        let ids = [log(1), log(2)].map(|log| log.unwrap().to_string());
        assert!(gone.count == 0 && ids.iter().all(|id| gone.reason.contains(id)), "{}", gone.reason);
    }
}
