//! What the commands beside `serve` take.

use super::DatabaseUrl;
use crate::domain::session::SessionStatus;
use crate::domain::{ProjectId, UserId};
use clap::Args;

/// Which sessions `echoic sessions` lists, and how.
#[derive(Debug, Clone, Args)]
pub struct SessionsCommand {
    /// Where conversations are kept
    #[arg(long, value_name = "URL", default_value = "sqlite://data/echoic.db")]
    pub database_url: DatabaseUrl,
    /// Only sessions of this user
    #[arg(long, value_parser = user)]
    pub user: Option<UserId>,
    /// Only sessions with this status: active, agent_assigned, closed, …
    #[arg(long, value_parser = status)]
    pub status: Option<SessionStatus>,
    /// Only sessions of this project
    #[arg(long, value_parser = project)]
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

fn user(text: &str) -> Result<UserId, String> {
    UserId::parse("user", text).map_err(|invalid| invalid.wants.into_owned())
}

fn status(text: &str) -> Result<SessionStatus, String> {
    SessionStatus::parse(text).map_err(|invalid| invalid.wants.into_owned())
}

fn project(text: &str) -> Result<ProjectId, String> {
    ProjectId::parse("project", text).map_err(|invalid| invalid.wants.into_owned())
}
