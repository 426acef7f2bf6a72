//! Memory: the part of a session that goes into the prompt.

use crate::support::Server;
use serde_json::{Value, json};

async fn import_messages(server: &Server, session: &str, count: usize) {
    let message = |number: usize| {
        let role = if number.is_multiple_of(2) { "user" } else { "assistant" };
        json!({"role": role, "content": format!("message number {number} of the past")})
    };
    let messages: Vec<Value> = (0..count).map(message).collect();
    let file = json!({"sessions": [{"sessionId": session, "messages": messages}]});
    assert_eq!(server.post("/api/import", file).await.data()["sessions"][0]["messages"], count);
}

async fn preview(server: &Server, session: &str, query: &str) -> Value {
    server.get(&format!("/api/chat-sessions/{session}/memory{query}")).await.data()
}

#[tokio::test]
async fn preview_is_exactly_what_the_next_turn_sends() {
    let server = Server::start().await;
    let session = server.session().await;
    import_messages(&server, &session, 6).await;
    let shown = preview(&server, &session, "?message=and%20now%3F").await;
    let prompt: Vec<String> = shown["pieces"]
        .as_array()
        .unwrap()
        .iter()
        .map(|piece| {
            format!("{}: {}", piece["role"].as_str().unwrap(), piece["text"].as_str().unwrap())
        })
        .collect();
    assert_eq!(server.turn(&session, "and now?", "ok").await, prompt);
}

#[tokio::test]
async fn short_session_prompt_matches_the_snapshot() {
    let server = Server::start().await;
    let session = server.session().await;
    import_messages(&server, &session, 3).await;
    let mut shown = preview(&server, &session, "?message=and%20now%3F").await;
    for piece in shown["pieces"].as_array_mut().unwrap() {
        let count = piece["messageIds"].as_array().unwrap().len();
        piece["messageIds"] = json!(count);
    }
    insta::assert_json_snapshot!(shown);
}

#[tokio::test]
async fn each_strategy_selects_its_messages() {
    let server = Server::start().await;
    let session = server.session().await;
    import_messages(&server, &session, 60).await;
    let recent = async |query: &str| {
        let shown = preview(&server, &session, query).await;
        let pieces = shown["pieces"].as_array().unwrap().clone();
        pieces.iter().filter(|piece| piece["kind"] == "recent").count()
    };
    assert_eq!(recent("?strategy=buffer").await, 60);
    assert_eq!(recent("?strategy=window").await, 20);
    assert_eq!(recent("?strategy=window&lastMessages=7").await, 7);
    // A message costs 7 tokens plus 4 of overhead. With a budget of 110 tokens, the path is cut
    // every 55.
    assert_eq!(recent("?strategy=token&maxTokens=110").await, 10);
    assert_eq!(recent("?strategy=token&maxTokens=109").await, 6);
    assert_eq!(recent("?strategy=recall&maxTokens=220&recallTokens=110").await, 10);
    assert_eq!(recent("?strategy=buffer&maxTokens=665").await, 60);
    assert_eq!(recent("?strategy=window&lastMessages=7&maxTokens=30").await, 2);
    assert_eq!(recent("?strategy=buffer&maxTokens=0").await, 0);
    let shown = preview(&server, &session, "?strategy=window&lastMessages=2").await;
    let last: Vec<_> = shown["pieces"]
        .as_array()
        .unwrap()
        .iter()
        .skip(1)
        .map(|piece| piece["text"].clone())
        .collect();
    assert_eq!(last, ["message number 58 of the past", "message number 59 of the past"]);
}

#[tokio::test]
async fn prompt_fits_the_window_and_has_the_newest_message() {
    let server = Server::with(&["--context-window=400"]).await;
    let session = server.session().await;
    import_messages(&server, &session, 200).await;
    for strategy in ["buffer", "window", "token", "auto", "summary", "recall"] {
        let query =
            format!("?strategy={strategy}&lastMessages=1000&maxTokens=100000&message=the%20newest");
        let shown = preview(&server, &session, &query).await;
        let total =
            shown["promptTokens"].as_u64().unwrap() + shown["replyReserve"].as_u64().unwrap();
        assert!(total <= 400 && total > 215, "{strategy}: {total}");
        assert_eq!(shown["pieces"].as_array().unwrap().last().unwrap()["text"], "the newest");
    }
}

#[tokio::test]
async fn models_with_other_tokenizers_are_counted_by_them() {
    let server = Server::with(&["--memory-tokens=100"]).await;
    let session = server.session().await;
    let greek = json!([{"role": "user", "content": "Καλημέρα, τι κάνεις σήμερα;"}, {"role": "assistant", "content": "Όλα καλά!"}]);
    server
        .post("/api/import", json!({"sessions": [{"sessionId": session, "messages": greek}]}))
        .await
        .data();
    let tokens = async |model: &str| {
        server
            .patch(&format!("/api/chat-sessions/{session}"), json!({"settings": {"model": model}}))
            .await
            .data();
        let shown = preview(&server, &session, "").await;
        (shown["pieces"][1]["tokens"].as_u64().unwrap(), shown["contextWindow"].as_u64().unwrap())
    };
    let (new, old) = (tokens("gpt-4o").await, tokens("gpt-4").await);
    assert!(old.0 > new.0, "cl100k_base spends more on Greek: {old:?} {new:?}");
    assert_eq!((new.1, old.1), (128_000, 8192));
}

#[tokio::test]
async fn memory_follows_the_active_path() {
    let server = Server::start().await;
    let session = server.session().await;
    server.turn(&session, "first", "one").await;
    let body = json!({"sessionId": session, "message": "instead", "parentId": null});
    let mut frames = server.chat(body).await;
    let call = server.upstream.call().await;
    assert_eq!(call.prompt()[1..], ["user: instead"]);
    call.reply("two");
    frames.until("[DONE]").await;
    let shown = preview(&server, &session, "").await;
    let texts: Vec<_> = shown["pieces"]
        .as_array()
        .unwrap()
        .iter()
        .skip(1)
        .map(|piece| piece["text"].clone())
        .collect();
    assert_eq!(texts, ["instead", "two"]);
}
