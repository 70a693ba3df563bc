//! What a variant is to the reader.

use super::drawing::Ink;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Ours,
    Peer,
    /// What the machine or the client alone can do, without what a pool or a bus is for, where keylane is not ahead.
    Bare,
    /// The same where keylane is ahead of it.
    Passed,
}

impl Kind {
    /// In the order of the legend.
    pub(super) const ALL: [Self; 4] = [Self::Ours, Self::Peer, Self::Bare, Self::Passed];

    pub(super) fn ink(self) -> Ink {
        match self {
            Self::Ours => Ink::Ours,
            Self::Peer => Ink::Peer,
            Self::Bare => Ink::Bare,
            Self::Passed => Ink::Passed,
        }
    }

    /// What the legend says.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Ours => "keylane",
            Self::Peer => "peers",
            Self::Bare => "bare: keylane is not ahead",
            Self::Passed => "bare: keylane is ahead",
        }
    }
}

pub(super) fn is_ours(variant: &str) -> bool {
    variant.starts_with("keylane")
}

fn is_bare(variant: &str) -> bool {
    ["raw", "raw_pinned", "raw_spsc", "raw_mpmc"].contains(&variant) || variant.starts_with("machine")
}

/// The kinds of the variants in a panel. `is_ahead` tells whether the first of two did better there, by their numbers.
pub(super) fn kinds(variants: &[&str], is_ahead: impl Fn(usize, usize) -> bool) -> Vec<Kind> {
    let ours: Vec<usize> = (0..variants.len()).filter(|number| is_ours(variants[*number])).collect();
    let kind = |(number, variant): (usize, &&str)| match variant {
        variant if is_ours(variant) => Kind::Ours,
        variant if !is_bare(variant) => Kind::Peer,
        _ if ours.iter().any(|ours| is_ahead(*ours, number)) => Kind::Passed,
        _ => Kind::Bare,
    };
    variants.iter().enumerate().map(kind).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_bare_is_told_apart_by_whether_keylane_passes_it() {
        let variants = ["raw_spsc", "raw_mpmc", "raw_lanes", "keylane"];
        let per_s = [4, 2, 1, 3];
        let found = kinds(&variants, |one, other| per_s[one] > per_s[other]);
        assert_eq!(found, [Kind::Bare, Kind::Passed, Kind::Peer, Kind::Ours]);
    }
}
