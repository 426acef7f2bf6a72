//! What messages below `/v1` hold beside plain text: pictures, and what a model will not say.

use crate::support::Server;
use crate::support::server::Reply;
use serde_json::{Value, json};

/// Status, type, code and parameter of an error in OpenAI's shape.
#[track_caller]
fn error(reply: &Reply) -> (u16, &Value, &Value, &Value) {
    let error = &reply.body["error"];
    assert!(error["message"].as_str().is_some_and(|told| !told.is_empty()), "{}", reply.body);
    (reply.status, &error["type"], &error["code"], &error["param"])
}

#[tokio::test]
async fn a_picture_that_no_model_can_reach_is_refused_and_nothing_is_stored() {
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
