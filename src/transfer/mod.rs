//! Whole conversations, in and out: the file formats, apart from how a file travels.

pub mod file;
pub mod import;
pub mod record;
