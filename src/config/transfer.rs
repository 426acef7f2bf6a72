//! What the commands that take sessions in and out are told.

use super::{DatabaseUrl, named_value_parser, parse_size};
use crate::domain::{FieldError, ProjectId, SessionId, UserId};
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
    #[arg(long, default_value = "json", value_parser = named_value_parser(EXPORT_FORMATS))]
    pub format: ExportFormatArg,
    /// Whose sessions
    #[arg(long, default_value = "local", value_parser = parse_user)]
    pub user: UserId,
    /// Only this session, whoever owns it
    #[arg(long, value_name = "ID", value_parser = parse_session, conflicts_with = "project")]
    pub session: Option<SessionId>,
    /// Only the user's sessions of this project
    #[arg(long, value_name = "ID", value_parser = parse_project)]
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
    #[arg(long, default_value = "local", value_parser = parse_user)]
    pub user: UserId,
    /// Largest text of a message
    #[arg(long, value_name = "SIZE", default_value = "256KiB", value_parser = parse_size)]
    pub max_message: usize,
}

/// What `echoic migrate` is told.
#[derive(Debug, Clone, Args)]
#[command(after_help = MIGRATE_HELP)]
pub struct MigrateArgs {
    /// The SQLite file, as the server's DATABASE_URL names it: sqlite://PATH
    #[arg(long, value_name = "URL", value_parser = parse_sqlite_url)]
    pub from: PathBuf,
    /// The database, as the server's DATABASE_URL will name it: mongodb://HOSTS/DATABASE
    #[arg(long, value_name = "URL", value_parser = parse_mongodb_url)]
    pub to: String,
}

const MIGRATE_HELP: &str = "\
Moves every session with its messages, branches, read marks, waiting messages and remembered requests, reads \
each one back from the new database and compares it. The file stays as it is. Stop the server first, and start \
it on the new database afterwards.

It may be repeated, also after it was interrupted: what is there and equal is left as it is, what is missing \
is moved. A session that differs, because it was used in the new database since, is left alone and named, and \
the exit code is 1.

Example: echoic migrate --from sqlite://data/echoic.db --to mongodb://db1,db2,db3/echoic?replicaSet=rs0";

/// How an export is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportFormatArg {
    /// One JSON object.
    Json,
    /// A JSON object per session and line.
    Jsonl,
    /// For reading.
    Markdown,
}

const EXPORT_FORMATS: &[(&str, ExportFormatArg)] = &[
    ("json", ExportFormatArg::Json),
    ("jsonl", ExportFormatArg::Jsonl),
    ("markdown", ExportFormatArg::Markdown),
];

fn parse_user(text: &str) -> Result<UserId, FieldError> {
    UserId::parse("user", text)
}

fn parse_session(text: &str) -> Result<SessionId, FieldError> {
    SessionId::parse("session", text)
}

fn parse_project(text: &str) -> Result<ProjectId, FieldError> {
    ProjectId::parse("project", text)
}

fn parse_sqlite_url(text: &str) -> Result<PathBuf, String> {
    match text.parse()? {
        DatabaseUrl::Sqlite(path) => Ok(path),
        DatabaseUrl::Mongodb(_) => {
            Err("it moves from sqlite:// to mongodb:// only; mongodump and \
            mongorestore move from one MongoDB to another"
                .to_owned())
        }
    }
}

fn parse_mongodb_url(text: &str) -> Result<String, String> {
    match text.parse()? {
        DatabaseUrl::Mongodb(url) => Ok(url),
        DatabaseUrl::Sqlite(_) => Err("it moves from sqlite:// to mongodb:// only; VACUUM INTO \
            copies an SQLite file"
            .to_owned()),
    }
}
