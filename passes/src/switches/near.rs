//! Which of some names a misspelt one was meant to be.

/// Insertions, deletions and replacements between two names.
pub fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// The nearest names, the nearest first; of those that are as near, the first in the alphabet.
pub fn nearest<'n>(name: &str, known: impl IntoIterator<Item = &'n str>, count: usize) -> Vec<&'n str> {
    let mut near: Vec<(usize, &str)> = known.into_iter().map(|k| (distance(name, k), k)).collect();
    near.sort_unstable();
    near.dedup();
    near.into_iter().take(count).map(|(_, k)| k).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_between_names() {
        assert_eq!(distance("node_mean", "node_mean_1"), 2);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "ab"), 2);
        assert_eq!(nearest("ac", ["b", "ab", "aa", "ac_", "ab"], 3), ["aa", "ab", "ac_"]);
    }
}
