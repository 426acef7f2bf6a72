//! What somebody may use: requests in a while, tokens or money in a day or a month; and what a model
//! costs.

use super::key::KeyId;
use super::{ProjectId, Timestamp, Usage, UserId};
use std::num::NonZeroU32;
use std::time::Duration;

/// Money is counted in billionths of the unit that prices are in.
pub const NANO: f64 = 1e9;

/// So many requests in such a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub requests: NonZeroU32,
    /// In how long.
    pub per: Duration,
}

impl Rate {
    /// Reads `60/m`, `5/s`, `1000/h`.
    pub fn parse(text: &str) -> Option<Self> {
        let (requests, per) = text.split_once('/')?;
        let seconds = match per {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return None,
        };
        Some(Self { requests: requests.parse().ok()?, per: Duration::from_secs(seconds) })
    }
}

/// Who pays for a turn.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Payer {
    /// The user who asked for it.
    pub user: UserId,
    /// The key that they came with.
    pub key: Option<KeyId>,
}

/// Whose use is counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// A user's.
    User,
    /// A key's.
    Key,
    /// A project's.
    Project,
}

/// In which time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Per {
    /// A day, in UTC.
    Day,
    /// A month, in UTC.
    Month,
}

/// In what it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Tokens of prompts and replies.
    Tokens,
    /// Money, in billionths.
    Cost,
}

/// How much may be used. A turn begins as long as less than that is spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Whose.
    pub of: Of,
    /// When.
    pub per: Per,
    /// Of what.
    pub unit: Unit,
    /// How much.
    pub limit: i64,
}

impl Quota {
    /// Reads `2000000`, `key:50000/day`, `project:12.50/month`: per user and month unless it says
    /// otherwise.
    pub fn parse(unit: Unit, text: &str) -> Option<Self> {
        let (of, rest) = match text.trim().split_once(':') {
            None => (Of::User, text.trim()),
            Some(("user", rest)) => (Of::User, rest),
            Some(("key", rest)) => (Of::Key, rest),
            Some(("project", rest)) => (Of::Project, rest),
            Some(_) => return None,
        };
        let (amount, per) = match rest.split_once('/') {
            None | Some((_, "month")) => (rest.split('/').next()?, Per::Month),
            Some((amount, "day")) => (amount, Per::Day),
            Some(_) => return None,
        };
        let limit = match unit {
            Unit::Tokens => amount.parse().ok()?,
            Unit::Cost => (decimal(amount)? * NANO).round() as i64,
        };
        (limit >= 0).then_some(Self { of, per, unit, limit })
    }

    /// In words, for whoever has spent it.
    pub fn told(&self) -> &'static str {
        match (self.of, self.per) {
            (Of::User, Per::Day) => "the user's quota of the day",
            (Of::User, Per::Month) => "the user's quota of the month",
            (Of::Key, Per::Day) => "the key's quota of the day",
            (Of::Key, Per::Month) => "the key's quota of the month",
            (Of::Project, Per::Day) => "the project's quota of the day",
            (Of::Project, Per::Month) => "the project's quota of the month",
        }
    }
}

impl Per {
    /// The first day of the time that holds `now`, counted from 1970-01-01.
    pub fn first_day(self, now: Timestamp) -> i64 {
        match self {
            Self::Day => now.day(),
            Self::Month => now.first_day_of_month(),
        }
    }

    /// When the next one begins.
    pub fn ends_at(self, now: Timestamp) -> Timestamp {
        let next = match self {
            Self::Day => now.day() + 1,
            // From the 28th on, four more days lie in the next month.
            Self::Month => Timestamp::of_day(now.first_day_of_month() + 31).first_day_of_month(),
        };
        Timestamp::of_day(next)
    }
}

/// What is counted together, by name: a user, a key, or a project of an owner's.
pub fn purse(of: Of, payer: &Payer, owner: &UserId, project: Option<&ProjectId>) -> Option<String> {
    match of {
        Of::User => Some(format!("user:{}", payer.user)),
        Of::Key => payer.key.as_ref().map(|key| format!("key:{key}")),
        // Ids hold no slash, so no two projects have one name.
        Of::Project => project.map(|project| format!("project:{project}/{owner}")),
    }
}

/// What a model costs: per token, in billionths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Price {
    /// The model, or with a `*` at the end how its name begins.
    model: String,
    prompt: i64,
    cached: i64,
    completion: i64,
}

