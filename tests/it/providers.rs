//! Failing providers, as an API client sees them.

use crate::support::Server;
use crate::support::sse::text_of;
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use std::io::Write;

#[tokio::test]
async fn provider_failing_before_first_token_is_retried() {
    let server = Server::start().await;
    let session = server.session().await;
    let (mut frames, call) = server.open_turn(&session, "hi").await;
    call.refuse(503, json!({"error": {"message": "overloaded"}}));
    let call = server.upstream.call().await;
    call.break_connection();
    server.upstream.call().await.reply("hello");
    assert_eq!(text_of(&frames.rest().await), "hello");
    assert_eq!(server.transcript(&session).await, ["user: hi", "assistant: hello"]);
}

#[tokio::test]
async fn fallback_model_answers_and_is_named_in_the_message() {
    let server = Server::with(&["--fallback-models=second,third"]).await;
    let session = server.session().await;
    let (mut frames, call) = server.open_turn(&session, "hi").await;
    call.refuse(404, json!({"error": {"message": "no such model"}}));
    let call = server.upstream.call().await;
    assert_eq!(call.request["model"], "second");
    call.refuse(404, json!({"error": {"message": "nor this one"}}));
    let call = server.upstream.call().await;
    assert_eq!(call.request["model"], "third");
    call.reply("hello");
    let finish = frames.until("finish").await;
    assert_eq!(finish.data["messageMetadata"]["model"], "third");
    assert_eq!(server.last_message(&session).await["model"], "third");
}

#[tokio::test]
async fn prompt_the_provider_finds_too_long_is_shortened_once() {
    let server = Server::start().await;
    let session = server.session().await;
    for number in 0..10 {
        server
            .turn(
                &session,
                &format!("question {number}"),
                "an answer of some length, so that there is something to leave out",
            )
            .await;
    }
    let too_long = json!({"error": {"code": "context_length_exceeded", "message": "too long"}});
    let (mut frames, call) = server.open_turn(&session, "the last one").await;
    assert_eq!(call.prompt().len(), 22);
    call.refuse(400, too_long.clone());
    let call = server.upstream.call().await;
    let shorter = call.prompt();
    assert!(
        shorter.len() < 14 && shorter.last().unwrap() == "user: the last one",
        "{}",
        shorter.len()
    );
    call.refuse(400, too_long);
    let error = frames.until("error").await;
    assert!(error.data["errorText"].as_str().unwrap().contains("too long"));
    assert_eq!(server.last_message(&session).await["error"]["code"], "context_too_long");
}

