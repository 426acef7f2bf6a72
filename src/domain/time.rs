//! Points in time: milliseconds since 1970, formatted as RFC 3339 in UTC.

use jiff::Span;
use jiff::fmt::friendly::{Designator, Spacing, SpanPrinter};
use jiff::fmt::temporal::{DateTimeParser, DateTimePrinter};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::time::Duration;

const MILLIS_PER_DAY: i64 = 86_400_000;

/// A point in time with millisecond precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Seconds, rounded down.
    pub const fn as_seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// Parses RFC 3339 with any offset. Digits below milliseconds are dropped.
    pub fn parse(text: &str) -> Option<Self> {
        // jiff accepts more than RFC 3339: years of more than four digits, dates without
        // separators, time zone names. Check the shape first.
        let shape: Vec<u8> =
            text.bytes().map(|byte| if byte.is_ascii_digit() { b'0' } else { byte }).collect();
        let (date, rest) = shape.split_at_checked(19)?;
        let zone = match rest.strip_prefix(b".") {
            Some(fraction) => {
                &fraction[fraction.iter().take_while(|byte| **byte == b'0').count()..]
            }
            None => rest,
        };
        let is_zone = matches!(zone, b"Z" | b"z" | b"+00:00" | b"-00:00");
        if !matches!(date, b"0000-00-00T00:00:00" | b"0000-00-00t00:00:00" | b"0000-00-00 00:00:00")
            || !is_zone
        {
            return None;
        }
        let parsed = DateTimeParser::new().parse_timestamp(text).ok()?;
        Some(Self(parsed.as_millisecond()))
    }

    /// The time before `now` in its largest unit: "5 minutes ago". A month counts as 30 days, a
    /// year as 365.
    pub fn format_ago(self, now: Self) -> String {
        // Rounded down in every unit: an event 59 minutes and 59 seconds ago is "59 minutes ago".
        let minutes = i64::try_from(now.duration_since(self).as_secs() / 60).unwrap_or(i64::MAX);
        let hours = minutes / 60;
        let days = minutes / (60 * 24);
        let span = Span::new();
        let span = match (minutes, hours, days) {
            (0, ..) => return "just now".to_owned(),
            // jiff prints a negative span with "ago".
            (minutes, 0, _) => span.try_minutes(-minutes),
            (_, hours, 0) => span.try_hours(-hours),
            (.., days) if days < 30 => span.try_days(-days),
            (.., days) if days < 365 => span.try_months(-days / 30),
            (.., days) => span.try_years(-days / 365),
        };
        let words = SpanPrinter::new()
            .designator(Designator::Verbose)
            .spacing(Spacing::BetweenUnitsAndDesignators);
        span.map_or_else(|_| "long ago".to_owned(), |span| words.span_to_string(&span))
    }

    /// The day in UTC for prompts: "8 May 2023".
    pub fn format_day(self) -> String {
        let time = jiff::Timestamp::from_millisecond(self.0).unwrap_or_default();
        time.to_zoned(jiff::tz::TimeZone::UTC).strftime("%-d %B %Y").to_string()
    }

    /// The day in UTC, in days since 1970-01-01.
    pub const fn day_number(self) -> i64 {
        self.0.div_euclid(MILLIS_PER_DAY)
    }

    /// The beginning of a day, given in days since 1970-01-01.
    pub const fn from_day_number(day: i64) -> Self {
        Self(day.saturating_mul(MILLIS_PER_DAY))
    }

    /// The first day of the month in UTC, in days since 1970-01-01.
    pub fn first_day_of_month(self) -> i64 {
        let time = jiff::Timestamp::from_millisecond(self.0).unwrap_or_default();
        // Subtracting the day of the month needs no calendar arithmetic of our own.
        let day_of_month = time.to_zoned(jiff::tz::TimeZone::UTC).day();
        self.day_number() - i64::from(day_of_month) + 1
    }

    /// The time since `earlier`; zero if `earlier` is later.
    pub fn duration_since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0).try_into().unwrap_or(0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(3));
        let timestamp = jiff::Timestamp::from_millisecond(self.0).map_err(|_| fmt::Error)?;
        PRINTER.print_timestamp(&timestamp, jiff::fmt::StdFmtWrite(f)).map_err(|_| fmt::Error)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            serde::de::Error::custom(
                "must be an RFC 3339 timestamp such as 2026-01-31T12:00:00.000Z",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamp_prints_as_utc_with_milliseconds() {
        let time = Timestamp::parse("2025-04-22T16:35:10.5+02:00").unwrap();
        assert_eq!(time.to_string(), "2025-04-22T14:35:10.500Z");
        assert_eq!(
            Timestamp::parse("2025-04-22t14:35:10z"),
            Timestamp::parse("2025-04-22T14:35:10.000Z")
        );
        for other in [
            "yesterday",
            "",
            "2025-04-22",
            "20250422T143510Z",
            "-009998-01-01T00:00:00Z",
            "2025-04-22T14:35:10",
            "2025-04-22T14:35:10Z[Europe/Paris]",
            "2025-13-22T14:35:10Z",
            "2025-04-22T14:35:10+2",
        ] {
            assert_eq!(Timestamp::parse(other), None, "{other}");
        }
    }

    #[test]
    fn past_time_is_formatted_in_its_largest_unit() {
        let now = Timestamp::parse("2026-01-31T12:00:00Z").unwrap();
        let ago =
            |seconds: i64| Timestamp::from_millis(now.as_millis() - 1000 * seconds).format_ago(now);
        let day = 24 * 60 * 60;
        for (seconds, words) in [
            (-5, "just now"),
            (59, "just now"),
            (60, "1 minute ago"),
            (5 * 60 + 59, "5 minutes ago"),
            (60 * 60 - 1, "59 minutes ago"),
            (60 * 60, "1 hour ago"),
            (day - 1, "23 hours ago"),
            (day, "1 day ago"),
            (30 * day - 1, "29 days ago"),
            (30 * day, "1 month ago"),
            (365 * day - 1, "12 months ago"),
            (365 * day, "1 year ago"),
            (40 * 365 * day, "40 years ago"),
        ] {
            assert_eq!(ago(seconds), words, "{seconds}");
        }
        assert_eq!(Timestamp::from_millis(i64::MIN).format_ago(now), "long ago");
    }
}
