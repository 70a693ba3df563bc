//! RFC 3339 timestamps, in 16 bytes and back to the same text.
//!
//! The conversion between days and dates is Howard Hinnant's (`days_from_civil`, `civil_from_days`).

use crate::chance;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Unix seconds of `0000-01-01T00:00:00Z`.
const FIRST_SECOND: i64 = -62_167_219_200;
/// Unix seconds of `9999-12-31T23:59:59Z`.
const LAST_SECOND: i64 = 253_402_300_799;

/// A point in time as RFC 3339 writes it, kept so that it prints as exactly the text that it was read from.
///
/// Read are `YYYY-MM-DDThh:mm:ss`, an optional fraction of 1 to 9 digits after a point, and `Z` or an offset from
/// `-23:59` to `+23:59`, with upper-case `T` and `Z`, a date that exists, and seconds from 00 to 59. A tenth digit is
/// refused rather than cut off, because readers that cut, round or refuse it would disagree about the time; a leap
/// second is refused because Unix time has no place for it.
///
/// Two timestamps are equal when their text is: `08:00:00Z` and `08:00:00.0Z` are not, though their
/// [`unix_seconds`](Self::unix_seconds) are.
///
/// ```
/// use keylane::Timestamp;
///
/// let at: Timestamp = "2025-10-31T08:00:00.12+08:00".parse()?;
/// assert_eq!(at.unix_seconds(), 1_761_868_800);
/// assert_eq!(at.subsec_nanos(), 120_000_000);
/// assert_eq!(at.to_string(), "2025-10-31T08:00:00.12+08:00");
/// # Ok::<(), keylane::TimestampError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Timestamp {
    unix_seconds: i64,
    nanos: u32,
    zone: Zone,
    /// How many digits the fraction is written with, 0 to 9.
    fraction_digits: u8,
}

/// Minutes east of Greenwich, or one of two spellings of zero that are not a number of minutes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Zone(i16);

impl Zone {
    const Z: Self = Self(i16::MAX);
    /// `-00:00`: the time is UTC and the local offset is unknown (RFC 3339, 4.3).
    const UNKNOWN: Self = Self(i16::MIN);

    fn offset_seconds(self) -> i64 {
        if self == Self::Z || self == Self::UNKNOWN { 0 } else { i64::from(self.0) * 60 }
    }
}

impl Timestamp {
    /// `1970-01-01T00:00:00Z`.
    pub const UNIX_EPOCH: Self = Self { unix_seconds: 0, nanos: 0, zone: Zone::Z, fraction_digits: 0 };

    /// The time by the clock of this machine, in UTC with nine digits.
    ///
    /// A clock outside the years 0 to 9999 reads as the nearest end of that range.
    pub fn now() -> Self {
        let (unix_seconds, nanos) = since_epoch(chance::wall_time());
        Self {
            unix_seconds: unix_seconds.clamp(FIRST_SECOND, LAST_SECOND),
            nanos,
            zone: Zone::Z,
            fraction_digits: 9,
        }
    }

    /// The seconds since 1970-01-01T00:00:00Z, leap seconds not counted; negative before.
    pub fn unix_seconds(&self) -> i64 {
        self.unix_seconds
    }

    /// The nanoseconds past [`unix_seconds`](Self::unix_seconds), 0 to 999,999,999, also before 1970.
    pub fn subsec_nanos(&self) -> u32 {
        self.nanos
    }

    /// The same time for the standard library; `None` where the platform's clock does not reach that far.
    pub fn to_system_time(&self) -> Option<SystemTime> {
        let whole = Duration::from_secs(self.unix_seconds.unsigned_abs());
        let second = if self.unix_seconds < 0 {
            UNIX_EPOCH.checked_sub(whole)?
        } else {
            UNIX_EPOCH.checked_add(whole)?
        };
        second.checked_add(Duration::from_nanos(self.nanos.into()))
    }
}

