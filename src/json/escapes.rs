//! Joins surrogate pairs that a server split between two deltas.
//!
//! Servers that cut text by UTF-16 code units send the high surrogate of an emoji at the end of one
//! delta and the low surrogate at the beginning of the next. Each alone is not a valid JSON string.

use std::borrow::Cow;

/// Length of an escape such as `\ud83d`.
const ESCAPE_LEN: usize = 6;

/// Keeps a high surrogate until its low surrogate arrives.
#[derive(Debug, Default)]
pub(super) struct SurrogateJoiner {
    pending: Option<[u8; ESCAPE_LEN]>,
}

impl SurrogateJoiner {
    /// Returns the event with split characters joined. A high surrogate at the end of a string is
    /// held back and inserted before a low surrogate at the beginning of a later string. A lone low
    /// surrogate becomes U+FFFD; a high surrogate whose low one never comes is dropped.
    pub(super) fn join_halves<'a>(&mut self, data: &'a [u8]) -> Cow<'a, [u8]> {
        // Nearly all events take this path and are not copied.
        if self.pending.is_none() && !has_surrogate(data) {
            return Cow::Borrowed(data);
        }
        let mut joined = Vec::with_capacity(data.len() + ESCAPE_LEN);
        let mut at = 0;
        while at < data.len() {
            let Some(unit) = parse_unit(data, at) else {
                joined.push(data[at]);
                // An escaped backslash, as in `\\ud83d`, does not start an escape.
                if data[at] == b'\\' && at + 1 < data.len() {
                    at += 1;
                    joined.push(data[at]);
                }
                at += 1;
                continue;
            };
            let escape = &data[at..at + ESCAPE_LEN];
            let next = at + ESCAPE_LEN;
            if is_high_surrogate(unit) && parse_unit(data, next).is_some_and(is_low_surrogate) {
                joined.extend_from_slice(&data[at..next + ESCAPE_LEN]);
                at = next + ESCAPE_LEN;
                continue;
            }
            match (is_high_surrogate(unit), is_low_surrogate(unit)) {
                (true, _) if data.get(next) == Some(&b'"') => self.pending = escape.try_into().ok(),
                (_, true) if data[..at].ends_with(b"\"") && self.pending.is_some() => {
                    joined.extend(self.pending.take().into_iter().flatten());
                    joined.extend_from_slice(escape);
                }
                (true, _) | (_, true) => joined.extend_from_slice("\u{fffd}".as_bytes()),
                _ => joined.extend_from_slice(escape),
            }
            at = next;
        }
        Cow::Owned(joined)
    }
}

fn has_surrogate(data: &[u8]) -> bool {
    memchr::memmem::find(data, b"\\ud").or_else(|| memchr::memmem::find(data, b"\\uD")).is_some()
}

/// The UTF-16 code unit of the escape at this position, if there is one.
fn parse_unit(data: &[u8], at: usize) -> Option<u16> {
    let digits = data.get(at..at + ESCAPE_LEN)?.strip_prefix(b"\\u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

const fn is_high_surrogate(unit: u16) -> bool {
    matches!(unit, 0xd800..=0xdbff)
}

const fn is_low_surrogate(unit: u16) -> bool {
    matches!(unit, 0xdc00..=0xdfff)
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn lone_surrogate_becomes_replacement_character() {
        assert_eq!(join_all(&[r#""\ude00b""#, r#""\ud83dx""#]), ["\u{fffd}b", "\u{fffd}x"]);
    }
}
