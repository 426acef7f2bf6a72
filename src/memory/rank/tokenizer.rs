//! Makes search terms of the words of a text: words are reduced to their stems, pairs of characters
//! and emoji stay as they are.
//!
//! Stemming is Snowball's (<https://snowballstem.org/algorithms/>), with the algorithm chosen by
//! the script of a word. Messages and questions are split by the same rules, so even a stemmer of
//! the wrong language finds a word in the same form.

use crate::domain::tokenizer::{IndexWord, for_each_segment};
use rust_stemmers::{Algorithm, Stemmer};
use std::borrow::Cow;

pub(super) struct TermTokenizer {
    english: Stemmer,
    russian: Stemmer,
    greek: Stemmer,
    arabic: Stemmer,
}

impl Default for TermTokenizer {
    fn default() -> Self {
        Self {
            english: Stemmer::create(Algorithm::English),
            russian: Stemmer::create(Algorithm::Russian),
            greek: Stemmer::create(Algorithm::Greek),
            arabic: Stemmer::create(Algorithm::Arabic),
        }
    }
}

impl TermTokenizer {
    /// Calls `emit` with each term of the text, in order, and the word that it was made of.
    pub(super) fn for_each_term(&self, text: &str, mut emit: impl FnMut(&str, IndexWord<'_>)) {
        for_each_word(text, |word| {
            let stem = match word {
                IndexWord::Word(word) => self.stem_word(word),
                _ => Cow::Borrowed(word.as_str()),
            };
            if !stem.is_empty() {
                emit(&stem, word);
            }
        });
    }

    /// Chooses the stemmer by the first letter: Latin, Greek, Cyrillic or Arabic. Words of other
    /// scripts stay as they are.
    fn stem_word<'a>(&self, word: &'a str) -> Cow<'a, str> {
        let stemmer = match word.chars().next().map_or(0, u32::from) {
            0x61..=0x7a => {
                if let Some(base) = find_irregular_stem(word) {
                    return Cow::Borrowed(base);
                }
                &self.english
            }
            0x00c0..=0x024f => &self.english,
            0x0370..=0x03ff => &self.greek,
            0x0400..=0x04ff => &self.russian,
            0x0600..=0x06ff => &self.arabic,
            _ => return Cow::Borrowed(word),
        };
        stemmer.stem(word)
    }
}

/// Calls `emit` with each word of the text, in order and before stemming. Ends of runs are not
/// among them: a single character is found by the pairs that contain it.
pub(super) fn for_each_word(text: &str, mut emit: impl FnMut(IndexWord<'_>)) {
    for_each_segment(text, |segment| {
        segment.for_each_index_word(|word| {
            if !matches!(word, IndexWord::RunEnd(_)) {
                emit(word);
            }
        });
    });
}

/// The stem of an irregular English form, which the stemmer does not reduce to its base.
fn find_irregular_stem(word: &str) -> Option<&'static str> {
    let at = IRREGULAR_FORMS.binary_search_by_key(&word, |(form, _)| form).ok()?;
    Some(IRREGULAR_FORMS[at].1)
}

