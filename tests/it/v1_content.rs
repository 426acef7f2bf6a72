//! Message content of the `/v1` routes other than text: images and refusals.

use crate::support::server::ApiResponse;
use crate::support::upstream::sse_chunk;
use crate::support::{ProviderCall, Server};
use futures::future::join;
use serde_json::{Value, json};

/// Sends a request while the script answers.
async fn post_answered(
    server: &Server,
    route: &str,
    body: Value,
    script: impl FnOnce(ProviderCall),
) -> ApiResponse {
    let answer = async { script(server.upstream.call().await) };
    let reply = join(server.post(route, body), answer).await.0;
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply
}

/// Status, type, code and parameter of an error in OpenAI's format.
#[track_caller]
fn error(reply: &ApiResponse) -> (u16, &Value, &Value, &Value) {
    let error = &reply.body["error"];
    assert!(error["message"].as_str().is_some_and(|actual| !actual.is_empty()), "{}", reply.body);
    (reply.status, &error["type"], &error["code"], &error["param"])
}

#[tokio::test]
async fn unreachable_image_is_rejected_and_nothing_stored() {
    let server = Server::start().await;
    let refused = async |route: &str, body: Value, param: &str| {
        let reply = server.post(route, body.clone()).await;
        let wanted = (400, &json!("invalid_request_error"), &Value::Null, &json!(param));
        assert_eq!(error(&reply), wanted, "{body}");
    };
    for picture in [
        json!({"type": "input_image", "file_id": "file-abc"}),
        json!({"type": "input_image"}),
        json!({"type": "input_image", "image_url": 5}),
        json!({"type": "input_image", "image_url": "ftp://e.com/a.png"}),
        json!({"type": "input_image", "image_url": "iVBORw0KGgo="}),
    ] {
        let content = json!([{"type": "input_text", "text": "What is it?"}, picture]);
        let input = json!([{"role": "user", "content": content}]);
        refused("/v1/responses", json!({"input": input}), "input[0].content[1].image_url").await;
    }
    for url in [json!({"url": "file-1"}), json!({}), json!({"url": "data:text/html,x"})] {
        let picture = json!({"type": "image_url", "image_url": url});
        let content = json!([{"type": "text", "text": "What is it?"}, picture]);
        let body = json!({"session_id": "s", "messages": [{"role": "user", "content": content}]});
        refused("/v1/chat/completions", body, "messages[0].content[1].image_url").await;
    }
    assert_eq!(server.get("/api/chat-sessions").await.data()["sessions"], json!([]));
    assert!(server.upstream.is_idle().await);
}

#[tokio::test]
async fn refusal_becomes_the_reply_and_can_be_sent_back() {
    let server = Server::start().await;
    let refuse = |mut call: ProviderCall| {
        for piece in ["I can't ", "help with that."] {
            call.raw(sse_chunk(&json!({"choices": [{"index": 0, "delta": {"refusal": piece}}]})));
        }
        call.finish(json!({"prompt_tokens": 7, "completion_tokens": 2}));
    };
    let body = json!({"session_id": "s", "messages": [{"role": "user", "content": "How?"}]});
    let actual = post_answered(&server, "/v1/chat/completions", body, refuse).await.body;
    assert_eq!(actual["choices"][0]["message"]["content"], "I can't help with that.");
    assert_eq!(server.transcript("s").await, ["user: How?", "assistant: I can't help with that."]);

    let refusal = json!([{"type": "refusal", "refusal": "I can't."}]);
    let input = json!([{"role": "user", "content": "How?"},
        {"role": "assistant", "content": refusal}, {"role": "user", "content": "Why?"}]);
    post_answered(&server, "/v1/responses", json!({"input": input}), |call| {
        assert_eq!(call.prompt()[1..], ["user: How?", "assistant: I can't.", "user: Why?"]);
        call.reply("Because.");
    })
    .await;
}

#[tokio::test]
async fn non_utf8_path_gets_an_openai_error() {
    let server = Server::start().await;
    for path in ["responses/%F0%9F", "conversations/%FF/items", "models/%C3%28"] {
        let reply = server.get(&format!("/v1/{path}")).await;
        let wanted = (400, &json!("invalid_request_error"), &Value::Null, &json!("path"));
        assert_eq!(error(&reply), wanted, "{path}");
    }
    // A complete emoji is a valid id, of a model that does not exist.
    assert_eq!(server.get("/v1/models/%F0%9F%98%80").await.status, 404);
}
