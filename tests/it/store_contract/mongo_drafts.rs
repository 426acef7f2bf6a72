//! Drafts and deleted content in MongoDB, as its collections show them, and content that does not
//! fit into a document.

use super::drafts::{FileMessages, LARGE, add, begin, count, end, long_chain, sweep};
use super::import::file_message;
use super::{LEASE, at, create, id, message, post, user};
use crate::support::Server;
use crate::support::mongo::database;
use echoic::domain::Role;
use echoic::domain::message::MessageParts;
use echoic::error::ErrorKind;
use echoic::store::mongo::MongoStore;
use echoic::store::{MessageParent, NewMessage, Store};
use mongodb::bson::{DateTime, Document, doc};
use mongodb::{Client, Database};
use serde_json::json;
use std::sync::Arc;

/// Collections with the content of sessions.
const CONTENT: [&str; 8] = [
    "nodes",
    "summaries",
    "embeddings",
    "words",
    "turn_log",
    "queue",
    "responses",
    "idempotency_keys",
];
/// Documents that one step of a sweep deletes at most.
const MAX_STEP_DOCUMENTS: u64 = 256;

/// More nodes than two steps delete.
const ROOTS: usize = 600;

/// A store with direct access to its collections.
struct OpenMongo {
    url: String,
    store: Arc<dyn Store>,
    database: Database,
}

impl OpenMongo {
    async fn open() -> Option<Self> {
        let url = database()?;
        let client = Client::with_uri_str(&url).await.unwrap();
        let database = client.default_database().unwrap();
        let store = Self::open_store(&url).await;
        Some(Self { url, store, database })
    }

    async fn open_store(url: &str) -> Arc<dyn Store> {
        Arc::new(MongoStore::open(url, LEASE).await.unwrap())
    }

    async fn count(&self, collection: &str) -> u64 {
        self.database.collection::<Document>(collection).count_documents(doc! {}).await.unwrap()
    }

    async fn count_content(&self) -> u64 {
        let mut total = 0;
        for collection in CONTENT {
            total += self.count(collection).await;
        }
        total
    }

    /// Lets all entries of the registry look old.
    async fn age_drafts(&self, field: &str) {
        let drafts = self.database.collection::<Document>("drafts");
        let old = doc! { "$set": { field: DateTime::from_millis(1) } };
        drafts.update_many(doc! { field: { "$ne": null } }, old).await.unwrap();
    }
}

/// Messages without parents: each gets a node of its own.
fn many_roots(count: usize) -> FileMessages {
    let root = |number: usize| file_message(&format!("q{number}"), 1, MessageParent::Root);
    (0..count).map(root).collect()
}

#[tokio::test]
async fn sweep_empties_every_collection_in_bounded_steps() {
    let Some(mongo) = OpenMongo::open().await else { return };
    let mut draft = begin(&mongo.store, "s").await;
    add(&mongo.store, &mut draft, many_roots(ROOTS)).await;
    mongo.store.finish_import(draft, end(), at(0)).await.unwrap();
    create(&mongo.store, &user("ada"), "other").await;
    post(
        &mongo.store,
        &user("ada"),
        "other",
        message("ada", Role::User, "hi", 0),
        MessageParent::Head,
    )
    .await;
    assert_eq!(mongo.count("nodes").await, ROOTS as u64 + 1);

    mongo.store.delete_session(&user("ada"), &id("s")).await.unwrap();
    let mut before = mongo.count_content().await;
    while mongo.store.sweep_remains().await.unwrap() {
        let now = mongo.count_content().await;
        assert!(before - now <= MAX_STEP_DOCUMENTS, "{before} {now}");
        before = now;
    }
    assert_eq!((mongo.count_content().await, count(&mongo.store, "other").await), (1, 1));
    // Looked at again later: a write may have been delayed.
    assert_eq!(mongo.count("drafts").await, 1);
    mongo.age_drafts("sweptAt").await;
    sweep(&mongo.store).await;
    assert_eq!((mongo.count("drafts").await, mongo.count_content().await), (0, 1));
}

#[tokio::test]
async fn messages_imported_into_an_older_session_are_swept_with_it() {
    let Some(mongo) = OpenMongo::open().await else { return };
    let ada = user("ada");
    create(&mongo.store, &ada, "s").await;
    post(&mongo.store, &ada, "s", message("ada", Role::User, "hi", 0), MessageParent::Head).await;
    let mut draft = begin(&mongo.store, "s").await;
    add(&mongo.store, &mut draft, long_chain(0, LARGE)).await;
    mongo.store.finish_import(draft, end(), at(0)).await.unwrap();
    mongo.store.delete_session(&ada, &id("s")).await.unwrap();
    // The content that the import replaced is kept for its readers at first.
    mongo.age_drafts("touchedAt").await;
    sweep(&mongo.store).await;
    assert_eq!(mongo.count_content().await, 0);
}

