//! Progress bars on standard error, if that is a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};

/// Of so many sessions; none where the terminal shows the sessions themselves.
pub(super) fn of_sessions(all: usize, is_busy: bool) -> ProgressBar {
    let target = if is_busy { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(Some(all as u64), target);
    styled(bar, "{wide_bar} {human_pos}/{human_len} sessions, {eta} left")
}

/// Of a file, whose size may be unknown.
pub(super) fn of_bytes(size: Option<u64>) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(size, ProgressDrawTarget::stderr());
    let template = match size {
        Some(_) => "{wide_bar} {bytes}/{total_bytes}, {eta} left",
        None => "{spinner} {bytes} read",
    };
    styled(bar, template)
}

fn styled(bar: ProgressBar, template: &str) -> ProgressBar {
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Of so many messages: a bar, or without a terminal a line for each tenth.
pub(super) struct Messages {
    bar: ProgressBar,
    all: u64,
    tenths: AtomicU64,
}

impl Messages {
    pub(super) fn of(all: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(all), ProgressDrawTarget::stderr());
        let bar = styled(bar, "{wide_bar} {human_pos}/{human_len} messages, {eta} left");
        Self { bar, all, tenths: AtomicU64::new(0) }
    }

    /// Goes on by so many.
    pub(super) fn advance(&self, messages: u64) {
        self.bar.inc(messages);
        let at = self.bar.position();
        let tenths = at * 10 / self.all.max(1);
        if self.bar.is_hidden() && self.tenths.fetch_max(tenths, Ordering::Relaxed) < tenths {
            let _ = writeln!(io::stderr(), "{at} of {} messages", self.all);
        }
    }

    /// Clears the bar away.
    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}