/// Irregular English forms and the stems of their bases, sorted by form. Source: common entries of
/// <https://en.wiktionary.org/wiki/Appendix:English_irregular_verbs>.
const IRREGULAR_FORMS: &[(&str, &str)] = &[
    ("ate", "eat"),
    ("beaten", "beat"),
    ("became", "becom"),
    ("began", "begin"),
    ("begun", "begin"),
    ("bent", "bend"),
    ("better", "good"),
    ("bit", "bite"),
    ("bitten", "bite"),
    ("blew", "blow"),
    ("blown", "blow"),
    ("bought", "buy"),
    ("broke", "break"),
    ("broken", "break"),
    ("brought", "bring"),
    ("built", "build"),
    ("burnt", "burn"),
    ("came", "come"),
    ("caught", "catch"),
    ("children", "child"),
    ("chose", "choos"),
    ("chosen", "choos"),
    ("dealt", "deal"),
    ("drank", "drink"),
    ("drawn", "draw"),
    ("dreamt", "dream"),
    ("drew", "draw"),
    ("driven", "drive"),
    ("drove", "drive"),
    ("drunk", "drink"),
    ("eaten", "eat"),
    ("fallen", "fall"),
    ("fed", "feed"),
    ("feet", "foot"),
    ("fell", "fall"),
    ("felt", "feel"),
    ("flew", "fli"),
    ("flown", "fli"),
    ("forgot", "forget"),
    ("forgotten", "forget"),
    ("fought", "fight"),
    ("found", "find"),
    ("froze", "freez"),
    ("frozen", "freez"),
    ("gave", "give"),
    ("given", "give"),
    ("gone", "go"),
    ("got", "get"),
    ("gotten", "get"),
    ("grew", "grow"),
    ("grown", "grow"),
    ("heard", "hear"),
    ("held", "hold"),
    ("hid", "hide"),
    ("hidden", "hide"),
    ("hung", "hang"),
    ("kept", "keep"),
    ("knew", "know"),
    ("known", "know"),
    ("laid", "lay"),
    ("learnt", "learn"),
    ("led", "lead"),
    ("left", "leav"),
    ("lent", "lend"),
    ("lost", "lose"),
    ("made", "make"),
    ("meant", "mean"),
    ("men", "man"),
    ("met", "meet"),
    ("mice", "mous"),
    ("paid", "pay"),
    ("people", "person"),
    ("ran", "run"),
    ("rang", "ring"),
    ("ridden", "ride"),
    ("risen", "rise"),
    ("rode", "ride"),
    ("rose", "rise"),
    ("said", "say"),
    ("sang", "sing"),
    ("sat", "sit"),
    ("saw", "see"),
    ("seen", "see"),
    ("sent", "send"),
    ("shook", "shake"),
    ("shot", "shoot"),
    ("shown", "show"),
    ("slept", "sleep"),
    ("sold", "sell"),
    ("sought", "seek"),
    ("spent", "spend"),
    ("spoke", "speak"),
    ("spoken", "speak"),
    ("stole", "steal"),
    ("stolen", "steal"),
    ("stood", "stand"),
    ("struck", "strike"),
    ("stuck", "stick"),
    ("sung", "sing"),
    ("swam", "swim"),
    ("swept", "sweep"),
    ("swum", "swim"),
    ("taken", "take"),
    ("taught", "teach"),
    ("teeth", "tooth"),
    ("thought", "think"),
    ("threw", "throw"),
    ("thrown", "throw"),
    ("told", "tell"),
    ("took", "take"),
    ("tore", "tear"),
    ("torn", "tear"),
    ("understood", "understand"),
    ("was", "be"),
    ("went", "go"),
    ("were", "be"),
    ("wives", "wife"),
    ("woke", "wake"),
    ("woken", "wake"),
    ("women", "woman"),
    ("won", "win"),
    ("wore", "wear"),
    ("worn", "wear"),
    ("written", "write"),
    ("wrote", "write"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn collect_terms(text: &str) -> Vec<String> {
        let mut found = Vec::new();
        TermTokenizer::default().for_each_term(text, |term, _| found.push(term.to_owned()));
        found
    }

    #[test]
    fn inflected_forms_share_a_term() {
        assert_eq!(collect_terms("Running RUNS ran"), ["run", "run", "run"]);
        assert_eq!(
            collect_terms("She bought what they buy"),
            ["she", "buy", "what", "they", "buy"]
        );
        assert_eq!(collect_terms("Crème-brûlée, 3 cafés"), ["creme", "brule", "3", "cafe"]);
        assert_eq!(collect_terms("книги книга"), ["книг", "книг"]);
        assert!(IRREGULAR_FORMS.is_sorted(), "the list is searched by bisection");
        let tokenizer = TermTokenizer::default();
        for (_, base) in IRREGULAR_FORMS {
            let again = tokenizer.english.stem(base);
            assert!(
                *base == again || find_irregular_stem(base).is_some() || again.len() < base.len(),
                "{base}: {again}"
            );
        }
    }

    #[test]
    fn unspaced_scripts_become_pairs_and_emoji_terms() {
        assert_eq!(collect_terms("東京の天気"), ["東京", "京の", "の天", "天気"]);
        assert_eq!(collect_terms("猫"), ["猫"]);
        assert_eq!(collect_terms("Go 東京!"), ["go", "東京"]);
        assert_eq!(collect_terms("🎉🎉 👍🏿"), ["🎉", "🎉", "👍"]);
        assert_eq!(collect_terms(" \u{200b}--…!\n"), Vec::<String>::new());
    }
}
