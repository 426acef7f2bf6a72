//! Classifies characters by their script and their role in a word.

use icu_properties::CodePointMapData;
use icu_properties::props::Script;
use unicode_normalization::char::is_combining_mark;

/// Role of a folded character in splitting a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CharClass {
    /// Part of a word. Digits and letters that several scripts share have no script.
    Letter(Option<Script>),
    /// Character of a run.
    Unspaced,
    /// Belongs to the character before it.
    Mark,
    Symbol,
    /// Half of a flag.
    RegionalIndicator,
    /// Distinguishes the flags of England, Scotland and Wales.
    EmojiTag,
    /// An invisible character that does not separate letters.
    Ignorable,
    /// Separates letters, but is ignored in a run: writers of Khmer and Thai may put zero-width
    /// spaces between words, and Tibetan has a dot after each syllable.
    RunSpace,
    /// Zero-width non-joiner: a space in Arabic script, ignored in others.
    NonJoiner,
    Separator,
}

pub(super) fn classify_char(c: char) -> CharClass {
    if c.is_ascii() {
        return match c {
            'a'..='z' | 'A'..='Z' => CharClass::Letter(Some(Script::Latin)),
            '0'..='9' => CharClass::Letter(None),
            _ => CharClass::Separator,
        };
    }
    match c {
        '\u{200b}' | '\u{f0b}' | '\u{f0c}' => CharClass::RunSpace,
        '\u{200c}' => CharClass::NonJoiner,
        // Soft hyphen, joiners, marks of direction, and the Arabic stroke that stretches words.
        '\u{ad}' | '\u{200d}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}' => {
            CharClass::Ignorable
        }
        '\u{2066}'..='\u{2069}' | '\u{feff}' | '\u{61c}' | '\u{640}' => CharClass::Ignorable,
        // Skin tones.
        '\u{1f3fb}'..='\u{1f3ff}' => CharClass::Ignorable,
        '\u{1f1e6}'..='\u{1f1ff}' => CharClass::RegionalIndicator,
        '\u{e0020}'..='\u{e007f}' => CharClass::EmojiTag,
        // The micro sign after folding: μs is one word.
        'μ' => CharClass::Letter(None),
        _ if is_pictograph(c) => CharClass::Symbol,
        _ if is_combining_mark(c) => CharClass::Mark,
        _ if !c.is_alphanumeric() => CharClass::Separator,
        _ if is_unspaced(c) => CharClass::Unspaced,
        _ => CharClass::Letter(match find_script(c) {
            Script::Common | Script::Inherited => None,
            script => Some(script),
        }),
    }
}

pub(super) fn find_script(c: char) -> Script {
    CodePointMapData::<Script>::new().get(c)
}

/// Emoji and dingbats. Arrows, bullets and other signs of running text are not among them.
fn is_pictograph(c: char) -> bool {
    matches!(
        c,
        '\u{231a}' | '\u{231b}' | '\u{2328}' | '\u{23cf}' | '\u{23e9}'..='\u{23fa}' | '\u{25b6}' | '\u{25c0}'
            | '\u{25fb}'..='\u{25fe}' | '\u{2600}'..='\u{27bf}' | '\u{2934}' | '\u{2935}'
            | '\u{2b05}'..='\u{2b07}' | '\u{2b1b}' | '\u{2b1c}' | '\u{2b50}' | '\u{2b55}'
            | '\u{1f000}'..='\u{1faff}'
    )
}

/// Letters of scripts that put no spaces between words, and Hangul.
fn is_unspaced(c: char) -> bool {
    // Iteration marks and the long vowel mark, which the kana share.
    if matches!(c, '\u{3005}'..='\u{3007}' | '\u{3031}'..='\u{3035}' | '\u{309d}'..='\u{309f}' | '\u{30fc}'..='\u{30ff}')
    {
        return true;
    }
    let script = find_script(c);
    matches!(script, Script::Han | Script::Hiragana | Script::Katakana | Script::Bopomofo)
        || matches!(script, Script::Hangul | Script::Yi | Script::Tangut | Script::Nushu)
        || matches!(script, Script::Thai | Script::Lao | Script::Khmer | Script::Myanmar)
        || matches!(script, Script::Tibetan | Script::Javanese | Script::Balinese)
        || matches!(script, Script::TaiLe | Script::NewTaiLue | Script::TaiTham | Script::TaiViet)
}
