//! Cross-origin requests, and host names that are not this server's.

use crate::support::server::{ApiResponse, fetch};
use crate::support::{FrameReader, Server};
use reqwest::Method;
use serde_json::json;

#[tokio::test]
async fn cross_origin_page_cannot_write() {
    let server = Server::with(&["--cors-origins=https://chat.example.com"]).await;
    let own = server.base.clone();
    let from = |method: Method, origin: &str| {
        server.request(method, "/api/chat-sessions").header("origin", origin).json(&json!({}))
    };
    for foreign in [
        "https://evil.example",
        "null",
        "http://127.0.0.1:1",
        "https://chat.example.com.evil.example",
    ] {
        assert_eq!(
            fetch(from(Method::POST, foreign)).await.failure(),
            (403, "forbidden"),
            "{foreign}"
        );
    }
    assert_eq!(fetch(from(Method::POST, &own)).await.status, 201);
    let allowed = fetch(from(Method::POST, "https://chat.example.com")).await;
    assert_eq!(
        (allowed.status, allowed.header("access-control-allow-origin")),
        (201, "https://chat.example.com")
    );
    let read_only = fetch(from(Method::GET, "https://evil.example")).await;
    assert_eq!((read_only.status, read_only.header("access-control-allow-origin")), (200, ""));
    assert_eq!(server.get("/api/chat-sessions").await.data()["pagination"]["total"], 2);
}

#[tokio::test]
async fn unknown_host_is_rejected_on_every_route() {
    let server = Server::with(&["--allowed-hosts=chat.example.com"]).await;
    let ask = |host: &'static str| server.request(Method::GET, "/health/live").header("host", host);
    assert_eq!(fetch(ask("rebound.example")).await.failure(), (403, "forbidden_host"));
    assert_eq!(fetch(ask("127.0.0.1.evil.example")).await.failure(), (403, "forbidden_host"));
    for ours in ["localhost", "localhost:1234", "chat.example.com", "[::1]:8080"] {
        assert_eq!(fetch(ask(ours)).await.status, 200, "{ours}");
    }
}

#[tokio::test]
async fn foreign_origin_or_host_next_to_an_own_one_is_refused() {
    let server = Server::start().await;
    let own = server.base.clone();
    for origins in [[own.as_str(), "https://evil.example"], ["https://evil.example", &own]] {
        let create = server.request(Method::POST, "/api/chat-sessions").json(&json!({}));
        let create = create.header("origin", origins[0]).header("origin", origins[1]);
        assert_eq!(fetch(create).await.failure(), (403, "forbidden"), "{origins:?}");
    }
    let two_hosts = server.request(Method::GET, "/api/me").header("host", "localhost");
    let two_hosts = two_hosts.header("host", "evil.example");
    assert_eq!(fetch(two_hosts).await.failure(), (403, "forbidden_host"));
}

/// Sends the preflight request of a browser for a page of `origin`.
async fn preflight(server: &Server, path: &str, origin: &str, method: &str) -> ApiResponse {
    let request = server
        .request(Method::OPTIONS, path)
        .header("origin", origin)
        .header("access-control-request-method", method)
        .header("access-control-request-headers", "content-type,idempotency-key,if-match");
    fetch(request).await
}

const PATHS: [(&str, &str); 4] = [
    ("/api/chat", "POST"),
    ("/api/chat-sessions/s", "PATCH"),
    ("/api/chat-sessions/s/meta", "PUT"),
    ("/api/chat-sessions/s", "DELETE"),
];

#[tokio::test]
async fn preflight_is_denied_unless_an_origin_is_listed() {
    let server = Server::start().await;
    for (path, method) in PATHS {
        let reply = preflight(&server, path, "https://chat.example.com", method).await;
        assert_eq!(reply.failure(), (405, "method_not_allowed"), "{method} {path}");
        let has_cors_headers =
            reply.headers.keys().any(|name| name.as_str().starts_with("access-control"));
        assert!(!has_cors_headers, "{method} {path}: {:?}", reply.headers);
    }
}

#[tokio::test]
async fn preflight_is_allowed_only_for_listed_origins() {
    let flags = ["--cors-origins=https://chat.example.com,http://localhost:3000/"];
    let server = Server::with(&flags).await;
    for origin in ["https://chat.example.com", "http://localhost:3000"] {
        for (path, method) in PATHS {
            let reply = preflight(&server, path, origin, method).await;
            assert_eq!(reply.status, 200, "{method} {path}");
            assert_eq!(reply.header("access-control-allow-origin"), origin);
            assert_eq!(reply.header("access-control-allow-credentials"), "true");
            let allowed =
                |header: &str, one: &str| reply.header(header).split(',').any(|it| it == one);
            assert!(allowed("access-control-allow-methods", method), "{:?}", reply.headers);
            for header in ["content-type", "idempotency-key", "if-match"] {
                assert!(allowed("access-control-allow-headers", header), "{:?}", reply.headers);
            }
            assert!(reply.header("vary").contains("origin"), "caches must tell origins apart");
        }
    }
    for foreign in
        ["https://evil.example", "https://chat.example.com:444", "http://chat.example.com", "null"]
    {
        let reply = preflight(&server, "/api/chat", foreign, "POST").await;
        assert_eq!(reply.header("access-control-allow-origin"), "", "{foreign}");
    }
}

#[tokio::test]
async fn listed_origin_can_read_answers_errors_and_streams() {
    let server = Server::with(&["--cors-origins=https://chat.example.com"]).await;
    let from = |method: Method, path: &str| {
        server.request(method, path).header("origin", "https://chat.example.com")
    };
    let refused = fetch(from(Method::GET, "/api/chat-sessions/nowhere")).await;
    assert_eq!(refused.failure(), (404, "session_not_found"));
    let created = fetch(from(Method::POST, "/api/chat-sessions").json(&json!({}))).await;
    for reply in [&refused, &created] {
        assert_eq!(reply.header("access-control-allow-origin"), "https://chat.example.com");
        let exposed = reply.header("access-control-expose-headers");
        for name in ["x-request-id", "etag", "retry-after", "x-echoic-session"] {
            assert!(exposed.split(',').any(|it| it == name), "{name} in {exposed}");
        }
    }
    let session = created.data()["sessionId"].clone();
    let chat =
        from(Method::POST, "/api/chat").json(&json!({"sessionId": session, "message": "hi"}));
    let stream = chat.send().await.unwrap();
    assert_eq!(stream.headers()["access-control-allow-origin"], "https://chat.example.com");
    server.upstream.call().await.reply("hello");
    FrameReader::new(stream).until("finish").await;
}
