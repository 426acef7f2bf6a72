//! The commands of the `echoic` program, one file each.

mod export;
mod import;
mod keys;
mod memory;
mod migrate;
mod output;
mod progress;
mod serve;
mod sessions;

use crate::config::{Cli, CliCommand, ConfigError};
use std::io::Write;
use std::process::ExitCode;

/// Parses the command line and runs the command. Exit codes: 0 success, 1 failure, 2 usage or
/// configuration error.
pub fn run_cli() -> ExitCode {
    let (cli, warnings) = match Cli::from_env() {
        Ok(parsed) => parsed,
        // clap knows the right stream and exit code: help is not an error.
        Err(ConfigError::Usage(error)) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
        Err(ConfigError::InvalidSetting(sentence)) => return exit_with_error(&sentence, 2),
    };
    let done = match cli.command {
        CliCommand::Serve(config) => serve::run_server(*config, &warnings),
        CliCommand::Keys(command) => keys::run_keys(*command),
        CliCommand::Export(args) => export::run_export(args),
        CliCommand::Import(args) => import::run_import(&args),
        CliCommand::Migrate(args) => migrate::run_migrate(&args),
        CliCommand::Sessions(command) => sessions::run_sessions(*command),
        CliCommand::Memory(command) => memory::run_memory(&command),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => exit_with_error(&sentence, 1),
    }
}

/// The runtime of all commands except `serve` and `sessions`.
fn build_runtime() -> Result<tokio::runtime::Runtime, String> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(1).enable_all().build().map_err(|error| error.to_string())
}

fn exit_with_error(sentence: &str, code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "echoic: {sentence}");
    ExitCode::from(code)
}
