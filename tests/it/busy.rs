//! `onBusy`: a message that arrives while a reply is running.

use crate::support::sse::text_of;
use crate::support::{FrameReader, Server};
use serde_json::{Value, json};

async fn send_message(server: &Server, session: &str, message: &str, on_busy: &str) -> FrameReader {
    server.chat(json!({"sessionId": session, "message": message, "onBusy": on_busy})).await
}

#[tokio::test]
async fn queued_message_is_stored_and_answered_when_its_turn_runs() {
    let server = Server::start().await;
    let session = server.session().await;
    let (mut first, call) = server.open_turn(&session, "first").await;
    let mut second = send_message(&server, &session, "second", "queue").await;
    let mut third = send_message(&server, &session, "third", "queue").await;
    assert_eq!(server.transcript(&session).await, ["user: first"]);
    call.reply("one");
    first.until("[DONE]").await;
    let call = server.upstream.call().await;
    assert_eq!(call.prompt()[1..], ["user: first", "assistant: one", "user: second"]);
    call.reply("two");
    assert_eq!(text_of(&second.rest().await), "two");
    server.upstream.call().await.reply("three");
    assert_eq!(text_of(&third.rest().await), "three");
    assert_eq!(
        server.transcript(&session).await,
        [
            "user: first",
            "assistant: one",
            "user: second",
            "assistant: two",
            "user: third",
            "assistant: three"
        ]
    );
}

#[tokio::test]
async fn ninth_queued_message_is_rejected() {
    let server = Server::start().await;
    let session = server.session().await;
    let (_first, _call) = server.open_turn(&session, "first").await;
    let mut waiting = Vec::new();
    for number in 0..8 {
        waiting.push(send_message(&server, &session, &number.to_string(), "queue").await);
    }
    let refused = server
        .post("/api/chat", json!({"sessionId": session, "message": "8", "onBusy": "queue"}))
        .await;
    assert_eq!(refused.failure(), (429, "queue_full"));
    assert_eq!((refused.header("x-should-retry"), refused.header("retry-after")), ("false", "1"));
    let headers =
        ["limit", "remaining", "reset"].map(|it| refused.header(&format!("ratelimit-{it}")));
    assert_eq!(headers, ["8", "0", "1"]);
}

#[tokio::test]
async fn failed_turn_starts_the_next_and_stop_clears_the_queue() {
    let server = Server::start().await;
    let session = server.session().await;
    let (mut first, call) = server.open_turn(&session, "first").await;
    let mut second = send_message(&server, &session, "second", "queue").await;
    let mut third = send_message(&server, &session, "third", "queue").await;
    call.refuse(400, json!({"error": {"message": "no"}}));
    first.until("error").await;
    let mut call = server.upstream.call().await;
    call.text("half");
    second.until("text-delta").await;
    // The second turn is running now, and the third is still queued.
    server.post(&format!("/api/chat/{session}/stop"), json!({})).await.data();
    second.until("abort").await;
    let kinds: Vec<_> = third.rest().await.iter().map(|frame| frame.kind().to_owned()).collect();
    assert_eq!(kinds, ["abort", "[DONE]"]);
    assert_eq!(
        server.transcript(&session).await,
        ["user: first", "assistant: ", "user: second", "assistant: half"]
    );
    assert!(server.upstream.is_idle().await);
}

#[tokio::test]
async fn queued_message_survives_restart() {
    let mut server = Server::with(&["--shutdown-grace=1ms"]).await;
    let session = server.session().await;
    let (mut first, _call) = server.open_turn(&session, "first").await;
    let mut second = send_message(&server, &session, "second", "queue").await;
    server.restart().await;
    first.until("abort").await;
    assert_eq!(second.rest().await, [], "its stream ends, and can be joined on the next start");
    let call = server.upstream.call().await;
    assert_eq!(call.prompt()[1..], ["user: first", "user: second"]);
    let mut joined = server.join(&session, None).await.unwrap();
    call.reply("two");
    assert_eq!(text_of(&joined.rest().await), "two");
}

#[tokio::test]
async fn interrupt_keeps_partial_reply_and_is_answered_first() {
    let server = Server::start().await;
    let session = server.session().await;
    let (mut first, mut call) = server.open_turn(&session, "a long story").await;
    call.text("Once upon");
    first.until("text-delta").await;
    let mut patient = send_message(&server, &session, "and then?", "queue").await;
    let mut hasty = send_message(&server, &session, "no, a short one", "interrupt").await;
    call.disconnected().await;
    first.until("abort").await;
    let call = server.upstream.call().await;
    assert_eq!(
        call.prompt()[1..],
        ["user: a long story", "assistant: Once upon", "user: no, a short one"]
    );
    call.reply("The end.");
    assert_eq!(text_of(&hasty.rest().await), "The end.");
    server.upstream.call().await.reply("Nothing.");
    assert_eq!(text_of(&patient.rest().await), "Nothing.");
}

#[tokio::test]
async fn invalid_message_is_rejected_instead_of_queued() {
    let server = Server::start().await;
    let session = server.session().await;
    let (mut frames, call) = server.open_turn(&session, "first").await;
    let body = json!({"sessionId": session, "message": "second", "onBusy": "queue", "parentId": "nowhere"});
    let refused = server.post("/api/chat", body).await;
    assert_eq!(refused.failure(), (404, "message_not_found"));
    call.reply("one");
    frames.until("[DONE]").await;
    assert_eq!(server.transcript(&session).await, ["user: first", "assistant: one"]);
}

#[tokio::test]
async fn idle_session_answers_at_once_for_every_on_busy() {
    let server = Server::start().await;
    for on_busy in ["queue", "interrupt", "reject"] {
        let session = server.session().await;
        let mut frames = send_message(&server, &session, "hi", on_busy).await;
        server.upstream.call().await.reply("hello");
        assert_eq!(text_of(&frames.rest().await), "hello", "{on_busy}");
    }
}

#[tokio::test]
async fn deleting_or_closing_a_session_aborts_queued_turns() {
    let server = Server::start().await;
    for close in [true, false] {
        let session = server.session().await;
        let (mut first, _call) = server.open_turn(&session, "first").await;
        let mut second = send_message(&server, &session, "second", "queue").await;
        let path = format!("/api/chat-sessions/{session}");
        if close {
            let closed = server.patch(&path, json!({"status": "closed"})).await.data();
            assert_eq!(closed["activeTurn"], Value::Null);
        } else {
            assert_eq!(server.delete(&path).await.data()["deletedMessages"], 1);
        }
        first.until("abort").await;
        assert_eq!(second.next().await.unwrap().kind(), "abort");
    }
    assert!(server.upstream.is_idle().await);
}

#[tokio::test]
async fn regeneration_is_queued_while_a_reply_runs() {
    let server = Server::start().await;
    let session = server.session().await;
    let (mut first, call) = server.open_turn(&session, "question").await;
    let again = server.request(reqwest::Method::POST, &format!("/api/chat/{session}/regenerate"));
    let again = again.json(&json!({"onBusy": "queue"})).send().await.unwrap();
    call.reply("one");
    first.until("[DONE]").await;
    let call = server.upstream.call().await;
    assert_eq!(call.prompt()[1..], ["user: question"]);
    call.reply("two");
    assert_eq!(text_of(&FrameReader::new(again).rest().await), "two");
    assert_eq!(server.transcript(&session).await, ["user: question", "assistant: two"]);
}
