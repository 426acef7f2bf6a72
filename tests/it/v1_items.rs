//! Items in the input of `/v1/responses`, from libraries that repeat earlier items.

use crate::support::Server;
use crate::tools::{call_id, call_weather};
use crate::v1_responses::{ROUTE, create_response, error, post_answered, response_id};
use echoic::domain::key::AuthScope;
use futures::future::join;
use serde_json::{Value, json};

const REFUSED: &str = "invalid_request_error";

#[tokio::test]
async fn item_references_resolve_to_items_of_any_response() {
    let server = Server::start().await;
    let first = create_response(&server, json!({"input": "My name is Ada."}), "Hello Ada.").await;
    let said = first["output"][0]["id"].clone();
    let input = json!([
        {"role": "user", "content": "My name is Ada."},
        {"type": "item_reference", "id": "rs_whatever"},
        {"type": "item_reference", "id": said},
        {"id": format!("{}_1", said.as_str().unwrap())},
        {"role": "user", "content": "Who am I?"},
    ]);
    let second = post_answered(&server, json!({"input": input}), |call| {
        let prompt = ["user: My name is Ada.", "assistant: Hello Ada.", "user: Who am I?"];
        assert_eq!(call.prompt()[1..], prompt);
        call.reply("Ada.");
    });
    assert_ne!(response_id(&second.await.body), response_id(&first));

    let keys = Server::with(&["--auth=keys"]).await;
    let (ann, ben) =
        (keys.key("ann", AuthScope::Chat).await, keys.key("ben", AuthScope::Chat).await);
    let answer = async { keys.upstream.call().await.reply("Secret.") };
    let (first, ()) = join(keys.with_key(&ann).post(ROUTE, json!({"input": "x"})), answer).await;
    let stolen = json!({"type": "item_reference", "id": first.body["output"][0]["id"]});
    let body = json!({"input": [stolen, {"role": "user", "content": "Repeat that."}]});
    let reply = keys.with_key(&ben).post(ROUTE, body).await;
    assert_eq!(error(&reply).0, 404);
}

#[tokio::test]
async fn question_repeated_with_outputs_is_stored_once() {
    let server = Server::start().await;
    let conversation = server.post("/v1/conversations", json!({})).await.body["id"].clone();
    let session = conversation.as_str().unwrap().trim_start_matches("conv_").to_owned();
    let tool = json!({"type": "function", "name": "weather", "parameters": {"type": "object"}});
    let question = json!({"role": "user", "content": "Where is it warmer?"});
    let output = async |city: &str, said: &str| {
        let call = call_id(&server, &session, city).await;
        json!({"type": "function_call_output", "call_id": call, "output": said})
    };
    let body =
        |input: Value| json!({"conversation": conversation, "tools": [tool], "input": input});
    post_answered(&server, body(json!([question])), call_weather(&["Oslo"])).await;
    let oslo = output("Oslo", "3 degrees").await;
    post_answered(&server, body(json!([question, oslo])), call_weather(&["Rome"])).await;
    let rome = output("Rome", "20 degrees").await;
    post_answered(&server, body(json!([question, oslo, rome])), |call| call.reply("In Rome."))
        .await;
    let said = server.transcript(&session).await;
    assert_eq!(
        said,
        [
            "user: Where is it warmer?",
            "assistant: ",
            "tool: 3 degrees",
            "assistant: ",
            "tool: 20 degrees",
            "assistant: In Rome."
        ]
    );

    // A new question along with the output of a call.
    post_answered(&server, body(json!("And then?")), call_weather(&["Nice"])).await;
    let more = json!([output("Nice", "5 degrees").await, {"role": "user", "content": "In Celsius, please."}]);
    post_answered(&server, body(more), |call| call.reply("Five.")).await;
    // After an output, a question with the same text as before is a new message.
    post_answered(&server, body(json!("Go on.")), call_weather(&["Rome"])).await;
    let more = json!([output("Rome", "21 degrees").await, {"role": "user", "content": "Go on."}]);
    post_answered(&server, body(more), |call| call.reply("That is all.")).await;
    let said = server.transcript(&session).await;
    let last = ["tool: 21 degrees", "user: Go on.", "assistant: That is all."];
    assert_eq!(said[said.len() - 3..], last);
    assert_eq!(said[8..11], ["tool: 5 degrees", "user: In Celsius, please.", "assistant: Five."]);
}

#[tokio::test]
async fn late_output_hides_no_later_message() {
    let server = Server::start().await;
    let conversation = server.post("/v1/conversations", json!({})).await.body["id"].clone();
    let tool = json!({"type": "function", "name": "weather", "parameters": {"type": "object"}});
    let body =
        |input: Value| json!({"conversation": conversation, "tools": [tool], "input": input});
    post_answered(&server, body(json!("one")), call_weather(&["Oslo"])).await;
    create_response(&server, body(json!("other")), "z").await;
    let session = conversation.as_str().unwrap().trim_start_matches("conv_").to_owned();
    let call = call_id(&server, &session, "Oslo").await;
    let late = json!([{"type": "function_call_output", "call_id": call, "output": "rain"}]);
    let reply = server.post(ROUTE, body(late)).await;
    assert_eq!(error(&reply), (400, REFUSED, &Value::Null, &json!("input")));
    assert_eq!(server.transcript(&session).await.last().unwrap(), "assistant: z");
}
