//! What the commands beside `serve` take.

use super::values::parse_lifetime;
use super::{DatabaseUrl, named_value_parser};
use crate::domain::key::{ApiKey, AuthScope, KeyId};
use crate::domain::session::SessionStatus;
use crate::domain::{ProjectId, UserId};
use clap::{Args, Subcommand};
use std::time::Duration;

/// Which sessions `echoic sessions` lists, and how.
#[derive(Debug, Clone, Args)]
pub struct SessionsCommand {
    /// Where conversations are kept
    #[arg(long, value_name = "URL", default_value = "sqlite://data/echoic.db")]
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
    /// Only sessions with a word in their title for each of these that begins with it
    #[arg(long, value_name = "WORDS")]
    pub search: Option<String>,
    /// Print all of each session, as the API gives it, in one JSON list
    #[arg(long)]
    pub json: bool,
    /// Most sessions, newest activity first
    #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
}

/// What to do with the keys of the API.
#[derive(Debug, Clone, Args)]
pub struct KeysCommand {
    /// Where conversations are kept
    #[arg(long, value_name = "URL", default_value = "sqlite://data/echoic.db", global = true)]
    pub database_url: DatabaseUrl,
    /// What to do
    #[command(subcommand)]
    pub task: KeysTask,
}

/// What can be done with keys.
#[derive(Debug, Clone, Subcommand)]
pub enum KeysTask {
    /// Make a key and print it: it cannot be shown again
    Create(NewKeyArgs),
    /// List the keys: whose they are, what they allow, when they were used
    List {
        /// Print all of each key in one JSON list
        #[arg(long)]
        json: bool,
    },
    /// Take a key away; servers refuse it within seconds
    Revoke {
        /// The key's id, as the list shows it
        #[arg(value_parser = parse_key_id)]
        id: KeyId,
    },
}

/// What a new key is to be.
#[derive(Debug, Clone, Args)]
pub struct NewKeyArgs {
    /// The user who comes with it
    #[arg(long, value_parser = parse_user)]
    pub user: UserId,
    /// What to call it
    #[arg(long, value_parser = parse_key_name)]
    pub name: Option<String>,
    /// What it allows: read (change nothing), chat (all that its user may do), admin
    #[arg(long, default_value = "chat", value_parser = named_value_parser(AuthScope::NAMES))]
    pub scope: AuthScope,
    /// The same as --scope admin
    #[arg(long, conflicts_with = "scope")]
    pub admin: bool,
    /// How long it is good, such as 12h or 90d [default: until it is revoked]
    #[arg(long, value_name = "DURATION", value_parser = parse_lifetime)]
    pub expires: Option<Duration>,
}

fn parse_key_name(text: &str) -> Result<String, String> {
    ApiKey::parse_name(text).map_err(|invalid| invalid.message.into_owned())
}

fn parse_key_id(text: &str) -> Result<KeyId, String> {
    // The whole key is at hand more often than its id.
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
