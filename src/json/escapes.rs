//! Repairs escapes in JSON text that stand for no character, or for one that stores cannot keep.
//!
//! Programs that cut text by UTF-16 code units leave half of an emoji behind, written as `\ud83d`.
//! JSON parsers reject the whole document for it. NUL comes from the output of programs.

use memchr::{memchr, memmem};
use std::borrow::Cow;

/// Length of an escape such as `\ud83d`.
const ESCAPE_LEN: usize = 6;
/// Takes the place of an escape that cannot be kept.
const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();

/// Which escapes are replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EscapeScope {
    Surrogates,
    SurrogatesAndNul,
}

/// Replaces each surrogate that is not part of a pair by U+FFFD.
pub fn replace_lone_surrogates(json: &[u8]) -> Cow<'_, [u8]> {
    EscapeScanner::default()
        .scan(json, EscapeScope::Surrogates, false)
        .unwrap_or(Cow::Borrowed(json))
}

/// JSON text whose escapes were repaired.
#[derive(Debug)]
pub struct RepairedText {
    pub json: String,
    /// Number of escapes replaced by U+FFFD.
    pub replaced: u64,
    /// Byte offset of the first one.
    pub first: usize,
}

/// Replaces NUL and each surrogate that is not part of a pair by U+FFFD. `None` if there is nothing
/// to replace.
pub fn repair_escapes(json: &str) -> Option<RepairedText> {
    let mut scanner = EscapeScanner::default();
    let repaired = scanner.scan(json.as_bytes(), EscapeScope::SurrogatesAndNul, false)?;
    let first = scanner.first?;
    let json = String::from_utf8(repaired.into_owned()).ok()?;
    Some(RepairedText { json, replaced: scanner.replaced, first })
}

/// Repairs the events of a stream, and joins the surrogate pairs that a server split between two of
/// them.
///
/// Servers that cut text by UTF-16 code units send the high surrogate of an emoji at the end of one
/// delta and the low surrogate at the beginning of the next.
#[derive(Debug, Default)]
pub struct SurrogateJoiner(EscapeScanner);

impl SurrogateJoiner {
    /// Returns the event with split characters joined. A high surrogate at the end of a string is
    /// held back and inserted before a low surrogate at the beginning of a later string; one whose
    /// low surrogate never comes is dropped. NUL and other lone surrogates become U+FFFD.
    pub fn join_halves<'a>(&mut self, data: &'a [u8]) -> Cow<'a, [u8]> {
        let joined = self.0.scan(data, EscapeScope::SurrogatesAndNul, true);
        joined.unwrap_or(Cow::Borrowed(data))
    }
}

#[derive(Debug, Default)]
struct EscapeScanner {
    /// A high surrogate that was held back.
    pending: Option<[u8; ESCAPE_LEN]>,
    replaced: u64,
    first: Option<usize>,
}

impl EscapeScanner {
    /// `None` if nothing can need a repair: nearly all texts, which are not copied.
    fn scan<'a>(
        &mut self,
        data: &'a [u8],
        scope: EscapeScope,
        holds_back: bool,
    ) -> Option<Cow<'a, [u8]>> {
        let has_nul = scope == EscapeScope::SurrogatesAndNul && contains(data, b"\\u0000");
        if self.pending.is_none() && !has_nul && !has_surrogate(data) {
            return None;
        }
        let mut out = Vec::with_capacity(data.len() + ESCAPE_LEN);
        let mut at = 0;
        while let Some(offset) = memchr(b'\\', &data[at..]) {
            let start = at + offset;
            out.extend_from_slice(&data[at..start]);
            let Some(unit) = parse_unit(data, start) else {
                // An escaped backslash, as in `\\ud83d`, does not start an escape.
                at = usize::min(start + 2, data.len());
                out.extend_from_slice(&data[start..at]);
                continue;
            };
            at = self.copy_escape(data, start, unit, &mut out, scope, holds_back);
        }
        out.extend_from_slice(&data[at..]);
        Some(Cow::Owned(out))
    }

    /// Copies or replaces the escape at `start`. Returns the position after it.
    fn copy_escape(
        &mut self,
        data: &[u8],
        start: usize,
        unit: u16,
        out: &mut Vec<u8>,
        scope: EscapeScope,
        holds_back: bool,
    ) -> usize {
        let end = start + ESCAPE_LEN;
        let escape = &data[start..end];
        match unit {
            0xd800..=0xdbff if parse_unit(data, end).is_some_and(is_low_surrogate) => {
                out.extend_from_slice(&data[start..end + ESCAPE_LEN]);
                return end + ESCAPE_LEN;
            }
            0xd800..=0xdbff if holds_back && data.get(end) == Some(&b'"') => {
                self.pending = escape.try_into().ok();
            }
            0xdc00..=0xdfff if data[..start].ends_with(b"\"") && self.pending.is_some() => {
                out.extend(self.pending.take().into_iter().flatten());
                out.extend_from_slice(escape);
            }
            0xd800..=0xdfff => self.replace(start, out),
            0 if scope == EscapeScope::SurrogatesAndNul => self.replace(start, out),
            _ => out.extend_from_slice(escape),
        }
        end
    }

    fn replace(&mut self, start: usize, out: &mut Vec<u8>) {
        self.replaced += 1;
        self.first.get_or_insert(start);
        out.extend_from_slice(REPLACEMENT);
    }
}

