//! Well-formed JSON of the wrong shape: lists where objects belong, and NUL in text. serde would
//! deserialize a list into a struct by position; this server rejects it.

use crate::bad_input::refused;
use crate::support::Server;
use crate::support::server::fetch;
use echoic::domain::key::AuthScope;
use reqwest::Method;
use serde_json::{Value, json};

/// Every operation of the OpenAPI document: method, path with its parameters filled in,
/// description.
pub async fn operations(server: &Server, session: &str) -> Vec<(Method, String, Value)> {
    let document = server.get("/api/openapi.json").await.body;
    let mut operations = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        let path = path
            .replace("{sessionId}", session)
            .replace("{messageId}", "m")
            .replace("{chatId}", "c")
            .replace("{projectId}", "p")
            .replace("{path}", "f");
        for (method, operation) in methods.as_object().unwrap() {
            let method = method.to_uppercase().parse().unwrap();
            operations.push((method, path.clone(), operation.clone()));
        }
    }
    operations
}

#[tokio::test]
async fn no_route_accepts_a_list_as_its_body() {
    let server = Server::start().await;
    let session = server.session().await;
    let mut routes = 0;
    for (method, path, operation) in operations(&server, &session).await {
        // OpenAI's routes have their own error format.
        if operation.get("requestBody").is_none() || path.starts_with("/v1/") {
            continue;
        }
        routes += 1;
        for body in ["[]", "[{}]", r#"["a"]"#, r#"[null,"a",1]"#, r#"[[],[]]"#] {
            refused(&server, method.clone(), &path, body, 400, "body").await;
        }
    }
    assert!(routes >= 9, "only {routes} routes take a body");
    assert_eq!(server.get("/api/chat-sessions").await.data()["pagination"]["total"], 1);
    let untouched = server.get(&format!("/api/chat-sessions/{session}")).await.data();
    assert_eq!((&untouched["version"], &untouched["messagesCount"]), (&json!(1), &json!(0)));
    assert!(server.upstream.is_idle().await);
}

