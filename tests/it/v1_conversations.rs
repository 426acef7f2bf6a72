//! `/v1/conversations`: sessions in OpenAI's format.

use crate::support::Server;
use crate::support::server::{ApiResponse, fetch};
use reqwest::Method;
use serde_json::{Value, json};

const ROUTE: &str = "/v1/conversations";

/// Status, code and parameter of an error in OpenAI's format.
#[track_caller]
fn error(reply: &ApiResponse) -> (u16, Value, Value) {
    let error = &reply.body["error"];
    assert_eq!(error["type"], "invalid_request_error", "{}", reply.body);
    (reply.status, error["code"].clone(), error["param"].clone())
}

fn item_texts(list: &Value) -> Vec<String> {
    let line = |item: &Value| {
        let text = item["content"][0]["text"].as_str().unwrap();
        format!("{} {text}", item["role"].as_str().unwrap())
    };
    list["data"].as_array().unwrap().iter().map(line).collect()
}

fn message(role: &str, text: &str) -> Value {
    json!({"role": role, "content": text})
}

#[tokio::test]
async fn conversation_is_a_session_and_vice_versa() {
    let server = Server::start().await;
    let items = json!([message("user", "I am Ada."), message("assistant", "Hello.")]);
    let made = server.post(ROUTE, json!({"metadata": {"topic": "x"}, "items": items})).await.body;
    let id = made["id"].as_str().unwrap();
    let session = id.strip_prefix("conv_").unwrap();
    assert_eq!(
        (&made["object"], &made["metadata"]),
        (&json!("conversation"), &json!({"topic": "x"}))
    );
    assert_eq!(server.transcript(session).await, ["user: I am Ada.", "assistant: Hello."]);
    let listed = server.get("/api/chat-sessions").await.data();
    assert_eq!(listed["sessions"][0]["sessionId"], session);
    assert_eq!(listed["sessions"][0]["title"], "I am Ada.");

    server.turn(session, "Who am I?", "Ada.").await;
    let list = server.get(&format!("{ROUTE}/{id}/items")).await.body;
    assert_eq!(
        item_texts(&list),
        ["assistant Ada.", "user Who am I?", "assistant Hello.", "user I am Ada."]
    );
    let newest = &list["data"][0];
    assert_eq!(
        newest["content"],
        json!([{"type": "output_text", "text": "Ada.", "annotations": [], "logprobs": []}])
    );
    assert_eq!((&newest["type"], &newest["status"]), (&json!("message"), &json!("completed")));
    let one = server.get(&format!("{ROUTE}/{id}/items/{}", newest["id"].as_str().unwrap())).await;
    assert_eq!(&one.body, newest);

    let deleted = server.delete(&format!("{ROUTE}/{id}")).await.body;
    assert_eq!(deleted, json!({"id": id, "object": "conversation.deleted", "deleted": true}));
    assert_eq!(server.get(&format!("/api/chat-sessions/{session}")).await.status, 404);
}

#[tokio::test]
async fn metadata_is_replaced_and_other_session_meta_kept() {
    let server = Server::start().await;
    let meta = json!({"meta": {"a": "1", "nested": {"b": 2}}, "sessionId": "s"});
    server.post("/api/chat-sessions", meta).await.data();
    assert_eq!(server.get(&format!("{ROUTE}/conv_s")).await.body["metadata"], json!({"a": "1"}));
    let changed = server.post(&format!("{ROUTE}/conv_s"), json!({"metadata": {"c": "3"}})).await;
    assert_eq!(changed.body["metadata"], json!({"c": "3"}));
    let session = server.get("/api/chat-sessions/s").await.data();
    assert_eq!(session["meta"], json!({"c": "3", "nested": {"b": 2}}));
}

#[tokio::test]
async fn items_are_paged_in_both_directions() {
    let server = Server::start().await;
    let items = |from: usize, to: usize| -> Value {
        (from..to).map(|number| message("user", &number.to_string())).collect()
    };
    let id = server.post(ROUTE, json!({"items": items(0, 20)})).await.body["id"].clone();
    let route = format!("{ROUTE}/{}/items", id.as_str().unwrap());
    let added = server.post(&route, json!({"items": items(20, 25)})).await.body;
    assert_eq!(item_texts(&added), ["user 20", "user 21", "user 22", "user 23", "user 24"]);
    for (order, expected) in [
        ("asc", (0..25).map(|number| format!("user {number}")).collect::<Vec<_>>()),
        ("desc", (0..25).rev().map(|number| format!("user {number}")).collect()),
    ] {
        let (mut all, mut after) = (Vec::new(), String::new());
        loop {
            let page = server.get(&format!("{route}?limit=7&order={order}{after}")).await.body;
            all.extend(item_texts(&page));
            after = format!("&after={}", page["last_id"].as_str().unwrap());
            if page["has_more"] == false {
                break;
            }
        }
        assert_eq!(all, expected, "{order}");
    }
}

