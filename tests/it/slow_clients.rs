//! Clients that send slowly or not at all do not occupy the server.

use crate::support::server::tuning;
use crate::support::{Server, within_deadline};
use echoic::app::TimingOptions;
use echoic::domain::key::AuthScope;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

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

/// Opens responses and reads nothing of them, until one is refused, which is returned.
async fn open_unread(server: &Server, path: &str, count: usize) -> (usize, Value) {
    let mut unread = Vec::new();
    while unread.len() < count {
        let response = server.request(Method::GET, path).send().await.unwrap();
        if response.status() == 200 {
            unread.push(response);
            continue;
        }
        let (status, refusal) = (response.status(), response.json::<Value>().await.unwrap());
        // Sixteen exports at once keep the stand-in for MongoDB from answering in time.
        if refusal["error"]["code"] != "store_unavailable" {
            assert_eq!(status, 429, "{refusal}");
            return (unread.len(), refusal);
        }
    }
    panic!("{count} unread responses were accepted");
}

#[tokio::test]
async fn unread_answers_count_against_the_budget_of_bodies() {
    let server = Server::with(&["--max-bodies=64MiB"]).await;
    let message = json!({"role": "user", "content": "x".repeat(80_000)});
    let session = json!({"sessionId": "s", "messages": vec![message; 120]});
    server.post("/api/import", json!({"sessions": [session]})).await.data();
    for (path, accepted) in
        [("/api/chat-sessions/s/messages?limit=100", 4), ("/api/export?sessionId=s", 16)]
    {
        let (opened, refusal) = within_deadline(open_unread(&server, path, 2 * accepted)).await;
        // Responses that were dropped before may still be held.
        assert!((1..=accepted).contains(&opened), "{path}: {opened}");
        assert_eq!(refusal["error"]["code"], "rate_limited", "{path}");
        // The readers are gone.
        let read_again = async {
            while server.request(Method::GET, path).send().await.unwrap().status() != 200 {
                sleep(SHORT).await;
            }
        };
        within_deadline(read_again).await;
    }
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
async fn trickled_body_gets_a_timeout_response() {
    let options = TimingOptions { body_timeout: 10 * SHORT, ..tuning() };
    let server = Server::tuned(&[], options).await;
    let address = server.base.strip_prefix("http://").unwrap();
    let (mut answers, mut sender) = TcpStream::connect(address).await.unwrap().into_split();
    let head = "POST /api/chat HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000\r\n\
                content-type: application/json\r\n\r\n";
    sender.write_all(head.as_bytes()).await.unwrap();
    let trickle = tokio::spawn(async move {
        let mut pace = tokio::time::interval(SHORT);
        while sender.write_all(b" ").await.is_ok() {
            pace.tick().await;
        }
    });
    let mut answer = String::new();
    within_deadline(answers.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("1024 bytes per second"), "{answer}");
    drop(answers);
    within_deadline(trickle).await.unwrap();
}

#[tokio::test]
async fn bodies_in_flight_are_bounded_per_user() {
    let server = Server::with(&["--auth=keys", "--max-bodies=1MiB"]).await;
    let keys = [server.key("ann", AuthScope::Chat).await, server.key("ben", AuthScope::Chat).await];
    let head = |key: &str, length: usize| {
        format!(
            "POST /api/chat HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        )
    };
    let address = server.base.strip_prefix("http://").unwrap();
    let half = " ".repeat(700 << 10);
    let hold = async || {
        let mut held = TcpStream::connect(address).await.unwrap();
        held.write_all((head(&keys[0], 1 << 20) + &half).as_bytes()).await.unwrap();
        held
    };
    // The server reads at its own pace: the second body is refused once the first has arrived, and
    // the first one if the second overtakes it.
    let (held, refused) = within_deadline(async {
        let mut held = hold().await;
        loop {
            let answer = send(&server, &(head(&keys[0], half.len()) + &half)).await;
            if !answer.starts_with("HTTP/1.1 400") {
                return (held, answer);
            }
            if held.try_read(&mut [0]).is_ok() {
                held = hold().await;
            }
        }
    })
    .await;
    assert!(refused.starts_with("HTTP/1.1 429"), "{refused}");
    assert!(refused.contains("retry-after: 1") && refused.contains("rate_limited"), "{refused}");
    let other = server.with_key(&keys[1]).post("/api/chat-sessions", json!({})).await;
    assert_eq!(other.status, 201, "another user's small body passes");
    drop(held);
    within_deadline(async {
        while server.with_key(&keys[0]).post("/api/chat-sessions", json!({})).await.status != 201 {
            tokio::task::yield_now().await;
        }
    })
    .await;
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
