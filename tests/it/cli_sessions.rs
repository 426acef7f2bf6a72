//! `echoic sessions`: the operator's list, with and without a running server.

use crate::support::mongo::database;
use crate::support::process::{ServerProcess, run};
use crate::support::server::fetch;
use echoic::clock;
use echoic::domain::content::MessageBody;
use echoic::domain::message::MessageParts;
use echoic::domain::page::SessionQuery;
use echoic::domain::session::{JsonObject, SessionStatus};
use echoic::domain::title::SessionTitle;
use echoic::domain::{
    MessageId, MessageType, Principal, ProjectId, Role, SessionId, Timestamp, UserId,
};
use echoic::store::mongo::MongoStore;
use echoic::store::sqlite::{Durability, SqliteStore};
use echoic::store::{
    MessageParent, NewMessage, NewSession, PostMessage, ReplyFields, SessionStore, SessionUpdate,
    Store,
};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

const MINUTE: i64 = 60_000;

fn object(text: &str) -> JsonObject {
    JsonObject::from_stored(text.to_owned()).unwrap()
}

/// Stores a session of `owner` that was created an hour ago and got its message `minutes` ago.
async fn store_session(store: &dyn Store, owner: &str, session: &str, title: &str, minutes: i64) {
    let who = Principal { user: UserId::new_unchecked(owner), is_admin: false };
    let ago = |minutes: i64| Timestamp::from_millis(clock::now().as_millis() - minutes * MINUTE);
    let new = NewSession {
        id: Some(SessionId::new_unchecked(session)),
        title: SessionTitle::from_user(Some(title)).unwrap(),
        project_id: Some(ProjectId::new_unchecked(format!("project-of-{owner}"))),
        user_meta: object(r#"{"browser":"Firefox"}"#),
        theme: object(r##"{"colour":"#fff"}"##),
        ..NewSession::default()
    };
    store.create_session(&who, new, ago(60)).await.unwrap();
    let message = NewMessage {
        id: MessageId::generate(),
        client_message_id: None,
        role: Role::User,
        sender_id: who.user.clone(),
        body: MessageBody {
            content: "help".to_owned(),
            parts: MessageParts::default(),
            kind: MessageType::Text,
        },
        tokens: 1,
        created_at: ago(minutes),
        reply: ReplyFields::default(),
    };
    let (session_id, now) = (SessionId::new_unchecked(session), message.created_at);
    let post = PostMessage {
        session_id,
        message,
        parent: MessageParent::Head,
        idempotency_key: None,
        now,
    };
    store.post_message(&who, post).await.unwrap();
}

/// A database file with sessions of two users.
async fn fill_database(folder: &Path) -> HashMap<&'static str, String> {
    let store = SqliteStore::open(&folder.join("desk.db"), Durability::Normal).unwrap();
    store_session(&store, "alice", "a1", "Printer on fire", 5).await;
    store_session(&store, "alice", "a2", "Invoice \u{1b}[2J\u{202e} missing", 125).await;
    store_session(&store, "bob", "b1", "Printer: ", 60 * 50).await;
    let who = Principal { user: UserId::new_unchecked("alice"), is_admin: false };
    let handed = SessionUpdate {
        status: Some(SessionStatus::parse("agent_assigned").unwrap()),
        archived: Some(true),
        ..SessionUpdate::default()
    };
    let session = SessionId::new_unchecked("a2");
    store.update_session(&who, &session, handed, Vec::new(), clock::now()).await.unwrap();
    store.close().await;
    HashMap::from([
        ("DATABASE_URL", "sqlite://desk.db".to_owned()),
        ("PORT", "0".to_owned()),
        ("ECHOIC_PROVIDER", "demo".to_owned()),
    ])
}

async fn run_sessions(
    folder: &Path,
    variables: &HashMap<&str, String>,
    arguments: &[&str],
) -> (i32, String, String) {
    let arguments: Vec<_> = ["sessions"].iter().chain(arguments).copied().collect();
    run(folder, variables, &arguments).await
}

/// The ids of the listed sessions.
async fn listed_ids(
    folder: &Path,
    variables: &HashMap<&str, String>,
    arguments: &[&str],
) -> Vec<String> {
    let (code, out, stderr) = run_sessions(folder, variables, arguments).await;
    assert_eq!((code, stderr.as_str()), (0, ""), "{arguments:?}");
    let id = |line: &str| line.split_whitespace().next().unwrap().to_owned();
    out.lines().skip(1).map(id).collect()
}

#[tokio::test]
async fn table_shows_users_titles_and_last_activity() {
    let folder = tempfile::tempdir().unwrap();
    let variables = fill_database(folder.path()).await;
    let (code, out, stderr) = run_sessions(folder.path(), &variables, &[]).await;
    assert_eq!((code, stderr.as_str()), (0, ""));
    let lines: Vec<_> = out.lines().collect();
    let columns = "ID TITLE USER STATUS STARTED LAST SEEN MESSAGES USER META THEME";
    assert_eq!(lines[0].split_whitespace().collect::<Vec<_>>().join(" "), columns);
    assert_eq!(lines.len(), 4, "a session a line: {out}");
    // Newest activity first. Line breaks and control characters in a title are not printed as such.
    for (line, shown) in lines[1..].iter().zip([
        &["a1", "Printer on fire", "alice", "active", "5 minutes ago", "1"][..],
        &["a2", "Invoice  [2J  missing", "alice", "agent_assigned", "2 hours ago"],
        &["b1", "Printer:", "bob", "active", "2 days ago", r#"{"browser":"Firefox"}"#, "#fff"],
    ]) {
        let mut rest = *line;
        for piece in shown {
            let at = rest.find(piece).unwrap_or_else(|| panic!("{piece:?} is missing in {line}"));
            rest = &rest[at + piece.len()..];
        }
    }
    assert!(!out.contains('\u{1b}') && !out.contains('\u{202e}'), "{out:?}");
}

#[tokio::test]
async fn flags_filter_sessions_and_json_has_every_field() {
    let folder = tempfile::tempdir().unwrap();
    let variables = fill_database(folder.path()).await;
    for (arguments, expected) in [
        (&["--user", "alice"][..], &["a1", "a2"][..]),
        (&["--user=nobody"], &[]),
        (&["--status=agent_assigned"], &["a2"]),
        (&["--project=project-of-bob"], &["b1"]),
        (&["--search=PRINT"], &["a1", "b1"]),
        (&["--search=print fi"], &["a1"]),
        (&["--search= "], &["a1", "a2", "b1"]),
        (&["--limit=1"], &["a1"]),
        (&["--search=printer", "--user=bob"], &["b1"]),
    ] {
        assert_eq!(
            listed_ids(folder.path(), &variables, arguments).await,
            expected,
            "{arguments:?}"
        );
    }
    let (code, out, _) = run_sessions(folder.path(), &variables, &["--json", "--user=alice"]).await;
    let listed: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, listed.as_array().unwrap().len()), (0, 2));
    assert_eq!(listed[0]["sessionId"], "a1");
    assert_eq!(listed[0]["lastMessage"], "help");
    assert_eq!(listed[1]["title"], "Invoice \u{1b}[2J\u{202e} missing");
    assert_eq!(listed[1]["userMeta"], json!({"browser": "Firefox"}));
}

