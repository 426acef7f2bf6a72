//! Progress bars on standard error, if that is a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};

/// Of so many sessions; none where the terminal shows the sessions themselves.
pub(super) fn build_session_bar(all: usize, is_busy: bool) -> ProgressBar {
    let target = if is_busy { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(Some(all as u64), target);
    apply_style(bar, "{wide_bar} {human_pos}/{human_len} sessions, {eta} left")
}

/// Of a file, whose size may be unknown.
pub(super) fn build_byte_bar(size: Option<u64>) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(size, ProgressDrawTarget::stderr());
    let template = match size {
        Some(_) => "{wide_bar} {bytes}/{total_bytes}, {eta} left",
        None => "{spinner} {bytes} read",
    };
    apply_style(bar, template)
}

fn apply_style(bar: ProgressBar, template: &str) -> ProgressBar {
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Of so many messages: a bar, or without a terminal a line for each tenth.
pub(super) struct MessageProgress {
    bar: ProgressBar,
    total: u64,
    tenths: AtomicU64,
}

impl MessageProgress {
    pub(super) fn new(all: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(all), ProgressDrawTarget::stderr());
        let bar = apply_style(bar, "{wide_bar} {human_pos}/{human_len} messages, {eta} left");
        Self { bar, total: all, tenths: AtomicU64::new(0) }
    }

    /// Goes on by so many.
    pub(super) fn advance(&self, messages: u64) {
        self.bar.inc(messages);
        let at = self.bar.position();
        let tenths = at * 10 / self.total.max(1);
        if self.bar.is_hidden() && self.tenths.fetch_max(tenths, Ordering::Relaxed) < tenths {
            let _ = writeln!(io::stderr(), "{at} of {} messages", self.total);
        }
    }

    /// Clears the bar away.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
