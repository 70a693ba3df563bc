//! Durations as configuration writes them: a whole number and a unit, such as `100ms`.

use std::time::Duration;

/// The units with their nanoseconds, the shortest first.
const UNITS: [(&str, u64); 6] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads `100ms`, `30s`, `5m`: digits, then a unit, nothing else.
///
/// # Errors
/// The words that say what is wrong with the text, to be put behind it.
pub(super) fn parse(text: &str) -> Result<Duration, &'static str> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err("does not start with a whole number");
    }
    if unit.is_empty() {
        return Err("has no unit");
    }
    let Some((_, nanos)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err("has a unit that is not known");
    };
    // 584 years of nanoseconds: no range of a key comes near.
    let total = number.parse::<u64>().ok().and_then(|n| n.checked_mul(*nanos));
    total.map(Duration::from_nanos).ok_or("is too long")
}

/// The duration in the longest unit that leaves no fraction, so that [`parse`] reads it back.
pub(super) fn format(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    let fits = |&&(_, unit): &&(&str, u64)| nanos.is_multiple_of(u128::from(unit));
    let (name, unit) =
        UNITS.iter().rev().find(fits).expect("every duration is a whole number of nanoseconds");
    std::format!("{}{name}", nanos / u128::from(*unit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_unit_is_read() {
        for (text, nanos) in [
            ("7ns", 7),
            ("50us", 50_000),
            ("100ms", 100_000_000),
            ("30s", 30_000_000_000),
            ("5m", 300_000_000_000),
            ("2h", 7_200_000_000_000),
            ("0s", 0),
            ("007s", 7_000_000_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn every_other_form_says_what_is_wrong() {
        for (text, wrong) in [
            ("", "does not start with a whole number"),
            ("s", "does not start with a whole number"),
            ("-1s", "does not start with a whole number"),
            (" 1s", "does not start with a whole number"),
            (".5s", "does not start with a whole number"),
            ("10", "has no unit"),
            ("1.5s", "has a unit that is not known"),
            ("1 s", "has a unit that is not known"),
            ("1S", "has a unit that is not known"),
            ("1m30s", "has a unit that is not known"),
            ("1\u{b5}s", "has a unit that is not known"),
            ("99999999999999999999s", "is too long"),
            ("18446744073709551615s", "is too long"),
        ] {
            assert_eq!(parse(text), Err(wrong), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_duration_is_read_back_from_what_was_written(nanos: u64, unit in 0..UNITS.len()) {
            for nanos in [nanos, nanos - nanos % UNITS[unit].1] {
                let duration = Duration::from_nanos(nanos);
                prop_assert_eq!(parse(&format(duration)), Ok(duration));
            }
        }

        #[test]
        fn no_text_makes_it_panic(text: String) {
            let _ = parse(&text);
        }
    }
}
