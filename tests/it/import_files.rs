//! Import of several files in one go, as a form or a ZIP archive, and of other products' exports.

use crate::support::Server;
use crate::support::server::{ApiResponse, fetch};
use reqwest::Method;
use serde_json::{Value, json};
use std::io::{Cursor, Write};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

fn claude_export(id: &str) -> Value {
    json!([{"uuid": id, "name": "Trip", "created_at": "2026-02-01T10:00:00Z", "chat_messages": [
        {"uuid": "q", "sender": "human", "text": "Where to?", "created_at": "2026-02-01T10:00:01Z"},
        {"uuid": "a", "sender": "assistant", "text": "Rome.", "created_at": "2026-02-01T10:00:02Z"}]}])
}

fn libre_chat_export(id: &str) -> Value {
    json!({"conversationId": id, "title": "Sums", "messages": [
        {"messageId": "q", "isCreatedByUser": true, "text": "1 + 1?", "children": [
            {"messageId": "a", "isCreatedByUser": false, "text": "2"}, {"messageId": "b", "isCreatedByUser": false, "text": "3"}]}]})
}

fn open_webui_export(id: &str) -> Value {
    let messages = json!({
        "q": {"parentId": null, "role": "user", "content": "Hi", "timestamp": 1_757_000_000},
        "r": {"parentId": "q", "role": "assistant", "content": "Hello", "timestamp": 1_757_000_001}});
    json!([{"id": id, "title": "Greeting", "chat": {"history": {"currentId": "r", "messages": messages}}}])
}

fn zip_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

async fn send(server: &Server, media_type: &str, body: Vec<u8>) -> ApiResponse {
    let request = server.request(Method::POST, "/api/import").header("content-type", media_type);
    fetch(request.body(body)).await
}

