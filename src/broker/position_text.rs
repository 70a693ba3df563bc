//! A position's records settled ahead, as text that a broker keeps beside a committed offset.
//!
//! `kl2:` and a letter for the form, then digits of six bits in the alphabet of base64url, the first of them the
//! watermark that the text belongs to: beside another offset (a mirror's, which moves the offset and copies the text; a
//! tool's) it would name records that nobody has handled. A number has digits of five bits with the sixth for "more
//! follow". Form `r`: the gap to each range and its length, less one. Form `b`: a bit for each offset from the watermark
//! on, lowest first. The shorter one is taken: ranges where few records are behind, bits where every other one is.
//! Forms `R` and `B` are the same with the id of the log between the watermark and the rest: a position of a topic that
//! was made anew, or of another cluster, names no place in this one. `kl1:`, from before, is without both. What is in none
//! of these is somebody else's, or a later form's, and is ignored.

use super::log_id::{self, LogId, digit};
use super::{Committed, Position};
use std::ops::Range;

/// Of ranges and of bits, with the id of the log.
const WITH_LOG: [&str; 2] = ["kl2:R", "kl2:B"];
const WITHOUT_LOG: [&str; 2] = ["kl2:r", "kl2:b"];
const BEFORE: [&str; 2] = ["kl1:r", "kl1:b"];
/// Says in a digit of a number that more follow.
const MORE: u8 = 0x20;

/// Writes what is settled ahead, and the id of the log where it is known, into at most `limit` bytes of ASCII: all of it,
/// or where that does not fit all below some offset. [`Committed::Crowded`] when more than three quarters of the room are
/// taken, so that fetching stops before anything has to be left out.
pub(crate) fn encode(position: &Position, log: Option<LogId>, limit: usize) -> (String, Committed) {
    let mut own = String::new();
    push_number(position.watermark, &mut own);
    if let Some(log) = log {
        own.extend(log.digits().map(digit));
    }
    let [ranges, bits] = if log.is_some() { WITH_LOG } else { WITHOUT_LOG };
    let taken = ranges.len() + own.len();
    let Some(room) = limit.checked_sub(taken) else {
        // Where the id alone is too much, what is settled ahead says more.
        return if log.is_some() { encode(position, None, limit) } else { unsaid(position) };
    };
    if position.ahead.is_empty() {
        return if log.is_some() { (ranges.to_owned() + &own, Committed::All) } else { unsaid(position) };
    }
    let all: u64 = position.ahead.iter().map(|range| range.end - range.start).sum();
    let ranges = Cut::of(encode_ranges(position, room), ranges);
    // Where the ranges fit, more bits than they take are of no use, and one far range would be very many.
    let worth = if ranges.records == all { ranges.digits.len() } else { room };
    let bits = Cut::of(encode_bits(position, worth), bits);
    // More records first, then fewer digits.
    let is_longer = (bits.records, ranges.digits.len()) > (ranges.records, bits.digits.len());
    let Cut { records, digits, prefix } = if is_longer { bits } else { ranges };
    let is_crowded = records < all || taken + digits.len() > limit / 4 * 3;
    (prefix.to_owned() + &own + &digits, if is_crowded { Committed::Crowded } else { Committed::All })
}

/// Nothing beside the offset.
fn unsaid(position: &Position) -> (String, Committed) {
    let is_all = position.ahead.is_empty();
    (String::new(), if is_all { Committed::All } else { Committed::Crowded })
}

/// What the text beside a committed offset says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Text {
    /// What is settled ahead of the offset, and in which log, if it says so.
    Ahead(Vec<Range<u64>>, Option<LogId>),
    /// It was written beside this offset: what it says is of no use here.
    Beside(u64),
    /// Nobody here wrote it, or a later version did.
    Foreign,
}

/// Reads what [`encode`] wrote, beside this watermark.
pub(crate) fn decode(text: &str, watermark: u64) -> Text {
    if text.is_empty() {
        return Text::Ahead(Vec::new(), None);
    }
    read(text, watermark).unwrap_or(Text::Foreign)
}

