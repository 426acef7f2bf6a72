//! Message search: the same hits from every store, soon after a message is stored.

use crate::store_contract::EmptyStore;
use crate::support::chat_core::{ChatCore, on_both_stores, principal};
use crate::support::mongo::database;
use crate::support::{Server, within_deadline};
use echoic::domain::content::MessageBody;
use echoic::domain::search::{SearchQuery, parse_terms};
use echoic::domain::{MessageId, MessageType, Role, SessionId, Timestamp, UserId};
use echoic::store::{
    MessageParent, MessageWords, NewMessage, NewSession, PostMessage, ReplyFields, SessionWords,
};
use serde_json::{Value, json};

async fn search(server: &Server, query: &str) -> Value {
    server.get(&format!("/api/search?{query}")).await.data()
}

fn names(data: &Value) -> Vec<String> {
    let name = |result: &Value| {
        let message = result["messageId"].as_str().unwrap_or("title");
        format!("{} {message}", result["sessionId"].as_str().unwrap())
    };
    data["results"].as_array().unwrap().iter().map(name).collect()
}

/// A session of the corpus: a day of January, a title, and messages a minute apart.
fn session(id: &str, day: u32, title: &str, project: Option<&str>, messages: &[&str]) -> Value {
    let messages = messages.iter().enumerate().map(|(place, content)| {
        json!({
            "id": format!("m{place}"),
            "role": if place % 2 == 0 { "user" } else { "assistant" },
            "content": content,
            "createdAt": format!("2025-01-{day:02}T{:02}:{:02}:00.000Z", 10 + place / 60, place % 60),
        })
    });
    json!({
        "sessionId": id, "title": title, "projectId": project,
        "createdAt": format!("2025-01-{day:02}T09:00:00.000Z"),
        "messages": messages.collect::<Vec<_>>(),
    })
}

async fn server_with_corpus(flags: &[&str]) -> Server {
    let server = Server::with(flags).await;
    let long = format!("{} the buried treasure {}", "sand ".repeat(200), "sea ".repeat(200));
    let many = vec!["one of many"; 70];
    let sessions = json!({"sessions": [
        session("cake", 1, "Pâtisserie", Some("kitchen"), &["Crème brûlée für zwei?", "CREME is easy. An egg, or 2."]),
        session("sand", 2, "Beach", None, &[&long, "No idea, ask Zoë", "東京 and Ελλάδα"]),
        session("code", 3, "Creme in code", None, &["fn creme_cake() -> u8 { 42 }", "İstanbul ½ cup"]),
        session("many", 4, "Many", Some("kitchen"), &many),
        session("twin", 1, "Twin", None, &["Creme at the same minute", "the very last words"]),
    ]});
    assert_eq!(server.post("/api/import", sessions).await.data()["skipped"], json!([]));
    // Messages of a session are indexed in order, so once its last one is found the whole session
    // is indexed.
    for (question, count) in [("easy", 1), ("ελλαδα", 1), ("cup", 1), ("many", 71), ("last", 1)]
    {
        search_until_found(&server, question, count).await;
    }
    server
}

