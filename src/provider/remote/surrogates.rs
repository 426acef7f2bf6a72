//! Characters that a server cut in two.
//!
//! Servers that cut their text by UTF-16 units send half of an emoji at the end of one delta and
//! half at the beginning of the next. Each half alone is no JSON string. This puts them together.

use std::borrow::Cow;

/// `\ud83d`: six bytes.
const ESCAPE: usize = 6;

/// The first half of a character whose second half has not come.
#[derive(Debug, Default)]
pub(super) struct Halves {
    waiting: Option<[u8; ESCAPE]>,
}

impl Halves {
    /// The event with its cut characters mended: a first half at the end of a string is kept back,
    /// and put in front of a second half at the beginning of a later one. A second half without a
    /// first becomes U+FFFD; a first half whose second never comes was no character.
    pub(super) fn mend<'a>(&mut self, data: &'a [u8]) -> Cow<'a, [u8]> {
        if self.waiting.is_none() && !has_surrogate(data) {
            return Cow::Borrowed(data);
        }
        let mut mended = Vec::with_capacity(data.len() + ESCAPE);
        let mut at = 0;
        while at < data.len() {
            let Some(unit) = unit_at(data, at) else {
                mended.push(data[at]);
                // What stands behind a backslash is no beginning of an escape.
                if data[at] == b'\\' && at + 1 < data.len() {
                    at += 1;
                    mended.push(data[at]);
                }
                at += 1;
                continue;
            };
            let escape = &data[at..at + ESCAPE];
            let next = at + ESCAPE;
            if is_first(unit) && unit_at(data, next).is_some_and(is_second) {
                mended.extend_from_slice(&data[at..next + ESCAPE]);
                at = next + ESCAPE;
                continue;
            }
            match (is_first(unit), is_second(unit)) {
                (true, _) if data.get(next) == Some(&b'"') => self.waiting = escape.try_into().ok(),
                (_, true) if data[..at].ends_with(b"\"") && self.waiting.is_some() => {
                    mended.extend(self.waiting.take().into_iter().flatten());
                    mended.extend_from_slice(escape);
                }
                (true, _) | (_, true) => mended.extend_from_slice("\u{fffd}".as_bytes()),
                _ => mended.extend_from_slice(escape),
            }
            at = next;
        }
        Cow::Owned(mended)
    }
}

fn has_surrogate(data: &[u8]) -> bool {
    memchr::memmem::find(data, b"\\ud").or_else(|| memchr::memmem::find(data, b"\\uD")).is_some()
}

/// The UTF-16 unit that is escaped at a place.
fn unit_at(data: &[u8], at: usize) -> Option<u16> {
    let digits = data.get(at..at + ESCAPE)?.strip_prefix(b"\\u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

const fn is_first(unit: u16) -> bool {
    matches!(unit, 0xd800..=0xdbff)
}

const fn is_second(unit: u16) -> bool {
    matches!(unit, 0xdc00..=0xdfff)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mended(events: &[&str]) -> Vec<String> {
        let mut halves = Halves::default();
        let text =
            |event: &&str| String::from_utf8(halves.mend(event.as_bytes()).into_owned()).unwrap();
        events.iter().map(text).map(|json| serde_json::from_str::<String>(&json).unwrap()).collect()
    }

    #[test]
    fn an_emoji_cut_between_two_deltas_comes_whole() {
        assert_eq!(mended(&[r#""a\ud83d""#, r#""\ude00b""#]), ["a", "😀b"]);
        assert_eq!(mended(&[r#""a\ud83d""#, r#""""#, r#""\uDE00""#]), ["a", "", "😀"]);
        assert_eq!(
            mended(&[r#""\ud83d\ude00""#, r#""plain""#, r#""\u00e9\\ud83d""#]),
            ["😀", "plain", "é\\ud83d"]
        );
    }

    #[test]
    fn a_half_without_another_becomes_a_replacement_character() {
        assert_eq!(mended(&[r#""\ude00b""#, r#""\ud83dx""#]), ["\u{fffd}b", "\u{fffd}x"]);
    }
}