fn read(text: &str, watermark: u64) -> Option<Text> {
    let forms = [(WITH_LOG, true, true), (WITHOUT_LOG, true, false), (BEFORE, false, false)];
    let (mut digits, is_ranges, has_watermark, has_log) =
        forms.into_iter().find_map(|(prefixes, has_watermark, has_log)| {
            let [ranges, bits] = prefixes.map(|prefix| text.strip_prefix(prefix));
            let is_ranges = ranges.is_some();
            Some((ranges.or(bits)?.as_bytes(), is_ranges, has_watermark, has_log))
        })?;
    if has_watermark {
        let own = take_number(&mut digits)?;
        if own != watermark {
            return Some(Text::Beside(own));
        }
    }
    let log = if has_log { Some(take_log(&mut digits)?) } else { None };
    let ahead = if is_ranges { decode_ranges(digits, watermark) } else { decode_bits(digits, watermark) };
    ahead.map(|ahead| Text::Ahead(ahead, log))
}

fn take_log(digits: &mut &[u8]) -> Option<LogId> {
    let (own, rest) = digits.split_first_chunk::<{ log_id::DIGITS }>()?;
    *digits = rest;
    let mut values = [0; log_id::DIGITS];
    for (place, own) in values.iter_mut().zip(own) {
        *place = value(*own)?;
    }
    LogId::from_digits(values)
}

/// As much as fitted, and how many records that is.
struct Cut {
    records: u64,
    digits: String,
    prefix: &'static str,
}

impl Cut {
    fn of((digits, records): (String, u64), prefix: &'static str) -> Self {
        Self { records, digits, prefix }
    }
}

fn encode_ranges(position: &Position, room: usize) -> (String, u64) {
    let (mut text, mut records, mut at) = (String::new(), 0, position.watermark);
    for range in &position.ahead {
        let before = text.len();
        push_number(range.start - at, &mut text);
        push_number(range.end - range.start - 1, &mut text);
        if text.len() > room {
            text.truncate(before);
            break;
        }
        records += range.end - range.start;
        at = range.end;
    }
    (text, records)
}

fn encode_bits(position: &Position, room: usize) -> (String, u64) {
    let (mut digits, mut records) = (Vec::<u8>::new(), 0);
    let end = (room as u64).saturating_mul(6);
    for range in &position.ahead {
        let first = range.start - position.watermark;
        let last = (range.end - position.watermark).min(end);
        for bit in first..last {
            let digit = (bit / 6) as usize;
            if digits.len() <= digit {
                digits.resize(digit + 1, 0);
            }
            digits[digit] |= 1 << (bit % 6);
            records += 1;
        }
        if last == end {
            break;
        }
    }
    (digits.into_iter().map(digit).collect(), records)
}

fn push_number(mut number: u64, text: &mut String) {
    loop {
        let low = (number % u64::from(MORE)) as u8;
        number /= u64::from(MORE);
        text.push(digit(if number == 0 { low } else { low | MORE }));
        if number == 0 {
            return;
        }
    }
}

fn value(digit: u8) -> Option<u8> {
    match digit {
        b'A'..=b'Z' => Some(digit - b'A'),
        b'a'..=b'z' => Some(digit - b'a' + 26),
        b'0'..=b'9' => Some(digit - b'0' + 52),
        b'-' => Some(62),
        b'_' => Some(63),
        _ => None,
    }
}

/// Takes one number from the front. Offsets have 63 bits, which are 13 digits.
fn take_number(digits: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for place in 0..13 {
        let (first, rest) = digits.split_first()?;
        *digits = rest;
        let value = value(*first)?;
        number |= u64::from(value & !MORE).checked_shl(5 * place)?;
        if value & MORE == 0 {
            return Some(number);
        }
    }
    None
}

fn decode_ranges(mut digits: &[u8], watermark: u64) -> Option<Vec<Range<u64>>> {
    let (mut ranges, mut at) = (Vec::new(), watermark);
    while !digits.is_empty() {
        let start = at.checked_add(take_number(&mut digits)?)?;
        let end = start.checked_add(take_number(&mut digits)?)?.checked_add(1)?;
        i64::try_from(end).ok()?;
        ranges.push(start..end);
        at = end;
    }
    Some(ranges)
}

