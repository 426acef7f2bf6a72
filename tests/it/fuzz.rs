//! Arbitrary input from clients and providers: the response is always well-formed, never a 5xx,
//! nothing is left half done, and the next request is served.

use crate::support::server::fetch;
use crate::support::{Server, within_deadline};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use reqwest::{Method, RequestBuilder};
use serde_json::{Map, Value, json};

/// Field names of real requests, so that the generated JSON gets past the first checks.
const FIELDS: &[&str] = &[
    "sessionId",
    "message",
    "messages",
    "id",
    "role",
    "content",
    "parts",
    "type",
    "text",
    "title",
    "meta",
    "settings",
    "model",
    "memory",
    "strategy",
    "maxTokens",
    "parentId",
    "clientMessageId",
    "trigger",
    "messageId",
    "onBusy",
    "participants",
    "chatSessionId",
    "upTo",
    "name",
    "files",
    "path",
    "language",
    "sessions",
    "createdAt",
    "projectId",
    "status",
    "archived",
    "mapping",
    "temperature",
];

const WORDS: &[&str] = &[
    "",
    "s",
    "user",
    "assistant",
    "system",
    "tool",
    "text",
    "image",
    "queue",
    "interrupt",
    "buffer",
    "regenerate-message",
    "closed",
    "2020-01-01T00:00:00Z",
    "a/b.txt",
    "../x",
    "\u{0}",
    "ä\u{202e}",
];

pub(crate) fn text() -> impl Strategy<Value = String> {
    prop_oneof![select(WORDS).prop_map(str::to_owned), any::<String>()]
}

/// Any JSON, mostly with known field names.
pub(crate) fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        let field = prop_oneof![4 => select(FIELDS).prop_map(str::to_owned), 1 => text()];
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map(field, inner, 0..6).prop_map(|map| Value::Object(Map::from_iter(map))),
        ]
    })
}

/// `count` values of a strategy, the same in every run.
pub(crate) fn sample<T: std::fmt::Debug>(
    count: usize,
    strategy: impl Strategy<Value = T>,
) -> Vec<T> {
    let mut runner = TestRunner::deterministic();
    (0..count).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect()
}

/// Sends a request and asserts that the response is well-formed and not a 5xx.
pub(crate) async fn check_response(request: RequestBuilder, what: &dyn std::fmt::Debug) -> u16 {
    let answer = within_deadline(request.send()).await.unwrap();
    let status = answer.status().as_u16();
    assert!(status < 500, "{status} for {what:?}");
    if answer.headers().get("content-type").is_some_and(|kind| kind == "application/json") {
        let body: Value = within_deadline(answer.json()).await.unwrap();
        assert_eq!(body["success"], status < 400, "{status} for {what:?}: {body}");
    }
    status
}

#[tokio::test]
async fn arbitrary_json_is_accepted_or_rejected() {
    let server = Server::start().await;
    server.post("/api/chat-sessions", json!({"sessionId": "s"})).await.data();
    let routes = [
        (Method::POST, "/api/chat"),
        (Method::POST, "/api/chat/s/regenerate"),
        (Method::POST, "/api/chat/s/stop"),
        (Method::POST, "/api/chat-sessions"),
        (Method::PATCH, "/api/chat-sessions/s"),
        (Method::PUT, "/api/chat-sessions/s/meta"),
        (Method::PUT, "/api/chat-sessions/s/title"),
        (Method::PUT, "/api/chat-sessions/s/head"),
        (Method::POST, "/api/chat-sessions/s/fork"),
        (Method::POST, "/api/chat-sessions/s/seen"),
        (Method::POST, "/api/chat-messages"),
        (Method::POST, "/api/projects"),
        (Method::POST, "/api/import"),
    ];
    for body in sample(60, any_json()) {
        for (method, path) in &routes {
            let request = server.request(method.clone(), path).json(&body);
            check_response(request, &(method, path, &body)).await;
        }
    }
    assert_eq!(server.get("/health/ready").await.status, 200);
}

