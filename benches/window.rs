//! Time to load a prompt's window in short and in long sessions, as a ratio within one run: it must
//! not grow with the session. Also prints the sizes of the longest session's nodes.
//!
//! Run it with `cargo bench --bench window`. With
//! `ECHOIC_TEST_MONGODB=mongodb://HOST:PORT/?OPTIONS` it measures MongoDB, too.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use echoic::domain::content::MessageBody;
use echoic::domain::message::MessageParts;
use echoic::domain::session::SessionStatus;
use echoic::domain::{MessageId, MessageType, Principal, Role, SessionId, Timestamp, UserId};
use echoic::store::mongo::MongoStore;
use echoic::store::sqlite::{Durability, SqliteStore};
use echoic::store::{
    HistoryLimits, ImportSession, MessageParent, NewMessage, NewSession, ReplyFields, Store,
};
use mongodb::bson::{Document, doc};
use std::time::{Duration, Instant};

/// Lengths of the sessions; the first is compared with each of the others.
const SESSION_LENGTHS: [usize; 3] = [100, 10_000, 100_000];
/// Messages per import.
const IMPORT_BATCH: usize = 10_000;
/// Windows loaded per session, alternating between the sessions.
const ROUNDS: usize = 300;
/// The window of a budget of 4,000 tokens, with messages of about fifty tokens.
const WINDOW_LIMITS: HistoryLimits =
    HistoryLimits { max_messages: 1_000, max_tokens: 4_000, token_overhead: 4, max_part_bytes: 0 };

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let file = SqliteStore::open(&folder.path().join("echoic.db"), Durability::Full).unwrap();
        compare_lengths("sqlite", &file).await;
        if let Ok(server) = std::env::var("ECHOIC_TEST_MONGODB") {
            let (server, options) = server.split_once("/?").unwrap();
            let name = format!("bench_{}", MessageId::generate().as_str().replace('-', ""));
            let url = format!("{server}/{name}?{options}");
            let shared = MongoStore::open(&url, Duration::from_secs(15)).await.unwrap();
            compare_lengths("mongodb", &shared).await;
            print_largest_documents(&url).await;
        }
    });
}

async fn compare_lengths(name: &str, store: &dyn Store) {
    let owner = Principal { user: UserId::new_unchecked("bench"), is_admin: false };
    let mut heads = Vec::new();
    for length in SESSION_LENGTHS {
        heads.push((session_id(length), import_session(store, &owner, length).await));
    }
    let mut times = vec![Vec::new(); SESSION_LENGTHS.len()];
    for _ in 0..ROUNDS {
        for ((session, head), times) in heads.iter().zip(&mut times) {
            let started = Instant::now();
            let window = store.recent_history(session, head, WINDOW_LIMITS).await.unwrap();
            times.push(started.elapsed());
            assert!(window.len() > 50);
        }
    }
    let medians: Vec<_> = times
        .iter_mut()
        .map(|times| {
            times.sort_unstable();
            times[times.len() / 2].as_secs_f64() * 1000.0
        })
        .collect();
    for (length, median) in SESSION_LENGTHS.iter().zip(&medians) {
        let ratio = median / medians[0];
        println!("{name}: {length:>6} messages: {median:.3} ms, {ratio:.2} times the shortest");
    }
}

fn session_id(length: usize) -> SessionId {
    SessionId::new_unchecked(format!("length-{length}"))
}

/// Imports a session of this length. Returns the id of its last message.
async fn import_session(store: &dyn Store, owner: &Principal, length: usize) -> MessageId {
    let id = |number: usize| MessageId::new_unchecked(format!("m{number}"));
    for start in (0..length).step_by(IMPORT_BATCH) {
        let messages = (start..length.min(start + IMPORT_BATCH)).map(|number| {
            let role = if number % 2 == 0 { Role::User } else { Role::Assistant };
            let content = format!("message {number} {}", "of some forty words ".repeat(10));
            let message = NewMessage {
                id: id(number),
                client_message_id: None,
                role,
                sender_id: owner.user.clone(),
                body: MessageBody {
                    content,
                    parts: MessageParts::default(),
                    kind: MessageType::Text,
                },
                tokens: 50,
                created_at: Timestamp::from_millis(1_700_000_000_000 + number as i64),
                reply: ReplyFields::default(),
            };
            let parent = if number == 0 { MessageParent::Root } else { MessageParent::Head };
            (message, parent)
        });
        let import = ImportSession {
            id: session_id(length),
            fallback_id: session_id(length),
            fields: NewSession::default(),
            status: SessionStatus::default(),
            archived: false,
            pinned: false,
            placements: Vec::new(),
            created_at: Timestamp::from_millis(1_700_000_000_000),
            last_seen: None,
            head_id: None,
            keep_title: false,
            read_marks: Default::default(),
            messages: messages.collect(),
        };
        store
            .import_session(owner, import, Timestamp::from_millis(1_800_000_000_000))
            .await
            .unwrap();
    }
    id(length - 1)
}

async fn print_largest_documents(url: &str) {
    let client = mongodb::Client::with_uri_str(url).await.unwrap();
    let nodes = client.default_database().unwrap().collection::<Document>("nodes");
    let of_longest = doc! { "sessionId": session_id(SESSION_LENGTHS[2]).as_str() };
    let mut cursor = nodes.find(of_longest).await.unwrap();
    let (mut count, mut messages, mut largest) = (0, 0, 0);
    while cursor.advance().await.unwrap() {
        let node = cursor.current();
        count += 1;
        messages += node.get_array("messages").unwrap().into_iter().count();
        largest = largest.max(node.as_bytes().len());
    }
    println!("mongodb: {messages} messages in {count} nodes, the largest document {largest} bytes");
}
