//! The policy of each route: who may call it, how it is metered and where it is audited.
//!
//! `router.rs` declares every route together with its policy, and `auth_middleware.rs` enforces it.
//! The paths come from the declarations themselves, so a renamed path keeps its policy.

use super::ApiState;
use super::rate_limit::RequestClass;
use axum::http::Method;
use axum::routing::MethodRouter;
use std::collections::BTreeMap;
use std::fmt;
use utoipa::openapi::RefOr;
use utoipa::openapi::path::{Operation, ParameterIn, PathItem};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

/// The credentials that a route requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RouteAccess {
    /// Public, and answered even if a bound of connections is reached.
    Probe,
    Public,
    User,
    Admin,
}

/// The effect of a route, for rate limits and the scopes of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RouteEffect {
    /// Safe methods read, all others write.
    ByMethod,
    /// Changes no user data whatever its method, so read-only keys may call it.
    ReadOnly,
    /// Rate-limited as a read, so that a client can always stop a reply that costs money.
    Cancel,
    /// Begins a turn. Over the rate limit, a retry of an earlier turn is still answered.
    Turn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RoutePolicy {
    pub(super) access: RouteAccess,
    pub(super) effect: RouteEffect,
    /// Accepts a ticket in the query, for `EventSource`, which cannot send headers.
    pub(super) accepts_ticket: bool,
    /// The body names the session, so the handler writes the line in the audit log.
    pub(super) is_audited_by_handler: bool,
    /// Query parameters that clients send and that have no effect here.
    pub(super) ignored_params: &'static [&'static str],
    /// Whether query parameters reach the handler; otherwise they are rejected. True unless the
    /// OpenAPI document lists no parameters for the route.
    pub(super) takes_query: bool,
}

impl RoutePolicy {
    /// The policy of a route that declares none.
    pub(super) const USER: Self = Self {
        access: RouteAccess::User,
        effect: RouteEffect::ByMethod,
        accepts_ticket: false,
        is_audited_by_handler: false,
        ignored_params: &[],
        takes_query: true,
    };
    pub(super) const PUBLIC: Self = Self { access: RouteAccess::Public, ..Self::USER };
    pub(super) const PROBE: Self = Self { access: RouteAccess::Probe, ..Self::USER };
    pub(super) const ADMIN: Self = Self { access: RouteAccess::Admin, ..Self::USER };
    pub(super) const READ_ONLY: Self = Self { effect: RouteEffect::ReadOnly, ..Self::USER };
    pub(super) const CANCEL: Self = Self { effect: RouteEffect::Cancel, ..Self::USER };
    pub(super) const TURN: Self = Self { effect: RouteEffect::Turn, ..Self::USER };

    pub(super) const fn accepting_tickets(self) -> Self {
        Self { accepts_ticket: true, ..self }
    }

    pub(super) const fn audited_by_handler(self) -> Self {
        Self { is_audited_by_handler: true, ..self }
    }

    pub(super) const fn ignoring_params(self, names: &'static [&'static str]) -> Self {
        Self { ignored_params: names, ..self }
    }

    /// The policy of a request whose method the path does not serve. It gets a 405, but only a
    /// caller who may use the path learns that.
    fn for_unserved_method(self) -> Self {
        let effect = match self.effect {
            RouteEffect::Turn => RouteEffect::ByMethod,
            effect => effect,
        };
        let access = self.access.max(RouteAccess::User);
        Self { access, effect, is_audited_by_handler: false, takes_query: true, ..self }
    }

    pub(super) fn is_read_only(self, method: &Method) -> bool {
        method.is_safe() || self.effect == RouteEffect::ReadOnly
    }

    pub(super) fn request_class(self, method: &Method) -> RequestClass {
        let is_read = self.effect == RouteEffect::Cancel || self.is_read_only(method);
        if is_read { RequestClass::Read } else { RequestClass::Write }
    }
}

impl fmt::Display for RoutePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.access, self.effect)?;
        if self.accepts_ticket {
            f.write_str(" ticket")?;
        }
        if self.is_audited_by_handler {
            f.write_str(" audited-by-handler")?;
        }
        Ok(())
    }
}

/// The declared policies of each method, by the template of the path.
#[derive(Default)]
pub(super) struct RoutePolicies {
    paths: BTreeMap<String, Vec<(Method, RoutePolicy)>>,
}

impl RoutePolicies {
    /// The policy of a request. `path` is the template of the matched route.
    ///
    /// Invariant: credentials are required unless a policy that was declared for this method and
    /// path says otherwise.
    pub(super) fn find(&self, method: &Method, path: Option<&str>) -> RoutePolicy {
        let Some(served) = path.and_then(|path| self.paths.get(path)) else {
            return RoutePolicy::USER;
        };
        // axum routes HEAD to the GET handler.
        let method = if method == Method::HEAD { &Method::GET } else { method };
        if let Some((_, policy)) = served.iter().find(|(served, _)| served == method) {
            return *policy;
        }
        let others = served.iter().map(|(_, policy)| policy.for_unserved_method());
        others.max_by_key(|policy| policy.access).unwrap_or(RoutePolicy::USER)
    }