#[tokio::test]
async fn arbitrary_import_bytes_leave_nothing_partial() {
    let server = Server::start().await;
    let whole = json!({"sessions": [{"sessionId": "a", "messages": [
        {"id": "1", "role": "user", "content": "x"}, {"id": "2", "role": "assistant", "content": "y"}]}]});
    let whole = whole.to_string().into_bytes();
    let change = (any::<prop::sample::Index>(), any::<u8>(), any::<bool>());
    for (at, byte, cuts) in sample(150, change) {
        let (mut bytes, at) = (whole.clone(), at.index(whole.len()));
        if cuts {
            bytes.truncate(at)
        } else {
            bytes[at] = byte
        }
        let request = server.request(Method::POST, "/api/import");
        let request = request.header("content-type", "application/json").body(bytes.clone());
        check_response(request, &String::from_utf8_lossy(&bytes)).await;
    }
    let sessions = server.get("/api/chat-sessions?limit=100").await.data();
    for session in sessions["sessions"].as_array().unwrap() {
        let path = format!(
            "/api/chat-sessions/{}/messages?view=all",
            session["sessionId"].as_str().unwrap()
        );
        let messages = server.get(&path).await.data()["messages"].as_array().unwrap().len();
        assert_eq!(session["messagesCount"], messages, "{session}");
    }
}

#[tokio::test]
async fn arbitrary_cursors_are_read_or_ignored() {
    let server = Server::start().await;
    let session = server.session().await;
    let (mut frames, mut call) = server.open_turn(&session, "hi").await;
    call.text("one");
    let turn = frames.until("text-delta").await.id;
    let turn = turn.split_once(':').unwrap().0.to_owned();
    let number = prop_oneof![any::<u64>().prop_map(|n| n.to_string()), "[0-9a-z:-]{0,30}"];
    let cursor = prop_oneof![
        number.prop_map(move |number| format!("{turn}:{number}")),
        "[ -~]{0,200}",
        text(),
    ];
    for cursor in sample(150, cursor) {
        let path = format!("/api/chat/{session}/stream");
        let header = reqwest::header::HeaderValue::from_bytes(cursor.as_bytes());
        if let Ok(header) = header {
            let request = server.request(Method::GET, &path).header("last-event-id", header);
            assert!(matches!(check_response(request, &cursor).await, 200 | 400), "{cursor:?}");
        }
        let spelled: String = cursor.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let query = server.request(Method::GET, &format!("{path}?lastEventId={spelled}"));
        assert!(matches!(check_response(query, &cursor).await, 200 | 400), "{cursor:?}");
    }
    call.finish(json!({"prompt_tokens": 1, "completion_tokens": 1}));
    frames.until("[DONE]").await;
}

#[tokio::test]
async fn arbitrary_provider_streams_end_the_turn_and_free_session() {
    let server = Server::start().await;
    let line = prop_oneof![
        any_json().prop_map(|json| format!("data: {json}\n\n").into_bytes()),
        any_json().prop_map(|json| {
            format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": json}]})).into_bytes()
        }),
        vec(any::<u8>(), 0..40),
        Just(b"data: [DONE]\n\n".to_vec()),
        Just(b"event: error\r\ndata: {\"error\": 7}\r\n\r\n".to_vec()),
    ];
    for (number, pieces) in sample(60, vec(line, 0..8)).into_iter().enumerate() {
        let session = format!("s{number}");
        let body = json!({"id": session, "message": {"id": "m", "role": "user", "parts": [{"type": "text", "text": "x"}]}});
        let mut frames = server.chat(body).await;
        let mut call = server.upstream.call().await;
        for piece in pieces {
            call.raw(piece);
        }
        call.end();
        // A stream that breaks before its first token is retried; every retry gets an empty stream.
        let again = async {
            loop {
                server.upstream.call().await.end();
            }
        };
        tokio::select! { _ = frames.until("[DONE]") => {}, () = again => {} }
        let left = fetch(server.request(Method::GET, &format!("/api/chat-sessions/{session}")))
            .await
            .data();
        assert_eq!((&left["activeTurn"], &left["messagesCount"]), (&Value::Null, &json!(2)));
    }
}
