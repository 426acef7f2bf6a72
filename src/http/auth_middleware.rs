//! The gate before every route: who is asking, and whether such a request is theirs to make.
//!
//! Invariant: what is not in [`PUBLIC_ROUTES`] is never reached without an identity. The gate is a layer of
//! the whole router, so a new route stands behind it, whoever forgets to say so; and a handler that
//! asks for its caller gets an error, not a stranger, should it ever be reached another way.

use super::ApiState;
use super::rate_limit::RequestClass;
use super::serve::PeerAddress;
use crate::auth::{
    Identity, RequestCredentials, invalid_credentials, missing_credentials, redeem_ticket,
};
use crate::chat::CallerStatus;
use crate::clock;
use crate::domain::key::AuthScope;
use crate::domain::{Principal, SessionId};
use crate::error::{Error, ErrorKind, Result};
use axum::body::Body;
use axum::extract::{FromRequestParts, MatchedPath, Query, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::time::timeout;

/// The routes that need no credentials.
const PUBLIC_ROUTES: &[(&str, &str)] = &[
    ("GET", "/"),
    ("GET", "/assets/{*path}"),
    ("GET", "/api/openapi.json"),
    ("GET", "/health/live"),
    ("GET", "/health/ready"),
];

/// Whatever stands below this is the admins' alone.
const ADMIN_PREFIX: &str = "/api/admin/";

/// The routes that browsers read with `EventSource`, which sends no headers: a ticket opens them.
const TICKET_ROUTES: &[&str] = &["/api/events", "/api/chat/{sessionId}/stream"];
/// The routes that begin turns.
const TURN_ROUTES: &[&str] =
    &["/api/chat", "/api/chat/{sessionId}/regenerate", "/v1/chat/completions", "/v1/responses"];
/// What is posted though it changes nothing: a key that may only read may post it, too.
const READ_ONLY_POSTS: &[&str] = &["/api/tickets", "/api/render"];
/// They end what somebody pays for, so they count as reads: nobody has to wait before they may stop.
const CANCEL_ROUTES: &[&str] = &["/api/chat/{sessionId}/stop", "/v1/responses/{response}/cancel"];

/// They name their session in the body, so the handler says of an admin what they do.
const BODY_SESSION_ROUTES: &[&str] =
    &["/api/chat", "/api/chat-messages", "/v1/chat/completions", "/v1/responses"];
/// What of a query the log tells of an admin's request.
const AUDITED_PARAMS: &[&str] = &["sessionId", "projectId", "user", "content"];

/// The most bytes of a refused request's body that are read …
const DRAIN_LIMIT: usize = 256 << 10;
/// … and for how long.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

const FORWARDED_FOR_HEADER: &str = "x-forwarded-for";
const FORWARDED_USER_HEADER: &str = "x-forwarded-user";

/// The routes that need no credentials, as `METHOD path`.
pub fn public_routes() -> Vec<String> {
    PUBLIC_ROUTES.iter().map(|(method, path)| format!("{method} {path}")).collect()
}

/// Lets a request pass with the identity of whoever sent it, or refuses it.
pub(super) async fn authenticate(
    State(api): State<ApiState>,
    request: Request,
    next: Next,
) -> Response {
    let (mut parts, body) = request.into_parts();
    if is_public_route(&parts) {
        return next.run(Request::from_parts(parts, body)).await;
    }
    let address = client_address(&api, &parts);
    if let Err(error) = api.rate_limiter.check_address(address) {
        return drain_and_reject(error, body).await;
    }
    let ticket = extract_ticket(&mut parts);
    let identity = match authorize_request(&api, &parts, ticket).await {
        Ok(identity) => identity,
        Err(error) => {
            return drain_and_reject(api.rate_limiter.record_auth_failure(address, error), body)
                .await;
        }
    };
    let left = api.rate_limiter.check_user(&identity.principal.user, request_class(&parts));
    let refusal = left.and_then(|left| left.to_error());
    let mut response = match refusal {
        // A turn that came before may be repeated: who has sent too much is told so behind the look
        // for it, as long as they do not have that done too often.
        Some(refusal)
            if !is_turn_route(&parts)
                || !api.rate_limiter.allow_replay_lookup(&identity.principal.user) =>
        {
            drain_and_reject(refusal, body).await
        }
        refusal => {
            parts
                .extensions
                .insert(CallerStatus { key_id: identity.key.clone(), rejection: refusal });
            parts.extensions.insert(identity);
            next.run(Request::from_parts(parts, body)).await
        }
    };
    if let Some(left) = left {
        left.add_headers(response.headers_mut());
    }
    response
}

/// Refuses a request whose body nobody will look at. A client that is still sending it would find the
/// connection closed instead of the answer, so a short one is passed over first.
async fn drain_and_reject(error: Error, body: Body) -> Response {
    let (mut left, mut pieces) = (DRAIN_LIMIT, body.into_data_stream());
    let passing = async {
        while let Some(Ok(piece)) = pieces.next().await {
            match left.checked_sub(piece.len()) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    // Whoever sends it slowly does without.
    let _ = timeout(DRAIN_TIMEOUT, passing).await;
    error.into_response()
}

fn is_turn_route(request: &Parts) -> bool {
    request.method == Method::POST
        && matched_route(request).is_some_and(|path| TURN_ROUTES.contains(&path))
}

/// Whether nothing is changed by it.
fn is_read_only(request: &Parts) -> bool {
    request.method.is_safe()
        || matched_route(request).is_some_and(|path| READ_ONLY_POSTS.contains(&path))
}

fn request_class(request: &Parts) -> RequestClass {
    let is_stop = matched_route(request).is_some_and(|path| CANCEL_ROUTES.contains(&path));
    let is_read = is_stop || is_read_only(request);
    if is_read { RequestClass::Read } else { RequestClass::Write }
}

/// Whose address a request comes from: behind trusted proxies, the last one that is none of theirs.
fn client_address(api: &ApiState, request: &Parts) -> IpAddr {
    let peer = peer_address(request);
    if !api.auth.is_trusted_proxy(peer) {
        return peer;
    }
    let lines = request.headers.get_all(FORWARDED_FOR_HEADER).iter();
    let lines: Vec<&str> = lines.filter_map(|line| line.to_str().ok()).collect();
    let named = lines.iter().rev().flat_map(|line| line.rsplit(','));
    let mut addresses = named.map_while(|name| parse_address(name.trim()));
    addresses.find(|address| !api.auth.is_trusted_proxy(*address)).unwrap_or(peer)
}

/// An address as proxies write it: `1.2.3.4`, `::1`, `[::1]`, and with a port.
fn parse_address(text: &str) -> Option<IpAddr> {
    let alone = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    alone.parse().ok().or_else(with_port)
}

fn is_public_route(request: &Parts) -> bool {
    // What answers GET answers HEAD.
    let method = if request.method == Method::HEAD { "GET" } else { request.method.as_str() };
    matched_route(request).is_some_and(|path| PUBLIC_ROUTES.contains(&(method, path)))
}

/// The route as the router spells it; none if there is none.
fn matched_route(request: &Parts) -> Option<&str> {
    request.extensions.get::<MatchedPath>().map(MatchedPath::as_str)
}

/// Takes the ticket out of the request's address, so that nothing behind this ever sees it. Of two,
/// none is good.
fn extract_ticket(request: &mut Parts) -> Option<String> {
    let is_ticketed = matched_route(request).is_some_and(|path| TICKET_ROUTES.contains(&path));
    let query = request.uri.query().filter(|_| is_ticketed)?;
    let (tickets, others): (Vec<&str>, Vec<&str>) =
        query.split('&').partition(|pair| pair.starts_with("ticket="));
    let ticket = tickets.first()?.trim_start_matches("ticket=");
    let ticket = if tickets.len() == 1 { ticket.to_owned() } else { String::new() };
    let rest = match others.join("&") {
        rest if rest.is_empty() => request.uri.path().to_owned(),
        rest => format!("{}?{rest}", request.uri.path()),
    };
    request.uri = rest.parse().ok()?;
    Some(ticket)
}

async fn authorize_request(
    api: &ApiState,
    request: &Parts,
    ticket: Option<String>,
) -> Result<Identity> {
    let identity = match ticket {
        Some(ticket) if !api.auth.is_disabled() => {
            let identity = redeem_ticket(&*api.store, &ticket, clock::now()).await?;
            if !api.auth.is_still_valid(&identity).await? {
                return Err(invalid_credentials());
            }
            identity
        }
        _ => identify_caller(api, request).await?,
    };
    let is_admins = matched_route(request).is_some_and(|path| path.starts_with(ADMIN_PREFIX));
    if is_admins && identity.scope < AuthScope::Admin {
        return Err(Error::new(ErrorKind::Forbidden, "only an admin may do this"));
    }
    if !is_read_only(request) && identity.scope < AuthScope::Chat {
        return Err(Error::new(ErrorKind::Forbidden, "this key may only read"));
    }
    if identity.scope == AuthScope::Admin {
        audit_request(request, &identity);
    }
    Ok(identity)
}

/// Whatever an admin does that could touch what is another's leaves a line in the log: the route and
/// the ids in it, never what was written.
fn audit_request(request: &Parts, identity: &Identity) {
    let route = matched_route(request).unwrap_or_default();
    let asked = audited_query(request);
    let names_nothing =
        !route.starts_with(ADMIN_PREFIX) && !route.contains('{') && asked.is_empty();
    let is_told_later = request.method == Method::POST && BODY_SESSION_ROUTES.contains(&route);
    if is_told_later || request.method.is_safe() && names_nothing {
        return;
    }
    tracing::info!(
        audit = true,
        admin = %identity.principal.user,
        http.method = %request.method,
        http.path = request.uri.path(),
        http.query = asked,
        "an admin acts"
    );
}

/// What of a query may stand in the log.
fn audited_query(request: &Parts) -> String {
    let given = Query::<Vec<(String, String)>>::try_from_uri(&request.uri);
    let given = given.map(|query| query.0).unwrap_or_default().into_iter();
    let told = given.filter(|(name, _)| AUDITED_PARAMS.contains(&name.as_str()));
    told.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

/// The line of an admin's request that names its session in the body.
pub(super) fn audit_session(who: &Principal, path: &'static str, session: &SessionId) {
    if !who.is_admin {
        return;
    }
    tracing::info!(
        audit = true,
        admin = %who.user,
        http.method = "POST",
        http.path = path,
        session.id = %session,
        "an admin acts"
    );
}

async fn identify_caller(api: &ApiState, request: &Parts) -> Result<Identity> {
    let headers = &request.headers;
    let credentials = RequestCredentials {
        bearer: bearer_token(headers),
        forwarded_user: single_header(headers, &HeaderName::from_static(FORWARDED_USER_HEADER)),
        peer: peer_address(request),
    };
    api.auth.identify(credentials).await
}

/// Whom the connection comes from.
fn peer_address(request: &Parts) -> IpAddr {
    let peer = request.extensions.get::<PeerAddress>();
    // The server always says it; whoever does not is no proxy.
    peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |PeerAddress(address)| *address)
}

/// A header that may stand there once: of two, nobody could tell which one somebody else has read.
fn single_header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(invalid_credentials());
    }
    // Names in UTF-8 are names, too.
    std::str::from_utf8(value.as_bytes()).map(Some).map_err(|_| invalid_credentials())
}

fn bearer_token(headers: &HeaderMap) -> Result<Option<&str>> {
    let Some(value) = single_header(headers, &AUTHORIZATION)? else { return Ok(None) };
    let token = match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
        _ => return Err(invalid_credentials()),
    };
    Ok(Some(token))
}

/// The user who sent the request.
pub(super) struct CurrentUser(pub(super) Principal);

impl<S: Send + Sync> FromRequestParts<S> for CurrentUser {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let identity = parts.extensions.get::<Identity>().ok_or_else(missing_credentials)?;
        Ok(Self(identity.principal.clone()))
    }
}

/// The user who sent the request, with what their credentials say of them.
pub(super) struct CurrentIdentity(pub(super) Identity);

impl<S: Send + Sync> FromRequestParts<S> for CurrentIdentity {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        parts.extensions.get::<Identity>().cloned().map(Self).ok_or_else(missing_credentials)
    }
}

/// How whoever asks for a turn stands with the server.
pub(super) struct TurnAdmission(pub(super) CallerStatus);

impl<S: Send + Sync> FromRequestParts<S> for TurnAdmission {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        parts.extensions.get::<CallerStatus>().cloned().map(Self).ok_or_else(missing_credentials)
    }
}
