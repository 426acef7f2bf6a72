//! Import of whole sessions.

use super::{
    at, begin, begin_running, create, finish, id, listed_ids, message, stored_messages, user,
};
use echoic::domain::page::MessageView;
use echoic::domain::principal::AccessLevel;
use echoic::domain::session::SessionStatus;
use echoic::domain::title::{SessionTitle, TitleSource};
use echoic::domain::{MessageId, Principal, Role, Session, SessionId};
use echoic::error::ErrorKind;
use echoic::store::{ImportSession, MessageParent, NewMessage, NewSession, Store};
use echoic::transfer::import::{ImportReport, SessionImporter};
use echoic::transfer::session_record::ImportOptions;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::runtime::Handle;

pub fn message_id(text: &str) -> MessageId {
    MessageId::new_unchecked(text)
}

/// A message of a file and its parent. The id and the text are `name`.
pub fn file_message(name: &str, millis: i64, parent: MessageParent) -> (NewMessage, MessageParent) {
    let role = if name.starts_with('r') { Role::Assistant } else { Role::User };
    (NewMessage { id: message_id(name), ..message("Caroline", role, name, millis) }, parent)
}

/// A session of a file, without a title.
pub fn session_file(session: &str, messages: Vec<(NewMessage, MessageParent)>) -> ImportSession {
    ImportSession {
        id: id(session),
        fallback_id: id(&format!("{session}-other")),
        fields: NewSession::default(),
        status: SessionStatus::default(),
        archived: false,
        pinned: false,
        placements: Vec::new(),
        created_at: at(-1000),
        last_seen: None,
        read_marks: HashMap::new(),
        keep_title: false,
        head_id: None,
        messages,
    }
}

pub fn message_chain(names: &[&str]) -> Vec<(NewMessage, MessageParent)> {
    let place =
        |(index, name): (usize, &&str)| file_message(name, index as i64, MessageParent::Head);
    names.iter().enumerate().map(place).collect()
}

async fn read(store: &Arc<dyn Store>, who: &Principal, session: &SessionId) -> Session {
    store.get_session(who, session, AccessLevel::Owner).await.unwrap()
}

async fn path(store: &Arc<dyn Store>, who: &Principal, session: &str) -> String {
    let said = stored_messages(store, who, session, MessageView::Path).await;
    said.into_iter().map(|message| message.content).collect::<Vec<_>>().join(" ")
}