/// Floors, so that the nanoseconds count upwards also before 1970.
fn since_epoch(time: SystemTime) -> (i64, u32) {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (i64::try_from(after.as_secs()).unwrap_or(i64::MAX), after.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            let seconds = i64::try_from(before.as_secs()).map_or(i64::MIN, |seconds| -seconds);
            match before.subsec_nanos() {
                0 => (seconds, 0),
                nanos => (seconds.saturating_sub(1), 1_000_000_000 - nanos),
            }
        }
    }
}

/// In UTC with nine digits.
///
/// # Errors
/// The time is outside the years 0 to 9999.
impl TryFrom<SystemTime> for Timestamp {
    type Error = TimestampError;

    fn try_from(time: SystemTime) -> Result<Self, TimestampError> {
        let (unix_seconds, nanos) = since_epoch(time);
        if !(FIRST_SECOND..=LAST_SECOND).contains(&unix_seconds) {
            return Err(TimestampError { rule: "must be in the years 0000 to 9999", offset: 0 });
        }
        Ok(Self { unix_seconds, nanos, zone: Zone::Z, fraction_digits: 9 })
    }
}

/// Text that is no [`Timestamp`].
///
/// ```
/// let error = "2025-02-29T08:00:00Z".parse::<keylane::Timestamp>().unwrap_err();
/// assert!(error.to_string().ends_with("(byte 8)"), "{error}");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a timestamp {rule} (byte {offset})")]
pub struct TimestampError {
    pub(super) rule: &'static str,
    pub(super) offset: usize,
}

impl TimestampError {
    /// The byte of the text at which the rule is broken, counted from 0.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// The rule that was broken, in words.
    pub fn rule(&self) -> &'static str {
        self.rule
    }
}

impl FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(text: &str) -> Result<Self, TimestampError> {
        let bytes = text.as_bytes();
        // What no rule is broken by needs nobody to say which.
        match usual(bytes) {
            Some(timestamp) => Ok(timestamp),
            None => Self::by_rule(bytes),
        }
    }
}

/// A timestamp in UTC as nearly all are written, `YYYY-MM-DDThh:mm:ss[.f]Z`; none: it is another one, or none.
fn usual(bytes: &[u8]) -> Option<Timestamp> {
    let head: &[u8; 19] = bytes.first_chunk()?;
    let is_in_place = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    let is_laid_out = is_in_place.iter().all(|(at, separator)| head[*at] == *separator);
    let digit = |at: usize| u32::from(head[at].wrapping_sub(b'0'));
    let two = |at: usize| digit(at) * 10 + digit(at + 1);
    let at_digits = [0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18];
    let are_digits = at_digits.iter().all(|at| digit(*at) < 10);
    if !is_laid_out || !are_digits {
        return None;
    }
    let (year, month, day) = (two(0) * 100 + two(2), two(5), two(8));
    let (hour, minute, second) = (two(11), two(14), two(17));
    let is_in_range = (1..=12).contains(&month) && day > 0 && hour < 24 && minute < 60 && second < 60;
    if !is_in_range || day > days_in_month(year, month) {
        return None;
    }
    let (nanos, fraction_digits) = match &bytes[19..] {
        [b'Z'] => (0, 0),
        [b'.', fraction @ .., b'Z']
            if (1..=9).contains(&fraction.len()) && fraction.iter().all(u8::is_ascii_digit) =>
        {
            let value = fraction.iter().fold(0, |value, digit| value * 10 + u32::from(digit - b'0'));
            (value * POWERS_OF_TEN[9 - fraction.len()], fraction.len() as u8)
        }
        _ => return None,
    };
    let unix_seconds = days_from_civil(i64::from(year), month, day) * 86_400
        + i64::from(hour * 3_600 + minute * 60 + second);
    Some(Timestamp { unix_seconds, nanos, zone: Zone::Z, fraction_digits })
}

const POWERS_OF_TEN: [u32; 9] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];

