//! `echoic migrate`: the real program moves a SQLite database to MongoDB; clients read the same
//! before and after.

use crate::search::search_until_found;
use crate::support::mongo::{MongoServer, database};
use crate::support::process::{ServerProcess, command, run};
use crate::support::server::fetch;
use crate::support::sse::text_of;
use crate::support::{FrameReader, Server, Upstream, within_deadline};
use futures::TryStreamExt;
use mongodb::Client;
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;
use tokio::io::{AsyncBufReadExt, BufReader};

/// Runs the command: exit code, standard output, standard error.
async fn migrate(folder: &Path, from: &str, to: &str) -> (i32, String, String) {
    run(folder, &HashMap::new(), &["migrate", "--from", from, "--to", to]).await
}

/// Migrates a file in the folder, which must succeed. Returns the final report.
async fn migrate_successfully(folder: &Path, file: &str, to: &str) -> String {
    let (code, out, stderr) = migrate(folder, &format!("sqlite://{file}"), to).await;
    assert_eq!(code, 0, "{out}{stderr}");
    out
}

/// The numbers in a row of the report's table.
fn report_counts(out: &str, what: &str) -> Vec<u64> {
    let line = out.lines().find(|line| line.starts_with(what)).unwrap_or_else(|| panic!("{out}"));
    line.split_whitespace().skip(1).map(|number| number.parse().unwrap()).collect()
}

/// A server on a database, with its own provider.
async fn server_on(url: &str) -> Server {
    Server::with(&[&format!("--database-url={url}")]).await
}

/// Every response that a client can read, by path.
async fn read_everything(server: &Server) -> Value {
    let mut answers = json!({});
    let mut lists = vec!["/api/chat-sessions?search=na".to_owned()];
    lists.extend(
        ["true", "false"]
            .map(|archived| format!("/api/chat-sessions?limit=100&archived={archived}")),
    );
    for path in lists {
        let list = server.get(&path).await.data();
        for session in list["sessions"].as_array().unwrap() {
            let base = format!("/api/chat-sessions/{}", session["sessionId"].as_str().unwrap());
            for rest in ["", "/messages", "/messages?view=all&limit=100", "/nodes", "/memory"] {
                let path = format!("{base}{rest}");
                answers[&path] = server.get(&path).await.data();
            }
        }
        answers[&path] = list;
    }
    let projects = server.get("/api/projects").await.data();
    for project in projects["projects"].as_array().unwrap() {
        let id = project["projectId"].as_str().unwrap();
        for file in project["files"].as_array().unwrap() {
            let path = format!("/api/projects/{id}/files/{}", file["path"].as_str().unwrap());
            answers[&path] = server.get(&path).await.data();
        }
    }
    answers["/api/projects"] = projects;
    answers
}

/// The contents of a MongoDB database, collection by collection.
async fn database_contents(url: &str) -> Vec<(&'static str, Vec<Document>)> {
    let database = Client::with_uri_str(url).await.unwrap().default_database().unwrap();
    let mut contents = Vec::new();
    for name in ["projects", "sessions", "nodes", "queue", "turn_log", "idempotency_keys"] {
        let collection = database.collection::<Document>(name);
        let find = collection.find(doc! {}).sort(doc! { "_id": 1 });
        let documents = within_deadline(async { find.await?.try_collect().await });
        contents.push((name, documents.await.unwrap()));
    }
    contents
}

/// The documents of one collection.
async fn collection_documents(url: &str, name: &str) -> Vec<Document> {
    database_contents(url).await.into_iter().find(|(collection, _)| *collection == name).unwrap().1
}

/// A session with this many messages of 100 KiB, each of which fills a node.
async fn large_session(server: &Server, session: &str, messages: usize) {
    let large = |number: usize| json!({"id": format!("m{number}"), "role": "user", "content": "many words ".repeat(10 << 10)});
    let messages: Vec<_> = (0..messages).map(large).collect();
    let file =
        json!({"sessions": [{"sessionId": session, "title": "Large", "messages": messages}]});
    server.post("/api/import", file).await.data();
}

