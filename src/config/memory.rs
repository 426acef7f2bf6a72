//! Arguments of `echoic memory`.

use super::commands::parse_user;
use super::models::{parse_context_window, parse_model_window};
use super::{DatabaseUrl, named_value_parser};
use crate::domain::memory::{MemoryOptions, MemoryStrategy, STRATEGY_NAMES};
use crate::domain::{SessionId, UserId};
use clap::Args;
use std::path::PathBuf;

/// Arguments of `echoic memory`. The server settings that affect a prompt are included, with their
/// variables.
#[derive(Debug, Clone, Args)]
pub struct MemoryCommand {
    /// Id of the session, as listed by echoic sessions
    #[arg(value_name = "SESSION", value_parser = parse_session)]
    pub session: SessionId,
    /// New message; without it, the prompt ends with the last message of the session
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub message: Option<String>,
    /// Memory strategy [default: the session's, else the server's]
    #[arg(long, value_name = "STRATEGY", value_parser = named_value_parser(&STRATEGY_NAMES))]
    pub strategy: Option<MemoryStrategy>,
    /// Maximum tokens of history
    #[arg(long, value_name = "TOKENS")]
    pub max_tokens: Option<u32>,
    /// Maximum tokens of recalled messages, as part of --max-tokens
    #[arg(long, value_name = "TOKENS")]
    pub recall_tokens: Option<u32>,
    /// Number of messages that the window strategy includes
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub last_messages: Option<u32>,
    /// Fail unless the session belongs to this user
    #[arg(long, value_parser = parse_user)]
    pub user: Option<UserId>,
    /// Print the preview as JSON, as the API returns it
    #[arg(long)]
    pub json: bool,
    /// Database: sqlite://PATH or mongodb://HOSTS/DATABASE
    #[arg(
        long,
        value_name = "URL",
        env = "DATABASE_URL",
        hide_env_values = true,
        default_value = "sqlite://data/echoic.db"
    )]
    pub database_url: DatabaseUrl,
    /// The server's default model [default: the model of the last reply]
    #[arg(long, env = "ECHOIC_MODEL")]
    pub model: Option<String>,
    /// The server's context window in tokens [default: by model, else 128000]
    #[arg(long, value_name = "TOKENS", env = "ECHOIC_CONTEXT_WINDOW", value_parser = parse_context_window)]
    pub context_window: Option<u32>,
    /// The server's context windows of individual models: MODEL=TOKENS,…
    #[arg(long, value_name = "WINDOWS", env = "ECHOIC_CONTEXT_WINDOWS", value_delimiter = ',', value_parser = parse_model_window)]
    pub context_windows: Vec<(String, u32)>,
    /// The server's memory strategy
    #[arg(long, value_name = "STRATEGY", env = "ECHOIC_MEMORY_STRATEGY", default_value = "auto", value_parser = named_value_parser(&STRATEGY_NAMES))]
    pub memory_strategy: MemoryStrategy,
    /// The server's memory budget in tokens
    #[arg(long, value_name = "TOKENS", env = "ECHOIC_MEMORY_TOKENS")]
    pub memory_tokens: Option<u32>,
    /// The server's folder of prompt templates
    #[arg(long, value_name = "FOLDER", env = "ECHOIC_PROMPTS_DIR")]
    pub prompts_dir: Option<PathBuf>,
}

impl MemoryCommand {
    pub fn memory_options(&self) -> MemoryOptions {
        MemoryOptions {
            strategy: self.strategy,
            last_messages: self.last_messages,
            max_tokens: self.max_tokens,
            recall_tokens: self.recall_tokens,
        }
    }
}

fn parse_session(text: &str) -> Result<SessionId, String> {
    SessionId::parse("session", text).map_err(|invalid| invalid.message.into_owned())
}