fn decode_bits(digits: &[u8], watermark: u64) -> Option<Vec<Range<u64>>> {
    let mut ranges = Vec::<Range<u64>>::new();
    for (place, digit) in digits.iter().enumerate() {
        let bits = value(*digit)?;
        for bit in (0..6).filter(|bit| bits >> bit & 1 != 0) {
            let offset = watermark.checked_add(place as u64 * 6 + bit)?;
            let end = offset.checked_add(1)?;
            i64::try_from(end).ok()?;
            match ranges.last_mut() {
                Some(last) if last.end == offset => last.end = end,
                _ => ranges.push(offset..end),
            }
        }
    }
    Some(ranges)
}

/// For the fuzzer: whatever the text is, reading it ends, and what it says can be written and read again.
///
/// # Panics
/// If it can't.
#[cfg(any(test, fuzzing))]
pub(crate) fn survives(text: &str, watermark: u64) {
    let Text::Ahead(ahead, log) = decode(text, watermark) else { return };
    let mut at = watermark;
    for range in &ahead {
        assert!(range.start >= at && range.end > range.start, "{ahead:?} is not ascending");
        at = range.end;
    }
    // Long ranges are many bits, and the text of the ranges is never longer than what it was read from.
    if ahead.iter().map(|range| range.end - range.start).sum::<u64>() > 1 << 20 {
        return;
    }
    // Ranges that touch are read back as one; the same records all the same.
    let position = Position { watermark, ahead: joined(&ahead) };
    let (again, _) = encode(&position, log, usize::MAX);
    let Text::Ahead(again, of) = decode(&again, watermark) else { panic!("{again} is not read as ours") };
    assert_eq!((joined(&again), of), (position.ahead, log));
}