/// Fills a server with sessions and projects in which every field is set.
async fn fill_server(server: &Server) {
    large_session(server, "large", 12).await;
    let shared = json!({"sessions": [{"sessionId": "shared", "participants": ["local", "bob"],
        "invited": ["carol"], "placements": {"bob": {"pinned": true, "archived": true}}}]});
    server.post("/api/import", shared).await.data();
    let project = json!({"name": "Shop", "description": "Sells plants", "systemPrompt": "Be brief",
        "files": [{"path": "src/a.ts", "content": "let a = 'ä'\n", "language": "typescript"}]});
    let project = server.post("/api/projects", project).await.data()["projectId"].clone();
    let file = format!("/api/projects/{}/files/empty", project.as_str().unwrap());
    server.put(&file, json!({"content": ""})).await.data();
    let new = json!({
        "sessionId": "rich", "title": "Naïve Wörter", "projectId": project, "participants": ["bob"],
        "meta": {"b": 1, "a": [1.50, "ä"]}, "userMeta": {"browser": "Firefox"},
        "theme": {"colour": "#fff"}, "settings": {"temperature": 0.1, "systemPrompt": "Be brief"},
    });
    server.post("/api/chat-sessions", new).await.data();
    server.turn("rich", "first", "one").await;
    server.turn("rich", "second", "two").await;
    let path = "/api/chat-sessions/rich";
    let said = server.get(&format!("{path}/messages")).await.data()["messages"].clone();
    // A second branch, and a switch back to the first.
    let edit = json!({"sessionId": "rich", "message": "other", "parentId": said[1]["id"]});
    let mut frames = server.chat(edit).await;
    server.upstream.call().await.reply("three");
    frames.until("[DONE]").await;
    server.put(&format!("{path}/head"), json!({"messageId": said[3]["id"]})).await.data();
    server.post(&format!("{path}/seen"), json!({"upTo": said[1]["id"]})).await.data();
    server.post(&format!("{path}/fork"), json!({"messageId": said[1]["id"]})).await.data();
    let picture = json!({
        "chatSessionId": "rich", "role": "user", "content": "", "type": "image",
        "parts": [{"type": "image", "url": "https://example.com/x.png"}], "clientMessageId": "mine",
    });
    server.post("/api/chat-messages", picture).await.data();
    // A failed reply, and an archived session.
    let (mut frames, mut call) = server.open_turn("rich", "and now?").await;
    call.text("hm");
    frames.until("text-delta").await;
    call.break_connection();
    frames.until("error").await;
    server.post("/api/chat-sessions", json!({"sessionId": "empty"})).await.data();
    let change = json!({"archived": true, "pinned": true, "status": "closed"});
    server.patch("/api/chat-sessions/empty", change).await.data();
}

#[tokio::test]
async fn migrated_database_answers_every_read_the_same() {
    let Some(url) = database() else { return };
    let mut server = Server::on_file(&[]).await;
    fill_server(&server).await;
    let before = read_everything(&server).await;
    server.stop().await;
    let folder = server.folder.path();
    let listed = |url: String| async move {
        let variables = HashMap::from([("DATABASE_URL", url)]);
        run(folder, &variables, &["sessions", "--json"]).await
    };
    let listed_before = listed("sqlite://echoic.db".to_owned()).await;

    let out = migrate_successfully(folder, "echoic.db", &url).await;
    assert_eq!(report_counts(&out, "sessions"), [5, 5], "{out}");
    assert_eq!(report_counts(&out, "projects"), [1, 1], "{out}");
    assert_eq!(report_counts(&out, "messages")[0], report_counts(&out, "messages")[1]);
    let nodes = before["/api/chat-sessions/large"]["nodes"].as_array().unwrap().len() as u64;
    assert!(nodes > 5 && report_counts(&out, "nodes")[1] > nodes, "{out}");
    assert!(out.contains("5 sessions migrated, 0 already present"), "{out}");
    assert_eq!(listed(url.clone()).await, listed_before);
    let moved = server_on(&url).await;
    assert_eq!(read_everything(&moved).await, before);
    // The history is in the next prompt, too.
    let prompt = moved.turn("rich", "go on", "four").await;
    assert!(prompt.contains(&"assistant: one".to_owned()), "{prompt:?}");
    // Search finds the migrated messages.
    search_until_found(&moved, "three", 1).await;
}

