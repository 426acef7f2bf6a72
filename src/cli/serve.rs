//! `echoic serve`: runs the server.

use crate::app::{App, TimingOptions};
use crate::config::Config;
use crate::telemetry;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Serves until SIGTERM or SIGINT. A second signal exits at once.
pub(super) fn run_server(config: Config, warnings: &[String]) -> Result<(), String> {
    telemetry::init_logging(&config.log, config.log_format)?;
    // Every client holds a connection, so the default soft limit is soon reached.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "raising the limit of open files failed");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(worker_count())
        .enable_all()
        .build();
    runtime.map_err(|error| error.to_string())?.block_on(async {
        // Handlers must be installed before the port is open: a process manager may signal the
        // server as soon as it answers.
        let shutdown = CancellationToken::new();
        let signals = watch_signals(shutdown.clone()).map_err(|error| error.to_string())?;
        let app = App::start(config, TimingOptions::default())
            .await
            .map_err(|error| error.chain().to_string())?;
        // The first log line; scripts wait for it and read the address from it.
        tracing::info!("Echoic is ready: {}", app.summary());
        for note in app.notes().iter().chain(warnings) {
            tracing::warn!("{note}");
        }
        let served = app.serve(shutdown).await.map_err(|error| error.chain().to_string());
        signals.abort();
        served
    })
}

/// One worker thread per core, minus one for the store's writer thread. On two cores, passing turns
/// between workers costs more than a second worker gains.
fn worker_count() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().saturating_sub(1).max(1))
}

fn watch_signals(shutdown: CancellationToken) -> std::io::Result<tokio::task::JoinHandle<()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    #[expect(clippy::disallowed_methods, reason = "the caller aborts it when the server has ended")]
    let watch = tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        // The server drains: running turns have until the shutdown grace ends.
        shutdown.cancel();
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::warn!("second signal, exiting immediately");
        std::process::exit(1);
    });
    Ok(watch)
}
