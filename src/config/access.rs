//! Settings of who may use the server.

use crate::auth::{JwtSettings, Mode};
use clap::Args;
use ipnet::IpNet;
use std::net::IpAddr;

const MODES: &[(&str, Mode)] =
    &[("none", Mode::None), ("proxy", Mode::Proxy), ("keys", Mode::Keys), ("jwt", Mode::Jwt)];

/// Who may use the server.
#[derive(Debug, Clone, Args)]
pub struct Access {
    /// Who is asking: none (everyone is the user "local"), proxy, keys or jwt
    #[arg(long, value_name = "MODE", default_value = "none", value_parser = super::words(MODES))]
    pub auth: Mode,
    /// Listen beyond loopback although nobody is asked who they are
    #[arg(long, value_name = "BOOL", default_value = "false", num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub allow_open: bool,
    /// Host names to answer to beside those of loopback, comma-separated; with keys and jwt all, if none is listed
    #[arg(long, value_name = "HOSTS", value_delimiter = ',', value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub allowed_hosts: Vec<String>,
    /// Addresses or networks of the proxies whose X-Forwarded-User and X-Forwarded-For are believed, comma-separated
    #[arg(long, value_name = "NETWORKS", value_delimiter = ',', value_parser = network)]
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
    /// Origins whose pages may use the API, comma-separated
    #[arg(long, value_name = "ORIGINS", value_delimiter = ',', value_parser = super::values::origin)]
    pub cors_origins: Vec<String>,
}

impl Access {
    /// Whose tokens are good.
    pub fn jwt(&self) -> JwtSettings {
        JwtSettings {
            secret: self.jwt_secret.clone(),
            jwks_url: self.jwt_jwks_url.clone(),
            issuer: self.jwt_issuer.clone(),
            audience: self.jwt_audience.clone(),
        }
    }

    /// What only shows when settings are seen together.
    pub(super) fn check(&self, host: IpAddr) -> Result<(), String> {
        match self.auth {
            Mode::None if !host.is_loopback() && !self.allow_open => Err(format!(
                "HOST={host}: without authentication the server listens on loopback only; set ECHOIC_ALLOW_OPEN=true \
                 if everyone who can reach it may read and write every conversation"
            )),
            Mode::Proxy if self.trusted_proxies.is_empty() => Err(
                "ECHOIC_AUTH=proxy: set ECHOIC_TRUSTED_PROXIES to the addresses of the proxies whose \
                 X-Forwarded-User is to be believed"
                    .to_owned(),
            ),
            Mode::Jwt if self.jwt_secret.is_some() == self.jwt_jwks_url.is_some() => Err(
                "ECHOIC_AUTH=jwt: set JWT_SECRET or JWT_JWKS_URL, one of them".to_owned(),
            ),
            _ => Ok(()),
        }
    }
}

fn network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.map_err(|_| "must be addresses or networks such as 10.0.0.7 or 10.0.0.0/8".to_owned())
}
