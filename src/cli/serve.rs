//! `echoic serve`: the server, from its first log line to its last.

use crate::app::{App, TimingOptions};
use crate::config::Config;
use crate::telemetry;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Serves until SIGTERM or SIGINT; a second signal ends the process at once.
pub(super) fn run_server(config: Config, warnings: &[String]) -> Result<(), String> {
    telemetry::init_logging(&config.log, config.log_format)?;
    // Each client holds a connection. Where more is not allowed, it stays as it is.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(worker_count())
        .enable_all()
        .build();
    runtime.map_err(|error| error.to_string())?.block_on(async {
        // Before anybody can know that the server is there, so that no signal finds it unprepared.
        let shutdown = CancellationToken::new();
        let signals = watch_signals(shutdown.clone()).map_err(|error| error.to_string())?;
        let app = App::start(config, TimingOptions::default())
            .await
            .map_err(|error| error.chain().to_string())?;
        // The first line says where everything is: scripts wait for it.
        tracing::info!("Echoic is ready: {}", app.summary());
        for note in app.notes().iter().chain(warnings) {
            tracing::warn!("{note}");
        }
        let served = app.serve(shutdown).await.map_err(|error| error.chain().to_string());
        signals.abort();
        served
    })
}

/// All cores but one, which the store's writer uses: handing a turn from worker to worker costs
/// more than a second worker brings on two cores.
fn worker_count() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().saturating_sub(1).max(1))
}

fn watch_signals(shutdown: CancellationToken) -> std::io::Result<tokio::task::JoinHandle<()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        shutdown.cancel();
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::warn!("a second signal: ending at once");
        std::process::exit(1);
    }))
}
