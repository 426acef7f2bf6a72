//! Imports do not occupy the server while they arrive, and their size is bounded.

use crate::support::key_client::KeyClient;
use crate::support::server::fetch;
use crate::support::{Server, within_deadline};
use echoic::domain::key::AuthScope;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Begins an import that sends nothing more for now.
async fn begin_import(server: &Server) -> TcpStream {
    let address = server.base.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = "POST /api/import HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
                content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

fn session(id: &str) -> Value {
    json!({"sessions": [{"sessionId": id, "messages": [{"role": "user", "content": "x"}]}]})
}

#[tokio::test]
async fn imports_that_do_not_end_are_few_and_block_nothing() {
    let server = Server::start().await;
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(begin_import(&server).await);
    }
    // The four are admitted at some moment after they were sent.
    let refused = loop {
        let reply = server.post("/api/import", session("probe")).await;
        if reply.status == 429 {
            break reply;
        }
    };
    assert_eq!(refused.failure(), (429, "rate_limited"));
    assert!(!refused.header("retry-after").is_empty());
    assert!(refused.body["message"].as_str().unwrap().contains("4 imports open"));
    assert_eq!(server.get("/api/me").await.status, 200);
    assert_eq!(server.get("/health/ready").await.status, 200);
    let mut last = open.pop().unwrap();
    last.write_all(b"e\r\n\"sessions\": []\r\n1\r\n}\r\n0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    within_deadline(last.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(server.post("/api/import", session("free")).await.status, 200);
}

#[tokio::test]
async fn import_over_the_size_limit_is_refused() {
    let server = Server::with(&["--max-import=64KiB"]).await;
    let long = json!({"sessions": [], "padding": "x".repeat(70_000)}).to_string();
    let post = || {
        let request = server.request(Method::POST, "/api/import");
        request.header("content-type", "application/json")
    };
    let chunks: Vec<Result<Vec<u8>, std::io::Error>> =
        long.as_bytes().chunks(5000).map(|chunk| Ok(chunk.to_vec())).collect();
    let chunked = reqwest::Body::wrap_stream(futures::stream::iter(chunks));
    for reply in [fetch(post().body(long.clone())).await, fetch(post().body(chunked)).await] {
        assert_eq!(reply.failure(), (413, "payload_too_large"));
        assert!(reply.body["message"].as_str().unwrap().contains("65536 bytes"), "{}", reply.body);
    }
    assert_eq!(server.post("/api/import", session("s")).await.status, 200);
}

#[tokio::test]
async fn long_session_is_imported_from_its_file() {
    let server = Server::start().await;
    // Longer than what stays in memory, with the fields after the messages.
    let messages: Vec<Value> = (0..3000)
        .map(|number| json!({"id": format!("m{number}"), "role": "user", "content": "x".repeat(100)}))
        .collect();
    let file = format!(
        r#"{{"sessions": [{{"messages": {}, "title": "Long", "sessionId": "s", "headId": "m7"}}]}}"#,
        json!(messages)
    );
    let request = server.request(Method::POST, "/api/import");
    let request = request.header("content-type", "application/json").body(file);
    let report = fetch(request).await.data();
    assert_eq!(report["sessions"][0]["messages"], 3000);
    let session = server.get("/api/chat-sessions/s").await.data();
    assert_eq!((&session["title"], &session["headId"]), (&json!("Long"), &json!("m7")));
}

#[tokio::test]
async fn late_parents_among_odd_entries_keep_ids_and_order() {
    let server = Server::start().await;
    let text = |id: Value, parent: Value, text: &str| json!({"id": id, "role": "user", "parentId": parent, "content": text});
    let file = json!({"sessions": [{"sessionId": "s", "messages": [
        text(json!("c"), json!("b"), "third"), 7,
        {"role": "user", "content": "fourth"},
        text(json!("b"), json!("a"), "second"), null,
        text(json!("a"), json!(null), "first"),
        text(json!("a"), json!("c"), "again")]}]});
    let report = server.post("/api/import", file.clone()).await.data();
    let session = &report["sessions"][0];
    assert_eq!(session["messages"], 5, "{report}");
    assert_eq!(session["leftOut"][0]["count"], 2);
    assert_eq!(session["mended"], json!([{"kind": "id", "count": 1, "first": "messages[6].id"}]));
    assert_eq!(
        server.transcript("s").await,
        ["user: first", "user: second", "user: third", "user: again"]
    );
    assert_eq!(server.post("/api/import", file).await.data()["sessions"][0]["messages"], 0);
}

#[tokio::test]
async fn read_marks_and_fields_of_absurd_size_are_left_out() {
    let server = Server::start().await;
    let marks: serde_json::Map<String, Value> =
        (0..50_000).map(|number| (number.to_string(), json!("m"))).collect();
    let file = json!({"sessions": [{"sessionId": "s", "readMarks": marks, "meta": {"a": "x".repeat(300_000)},
        "messages": [{"id": "m", "role": "user", "content": "x"}]}]});
    let report = server.post("/api/import", file).await.data();
    let kinds: Vec<_> = report["sessions"][0]["leftOut"]
        .as_array()
        .unwrap()
        .iter()
        .map(|note| note["kind"].as_str().unwrap().to_owned())
        .collect();
    assert!(kinds.contains(&"readMarks".to_owned()) && kinds.contains(&"meta".to_owned()));
}

#[tokio::test]
async fn messages_are_imported_in_no_strangers_name() {
    let server = Server::with(&["--auth=keys"]).await;
    let (ann, bob) =
        (server.key("ann", AuthScope::Chat).await, server.key("bob", AuthScope::Chat).await);
    let (ann, bob) = (server.with_key(&ann), server.with_key(&bob));
    let message = |id: &str, role: &str, sender: &str| json!({"id": id, "role": role, "senderId": sender, "content": "x"});
    let file = json!({"sessions": [{"sessionId": "s", "participants": ["bob"], "messages": [
        message("m1", "user", "bob"), message("m2", "user", "ann"), message("m3", "assistant", "assistant"),
        message("m4", "user", "assistant"), message("m5", "assistant", "bob")]}]});
    let report = ann.post("/api/import", file).await.data();
    let mended = json!([{"kind": "senderId", "count": 3, "first": "messages[0].senderId"}]);
    assert_eq!(report["sessions"][0]["mended"], mended);
    let data = ann.get("/api/chat-sessions/s/messages").await.data();
    let senders: Vec<_> = data["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| message["senderId"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(senders, ["ann", "ann", "assistant", "ann", "assistant"]);
    assert_eq!(bob.get("/api/chat-sessions/s").await.status, 404);
}

#[tokio::test]
async fn empty_entries_are_skipped_and_counted() {
    let server = Server::start().await;
    let mut entries = vec![json!({"sessionId": "kept", "messages": []})];
    entries.extend((0..4000).map(|number| match number % 2 {
        0 => json!({}),
        _ => json!({"messages": []}),
    }));
    let report = server.post("/api/import", json!({"sessions": entries})).await.data();
    assert_eq!(report["sessions"].as_array().unwrap().len(), 1);
    let skipped = report["skipped"].as_array().unwrap();
    assert!(skipped[0]["reason"].as_str().unwrap().starts_with("session must have messages"));
    assert_eq!((skipped.len(), &report["moreSkipped"]), (1000, &json!(3000)));
}

#[tokio::test]
async fn parts_and_titles_of_absurd_size_are_cut() {
    let server = Server::start().await;
    let parts = vec![json!({"type": "x"}); 30_000];
    let title = "t".repeat(1_000_000);
    let own = json!({"sessionId": "own", "title": title,
        "messages": [{"role": "user", "content": "x", "parts": parts}]});
    let claude = json!({"uuid": "claude", "name": title, "chat_messages": [{"uuid": "m", "sender": "human", "text": "x"}]});
    let report = server.post("/api/import", json!({"sessions": [own, claude]})).await.data();
    let left_out = &report["sessions"][0]["leftOut"];
    assert_eq!(left_out[0]["kind"], "title");
    assert_eq!((&left_out[1]["kind"], &left_out[1]["count"]), (&json!("parts"), &json!(20_000)));
    let left_out = &report["sessions"][1]["leftOut"];
    assert_eq!(
        (&left_out[0]["kind"], &report["sessions"][1]["title"]),
        (&json!("name"), &json!("x"))
    );
    let page = server.get("/api/chat-sessions/own/messages").await.data();
    assert_eq!(page["messages"][0]["parts"].as_array().unwrap().len(), 10_000);
}

/// Sends a whole import without waiting for its answer.
async fn send_import(server: &Server, key: &str, body: &str) -> TcpStream {
    let address = server.base.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /api/import HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    stream
}

/// Waits for an import that takes long to have stored something.
async fn wait_for_sessions(client: &KeyClient<'_>) -> u64 {
    loop {
        let list = client.get("/api/chat-sessions?limit=1").await.data();
        match list["pagination"]["total"].as_u64().unwrap() {
            0 => tokio::time::sleep(Duration::from_millis(5)).await,
            total => return total,
        }
    }
}

fn many_sessions(count: usize) -> String {
    let sessions: Vec<Value> = (0..count)
        .map(|number| json!({"sessionId": format!("s{number}"), "messages": [{"role": "user", "content": "x"}]}))
        .collect();
    json!({ "sessions": sessions }).to_string()
}

#[tokio::test]
async fn import_ends_when_its_client_hangs_up() {
    const SESSIONS: usize = 20_000;
    let server = Server::with(&["--auth=keys"]).await;
    let key = server.key("ann", AuthScope::Chat).await;
    let client = server.with_key(&key);
    let import = send_import(&server, &key, &many_sessions(SESSIONS)).await;
    within_deadline(wait_for_sessions(&client)).await;
    drop(import);
    // Follows the first one, which must have ended.
    client.post("/api/import", session("next")).await.data();
    let list = client.get("/api/chat-sessions?limit=1").await.data();
    assert!(list["pagination"]["total"].as_u64().unwrap() < SESSIONS as u64);
}

#[tokio::test]
async fn short_import_passes_long_ones_of_others() {
    let server = Server::with(&["--auth=keys"]).await;
    let body = many_sessions(20_000);
    let mut open = Vec::new();
    for user in ["ann", "ben"] {
        let key = server.key(user, AuthScope::Chat).await;
        open.push(send_import(&server, &key, &body).await);
        within_deadline(wait_for_sessions(&server.with_key(&key))).await;
    }
    let key = server.key("cleo", AuthScope::Chat).await;
    server.with_key(&key).post("/api/import", session("short")).await.data();
    for import in open {
        let answered = tokio::time::timeout(Duration::ZERO, import.readable()).await;
        assert!(answered.is_err(), "an import of 20,000 sessions has ended");
    }
}
