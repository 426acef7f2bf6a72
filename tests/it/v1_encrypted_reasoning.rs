//! `reasoning.encrypted_content`: clients of `/v1/responses` that keep the state themselves.

use crate::provider_data::signed_call;
use crate::support::{ProviderCall, Server};
use crate::v1_responses::{ROUTE, error, post_answered, response_id};
use serde_json::{Value, json};

const INCLUDE: &str = "reasoning.encrypted_content";

fn weather_tools() -> Value {
    json!([{"type": "function", "name": "weather", "parameters": {"type": "object"}}])
}

fn request(input: Value, stores: bool) -> Value {
    json!({"input": input, "store": stores, "include": [INCLUDE], "tools": weather_tools()})
}

fn signature_of(request: &Value) -> Option<Value> {
    let messages = request["messages"].as_array().unwrap();
    let calling = messages.iter().find(|it| it["role"] == "assistant").unwrap();
    calling["tool_calls"][0].get("extra_content").cloned()
}

/// The question, the output of the response without our ids, and the output of its call.
fn next_input(output: &Value) -> Value {
    let mut input = vec![json!({"role": "user", "content": "Oslo?"})];
    let mut items = output.as_array().unwrap().clone();
    items.iter_mut().for_each(|item| drop(item.as_object_mut().unwrap().remove("id")));
    let call = items.iter().find(|item| item["type"] == "function_call").unwrap();
    let output =
        json!({"type": "function_call_output", "call_id": call["call_id"], "output": "rain"});
    input.extend(items);
    input.push(output);
    json!(input)
}

fn bare_signed_call(mut call: ProviderCall) {
    let function = json!({"name": "weather", "arguments": "{\"city\":\"Oslo\"}"});
    let signature = json!({"google": {"thought_signature": "c2ln+/=="}});
    let signed =
        json!({"index": 0, "id": "look:0", "function": function, "extra_content": signature});
    let delta = json!({"choices": [{"index": 0, "delta": {"tool_calls": [signed]}}]});
    call.raw(crate::support::upstream::sse_chunk(&delta));
    call.finish_calling();
}

#[tokio::test]
async fn signature_travels_in_encrypted_content() {
    let server = Server::start().await;
    let scripts: [fn(ProviderCall); 2] = [signed_call, bare_signed_call];
    for script in scripts {
        for stores in [true, false] {
            let first = post_answered(&server, request(json!("Oslo?"), stores), script).await.body;
            let output = &first["output"];
            let reasoning: Vec<&Value> =
                output.as_array().unwrap().iter().filter(|it| it["type"] == "reasoning").collect();
            assert_eq!(reasoning.len(), 1, "{output}");
            let content = reasoning[0]["encrypted_content"].as_str().unwrap();
            assert!(!content.contains("look:0"), "{content}");
            if stores {
                let stored = server.get(&format!("{ROUTE}/{}", response_id(&first))).await.body;
                assert_eq!(&stored["output"], output);
            }
            let second = request(next_input(output), stores);
            post_answered(&server, second, |call| {
                let own = json!({"google": {"thought_signature": "c2ln+/=="}});
                assert_eq!(signature_of(&call.request), Some(own));
                assert!(!call.request.to_string().contains("echoic.v1"));
                call.reply("Rain.");
            })
            .await;
            let mut other = request(next_input(output), stores);
            other["model"] = "other-model".into();
            post_answered(&server, other, |call| {
                assert_eq!(signature_of(&call.request), None);
                call.reply("Rain.");
            })
            .await;
        }
    }
}

#[tokio::test]
async fn streamed_reasoning_has_the_same_encrypted_content() {
    let server = Server::start().await;
    let scripts: [fn(ProviderCall); 2] = [signed_call, bare_signed_call];
    for script in scripts {
        for stores in [true, false] {
            let mut body = request(json!("Oslo?"), stores);
            body["stream"] = true.into();
            let text = post_answered(&server, body, script).await.body;
            let events: Vec<Value> = text
                .as_str()
                .unwrap()
                .lines()
                .filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok())
                .collect();
            let done = events.iter().find(|event| {
                event["type"] == "response.output_item.done" && event["item"]["type"] == "reasoning"
            });
            let done = &done.unwrap()["item"];
            assert!(done["encrypted_content"].is_string(), "{done}");
            let last = &events.last().unwrap()["response"]["output"];
            assert!(last.as_array().unwrap().contains(done), "{last}");
            let places: Vec<&Value> = events
                .iter()
                .filter(|event| event["type"] == "response.output_item.done")
                .map(|event| &last[event["output_index"].as_u64().unwrap() as usize])
                .collect();
            assert_eq!(places.len(), last.as_array().unwrap().len());
        }
    }
}

#[tokio::test]
async fn encrypted_content_of_others_is_accepted_and_ignored() {
    let server = Server::start().await;
    for content in [json!("gAAAAABo-x"), json!("echoic.v1.%%"), json!(null), json!("")] {
        let reasoning =
            json!({"type": "reasoning", "id": "rs_x", "summary": [], "encrypted_content": content});
        let input = json!([reasoning, {"role": "user", "content": "Hi."}]);
        let reply = post_answered(&server, request(input, false), |call| {
            assert!(!call.request.to_string().contains("gAAAA"));
            call.reply("Hello.");
        });
        let output = reply.await.body["output"].clone();
        assert_eq!(output.as_array().unwrap().len(), 1, "nothing to encrypt");
    }
    let odd = json!({"type": "reasoning", "summary": [], "encrypted_content": 5});
    let refused = server.post(ROUTE, request(json!([odd]), false)).await;
    assert_eq!((refused.status, error(&refused).3), (400, &json!("input[0].encrypted_content")));
    // Not asked for, not sent.
    let body = json!({"input": "Oslo?", "tools": weather_tools()});
    let reply = post_answered(&server, body, signed_call).await.body;
    assert!(!reply.to_string().contains("encrypted_content"), "{reply}");
}

#[tokio::test]
async fn encrypted_content_is_used_once_and_limited() {
    let server = Server::start().await;
    let first = post_answered(&server, request(json!("Oslo?"), false), signed_call).await.body;
    let mut input = next_input(&first["output"]);
    let list = input.as_array_mut().unwrap();
    let call = list.iter().position(|item| item["type"] == "function_call").unwrap();
    list.insert(call, list[call].clone());
    post_answered(&server, request(input, false), |call| {
        assert_eq!(call.request.to_string().matches("thought_signature").count(), 1);
        call.reply("Rain.");
    })
    .await;

    let content = format!("echoic.v1.{}", "A".repeat(1 << 20));
    let large = json!({"type": "reasoning", "summary": [], "encrypted_content": content});
    let refused = server.post(ROUTE, request(json!([large]), false)).await;
    assert_eq!(refused.status, 413);
    let message = refused.body["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("Input[0].encrypted_content"), "{message}");
}
