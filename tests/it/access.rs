//! Access over time: what is queued or open ends when its user loses the session or the key.

use crate::support::key_client::KeyClient;
use crate::support::{EventListener, FrameReader, Server, within_deadline};
use echoic::app::open_shared;
use echoic::domain::key::{AuthScope, KeyId};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Participants are in at once: invitations are the subject of other tests.
const FLAGS: &[&str] = &["--auth=keys", "--invitations=off"];
/// Time in which streams end, with some for a busy machine.
const PROMPTLY: Duration = Duration::from_millis(1500);

/// Starts a server on which ann has the session `s` with pat as a participant.
async fn shared_session() -> (Server, String, String) {
    let server = Server::with(FLAGS).await;
    let ann = server.key("ann", AuthScope::Chat).await;
    let pat = server.key("pat", AuthScope::Chat).await;
    let body = json!({"sessionId": "s", "participants": ["pat"]});
    assert_eq!(server.with_key(&ann).post("/api/chat-sessions", body).await.status, 201);
    (server, ann, pat)
}

async fn open_stream(
    client: KeyClient<'_>,
    method: Method,
    path: &str,
    body: Value,
) -> FrameReader {
    let response = within_deadline(client.request(method, path).json(&body).send()).await.unwrap();
    assert_eq!(response.status(), 200);
    FrameReader::new(response)
}

async fn remove_pat(ann: KeyClient<'_>) {
    let request = ann.request(Method::PATCH, "/api/chat-sessions/s");
    let response = request.json(&json!({"participants": []})).send().await.unwrap();
    assert_eq!(response.status(), 200);
}

async fn revoke(server: &Server, key: &KeyId) {
    let store = open_shared(&server.database_url().parse().unwrap()).await.unwrap();
    assert!(store.revoke_key(key).await.unwrap());
    store.close().await;
}

/// The kinds of the frames that are left, which must come promptly.
async fn promptly_ended(frames: &mut FrameReader) -> Vec<String> {
    let started = Instant::now();
    let kinds = frames.rest().await.iter().map(|frame| frame.kind().to_owned()).collect();
    assert!(started.elapsed() < PROMPTLY, "{:?}", started.elapsed());
    kinds
}

#[tokio::test]
async fn queued_message_is_dropped_with_its_senders_access() {
    let (server, ann, pat) = shared_session().await;
    let (ann, pat) = (server.with_key(&ann), server.with_key(&pat));
    let chat = |message: &str| json!({"sessionId": "s", "message": message, "onBusy": "queue"});
    let mut first = open_stream(ann, Method::POST, "/api/chat", chat("first")).await;
    let call = server.upstream.call().await;
    let mut queued = open_stream(pat, Method::POST, "/api/chat", chat("secret?")).await;
    let mut third = open_stream(ann, Method::POST, "/api/chat", chat("third")).await;
    remove_pat(ann).await;
    // Begins the next turn at once, before any stream is checked again.
    call.reply("one");
    first.until("[DONE]").await;
    assert_eq!(promptly_ended(&mut queued).await, ["error", "[DONE]"]);
    assert!(queued.bytes.contains("there is no such session"), "{}", queued.bytes);
    server.upstream.call().await.reply("three");
    third.until("[DONE]").await;
    let messages = ann.get("/api/chat-sessions/s/messages").await.data();
    let contents: Vec<_> =
        messages["messages"].as_array().unwrap().iter().map(|it| it["content"].clone()).collect();
    assert_eq!(contents, ["first", "one", "third", "three"]);
    assert_eq!(pat.get("/api/usage").await.data()["total"]["turns"], 0);
    assert!(server.upstream.is_idle().await);
}

#[tokio::test]
async fn queued_message_is_dropped_with_its_key() {
    let (server, ann, _) = shared_session().await;
    let ann = server.with_key(&ann);
    let (key, stored) = server.create_stored_key("pat", AuthScope::Chat).await;
    let chat = |message: &str| json!({"sessionId": "s", "message": message, "onBusy": "queue"});
    let mut first = open_stream(ann, Method::POST, "/api/chat", chat("first")).await;
    let call = server.upstream.call().await;
    let body = chat("too late");
    let mut queued = open_stream(server.with_key(&key), Method::POST, "/api/chat", body).await;
    revoke(&server, &stored.key.id).await;
    call.reply("one");
    first.until("[DONE]").await;
    promptly_ended(&mut queued).await;
    let session = ann.get("/api/chat-sessions/s").await.data();
    assert_eq!((&session["messagesCount"], &session["activeTurn"]), (&json!(2), &Value::Null));
}

