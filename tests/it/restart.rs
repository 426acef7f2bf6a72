//! The program stops, cleanly or not, and starts again.

use crate::support::process::{ServerProcess, command, run};
use crate::support::server::fetch;
use crate::support::{FrameReader, Upstream, within_deadline};
use reqwest::Client;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;

/// A client that outlives its server and continues with the next one.
struct RestartClient {
    client: Client,
}

impl RestartClient {
    fn new() -> Self {
        Self { client: Client::builder().no_proxy().build().unwrap() }
    }

    async fn chat(&self, server: &ServerProcess, body: Value) -> FrameReader {
        let request = self.client.post(format!("{}/api/chat", server.base)).json(&body);
        let response = within_deadline(request.send()).await.unwrap();
        assert_eq!(response.status(), 200);
        FrameReader::new(response)
    }

    async fn get(&self, server: &ServerProcess, path: &str) -> Value {
        fetch(self.client.get(format!("{}{path}", server.base))).await.data()
    }

    async fn transcript(&self, server: &ServerProcess, session: &str) -> Vec<String> {
        let data = self.get(server, &format!("/api/chat-sessions/{session}/messages")).await;
        let text = |message: &Value| {
            format!(
                "{}: {}",
                message["status"].as_str().unwrap(),
                message["content"].as_str().unwrap()
            )
        };
        data["messages"].as_array().unwrap().iter().map(text).collect()
    }
}

fn variables(upstream: &Upstream) -> HashMap<&'static str, String> {
    HashMap::from([
        ("PORT", "0".to_owned()),
        ("OPENAI_BASE_URL", upstream.base_url.clone()),
        ("ECHOIC_MODEL", "gated-1".to_owned()),
    ])
}

async fn start(folder: &Path, upstream: &Upstream) -> ServerProcess {
    ServerProcess::start(folder, &variables(upstream)).await
}

#[tokio::test]
async fn killed_server_keeps_finished_turns_and_model_sees_them() {
    let (folder, upstream, browser) =
        (tempfile::tempdir().unwrap(), Upstream::start().await, RestartClient::new());
    let mut server = start(folder.path(), &upstream).await;
    let ask = |id: &str, text: &str| json!({"id": "s", "message": {"id": id, "role": "user", "parts": [{"type": "text", "text": text}]}});
    let mut frames = browser.chat(&server, ask("q1", "my name is Ada")).await;
    upstream.call().await.reply("Hello Ada");
    frames.until("finish").await;
    server.kill().await;

    let server = start(folder.path(), &upstream).await;
    assert_eq!(
        browser.transcript(&server, "s").await,
        ["complete: my name is Ada", "complete: Hello Ada"]
    );
    let mut frames = browser.chat(&server, ask("q2", "who am I?")).await;
    let call = upstream.call().await;
    assert_eq!(
        call.prompt()[1..],
        ["user: my name is Ada", "assistant: Hello Ada", "user: who am I?"]
    );
    call.reply("Ada");
    frames.until("finish").await;
    assert_eq!(server.terminate().await.0, 0);
}

#[tokio::test]
async fn killed_mid_reply_keeps_question_and_frees_session() {
    let (folder, upstream, browser) =
        (tempfile::tempdir().unwrap(), Upstream::start().await, RestartClient::new());
    let mut server = start(folder.path(), &upstream).await;
    let mut frames = browser.chat(&server, json!({"id": "s", "message": {"id": "q", "role": "user", "parts": [{"type": "text", "text": "tell me"}]}})).await;
    let mut call = upstream.call().await;
    call.text("Once ");
    frames.until("text-delta").await;
    // A delta has arrived, so the question was acknowledged.
    server.kill().await;

    let server = start(folder.path(), &upstream).await;
    let said = browser.transcript(&server, "s").await;
    assert_eq!((said.len(), said[0].as_str()), (2, "complete: tell me"));
    assert!(said[1].starts_with("interrupted: "), "{said:?}");
    let session = browser.get(&server, "/api/chat-sessions/s").await;
    assert_eq!((&session["activeTurn"], &session["messagesCount"]), (&Value::Null, &json!(2)));
    let mut frames = browser.chat(&server, json!({"sessionId": "s", "message": "again"})).await;
    upstream.call().await.reply("Once upon a time");
    frames.until("finish").await;
}