#[tokio::test]
async fn draft_of_a_lost_instance_is_swept_and_a_living_one_not() {
    let Some(mongo) = OpenMongo::open().await else { return };
    let mut lost = begin(&mongo.store, "s").await;
    add(&mongo.store, &mut lost, long_chain(0, LARGE)).await;
    drop(lost);
    mongo.age_drafts("touchedAt").await;
    let other = OpenMongo::open_store(&mongo.url).await;
    let mut living = begin(&other, "s").await;
    add(&other, &mut living, long_chain(0, LARGE)).await;
    let both = mongo.count("nodes").await;

    sweep(&mongo.store).await;
    assert_eq!(mongo.count("nodes").await, both / 2);
    add(&other, &mut living, long_chain(LARGE, 10)).await;
    let (outcome, _) = other.finish_import(living, end(), at(0)).await.unwrap();
    assert_eq!(outcome.added_messages, LARGE as u64 + 10);
    assert_eq!(count(&mongo.store, "s").await as usize, LARGE + 10);
}

#[tokio::test]
async fn swept_draft_cannot_be_continued_or_published() {
    let Some(mongo) = OpenMongo::open().await else { return };
    let mut first = begin(&mongo.store, "s").await;
    add(&mongo.store, &mut first, long_chain(0, LARGE)).await;
    let mut second = begin(&mongo.store, "t").await;
    add(&mongo.store, &mut second, long_chain(0, LARGE)).await;
    mongo.age_drafts("touchedAt").await;
    sweep(&mongo.store).await;
    let more = mongo.store.add_to_import(&mut first, long_chain(LARGE, 1)).await;
    assert_eq!(more.unwrap_err().kind, ErrorKind::StoreUnavailable);
    let published = mongo.store.finish_import(second, end(), at(0)).await;
    assert_eq!(published.unwrap_err().kind, ErrorKind::StoreUnavailable);
    assert_eq!((mongo.count("nodes").await, mongo.count("sessions").await), (0, 0));
}

#[tokio::test]
async fn remains_are_told_from_a_session_with_the_same_id() {
    let Some(mongo) = OpenMongo::open().await else { return };
    let ada = user("ada");
    for round in 0..3 {
        create(&mongo.store, &ada, "s").await;
        let text = format!("round {round}");
        post(&mongo.store, &ada, "s", message("ada", Role::User, &text, 0), MessageParent::Head)
            .await;
        if round < 2 {
            mongo.store.delete_session(&ada, &id("s")).await.unwrap();
        }
    }
    assert_eq!(mongo.count("nodes").await, 3);
    sweep(&mongo.store).await;
    assert_eq!((mongo.count("nodes").await, count(&mongo.store, "s").await), (1, 1));
    let chunk = mongo.store.read_chunk(&ada, &id("s"), 0).await.unwrap();
    assert_eq!(chunk.messages[0].content, "round 2");
}

#[tokio::test]
async fn message_beyond_a_document_is_refused_with_the_bound() {
    let Some(mongo) = OpenMongo::open().await else { return };
    let parts = MessageParts::from_stored(format!("[\"{}\"]", "x".repeat(9 << 20))).unwrap();
    let large = |name: &str| {
        let (mut message, parent) = file_message(name, 0, MessageParent::Head);
        message.body.content = "x".repeat(8 << 20);
        message.body.parts = parts.clone();
        (message, parent)
    };
    let mut draft = begin(&mongo.store, "s").await;
    let error = mongo.store.add_to_import(&mut draft, vec![large("q")]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::PayloadTooLarge);
    assert!(error.to_string().contains("16711680"), "{error}");
    let kept: NewMessage = file_message("q", 0, MessageParent::Head).0;
    let mut again = begin(&mongo.store, "s").await;
    add(&mongo.store, &mut again, vec![(kept, MessageParent::Head)]).await;
    mongo.store.finish_import(again, end(), at(0)).await.unwrap();
    assert_eq!(count(&mongo.store, "s").await, 1);
}

#[tokio::test]
async fn reply_beyond_a_document_is_cut_and_the_session_goes_on() {
    let Some(url) = database() else { return };
    let server = Server::with(&[&format!("--database-url={url}")]).await;
    let session = server.session().await;
    let (mut frames, mut call) = server.open_turn(&session, "much").await;
    // Six bytes in JSON for each character, and the parts repeat the text.
    let piece = "\u{1}".repeat(500_000);
    call.text("begin");
    for _ in 0..4 {
        call.reasoning("reasoning_content", &piece);
        call.text(&piece);
    }
    call.reply("end");
    frames.until("finish").await;
    let reply = server.last_message(&session).await;
    assert_eq!(
        (&reply["status"], &reply["finishReason"]),
        (&json!("interrupted"), &json!("length"))
    );
    assert_eq!(reply["error"]["code"], "payload_too_large");
    assert!(reply["content"].as_str().unwrap().starts_with("begin"));
    server.turn(&session, "more", "fine").await;
}

#[tokio::test]
async fn queued_turn_beyond_a_document_is_refused_with_the_bound() {
    let Some(url) = database() else { return };
    let server = Server::with(&[&format!("--database-url={url}")]).await;
    let session = server.session().await;
    let (mut frames, call) = server.open_turn(&session, "first").await;
    let function = json!({"name": "f", "description": "d".repeat(1 << 20)});
    let tools = vec![json!({"type": "function", "function": function}); 20];
    let body = json!({"sessionId": session, "message": "x", "tools": tools, "onBusy": "queue"});
    let refused = server.post("/api/chat", body).await;
    assert_eq!(refused.failure(), (413, "payload_too_large"));
    assert!(refused.body.to_string().contains("16711680"), "{}", refused.body);
    call.reply("done");
    frames.until("finish").await;
}
