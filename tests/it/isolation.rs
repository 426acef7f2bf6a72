//! Access control: every route, by every kind of caller, on their own resources and on those of
//! others. The rows are compared with the served routes, so a new route without a row fails here.

use crate::support::Server;
use echoic::domain::key::AuthScope;
use echoic::http::{openapi_document, route_policies};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The requested resources: a session of ann with pat as a participant and one message, a project
/// of ann with one file, and a response.
struct Resources {
    session: String,
    message: String,
    project: String,
    response: String,
}

/// Ids that do not exist.
fn missing_resources() -> Resources {
    Resources {
        session: "nowhere".to_owned(),
        message: "nothing".to_owned(),
        project: "no-project".to_owned(),
        response: "resp_none".to_owned(),
    }
}

/// Path and body of a request.
type RequestBuilderFn = fn(&Resources) -> (String, Value);

/// The statuses for: no credentials, a bad key, another user, a participant, the owner, an admin.
type Expected = [u16; 6];

const ANYBODY: Expected = [200; 6];
/// Routes that touch only the caller's own resources.
const OWN: Expected = [401, 401, 200, 200, 200, 200];
const OWN_NEW: Expected = [401, 401, 201, 201, 201, 201];
/// Routes of a session, open to its participants.
const INSIDE: Expected = [401, 401, 404, 200, 200, 200];
const INSIDE_NEW: Expected = [401, 401, 404, 201, 201, 201];
/// Routes of a session, open to its owner.
const OWNER: Expected = [401, 401, 404, 403, 200, 200];
/// Routes of a project, which is visible to its owner only.
const PROJECT: Expected = [401, 401, 404, 404, 200, 200];

/// Routes for admins. Their existence is public, so other users get 403 rather than 404.
const ADMIN: Expected = [401, 401, 403, 403, 403, 200];

fn session(rest: &str, world: &Resources) -> String {
    format!("/api/chat-sessions/{}{rest}", world.session)
}

fn project(rest: &str, world: &Resources) -> String {
    format!("/api/projects/{}{rest}", world.project)
}

fn conversation(rest: &str, world: &Resources) -> String {
    format!("/v1/conversations/conv_{}{rest}", world.session)
}

fn response(rest: &str, world: &Resources) -> String {
    format!("/v1/responses/{}{rest}", world.response)
}

