//! Data that only its vendor understands: it comes back to that vendor byte for byte and in its
//! order, and is shown to no client.

use crate::provider_data::{return_output, signed_call};
use crate::support::anthropic as claude;
use crate::support::upstream::sse_chunk;
use crate::support::{ProviderCall, Server};
use crate::tools::{call_id, chat_body, message_with_outputs, run_chat, tools, user_message};
use futures::future::join;
use reqwest::Method;
use serde_json::{Value, json};

fn delta(call: &mut ProviderCall, delta: Value) {
    call.raw(sse_chunk(&json!({"choices": [{"index": 0, "delta": delta}]})));
}

fn answer_rain(call: ProviderCall) {
    call.reply("Rain.");
}

#[tokio::test]
async fn signature_after_the_start_of_a_call_comes_back() {
    let server = Server::start().await;
    let late = |mut call: ProviderCall| {
        call.tool_call(0, "look:0", "weather");
        let google = |field: &str, text: &str| json!({"google": {field: text}});
        let call_delta =
            |extra: Value| json!({"tool_calls": [{"index": 0, "extra_content": extra}]});
        delta(&mut call, call_delta(google("other", "b")));
        call.arguments(0, "{\"city\":\"Oslo\"}");
        delta(&mut call, call_delta(google("thought_signature", "c2ln+/==")));
        call.finish_calling();
    };
    let request = return_output(&server, "s", late, answer_rain, |_| {}).await;
    let sent = &request["messages"][2]["tool_calls"][0]["extra_content"];
    assert_eq!(*sent, json!({"google": {"other": "b", "thought_signature": "c2ln+/=="}}));
}

#[tokio::test]
async fn reasoning_details_come_back_in_the_tool_chain() {
    let server = Server::start().await;
    let details = json!([
        {"type": "reasoning.text", "text": "I look.", "signature": "s+/=", "format": "f", "index": 0},
        {"type": "reasoning.summary", "summary": "Looks.", "index": 1},
        {"type": "reasoning.encrypted", "data": "ZW5j", "id": "look:0", "index": 2},
    ]);
    let sent = details.clone();
    let script = move |mut call: ProviderCall| {
        delta(&mut call, json!({"reasoning": "I look.", "reasoning_details": [sent[0]]}));
        delta(&mut call, json!({"reasoning_details": [sent[1]]}));
        call.tool_call(0, "look:0", "weather");
        call.arguments(0, "{\"city\":\"Oslo\"}");
        // The encrypted part arrives last.
        delta(&mut call, json!({"reasoning_details": [sent[2]]}));
        call.finish_calling();
    };
    let request = return_output(&server, "s", script.clone(), answer_rain, |_| {}).await;
    assert_eq!(request["messages"][2]["reasoning_details"], details);
    let other = |body: &mut Value| body["model"] = "other-model".into();
    let request = return_output(&server, "t", script, answer_rain, other).await;
    assert_eq!(request["messages"][2].get("reasoning_details"), None);
    // After the answer the reasoning is no longer wanted.
    let next = chat_body("s", &user_message("next", "And now?"));
    let (_, request) = run_chat(&server, next, answer_rain).await;
    assert!(!request.to_string().contains("ZW5j"), "{request}");
}

async fn export(server: &Server) -> String {
    let request = server.request(Method::GET, "/api/export?format=json");
    request.send().await.unwrap().text().await.unwrap()
}

#[tokio::test]
async fn another_endpoint_gets_nothing() {
    let server = Server::start().await;
    let question = chat_body("s", &user_message("q", "Oslo?"));
    let (frames, _) = run_chat(&server, question, signed_call).await;
    let reply = frames[0].data["messageId"].as_str().unwrap().to_owned();
    // The same session behind another address of the provider, as after a change of the vendor.
    let other = Server::start().await;
    other.post("/api/import", serde_json::from_str(&export(&server).await).unwrap()).await.data();
    let outputs = [("Oslo", json!("rain"))];
    let message = message_with_outputs(&other, "s", &reply, &outputs).await;
    let (_, request) = run_chat(&other, chat_body("s", &message), answer_rain).await;
    let calling = &request["messages"][2];
    assert_eq!(calling.get("reasoning_content"), None);
    assert_eq!(calling["tool_calls"][0].get("extra_content"), None);
    assert_ne!(calling["tool_calls"][0]["id"], "look:0");
}

