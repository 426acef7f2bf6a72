//! Reads a long JSON file value by value, and goes back to values that it has passed. Only the
//! values that are asked for are held in memory.
//!
//! The file is text that `json_repair` has made readable. The syntax of values is checked when they
//! are read; of those that are passed over, only the brackets are counted.

use super::import_pace::ImportPace;
use super::json_repair::JsonRepairReader;
use memchr::memchr2;
use serde_json::error::Category;
use serde_json::value::RawValue;
use std::io::{self, Read, Seek, SeekFrom};
use tempfile::SpooledTempFile;

/// Text that stays in memory. A longer one is kept in a file without a name.
const MEMORY_BYTES: usize = 128 << 10;
const BUFFER_BYTES: usize = 64 << 10;
/// Maximum length of a field's name. A longer one counts as empty.
const MAX_NAME_BYTES: usize = 4 << 10;

/// Values of which a single value may consist. Each takes many times the size of its text when it
/// is parsed.
const MAX_VALUES: usize = 1 << 20;

/// Text of a value that an import holds while others go on.
const MAX_PAUSED_BYTES: usize = 1 << 20;

/// A file that is not the JSON that it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct JsonFileError {
    pub category: Category,
    pub message: String,
}

/// A position in a file of JSON text.
pub struct JsonCursor {
    file: SpooledTempFile,
    buffer: Vec<u8>,
    /// Position in the buffer.
    at: usize,
    /// Position of the buffer's end in the file.
    end: u64,
    /// The text that was read since the beginning of a value.
    captured: Option<CapturedText>,
    pace: ImportPace,
}

struct CapturedText {
    bytes: Vec<u8>,
    limit: usize,
    /// How many more commas it may have, apart from those in texts.
    commas_left: usize,
    is_too_long: bool,
}

impl JsonCursor {
    /// Copies a file, with repaired text.
    pub(super) fn copy_file(file: impl Read, pace: &ImportPace) -> io::Result<Self> {
        let mut copy = SpooledTempFile::new(MEMORY_BYTES);
        let mut file = PacedReader { file: JsonRepairReader::new(file), pace };
        io::copy(&mut file, &mut copy)?;
        copy.rewind()?;
        let pace = pace.clone();
        Ok(Self { file: copy, buffer: Vec::new(), at: 0, end: 0, captured: None, pace })
    }

    pub(super) fn position(&self) -> u64 {
        self.end - (self.buffer.len() - self.at) as u64
    }

    pub(super) fn seek_to(&mut self, position: u64) -> Result<(), JsonFileError> {
        let begin = self.end - self.buffer.len() as u64;
        if (begin..=self.end).contains(&position) {
            self.at = (position - begin) as usize;
            return Ok(());
        }
        self.file.seek(SeekFrom::Start(position)).map_err(|error| io_error(&error))?;
        self.buffer.clear();
        self.at = 0;
        self.end = position;
        Ok(())
    }

    /// The first byte after blanks, which is not consumed.
    pub(super) fn peek(&mut self) -> Result<Option<u8>, JsonFileError> {
        loop {
            if self.at == self.buffer.len() && !self.fill().map_err(|error| io_error(&error))? {
                return Ok(None);
            }
            match self.buffer[self.at] {
                b' ' | b'\t' | b'\r' | b'\n' => self.at += 1,
                byte => return Ok(Some(byte)),
            }
        }
    }

    /// Goes into a list or an object, after its first byte.
    pub(super) fn enter(&mut self, opening: u8) -> Result<(), JsonFileError> {
        self.consume(opening)
    }

    /// Goes to the next entry of a list or an object. Returns whether there is one; otherwise the
    /// cursor is after the list. `is_first` begins as true.
    pub(super) fn next_entry(
        &mut self,
        closing: u8,
        is_first: &mut bool,
    ) -> Result<bool, JsonFileError> {
        if self.peek()? == Some(closing) {
            self.at += 1;
            return Ok(false);
        }
        if !std::mem::take(is_first) {
            self.consume(b',')?;
        }
        self.peek()?;
        Ok(true)
    }

    /// Reads the name of a field, and goes to its value.
    pub(super) fn read_name(&mut self) -> Result<String, JsonFileError> {
        if self.peek()? != Some(b'"') {
            return Err(self.syntax_error("expected the name of a field"));
        }
        let name = self.read_value(MAX_NAME_BYTES)?;
        self.consume(b':')?;
        self.peek()?;
        let name = name.map(|name| serde_json::from_str(name.get()));
        Ok(name.and_then(Result::ok).unwrap_or_default())
    }

