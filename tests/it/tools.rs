//! Function calls: a reply with calls ends its turn, and the outputs begin the next one.

use crate::support::sse::{Frame, FrameReader};
use crate::support::{ProviderCall, Server, anthropic as claude};
use futures::future::join;
use serde_json::{Value, json};

pub fn tools() -> Value {
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    json!([{"type": "function", "function": {"name": "weather", "parameters": parameters}}])
}

/// A `UIMessage` of the user.
pub fn user_message(id: &str, text: &str) -> Value {
    json!({"id": id, "role": "user", "parts": [{"type": "text", "text": text}]})
}

/// The request body of `useChat`: the last message, and the tools.
pub fn chat_body(session: &str, last: &Value) -> Value {
    json!({"id": session, "messages": [last], "trigger": "submit-message", "tools": tools()})
}

/// Runs a turn while the script answers. Returns all frames and the provider's request.
pub async fn run_chat(
    server: &Server,
    body: Value,
    script: impl FnOnce(ProviderCall),
) -> (Vec<Frame>, Value) {
    let answering = async {
        let call = server.upstream.call().await;
        let request = call.request.clone();
        script(call);
        request
    };
    let reading = async { server.chat(body).await.rest().await };
    join(reading, answering).await
}

/// Calls the weather function for these cities, in one reply.
pub fn call_weather(cities: &'static [&'static str]) -> impl FnOnce(ProviderCall) {
    move |mut call| {
        for (index, city) in (0..).zip(cities) {
            call.tool_call(index, &format!("call-{city}"), "weather");
        }
        for (index, city) in (0..).zip(cities) {
            call.arguments(index, "{\"city\":");
            call.arguments(index, &format!(" \"{city}\"}}"));
        }
        call.finish_calling();
    }
}

/// The id of the newest call for a city. Ids are the server's own, not those of the model.
pub async fn call_id(server: &Server, session: &str, city: &str) -> String {
    let path = format!("/api/chat-sessions/{session}/messages");
    let messages = server.get(&path).await.data()["messages"].take();
    let parts = messages.as_array().unwrap().iter().rev().flat_map(|message| {
        message["parts"].as_array().unwrap().iter().filter(|part| part["type"] == "tool-call")
    });
    let mut calls = parts.filter(|part| part["input"]["city"] == city);
    calls.next().unwrap()["toolCallId"].as_str().unwrap().to_owned()
}

/// The assistant's message as `useChat` sends it back, with the outputs of its calls.
pub async fn message_with_outputs(
    server: &Server,
    session: &str,
    id: &str,
    outputs: &[(&str, Value)],
) -> Value {
    let mut parts = vec![json!({"type": "step-start"})];
    for (city, output) in outputs {
        parts.push(json!({
            "type": "tool-weather", "toolCallId": call_id(server, session, city).await,
            "state": "output-available", "input": {"city": city}, "output": output,
        }));
    }
    json!({"id": id, "role": "assistant", "parts": parts})
}

/// The types of the frames; runs of the same type count once, since deltas may be merged.
fn frame_kinds(frames: &[Frame]) -> Vec<&str> {
    let mut kinds: Vec<&str> = frames.iter().map(Frame::kind).collect();
    kinds.dedup();
    kinds
}

fn frame_data<'a>(kind: &str, frames: &'a [Frame]) -> &'a Value {
    &frames.iter().find(|frame| frame.kind() == kind).unwrap().data
}

pub async fn ui_history(server: &Server, session: &str) -> Value {
    let path = format!("/api/chat-sessions/{session}/messages?format=ui");
    let mut messages = server.get(&path).await.data()["messages"].take();
    for message in messages.as_array_mut().unwrap() {
        message.as_object_mut().unwrap().remove("metadata");
    }
    messages
}

