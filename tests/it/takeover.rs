//! The support desk over HTTP, from a visitor's first question to the closed session.

use crate::support::Server;
use crate::support::process::run;
use serde_json::{Value, json};
use std::collections::HashMap;

#[tokio::test]
async fn visitor_is_handed_to_an_agent_and_back() {
    let server = Server::start().await;
    let new = json!({"sessionId": "desk-1", "userMeta": "{\"browser\":\"Firefox\"}",
        "theme": {"colour": "#0a7"}});
    let opened = server.post("/api/chat-sessions", new).await.data();
    assert_eq!((&opened["status"], &opened["lastSeen"]), (&json!("active"), &Value::Null));
    assert_eq!(opened["userMeta"], json!({"browser": "Firefox"}));
    assert_eq!(opened["startTime"], opened["createdAt"]);
    let path = "/api/chat-sessions/desk-1";

    // An agent takes over in the middle of the model's answer.
    let (mut frames, mut call) = server.open_turn("desk-1", "My printer is on fire").await;
    call.text("Have you tried ");
    frames.until("text-delta").await;
    // The delta is published, so the partial answer counts as the second message.
    let handed = server.patch(path, json!({"status": "agent_assigned"})).await.data();
    assert_eq!((&handed["activeTurn"], &handed["messagesCount"]), (&Value::Null, &json!(2)));
    frames.until("abort").await;
    call.disconnected().await;

    // The visitor's next message is stored for the agent.
    let frames = server.chat(json!({"sessionId": "desk-1", "message": "Help!"})).await.rest().await;
    let kinds: Vec<_> = frames.iter().map(|frame| frame.kind()).collect();
    assert_eq!(kinds, ["data-session", "finish", "[DONE]"]);
    let asked = frames[0].data["data"]["userMessageId"].clone();
    let waiting = server.get("/api/chat-sessions?status=agent_assigned").await.data();
    let found = &waiting["sessions"][0];
    assert_eq!((&found["sessionId"], &found["lastMessage"]), (&json!("desk-1"), &json!("Help!")));
    assert!(found["lastSeen"].is_string());
    let variables = HashMap::from([("DATABASE_URL", server.database_url())]);
    let arguments = ["sessions", "--status=agent_assigned", "--search=printer"];
    let (code, table, _) = run(server.folder.path(), &variables, &arguments).await;
    assert!(code == 0 && table.contains("desk-1") && table.contains("just now"), "{table}");

    let mark = server.post(&format!("{path}/seen"), json!({"upTo": asked})).await.data();
    assert_eq!(mark["upTo"], asked);
    let answer =
        json!({"chatSessionId": "desk-1", "role": "assistant", "content": "Pull the plug."});
    let answered = server.post("/api/chat-messages", answer).await.data();
    assert_eq!(answered["message"]["parentId"], asked);
    assert!(server.upstream.is_idle().await, "the model was not asked");

    // Closed, the session rejects messages; reopened, the model continues with the whole history.
    server.patch(path, json!({"status": "closed"})).await.data();
    let refused = server.post("/api/chat", json!({"sessionId": "desk-1", "message": "Thanks"}));
    assert_eq!(refused.await.failure(), (409, "session_closed"));
    let note = json!({"chatSessionId": "desk-1", "role": "user", "content": "Thanks"});
    assert_eq!(server.post("/api/chat-messages", note).await.failure(), (409, "session_closed"));
    server.patch(path, json!({"status": "active"})).await.data();
    let prompt = server.turn("desk-1", "And now?", "Call the fire brigade.").await;
    assert_eq!(
        prompt[1..],
        [
            "user: My printer is on fire",
            "assistant: Have you tried ",
            "user: Help!",
            "assistant: Pull the plug.",
            "user: And now?"
        ]
    );
}

#[tokio::test]
async fn invalid_participants_are_rejected_and_nothing_created() {
    let server = Server::start().await;
    let session = server.session().await;
    let path = format!("/api/chat-sessions/{session}");
    let before = server.get(&path).await.body;
    for participants in [
        json!([""]),
        json!([" "]),
        json!(["a\nb"]),
        json!(["x".repeat(257)]),
        json!([7]),
        json!([null]),
        json!("ada"),
        json!({"ada": true}),
        json!(vec!["x"; 100]),
    ] {
        let body = json!({"participants": participants});
        for reply in [
            server.post("/api/chat-sessions", body.clone()).await,
            server.patch(&path, body.clone()).await,
        ] {
            assert_eq!(reply.failure(), (400, "invalid_request"), "{body}");
            let details = reply.body["error"]["details"].to_string();
            assert!(details.contains("participants"), "{details}");
        }
    }
    assert_eq!(server.get(&path).await.body, before);
    assert_eq!(server.get("/api/chat-sessions").await.data()["pagination"]["total"], 1);
}