    /// All routes, as `METHOD path`, with their policies.
    pub(super) fn iter(&self) -> impl Iterator<Item = (String, RoutePolicy)> {
        self.paths.iter().flat_map(|(path, served)| {
            served.iter().map(move |(method, policy)| (format!("{method} {path}"), *policy))
        })
    }
}

/// A router whose routes all declare a policy.
pub(super) struct PolicyRouter {
    router: OpenApiRouter<ApiState>,
    policies: RoutePolicies,
}

impl PolicyRouter {
    pub(super) fn new(document: utoipa::openapi::OpenApi) -> Self {
        Self { router: OpenApiRouter::with_openapi(document), policies: RoutePolicies::default() }
    }

    /// Adds routes of the OpenAPI document, one per path.
    pub(super) fn declare<const N: usize>(
        mut self,
        policy: RoutePolicy,
        routes: [UtoipaMethodRouter<ApiState>; N],
    ) -> Self {
        for route in routes {
            for (path, item) in &route.1.paths {
                let policies = operations(item).map(|(method, operation)| {
                    let takes_query = has_query_params(operation);
                    (method, RoutePolicy { takes_query, ..policy })
                });
                self.policies.paths.entry(path.clone()).or_default().extend(policies);
            }
            self.router = self.router.routes(route);
        }
        self
    }

    /// Adds a path that serves GET and is not part of the OpenAPI document.
    pub(super) fn declare_page(
        mut self,
        policy: RoutePolicy,
        path: &str,
        page: MethodRouter<ApiState>,
    ) -> Self {
        self.policies.paths.entry(path.to_owned()).or_default().push((Method::GET, policy));
        self.router = self.router.route(path, page);
        self
    }

    pub(super) fn into_parts(self) -> (OpenApiRouter<ApiState>, RoutePolicies) {
        (self.router, self.policies)
    }
}

/// The operations of a path, by method.
fn operations(item: &PathItem) -> impl Iterator<Item = (Method, &Operation)> {
    let operations = [
        (Method::GET, &item.get),
        (Method::PUT, &item.put),
        (Method::POST, &item.post),
        (Method::DELETE, &item.delete),
        (Method::PATCH, &item.patch),
    ];
    operations.into_iter().filter_map(|(method, operation)| Some((method, operation.as_ref()?)))
}

fn has_query_params(operation: &Operation) -> bool {
    let params = operation.parameters.iter().flatten();
    let mut params = params.filter_map(|param| match param {
        RefOr::T(param) => Some(param),
        RefOr::Ref(_) => None,
    });
    params.any(|param| param.parameter_in == ParameterIn::Query)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;

    fn policies() -> RoutePolicies {
        PolicyRouter::new(utoipa::openapi::OpenApiBuilder::new().build())
            .declare_page(RoutePolicy::PUBLIC, "/public", get(|| async {}))
            .declare_page(RoutePolicy::ADMIN.accepting_tickets(), "/admin/{id}", get(|| async {}))
            .into_parts()
            .1
    }

    #[test]
    fn undeclared_path_requires_credentials() {
        let policies = policies();
        for path in [None, Some("/public/more"), Some("/admin"), Some("")] {
            assert_eq!(policies.find(&Method::GET, path), RoutePolicy::USER, "{path:?}");
        }
    }

    #[test]
    fn policy_is_found_by_method_and_template() {
        let policies = policies();
        assert_eq!(policies.find(&Method::GET, Some("/public")), RoutePolicy::PUBLIC);
        assert_eq!(policies.find(&Method::HEAD, Some("/public")), RoutePolicy::PUBLIC);
        let admin = policies.find(&Method::GET, Some("/admin/{id}"));
        assert_eq!((admin.access, admin.accepts_ticket), (RouteAccess::Admin, true));
    }

    #[test]
    fn unserved_method_of_public_path_requires_credentials() {
        let policies = policies();
        for method in [Method::POST, Method::DELETE, Method::OPTIONS, Method::TRACE] {
            assert_eq!(
                policies.find(&method, Some("/public")).access,
                RouteAccess::User,
                "{method}"
            );
            assert_eq!(policies.find(&method, Some("/admin/{id}")).access, RouteAccess::Admin);
        }
    }

    #[test]
    fn turn_policy_applies_to_the_served_method_only() {
        let other = RoutePolicy::TURN.audited_by_handler().for_unserved_method();
        assert_eq!(other, RoutePolicy::USER);
    }
}
