//! Arguments of the commands `export`, `import` and `migrate`.

use super::{DatabaseUrl, named_value_parser, parse_size};
use crate::domain::export_format::ExportFormat;
use crate::domain::{FieldError, ProjectId, SessionId, UserId};
use clap::Args;
use std::path::PathBuf;

/// Arguments of `echoic export`.
#[derive(Debug, Clone, Args)]
pub struct ExportArgs {
    /// Database: sqlite://PATH or mongodb://HOSTS/DATABASE
    #[arg(
        long,
        value_name = "URL",
        env = "DATABASE_URL",
        hide_env_values = true,
        default_value = "sqlite://data/echoic.db"
    )]
    pub database_url: DatabaseUrl,
    /// File to write, replaced once the export is complete [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// json: one object; jsonl: one session per line; markdown: active paths, for reading
    #[arg(long, default_value = "json", value_parser = named_value_parser(ExportFormat::NAMES))]
    pub format: ExportFormat,
    /// User whose sessions are exported
    #[arg(long, default_value = "local", value_parser = parse_user)]
    pub user: UserId,
    /// Only this session, regardless of its owner
    #[arg(long, value_name = "ID", value_parser = parse_session, conflicts_with = "project")]
    pub session: Option<SessionId>,
    /// Only the user's sessions of this project
    #[arg(long, value_name = "ID", value_parser = parse_project)]
    pub project: Option<ProjectId>,
}

/// Arguments of `echoic import`.
#[derive(Debug, Clone, Args)]
pub struct ImportArgs {
    /// Files and folders to read: exports of Echoic, ChatGPT, Claude.ai, Open WebUI, LibreChat,
    /// chat-ui or DeepSeek, as JSON or as the ZIP archives they come in; - is standard input
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Database: sqlite://PATH or mongodb://HOSTS/DATABASE
    #[arg(
        long,
        value_name = "URL",
        env = "DATABASE_URL",
        hide_env_values = true,
        default_value = "sqlite://data/echoic.db"
    )]
    pub database_url: DatabaseUrl,
    /// User who will own the sessions
    #[arg(long, default_value = "local", value_parser = parse_user)]
    pub user: UserId,
    /// Maximum size of a session's system prompt
    #[arg(long, value_name = "SIZE", env = "ECHOIC_MAX_MESSAGE", default_value = "256KiB", value_parser = parse_size)]
    pub max_message: usize,
}

/// Arguments of `echoic migrate`.
#[derive(Debug, Clone, Args)]
#[command(after_help = MIGRATE_HELP)]
pub struct MigrateArgs {
    /// SQLite file to read, as in the server's DATABASE_URL: sqlite://PATH
    #[arg(long, value_name = "URL", hide_env_values = true, value_parser = parse_sqlite_url)]
    pub from: PathBuf,
    /// MongoDB database to write, as in the server's new DATABASE_URL: mongodb://HOSTS/DATABASE
    #[arg(long, value_name = "URL", hide_env_values = true, value_parser = parse_mongodb_url)]
    pub to: String,
}

const MIGRATE_HELP: &str = "\
Copies every session with its messages, branches, read marks, queued messages and idempotency records, reads \
each one back from the new database and compares it. The file is not changed. Stop the server first and start \
it with the new database afterwards.

The command can be repeated, also after an interruption: sessions that are already present and equal are \
skipped, missing ones are copied. A session that differs, because it has been used in the new database since, is \
not changed but reported, and the exit code is 1.

Example: echoic migrate --from sqlite://data/echoic.db --to mongodb://db1,db2,db3/echoic?replicaSet=rs0";

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
            Err("must be sqlite://PATH; between MongoDB databases use mongodump and \
            mongorestore"
                .to_owned())
        }
    }
}

fn parse_mongodb_url(text: &str) -> Result<String, String> {
    match text.parse()? {
        DatabaseUrl::Mongodb(url) => Ok(url),
        DatabaseUrl::Sqlite(_) => Err("must be mongodb://HOSTS/DATABASE; to copy an SQLite \
            file use VACUUM INTO"
            .to_owned()),
    }
}
