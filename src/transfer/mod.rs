//! Whole conversations, in and out: the file formats, apart from how a file travels.

mod chatgpt;
mod chatgpt_text;
pub mod export;
pub mod file;
pub mod import;
mod markdown;
pub mod record;
