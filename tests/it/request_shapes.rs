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
