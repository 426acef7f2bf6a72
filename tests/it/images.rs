//! Images: stored as sent, shown to models that accept them, within the budget.

use crate::support::Server;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

const CAT: &str = "data:image/png;base64,AAAA";

/// The header of a PNG with these dimensions; the size is read from it alone.
pub fn png(width: u32, height: u32) -> String {
    let mut head = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
    head.extend([width.to_be_bytes(), height.to_be_bytes()].concat());
    head.extend(b"\x08\x06\0\0\0");
    format!("data:image/png;base64,{}", BASE64_STANDARD.encode(head))
}

/// The messages of a provider request after the system prompt.
fn sent_history(request: &Value) -> Vec<Value> {
    request["messages"].as_array().unwrap()[1..].to_vec()
}

/// Runs a whole turn. Returns the messages that the provider received.
async fn run_turn(server: &Server, body: Value, reply: &str) -> Vec<Value> {
    let mut frames = server.chat(body).await;
    let call = server.upstream.call().await;
    let prompt = sent_history(&call.request);
    call.reply(reply);
    frames.until("[DONE]").await;
    prompt
}

fn image_message(text: &str, url: &str) -> Value {
    json!({"role": "user", "content": [
        {"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": url}}]})
}

#[tokio::test]
async fn image_is_sent_with_its_question_and_remembered() {
    let server = Server::start().await;
    let file = json!({"type": "file", "mediaType": "image/png", "url": CAT});
    let text = json!({"type": "text", "text": "What is this?"});
    let first =
        json!({"id": "chat-1", "messages": [{"id": "u1", "role": "user", "parts": [text, file]}]});
    assert_eq!(run_turn(&server, first, "A cat.").await, [image_message("What is this?", CAT)]);

    let next = json!({"sessionId": "chat-1", "message": "And this?",
        "parts": [{"type": "image_url", "image_url": {"url": "https://e.com/dog.png", "detail": "low"}},
                  {"type": "file", "mediaType": "application/pdf", "url": "https://e.com/a.pdf"}]});
    let mut dog = image_message(
        "And this?\n\n(Attached: application/pdf, which you cannot read.)",
        "https://e.com/dog.png",
    );
    dog["content"][1]["image_url"]["detail"] = json!("low");
    let cat = json!({"role": "assistant", "content": "A cat."});
    let prompt = run_turn(&server, next.clone(), "A dog.").await;
    assert_eq!(prompt, [image_message("What is this?", CAT), cat.clone(), dog.clone()]);

    // A regenerated reply gets the same image.
    let response =
        server.request(reqwest::Method::POST, "/api/chat/chat-1/regenerate").send().await.unwrap();
    let call = server.upstream.call().await;
    assert_eq!(sent_history(&call.request), [image_message("What is this?", CAT), cat, dog]);
    call.reply("A wolf.");
    assert!(response.text().await.unwrap().contains("wolf"));
    let stored = server.get("/api/chat-sessions/chat-1/messages?view=all").await.data();
    assert_eq!(stored["messages"][2]["parts"], next["parts"], "parts are kept as they came");
}