async fn send_form(server: &Server, files: &[(&str, &[u8])]) -> ApiResponse {
    let mut body = Vec::new();
    for (name, content) in files {
        let head = format!(
            "--limit\r\ncontent-disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\r\n"
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--limit--\r\n");
    send(server, "multipart/form-data; boundary=limit", body).await
}

fn source_ids(report: &Value) -> Vec<&str> {
    let sessions = report["sessions"].as_array().unwrap();
    sessions.iter().map(|session| session["sourceId"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn exports_of_other_products_are_imported_once() {
    let server = Server::start().await;
    for (file, title, path) in [
        (claude_export("c1"), "Trip", vec!["user: Where to?", "assistant: Rome."]),
        (libre_chat_export("c2"), "Sums", vec!["user: 1 + 1?", "assistant: 3"]),
        (open_webui_export("c3"), "Greeting", vec!["user: Hi", "assistant: Hello"]),
    ] {
        let report = server.post("/api/import", file.clone()).await.data();
        assert_eq!(
            (&report["sessions"][0]["title"], &report["skipped"]),
            (&json!(title), &json!([]))
        );
        let id = report["sessions"][0]["sessionId"].as_str().unwrap();
        assert_eq!(server.transcript(id).await, path);
        let again = server.post("/api/import", file).await.data();
        assert_eq!(again["sessions"][0]["messages"], 0);
    }
}

#[tokio::test]
async fn form_imports_each_file_and_names_the_others() {
    let server = Server::start().await;
    let mixed = json!([{"sessionId": "s1", "messages": []}, {"odd": true}]).to_string();
    let studio = json!({"chunkedPrompt": {"chunks": []}}).to_string();
    let report = send_form(
        &server,
        &[
            ("claude.json", claude_export("c1").to_string().as_bytes()),
            ("mixed.json", mixed.as_bytes()),
            ("picture.png", b"\x89PNG\r\n"),
            ("studio", studio.as_bytes()),
            ("half.json", b"[{\"sessionId\": \"s2\", \"messages\": []},"),
            (
                "export.zip",
                &zip_of(&[("conversations.json", open_webui_export("c3").to_string().as_bytes())]),
            ),
        ],
    )
    .await
    .data();
    assert_eq!(source_ids(&report), ["c1", "s1", "s2", "c3"]);
    let skipped = report["skipped"].as_array().unwrap();
    assert_eq!((skipped.len(), &skipped[0]["index"]), (1, &json!(1)));
    assert_eq!(skipped[0]["file"], "mixed.json");
    let files = report["skippedFiles"].as_array().unwrap();
    let names: Vec<_> = files.iter().map(|file| file["file"].as_str().unwrap()).collect();
    assert_eq!(names, ["picture.png", "studio", "half.json"]);
    let reason = files[1]["reason"].as_str().unwrap();
    assert!(reason.contains("looks like an export of Google AI Studio"), "{reason}");
    let reason = files[2]["reason"].as_str().unwrap();
    assert!(reason.contains("sessions imported before that: 1"), "{reason}");
}

#[tokio::test]
async fn archive_is_imported_whatever_its_media_type() {
    let server = Server::start().await;
    let archive = zip_of(&[
        ("chat.html", b"<html>"),
        ("conversations-000.json", claude_export("c1").to_string().as_bytes()),
        ("conversations-001.json", libre_chat_export("c2").to_string().as_bytes()),
        ("../../escape.json", open_webui_export("c3").to_string().as_bytes()),
        ("user.json", b"{\"id\": \"user-1\"}"),
        ("message_feedback.json", b"[]"),
        ("file-1.png", b"\x89PNG"),
        ("__MACOSX/._conversations.json", b"\0"),
    ]);
    for media_type in ["application/zip", "application/json"] {
        let report = send(&server, media_type, archive.clone()).await.data();
        assert_eq!(source_ids(&report), ["c1", "c2", "c3"]);
        assert_eq!(report["skipped"], json!([]));
        let files = report["skippedFiles"].as_array().unwrap();
        let names: Vec<_> = files.iter().map(|file| file["file"].as_str().unwrap()).collect();
        assert_eq!(names, ["chat.html", "user.json", "message_feedback.json", "file-1.png"]);
    }
}

#[tokio::test]
async fn archive_that_expands_too_much_is_refused() {
    let server = Server::start().await;
    let mut bomb = b"[{\"sessionId\": \"".to_vec();
    bomb.resize(80 << 20, b'x');
    let archive = zip_of(&[
        ("bomb.json", &bomb),
        ("conversations.json", claude_export("c1").to_string().as_bytes()),
    ]);
    assert!(archive.len() < 1 << 20);
    let report = send(&server, "application/zip", archive.clone()).await.data();
    assert_eq!(source_ids(&report), ["c1"]);
    let reason = report["skippedFiles"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("expands to more than"), "{reason}");

    // The same with a lie about the size, in the entry's head and in the directory.
    let mut lying = archive;
    let size = u32::try_from(bomb.len()).unwrap().to_le_bytes();
    while let Some(at) = lying.windows(4).position(|bytes| bytes == size) {
        lying[at..at + 4].copy_from_slice(&1000_u32.to_le_bytes());
    }
    let report = send(&server, "application/zip", lying).await.data();
    assert_eq!(source_ids(&report), ["c1"]);
    let reason = report["skippedFiles"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("declared"), "{reason}");
}

#[tokio::test]
async fn export_without_sessions_is_imported() {
    let server = Server::start().await;
    let export = br#"{"format":"echoic","version":1,"sessions":[]}"#;
    let nothing = json!({"sessions": [], "skipped": []});
    assert_eq!(send(&server, "application/json", export.to_vec()).await.data(), nothing);
    assert_eq!(send_form(&server, &[("e.json", export)]).await.data(), nothing);
    let archive = zip_of(&[("e.json", export), ("a.png", b"\x89PNG")]);
    let report = send(&server, "application/zip", archive).await.data();
    assert_eq!(
        (&report["sessions"], &report["skippedFiles"][0]["file"]),
        (&json!([]), &json!("a.png"))
    );
}

#[tokio::test]
async fn upload_without_conversations_is_an_error() {
    let server = Server::start().await;
    let gemini =
        json!([{"header": "Gemini Apps", "title": "Prompted hi", "time": "2026-01-01T00:00:00Z"}]);
    let refused = server.post("/api/import", gemini.clone()).await;
    assert_eq!(refused.failure(), (400, "invalid_request"));
    let message = refused.body["message"].as_str().unwrap();
    assert!(message.contains("looks like an export of Gemini (Google Takeout)"), "{message}");

    let takeout =
        zip_of(&[("MyActivity.json", gemini.to_string().as_bytes()), ("a.png", b"\x89PNG")]);
    let broken = b"PK\x03\x04 and nothing else".to_vec();
    for (archive, words) in [
        (takeout, "MyActivity.json: this looks like an export of Gemini"),
        (broken, "is not a readable ZIP archive"),
        (zip_of(&[]), "there is no file in it"),
    ] {
        let refused = send(&server, "application/zip", archive).await;
        assert_eq!(refused.failure(), (400, "invalid_request"));
        let message = refused.body["message"].as_str().unwrap();
        assert!(message.contains(words), "{message}");
    }
    let refused = send_form(&server, &[("empty.jsonl", b" \n")]).await;
    assert_eq!(refused.failure(), (400, "invalid_request"));
    assert!(refused.body["message"].as_str().unwrap().contains("empty.jsonl: is empty"));
    let refused = send(&server, "multipart/form-data", b"--x--".to_vec()).await;
    assert_eq!(refused.failure(), (400, "invalid_request"));
    let refused = send(&server, "text/plain", b"[]".to_vec()).await;
    assert_eq!(refused.failure(), (415, "unsupported_media_type"));
}

#[tokio::test]
async fn upload_of_too_many_files_is_refused() {
    let server = Server::start().await;
    let names: Vec<String> = (0..10_001).map(|number| number.to_string()).collect();
    let files: Vec<(&str, &[u8])> =
        names.iter().map(|name| (name.as_str(), b"{}".as_slice())).collect();
    let archive = zip_of(&files);
    let nested: Vec<(&str, &[u8])> = vec![("a.zip", &archive)];
    for (reply, bound) in [
        (send(&server, "application/zip", archive.clone()).await, 10_000),
        (send_form(&server, &nested).await, 10_000),
        (send_form(&server, &files).await, 1_000),
    ] {
        assert_eq!(reply.failure(), (413, "payload_too_large"));
        let wanted = format!("must have at most {bound} files");
        assert!(reply.body["message"].as_str().unwrap().contains(&wanted), "{}", reply.body);
        assert_eq!(reply.body["error"]["details"]["imported"], 0);
    }
}

#[tokio::test]
async fn part_with_a_long_head_is_refused() {
    let server = Server::start().await;
    let name = "x".repeat(9_000_000);
    let reply = send_form(&server, &[(&name, b"{}")]).await;
    assert_eq!(reply.failure(), (413, "payload_too_large"));
    let message = reply.body["message"].as_str().unwrap();
    assert!(message.starts_with("Head of a part must be at most 65536 bytes"), "{message}");
}