    /// Passes over a value. Only its strings and brackets are looked at.
    pub(super) fn skip_value(&mut self) -> Result<(), JsonFileError> {
        match self.peek()? {
            Some(b'"') => {
                self.take(1);
                self.skip_string()
            }
            Some(b'{' | b'[') => self.skip_nested(),
            Some(b'}' | b']' | b',' | b':') => Err(self.syntax_error("expected a value")),
            Some(_) => self.skip_word(),
            None => Err(end_error()),
        }
    }

    /// Reads a value; `None` if its text is longer than `limit`, or if it consists of more than
    /// [`MAX_VALUES`]. The cursor is after it then, too.
    pub(super) fn read_value(
        &mut self,
        limit: usize,
    ) -> Result<Option<Box<RawValue>>, JsonFileError> {
        self.read_long_value(limit, MAX_VALUES)
    }

    /// Reads a value that is not parsed as a whole.
    pub(super) fn read_long_value(
        &mut self,
        limit: usize,
        max_values: usize,
    ) -> Result<Option<Box<RawValue>>, JsonFileError> {
        self.peek()?;
        self.captured = Some(CapturedText {
            bytes: Vec::new(),
            limit,
            commas_left: max_values,
            is_too_long: false,
        });
        let start = self.position();
        let skipped = self.skip_value();
        let Some(text) = self.captured.take() else { return Ok(None) };
        skipped?;
        if text.is_too_long {
            return Ok(None);
        }
        let text = String::from_utf8(text.bytes)
            .map_err(|_| syntax_error(format!("a text at byte {start} is not UTF-8")))?;
        RawValue::from_string(text).map(Some).map_err(|error| value_error(&error, start))
    }

    /// Goes to the end of a string, from after its first quote.
    fn skip_string(&mut self) -> Result<(), JsonFileError> {
        loop {
            self.require_byte()?;
            match memchr2(b'"', b'\\', &self.buffer[self.at..]) {
                None => self.take(self.buffer.len() - self.at),
                Some(length) if self.buffer[self.at + length] == b'"' => {
                    self.take(length + 1);
                    return Ok(());
                }
                Some(length) => {
                    self.take(length + 1);
                    self.require_byte()?;
                    self.take(1);
                }
            }
        }
    }

    fn skip_nested(&mut self) -> Result<(), JsonFileError> {
        let mut depth = 0;
        loop {
            self.require_byte()?;
            let rest = &self.buffer[self.at..];
            let is_structure = |byte: &u8| matches!(byte, b'"' | b'{' | b'}' | b'[' | b']' | b',');
            let Some(length) = rest.iter().position(is_structure) else {
                self.take(rest.len());
                continue;
            };
            let byte = rest[length];
            self.take(length + 1);
            match byte {
                b'"' => self.skip_string()?,
                b'{' | b'[' => depth += 1,
                b',' => self.count_comma(),
                _ => depth -= 1,
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }

    fn count_comma(&mut self) {
        let Some(captured) = &mut self.captured else { return };
        match captured.commas_left.checked_sub(1) {
            Some(left) => captured.commas_left = left,
            None => {
                captured.is_too_long = true;
                captured.bytes = Vec::new();
            }
        }
    }

    /// Goes to the end of a number or a literal, which may be the end of the file.
    fn skip_word(&mut self) -> Result<(), JsonFileError> {
        let is_end = |byte: &u8| b" \t\r\n,:]}[{\"".contains(byte);
        loop {
            if self.at == self.buffer.len() && !self.fill().map_err(|error| io_error(&error))? {
                return Ok(());
            }
            let rest = &self.buffer[self.at..];
            match rest.iter().position(is_end) {
                None => self.take(rest.len()),
                Some(length) => {
                    self.take(length);
                    return Ok(());
                }
            }
        }
    }

    /// Makes sure that there is a byte to read.
    fn require_byte(&mut self) -> Result<(), JsonFileError> {
        match self.at < self.buffer.len() || self.fill().map_err(|error| io_error(&error))? {
            true => Ok(()),
            false => Err(end_error()),
        }
    }

    /// Moves on by bytes of the buffer.
    fn take(&mut self, length: usize) {
        let bytes = &self.buffer[self.at..self.at + length];
        if let Some(captured) = &mut self.captured
            && !captured.is_too_long
        {
            if captured.bytes.len() + length <= captured.limit {
                captured.bytes.extend_from_slice(bytes);
            } else {
                captured.is_too_long = true;
                captured.bytes = Vec::new();
            }
        }
        self.at += length;
    }

    pub(super) fn syntax_error(&self, problem: &str) -> JsonFileError {
        syntax_error(format!("{problem} at byte {}", self.position()))
    }

    fn consume(&mut self, wanted: u8) -> Result<(), JsonFileError> {
        match self.peek()? {
            Some(byte) if byte == wanted => {
                self.at += 1;
                Ok(())
            }
            Some(_) => Err(self.syntax_error(&format!("expected `{}`", wanted as char))),
            None => Err(end_error()),
        }
    }

    /// Reads the next part of the file. Returns whether there was any.
    fn fill(&mut self) -> io::Result<bool> {
        // No turn ends while much is held in memory, which others would add to.
        let held = self.captured.as_ref().map_or(0, |text| text.bytes.len());
        if held < MAX_PAUSED_BYTES {
            self.pace.checkpoint()?;
        }
        self.buffer.clear();
        self.buffer.reserve_exact(BUFFER_BYTES);
        let mut part = (&mut self.file).take(BUFFER_BYTES as u64);
        let read = part.read_to_end(&mut self.buffer)?;
        self.at = 0;
        self.end += read as u64;
        Ok(read > 0)
    }
}

/// A file whose reader lets other imports go on.
struct PacedReader<'a, R> {
    file: R,
    pace: &'a ImportPace,
}

impl<R: Read> Read for PacedReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.pace.checkpoint()?;
        self.file.read(buffer)
    }
}

