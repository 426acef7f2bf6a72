//! How the values of settings are spelled.

use std::time::Duration;

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    up_to(text, 365)
}

/// A duration that may be longer than waiting for anything.
pub(super) fn lifetime(text: &str) -> Result<Duration, String> {
    up_to(text, 36_500)
}

fn up_to(text: &str, days: u64) -> Result<Duration, String> {
    let wants = || "must be a duration such as 250ms, 30s or 10m".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wants)?;
    let number: u64 = text[..digits].parse().map_err(|_| wants())?;
    let unit = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wants()),
    };
    let millis = number.checked_mul(unit).filter(|millis| (1..=days * 86_400_000).contains(millis));
    millis.map(Duration::from_millis).ok_or_else(|| format!("must be from 1ms to {days}d"))
}

pub(super) fn size(text: &str) -> Result<usize, String> {
    let wants = || "must be a size such as 500KiB or 2MiB, from 1KiB to 1GiB".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: usize = text[..digits].parse().map_err(|_| wants())?;
    let unit = match &text[digits..] {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(wants()),
    };
    number.checked_mul(unit).filter(|bytes| (1 << 10..=1 << 30).contains(bytes)).ok_or_else(wants)
}

pub(super) fn origin(text: &str) -> Result<String, String> {
    let origin = text.trim().trim_end_matches('/');
    let authority = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    let is_bare =
        |authority: &str| !authority.is_empty() && !authority.contains(['/', '?', '#', '*', ' ']);
    match authority {
        Some(authority) if is_bare(authority) => Ok(origin.to_ascii_lowercase()),
        _ => Err("must be origins such as https://chat.example.com, comma-separated".to_owned()),
    }
}