fn has_surrogate(data: &[u8]) -> bool {
    contains(data, b"\\ud") || contains(data, b"\\uD")
}

fn contains(data: &[u8], needle: &[u8]) -> bool {
    memmem::find(data, needle).is_some()
}

/// The UTF-16 code unit of the escape at this position, if there is one.
fn parse_unit(data: &[u8], at: usize) -> Option<u16> {
    let digits = data.get(at..at + ESCAPE_LEN)?.strip_prefix(b"\\u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

const fn is_low_surrogate(unit: u16) -> bool {
    matches!(unit, 0xdc00..=0xdfff)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn join_all(events: &[&str]) -> Vec<String> {
        let mut joiner = SurrogateJoiner::default();
        let text = |event: &&str| {
            String::from_utf8(joiner.join_halves(event.as_bytes()).into_owned()).unwrap()
        };
        events.iter().map(text).map(|json| serde_json::from_str::<String>(&json).unwrap()).collect()
    }

    #[test]
    fn split_emoji_is_joined() {
        assert_eq!(join_all(&[r#""a\ud83d""#, r#""\ude00b""#]), ["a", "😀b"]);
        assert_eq!(join_all(&[r#""a\ud83d""#, r#""""#, r#""\uDE00""#]), ["a", "", "😀"]);
        assert_eq!(
            join_all(&[r#""\ud83d\ude00""#, r#""plain""#, r#""\u00e9\\ud83d""#]),
            ["😀", "plain", "é\\ud83d"]
        );
    }

    #[test]
    fn nul_and_lone_surrogate_become_replacement_character() {
        assert_eq!(join_all(&[r#""\ude00b""#, r#""\ud83dx""#]), ["\u{fffd}b", "\u{fffd}x"]);
        assert_eq!(join_all(&[r#""a\u0000""#, r#""\\u0000""#]), ["a\u{fffd}", "\\u0000"]);
        let lone = replace_lone_surrogates(br#"["\ud83d", "\u0000"]"#);
        assert_eq!(*lone, *"[\"\u{fffd}\", \"\\u0000\"]".as_bytes());
        let repaired = repair_escapes(r#"["\ud83d", "\u0000", "\ud83d\ude00"]"#).unwrap();
        assert_eq!(repaired.json, "[\"\u{fffd}\", \"\u{fffd}\", \"\\ud83d\\ude00\"]");
        assert_eq!((repaired.replaced, repaired.first), (2, 2));
        assert!(repair_escapes(r#"["\ud83d\ude00", "\\u0000", "é"]"#).is_none());
    }

    proptest! {
        #[test]
        fn any_escapes_are_valid_json_after_the_repair(
            units in proptest::collection::vec(prop_oneof![
                Just("\\ud83d"), Just("\\uDE00"), Just("\\u0000"), Just("\\\\"), Just("\\\""),
                Just("\\n"), Just("u0000"), Just("é"), Just("\\u00e9"),
            ], 0..12),
        ) {
            let json = format!("\"{}\"", units.concat());
            let text: String = match repair_escapes(&json) {
                Some(repaired) => serde_json::from_str(&repaired.json).unwrap(),
                None => serde_json::from_str(&json).unwrap(),
            };
            prop_assert!(!text.contains('\0'));
            let surrogates = replace_lone_surrogates(json.as_bytes());
            prop_assert!(serde_json::from_slice::<String>(&surrogates).is_ok());
        }
    }
}
