//! Clients of `/v1/responses` that send items again that the server knows already.

use crate::provider_data::signed_call;
use crate::support::Server;
use crate::v1_responses::{ROUTE, create_response, error, post_answered, response_id};
use serde_json::{Value, json};

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

fn without_ids(items: &Value) -> Vec<Value> {
    let without_id = |item: &Value| {
        let mut item = item.clone();
        item.as_object_mut().unwrap().remove("id");
        item
    };
    items.as_array().unwrap().iter().map(without_id).collect()
}

fn weather_tools() -> Value {
    json!([{"type": "function", "name": "weather", "parameters": {"type": "object"}}])
}

/// The messages sent to the model, without the system prompt.
async fn sent_after(server: &Server, body: Value) -> Vec<String> {
    let mut sent = Vec::new();
    post_answered(server, body, |call| {
        sent = call.prompt()[1..].to_vec();
        call.reply("three");
    })
    .await;
    sent
}

#[tokio::test]
async fn history_sent_again_adds_only_the_new_items() {
    let server = Server::start().await;
    let first = create_response(&server, json!({"input": [user("hello")]}), "one").await;
    let after_first = json!({"input": "hello", "previous_response_id": response_id(&first)});
    let second = create_response(&server, after_first, "two").await;
    let (one, two) = (&first["output"][0], &second["output"][0]);
    let (bare_one, bare_two) =
        (&without_ids(&first["output"])[0], &without_ids(&second["output"])[0]);
    let reference = |item: &Value| json!({"type": "item_reference", "id": item["id"]});
    let question = format!("{ROUTE}/{}/input_items", response_id(&second));
    let question = server.get(&question).await.body["data"][0].clone();
    let expected = ["user: hello", "assistant: one", "user: hello", "assistant: two", "user: more"];
    for repeated in [
        json!([]),
        json!([user("hello"), one, user("hello"), two]),
        json!([user("hello"), bare_one, user("hello"), bare_two]),
        json!([user("hello"), {"role": "assistant", "content": "one"}, user("hello"), {"role": "assistant", "content": "two"}]),
        // The end of the history, or items here and there.
        json!([user("hello"), bare_two]),
        json!([user("hello"), two]),
        json!([one, two]),
        json!([reference(one), reference(two)]),
        json!([reference(&question)]),
        json!([question, {"type": "reasoning", "id": "rs_x", "summary": []}, two]),
    ] {
        for stores in [true, false] {
            let mut input = repeated.as_array().unwrap().clone();
            input.push(user("more"));
            let body = json!({"input": input, "store": stores, "previous_response_id": response_id(&second)});
            assert_eq!(sent_after(&server, body).await, expected, "{repeated}");
        }
    }
}

#[tokio::test]
async fn new_messages_like_old_ones_are_kept() {
    let server = Server::start().await;
    let first = create_response(&server, json!({"input": "hello"}), "one").await;
    for (input, added) in [
        (json!([user("hello")]), vec!["user: hello"]),
        (json!([user("hello"), user("hello")]), vec!["user: hello", "user: hello"]),
        (
            json!([{"role": "assistant", "content": "other"}, user("more")]),
            vec!["assistant: other", "user: more"],
        ),
    ] {
        let body = json!({"input": input, "previous_response_id": response_id(&first)});
        let sent = sent_after(&server, body).await;
        assert_eq!(sent[2..], added, "{input}");
    }
    let all_known = json!([user("hello"), first["output"][0]]);
    let body = json!({"input": all_known, "previous_response_id": response_id(&first)});
    let refused = server.post(ROUTE, body).await;
    assert_eq!((refused.status, error(&refused).3), (400, &json!("input")));
}

