//! Splits texts into search terms: words in lower case, without accents, reduced to their stems;
//! pairs of characters in scripts that write no spaces between words; emoji.
//!
//! Stemming is Snowball's (<https://snowballstem.org/algorithms/>), with the algorithm chosen by
//! the script of a word. Messages and questions are split by the same rules, so even a stemmer of
//! the wrong language finds a word in the same form.

use rust_stemmers::{Algorithm, Stemmer};
use std::borrow::Cow;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// Longer words are truncated; the beginning identifies them well enough.
const MAX_WORD_BYTES: usize = 64;

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

/// Role of a character in splitting a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CharClass {
    /// Part of a word of letters and digits.
    Letter,
    /// Part of a run without spaces, which is split into pairs.
    Unspaced,
    /// A term by itself.
    Symbol,
    Separator,
}

fn classify_char(c: char) -> CharClass {
    match u32::from(c) {
        0..0x80 if c.is_ascii_alphanumeric() => CharClass::Letter,
        0..0x80 => CharClass::Separator,
        // Thai, Lao, Myanmar, Khmer; kana, Han and its extensions.
        0x0e00..=0x0eff | 0x1000..=0x109f | 0x1780..=0x17ff => CharClass::Unspaced,
        0x3040..=0x30ff | 0x31f0..=0x31ff | 0x3400..=0x4dbf | 0x4e00..=0x9fff => {
            CharClass::Unspaced
        }
        0xf900..=0xfaff | 0xff66..=0xff9f | 0x20000..=0x3ffff => CharClass::Unspaced,
        // Pictographs, without the skin tone modifiers. Regional indicators, the halves of flags,
        // count as symbols.
        0x1f3fb..=0x1f3ff => CharClass::Separator,
        0x2600..=0x27bf | 0x1f000..=0x1faff => CharClass::Symbol,
        _ if c.is_alphanumeric() || is_combining_mark(c) => CharClass::Letter,
        _ => CharClass::Separator,
    }
}

impl TermTokenizer {
    /// Calls `emit` with each term of the text, in order.
    pub(super) fn for_each_term(&self, text: &str, mut emit: impl FnMut(&str)) {
        self.for_each_word(text, |word| {
            let stem = self.stem_word(word);
            if !stem.is_empty() {
                emit(&stem);
            }
        });
    }

    /// Calls `emit` with each word of the text, in order and before stemming.
    pub(super) fn for_each_word(&self, text: &str, mut emit: impl FnMut(&str)) {
        // Most texts are ASCII, where folding is only lower case.
        let folded = match text.is_ascii() {
            true => text.to_ascii_lowercase(),
            false => fold_text(text),
        };
        let mut rest = &*folded;
        while let Some(first) = rest.chars().next() {
            let class = classify_char(first);
            let end = match class {
                CharClass::Symbol => first.len_utf8(),
                _ => rest.find(|c| classify_char(c) != class).unwrap_or(rest.len()),
            };
            let (run, others) = rest.split_at(end);
            rest = others;
            match class {
                CharClass::Separator => {}
                CharClass::Letter => emit(truncate_bytes(run, MAX_WORD_BYTES)),
                CharClass::Symbol => emit(run),
                CharClass::Unspaced => for_each_pair(run, &mut emit),
            }
        }
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

/// Lower case without accents.
fn fold_text(text: &str) -> String {
    text.nfkd().filter(|c| !is_combining_mark(*c)).flat_map(char::to_lowercase).collect()
}

/// Calls `emit` with each pair of adjacent characters, or with a single character.
fn for_each_pair(run: &str, emit: &mut impl FnMut(&str)) {
    let ends: Vec<usize> =
        run.char_indices().map(|(at, _)| at).chain(std::iter::once(run.len())).collect();
    if let [_, only] = ends[..] {
        return emit(&run[..only]);
    }
    for pair in ends.windows(3) {
        emit(&run[pair[0]..pair[2]]);
    }
}

/// The longest prefix of at most `max_bytes` bytes that ends between characters.
fn truncate_bytes(word: &str, max_bytes: usize) -> &str {
    if word.len() <= max_bytes {
        return word;
    }
    let end = word.char_indices().map(|(at, _)| at).take_while(|at| *at <= max_bytes).last();
    &word[..end.unwrap_or(0)]
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
        TermTokenizer::default().for_each_term(text, |term| found.push(term.to_owned()));
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
