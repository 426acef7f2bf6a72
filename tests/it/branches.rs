//! Branches over HTTP: edits, regenerated replies, switching between them, and forks. The model
//! always reads the path that is shown.

use crate::support::Server;
use crate::support::sse::text_of;
use serde_json::{Value, json};

async fn history(server: &Server, session: &str, query: &str) -> Vec<Value> {
    let path = format!("/api/chat-sessions/{session}/messages{query}");
    server.get(&path).await.data()["messages"].as_array().unwrap().clone()
}

/// The id of the message with this content.
async fn id_of(server: &Server, session: &str, content: &str) -> String {
    let all = history(server, session, "?view=all").await;
    let found = all.iter().find(|message| message["content"] == content).unwrap();
    found["id"].as_str().unwrap().to_owned()
}

/// The history part of the next turn's prompt.
async fn prompt_history(server: &Server, session: &str) -> Vec<String> {
    let shown = server.get(&format!("/api/chat-sessions/{session}/memory")).await.data();
    let pieces = shown["pieces"].as_array().unwrap().clone();
    let line = |piece: &Value| {
        format!("{}: {}", piece["role"].as_str().unwrap(), piece["text"].as_str().unwrap())
    };
    pieces.iter().filter(|piece| piece["kind"] == "recent").map(line).collect()
}

async fn switch_to(server: &Server, session: &str, message: &str) -> Value {
    let path = format!("/api/chat-sessions/{session}/head");
    server.put(&path, json!({"messageId": message})).await.data()
}

#[tokio::test]
async fn switching_versions_switches_what_the_model_reads() {
    let server = Server::start().await;
    let session = server.session().await;
    server.turn(&session, "a poem", "Roses").await;
    server.turn(&session, "longer", "Roses are red").await;
    // Editing the first message creates a second root.
    let first = id_of(&server, &session, "a poem").await;
    let body = json!({"sessionId": session, "message": "a limerick", "parentId": null});
    let mut frames = server.chat(body).await;
    server.upstream.call().await.reply("There once was");
    frames.until("[DONE]").await;
    let edited = ["user: a limerick", "assistant: There once was"];
    assert_eq!(server.transcript(&session).await, edited);
    let shown = history(&server, &session, "").await;
    let siblings = json!([first, shown[0]["id"]]);
    assert_eq!(shown[0]["siblingIds"], siblings);

    let back = switch_to(&server, &session, &first).await;
    let older = ["user: a poem", "assistant: Roses", "user: longer", "assistant: Roses are red"];
    assert_eq!(server.transcript(&session).await, older);
    assert_eq!(prompt_history(&server, &session).await, older);
    assert_eq!(back["headId"], id_of(&server, &session, "Roses are red").await.as_str());
    assert_eq!(
        (&back["messagesCount"], &back["lastMessage"]),
        (&json!(6), &json!("There once was"))
    );
    let prompt = server.turn(&session, "thanks", "Welcome").await;
    assert_eq!(prompt[1..5], older);

    let forth = switch_to(&server, &session, siblings[1].as_str().unwrap()).await;
    assert_eq!(server.transcript(&session).await, edited);
    assert_eq!(forth["version"], back["version"], "a switch is no change of the session's fields");
    assert_eq!(prompt_history(&server, &session).await, edited);
    assert_eq!(history(&server, &session, "?view=all").await.len(), 8);
    let ui = history(&server, &session, "?format=ui").await;
    assert_eq!(
        ui.iter().map(|message| &message["id"]).collect::<Vec<_>>(),
        [&siblings[1], &forth["headId"]]
    );
}

#[tokio::test]
async fn use_chat_edits_and_regenerations_are_switchable_branches() {
    let server = Server::start().await;
    let ask = |text: &str| {
        let parts = json!([{"type": "text", "text": text}]);
        json!({"id": "chat-1", "messages": [{"id": "u1", "role": "user", "parts": parts}]})
    };
    for (body, reply) in [
        (ask("colour?"), "red"),
        (json!({"id": "chat-1", "messages": [], "trigger": "regenerate-message"}), "green"),
        (ask("color?"), "blue"),
    ] {
        let mut frames = server.chat(body).await;
        server.upstream.call().await.reply(reply);
        frames.until("[DONE]").await;
    }
    assert_eq!(server.transcript("chat-1").await, ["user: color?", "assistant: blue"]);
    for (named, path) in [
        ("red", ["user: colour?", "assistant: red"]),
        ("colour?", ["user: colour?", "assistant: green"]),
        ("color?", ["user: color?", "assistant: blue"]),
    ] {
        let id = id_of(&server, "chat-1", named).await;
        switch_to(&server, "chat-1", &id).await;
        assert_eq!(server.transcript("chat-1").await, path);
        assert_eq!(prompt_history(&server, "chat-1").await, path);
    }
    // A client message id works in place of the id; it refers to the newest message that carries
    // it.
    switch_to(&server, "chat-1", "u1").await;
    assert_eq!(server.transcript("chat-1").await, ["user: color?", "assistant: blue"]);
}