impl Timestamp {
    /// Reads one part after the other, and says which rule the first one that is wrong breaks.
    fn by_rule(bytes: &[u8]) -> Result<Self, TimestampError> {
        let date = digits(bytes, 0, 4).and_then(|year| {
            separator(bytes, 4, b'-')?;
            let month = digits(bytes, 5, 2)?;
            separator(bytes, 7, b'-')?;
            Ok((year, month, digits(bytes, 8, 2)?))
        });
        let (year, month, day) = date?;
        if !(1..=12).contains(&month) {
            return Err(TimestampError { rule: "must have a month from 01 to 12", offset: 5 });
        }
        if day == 0 || day > days_in_month(year, month) {
            return Err(TimestampError { rule: "must have a day that its month has", offset: 8 });
        }
        separator(bytes, 10, b'T')?;
        let hour = in_range(bytes, 11, 23, "must have an hour from 00 to 23")?;
        separator(bytes, 13, b':')?;
        let minute = in_range(bytes, 14, 59, "must have a minute from 00 to 59")?;
        separator(bytes, 16, b':')?;
        let second = in_range(bytes, 17, 59, "must have a second from 00 to 59 (no leap second)")?;

        let (nanos, fraction_digits) = fraction(bytes, 19)?;
        let zone_at = if fraction_digits == 0 { 19 } else { 20 + usize::from(fraction_digits) };
        let (zone, end) = zone(bytes, zone_at)?;
        if end != bytes.len() {
            return Err(TimestampError { rule: "must end after its offset", offset: end });
        }

        let local = days_from_civil(i64::from(year), month, day) * 86_400
            + i64::from(hour * 3_600 + minute * 60 + second);
        Ok(Self { unix_seconds: local - zone.offset_seconds(), nanos, zone, fraction_digits })
    }
}

fn separator(bytes: &[u8], at: usize, expected: u8) -> Result<(), TimestampError> {
    if bytes.get(at) == Some(&expected) {
        return Ok(());
    }
    let rule = match expected {
        b'T' => "must have an upper-case T between date and time",
        b'-' => "must have its date as YYYY-MM-DD",
        _ => "must have its time as hh:mm:ss",
    };
    Err(TimestampError { rule, offset: at })
}

fn digits(bytes: &[u8], at: usize, count: usize) -> Result<u32, TimestampError> {
    let mut value = 0;
    for index in at..at + count {
        match bytes.get(index) {
            Some(digit @ b'0'..=b'9') => value = value * 10 + u32::from(digit - b'0'),
            _ => return Err(TimestampError { rule: "must have a digit here", offset: index }),
        }
    }
    Ok(value)
}

fn in_range(bytes: &[u8], at: usize, last: u32, rule: &'static str) -> Result<u32, TimestampError> {
    let value = digits(bytes, at, 2)?;
    if value > last { Err(TimestampError { rule, offset: at }) } else { Ok(value) }
}

/// The nanoseconds of the fraction that starts at `at`, if one does, and its number of digits.
fn fraction(bytes: &[u8], at: usize) -> Result<(u32, u8), TimestampError> {
    match bytes.get(at) {
        Some(b'.') => {}
        Some(b',') => {
            return Err(TimestampError {
                rule: "must have a point before its fraction, no comma",
                offset: at,
            });
        }
        _ => return Ok((0, 0)),
    }
    let mut nanos = 0;
    let mut count = 0;
    while let Some(digit @ b'0'..=b'9') = bytes.get(at + 1 + count) {
        if count == 9 {
            break;
        }
        nanos = nanos * 10 + u32::from(digit - b'0');
        count += 1;
    }
    let has_more = bytes.get(at + 1 + count).is_some_and(u8::is_ascii_digit);
    if count == 0 || has_more {
        let rule = "must have 1 to 9 digits in its fraction";
        return Err(TimestampError { rule, offset: at + 1 + count });
    }
    Ok((nanos * 10_u32.pow(9 - count as u32), count as u8))
}

