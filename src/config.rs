//! Configuration: one documented struct, filled from flags, the environment and a `.env` file.
//!
//! Only this module reads the process environment. Flags take precedence over the environment, the
//! environment over `.env`; an empty variable counts as unset. The `env` attribute of a field names
//! its variable; `hide_env_values` marks values that are secret or may contain a password, and that
//! no error may print. A test compares the table in README.md and `.env.example` with
//! [`list_variables`].

mod access;
mod commands;
mod embeddings;
mod memory;
mod models;
mod transfer;
mod values;

pub use access::{AccessConfig, OptionalLimit};
pub use commands::{KeysCommand, KeysTask, NewKeyArgs, SessionsCommand};
pub use memory::MemoryCommand;
pub use models::PromptCacheKeyMode;
pub use transfer::{ExportArgs, ImportArgs, MigrateArgs};

use crate::domain::memory::{MemoryStrategy, STRATEGY_NAMES};
use access::parse_percentage;
use clap::builder::{Resettable, TypedValueParser};
use clap::{Arg, Args, Command, CommandFactory, FromArgMatches, Parser, ValueEnum};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use values::{parse_duration, parse_lifetime, parse_size};

pub use embeddings::EmbeddingsConfig;

/// A self-hosted backend for LLM chat with conversation memory.
///
/// Without a command it runs the server; `echoic serve --help` lists its options. An option with an
/// environment variable next to it can also be set by that variable, or in a `.env` file. The
/// command line takes precedence.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "echoic",
    version,
    args_override_self = true,
    override_usage = "echoic [COMMAND] [OPTIONS]"
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: CliCommand,
}

#[derive(Debug, Clone, clap::Subcommand)]
pub enum CliCommand {
    /// Run the server: API and web console (the default)
    Serve(Box<Config>),
    /// List the sessions of all users; works while a server is running
    Sessions(Box<SessionsCommand>),
    /// Create, list and revoke API keys; works while a server is running
    Keys(Box<KeysCommand>),
    /// Show the next prompt of a session with token counts; works while a server is running
    Memory(Box<MemoryCommand>),
    /// Write sessions to a file; works while a server is running
    Export(ExportArgs),
    /// Read sessions from files, folders and archives; while a server is running, send the file to
    /// POST /api/import instead
    Import(ImportArgs),
    /// Migrate all data from SQLite to MongoDB
    Migrate(MigrateArgs),
}

