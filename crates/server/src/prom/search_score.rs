//! How well a name fits what somebody types: Prometheus' two measures, from 0 (not at all) to 1.
//!
//! Pure functions over characters. Cost: the product of both lengths at worst, which the callers bound.

/// Which measure.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Fuzzy {
    /// The letters come in order, with others between them.
    #[default]
    Subsequence,
    /// It holds the text, or is as good as the same by Jaro and Winkler.
    JaroWinkler,
}

impl Fuzzy {
    /// The words of the API.
    pub const WORDS: [(&'static str, Fuzzy); 2] =
        [("subsequence", Fuzzy::Subsequence), ("jarowinkler", Fuzzy::JaroWinkler)];
}

/// One text that is looked for.
#[derive(Clone, Debug)]
pub struct Term {
    text: String,
    chars: Vec<char>,
    fuzzy: Fuzzy,
    /// What is below is no hit; 0 takes every subsequence, and no text that is only alike.
    threshold: f64,
}

impl Term {
    /// **Takes** the text, in small letters where case does not matter.
    pub fn new(text: &str, fuzzy: Fuzzy, threshold: f64) -> Term {
        Term { text: text.to_owned(), chars: text.chars().collect(), fuzzy, threshold }
    }

    /// Gives the score of a candidate; `None` when it is no hit.
    pub fn score(&self, candidate: &str) -> Option<f64> {
        if candidate.starts_with(&self.text) {
            return Some(1.0);
        }
        let score = match self.fuzzy {
            Fuzzy::Subsequence => Some(self.spread(candidate)).filter(|score| *score > 0.0),
            Fuzzy::JaroWinkler => match candidate.find(&self.text) {
                Some(at) => return Some(self.position(candidate, at)),
                None => Some(self.likeness(candidate)).filter(|_| self.threshold > 0.0),
            },
        };
        score.filter(|score| *score >= self.threshold)
    }

    /// The earlier it stands, the better: from 1 down to 0.1.
    fn position(&self, candidate: &str, at: usize) -> f64 {
        let before = candidate[..at].chars().count() as f64;
        let last = candidate.chars().count().saturating_sub(self.chars.len()).max(1) as f64;
        1.0 - 0.9 * before / last
    }

    fn spread(&self, candidate: &str) -> f64 {
        if self.text.len() > candidate.len() {
            return 0.0;
        }
        match self.text.is_ascii() && candidate.is_ascii() {
            true => subsequence(self.text.as_bytes(), candidate.as_bytes()),
            false => subsequence(&self.chars, &candidate.chars().collect::<Vec<_>>()),
        }
    }

    fn likeness(&self, candidate: &str) -> f64 {
        match self.text.is_ascii() && candidate.is_ascii() {
            true => jaro_winkler(self.text.as_bytes(), candidate.as_bytes()),
            false => jaro_winkler(&self.chars, &candidate.chars().collect::<Vec<_>>()),
        }
    }
}

/// Rewards letters that stand together and punishes those between and around them: the squares of the runs' lengths, less each gap's
/// share of the text (half of it behind the last run), over the square of the pattern's length. The best of all places to begin.
fn subsequence<T: PartialEq>(pattern: &[T], text: &[T]) -> f64 {
    let Some(first) = pattern.first() else { return 1.0 };
    let Some(last_start) = text.len().checked_sub(pattern.len()) else { return 0.0 };
    let mut best = -1.0f64;
    for start in (0..=last_start).filter(|start| text[*start] == *first) {
        match runs_from(pattern, text, start) {
            Some(score) => best = best.max(score),
            // What cannot be completed from here cannot from further on.
            None => break,
        }
    }
    if best < 0.0 { 0.0 } else { best / (pattern.len() * pattern.len()) as f64 }
}

/// Takes the letters from the first place on where each can be had.
fn runs_from<T: PartialEq>(pattern: &[T], text: &[T], start: usize) -> Option<f64> {
    let share = 1.0 / text.len() as f64;
    let (mut score, mut taken, mut at, mut gap_from) = (0.0, 0, start, 0);
    while taken < pattern.len() {
        at += text[at..].iter().position(|letter| *letter == pattern[taken])?;
        let run = text[at..].iter().zip(&pattern[taken..]).take_while(|(a, b)| a == b).count();
        score += (run * run) as f64 - (at - gap_from) as f64 * share;
        taken += run;
        at += run;
        gap_from = at;
    }
    Some(score - (text.len() - gap_from) as f64 * share * 0.5)
}

/// Jaro's similarity, with Winkler's bonus for up to four equal letters at the beginning.
fn jaro_winkler<T: PartialEq>(a: &[T], b: &[T]) -> f64 {
    let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    if short.is_empty() {
        return if long.is_empty() { 1.0 } else { 0.0 };
    }
    let reach = (long.len() / 2).saturating_sub(1);
    let mut used = vec![false; long.len()];
    let mut paired: Vec<&T> = Vec::with_capacity(short.len());
    for (at, letter) in short.iter().enumerate() {
        let near = at.saturating_sub(reach)..(at + reach + 1).min(long.len());
        if let Some(place) = near.into_iter().find(|place| !used[*place] && long[*place] == *letter) {
            used[place] = true;
            paired.push(letter);
        }
    }
    if paired.is_empty() {
        return 0.0;
    }
    let in_long = long.iter().zip(&used).filter(|(_, used)| **used).map(|(letter, _)| letter);
    let crossed = paired.iter().zip(in_long).filter(|(a, b)| **a != *b).count() as f64;
    let pairs = paired.len() as f64;
    let jaro = (pairs / short.len() as f64 + pairs / long.len() as f64 + (pairs - crossed * 0.5) / pairs) / 3.0;
    let prefix = short.iter().zip(long).take(4).take_while(|(a, b)| a == b).count() as f64;
    jaro + prefix * 0.1 * (1.0 - jaro)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    #[test]
    fn subsequences_score_as_in_prometheus() {
        let known = [
            ("", "anything", 1.0),
            ("my awesome text", "my awesome text", 1.0),
            ("my", "my awesome text", 107.0 / 120.0),
            ("tex", "my awesome text", 247.0 / 270.0),
            ("met", "my awesome text", 43.0 / 90.0),
            ("bac", "babac", 43.0 / 45.0),
            ("oa", "goat", 29.0 / 32.0),
            ("abaa", "abbaa", 39.0 / 80.0),
            ("pro", "prometheus", 173.0 / 180.0),
            ("éà", "éàü", 23.0 / 24.0),
            ("éü", "éàü", 5.0 / 12.0),
            ("aé", "aéb", 23.0 / 24.0),
            ("abc", "", 0.0),
            ("abcd", "abc", 0.0),
            ("xyz", "abc", 0.0),
            ("éàx", "éàü", 0.0),
            ("é", "ã", 0.0),
        ];
        for (pattern, text, expected) in known {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            let score = subsequence(&chars(pattern), &chars(text));
            assert!(near(score, expected), "{pattern} in {text}: {score}, not {expected}");
            if pattern.is_ascii() && text.is_ascii() {
                assert!(near(subsequence(pattern.as_bytes(), text.as_bytes()), expected), "{pattern} in {text}");
            }
        }
    }

    #[test]
    fn likeness_is_that_of_jaro_and_winkler() {
        for (a, b, expected) in [
            ("martha", "marhta", 0.961_111_111),
            ("dwayne", "duane", 0.84),
            ("dixon", "dicksonx", 0.813_333_333),
            ("abc", "xyz", 0.0),
            ("", "", 1.0),
            ("", "a", 0.0),
        ] {
            let score = jaro_winkler(a.as_bytes(), b.as_bytes());
            assert!(near(score, expected), "{a} {b}: {score}");
            assert!(near(jaro_winkler(b.as_bytes(), a.as_bytes()), expected), "{b} {a}");
        }
    }

    #[test]
    fn what_is_a_hit_depends_on_measure_and_threshold() {
        let score = |text: &str, fuzzy, threshold, candidate: &str| Term::new(text, fuzzy, threshold).score(candidate);
        use Fuzzy::{JaroWinkler, Subsequence};
        assert_eq!(score("http", Subsequence, 1.0, "http_requests_total"), Some(1.0), "a prefix is whole");
        assert!(score("hrt", Subsequence, 0.0, "http_requests_total").is_some());
        assert_eq!(score("hrt", Subsequence, 0.9, "http_requests_total"), None);
        assert_eq!(score("zz", Subsequence, 0.0, "http_requests_total"), None);
        assert_eq!(score("requests", JaroWinkler, 0.0, "http_requests"), Some(1.0 - 0.9));
        assert_eq!(score("reqests", JaroWinkler, 0.0, "requests"), None, "at 0 nothing is only alike");
        assert!(score("reqests", JaroWinkler, 0.9, "requests").is_some());
    }

    proptest! {
        #[test]
        fn scores_are_shares_and_letters_in_order_are_found(
            text in "[a-cé_]{1,30}", picks in prop::collection::vec(any::<bool>(), 30), other in "[a-cé_]{1,8}",
        ) {
            let picked: String = text.chars().zip(picks).filter(|(_, pick)| *pick).map(|(c, _)| c).collect();
            for fuzzy in [Fuzzy::Subsequence, Fuzzy::JaroWinkler] {
                for pattern in [&picked, &other] {
                    let score = Term::new(pattern, fuzzy, 0.01).score(&text);
                    prop_assert!(score.is_none_or(|s| (0.01..=1.0).contains(&s)), "{pattern} in {text}: {score:?}");
                }
            }
            let (text, picked): (Vec<char>, Vec<char>) = (text.chars().collect(), picked.chars().collect());
            let mut rest = text.iter();
            let in_order = picked.iter().all(|c| rest.any(|d| c == d));
            prop_assert!(in_order);
            // Gaps weigh at most as much as the text is long, which no match of letters alone outweighs.
            prop_assert!(subsequence(&picked, &text) > 0.0 || picked.len() == 1, "{picked:?} {text:?}");
        }
    }
}