#[tokio::test]
async fn calls_sent_again_are_not_repeated() {
    let server = Server::start().await;
    // The items before the output.
    for repeated in [vec![], vec!["call"], vec!["bare"], vec!["question"], vec!["question", "bare"]]
    {
        let body = json!({"input": "Oslo?", "tools": weather_tools()});
        let first = post_answered(&server, body, signed_call).await.body;
        let call = &first["output"].as_array().unwrap().last().unwrap().clone();
        let output =
            json!({"type": "function_call_output", "call_id": call["call_id"], "output": "rain"});
        let bare = without_ids(&json!([call]))[0].clone();
        let mut input: Vec<Value> = repeated
            .iter()
            .map(|name| match *name {
                "call" => call.clone(),
                "bare" => bare.clone(),
                _ => user("Oslo?"),
            })
            .collect();
        input.push(output.clone());
        let body = json!({
            "input": input, "tools": weather_tools(), "previous_response_id": response_id(&first),
        });
        let mut roles: Vec<String> = Vec::new();
        let second = post_answered(&server, body, |call| {
            let messages = call.request["messages"].as_array().unwrap();
            roles = messages[1..].iter().map(|it| it["role"].as_str().unwrap().into()).collect();
            call.reply("Rain.");
        });
        let second = second.await.body;
        assert_eq!(roles, ["user", "assistant", "tool"], "{repeated:?}");
        // The next step repeats everything.
        let input = json!([user("Oslo?"), bare, output, second["output"][0], user("more")]);
        let body = json!({"input": input, "previous_response_id": response_id(&second)});
        post_answered(&server, body, |call| {
            let messages = call.request["messages"].as_array().unwrap();
            let roles: Vec<&Value> = messages[1..].iter().map(|it| &it["role"]).collect();
            assert_eq!(roles, ["user", "assistant", "tool", "assistant", "user"]);
            call.reply("Done.");
        })
        .await;
    }
}

#[tokio::test]
async fn call_in_a_full_history_gets_its_signature_back() {
    let server = Server::start().await;
    let body = json!({"input": "Oslo?", "tools": weather_tools()});
    let first = post_answered(&server, body, signed_call).await.body;
    let call = &first["output"].as_array().unwrap().last().unwrap().clone();
    let output =
        json!({"type": "function_call_output", "call_id": call["call_id"], "output": "rain"});
    let mut changed = call.clone();
    changed["arguments"] = json!("{\"city\": \"Rome\"}");
    let mut spaced = call.clone();
    spaced["arguments"] = json!("{ \"city\": \"Oslo\" }");
    for (call, is_own) in [(call, true), (&spaced, true), (&changed, false)] {
        for stores in [true, false] {
            let body = json!({
                "input": [user("Oslo?"), call, output], "tools": weather_tools(), "store": stores,
            });
            post_answered(&server, body, |second| {
                let sent = &second.request["messages"];
                let calling = sent.as_array().unwrap().iter().find(|it| it["role"] == "assistant");
                let signature = calling.unwrap()["tool_calls"][0].get("extra_content");
                let own = json!({"google": {"thought_signature": "c2ln+/=="}});
                assert_eq!(signature, is_own.then_some(&own), "{sent}");
                second.reply("Rain.");
            })
            .await;
        }
    }
}

#[tokio::test]
async fn new_calls_and_outputs_under_known_ids_are_kept() {
    let server = Server::start().await;
    let call = |city: &str| {
        let arguments = format!(r#"{{"city":"{city}"}}"#);
        json!({"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": arguments})
    };
    let output =
        |text: &str| json!({"type": "function_call_output", "call_id": "call_1", "output": text});
    let first = json!({"input": [user("Oslo?"), call("Oslo"), output("rain")]});
    let first = create_response(&server, first, "Rain.").await;
    for (input, added) in [
        (json!([call("Oslo"), output("rain"), user("go on")]), 1),
        (json!([call("Oslo"), output("snow"), user("go on")]), 3),
        (json!([call("Rome"), output("rain"), user("go on")]), 3),
        (json!([call("Oslo"), output("rain"), call("Rome"), output("sun"), user("go on")]), 3),
    ] {
        let body = json!({"input": input, "previous_response_id": response_id(&first)});
        let sent = sent_after(&server, body).await;
        assert_eq!(sent.len(), 4 + added, "{input}: {sent:?}");
    }
}

#[tokio::test]
async fn messages_repeated_after_an_empty_reply_are_kept() {
    let server = Server::start().await;
    let first = create_response(&server, json!({"input": "hello"}), "one").await;
    let again = json!({"input": "continue", "previous_response_id": response_id(&first)});
    let failed = post_answered(&server, again, |call| call.reply("")).await.body;
    let input = json!([user("continue"), user("and be brief")]);
    let body = json!({"input": input, "previous_response_id": response_id(&failed)});
    let sent = sent_after(&server, body).await;
    assert_eq!(sent.last().unwrap(), "user: and be brief");
    let repeated = sent.iter().filter(|message| message.ends_with("continue")).count();
    assert_eq!(repeated, 2, "{sent:?}");
}
