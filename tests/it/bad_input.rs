//! Bad input: each request is rejected with the name of the field, and nothing is stored.

use crate::support::Server;
use crate::support::server::fetch;
use reqwest::Method;
use serde_json::json;

/// Sends a body and asserts the status and the field named in the error details.
pub async fn refused(
    server: &Server,
    method: Method,
    path: &str,
    body: &str,
    status: u16,
    field: &str,
) {
    let request = server.request(method.clone(), path).header("content-type", "application/json");
    let reply = fetch(request.body(body.to_owned())).await;
    let shown: String = body.chars().take(100).collect();
    assert_eq!(reply.status, status, "{method} {path} {shown}: {}", reply.body);
    let details = &reply.body["error"]["details"];
    assert!(details.get(field).is_some(), "{method} {path} {shown}: {}", reply.body);
}

#[tokio::test]
async fn bad_body_is_rejected_naming_the_field() {
    let server = Server::start().await;
    let session = server.session().await;
    let (chat, sessions, messages) = ("/api/chat", "/api/chat-sessions", "/api/chat-messages");
    let own = format!("/api/chat-sessions/{session}");
    let (title, meta) = (format!("{own}/title"), format!("{own}/meta"));
    let post = |content: &str| {
        format!(r#"{{"chatSessionId":"{session}","role":"user","content":{content}}}"#)
    };
    let deep = format!("{}{}", "{\"a\":".repeat(300), "1") + &"}".repeat(300);
    let big_title = format!(r#"{{"title":"{}"}}"#, "x".repeat(1 << 20));
    let big_meta = format!(r#"{{"meta":{{"a":"{}"}}}}"#, "x".repeat(17 * 1024));
    let cases: Vec<(Method, &str, String, u16, &str)> = vec![
        (Method::POST, chat, "{".into(), 400, "body"),
        (Method::POST, chat, "[]".into(), 400, "body"),
        (Method::POST, chat, r#"{"message":"x"} trailing"#.into(), 400, "body"),
        (Method::POST, chat, "{}".into(), 400, "message"),
        (Method::POST, chat, r#"{"message":7}"#.into(), 400, "message"),
        (Method::POST, chat, r#"{"message":"  "}"#.into(), 400, "message"),
        (Method::POST, chat, r#"{"message":"a\u0000b"}"#.into(), 400, "message"),
        (Method::POST, chat, r#"{"message":"x","sessionId":"no/slash"}"#.into(), 400, "sessionId"),
        (
            Method::POST,
            chat,
            format!(r#"{{"message":"x","sessionId":"{}"}}"#, "x".repeat(129)),
            400,
            "sessionId",
        ),
        (
            Method::POST,
            chat,
            r#"{"message":"x","clientMessageId":""}"#.into(),
            400,
            "clientMessageId",
        ),
        (Method::POST, chat, r#"{"message":"x","temperature":3}"#.into(), 400, "temperature"),
        (Method::POST, chat, r#"{"message":"x","temperature":"hot"}"#.into(), 400, "temperature"),
        (Method::POST, chat, r#"{"message":"x","topP":1.1}"#.into(), 400, "topP"),
        (
            Method::POST,
            chat,
            r#"{"message":"x","maxOutputTokens":0}"#.into(),
            400,
            "maxOutputTokens",
        ),
        (
            Method::POST,
            chat,
            r#"{"message":"x","maxOutputTokens":-1}"#.into(),
            400,
            "maxOutputTokens",
        ),
        (Method::POST, chat, r#"{"message":"x","model":""}"#.into(), 400, "model"),
        (
            Method::POST,
            chat,
            r#"{"message":"x","memory":{"strategy":"psychic"}}"#.into(),
            400,
            "memory.strategy",
        ),
        (
            Method::POST,
            chat,
            r#"{"message":"x","memory":{"lastMessages":0}}"#.into(),
            400,
            "memory.lastMessages",
        ),
        (Method::POST, chat, r#"{"message":"x","onBusy":"shout"}"#.into(), 400, "onBusy"),
        (Method::POST, chat, r#"{"message":"x","trigger":"dance"}"#.into(), 400, "trigger"),
        (Method::POST, chat, r#"{"message":"x","parts":[{"no":"type"}]}"#.into(), 400, "parts"),
        (Method::POST, chat, r#"{"messages":[]}"#.into(), 400, "id"),
        (Method::POST, chat, r#"{"id":"a","messages":[]}"#.into(), 400, "messages"),
        (
            Method::POST,
            chat,
            r#"{"id":"a","messages":[{"id":"m","role":"assistant","parts":[]}]}"#.into(),
            400,
            "messages",
        ),
        (
            Method::POST,
            chat,
            r#"{"id":"a","messages":[{"id":"m","role":"user","parts":[]}]}"#.into(),
            400,
            "messages",
        ),
        (
            Method::POST,
            chat,
            r#"{"id":"a","messages":[{"id":"m","role":"user","parts":[{"type":"text"}]}]}"#.into(),
            400,
            "messages",
        ),
        (
            Method::POST,
            chat,
            r#"{"id":"a","messages":[{"role":"user","parts":[]}]}"#.into(),
            400,
            "messages",
        ),
        (Method::POST, chat, format!(r#"{{"message":"{}"}}"#, "x".repeat(300_000)), 413, "message"),
        (
            Method::POST,
            chat,
            format!(r#"{{"message":"x","pad":"{}"}}"#, "x".repeat(33 << 20)),
            413,
            "body",
        ),
        (Method::POST, sessions, r#"{"sessionId":"a b"}"#.into(), 400, "sessionId"),
        (Method::POST, sessions, r#"{"title":5}"#.into(), 400, "title"),
        (Method::POST, sessions, big_title.clone(), 400, "title"),
        (Method::POST, sessions, r#"{"title":"a\u0000"}"#.into(), 400, "title"),
        (Method::POST, sessions, r#"{"meta":[]}"#.into(), 400, "meta"),
        (Method::POST, sessions, r#"{"meta":"{}x"}"#.into(), 400, "meta"),
        (Method::POST, sessions, format!(r#"{{"meta":{deep}}}"#), 400, "meta"),
        (Method::POST, sessions, big_meta.clone(), 400, "meta"),
        (Method::POST, sessions, r#"{"userMeta":"not json"}"#.into(), 400, "userMeta"),
        (Method::POST, sessions, r#"{"theme":7}"#.into(), 400, "theme"),
        (Method::POST, sessions, r#"{"participants":["  "]}"#.into(), 400, "participants"),
        (Method::POST, sessions, r#"{"participants":"bob"}"#.into(), 400, "participants"),
        (
            Method::POST,
            sessions,
            r#"{"settings":{"temperature":9}}"#.into(),
            400,
            "settings.temperature",
        ),
        (Method::POST, sessions, r#"{"projectId":"p p"}"#.into(), 400, "projectId"),
        (Method::POST, sessions, format!(r#"{{"pad":"{}"}}"#, "x".repeat(3 << 20)), 413, "body"),
        (Method::PATCH, &own, r#"{"status":"Active!"}"#.into(), 400, "status"),
        (Method::PATCH, &own, r#"{"archived":"yes"}"#.into(), 400, "archived"),
        (Method::PUT, &title, "{}".into(), 400, "title"),
        (Method::PUT, &title, big_title, 400, "title"),
        (Method::PUT, &meta, "{}".into(), 400, "meta"),
        (Method::PUT, &meta, r#"{"meta":null}"#.into(), 400, "meta"),
        (Method::PUT, &meta, big_meta, 400, "meta"),
        (Method::POST, messages, r#"{"role":"user","content":"x"}"#.into(), 400, "chatSessionId"),
        (Method::POST, messages, post("\"\""), 400, "content"),
        (Method::POST, messages, post("null"), 400, "content"),
        (Method::POST, messages, post(r#""a\u0000""#), 400, "content"),
        (Method::POST, messages, post("\"x\"").replace("\"user\"", "\"robot\""), 400, "role"),
        (Method::POST, messages, post("\"x\",\"type\":\"smell\""), 400, "type"),
        (Method::POST, messages, post("\"x\",\"createdAt\":\"yesterday\""), 400, "createdAt"),
        (Method::POST, messages, post("\"x\",\"parentId\":\"?\""), 400, "parentId"),
    ];
    for (method, path, body, status, field) in cases {
        refused(&server, method, path, &body, status, field).await;
    }
    assert_eq!(
        server.get("/api/chat-sessions?archived=all").await.data()["pagination"]["total"],
        1
    );
    assert_eq!(server.transcript(&session).await, Vec::<String>::new());
    assert!(server.upstream.is_idle().await);
}

#[tokio::test]
async fn bad_query_is_rejected_naming_every_bad_parameter() {
    let server = Server::start().await;
    let session = server.session().await;
    let own = format!("/api/chat-sessions/{session}");
    for (query, fields) in [
        ("/api/chat-sessions?limit=0".to_owned(), vec!["limit"]),
        ("/api/chat-sessions?limit=101".to_owned(), vec!["limit"]),
        (
            "/api/chat-sessions?limit=ten&page=0&archived=maybe".to_owned(),
            vec!["archived", "limit", "page"],
        ),
        ("/api/chat-sessions?sort=size".to_owned(), vec!["sort"]),
        ("/api/chat-sessions?cursor=abc".to_owned(), vec!["cursor"]),
        ("/api/chat-sessions?colour=red&limit=3".to_owned(), vec!["colour"]),
        ("/api/chat-sessions?limit=3&limit=4".to_owned(), vec!["limit"]),
        ("/api/chat-sessions?status=No".to_owned(), vec!["status"]),
        (format!("{own}?verbose=1"), vec!["verbose"]),
        (format!("{own}/messages?limit=0"), vec!["limit"]),
        (format!("{own}/messages?view=some&format=xml"), vec!["format", "view"]),
        (format!("{own}/messages?before=a&after=b"), vec!["after"]),
        (
            format!("{own}/memory?strategy=psychic&maxTokens=-1&lastMessages=0"),
            vec!["lastMessages", "maxTokens", "strategy"],
        ),
        ("/api/models?x=1".to_owned(), vec!["x"]),
    ] {
        let reply = server.get(&query).await;
        assert_eq!(reply.failure(), (400, "invalid_request"), "{query}");
        let named: Vec<_> =
            reply.body["error"]["details"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(named, fields, "{query}");
    }
}

#[tokio::test]
async fn path_ids_with_invalid_characters_are_rejected() {
    let server = Server::start().await;
    let session = server.session().await;
    let long = "x".repeat(129);
    for path in [
        "/api/chat-sessions/a%20b".to_owned(),
        format!("/api/chat-sessions/{long}"),
        "/api/chat-sessions/%00/messages".to_owned(),
        "/api/chat-sessions/%ff".to_owned(),
    ] {
        let reply = server.get(&path).await;
        assert_eq!(reply.failure(), (400, "invalid_request"), "{path}");
        assert!(reply.body["error"]["details"]["sessionId"].is_string(), "{path}");
    }
    let reply = server.get(&format!("/api/chat-sessions/{session}/messages/a%2Fb")).await;
    assert!(reply.body["error"]["details"]["messageId"].is_string());
}

#[tokio::test]
async fn unknown_routes_and_methods_get_an_error_envelope() {
    let server = Server::start().await;
    assert_eq!(server.get("/api/nothing").await.failure(), (404, "route_not_found"));
    let wrong = server.delete("/api/chat").await;
    assert_eq!(wrong.failure(), (405, "method_not_allowed"));
    assert_eq!(wrong.header("allow"), "POST");
    for reply in [server.get("/api/nothing").await, wrong] {
        assert!(!reply.header("x-request-id").is_empty());
        assert!(reply.body["message"].as_str().unwrap().ends_with('.'));
    }
}

#[tokio::test]
async fn non_json_content_type_is_rejected() {
    let server = Server::start().await;
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonx",
    ] {
        for path in ["/api/chat", "/api/chat-sessions", "/api/chat-messages", "/api/import"] {
            // A form may carry files to import.
            if path == "/api/import" && kind.starts_with("multipart") {
                continue;
            }
            let request = server
                .request(Method::POST, path)
                .header("content-type", kind)
                .body("{\"message\":\"x\"}");
            assert_eq!(
                fetch(request).await.failure(),
                (415, "unsupported_media_type"),
                "{path} {kind}"
            );
        }
    }
    let bare = server.request(Method::POST, "/api/chat-sessions").body("{}");
    assert_eq!(fetch(bare).await.failure(), (415, "unsupported_media_type"));
    let charset = server
        .request(Method::POST, "/api/chat-sessions")
        .header("content-type", "Application/JSON; charset=utf-8");
    assert_eq!(fetch(charset.body("{}")).await.status, 201);
}

#[tokio::test]
async fn half_an_emoji_in_a_request_is_replaced() {
    let server = Server::start().await;
    for (path, body) in [
        ("/api/chat-sessions", r#"{"sessionId":"s"}"#),
        ("/api/chat-messages", r#"{"chatSessionId":"s","role":"user","content":"cut \ud83d"}"#),
        (
            "/api/chat-messages",
            r#"{"chatSessionId":"s","role":"user","content":"x","parts":[{"type":"text","text":"\ude00"}]}"#,
        ),
        ("/api/chat-sessions", r#"{"sessionId":"t","title":"cut \uD83D","meta":{"a":"\ud83d"}}"#),
    ] {
        let request = server.request(Method::POST, path).header("content-type", "application/json");
        assert!(fetch(request.body(body)).await.status < 300, "{path}");
    }
    let messages = server.get("/api/chat-sessions/s/messages").await.data();
    assert_eq!(messages["messages"][0]["content"], "cut \u{fffd}");
    assert_eq!(server.get("/api/chat-sessions/t").await.data()["title"], "cut \u{fffd}");
}

#[tokio::test]
async fn error_names_the_field_with_too_many_values_or_levels() {
    let server = Server::start().await;
    let session = server.session().await;
    let chat = |field: &str, value: String| {
        format!(r#"{{"sessionId":"{session}","message":"x","{field}":{value}}}"#)
    };
    let post = async |path: &str, body: String| {
        let request = server.request(Method::POST, path).header("content-type", "application/json");
        let reply = fetch(request.body(body)).await;
        assert_eq!(reply.failure(), (400, "invalid_request"), "{}", reply.body);
        reply.body["error"]["details"].clone()
    };
    let list = |item: &str, count: usize| format!("[{}]", vec![item; count].join(","));
    let deep = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    let many = list(r#"{"type":"x"}"#, 60_000);
    let data = |value: String| format!(r#"[{{"type":"data-x","data":{value}}}]"#);
    let function = r#"{"type":"function","function":{"name":"f"}}"#;
    for (body, field) in [
        (chat("parts", many.clone()), "parts"),
        (chat("parts", list(r#"{"type":"x"}"#, 1001)), "parts"),
        (chat("parts", data(list("0", 100_001))), "parts"),
        (chat("parts", data(deep(99))), "parts"),
        (chat("tools", list(function, 60_000)), "tools"),
        (chat("tools", list(function, 513)), "tools"),
        (chat("responseFormat", deep(101)), "response_format"),
        (
            format!(r#"{{"id":"a","messages":[{{"id":"m","role":"user","parts":{many}}}]}}"#),
            "messages",
        ),
    ] {
        let details = post("/api/chat", body).await;
        assert!(details.as_object().unwrap().keys().any(|key| key.starts_with(field)), "{details}");
    }
    let details = post("/api/chat-sessions", format!(r#"{{"meta":{{"a":{}}}}}"#, deep(101))).await;
    assert!(details["meta"].as_str().unwrap().contains("100 levels"), "{details}");
    for id in [".", ".."] {
        let details = post("/api/chat-sessions", format!(r#"{{"sessionId":"{id}"}}"#)).await;
        assert!(details["sessionId"].as_str().unwrap().contains("URL"), "{details}");
    }
    let v1 = format!(r#"{{"model":"gated-1","input":"x","tools":{}}}"#, list(function, 60_000));
    let request = server.request(Method::POST, "/v1/responses");
    let reply = fetch(request.header("content-type", "application/json").body(v1)).await;
    assert_eq!((reply.status, &reply.body["error"]["param"]), (400, &json!("tools")));
}
