//! The check of `Host` and `Origin` before every route.

use super::ApiState;
use crate::error::{Error, ErrorKind};
use axum::extract::{Request, State};
use axum::http::header::{HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::IpAddr;

/// Refuses hosts that this server does not answer to, and pages of other sites that would write.
///
/// Without this a page that points its own name at this machine's loopback address could read
/// everything, and any page could post.
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
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
    let named = [host.as_ref(), uri.authority()];
    // Where credentials are asked for, a page under another name has none.
    let is_name_free = !api.auth.is_network_based() && api.allowed_hosts.is_empty();
    let is_ours = is_name_free
        || (host.is_some()
            && named.iter().flatten().all(|authority| api.allowed_hosts.is_allowed(authority)));
    if !is_ours {
        return Err(Error::new(
            ErrorKind::ForbiddenHost,
            "this server does not answer to that host name; list it in ECHOIC_ALLOWED_HOSTS",
        ));
    }
    let Some(origin) = headers.get(ORIGIN).filter(|_| !method.is_safe()) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or_default();
    let own = host.is_some_and(|host| {
        let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host.as_str()))
    });
    if own || api.cors_origins.iter().any(|allowed| allowed == origin) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Forbidden,
        "requests from pages of another origin are refused; list it in ECHOIC_CORS_ORIGINS",
    ))
}

/// The names this server answers to, beside those of loopback.
#[derive(Debug, Clone, Default)]
pub struct AllowedHosts {
    allowed: Vec<String>,
}

impl AllowedHosts {
    /// Takes the operator's list.
    pub fn new(allowed: Vec<String>) -> Self {
        Self { allowed: allowed.into_iter().map(|host| host.to_ascii_lowercase()).collect() }
    }

    /// Whether the operator lists none.
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

/// Whether a host name can only mean this machine.
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
