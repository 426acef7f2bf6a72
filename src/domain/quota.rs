//! Rate limits, quotas on tokens or cost per day or month, and model prices.

use super::key::KeyId;
use super::model::matches_pattern;
use super::{ProjectId, Timestamp, Usage, UserId};
use std::num::NonZeroU32;
use std::time::Duration;

/// Costs are integers in billionths of the currency unit that prices are given in.
pub const NANOS_PER_UNIT: f64 = 1e9;

/// Maximum cost of a call, in billionths of the currency unit: a million units.
pub const MAX_CALL_COST: i64 = 1_000_000_000_000_000;

/// At most `requests` requests per `period`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    pub requests: NonZeroU32,
    pub period: Duration,
}

impl RateLimit {
    /// Parses `60/m`, `5/s`, `1000/h`.
    pub fn parse(text: &str) -> Option<Self> {
        let (requests, per) = text.split_once('/')?;
        let seconds = match per {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return None,
        };
        Some(Self { requests: requests.parse().ok()?, period: Duration::from_secs(seconds) })
    }
}

/// The user and API key that a model call is charged to.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct UsagePayer {
    pub user: UserId,
    /// The API key of the request, if it was authenticated with one.
    pub key: Option<KeyId>,
}

/// The owner of the usage that a quota adds up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotaScope {
    User,
    Key,
    Project,
}

/// The period after which a quota starts again. Days and months are in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotaPeriod {
    Day,
    Month,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotaUnit {
    /// Prompt and completion tokens together.
    Tokens,
    /// Billionths of the currency unit.
    Cost,
}

/// A usage limit. A turn may start while usage is below it, so the last turn of a period can exceed
/// it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    pub scope: QuotaScope,
    pub period: QuotaPeriod,
    pub unit: QuotaUnit,
    /// In tokens, or in billionths of the currency unit.
    pub limit: i64,
}

impl Quota {
    /// Parses `2000000`, `key:50000/day`, `project:12.50/month`. The default is per user and month.
    pub fn parse(unit: QuotaUnit, text: &str) -> Option<Self> {
        let (of, rest) = match text.trim().split_once(':') {
            None => (QuotaScope::User, text.trim()),
            Some(("user", rest)) => (QuotaScope::User, rest),
            Some(("key", rest)) => (QuotaScope::Key, rest),
            Some(("project", rest)) => (QuotaScope::Project, rest),
            Some(_) => return None,
        };
        let (amount, per) = match rest.split_once('/') {
            None | Some((_, "month")) => (rest.split('/').next()?, QuotaPeriod::Month),
            Some((amount, "day")) => (amount, QuotaPeriod::Day),
            Some(_) => return None,
        };
        let limit = match unit {
            QuotaUnit::Tokens => amount.parse().ok()?,
            QuotaUnit::Cost => (parse_amount(amount)? * NANOS_PER_UNIT).round() as i64,
        };
        (limit >= 0).then_some(Self { scope: of, period: per, unit, limit })
    }

    /// Names the quota in error messages.
    pub fn describe(&self) -> &'static str {
        match (self.scope, self.period) {
            (QuotaScope::User, QuotaPeriod::Day) => "the user's daily quota",
            (QuotaScope::User, QuotaPeriod::Month) => "the user's monthly quota",
            (QuotaScope::Key, QuotaPeriod::Day) => "the key's daily quota",
            (QuotaScope::Key, QuotaPeriod::Month) => "the key's monthly quota",
            (QuotaScope::Project, QuotaPeriod::Day) => "the project's daily quota",
            (QuotaScope::Project, QuotaPeriod::Month) => "the project's monthly quota",
        }
    }
}

impl QuotaPeriod {
    /// The first day of the period that contains `now`, in days since 1970-01-01.
    pub fn first_day(self, now: Timestamp) -> i64 {
        match self {
            Self::Day => now.day_number(),
            Self::Month => now.first_day_of_month(),
        }
    }

    /// When the next period begins.
    pub fn ends_at(self, now: Timestamp) -> Timestamp {
        let next = match self {
            Self::Day => now.day_number() + 1,
            // Day 1 plus 31 is always in the next month, whatever the length of this one.
            Self::Month => {
                Timestamp::from_day_number(now.first_day_of_month() + 31).first_day_of_month()
            }
        };
        Timestamp::from_day_number(next)
    }
}

/// The key of a usage counter; `None` if the turn has no API key or project to count for.
pub fn quota_key(
    of: QuotaScope,
    payer: &UsagePayer,
    owner: &UserId,
    project: Option<&ProjectId>,
) -> Option<String> {
    match of {
        QuotaScope::User => Some(format!("user:{}", payer.user)),
        QuotaScope::Key => payer.key.as_ref().map(|key| format!("key:{key}")),
        // Project ids are unique per owner only. They contain no slash, so the key is unambiguous.
        QuotaScope::Project => project.map(|project| format!("project:{project}/{owner}")),
    }
}

/// The entries that count toward a usage counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotaSubject<'a> {
    User(&'a str),
    Key(&'a str),
    Project { project: &'a str, owner: &'a str },
}

/// Parses the key of a usage counter, the inverse of [`quota_key`].
pub fn parse_quota_key(key: &str) -> Option<QuotaSubject<'_>> {
    let (scope, rest) = key.split_once(':')?;
    match scope {
        "user" => Some(QuotaSubject::User(rest)),
        "key" => Some(QuotaSubject::Key(rest)),
        "project" => {
            let (project, owner) = rest.split_once('/')?;
            Some(QuotaSubject::Project { project, owner })
        }
        _ => None,
    }
}

