//! Function calls of the `/v1` routes, and their form in the other dialects.

use crate::support::{ProviderCall, Server, within_deadline};
use crate::tools::{
    call_id, call_weather, chat_body, message_with_outputs, run_chat, tools, ui_history,
    user_message,
};
use futures::future::join;
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn chat_completions_calls_are_visible_in_other_dialects() {
    let server = Server::start().await;
    let ask = async |messages: Value, script: Box<dyn FnOnce(ProviderCall)>| {
        let body =
            json!({"session_id": "s", "messages": messages, "tools": tools(), "stream": true});
        let asking = async {
            let request = server.request(Method::POST, "/v1/chat/completions").json(&body);
            within_deadline(within_deadline(request.send()).await.unwrap().text()).await.unwrap()
        };
        let answering = async { script(server.upstream.call().await) };
        let (text, ()) = join(asking, answering).await;
        let chunks: Vec<Value> = text
            .split("\n\n")
            .filter_map(|event| serde_json::from_str(event.strip_prefix("data: ")?).ok())
            .collect();
        chunks.iter().map(|chunk| chunk["choices"][0].clone()).collect::<Vec<_>>()
    };
    let question = json!({"role": "user", "content": "Where?"});
    let both = Box::new(call_weather(&["Oslo", "Rome"]));
    let choices = ask(json!([question]), both).await;
    let calls: Vec<&Value> =
        choices.iter().flat_map(|it| it["delta"]["tool_calls"].as_array()).flatten().collect();
    let function = json!({"name": "weather", "arguments": ""});
    let (oslo, rome) = (call_id(&server, "s", "Oslo").await, call_id(&server, "s", "Rome").await);
    assert_eq!(
        *calls[0],
        json!({"index": 0, "id": oslo, "type": "function", "function": function})
    );
    assert_eq!(
        *calls[1],
        json!({"index": 1, "id": rome, "type": "function", "function": function})
    );
    let arguments = |index| -> String {
        let own = calls[2..].iter().filter(|call| call["index"] == index);
        own.map(|call| call["function"]["arguments"].as_str().unwrap()).collect()
    };
    let wanted = ["Oslo", "Rome"].map(|city| format!("{{\"city\": \"{city}\"}}"));
    assert_eq!([arguments(0), arguments(1)], wanted);
    assert_eq!(choices.last().unwrap()["finish_reason"], "tool_calls");

    let called = json!({"role": "assistant", "content": null, "tool_calls": []});
    let result = |call: &str, text| json!({"role": "tool", "tool_call_id": call, "content": text});
    let messages = json!([question, called, result(&oslo, "rain"), result(&rome, "sun")]);
    let choices = ask(messages, Box::new(|call| call.reply("Rome."))).await;
    assert_eq!(choices[1]["delta"]["content"], "Rome.");
    let said = ["user: Where?", "assistant: ", "tool: rain\nsun", "assistant: Rome."];
    assert_eq!(server.transcript("s").await, said);
    let history = ui_history(&server, "s").await;
    assert_eq!(history[1]["parts"][1]["output"], "sun");
}

#[tokio::test]
async fn call_without_arguments_has_an_empty_object_everywhere() {
    let server = Server::start().await;
    let body = json!({"session_id": "s", "messages": [{"role": "user", "content": "now?"}], "tools": tools()});
    let asking = server.post("/v1/chat/completions", body);
    let answering = async {
        let mut call = server.upstream.call().await;
        call.tool_call(0, "call-1", "weather");
        call.finish_calling();
    };
    let (reply, ()) = join(asking, answering).await;
    let call = &reply.body["choices"][0]["message"]["tool_calls"][0];
    assert_eq!(call["function"]["arguments"], "{}");
    let stored = server.last_message("s").await;
    assert_eq!(stored["parts"][0]["input"], json!({}));
}

#[tokio::test]
async fn images_are_ai_sdk_files_however_they_arrived() {
    let server = Server::start().await;
    let content = json!([
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
    ]);
    let body = json!({"session_id": "s", "messages": [{"role": "user", "content": content}]});
    let answering = async { server.upstream.call().await.reply("seen") };
    join(server.post("/v1/chat/completions", body), answering).await;
    let history = ui_history(&server, "s").await;
    let file =
        json!({"type": "file", "mediaType": "image/png", "url": "data:image/png;base64,AA=="});
    assert_eq!(history[0]["parts"], json!([{"type": "text", "text": "look"}, file]));
}

#[tokio::test]
async fn calls_and_outputs_are_conversation_items() {
    let server = Server::start().await;
    let both = call_weather(&["Oslo", "Rome"]);
    let (frames, _) = run_chat(&server, chat_body("s", &user_message("q", "Where?")), both).await;
    let reply = frames[0].data["messageId"].as_str().unwrap().to_owned();
    let result = message_with_outputs(
        &server,
        "s",
        &reply,
        &[("Oslo", json!("rain")), ("Rome", json!("sun"))],
    )
    .await;
    run_chat(&server, chat_body("s", &result), |call| call.reply("Rome.")).await;
    let route = "/v1/conversations/conv_s/items";
    let all = server.get(&format!("{route}?order=asc")).await.body["data"].take();
    let all = all.as_array().unwrap();
    let kinds: Vec<&str> = all.iter().map(|item| item["type"].as_str().unwrap()).collect();
    let (call, output) = ("function_call", "function_call_output");
    assert_eq!(kinds, ["message", call, call, output, output, "message"]);
    assert_eq!(
        all[2],
        json!({
            "id": format!("fc_2_{reply}"), "type": "function_call", "status": "completed",
            "call_id": call_id(&server, "s", "Rome").await, "name": "weather", "arguments": "{\"city\": \"Rome\"}",
        })
    );
    let oslo = json!(call_id(&server, "s", "Oslo").await);
    assert_eq!((&all[3]["call_id"], &all[3]["output"]), (&oslo, &json!("rain")));
    // Read one by one, in both directions, it is the same list.
    for order in ["asc", "desc"] {
        let (mut paged, mut after) = (Vec::new(), String::new());
        for _ in 0..all.len() {
            let page = server.get(&format!("{route}?order={order}&limit=1{after}")).await.body;
            let item = page["data"][0].clone();
            after = format!("&after={}", item["id"].as_str().unwrap());
            assert_eq!(
                server.get(&format!("{route}/{}", item["id"].as_str().unwrap())).await.body,
                item
            );
            paged.push(item);
            assert_eq!(page["has_more"], json!(paged.len() < all.len()), "{order} {}", paged.len());
        }
        if order == "desc" {
            paged.reverse();
        }
        assert_eq!(&paged, all, "{order}");
    }
    // Calls and outputs can be copied into a new conversation, which continues from them.
    let copied = json!({"items": all[..5].iter().cloned().map(|mut item| {
        item.as_object_mut().unwrap().remove("id");
        item
    }).collect::<Vec<_>>()});
    let made = server.post("/v1/conversations", copied).await.body;
    let session = made["id"].as_str().unwrap().strip_prefix("conv_").unwrap().to_owned();
    let (_, request) = run_chat(&server, chat_body(&session, &user_message("r", "So?")), |call| {
        call.reply("Rome.")
    })
    .await;
    let messages = request["messages"].as_array().unwrap();
    let roles: Vec<&str> = messages[1..].iter().map(|it| it["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["user", "assistant", "tool", "tool", "user"]);
}
