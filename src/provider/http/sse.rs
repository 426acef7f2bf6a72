//! Decodes server-sent events from a provider's bytes, in time linear in their number.
//!
//! Format:
//! <https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream>. Lines
//! may end in LF, CR or CRLF and may be split anywhere. Comments and fields other than `event` and
//! `data` are ignored; an unfinished last event is dropped.

use memchr::memchr2;

/// Upper bound of one event.
const MAX_EVENT_BYTES: usize = 4 << 20;

/// Decodes events from chunks of bytes.
#[derive(Debug, Default)]
pub(super) struct SseDecoder {
    /// Beginning of a line that continues in the next chunk.
    line: Vec<u8>,
    name: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    /// The last byte was CR; a following LF belongs to the same line ending.
    after_cr: bool,
    /// Whether a line was seen; a byte order mark is allowed before the first one only.
    has_started: bool,
}

impl SseDecoder {
    /// Decodes more bytes and calls `dispatch(name, data)` for each event that they complete.
    /// Returns `false` if an event exceeds its limit; the decoder cannot be used after that.
    pub(super) fn push(
        &mut self,
        mut bytes: &[u8],
        mut dispatch: impl FnMut(&[u8], &[u8]),
    ) -> bool {
        while !bytes.is_empty() {
            if self.after_cr && bytes[0] == b'\n' {
                bytes = &bytes[1..];
            }
            self.after_cr = false;
            let Some(end) = memchr2(b'\n', b'\r', bytes) else {
                self.line.extend_from_slice(bytes);
                break;
            };
            self.after_cr = bytes[end] == b'\r';
            if self.line.is_empty() {
                self.process_line(&bytes[..end], &mut dispatch);
            } else {
                let mut line = std::mem::take(&mut self.line);
                line.extend_from_slice(&bytes[..end]);
                self.process_line(&line, &mut dispatch);
                // Keeps the allocation for the next split line.
                line.clear();
                self.line = line;
            }
            bytes = &bytes[end + 1..];
        }
        self.line.len() + self.data.len() <= MAX_EVENT_BYTES
    }

    fn process_line(&mut self, line: &[u8], dispatch: &mut impl FnMut(&[u8], &[u8])) {
        let line = match line.strip_prefix("\u{feff}".as_bytes()) {
            Some(rest) if !self.has_started => rest,
            _ => line,
        };
        self.has_started = true;
        if line.is_empty() {
            if self.has_data {
                dispatch(&self.name, &self.data);
            }
            self.name.clear();
            self.data.clear();
            self.has_data = false;
        } else if let Some(value) = field_value(line, b"data") {
            if self.has_data {
                self.data.push(b'\n');
            }
            self.data.extend_from_slice(value);
            self.has_data = true;
        } else if let Some(value) = field_value(line, b"event") {
            self.name.clear();
            self.name.extend_from_slice(value);
        }
    }
}

/// Value of the line if it is `name: value`, `name:value` or `name`.
fn field_value<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    match line.strip_prefix(name)? {
        [] => Some(&[]),
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode_events(chunks: &[&[u8]]) -> Vec<String> {
        let mut decoder = SseDecoder::default();
        let mut events = Vec::new();
        for chunk in chunks {
            let is_within_limit = decoder.push(chunk, |name, data| {
                events.push(format!(
                    "{}|{}",
                    String::from_utf8_lossy(name),
                    String::from_utf8_lossy(data)
                ));
            });
            assert!(is_within_limit);
        }
        events
    }

    #[test]
    fn all_line_endings_and_field_forms_are_read() {
        let wire = "\u{feff}: hello\r\n\r\nevent: a\rdata: 1\rdata:2\r\rdata\n\nid: 7\ndatum: no\n\ndata:  x\n\ndata: cut";
        assert_eq!(decode_events(&[wire.as_bytes()]), ["a|1\n2", "|", "| x"]);
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_events(
            lines in proptest::collection::vec(("(data: ?|event: ?|: )?[a-zé]{0,9}", "(\n|\r|\r\n)"), 0..40),
            cuts in proptest::collection::vec(0usize..400, 0..12),
        ) {
            let wire: Vec<u8> = lines.into_iter().flat_map(|(line, end)| (line + &end).into_bytes()).collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(wire.len())).collect();
            cuts.extend([0, wire.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &wire[pair[0]..pair[1]]).collect();
            prop_assert_eq!(decode_events(&chunks), decode_events(&[&wire]));
        }
    }
}