/// The price of a model, per token, in billionths of the currency unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelPrice {
    /// See [`matches_pattern`].
    model: String,
    prompt: i64,
    cached: i64,
    completion: i64,
}

impl ModelPrice {
    /// Parses `MODEL=PROMPT/COMPLETION` or `MODEL=PROMPT/CACHED/COMPLETION`, given per million
    /// tokens.
    pub fn parse(text: &str) -> Option<Self> {
        let (model, prices) = text.trim().rsplit_once('=')?;
        let prices: Option<Vec<i64>> = prices
            .split('/')
            .map(|price| Some((parse_amount(price)? * NANOS_PER_UNIT / 1e6).round() as i64))
            .collect();
        let (prompt, cached, completion) = match prices?.as_slice() {
            // Without a price of their own, cached tokens cost as much as any other.
            [prompt, completion] => (*prompt, *prompt, *completion),
            [prompt, cached, completion] => (*prompt, *cached, *completion),
            _ => return None,
        };
        let model = model.trim().to_owned();
        (!model.is_empty()).then_some(Self { model, prompt, cached, completion })
    }

    fn applies_to_model(&self, model: &str) -> bool {
        matches_pattern(&self.model, model)
    }
}

/// The cost of a reply in billionths; `None` if the model has no price. The first matching price
/// applies.
pub fn compute_cost(prices: &[ModelPrice], model: &str, usage: &Usage) -> Option<i64> {
    let price = prices.iter().find(|price| price.applies_to_model(model))?;
    let tokens = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    // Usage is reported by providers. Without the minimum, inconsistent counts would underflow.
    let cached = usage.cached_tokens.min(usage.prompt_tokens);
    let parts = [
        (usage.prompt_tokens - cached, price.prompt),
        (cached, price.cached),
        (usage.completion_tokens, price.completion),
    ];
    let cost = |(count, each): (u64, i64)| tokens(count).saturating_mul(each);
    Some(parts.into_iter().map(cost).fold(0, i64::saturating_add).min(MAX_CALL_COST))
}

pub fn has_price(prices: &[ModelPrice], model: &str) -> bool {
    prices.iter().any(|price| price.applies_to_model(model))
}

/// Parses a non-negative decimal number without sign or exponent.
fn parse_amount(text: &str) -> Option<f64> {
    // `f64::from_str` accepts signs, exponents, `inf` and `nan` as well.
    let is_plain =
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    text.parse().ok().filter(|number: &f64| is_plain && *number < 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quota_defaults_to_user_and_month() {
        let quota = |of, per, unit, limit| Some(Quota { scope: of, period: per, unit, limit });
        let tokens = QuotaUnit::Tokens;
        let cost = QuotaUnit::Cost;
        assert_eq!(
            Quota::parse(tokens, "2000"),
            quota(QuotaScope::User, QuotaPeriod::Month, tokens, 2000)
        );
        assert_eq!(
            Quota::parse(tokens, "key:50/day"),
            quota(QuotaScope::Key, QuotaPeriod::Day, tokens, 50)
        );
        assert_eq!(
            Quota::parse(cost, " project:1.5/month"),
            quota(QuotaScope::Project, QuotaPeriod::Month, cost, 1_500_000_000)
        );
        for odd in ["", "many", "-1", "team:5", "5/week", "1.5", "5/day/day", "1e3"] {
            assert_eq!(Quota::parse(tokens, odd), None, "{odd}");
        }
    }

    #[test]
    fn first_matching_price_sets_reply_cost() {
        let read = |text: &str| ModelPrice::parse(text).unwrap();
        let prices = [read("gpt-5-mini=0.25/0.025/2"), read("gpt-5*=1.25/10")];
        let usage = Usage {
            prompt_tokens: 1_000_000,
            cached_tokens: 400_000,
            completion_tokens: 100_000,
            ..Usage::default()
        };
        assert_eq!(
            compute_cost(&prices, "gpt-5-mini", &usage),
            Some(150_000_000 + 10_000_000 + 200_000_000)
        );
        assert_eq!(compute_cost(&prices, "gpt-5.1", &usage), Some(1_250_000_000 + 1_000_000_000));
        assert_eq!(compute_cost(&prices, "llama", &usage), None);
        assert!(!has_price(&prices, "llama"));
        assert!(has_price(&[read("*=1/2")], "llama"), "a * alone is for every model");
        for odd in
            ["", "gpt-5", "gpt-5=", "gpt-5=1", "=1/2", "gpt-5=1/2/3/4", "gpt-5=a/b", "m=-1/2"]
        {
            assert_eq!(ModelPrice::parse(odd), None, "{odd}");
        }
    }

    #[test]
    fn quota_periods_start_at_midnight_utc() {
        let now = Timestamp::parse("2024-02-29T23:59:59Z").unwrap();
        let day = |text: &str| Timestamp::parse(text).unwrap().day_number();
        assert_eq!(QuotaPeriod::Month.first_day(now), day("2024-02-01T00:00:00Z"));
        assert_eq!(QuotaPeriod::Day.first_day(now), day("2024-02-29T12:00:00Z"));
        for per in [QuotaPeriod::Day, QuotaPeriod::Month] {
            assert_eq!(per.ends_at(now).to_string(), "2024-03-01T00:00:00.000Z");
        }
        let new_year = Timestamp::parse("2024-12-31T00:00:00Z").unwrap();
        assert_eq!(QuotaPeriod::Month.ends_at(new_year).to_string(), "2025-01-01T00:00:00.000Z");
        let january = Timestamp::parse("2025-01-31T10:00:00Z").unwrap();
        assert_eq!(QuotaPeriod::Month.ends_at(january).to_string(), "2025-02-01T00:00:00.000Z");
    }
}