#[tokio::test]
async fn migrated_response_keeps_its_sequence_numbers() {
    let Some(url) = database() else { return };
    let mut server = Server::on_file(&[]).await;
    let body = json!({"input": "hi", "background": true, "stream": true, "metadata": {"a": "b"}});
    let answer = async { server.upstream.call().await.reply("hello") };
    let (streamed, ()) = futures::future::join(server.post("/v1/responses", body), answer).await;
    let streamed = streamed.body.as_str().unwrap().to_owned();
    let id = streamed.split("\"id\":\"").find_map(|rest| rest.strip_prefix("resp_")).unwrap();
    let route = format!("/v1/responses/resp_{}", id.split('"').next().unwrap());
    let before = server.get(&route).await.body;
    server.stop().await;
    migrate_successfully(server.folder.path(), "echoic.db", &url).await;
    let moved = server_on(&url).await;
    assert_eq!(moved.get(&route).await.body, before);
    assert_eq!(before["metadata"], json!({"a": "b"}));
    assert_eq!(moved.get(&format!("{route}?stream=true")).await.body, streamed);
}

#[tokio::test]
async fn repeated_migration_adds_only_new_data() {
    let Some(url) = database() else { return };
    let mut server = Server::on_file(&[]).await;
    fill_server(&server).await;
    server.stop().await;
    migrate_successfully(server.folder.path(), "echoic.db", &url).await;
    let moved = database_contents(&url).await;
    let out = migrate_successfully(server.folder.path(), "echoic.db", &url).await;
    assert!(out.contains("0 sessions migrated, 5 already present"), "{out}");
    assert_eq!(database_contents(&url).await, moved);

    server.start_again().await;
    let fresh = server.session().await;
    server.turn(&fresh, "hi", "hello").await;
    server.stop().await;
    let out = migrate_successfully(server.folder.path(), "echoic.db", &url).await;
    assert!(out.contains("1 sessions migrated, 5 already present"), "{out}");
    assert_eq!(server_on(&url).await.transcript(&fresh).await, ["user: hi", "assistant: hello"]);
}

#[tokio::test]
async fn killed_migration_shows_no_partial_session_and_resumes() {
    let Some(mongo) = MongoServer::start(&["--enable-test-commands"]).await else { return };
    let url = mongo.url("echoic");
    let mut server = Server::on_file(&[]).await;
    large_session(&server, "large", 40).await;
    let before = read_everything(&server).await;
    server.stop().await;

    // Two batches are inserted, the third hangs: the migration is killed in the middle of a
    // session.
    let hang = doc! { "blockConnection": true, "blockTimeMS": 600_000 };
    mongo.set_failpoint(doc! { "skip": 2 }, &["insert"], hang).await;
    let arguments = ["migrate", "--from", "sqlite://echoic.db", "--to", &url];
    let mut moving = command(server.folder.path(), &HashMap::new(), &arguments).spawn().unwrap();
    let arrived = async {
        while collection_documents(&url, "nodes").await.len() < 12 {
            tokio::task::yield_now().await;
        }
    };
    within_deadline(arrived).await;
    within_deadline(moving.kill()).await.unwrap();
    mongo.clear_failpoint().await;
    assert_eq!(collection_documents(&url, "sessions").await, []);
    let half = collection_documents(&url, "nodes").await.len();
    assert!(half < 40, "{half}");

    let out = migrate_successfully(server.folder.path(), "echoic.db", &url).await;
    assert!(out.contains("1 sessions migrated, 0 already present"), "{out}");
    assert_eq!(read_everything(&server_on(&url).await).await, before);
}

#[tokio::test]
async fn transient_database_failure_does_not_stop_migration() {
    let Some(mongo) = MongoServer::start(&["--enable-test-commands"]).await else { return };
    let (url, mut server) = (mongo.url("echoic"), Server::on_file(&[]).await);
    large_session(&server, "large", 20).await;
    let before = read_everything(&server).await;
    server.stop().await;
    let close = doc! { "closeConnection": true };
    mongo.set_failpoint(doc! { "times": 4 }, &["insert"], close).await;
    let out = migrate_successfully(server.folder.path(), "echoic.db", &url).await;
    assert_eq!(report_counts(&out, "messages"), [20, 20]);
    assert_eq!(read_everything(&server_on(&url).await).await, before);
}

