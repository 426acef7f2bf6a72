//! Configuration: one documented struct, filled from the environment, a `.env` file and flags.
//!
//! This is the only place that reads the process's environment. A flag wins over a variable, the
//! environment over `.env`, and an empty variable counts as unset. The table in README.md and
//! `.env.example` are compared with [`list_variables`] by a test.

mod access;
mod commands;
mod embeddings;
mod memory;
mod models;
mod transfer;
mod values;

pub use access::AccessConfig;
pub use commands::{KeysCommand, KeysTask, NewKeyArgs, SessionsCommand};
pub use memory::MemoryCommand;
pub use models::PromptCacheKeyMode;
pub use transfer::{ExportArgs, ExportFormatArg, ImportArgs, MigrateArgs};

use crate::domain::memory::{MemoryStrategy, STRATEGY_NAMES};
use clap::builder::TypedValueParser;
use clap::{Args, Command, CommandFactory, FromArgMatches, Parser, ValueEnum};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use values::{parse_duration, parse_lifetime, parse_size};

pub use embeddings::EmbeddingsConfig;

/// The variables and the flags of `echoic serve` that they set.
const ENV_VARIABLES: &[(&str, &str)] = &[
    ("HOST", "host"),
    ("PORT", "port"),
    ("DATABASE_URL", "database-url"),
    ("ECHOIC_SQLITE_SYNC", "sqlite-sync"),
    ("ECHOIC_PROVIDER", "provider"),
    ("OPENAI_API_KEY", "openai-api-key"),
    ("OPENAI_BASE_URL", "openai-base-url"),
    ("ANTHROPIC_API_KEY", "anthropic-api-key"),
    ("ANTHROPIC_BASE_URL", "anthropic-base-url"),
    ("ECHOIC_PROMPT_CACHE_KEY", "prompt-cache-key"),
    ("ECHOIC_MODEL", "model"),
    ("ECHOIC_FALLBACK_MODELS", "fallback-models"),
    ("ECHOIC_FIRST_TOKEN_TIMEOUT", "first-token-timeout"),
    ("ECHOIC_IDLE_TIMEOUT", "idle-timeout"),
    ("ECHOIC_TURN_TIMEOUT", "turn-timeout"),
    ("ECHOIC_CONTEXT_WINDOW", "context-window"),
    ("ECHOIC_CONTEXT_WINDOWS", "context-windows"),
    ("ECHOIC_MEMORY_STRATEGY", "memory-strategy"),
    ("ECHOIC_MEMORY_TOKENS", "memory-tokens"),
    ("ECHOIC_EMBEDDINGS_URL", "embeddings-url"),
    ("ECHOIC_EMBEDDINGS_MODEL", "embeddings-model"),
    ("ECHOIC_EMBEDDINGS_KEY", "embeddings-key"),
    ("ECHOIC_TITLES", "titles"),
    ("ECHOIC_SMALL_MODEL", "small-model"),
    ("ECHOIC_PROMPTS_DIR", "prompts-dir"),
    ("ECHOIC_MAX_BODY", "max-body"),
    ("ECHOIC_MAX_MESSAGE", "max-message"),
    ("ECHOIC_AUTH", "auth"),
    ("ECHOIC_ALLOW_UNAUTHENTICATED", "allow-unauthenticated"),
    ("ECHOIC_ALLOWED_HOSTS", "allowed-hosts"),
    ("ECHOIC_TRUSTED_PROXIES", "trusted-proxies"),
    ("JWT_SECRET", "jwt-secret"),
    ("JWT_JWKS_URL", "jwt-jwks-url"),
    ("JWT_ISSUER", "jwt-issuer"),
    ("JWT_AUDIENCE", "jwt-audience"),
    ("ECHOIC_RATE_LIMIT", "rate-limit"),
    ("ECHOIC_MAX_CONCURRENT_TURNS", "max-concurrent-turns"),
    ("ECHOIC_PRICES", "prices"),
    ("ECHOIC_QUOTA_TOKENS", "quota-tokens"),
    ("ECHOIC_QUOTA_COST", "quota-cost"),
    ("ECHOIC_RETENTION", "retention"),
    ("ECHOIC_CORS_ORIGINS", "cors-origins"),
    ("ECHOIC_INSTANCE_LEASE", "instance-lease"),
    ("ECHOIC_SHUTDOWN_GRACE", "shutdown-grace"),
    ("RUST_LOG", "log"),
    ("ECHOIC_LOG_FORMAT", "log-format"),
];