#[tokio::test]
async fn list_for_a_nested_object_is_rejected_by_field_name() {
    let server = Server::start().await;
    let session = server.session().await;
    let (chat, sessions, messages) = ("/api/chat", "/api/chat-sessions", "/api/chat-messages");
    let (own, projects) = (format!("/api/chat-sessions/{session}"), "/api/projects");
    let (meta, again) = (format!("{own}/meta"), format!("/api/chat/{session}/regenerate"));
    let saying = |field: &str| format!(r#"{{"sessionId":"{session}","message":"hi",{field}}}"#);
    let posting = |field: &str| {
        format!(r#"{{"chatSessionId":"{session}","role":"user","content":"hi",{field}}}"#)
    };
    let ui = |message: &str| format!(r#"{{"id":"{session}","messages":[{message}]}}"#);
    for (method, path, body, field) in [
        (Method::POST, sessions, r#"{"settings":[]}"#.to_owned(), "settings"),
        (Method::POST, sessions, r#"{"settings":["m"]}"#.into(), "settings"),
        (Method::POST, sessions, r#"{"settings":{"memory":[]}}"#.into(), "settings.memory"),
        (Method::POST, sessions, r#"{"settings":{"memory":["window"]}}"#.into(), "settings.memory"),
        (Method::POST, sessions, r#"{"meta":[]}"#.into(), "meta"),
        (Method::POST, sessions, r#"{"userMeta":"[]"}"#.into(), "userMeta"),
        (Method::POST, sessions, r#"{"theme":[{}]}"#.into(), "theme"),
        (Method::POST, sessions, r#"{"title":["t"]}"#.into(), "title"),
        (Method::PATCH, &own, r#"{"settings":[]}"#.into(), "settings"),
        (Method::PATCH, &own, r#"{"settings":{"memory":[]}}"#.into(), "settings.memory"),
        (Method::PATCH, &own, r#"{"meta":[]}"#.into(), "meta"),
        (Method::PUT, &meta, r#"{"meta":[]}"#.into(), "meta"),
        (Method::POST, projects, r#"{"name":"p","files":{}}"#.into(), "files"),
        (Method::POST, projects, r#"{"name":"p","files":[["a","x",null]]}"#.into(), "files[0]"),
        (Method::POST, chat, saying(r#""memory":[]"#), "memory"),
        (Method::POST, chat, saying(r#""memory":["window",3]"#), "memory"),
        (Method::POST, chat, saying(r#""parts":[["text","x"]]"#), "parts"),
        (Method::POST, chat, r#"{"message":["hi"]}"#.into(), "message"),
        (Method::POST, chat, ui(r#"["m","user",[]]"#), "messages"),
        (Method::POST, chat, ui("[]"), "messages"),
        (Method::POST, chat, ui(r#"{"id":"m","role":"user","parts":[["text","x"]]}"#), "messages"),
        (Method::POST, &again, r#"{"memory":[]}"#.into(), "memory"),
        (Method::POST, messages, posting(r#""parts":[[]]"#), "parts"),
        (Method::POST, messages, posting(r#""type":[]"#), "type"),
    ] {
        refused(&server, method, path, &body, 400, field).await;
    }
    assert_eq!(server.get("/api/chat-sessions").await.data()["pagination"]["total"], 1);
    assert_eq!(server.transcript(&session).await, Vec::<String>::new());
    assert!(server.upstream.is_idle().await);
}

#[tokio::test]
async fn list_in_an_import_file_is_reported_by_field_name() {
    let server = Server::start().await;
    let message = json!({"role": "user", "content": "hi"});
    let with = |field: &str, value: Value| {
        let mut message = message.clone();
        message[field] = value;
        json!({"sessionId": field, "messages": [message]})
    };
    let odd = [
        (json!({"sessionId": "a", "settings": []}), "settings"),
        (json!({"sessionId": "b", "settings": {"memory": []}}), "settings.memory"),
        (json!({"sessionId": "c", "meta": []}), "meta"),
        (json!({"sessionId": "d", "messages": {}}), "messages"),
        (json!({"sessionId": "e", "messages": [["m", "user", "ada", "hi"]]}), "messages[0]"),
        (json!({"sessionId": "f", "messages": [message, []]}), "messages[1]"),
        (with("usage", json!([1, 2])), "messages[0].usage"),
        (with("error", json!(["code", "sentence"])), "messages[0].error"),
        (with("parts", json!([[]])), "messages[0].parts"),
    ];
    let mut sessions: Vec<Value> = odd.iter().map(|(session, _)| session.clone()).collect();
    sessions.extend([json!([]), json!(["s", "title"])]);
    let report = server.post("/api/import", json!({"sessions": sessions})).await.data();
    let listed: Vec<&Value> =
        ["sessions", "skipped"].iter().flat_map(|list| report[list].as_array().unwrap()).collect();
    assert_eq!(listed.len(), sessions.len());
    for (session, named) in &odd {
        let id = &session["sessionId"];
        let entry = listed.iter().find(|entry| entry["sessionId"] == *id).unwrap();
        assert!(entry.to_string().contains(named), "{session}: {entry}");
    }
    let is_list = |entry: &&&Value| entry["reason"].to_string().contains("object");
    assert_eq!(report["skipped"].as_array().unwrap().iter().filter(|it| is_list(&it)).count(), 2);
}

#[tokio::test]
async fn nul_is_rejected_in_every_text_field() {
    let server = Server::start().await;
    let session = server.session().await;
    let (chat, sessions, messages) = ("/api/chat", "/api/chat-sessions", "/api/chat-messages");
    let own = format!("/api/chat-sessions/{session}");
    let (title, meta) = (format!("{own}/title"), format!("{own}/meta"));
    let saying = |field: &str| format!(r#"{{"sessionId":"{session}","message":"hi",{field}}}"#);
    let posting = |field: &str| {
        format!(r#"{{"chatSessionId":"{session}","role":"user","content":"hi",{field}}}"#)
    };
    let ui = |part: &str| {
        format!(r#"{{"id":"{session}","messages":[{{"id":"m","role":"user","parts":[{part}]}}]}}"#)
    };
    for (method, path, body, field) in [
        (Method::POST, sessions, r#"{"meta":{"a":"b\u0000"}}"#.to_owned(), "meta"),
        (Method::POST, sessions, r#"{"meta":{"a\u0000":1}}"#.into(), "meta"),
        (Method::POST, sessions, r#"{"meta":{"a":[{"b":["\u0000"]}]}}"#.into(), "meta"),
        (Method::POST, sessions, r#"{"userMeta":"{\"a\":\"\\u0000\"}"}"#.into(), "userMeta"),
        (Method::POST, sessions, r#"{"theme":{"a":"\u0000"}}"#.into(), "theme"),
        (Method::POST, sessions, r#"{"projectId":"p\u0000"}"#.into(), "projectId"),
        (Method::POST, sessions, r#"{"participants":["b\u0000b"]}"#.into(), "participants"),
        (Method::POST, sessions, r#"{"settings":{"model":"m\u0000"}}"#.into(), "settings.model"),
        (
            Method::POST,
            sessions,
            r#"{"settings":{"systemPrompt":"s\u0000"}}"#.into(),
            "settings.systemPrompt",
        ),
        (Method::PATCH, &own, r#"{"meta":{"a":"\u0000"}}"#.into(), "meta"),
        (Method::PATCH, &own, r#"{"title":"\u0000"}"#.into(), "title"),
        (Method::PUT, &title, r#"{"title":"a\u0000b"}"#.into(), "title"),
        (Method::PUT, &meta, r#"{"meta":{"a":"\u0000"}}"#.into(), "meta"),
        (Method::POST, chat, saying(r#""parts":[{"type":"file","url":"\u0000"}]"#), "parts"),
        (Method::POST, chat, saying(r#""parts":[{"type":"\u0000"}]"#), "parts"),
        (Method::POST, chat, saying(r#""systemPrompt":"\u0000""#), "systemPrompt"),
        (Method::POST, chat, ui(r#"{"type":"text","text":"a\u0000"}"#), "messages"),
        (Method::POST, chat, ui(r#"{"type":"file","url":"a\u0000"}"#), "parts"),
        (
            Method::POST,
            messages,
            posting(r#""parts":[{"type":"a","deep":{"er":[{"x\u0000":1}]}}]"#),
            "parts",
        ),
        (Method::POST, messages, posting(r#""clientMessageId":"a\u0000""#), "clientMessageId"),
    ] {
        refused(&server, method, path, &body, 400, field).await;
    }
    for (query, field) in
        [("message=a%00b", "message"), ("message=%00", "message"), ("strategy=%00", "strategy")]
    {
        let reply = server.get(&format!("{own}/memory?{query}")).await;
        assert_eq!(reply.failure(), (400, "invalid_request"), "{query}");
        assert!(reply.body["error"]["details"][field].is_string(), "{query}: {}", reply.body);
    }
    assert_eq!(server.transcript(&session).await, Vec::<String>::new());
    let untouched = server.get(&own).await.data();
    assert_eq!((&untouched["version"], &untouched["meta"]), (&json!(1), &json!({})));
    assert!(server.upstream.is_idle().await);
}

#[tokio::test]
async fn unknown_query_parameter_is_rejected_by_name() {
    let server = Server::start().await;
    let session = server.session().await;
    let operations = operations(&server, &session).await;
    assert!(operations.len() >= 18, "only {} operations are documented", operations.len());
    let closed = Server::with(&["--auth=keys"]).await;
    let root = closed.key("root", AuthScope::Admin).await;
    for (method, path, operation) in operations {
        // OpenAI's routes have their own error format.
        if path.starts_with("/v1/") {
            continue;
        }
        // Without authentication there is no admin, so admin routes are tested on the server with
        // keys.
        let at = if path.starts_with("/api/admin/") { &closed } else { &server };
        let ask = |query: &str| {
            let request = at.request(method.clone(), &format!("{path}?{query}"));
            let request = request.bearer_auth(&root);
            request.header("content-type", "application/json").body("{}")
        };
        let reply = fetch(ask("surprise=1&colour=red")).await;
        assert_eq!(reply.failure(), (400, "invalid_request"), "{method} {path}");
        let details = &reply.body["error"]["details"];
        for name in ["surprise", "colour"] {
            assert_eq!(details[name], "is not a parameter of this route", "{method} {path}");
        }
        // Documented parameters are known: their value may be wrong, but not their name.
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        for parameter in parameters.iter().filter(|parameter| parameter["in"] == "query") {
            let name = parameter["name"].as_str().unwrap();
            let reply = fetch(ask(&format!("surprise=1&{name}=7"))).await;
            let details = reply.body["error"]["details"].as_object().unwrap();
            assert!(details.contains_key("surprise"), "{method} {path} {name}");
            assert_ne!(
                details.get(name),
                Some(&json!("is not a parameter of this route")),
                "{method} {path}"
            );
        }
    }
    assert_eq!(server.get("/api/chat-sessions").await.data()["pagination"]["total"], 1);
}
