//! Settings of who may use the server.

use crate::auth::{AuthMode, JwtSettings};
use crate::domain::quota::{ModelPrice, Quota, QuotaUnit, RateLimit};
use clap::Args;
use ipnet::IpNet;
use std::net::IpAddr;

const AUTH_MODES: &[(&str, AuthMode)] = &[
    ("none", AuthMode::Disabled),
    ("proxy", AuthMode::Proxy),
    ("keys", AuthMode::Keys),
    ("jwt", AuthMode::Jwt),
];

/// Who may use the server.
#[derive(Debug, Clone, Args)]
pub struct AccessConfig {
    /// Who is asking: none (everyone is the user "local"), proxy, keys or jwt
    #[arg(long, value_name = "MODE", default_value = "none", value_parser = super::named_value_parser(AUTH_MODES))]
    pub auth: AuthMode,
    /// Listen beyond loopback although nobody is asked who they are
    #[arg(long, value_name = "BOOL", default_value = "false", num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub allow_unauthenticated: bool,
    /// Host names to answer to beside those of loopback, comma-separated; with keys and jwt all, if none is listed
    #[arg(long, value_name = "HOSTS", value_delimiter = ',', value_parser = super::values::parse_host)]
    pub allowed_hosts: Vec<String>,
    /// Addresses or networks of the proxies whose X-Forwarded-User and X-Forwarded-For are believed, comma-separated
    #[arg(long, value_name = "NETWORKS", value_delimiter = ',', value_parser = parse_network)]
    pub trusted_proxies: Vec<IpNet>,
    /// Secret that signs tokens (HS256), at least 32 bytes
    #[arg(long, value_name = "SECRET")]
    pub jwt_secret: Option<String>,
    /// Where the keys that sign tokens are published, in place of a secret
    #[arg(long, value_name = "URL")]
    pub jwt_jwks_url: Option<String>,
    /// Issuer that tokens must name
    #[arg(long, value_name = "ISSUER")]
    pub jwt_issuer: Option<String>,
    /// Audience that tokens must name
    #[arg(long, value_name = "AUDIENCE")]
    pub jwt_audience: Option<String>,
    /// Turns and posts per user, such as 60/m; reads get 20 times that; off: as many as they like; not with ECHOIC_AUTH=none
    #[arg(long, value_name = "RATE", default_value = "60/m", value_parser = parse_rate_limit)]
    pub rate_limit: OptionalLimit<RateLimit>,
    /// Replies that are written for a user at the same time, or off; not with ECHOIC_AUTH=none
    #[arg(long, value_name = "NUMBER", default_value = "8", value_parser = parse_concurrency_limit)]
    pub max_concurrent_turns: OptionalLimit<u32>,
    /// What models cost per million tokens: MODEL=PROMPT/COMPLETION or MODEL=PROMPT/CACHED/COMPLETION, comma-separated; a * ends the beginning of a name, and alone means every model; the first that fits counts
    #[arg(long, value_name = "PRICES", value_delimiter = ',', value_parser = parse_price)]
    pub prices: Vec<ModelPrice>,
    /// Tokens that may be used: 2000000 per user and month, or key:50000/day, project:1000000/month; comma-separated
    #[arg(long, value_name = "QUOTAS", value_delimiter = ',', value_parser = parse_token_quota)]
    pub quota_tokens: Vec<Quota>,
    /// Money that may be spent, by ECHOIC_PRICES, likewise: 20 or user:1.50/day; models without a price are refused then
    #[arg(long, value_name = "QUOTAS", value_delimiter = ',', value_parser = parse_cost_quota)]
    pub quota_cost: Vec<Quota>,
    /// Origins whose pages may use the API, comma-separated
    #[arg(long, value_name = "ORIGINS", value_delimiter = ',', value_parser = super::values::parse_origin)]
    pub cors_origins: Vec<String>,
}

/// Something that can be switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionalLimit<T>(pub Option<T>);

