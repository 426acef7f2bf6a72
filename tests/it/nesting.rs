//! Nested JSON is refused where it comes in, or can be read wherever it is shown: parsers read 128
//! levels, and an answer adds some.

use crate::support::Server;
use crate::support::server::fetch;
use reqwest::Method;
use serde_json::{Value, json};

/// Around the bound for values, around what parsers read, and far beyond.
const DEPTHS: [usize; 10] = [1, 90, 97, 98, 99, 100, 101, 126, 127, 20_000];

fn nested(depth: usize) -> String {
    format!("{}{}", "[".repeat(depth), "]".repeat(depth))
}

async fn send(server: &Server, method: Method, path: &str, body: String) -> u16 {
    let request = server.request(method, path).header("content-type", "application/json");
    fetch(request.body(body)).await.status
}

/// Every session, message and project is read without an error, and an export is imported whole.
async fn check_readable(server: &Server) {
    let list = server.get("/api/chat-sessions?limit=100").await.data();
    let sessions = list["sessions"].as_array().unwrap();
    assert!(!sessions.is_empty());
    for session in sessions {
        let id = session["sessionId"].as_str().unwrap();
        assert_eq!(server.get(&format!("/api/chat-sessions/{id}")).await.status, 200);
        for query in ["view=all", "format=ui"] {
            let page =
                server.get(&format!("/api/chat-sessions/{id}/messages?{query}&limit=100")).await;
            assert!(page.data()["messages"].is_array(), "{id} {query}");
        }
    }
    let export = server.get("/api/export").await.body;
    let report = Server::start().await.post("/api/import", export).await.data();
    assert_eq!(report["skipped"], json!([]));
    for session in report["sessions"].as_array().unwrap() {
        assert_eq!(session["leftOut"], json!([]), "{session}");
    }
}

#[tokio::test]
async fn nested_value_of_a_request_is_refused_or_readable() {
    let server = Server::start().await;
    for (number, depth) in DEPTHS.into_iter().enumerate() {
        let (deep, id) = (nested(depth), format!("s{number}"));
        server.post("/api/chat-sessions", json!({"sessionId": id})).await.data();
        let object = format!(r#"{{"a":{deep}}}"#);
        let text = Value::String(object.clone());
        let part = format!(r#"[{{"type":"data-x","data":{deep}}}]"#);
        let message = format!(r#""chatSessionId":"{id}","role":"user","content":"x""#);
        let item = format!(
            r#"{{"type":"function_call","call_id":"c","name":"f","arguments":{text}}},{{"type":"function_call_output","call_id":"c","output":{text}}}"#
        );
        let requests = [
            (Method::POST, "/api/chat-sessions".to_owned(), format!(r#"{{"meta":{object}}}"#)),
            (Method::POST, "/api/chat-sessions".to_owned(), format!(r#"{{"userMeta":{text}}}"#)),
            (Method::PATCH, format!("/api/chat-sessions/{id}"), format!(r#"{{"theme":{object}}}"#)),
            (
                Method::PATCH,
                format!("/api/chat-sessions/{id}"),
                format!(r#"{{"settings":{object}}}"#),
            ),
            (
                Method::POST,
                "/api/projects".to_owned(),
                format!(r#"{{"name":"x","meta":{object}}}"#),
            ),
            (
                Method::POST,
                "/api/chat-messages".to_owned(),
                format!(r#"{{{message},"parts":{part}}}"#),
            ),
            (
                Method::POST,
                "/v1/conversations".to_owned(),
                format!(r#"{{"metadata":{object},"items":[{item}]}}"#),
            ),
            (Method::POST, "/v1/conversations".to_owned(), format!(r#"{{"items":[{item}]}}"#)),
            (
                Method::POST,
                "/api/import".to_owned(),
                format!(
                    r#"{{"sessions":[{{"sessionId":"in-{number}","meta":{object},"userMeta":{text},"settings":{object},
                    "messages":[{{"role":"user","content":"x","parts":{part}}},{{"role":"assistant","content":"x","usage":{object},
                    "parts":[{{"type":"tool-call","toolCallId":"c","toolName":"f","input":{deep},
                    "origin":{{"provider":"p","model":"m","opaqueData":{deep}}}}}]}}]}}]}}"#
                ),
            ),
        ];
        for (method, path, body) in requests {
            let status = send(&server, method, &path, body).await;
            assert!(matches!(status, 200 | 201 | 400), "{status} for {path}, {depth} levels");
        }
    }
    check_readable(&server).await;
}

#[tokio::test]
async fn nested_arguments_of_a_model_are_readable() {
    let server = Server::start().await;
    for (number, depth) in DEPTHS.into_iter().enumerate() {
        let id = format!("s{number}");
        let body = json!({"chatSessionId": id, "message": "x",
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]});
        let mut frames = server.chat(body).await;
        let mut call = server.upstream.call().await;
        call.tool_call(0, "c", "f");
        call.arguments(0, &format!(r#"{{"a":{}}}"#, nested(depth)));
        call.finish_calling();
        frames.until("[DONE]").await;
    }
    check_readable(&server).await;
}