fn rows() -> Vec<(&'static str, RequestBuilderFn, Expected)> {
    vec![
        ("GET /", |_| ("/".into(), Value::Null), ANYBODY),
        ("GET /assets/{*path}", |_| ("/assets/index.html".into(), Value::Null), ANYBODY),
        ("GET /api/openapi.json", |_| ("/api/openapi.json".into(), Value::Null), ANYBODY),
        ("GET /health/live", |_| ("/health/live".into(), Value::Null), ANYBODY),
        ("GET /health/ready", |_| ("/health/ready".into(), Value::Null), ANYBODY),
        (
            "POST /api/chat",
            |w| ("/api/chat".into(), json!({"sessionId": w.session, "message": "hi"})),
            INSIDE,
        ),
        (
            "GET /api/chat/{sessionId}/stream",
            |w| (format!("/api/chat/{}/stream", w.session), Value::Null),
            [401, 401, 404, 204, 204, 204],
        ),
        (
            "POST /api/chat/{sessionId}/stop",
            |w| (format!("/api/chat/{}/stop", w.session), json!({})),
            INSIDE,
        ),
        (
            "POST /api/chat/{sessionId}/regenerate",
            |w| (format!("/api/chat/{}/regenerate", w.session), json!({})),
            INSIDE,
        ),
        (
            "GET /api/events",
            |w| (format!("/api/events?sessionId={}", w.session), Value::Null),
            INSIDE,
        ),
        ("POST /api/chat-sessions", |_| ("/api/chat-sessions".into(), json!({})), OWN_NEW),
        ("GET /api/chat-sessions", |_| ("/api/chat-sessions".into(), Value::Null), OWN),
        (
            "DELETE /api/chat-sessions",
            |w| (format!("/api/chat-sessions?projectId={}", w.project), Value::Null),
            OWN,
        ),
        ("GET /api/chat-sessions/{sessionId}", |w| (session("", w), Value::Null), INSIDE),
        (
            "PATCH /api/chat-sessions/{sessionId}",
            |w| (session("", w), json!({"title": "x"})),
            OWNER,
        ),
        ("DELETE /api/chat-sessions/{sessionId}", |w| (session("", w), Value::Null), OWNER),
        (
            "PUT /api/chat-sessions/{sessionId}/title",
            |w| (session("/title", w), json!({"title": "T"})),
            OWNER,
        ),
        (
            "PUT /api/chat-sessions/{sessionId}/meta",
            |w| (session("/meta", w), json!({"meta": {}})),
            OWNER,
        ),
        (
            "PUT /api/chat-sessions/{sessionId}/head",
            |w| (session("/head", w), json!({"messageId": w.message})),
            INSIDE,
        ),
        (
            "POST /api/chat-sessions/{sessionId}/fork",
            |w| (session("/fork", w), json!({"messageId": w.message})),
            INSIDE_NEW,
        ),
        (
            "POST /api/chat-sessions/{sessionId}/seen",
            |w| (session("/seen", w), json!({"upTo": w.message})),
            INSIDE,
        ),
        (
            "GET /api/chat-sessions/{sessionId}/messages/{messageId}/siblings",
            |w| (session(&format!("/messages/{}/siblings", w.message), w), Value::Null),
            INSIDE,
        ),
        (
            "GET /api/chat-sessions/{sessionId}/nodes",
            |w| (session("/nodes", w), Value::Null),
            INSIDE,
        ),
        (
            "GET /api/chat-sessions/{sessionId}/nodes/{chatId}",
            |w| (session(&format!("/nodes/chat_{}_1", w.session), w), Value::Null),
            INSIDE,
        ),
        (
            "GET /api/chat-sessions/{sessionId}/memory",
            |w| (session("/memory?message=hi", w), Value::Null),
            OWNER,
        ),
        (
            "GET /api/chat-sessions/{sessionId}/messages",
            |w| (session("/messages", w), Value::Null),
            INSIDE,
        ),
        (
            "GET /api/chat-sessions/{sessionId}/messages/{messageId}",
            |w| (session(&format!("/messages/{}", w.message), w), Value::Null),
            INSIDE,
        ),
        (
            "POST /api/chat-messages",
            |w| {
                (
                    "/api/chat-messages".into(),
                    json!({"chatSessionId": w.session, "role": "user", "content": "x"}),
                )
            },
            INSIDE_NEW,
        ),
        ("POST /api/projects", |_| ("/api/projects".into(), json!({"name": "P"})), OWN_NEW),
        ("GET /api/projects", |_| ("/api/projects".into(), Value::Null), OWN),
        ("GET /api/search", |_| ("/api/search?q=word".into(), Value::Null), OWN),
        ("GET /api/projects/{projectId}", |w| (project("", w), Value::Null), PROJECT),
        ("PATCH /api/projects/{projectId}", |w| (project("", w), json!({"name": "Q"})), PROJECT),
        ("DELETE /api/projects/{projectId}", |w| (project("", w), Value::Null), PROJECT),
        (
            "GET /api/projects/{projectId}/chat-sessions",
            |w| (project("/chat-sessions", w), Value::Null),
            PROJECT,
        ),
        (
            "GET /api/projects/{projectId}/files/{path}",
            |w| (project("/files/a.txt", w), Value::Null),
            PROJECT,
        ),
        (
            "PUT /api/projects/{projectId}/files/{path}",
            |w| (project("/files/a.txt", w), json!({"content": "b"})),
            PROJECT,
        ),
        (
            "DELETE /api/projects/{projectId}/files/{path}",
            |w| (project("/files/a.txt", w), Value::Null),
            PROJECT,
        ),
        (
            "GET /api/export",
            |w| (format!("/api/export?sessionId={}", w.session), Value::Null),
            OWNER,
        ),
        (
            "POST /api/chat-sessions/{sessionId}/accept",
            |w| (session("/accept", w), json!({})),
            [401, 401, 404, 200, 200, 403],
        ),
        (
            "POST /api/chat-sessions/{sessionId}/leave",
            |w| (session("/leave", w), json!({})),
            [401, 401, 404, 200, 403, 403],
        ),
        ("POST /api/import", |_| ("/api/import".into(), json!({"sessions": []})), OWN),
        ("POST /api/render", |_| ("/api/render".into(), json!({"markdown": "*a*"})), OWN),
        ("GET /api/me", |_| ("/api/me".into(), Value::Null), OWN),
        ("DELETE /api/me/data", |_| ("/api/me/data".into(), Value::Null), OWN),
        ("POST /api/tickets", |_| ("/api/tickets".into(), Value::Null), OWN_NEW),
        ("GET /api/usage", |_| ("/api/usage".into(), Value::Null), OWN),
        ("GET /api/admin/usage", |_| ("/api/admin/usage".into(), Value::Null), ADMIN),
        ("GET /api/admin/users", |_| ("/api/admin/users".into(), Value::Null), ADMIN),
        ("GET /api/admin/sessions", |_| ("/api/admin/sessions".into(), Value::Null), ADMIN),
        ("GET /api/models", |_| ("/api/models".into(), Value::Null), OWN),
        (
            "POST /v1/chat/completions",
            |w| {
                let messages = json!([{"role": "user", "content": "hi"}]);
                let body = json!({"session_id": w.session, "messages": messages, "stream": true});
                ("/v1/chat/completions".into(), body)
            },
            [401, 401, 409, 200, 200, 200],
        ),
        (
            "POST /v1/responses",
            |w| {
                let conversation = format!("conv_{}", w.session);
                let body = json!({"conversation": conversation, "input": "hi", "background": true});
                ("/v1/responses".into(), body)
            },
            INSIDE,
        ),
        ("GET /v1/responses/{response}", |w| (response("", w), Value::Null), INSIDE),
        ("DELETE /v1/responses/{response}", |w| (response("", w), Value::Null), OWNER),
        ("POST /v1/responses/{response}/cancel", |w| (response("/cancel", w), json!({})), INSIDE),
        (
            "GET /v1/responses/{response}/input_items",
            |w| (response("/input_items", w), Value::Null),
            INSIDE,
        ),
        ("GET /v1/models", |_| ("/v1/models".into(), Value::Null), OWN),
        ("GET /v1/models/{model}", |_| ("/v1/models/demo".into(), Value::Null), OWN),
        ("POST /v1/conversations", |_| ("/v1/conversations".into(), json!({})), OWN),
        ("GET /v1/conversations/{conversation}", |w| (conversation("", w), Value::Null), INSIDE),
        (
            "POST /v1/conversations/{conversation}",
            |w| (conversation("", w), json!({"metadata": {}})),
            OWNER,
        ),
        ("DELETE /v1/conversations/{conversation}", |w| (conversation("", w), Value::Null), OWNER),
        (
            "GET /v1/conversations/{conversation}/items",
            |w| (conversation("/items", w), Value::Null),
            INSIDE,
        ),
        (
            "POST /v1/conversations/{conversation}/items",
            |w| {
                let items = json!({"items": [{"role": "user", "content": "x"}]});
                (conversation("/items", w), items)
            },
            INSIDE,
        ),
        (
            "GET /v1/conversations/{conversation}/items/{item}",
            |w| (conversation(&format!("/items/msg_{}", w.message), w), Value::Null),
            INSIDE,
        ),
        (
            // 400 for those with access: the item has messages after it and cannot be deleted
            // alone.
            "DELETE /v1/conversations/{conversation}/items/{item}",
            |w| (conversation(&format!("/items/msg_{}", w.message), w), Value::Null),
            [401, 401, 404, 400, 400, 400],
        ),
    ]
}