/// The settings of `echoic serve`.
#[derive(Debug, Clone, Args)]
pub struct Config {
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS", env = "HOST", default_value = "127.0.0.1", value_parser = values::parse_address)]
    pub host: IpAddr,
    /// Port to listen on; 0 picks a free port and prints it
    #[arg(long, env = "PORT", default_value_t = 8080)]
    pub port: u16,
    /// Database: sqlite://PATH, or mongodb://HOSTS/DATABASE for several instances
    #[arg(
        long,
        value_name = "URL",
        env = "DATABASE_URL",
        hide_env_values = true,
        default_value = "sqlite://data/echoic.db"
    )]
    pub database_url: DatabaseUrl,
    /// Durability of SQLite; full: commits are on disk when acknowledged; normal: power loss may
    /// lose the last moments, but never corrupts the file
    #[arg(long, value_name = "MODE", env = "ECHOIC_SQLITE_SYNC", default_value = "full", value_parser = named_value_parser(SQLITE_SYNC_MODES))]
    pub sqlite_sync: SqliteSync,
    /// Model provider; auto: OpenAI if a key or base URL is set, otherwise Anthropic if a key is
    /// set, otherwise a local Ollama if it answers, otherwise the demo
    #[arg(long, env = "ECHOIC_PROVIDER", value_enum, default_value_t = ProviderChoice::Auto)]
    pub provider: ProviderChoice,
    /// API key of the OpenAI-compatible endpoint
    #[arg(long, value_name = "KEY", env = "OPENAI_API_KEY", hide_env_values = true)]
    pub openai_api_key: Option<String>,
    /// Base URL of the OpenAI-compatible endpoint, …/v1
    #[arg(long, value_name = "URL", env = "OPENAI_BASE_URL", hide_env_values = true)]
    pub openai_base_url: Option<String>,
    /// API key of the Anthropic API
    #[arg(long, value_name = "KEY", env = "ANTHROPIC_API_KEY", hide_env_values = true)]
    pub anthropic_api_key: Option<String>,
    /// Base URL of the Anthropic API, without /v1
    #[arg(long, value_name = "URL", env = "ANTHROPIC_BASE_URL", hide_env_values = true)]
    pub anthropic_base_url: Option<String>,
    /// Send a hash of the session id as the provider's prompt cache key; auto: only to OpenAI,
    /// since other endpoints may reject it
    #[arg(long, value_name = "WHEN", env = "ECHOIC_PROMPT_CACHE_KEY", default_value = "auto", value_parser = named_value_parser(models::CACHE_KEY_MODES))]
    pub prompt_cache_key: PromptCacheKeyMode,
    /// Model used unless a request or session names another [default: the provider's default model]
    #[arg(long, env = "ECHOIC_MODEL")]
    pub model: Option<String>,
    /// Models to try in order if the first one fails before its first token; comma-separated
    #[arg(long, value_name = "MODELS", env = "ECHOIC_FALLBACK_MODELS", value_delimiter = ',', value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub fallback_models: Vec<String>,
    /// Timeout for a provider's first token
    #[arg(long, value_name = "DURATION", env = "ECHOIC_FIRST_TOKEN_TIMEOUT", default_value = "60s", value_parser = parse_duration)]
    pub first_token_timeout: Duration,
    /// Timeout between two tokens of a provider
    #[arg(long, value_name = "DURATION", env = "ECHOIC_IDLE_TIMEOUT", default_value = "60s", value_parser = parse_duration)]
    pub idle_timeout: Duration,
    /// Timeout for a complete reply
    #[arg(long, value_name = "DURATION", env = "ECHOIC_TURN_TIMEOUT", default_value = "10m", value_parser = parse_duration)]
    pub turn_timeout: Duration,
    /// Context window in tokens [default: by model, else 128000]
    #[arg(long, value_name = "TOKENS", env = "ECHOIC_CONTEXT_WINDOW", value_parser = models::parse_context_window)]
    pub context_window: Option<u32>,
    /// Context windows of individual models, which take precedence: MODEL=TOKENS,…; 32k is 32000
    #[arg(long, value_name = "WINDOWS", env = "ECHOIC_CONTEXT_WINDOWS", value_delimiter = ',', value_parser = models::parse_model_window)]
    pub context_windows: Vec<(String, u32)>,
    /// Memory strategy used unless a request or session names another
    #[arg(long, value_name = "STRATEGY", env = "ECHOIC_MEMORY_STRATEGY", default_value = "auto", value_parser = named_value_parser(&STRATEGY_NAMES))]
    pub memory_strategy: MemoryStrategy,
    /// Memory budget in tokens [default: the smaller of a quarter of the window and 16000]
    #[arg(long, value_name = "TOKENS", env = "ECHOIC_MEMORY_TOKENS")]
    pub memory_tokens: Option<u32>,
    #[command(flatten)]
    pub embeddings: EmbeddingsConfig,
    /// Source of session titles: first-message (its first line) or model
    #[arg(long, value_name = "WAY", env = "ECHOIC_TITLES", default_value = "first-message", value_parser = named_value_parser(TITLE_MODES))]
    pub titles: TitleMode,
    /// Model that writes titles and summaries [default: the default model]
    #[arg(long, value_name = "MODEL", env = "ECHOIC_SMALL_MODEL")]
    pub small_model: Option<String>,
    /// Folder of prompt templates that override the built-in ones
    #[arg(long, value_name = "FOLDER", env = "ECHOIC_PROMPTS_DIR")]
    pub prompts_dir: Option<PathBuf>,
    /// Maximum number of open connections, half of them per address and an eighth per user
    /// [default: 16384, or fewer as the limit of open files requires]
    #[arg(long, value_name = "NUMBER", env = "ECHOIC_MAX_CONNECTIONS", value_parser = values::parse_connection_count)]
    pub max_connections: Option<usize>,
    /// Maximum size of a request body (chat bodies: 32MiB)
    #[arg(long, value_name = "SIZE", env = "ECHOIC_MAX_BODY", default_value = "2MiB", value_parser = parse_size)]
    pub max_body: usize,
    /// Maximum size of all request bodies and long answers that are in memory at the same time; a
    /// user may hold a quarter
    #[arg(long, value_name = "SIZE", env = "ECHOIC_MAX_BODIES", default_value = "256MiB", value_parser = parse_size)]
    pub max_bodies: usize,
    /// Maximum size of an import
    #[arg(long, value_name = "SIZE", env = "ECHOIC_MAX_IMPORT", default_value = "1GiB", value_parser = parse_size)]
    pub max_import: usize,
    /// Maximum size of a message's text
    #[arg(long, value_name = "SIZE", env = "ECHOIC_MAX_MESSAGE", default_value = "256KiB", value_parser = parse_size)]
    pub max_message: usize,
    #[command(flatten)]
    pub access: AccessConfig,
    /// Delete sessions that have been idle for longer than this, such as 90d [default: keep them]
    #[arg(long, value_name = "DURATION", env = "ECHOIC_RETENTION", value_parser = parse_lifetime)]
    pub retention: Option<Duration>,
    /// Share of all sessions that one sweep of ECHOIC_RETENTION may delete, or off; a sweep that
    /// finds more deletes nothing and says so in the log
    #[arg(long, value_name = "PERCENT", env = "ECHOIC_RETENTION_LIMIT", default_value = "10%", value_parser = parse_percentage)]
    pub retention_limit: OptionalLimit<u32>,
    /// Time without a heartbeat after which an instance is considered dead
    #[arg(long, value_name = "DURATION", env = "ECHOIC_INSTANCE_LEASE", default_value = "15s", value_parser = parse_duration)]
    pub instance_lease: Duration,
    /// Time that running turns have to finish at shutdown
    #[arg(long, value_name = "DURATION", env = "ECHOIC_SHUTDOWN_GRACE", default_value = "30s", value_parser = parse_duration)]
    pub shutdown_grace: Duration,
    /// Address to serve metrics on for Prometheus, such as 127.0.0.1:9090; they need no credentials
    /// [default: off]
    #[arg(long, value_name = "ADDRESS", env = "ECHOIC_METRICS_ADDR")]
    pub metrics_addr: Option<SocketAddr>,
    /// Log filter: a level, or directives of tracing's EnvFilter
    #[arg(long, value_name = "DIRECTIVES", env = "RUST_LOG", default_value = "info")]
    pub log: String,
    /// Format of log lines: text, or json with one object per line
    #[arg(long, value_name = "FORMAT", env = "ECHOIC_LOG_FORMAT", default_value = "text", value_parser = named_value_parser(LOG_FORMATS))]
    pub log_format: LogFormat,
}

