//! Tickets for `EventSource`, and the caller's identity.

use crate::support::server::fetch;
use crate::support::{EventListener, Server};
use echoic::auth::{Identity, issue_ticket, redeem_ticket};
use echoic::clock;
use echoic::domain::key::AuthScope;
use echoic::domain::{Timestamp, UserId};
use echoic::store::sqlite::{Durability, SqliteStore};
use reqwest::Method;
use serde_json::json;

async fn ticket(server: &Server, key: &str) -> String {
    let made = server.with_key(key).post("/api/tickets", json!({})).await;
    assert_eq!(made.status, 201, "{}", made.body);
    let data = made.data();
    let expires = Timestamp::parse(data["expiresAt"].as_str().unwrap()).unwrap();
    let left = expires.duration_since(clock::now()).as_secs();
    assert!((50..=60).contains(&left), "{left}");
    data["ticket"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn ticket_opens_one_stream_and_is_used_up() {
    let server = Server::with(&["--auth=keys"]).await;
    let (alice, reader) =
        (server.key("alice", AuthScope::Chat).await, server.key("alice", AuthScope::Read).await);
    for key in [&alice, &reader] {
        let path = format!("/api/events?ticket={}", ticket(&server, key).await);
        EventListener::opened(server.request(Method::GET, &path).send().await.unwrap()).await;
        let again = fetch(server.request(Method::GET, &path)).await;
        assert_eq!(again.failure(), (401, "unauthenticated"));
    }
    server.with_key(&alice).post("/api/chat-sessions", json!({"sessionId": "s"})).await;
    let ticket = ticket(&server, &alice).await;
    let join = format!("/api/chat/s/stream?lastEventId=x:1&ticket={ticket}");
    assert_eq!(fetch(server.request(Method::GET, &join)).await.status, 204);
}

#[tokio::test]
async fn ticket_of_a_clock_that_was_ahead_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("echoic.db");
    let store = SqliteStore::open(&path, Durability::Normal).unwrap();
    let alice = Identity::new(UserId::new_unchecked("alice"), AuthScope::Chat);
    let now = clock::now();
    for (minutes_ahead, is_accepted) in [(0, true), (1, true), (2, false), (60 * 24 * 365, false)] {
        let issued_at = Timestamp::from_millis(now.as_millis() + minutes_ahead * 60_000);
        let (ticket, _) = issue_ticket(&store, &alice, issued_at).await.unwrap();
        let redeemed = redeem_ticket(&store, &ticket, now).await;
        assert_eq!(redeemed.is_ok(), is_accepted, "{minutes_ahead} min");
    }
}

#[tokio::test]
async fn ticket_opens_only_streams_and_a_forged_one_nothing() {
    let server = Server::with(&["--auth=keys"]).await;
    let alice = server.key("alice", AuthScope::Chat).await;
    let good = ticket(&server, &alice).await;
    for path in [
        format!("/api/chat-sessions?ticket={good}"),
        format!("/api/export?ticket={good}"),
        format!("/api/events?ticket={good}&ticket={good}"),
        "/api/events?ticket=".to_owned(),
        "/api/events?ticket=tk_x".to_owned(),
        format!("/api/events?ticket=tk_{}", "A".repeat(43)),
        format!("/api/events?ticket=tk_{}", "A".repeat(5000)),
        format!("/api/events?Ticket={good}"),
    ] {
        let reply = fetch(server.request(Method::GET, &path)).await;
        assert_eq!(reply.failure(), (401, "unauthenticated"), "{path}");
    }
    let write = server.request(Method::POST, &format!("/api/chat-sessions?ticket={good}"));
    assert_eq!(fetch(write.json(&json!({}))).await.failure(), (401, "unauthenticated"));
    let none = fetch(server.request(Method::POST, "/api/tickets")).await;
    assert_eq!(none.failure(), (401, "unauthenticated"));
}

#[tokio::test]
async fn one_of_many_concurrent_uses_of_a_ticket_succeeds() {
    let server = Server::with(&["--auth=keys"]).await;
    let alice = server.key("alice", AuthScope::Chat).await;
    let path = format!("/api/events?ticket={}", ticket(&server, &alice).await);
    let ask =
        || async { server.request(Method::GET, &path).send().await.unwrap().status().as_u16() };
    let mut statuses = futures::future::join_all((0..20).map(|_| ask())).await;
    statuses.sort_unstable();
    assert_eq!((statuses[0], statuses[1]), (200, 401), "{statuses:?}");
}

#[tokio::test]
async fn me_route_returns_the_callers_identity() {
    let server = Server::with(&["--auth=keys"]).await;
    let (alice, root) =
        (server.key("alice", AuthScope::Chat).await, server.key("root", AuthScope::Admin).await);
    let me = async |key: &str| server.with_key(key).get("/api/me").await.data();
    assert_eq!(me(&alice).await, json!({"userId": "alice", "admin": false}));
    assert_eq!(me(&root).await, json!({"userId": "root", "admin": true}));

    let open = Server::start().await;
    assert_eq!(open.get("/api/me").await.data(), json!({"userId": "local", "admin": false}));
    let ticket = open.post("/api/tickets", json!({})).await.data();
    let path = format!("/api/events?ticket={}", ticket["ticket"].as_str().unwrap());
    assert_eq!(open.request(Method::GET, &path).send().await.unwrap().status(), 200);
}
