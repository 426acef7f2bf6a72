//! Arguments of the commands `sessions` and `keys`.

use super::values::parse_lifetime;
use super::{DatabaseUrl, named_value_parser};
use crate::domain::key::{ApiKey, AuthScope, KeyId};
use crate::domain::session::SessionStatus;
use crate::domain::{ProjectId, UserId};
use clap::{Args, Subcommand};
use std::time::Duration;

/// Arguments of `echoic sessions`.
#[derive(Debug, Clone, Args)]
pub struct SessionsCommand {
    /// Database: sqlite://PATH or mongodb://HOSTS/DATABASE
    #[arg(
        long,
        value_name = "URL",
        env = "DATABASE_URL",
        hide_env_values = true,
        default_value = "sqlite://data/echoic.db"
    )]
    pub database_url: DatabaseUrl,
    /// Only sessions of this user
    #[arg(long, value_parser = parse_user)]
    pub user: Option<UserId>,
    /// Only sessions with this status: active, agent_assigned, closed, …
    #[arg(long, value_parser = parse_status)]
    pub status: Option<SessionStatus>,
    /// Only sessions of this project
    #[arg(long, value_parser = parse_project)]
    pub project: Option<ProjectId>,
    /// Only sessions whose title contains words starting with each of these
    #[arg(long, value_name = "WORDS")]
    pub search: Option<String>,
    /// Print the sessions as one JSON array, with all fields of the API
    #[arg(long)]
    pub json: bool,
    /// Maximum number of sessions, most recently active first
    #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
}

/// Arguments of `echoic keys`.
#[derive(Debug, Clone, Args)]
pub struct KeysCommand {
    /// Database: sqlite://PATH or mongodb://HOSTS/DATABASE
    #[arg(
        long,
        value_name = "URL",
        env = "DATABASE_URL",
        hide_env_values = true,
        default_value = "sqlite://data/echoic.db",
        global = true
    )]
    pub database_url: DatabaseUrl,
    #[command(subcommand)]
    pub task: KeysTask,
}

#[derive(Debug, Clone, Subcommand)]
pub enum KeysTask {
    /// Create a key and print it; it cannot be shown again
    Create(NewKeyArgs),
    /// List the keys with owner, scope and last use
    List {
        /// Print the keys as one JSON array
        #[arg(long)]
        json: bool,
    },
    /// Revoke a key; running servers reject it within seconds
    Revoke {
        /// Key id, as shown by the list
        #[arg(value_parser = parse_key_id)]
        id: KeyId,
    },
}

/// Arguments of `echoic keys create`.
#[derive(Debug, Clone, Args)]
pub struct NewKeyArgs {
    /// User that requests with the key act as
    #[arg(long, value_parser = parse_user)]
    pub user: UserId,
    /// Name shown in the list of keys
    #[arg(long, value_parser = parse_key_name)]
    pub name: Option<String>,
    /// Permissions: read (change nothing), chat (everything the user may do), admin
    #[arg(long, default_value = "chat", value_parser = named_value_parser(AuthScope::NAMES))]
    pub scope: AuthScope,
    /// Short for --scope admin
    #[arg(long, conflicts_with = "scope")]
    pub admin: bool,
    /// Validity, such as 12h or 90d [default: until revoked]
    #[arg(long, value_name = "DURATION", value_parser = parse_lifetime)]
    pub expires: Option<Duration>,
}

fn parse_key_name(text: &str) -> Result<String, String> {
    ApiKey::parse_name(text).map_err(|invalid| invalid.message.into_owned())
}

fn parse_key_id(text: &str) -> Result<KeyId, String> {
    // Accept the whole key as well: users have the key more often than its id.
    let id =
        text.strip_prefix("ek_").and_then(|rest| rest.split_once('_')).map_or(text, |(id, _)| id);
    KeyId::parse(id).ok_or_else(|| "must be the id of a key: 12 digits and letters a-f".to_owned())
}

pub(super) fn parse_user(text: &str) -> Result<UserId, String> {
    UserId::parse("user", text).map_err(|invalid| invalid.message.into_owned())
}

fn parse_status(text: &str) -> Result<SessionStatus, String> {
    SessionStatus::parse(text).map_err(|invalid| invalid.message.into_owned())
}

fn parse_project(text: &str) -> Result<ProjectId, String> {
    ProjectId::parse("project", text).map_err(|invalid| invalid.message.into_owned())
}
