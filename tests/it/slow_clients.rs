//! Clients that send slowly or not at all do not occupy the server.

use crate::support::server::tuning;
use crate::support::{Server, within_deadline};
use echoic::app::TimingOptions;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SHORT: Duration = Duration::from_millis(50);

/// Sends this text and nothing more. Returns everything the server sends until it closes the
/// connection.
async fn send(server: &Server, text: &str) -> String {
    let address = server.base.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    within_deadline(stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn incomplete_head_closes_the_connection() {
    let server = Server::tuned(&[], TimingOptions { header_timeout: SHORT, ..tuning() }).await;
    for begun in ["", "G", "GET / HTTP/1.1\r\nhost: localhost\r\nx-slow: "] {
        let answer = send(&server, begun).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    }
    let idle = send(&server, "GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert!(idle.starts_with("HTTP/1.1 200"), "a connection may not lie idle for ever: {idle}");
}

#[tokio::test]
async fn stalled_body_gets_a_timeout_response() {
    let server = Server::tuned(&[], TimingOptions { body_timeout: SHORT, ..tuning() }).await;
    let post = |path: &str, body: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: 1000\r\n\r\n{body}"
        )
    };
    for path in ["/api/chat", "/api/chat-sessions", "/api/projects"] {
        let answer = send(&server, &post(path, "{\"title\": ")).await;
        assert!(
            answer.starts_with("HTTP/1.1 408") && answer.contains("request_timeout"),
            "{answer}"
        );
    }
    let answer = send(&server, &post("/api/import", "{\"sessions\": [")).await;
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
}

#[tokio::test]
async fn ambiguous_request_is_rejected_and_nothing_smuggled() {
    let server = Server::start().await;
    let both = "POST /api/chat-sessions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n\
                GET /health/live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let twice = "POST /api/chat-sessions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                 content-length: 2\r\ncontent-length: 40\r\n\r\n{}";
    let odd = "POST /api/chat-sessions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
               transfer-encoding: xchunked\r\n\r\n{}";
    for request in [both, twice, odd] {
        let answer = send(&server, request).await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{request}\n{answer}");
    }
    assert_eq!(server.get("/api/chat-sessions").await.data()["pagination"]["total"], 0);
}

#[tokio::test]
async fn every_response_has_the_security_headers() {
    let server = Server::start().await;
    for path in ["/", "/health/live", "/api/chat-sessions", "/api/nothing", "/api/openapi.json"] {
        let reply = server.get(path).await;
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(reply.header(name), value, "{path}");
        }
        let policy = reply.header("content-security-policy");
        assert!(policy.contains("default-src 'none'"), "{path}: {policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{path}: {policy}");
    }
    assert_eq!(server.get("/api/chat-sessions").await.header("cache-control"), "no-store");
    let stream = server.request(reqwest::Method::GET, "/api/events").send().await.unwrap();
    assert_eq!(stream.headers()["cache-control"], "no-cache, no-transform");
}