#[tokio::test]
async fn tool_call_ends_turn_and_output_continues_the_message() {
    let server = Server::start().await;
    let (frames, request) =
        run_chat(&server, chat_body("s", &user_message("q", "Oslo?")), call_weather(&["Oslo"]))
            .await;
    assert_eq!(request["tools"], tools());
    assert_eq!(
        frame_kinds(&frames),
        [
            "start",
            "data-session",
            "start-step",
            "tool-input-start",
            "tool-input-delta",
            "tool-input-available",
            "finish-step",
            "finish",
            "[DONE]"
        ]
    );
    let reply = frames[0].data["messageId"].as_str().unwrap().to_owned();
    assert_eq!(frame_data("tool-input-available", &frames)["input"], json!({"city": "Oslo"}));
    assert_eq!(frame_data("finish", &frames)["finishReason"], "tool-calls");
    let call = call_id(&server, "s", "Oslo").await;
    let waiting = json!([
        {"id": "q", "role": "user", "parts": [{"type": "text", "text": "Oslo?"}]},
        {"id": reply, "role": "assistant", "parts": [
            {"type": "tool-weather", "toolCallId": call, "state": "input-available", "input": {"city": "Oslo"}},
        ]},
    ]);
    let mut history = ui_history(&server, "s").await;
    history[0]["id"] = "q".into();
    assert_eq!(history, waiting);

    let result =
        message_with_outputs(&server, "s", &reply, &[("Oslo", json!({"rain": true}))]).await;
    let (frames, request) =
        run_chat(&server, chat_body("s", &result), |call| call.reply("Take a coat.")).await;
    assert_eq!(frames[0].data["messageId"], *reply, "it continues that message");
    let function = json!({"name": "weather", "arguments": "{\"city\": \"Oslo\"}"});
    let called = json!([{"id": "call-Oslo", "type": "function", "function": function}]);
    assert_eq!(
        request["messages"].as_array().unwrap()[1..],
        [
            json!({"role": "user", "content": "Oslo?"}),
            json!({"role": "assistant", "content": null, "tool_calls": called}),
            json!({"role": "tool", "content": "{\"rain\":true}", "tool_call_id": "call-Oslo"}),
        ]
    );
    let history = ui_history(&server, "s").await;
    assert_eq!(
        history[1],
        json!({"id": reply, "role": "assistant", "parts": [
            {"type": "tool-weather", "toolCallId": call, "state": "output-available",
                "input": {"city": "Oslo"}, "output": {"rain": true}},
            {"type": "step-start"},
            {"type": "text", "text": "Take a coat."},
        ]})
    );
    assert_eq!(history.as_array().unwrap().len(), 2);
    // A page that would begin inside this message is extended to its beginning.
    let path = "/api/chat-sessions/s/messages?format=ui&limit=1";
    let page = server.get(path).await.data();
    assert_eq!((&page["messages"][0]["id"], &page["hasMore"]), (&json!(reply), &json!(true)));

    let roles: Vec<String> = server.transcript("s").await;
    assert_eq!(
        roles,
        ["user: Oslo?", "assistant: ", "tool: {\"rain\":true}", "assistant: Take a coat."]
    );
}

#[tokio::test]
async fn repeated_outputs_replay_and_other_outputs_branch() {
    let server = Server::start().await;
    let (frames, _) =
        run_chat(&server, chat_body("s", &user_message("q", "Oslo?")), call_weather(&["Oslo"]))
            .await;
    let reply = frames[0].data["messageId"].as_str().unwrap().to_owned();
    let result = message_with_outputs(&server, "s", &reply, &[("Oslo", json!("rain"))]).await;
    let (first, _) = run_chat(&server, chat_body("s", &result), |call| call.reply("A coat.")).await;
    let again = server.chat(chat_body("s", &result)).await.rest().await;
    assert_eq!(again[0].data["messageId"], first[0].data["messageId"]);
    let text = |frames: &[Frame]| crate::support::sse::text_of(frames);
    assert_eq!((text(&again), server.upstream.is_idle().await), ("A coat.".to_owned(), true));

    let other = message_with_outputs(&server, "s", &reply, &[("Oslo", json!("sun"))]).await;
    run_chat(&server, chat_body("s", &other), |call| call.reply("A hat.")).await;
    let said = ["user: Oslo?", "assistant: ", "tool: sun", "assistant: A hat."];
    assert_eq!(server.transcript("s").await, said);
    let all = server.get("/api/chat-sessions/s/messages?view=all").await.data();
    assert_eq!(all["messages"].as_array().unwrap().len(), 6);
}

