//! Folds spellings of the same word into one: case, accents, compatibility forms.

use super::scripts::find_script;
use icu_properties::props::Script;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// Appends the folded form of a grapheme cluster.
///
/// Compatibility decomposition unifies ligatures, half-width and full-width forms, and separates
/// accents from letters. The final composition puts Hangul syllables and kana together again.
pub(super) fn fold_cluster(cluster: &str, folded: &mut String) {
    let start = folded.len();
    let kept = cluster.nfkd().filter(|c| !is_dropped_mark(*c)).flat_map(fold_case);
    folded.extend(kept.nfc());
    order_tone_marks(folded, start);
}

/// Unicode's full case folding, and ı as i: ß is ss, ς is σ, and the letters of each alphabet are
/// lower case.
fn fold_case(c: char) -> impl Iterator<Item = char> {
    // ẞ has the lower case ß, and only the upper case of that is SS.
    c.to_lowercase().flat_map(char::to_uppercase).flat_map(char::to_lowercase)
}

/// Whether a combining mark may be missing in other spellings of the same word: an accent or a
/// vowel point. In the scripts of South and Southeast Asia marks are vowels and tones, which tell
/// words apart.
fn is_dropped_mark(c: char) -> bool {
    const VOICED_KANA: [char; 2] = ['\u{3099}', '\u{309a}'];
    // Devanagari's dot below, which much of written Hindi leaves out.
    const NUKTA: char = '\u{93c}';
    if c.is_ascii() || !is_combining_mark(c) || VOICED_KANA.contains(&c) {
        return false;
    }
    let script = find_script(c);
    c == NUKTA
        || matches!(script, Script::Inherited | Script::Common | Script::Latin | Script::Greek)
        || matches!(script, Script::Cyrillic | Script::Arabic | Script::Hebrew | Script::Syriac)
        || matches!(script, Script::Coptic | Script::Glagolitic)
}

/// Puts Thai and Lao tone marks after the nikhahit. Both orders are written and look the same, and
/// the decomposition of ำ and ຳ leaves it after the tone mark.
fn order_tone_marks(folded: &mut String, start: usize) {
    let is_tone = |c: char| matches!(c, '\u{e48}'..='\u{e4b}' | '\u{ec8}'..='\u{ecb}');
    let nikhahit = folded[start..].find(['\u{e4d}', '\u{ecd}']).map(|at| start + at);
    let Some(nikhahit) = nikhahit.filter(|at| folded[start..*at].ends_with(is_tone)) else {
        return;
    };
    if let (Some(mark), Some(tone)) =
        (folded[nikhahit..].chars().next(), folded[..nikhahit].chars().next_back())
    {
        let tone_at = nikhahit - tone.len_utf8();
        folded.replace_range(tone_at..nikhahit + mark.len_utf8(), &format!("{mark}{tone}"));
    }
}