/// Polls until there are this many hits, since messages are indexed in the background.
pub async fn search_until_found(server: &Server, question: &str, count: usize) -> Value {
    within_deadline(async {
        loop {
            let data = search(server, &format!("q={question}&limit=100")).await;
            if data["results"].as_array().unwrap().len() >= count {
                return data;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

#[tokio::test]
async fn prefixes_match_ignoring_case_and_accents_newest_first() {
    let server = server_with_corpus(&[]).await;
    for (query, expected) in [
        ("q=creme", &["code m0", "code title", "cake m1", "twin m0", "cake m0"][..]),
        ("q=CR%C3%88ME%20e", &[]),
        ("q=crem%20eas", &["cake m1"]),
        ("q=br%C3%BBl", &["cake m0"]),
        // Words of fewer than three letters match whole words only.
        ("q=cr", &[]),
        ("q=an", &["cake m1"]),
        ("q=2", &["code m1", "cake m1"]),
        ("q=u8", &["code m0"]),
        ("q=zoe", &["sand m1"]),
        ("q=%E6%9D%B1%E4%BA%AC", &["sand m2"]),
        ("q=%CE%95%CE%BB%CE%BB", &["sand m2"]),
        ("q=istanbul", &["code m1"]),
        ("q=patiss", &["cake title"]),
        ("q=creme&sessionId=cake", &["cake m1", "cake m0"]),
        ("q=creme&projectId=kitchen", &["cake m1", "cake m0"]),
        ("q=creme&role=user", &["code m0", "twin m0", "cake m0"]),
        ("q=creme&from=2025-01-02T00:00:00Z", &["code m0", "code title"]),
        ("q=creme&to=2025-01-01T10:01:00Z", &["twin m0", "cake m0"]),
        ("q=creme&sessionId=nowhere", &[]),
        ("q=nothing", &[]),
    ] {
        assert_eq!(names(&search(&server, query).await), expected, "{query}");
    }
}

#[tokio::test]
async fn hit_shows_where_its_words_occur() {
    let server = server_with_corpus(&[]).await;
    let result = search(&server, "q=creme%20brulee").await["results"][0].clone();
    let shown = json!({
        "sessionId": "cake", "title": "Pâtisserie", "messageId": "m0", "role": "user",
        "snippet": "Crème brûlée für zwei?", "highlights": [[0, 5], [6, 12]],
        "createdAt": "2025-01-01T10:00:00.000Z",
    });
    assert_eq!(result, shown);
    let title = search(&server, "q=patisserie").await["results"][0].clone();
    let shown = json!({
        "sessionId": "cake", "title": "Pâtisserie", "messageId": null, "role": null,
        "snippet": "Pâtisserie", "highlights": [[0, 10]],
        "createdAt": "2025-01-01T09:00:00.000Z",
    });
    assert_eq!(title, shown);
    let deep = search(&server, "q=treasure").await["results"][0].clone();
    let snippet: Vec<char> = deep["snippet"].as_str().unwrap().chars().collect();
    let place = |at: usize| usize::try_from(deep["highlights"][0][at].as_u64().unwrap()).unwrap();
    assert_eq!(snippet[place(0)..place(1)].iter().collect::<String>(), "treasure");
    assert!(snippet.len() <= 162 && snippet[0] == '…' && snippet.last() == Some(&'…'));
}

#[tokio::test]
async fn cursor_pages_show_each_hit_once() {
    let server = server_with_corpus(&[]).await;
    let mut all = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = search(&server, &format!("q=many&limit=20{cursor}")).await;
        all.extend(names(&page));
        match page["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let mut expected: Vec<_> = (0..70).rev().map(|place| format!("many m{place}")).collect();
    // Seventy messages a minute apart reach into the next hour. The title is the oldest hit.
    expected.push("many title".to_owned());
    assert_eq!(all, expected);
}

#[tokio::test]
async fn both_stores_return_the_same_hits() {
    let Some(url) = database() else { return };
    let file = server_with_corpus(&[]).await;
    let shared = server_with_corpus(&[&format!("--database-url={url}")]).await;
    let questions = [
        "creme",
        "cre",
        "cr",
        "an",
        "2",
        "one of",
        "many",
        "the",
        "sand sea",
        "sea treasure",
        "ελλ",
        "東京",
        "12",
        "½",
        "cup",
        "very last words",
        "no",
        "ask zoe",
        "i",
        "egg or",
    ];
    for question in questions {
        for rest in
            ["", "&role=assistant", "&projectId=kitchen", "&from=2025-01-02T00:00:00Z", "&limit=3"]
        {
            let query = format!("q={}{rest}", question.replace(' ', "%20"));
            assert_eq!(search(&shared, &query).await, search(&file, &query).await, "{query}");
        }
    }
}

#[tokio::test]
async fn new_messages_are_found_and_deleted_ones_are_not() {
    let server = Server::start().await;
    let session = server.session().await;
    server.turn(&session, "Where is the marmalade?", "Behind the xylophone").await;
    search_until_found(&server, "marmalade", 2).await;
    let data = search_until_found(&server, "xylo", 1).await;
    assert_eq!(data["results"][0]["role"], "assistant");
    server.put(&format!("/api/chat-sessions/{session}/title"), json!({"title": "Breakfast"})).await;
    assert_eq!(names(&search(&server, "q=breakf").await), [format!("{session} title")]);
    server.delete(&format!("/api/chat-sessions/{session}")).await;
    for question in ["marmalade", "xylo", "breakf"] {
        assert_eq!(search(&server, &format!("q={question}")).await["results"], json!([]));
    }
    // A new session with the same id has none of the old content.
    server.post("/api/chat-sessions", json!({"sessionId": session})).await;
    server.turn(&session, "And the honey?", "In the cupboard").await;
    search_until_found(&server, "honey", 2).await;
    assert_eq!(search(&server, "q=marmalade").await["results"], json!([]));
}

#[tokio::test]
async fn messages_unindexed_at_restart_are_indexed_afterwards() {
    let mut server = Server::start().await;
    let many: Vec<_> = (0..60).map(|place| format!("pebble number{place}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let sessions: Vec<_> =
        (0..5).map(|id| session(&format!("s{id}"), 1, "Beach", None, &many)).collect();
    server.post("/api/import", json!({"sessions": sessions})).await.data();
    server.restart().await;
    for place in [0, 59] {
        search_until_found(&server, &format!("number{place}"), 5).await;
    }
}

#[tokio::test]
async fn invalid_search_query_is_rejected() {
    let server = Server::start().await;
    for (query, field) in [
        ("", "q"),
        ("?q=", "q"),
        ("?q=--", "q"),
        ("?q=a&role=robot", "role"),
        ("?q=a&from=yesterday", "from"),
        ("?q=a&to=2025", "to"),
        ("?q=a&limit=0", "limit"),
        ("?q=a&limit=101", "limit"),
        ("?q=a&cursor=x", "cursor"),
        ("?q=a&page=2", "page"),
        ("?q=a&sessionId=a%20b", "sessionId"),
    ] {
        let reply = server.get(&format!("/api/search{query}")).await;
        assert_eq!(reply.failure(), (400, "invalid_request"), "{query}");
        assert!(reply.body["error"]["details"][field].is_string(), "{query}: {}", reply.body);
    }
}

/// The contents of the messages that a user finds.
async fn found_messages(core: &ChatCore, user: &str, question: &str) -> Vec<String> {
    let query = SearchQuery {
        terms: parse_terms(question).unwrap(),
        project_id: None,
        session_id: None,
        role: None,
        from: None,
        to: None,
        after: None,
        limit: 20,
    };
    let (findings, _) = core.chat.search_messages(&principal(user), &query).await.unwrap();
    findings.into_iter().map(|finding| finding.snippet.text).collect()
}

pub async fn say(core: &ChatCore, user: &str, session: &SessionId, text: &str) {
    let message = NewMessage {
        id: MessageId::generate(),
        client_message_id: None,
        role: Role::User,
        sender_id: UserId::new_unchecked(user),
        body: MessageBody {
            content: text.to_owned(),
            parts: Default::default(),
            kind: MessageType::Text,
        },
        tokens: 1,
        created_at: Timestamp::from_millis(5),
        reply: ReplyFields::default(),
    };
    let now = Timestamp::from_millis(5);
    let post = PostMessage {
        session_id: session.clone(),
        message,
        parent: MessageParent::Head,
        idempotency_key: None,
        now,
    };
    core.chat.post_message(&principal(user), post).await.unwrap();
    while core.chat.index_next_batch().await.unwrap() {}
}

async fn users_find_only_what_they_may_read_now(fresh: EmptyStore) {
    let core = ChatCore::new(fresh);
    let shared = core.create(&["bob"]).await;
    let own = core.create(&[]).await;
    say(&core, "alice", &shared, "apples for bob").await;
    say(&core, "bob", &shared, "apples, thanks").await;
    say(&core, "alice", &own, "apples for me").await;
    assert_eq!(found_messages(&core, "alice", "apples thanks").await, ["apples, thanks"]);
    assert_eq!(
        found_messages(&core, "alice", "apples").await.len(),
        5,
        "three messages, two titles"
    );
    assert_eq!(found_messages(&core, "bob", "apples thanks").await, ["apples, thanks"]);
    assert_eq!(found_messages(&core, "bob", "apples me").await, Vec::<String>::new());
    assert_eq!(found_messages(&core, "carol", "apples").await, Vec::<String>::new());
    core.invite(&shared, &["carol"]).await;
    assert_eq!(found_messages(&core, "bob", "apples").await, Vec::<String>::new());
    assert_eq!(found_messages(&core, "carol", "thanks").await, ["apples, thanks"]);
    core.chat.delete_session(&principal("alice"), &shared).await.unwrap();
    assert_eq!(found_messages(&core, "alice", "thanks").await, Vec::<String>::new());
    assert_eq!(found_messages(&core, "carol", "thanks").await, Vec::<String>::new());
}

on_both_stores!(users_find_only_what_they_may_read_now);

#[tokio::test]
async fn unreadable_session_does_not_stop_the_index() {
    let mut server = Server::on_file(&[]).await;
    let old = json!({"sessions": [session("old", 1, "Old", None, &["unreadable"])]});
    server.post("/api/import", old).await.data();
    search_until_found(&server, "unreadable", 1).await;
    server.stop().await;
    let file = rusqlite::Connection::open(server.database()).unwrap();
    file.execute_batch("UPDATE messages SET role = 'odd'; UPDATE sessions SET kept = 0").unwrap();
    drop(file);

    server.start_again().await;

    let new = json!({"sessions": [session("new", 2, "New", None, &["readable"])]});
    server.post("/api/import", new).await.data();
    search_until_found(&server, "readable", 1).await;
}

async fn new_session_with_the_id_of_a_deleted_one_is_indexed(fresh: EmptyStore) {
    let core = ChatCore::new(fresh);
    let id = SessionId::new_unchecked("again");
    let alice = principal("alice");
    let create = |at| {
        let new = NewSession { id: Some(id.clone()), ..NewSession::default() };
        core.chat.create_session(&alice, new, Timestamp::from_millis(at))
    };
    let deleted = create(1).await.unwrap().0;
    core.chat.delete_session(&alice, &id).await.unwrap();
    create(2).await.unwrap();
    say(&core, "alice", &id, "apples").await;

    // Another instance read these words before the deletion.
    let message = MessageWords {
        seq: 1,
        id: MessageId::generate(),
        role: Role::User,
        created_at: Timestamp::from_millis(1),
        words: vec!["pears".to_owned()],
    };
    let late = SessionWords { session: deleted, after_seq: 0, messages: vec![message] };
    core.fresh.store.index_words(vec![late]).await.unwrap();
    while core.chat.index_next_batch().await.unwrap() {}

    let found = found_messages(&core, "alice", "apples").await;
    assert_eq!(found, ["apples", "apples"], "the message and the title");
    assert_eq!(found_messages(&core, "alice", "pears").await, Vec::<String>::new());
}

on_both_stores!(new_session_with_the_id_of_a_deleted_one_is_indexed);
