//! Limit hits: a counter per limit, and a log line that is itself limited.
//!
//! An error of a request is reported where its response is written, under the limit that
//! [`Error::with_limit`](crate::error::Error::with_limit) names, or under its code. Limits that do
//! not end in such an error call [`note_hit`] themselves.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::fmt::Display;
use std::time::{Duration, Instant};

/// The counter of limit hits, by the name of the limit.
pub const HITS_METRIC: &str = "echoic_limit_hits_total";

/// Time between two log lines of one limit and one user or address.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// Users and addresses that are told apart in the log. Others share a line per limit.
const MAX_LOGGED: usize = 4096;

/// The lines of the last minute, by limit and user or address.
static RECENT_LINES: Mutex<Option<LineLimiter>> = Mutex::new(None);

/// Counts a hit of `limit`, and logs it at most once a minute for each `who`: a user or an address.
/// `bound` is the value that was exceeded, with its unit.
pub fn note_hit(limit: &'static str, who: impl Display, bound: impl Display) {
    metrics::counter!(HITS_METRIC, "limit" => limit).increment(1);
    let who = who.to_string();
    let mut lines = RECENT_LINES.lock();
    let suppressed = lines.get_or_insert_default().admit(limit, &who, Instant::now());
    drop(lines);
    if let Some(suppressed) = suppressed {
        tracing::warn!(limit, who, %bound, suppressed, "limit reached");
    }
}

/// Decides which hits are logged.
#[derive(Default)]
struct LineLimiter {
    lines: HashMap<(&'static str, String), RecentLine>,
}

struct RecentLine {
    logged_at: Instant,
    suppressed: u64,
}

impl LineLimiter {
    /// The number of hits that were not logged since the last line, or `None` if this one is not
    /// logged either.
    fn admit(&mut self, limit: &'static str, who: &str, now: Instant) -> Option<u64> {
        let is_old = |line: &RecentLine| now.duration_since(line.logged_at) >= LOG_INTERVAL;
        if self.lines.len() >= MAX_LOGGED {
            self.lines.retain(|_, line| !is_old(line));
        }
        let who = if self.lines.len() < MAX_LOGGED { who } else { "" };
        let Some(line) = self.lines.get_mut(&(limit, who.to_owned())) else {
            let line = RecentLine { logged_at: now, suppressed: 0 };
            self.lines.insert((limit, who.to_owned()), line);
            return Some(0);
        };
        if !is_old(line) {
            line.suppressed += 1;
            return None;
        }
        line.logged_at = now;
        Some(std::mem::take(&mut line.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_are_logged_once_a_minute_per_user_and_limit() {
        let mut lines = LineLimiter::default();
        let start = Instant::now();
        assert_eq!(lines.admit("rate", "ann", start), Some(0));
        assert_eq!(lines.admit("rate", "ann", start), None);
        assert_eq!(lines.admit("rate", "ben", start), Some(0));
        assert_eq!(lines.admit("size", "ann", start), Some(0));
        assert_eq!(lines.admit("rate", "ann", start + LOG_INTERVAL), Some(1));
    }

    #[test]
    fn many_addresses_share_a_line() {
        let mut lines = LineLimiter::default();
        let start = Instant::now();
        let logged = (0..2 * MAX_LOGGED)
            .filter(|address| lines.admit("rate", &address.to_string(), start).is_some())
            .count();
        assert_eq!(logged, MAX_LOGGED + 1);
        assert!(lines.lines.len() <= MAX_LOGGED + 1);
    }
}