/// The server, and a key for each caller.
struct Callers {
    server: Server,
    keys: BTreeMap<&'static str, String>,
}

impl Callers {
    async fn start() -> Self {
        let server = Server::with(&["--auth=keys", "--rate-limit=off", "--provider=demo"]).await;
        let mut keys = BTreeMap::new();
        for (user, scope) in [
            ("other", AuthScope::Chat),
            ("pat", AuthScope::Chat),
            ("guest", AuthScope::Chat),
            ("ann", AuthScope::Chat),
            ("root", AuthScope::Admin),
        ] {
            keys.insert(user, server.key(user, scope).await);
        }
        keys.insert("bad", format!("ek_0123456789ab_{}", "A".repeat(43)));
        Self { server, keys }
    }

    /// Status and body of a response; of a stream only the status, since it may never end.
    async fn ask(&self, who: &str, route: &str, (path, body): (String, Value)) -> (u16, String) {
        let method: Method = route.split_once(' ').unwrap().0.parse().unwrap();
        let mut request = self.server.request(method, &path);
        if let Some(key) = self.keys.get(who) {
            request = request.bearer_auth(key);
        }
        if !body.is_null() {
            request = request.json(&body);
        }
        let answer = crate::support::within_deadline(request.send()).await.unwrap();
        let status = answer.status().as_u16();
        let is_stream =
            answer.headers().get("content-type").is_some_and(|it| it == "text/event-stream");
        (status, if is_stream { String::new() } else { answer.text().await.unwrap() })
    }