/// The flags whose values nobody may read in a log: they are secrets, or may hold a password.
const SECRET_FLAGS: &[&str] = &[
    "database-url",
    "openai-api-key",
    "openai-base-url",
    "anthropic-api-key",
    "anthropic-base-url",
    "embeddings-url",
    "embeddings-key",
    "jwt-secret",
    "jwt-jwks-url",
    "from",
    "to",
];

/// A self-hosted backend for LLM chat with conversation memory.
///
/// Send a message, watch the answer stream, and never lose a word of it. Without a command it
/// serves. Every option can be set by the environment variable beside it, or in a file `.env`; an
/// option on the command line wins.
#[derive(Debug, Clone, Parser)]
#[command(name = "echoic", version, args_override_self = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: CliCommand,
}

/// What the program can do.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum CliCommand {
    /// Serve the API and the start page (the default)
    Serve(Box<Config>),
    /// List everybody's sessions, also beside a running server
    Sessions(Box<SessionsCommand>),
    /// Make, list and revoke the keys of the API, also beside a running server
    Keys(Box<KeysCommand>),
    /// Show what the model would be told next in a session, also beside a running server
    Memory(Box<MemoryCommand>),
    /// Write sessions to a file; a running server is not disturbed
    Export(ExportArgs),
    /// Read sessions from a file; while a server runs, send it the file: POST /api/import
    Import(ImportArgs),
    /// Move everything from SQLite to MongoDB
    Migrate(MigrateArgs),
}

