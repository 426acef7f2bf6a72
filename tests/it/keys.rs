//! `ECHOIC_AUTH=keys`: keys are created, used, expired and revoked, and invalid ones are rejected.

use crate::support::mongo::database;
use crate::support::process::{ServerProcess, run};
use crate::support::server::{fetch, quick_heartbeat};
use crate::support::{EventListener, Server, within_deadline};
use echoic::auth::{NewApiKey, generate_key};
use echoic::clock;
use echoic::domain::key::AuthScope;
use echoic::domain::{Timestamp, UserId};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;

const KEYS: &[&str] = &["--auth=keys"];

/// The secret part of a key.
fn secret_of(key: &str) -> &str {
    key.splitn(3, '_').nth(2).unwrap()
}

#[tokio::test]
async fn key_admits_its_user_and_hides_their_data_from_others() {
    let server = Server::with(KEYS).await;
    let (alice, bob) =
        (server.key("alice", AuthScope::Chat).await, server.key("bob", AuthScope::Chat).await);
    let made = server.with_key(&alice).post("/api/chat-sessions", json!({"sessionId": "a"})).await;
    assert_eq!((made.status, &made.body["data"]["userId"]), (201, &json!("alice")));
    assert_eq!(server.with_key(&alice).get("/api/chat-sessions/a").await.status, 200);
    let refused = server.with_key(&bob).get("/api/chat-sessions/a").await;
    assert_eq!(refused.failure(), (404, "session_not_found"));
}