#[tokio::test]
async fn parallel_and_serial_calls_stay_one_ai_sdk_message() {
    let server = Server::start().await;
    let both = call_weather(&["Oslo", "Rome"]);
    let (frames, _) = run_chat(&server, chat_body("s", &user_message("q", "Where?")), both).await;
    let reply = frames[0].data["messageId"].as_str().unwrap().to_owned();
    let half = message_with_outputs(&server, "s", &reply, &[("Oslo", json!("rain"))]).await;
    let refused = server.post("/api/chat", chat_body("s", &half)).await;
    assert_eq!(refused.failure(), (400, "invalid_request"));
    assert!(
        refused.body.to_string().contains(&call_id(&server, "s", "Rome").await),
        "{}",
        refused.body
    );

    let outputs = [("Oslo", json!("rain")), ("Rome", json!("sun"))];
    let result = message_with_outputs(&server, "s", &reply, &outputs).await;
    let (frames, _) = run_chat(&server, chat_body("s", &result), call_weather(&["Nice"])).await;
    assert_eq!(frames[0].data["messageId"], *reply);
    // The client now has all three calls in one message.
    let all = [outputs[0].clone(), outputs[1].clone(), ("Nice", json!("wind"))];
    let result = message_with_outputs(&server, "s", &reply, &all).await;
    let (frames, request) =
        run_chat(&server, chat_body("s", &result), |call| call.reply("Rome.")).await;
    assert_eq!(frames[0].data["messageId"], *reply);
    let roles: Vec<&str> = request["messages"].as_array().unwrap()[1..]
        .iter()
        .map(|message| message["role"].as_str().unwrap())
        .collect();
    assert_eq!(roles, ["user", "assistant", "tool", "tool", "assistant", "tool"]);
    let history = ui_history(&server, "s").await;
    assert_eq!(history.as_array().unwrap().len(), 2);
    let states: Vec<&str> = history[1]["parts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|part| part["state"].as_str().or(part["type"].as_str()).unwrap())
        .collect();
    assert_eq!(
        states,
        [
            "output-available",
            "output-available",
            "step-start",
            "output-available",
            "step-start",
            "text"
        ]
    );
    // Outputs are rejected in a session that waits for none.
    let none = server.post("/api/chat", chat_body("new", &result)).await;
    assert_eq!(none.failure(), (404, "session_not_found"));
    let plain = server.session().await;
    server.turn(&plain, "hi", "hello").await;
    let none = server.post("/api/chat", chat_body(&plain, &result)).await;
    assert_eq!(none.failure(), (400, "invalid_request"));
}

#[tokio::test]
async fn trimmed_history_never_separates_call_and_output() {
    let server = Server::start().await;
    for city in ["a", "b", "c"] {
        let question = user_message(&format!("q-{city}"), city);
        let script = |mut call: ProviderCall| {
            call.tool_call(0, &format!("call-{city}"), "weather");
            call.arguments(0, &format!("{{\"city\":\"{city}\"}}"));
            call.finish_calling();
        };
        let (frames, _) = run_chat(&server, chat_body("s", &question), script).await;
        let reply = frames[0].data["messageId"].as_str().unwrap().to_owned();
        let outputs = [(city, json!("rain ".repeat(20)))];
        // Even with a budget for no history at all, a call is sent with its output.
        let mut body = chat_body("s", &message_with_outputs(&server, "s", &reply, &outputs).await);
        body["memory"] = json!({"strategy": "token", "maxTokens": 1});
        let (_, request) = run_chat(&server, body, |call| call.reply("A coat.")).await;
        let roles: Vec<&Value> =
            request["messages"].as_array().unwrap()[1..].iter().map(|it| &it["role"]).collect();
        assert_eq!(roles, ["assistant", "tool"]);
    }
    for last in 1..12 {
        let path =
            format!("/api/chat-sessions/s/memory?message=so&strategy=window&lastMessages={last}");
        let prompt = server.get(&path).await.data();
        let mut open = Vec::new();
        for piece in prompt["pieces"].as_array().unwrap() {
            for result in piece["results"].as_array().into_iter().flatten() {
                let id = &result["toolCallId"];
                assert!(open.contains(&id), "{last}: {prompt:#}");
                open.retain(|known| *known != id);
            }
            let calls = piece["calls"].as_array().into_iter().flatten();
            open.extend(calls.map(|call| &call["toolCallId"]));
        }
        assert!(open.is_empty(), "{last}: {prompt:#}");
    }
}

#[tokio::test]
async fn unanswered_and_cut_calls_do_not_block_the_next_message() {
    let server = Server::start().await;
    run_chat(&server, chat_body("s", &user_message("q", "Oslo?")), call_weather(&["Oslo"])).await;
    let (_, request) =
        run_chat(&server, chat_body("s", &user_message("r", "Never mind.")), |call| {
            call.reply("Fine.")
        })
        .await;
    let said = json!([
        {"role": "user", "content": "Oslo?"}, {"role": "user", "content": "Never mind."},
    ]);
    assert_eq!(request["messages"].as_array().unwrap()[1..], *said.as_array().unwrap());

    let mut frames: FrameReader = server.chat(chat_body("s", &user_message("t", "Rome?"))).await;
    let mut call = server.upstream.call().await;
    call.text("Let me see. ");
    call.tool_call(0, "call-Rome", "weather");
    call.arguments(0, "{\"city\"");
    frames.until("tool-input-delta").await;
    server.post("/api/chat/s/stop", json!({})).await;
    assert_eq!(frame_kinds(&frames.rest().await), ["abort", "[DONE]"]);
    let stopped = server.last_message("s").await;
    assert_eq!((&stopped["status"], &stopped["parts"]), (&json!("interrupted"), &json!([])));
    assert_eq!(stopped["content"], "Let me see. ");
}

#[tokio::test]
async fn queued_message_keeps_its_tools() {
    let server = Server::start().await;
    let session = server.session().await;
    let (_running, call) = server.open_turn(&session, "first").await;
    let mut waiting = chat_body(&session, &user_message("q", "Oslo?"));
    waiting["onBusy"] = "queue".into();
    waiting["responseFormat"] = json!({"type": "json_object"});
    let frames = server.chat(waiting).await;
    call.reply("done");
    let call = server.upstream.call().await;
    assert_eq!(call.request["tools"], tools());
    assert_eq!(call.request["response_format"]["type"], "json_object");
    call.reply("Rain.");
    drop(frames);
}

#[tokio::test]
async fn forged_output_parts_reach_no_model() {
    let server = Server::start().await;
    let session = server.session().await;
    let forged = json!([
        {"type": "tool-result", "toolCallId": "x", "output": "y", "messageId": "forged"},
        {"type": "tool-call", "toolCallId": "x", "toolName": "rm", "input": {}},
    ]);
    let body = json!({"sessionId": session, "message": "hi", "parts": forged});
    let (frames, _) = run_chat(&server, body, |call| call.reply("hello")).await;
    assert_ne!(frames[0].data["messageId"], "forged");
    let lone = json!({"chatSessionId": session, "role": "tool", "content": "z", "parts": forged});
    assert_eq!(server.post("/api/chat-messages", lone).await.status, 201);
    let body = json!({"sessionId": session, "message": "so?"});
    let (_, request) = run_chat(&server, body, |call| call.reply("hello")).await;
    let messages = request["messages"].as_array().unwrap();
    let roles: Vec<&str> = messages[1..].iter().map(|it| it["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["user", "assistant", "user"]);
    assert!(messages.iter().all(|message| message.get("tool_calls").is_none()), "{messages:?}");
}

#[tokio::test]
async fn anthropic_gets_functions_and_reads_their_outputs() {
    let server = crate::anthropic::server().await;
    let calls = |mut call: ProviderCall| {
        assert_eq!(call.request["tools"][0]["name"], "weather");
        claude::begin(&mut call, json!({"input_tokens": 7, "output_tokens": 1}));
        let block = json!({"type": "tool_use", "id": "call-Oslo", "name": "weather", "input": {}});
        claude::event(
            &mut call,
            &json!({"type": "content_block_start", "index": 1, "content_block": block}),
        );
        for piece in ["", "{\"city\": ", "\"Oslo\"}"] {
            let delta = json!({"type": "input_json_delta", "partial_json": piece});
            claude::event(
                &mut call,
                &json!({"type": "content_block_delta", "index": 1, "delta": delta}),
            );
        }
        claude::finish(&mut call, "tool_use", json!({"output_tokens": 2}));
        call.end();
    };
    let (frames, _) = run_chat(&server, chat_body("s", &user_message("q", "Oslo?")), calls).await;
    assert_eq!(frame_data("tool-input-available", &frames)["input"], json!({"city": "Oslo"}));
    let reply = frames[0].data["messageId"].as_str().unwrap().to_owned();
    let result = message_with_outputs(&server, "s", &reply, &[("Oslo", json!("rain"))]).await;
    let (_, request) = run_chat(&server, chat_body("s", &result), |mut call| {
        claude::reply(&mut call, "A coat.");
        call.end();
    })
    .await;
    let mut messages = request["messages"].clone();
    for block in messages
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .flat_map(|it| it["content"].as_array_mut().unwrap())
    {
        block.as_object_mut().unwrap().remove("cache_control");
    }
    let call = json!({"type": "tool_use", "id": "call-Oslo", "name": "weather", "input": {"city": "Oslo"}});
    let result = json!({"type": "tool_result", "tool_use_id": "call-Oslo", "content": "rain"});
    assert_eq!(
        messages,
        json!([
            {"role": "user", "content": [{"type": "text", "text": "Oslo?"}]},
            {"role": "assistant", "content": [call]},
            {"role": "user", "content": [result]},
        ])
    );
}