const SQLITE_SYNC_MODES: &[(&str, SqliteSync)] =
    &[("full", SqliteSync::Full), ("normal", SqliteSync::Normal)];
const TITLE_MODES: &[(&str, TitleMode)] =
    &[("first-message", TitleMode::FirstMessage), ("model", TitleMode::Model)];
const LOG_FORMATS: &[(&str, LogFormat)] = &[("text", LogFormat::Text), ("json", LogFormat::Json)];

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProviderChoice {
    /// The first provider that is configured or reachable.
    Auto,
    /// An OpenAI-compatible endpoint.
    Openai,
    /// The Anthropic API.
    Anthropic,
    /// A built-in demo without a model.
    Demo,
}

/// Durability of commits in SQLite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SqliteSync {
    /// Acknowledged data is on disk.
    Full,
    /// Power loss may lose the last moments but never corrupts the file.
    Normal,
}

/// The source of session titles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TitleMode {
    /// The first line of the first message.
    FirstMessage,
    Model,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    /// One JSON object per line.
    Json,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabaseUrl {
    /// The path of the database file.
    Sqlite(PathBuf),
    /// A connection string. It may contain a password.
    Mongodb(String),
}

impl FromStr for DatabaseUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let message = "must be sqlite://PATH, such as sqlite://data/echoic.db, or mongodb://HOST:PORT/DATABASE";
        match text.split_once("://") {
            Some(("sqlite", path)) if !path.is_empty() => Ok(Self::Sqlite(PathBuf::from(path))),
            Some(("mongodb" | "mongodb+srv", rest)) if !rest.is_empty() => {
                Ok(Self::Mongodb(text.to_owned()))
            }
            _ => Err(message.to_owned()),
        }
    }
}

/// Why the program does not start.
#[derive(Debug)]
pub enum ConfigError {
    /// Help or the version was requested, or the command line is invalid. clap prints the message.
    Usage(clap::Error),
    /// A setting is invalid; the sentence names it.
    InvalidSetting(String),
}

