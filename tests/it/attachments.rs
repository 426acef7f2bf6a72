//! Attachments other than images: text files are sent to the model, other files are only mentioned.

use crate::support::{Server, anthropic as claude};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use echoic::memory::tokens;
use serde_json::{Value, json};

fn file(name: &str, media_type: &str, bytes: &[u8]) -> Value {
    let url = format!("data:{media_type};base64,{}", BASE64_STANDARD.encode(bytes));
    json!({"type": "file", "filename": name, "mediaType": media_type, "url": url})
}

/// The request body of `useChat`.
fn chat_body(text: Option<&str>, files: &[Value]) -> Value {
    let text = text.map(|text| json!({"type": "text", "text": text}));
    let parts: Vec<Value> = text.into_iter().chain(files.iter().cloned()).collect();
    json!({"id": "chat-1", "messages": [{"id": "u1", "role": "user", "parts": parts}]})
}

const UNREADABLE: &str = "(Attached: \"a.pdf\", application/pdf, which you cannot read.)";

#[tokio::test]
async fn attached_text_is_sent_counted_previewed_and_remembered() {
    let server = Server::start().await;
    let table = file("tides.csv", "text/csv", "port,metres\nΒόλος,0.3\n".as_bytes());
    let parts = [table.clone(), file("a.pdf", "application/pdf", b"%PDF-1.7")];
    let mut frames = server.chat(chat_body(Some("Which is highest?"), &parts)).await;
    let call = server.upstream.call().await;
    let expanded = format!(
        "Which is highest?\n\n<attachment name=\"tides.csv\" type=\"text/csv\">\n\
         port,metres\nΒόλος,0.3\n</attachment>\n\n{UNREADABLE}"
    );
    assert_eq!(call.prompt()[1..], [format!("user: {expanded}")]);
    call.reply("Volos.");
    frames.until("[DONE]").await;

    let shown = server.get("/api/chat-sessions/chat-1/memory?message=Sure%3F").await.data();
    let piece = &shown["pieces"][1];
    assert_eq!(
        (&piece["text"], &piece["tokens"]),
        (&json!(expanded), &json!(tokens::count_tokens(&expanded)))
    );
    let mut frames = server.chat(json!({"sessionId": "chat-1", "message": "Sure?"})).await;
    let call = server.upstream.call().await;
    let sent = shown["pieces"].as_array().unwrap().iter().map(|piece| {
        format!("{}: {}", piece["role"].as_str().unwrap(), piece["text"].as_str().unwrap())
    });
    assert_eq!(call.prompt(), sent.collect::<Vec<_>>(), "the preview shows what is sent");
    call.reply("Yes.");
    frames.until("[DONE]").await;

    // The stored message is unchanged: the attachment is expanded only in the prompt.
    let messages =
        server.get("/api/chat-sessions/chat-1/messages").await.data()["messages"].clone();
    assert_eq!(messages[0]["content"], "Which is highest?");
    assert_eq!(messages[0]["parts"], json!(parts));
}

#[tokio::test]
async fn file_only_message_is_described_to_every_provider() {
    let parts = [file("a.pdf", "application/pdf", b"%PDF-1.7")];
    let server = Server::start().await;
    let mut frames = server.chat(chat_body(None, &parts)).await;
    let call = server.upstream.call().await;
    assert_eq!(call.prompt()[1..], [format!("user: {UNREADABLE}")]);
    call.reply("I cannot read it.");
    frames.until("[DONE]").await;

    let server = crate::anthropic::server().await;
    let session = server.session().await;
    let body = json!({"sessionId": session, "message": "", "parts": parts});
    let mut frames = server.chat(body).await;
    let mut call = server.upstream.call().await;
    let content = &call.request["messages"][0]["content"];
    assert_eq!(content, &json!([{"type": "text", "text": UNREADABLE}]));
    claude::reply(&mut call, "I cannot read it.");
    frames.until("[DONE]").await;
}

#[tokio::test]
async fn other_tokenizers_count_attached_text_too() {
    let server = Server::start().await;
    let parts = [file("kanji.txt", "text/plain", "東京の天気は晴れです。".repeat(40).as_bytes())];
    let mut frames = server.chat(chat_body(Some("Translate."), &parts)).await;
    server.upstream.call().await.reply("Sunny.");
    frames.until("[DONE]").await;
    let old = json!({"sessionId": "chat-1", "message": "Again.", "model": "gpt-4"});
    let mut frames = server.chat(old).await;
    server.upstream.call().await.reply("Sunny.");
    let memory = frames.until("finish").await.data["messageMetadata"]["memory"].clone();
    assert!(memory["promptTokens"].as_u64().unwrap() > 400, "{memory}");
    assert_eq!(memory["messages"], 2);
}

#[tokio::test]
async fn attached_text_counts_toward_the_message_limit() {
    let server = Server::with(&["--max-message", "4KiB"]).await;
    let large = [file("large.txt", "text/plain", &[b'a'; 5000])];
    let refused = server.post("/api/chat", chat_body(Some("Read this."), &large)).await;
    assert_eq!(refused.failure(), (413, "payload_too_large"));
    let binary = [file("large.zip", "application/zip", &[b'a'; 50_000])];
    let mut frames = server.chat(chat_body(Some("Keep this."), &binary)).await;
    server.upstream.call().await.reply("I have.");
    frames.until("[DONE]").await;
}