/// The zone that starts at `at`, and the byte behind it.
fn zone(bytes: &[u8], at: usize) -> Result<(Zone, usize), TimestampError> {
    let behind = match bytes.get(at) {
        Some(b'Z') => return Ok((Zone::Z, at + 1)),
        Some(b'+') => false,
        Some(b'-') => true,
        _ => return Err(TimestampError { rule: "must end in an upper-case Z or an offset", offset: at }),
    };
    let hours = in_range(bytes, at + 1, 23, "must have an offset from -23:59 to +23:59")?;
    separator(bytes, at + 3, b':')?;
    let minutes = in_range(bytes, at + 4, 59, "must have an offset from -23:59 to +23:59")?;
    let east = (hours * 60 + minutes) as i16;
    let zone = match (behind, east) {
        (true, 0) => Zone::UNKNOWN,
        (true, _) => Zone(-east),
        (false, _) => Zone(east),
    };
    Ok((zone, at + 6))
}

impl Timestamp {
    /// The longest text: nine digits and an offset.
    pub(super) const MAX_BYTES: usize = "0000-00-00T00:00:00.000000000+00:00".len();

    /// The text, at the start of `buffer`. By hand, because `write!` takes longer than all else in a record.
    pub(super) fn text(self, buffer: &mut [u8; Self::MAX_BYTES]) -> &[u8] {
        fn number(buffer: &mut [u8], mut value: u32) {
            for digit in buffer.iter_mut().rev() {
                *digit = b'0' + (value % 10) as u8;
                value /= 10;
            }
        }
        let local = self.unix_seconds + self.zone.offset_seconds();
        let (year, month, day) = civil_from_days(local.div_euclid(86_400));
        let second = local.rem_euclid(86_400) as u32;
        *buffer = *b"0000-00-00T00:00:00.000000000+00:00";
        number(&mut buffer[..4], year as u32);
        number(&mut buffer[5..7], month as u32);
        number(&mut buffer[8..10], day as u32);
        number(&mut buffer[11..13], second / 3_600);
        number(&mut buffer[14..16], second / 60 % 60);
        number(&mut buffer[17..19], second % 60);
        let mut end = 19;
        if self.fraction_digits > 0 {
            number(&mut buffer[20..29], self.nanos);
            end = 20 + usize::from(self.fraction_digits);
        }
        if self.zone == Zone::Z {
            buffer[end] = b'Z';
            end += 1;
        } else {
            let behind = self.zone.0 < 0;
            let minutes = if self.zone == Zone::UNKNOWN { 0 } else { u32::from(self.zone.0.unsigned_abs()) };
            buffer[end] = if behind { b'-' } else { b'+' };
            number(&mut buffer[end + 1..end + 3], minutes / 60);
            buffer[end + 3] = b':';
            number(&mut buffer[end + 4..end + 6], minutes % 60);
            end += 6;
        }
        &buffer[..end]
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut buffer = [0; Self::MAX_BYTES];
        f.pad(std::str::from_utf8(self.text(&mut buffer)).expect("digits and punctuation are ASCII"))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Timestamp({self})")
    }
}