#[tokio::test]
async fn full_disk_rejects_writes_and_keeps_acknowledged_data() {
    let (folder, upstream, browser) =
        (tempfile::tempdir().unwrap(), Upstream::start().await, RestartClient::new());
    let script = "trap '' XFSZ; ulimit -f 1200; exec \"$0\" serve";
    let mut limited = tokio::process::Command::new("sh");
    let program = env!("CARGO_BIN_EXE_echoic");
    limited
        .args(["-c", script, program])
        .current_dir(folder.path())
        .env_clear()
        .envs(variables(&upstream));
    limited
        .stdin(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true);
    let mut server = ServerProcess::spawn(limited).await;
    let post = |body: Value| {
        let path =
            if body.get("role").is_some() { "/api/chat-messages" } else { "/api/chat-sessions" };
        browser.client.post(format!("{}{path}", server.base)).json(&body)
    };
    fetch(post(json!({"sessionId": "s"}))).await.data();
    let mut acknowledged = 0;
    loop {
        assert!(acknowledged < 1000, "the disk never filled up");
        let body = json!({"chatSessionId": "s", "role": "user", "content": format!("{acknowledged} {}", "x".repeat(20_000))});
        let reply = fetch(post(body)).await;
        if reply.status != 201 {
            assert_eq!(reply.failure(), (503, "store_unavailable"));
            break;
        }
        acknowledged += 1;
    }
    assert!(acknowledged > 3);
    server.kill().await;

    let server = start(folder.path(), &upstream).await;
    let session = browser.get(&server, "/api/chat-sessions/s").await;
    assert_eq!(session["messagesCount"], acknowledged);
    let data = browser.get(&server, "/api/chat-sessions/s/messages?view=all&limit=100").await;
    let messages = data["messages"].as_array().unwrap();
    assert_eq!(messages.len(), usize::min(acknowledged, 100));
    assert_eq!(messages.last().unwrap()["id"], session["headId"]);
    let more = browser.client.post(format!("{}/api/chat-messages", server.base));
    fetch(more.json(&json!({"chatSessionId": "s", "role": "user", "content": "room again"})))
        .await
        .data();
}

#[tokio::test]
async fn file_served_by_another_server_is_left_alone() {
    let (folder, upstream) = (tempfile::tempdir().unwrap(), Upstream::start().await);
    let first = start(folder.path(), &upstream).await;
    let (code, _, stderr) = run(folder.path(), &variables(&upstream), &[]).await;
    assert_eq!(code, 1);
    assert!(
        stderr.contains("is served by another Echoic") && stderr.contains("DATABASE_URL"),
        "{stderr}"
    );
    assert_eq!(first.terminate().await.0, 0);
}

#[tokio::test]
async fn foreign_file_is_rejected_and_left_untouched() {
    let (folder, upstream) = (tempfile::tempdir().unwrap(), Upstream::start().await);
    std::fs::create_dir(folder.path().join("data")).unwrap();
    let path = folder.path().join("data/echoic.db");
    let foreign = rusqlite::Connection::open(&path).unwrap();
    foreign.execute_batch("CREATE TABLE accounts (x); INSERT INTO accounts VALUES (1);").unwrap();
    drop(foreign);
    let (code, _, stderr) = run(folder.path(), &variables(&upstream), &[]).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("data/echoic.db is not an Echoic database"), "{stderr}");
    let kept: i64 = rusqlite::Connection::open(&path)
        .unwrap()
        .query_row("SELECT x FROM accounts", [], |row| row.get(0))
        .unwrap();
    assert_eq!(kept, 1);
}

