//! Prompt caches of providers: the cache key that is sent, and the cached tokens that are reported.

use crate::support::Server;
use serde_json::{Value, json};

/// Runs a turn and returns the cache key that the provider received.
async fn sent_cache_key(server: &Server, session: &str, model: &str) -> Value {
    let body = json!({"sessionId": session, "message": "hi", "model": model});
    let mut frames = server.chat(body).await;
    let call = server.upstream.call().await;
    let key = call.request.get("prompt_cache_key").cloned().unwrap_or_default();
    call.reply("ok");
    frames.until("[DONE]").await;
    key
}

async fn create_session(server: &Server, id: &str) -> String {
    server.post("/api/chat-sessions", json!({"sessionId": id})).await.data();
    id.to_owned()
}

#[tokio::test]
async fn session_cache_key_is_unique_stable_and_opaque() {
    let mut server = Server::with(&["--prompt-cache-key=always"]).await;
    let (ada, bob) =
        (create_session(&server, "divorce-of-ada").await, create_session(&server, "bob").await);
    let first = sent_cache_key(&server, &ada, "gated-1").await;
    let text = first.as_str().unwrap();
    assert!((16..=64).contains(&text.len()) && !text.contains("ada"), "{text}");
    assert_ne!(sent_cache_key(&server, &bob, "gated-1").await, first);
    server.restart().await;
    assert_eq!(sent_cache_key(&server, &ada, "gpt-4o").await, first);
}

#[tokio::test]
async fn cache_key_is_withheld_by_default_and_when_disabled() {
    for flags in [&[][..], &["--prompt-cache-key=never"]] {
        let server = Server::with(flags).await;
        let session = server.session().await;
        assert_eq!(sent_cache_key(&server, &session, "gated-1").await, Value::Null, "{flags:?}");
    }
}

#[tokio::test]
async fn cached_token_counts_are_stored_for_every_report_format() {
    let mut server = Server::start().await;
    let session = server.session().await;
    let reports = [
        (json!({"prompt_tokens_details": {"cached_tokens": 640}}), 640),
        (json!({"prompt_cache_hit_tokens": 320, "prompt_cache_miss_tokens": 492}), 320),
        (json!({"prompt_tokens_details": {"cached_tokens": null}}), 0),
        (json!({}), 0),
    ];
    for (cached, _) in &reports {
        let (mut frames, mut call) = server.open_turn(&session, "hi").await;
        call.text("ok");
        let mut usage = json!({"prompt_tokens": 812, "completion_tokens": 2});
        usage.as_object_mut().unwrap().extend(cached.as_object().unwrap().clone());
        call.finish(usage);
        frames.until("[DONE]").await;
    }
    server.restart().await;
    let path = format!("/api/chat-sessions/{session}/messages");
    let kept = server.get(&path).await.data()["messages"].clone();
    let replies = kept.as_array().unwrap().iter().filter(|message| message["role"] == "assistant");
    let cached: Vec<_> = replies.map(|reply| reply["usage"]["cachedTokens"].clone()).collect();
    assert_eq!(cached, reports.map(|(_, cached)| json!(cached)));
}
