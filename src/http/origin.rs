//! Checks of `Host` and `Origin`, in front of every route.
//!
//! Without the first, a page that rebinds its own host name to this machine's loopback address
//! could read everything; without the second, any page could send requests that change something.

use super::ApiState;
use crate::error::{Error, ErrorKind};
use axum::extract::{Request, State};
use axum::http::header::{HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::IpAddr;

/// Middleware that refuses unknown hosts, and writes from pages of foreign origins.
pub(super) async fn check_origin(
    State(api): State<ApiState>,
    request: Request,
    next: Next,
) -> Response {
    match check_host_and_origin(&api, request.method(), request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

fn check_host_and_origin(
    api: &ApiState,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<(), Error> {
    let mut hosts = headers.get_all(HOST).iter();
    // Of two hosts, a proxy may have looked at the other one.
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()),
        _ => None,
    };
    // A request line in absolute form names a host, too.
    let authorities = [host.as_ref(), uri.authority()];
    // With keys or tokens a rebound host gains nothing: browsers send it no credentials of this
    // server. So without a list any host is fine then.
    let accepts_any_host = !api.auth.is_network_based() && api.allowed_hosts.is_empty();
    let is_accepted = accepts_any_host
        || (host.is_some()
            && authorities
                .iter()
                .flatten()
                .all(|authority| api.allowed_hosts.is_allowed(authority)));
    if !is_accepted {
        return Err(Error::new(
            ErrorKind::ForbiddenHost,
            "this host name is not allowed; add it to ECHOIC_ALLOWED_HOSTS",
        ));
    }
    // Browsers send `Origin` with every request that may change something; other clients do not.
    let mut origins = headers.get_all(ORIGIN).iter();
    let is_accepted = |origin: &HeaderValue| {
        origin.to_str().is_ok_and(|origin| {
            is_same_origin(origin, host.as_ref())
                || api.cors_origins.iter().any(|allowed| allowed == origin)
        })
    };
    if method.is_safe() || origins.all(is_accepted) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Forbidden,
        "requests from this origin are refused; add it to ECHOIC_CORS_ORIGINS",
    ))
}

/// The scheme may differ from the connection's: a proxy in front may terminate TLS.
fn is_same_origin(origin: &str, host: Option<&Authority>) -> bool {
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    let Some((authority, host)) = authority.zip(host) else { return false };
    authority.eq_ignore_ascii_case(host.as_str())
}

/// Host names that requests may be addressed to. Loopback names are always allowed.
#[derive(Debug, Clone, Default)]
pub struct AllowedHosts {
    allowed: Vec<String>,
}

impl AllowedHosts {
    /// Entries with a port match that port only; case does not matter.
    pub fn new(allowed: Vec<String>) -> Self {
        Self { allowed: allowed.into_iter().map(|host| host.to_ascii_lowercase()).collect() }
    }

    fn is_empty(&self) -> bool {
        self.allowed.is_empty()
    }

    fn is_allowed(&self, authority: &Authority) -> bool {
        let host = authority.host().to_ascii_lowercase();
        is_loopback_host(&host)
            || self.allowed.iter().any(|allowed| {
                *allowed == host || *allowed == authority.as_str().to_ascii_lowercase()
            })
    }
}

fn is_loopback_host(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host.ends_with(".localhost")
        || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_and_listed_hosts_are_allowed() {
        let hosts = AllowedHosts::new(vec![
            "Chat.example.com".to_owned(),
            "other.example.com:8443".to_owned(),
        ]);
        for ours in [
            "localhost:8080",
            "127.0.0.1",
            "127.8.8.8:1",
            "[::1]:80",
            "a.localhost",
            "chat.example.com:9",
            "other.example.com:8443",
        ] {
            assert!(hosts.is_allowed(&ours.parse().unwrap()), "{ours}");
        }
        for foreign in [
            "evil.com",
            "127.0.0.1.evil.com",
            "localhost.evil.com",
            "10.0.0.1",
            "other.example.com",
        ] {
            assert!(!hosts.is_allowed(&foreign.parse().unwrap()), "{foreign}");
        }
    }
}