#[cfg(any(test, fuzzing))]
fn joined(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut joined = Vec::<Range<u64>>::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => joined.push(range.clone()),
        }
    }
    joined
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};
    use std::collections::BTreeSet;

    /// Gaps and lengths, from runs of single records to far jumps.
    fn positions() -> impl Strategy<Value = Position> {
        let part = prop_oneof![
            6 => (1..4_u64, 1..4_u64),
            2 => (1..200_u64, 1..300_u64),
            1 => (1..1_u64 << 40, 1..50_u64),
        ];
        let parts =
            prop_oneof![prop::collection::vec(part.clone(), 0..40), prop::collection::vec(part, 0..1_500)];
        (0..1_u64 << 60, parts).prop_map(|(watermark, parts)| {
            let mut at = watermark;
            let ahead = parts
                .into_iter()
                .map(|(gap, length)| {
                    let start = at + gap;
                    at = start + length;
                    start..at
                })
                .collect();
            Position { watermark, ahead }
        })
    }

    fn offsets(ranges: &[Range<u64>]) -> BTreeSet<u64> {
        ranges.iter().cloned().flatten().collect()
    }

    fn logs() -> impl Strategy<Value = Option<LogId>> {
        (any::<bool>(), any::<i64>(), any::<i64>())
            .prop_map(|(is_known, most, least)| LogId::from_halves(most, least).filter(|_| is_known))
    }

    fn ahead(text: &str, watermark: u64) -> Vec<Range<u64>> {
        match decode(text, watermark) {
            Text::Ahead(ahead, _) => ahead,
            other => panic!("{text} at {watermark}: {other:?}"),
        }
    }

    type Encode = fn(&Position, Option<LogId>, usize) -> (String, Committed);

    /// What is read back is what was settled below some offset, or all of it where that is said.
    fn check(
        (position, log): (&Position, Option<LogId>),
        limit: usize,
        encode: Encode,
    ) -> Result<(), TestCaseError> {
        let (text, committed) = encode(position, log, limit);
        prop_assert!(text.len() <= limit, "{} bytes where {} fit", text.len(), limit);
        prop_assert!(text.is_ascii());
        let (all, read) = (offsets(&position.ahead), offsets(&ahead(&text, position.watermark)));
        let prefix: BTreeSet<u64> = all.iter().take(read.len()).copied().collect();
        prop_assert_eq!(&read, &prefix, "not what lies below some offset");
        if committed == Committed::All {
            prop_assert_eq!(read.len(), all.len(), "something is missing and it was not said");
            let is_unsaid = all.is_empty() || text.len() <= limit / 4 * 3;
            prop_assert!(is_unsaid, "no room is left and it was not said");
        }
        if all.is_empty() {
            prop_assert_eq!(committed, Committed::All);
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn what_is_settled_ahead_is_read_back_as_far_as_it_fits(
            position in positions(), log in logs(), limit in 0..5_000_usize,
        ) {
            check((&position, log), limit, encode)?;
        }

        #[test]
        fn with_room_for_all_all_is_read_back(position in positions(), log in logs()) {
            let (text, committed) = encode(&position, log, 1 << 20);
            prop_assert_eq!(decode(&text, position.watermark), Text::Ahead(position.ahead, log));
            prop_assert_eq!(committed, Committed::All);
        }

        #[test]
        fn beside_another_offset_a_text_says_whose_it_is(
            position in positions(), log in logs(), other in any::<u64>(),
        ) {
            prop_assume!(other != position.watermark);
            let (text, _) = encode(&position, log, 4_096);
            prop_assume!(!text.is_empty());
            prop_assert_eq!(decode(&text, other), Text::Beside(position.watermark));
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in "(kl[12]:[rbRB])?[A-Za-z0-9_-]{0,60}\\PC{0,3}", watermark in any::<u64>()) {
            survives(&text, watermark);
        }
    }

    #[test]
    fn the_property_finds_a_record_that_is_left_out() {
        let faulty: Encode = |position, log, limit| {
            let mut position = position.clone();
            if position.ahead.len() > 2 {
                position.ahead.remove(1);
            }
            encode(&position, log, limit)
        };
        let config = Config { failure_persistence: None, max_shrink_iters: 0, ..Config::default() };
        let found =
            TestRunner::new(config).run(&positions(), |position| check((&position, None), 4_096, faulty));
        assert!(found.is_err());
    }

    #[test]
    fn what_is_not_ours_is_ignored() {
        for text in [
            "kl1:",
            "kl3:rHAA",
            "kl2:r",
            "kl2:RH",
            "kl2:RHAAAAAAAAAAAAAAAAAAAAAB",
            "kl1:R",
            "kl1:x",
            "kl1:r!",
            "kl1:rA",
            "kl1:b\u{e9}",
            "somebody's",
            "kl1:rggggggggggggggggA",
        ] {
            assert_eq!(decode(text, 7), Text::Foreign, "{text}");
        }
        assert_eq!(decode("kl1:r__________________________", u64::MAX), Text::Foreign);
        assert_eq!(decode("kl1:b_", u64::MAX - 2), Text::Foreign);
        assert_eq!(decode("", 7), Text::Ahead(Vec::new(), None));
    }

    #[test]
    fn what_was_written_before_is_read() {
        let ahead = || std::iter::once(1_000_001..1_100_000).collect();
        for text in ["kl1:rB-0hD", "kl2:rgyweB-0hD"] {
            assert_eq!(decode(text, 1_000_000), Text::Ahead(ahead(), None));
        }
    }

    #[test]
    fn a_held_record_with_a_whole_window_behind_it_takes_a_few_bytes() {
        let position =
            Position { watermark: 1_000_000, ahead: std::iter::once(1_000_001..1_100_000).collect() };
        assert_eq!(encode(&position, None, 4_096), ("kl2:rgyweB-0hD".to_owned(), Committed::All));
        let log = LogId::from_halves(0x0011_2233_4455_6677, 1);
        let (text, committed) = encode(&position, log, 4_096);
        assert_eq!((text.as_str(), committed), ("kl2:RgyweABEiM0RVZncAAAAAAAAAAQB-0hD", Committed::All));
        let every_other = (0..4_096).map(|n| 2 * n + 1..2 * n + 2).collect();
        let (text, committed) = encode(&Position { watermark: 0, ahead: every_other }, None, 4_096);
        assert_eq!((text.len(), committed), (6 + 8_192 / 6 + 1, Committed::All));
    }

    #[test]
    fn a_position_says_its_log_also_where_nothing_is_settled_ahead_and_where_there_is_room() {
        let (log, position) = (LogId::from_halves(7, 9), Position { watermark: 31, ahead: Vec::new() });
        let (text, committed) = encode(&position, log, 64);
        assert_eq!(decode(&text, 31), Text::Ahead(Vec::new(), log));
        assert_eq!(committed, Committed::All);
        assert_eq!(encode(&position, log, 20), (String::new(), Committed::All));
        let position = Position { watermark: 31, ahead: std::iter::once(40..50).collect() };
        let (text, _) = encode(&position, log, 20);
        assert_eq!(decode(&text, 31), Text::Ahead(position.ahead, None), "it says what it has room for");
    }
}