#[tokio::test]
async fn session_used_at_the_target_is_skipped_and_reported() {
    let Some(url) = database() else { return };
    let mut server = Server::on_file(&[]).await;
    for session in ["equal", "renamed", "answered"] {
        server.post("/api/chat-sessions", json!({"sessionId": session})).await.data();
        server.turn(session, "hi", "hello").await;
    }
    server.stop().await;
    let folder = server.folder.path();
    migrate_successfully(folder, "echoic.db", &url).await;
    let mut target = server_on(&url).await;
    target.put("/api/chat-sessions/renamed/title", json!({"title": "Mine"})).await.data();
    target.turn("answered", "more", "of it").await;
    target.stop().await;

    let (code, out, stderr) = migrate(folder, "sqlite://echoic.db", &url).await;
    assert_eq!(code, 1);
    assert!(stderr.ends_with("echoic: 2 of 3 sessions were not migrated\n"), "{stderr}");
    let named: Vec<_> = out.lines().filter(|line| line.starts_with("skipped")).collect();
    assert_eq!(named.len(), 2, "{out}");
    for session in ["renamed", "answered"] {
        assert!(named.iter().any(|line| line.ends_with(&format!(": {session}"))), "{out}");
    }
    assert_eq!(report_counts(&out, "sessions"), [3, 1]);
    target.start_again().await;
    let renamed = target.get("/api/chat-sessions/renamed").await.data();
    assert_eq!(renamed["title"], "Mine");
    assert_eq!(target.transcript("answered").await.len(), 4);
}

#[tokio::test]
async fn project_changed_at_the_target_is_skipped_and_reported() {
    let Some(url) = database() else { return };
    let mut server = Server::on_file(&[]).await;
    fill_server(&server).await;
    server.stop().await;
    let folder = server.folder.path();
    migrate_successfully(folder, "echoic.db", &url).await;
    let mut target = server_on(&url).await;
    let project = target.get("/api/projects").await.data()["projects"][0]["projectId"].clone();
    let id = project.as_str().unwrap();
    let file = format!("/api/projects/{id}/files/src/a.ts");
    target.put(&file, json!({"content": "changed"})).await.data();
    target.stop().await;

    let (code, out, stderr) = migrate(folder, "sqlite://echoic.db", &url).await;
    assert_eq!(code, 1);
    assert!(stderr.ends_with("echoic: 1 of 1 projects were not migrated\n"), "{stderr}");
    assert!(out.contains(&format!("differs in the target: project {id}\n")), "{out}");
    target.start_again().await;
    assert_eq!(target.get(&file).await.data()["content"], "changed");
}

#[tokio::test]
async fn migrated_cut_reply_is_kept_and_queued_turn_is_answered() {
    let Some(url) = database() else { return };
    let (folder, upstream) = (tempfile::tempdir().unwrap(), Upstream::start().await);
    let variables = HashMap::from([
        ("PORT", "0".to_owned()),
        ("OPENAI_BASE_URL", upstream.base_url.clone()),
        ("ECHOIC_MODEL", "gated-1".to_owned()),
    ]);
    let mut source = ServerProcess::start(folder.path(), &variables).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let ask = |base: &str, key: &str, body: &Value| {
        let request = client.post(format!("{base}/api/chat")).header("idempotency-key", key);
        within_deadline(request.json(body).send())
    };
    let new = client.post(format!("{}/api/chat-sessions", source.base));
    fetch(new.json(&json!({"sessionId": "s"}))).await.data();
    let done = json!({"sessionId": "s", "message": "zero"});
    let mut frames = FrameReader::new(ask(&source.base, "k0", &done).await.unwrap());
    upstream.call().await.reply("nought");
    let first = frames.rest().await;
    let body = json!({"sessionId": "s", "message": "one"});
    let mut running = FrameReader::new(ask(&source.base, "k1", &body).await.unwrap());
    let mut call = upstream.call().await;
    call.text("half a reply");
    running.until("text-delta").await;
    let waits = json!({"sessionId": "s", "message": "two", "onBusy": "queue"});
    let _waiting = ask(&source.base, "k2", &waits).await.unwrap();
    let db = rusqlite::Connection::open(folder.path().join("data/echoic.db")).unwrap();
    let logged = "SELECT count(*) FROM turn_log WHERE instr(frames, CAST('half' AS BLOB)) > 0";
    let is_logged = async {
        while db.query_row(logged, [], |row| row.get::<_, i64>(0)).unwrap() == 0 {
            tokio::task::yield_now().await;
        }
    };
    // The kill must come after the partial reply is in the log: only the log survives.
    within_deadline(is_logged).await;
    drop(db);
    source.kill().await;

    migrate_successfully(folder.path(), "data/echoic.db", &url).await;
    let out = migrate_successfully(folder.path(), "data/echoic.db", &url).await;
    assert!(out.contains("0 sessions migrated, 1 already present"), "{out}");
    let target = server_on(&url).await;
    let call = target.upstream.call().await;
    assert_eq!(call.prompt().last().unwrap(), "user: two");
    call.reply("the second");
    let mut waited = FrameReader::new(ask(&target.base, "k2", &waits).await.unwrap());
    assert_eq!(text_of(&waited.rest().await), "the second");
    let said = ["zero", "nought", "one", "half a reply", "two", "the second"];
    let messages = target.get("/api/chat-sessions/s/messages").await.data()["messages"].clone();
    let contents: Vec<_> = messages.as_array().unwrap().iter().map(|one| &one["content"]).collect();
    assert_eq!(contents, said);
    assert_eq!(messages[3]["status"], "interrupted");
    // Idempotency keys are migrated: a repeated request replays its reply.
    let mut again = FrameReader::new(ask(&target.base, "k0", &done).await.unwrap());
    let again = again.rest().await;
    assert_eq!(again[0].data["messageId"], first[0].data["messageId"]);
    assert_eq!(text_of(&again), "nought");
    assert!(target.upstream.is_idle().await);
}