impl AccessConfig {
    /// How often a user may ask.
    pub fn request_rate(&self) -> Option<RateLimit> {
        self.rate_limit.0.filter(|_| self.auth != AuthMode::Disabled)
    }

    /// The terms on which turns run.
    pub fn quotas(&self) -> Vec<Quota> {
        self.quota_tokens.iter().chain(&self.quota_cost).copied().collect()
    }

    /// How many replies are written for a user at the same time.
    pub fn concurrency_limit(&self) -> Option<u32> {
        self.max_concurrent_turns.0.filter(|_| self.auth != AuthMode::Disabled)
    }

    /// Whose tokens are good.
    pub fn jwt_settings(&self) -> JwtSettings {
        JwtSettings {
            secret: self.jwt_secret.clone(),
            jwks_url: self.jwt_jwks_url.clone(),
            issuer: self.jwt_issuer.clone(),
            audience: self.jwt_audience.clone(),
        }
    }

    /// What only shows when settings are seen together.
    pub(super) fn validate(&self, host: IpAddr) -> Result<(), String> {
        match self.auth {
            AuthMode::Disabled if !host.is_loopback() && !self.allow_unauthenticated => Err(format!(
                "HOST={host}: without authentication the server listens on loopback only; set ECHOIC_ALLOW_UNAUTHENTICATED=true \
                 if everyone who can reach it may read and write every conversation"
            )),
            AuthMode::Proxy if self.trusted_proxies.is_empty() => Err(
                "ECHOIC_AUTH=proxy: set ECHOIC_TRUSTED_PROXIES to the addresses of the proxies whose \
                 X-Forwarded-User is to be believed"
                    .to_owned(),
            ),
            AuthMode::Jwt if self.jwt_secret.is_some() == self.jwt_jwks_url.is_some() => Err(
                "ECHOIC_AUTH=jwt: set JWT_SECRET or JWT_JWKS_URL, one of them".to_owned(),
            ),
            _ if self.prices.is_empty() && !self.quota_cost.is_empty() => Err(
                "ECHOIC_QUOTA_COST: set ECHOIC_PRICES to what the models cost, for without prices \
                 nothing is ever spent; *=PROMPT/COMPLETION is the price of every model that has \
                 none before it"
                    .to_owned(),
            ),
            _ => Ok(()),
        }
    }
}

fn parse_network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.map_err(|_| "must be addresses or networks such as 10.0.0.7 or 10.0.0.0/8".to_owned())
}

fn parse_rate_limit(text: &str) -> Result<OptionalLimit<RateLimit>, String> {
    let wants = || "must be a rate such as 60/m, 5/s or 1000/h, or off".to_owned();
    if text == "off" {
        return Ok(OptionalLimit(None));
    }
    RateLimit::parse(text).map(|rate| OptionalLimit(Some(rate))).ok_or_else(wants)
}

fn parse_concurrency_limit(text: &str) -> Result<OptionalLimit<u32>, String> {
    if text == "off" {
        return Ok(OptionalLimit(None));
    }
    let number = text.parse().ok().filter(|number| *number > 0);
    number
        .map(|number| OptionalLimit(Some(number)))
        .ok_or_else(|| "must be a number from 1, or off".to_owned())
}

fn parse_price(text: &str) -> Result<ModelPrice, String> {
    let wants =
        "must be prices per million tokens such as gpt-5-mini=0.25/0.025/2 or llama*=0.1/0.2";
    ModelPrice::parse(text).ok_or_else(|| wants.to_owned())
}

fn parse_token_quota(text: &str) -> Result<Quota, String> {
    let wants = "must be numbers of tokens such as 2000000, key:50000/day or project:1000000/month";
    Quota::parse(QuotaUnit::Tokens, text).ok_or_else(|| wants.to_owned())
}

fn parse_cost_quota(text: &str) -> Result<Quota, String> {
    let wants = "must be sums such as 20, key:1.50/day or project:100/month";
    Quota::parse(QuotaUnit::Cost, text).ok_or_else(|| wants.to_owned())
}