#[tokio::test]
async fn listing_leaves_a_running_servers_turns_alone() {
    let folder = tempfile::tempdir().unwrap();
    let variables = fill_database(folder.path()).await;
    let before = listed_ids(folder.path(), &variables, &[]).await;
    let server = ServerProcess::start(folder.path(), &variables).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let new = json!({"sessionId": "fresh", "title": "Just now"});
    let create = client.post(format!("{}/api/chat-sessions", server.base)).json(&new);
    assert_eq!(fetch(create).await.status, 201);
    // A claim of an unknown instance: a server that starts would end this turn as an orphan.
    let claim = "INSERT INTO turns SELECT key, 't', 'r', 'q', 0, 'elsewhere', 'b', 'bob', NULL \
                 FROM sessions WHERE id = 'fresh'";
    let file = folder.path().join("desk.db");
    rusqlite::Connection::open(&file).unwrap().execute(claim, []).unwrap();

    let (_, out, _) = run_sessions(folder.path(), &variables, &["--json"]).await;
    let listed: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(listed[0]["sessionId"], "fresh");
    assert_eq!(listed[0]["activeTurn"]["turnId"], "t");
    assert_eq!(listed.as_array().unwrap().len(), before.len() + 1);
    let count = "SELECT count(*) FROM turns";
    let turns: i64 =
        rusqlite::Connection::open(&file).unwrap().query_row(count, [], |row| row.get(0)).unwrap();
    assert_eq!(turns, 1, "looking ends no turn");
    assert_eq!(server.terminate().await.0, 0);
    assert_eq!(listed_ids(folder.path(), &variables, &["--limit=1"]).await, ["fresh"]);
}

