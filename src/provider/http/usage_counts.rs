//! Reads the counts of usage reports. Reports decide what users are charged, so a count that no
//! reply can have is logged and ignored, and the usage is estimated as if it were missing.

use crate::domain::usage::MAX_TOKEN_COUNT;
use crate::json::lenient::RawObject;

/// Reads usage reports of one reply.
#[derive(Debug, Default)]
pub(in crate::provider) struct UsageCounts {
    /// Servers repeat the report in each chunk. One log line for each reply is enough.
    has_warned: bool,
}

impl UsageCounts {
    /// A token count. `None` if it is missing, null, or not a whole number up to
    /// [`MAX_TOKEN_COUNT`].
    pub(in crate::provider) fn read(&mut self, report: &RawObject<'_>, name: &str) -> Option<u64> {
        let raw = report.get(name)?;
        let count = report.count(name).filter(|count| *count <= MAX_TOKEN_COUNT);
        if count.is_none() && !self.has_warned {
            self.has_warned = true;
            let value: String = raw.get().chars().take(40).collect();
            tracing::warn!(field = name, value, "the provider reported an absurd usage, ignored");
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plausible_counts_are_read() {
        let read = |value: &str| {
            let json = format!(r#"{{"n":{value}}}"#);
            UsageCounts::default().read(&serde_json::from_str(&json).unwrap(), "n")
        };
        assert_eq!(["0", "7", "7.0", "1e3"].map(read), [Some(0), Some(7), Some(7), Some(1000)]);
        assert_eq!(read("1000000000"), Some(MAX_TOKEN_COUNT));
        let absurd =
            ["1000000001", "-1", "-0.5", "0.5", "1e308", "1e999", "\"7\"", "null", "[]", "true"];
        for value in absurd {
            assert_eq!(read(value), None, "{value}");
        }
    }
}