#[tokio::test]
async fn image_only_message_is_sent_to_the_model() {
    let server = Server::start().await;
    let session = server.session().await;
    let posted = json!({"chatSessionId": session, "role": "user", "type": "image", "content": "",
        "parts": [{"type": "image", "url": "https://e.com/cat.png"}]});
    let posted = server.post("/api/chat-messages", posted).await.data();
    assert_eq!(posted["message"]["type"], "image");
    assert_eq!(posted["session"]["title"], "New Chat", "it has no line that could name it");
    let only = json!({"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "https://e.com/cat.png"}}]});
    let body = json!({"sessionId": session, "message": "What did I send?"});
    let prompt = run_turn(&server, body, "A cat.").await;
    assert_eq!(prompt, [only, json!({"role": "user", "content": "What did I send?"})]);
    let shown = server.get(&format!("/api/chat-sessions/{session}/memory")).await.data();
    assert_eq!(
        (&shown["pieces"][1]["images"], &shown["pieces"][1]["text"]),
        (&json!(1), &json!(""))
    );
    assert_eq!(shown["pieces"][1]["tokens"], 6404);
    assert_eq!(shown["pieces"][2].get("images"), None);
}

#[tokio::test]
async fn text_only_models_get_text_without_images() {
    let server = Server::start().await;
    let session = server.session().await;
    for (model, sees) in [("gpt-3.5-turbo", false), ("gpt-4o", true), ("deepseek-chat", false)] {
        let body = json!({"sessionId": session, "message": "What is this?", "model": model,
            "parentId": null, "parts": [{"type": "image", "url": CAT}]});
        let blind = json!({"role": "user", "content": "What is this?"});
        let expected = if sees { image_message("What is this?", CAT) } else { blind };
        assert_eq!(run_turn(&server, body, "ok").await, [expected], "{model}");
    }
}

#[tokio::test]
async fn image_over_budget_is_dropped_and_its_text_kept() {
    let server = Server::start().await;
    let session = server.session().await;
    for number in 0..3 {
        let body = json!({"sessionId": session, "message": format!("number {number}"),
            "parts": [{"type": "image", "url": format!("https://e.com/{number}.png")}]});
        run_turn(&server, body, "seen").await;
    }
    let preview = async |query: &str| {
        let path = format!("/api/chat-sessions/{session}/memory?message=next&{query}");
        let shown = server.get(&path).await.data();
        let pieces = shown["pieces"].as_array().unwrap().clone();
        let recent = pieces.iter().filter(|piece| piece["kind"] == "recent");
        let (mut texts, mut images, mut tokens) = (0, Vec::new(), 0);
        for piece in recent {
            texts += 1;
            tokens += piece["tokens"].as_u64().unwrap() + 4;
            if piece.get("images").is_some() {
                images.push(piece["text"].as_str().unwrap().to_owned());
            }
        }
        (texts, images, tokens)
    };
    // The default budget of 16,000 tokens holds the two newest images of three; all texts are
    // included.
    let (texts, images, tokens) = preview("").await;
    assert_eq!((texts, images), (6, vec!["number 1".to_owned(), "number 2".to_owned()]));
    assert!(tokens <= 16_000);
    let (texts, images, tokens) = preview("maxTokens=6000").await;
    assert_eq!((texts, images), (6, Vec::new()));
    assert!(tokens <= 6000);
    let (texts, images, _) = preview("maxTokens=30000").await;
    assert_eq!((texts, images.len()), (6, 3));
}

#[tokio::test]
async fn image_tokens_depend_on_size_and_small_images_fit() {
    let server = Server::start().await;
    let small = json!({"type": "file", "mediaType": "image/png", "url": png(64, 64)});
    for (model, each) in [("gpt-4o-mini", 8500), ("gpt-4o", 255), ("claude-sonnet-4-5", 6)] {
        let session = server.session().await;
        let body = json!({"sessionId": session, "message": "Which is best?", "model": model,
            "parts": vec![&small; 3]});
        let mut frames = server.chat(body).await;
        server.upstream.call().await.reply("The second.");
        let finish = frames.until("finish").await.data;
        let reported = finish["messageMetadata"]["memory"]["promptTokens"].as_u64().unwrap();
        let shown = server.get(&format!("/api/chat-sessions/{session}/memory")).await.data();
        let text = shown["pieces"][0]["tokens"].as_u64().unwrap() + 4 + 4 + 3 + 4;
        assert_eq!(reported, text + 3 * each, "{model}");
    }
}

#[tokio::test]
async fn remote_images_of_unknown_size_never_reject_a_message() {
    let server = Server::start().await;
    let session = server.session().await;
    run_turn(&server, json!({"sessionId": session, "message": "Look at these."}), "Go on.").await;
    let there = json!({"type": "image", "url": "https://e.com/x.png"});
    let body = json!({"sessionId": session, "message": "all my photographs", "model": "gpt-4o-mini",
        "parts": vec![&there; 9]});
    let prompt = run_turn(&server, body, "Nice.").await;
    // An image of unknown size may take the whole window, so no history is sent with them.
    assert_eq!((prompt.len(), prompt[0]["content"].as_array().unwrap().len()), (1, 10));
}

#[tokio::test]
async fn message_with_too_many_images_is_rejected() {
    let server = Server::start().await;
    let session = server.session().await;
    let body = json!({"sessionId": session, "message": "all my photographs", "model": "gpt-4o-mini",
        "parts": vec![json!({"type": "image", "url": png(1024, 1024)}); 20]});
    let refused = server.post("/api/chat", body).await;
    assert_eq!(refused.failure(), (422, "context_too_long"));
    assert_eq!(server.transcript(&session).await, Vec::<String>::new());
    assert!(server.upstream.is_idle().await);
}