#[tokio::test]
async fn every_invalid_key_gets_the_same_rejection() {
    let server = Server::with(KEYS).await;
    let (good, stored) = server.create_stored_key("alice", AuthScope::Chat).await;
    let terms = NewApiKey {
        user: UserId::new_unchecked("alice"),
        name: None,
        scope: AuthScope::Chat,
        expires_at: Some(Timestamp::from_millis(clock::now().as_millis() - 1)),
    };
    let (expired, kept) = generate_key(terms.clone(), clock::now()).unwrap();
    server.store_key(&kept).await;
    let (never_stored, _) = generate_key(terms, clock::now()).unwrap();
    let secret_of_another = format!("ek_{}_{}", stored.key.id, secret_of(&never_stored));
    let mut said = Vec::new();
    for bad in [
        "x",
        "ek_",
        &good[..good.len() - 1],
        &format!("{good}A"),
        &good.to_uppercase(),
        &never_stored,
        &secret_of_another,
        &expired,
        "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9.",
    ] {
        let reply = server.with_key(bad).get("/api/chat-sessions").await;
        assert_eq!(reply.failure(), (401, "unauthenticated"), "{bad}");
        assert_eq!(reply.header("www-authenticate"), r#"Bearer realm="echoic""#);
        said.push(reply.body);
    }
    said.dedup();
    assert_eq!(said.len(), 1, "{said:?}");

    let ask = || server.request(Method::GET, "/api/chat-sessions");
    for odd in [
        ask(),
        ask().header("authorization", &good),
        ask().header("authorization", format!("Basic {good}")),
        ask().bearer_auth(&good).bearer_auth(&good),
        ask().header("x-forwarded-user", "alice"),
        ask().header("cookie", format!("key={good}")),
        server.request(Method::GET, &format!("/api/chat-sessions?key={good}")),
    ] {
        assert_eq!(fetch(odd).await.failure(), (401, "unauthenticated"));
    }
    let spelled = ask().header("authorization", format!("bearer  {good}"));
    assert_eq!(fetch(spelled).await.status, 200, "the scheme's spelling does not count");
}

#[tokio::test]
async fn thousands_of_wrong_keys_do_not_lock_out_a_valid_one() {
    let server = Server::with(KEYS).await;
    let good = server.key("alice", AuthScope::Chat).await;
    for wrong in 0..3000 {
        let key = format!("ek_{wrong:012x}_{}", "A".repeat(43));
        let reply = server.with_key(&key).get("/api/chat-sessions").await;
        assert!(matches!(reply.status, 401 | 429), "{}", reply.body);
    }
    assert_eq!(server.with_key(&good).get("/api/chat-sessions").await.status, 200);
}

#[tokio::test]
async fn oversized_head_is_rejected_and_the_server_goes_on() {
    let server = Server::with(KEYS).await;
    let request = server.request(Method::GET, "/api/chat-sessions");
    let reply = within_deadline(request.bearer_auth("x".repeat(65 << 10)).send()).await.unwrap();
    assert_eq!(reply.status(), 431);
    assert_eq!(server.get("/health/live").await.status, 200);
}

#[tokio::test]
async fn read_only_key_changes_nothing() {
    let server = Server::with(KEYS).await;
    let reader = server.key("alice", AuthScope::Read).await;
    let reader = server.with_key(&reader);
    assert_eq!(reader.get("/api/chat-sessions").await.status, 200);
    assert_eq!(reader.post("/api/render", json!({"markdown": "*a*"})).await.status, 200);
    for (method, path) in [
        (Method::POST, "/api/chat-sessions"),
        (Method::POST, "/api/chat"),
        (Method::DELETE, "/api/chat-sessions/x"),
        (Method::PUT, "/api/chat-sessions/x/title"),
    ] {
        let reply = fetch(reader.request(method, path).json(&json!({"message": "hi"}))).await;
        assert_eq!(reply.failure(), (403, "forbidden"), "{path}");
    }
}

#[tokio::test]
async fn revoked_key_is_rejected_and_its_streams_are_closed() {
    let server = Server::tuned(KEYS, quick_heartbeat()).await;
    let (key, stored) = server.create_stored_key("alice", AuthScope::Chat).await;
    let other = server.key("alice", AuthScope::Chat).await;
    let (alice, other) = (server.with_key(&key), server.with_key(&other));
    assert_eq!(alice.get("/api/chat-sessions").await.status, 200);
    let listen =
        async |request: RequestBuilder| EventListener::opened(request.send().await.unwrap()).await;
    let with_ticket = async || {
        let ticket = alice.post("/api/tickets", json!({})).await.data();
        let path = format!("/api/events?ticket={}", ticket["ticket"].as_str().unwrap());
        server.request(Method::GET, &path)
    };
    let mut cut = [
        listen(alice.request(Method::GET, "/api/events")).await,
        listen(with_ticket().await).await,
    ];
    let mut left_alone = listen(other.request(Method::GET, "/api/events")).await;
    let unused = with_ticket().await;

    let folder = server.folder.path();
    let url = HashMap::from([("DATABASE_URL", server.database_url())]);
    let (code, out, _) = run(folder, &url, &["keys", "revoke", stored.key.id.as_str()]).await;
    assert!(code == 0 && out.contains("is revoked"), "{out}");
    assert_eq!(alice.get("/api/chat-sessions").await.status, 401);
    assert_eq!(fetch(unused).await.status, 401);
    for events in &mut cut {
        within_deadline(events.end()).await;
    }
    other.post("/api/chat-sessions", json!({})).await;
    assert_eq!(left_alone.next().await["type"], "session");
    let (code, _, stderr) = run(folder, &url, &["keys", "revoke", &key]).await;
    assert!(code == 1 && stderr.contains("there is no key"), "{stderr}");
}

#[tokio::test]
async fn last_use_of_a_key_is_stored_by_shutdown() {
    let mut server = Server::with(KEYS).await;
    let (key, stored) = server.create_stored_key("alice", AuthScope::Chat).await;
    let before = clock::now();
    assert_eq!(server.with_key(&key).get("/api/chat-sessions").await.status, 200);
    server.stop().await;
    let store = echoic::app::open_read_only(&server.database_url().parse().unwrap()).await.unwrap();
    let kept = store.find_key(&stored.key.id).await.unwrap().unwrap();
    assert!(kept.key.last_used_at.unwrap() >= before, "{kept:?}");
}

/// The life of a key: created before the first start and while the server runs, listed, used,
/// revoked.
async fn check_key_lifecycle(folder: &Path, database: String) {
    let variables = HashMap::from([("DATABASE_URL", database.clone())]);
    let keys = async |arguments: &[&str]| {
        let arguments: Vec<&str> = [&["keys"], arguments].concat();
        run(folder, &variables, &arguments).await
    };
    let create = ["create", "--user", "alice", "--name", "laptop", "--expires", "90d"];
    let (code, alice, stderr) = keys(&create).await;
    assert!(code == 0 && alice.starts_with("ek_") && alice.lines().count() == 1, "{alice}{stderr}");
    assert!(stderr.contains("it cannot be shown again"), "{stderr}");

    let serve = HashMap::from([
        ("DATABASE_URL", database.clone()),
        ("PORT", "0".to_owned()),
        ("ECHOIC_PROVIDER", "demo".to_owned()),
        ("ECHOIC_AUTH", "keys".to_owned()),
        ("HOST", "0.0.0.0".to_owned()),
    ]);
    let server = ServerProcess::start(folder, &serve).await;
    let base = server.base.replace("0.0.0.0", "127.0.0.1");
    let (_, admin, _) = keys(&["create", "--user", "root", "--admin"]).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let ask = async |key: &str| {
        fetch(client.get(format!("{base}/api/chat-sessions")).bearer_auth(key.trim())).await.status
    };
    assert_eq!((ask(&alice).await, ask(&admin).await, ask("nothing").await), (200, 200, 401));

    let (_, list, _) = keys(&["list"]).await;
    let lines: Vec<&str> = list.lines().map(str::trim_start).collect();
    let words = |line: usize| lines[line].split_whitespace().collect::<Vec<_>>();
    assert_eq!(words(0), ["ID", "NAME", "USER", "SCOPE", "CREATED", "EXPIRES", "LAST", "USED"]);
    assert!(words(1)[1..4] == ["laptop", "alice", "chat"] && words(2)[1..3] == ["root", "admin"]);
    let (_, json, _) = keys(&["list", "--json"]).await;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json[0]["user"], &json[1]["scope"]), (&json!("alice"), &json!("admin")));
    for text in [&list, &json.to_string()] {
        let secret = secret_of(alice.trim());
        assert!(!text.contains(secret), "{text}");
    }
    let (_, log) = server.terminate().await;
    assert!(!log.contains(alice.trim()) && !log.contains(admin.trim()), "{log}");
}

