//! `/api/chat`: a message in, the streamed reply out.

use crate::support::server::{fetch, quick_heartbeat};
use crate::support::sse::text_of;
use crate::support::{Server, within_deadline};
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn message_streams_its_reply_and_both_are_stored() {
    let server = Server::start().await;
    let mut frames = server.chat(json!({"message": "Explain event loops"})).await;
    let opening =
        [frames.next().await.unwrap(), frames.next().await.unwrap(), frames.next().await.unwrap()];
    let mut call = server.upstream.call().await;
    call.text("An event loop ");
    assert_eq!(frames.until("text-delta").await.data["delta"], "An event loop ");
    call.text("waits.");
    assert_eq!(frames.until("text-delta").await.data["delta"], "waits.");
    call.finish(json!({"prompt_tokens": 812, "completion_tokens": 95, "prompt_tokens_details": {"cached_tokens": 640}}));
    let rest = frames.rest().await;

    let session = opening[0].data["messageMetadata"]["sessionId"].as_str().unwrap();
    let turn = opening[0].data["messageMetadata"]["turnId"].as_str().unwrap();
    let kinds: Vec<_> = opening.iter().chain(&rest).map(|frame| frame.kind().to_owned()).collect();
    assert_eq!(
        kinds,
        ["start", "data-session", "start-step", "text-end", "finish-step", "finish", "[DONE]"]
    );
    assert_eq!(opening[2].id, format!("{turn}:3"));
    assert_eq!(
        opening[1].data,
        json!({"type": "data-session", "transient": true, "data": {
            "sessionId": session, "title": "Explain event loops",
            "userMessageId": opening[1].data["data"]["userMessageId"],
        }})
    );
    let finish = &rest[2].data;
    let waited = &finish["messageMetadata"]["usage"]["firstTokenMs"];
    assert!(waited.as_u64().unwrap() < 60_000, "{waited}");
    let usage = json!({"promptTokens": 812, "cachedTokens": 640, "completionTokens": 95, "reasoningTokens": 0,
        "estimated": false, "firstTokenMs": waited});
    assert_eq!(finish["finishReason"], "stop");
    assert_eq!(finish["messageMetadata"]["model"], "gated-1");
    assert_eq!(finish["messageMetadata"]["usage"], usage);

    assert_eq!(
        server.transcript(session).await,
        ["user: Explain event loops", "assistant: An event loop waits."]
    );
    let reply = server.last_message(session).await;
    assert_eq!(reply["id"], opening[0].data["messageId"]);
    assert_eq!(reply["parentId"], opening[1].data["data"]["userMessageId"]);
    assert_eq!((&reply["status"], &reply["finishReason"]), (&json!("complete"), &json!("stop")));
    assert_eq!((&reply["usage"], &reply["model"]), (&usage, &json!("gated-1")));
}

#[tokio::test]
async fn stream_has_headers_for_clients_and_proxies() {
    let server = Server::start().await;
    let response = server
        .request(Method::POST, "/api/chat")
        .json(&json!({"message": "hi"}))
        .send()
        .await
        .unwrap();
    let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("content-type"), "text/event-stream");
    assert_eq!(header("x-vercel-ai-ui-message-stream"), "v1");
    assert_eq!(header("cache-control"), "no-cache, no-transform");
    assert_eq!(header("x-accel-buffering"), "no");
    assert!(!header("x-request-id").is_empty());
    assert!(response.headers().get("content-length").is_none());
}

#[tokio::test]
async fn next_turn_sends_earlier_messages_to_the_model() {
    let server = Server::start().await;
    let session = server.session().await;
    server.turn(&session, "my name is Ada", "Hello Ada").await;
    let prompt = server.turn(&session, "who am I?", "Ada").await;
    assert!(prompt[0].starts_with("system: You are a helpful assistant."));
    assert_eq!(prompt[1..], ["user: my name is Ada", "assistant: Hello Ada", "user: who am I?"]);
}

#[tokio::test]
async fn request_settings_override_session_settings() {
    let server = Server::start().await;
    let settings = json!({"settings": {"model": "session-model", "temperature": 0.5, "systemPrompt": "Be brief."}});
    let session = server.post("/api/chat-sessions", settings).await.data();
    let body = json!({"sessionId": session["sessionId"], "message": "hi", "model": "request-model", "topP": 0.25,
        "maxOutputTokens": 77});
    let _frames = server.chat(body).await;
    let call = server.upstream.call().await;
    assert_eq!(call.request["model"], "request-model");
    assert_eq!((&call.request["temperature"], &call.request["top_p"]), (&json!(0.5), &json!(0.25)));
    assert_eq!(call.request["max_tokens"], 77);
    assert_eq!(
        (&call.request["stream"], &call.request["stream_options"]),
        (&json!(true), &json!({"include_usage": true}))
    );
    assert_eq!(call.headers["authorization"], "Bearer sk-tests");
    assert_eq!(call.prompt(), ["system: Be brief.", "user: hi"]);
}

