//! Words of many scripts, in search and in recall: one table of examples for both, on each store.
//! Indexes of the first version are rebuilt.

use crate::search::search_until_found;
use crate::store_contract::EmptyStore;
use crate::support::chat_core::{ChatCore, on_both_stores, principal};
use crate::support::mongo::database;
use crate::support::word_examples::WORD_EXAMPLES;
use crate::support::{Server, within_deadline};
use echoic::domain::SessionId;
use echoic::domain::page::{PagePosition, SessionQuery, SortOrder};
use echoic::domain::search::{SearchQuery, build_snippet, parse_terms, parse_title_terms};
use echoic::domain::title::SessionTitle;
use echoic::memory::rank::{PassageIndex, Utterance, score_passages};
use echoic::store::NewSession;
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

#[test]
fn recall_finds_words_of_all_scripts() {
    for example in WORD_EXAMPLES {
        let mut index = PassageIndex::default();
        index.push(Utterance { day: "", speaker: "", text: example.text, at_millis: 0 });
        for query in example.found {
            assert!(!score_passages(&index, query).is_empty(), "{}: {query}", example.name);
        }
        for query in example.missed {
            assert!(score_passages(&index, query).is_empty(), "{}: {query}", example.name);
        }
    }
}

#[test]
fn snippets_highlight_words_of_all_scripts() {
    for example in WORD_EXAMPLES {
        for query in example.found {
            let snippet = build_snippet(example.text, &parse_terms(query).unwrap());
            let count = snippet.as_ref().map_or(0, |snippet| snippet.highlights.len());
            assert!(count > 0, "{}: {query}: {snippet:?}", example.name);
        }
    }
    let highlighted = |text: &str, query: &str| {
        let snippet = build_snippet(text, &parse_terms(query).unwrap()).unwrap();
        let piece = |[from, to]: &[usize; 2]| -> String {
            snippet.text.chars().skip(*from).take(to - from).collect()
        };
        snippet.highlights.iter().map(piece).collect::<Vec<_>>()
    };
    assert_eq!(highlighted("東京タワーの寿司と寿司", "寿司 タワー"), ["タワー", "寿司", "寿司"]);
    assert_eq!(highlighted("ฐานข้อมูลใหม่", "ข้อมูล"), ["ข้อมูล"]);
    assert_eq!(highlighted("ดื่มน้ำเย็น", "น\u{e4d}\u{e49}า"), ["น้ำ"]);
    assert_eq!(highlighted("서울에서 만났다", "서울"), ["서울"]);
    assert_eq!(highlighted("ｶﾞｲﾄﾞとGuide", "ガイド gui"), ["ｶﾞｲﾄﾞ", "Guide"]);
    assert_eq!(highlighted("Die Straße 👩‍💻!", "STRASSE 💻"), ["Straße", "👩‍💻"]);
}

/// The sessions that a query finds: by messages, by titles, and in the list of sessions.
async fn find_sessions(core: &ChatCore, query: &str) -> [Vec<SessionId>; 3] {
    let alice = principal("alice");
    let search = SearchQuery {
        terms: parse_terms(query).unwrap(),
        project_id: None,
        session_id: None,
        role: None,
        from: None,
        to: None,
        after: None,
        limit: 100,
    };
    let (hits, _) = core.chat.search_messages(&alice, &search).await.unwrap();
    let list = SessionQuery {
        position: PagePosition::Page(1),
        limit: 100,
        sort: SortOrder::default(),
        search: Some(parse_title_terms(query)),
        project_id: None,
        status: None,
        archived: None,
        is_of_invitations: false,
    };
    let page = core.fresh.store.list_sessions(&alice, list).await.unwrap();
    let by = |is_message: bool| {
        let hits = hits.iter().filter(|hit| hit.message.is_some() == is_message);
        hits.map(|hit| hit.session_id.clone()).collect()
    };
    [by(true), by(false), page.sessions.into_iter().map(|session| session.id).collect()]
}