    async fn create(&self, path: &str, body: Value) -> Value {
        self.server.with_key(&self.keys["ann"]).post(path, body).await.data()
    }

    /// Pat accepts the invitation to a session, the guest does not.
    async fn accept(&self, session: &str) {
        let pat = self.server.with_key(&self.keys["pat"]);
        pat.post(&format!("/api/chat-sessions/{session}/accept"), json!({})).await.data();
    }

    async fn create_resources(&self) -> Resources {
        let users = json!({"participants": ["pat", "guest"]});
        let made = self.create("/api/chat-sessions", users.clone()).await;
        let session = made["sessionId"].as_str().unwrap().to_owned();
        self.accept(&session).await;
        let said = json!({"chatSessionId": session, "role": "user", "content": "a secret"});
        let said = self.create("/api/chat-messages", said).await;
        let files = json!([{"path": "a.txt", "content": "a secret"}]);
        let project = self.create("/api/projects", json!({"name": "P", "files": files})).await;
        // The response runs in its own session, so that the first one stays idle.
        let other = self.create("/api/chat-sessions", users).await;
        self.accept(other["sessionId"].as_str().unwrap()).await;
        let conversation = format!("conv_{}", other["sessionId"].as_str().unwrap());
        let asked = json!({"conversation": conversation, "input": "a secret", "background": true});
        let ann = self.server.with_key(&self.keys["ann"]);
        let response = ann.post("/v1/responses", asked).await.body;
        // Cancelled at once: running turns of earlier worlds would count against the limit of
        // concurrent turns.
        let cancel = format!("/v1/responses/{}/cancel", response["id"].as_str().unwrap());
        assert_eq!(ann.post(&cancel, json!({})).await.status, 200);
        Resources {
            response: response["id"].as_str().unwrap().to_owned(),
            session,
            message: said["message"]["id"].as_str().unwrap().to_owned(),
            project: project["projectId"].as_str().unwrap().to_owned(),
        }
    }
}

#[test]
fn every_route_has_a_row() {
    let document = serde_json::to_value(openapi_document()).unwrap();
    let public = route_policies().into_iter().filter(|(_, policy)| policy.starts_with("Public"));
    let mut served: BTreeSet<String> = public.map(|(route, _)| route).collect();
    for (path, methods) in document["paths"].as_object().unwrap() {
        let methods = methods.as_object().unwrap().keys().filter(|key| *key != "parameters");
        served.extend(methods.map(|method| format!("{} {path}", method.to_uppercase())));
    }
    let known: BTreeSet<String> = rows().iter().map(|(route, ..)| (*route).to_owned()).collect();
    assert_eq!(known, served, "each route needs its row above");
}

