//! Data of one vendor in sessions that another may continue: ids of calls, signatures, reasoning
//! that must be sent back, and the order of a reply's parts.

use crate::support::anthropic as claude;
use crate::support::sse::Frame;
use crate::support::upstream::sse_chunk;
use crate::support::{ProviderCall, Server};
use crate::tools::{
    call_id, chat_body, message_with_outputs, run_chat, tools, ui_history, user_message,
};
use futures::future::join;
use serde_json::{Value, json};

/// Asks, and returns the output of the call for Oslo. Returns the second request.
pub async fn return_output(
    server: &Server,
    session: &str,
    first: impl FnOnce(ProviderCall),
    second: impl FnOnce(ProviderCall),
    change: impl FnOnce(&mut Value),
) -> Value {
    let question = user_message(&format!("q-{session}"), "Oslo?");
    let (frames, _) = run_chat(server, chat_body(session, &question), first).await;
    let reply = frames[0].data["messageId"].as_str().unwrap().to_owned();
    let outputs = [("Oslo", json!("rain"))];
    let mut body =
        chat_body(session, &message_with_outputs(server, session, &reply, &outputs).await);
    change(&mut body);
    run_chat(server, body, second).await.1
}

pub fn signed_call(mut call: ProviderCall) {
    call.reasoning("reasoning_content", "I should ");
    call.reasoning("reasoning_content", "look.");
    let function = json!({"name": "weather", "arguments": "{\"city\":\"Oslo\"}"});
    let signature = json!({"google": {"thought_signature": "c2ln+/=="}});
    let signed = json!({"index": 0, "id": "look:0", "type": "function", "function": function, "extra_content": signature});
    call.raw(sse_chunk(&json!({"choices": [{"index": 0, "delta": {"tool_calls": [signed]}}]})));
    call.finish_calling();
}

