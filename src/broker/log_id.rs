//! What a log is known by, beyond its name: another one of the same name has another id.

use std::fmt::{self, Write as _};

/// A topic's id (KIP-516), which no other topic of the cluster has or had, and none of another cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LogId(u128);

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// A digit of six bits, in the alphabet of base64url.
pub(super) fn digit(value: u8) -> char {
    char::from(ALPHABET[usize::from(value)])
}

/// How many digits of six bits an id takes; the last has two of them.
pub(crate) const DIGITS: usize = 22;

impl LogId {
    /// Out of its two halves; none: the broker gave the topic no id.
    pub(crate) fn from_halves(most: i64, least: i64) -> Option<Self> {
        let id = u128::from(most.cast_unsigned()) << 64 | u128::from(least.cast_unsigned());
        (id != 0).then_some(Self(id))
    }

    /// Its digits, the first of them the most significant, as base64url has them.
    pub(crate) fn digits(self) -> impl Iterator<Item = u8> {
        let last = ((self.0 & 3) as u8) << 4;
        (0..DIGITS as u32 - 1).map(move |at| (self.0 >> (122 - 6 * at)) as u8 & 0x3f).chain([last])
    }

    /// Reads what [`digits`](Self::digits) gives.
    pub(crate) fn from_digits(digits: [u8; DIGITS]) -> Option<Self> {
        let (last, first) = digits.split_last()?;
        let id = first.iter().fold(0, |id, digit| id << 6 | u128::from(*digit));
        (last.trailing_zeros() >= 4).then_some(Self(id << 2 | u128::from(*last >> 4)))
    }
}

/// As Kafka's tools show it.
impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.digits().try_for_each(|value| f.write_char(digit(value)))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_id_is_read_back_from_its_digits(most in any::<i64>(), least in any::<i64>()) {
            let id = LogId::from_halves(most, least);
            let digits = id.and_then(|id| id.digits().collect::<Vec<_>>().try_into().ok());
            prop_assert_eq!(digits.and_then(LogId::from_digits), id);
        }
    }

    #[test]
    fn an_id_is_shown_as_the_tools_of_kafka_show_it() {
        // 00112233-4455-6677-8899-aabbccddeeff, by `base64`.
        let id = LogId::from_halves(0x0011_2233_4455_6677, 0x8899_aabb_ccdd_eeff_u64.cast_signed()).unwrap();
        assert_eq!(id.to_string(), "ABEiM0RVZneImaq7zN3u_w");
        assert_eq!(LogId::from_halves(0, 0), None, "a broker that knows no ids");
        assert_eq!(LogId::from_digits([1; DIGITS]), None, "the last digit has two bits");
    }
}
