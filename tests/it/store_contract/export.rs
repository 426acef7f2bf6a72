//! Export of whole sessions.

use super::import::{file_message, message_chain, message_id, session_file};
use super::{at, begin, begin_running, create, finish, id, message, post, stored_messages, user};
use echoic::domain::export_format::ExportFormat;
use echoic::domain::page::MessageView;
use echoic::domain::principal::AccessLevel;
use echoic::domain::{MessageId, Principal, Role};
use echoic::error::ErrorKind;
use echoic::store::{DeleteFilter, MessageParent, NewMessage, NewSession, SessionUpdate, Store};
use echoic::transfer::export::{ExportScope, SessionExporter};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// Reads a session chunk by chunk. Returns the ids of its messages and the number of chunks.
async fn read(store: &Arc<dyn Store>, who: &Principal, session: &str) -> (Vec<MessageId>, usize) {
    let (mut ids, mut pieces, mut last) = (Vec::new(), 0, 0);
    loop {
        let piece = store.read_chunk(who, &id(session), last).await.unwrap();
        let Some(newest) = piece.messages.last() else { return (ids, pieces) };
        assert_eq!(piece.session.messages_count, 7);
        last = newest.seq;
        pieces += 1;
        ids.extend(piece.messages.into_iter().map(|message| message.id));
    }
}

pub async fn session_chunks_hold_the_messages_in_stored_order(store: &Arc<dyn Store>) {
    let ada = user("ada");
    create(store, &ada, "s").await;
    let none = store.read_chunk(&ada, &id("s"), 0).await.unwrap();
    assert_eq!((none.messages.len(), none.session.messages_count), (0, 0));
    // Three messages that fill a chunk alone, among small ones on two branches.
    let large = "x".repeat(2 << 20);
    let texts = ["a", large.as_str(), "b", "c", large.as_str(), large.as_str(), "d"];
    let mut posted: Vec<MessageId> = Vec::new();
    for (number, text) in texts.into_iter().enumerate() {
        let parent = if number == 3 {
            MessageParent::Message(posted[0].clone())
        } else {
            MessageParent::Head
        };
        let message = message("ada", Role::User, text, number as i64);
        posted.push(post(store, &ada, "s", message, parent).await.id);
    }
    let (ids, pieces) = read(store, &ada, "s").await;
    assert_eq!(ids, posted);
    assert_eq!(pieces, 4, "a piece ends once it holds a mebibyte");

    let piece = store.read_chunk(&ada, &id("s"), 2).await.unwrap();
    let stored = stored_messages(store, &ada, "s", MessageView::All).await;
    for (read, stored) in piece.messages.iter().zip(&stored[2..]) {
        assert_eq!(
            (&read.id, &read.parent_id, read.seq),
            (&stored.id, &stored.parent_id, stored.seq)
        );
        assert_eq!((&read.content, read.created_at), (&stored.content, stored.created_at));
    }
    let session = store.get_session(&ada, &id("s"), AccessLevel::Owner).await.unwrap();
    assert_eq!(piece.session.head_id, session.head_id);
}

pub async fn session_chunk_is_readable_only_by_owner_or_admin(store: &Arc<dyn Store>) {
    let (ada, bob, eve) = (user("ada"), user("bob"), user("eve"));
    let new = NewSession {
        id: Some(id("s")),
        participants: vec![bob.user.clone()],
        ..NewSession::default()
    };
    store.create_session(&ada, new, at(0)).await.unwrap();
    let refused = |who: Principal| {
        let store = store.clone();
        async move { store.read_chunk(&who, &id("s"), 0).await.unwrap_err().kind }
    };
    assert_eq!(refused(bob).await, ErrorKind::Forbidden);
    assert_eq!(refused(eve).await, ErrorKind::SessionNotFound);
    let admin = Principal { is_admin: true, ..user("root") };
    assert_eq!(store.read_chunk(&admin, &id("s"), 0).await.unwrap().session.owner, ada.user);
    store.delete_session(&ada, &id("s")).await.unwrap();
    assert_eq!(refused(ada).await, ErrorKind::SessionNotFound);
}

pub async fn earlier_messages_are_read_while_new_ones_arrive(store: &Arc<dyn Store>) {
    let ada = user("ada");
    store
        .import_session(&ada, session_file("s", message_chain(&["q1", "r1"])), at(0))
        .await
        .unwrap();
    let first = store.read_chunk(&ada, &id("s"), 0).await.unwrap();
    let begun = begin_running(store, begin(&ada, "s", "q2")).await;
    let during = store.read_chunk(&ada, &id("s"), 0).await.unwrap();
    assert!(during.session.active_turn.is_some());
    store.finish_turn(finish(&begun, "r2", None)).await.unwrap().unwrap();
    let after = store.read_chunk(&ada, &id("s"), 0).await.unwrap();
    let count = first.session.messages_count as usize;
    let ids = |messages: &[echoic::domain::Message]| {
        messages.iter().map(|message| message.id.clone()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&after.messages[..count]), ids(&first.messages));
    assert_eq!((count, during.messages.len(), after.messages.len()), (2, 3, 4));
}