#[tokio::test]
async fn fork_is_an_independent_session() {
    let server = Server::start().await;
    let session = server.session().await;
    server.turn(&session, "my name is Ada", "Hello Ada").await;
    server.turn(&session, "and I am 36", "Noted").await;
    let greeting = id_of(&server, &session, "Hello Ada").await;
    let path = format!("/api/chat-sessions/{session}/fork");
    let forked = server.post(&path, json!({"messageId": greeting})).await;
    assert_eq!((forked.status, forked.header("etag")), (201, "\"1\""));
    let forked = forked.data();
    let fork = forked["sessionId"].as_str().unwrap();
    assert_eq!(forked["title"], "my name is Ada");
    assert_eq!((&forked["messagesCount"], &forked["headId"]), (&json!(2), &json!(greeting)));
    let prompt = server.turn(fork, "how old am I?", "I do not know").await;
    assert_eq!(prompt[1..3], ["user: my name is Ada", "assistant: Hello Ada"]);
    assert_eq!(server.transcript(&session).await.len(), 4, "the first session has none of it");
    assert_eq!(server.get("/api/chat-sessions").await.data()["pagination"]["total"], 2);
}

#[tokio::test]
async fn running_reply_blocks_a_head_switch_but_not_a_fork() {
    let server = Server::start().await;
    let session = server.session().await;
    server.turn(&session, "one", "1").await;
    let first = id_of(&server, &session, "one").await;
    let (mut frames, call) = server.open_turn(&session, "two").await;
    let (head, fork) = (
        format!("/api/chat-sessions/{session}/head"),
        format!("/api/chat-sessions/{session}/fork"),
    );
    let refused = server.put(&head, json!({"messageId": first})).await;
    assert_eq!(refused.failure(), (409, "session_busy"));
    assert_eq!(refused.header("x-should-retry"), "false");
    assert!(refused.body["error"]["details"]["turnId"].is_string());
    let two = id_of(&server, &session, "two").await;
    let forked = server.post(&fork, json!({"messageId": two})).await.data();
    assert_eq!((&forked["messagesCount"], &forked["activeTurn"]), (&json!(3), &Value::Null));
    call.reply("2");
    assert_eq!(text_of(&frames.rest().await), "2");
    assert_eq!(server.put(&head, json!({"messageId": first})).await.status, 200);
}

#[tokio::test]
async fn unknown_message_is_rejected_by_head_and_fork() {
    let server = Server::start().await;
    let (session, other) = (server.session().await, server.session().await);
    server.turn(&session, "one", "1").await;
    server.turn(&other, "elsewhere", "2").await;
    let elsewhere = id_of(&server, &other, "elsewhere").await;
    let before = server.get(&format!("/api/chat-sessions/{session}")).await.body;
    for (body, failure) in [
        (json!({"messageId": elsewhere}), (404, "message_not_found")),
        (json!({"messageId": "nobody"}), (404, "message_not_found")),
        (json!({"messageId": ""}), (400, "invalid_request")),
        (json!({"messageId": "a b"}), (400, "invalid_request")),
        (json!({"messageId": null}), (400, "invalid_request")),
        (json!({"messageId": 7}), (400, "invalid_request")),
        (json!({}), (400, "invalid_request")),
    ] {
        let head = server.put(&format!("/api/chat-sessions/{session}/head"), body.clone()).await;
        assert_eq!(head.failure(), failure, "{body}");
        let fork = server.post(&format!("/api/chat-sessions/{session}/fork"), body.clone()).await;
        assert_eq!(fork.failure(), failure, "{body}");
        let under = json!({"chatSessionId": session, "role": "user", "content": "x",
            "parentId": body["messageId"]});
        if failure.0 == 404 {
            assert_eq!(server.post("/api/chat-messages", under).await.failure(), failure);
        }
    }
    let lost = server.put("/api/chat-sessions/nowhere/head", json!({"messageId": "m"})).await;
    assert_eq!(lost.failure(), (404, "session_not_found"));
    let lost = server.post("/api/chat-sessions/nowhere/fork", json!({"messageId": "m"})).await;
    assert_eq!(lost.failure(), (404, "session_not_found"));
    assert_eq!(server.get(&format!("/api/chat-sessions/{session}")).await.body, before);
    assert_eq!(server.get("/api/chat-sessions").await.data()["pagination"]["total"], 2);
}
