//! Authentication, authorization, rate limits and the audit log, in front of every route.
//!
//! Invariant: a route whose policy is not public is never reached without an identity. The
//! middleware wraps the whole router, so it covers routes without a policy, too. Should a handler
//! be reached in any other way, its [`CurrentUser`] extractor fails, because the request has no
//! identity.

use super::ApiState;
use super::body_budget::BodyLease;
use super::envelope::{INLINE_ENCODE_LIMIT, LoggedError};
use super::open_requests::run_while_valid;
use super::rate_limit::RequestClass;
use super::route_policy::{RouteAccess, RouteEffect, RoutePolicies, RoutePolicy};
use super::serve::{ConnectionAdmission, PeerAddress};
use crate::auth::{
    Identity, RequestCredentials, invalid_credentials, missing_credentials, redeem_ticket,
};
use crate::chat::CallerStatus;
use crate::clock;
use crate::domain::key::AuthScope;
use crate::domain::{Principal, SessionId, UserId};
use crate::error::{Error, ErrorKind, Result};
use crate::fair_pool::run_as;
use crate::limits;
use axum::body::{Body, HttpBody};
use axum::extract::{FromRequestParts, MatchedPath, Query, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

/// Query parameters that the audit log includes. Search terms are never logged.
const AUDITED_PARAMS: &[&str] = &["sessionId", "projectId", "user", "content"];

const FORWARDED_FOR_HEADER: &str = "x-forwarded-for";
const FORWARDED_USER_HEADER: &str = "x-forwarded-user";

/// Middleware that attaches the caller's [`Identity`] to a request, or rejects it.
pub(super) async fn authenticate(
    State((api, policies)): State<(ApiState, Arc<RoutePolicies>)>,
    request: Request,
    next: Next,
) -> Response {
    let (mut parts, body) = request.into_parts();
    let policy = policies.find(&parts.method, matched_route(&parts));
    parts.extensions.insert(policy);
    let address = client_address(&api, &parts);
    let (response, user) = match policy.access {
        RouteAccess::Probe => return next.run(Request::from_parts(parts, body)).await,
        RouteAccess::Public => match api.rate_limiter.check_address(address) {
            Ok(()) => return next.run(Request::from_parts(parts, body)).await,
            Err(error) => (error.into_response(), None),
        },
        RouteAccess::User | RouteAccess::Admin => {
            authenticate_user(&api, policy, address, parts, body, next).await
        }
    };
    if let Some(LoggedError(error)) = response.extensions().get::<LoggedError>()
        && let Some(limit) = error.limit_name()
    {
        let who = user.map_or_else(|| address.to_string(), |user| user.to_string());
        limits::note_hit(limit, who, &error.message);
    }
    response
}

/// Runs the request if its credentials and rates allow it. Also returns the user, once known.
async fn authenticate_user(
    api: &ApiState,
    policy: RoutePolicy,
    address: IpAddr,
    mut parts: Parts,
    body: Body,
    next: Next,
) -> (Response, Option<UserId>) {
    // The address is counted first, so that a flood costs neither a key lookup nor a database read.
    if let Err(error) = api.rate_limiter.check_address(address) {
        return (error.into_response(), None);
    }
    let ticket = if policy.accepts_ticket { extract_ticket(&mut parts) } else { None };
    let authenticated_at = Instant::now();
    let identity = match authorize_request(api, policy, &parts, ticket).await {
        Ok(identity) => identity,
        Err(error) => {
            let error = api.rate_limiter.record_auth_failure(address, error);
            return (error.into_response(), None);
        }
    };
    let user = identity.principal.user.clone();
    if let Err(error) = count_connection(api, &parts, &user) {
        return (error.into_response(), Some(user));
    }
    let class = policy.request_class(&parts.method);
    let rate_status = api.rate_limiter.check_user(&user, class);
    let rejection = rate_status.and_then(|rate_status| rate_status.to_error());
    let mut response = match rejection {
        // A retry of an earlier turn is allowed over the rate, because it starts no new reply. So
        // the rejection of a turn is passed on and raised after the idempotency lookup. These
        // lookups have a rate of their own; above it the request is rejected here.
        Some(rejection)
            if policy.effect != RouteEffect::Turn
                || !api.rate_limiter.allow_replay_lookup(&user) =>
        {
            rejection.into_response()
        }
        rejection => {
            parts.extensions.insert(CallerStatus { key_id: identity.key.clone(), rejection });
            let credentials = api.auth.open_credentials(&identity, authenticated_at);
            parts.extensions.insert(identity);
            let request = Request::from_parts(parts, body);
            let response =
                run_while_valid(run_user_request(api, &user, request, next), credentials).await;
            bound_response(api, &user, class, response)
        }
    };
    if let Some(rate_status) = rate_status {
        rate_status.add_headers(response.headers_mut());
    }
    (response, Some(user))
}

/// Runs an authenticated request for its user. The bytes of its body are given back afterwards.
async fn run_user_request(
    api: &ApiState,
    user: &UserId,
    mut request: Request,
    next: Next,
) -> Response {
    let lease = api.body_budget.lease(user.clone());
    request.extensions_mut().insert(lease.clone());
    let response = run_as(user.clone(), next.run(request)).await;
    drop(lease);
    response
}

/// Counts a long response until the client has taken it, so that clients that read nothing do not
/// fill the memory. That of a write is never refused: the change has been made. Streams have bounds
/// of their own.
fn bound_response(
    api: &ApiState,
    user: &UserId,
    class: RequestClass,
    response: Response,
) -> Response {
    let size = response.body().size_hint().exact().unwrap_or_default();
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let is_counted = response.extensions().get::<BodyLease>().is_some();
    if size <= INLINE_ENCODE_LIMIT || is_counted {
        return response;
    }
    let lease = api.body_budget.lease(user.clone());
    if class == RequestClass::Write {
        lease.count(size);
    } else if let Err(error) = lease.take(size) {
        return error.into_response();
    }
    response.map(|body| lease.attach(body))
}

/// Counts the request's connection for its user. Without authentication all clients are one user.
fn count_connection(api: &ApiState, request: &Parts, user: &UserId) -> Result<()> {
    match request.extensions.get::<ConnectionAdmission>() {
        Some(ConnectionAdmission(Ok(slot))) if !api.auth.is_disabled() => slot.assign_user(user),
        _ => Ok(()),
    }
}

/// The client's address: behind trusted proxies, the last hop that is not one of them.
fn client_address(api: &ApiState, request: &Parts) -> IpAddr {
    let peer = peer_address(request);
    if !api.auth.is_trusted_proxy(peer) {
        return peer;
    }
    // Each proxy appends the address it received the request from, so the list is read from its
    // end. Entries before the first untrusted one are the client's own claim.
    let lines = request.headers.get_all(FORWARDED_FOR_HEADER).iter();
    let lines: Vec<&str> = lines.filter_map(|line| line.to_str().ok()).collect();
    let named = lines.iter().rev().flat_map(|line| line.rsplit(','));
    let mut addresses = named.map_while(|name| parse_address(name.trim()));
    addresses.find(|address| !api.auth.is_trusted_proxy(*address)).unwrap_or(peer)
}

/// Parses the address forms that proxies write: `1.2.3.4`, `::1`, `[::1]`, each also with a port.
fn parse_address(text: &str) -> Option<IpAddr> {
    let alone = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    alone.parse().ok().or_else(with_port)
}

/// The route's template, such as `/api/chat/{sessionId}/stop`; `None` for an unknown path.
fn matched_route(request: &Parts) -> Option<&str> {
    request.extensions.get::<MatchedPath>().map(MatchedPath::as_str)
}

/// Removes the ticket from the request's URI and returns it.
fn extract_ticket(request: &mut Parts) -> Option<String> {
    let query = request.uri.query()?;
    let (tickets, others): (Vec<&str>, Vec<&str>) =
        query.split('&').partition(|pair| pair.starts_with("ticket="));
    let ticket = tickets.first()?.trim_start_matches("ticket=");
    // More than one ticket is treated as an invalid one; an empty string is never valid.
    let ticket = if tickets.len() == 1 { ticket.to_owned() } else { String::new() };
    // The ticket is a secret: neither the handler nor the logs may see it.
    let rest = match others.join("&") {
        rest if rest.is_empty() => request.uri.path().to_owned(),
        rest => format!("{}?{rest}", request.uri.path()),
    };
    request.uri = rest.parse().ok()?;
    Some(ticket)
}

async fn authorize_request(
    api: &ApiState,
    policy: RoutePolicy,
    request: &Parts,
    ticket: Option<String>,
) -> Result<Identity> {
    let identity = match ticket {
        Some(ticket) if !api.auth.is_disabled() => {
            let identity = redeem_ticket(&*api.store, &ticket, clock::now()).await?;
            // The key the ticket was issued for may have been revoked since.
            if !api.auth.is_still_valid(&identity).await? {
                return Err(invalid_credentials());
            }
            identity
        }
        _ => identify_caller(api, request).await?,
    };
    if policy.access == RouteAccess::Admin && identity.scope < AuthScope::Admin {
        return Err(Error::new(ErrorKind::Forbidden, "this route requires an admin"));
    }
    if !policy.is_read_only(&request.method) && identity.scope < AuthScope::Chat {
        return Err(Error::new(ErrorKind::Forbidden, "this key is read-only"));
    }
    if identity.scope == AuthScope::Admin {
        audit_request(policy, request, &identity);
    }
    Ok(identity)
}

/// Logs an admin's request if it may concern another user's data: the path and the audited query
/// parameters, never content.
fn audit_request(policy: RoutePolicy, request: &Parts, identity: &Identity) {
    let query = audited_query(request);
    let has_ids = matched_route(request).is_some_and(|path| path.contains('{'));
    // A read of a route without IDs returns the admin's own data only.
    let concerns_others = policy.access == RouteAccess::Admin || has_ids || !query.is_empty();
    let is_own_read = request.method.is_safe() && !concerns_others;
    if policy.is_audited_by_handler || is_own_read {
        return;
    }
    tracing::info!(
        audit = true,
        admin = %identity.principal.user,
        http.method = %request.method,
        http.path = request.uri.path(),
        http.query = query,
        "admin request"
    );
}

/// The part of the query that the audit log may show.
fn audited_query(request: &Parts) -> String {
    let params = Query::<Vec<(String, String)>>::try_from_uri(&request.uri);
    let params = params.map(|query| query.0).unwrap_or_default().into_iter();
    let audited = params.filter(|(name, _)| AUDITED_PARAMS.contains(&name.as_str()));
    audited.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
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

fn peer_address(request: &Parts) -> IpAddr {
    let peer = request.extensions.get::<PeerAddress>();
    // `serve` always sets it. Without it (a router in a test) no address is trusted as a proxy.
    peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |PeerAddress(address)| *address)
}

/// The value of a header that must not be repeated.
fn single_header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    // A proxy and this server could each read another one of two values.
    if values.next().is_some() {
        return Err(invalid_credentials());
    }
    // `to_str` would refuse user names that are not ASCII.
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

/// The caller. Not for public routes, whose requests are not authenticated.
pub(super) struct CurrentUser(pub(super) Principal);

impl<S: Send + Sync> FromRequestParts<S> for CurrentUser {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let identity = parts.extensions.get::<Identity>().ok_or_else(missing_credentials)?;
        Ok(Self(identity.principal.clone()))
    }
}