#[tokio::test]
async fn log_reports_requests_and_turns_without_content() {
    let (folder, upstream, browser) =
        (tempfile::tempdir().unwrap(), Upstream::start().await, RestartClient::new());
    let mut variables = variables(&upstream);
    variables.insert("ECHOIC_LOG_FORMAT", "json".to_owned());
    variables.insert("RUST_LOG", "debug".to_owned());
    variables.insert("ECHOIC_SHUTDOWN_GRACE", "100ms".to_owned());
    variables.insert("OPENAI_API_KEY", "sk-very-secret".to_owned());
    let server = ServerProcess::spawn(command(folder.path(), &variables, &[])).await;
    let mut frames = browser
        .chat(&server, json!({"message": "my password is hunter2", "systemPrompt": "hush hush"}))
        .await;
    upstream.call().await.reply("I forget it at once");
    frames.until("[DONE]").await;
    let mut frames = browser.chat(&server, json!({"message": "stop", "id": "a"})).await;
    let _stopped = upstream.call().await;
    let stop = browser.client.post(format!("{}/api/chat/a/stop", server.base));
    fetch(stop.json(&json!({}))).await.data();
    frames.until("[DONE]").await;
    let mut frames = browser.chat(&server, json!({"message": "delete", "id": "b"})).await;
    let _deleted = upstream.call().await;
    let delete = browser.client.delete(format!("{}/api/chat-sessions/b", server.base));
    fetch(delete).await.data();
    frames.until("[DONE]").await;
    let _frames = browser.chat(&server, json!({"message": "hold on", "id": "c"})).await;
    let _cut_off = upstream.call().await;
    let (_, log) = server.terminate().await;
    for secret in ["hunter2", "hush hush", "forget", "sk-very-secret"] {
        assert!(!log.contains(secret), "{secret} stands in the log");
    }
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let request = lines.iter().find(|line| line["message"] == "request").unwrap();
    assert_eq!(
        (&request["http.route"], &request["http.status"]),
        (&json!("/api/chat"), &json!(200))
    );
    assert!(request["request.id"].is_string());
    let ends: Vec<_> = lines
        .iter()
        .filter(|line| line["message"] == "turn ended")
        .map(|line| (&line["turn.status"], &line["turn.cause"]))
        .collect();
    assert_eq!(
        ends,
        [
            (&json!("complete"), &Value::Null),
            (&json!("interrupted"), &json!("stopped")),
            (&Value::Null, &json!("session deleted")),
            (&json!("interrupted"), &json!("shutdown")),
        ]
    );
}

/// Waits until the log of a running turn contains a frame of this type.
async fn wait_for_logged_frame(folder: &Path, kind: &str) {
    let file = rusqlite::Connection::open(folder.join("data/echoic.db")).unwrap();
    let read = || -> rusqlite::Result<Vec<u8>> {
        let mut batches = file.prepare("SELECT frames FROM turn_log ORDER BY batch")?;
        let frames = batches.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
        Ok(frames.collect::<rusqlite::Result<Vec<_>>>()?.concat())
    };
    within_deadline(async {
        while !read().is_ok_and(|log| String::from_utf8_lossy(&log).contains(kind)) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn killed_server_keeps_calls_in_order_with_their_origin() {
    let (folder, upstream, browser) =
        (tempfile::tempdir().unwrap(), Upstream::start().await, RestartClient::new());
    let mut server = start(folder.path(), &upstream).await;
    let body = crate::tools::chat_body("s", &crate::tools::user_message("q", "Oslo?"));
    let mut frames = browser.chat(&server, body).await;
    let mut call = upstream.call().await;
    let mut send = |choice: Value| {
        call.raw(crate::support::upstream::sse_chunk(&json!({"choices": [choice]})));
    };
    let function = json!({"name": "weather", "arguments": "{\"city\":  \"Oslo\"}"});
    let cut_off = json!({"name": "weather", "arguments": "{\"city"});
    let signature = json!({"google": {"thought_signature": "c2ln+/=="}});
    let signed =
        json!({"index": 0, "id": "look:0", "function": function, "extra_content": signature});
    send(json!({"index": 0, "delta": {"content": "One."}}));
    send(json!({"index": 0, "delta": {"tool_calls": [signed]}}));
    send(json!({"index": 0, "delta": {"content": "Two."}}));
    let invalid = json!({"index": 1, "id": "look:1", "function": cut_off});
    send(json!({"index": 0, "delta": {"tool_calls": [invalid]}}));
    send(json!({"index": 0, "delta": {}, "finish_reason": "tool_calls"}));
    // The server waits for the usage, and the reply is not stored yet.
    frames.until("tool-input-error").await;
    wait_for_logged_frame(folder.path(), "tool-input-error").await;
    server.kill().await;

    let server = start(folder.path(), &upstream).await;
    let data = browser.get(&server, "/api/chat-sessions/s/messages").await;
    let mut parts = data["messages"][1]["parts"].clone();
    for part in parts.as_array_mut().unwrap() {
        part.as_object_mut().unwrap().remove("toolCallId");
    }
    let call = |input: Value| json!({"type": "tool-call", "toolName": "weather", "input": input});
    let text = |text: &str| json!({"type": "text", "text": text});
    let (first, second) = (call(json!({"city": "Oslo"})), call(json!("{\"city")));
    assert_eq!(parts, json!([text("One."), first, text("Two."), second]));
    let export = browser.client.get(format!("{}/api/export?format=json", server.base));
    let export = within_deadline(export.send()).await.unwrap().text().await.unwrap();
    assert!(export.contains("c2ln+/==") && export.contains("look:1"), "{export}");
    assert!(export.contains("{\"city\":  \"Oslo\"}"), "the arguments stay byte for byte: {export}");
}
