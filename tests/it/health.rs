//! `/health`, the models, request ids, and shutdown.

use crate::support::process::ServerProcess;
use crate::support::server::fetch;
use crate::support::{Server, within_deadline};
use reqwest::Method;
use serde_json::json;
use std::collections::HashMap;
use std::process::Stdio;
use tokio::net::TcpStream;
use tokio::process::Command;

#[tokio::test]
async fn server_accepts_more_clients_than_the_soft_file_limit() {
    let folder = tempfile::tempdir().unwrap();
    let variables = HashMap::from([
        ("PORT", "0".to_owned()),
        ("ECHOIC_PROVIDER", "demo".to_owned()),
        ("ECHOIC", env!("CARGO_BIN_EXE_echoic").to_owned()),
    ]);
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "ulimit -Sn 64 && exec \"$ECHOIC\""]).current_dir(folder.path());
    shell.env_clear().envs(&variables).stderr(Stdio::piped()).kill_on_drop(true);
    let server = ServerProcess::spawn(shell).await;
    let address = server.base.strip_prefix("http://").unwrap();
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(TcpStream::connect(address).await.unwrap());
    }
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let ready = client.get(format!("{}/health/ready", server.base)).send();
    assert_eq!(within_deadline(ready).await.unwrap().status(), 200);
    drop(clients);
    server.terminate().await;
}

#[tokio::test]
async fn idle_connections_do_not_keep_others_out() {
    let folder = tempfile::tempdir().unwrap();
    let variables = HashMap::from([
        ("PORT", "0".to_owned()),
        ("ECHOIC_PROVIDER", "demo".to_owned()),
        ("ECHOIC", env!("CARGO_BIN_EXE_echoic").to_owned()),
    ]);
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "ulimit -n 128 && exec \"$ECHOIC\""]).current_dir(folder.path());
    shell.env_clear().envs(&variables).stderr(Stdio::piped()).kill_on_drop(true);
    let server = ServerProcess::spawn(shell).await;
    let address = server.base.strip_prefix("http://").unwrap();
    let mut idle = Vec::new();
    for _ in 0..300 {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let ready = client.get(format!("{}/health/ready", server.base)).send();
    assert_eq!(within_deadline(ready).await.unwrap().status(), 200);
    // Streams are in use, so they stay, and requests over the limit are refused.
    let mut streams = Vec::new();
    let refused = within_deadline(async {
        loop {
            let events = client.get(format!("{}/api/events", server.base)).send().await.unwrap();
            if events.status() != 200 {
                return events;
            }
            streams.push(events);
        }
    });
    assert_eq!(refused.await.status(), 429);
    assert!(streams.len() < 128, "{}", streams.len());
    let live = client.get(format!("{}/health/live", server.base)).send();
    assert_eq!(within_deadline(live).await.unwrap().status(), 200);
    drop((idle, streams));
    server.terminate().await;
}

#[tokio::test]
async fn running_server_is_live_and_ready() {
    let server = Server::start().await;
    for path in ["/health/live", "/health/ready"] {
        assert_eq!(server.get(path).await.data()["status"], "ok");
    }
    let page = server.get("/").await;
    assert!(page.header("content-type").starts_with("text/html"));
    assert!(page.body.as_str().unwrap().contains("/assets/js/main.js"));
}

#[tokio::test]
async fn unwritable_store_makes_unready_and_stores_nothing_partial() {
    let server = Server::on_file(&[]).await;
    let session = server.session().await;
    let other = rusqlite::Connection::open(server.database()).unwrap();
    // A second connection holds the write lock until the rollback below, so every write of the
    // server times out.
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = server.post("/api/chat", json!({"sessionId": session, "message": "hi"})).await;
    assert_eq!(refused.failure(), (503, "store_unavailable"));
    assert!(!refused.body.to_string().contains("locked"), "no database message is shown");
    assert_eq!(server.get("/health/ready").await.failure(), (503, "store_unavailable"));
    assert_eq!(server.get("/health/live").await.status, 200);
    assert_eq!(server.transcript(&session).await, Vec::<String>::new());
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(server.get("/health/ready").await.status, 200);
    assert_eq!(server.turn(&session, "hi", "hello").await.last().unwrap(), "user: hi");
    assert_eq!(server.transcript(&session).await, ["user: hi", "assistant: hello"]);
}

#[tokio::test]
async fn shutdown_rejects_new_turns_and_finishes_running_ones() {
    let mut server = Server::start().await;
    let session = server.session().await;
    let (mut frames, mut call) = server.open_turn(&session, "still there?").await;
    call.text("Yes, ");
    frames.until("text-delta").await;
    server.terminate();
    // The shutdown is asynchronous: wait until the server has noticed it, or the next turn might
    // still be accepted.
    crate::support::within_deadline(async {
        while server.get("/health/ready").await.status == 200 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(server.get("/health/ready").await.failure(), (503, "shutting_down"));
    assert_eq!(
        server.post("/api/chat", json!({"message": "one more"})).await.failure(),
        (503, "shutting_down")
    );
    call.text("to the end.");
    call.finish(json!({}));
    frames.until("finish").await;
    server.restart().await;
    assert_eq!(
        server.transcript(&session).await,
        ["user: still there?", "assistant: Yes, to the end."]
    );
}

#[tokio::test]
async fn turn_outlasting_the_grace_period_is_cut_and_stored() {
    let mut server = Server::with(&["--shutdown-grace=1ms"]).await;
    let session = server.session().await;
    let (mut frames, mut call) = server.open_turn(&session, "a long one").await;
    call.text("It began ");
    frames.until("text-delta").await;
    server.restart().await;
    frames.until("abort").await;
    let reply = server.last_message(&session).await;
    assert_eq!((&reply["status"], &reply["content"]), (&json!("interrupted"), &json!("It began ")));
}

#[tokio::test]
async fn provider_models_are_listed_with_the_default() {
    let server = Server::start().await;
    let models = json!({
        "models": [
            {"id": "gated-1", "provider": "openai"},
            {"id": "gpt-4o", "provider": "openai", "contextWindow": 128_000},
        ],
        "default": "gated-1"
    });
    assert_eq!(server.get("/api/models").await.data(), models);
}

#[tokio::test]
async fn request_id_is_accepted_and_an_invalid_one_replaced() {
    let server = Server::start().await;
    let named =
        |id: &'static str| server.request(Method::GET, "/health/live").header("x-request-id", id);
    assert_eq!(fetch(named("trace-7")).await.header("x-request-id"), "trace-7");
    assert_eq!(fetch(named("has space")).await.header("x-request-id").len(), 36);
}
