//! Makes valid JSON text of a file while it is read: without a byte order mark, with `NaN` and
//! `Infinity` as strings, and with escapes in place of control characters and bytes that are not
//! UTF-8.
//!
//! Nothing is decided here about the values: the readers of the fields see that a value is odd, and
//! note it.

use std::io::{self, Read};

/// Some editors and programs begin a file in UTF-8 with it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Numbers that Python and JavaScript libraries write, although JSON does not have them.
const ODD_NUMBERS: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];
const CHUNK_BYTES: usize = 64 << 10;

/// Position relative to the strings of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TextState {
    Outside,
    InString,
    /// After a backslash in a string.
    InEscape,
}

/// Reads a file as JSON text.
pub(super) struct JsonRepairReader<R> {
    file: R,
    state: TextState,
    /// The first bytes, until it is known whether they are a byte order mark.
    has_begun: bool,
    /// Bytes that were read but not decided on: the beginning of a character.
    pending: Vec<u8>,
    /// The bytes that are being repaired. Their length does not change: bytes that are read over
    /// need not be zero.
    input: Vec<u8>,
    /// The beginning of a number or a name outside of strings.
    word: Vec<u8>,
    output: Vec<u8>,
    /// How much of the output was read.
    position: usize,
}

impl<R: Read> JsonRepairReader<R> {
    pub(super) fn new(file: R) -> Self {
        Self {
            file,
            state: TextState::Outside,
            has_begun: false,
            pending: Vec::new(),
            input: vec![0; CHUNK_BYTES],
            word: Vec::new(),
            output: Vec::new(),
            position: 0,
        }
    }