/// The authenticated user with the claims and the scope of their credentials.
pub(super) struct CurrentIdentity(pub(super) Identity);

impl<S: Send + Sync> FromRequestParts<S> for CurrentIdentity {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        parts.extensions.get::<Identity>().cloned().map(Self).ok_or_else(missing_credentials)
    }
}

/// The caller's key and rate limit state, which the turn checks after its idempotency lookup.
pub(super) struct TurnAdmission(pub(super) CallerStatus);

impl<S: Send + Sync> FromRequestParts<S> for TurnAdmission {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        parts.extensions.get::<CallerStatus>().cloned().map(Self).ok_or_else(missing_credentials)
    }
}

/// The audit log of a route whose body names the session. Its policy must say so.
pub(super) struct SessionAudit {
    /// `None` unless the caller is an admin.
    admin: Option<UserId>,
    method: Method,
    path: String,
}

impl SessionAudit {
    /// Logs an admin's request that concerns a session.
    pub(super) fn record(&self, session: &SessionId) {
        let Some(admin) = &self.admin else { return };
        tracing::info!(
            audit = true,
            admin = %admin,
            http.method = %self.method,
            http.path = self.path,
            session.id = %session,
            "admin request"
        );
    }
}

impl<S: Send + Sync> FromRequestParts<S> for SessionAudit {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let CurrentUser(principal) = CurrentUser::from_request_parts(parts, state).await?;
        Ok(Self {
            admin: principal.is_admin.then_some(principal.user),
            method: parts.method.clone(),
            path: parts.uri.path().to_owned(),
        })
    }
}