/// The routes that anybody may call, or that differ from an ordinary route of a user. Any change to
/// this list is a change of who may do what.
#[test]
fn routes_with_a_policy_of_their_own_match_the_list() {
    let special = route_policies().into_iter().filter(|(_, policy)| policy != "User ByMethod");
    let special: Vec<String> =
        special.map(|(route, policy)| format!("{route}: {policy}")).collect();
    let expected = [
        "GET /: Public ByMethod",
        "GET /api/admin/sessions: Admin ByMethod",
        "GET /api/admin/usage: Admin ByMethod",
        "GET /api/admin/users: Admin ByMethod",
        "POST /api/chat: User Turn audited-by-handler",
        "POST /api/chat-messages: User ByMethod audited-by-handler",
        "POST /api/chat/{sessionId}/regenerate: User Turn",
        "POST /api/chat/{sessionId}/stop: User Cancel",
        "GET /api/chat/{sessionId}/stream: User ByMethod ticket",
        "GET /api/events: User ByMethod ticket",
        "GET /api/openapi.json: Public ByMethod",
        "POST /api/render: User ReadOnly",
        "POST /api/tickets: User ReadOnly",
        "GET /assets/{*path}: Public ByMethod",
        "GET /health/live: Probe ByMethod",
        "GET /health/ready: Probe ByMethod",
        "POST /v1/chat/completions: User Turn audited-by-handler",
        "POST /v1/responses: User Turn audited-by-handler",
        "POST /v1/responses/{response}/cancel: User Cancel",
    ];
    assert_eq!(special, expected);
}

/// Routes below the prefix that proxies and operators know as the admins' require one.
#[test]
fn routes_below_the_admin_prefix_require_an_admin() {
    for (route, policy) in route_policies() {
        let is_admins = route.contains(" /api/admin/");
        assert_eq!(policy.starts_with("Admin"), is_admins, "{route}: {policy}");
    }
}

/// Accepting and declining are what an invited user may do; see `invitations.rs`.
#[tokio::test]
async fn invited_user_gets_the_answers_of_a_stranger() {
    let cast = Callers::start().await;
    let world = cast.create_resources().await;
    for (route, ask, _) in rows() {
        let concerns_session = ask(&world).0.contains(&world.session)
            || ask(&world).1.to_string().contains(&world.session)
            || route.contains("{response}");
        if !concerns_session || route.ends_with("/accept") || route.ends_with("/leave") {
            continue;
        }
        let stranger = cast.ask("other", route, ask(&world)).await;
        let invited = cast.ask("guest", route, ask(&world)).await;
        assert_eq!(invited.0, stranger.0, "{route}: {}", invited.1);
        assert!(!invited.1.contains("secret"), "{route}: {}", invited.1);
    }
}