impl Cli {
    /// Reads arguments, the environment, and `.env` in the working directory. Returns the command
    /// and warnings to log.
    pub fn from_env() -> Result<(Self, Vec<String>), ConfigError> {
        let known: Vec<String> = list_variables().into_iter().map(|(name, ..)| name).collect();
        let mut env_file = read_env_file()?;
        let mut names: BTreeSet<String> = env_file.keys().cloned().collect();
        for (name, value) in std::env::vars_os() {
            let Ok(name) = name.into_string() else { continue };
            // Other variables may hold any bytes; only ours have to be text.
            if known.contains(&name) && value.to_str().is_none() {
                return Err(ConfigError::InvalidSetting(format!("{name} must be UTF-8")));
            }
            // The environment wins, also with an empty variable, which unsets the one of the file.
            env_file.remove(&name);
            names.insert(name);
        }
        let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
        let arguments = std::env::args_os().collect();
        let cli = Self::parse_arguments(build_command(is_empty), arguments, &env_file)?;
        names.retain(|name| name.starts_with("ECHOIC_") && !known.contains(name));
        let warning = |name| format!("{name} is set but unknown to this version; it has no effect");
        Ok((cli, names.iter().map(warning).collect()))
    }

    /// `arguments` starts with the program name. `env_file` has the variables of `.env` that the
    /// environment does not set.
    fn parse_arguments(
        command: Command,
        mut arguments: Vec<OsString>,
        env_file: &BTreeMap<String, String>,
    ) -> Result<Self, ConfigError> {
        let names_command = |argument: &OsString| !argument.to_string_lossy().starts_with('-');
        let requests_info = |argument: &OsString| {
            matches!(argument.to_str(), Some("-h" | "--help" | "-V" | "--version"))
        };
        if arguments.is_empty() {
            arguments.push("echoic".into());
        }
        // `echoic` and `echoic --port 80` mean `echoic serve …`.
        if !arguments.get(1).is_some_and(|first| names_command(first) || requests_info(first)) {
            arguments.insert(1, "serve".into());
        }
        let mut layered = arguments.clone();
        if let Some(command) = arguments.get(1).and_then(|name| command.find_subcommand(name)) {
            // clap reads the process environment only. Exporting `.env` into it, as dotenvy offers,
            // would let the first of two equal names win instead of the last, and would apply
            // settings of other libraries, such as HTTPS_PROXY. So the file's variables become
            // flags in front of the command line's own, of which the last occurrence wins.
            let flags = command.get_arguments().filter_map(|arg| {
                let value = env_file.get(arg.get_env()?.to_str()?)?;
                let flag = format!("--{}={value}", arg.get_long()?);
                (!value.is_empty()).then(|| OsString::from(flag))
            });
            layered.splice(2..2, flags);
        }
        let parsed = command
            .try_get_matches_from(layered)
            .and_then(|matches| Self::from_arg_matches(&matches));
        let cli = parsed.map_err(|error| to_config_error(error, &arguments))?;
        // The other commands run next to a configured server and do not listen.
        if let CliCommand::Serve(config) = &cli.command {
            config.validate()?;
        }
        Ok(cli)
    }
}

/// The command line parser. Variables for which `is_ignored` holds are not read.
fn build_command(is_ignored: impl Fn(&OsStr) -> bool) -> Command {
    Cli::command().mut_subcommands(|command| {
        command.mut_args(|arg| {
            // clap would take an empty variable for a value.
            let arg = match arg.get_env().is_some_and(&is_ignored) {
                true => arg.env(Resettable::Reset),
                false => arg,
            };
            // Help shows names only: values may be secret, and help is the same everywhere.
            arg.hide_env_values(true)
        })
    })
}

fn read_env_file() -> Result<BTreeMap<String, String>, ConfigError> {
    let unreadable = |error| {
        let reason = describe_dotenv_error(&error);
        ConfigError::InvalidSetting(format!(".env cannot be read: {reason}"))
    };
    match dotenvy::from_path_iter(".env") {
        Ok(file) => file.collect::<Result<_, _>>().map_err(unreadable),
        Err(error) if error.not_found() => Ok(BTreeMap::new()),
        Err(error) => Err(unreadable(error)),
    }
}

/// Name, default and help of every variable, as documented in README.md.
pub fn list_variables() -> Vec<(String, String, String)> {
    let cli = Cli::command();
    let arguments = cli.find_subcommand("serve").into_iter().flat_map(Command::get_arguments);
    let describe = |arg: &Arg| {
        let defaults: Vec<_> =
            arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        Some((arg.get_env()?.to_str()?.to_owned(), defaults.join(","), help))
    };
    arguments.filter_map(describe).collect()
}