fn days_in_month(year: u32, month: u32) -> u32 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a date in the Gregorian calendar, also before its start.
fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    // Years start in March here, so that the leap day is the last of its year.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = i64::from((153 * ((month + 9) % 12) + 2) / 5 + day - 1);
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_day_of_ten_thousand_years_is_the_one_after_the_day_before() {
        let mut expected = FIRST_SECOND / 86_400;
        for year in 0..=9_999 {
            for month in 1..=12 {
                for day in 1..=days_in_month(year, month) {
                    assert_eq!(days_from_civil(year.into(), month, day), expected);
                    let date = (i64::from(year), i64::from(month), i64::from(day));
                    assert_eq!(civil_from_days(expected), date);
                    expected += 1;
                }
            }
        }
        assert_eq!(expected * 86_400, LAST_SECOND + 1);
    }

    #[test]
    fn known_times_have_their_unix_seconds() {
        for (text, seconds, nanos) in [
            ("1970-01-01T00:00:00Z", 0, 0),
            ("0000-01-01T00:00:00Z", FIRST_SECOND, 0),
            ("0001-01-01T00:00:00Z", -62_135_596_800, 0),
            ("9999-12-31T23:59:59Z", LAST_SECOND, 0),
            ("2024-02-29T23:59:59.999999999-03:30", 1_709_263_799, 999_999_999),
            ("2000-02-29T00:00:00.5-00:00", 951_782_400, 500_000_000),
            ("1969-12-31T23:59:59.75+23:59", -86_341, 750_000_000),
        ] {
            let parsed: Timestamp = text.parse().unwrap();
            assert_eq!((parsed.unix_seconds(), parsed.subsec_nanos()), (seconds, nanos), "{text}");
            assert_eq!(parsed.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_timestamp_is_refused_at_its_byte() {
        for (text, offset) in [
            ("", 0),
            ("2025-10-31", 10),
            ("2025-10-31 08:00:00", 10),
            ("2025-10-31t08:00:00Z", 10),
            ("2025-10-31T08:00:00z", 19),
            ("2025-10-31T08:00:00", 19),
            ("2025-10-31T08:00:00,5Z", 19),
            ("2025-10-31T08:00:00.Z", 20),
            ("2025-10-31T08:00:00.1234567891Z", 29),
            ("2016-12-31T23:59:60Z", 17),
            ("2025-02-29T08:00:00Z", 8),
            ("1900-02-29T08:00:00Z", 8),
            ("2025-04-31T08:00:00Z", 8),
            ("2025-01-00T08:00:00Z", 8),
            ("2025-13-01T08:00:00Z", 5),
            ("2025-00-01T08:00:00Z", 5),
            ("2025-10-31T24:00:00Z", 11),
            ("2025-10-31T08:60:00Z", 14),
            ("2025-10-31T08:00:00+24:00", 20),
            ("2025-10-31T08:00:00+08:60", 23),
            ("2025-10-31T08:00:00+0800", 22),
            ("2025-10-31T08:00:00+08", 22),
            ("2025-10-31T08:00:00ZZ", 20),
            ("2025-10-31T08:00:00Z ", 20),
            (" 2025-10-31T08:00:00Z", 0),
            ("25-10-31T08:00:00Z", 2),
            ("+025-10-31T08:00:00Z", 0),
            ("2025-10-31T8:00:00Z", 12),
            ("２025-10-31T08:00:00Z", 0),
        ] {
            let refused = text.parse::<Timestamp>().expect_err(text);
            assert_eq!(refused.offset(), offset, "{text}: {refused}");
        }
    }

    #[test]
    fn a_system_time_survives_the_way_there_and_back() {
        let times = [
            UNIX_EPOCH,
            UNIX_EPOCH + Duration::new(1_761_897_600, 1),
            UNIX_EPOCH - Duration::new(5, 999_999_999),
            UNIX_EPOCH - Duration::new(5, 0),
        ];
        for time in times {
            let timestamp = Timestamp::try_from(time).unwrap();
            assert_eq!(timestamp.to_system_time(), Some(time));
            assert_eq!(timestamp.to_string().parse(), Ok(timestamp));
        }
        let too_late = UNIX_EPOCH + Duration::from_secs(LAST_SECOND as u64 + 1);
        assert!(Timestamp::try_from(too_late).is_err());
    }

    #[test]
    fn a_timestamp_has_16_bytes() {
        assert_eq!(size_of::<Timestamp>(), 16);
    }

    proptest! {
        #[test]
        fn every_accepted_text_prints_as_itself(
            text in r"[0-9]{3}[0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?(Z|[+-][0-2][0-9]:[0-5][0-9])"
        ) {
            if let Ok(parsed) = text.parse::<Timestamp>() {
                prop_assert_eq!(parsed.to_string(), text);
            }
        }

        #[test]
        fn the_short_way_reads_what_the_rules_read(
            text in r"[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9](\.[0-9]{0,10})?(Z|\+08:00)?",
            at in any::<prop::sample::Index>(),
            byte in prop::option::of(prop::sample::select(&b"0-:TZ.x/\xff"[..])),
        ) {
            let mut bytes = text.into_bytes();
            if let Some(byte) = byte {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let by_rule = Timestamp::by_rule(&bytes).ok();
            prop_assert_eq!(usual(&bytes), by_rule.filter(|timestamp| timestamp.zone == Zone::Z));
        }
    }
}
