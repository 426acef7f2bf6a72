//! Parsers for the values of settings.

use bytesize::ByteSize;
use jiff::{Span, SpanRelativeTo};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

const SECONDS_PER_DAY: u64 = 24 * 60 * 60;

pub(super) fn parse_address(text: &str) -> Result<IpAddr, String> {
    if text == "localhost" {
        return Ok(Ipv4Addr::LOCALHOST.into());
    }
    let message =
        "must be localhost or an IP address, such as 127.0.0.1, or 0.0.0.0 for all interfaces";
    text.parse().map_err(|_| message.to_owned())
}

/// A host name as browsers send it in `Host`, optionally with a port.
pub(super) fn parse_host(text: &str) -> Result<String, String> {
    let text = text.trim();
    let (name, port) = match text.rsplit_once(':') {
        // An IPv6 address in brackets without a port: its last colon is part of the address.
        Some((name, port)) if !port.ends_with(']') => (name, port),
        // Any valid port will do: only its syntax is checked below.
        _ => (text, "443"),
    };
    let is_v6 = |name: &str| {
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        bare.is_some_and(|bare| bare.parse::<Ipv6Addr>().is_ok())
    };
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let is_name = !name.is_empty() && (name.bytes().all(is_letter) || is_v6(name));
    if is_name && port.parse::<u16>().is_ok() {
        return Ok(text.to_owned());
    }
    Err("must be host names such as chat.example.com or chat.example.com:8443, comma-separated, \
         without https://"
        .to_owned())
}

pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    parse_duration_up_to(text, 365, "250ms, 30s or 10m")
}

/// A duration of up to 100 years, for things that expire rather than time out.
pub(super) fn parse_lifetime(text: &str) -> Result<Duration, String> {
    parse_duration_up_to(text, 36_500, "90d, 12h or 30m")
}

/// jiff's friendly format, which it shares with ISO 8601: `90s`, `1h30m`, `1.5 s`, `PT30S`. Not
/// `humantime`, whose `M` is a month: `10M` for `10m` would be accepted as ten of them.
fn parse_duration_up_to(text: &str, days: u64, such_as: &str) -> Result<Duration, String> {
    let range = Duration::from_millis(1)..=Duration::from_secs(days * SECONDS_PER_DAY);
    let span: Span = text.parse().map_err(|_| format!("must be a duration such as {such_as}"))?;
    // Months and years have no fixed length, so they are no durations either.
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours());
    let duration = duration.ok().and_then(|duration| Duration::try_from(duration).ok());
    duration
        .filter(|duration| range.contains(duration))
        .ok_or_else(|| format!("must be from 1ms to {days}d"))
}

pub(super) fn parse_size(text: &str) -> Result<usize, String> {
    let size: Option<ByteSize> = text.parse().ok();
    let size = size.filter(|size| (ByteSize::kib(1)..=ByteSize::gib(1)).contains(size));
    size.and_then(|size| usize::try_from(size.as_u64()).ok())
        .ok_or_else(|| "must be a size such as 500KiB or 2MiB, from 1KiB to 1GiB".to_owned())
}

pub(super) fn parse_connection_count(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| (16..=1_000_000).contains(count));
    count.ok_or_else(|| "must be a whole number from 16 to 1000000".to_owned())
}

pub(super) fn parse_origin(text: &str) -> Result<String, String> {
    let origin = text.trim().trim_end_matches('/');
    // Browsers send origins without a path, in lower case.
    let authority = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    let is_bare =
        |authority: &str| !authority.is_empty() && !authority.contains(['/', '?', '#', '*', ' ']);
    match authority {
        Some(authority) if is_bare(authority) => Ok(origin.to_ascii_lowercase()),
        _ => Err("must be origins such as https://chat.example.com, comma-separated".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_parse_with_units_and_within_limits() {
        let read = |text| parse_duration(text).ok().map(|duration| duration.as_millis());
        for (text, millis) in [
            ("1ms", 1),
            ("250ms", 250),
            ("007s", 7_000),
            ("30s", 30_000),
            ("10m", 600_000),
            ("1h30m", 5_400_000),
            ("1.5s", 1_500),
            ("12h", 43_200_000),
            ("365d", 31_536_000_000),
            ("31536000000ms", 31_536_000_000),
        ] {
            assert_eq!(read(text), Some(millis), "{text}");
        }
        for wrong in [
            "",
            "soon",
            "90",
            "10M",
            "1mo",
            "1y",
            "-5s",
            "5s ago",
            "0s",
            "366d",
            "1us",
            "99999999999999999999s",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(parse_lifetime("36500d").map(|lifetime| lifetime.as_secs()), Ok(3_153_600_000));
        assert!(parse_duration("90").unwrap_err().ends_with("such as 250ms, 30s or 10m"));
        assert!(parse_duration("0s").unwrap_err().ends_with("from 1ms to 365d"));
    }

    #[test]
    fn sizes_parse_with_units_and_within_limits() {
        let read = |text| parse_size(text).ok();
        for (text, bytes) in [
            ("1024", 1024),
            ("2048B", 2048),
            ("1KiB", 1024),
            ("500KiB", 500 << 10),
            ("2MiB", 2 << 20),
            ("1GiB", 1 << 30),
            ("2MB", 2_000_000),
            ("1.5MiB", 3 << 19),
        ] {
            assert_eq!(read(text), Some(bytes), "{text}");
        }
        for wrong in
            ["", "much", "1023", "1B", "-1MiB", "2GiB", "2MiX", "99999999999999999999", "1e6"]
        {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
