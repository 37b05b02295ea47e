//! The nearest known word.

/// Below this likeness a suggestion would puzzle more than it helps.
const LIKE: f64 = 0.55;

/// Longer texts are no typing mistakes, and comparing them takes the product of both lengths.
const LONGEST: usize = 200;

/// The word among `words` that `text` most likely should have been.
pub(crate) fn word<'a>(text: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if text.len() > LONGEST {
        return None;
    }
    let lower = text.to_lowercase();
    let scored = words.into_iter().filter(|word| word.len() <= LONGEST).map(|word| {
        let likeness = strsim::normalized_damerau_levenshtein(&lower, &word.to_lowercase());
        (last_segment_bonus(&lower, word, likeness), word)
    });
    scored
        .filter(|(score, _)| *score >= LIKE)
        .max_by(|(a, x), (b, y)| a.total_cmp(b).then_with(|| y.cmp(x)))
        .map(|(_, word)| word)
}

/// A key whose last segment is right is most often the right key with its group left out.
fn last_segment_bonus(text: &str, word: &str, likeness: f64) -> f64 {
    let last = |key: &str| key.rsplit('.').next().map(str::to_lowercase);
    if (text.contains('.') || word.contains('.')) && last(text) == last(word) {
        return likeness.max(LIKE) + 0.1;
    }
    likeness
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_found() {
        let words = ["poll.max_options", "poll.title", "log.level"];
        assert_eq!(word("poll.max_option", words), Some("poll.max_options"));
        assert_eq!(word("Poll.Title", words), Some("poll.title"));
        assert_eq!(word("level", words), Some("log.level"));
        assert_eq!(word("logger.level", words), Some("log.level"));
        assert_eq!(word("something_else", words), None);
        assert_eq!(word(&"a".repeat(100_000), words), None);
    }
}
