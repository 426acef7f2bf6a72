//! Logging and metrics, set up once at start. Message text and secrets are never logged.

use crate::config::LogFormat;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use std::io::IsTerminal;
use std::sync::LazyLock;
use tracing_subscriber::EnvFilter;

/// Logs to standard error. Fails if `directives` is not a valid filter.
pub fn init_logging(directives: &str, format: LogFormat) -> Result<(), String> {
    let filter = EnvFilter::try_new(directives)
        .map_err(|error| format!("RUST_LOG={directives}: {error}"))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Standard output is for the results of commands.
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let started = match format {
        LogFormat::Text => log.with_target(false).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| error.to_string())
}

/// The recorder of the process. Further servers in it share one.
static METRICS: LazyLock<Result<PrometheusHandle, String>> = LazyLock::new(|| {
    PrometheusBuilder::new().install_recorder().map_err(|error| error.to_string())
});

/// Starts to record metrics. Returns a function that renders them in the format of Prometheus.
pub fn record_metrics() -> Result<impl Fn() -> String + Send + Sync + 'static, String> {
    let handle = METRICS.as_ref().map_err(Clone::clone)?;
    Ok(|| handle.render())
}
