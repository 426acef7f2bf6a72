//! Access settings: authentication, rate limits, quotas and prices.

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

const SWITCH: &[(&str, bool)] = &[("on", true), ("off", false)];

/// Access to the server: authentication and limits.
#[derive(Debug, Clone, Args)]
pub struct AccessConfig {
    /// Authentication: none (every user is "local"), proxy, keys or jwt
    #[arg(long, value_name = "MODE", env = "ECHOIC_AUTH", default_value = "none", value_parser = super::named_value_parser(AUTH_MODES))]
    pub auth: AuthMode,
    /// Listen beyond loopback without authentication
    #[arg(long, value_name = "BOOL", env = "ECHOIC_ALLOW_UNAUTHENTICATED", default_value = "false", num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub allow_unauthenticated: bool,
    /// Host names to accept in addition to loopback, comma-separated; with keys and jwt an empty
    /// list accepts any
    #[arg(long, value_name = "HOSTS", env = "ECHOIC_ALLOWED_HOSTS", value_delimiter = ',', value_parser = super::values::parse_host)]
    pub allowed_hosts: Vec<String>,
    /// Addresses or networks of proxies whose X-Forwarded-User and X-Forwarded-For are trusted,
    /// comma-separated
    #[arg(long, value_name = "NETWORKS", env = "ECHOIC_TRUSTED_PROXIES", value_delimiter = ',', value_parser = parse_network)]
    pub trusted_proxies: Vec<IpNet>,
    /// Secret that signs tokens (HS256), at least 32 bytes
    #[arg(long, value_name = "SECRET", env = "JWT_SECRET", hide_env_values = true)]
    pub jwt_secret: Option<String>,
    /// URL of the key set (JWKS) that verifies tokens, instead of a secret
    #[arg(long, value_name = "URL", env = "JWT_JWKS_URL", hide_env_values = true)]
    pub jwt_jwks_url: Option<String>,
    /// Required issuer of tokens
    #[arg(long, value_name = "ISSUER", env = "JWT_ISSUER")]
    pub jwt_issuer: Option<String>,
    /// Required audience of tokens
    #[arg(long, value_name = "AUDIENCE", env = "JWT_AUDIENCE")]
    pub jwt_audience: Option<String>,
    /// Accept tokens of a key set for any audience: also those that the identity provider issued
    /// for other applications
    #[arg(long, value_name = "BOOL", env = "JWT_ANY_AUDIENCE", default_value = "false", num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub jwt_any_audience: bool,
    /// Whether participants are invited first and get in when they accept: on or off; ignored with
    /// ECHOIC_AUTH=none
    #[arg(long, value_name = "SWITCH", env = "ECHOIC_INVITATIONS", default_value = "on", value_parser = super::named_value_parser(SWITCH), action = clap::ArgAction::Set)]
    pub invitations: bool,
    /// Rate limit of turns and posts per user, such as 60/m; reads may be 20 times as frequent; off
    /// disables it; ignored with ECHOIC_AUTH=none
    #[arg(long, value_name = "RATE", env = "ECHOIC_RATE_LIMIT", default_value = "60/m", value_parser = parse_rate_limit)]
    pub rate_limit: OptionalLimit<RateLimit>,
    /// Maximum concurrent replies per user, or off; ignored with ECHOIC_AUTH=none
    #[arg(long, value_name = "NUMBER", env = "ECHOIC_MAX_CONCURRENT_TURNS", default_value = "8", value_parser = parse_concurrency_limit)]
    pub max_concurrent_turns: OptionalLimit<u32>,
    /// Model prices per million tokens: MODEL=PROMPT/COMPLETION or MODEL=PROMPT/CACHED/COMPLETION,
    /// comma-separated; MODEL may end in * to match a prefix; the first match applies
    #[arg(long, value_name = "PRICES", env = "ECHOIC_PRICES", value_delimiter = ',', value_parser = parse_price)]
    pub prices: Vec<ModelPrice>,
    /// Token quotas: 2000000 per user and month, or key:50000/day, project:1000000/month;
    /// comma-separated
    #[arg(long, value_name = "QUOTAS", env = "ECHOIC_QUOTA_TOKENS", value_delimiter = ',', value_parser = parse_token_quota)]
    pub quota_tokens: Vec<Quota>,
    /// Cost quotas by ECHOIC_PRICES, in the same format: 20 or user:1.50/day; models without a
    /// price are then rejected
    #[arg(long, value_name = "QUOTAS", env = "ECHOIC_QUOTA_COST", value_delimiter = ',', value_parser = parse_cost_quota)]
    pub quota_cost: Vec<Quota>,
    /// Origins of web pages that may use the API, comma-separated
    #[arg(long, value_name = "ORIGINS", env = "ECHOIC_CORS_ORIGINS", value_delimiter = ',', value_parser = super::values::parse_origin)]
    pub cors_origins: Vec<String>,
}

/// A limit that can be switched off with `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionalLimit<T>(pub Option<T>);

impl AccessConfig {
    /// The rate limit in effect. It does not apply without authentication, when all clients share
    /// one user.
    pub fn request_rate(&self) -> Option<RateLimit> {
        self.rate_limit.0.filter(|_| self.auth != AuthMode::Disabled)
    }

    /// Whether new participants have to accept. Without authentication every caller is the same
    /// user.
    pub fn needs_consent(&self) -> bool {
        self.invitations && self.auth != AuthMode::Disabled
    }

