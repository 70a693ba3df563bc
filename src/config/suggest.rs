//! What an unknown word may have been meant to be.

/// How many characters of an unknown word are compared: more would only make the comparison slow.
const COMPARED: usize = 128;

/// Edits between two words: insertions, deletions, substitutions and swaps of neighbours, each counted one.
///
/// This is the optimal string alignment distance (Boytsov 2011, "Indexing methods for approximate dictionary
/// searching", section 2.1); only three rows of its matrix are kept.
pub(crate) fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(COMPARED).collect();
    let b: Vec<char> = b.chars().take(COMPARED).collect();
    let (mut before, mut above) = (vec![0; b.len() + 1], (0..=b.len()).collect::<Vec<usize>>());
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let substituted = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = substituted.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::distance;
    use proptest::prelude::*;

    /// The definition, without a matrix.
    fn by_definition(a: &[char], b: &[char]) -> usize {
        match (a, b) {
            ([], rest) | (rest, []) => rest.len(),
            ([a_head @ .., a_last], [b_head @ .., b_last]) => {
                let substituted = by_definition(a_head, b_head) + usize::from(a_last != b_last);
                let edited = by_definition(a_head, b).min(by_definition(a, b_head)) + 1;
                let swapped = match (a_head, b_head) {
                    ([a_rest @ .., a_prior], [b_rest @ .., b_prior])
                        if a_prior == b_last && a_last == b_prior =>
                    {
                        by_definition(a_rest, b_rest) + 1
                    }
                    _ => usize::MAX,
                };
                substituted.min(edited).min(swapped)
            }
        }
    }

    #[test]
    fn each_kind_of_slip_counts_one() {
        for (slip, meant) in
            [("recrds", "records"), ("reccords", "records"), ("rexords", "records"), ("recrods", "records")]
        {
            assert_eq!(distance(slip, meant), 1, "{slip}");
        }
        assert_eq!(distance("records", "records"), 0);
        assert_eq!(distance("", "url"), 3);
    }

    proptest! {
        #[test]
        fn the_distance_is_the_one_of_its_definition(a in "[abc]{0,6}", b in "[abc]{0,6}") {
            let (x, y): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
            prop_assert_eq!(distance(&a, &b), by_definition(&x, &y));
        }
    }
}
