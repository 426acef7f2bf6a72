//! The `echoic` program: a self-hosted backend for LLM chat with conversation memory.

fn main() -> std::process::ExitCode {
    echoic::cli::run_cli()
}
