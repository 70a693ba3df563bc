//! What the records carry, and how their keys are drawn.

use measure::Random;

/// Keys of every topic and stream.
pub(crate) const KEYS: u64 = 1_000;

/// What a record of the load says about itself, so that whoever handles it can check order and count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Below [`KEYS`].
    pub(crate) key: u64,
    /// Counts the records of the key, from 1.
    pub(crate) seq: u64,
    /// Counts the records of the topic, from 0.
    pub(crate) index: u64,
}

impl Mark {
    /// As it is written: JSON, and found without a parser.
    pub(crate) fn write(self) -> String {
        format!("[{},{},{}]", self.key, self.seq, self.index)
    }

    /// Reads what [`write`](Self::write) wrote, out of what surrounds it.
    ///
    /// # Panics
    /// If there is none: then the record is none of the load.
    #[inline]
    pub(crate) fn read(bytes: &[u8]) -> Self {
        let start = bytes.iter().position(|byte| *byte == b'[').expect("a record of the load has a mark") + 1;
        let mut numbers = bytes[start..].split(|byte| *byte == b',' || *byte == b']').map(|digits| {
            digits.iter().fold(0_u64, |number, digit| number * 10 + u64::from(digit.wrapping_sub(b'0')))
        });
        let mut next = || numbers.next().expect("a mark has three numbers");
        Self { key: next(), seq: next(), index: next() }
    }
}

/// How the keys of the records are drawn; the same each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keys {
    Uniform,
    /// The n-th key comes 1/n as often as the first.
    Zipf,
}

impl Keys {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Zipf => "zipf",
        }
    }

    /// The marks of a topic, in the order in which its records are published.
    pub(crate) fn marks(self, records: u64) -> impl Iterator<Item = Mark> {
        let sums: Vec<f64> = (1..=KEYS)
            .scan(0.0, |sum, n| {
                *sum += match self {
                    Self::Uniform => 1.0,
                    Self::Zipf => 1.0 / n as f64,
                };
                Some(*sum)
            })
            .collect();
        let all = sums[sums.len() - 1];
        let mut random = Random::new(1);
        let mut written = vec![0; KEYS as usize];
        (0..records).map(move |index| {
            let at = random.below(1 << 32) as f64 / (1_u64 << 32) as f64 * all;
            let key = sums.partition_point(|sum| *sum <= at).min(sums.len() - 1);
            written[key] += 1;
            Mark { key: key as u64, seq: written[key], index }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_out_of_what_surrounds_it() {
        let mark = Mark { key: 7, seq: 123, index: 999_999 };
        assert_eq!(Mark::read(format!(r#"{{"at":{},"pad":"x"}}"#, mark.write()).as_bytes()), mark);
        assert_eq!(Mark::read(format!("{}xxx", mark.write()).as_bytes()), mark);
    }

    #[test]
    fn marks_count_each_key_from_one_and_the_first_key_of_zipf_leads() {
        let marks: Vec<Mark> = Keys::Zipf.marks(10_000).collect();
        let hot: Vec<u64> = marks.iter().filter(|mark| mark.key == 0).map(|mark| mark.seq).collect();
        assert!((1_200..1_500).contains(&hot.len()), "{} of 10,000; 1,336 expected", hot.len());
        assert!(hot.iter().copied().eq(1..=hot.len() as u64));
        assert!(Keys::Uniform.marks(10_000).all(|mark| mark.seq < 40));
    }
}
