//! Nodes and read marks over HTTP, in their documented format.

use crate::support::Server;
use serde_json::{Value, json};

async fn post(server: &Server, session: &str, body: Value) -> Value {
    let mut message = json!({"chatSessionId": session, "role": "user", "content": "hi"});
    for (field, value) in body.as_object().unwrap() {
        message[field] = value.clone();
    }
    server.post("/api/chat-messages", message).await.data()["message"].clone()
}

#[tokio::test]
async fn nodes_are_read_singly_or_all_together() {
    let server = Server::start().await;
    let session = server.session().await;
    let path = format!("/api/chat-sessions/{session}/nodes");
    assert_eq!(server.get(&path).await.data(), json!({"nodes": [], "nextCursor": null}));
    let time = "2024-04-22T15:20:00.900Z";
    let one = post(&server, &session, json!({"createdAt": time})).await;
    let two = post(
        &server,
        &session,
        json!({"type": "image", "content": "", "parts": [{"type": "image", "url": "https://e.com/x.png"}]}),
    )
    .await;
    let large = post(&server, &session, json!({"content": "x".repeat(130 * 1024)})).await;
    let first = server.get(&format!("{path}/chat_{session}_1")).await.data();
    assert_eq!(first["chatId"], format!("chat_{session}_1"));
    assert_eq!(first["createdAt"], 1_713_799_200);
    assert_eq!(
        first["messages"][0],
        json!({"_id": one["id"], "senderId": "local", "text": "hi",
        "timestamp": 1_713_799_200, "type": "text", "seen": false})
    );
    let picture = &first["messages"][1];
    assert_eq!((&picture["_id"], &picture["type"]), (&two["id"], &json!("image")));
    let second = server.get(&format!("{path}/chat_{session}_2")).await.data();
    assert_eq!(second["messages"][0]["_id"], large["id"]);
    let all = server.get(&path).await.data();
    assert_eq!(all, json!({"nodes": [first, second], "nextCursor": null}));
    let page = server.get(&format!("{path}?limit=1")).await.data();
    assert_eq!(page, json!({"nodes": [first], "nextCursor": format!("chat_{session}_2")}));
    let cursor = page["nextCursor"].as_str().unwrap();
    let page = server.get(&format!("{path}?limit=1&cursor={cursor}")).await.data();
    assert_eq!(page, json!({"nodes": [second], "nextCursor": null}));
}

#[tokio::test]
async fn unknown_node_is_not_found() {
    let server = Server::start().await;
    let (session, other) = (server.session().await, server.session().await);
    post(&server, &session, json!({})).await;
    post(&server, &other, json!({})).await;
    let path = format!("/api/chat-sessions/{session}/nodes");
    for name in [
        format!("chat_{session}_2"),
        format!("chat_{session}_0"),
        format!("chat_{session}_01"),
        format!("chat_{other}_1"),
        "1".to_owned(),
        "%20".to_owned(),
        "caf%C3%A9".to_owned(),
    ] {
        let reply = server.get(&format!("{path}/{name}")).await;
        assert_eq!(reply.failure(), (404, "node_not_found"), "{name}");
    }
    for (query, field) in [("limit=0", "limit"), ("cursor=2", "cursor"), ("page=1", "page")] {
        let refused = server.get(&format!("{path}?{query}")).await;
        assert_eq!(refused.failure(), (400, "invalid_request"));
        assert!(refused.body["error"]["details"][field].is_string(), "{}", refused.body);
    }
    let lost = server.get("/api/chat-sessions/nowhere/nodes").await;
    assert_eq!(lost.failure(), (404, "session_not_found"));
    let lost = server.get("/api/chat-sessions/nowhere/nodes/chat_nowhere_1").await;
    assert_eq!(lost.failure(), (404, "session_not_found"));
}

#[tokio::test]
async fn reply_is_seen_once_its_reader_marks_it_read() {
    let server = Server::start().await;
    let session = server.session().await;
    server.turn(&session, "hi", "hello").await;
    let path = format!("/api/chat-sessions/{session}/seen");
    let reply = server.last_message(&session).await;
    assert_eq!(reply["seen"], false);
    let marked = server.post(&path, json!({"upTo": reply["id"]})).await.data();
    assert_eq!(marked, json!({"sessionId": session, "userId": "local", "upTo": reply["id"]}));
    let messages = format!("/api/chat-sessions/{session}/messages");
    let shown = server.get(&messages).await.data()["messages"].clone();
    assert_eq!((&shown[0]["seen"], &shown[1]["seen"]), (&json!(false), &json!(true)));
    for (body, failure) in [
        (json!({"upTo": "nobody"}), (404, "message_not_found")),
        (json!({"upTo": ""}), (400, "invalid_request")),
        (json!({"upTo": 3}), (400, "invalid_request")),
        (json!({}), (400, "invalid_request")),
    ] {
        assert_eq!(server.post(&path, body).await.failure(), failure);
    }
}