#[tokio::test]
async fn mongodb_sessions_are_listed_too() {
    let Some(url) = database() else { return };
    let folder = tempfile::tempdir().unwrap();
    let store = MongoStore::open(&url, Duration::from_secs(15)).await.unwrap();
    for (owner, session, minutes) in [("alice", "a1", 5), ("bob", "b1", 7), ("alice", "a2", 9)] {
        store_session(&store, owner, session, "Printer on fire", minutes).await;
    }
    store.close().await;
    let variables = HashMap::from([("DATABASE_URL", url)]);
    assert_eq!(listed_ids(folder.path(), &variables, &[]).await, ["a1", "b1", "a2"]);
    assert_eq!(
        listed_ids(folder.path(), &variables, &["--user=alice", "--search=fi"]).await,
        ["a1", "a2"]
    );
}

#[tokio::test]
async fn unusable_database_is_reported_and_nothing_created() {
    let folder = tempfile::tempdir().unwrap();
    let none = HashMap::new();
    let (code, out, stderr) = run_sessions(folder.path(), &none, &[]).await;
    let sentence = "echoic: there is no data/echoic.db; set DATABASE_URL as for the server\n";
    assert_eq!((code, out.as_str(), stderr.as_str()), (1, "", sentence));
    assert!(!folder.path().join("data").exists());

    std::fs::write(folder.path().join("text.db"), "no database at all ".repeat(100)).unwrap();
    rusqlite::Connection::open(folder.path().join("old.db"))
        .unwrap()
        .execute_batch(
            "CREATE TABLE t (x); PRAGMA application_id = 1164142703; PRAGMA user_version = 99",
        )
        .unwrap();
    for (arguments, code, wants) in [
        (
            &["--database-url=sqlite://text.db"][..],
            1,
            "cannot open text.db: file is not a database",
        ),
        (&["--database-url=sqlite://old.db"], 1, "has schema version 99"),
        (&["--database-url=postgres://x"], 2, "sqlite://PATH"),
        (&["--status=Closed"], 2, "a-z and _"),
        (&["--project=a b"], 2, "A-Z a-z 0-9"),
        (&["--limit=0"], 2, "1..=100000"),
        (&["--colour"], 2, "--colour"),
    ] {
        let (ended, _, stderr) = run_sessions(folder.path(), &none, arguments).await;
        assert!(ended == code && stderr.contains(wants), "{arguments:?}: {ended} {stderr}");
    }
    let bad = HashMap::from([("DATABASE_URL", "redis://ann:secret@x".to_owned())]);
    let (code, _, stderr) = run_sessions(folder.path(), &bad, &[]).await;
    assert!(
        code == 2 && stderr.starts_with("echoic: DATABASE_URL must be sqlite://PATH"),
        "{stderr}"
    );
    assert!(!stderr.contains("secret"), "{stderr}");
    let (code, help, _) = run_sessions(folder.path(), &none, &["--help"]).await;
    assert!(code == 0 && help.contains("[env: DATABASE_URL]"), "{help}");
}

#[tokio::test]
async fn read_only_store_rejects_writes() {
    let folder = tempfile::tempdir().unwrap();
    fill_database(folder.path()).await;
    let store = SqliteStore::open_read_only(&folder.path().join("desk.db")).unwrap();
    let who = Principal { user: UserId::new_unchecked("alice"), is_admin: false };
    let refused = store.delete_session(&who, &SessionId::new_unchecked("a1")).await.unwrap_err();
    assert_eq!(refused.kind.code(), "store_unavailable");
    let query = SessionQuery {
        position: echoic::domain::page::PagePosition::Page(1),
        limit: 10,
        sort: echoic::domain::page::SortOrder::default(),
        search: None,
        project_id: None,
        status: None,
        archived: None,
        is_of_invitations: false,
    };
    assert_eq!(store.list_all_sessions(None, query).await.unwrap().sessions.len(), 3);
}