#[tokio::test]
async fn deleted_last_item_leaves_the_path_but_keeps_its_message() {
    let server = Server::start().await;
    let items = json!({"items": [message("user", "one"), message("assistant", "two"), message("user", "three")]});
    let id = server.post(ROUTE, items).await.body["id"].as_str().unwrap().to_owned();
    let route = format!("{ROUTE}/{id}/items");
    let item = async |at: usize| {
        let listed = server.get(&format!("{route}?order=asc")).await.body;
        format!("{route}/{}", listed["data"][at]["id"].as_str().unwrap())
    };
    let (first, third) = (item(0).await, item(2).await);
    let line = error(&server.delete(&item(1).await).await);
    assert_eq!(line, (400, Value::Null, json!("item_id")), "later items depend on it");
    let left = server.delete(&third).await.body;
    assert_eq!((&left["id"], &left["object"]), (&json!(id), &json!("conversation")));
    server.post(&route, json!({"items": [message("user", "four")]})).await;
    let listed = server.get(&format!("{route}?order=asc")).await.body;
    assert_eq!(item_texts(&listed), ["user one", "assistant two", "user four"]);
    let all = format!("/api/chat-sessions/{}/messages?view=all", id.trim_start_matches("conv_"));
    assert_eq!(server.get(&all).await.data()["messages"].as_array().unwrap().len(), 4);
    assert_eq!(error(&server.delete(&third).await).0, 400, "it is no item of the path any more");

    for item in [item(2).await, item(1).await] {
        assert_eq!(server.delete(&item).await.status, 200);
    }
    assert_eq!(error(&server.delete(&first).await).2, "item_id", "it has nothing to go back to");
}

#[tokio::test]
async fn library_retry_adds_its_items_once() {
    let server = Server::start().await;
    let id = server.post(ROUTE, json!({})).await.body["id"].as_str().unwrap().to_owned();
    let add = |count: u32| {
        let items = json!({"items": [message("user", "one"), message("user", "one")]});
        let request = server.request(Method::POST, &format!("{ROUTE}/{id}/items")).json(&items);
        fetch(request.header("x-stainless-retry-count", count))
    };
    let first = add(0).await.body;
    assert_eq!(add(1).await.body, first);
    let list = server.get(&format!("{ROUTE}/{id}/items")).await.body;
    assert_eq!(item_texts(&list), ["user one", "user one"]);
}

#[tokio::test]
async fn bad_input_is_rejected_and_nothing_stored() {
    let server = Server::start().await;
    let many: Vec<_> = (0..21).map(|_| message("user", "x")).collect();
    let long = json!({"k": "v".repeat(513)});
    let pairs: Value = (0..17).map(|number| (number.to_string(), json!("v"))).collect();
    for (body, param) in [
        (json!({"items": many}), "items"),
        (json!({"items": [message("user", "ok"), message("robot", "x")]}), "items[1].role"),
        (json!({"items": [{"type": "item_reference", "id": "msg_x"}]}), "items[0]"),
        (json!({"items": ["x"]}), "items[0]"),
        (json!({"items": [{"type": "function_call", "name": "f"}]}), "items[0].call_id"),
        (json!({"items": [message("user", "ok"), message("user", "")]}), "items[1].content"),
        (
            json!({"items": [{"role": "user", "content": [{"type": "input_file"}]}]}),
            "items[0].content",
        ),
        (json!({"metadata": long}), "metadata"),
        (json!({"metadata": pairs}), "metadata"),
    ] {
        let line = error(&server.post(ROUTE, body.clone()).await);
        assert_eq!(line, (400, Value::Null, json!(param)), "{body}");
    }
    assert_eq!(server.get("/api/chat-sessions").await.data()["sessions"], json!([]));

    server.post("/api/chat-sessions", json!({"sessionId": "s"})).await.data();
    let line = error(&server.get(&format!("{ROUTE}/s")).await);
    assert_eq!(line, (400, Value::Null, json!("conversation_id")));
    let line = error(&server.get(&format!("{ROUTE}/conv_other")).await);
    assert_eq!(line, (404, json!("session_not_found"), Value::Null));
    let line = error(&server.post(&format!("{ROUTE}/conv_s"), json!({})).await);
    assert_eq!(line, (400, Value::Null, json!("metadata")));
    let line = error(&server.get(&format!("{ROUTE}/conv_s/items?limit=101")).await);
    assert_eq!(line.2, "limit");
    let line = error(&server.get(&format!("{ROUTE}/conv_s/items?after=x")).await);
    assert_eq!(line.2, "after");
    let line = error(&server.get(&format!("{ROUTE}/conv_s/items/msg_x")).await);
    assert_eq!(line.0, 404);

    let (_frames, _call) = server.open_turn("s", "hi").await;
    let items = json!({"items": [message("user", "and?")]});
    let line = error(&server.post(&format!("{ROUTE}/conv_s/items"), items).await);
    assert_eq!(line, (400, json!("conversation_locked"), json!("conversation")));
}