/// The argument with this flag (with its dashes) in any command.
fn find_argument(flag: &str) -> Option<Arg> {
    let cli = Cli::command();
    let mut arguments = cli.get_subcommands().flat_map(Command::get_arguments);
    let long = flag.strip_prefix("--")?;
    arguments.find(|arg| arg.get_long() == Some(long)).cloned()
}

/// Reports only the line number, since the line may contain a key.
fn describe_dotenv_error(error: &dotenvy::Error) -> String {
    let dotenvy::Error::LineParse(rest, _) = error else { return error.to_string() };
    // dotenvy reports the unparsed rest of the line but not its number. Search for the line that
    // ends with it.
    let rest = rest.lines().next().unwrap_or_default().trim();
    let file = std::fs::read_to_string(".env").unwrap_or_default();
    let line = file.lines().position(|line| line.trim().ends_with(rest));
    format!(
        "line {} is invalid; it must be NAME=value, with single quotes around a value that \
         contains spaces, quotes, # or $",
        line.unwrap_or_default() + 1
    )
}

/// If a variable set the invalid value, the error names the variable instead of the flag. Values of
/// secret settings, marked with `hide_env_values`, are left out.
fn to_config_error(error: clap::Error, arguments: &[OsString]) -> ConfigError {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    let argument = text(ContextKind::InvalidArg).unwrap_or_default();
    let flag = argument.split([' ', '=']).next().unwrap_or_default();
    let found = find_argument(flag);
    // clap names the flag, whatever set it.
    let names_flag =
        |argument: &OsString| argument.to_string_lossy().split('=').next() == Some(flag);
    let is_on_command_line = arguments.iter().any(names_flag);
    let variable = found.as_ref().filter(|_| !is_on_command_line).and_then(Arg::get_env);
    let variable = variable.map(|name| name.to_string_lossy());
    let is_secret = found.as_ref().is_some_and(Arg::is_hide_env_values_set);
    if variable.is_none() && !is_secret {
        return ConfigError::Usage(error);
    }
    let name = variable.as_deref().unwrap_or(flag);
    let value = text(ContextKind::InvalidValue).unwrap_or_default();
    let message =
        match (error.kind(), std::error::Error::source(&error), error.get(ContextKind::ValidValue))
        {
            (ErrorKind::ValueValidation, Some(cause), _) => cause.to_string(),
            // clap has no cause for a value that is not in the list of possible ones.
            (_, _, Some(ContextValue::Strings(words))) => {
                format!("must be one of {}", words.join(", "))
            }
            _ => "is invalid".to_owned(),
        };
    ConfigError::InvalidSetting(match is_secret {
        true => format!("{name} {message}"),
        false => format!("{name}={value}: {message}"),
    })
}

impl Config {
    /// The configuration of `echoic serve` with these flags and an empty environment.
    pub fn from_flags<S: Into<OsString>>(
        flags: impl IntoIterator<Item = S>,
    ) -> Result<Self, ConfigError> {
        let arguments =
            ["echoic".into(), "serve".into()].into_iter().chain(flags.into_iter().map(Into::into));
        let command = build_command(|_| true);
        let cli = Cli::parse_arguments(command, arguments.collect(), &BTreeMap::new())?;
        match cli.command {
            CliCommand::Serve(config) => Ok(*config),
            _ => Err(ConfigError::InvalidSetting("only serve takes a configuration".into())),
        }
    }

    pub fn listen_address(&self) -> SocketAddr {
        SocketAddr::new(self.host, self.port)
    }

    /// Checks conditions that involve several settings.
    fn validate(&self) -> Result<(), ConfigError> {
        self.access.validate(self.host).map_err(ConfigError::InvalidSetting)
    }
}

/// A parser that accepts the names of a fixed list of values.
fn named_value_parser<T: Clone + Send + std::marker::Sync + 'static>(
    known: &'static [(&'static str, T)],
) -> impl TypedValueParser<Value = T> {
    let names = known.iter().map(|(name, _)| *name).collect::<Vec<_>>();
    clap::builder::PossibleValuesParser::new(names).try_map(move |text| {
        let found = known.iter().find(|(name, _)| *name == text).map(|(_, value)| value.clone());
        found.ok_or("is not a known value")
    })
}
