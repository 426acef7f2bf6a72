//! Whole conversations, in and out: the file format, apart from how the file travels.

pub mod file;
pub mod record;