#[tokio::test]
async fn served_file_is_not_migrated_nor_served_while_migrating() {
    let Some(mongo) = MongoServer::start(&["--enable-test-commands"]).await else { return };
    let (url, mut server) = (mongo.url("echoic"), Server::on_file(&[]).await);
    server.session().await;
    let folder = server.folder.path().to_owned();
    let (code, out, stderr) = migrate(&folder, "sqlite://echoic.db", &url).await;
    let sentence =
        "echoic: echoic.db is served by another Echoic; stop it, or set --from to another file\n";
    assert_eq!((code, out.as_str(), stderr.as_str()), (1, "", sentence));
    server.stop().await;

    let hang = doc! { "blockConnection": true, "blockTimeMS": 600_000 };
    mongo.set_failpoint(doc! { "skip": 0 }, &["insert"], hang).await;
    let arguments = ["migrate", "--from", "sqlite://echoic.db", "--to", &url];
    let mut moving = command(&folder, &HashMap::new(), &arguments).spawn().unwrap();
    let mut stderr = BufReader::new(moving.stderr.take().unwrap()).lines();
    let begun = within_deadline(stderr.next_line()).await.unwrap().unwrap();
    assert!(
        begun.starts_with("migrating 1 sessions with 0 messages from sqlite echoic.db"),
        "{begun}"
    );
    let variables = HashMap::from([
        ("DATABASE_URL", "sqlite://echoic.db".to_owned()),
        ("ECHOIC_PROVIDER", "demo".to_owned()),
    ]);
    let (code, _, stderr) = run(&folder, &variables, &["serve", "--port=0"]).await;
    assert!(code == 1 && stderr.contains("is served by another Echoic"), "{code} {stderr}");
    within_deadline(moving.kill()).await.unwrap();
}

#[tokio::test]
async fn impossible_migration_is_reported_in_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let (sqlite, mongo) = ("sqlite://echoic.db", "mongodb://127.0.0.1:1/echoic");
    std::fs::write(folder.path().join("text.db"), "no database at all ".repeat(100)).unwrap();
    for (from, to, code, wants) in [
        (sqlite, mongo, 1, "there is no echoic.db; set --from"),
        ("sqlite://text.db", mongo, 1, "not a database"),
        ("postgres://x", mongo, 2, "sqlite://PATH"),
        (sqlite, "redis://x", 2, "mongodb://HOST:PORT/DATABASE"),
        (mongo, mongo, 2, "mongodump"),
        (sqlite, sqlite, 2, "--to must be mongodb://HOSTS/DATABASE"),
    ] {
        let (ended, out, stderr) = migrate(folder.path(), from, to).await;
        assert!(ended == code && stderr.contains(wants), "{from} {to}: {ended} {stderr}");
        assert_eq!(out, "");
    }
    assert!(!folder.path().join("echoic.db").exists());
    let mut server = Server::on_file(&[]).await;
    server.stop().await;
    for (to, wants) in [
        ("mongodb://ada:s3cret@@127.0.0.1/echoic", "--to is not a valid MongoDB connection string"),
        (mongo, "does it belong to the replica set named in --to?"),
    ] {
        let (ended, _, stderr) = migrate(server.folder.path(), sqlite, to).await;
        assert!(ended == 1 && stderr.contains(wants), "{to}: {ended} {stderr}");
        assert!(!stderr.contains("s3cret") && stderr.lines().count() == 1, "{stderr}");
    }
    let (code, help, _) = run(folder.path(), &HashMap::new(), &["migrate", "--help"]).await;
    assert!(code == 0 && help.contains("can be repeated"), "{help}");
}