/// Everything that can be configured.
#[derive(Debug, Clone, Args)]
pub struct Config {
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1", value_parser = values::parse_address)]
    pub host: IpAddr,
    /// Port to listen on; 0 picks a free one and prints it
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
    /// Where conversations are kept: sqlite://PATH, or for several instances mongodb://HOSTS/DATABASE
    #[arg(long, value_name = "URL", default_value = "sqlite://data/echoic.db")]
    pub database_url: DatabaseUrl,
    /// full: acknowledged is on disk; normal: may lose the last moment at power loss, never corrupts
    #[arg(long, value_name = "MODE", default_value = "full", value_parser = named_value_parser(SQLITE_SYNC_MODES))]
    pub sqlite_sync: SqliteSync,
    /// Who answers; auto: OpenAI if a key or base URL is set, else Anthropic if a key is, else a local Ollama if it answers, else the demo
    #[arg(long, value_enum, default_value_t = ProviderChoice::Auto)]
    pub provider: ProviderChoice,
    /// Key of the OpenAI-compatible endpoint
    #[arg(long, value_name = "KEY", hide_default_value = true)]
    pub openai_api_key: Option<String>,
    /// Base URL of the OpenAI-compatible endpoint, …/v1
    #[arg(long, value_name = "URL")]
    pub openai_base_url: Option<String>,
    /// Key of Anthropic's API
    #[arg(long, value_name = "KEY", hide_default_value = true)]
    pub anthropic_api_key: Option<String>,
    /// Base URL of Anthropic's API, without /v1
    #[arg(long, value_name = "URL")]
    pub anthropic_base_url: Option<String>,
    /// Name each session to the provider's prompt cache, as a hash; auto: only at OpenAI, others may refuse it
    #[arg(long, value_name = "WHEN", default_value = "auto", value_parser = named_value_parser(models::CACHE_KEY_MODES))]
    pub prompt_cache_key: PromptCacheKeyMode,
    /// Model that answers unless a request or session asks for another [default: the provider's usual one]
    #[arg(long)]
    pub model: Option<String>,
    /// Models tried in order when the first gives no reply, only before the first delta; comma-separated
    #[arg(long, value_name = "MODELS", value_delimiter = ',', value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub fallback_models: Vec<String>,
    /// How long a provider may take to the first token
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    pub first_token_timeout: Duration,
    /// How long a provider may be silent between tokens
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    pub idle_timeout: Duration,
    /// How long a whole reply may take
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = parse_duration)]
    pub turn_timeout: Duration,
    /// Context window in tokens [default: by model, else 128000]
    #[arg(long, value_name = "TOKENS", value_parser = models::parse_context_window)]
    pub context_window: Option<u32>,
    /// Context windows of single models, which win over that of all: MODEL=TOKENS,…; 32k is 32000
    #[arg(long, value_name = "WINDOWS", value_delimiter = ',', value_parser = models::parse_model_window)]
    pub context_windows: Vec<(String, u32)>,
    /// Memory strategy unless a request or session asks for another
    #[arg(long, value_name = "STRATEGY", default_value = "auto", value_parser = named_value_parser(&STRATEGY_NAMES))]
    pub memory_strategy: MemoryStrategy,
    /// Memory budget in tokens [default: the smaller of a quarter of the window and 16000]
    #[arg(long, value_name = "TOKENS")]
    pub memory_tokens: Option<u32>,
    /// Who makes vectors of messages
    #[command(flatten)]
    pub embeddings: EmbeddingsConfig,
    /// Who names sessions: first-message (its first line), or model
    #[arg(long, value_name = "WAY", default_value = "first-message", value_parser = named_value_parser(TITLE_MODES))]
    pub titles: TitleMode,
    /// Model that writes titles and summaries [default: the default model]
    #[arg(long, value_name = "MODEL")]
    pub small_model: Option<String>,
    /// Folder whose prompt templates override the built-in ones
    #[arg(long, value_name = "FOLDER")]
    pub prompts_dir: Option<PathBuf>,
    /// Largest request body (chat bodies: 32MiB)
    #[arg(long, value_name = "SIZE", default_value = "2MiB", value_parser = parse_size)]
    pub max_body: usize,
    /// Largest text of a message
    #[arg(long, value_name = "SIZE", default_value = "256KiB", value_parser = parse_size)]
    pub max_message: usize,
    /// Who may use the server
    #[command(flatten)]
    pub access: AccessConfig,
    /// Delete sessions that have been idle for longer, such as 90d [default: keep them]
    #[arg(long, value_name = "DURATION", value_parser = parse_lifetime)]
    pub retention: Option<Duration>,
    /// Silence after which an instance counts as gone
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = parse_duration)]
    pub instance_lease: Duration,
    /// How long running turns may finish at SIGTERM
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    pub shutdown_grace: Duration,
    /// What to log: a level, or directives as of tracing's EnvFilter
    #[arg(long, value_name = "DIRECTIVES", default_value = "info")]
    pub log: String,
    /// How to log
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = named_value_parser(LOG_FORMATS))]
    pub log_format: LogFormat,
}

const SQLITE_SYNC_MODES: &[(&str, SqliteSync)] =
    &[("full", SqliteSync::Full), ("normal", SqliteSync::Normal)];
const TITLE_MODES: &[(&str, TitleMode)] =
    &[("first-message", TitleMode::FirstMessage), ("model", TitleMode::Model)];
const LOG_FORMATS: &[(&str, LogFormat)] = &[("text", LogFormat::Text), ("json", LogFormat::Json)];

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProviderChoice {
    /// Whatever is there.
    Auto,
    /// An OpenAI-compatible endpoint.
    Openai,
    /// Anthropic.
    Anthropic,
    /// No model.
    Demo,
}

/// How hard a commit of the embedded store tries to be on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SqliteSync {
    /// What is acknowledged is on disk.
    Full,
    /// Power loss may take the last moment; the file is never corrupt.
    Normal,
}

/// Who names sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TitleMode {
    /// The first line of the first message.
    FirstMessage,
    /// A model.
    Model,
}

/// How to log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// A JSON object per line.
    Json,
}

/// Where conversations are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabaseUrl {
    /// In one SQLite file.
    Sqlite(PathBuf),
    /// In a MongoDB database: its connection string, which may hold a password.
    Mongodb(String),
}

impl FromStr for DatabaseUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wants = "must be sqlite://PATH, such as sqlite://data/echoic.db, or mongodb://HOST:PORT/DATABASE";
        match text.split_once("://") {
            Some(("sqlite", path)) if !path.is_empty() => Ok(Self::Sqlite(PathBuf::from(path))),
            Some(("mongodb" | "mongodb+srv", rest)) if !rest.is_empty() => {
                Ok(Self::Mongodb(text.to_owned()))
            }
            _ => Err(wants.to_owned()),
        }
    }
}