fn end_error() -> JsonFileError {
    JsonFileError { category: Category::Eof, message: "the file ends inside of a value".to_owned() }
}

fn io_error(error: &io::Error) -> JsonFileError {
    JsonFileError { category: Category::Io, message: error.to_string() }
}

fn syntax_error(message: String) -> JsonFileError {
    JsonFileError { category: Category::Syntax, message }
}

fn value_error(error: &serde_json::Error, start: u64) -> JsonFileError {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let problem = text.strip_suffix(&place).unwrap_or(&text);
    let message = format!("{problem}, in the value at byte {start}");
    JsonFileError { category: error.classify(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_and_passed_over_exactly() {
        let json = r#" [1, -2.5e3,"a,]", {"b": [0]} ,true,null] {"x":7}"#;
        let mut cursor = JsonCursor::copy_file(json.as_bytes(), &ImportPace::default()).unwrap();
        cursor.enter(b'[').unwrap();
        let mut is_first = true;
        let mut values = Vec::new();
        let mut positions = Vec::new();
        while cursor.next_entry(b']', &mut is_first).unwrap() {
            positions.push(cursor.position());
            values.push(cursor.read_value(100).unwrap().unwrap().get().to_owned());
        }
        assert_eq!(values, ["1", "-2.5e3", "\"a,]\"", "{\"b\": [0]}", "true", "null"]);
        cursor.enter(b'{').unwrap();
        assert!(cursor.next_entry(b'}', &mut true).unwrap());
        assert_eq!(cursor.read_name().unwrap(), "x");
        cursor.skip_value().unwrap();
        assert!(!cursor.next_entry(b'}', &mut false).unwrap());
        assert_eq!(cursor.peek().unwrap(), None);
        cursor.seek_to(positions[3]).unwrap();
        assert!(cursor.read_value(9).unwrap().is_none());
        assert_eq!(cursor.peek().unwrap(), Some(b','));
        cursor.seek_to(positions[1]).unwrap();
        assert_eq!(cursor.read_value(6).unwrap().unwrap().get(), "-2.5e3");
    }

    #[test]
    fn value_of_too_many_values_is_passed_over() {
        let json =
            format!("[[\"{}\"],[{}0]]", ",".repeat(MAX_VALUES + 1), "0,".repeat(MAX_VALUES + 1));
        let mut cursor = JsonCursor::copy_file(json.as_bytes(), &ImportPace::default()).unwrap();
        cursor.enter(b'[').unwrap();
        assert!(cursor.next_entry(b']', &mut true).unwrap());
        assert!(cursor.read_value(usize::MAX).unwrap().is_some());
        assert!(cursor.next_entry(b']', &mut false).unwrap());
        assert!(cursor.read_value(usize::MAX).unwrap().is_none());
        assert!(!cursor.next_entry(b']', &mut false).unwrap());
    }

    #[test]
    fn long_file_is_read_across_buffers() {
        let list: Vec<String> = (0..50_000).map(|number| number.to_string()).collect();
        let json = format!("[{}]", list.join(","));
        let mut cursor = JsonCursor::copy_file(json.as_bytes(), &ImportPace::default()).unwrap();
        cursor.enter(b'[').unwrap();
        let mut is_first = true;
        for number in &list {
            assert!(cursor.next_entry(b']', &mut is_first).unwrap());
            assert_eq!(cursor.read_value(10).unwrap().unwrap().get(), number);
        }
        assert!(!cursor.next_entry(b']', &mut is_first).unwrap());
        cursor.seek_to(1).unwrap();
        assert_eq!(cursor.read_value(10).unwrap().unwrap().get(), "0");
    }
}