#[tokio::test]
async fn removed_participant_loses_the_stream_of_a_turn() {
    let (server, ann, pat) = shared_session().await;
    let (ann, pat) = (server.with_key(&ann), server.with_key(&pat));
    let chat = json!({"sessionId": "s", "message": "hi"});
    let mut own = open_stream(ann, Method::POST, "/api/chat", chat).await;
    let mut call = server.upstream.call().await;
    call.text("before ");
    let mut read = open_stream(pat, Method::GET, "/api/chat/s/stream", Value::Null).await;
    read.until("text-delta").await;
    own.until("text-delta").await;
    remove_pat(ann).await;
    assert_eq!(promptly_ended(&mut read).await, ["error", "[DONE]"]);
    call.text("after");
    assert_eq!(own.until("text-delta").await.data["delta"], "after");
    call.finish(json!({}));
    own.until("[DONE]").await;
    let resumed = pat.get("/api/chat/s/stream").await;
    assert_eq!(resumed.failure(), (404, "session_not_found"));
}

#[tokio::test]
async fn removed_participants_waiting_call_gets_an_error() {
    let (server, ann, pat) = shared_session().await;
    let (ann, pat) = (server.with_key(&ann), server.with_key(&pat));
    let body = json!({"model": "gated-1", "input": "hi", "conversation": "conv_s"});
    let waiting = pat.post("/v1/responses", body);
    let removing = async {
        let mut call = server.upstream.call().await;
        call.text("half");
        remove_pat(ann).await;
        call
    };
    let (response, _call) = within_deadline(async { tokio::join!(waiting, removing) }).await;
    assert_ne!(response.status, 200, "{}", response.body);
    assert!(!response.body.to_string().contains("half"), "{}", response.body);
}

#[tokio::test]
async fn revoked_key_ends_streams_and_waiting_calls() {
    let (server, _, _) = shared_session().await;
    let (key, stored) = server.create_stored_key("ann", AuthScope::Chat).await;
    let ann = server.with_key(&key);
    let chat = json!({"sessionId": "s", "message": "hi"});
    let mut own = open_stream(ann, Method::POST, "/api/chat", chat).await;
    let mut call = server.upstream.call().await;
    call.text("before ");
    own.until("text-delta").await;
    let events = ann.request(Method::GET, "/api/events").send().await.unwrap();
    let mut events = EventListener::opened(events).await;
    let body = json!({"model": "gated-1", "messages": [{"role": "user", "content": "hi"}]});
    let waiting = ann.post("/v1/chat/completions", body);
    let revoking = async {
        let call = server.upstream.call().await;
        revoke(&server, &stored.key.id).await;
        call
    };
    let (refused, _second) = within_deadline(async { tokio::join!(waiting, revoking) }).await;
    assert_eq!(refused.status, 401, "{}", refused.body);
    assert!(promptly_ended(&mut own).await.is_empty());
    within_deadline(events.end()).await;
}

#[tokio::test]
async fn deleted_sessions_turn_is_gone_at_once() {
    let (server, ann, pat) = shared_session().await;
    let (ann, pat) = (server.with_key(&ann), server.with_key(&pat));
    let chat = json!({"sessionId": "s", "message": "hi"});
    let mut own = open_stream(ann, Method::POST, "/api/chat", chat).await;
    let mut call = server.upstream.call().await;
    call.text("before ");
    let id = own.until("text-delta").await.id;
    let mut read = open_stream(pat, Method::GET, "/api/chat/s/stream", Value::Null).await;
    read.until("text-delta").await;
    let deleted = ann.request(Method::DELETE, "/api/chat-sessions/s").send().await.unwrap();
    assert_eq!(deleted.status(), 200);
    for frames in [&mut own, &mut read] {
        assert_eq!(promptly_ended(frames).await, ["abort", "[DONE]"]);
    }
    // The next owner of the id gets nothing of the turn, even with its frame ids.
    let body = json!({"sessionId": "s"});
    assert_eq!(pat.post("/api/chat-sessions", body).await.status, 201);
    let path = format!("/api/chat/s/stream?lastEventId={id}");
    assert_eq!(pat.get(&path).await.status, 204);
}
