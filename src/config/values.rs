//! Parsers for the values of settings.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

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

fn parse_duration_up_to(text: &str, days: u64, such_as: &str) -> Result<Duration, String> {
    let invalid = || format!("must be a duration such as {such_as}");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(invalid)?;
    let number: u64 = text[..digits].parse().map_err(|_| invalid())?;
    let unit = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(invalid()),
    };
    let millis = number.checked_mul(unit).filter(|millis| (1..=days * 86_400_000).contains(millis));
    millis.map(Duration::from_millis).ok_or_else(|| format!("must be from 1ms to {days}d"))
}

pub(super) fn parse_size(text: &str) -> Result<usize, String> {
    let invalid = || "must be a size such as 500KiB or 2MiB, from 1KiB to 1GiB".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: usize = text[..digits].parse().map_err(|_| invalid())?;
    let unit = match &text[digits..] {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(invalid()),
    };
    number.checked_mul(unit).filter(|bytes| (1 << 10..=1 << 30).contains(bytes)).ok_or_else(invalid)
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
