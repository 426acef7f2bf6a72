//! The server is killed at random moments of a large import, fork or deletion and started again:
//! each has happened or has not, a repeat succeeds, and in the end nothing is left in the file.

use crate::support::process::ServerProcess;
use crate::support::server::{ApiResponse, fetch};
use crate::support::within_deadline;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use reqwest::{Client, Method};
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::sleep;

/// A process that is killed while it does something that takes many steps.
struct KilledServer {
    folder: TempDir,
    variables: HashMap<&'static str, String>,
    process: ServerProcess,
    client: Client,
    /// Messages of the large session.
    message_count: usize,
}

impl KilledServer {
    async fn start(message_count: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let variables = [("PORT", "0".to_owned()), ("ECHOIC_PROVIDER", "demo".to_owned())];
        let variables = HashMap::from(variables);
        let process = ServerProcess::start(folder.path(), &variables).await;
        let client = Client::builder().no_proxy().build().unwrap();
        Self { folder, variables, process, client, message_count }
    }

    async fn send(&self, method: Method, path: &str, body: &Value) -> ApiResponse {
        let url = format!("{}{path}", self.process.base);
        fetch(self.client.request(method, url).json(body)).await
    }

    async fn get(&self, path: &str) -> Value {
        self.send(Method::GET, path, &Value::Null).await.body
    }

    /// Kills the server some time after a request was sent, and starts it again.
    async fn kill_within(&mut self, delay: Duration, method: Method, path: &str, body: &Value) {
        let url = format!("{}{path}", self.process.base);
        let request = self.client.request(method, url).json(body).send();
        let request = tokio::spawn(request);
        sleep(delay).await;
        self.process.kill().await;
        // Answered or not: what counts is what is there afterwards.
        drop(within_deadline(request).await.unwrap());
        self.process = ServerProcess::start(self.folder.path(), &self.variables).await;
    }

    /// Asserts that every session is whole, and returns their ids.
    async fn check_sessions(&self) -> Vec<String> {
        let listed = self.get("/api/chat-sessions?limit=100").await;
        let exported = self.get("/api/export").await;
        let exported = exported["sessions"].as_array().unwrap();
        let listed = listed["data"]["sessions"].as_array().unwrap();
        assert_eq!(listed.len(), exported.len());
        for session in listed {
            let id = &session["sessionId"];
            let export = exported.iter().find(|export| export["sessionId"] == *id).unwrap();
            let messages = export["messages"].as_array().unwrap();
            assert_eq!(messages.len(), self.message_count, "{id} is not whole");
            assert_eq!(session["messagesCount"], self.message_count);
            assert_eq!(messages.last().unwrap()["id"], session["headId"]);
        }
        listed.iter().map(|session| session["sessionId"].as_str().unwrap().to_owned()).collect()
    }

    async fn import(&self, file: &Value) {
        let imported = self.send(Method::POST, "/api/import", file).await;
        assert_eq!(imported.status, 200, "{}", imported.body);
        assert!(self.check_sessions().await.contains(&"large".to_owned()));
    }

    async fn delete(&self, session: &str) {
        let path = format!("/api/chat-sessions/{session}");
        let deleted = self.send(Method::DELETE, &path, &Value::Null).await;
        assert_eq!(deleted.status, 200, "{}", deleted.body);
    }
}

fn large_file(message_count: usize) -> Value {
    let messages: Vec<_> = (0..message_count)
        .map(|number| {
            let role = if number.is_multiple_of(2) { "user" } else { "assistant" };
            json!({"id": format!("m{number}"), "role": role, "content": format!("word{number}")})
        })
        .collect();
    json!({"sessions": [{"sessionId": "large", "messages": messages}]})
}

/// Numbers from a range, the same in every run.
fn random_numbers() -> impl FnMut(Range<u64>) -> u64 {
    let mut runner = TestRunner::deterministic();
    move |range| range.new_tree(&mut runner).unwrap().current()
}

/// `longest` is about the time of an import, in milliseconds.
async fn kill_in_every_operation(server: &mut KilledServer, rounds: usize, longest: u64) {
    let file = large_file(server.message_count);
    let last = format!("m{}", server.message_count - 1);
    let mut random = random_numbers();
    let mut delay = move || Duration::from_millis(random(1..longest));
    for _ in 0..rounds {
        server.kill_within(delay(), Method::POST, "/api/import", &file).await;
        server.check_sessions().await;
        server.import(&file).await;
        let fork = json!({"messageId": last});
        let path = "/api/chat-sessions/large/fork";
        server.kill_within(delay() / 2, Method::POST, path, &fork).await;
        server.check_sessions().await;
        let forked = server.send(Method::POST, path, &fork).await;
        assert_eq!(forked.status, 201, "{}", forked.body);
        for session in server.check_sessions().await.iter().filter(|id| *id != "large") {
            server.delete(session).await;
        }
        let path = "/api/chat-sessions/large";
        server.kill_within(delay() / 4, Method::DELETE, path, &Value::Null).await;
        if server.check_sessions().await.contains(&"large".to_owned()) {
            server.delete("large").await;
        }
        // The id is free at once, whatever the sweep has left to do.
        server.import(&file).await;
        server.delete("large").await;
        assert!(server.check_sessions().await.is_empty());
    }
}

/// Rows of sessions, visible or not.
fn count_rows(database: &Path) -> i64 {
    let file = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let count = |table: &str| -> i64 {
        let sql = format!("SELECT count(*) FROM {table}");
        file.query_row(&sql, [], |row| row.get(0)).unwrap()
    };
    ["sessions", "nodes", "messages", "drafts"].into_iter().map(count).sum()
}

#[tokio::test]
async fn killed_import_fork_and_deletion_leave_nothing_half() {
    let mut server = KilledServer::start(10_000).await;
    kill_in_every_operation(&mut server, 3, 2_000).await;
    let database = server.folder.path().join("data/echoic.db");
    let swept = async {
        while count_rows(&database) > 0 {
            sleep(Duration::from_millis(50)).await;
        }
    };
    within_deadline(swept).await;
}
