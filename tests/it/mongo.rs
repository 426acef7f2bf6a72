//! MongoDB from an operator's view: configuration errors are reported at startup, and later outages
//! are survived.

use crate::support::mongo::{MongoServer, database, free_port};
use crate::support::process::run;
use crate::support::{Server, within_deadline};
use mongodb::bson::{Document, doc};
use serde_json::json;
use std::collections::HashMap;

/// Runs the program on a database that it must reject. Returns exit code and standard error.
async fn run_rejected(url: &str) -> (i32, String) {
    let folder = tempfile::tempdir().unwrap();
    let variables =
        HashMap::from([("DATABASE_URL", url.to_owned()), ("ECHOIC_PROVIDER", "demo".to_owned())]);
    let (code, _, stderr) = run(folder.path(), &variables, &["serve", "--port=0"]).await;
    (code, stderr)
}

#[tokio::test]
async fn unusable_mongodb_is_reported_at_startup_with_a_remedy() {
    let Some(single) = MongoServer::start(&["--standalone"]).await else { return };
    let nobody = free_port().await;
    for (url, wants) in [
        (format!("mongodb://127.0.0.1:{}/echoic", single.port), "--replSet"),
        (single.url("echoic").replace("=secantus", "=another"), "cannot be reached"),
        (format!("mongodb://127.0.0.1:{nobody}/echoic"), "Connection refused"),
        ("mongodb://ada:s3cret@@127.0.0.1/echoic".to_owned(), "DATABASE_URL"),
        ("mongodb://127.0.0.1/echoic?replicaSet".to_owned(), "DATABASE_URL"),
    ] {
        let (code, stderr) = run_rejected(&url).await;
        assert!(matches!(code, 1 | 2), "{url}: {code} {stderr}");
        assert!(stderr.contains("MongoDB") && stderr.contains(wants), "{url}: {stderr}");
        assert!(!stderr.contains("s3cret") && stderr.lines().count() == 1, "{stderr}");
    }
}

#[tokio::test]
async fn wrong_password_stops_startup_and_right_one_serves() {
    let Some(mut mongo) = MongoServer::start(&[]).await else { return };
    let rights = vec![doc! { "role": "readWrite", "db": "echoic" }];
    mongo.admin(doc! { "createUser": "ada", "pwd": "s3cret", "roles": rights }).await;
    mongo.stop().await;
    mongo.start_again(&["--auth"]).await;
    let url = |password: &str| {
        let place = format!("mongodb://ada:{password}@127.0.0.1:{}/echoic", mongo.port);
        format!("{place}?replicaSet=secantus&authSource=admin")
    };
    let server = Server::with(&[&format!("--database-url={}", url("s3cret"))]).await;
    let session = server.session().await;
    server.turn(&session, "who am I?", "ada").await;
    assert_eq!(server.transcript(&session).await, ["user: who am I?", "assistant: ada"]);

    let (code, stderr) = run_rejected(&url("guessed")).await;
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("DATABASE_URL") && !stderr.contains("guessed"), "{stderr}");
}

#[tokio::test]
async fn outage_leaves_nothing_partial_and_service_resumes() {
    let Some(mut mongo) = MongoServer::start(&[]).await else { return };
    let url = format!("{}&serverSelectionTimeoutMS=300", mongo.url("echoic"));
    let server = Server::with(&[&format!("--database-url={url}")]).await;
    let session = server.session().await;
    let (mut frames, mut call) = server.open_turn(&session, "first").await;
    call.text("half");
    frames.until("text-delta").await;

    mongo.stop().await;
    assert_eq!(server.get("/health/ready").await.failure(), (503, "store_unavailable"));
    assert_eq!(server.get("/health/live").await.status, 200);
    let body = json!({"sessionId": session, "message": "second", "clientMessageId": "m2"});
    let refused = server.post("/api/chat", body.clone()).await;
    assert_eq!(refused.failure(), (503, "store_unavailable"));
    let list = server.get("/api/chat-sessions").await;
    assert_eq!(list.failure(), (503, "store_unavailable"));
    // The reply ends while the store is unreachable; storing it is retried until MongoDB is back.
    call.reply(" and half");

    mongo.start_again(&[]).await;
    frames.until("finish").await;
    assert_eq!(server.get("/health/ready").await.status, 200);
    assert_eq!(server.transcript(&session).await, ["user: first", "assistant: half and half"]);
    let mut frames = server.chat(body).await;
    server.upstream.call().await.reply("third time lucky");
    frames.until("finish").await;
    assert_eq!(
        server.transcript(&session).await[2..],
        ["user: second", "assistant: third time lucky"]
    );
}

#[tokio::test]
async fn many_instances_start_at_once_on_an_empty_database() {
    let Some(url) = database() else { return };
    let flag = format!("--database-url={url}");
    let flags = [flag.as_str()];
    let servers = futures::future::join_all((0..6).map(|_| Server::with(&flags))).await;
    let session = servers[0].session().await;
    for server in &servers {
        assert_eq!(server.get(&format!("/api/chat-sessions/{session}")).await.status, 200);
    }
    let client = mongodb::Client::with_uri_str(&url).await.unwrap();
    let name = client.default_database().unwrap();
    let schema = name.collection::<Document>("schema");
    let schema = within_deadline(async { schema.find_one(doc! {}).await }).await.unwrap().unwrap();
    assert!(!schema.contains_key("lock"), "{schema}");

    // The schema document that a newer, incompatible version would write.
    let newer = doc! { "$set": { "version": 99_i64, "readableFrom": 99_i64 } };
    within_deadline(async {
        name.collection::<Document>("schema").update_one(doc! {}, newer).await
    })
    .await
    .unwrap();
    let (code, stderr) = run_rejected(&url).await;
    assert!(code == 1 && stderr.contains("newer Echoic"), "{code} {stderr}");
}

#[tokio::test]
async fn startup_lock_of_a_dead_holder_does_not_block_others() {
    let Some(url) = database() else { return };
    let client = mongodb::Client::with_uri_str(&url).await.unwrap();
    let schema = client.default_database().unwrap().collection::<Document>("schema");
    let old = mongodb::bson::DateTime::from_millis(1_000);
    let held = doc! { "_id": "schema", "version": 0_i64, "lock": { "by": "nobody", "at": old } };
    within_deadline(async { schema.insert_one(held).await }).await.unwrap();
    let flag = format!("--database-url={url}");
    let server = within_deadline(async { Server::with(&[&flag]).await }).await;
    assert_eq!(server.get("/health/ready").await.status, 200);
}
