//! Import and export of conversations: the file formats, independent of how a file is transmitted.

mod chatgpt;
mod chatgpt_content;
pub mod export;
pub mod import;
pub mod import_notes;
mod markdown;
pub mod session_reader;
pub mod session_record;
