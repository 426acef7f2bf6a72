//! Titles written by a model.

use crate::support::{ProviderCall, Server, within_deadline};
use serde_json::{Value, json};

/// The two calls of a session's first turn: for the reply and for the title, which arrive in any
/// order.
async fn reply_and_title_calls(server: &Server) -> (ProviderCall, ProviderCall) {
    let (one, two) = (server.upstream.call().await, server.upstream.call().await);
    if one.prompt()[0].starts_with("system") { (one, two) } else { (two, one) }
}

#[tokio::test]
async fn title_ready_in_time_arrives_with_the_reply() {
    let server = Server::with(&["--titles=model", "--small-model=tiny"]).await;
    let session = server.session().await;
    let mut frames =
        server.chat(json!({"sessionId": session, "message": "How do event loops work?"})).await;
    let (mut reply, title) = reply_and_title_calls(&server).await;
    reply.text("They ");
    frames.until("text-delta").await;
    assert_eq!(title.request["model"], "tiny");
    assert!(title.prompt()[0].contains("How do event loops work?"));
    title.reply("<think>short!</think>\n\"Event loops\"");
    let frame = frames.until("data-title").await;
    assert_eq!(
        frame.data,
        json!({"type": "data-title", "data": {"title": "Event loops"}, "transient": true})
    );
    // The reply ends only after the title frame, so the title must arrive in the middle of it.
    reply.reply("wait.");
    frames.until("finish").await;
    let named = server.get(&format!("/api/chat-sessions/{session}")).await.data();
    assert_eq!((&named["title"], &named["titleSource"]), (&json!("Event loops"), &json!("model")));
    server.turn(&session, "And threads?", "Also.").await;
    assert!(server.upstream.is_idle().await, "a session is named once");
}

#[tokio::test]
async fn title_arriving_mid_reply_drops_no_delta() {
    let server = Server::with(&["--titles=model"]).await;
    for round in 0..20 {
        let session = server.session().await;
        let mut frames = server.chat(json!({"sessionId": session, "message": "count"})).await;
        let (mut reply, title) = reply_and_title_calls(&server).await;
        reply.text("0 ");
        frames.until("text-delta").await;
        title.reply("Counting");
        for word in 1..50 {
            reply.text(&format!("{word} "));
        }
        reply.reply("end");
        let whole = (0..50).map(|word| format!("{word} ")).collect::<String>() + "end";
        frames.until("finish").await;
        let stored = server.last_message(&session).await;
        assert_eq!(stored["content"], whole, "round {round}");
    }
}

#[tokio::test]
async fn users_own_title_is_never_overwritten() {
    let server = Server::with(&["--titles=model"]).await;
    let session = server.session().await;
    let mut frames = server.chat(json!({"sessionId": session, "message": "hello"})).await;
    let (reply, title) = reply_and_title_calls(&server).await;
    let path = format!("/api/chat-sessions/{session}");
    server.put(&format!("{path}/title"), json!({"title": "Mine"})).await.data();
    // The user's title is stored before the model's arrives.
    title.reply("Theirs");
    reply.reply("hi");
    let kinds: Vec<_> = frames.rest().await.iter().map(|frame| frame.kind().to_owned()).collect();
    assert!(!kinds.contains(&"data-title".to_owned()), "{kinds:?}");
    assert_eq!(server.get(&path).await.data()["title"], "Mine");
}

#[tokio::test]
async fn failed_title_leaves_the_first_line() {
    let server = Server::with(&["--titles=model"]).await;
    for failure in ["refused", "nothing"] {
        let session = server.session().await;
        let mut frames = server.chat(json!({"sessionId": session, "message": "hello there"})).await;
        let (reply, title) = reply_and_title_calls(&server).await;
        match failure {
            "refused" => title.refuse(400, json!({"error": {"message": "no"}})),
            _ => title.reply("<think>hm"),
        }
        reply.reply("hi");
        frames.until("[DONE]").await;
        let named = server.get(&format!("/api/chat-sessions/{session}")).await.data();
        assert_eq!(
            (&named["title"], &named["titleSource"]),
            (&json!("hello there"), &json!("auto")),
            "{failure}"
        );
    }
}

#[tokio::test]
async fn title_may_arrive_after_the_reply() {
    let server = Server::with(&["--titles=model"]).await;
    let session = server.session().await;
    let mut frames = server.chat(json!({"sessionId": session, "message": "hello"})).await;
    let (reply, title) = reply_and_title_calls(&server).await;
    reply.reply("hi");
    frames.until("[DONE]").await;
    // The stream is over, so the title can only be seen in the session.
    title.reply("Greetings");
    within_deadline(async {
        while server.get(&format!("/api/chat-sessions/{session}")).await.data()["title"]
            != "Greetings"
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn no_title_model_is_called_by_default() {
    let server = Server::start().await;
    let session = server.session().await;
    server.turn(&session, "hello", "hi").await;
    let named = server.get(&format!("/api/chat-sessions/{session}")).await.data();
    assert_eq!(
        (&named["titleSource"], server.upstream.is_idle().await),
        (&Value::from("auto"), true)
    );
}
