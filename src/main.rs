//! The `echoic` program: a self-hosted backend for LLM chat with conversation memory.

/// glibc keeps the memory of a large request for itself; this one gives it back to the system.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    echoic::cli::run_cli()
}
