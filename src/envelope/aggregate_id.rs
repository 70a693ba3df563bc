//! The rule for aggregate ids, one for Envelopes, headers, keys and subjects.

/// Longest aggregate id, in bytes.
pub(crate) const MAX_AGGREGATE_ID_BYTES: usize = 256;

/// Why bytes are no aggregate id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AggregateIdFault {
    #[error("must not be empty")]
    Empty,
    #[error("must not have more than 256 bytes")]
    TooLong,
    /// `at` is the index of the first byte that is not allowed.
    #[error("must consist of A-Z a-z 0-9 : _ - . /")]
    InvalidCharacter { at: usize },
}

/// Whether the bytes are an aggregate id: 1 to 256 bytes of `A-Za-z0-9:_-./`, so never padded.
pub(crate) fn check_aggregate_id(bytes: &[u8]) -> Result<(), AggregateIdFault> {
    if bytes.is_empty() {
        return Err(AggregateIdFault::Empty);
    }
    if bytes.len() > MAX_AGGREGATE_ID_BYTES {
        return Err(AggregateIdFault::TooLong);
    }
    match bytes.iter().position(|&byte| !ALLOWED[usize::from(byte)]) {
        Some(at) => Err(AggregateIdFault::InvalidCharacter { at }),
        None => Ok(()),
    }
}

static ALLOWED: [bool; 256] = {
    let mut allowed = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        allowed[byte] = matches!(
            byte as u8,
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b':' | b'_' | b'-' | b'.' | b'/'
        );
        byte += 1;
    }
    allowed
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_listed_bytes_make_an_aggregate_id() {
        for byte in 0..=255_u8 {
            let listed = byte.is_ascii_alphanumeric() || b":_-./".contains(&byte);
            assert_eq!(check_aggregate_id(&[byte]).is_ok(), listed, "byte {byte:#04x}");
        }
    }

    #[test]
    fn an_aggregate_id_has_1_to_256_bytes() {
        assert_eq!(check_aggregate_id(b""), Err(AggregateIdFault::Empty));
        assert_eq!(check_aggregate_id(&[b'x'; 256]), Ok(()));
        assert_eq!(check_aggregate_id(&[b'x'; 257]), Err(AggregateIdFault::TooLong));
    }

    #[test]
    fn the_first_bad_byte_is_pointed_at() {
        assert_eq!(check_aggregate_id(b" a1 "), Err(AggregateIdFault::InvalidCharacter { at: 0 }));
        assert_eq!(check_aggregate_id("aä".as_bytes()), Err(AggregateIdFault::InvalidCharacter { at: 1 }));
    }
}
