//! Admin routes, the audit log, and permanent deletion.

use crate::support::process::{ServerProcess, run};
use crate::support::server::{fetch, tuning};
use crate::support::{EventListener, Server, within_deadline};
use echoic::app::TimingOptions;
use echoic::domain::key::AuthScope;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

/// A server with sessions of ann and ben, and the keys of ann and of an admin.
async fn server_with_sessions() -> (Server, String, String) {
    let server = Server::with(&["--auth=keys"]).await;
    let (ann, root) =
        (server.key("ann", AuthScope::Chat).await, server.key("root", AuthScope::Admin).await);
    let ben = server.key("ben", AuthScope::Chat).await;
    for (key, session) in [(&ann, "a1"), (&ann, "a2"), (&ben, "b1")] {
        let who = server.with_key(key);
        who.post("/api/chat-sessions", json!({"sessionId": session})).await.data();
        let said = json!({"chatSessionId": session, "role": "user", "content": format!("secret of {session}")});
        assert_eq!(who.post("/api/chat-messages", said).await.status, 201);
    }
    (server, ann, root)
}

#[tokio::test]
async fn admin_lists_users_and_sessions_without_content() {
    let (server, ann, root) = server_with_sessions().await;
    let root = server.with_key(&root);
    let users = root.get("/api/admin/users").await.data();
    let lines: Vec<Value> = users["users"]
        .as_array()
        .unwrap()
        .iter()
        .map(|user| json!([user["userId"], user["sessions"], user["messages"]]))
        .collect();
    assert_eq!(lines, [json!(["ann", 2, 2]), json!(["ben", 1, 1])]);
    assert_eq!(users["pagination"]["total"], 2);
    let second = root.get("/api/admin/users?limit=1&page=2").await.data();
    assert_eq!(second["users"][0]["userId"], "ben");

    let sessions = root.get("/api/admin/sessions?user=ann&sort=createdAt").await.data();
    let ids: Vec<&Value> =
        sessions["sessions"].as_array().unwrap().iter().map(|line| &line["sessionId"]).collect();
    assert_eq!(ids, ["a1", "a2"]);
    assert!(!sessions.to_string().contains("secret"), "{sessions}");
    for guess in ["search=secret", "sort=title"] {
        let reply = root.get(&format!("/api/admin/sessions?{guess}")).await;
        assert_eq!(reply.failure(), (400, "invalid_request"));
    }
    let shown = root.get("/api/admin/sessions?content=true&search=secret").await.data();
    assert_eq!(shown["pagination"]["total"], 3);
    assert!(shown["sessions"][0]["lastMessage"].as_str().unwrap().starts_with("secret of"));

    for path in ["/api/admin/users", "/api/admin/sessions", "/api/admin/sessions?content=true"] {
        let reply = server.with_key(&ann).get(path).await;
        assert_eq!(reply.failure(), (403, "forbidden"), "{path}");
    }
}