#[tokio::test]
async fn keys_are_managed_with_and_without_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("new").join("echoic.db");
    check_key_lifecycle(folder.path(), format!("sqlite://{}", file.display())).await;
}

#[tokio::test]
async fn keys_are_managed_with_and_without_a_server_on_mongodb() {
    let Some(url) = database() else { return };
    let folder = tempfile::tempdir().unwrap();
    check_key_lifecycle(folder.path(), url).await;
}

#[tokio::test]
async fn keys_are_migrated_with_the_sessions() {
    let Some(url) = database() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = HashMap::from([("DATABASE_URL", "sqlite://echoic.db".to_owned())]);
    let create = ["keys", "create", "--user", "alice"];
    let (_, key, _) = run(folder.path(), &file, &create).await;
    for _ in 0..2 {
        let migrate = ["migrate", "--from", "sqlite://echoic.db", "--to", &url];
        let (code, out, stderr) = run(folder.path(), &HashMap::new(), &migrate).await;
        let line = out.lines().find(|line| line.starts_with("keys")).unwrap_or_default();
        let counts: Vec<&str> = line.split_whitespace().skip(1).collect();
        assert_eq!((code, counts), (0, vec!["1", "1"]), "{out}{stderr}");
    }
    let server = Server::with(&["--auth=keys", &format!("--database-url={url}")]).await;
    let reply = server.with_key(key.trim()).post("/api/chat-sessions", json!({})).await;
    assert_eq!(reply.data()["userId"], "alice");
}

#[tokio::test]
async fn invalid_key_options_are_reported_in_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("echoic.db").display());
    let variables = HashMap::from([("DATABASE_URL", url)]);
    for (arguments, wants) in [
        (&["create"] as &[&str], "--user"),
        (&["create", "--user", " "], "must be 1 to 256 characters"),
        (&["create", "--user", "assistant"], "must not be assistant, which is reserved"),
        (&["create", "--user", "a", "--expires", "soon"], "must be a duration"),
        (&["create", "--user", "a", "--scope", "root"], "possible values: read, chat, admin"),
        (&["revoke", "x"], "must be the id of a key"),
        (&["list"], "there is no"),
    ] {
        let arguments: Vec<&str> = [&["keys"], arguments].concat();
        let (code, out, stderr) = run(folder.path(), &variables, &arguments).await;
        assert!(code != 0 && out.is_empty() && stderr.contains(wants), "{arguments:?}: {stderr}");
    }
}
