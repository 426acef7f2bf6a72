//! What the commands that take sessions in and out are told.

use super::{DatabaseUrl, size, words};
use crate::domain::{Invalid, ProjectId, SessionId, UserId};
use clap::Args;
use std::path::PathBuf;

/// What `echoic export` is told.
#[derive(Debug, Clone, Args)]
pub struct ExportArgs {
    /// Where conversations are kept: sqlite://PATH
    #[arg(long, value_name = "URL", default_value = "sqlite://data/echoic.db")]
    pub database_url: DatabaseUrl,
    /// File to write, replaced once it is whole [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// json; jsonl: a session a line; markdown: active paths, for reading
    #[arg(long, default_value = "json", value_parser = words(FORMATS))]
    pub format: ExportFormat,
    /// Whose sessions
    #[arg(long, default_value = "local", value_parser = user)]
    pub user: UserId,
    /// Only this session, whoever owns it
    #[arg(long, value_name = "ID", value_parser = session, conflicts_with = "project")]
    pub session: Option<SessionId>,
    /// Only the user's sessions of this project
    #[arg(long, value_name = "ID", value_parser = project)]
    pub project: Option<ProjectId>,
}

/// What `echoic import` is told.
#[derive(Debug, Clone, Args)]
pub struct ImportArgs {
    /// File to read: an export of Echoic's, or ChatGPT's conversations.json; - is standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Where conversations are kept: sqlite://PATH
    #[arg(long, value_name = "URL", default_value = "sqlite://data/echoic.db")]
    pub database_url: DatabaseUrl,
    /// Who shall own the sessions
    #[arg(long, default_value = "local", value_parser = user)]
    pub user: UserId,
    /// Largest text of a message
    #[arg(long, value_name = "SIZE", default_value = "256KiB", value_parser = size)]
    pub max_message: usize,
}

/// How an export is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportFormat {
    /// One JSON object.
    Json,
    /// A JSON object per session and line.
    Jsonl,
    /// For reading.
    Markdown,
}

const FORMATS: &[(&str, ExportFormat)] = &[
    ("json", ExportFormat::Json),
    ("jsonl", ExportFormat::Jsonl),
    ("markdown", ExportFormat::Markdown),
];

fn user(text: &str) -> Result<UserId, Invalid> {
    UserId::parse("user", text)
}

fn session(text: &str) -> Result<SessionId, Invalid> {
    SessionId::parse("session", text)
}

fn project(text: &str) -> Result<ProjectId, Invalid> {
    ProjectId::parse("project", text)
}
