//! From a text to the terms by which it is found: words in lower case, without accents, reduced to
//! their stems; pairs of characters where a script writes no blanks between words; emoji.
//!
//! Stems are Snowball's (<https://snowballstem.org/algorithms/>), the algorithm chosen by a word's
//! script. A message and a question take the same way, so a stemmer that is not of the text's
//! language still finds a word where it stands in the same form.

use rust_stemmers::{Algorithm, Stemmer};
use std::borrow::Cow;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// Longer words are cut: nobody asks for them by their ends.
const MAX_WORD_BYTES: usize = 64;

/// Makes terms of texts.
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

/// How a character takes part in terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CharClass {
    /// Of a word that ends where the letters end.
    Letter,
    /// Of a script without blanks between words.
    Unspaced,
    /// A term of its own.
    Symbol,
    /// None of these.
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
        // Pictographs, but not what only changes the one before: skin tones, flags' halves stay.
        0x1f3fb..=0x1f3ff => CharClass::Separator,
        0x2600..=0x27bf | 0x1f000..=0x1faff => CharClass::Symbol,
        _ if c.is_alphanumeric() || is_combining_mark(c) => CharClass::Letter,
        _ => CharClass::Separator,
    }
}

impl TermTokenizer {
    /// Gives the terms of a text in their order, to `take`.
    pub(super) fn for_each_term(&self, text: &str, mut take: impl FnMut(&str)) {
        self.for_each_word(text, |word| {
            let stem = self.stem_word(word);
            if !stem.is_empty() {
                take(&stem);
            }
        });
    }

    /// Gives the words of a text before they are reduced to stems.
    pub(super) fn for_each_word(&self, text: &str, mut take: impl FnMut(&str)) {
        let folded: Cow<'_, str> = match text.is_ascii() {
            true => Cow::Owned(text.to_ascii_lowercase()),
            false => Cow::Owned(fold_text(text)),
        };
        let mut rest = &*folded;
        while let Some(first) = rest.chars().next() {
            let kind = classify_char(first);
            let same = |c: char| classify_char(c) == kind;
            let end = match kind {
                CharClass::Symbol => first.len_utf8(),
                _ => rest.find(|c| !same(c)).unwrap_or(rest.len()),
            };
            let (run, behind) = rest.split_at(end);
            rest = behind;
            match kind {
                CharClass::Separator => {}
                CharClass::Letter => take(truncate_bytes(run, MAX_WORD_BYTES)),
                CharClass::Symbol => take(run),
                CharClass::Unspaced => for_each_pair(run, &mut take),
            }
        }
    }

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

/// Lower case without accents, the way titles are compared.
fn fold_text(text: &str) -> String {
    text.nfkd().filter(|c| !is_combining_mark(*c)).flat_map(char::to_lowercase).collect()
}

/// Every two neighbours; one character alone is a term, too.
fn for_each_pair(run: &str, take: &mut impl FnMut(&str)) {
    let ends: Vec<usize> =
        run.char_indices().map(|(at, _)| at).chain(std::iter::once(run.len())).collect();
    if let [_, only] = ends[..] {
        return take(&run[..only]);
    }
    for pair in ends.windows(3) {
        take(&run[pair[0]..pair[2]]);
    }
}

fn truncate_bytes(word: &str, most: usize) -> &str {
    if word.len() <= most {
        return word;
    }
    let end = word.char_indices().map(|(at, _)| at).take_while(|at| *at <= most).last();
    &word[..end.unwrap_or(0)]
}

/// The base of an English form that no stemmer reduces, as a stem.
fn find_irregular_stem(word: &str) -> Option<&'static str> {
    let at = IRREGULAR_FORMS.binary_search_by_key(&word, |(form, _)| form).ok()?;
    Some(IRREGULAR_FORMS[at].1)
}

/// Forms that differ from their base by more than an ending, and the stem of that base.
/// Source: the common ones of <https://en.wiktionary.org/wiki/Appendix:English_irregular_verbs>.
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
        assert!(IRREGULAR_FORMS.is_sorted(), "it is searched by halves");
        let words = TermTokenizer::default();
        for (_, base) in IRREGULAR_FORMS {
            let again = words.english.stem(base);
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
