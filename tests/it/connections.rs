//! Bounds of connections, and answers to clients that are still sending.

use crate::support::Server;
use crate::support::within_deadline;
use echoic::domain::key::AuthScope;
use reqwest::{Method, Response};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Half of them per address, two per user.
const FLAGS: &[&str] = &["--max-connections=16"];

async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(server.base.strip_prefix("http://").unwrap()).await.unwrap()
}

/// Sends a request on a connection of its own.
async fn get(server: &Server, path: &str) -> String {
    let mut stream = connect(server).await;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within_deadline(stream.read_to_string(&mut answer)).await.unwrap();
    answer
}

#[tokio::test]
async fn refusal_reaches_a_client_that_sends_first() {
    let server = Server::with(&["--auth=keys"]).await;
    let open_server = Server::start().await;
    let body = "x".repeat(3 << 20);
    for (server, path, kind, status) in [
        (&open_server, "/api/chat-sessions", "application/json", "413"),
        (&open_server, "/api/chat-sessions", "text/plain", "415"),
        (&open_server, "/api/nothing", "application/json", "404"),
        (&server, "/api/chat-sessions", "application/json", "401"),
    ] {
        let mut stream = connect(server).await;
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        within_deadline(stream.read_to_end(&mut answer)).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
    }
}

#[tokio::test]
async fn idle_connections_make_room_for_new_ones() {
    let server = Server::with(FLAGS).await;
    let mut idle = Vec::new();
    for _ in 0..60 {
        idle.push(connect(&server).await);
    }
    for path in ["/health/live", "/api/chat-sessions"] {
        assert!(get(&server, path).await.starts_with("HTTP/1.1 200"), "{path}");
    }
}

#[tokio::test]
async fn connections_over_the_bound_are_told_so() {
    let server = Server::with(FLAGS).await;
    let mut streams = Vec::new();
    for _ in 0..8 {
        let mut stream = connect(&server).await;
        stream.write_all(b"GET /api/events HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        within_deadline(stream.read_u8()).await.unwrap();
        streams.push(stream);
    }
    let refused = get(&server, "/api/chat-sessions").await;
    assert!(refused.starts_with("HTTP/1.1 429") && refused.contains("rate_limited"), "{refused}");
    assert!(refused.contains("retry-after: 1") && refused.contains("8 connections"), "{refused}");
    assert!(get(&server, "/health/ready").await.starts_with("HTTP/1.1 200"));
    streams.pop();
    // The server notices the end of the stream a moment later.
    for _ in 0..100 {
        if get(&server, "/api/chat-sessions").await.starts_with("HTTP/1.1 200") {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the place of a closed connection is not free again");
}

#[tokio::test]
async fn streams_of_one_user_leave_room_for_others() {
    let server = Server::with(&["--auth=keys", FLAGS[0]]).await;
    let keys = (server.key("ann", AuthScope::Chat).await, server.key("ben", AuthScope::Chat).await);
    let (ann, ben) = (server.with_key(&keys.0), server.with_key(&keys.1));
    let mut streams: Vec<Response> = Vec::new();
    for _ in 0..2 {
        let stream = ann.request(Method::GET, "/api/events").send().await.unwrap();
        assert_eq!(stream.status(), 200);
        streams.push(stream);
    }
    assert_eq!(ann.post("/api/chat-sessions", json!({})).await.failure(), (429, "rate_limited"));
    assert_eq!(ben.post("/api/chat-sessions", json!({})).await.status, 201);
}
