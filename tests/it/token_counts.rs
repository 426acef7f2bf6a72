//! Token counts, corrected by the usage that providers report, and the windows that prompts must
//! fit.

use crate::support::Server;
use serde_json::{Value, json};

/// Ratio of reported to counted tokens.
const TIMES: f64 = 1.5;

/// A session larger than every window of these tests.
async fn long_session(server: &Server) -> String {
    let session = server.session().await;
    let message = |number: usize| {
        let content = format!("message number {number} of a long past, which goes on for a while");
        json!({"role": if number.is_multiple_of(2) { "user" } else { "assistant" }, "content": content})
    };
    let messages: Vec<Value> = (0..400).map(message).collect();
    let file = json!({"sessions": [{"sessionId": session, "messages": messages}]});
    server.post("/api/import", file).await.data();
    session
}

async fn preview(server: &Server, session: &str) -> Value {
    let path = format!("/api/chat-sessions/{session}/memory?message=next&strategy=buffer");
    server.get(&path).await.data()
}

/// The prompt's tokens as counted: 4 around each message, 3 before the reply.
fn counted(preview: &Value) -> u64 {
    let pieces = preview["pieces"].as_array().unwrap();
    3 + pieces.iter().map(|piece| piece["tokens"].as_u64().unwrap() + 4).sum::<u64>()
}

/// Runs a turn with these images, whose provider reports `times` the counted tokens.
async fn turn(server: &Server, session: &str, pictures: &[Value], times: f64) {
    let shown = preview(server, session).await;
    let body = json!({"sessionId": session, "message": "next", "parts": pictures,
        "memory": {"strategy": "buffer"}});
    let mut frames = server.chat(body).await;
    let mut call = server.upstream.call().await;
    call.text("ok");
    let reported = (counted(&shown) as f64 * times) as u64;
    call.finish(json!({"prompt_tokens": reported, "completion_tokens": 1}));
    frames.until("[DONE]").await;
}

#[tokio::test]
async fn reported_usage_corrects_counts_and_prompts_fit() {
    let mut server = Server::with(&["--context-window=3000"]).await;
    let session = long_session(&server).await;
    let before = preview(&server, &session).await;
    assert_eq!(before["tokenCorrection"], Value::Null);
    assert_eq!(before["promptTokens"], counted(&before));
    for _ in 0..3 {
        assert_eq!(preview(&server, &session).await["tokenCorrection"], Value::Null);
        turn(&server, &session, &[], TIMES).await;
    }
    let after = preview(&server, &session).await;
    assert_eq!(after["tokenCorrection"], TIMES);
    let own = (counted(&after) as f64 * TIMES).ceil() as u64;
    let all = own + after["replyReserve"].as_u64().unwrap();
    assert_eq!(after["promptTokens"], own);
    // A full window drops about half of its messages at once.
    assert!(all <= 3000 && all > 1500, "it fits by what it will really count: {all}");
    assert!(counted(&after) < counted(&before));

    // Similar reports and outliers keep the ratio, and with it the beginning of the prompt.
    for times in [1.47, 4.0, 0.0, 1.49] {
        turn(&server, &session, &[], times).await;
        assert_eq!(preview(&server, &session).await["tokenCorrection"], TIMES);
    }
    // A message that fits by our count but not by the model's.
    let body = json!({"sessionId": session, "message": "word ".repeat(2000)});
    let refused = server.post("/api/chat", body).await;
    assert_eq!(refused.failure(), (422, "context_too_long"));
    assert!(refused.body["error"]["details"]["messageTokens"].as_u64().unwrap() >= 3000);

    server.restart().await;
    assert_eq!(preview(&server, &session).await["tokenCorrection"], Value::Null);
}

#[tokio::test]
async fn openai_models_are_counted_exactly_despite_reports() {
    let server = Server::with(&["--context-window=3000", "--model=gpt-4o"]).await;
    let session = long_session(&server).await;
    for _ in 0..4 {
        turn(&server, &session, &[], TIMES).await;
    }
    let shown = preview(&server, &session).await;
    assert_eq!(
        (&shown["tokenCorrection"], &shown["promptTokens"]),
        (&Value::Null, &json!(counted(&shown)))
    );
}

#[tokio::test]
async fn image_prompts_and_fallback_models_correct_no_counts() {
    let flags = ["--context-window=30000", "--fallback-models=second"];
    let server = Server::with(&flags).await;
    let session = long_session(&server).await;
    let cat = json!({"type": "image", "url": "https://e.com/cat.png"});
    for _ in 0..3 {
        turn(&server, &session, std::slice::from_ref(&cat), TIMES).await;
    }
    assert_eq!(preview(&server, &session).await["tokenCorrection"], Value::Null);

    let session = long_session(&server).await;
    for _ in 0..3 {
        // The buffer strategy writes no summaries, so every provider call is a turn.
        let body =
            json!({"sessionId": session, "message": "next", "memory": {"strategy": "buffer"}});
        let mut frames = server.chat(body).await;
        server.upstream.call().await.refuse(404, json!({"error": {"message": "no such model"}}));
        let mut call = server.upstream.call().await;
        call.text("ok");
        call.finish(json!({"prompt_tokens": 9000, "completion_tokens": 1}));
        frames.until("[DONE]").await;
    }
    assert_eq!(preview(&server, &session).await["tokenCorrection"], Value::Null);
}

#[tokio::test]
async fn operator_sets_context_windows_per_model_and_default() {
    let server = Server::with(&["--context-windows=gated-1=32k,llama3.2=4096"]).await;
    let window = async |server: &Server, model: &str| {
        let session = server.session().await;
        let path = format!("/api/chat-sessions/{session}");
        server.patch(&path, json!({"settings": {"model": model}})).await.data();
        preview(server, &session).await["contextWindow"].as_u64().unwrap()
    };
    for (model, tokens) in [
        ("gated-1", 32_000),
        ("llama3.2:3b", 4096),
        ("meta/llama3.2", 4096),
        ("llama3.1", 131_072),
        ("gpt-4o", 128_000),
        ("nobody-knows", 128_000),
    ] {
        assert_eq!(window(&server, model).await, tokens, "{model}");
    }
    let listed = server.get("/api/models").await.data();
    assert_eq!(listed["models"][0]["contextWindow"], 32_000);
    assert_eq!(listed["models"][1]["contextWindow"], 128_000);

    let server = Server::with(&["--context-window=9000", "--context-windows=gpt-4o=20000"]).await;
    assert_eq!(window(&server, "gpt-4o").await, 20_000);
    assert_eq!(window(&server, "gpt-4").await, 9000);
    assert_eq!(server.get("/api/models").await.data()["models"][0]["contextWindow"], 9000);
}
