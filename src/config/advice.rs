//! What was probably meant by a word that is not known.

/// Says which of `known` was probably meant by `word`, or what there is.
pub(super) fn advise(word: &str, known: &[&str]) -> String {
    let nearest = known.iter().min_by_key(|candidate| edits(word, candidate));
    match nearest {
        Some(nearest) if edits(word, nearest) <= 1 + word.len() / 4 => {
            format!("did you mean `{nearest}`?")
        }
        _ => format!("known here: `{}`", known.join("`, `")),
    }
}

/// Characters to insert, remove or replace to get from `a` to `b` (Levenshtein).
pub(super) fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.chars().count()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_counts_single_characters() {
        for (a, b, count) in
            [("", "", 0), ("shard", "shards", 1), ("abc", "", 3), ("kitten", "sitting", 3)]
        {
            assert_eq!(edits(a, b), count, "{a} {b}");
        }
    }
}
