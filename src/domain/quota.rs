//! What somebody may use: requests in a while, tokens or money in a day or a month; and what a model
//! costs.

use super::key::KeyId;
use super::{ProjectId, Timestamp, Usage, UserId};
use std::num::NonZeroU32;
use std::time::Duration;

/// Money is counted in billionths of the unit that prices are in.
pub const NANOS_PER_UNIT: f64 = 1e9;

/// So many requests in such a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// How many.
    pub requests: NonZeroU32,
    /// In how long.
    pub period: Duration,
}

impl RateLimit {
    /// Reads `60/m`, `5/s`, `1000/h`.
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

/// Who pays for a turn.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct UsagePayer {
    /// The user who asked for it.
    pub user: UserId,
    /// The key that they came with.
    pub key: Option<KeyId>,
}

/// Whose use is counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotaScope {
    /// A user's.
    User,
    /// A key's.
    Key,
    /// A project's.
    Project,
}

/// In which time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotaPeriod {
    /// A day, in UTC.
    Day,
    /// A month, in UTC.
    Month,
}

/// In what it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotaUnit {
    /// Tokens of prompts and replies.
    Tokens,
    /// Money, in billionths.
    Cost,
}

/// How much may be used. A turn begins as long as less than that is spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Whose.
    pub scope: QuotaScope,
    /// When.
    pub period: QuotaPeriod,
    /// Of what.
    pub unit: QuotaUnit,
    /// How much.
    pub limit: i64,
}

impl Quota {
    /// Reads `2000000`, `key:50000/day`, `project:12.50/month`: per user and month unless it says
    /// otherwise.
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

    /// In words, for whoever has spent it.
    pub fn describe(&self) -> &'static str {
        match (self.scope, self.period) {
            (QuotaScope::User, QuotaPeriod::Day) => "the user's quota of the day",
            (QuotaScope::User, QuotaPeriod::Month) => "the user's quota of the month",
            (QuotaScope::Key, QuotaPeriod::Day) => "the key's quota of the day",
            (QuotaScope::Key, QuotaPeriod::Month) => "the key's quota of the month",
            (QuotaScope::Project, QuotaPeriod::Day) => "the project's quota of the day",
            (QuotaScope::Project, QuotaPeriod::Month) => "the project's quota of the month",
        }
    }
}

impl QuotaPeriod {
    /// The first day of the time that holds `now`, counted from 1970-01-01.
    pub fn first_day(self, now: Timestamp) -> i64 {
        match self {
            Self::Day => now.day_number(),
            Self::Month => now.first_day_of_month(),
        }
    }

    /// When the next one begins.
    pub fn ends_at(self, now: Timestamp) -> Timestamp {
        let next = match self {
            Self::Day => now.day_number() + 1,
            // From the 28th on, four more days lie in the next month.
            Self::Month => {
                Timestamp::from_day_number(now.first_day_of_month() + 31).first_day_of_month()
            }
        };
        Timestamp::from_day_number(next)
    }
}

/// What is counted together, by name: a user, a key, or a project of an owner's.
pub fn quota_key(
    of: QuotaScope,
    payer: &UsagePayer,
    owner: &UserId,
    project: Option<&ProjectId>,
) -> Option<String> {
    match of {
        QuotaScope::User => Some(format!("user:{}", payer.user)),
        QuotaScope::Key => payer.key.as_ref().map(|key| format!("key:{key}")),
        // Ids hold no slash, so no two projects have one name.
        QuotaScope::Project => project.map(|project| format!("project:{project}/{owner}")),
    }
}

/// What a model costs: per token, in billionths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelPrice {
    /// The model, or with a `*` at the end how its name begins.
    model: String,
    prompt: i64,
    cached: i64,
    completion: i64,
}

impl ModelPrice {
    /// Reads `MODEL=PROMPT/COMPLETION` or `MODEL=PROMPT/CACHED/COMPLETION`, per million tokens.
    pub fn parse(text: &str) -> Option<Self> {
        let (model, prices) = text.trim().rsplit_once('=')?;
        let prices: Option<Vec<i64>> = prices
            .split('/')
            .map(|price| Some((parse_amount(price)? * NANOS_PER_UNIT / 1e6).round() as i64))
            .collect();
        let (prompt, cached, completion) = match prices?.as_slice() {
            [prompt, completion] => (*prompt, *prompt, *completion),
            [prompt, cached, completion] => (*prompt, *cached, *completion),
            _ => return None,
        };
        let model = model.trim().to_owned();
        (!model.is_empty()).then_some(Self { model, prompt, cached, completion })
    }

    fn applies_to_model(&self, model: &str) -> bool {
        match self.model.strip_suffix('*') {
            Some(beginning) => model.starts_with(beginning),
            None => self.model == model,
        }
    }
}

/// What a reply cost, in billionths; `None` for a model without a price. The first price counts.
pub fn compute_cost(prices: &[ModelPrice], model: &str, usage: &Usage) -> Option<i64> {
    let price = prices.iter().find(|price| price.applies_to_model(model))?;
    let tokens = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let cached = usage.cached_tokens.min(usage.prompt_tokens);
    let parts = [
        (usage.prompt_tokens - cached, price.prompt),
        (cached, price.cached),
        (usage.completion_tokens, price.completion),
    ];
    let cost = |(count, each): (u64, i64)| tokens(count).saturating_mul(each);
    Some(parts.into_iter().map(cost).fold(0, i64::saturating_add))
}

/// Whether a model has a price.
pub fn has_price(prices: &[ModelPrice], model: &str) -> bool {
    prices.iter().any(|price| price.applies_to_model(model))
}

/// A sum of money that is not negative, as people write it.
fn parse_amount(text: &str) -> Option<f64> {
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
        let (tokens, cost) = (QuotaUnit::Tokens, QuotaUnit::Cost);
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