/// Why the program does not start.
#[derive(Debug)]
pub enum ConfigError {
    /// Help or version was asked for, or the command line is wrong: clap says it best.
    Usage(clap::Error),
    /// A sentence about a setting.
    InvalidSetting(String),
}

impl Cli {
    /// Reads `.env` from the working folder and the process's environment and arguments. Gives the
    /// command and warnings for the log.
    pub fn from_env() -> Result<(Self, Vec<String>), ConfigError> {
        let unreadable = |error| {
            ConfigError::InvalidSetting(format!(
                ".env cannot be read: {}",
                describe_dotenv_error(&error)
            ))
        };
        let mut environment: BTreeMap<String, String> = match dotenvy::from_path_iter(".env") {
            Ok(file) => file.collect::<Result<_, _>>().map_err(unreadable)?,
            Err(error) if error.not_found() => BTreeMap::new(),
            Err(error) => return Err(unreadable(error)),
        };
        for (name, value) in std::env::vars_os() {
            let Some(name) = name.to_str() else { continue };
            match value.into_string() {
                Ok(value) => drop(environment.insert(name.to_owned(), value)),
                Err(_) if ENV_VARIABLES.iter().any(|(known, _)| *known == name) => {
                    return Err(ConfigError::InvalidSetting(format!("{name} must be UTF-8")));
                }
                Err(_) => {}
            }
        }
        Self::from_parts(std::env::args_os().collect(), &environment)
    }

    /// The same, from arguments (the program's name first) and variables.
    pub fn from_parts(
        mut arguments: Vec<OsString>,
        environment: &BTreeMap<String, String>,
    ) -> Result<(Self, Vec<String>), ConfigError> {
        let names_command = |argument: &OsString| !argument.to_string_lossy().starts_with('-');
        let asks = |argument: &OsString| {
            matches!(argument.to_str(), Some("-h" | "--help" | "-V" | "--version"))
        };
        if arguments.is_empty() {
            arguments.push("echoic".into());
        }
        if !arguments.get(1).is_some_and(|first| names_command(first) || asks(first)) {
            arguments.insert(1, "serve".into());
        }
        let mut layered = arguments.clone();
        let known = Cli::command();
        if let Some(command) = arguments.get(1).and_then(|name| known.find_subcommand(name)) {
            let set = command_variables(command).filter_map(|(name, flag)| {
                let value = environment.get(*name).filter(|value| !value.is_empty())?;
                Some(OsString::from(format!("--{flag}={value}")))
            });
            // What comes later wins: the command line's own flags.
            layered.splice(2..2, set);
        }
        let parsed = build_command()
            .try_get_matches_from(layered)
            .and_then(|matches| Self::from_arg_matches(&matches));
        let cli = parsed.map_err(|error| to_config_error(error, &arguments))?;
        if let CliCommand::Serve(config) = &cli.command {
            config.validate()?;
        }
        Ok((cli, unknown_variable_warnings(environment)))
    }
}

/// The command line, with the variable of each option in its help.
pub fn build_command() -> Command {
    Cli::command().mut_subcommands(|command| {
        let variables: Vec<_> = command_variables(&command).collect();
        variables.into_iter().fold(command, |command, (name, flag)| {
            command.mut_arg(flag.replace('-', "_"), |arg| {
                let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
                arg.help(format!("{help} [env: {name}]"))
            })
        })
    })
}

/// The variables that a command has an option for.
fn command_variables(
    command: &Command,
) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
    let has = |flag: &str| command.get_arguments().any(|arg| arg.get_long() == Some(flag));
    ENV_VARIABLES.iter().filter(move |(_, flag)| has(flag))
}

/// Every variable, its default as the documentation shows it, and its help.
pub fn list_variables() -> Vec<(&'static str, String, String)> {
    let cli = Cli::command();
    let serve = cli.find_subcommand("serve");
    let describe = |(name, flag): &(&'static str, &str)| {
        let arg = serve?.get_arguments().find(|arg| arg.get_long() == Some(flag))?;
        let default = arg
            .get_default_values()
            .iter()
            .map(|value| value.to_string_lossy())
            .collect::<Vec<_>>();
        Some((
            *name,
            default.join(","),
            arg.get_help().map(ToString::to_string).unwrap_or_default(),
        ))
    };
    ENV_VARIABLES.iter().filter_map(describe).collect()
}