#[tokio::test]
async fn callers_reach_their_own_resources_and_no_others() {
    let cast = Callers::start().await;
    let who = ["nobody", "bad", "other", "pat", "ann", "root"];
    let (mut wrong, mut world) = (Vec::new(), cast.create_resources().await);
    for (route, ask, expected) in rows() {
        for (who, expected) in who.into_iter().zip(expected) {
            let (status, body) = cast.ask(who, route, ask(&world)).await;
            // A successful write may have changed the world, so the next caller gets a new one.
            if status < 400 && !route.starts_with("GET") {
                world = cast.create_resources().await;
            }
            if status != expected {
                wrong.push(format!("{route} by {who}: {status}, not {expected}: {body:.200}"));
            }
            if matches!(status, 401 | 404) {
                assert!(!body.contains("secret"), "{route} by {who}: {body}");
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new(), "{wrong:#?}");
}

#[tokio::test]
async fn foreign_resource_looks_like_a_missing_one() {
    let cast = Callers::start().await;
    let world = cast.create_resources().await;
    for (route, ask, expected) in rows() {
        let hidden = [("other", expected[2]), ("pat", expected[3])];
        for (who, _) in hidden.into_iter().filter(|(_, status)| *status == 404) {
            let foreign = cast.ask(who, route, ask(&world)).await;
            let absent = cast.ask(who, route, ask(&missing_resources())).await;
            assert_eq!(foreign, absent, "{route} by {who}");
        }
    }
}

#[tokio::test]
async fn foreign_ids_in_bodies_and_queries_act_like_missing_ones() {
    let cast = Callers::start().await;
    let world = cast.create_resources().await;
    let (own, none) = (cast.server.with_key(&cast.keys["other"]), missing_resources());
    let mine = own.post("/api/chat-sessions", json!({"sessionId": "mine"})).await;
    assert_eq!(mine.status, 201);
    let pairs = |of: fn(&Resources) -> Value| [of(&world), of(&none)];
    let bodies: [(&str, [Value; 2]); 5] = [
        (
            "/api/chat",
            pairs(|w| json!({"sessionId": "mine", "message": "x", "parentId": w.message})),
        ),
        (
            "/api/chat-messages",
            pairs(
                |w| json!({"chatSessionId": "mine", "role": "user", "content": "x", "parentId": w.message}),
            ),
        ),
        ("/api/chat-sessions/mine/fork", pairs(|w| json!({"messageId": w.message}))),
        ("/api/chat-sessions/mine/seen", pairs(|w| json!({"upTo": w.message}))),
        ("/api/chat/mine/regenerate", pairs(|w| json!({"messageId": w.message}))),
    ];
    for (path, [foreign, absent]) in bodies {
        let (foreign, absent) = (own.post(path, foreign).await, own.post(path, absent).await);
        assert_eq!((foreign.status, &foreign.body), (absent.status, &absent.body), "{path}");
        assert_eq!(foreign.status, 404, "{path}: {}", foreign.body);
    }
    let queries: [(&str, [String; 2]); 3] = [
        ("list", [&world, &none].map(|w| format!("/api/chat-sessions?projectId={}", w.project))),
        ("export", [&world, &none].map(|w| format!("/api/export?projectId={}", w.project))),
        (
            "page",
            [&world, &none]
                .map(|w| format!("/api/chat-sessions/mine/messages?before={}", w.message)),
        ),
    ];
    for (what, [foreign, absent]) in queries {
        let (foreign, absent) = (own.get(&foreign).await, own.get(&absent).await);
        assert_eq!((foreign.status, &foreign.body), (absent.status, &absent.body), "{what}");
    }
    // Session ids are unique over all users, so creating one that exists reveals that it does. This
    // is the only such leak.
    let chosen = own.post("/api/chat-sessions", json!({"sessionId": world.session})).await;
    assert_eq!(chosen.failure(), (409, "id_conflict"));
    let sent = json!({"id": world.session, "messages": [{"id": "m", "role": "user", "parts": [{"type": "text", "text": "x"}]}]});
    assert_eq!(own.post("/api/chat", sent).await.failure(), (409, "id_conflict"));
    // A session may carry any project id as a label; it gives no access to that project's content.
    let body = json!({"projectId": world.project, "sessionId": "claims"});
    assert_eq!(own.post("/api/chat-sessions", body).await.status, 201);
    let prompt = own.get("/api/chat-sessions/claims/memory?message=x").await;
    assert!(!prompt.body.to_string().contains("secret"), "{}", prompt.body);
}

#[tokio::test]
async fn unknown_route_is_reported_only_after_authentication() {
    let cast = Callers::start().await;
    let ask = |who| cast.ask(who, "GET /", ("/api/nothing".to_owned(), Value::Null));
    assert_eq!((ask("nobody").await.0, ask("bad").await.0, ask("ann").await.0), (401, 401, 404));
    let wrong = cast.ask("nobody", "TRACE /", ("/api/chat-sessions".to_owned(), Value::Null)).await;
    assert_eq!(wrong.0, 401);
}

/// Response times must not reveal that a resource exists. The rows here are unreadable, so only a
/// request that really reads them fails.
#[tokio::test]
async fn foreign_resource_costs_no_more_reads_than_a_missing_one() {
    let server = Server::on_file(&["--auth=keys"]).await;
    let (ann, ben) =
        (server.key("ann", AuthScope::Chat).await, server.key("ben", AuthScope::Chat).await);
    let own = server.with_key(&ann);
    own.post("/api/chat-sessions", json!({"sessionId": "s"})).await.data();
    let project = own.post("/api/projects", json!({"name": "p"})).await.data()["projectId"].clone();
    let file = rusqlite::Connection::open(server.database()).unwrap();
    let broken =
        "UPDATE sessions SET meta = 'no JSON'; UPDATE projects SET generation_status = 'no word'";
    file.execute_batch(broken).unwrap();
    let project = format!("/api/projects/{}", project.as_str().unwrap());
    for path in ["/api/chat-sessions/s", "/api/chat-sessions/s/messages", &project] {
        assert_eq!(own.get(path).await.status, 503, "{path}");
        assert_eq!(server.with_key(&ben).get(path).await.status, 404, "{path}");
    }
}
