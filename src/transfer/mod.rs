//! Whole conversations, in and out: the file formats, apart from how a file travels.

mod chatgpt;
mod chatgpt_content;
pub mod export;
pub mod import;
mod markdown;
pub mod session_reader;
pub mod session_record;