    pub fn quotas(&self) -> Vec<Quota> {
        self.quota_tokens.iter().chain(&self.quota_cost).copied().collect()
    }

    /// The limit of concurrent replies in effect. It does not apply without authentication.
    pub fn concurrency_limit(&self) -> Option<u32> {
        self.max_concurrent_turns.0.filter(|_| self.auth != AuthMode::Disabled)
    }

    pub fn jwt_settings(&self) -> JwtSettings {
        JwtSettings {
            secret: self.jwt_secret.clone(),
            jwks_url: self.jwt_jwks_url.clone(),
            issuer: self.jwt_issuer.clone(),
            audience: self.jwt_audience.clone(),
        }
    }

    /// A sentence for the operator about settings that have no effect.
    pub fn describe_unused(&self) -> Option<String> {
        let has_token_settings = self.jwt_secret.is_some() || self.jwt_jwks_url.is_some();
        (has_token_settings && self.auth != AuthMode::Jwt)
            .then(|| "JWT_SECRET and JWT_JWKS_URL have no effect unless ECHOIC_AUTH=jwt".to_owned())
    }

    /// Checks conditions that involve several settings.
    pub(super) fn validate(&self, host: IpAddr) -> Result<(), String> {
        match self.auth {
            // Everyone who can connect would be the user `local`. On loopback that is this machine
            // only.
            AuthMode::Disabled if !host.is_loopback() && !self.allow_unauthenticated => Err(format!(
                "HOST={host}: without authentication the server listens on loopback only; set ECHOIC_ALLOW_UNAUTHENTICATED=true \
                 if everyone who can reach it may read and write every conversation"
            )),
            // Without a trusted proxy every request would be rejected.
            AuthMode::Proxy if self.trusted_proxies.is_empty() => Err(
                "ECHOIC_AUTH=proxy: set ECHOIC_TRUSTED_PROXIES to the addresses of the proxies whose \
                 X-Forwarded-User is to be trusted"
                    .to_owned(),
            ),
            AuthMode::Jwt if self.jwt_secret.is_some() == self.jwt_jwks_url.is_some() => Err(
                "ECHOIC_AUTH=jwt: set either JWT_SECRET or JWT_JWKS_URL".to_owned(),
            ),
            // An identity provider signs the tokens of all its applications with the same keys.
            AuthMode::Jwt
                if self.jwt_jwks_url.is_some()
                    && self.jwt_audience.is_none()
                    && !self.jwt_any_audience =>
            {
                Err("JWT_JWKS_URL: set JWT_AUDIENCE, or a token that the identity provider issued for any \
                     other application is accepted; set JWT_ANY_AUDIENCE=true if that is intended"
                    .to_owned())
            }
            // Quotas add up recorded costs. Without a price list none would ever be reached.
            _ if self.prices.is_empty() && !self.quota_cost.is_empty() => Err(
                "ECHOIC_QUOTA_COST: set ECHOIC_PRICES as well, since no cost is recorded without \
                 prices; *=PROMPT/COMPLETION at the end of the list prices all other models"
                    .to_owned(),
            ),
            _ => Ok(()),
        }
    }
}

fn parse_network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    // A single address is a network of one.
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.map_err(|_| "must be addresses or networks such as 10.0.0.7 or 10.0.0.0/8".to_owned())
}

fn parse_rate_limit(text: &str) -> Result<OptionalLimit<RateLimit>, String> {
    let invalid = || "must be a rate such as 60/m, 5/s or 1000/h, or off".to_owned();
    if text == "off" {
        return Ok(OptionalLimit(None));
    }
    RateLimit::parse(text).map(|rate| OptionalLimit(Some(rate))).ok_or_else(invalid)
}

fn parse_concurrency_limit(text: &str) -> Result<OptionalLimit<u32>, String> {
    if text == "off" {
        return Ok(OptionalLimit(None));
    }
    let number = text.parse().ok().filter(|number| *number > 0);
    number
        .map(|number| OptionalLimit(Some(number)))
        .ok_or_else(|| "must be a whole number of at least 1, or off".to_owned())
}

/// Parses a share such as `10%`, or `off`.
pub(super) fn parse_percentage(text: &str) -> Result<OptionalLimit<u32>, String> {
    if text == "off" {
        return Ok(OptionalLimit(None));
    }
    let percent = text.strip_suffix('%').and_then(|number| number.parse().ok());
    percent
        .filter(|percent| (1..=100).contains(percent))
        .map(|percent| OptionalLimit(Some(percent)))
        .ok_or_else(|| "must be a share from 1% to 100%, or off".to_owned())
}

fn parse_price(text: &str) -> Result<ModelPrice, String> {
    let message =
        "must be prices per million tokens such as gpt-5-mini=0.25/0.025/2 or llama*=0.1/0.2";
    ModelPrice::parse(text).ok_or_else(|| message.to_owned())
}

fn parse_token_quota(text: &str) -> Result<Quota, String> {
    let message = "must be token counts such as 2000000, key:50000/day or project:1000000/month";
    Quota::parse(QuotaUnit::Tokens, text).ok_or_else(|| message.to_owned())
}

fn parse_cost_quota(text: &str) -> Result<Quota, String> {
    let message = "must be amounts such as 20, key:1.50/day or project:100/month";
    Quota::parse(QuotaUnit::Cost, text).ok_or_else(|| message.to_owned())
}
