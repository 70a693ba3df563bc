//! Keys that are drawn at random, the same in each run.

/// How often each key is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shares {
    /// All the same.
    Uniform,
    /// Zipf's law with exponent 1: the n-th key comes 1/n times as often as the first.
    Zipf,
}

/// Draws one of the keys `0..keys` at each call.
pub fn keys(shares: Shares, keys: usize) -> impl FnMut() -> usize {
    let mut sums = Vec::with_capacity(keys);
    let mut sum = 0.0;
    for n in 1..=keys {
        sum += match shares {
            Shares::Uniform => 1.0,
            Shares::Zipf => 1.0 / n as f64,
        };
        sums.push(sum);
    }
    let mut random = fastrand::Rng::with_seed(1);
    move || {
        let at = random.f64() * sum;
        sums.partition_point(|upper| *upper < at).min(keys - 1)
    }
}