#[tokio::test]
async fn signature_and_reasoning_return_to_their_model_only() {
    let server = Server::start().await;
    let answer = |call: ProviderCall| call.reply("Rain.");
    let request = return_output(&server, "s", signed_call, answer, |_| {}).await;
    let calling = &request["messages"][2];
    assert_eq!(calling["reasoning_content"], "I should look.");
    let call = &calling["tool_calls"][0];
    assert_eq!(call["extra_content"], json!({"google": {"thought_signature": "c2ln+/=="}}));
    assert_eq!(
        (&call["id"], &request["messages"][3]["tool_call_id"]),
        (&json!("look:0"), &call["id"])
    );
    // None of it is on the page.
    let history = ui_history(&server, "s").await.to_string();
    assert!(!history.contains("c2ln") && !history.contains("look:0"), "{history}");

    let other = |body: &mut Value| body["model"] = "other-model".into();
    let request = return_output(&server, "t", signed_call, answer, other).await;
    let calling = &request["messages"][2];
    assert_eq!(calling.get("reasoning_content"), None);
    let call = &calling["tool_calls"][0];
    assert_eq!(call.get("extra_content"), None);
    let id = call_id(&server, "t", "Oslo").await;
    assert_eq!((&call["id"], &request["messages"][3]["tool_call_id"]), (&json!(id), &json!(id)));
    // The form that the strictest vendor accepts.
    assert!(id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{id}");
}

#[tokio::test]
async fn signed_thinking_returns_and_the_model_keeps_thinking() {
    let server = crate::anthropic::server().await;
    let call = |mut call: ProviderCall| {
        claude::begin(&mut call, json!({"input_tokens": 7, "output_tokens": 1}));
        for event in [
            json!({"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}}),
            json!({"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}}),
            json!({"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "c2ln+/=="}}),
            json!({"type": "content_block_stop", "index": 0}),
            json!({"type": "content_block_start", "index": 1, "content_block": {"type": "redacted_thinking", "data": "ZW5j"}}),
            json!({"type": "content_block_start", "index": 2, "content_block": {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}}),
            json!({"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": "{\"city\":\"Oslo\"}"}}),
        ] {
            claude::event(&mut call, &event);
        }
        claude::finish(&mut call, "tool_use", json!({"output_tokens": 2}));
        call.end();
    };
    // `/api/chat` has no field for the effort.
    let ask = async |messages: Value, effort: &str, script: Box<dyn FnOnce(ProviderCall)>| {
        let body = json!({
            "session_id": "s", "model": "claude-sonnet-5-5", "reasoning_effort": effort,
            "messages": messages, "tools": tools(),
        });
        let answering = async {
            let call = server.upstream.call().await;
            let request = call.request.clone();
            script(call);
            request
        };
        let (reply, request) = join(server.post("/v1/chat/completions", body), answering).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        request
    };
    let question = json!({"role": "user", "content": "Oslo?"});
    ask(json!([question]), "high", Box::new(call)).await;
    let id = call_id(&server, "s", "Oslo").await;
    for (effort, output) in [("high", "rain"), ("none", "sun")] {
        let called = json!({"role": "assistant", "content": null, "tool_calls": []});
        let result = json!({"role": "tool", "tool_call_id": id, "content": output});
        let answer = |mut call: ProviderCall| {
            claude::reply(&mut call, "Thanks.");
            call.end();
        };
        let request = ask(json!([question, called, result]), effort, Box::new(answer)).await;
        let content = &request["messages"][1]["content"];
        if effort == "none" {
            assert_eq!(content[0]["type"], "tool_use", "without thinking, the blocks stay out");
            continue;
        }
        assert_eq!(request["thinking"]["type"], "adaptive");
        let thinking = json!({"type": "thinking", "thinking": "hm", "signature": "c2ln+/=="});
        assert_eq!(content[0], thinking);
        assert_eq!(content[1], json!({"type": "redacted_thinking", "data": "ZW5j"}));
        let call = (&content[2]["type"], &content[2]["id"]);
        assert_eq!(call, (&json!("tool_use"), &json!("toolu_1")));
    }
}

#[tokio::test]
async fn interleaved_parts_keep_their_order() {
    let server = Server::start().await;
    let script = |mut call: ProviderCall| {
        call.reasoning("reasoning_content", "Plan A.");
        call.text("First.");
        call.reasoning("reasoning_content", "Plan B.");
        call.reply("Second.");
    };
    let (frames, _) = run_chat(&server, chat_body("s", &user_message("q", "Go.")), script).await;
    let kinds: Vec<&str> =
        frames.iter().map(Frame::kind).filter(|kind| kind.ends_with("-start")).collect();
    let expected = ["reasoning-start", "text-start", "reasoning-start", "text-start"];
    assert_eq!(kinds, expected);
    let history = ui_history(&server, "s").await;
    let parts: Vec<(&str, &str)> = history[1]["parts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|part| (part["type"].as_str().unwrap(), part["text"].as_str().unwrap()))
        .collect();
    let expected = [
        ("reasoning", "Plan A."),
        ("text", "First."),
        ("reasoning", "Plan B."),
        ("text", "Second."),
    ];
    assert_eq!(parts, expected);
    assert_eq!(server.last_message("s").await["content"], "First.\n\nSecond.");
}

#[tokio::test]
async fn unsupported_content_fails_the_reply() {
    let server = Server::start().await;
    let script = |mut call: ProviderCall| {
        let delta = json!({"content": null, "audio": {"id": "a", "data": "UklGRg=="}});
        call.raw(sse_chunk(&json!({"choices": [{"index": 0, "delta": delta}]})));
        call.finish(json!({"prompt_tokens": 7, "completion_tokens": 2}));
    };
    run_chat(&server, chat_body("s", &user_message("q", "Sing.")), script).await;
    let reply = server.last_message("s").await;
    assert_eq!(reply["status"], "failed");
    assert!(reply["error"]["message"].as_str().unwrap().contains("audio"), "{reply}");
}

#[tokio::test]
async fn sources_are_streamed_stored_and_replayed() {
    let server = Server::start().await;
    let script = |mut call: ProviderCall| {
        call.text("See it.");
        let citation = json!({"url": "https://example.com/a", "title": "A"});
        let note = json!({"type": "url_citation", "url_citation": citation});
        for _ in 0..2 {
            let delta = json!({"annotations": [note]});
            call.raw(sse_chunk(&json!({"choices": [{"index": 0, "delta": delta}]})));
        }
        call.finish(json!({"prompt_tokens": 7, "completion_tokens": 2}));
    };
    let (frames, _) = run_chat(&server, chat_body("s", &user_message("q", "Where?")), script).await;
    let sources: Vec<&Value> = frames
        .iter()
        .filter(|frame| frame.kind() == "source-url")
        .map(|frame| &frame.data)
        .collect();
    let source = json!({"type": "source-url", "sourceId": "source-1", "url": "https://example.com/a", "title": "A"});
    assert_eq!(sources, [&source]);
    assert_eq!(server.last_message("s").await["parts"], json!([source]));
    let replayed = server.chat(chat_body("s", &user_message("q", "Where?"))).await.rest().await;
    assert!(replayed.iter().any(|frame| frame.data == source));
    let history = ui_history(&server, "s").await;
    assert_eq!(history[1]["parts"], json!([{"type": "text", "text": "See it."}, source]));
}

#[tokio::test]
async fn wrong_content_type_does_not_matter() {
    let server = Server::start().await;
    let delta =
        json!({"choices": [{"index": 0, "delta": {"content": "Hi."}, "finish_reason": null}]});
    let end = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
    let stream = format!("data: {delta}\n\ndata: {end}\n\ndata: [DONE]\n\n");
    let whole = json!({"choices": [{"message": {"content": "Hi."}, "finish_reason": "stop"}]});
    for content_type in ["application/json", "text/plain", "text/event-stream", "application/x"] {
        for body in [stream.clone(), whole.to_string()] {
            let session = server.session().await;
            let question = chat_body(&session, &user_message("q", "Hello?"));
            let (frames, _) =
                run_chat(&server, question, |call| call.answer(200, content_type, body)).await;
            let text = crate::support::sse::text_of(&frames);
            assert_eq!(text, "Hi.", "{content_type}");
        }
    }
}

#[tokio::test]
async fn unknown_finish_reason_is_not_a_success() {
    let server = Server::start().await;
    for (word, status) in [("abort", "interrupted"), ("network_error", "failed")] {
        let session = server.session().await;
        let script = |mut call: ProviderCall| {
            call.text("half a sen");
            let end = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": word}]});
            call.raw(sse_chunk(&end));
            call.raw("data: [DONE]\n\n");
        };
        run_chat(&server, chat_body(&session, &user_message("q", "Go.")), script).await;
        let reply = server.last_message(&session).await;
        assert_eq!((&reply["status"], &reply["content"]), (&json!(status), &json!("half a sen")));
    }
}

#[tokio::test]
async fn overlong_reply_ends_with_length() {
    let server = Server::start().await;
    let script = |mut call: ProviderCall| {
        for _ in 0..5 {
            call.text(&"word ".repeat(200_000));
        }
        call.finish(json!({"prompt_tokens": 7, "completion_tokens": 2}));
    };
    run_chat(&server, chat_body("s", &user_message("q", "Go.")), script).await;
    let reply = server.last_message("s").await;
    assert_eq!((&reply["status"], &reply["finishReason"]), (&json!("complete"), &json!("length")));
    // A part counts for 256 bytes more than its text.
    assert_eq!(reply["content"].as_str().unwrap().len(), (4 << 20) - 256);
}

#[tokio::test]
async fn refused_long_prompt_is_retried_with_half_the_memory() {
    let server = Server::start().await;
    let text = "word ".repeat(100);
    let role = |index: usize| if index.is_multiple_of(2) { "user" } else { "assistant" };
    let messages: Vec<Value> =
        (0..60).map(|index| json!({"role": role(index), "content": text})).collect();
    let session = json!({"sessionId": "s", "messages": messages});
    assert_eq!(server.post("/api/import", json!({"sessions": [session]})).await.status, 200);
    let asking = async {
        let body = json!({"sessionId": "s", "message": "go on"});
        server.chat(body).await.rest().await
    };
    let answering = async {
        let call = server.upstream.call().await;
        let first = call.request["messages"].as_array().unwrap().len();
        call.refuse(422, json!({"detail": "the request is not acceptable"}));
        let call = server.upstream.call().await;
        let second = call.request["messages"].as_array().unwrap().len();
        call.reply("Fine.");
        (first, second)
    };
    let (frames, (first, second)) = join(asking, answering).await;
    assert_eq!(crate::support::sse::text_of(&frames), "Fine.");
    assert!(second < first * 2 / 3, "{first} messages, then {second}");
}