async fn words_of_all_scripts_are_found(fresh: EmptyStore) {
    let core = ChatCore::new(fresh);
    let mut sessions = Vec::new();
    for example in WORD_EXAMPLES {
        let new = NewSession {
            title: SessionTitle::from_user(Some(example.text)).unwrap(),
            ..NewSession::default()
        };
        let now = echoic::domain::Timestamp::from_millis(1);
        let session = core.chat.create_session(&principal("alice"), new, now).await.unwrap().0.id;
        crate::search::say(&core, "alice", &session, example.text).await;
        sessions.push(session);
    }
    let mut wrong = Vec::new();
    for (example, session) in WORD_EXAMPLES.iter().zip(&sessions) {
        let missed = example.missed.iter().chain(example.missed_by_search);
        let queries = example.found.iter().map(|query| (query, true));
        let missed = missed.map(|query| (query, false));
        for (query, is_found) in queries.chain(missed) {
            let found = find_sessions(&core, query).await;
            for (found, place) in found.iter().zip(["message", "title", "list"]) {
                if found.contains(session) != is_found {
                    wrong.push(format!("{}: {query} in {place}, wanted: {is_found}", example.name));
                }
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

on_both_stores!(words_of_all_scripts_are_found);

/// Sessions whose messages and titles the first version indexed as whole runs.
fn runs() -> Value {
    let session = |number: usize| {
        json!({
            "sessionId": format!("s{number}"), "title": "東京タワーの寿司",
            "messages": [
                {"id": "1", "role": "user", "content": "昨日は寿司を食べました"},
                {"id": "2", "role": "assistant", "content": "寿司は美味しいですね old"},
            ],
        })
    };
    json!({ "sessions": (0..5).map(session).collect::<Vec<_>>() })
}

/// Waits until messages and titles of all sessions are found by a word within them.
async fn wait_for_rebuild(server: &Server) {
    search_until_found(server, "%E5%AF%BF%E5%8F%B8", 15).await;
    let list = server.get("/api/chat-sessions?search=%E5%AF%BF%E5%8F%B8").await.data();
    assert_eq!(list["sessions"].as_array().unwrap().len(), 5);
}

#[tokio::test]
async fn file_of_first_version_is_indexed_again() {
    let mut server = Server::on_file(&[]).await;
    server.post("/api/import", runs()).await.data();
    wait_for_rebuild(&server).await;
    server.stop().await;
    let file = rusqlite::Connection::open(server.database()).unwrap();
    // The schema of the first version, with its words: whole runs, with the prefix of the owner.
    file.execute_batch(
        "DROP INDEX sessions_by_words_version;
         ALTER TABLE sessions DROP COLUMN words_version;
         ALTER TABLE sessions DROP COLUMN invited;
         ALTER TABLE sessions DROP COLUMN placements;
         ALTER TABLE participants DROP COLUMN invited;
         ALTER TABLE participants DROP COLUMN archived;
         ALTER TABLE participants DROP COLUMN pinned;
         ALTER TABLE messages DROP COLUMN imported;
         DROP TABLE drafts;
         DROP TABLE session_titles;
         CREATE VIRTUAL TABLE session_titles USING fts5 (
             words, content = '', contentless_delete = 1, tokenize = 'unicode61 remove_diacritics 0');
         INSERT INTO session_titles (rowid, words) SELECT key, title_words FROM sessions;
         INSERT INTO message_words (message_words) VALUES ('delete-all');
         INSERT INTO message_words (rowid, words) SELECT key, 'old' FROM kept_words;
         PRAGMA user_version = 1;",
    )
    .unwrap();
    drop(file);

    server.start_again().await;

    wait_for_rebuild(&server).await;
    let file = rusqlite::Connection::open(server.database()).unwrap();
    let words = "SELECT count(*) FROM message_words";
    let words: i64 = file.query_row(words, [], |row| row.get(0)).unwrap();
    assert_eq!(words, 10, "old words are replaced");
}

#[tokio::test]
async fn new_messages_do_not_wait_for_the_rebuild() {
    let core = ChatCore::new(crate::store_contract::sqlite().await.unwrap());
    let session = core.create(&[]).await;
    crate::search::say(&core, "alice", &session, "apples").await;
    let file = rusqlite::Connection::open(core.fresh.folder.path().join("echoic.db")).unwrap();
    file.execute_batch(
        "UPDATE sessions SET words_version = 1;
         INSERT INTO message_words (message_words) VALUES ('delete-all');",
    )
    .unwrap();

    crate::search::say(&core, "alice", &session, "pears").await;

    let found = async |word| find_sessions(&core, word).await[0].len();
    assert_eq!([found("apples").await, found("pears").await], [0, 1], "only new messages");
    assert!(core.chat.reindex_next_batch().await.unwrap());
    assert_eq!([found("apples").await, found("pears").await], [1, 1]);
    assert!(!core.chat.reindex_next_batch().await.unwrap(), "the rebuild is complete");
}

/// Gives sessions and words the form of the first version.
async fn downgrade_words(database: &mongodb::Database) {
    let sessions = database.collection::<Document>("sessions");
    let old = doc! {
        "$set": { "kept": 2_i64, "titleWords": ["東京タワーの寿司"] },
        "$unset": { "wordsVersion": "", "indexedSeq": "" },
    };
    sessions.update_many(doc! {}, old).await.unwrap();
    let words = database.collection::<Document>("words");
    words.update_many(doc! {}, doc! { "$set": { "words": ["old"] } }).await.unwrap();
}

#[tokio::test]
async fn two_instances_index_a_shared_database_again() {
    let Some(url) = database() else { return };
    let flag = format!("--database-url={url}");
    let mut server = Server::with(&[&flag]).await;
    server.post("/api/import", runs()).await.data();
    wait_for_rebuild(&server).await;
    server.stop().await;
    let client = mongodb::Client::with_uri_str(&url).await.unwrap();
    let database = client.default_database().unwrap();
    downgrade_words(&database).await;

    server.start_again().await;
    let other = Server::with(&[&flag]).await;

    wait_for_rebuild(&server).await;
    wait_for_rebuild(&other).await;
    let words = database.collection::<Document>("words");
    assert_eq!(words.count_documents(doc! {}).await.unwrap(), 10);
    let sessions = database.collection::<Document>("sessions");
    let unfinished = doc! { "$or": [
        { "kept": { "$exists": true } }, { "unkept": { "$exists": true } },
        { "unindexed": { "$exists": true } }, { "indexedSeq": { "$ne": 2_i64 } },
    ] };
    within_deadline(async {
        while sessions.count_documents(unfinished.clone()).await.unwrap() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;

    // An instance of the first version that still runs indexes a message as it used to.
    let touched = doc! { "$set": { "kept": 2_i64, "titleWords": ["old"] } };
    sessions.update_one(doc! { "_id": "s3" }, touched).await.unwrap();
    server.restart().await;
    within_deadline(async {
        while sessions.count_documents(unfinished.clone()).await.unwrap() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    wait_for_rebuild(&server).await;
}
