//! Repeated requests: one message, one provider call, one reply.

use crate::support::server::fetch;
use crate::support::sse::text_of;
use crate::support::{FrameReader, Server, within_deadline};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

fn keyed(server: &Server, key: &str, body: &Value) -> RequestBuilder {
    server.request(Method::POST, "/api/chat").header("idempotency-key", key).json(body)
}

#[tokio::test]
async fn concurrent_identical_posts_share_one_turn() {
    let server = Server::start().await;
    for round in 0..20 {
        let body = json!({"message": "hello"});
        let key = format!("key-{round}");
        let (one, two) = within_deadline(futures::future::join(
            keyed(&server, &key, &body).send(),
            keyed(&server, &key, &body).send(),
        ))
        .await;
        let (mut one, mut two) = (FrameReader::new(one.unwrap()), FrameReader::new(two.unwrap()));
        // Both responses have begun before the only call is answered.
        server.upstream.call().await.reply("hi");
        let frames = one.rest().await;
        two.rest().await;
        assert_eq!(one.bytes, two.bytes);
        let session = frames[0].data["messageMetadata"]["sessionId"].as_str().unwrap();
        assert_eq!(server.transcript(session).await, ["user: hello", "assistant: hi"]);
    }
    assert!(server.upstream.is_idle().await);
    assert_eq!(server.get("/api/chat-sessions").await.data()["pagination"]["total"], 20);
}

#[tokio::test]
async fn repeated_key_replays_reply_and_rejects_other_content() {
    let server = Server::start().await;
    let body = json!({"message": "hello"});
    let mut first = FrameReader::new(keyed(&server, "k", &body).send().await.unwrap());
    server.upstream.call().await.reply("hi");
    let frames = first.rest().await;
    let again = FrameReader::new(keyed(&server, "k", &body).send().await.unwrap()).rest().await;
    assert_eq!(
        (&again[0].data["messageId"], text_of(&again)),
        (&frames[0].data["messageId"], "hi".to_owned())
    );
    let other = fetch(keyed(&server, "k", &json!({"message": "hello!"}))).await;
    assert_eq!(other.failure(), (422, "idempotency_key_reused"));
    let odd = fetch(keyed(&server, "ä", &body)).await;
    assert_eq!(odd.failure(), (400, "invalid_request"));
    assert!(server.upstream.is_idle().await);
}

#[tokio::test]
async fn failed_or_interrupted_reply_is_replayed_as_such() {
    let server = Server::start().await;
    let session = server.session().await;
    let body = |id: &str| json!({"sessionId": session, "message": "hello", "clientMessageId": id});
    let mut first = server.chat(body("a")).await;
    server.upstream.call().await.refuse(400, json!({"error": {"message": "no"}}));
    let error = first.until("error").await;
    assert_eq!(server.chat(body("a")).await.until("error").await.data, error.data);

    let mut second = server.chat(body("b")).await;
    let mut call = server.upstream.call().await;
    call.text("half");
    second.until("text-delta").await;
    server.post(&format!("/api/chat/{session}/stop"), json!({})).await.data();
    let again = server.chat(body("b")).await.rest().await;
    assert_eq!((text_of(&again), again[again.len() - 2].kind()), ("half".to_owned(), "abort"));
    assert!(server.upstream.is_idle().await);
}

#[tokio::test]
async fn queued_message_is_not_queued_twice() {
    let server = Server::start().await;
    let session = server.session().await;
    let (_first, call) = server.open_turn(&session, "first").await;
    let body = json!({"sessionId": session, "message": "second", "clientMessageId": "c", "onBusy": "queue"});
    let mut one = server.chat(body.clone()).await;
    let mut two = server.chat(body).await;
    call.reply("1");
    server.upstream.call().await.reply("2");
    one.rest().await;
    two.rest().await;
    assert_eq!(one.bytes, two.bytes);
    assert_eq!(server.transcript(&session).await.len(), 4);
}

#[tokio::test]
async fn posted_message_is_answered_when_sent_again_as_chat() {
    let server = Server::start().await;
    let session = server.session().await;
    let posted = json!({"chatSessionId": session, "role": "user", "content": "hello", "clientMessageId": "c"});
    server.post("/api/chat-messages", posted).await.data();
    let mut frames = server
        .chat(json!({"sessionId": session, "message": "hello", "clientMessageId": "c"}))
        .await;
    server.upstream.call().await.reply("hi");
    frames.until("[DONE]").await;
    assert_eq!(server.transcript(&session).await, ["user: hello", "assistant: hi"]);
}

#[tokio::test]
async fn repeats_in_an_assigned_session_change_nothing() {
    let server = Server::start().await;
    let session = server.session().await;
    let path = format!("/api/chat-sessions/{session}");
    server.patch(&path, json!({"status": "agent_assigned"})).await.data();
    let body = json!({"sessionId": session, "message": "help", "clientMessageId": "c"});
    server.chat(body.clone()).await.rest().await;
    let answer = json!({"chatSessionId": session, "role": "assistant", "content": "I am here"});
    server.post("/api/chat-messages", answer).await.data();
    let kinds: Vec<_> =
        server.chat(body).await.rest().await.iter().map(|f| f.kind().to_owned()).collect();
    assert_eq!(
        kinds,
        [
            "start",
            "data-session",
            "start-step",
            "text-start",
            "text-delta",
            "text-end",
            "finish-step",
            "finish",
            "[DONE]"
        ]
    );
    let again = server
        .request(Method::POST, &format!("/api/chat/{session}/regenerate"))
        .send()
        .await
        .unwrap();
    let kinds: Vec<_> =
        FrameReader::new(again).rest().await.iter().map(|f| f.kind().to_owned()).collect();
    assert_eq!(kinds, ["data-session", "finish", "[DONE]"]);
    assert_eq!(server.transcript(&session).await, ["user: help", "assistant: I am here"]);
}

#[tokio::test]
async fn client_leaving_at_once_leaves_no_session_busy() {
    let server = Server::start().await;
    let session = server.session().await;
    for round in 0..30 {
        let body = json!({"sessionId": session, "message": format!("{round}"), "clientMessageId": format!("c{round}")});
        let request = server.request(Method::POST, "/api/chat").json(&body);
        // Disconnects after the request is out and usually before the response: the turn begins or
        // it does not, but it is never left half begun.
        let sending = tokio::spawn(request.send());
        while server.transcript(&session).await.last() != Some(&format!("user: {round}")) {
            tokio::task::yield_now().await;
        }
        sending.abort();
        server.upstream.call().await.reply("ok");
        within_deadline(async {
            while server.get(&format!("/api/chat-sessions/{session}")).await.data()["activeTurn"]
                != Value::Null
            {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    assert_eq!(
        server.get(&format!("/api/chat-sessions/{session}")).await.data()["messagesCount"],
        60
    );
}
