//! Import and export of conversations: the file formats, independent of how a file is transmitted.

mod chatgpt;
mod chatgpt_content;
mod chatgpt_marks;
pub mod export;
pub mod import;
pub mod import_notes;
mod imported_messages;
mod json_repair;
mod lenient_values;
mod markdown;
mod message_record;
mod session_json;
pub mod session_reader;
pub mod session_record;