#[tokio::test]
async fn compressed_reply_is_read_unasked() {
    let server = Server::start().await;
    let session = server.session().await;
    let (mut frames, call) = server.open_turn(&session, "hi").await;
    assert_eq!(call.headers["accept-encoding"], "identity");
    let chunk = json!({"choices": [{"delta": {"content": "hello"}, "finish_reason": "stop"}]});
    let body = compress(&format!("data: {chunk}\n\ndata: [DONE]\n\n"));
    let headers =
        [(CONTENT_TYPE, "text/event-stream".to_owned()), (CONTENT_ENCODING, "gzip".to_owned())];
    call.answer_with(200, headers, body);
    assert_eq!(text_of(&frames.rest().await), "hello");

    let (mut frames, call) = server.open_turn(&session, "again").await;
    let refusal = compress(r#"{"error": {"message": "no such thing"}}"#);
    call.answer_with(400, [(CONTENT_ENCODING, "gzip".to_owned())], refusal);
    let error = frames.until("error").await;
    assert!(error.data["errorText"].as_str().unwrap().contains("no such thing"));
}

fn compress(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// Refuses a prompt of more than this many bytes, in words that no vendor uses.
async fn answer_up_to(server: &Server, max_bytes: usize) -> bool {
    let call = server.upstream.call().await;
    let is_accepted = call.prompt().concat().len() <= max_bytes;
    match is_accepted {
        true => call.reply("fine"),
        false => call.refuse(422, json!({"detail": "this is more than I can chew"})),
    }
    is_accepted
}

async fn fill_session(server: &Server) -> String {
    let session = server.session().await;
    let words = "some words of an answer ".repeat(100);
    for number in 0..10 {
        server.turn(&session, &format!("question {number}"), &words).await;
    }
    session
}

#[tokio::test]
async fn refused_size_is_remembered_for_the_model() {
    let vague = json!({"detail": "this is more than I can chew"});
    let clear = json!({"error": {"code": "context_length_exceeded", "message": "too long"}});
    // A refusal that may have another reason limits the session alone.
    for (refusal, limits_others) in [(vague, false), (clear, true)] {
        let server = Server::start().await;
        let session = fill_session(&server).await;
        let other = fill_session(&server).await;
        let (mut frames, call) = server.open_turn(&session, "one more").await;
        assert_eq!(call.prompt().len(), 22);
        call.refuse(400, refusal);
        assert!(answer_up_to(&server, 14_000).await, "half the memory fits");
        assert_eq!(text_of(&frames.rest().await), "fine");
        for (session, is_limited) in [(&session, true), (&other, limits_others)] {
            let (mut frames, call) = server.open_turn(session, "and another").await;
            assert_eq!(call.prompt().concat().len() <= 14_000, is_limited);
            call.reply("at once");
            assert_eq!(text_of(&frames.rest().await), "at once");
        }
    }
}

#[tokio::test]
async fn session_recovers_when_half_the_memory_is_refused() {
    let server = Server::start().await;
    let session = fill_session(&server).await;
    let mut failed = 0;
    loop {
        let mut frames = server.chat(json!({"sessionId": session, "message": "one more"})).await;
        if answer_up_to(&server, 6000).await || answer_up_to(&server, 6000).await {
            assert_eq!(text_of(&frames.rest().await), "fine");
            break;
        }
        frames.until("error").await;
        failed += 1;
        assert!(failed < 4, "the session never recovers");
    }
    assert!(failed > 0, "the first turn was too long by far");
}

#[tokio::test]
async fn data_after_the_end_does_not_affect_the_reply() {
    let server = Server::start().await;
    let session = server.session().await;
    let (mut frames, mut call) = server.open_turn(&session, "one").await;
    call.text("whole");
    call.raw("data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n");
    // The provider keeps the connection open; the reply ends anyway.
    assert_eq!(frames.until("finish").await.data["finishReason"], "stop");
    drop(call);

    let (mut frames, mut call) = server.open_turn(&session, "two").await;
    call.text("whole");
    call.raw("data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n");
    frames.until("text-delta").await;
    call.break_connection();
    frames.until("finish").await;
    assert_eq!(server.last_message(&session).await["status"], "complete");
}

#[tokio::test]
async fn reply_ending_with_an_error_is_failed() {
    let server = Server::start().await;
    let session = server.session().await;
    let (mut frames, mut call) = server.open_turn(&session, "hi").await;
    call.text("half");
    call.raw("data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"error\"}]}\n\n");
    call.end();
    frames.until("error").await;
    assert_eq!(server.last_message(&session).await["status"], "failed");
}

#[tokio::test]
async fn deadlines_end_the_turn_and_free_the_session() {
    let flags = ["--first-token-timeout=50ms", "--idle-timeout=50ms", "--turn-timeout=10s"];
    let server = Server::with(&flags).await;
    let session = server.session().await;
    let (mut frames, call) = server.open_turn(&session, "never begins").await;
    let error = frames.until("error").await;
    assert_eq!(error.data["errorText"], "the provider sent no first token within 50ms");
    call.abandoned().await;
    let (mut frames, mut call) = server.open_turn(&session, "falls silent").await;
    call.text("a word");
    let error = frames.until("error").await;
    assert_eq!(error.data["errorText"], "the provider sent no further token within 50ms");
    let reply = server.last_message(&session).await;
    assert_eq!((&reply["status"], &reply["content"]), (&json!("failed"), &json!("a word")));
    assert_eq!(reply["error"]["code"], "provider_timeout");
    assert_eq!(
        server.get(&format!("/api/chat-sessions/{session}")).await.data()["activeTurn"],
        Value::Null
    );
}

#[tokio::test]
async fn temporarily_unwritable_store_loses_no_reply() {
    let server = Server::on_file(&[]).await;
    let session = server.session().await;
    let (mut frames, mut call) = server.open_turn(&session, "hi").await;
    call.text("hello");
    frames.until("text-delta").await;
    let other = rusqlite::Connection::open(server.database()).unwrap();
    // The lock is taken after the last delta and before the end, so that only the end cannot be
    // stored.
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    call.finish(json!({}));
    assert_eq!(server.get("/health/ready").await.failure(), (503, "store_unavailable"));
    // The probe has failed: the server has met the lock, and storing the end is being retried.
    other.execute_batch("ROLLBACK").unwrap();
    frames.until("finish").await;
    assert_eq!(server.transcript(&session).await, ["user: hi", "assistant: hello"]);
}