#[tokio::test]
async fn origin_is_shown_nowhere_but_in_exports() {
    let server = Server::start().await;
    let question = chat_body("s", &user_message("q", "Oslo?"));
    let (frames, _) = run_chat(&server, question, signed_call).await;
    let secret = |text: &str| text.contains("c2ln") || text.contains("look:0");
    assert!(frames.iter().all(|frame| !secret(&frame.data.to_string())));
    let stored = server.last_message("s").await;
    // Everything else is byte for byte the same.
    let id = call_id(&server, "s", "Oslo").await;
    let call = json!({"type": "tool-call", "toolCallId": id, "toolName": "weather", "input": {"city": "Oslo"}});
    assert_eq!(stored["parts"][1], call);
    let reply = stored["id"].as_str().unwrap();
    let session = server.get("/api/chat-sessions/s").await.body.to_string();
    assert!(!secret(&session));
    for path in [
        "/api/chat-sessions/s/messages".to_owned(),
        "/api/chat-sessions/s/messages?view=all".to_owned(),
        "/api/chat-sessions/s/messages?format=ui".to_owned(),
        format!("/api/chat-sessions/s/messages/{reply}"),
        "/api/chat-sessions/s/memory".to_owned(),
        "/api/chat-sessions/s/nodes".to_owned(),
        "/api/export?format=markdown".to_owned(),
        "/v1/conversations/conv_s/items".to_owned(),
        format!("/v1/conversations/conv_s/items/fc_1_{reply}"),
    ] {
        let shown = server.get(&path).await;
        assert!(!secret(&shown.body.to_string()), "{path}: {}", shown.body);
    }
    let replayed = server.chat(chat_body("s", &user_message("q", "Oslo?"))).await.rest().await;
    assert!(replayed.iter().all(|frame| !secret(&frame.data.to_string())));
    let exported = export(&server).await;
    assert!(secret(&exported), "{exported}");
}

#[tokio::test]
async fn imported_call_gets_its_signature_back() {
    let server = Server::start().await;
    let question = chat_body("s", &user_message("q", "Oslo?"));
    let (frames, _) = run_chat(&server, question, signed_call).await;
    let reply = frames[0].data["messageId"].as_str().unwrap().to_owned();
    let exported = export(&server).await;
    server.delete("/api/chat-sessions/s").await.data();
    server.post("/api/import", serde_json::from_str(&exported).unwrap()).await.data();
    let outputs = [("Oslo", json!("rain"))];
    let message = message_with_outputs(&server, "s", &reply, &outputs).await;
    let (_, request) = run_chat(&server, chat_body("s", &message), answer_rain).await;
    let call = &request["messages"][2]["tool_calls"][0];
    assert_eq!(call["extra_content"], json!({"google": {"thought_signature": "c2ln+/=="}}));
    // An origin of another shape is dropped, and so is one that an API client sends.
    let part = json!({"type": "tool-call", "toolCallId": "a", "toolName": "b", "input": {}, "origin": {"x": 1}});
    let message = json!({"id": "odd", "role": "assistant", "content": "", "parts": [part], "finishReason": "tool-calls"});
    let file = json!({"sessions": [{"sessionId": "odd", "messages": [message]}]});
    server.post("/api/import", file).await.data();
    let exported = export(&server).await;
    assert!(!exported.contains("{\"x\":1}"), "{exported}");
}