#[tokio::test]
async fn disconnected_reader_does_not_stop_the_turn() {
    let server = Server::start().await;
    let session = server.session().await;
    let (mut frames, mut call) = server.open_turn(&session, "count").await;
    for word in ["one ", "two ", "three "] {
        call.text(word);
        frames.until("text-delta").await;
    }
    drop(frames);
    call.text("four ");
    call.text("five");
    call.finish(json!({"prompt_tokens": 1, "completion_tokens": 5}));
    wait_until_idle(&server, &session).await;
    assert_eq!(
        server.transcript(&session).await,
        ["user: count", "assistant: one two three four five"]
    );
}

/// Polls until the session's turn has ended, since no reader is left to see the end of its stream.
async fn wait_until_idle(server: &Server, session: &str) {
    within_deadline(async {
        while server.get(&format!("/api/chat-sessions/{session}")).await.data()["activeTurn"]
            != Value::Null
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn busy_session_rejects_writes_naming_the_running_turn() {
    let server = Server::start().await;
    let session = server.session().await;
    let (mut frames, call) = server.open_turn(&session, "first").await;
    let start = frames.next().await.unwrap();
    let running = json!({"turnId": start.data["messageMetadata"]["turnId"], "messageId": start.data["messageId"]});

    let second = server.post("/api/chat", json!({"sessionId": session, "message": "second"})).await;
    assert_eq!(second.failure(), (409, "session_busy"));
    assert_eq!(second.header("x-should-retry"), "false");
    assert_eq!(second.body["error"]["details"], running);

    let posted = json!({"chatSessionId": session, "role": "user", "content": "third"});
    assert_eq!(server.post("/api/chat-messages", posted).await.failure(), (409, "session_busy"));
    let file = json!({"sessions": [{"sessionId": session, "messages": [{"role": "user", "content": "fourth"}]}]});
    assert_eq!(server.post("/api/import", file).await.failure(), (409, "session_busy"));
    assert_eq!(
        server.post(&format!("/api/chat/{session}/regenerate"), json!({})).await.failure(),
        (409, "session_busy")
    );

    let active =
        server.get(&format!("/api/chat-sessions/{session}")).await.data()["activeTurn"].clone();
    assert_eq!(active["turnId"], running["turnId"]);
    assert_eq!(active["messageId"], running["messageId"]);
    call.reply("done");
    frames.until("[DONE]").await;
    assert_eq!(server.transcript(&session).await, ["user: first", "assistant: done"]);
}

#[tokio::test]
async fn stop_ends_the_provider_call_and_keeps_partial_reply() {
    let server = Server::start().await;
    let session = server.session().await;
    let (mut frames, mut call) = server.open_turn(&session, "long story").await;
    call.text("Once upon ");
    frames.until("text-delta").await;

    // The delta above has been published, so the stored reply must contain it.
    let stopped = server.post(&format!("/api/chat/{session}/stop"), json!({})).await;
    assert_eq!(stopped.data(), json!({"stopped": true}));
    call.disconnected().await;
    let rest: Vec<_> = frames.rest().await.iter().map(|frame| frame.kind().to_owned()).collect();
    assert_eq!(rest, ["text-end", "abort", "[DONE]"]);
    let reply = server.last_message(&session).await;
    assert_eq!(
        (&reply["status"], &reply["content"]),
        (&json!("interrupted"), &json!("Once upon "))
    );
    assert_eq!(reply["usage"]["estimated"], true);
    assert!(reply["usage"]["promptTokens"].as_u64().unwrap() > 0);

    let again = server.request(Method::POST, &format!("/api/chat/{session}/stop"));
    assert_eq!(fetch(again).await.data(), json!({"stopped": false}));
}

#[tokio::test]
async fn stop_before_first_token_ends_the_provider_call() {
    let server = Server::start().await;
    let session = server.session().await;
    let (mut frames, call) = server.open_turn(&session, "never mind").await;
    let stale =
        server.post(&format!("/api/chat/{session}/stop"), json!({"turnId": "another"})).await;
    assert_eq!(stale.data(), json!({"stopped": false}));
    assert_eq!(
        server.post(&format!("/api/chat/{session}/stop"), json!({})).await.data(),
        json!({"stopped": true})
    );
    call.abandoned().await;
    frames.until("abort").await;
    let reply = server.last_message(&session).await;
    assert_eq!((&reply["status"], &reply["content"]), (&json!("interrupted"), &json!("")));
    assert_eq!(server.turn(&session, "go on", "yes").await.last().unwrap(), "user: go on");
}

#[tokio::test]
async fn provider_rejection_ends_in_error_and_failed_message() {
    let server = Server::start().await;
    let session = server.session().await;
    let (mut frames, mut call) = server.open_turn(&session, "hi").await;
    let limit = json!({"error": {"message": "Rate limit reached for sk-tests in org", "type": "rate_limit_error"}});
    for _ in 0..2 {
        call.refuse(429, limit.clone());
        call = server.upstream.call().await;
    }
    call.refuse(429, limit);
    let error = frames.until("error").await;
    let sentence = "the provider answered 429: Rate limit reached for [key] in org";
    assert_eq!(error.data, json!({"type": "error", "errorText": sentence}));
    assert_eq!(frames.next().await.unwrap().kind(), "[DONE]");
    let reply = server.last_message(&session).await;
    assert_eq!((&reply["status"], &reply["content"]), (&json!("failed"), &json!("")));
    assert_eq!(reply["error"], json!({"code": "provider_error", "message": sentence}));
    let prompt = server.turn(&session, "again", "hello").await;
    assert_eq!(
        prompt[1..],
        ["user: hi", "user: again"],
        "an empty failed reply is never sent to a model"
    );
}

#[tokio::test]
async fn broken_connection_keeps_partial_reply_as_failed() {
    let server = Server::start().await;
    let session = server.session().await;
    let (mut frames, mut call) = server.open_turn(&session, "hi").await;
    call.text("half a sen");
    frames.until("text-delta").await;
    call.break_connection();
    frames.until("error").await;
    let reply = server.last_message(&session).await;
    assert_eq!((&reply["status"], &reply["content"]), (&json!("failed"), &json!("half a sen")));
}

#[tokio::test]
async fn end_without_finish_reason_is_interrupted() {
    let server = Server::start().await;
    let session = server.session().await;
    let (mut frames, mut call) = server.open_turn(&session, "hi").await;
    call.text("cut o");
    call.end();
    let error = frames.until("error").await;
    assert_eq!(
        error.data["errorText"],
        "the provider's stream ended before the reply was complete"
    );
    let reply = server.last_message(&session).await;
    assert_eq!((&reply["status"], &reply["content"]), (&json!("interrupted"), &json!("cut o")));
}

#[tokio::test]
async fn reasoning_is_streamed_and_stored_separately() {
    let server = Server::start().await;
    let session = server.session().await;
    let (mut frames, mut call) = server.open_turn(&session, "why?").await;
    call.reasoning("reasoning_content", "They ask why. ");
    assert_eq!(frames.until("reasoning-delta").await.data["delta"], "They ask why. ");
    call.reasoning("reasoning", "I know.");
    assert_eq!(frames.until("reasoning-delta").await.data["delta"], "I know.");
    call.reply("Because.");
    let rest = frames.rest().await;
    assert_eq!(rest[0].kind(), "reasoning-end");
    assert_eq!(text_of(&rest), "Because.");
    let reply = server.last_message(&session).await;
    assert_eq!(reply["content"], "Because.");
    assert_eq!(reply["parts"], json!([{"type": "reasoning", "text": "They ask why. I know."}]));
    let prompt = server.turn(&session, "and?", "so").await;
    assert_eq!(prompt[1..], ["user: why?", "assistant: Because.", "user: and?"]);
}

#[tokio::test]
async fn heartbeats_are_sent_before_the_first_token() {
    let server = Server::tuned(&[], quick_heartbeat()).await;
    let session = server.session().await;
    let (mut frames, call) = server.open_turn(&session, "slow one").await;
    frames.until("start-step").await;
    frames.wait_for_comment().await;
    frames.wait_for_comment().await;
    call.reply("there");
    assert_eq!(text_of(&frames.rest().await), "there");
}

#[tokio::test]
async fn ai_sdk_body_creates_session_and_adds_only_last_message() {
    let server = Server::start().await;
    let user = |id: &str, text: &str| json!({"id": id, "role": "user", "parts": [{"type": "text", "text": text}]});
    let first =
        json!({"id": "chat-1", "messages": [user("u1", "Hello")], "trigger": "submit-message"});
    let mut frames = server.chat(first).await;
    server.upstream.call().await.reply("Hi!");
    frames.until("[DONE]").await;
    let invented =
        json!({"id": "x", "role": "assistant", "parts": [{"type": "text", "text": "never said"}]});
    let second = json!({"id": "chat-1", "trigger": "submit-message", "messages": [
        user("u1", "Hello"), invented, {"id": "u2", "role": "user", "parts": [
            {"type": "text", "text": "How are"}, {"type": "step-start"}, {"type": "text", "text": "you?"},
            {"type": "file", "mediaType": "image/png", "url": "data:image/png;base64,AA=="}]}]});
    let mut frames = server.chat(second).await;
    let call = server.upstream.call().await;
    assert_eq!(
        call.prompt()[1..],
        ["user: Hello", "assistant: Hi!", "user: How are\nyou? <data:image/png;base64,AA==>"]
    );
    call.reply("Fine");
    frames.until("[DONE]").await;
    let asked = server.get("/api/chat-sessions/chat-1/messages/u2").await.data();
    assert_eq!(asked["clientMessageId"], "u2");
    assert_eq!(
        asked["parts"],
        json!([{"type": "file", "mediaType": "image/png", "url": "data:image/png;base64,AA=="}])
    );
}

#[tokio::test]
async fn repeated_message_replays_the_stored_reply() {
    let server = Server::start().await;
    let body = json!({"id": "chat-1", "message": {"id": "u1", "role": "user", "parts": [{"type": "text", "text": "Hello"}]}});
    let mut first = server.chat(body.clone()).await;
    let start = first.next().await.unwrap();
    server.upstream.call().await.reply("Hi!");
    first.until("[DONE]").await;
    let again = server.chat(body).await.rest().await;
    assert_eq!(again[0].data["messageId"], start.data["messageId"]);
    assert_eq!(text_of(&again), "Hi!");
    assert_eq!(again.last().unwrap().kind(), "[DONE]");
    assert!(server.upstream.is_idle().await);
    assert_eq!(server.transcript("chat-1").await, ["user: Hello", "assistant: Hi!"]);
}

#[tokio::test]
async fn repeated_message_joins_its_running_stream() {
    let server = Server::start().await;
    let body = json!({"id": "chat-1", "message": {"id": "u1", "role": "user", "parts": [{"type": "text", "text": "Hello"}]}});
    let mut first = server.chat(body.clone()).await;
    let mut call = server.upstream.call().await;
    call.text("Hi ");
    first.until("text-delta").await;
    let mut second = server.chat(body).await;
    call.reply("there");
    first.rest().await;
    second.rest().await;
    assert_eq!(first.bytes, second.bytes);
}

#[tokio::test]
async fn reused_client_message_id_with_new_text_is_rejected() {
    let server = Server::start().await;
    let session = server.session().await;
    let body =
        |text: &str| json!({"sessionId": session, "message": text, "clientMessageId": "mine"});
    let mut frames = server.chat(body("one")).await;
    server.upstream.call().await.reply("1");
    frames.until("[DONE]").await;
    assert_eq!(
        server.post("/api/chat", body("two")).await.failure(),
        (422, "idempotency_key_reused")
    );
    assert_eq!(server.transcript(&session).await, ["user: one", "assistant: 1"]);
}

#[tokio::test]
async fn edits_and_regenerations_become_siblings() {
    let server = Server::start().await;
    let ask = |text: &str| {
        json!({"id": "chat-1", "messageId": "u1", "trigger": "submit-message",
        "messages": [{"id": "u1", "role": "user", "parts": [{"type": "text", "text": text}]}]})
    };
    for (question, answer) in [("draft", "first"), ("final", "second")] {
        let mut frames = server.chat(ask(question)).await;
        server.upstream.call().await.reply(answer);
        frames.until("[DONE]").await;
    }
    assert_eq!(server.transcript("chat-1").await, ["user: final", "assistant: second"]);
    let edited = server.get("/api/chat-sessions/chat-1/messages/u1").await.data();
    assert_eq!(edited["siblingIds"].as_array().unwrap().len(), 2);

    let reply = server.last_message("chat-1").await;
    let body = json!({"id": "chat-1", "trigger": "regenerate-message", "messageId": reply["id"],
        "messages": [{"id": "u1", "role": "user", "parts": [{"type": "text", "text": "final"}]}]});
    let mut frames = server.chat(body).await;
    let call = server.upstream.call().await;
    assert_eq!(call.prompt()[1..], ["user: final"]);
    call.reply("third");
    frames.until("[DONE]").await;
    assert_eq!(server.transcript("chat-1").await, ["user: final", "assistant: third"]);
    let newest = server.last_message("chat-1").await;
    assert_eq!(newest["siblingIds"], json!([reply["id"], newest["id"]]));
}

#[tokio::test]
async fn regenerate_route_adds_another_reply() {
    let server = Server::start().await;
    let session = server.session().await;
    server.turn(&session, "question", "one").await;
    let response = server
        .request(Method::POST, &format!("/api/chat/{session}/regenerate"))
        .send()
        .await
        .unwrap();
    let mut frames = crate::support::FrameReader::new(response);
    let call = server.upstream.call().await;
    assert_eq!(call.prompt()[1..], ["user: question"]);
    call.reply("two");
    frames.until("[DONE]").await;
    assert_eq!(server.transcript(&session).await, ["user: question", "assistant: two"]);
}

#[tokio::test]
async fn assigned_session_skips_model_and_closed_session_rejects() {
    let server = Server::start().await;
    let session = server.session().await;
    let path = format!("/api/chat-sessions/{session}");
    server.patch(&path, json!({"status": "agent_assigned"})).await.data();
    let frames = server
        .chat(json!({"sessionId": session, "message": "a person, please"}))
        .await
        .rest()
        .await;
    let kinds: Vec<_> = frames.iter().map(|frame| frame.kind()).collect();
    assert_eq!(kinds, ["data-session", "finish", "[DONE]"]);
    assert!(server.upstream.is_idle().await);
    assert_eq!(server.transcript(&session).await, ["user: a person, please"]);

    server.patch(&path, json!({"status": "closed"})).await.data();
    let refused = server.post("/api/chat", json!({"sessionId": session, "message": "more"})).await;
    assert_eq!(refused.failure(), (409, "session_closed"));
    server.patch(&path, json!({"status": "active"})).await.data();
    assert_eq!(
        server.turn(&session, "more", "ok").await[1..],
        ["user: a person, please", "user: more"]
    );
}

#[tokio::test]
async fn assigning_an_agent_stops_the_running_reply() {
    let server = Server::start().await;
    let session = server.session().await;
    let (mut frames, mut call) = server.open_turn(&session, "help").await;
    call.text("Let me ");
    frames.until("text-delta").await;
    let path = format!("/api/chat-sessions/{session}");
    let changed = server.patch(&path, json!({"status": "agent_assigned"})).await.data();
    assert_eq!(changed["activeTurn"], Value::Null);
    frames.until("abort").await;
    assert_eq!(server.last_message(&session).await["content"], "Let me ");
}

#[tokio::test]
async fn deleting_a_session_stops_its_running_reply() {
    let server = Server::start().await;
    let session = server.session().await;
    let (mut frames, mut call) = server.open_turn(&session, "long").await;
    call.text("so ");
    frames.until("text-delta").await;
    let deleted = server.delete(&format!("/api/chat-sessions/{session}")).await.data();
    assert_eq!(deleted, json!({"sessionId": session, "deletedMessages": 1}));
    call.disconnected().await;
    frames.until("abort").await;
    assert_eq!(
        server.get(&format!("/api/chat-sessions/{session}")).await.failure(),
        (404, "session_not_found")
    );
}

#[tokio::test]
async fn message_over_the_context_window_is_rejected_unstored() {
    let server = Server::with(&["--context-window=300"]).await;
    let session = server.session().await;
    let body = json!({"sessionId": session, "message": "word ".repeat(400)});
    let refused = server.post("/api/chat", body).await;
    assert_eq!(refused.failure(), (422, "context_too_long"));
    assert_eq!(refused.body["error"]["details"]["contextWindow"], 300);
    assert_eq!(server.transcript(&session).await, Vec::<String>::new());
    assert_eq!(server.turn(&session, "short", "ok").await.last().unwrap(), "user: short");
}

#[tokio::test]
async fn unknown_session_is_not_found_and_not_created() {
    let server = Server::start().await;
    let refused = server.post("/api/chat", json!({"sessionId": "nowhere", "message": "hi"})).await;
    assert_eq!(refused.failure(), (404, "session_not_found"));
    assert_eq!(server.get("/api/chat-sessions").await.data()["pagination"]["total"], 0);
}
