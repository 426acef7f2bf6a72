//! The file formats of exports.

use super::string_enum;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportFormat {
    /// One JSON object with a list of sessions.
    Json,
    /// One JSON object per line and session.
    Jsonl,
    /// The active paths, for reading.
    Markdown,
}

string_enum!(ExportFormat { Json = "json", Jsonl = "jsonl", Markdown = "markdown" });