    /// Reads and repairs the next bytes of the file. Returns whether there were any.
    fn fill_output(&mut self) -> io::Result<bool> {
        self.output.clear();
        self.position = 0;
        let held = std::mem::take(&mut self.pending);
        let mut input = std::mem::take(&mut self.input);
        input.resize(CHUNK_BYTES, 0);
        input[..held.len()].copy_from_slice(&held);
        let read = loop {
            match self.file.read(&mut input[held.len()..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        let is_end = read == 0;
        let mut bytes = &input[..held.len() + read];
        if !self.has_begun {
            if !is_end && bytes.len() < BYTE_ORDER_MARK.len() && BYTE_ORDER_MARK.starts_with(bytes)
            {
                self.pending = bytes.to_vec();
                return Ok(true);
            }
            self.has_begun = true;
            bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
        }
        self.repair(bytes, is_end);
        self.input = input;
        if is_end {
            self.end_word();
        }
        Ok(!is_end || !self.output.is_empty())
    }

    fn repair(&mut self, mut bytes: &[u8], is_end: bool) {
        while !bytes.is_empty() {
            let error = match std::str::from_utf8(bytes) {
                Ok(_) => return self.repair_text(bytes),
                Err(error) => error,
            };
            let (valid, rest) = bytes.split_at(error.valid_up_to());
            self.repair_text(valid);
            let invalid = match error.error_len() {
                // A character may continue in the next bytes.
                None if !is_end => {
                    self.pending = rest.to_vec();
                    return;
                }
                None => rest.len(),
                Some(length) => length,
            };
            for byte in &rest[..invalid] {
                self.push_invalid(*byte);
            }
            bytes = &rest[invalid..];
        }
    }

    fn repair_text(&mut self, mut text: &[u8]) {
        while let Some((byte, rest)) = text.split_first() {
            text = rest;
            match self.state {
                TextState::Outside => self.push_outside(*byte),
                TextState::InEscape => {
                    self.state = TextState::InString;
                    self.output.push(*byte);
                }
                TextState::InString => match byte {
                    b'"' | b'\\' => {
                        let is_end = *byte == b'"';
                        self.state = if is_end { TextState::Outside } else { TextState::InEscape };
                        self.output.push(*byte);
                    }
                    0..0x20 => self.output.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
                    _ => {
                        // Nearly all of a file: copied in one piece.
                        let is_special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
                        let end = text.iter().position(is_special).unwrap_or(text.len());
                        self.output.push(*byte);
                        self.output.extend_from_slice(&text[..end]);
                        text = &text[end..];
                    }
                },
            }
        }
    }

    fn push_outside(&mut self, byte: u8) {
        let is_word = byte.is_ascii_alphabetic() || byte == b'-';
        // Longer than any of the odd numbers, so not one of them.
        if is_word && self.word.len() < 16 {
            self.word.push(byte);
            return;
        }
        self.end_word();
        if byte == b'"' {
            self.state = TextState::InString;
        }
        self.output.push(byte);
    }

    fn end_word(&mut self) {
        let is_odd = ODD_NUMBERS.contains(&self.word.as_slice());
        let quote: &[u8] = if is_odd { b"\"" } else { b"" };
        for piece in [quote, &self.word, quote] {
            self.output.extend_from_slice(piece);
        }
        self.word.clear();
    }

    /// Writes a byte that is not UTF-8 as half of a surrogate pair, which is replaced and counted
    /// where the entry is read.
    fn push_invalid(&mut self, byte: u8) {
        if self.state == TextState::Outside {
            self.push_outside(b'?');
            return;
        }
        self.state = TextState::InString;
        self.output.extend_from_slice(format!("\\udc{byte:02x}").as_bytes());
    }
}

impl<R: Read> Read for JsonRepairReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.position == self.output.len() {
            if !self.fill_output()? {
                return Ok(0);
            }
        }
        let mut rest = &self.output[self.position..];
        let read = rest.read(buffer)?;
        self.position += read;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    /// Reads one byte at a time.
    struct ByteReader<'a>(&'a [u8]);

    impl Read for ByteReader<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = usize::min(1, buffer.len());
            self.0.read(&mut buffer[..length])
        }
    }

    fn repair(file: &[u8]) -> String {
        let read = |mut reader: Box<dyn Read + '_>| {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text
        };
        let text = read(Box::new(JsonRepairReader::new(file)));
        assert_eq!(read(Box::new(JsonRepairReader::new(ByteReader(file)))), text);
        text
    }

    #[test]
    fn odd_text_becomes_valid_json() {
        for (file, wanted) in [
            (&b"\xef\xbb\xbf[1]"[..], "[1]"),
            (b"[NaN, -Infinity,Infinity]", "[\"NaN\", \"-Infinity\",\"Infinity\"]"),
            (b"NaN", "\"NaN\""),
            (b"\"a\nb\0\"", "\"a\\u000ab\\u0000\""),
            (b"\"caf\xe9\"", "\"caf\\udce9\""),
            (b"\"\xf0\x9f\"", "\"\\udcf0\\udc9f\""),
            ("\"NaN \\\" é 😀\"".as_bytes(), "\"NaN \\\" é 😀\""),
            (b"[-5e-3,true,null]", "[-5e-3,true,null]"),
            (b"", ""),
        ] {
            assert_eq!(repair(file), wanted, "{file:?}");
        }
    }

    proptest! {
        #[test]
        fn valid_json_is_left_as_it_is(text in any::<String>(), number in any::<f64>()) {
            let json = serde_json::json!({"text": text, "list": [number, true, null]}).to_string();
            prop_assert_eq!(repair(json.as_bytes()), json);
        }

        #[test]
        fn any_bytes_in_a_string_are_readable(bytes in any::<Vec<u8>>()) {
            let text: Vec<u8> = bytes.into_iter().filter(|byte| !b"\"\\".contains(byte)).collect();
            let file = [b"\"", text.as_slice(), b"\""].concat();
            let json = repair(&file);
            let repaired = crate::json::escapes::repair_escapes(&json);
            let json = repaired.map_or(json, |repaired| repaired.json);
            prop_assert!(serde_json::from_str::<Value>(&json).is_ok());
        }
    }
}
