//! What the `echoic` program does. One file per command.

mod export;
mod import;
mod keys;
mod memory;
mod migrate;
mod progress;
mod serve;
mod sessions;
mod text;

use crate::config::{Cli, CliCommand, Refusal};
use std::io::Write;
use std::process::ExitCode;

/// Reads the command line and carries it out. Exit codes: 0 done, 1 failed, 2 cannot be done as
/// asked.
pub fn run() -> ExitCode {
    let (cli, warnings) = match Cli::from_process() {
        Ok(parsed) => parsed,
        Err(Refusal::Usage(error)) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
        Err(Refusal::Setting(sentence)) => return complain(&sentence, 2),
    };
    let done = match cli.command {
        CliCommand::Serve(config) => serve::run(*config, &warnings),
        CliCommand::Keys(command) => keys::run(*command),
        CliCommand::Export(args) => export::run(args),
        CliCommand::Import(args) => import::run(&args),
        CliCommand::Migrate(args) => migrate::run(&args),
        CliCommand::Sessions(command) => sessions::run(*command),
        CliCommand::Memory(command) => memory::run(&command),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => complain(&sentence, 1),
    }
}

/// What a command that is no server runs on.
fn runtime() -> Result<tokio::runtime::Runtime, String> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(1).enable_all().build().map_err(|error| error.to_string())
}

fn complain(sentence: &str, code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "echoic: {sentence}");
    ExitCode::from(code)
}