#[tokio::test]
async fn interleaved_thinking_comes_back_in_its_order() {
    let server = crate::anthropic::server().await;
    let thinking = |text: &str, signature: &str| json!({"type": "thinking", "thinking": text, "signature": signature});
    let text = |text: &str| json!({"type": "text", "text": text});
    let redacted = json!({"type": "redacted_thinking", "data": "ZW5j"});
    let weather = |id: &str| json!({"type": "tool_use", "id": id, "name": "weather", "input": {"city": "Oslo"}});
    for (number, blocks) in [
        vec![thinking("1", "a="), text("Let me see."), thinking("2", "b="), weather("toolu_1")],
        vec![thinking("1", "a="), text("One."), redacted.clone(), text("Two."), weather("toolu_1")],
        vec![
            redacted,
            thinking("1", "a="),
            text("One."),
            weather("toolu_1"),
            text("Two."),
            thinking("2", "b="),
            weather("toolu_2"),
        ],
        vec![
            thinking("1", "a="),
            text("One."),
            weather("toolu_1"),
            thinking("2", "b="),
            weather("toolu_2"),
        ],
    ]
    .into_iter()
    .enumerate()
    {
        let session = format!("s{number}");
        let ask = async |messages: Value, script: &dyn Fn(&mut ProviderCall)| {
            let body = json!({
                "session_id": session, "model": "claude-sonnet-5-5", "reasoning_effort": "high",
                "messages": messages, "tools": tools(),
            });
            let answering = async {
                let mut call = server.upstream.call().await;
                let request = call.request.clone();
                script(&mut call);
                call.end();
                request
            };
            let (reply, request) = join(server.post("/v1/chat/completions", body), answering).await;
            assert_eq!(reply.status, 200, "{}", reply.body);
            (reply.body, request)
        };
        let question = json!({"role": "user", "content": "Oslo?"});
        let (reply, _) = ask(json!([question]), &|call| {
            claude::begin(call, json!({"input_tokens": 7, "output_tokens": 1}));
            for (index, block) in blocks.iter().enumerate() {
                send_block(call, index, block);
            }
            claude::finish(call, "tool_use", json!({"output_tokens": 2}));
        })
        .await;
        let message = &reply["choices"][0]["message"];
        let mut messages = vec![question, message.clone()];
        messages.extend(
            message["tool_calls"]
                .as_array()
                .unwrap()
                .iter()
                .map(|call| json!({"role": "tool", "tool_call_id": call["id"], "content": "rain"})),
        );
        let (_, request) = ask(json!(messages), &|call| claude::reply(call, "Thanks.")).await;
        let sent = request["messages"][1]["content"].as_array().unwrap().clone();
        let sent: Vec<Value> = sent
            .into_iter()
            .map(|mut block| {
                block.as_object_mut().unwrap().remove("cache_control");
                block
            })
            .collect();
        assert_eq!(sent, blocks);
    }
}

/// Sends a block in the pieces in which the API streams it.
fn send_block(call: &mut ProviderCall, index: usize, block: &Value) {
    let kind = block["type"].as_str().unwrap();
    let mut start = block.clone();
    let mut deltas = Vec::new();
    match kind {
        "text" => {
            start["text"] = "".into();
            let (one, two) = block["text"].as_str().unwrap().split_at(1);
            deltas.extend([one, two].map(|text| json!({"type": "text_delta", "text": text})));
        }
        "thinking" => {
            start["thinking"] = "".into();
            start["signature"] = "".into();
            deltas.push(json!({"type": "thinking_delta", "thinking": block["thinking"]}));
            deltas.push(json!({"type": "signature_delta", "signature": block["signature"]}));
        }
        "tool_use" => {
            start["input"] = json!({});
            let input = block["input"].to_string();
            deltas.push(json!({"type": "input_json_delta", "partial_json": input}));
        }
        _ => {}
    }
    claude::event(
        call,
        &json!({"type": "content_block_start", "index": index, "content_block": start}),
    );
    for delta in deltas {
        claude::event(
            call,
            &json!({"type": "content_block_delta", "index": index, "delta": delta}),
        );
    }
    claude::event(call, &json!({"type": "content_block_stop", "index": index}));
}