#[tokio::test]
async fn log_records_admin_requests_without_content_or_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let secret = "a secret of more than thirty-two bytes";
    let mut variables = HashMap::from([
        ("PORT", "0".to_owned()),
        ("ECHOIC_PROVIDER", "demo".to_owned()),
        ("ECHOIC_AUTH", "keys".to_owned()),
        ("OPENAI_API_KEY", "sk-provider-key".to_owned()),
        ("RUST_LOG", "trace,hyper=info".to_owned()),
    ]);
    let create = async |user: &str, more: &[&str]| {
        let arguments: Vec<&str> = [&["keys", "create", "--user", user], more].concat();
        run(folder.path(), &HashMap::new(), &arguments).await.1.trim().to_owned()
    };
    let (ann, root) = (create("ann", &[]).await, create("root", &["--admin"]).await);
    variables.insert("JWT_SECRET", secret.to_owned());
    let server = ServerProcess::start(folder.path(), &variables).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let ask = |method: Method, key: &str, path: &str| {
        client.request(method, format!("{}{path}", server.base)).bearer_auth(key)
    };
    let body = json!({"sessionId": "s1", "title": "Title hunter2"});
    assert_eq!(fetch(ask(Method::POST, &ann, "/api/chat-sessions").json(&body)).await.status, 201);
    let said =
        json!({"sessionId": "s1", "message": "Message hunter2", "systemPrompt": "Prompt hunter2"});
    within_deadline(ask(Method::POST, &ann, "/api/chat").json(&said).send())
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    let ticket = fetch(ask(Method::POST, &ann, "/api/tickets")).await.data()["ticket"].clone();
    let ticket = ticket.as_str().unwrap();
    let stream = client.get(format!("{}/api/events?ticket={ticket}", server.base)).send();
    drop(EventListener::opened(within_deadline(stream).await.unwrap()).await);
    for path in
        ["/api/chat-sessions?search=hunter2", "/api/chat-sessions/s1/memory?message=hunter2"]
    {
        assert_eq!(fetch(ask(Method::GET, &ann, path)).await.status, 200);
    }
    let broken = ask(Method::POST, &ann, "/api/chat").header("content-type", "application/json");
    fetch(broken.body(r#"{"message": "hunter2", "model": hunter2}"#)).await;
    fetch(ask(Method::GET, "ek_wrong_hunter2", "/api/me")).await;
    fetch(ask(Method::GET, &root, "/api/chat-sessions/s1/messages")).await.data();
    fetch(ask(Method::GET, &root, "/api/admin/sessions?content=true&user=ann&search=hunter2"))
        .await
        .data();
    for path in [
        "/api/export?sessionId=s1",
        "/api/export?session%49d=s1",
        "/api/export?projectId=p1",
        "/api/search?q=hunter2&sessionId=s1",
    ] {
        fetch(ask(Method::GET, &root, path)).await;
    }
    let listening =
        within_deadline(ask(Method::GET, &root, "/api/events?sessionId=s1").send()).await;
    drop(EventListener::opened(listening.unwrap()).await);
    let posted = json!({"chatSessionId": "s1", "role": "user", "content": "Post hunter2"});
    assert_eq!(
        fetch(ask(Method::POST, &root, "/api/chat-messages").json(&posted)).await.status,
        201
    );
    let asked = json!({"sessionId": "s1", "message": "hunter2"});
    let turn =
        within_deadline(ask(Method::POST, &root, "/api/chat").json(&asked).send()).await.unwrap();
    within_deadline(turn.text()).await.unwrap();
    let asked = json!({"session_id": "s1", "messages": [{"role": "user", "content": "hunter2"}]});
    let turn = ask(Method::POST, &root, "/v1/chat/completions").json(&asked);
    assert_eq!(within_deadline(turn.send()).await.unwrap().status(), 200);
    let asked = json!({"conversation": "conv_s1", "input": "hunter2"});
    let turn = ask(Method::POST, &root, "/v1/responses").json(&asked);
    assert_eq!(within_deadline(turn.send()).await.unwrap().status(), 200);
    // A search without a session covers the admin's own sessions only and is not audited.
    fetch(ask(Method::GET, &root, "/api/search?q=hunter2")).await.data();
    fetch(ask(Method::DELETE, &root, "/api/chat-sessions/s1")).await.data();

    let (_, log) = server.terminate().await;
    for private in ["hunter2", ann.as_str(), root.as_str(), ticket, "sk-provider-key", secret] {
        let line = log.lines().find(|line| line.contains(private));
        assert_eq!(line, None, "{private} stands in the log");
    }
    let acts: Vec<&str> = log.lines().filter(|line| line.contains("audit=true")).collect();
    let expected: &[&[&str]] = &[
        &["GET", "/api/chat-sessions/s1/messages"],
        &["GET", "/api/admin/sessions", "content=true", "user=ann"],
        &["GET", "/api/export", "sessionId=s1"],
        &["GET", "/api/export", "sessionId=s1"],
        &["GET", "/api/export", "projectId=p1"],
        &["GET", "/api/search", "sessionId=s1"],
        &["GET", "/api/events", "sessionId=s1"],
        &["POST", "/api/chat-messages", "session.id=s1"],
        &["POST", "/api/chat", "session.id=s1"],
        &["POST", "/v1/chat/completions", "session.id=s1"],
        &["POST", "/v1/responses", "session.id=s1"],
        &["DELETE", "/api/chat-sessions/s1"],
    ];
    assert_eq!(acts.len(), expected.len(), "{acts:#?}");
    for (line, fields) in acts.iter().zip(expected) {
        assert!(line.contains("admin=root") && fields.iter().all(|it| line.contains(it)), "{line}");
    }
}

#[tokio::test]
async fn deleting_my_data_removes_only_the_callers_data() {
    let (server, ann, root) = server_with_sessions().await;
    let own = server.with_key(&ann);
    let project = own.post("/api/projects", json!({"name": "P"})).await.data()["projectId"].clone();
    let body = json!({"sessionId": "a3", "projectId": project, "participants": ["ben"]});
    own.post("/api/chat-sessions", body).await.data();
    let chat =
        own.request(Method::POST, "/api/chat").json(&json!({"sessionId": "a3", "message": "hi"}));
    let stream = within_deadline(chat.send()).await.unwrap();
    let _call = server.upstream.call().await;

    let deleted = fetch(own.request(Method::DELETE, "/api/me/data")).await.data();
    assert_eq!(deleted, json!({"deletedSessions": 3, "deletedMessages": 3, "deletedProjects": 1}));
    within_deadline(stream.text()).await.unwrap();
    assert_eq!(own.get("/api/chat-sessions").await.data()["pagination"]["total"], 0);
    assert_eq!(own.get("/api/projects").await.data()["pagination"]["total"], 0);
    assert_eq!(own.get("/api/export").await.body["sessions"], json!([]));
    let left = server.with_key(&root).get("/api/admin/users").await.data();
    assert_eq!(left["users"][0]["userId"], "ben");
    let again = fetch(own.request(Method::DELETE, "/api/me/data")).await.data();
    assert_eq!(again, json!({"deletedSessions": 0, "deletedMessages": 0, "deletedProjects": 0}));
    let admins = fetch(server.with_key(&root).request(Method::DELETE, "/api/me/data")).await.data();
    assert_eq!(admins["deletedSessions"], 0, "an admin deletes only their own");
}

#[tokio::test]
async fn turns_running_during_deletion_leave_no_usage_rows() {
    let mut server = Server::with(&["--auth=keys"]).await;
    let ann = server.key("ann", AuthScope::Chat).await;
    let own = server.with_key(&ann);
    let ask = |path: &str, body: Value| own.request(Method::POST, path).json(&body);
    let turn = ask("/api/chat", json!({"message": "hi"}));
    let turn = within_deadline(turn.send()).await.unwrap();
    let mut running = server.upstream.call().await;
    running.text("half");
    let alone = json!({"messages": [{"role": "user", "content": "hi"}], "stream": true});
    let alone = tokio::spawn(ask("/v1/chat/completions", alone).send());
    let mut direct = server.upstream.call().await;
    direct.text("half");
    let alone = within_deadline(alone).await.unwrap().unwrap();

    fetch(own.request(Method::DELETE, "/api/me/data")).await.data();
    direct.reply("done");
    within_deadline(alone.text()).await.unwrap();
    within_deadline(turn.text()).await.unwrap();
    // The ledger is written in the background; a restart waits for entries that are still pending.
    server.restart().await;
    let usage = server.with_key(&ann).get("/api/usage?groupBy=session").await.data();
    assert_eq!((&usage["usage"], &usage["total"]["sideCalls"]), (&json!([]), &json!(0)));
}

#[tokio::test]
async fn deleted_text_is_gone_from_database_files_after_stop() {
    let mut server = Server::on_file(&[]).await;
    let folder = server.folder.path().to_owned();
    let holding = |word: &str| {
        let holds = |file: &std::path::Path| {
            let bytes = std::fs::read(file).unwrap();
            bytes.windows(word.len()).any(|window| window == word.as_bytes())
        };
        let files = std::fs::read_dir(&folder).unwrap();
        let files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        files.into_iter().filter(|file| holds(file)).count()
    };
    let session = server.session().await;
    server.turn(&session, "a xylophone", "of zyzzyva wood").await;
    for (at, word) in ["xylophone", "zyzzyva"].into_iter().enumerate() {
        // Search indexing runs in the background, so ask until the words are in the index.
        loop {
            let found = server.get(&format!("/api/search?q={word}")).await.data();
            // The user's message is also the title, so it is found twice.
            if found["results"].as_array().unwrap().len() == 2 - at {
                break;
            }
        }
        assert!(holding(word) > 0, "{word}");
    }
    let mode = std::fs::metadata(server.database()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    server.delete("/api/me/data").await.data();
    server.stop().await;
    for word in ["xylophone", "zyzzyva"] {
        assert_eq!(holding(word), 0, "{word}");
    }
}

#[tokio::test]
async fn sessions_idle_past_the_retention_are_deleted() {
    let quick = TimingOptions { retention_interval: Duration::from_millis(20), ..tuning() };
    let server = Server::tuned(&["--retention=1h"], quick).await;
    let old = json!({"sessions": [
        {"sessionId": "old", "createdAt": "2020-01-01T00:00:00Z", "messages": [
            {"role": "user", "content": "x", "createdAt": "2020-01-02T00:00:00Z"}]},
    ]});
    let fresh = server.session().await;
    let mut events = EventListener::of(&server, "").await;
    server.post("/api/import", old).await.data();
    let is_gone = |event: &Value| event["action"] == "deleted" && event["sessionId"] == "old";
    while !is_gone(&events.next().await) {}
    assert_eq!(server.get("/api/chat-sessions/old").await.status, 404);
    assert_eq!(server.get(&format!("/api/chat-sessions/{fresh}")).await.status, 200);
}

/// Starts a server with this many idle sessions and recent ones, runs a few sweeps, and returns the
/// number of sessions left.
async fn sessions_left_by_retention(flags: &[&str], idle: usize, recent: usize) -> Value {
    let mut server = Server::on_file(&[]).await;
    let session = |number: usize| {
        let at = if number < idle { json!("2020-01-02T00:00:00Z") } else { Value::Null };
        json!({"sessionId": format!("s{number}"), "messages": [
            {"role": "user", "content": "x", "createdAt": at}]})
    };
    let sessions: Vec<Value> = (0..idle + recent).map(session).collect();
    server.post("/api/import", json!({"sessions": sessions})).await.data();
    server.stop().await;
    let quick = TimingOptions { retention_interval: Duration::from_millis(20), ..tuning() };
    let url = format!("--database-url={}", server.database_url());
    let flags = [&["--retention=1h", &url], flags].concat();
    let server = Server::tuned(&flags, quick).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    server.get("/api/chat-sessions").await.data()["pagination"]["total"].clone()
}

#[tokio::test]
async fn retention_never_deletes_a_large_share_unless_told() {
    for (idle, recent, left) in [(6, 50, 56), (6, 54, 54), (2, 2, 2), (3, 1, 4), (1, 0, 1)] {
        assert_eq!(sessions_left_by_retention(&[], idle, recent).await, left, "{idle} idle");
    }
    let allowed = ["--retention-limit=off"];
    assert_eq!(sessions_left_by_retention(&allowed, 6, 0).await, 0);
    let allowed = ["--retention-limit=60%"];
    assert_eq!(sessions_left_by_retention(&allowed, 6, 4).await, 4);
}
