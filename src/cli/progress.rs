//! Progress bars on standard error, shown if it is a terminal.

pub(super) use indicatif::ProgressBar;
use indicatif::{ProgressDrawTarget, ProgressStyle};
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};

/// `is_busy` hides the bar because the sessions themselves are printed to the terminal.
pub(super) fn build_session_bar(all: usize, is_busy: bool) -> ProgressBar {
    let target = if is_busy { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(Some(all as u64), target);
    apply_style(bar, "{wide_bar} {human_pos}/{human_len} sessions, {eta} left")
}

/// `size` is `None` if it is unknown, as for standard input.
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
        // The templates are constants; a broken one only costs the style.
        Err(_) => bar,
    }
}

/// Progress by messages: a bar, or without a terminal a line for every tenth.
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

    pub(super) fn advance(&self, messages: u64) {
        self.bar.inc(messages);
        let at = self.bar.position();
        let tenths = at * 10 / self.total.max(1);
        // `fetch_max` lets only one of several concurrent sessions print a tenth.
        if self.bar.is_hidden() && self.tenths.fetch_max(tenths, Ordering::Relaxed) < tenths {
            let _ = writeln!(io::stderr(), "{at} of {} messages", self.total);
        }
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