/// The line may hold a key, so nothing of it is told but where it stands.
fn describe_dotenv_error(error: &dotenvy::Error) -> String {
    let dotenvy::Error::LineParse(rest, _) = error else { return error.to_string() };
    let rest = rest.lines().next().unwrap_or_default().trim();
    let file = std::fs::read_to_string(".env").unwrap_or_default();
    let place = file.lines().position(|line| line.trim().ends_with(rest));
    format!(
        "line {} cannot be understood; it must be NAME=value, with single quotes around a value that \
         holds spaces, quotes, # or $",
        place.unwrap_or_default() + 1
    )
}

/// A wrong value that came from a variable is told with the variable's name; one that may hold a
/// secret is not told.
fn to_config_error(error: clap::Error, arguments: &[OsString]) -> ConfigError {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    let argument = text(ContextKind::InvalidArg).unwrap_or_default();
    let flag = argument.split([' ', '=']).next().unwrap_or_default();
    let given = arguments.iter().any(|given| given.to_string_lossy().starts_with(flag));
    let variable = ENV_VARIABLES.iter().find(|(_, own)| flag.strip_prefix("--") == Some(own));
    let variable = variable.map(|(name, _)| *name).filter(|_| !given);
    let is_secret = SECRET_FLAGS.iter().any(|own| flag.strip_prefix("--") == Some(own));
    if variable.is_none() && !is_secret {
        return ConfigError::Usage(error);
    }
    let name = variable.unwrap_or(flag);
    let value = text(ContextKind::InvalidValue).unwrap_or_default();
    let wants =
        match (error.kind(), std::error::Error::source(&error), error.get(ContextKind::ValidValue))
        {
            (ErrorKind::ValueValidation, Some(cause), _) => cause.to_string(),
            (_, _, Some(ContextValue::Strings(words))) => {
                format!("must be one of {}", words.join(", "))
            }
            _ => "cannot be used".to_owned(),
        };
    ConfigError::InvalidSetting(match is_secret {
        true => format!("{name} {wants}"),
        false => format!("{name}={value}: {wants}"),
    })
}

fn unknown_variable_warnings(environment: &BTreeMap<String, String>) -> Vec<String> {
    let is_known = |name: &str| ENV_VARIABLES.iter().any(|(known, _)| *known == name);
    let unknown = environment.keys().filter(|name| name.starts_with("ECHOIC_") && !is_known(name));
    unknown
        .map(|name| format!("{name} is set, but this version does not know it: it has no effect"))
        .collect()
}

impl Config {
    /// The configuration of `echoic serve` with these flags and an empty environment.
    pub fn from_flags<S: Into<OsString>>(
        flags: impl IntoIterator<Item = S>,
    ) -> Result<Self, ConfigError> {
        let arguments =
            ["echoic".into(), "serve".into()].into_iter().chain(flags.into_iter().map(Into::into));
        let (cli, _) = Cli::from_parts(arguments.collect(), &BTreeMap::new())?;
        match cli.command {
            CliCommand::Serve(config) => Ok(*config),
            _ => Err(ConfigError::InvalidSetting("only serve has a configuration".into())),
        }
    }

    /// Where to listen.
    pub fn listen_address(&self) -> SocketAddr {
        SocketAddr::new(self.host, self.port)
    }

    /// What only shows when settings are seen together.
    fn validate(&self) -> Result<(), ConfigError> {
        self.access.validate(self.host).map_err(ConfigError::InvalidSetting)
    }
}

/// A parser for one of a few words.
fn named_value_parser<T: Clone + Send + std::marker::Sync + 'static>(
    known: &'static [(&'static str, T)],
) -> impl TypedValueParser<Value = T> {
    let names = known.iter().map(|(word, _)| *word).collect::<Vec<_>>();
    clap::builder::PossibleValuesParser::new(names).try_map(move |text| {
        let found = known.iter().find(|(word, _)| *word == text).map(|(_, value)| value.clone());
        found.ok_or("is none of the known words")
    })
}