impl Price {
    /// Reads `MODEL=PROMPT/COMPLETION` or `MODEL=PROMPT/CACHED/COMPLETION`, per million tokens.
    pub fn parse(text: &str) -> Option<Self> {
        let (model, prices) = text.trim().rsplit_once('=')?;
        let prices: Option<Vec<i64>> = prices
            .split('/')
            .map(|price| Some((decimal(price)? * NANO / 1e6).round() as i64))
            .collect();
        let (prompt, cached, completion) = match prices?.as_slice() {
            [prompt, completion] => (*prompt, *prompt, *completion),
            [prompt, cached, completion] => (*prompt, *cached, *completion),
            _ => return None,
        };
        let model = model.trim().to_owned();
        (!model.is_empty()).then_some(Self { model, prompt, cached, completion })
    }

    fn is_for(&self, model: &str) -> bool {
        match self.model.strip_suffix('*') {
            Some(beginning) => model.starts_with(beginning),
            None => self.model == model,
        }
    }
}

/// What a reply cost, in billionths; `None` for a model without a price. The first price counts.
pub fn cost(prices: &[Price], model: &str, usage: &Usage) -> Option<i64> {
    let price = prices.iter().find(|price| price.is_for(model))?;
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
pub fn has_price(prices: &[Price], model: &str) -> bool {
    prices.iter().any(|price| price.is_for(model))
}

/// A sum of money that is not negative, as people write it.
fn decimal(text: &str) -> Option<f64> {
    let is_plain =
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    text.parse().ok().filter(|number: &f64| is_plain && *number < 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_per_user_and_month_unless_they_say_otherwise() {
        let quota = |of, per, unit, limit| Some(Quota { of, per, unit, limit });
        let (tokens, cost) = (Unit::Tokens, Unit::Cost);
        assert_eq!(Quota::parse(tokens, "2000"), quota(Of::User, Per::Month, tokens, 2000));
        assert_eq!(Quota::parse(tokens, "key:50/day"), quota(Of::Key, Per::Day, tokens, 50));
        assert_eq!(
            Quota::parse(cost, " project:1.5/month"),
            quota(Of::Project, Per::Month, cost, 1_500_000_000)
        );
        for odd in ["", "many", "-1", "team:5", "5/week", "1.5", "5/day/day", "1e3"] {
            assert_eq!(Quota::parse(tokens, odd), None, "{odd}");
        }
    }

    #[test]
    fn a_reply_costs_what_the_first_price_of_its_model_says() {
        let read = |text: &str| Price::parse(text).unwrap();
        let prices = [read("gpt-5-mini=0.25/0.025/2"), read("gpt-5*=1.25/10")];
        let usage = Usage {
            prompt_tokens: 1_000_000,
            cached_tokens: 400_000,
            completion_tokens: 100_000,
            ..Usage::default()
        };
        assert_eq!(
            cost(&prices, "gpt-5-mini", &usage),
            Some(150_000_000 + 10_000_000 + 200_000_000)
        );
        assert_eq!(cost(&prices, "gpt-5.1", &usage), Some(1_250_000_000 + 1_000_000_000));
        assert_eq!(cost(&prices, "llama", &usage), None);
        assert!(!has_price(&prices, "llama"));
        assert!(has_price(&[read("*=1/2")], "llama"), "a * alone is for every model");
        for odd in
            ["", "gpt-5", "gpt-5=", "gpt-5=1", "=1/2", "gpt-5=1/2/3/4", "gpt-5=a/b", "m=-1/2"]
        {
            assert_eq!(Price::parse(odd), None, "{odd}");
        }
    }

    #[test]
    fn months_and_days_begin_at_midnight_in_utc() {
        let now = Timestamp::parse("2024-02-29T23:59:59Z").unwrap();
        let day = |text: &str| Timestamp::parse(text).unwrap().day();
        assert_eq!(Per::Month.first_day(now), day("2024-02-01T00:00:00Z"));
        assert_eq!(Per::Day.first_day(now), day("2024-02-29T12:00:00Z"));
        for per in [Per::Day, Per::Month] {
            assert_eq!(per.ends_at(now).to_string(), "2024-03-01T00:00:00.000Z");
        }
        let new_year = Timestamp::parse("2024-12-31T00:00:00Z").unwrap();
        assert_eq!(Per::Month.ends_at(new_year).to_string(), "2025-01-01T00:00:00.000Z");
        let january = Timestamp::parse("2025-01-31T10:00:00Z").unwrap();
        assert_eq!(Per::Month.ends_at(january).to_string(), "2025-02-01T00:00:00.000Z");
    }
}