pub async fn read_marks_are_imported_with_a_new_session_and_exported(store: &Arc<dyn Store>) {
    let ada = user("ada");
    let marks = HashMap::from([("bob".to_owned(), 2), ("ada".to_owned(), 3)]);
    let mut import = session_file("s", message_chain(&["q1", "r1", "q2"]));
    import.read_marks.clone_from(&marks);
    store.import_session(&ada, import, at(0)).await.unwrap();
    let piece = store.read_chunk(&ada, &id("s"), 0).await.unwrap();
    assert_eq!(piece.read_marks, marks);
    // All were sent by Caroline, who is neither of the readers; ada has read the last one.
    let seen: Vec<bool> = piece.messages.iter().map(|message| message.seen).collect();
    assert_eq!(seen, [true, true, true]);
    let stored = stored_messages(store, &ada, "s", MessageView::All).await;
    assert!(stored.iter().all(|message| message.seen));

    // A session that exists keeps its own read marks.
    let mut again = session_file("s", message_chain(&["q1", "r1", "q2", "r2"]));
    again.read_marks = HashMap::from([("bob".to_owned(), 4)]);
    store.import_session(&ada, again, at(1)).await.unwrap();
    assert_eq!(store.read_chunk(&ada, &id("s"), 0).await.unwrap().read_marks, marks);
}

pub async fn imported_file_may_keep_its_title_unset(store: &Arc<dyn Store>) {
    let ada = user("ada");
    let mut import = session_file("s", message_chain(&["q1", "r1"]));
    import.keep_title = true;
    let report = store.import_session(&ada, import, at(0)).await.unwrap();
    assert_eq!(report.title, "New Chat");
    let named_by_its_message = session_file("t", message_chain(&["q1", "r1"]));
    let report = store.import_session(&ada, named_by_its_message, at(0)).await.unwrap();
    assert_eq!(report.title, "q1");
}

pub async fn unplaceable_message_is_reported_by_its_number(store: &Arc<dyn Store>) {
    let ada = user("ada");
    let mut messages = message_chain(&["q1", "r1"]);
    messages.push(file_message("q2", 3, MessageParent::Message(message_id("nobody"))));
    let error = store.import_session(&ada, session_file("s", messages), at(0)).await.unwrap_err();
    let sentence = "messages[2].parentId must name a message of the session, nobody does not";
    assert_eq!((error.kind, error.to_string().as_str()), (ErrorKind::InvalidRequest, sentence));
}

pub async fn owned_sessions_are_listed_in_any_state(store: &Arc<dyn Store>) {
    let (ada, bob) = (user("ada"), user("bob"));
    for name in ["a", "b", "c"] {
        create(store, &ada, name).await;
    }
    create(store, &bob, "of-bob").await;
    let archive = SessionUpdate { archived: Some(true), ..SessionUpdate::default() };
    store.update_session(&ada, &id("a"), archive, Vec::new(), at(1)).await.unwrap();
    let late =
        NewMessage { created_at: at(250_000_000_000_000), ..message("ada", Role::User, "x", 0) };
    post(store, &ada, "b", late, MessageParent::Head).await;
    let end = echoic::domain::Timestamp::from_millis(253_402_300_799_999);
    let mut all = store.list_owned_sessions(&ada, DeleteFilter::InactiveSince(end)).await.unwrap();
    all.sort_unstable();
    assert_eq!(all, [id("a"), id("b"), id("c")]);
}

pub async fn older_file_never_moves_last_seen_back(store: &Arc<dyn Store>) {
    let ada = user("ada");
    let seen_at = async |names: &[&str], millis: i64| {
        let mut import = session_file("s", message_chain(names));
        import.last_seen = Some(at(millis));
        store.import_session(&ada, import, at(5000)).await.unwrap();
        store.get_session(&ada, &id("s"), AccessLevel::Owner).await.unwrap().last_seen
    };
    assert_eq!(seen_at(&["q1"], 1000).await, Some(at(1000)));
    assert_eq!(seen_at(&["q1", "r1"], 500).await, Some(at(1000)));
    assert_eq!(seen_at(&["q1", "r1", "q2"], 2000).await, Some(at(2000)));
}

/// The rest of an export, parsed as JSON.
async fn rest(mut export: SessionExporter, mut text: Vec<u8>) -> Value {
    while let Some(piece) = export.next_chunk().await.unwrap() {
        text.extend(piece);
    }
    serde_json::from_slice(&text).unwrap()
}

pub async fn export_continues_while_sessions_are_deleted_or_grow(store: &Arc<dyn Store>) {
    let ada = user("ada");
    let large = "x".repeat(2 << 20);
    for session in ["a", "b", "c", "d"] {
        create(store, &ada, session).await;
        for text in [large.as_str(), large.as_str(), "end"] {
            post(store, &ada, session, message("ada", Role::User, text, 1), MessageParent::Head)
                .await;
        }
    }
    let mut export =
        SessionExporter::open(store.clone(), ada.clone(), ExportScope::All, ExportFormat::Json)
            .await
            .unwrap();
    let mut text = export.next_chunk().await.unwrap().unwrap();
    // The export has written the first chunk of "a".
    text.extend(export.next_chunk().await.unwrap().unwrap());
    post(store, &ada, "a", message("ada", Role::User, "too late", 2), MessageParent::Head).await;
    store.delete_session(&ada, &id("b")).await.unwrap();
    while export.sessions_started() < 2 {
        text.extend(export.next_chunk().await.unwrap().unwrap());
    }
    // The export has written the first chunk of "c", so it cannot leave the session out any more.
    store.delete_session(&ada, &id("c")).await.unwrap();
    let file = rest(export, text).await;
    let counts: Vec<_> = file["sessions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|session| {
            let written = session["messages"].as_array().unwrap().len();
            (session["sessionId"].as_str().unwrap(), session["messagesCount"].as_u64(), written)
        })
        .collect();
    let (_, _, of_c) = counts[1];
    assert_eq!(counts, [("a", Some(3), 3), ("c", Some(3), of_c), ("d", Some(3), 3)]);
    assert!(of_c < 3, "what was deleted is not read on");
}