pub async fn imported_session_matches_its_file(store: &Arc<dyn Store>) {
    let ada = user("ada");
    let mut import = session_file(
        "s",
        vec![
            file_message("q1", 1, MessageParent::Head),
            file_message("r1", 2, MessageParent::Head),
            file_message("q2", 3, MessageParent::Head),
            file_message("r1b", 4, MessageParent::Message(message_id("q1"))),
            file_message("q3", 5, MessageParent::Head),
            file_message("root", 6, MessageParent::Root),
        ],
    );
    import.fields.title = SessionTitle { text: "Old".to_owned(), source: TitleSource::User };
    import.status = SessionStatus::parse("closed").unwrap();
    (import.archived, import.pinned) = (true, true);
    (import.last_seen, import.head_id) = (Some(at(99)), Some(message_id("q3")));
    let report = store.import_session(&ada, import, at(1000)).await.unwrap();
    assert_eq!(
        (&report.session_id, report.title.as_str(), report.added_messages),
        (&id("s"), "Old", 6)
    );

    let session = read(store, &ada, &id("s")).await;
    assert_eq!((session.title.as_str(), session.title_source), ("Old", TitleSource::User));
    assert_eq!((session.status.as_str(), session.archived, session.pinned), ("closed", true, true));
    assert_eq!((session.created_at, session.last_seen), (at(-1000), Some(at(99))));
    assert_eq!((session.messages_count, session.head_id), (6, Some(message_id("q3"))));
    assert_eq!((session.owner, session.active_turn), (ada.user.clone(), None));
    assert_eq!(path(store, &ada, "s").await, "q1 r1b q3");
    let all = stored_messages(store, &ada, "s", MessageView::All).await;
    assert_eq!(all.iter().map(|message| message.seq).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    assert_eq!(all[1].sibling_ids, [message_id("r1"), message_id("r1b")]);
    assert_eq!(all[5].parent_id, None);
}

pub async fn repeated_import_adds_only_new_messages(store: &Arc<dyn Store>) {
    let ada = user("ada");
    let names = ["q1", "r1", "q2"];
    store.import_session(&ada, session_file("s", message_chain(&names)), at(1000)).await.unwrap();
    let before = read(store, &ada, &id("s")).await;
    assert_eq!((before.title.as_str(), before.title_source), ("q1", TitleSource::Auto));
    let again = store
        .import_session(&ada, session_file("s", message_chain(&names)), at(2000))
        .await
        .unwrap();
    assert_eq!(again.added_messages, 0);
    let after = read(store, &ada, &id("s")).await;
    assert_eq!((after.version, after.updated_at), (before.version, before.updated_at));

    let longer = session_file("s", message_chain(&["q1", "r1", "q2", "r2", "q3"]));
    assert_eq!(store.import_session(&ada, longer, at(3000)).await.unwrap().added_messages, 2);
    assert_eq!(path(store, &ada, "s").await, "q1 r1 q2 r2 q3");
    // Messages missing in the file stay in the session. New ones are attached where the file says.
    let branch = session_file(
        "s",
        vec![
            file_message("r1", 0, MessageParent::Head),
            file_message("q2b", 9, MessageParent::Head),
        ],
    );
    assert_eq!(store.import_session(&ada, branch, at(4000)).await.unwrap().added_messages, 1);
    assert_eq!(path(store, &ada, "s").await, "q1 r1 q2b");
    assert_eq!(stored_messages(store, &ada, "s", MessageView::All).await.len(), 6);
}

pub async fn session_is_imported_whole_or_not_at_all(store: &Arc<dyn Store>) {
    let ada = user("ada");
    let lost = |name| file_message(name, 7, MessageParent::Message(message_id("nobody")));
    let mut messages = message_chain(&["q1", "r1", "q2"]);
    messages.push(lost("q3"));
    let headless = ImportSession {
        head_id: Some(message_id("nobody")),
        ..session_file("s", message_chain(&["q1", "r1"]))
    };
    for bad in [session_file("s", messages.clone()), headless.clone()] {
        let error = store.import_session(&ada, bad, at(1000)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidRequest);
        let gone = store.get_session(&ada, &id("s"), AccessLevel::Owner).await.unwrap_err();
        assert_eq!(gone.kind, ErrorKind::SessionNotFound);
    }
    assert_eq!(listed_ids(store, &ada, None).await, Vec::<String>::new());

    store.import_session(&ada, session_file("s", message_chain(&["q1"])), at(1000)).await.unwrap();
    let before = read(store, &ada, &id("s")).await;
    for bad in [session_file("s", messages), headless] {
        let error = store.import_session(&ada, bad, at(2000)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidRequest);
        let after = read(store, &ada, &id("s")).await;
        assert_eq!((after.messages_count, after.head_id), (1, Some(message_id("q1"))));
        assert_eq!(
            (after.version, after.updated_at, after.nodes),
            (before.version, before.updated_at, before.nodes.clone())
        );
        assert_eq!(path(store, &ada, "s").await, "q1");
    }
}

pub async fn session_of_another_user_is_imported_under_a_new_id(store: &Arc<dyn Store>) {
    let (ada, bob) = (user("ada"), user("bob"));
    create(store, &ada, "s").await;
    for (count, added) in [(1, 1), (1, 0), (2, 1)] {
        let messages = message_chain(&["q1", "r1"][..count]);
        let report =
            store.import_session(&bob, session_file("s", messages), at(1000)).await.unwrap();
        assert_eq!((report.session_id, report.added_messages), (id("s-other"), added));
    }
    assert_eq!(read(store, &ada, &id("s")).await.messages_count, 0);
    assert_eq!(listed_ids(store, &bob, None).await, ["s-other"]);
    // If the alternative id is taken as well, the import fails.
    let eve = user("eve");
    let error =
        store.import_session(&eve, session_file("s", message_chain(&["q1"])), at(1000)).await;
    assert_eq!(error.unwrap_err().kind, ErrorKind::IdConflict);
    assert_eq!(listed_ids(store, &eve, None).await, Vec::<String>::new());
}

pub async fn busy_or_closed_session_rejects_an_import(store: &Arc<dyn Store>) {
    let ada = user("ada");
    create(store, &ada, "s").await;
    let begun = begin_running(store, begin(&ada, "s", "hi")).await;
    let busy =
        store.import_session(&ada, session_file("s", message_chain(&["q1"])), at(1000)).await;
    assert_eq!(busy.unwrap_err().kind, ErrorKind::SessionBusy);
    store.finish_turn(finish(&begun, "hello", None)).await.unwrap().unwrap();
    assert_eq!(path(store, &ada, "s").await, "hi hello");

    let closed = |names: &[&str]| ImportSession {
        status: SessionStatus::parse("closed").unwrap(),
        ..session_file("c", message_chain(names))
    };
    store.import_session(&ada, closed(&["q1", "r1"]), at(1000)).await.unwrap();
    // The same file adds nothing and is accepted; a longer one is rejected.
    let same = store.import_session(&ada, closed(&["q1", "r1"]), at(1000)).await.unwrap();
    assert_eq!(same.added_messages, 0);
    let longer = store.import_session(&ada, closed(&["q1", "r1", "q2"]), at(1000)).await;
    assert_eq!(longer.unwrap_err().kind, ErrorKind::SessionClosed);
    assert_eq!(path(store, &ada, "c").await, "q1 r1");
}

/// Imports one session from its JSON, through the importer that the API and the command line use.
async fn import_file(
    store: &Arc<dyn Store>,
    who: &Principal,
    trusts_participants: bool,
    session: &str,
) -> ImportReport {
    let terms = ImportOptions { max_message: 1000, trusts_participants, needs_consent: false };
    let mut import = SessionImporter::new(store.clone(), who.clone(), terms, Handle::current());
    let file = session.to_owned();
    let task = tokio::task::spawn_blocking(move || {
        let read = import.read_file(file.as_bytes());
        import.finish(read).unwrap()
    });
    task.await.unwrap()
}

pub async fn importer_owns_sessions_and_adds_participants_if_trusted(store: &Arc<dyn Store>) {
    let (ada, bob) = (user("ada"), user("bob"));
    let session = r#"{"sessionId": "s", "userId": "eve", "participants": ["eve", "bob"], "messages":
        [{"id": "q1", "role": "user", "senderId": "eve", "content": "Hi"}]}"#;
    for (who, trusts_participants, stored_as, participants) in
        [(&ada, true, "s", vec!["ada", "eve", "bob"]), (&bob, false, "other", vec!["bob"])]
    {
        let report = import_file(store, who, trusts_participants, session).await;
        let imported = &report.sessions[0];
        assert_eq!((imported.source_id.as_deref(), imported.messages), (Some("s"), 1));
        let own = imported.session_id.clone();
        // The id is taken by ada, so bob's session gets another one.
        assert_eq!(own == id("s"), stored_as == "s");
        let read = read(store, who, &own).await;
        assert_eq!(read.owner, who.user);
        let names: Vec<_> = read.participants.iter().map(|user| user.as_str()).collect();
        assert_eq!(names, participants);
        // A repeated import reaches the same session.
        let again = import_file(store, who, trusts_participants, session).await;
        assert_eq!((&again.sessions[0].session_id, again.sessions[0].messages), (&own, 0));
    }
}
