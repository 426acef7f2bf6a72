//! Imports in chunks, large forks, and the content that deletions leave to the sweep.

use super::import::{file_message, message_chain, message_id};
use super::{at, create, id, listed_ids, message, post, stored_messages, user};
use echoic::domain::page::MessageView;
use echoic::domain::principal::AccessLevel;
use echoic::domain::session::SessionStatus;
use echoic::domain::{MessageId, Role};
use echoic::error::ErrorKind;
use echoic::store::{
    ImportDraft, ImportEnd, ImportTarget, MessageParent, NewMessage, NewSession, Store,
};
use std::collections::HashMap;
use std::sync::Arc;

/// More than one transaction stores, and more than one step writes.
pub(super) const LARGE: usize = 1_500;

pub(super) type FileMessages = Vec<(NewMessage, MessageParent)>;

fn target(session: &str) -> ImportTarget {
    ImportTarget { id: id(session), fallback_id: id(&format!("{session}-other")) }
}

pub(super) fn end() -> ImportEnd {
    ImportEnd {
        fields: NewSession::default(),
        keep_title: false,
        status: SessionStatus::default(),
        archived: false,
        pinned: false,
        placements: Vec::new(),
        created_at: at(-1000),
        last_seen: None,
        read_marks: HashMap::new(),
        head_id: None,
    }
}

pub(super) fn long_chain(first: usize, count: usize) -> FileMessages {
    let name = |number: usize| {
        let kind = if number.is_multiple_of(2) { "q" } else { "r" };
        file_message(&format!("{kind}{number}"), number as i64, MessageParent::Head)
    };
    (first..first + count).map(name).collect()
}

pub(super) async fn begin(store: &Arc<dyn Store>, session: &str) -> ImportDraft {
    store.begin_import(&user("ada"), target(session), at(0)).await.unwrap()
}

/// Adds messages in chunks, as importers do. None of them may be an orphan.
pub(super) async fn add(
    store: &Arc<dyn Store>,
    draft: &mut ImportDraft,
    mut messages: FileMessages,
) {
    while !messages.is_empty() {
        let rest = messages.split_off(messages.len().min(400));
        assert_eq!(store.add_to_import(draft, messages).await.unwrap(), Vec::<usize>::new());
        messages = rest;
    }
}

pub(super) async fn sweep(store: &Arc<dyn Store>) {
    for _ in 0..10_000 {
        if !store.sweep_remains().await.unwrap() {
            return;
        }
    }
    panic!("the sweep does not end");
}

pub(super) async fn count(store: &Arc<dyn Store>, session: &str) -> u32 {
    let found = store.get_session(&user("ada"), &id(session), AccessLevel::Owner).await;
    found.map_or(0, |session| session.messages_count)
}

pub async fn large_import_is_invisible_until_it_is_whole(store: &Arc<dyn Store>) {
    let ada = user("ada");
    let mut draft = begin(store, "s").await;
    add(store, &mut draft, long_chain(0, LARGE)).await;
    assert_eq!(listed_ids(store, &ada, None).await, Vec::<String>::new());
    let hidden = store.get_message(&ada, &id("s"), &message_id("q0")).await.unwrap_err();
    assert_eq!(hidden.kind, ErrorKind::SessionNotFound);

    let marks = HashMap::from([("ada".to_owned(), message_id("q2"))]);
    let end = ImportEnd { read_marks: marks, head_id: Some(message_id("r5")), ..end() };
    let (outcome, unknown) = store.finish_import(draft, end, at(5000)).await.unwrap();

    assert_eq!((outcome.added_messages, unknown), (LARGE as u64, Default::default()));
    let session = store.get_session(&ada, &id("s"), AccessLevel::Owner).await.unwrap();
    assert_eq!((session.head_id, session.title.as_str()), (Some(message_id("r5")), "q0"));
    assert_eq!((session.created_at, session.updated_at), (at(-1000), at(5000)));
    let path = stored_messages(store, &ada, "s", MessageView::Path).await;
    let ids: Vec<_> = path.iter().map(|message| message.id.as_str()).collect();
    assert_eq!(ids, ["q0", "r1", "q2", "r3", "q4", "r5"]);
    let chunk = store.read_chunk(&ada, &id("s"), LARGE as u32 - 2).await.unwrap();
    assert_eq!(chunk.messages.last().unwrap().id.as_str(), "r1499");
    assert_eq!(chunk.read_marks, HashMap::from([("ada".to_owned(), 3)]));
}

pub async fn unknown_parent_head_and_marks_are_reported(store: &Arc<dyn Store>) {
    for (session, size) in [("small", 4), ("large", LARGE)] {
        let mut draft = begin(store, session).await;
        add(store, &mut draft, long_chain(0, size)).await;
        let lost = MessageParent::Message(message_id("nothing"));
        let branch = MessageParent::Message(message_id("q0"));
        let chunk = vec![
            file_message("qb", 1, branch),
            file_message("qx", 2, lost),
            file_message("ry", 3, MessageParent::Head),
        ];
        assert_eq!(store.add_to_import(&mut draft, chunk).await.unwrap(), [1]);
        let marks = HashMap::from([("ada".to_owned(), message_id("nothing"))]);
        let end = ImportEnd { head_id: Some(message_id("no")), read_marks: marks, ..end() };
        let (_, unknown) = store.finish_import(draft, end, at(0)).await.unwrap();
        assert_eq!((unknown.head, unknown.read_marks), (true, 1));
        let path = stored_messages(store, &user("ada"), session, MessageView::Path).await;
        let ids: Vec<_> = path.iter().map(|message| message.id.as_str()).collect();
        assert_eq!(ids, ["qx", "ry"]);
    }
}

pub async fn large_import_adds_what_a_session_lacks(store: &Arc<dyn Store>) {
    let ada = user("ada");
    create(store, &ada, "s").await;
    let first = NewMessage { id: message_id("q0"), ..message("ada", Role::User, "q0", 0) };
    post(store, &ada, "s", first, MessageParent::Head).await;
    for (size, added) in [(LARGE, LARGE as u64 - 1), (LARGE, 0), (LARGE + 3, 3)] {
        let mut draft = begin(store, "s").await;
        add(store, &mut draft, long_chain(0, size)).await;
        let (outcome, _) = store.finish_import(draft, end(), at(1)).await.unwrap();
        assert_eq!(outcome.added_messages, added);
        assert_eq!(count(store, "s").await as usize, size);
        sweep(store).await;
        assert_eq!(count(store, "s").await as usize, size);
    }
    let head = store.get_session(&ada, &id("s"), AccessLevel::Owner).await.unwrap().head_id;
    assert_eq!(head, Some(message_id("q1502")));
}

pub async fn post_during_a_large_import_is_not_lost(store: &Arc<dyn Store>) {
    let ada = user("ada");
    create(store, &ada, "s").await;
    let mut draft = begin(store, "s").await;
    add(store, &mut draft, long_chain(0, LARGE)).await;
    let posted = message("ada", Role::User, "meanwhile", 1);
    post(store, &ada, "s", posted.clone(), MessageParent::Head).await;
    if let Err(error) = store.finish_import(draft, end(), at(2)).await {
        assert_eq!(error.kind, ErrorKind::SessionBusy);
    }
    sweep(store).await;
    store.get_message(&ada, &id("s"), &posted.id).await.unwrap();
}

pub async fn discarded_import_leaves_nothing_and_can_be_repeated(store: &Arc<dyn Store>) {
    for _ in 0..2 {
        let mut draft = begin(store, "s").await;
        add(store, &mut draft, long_chain(0, LARGE)).await;
        store.discard_import(draft).await;
    }
    let mut draft = begin(store, "s").await;
    add(store, &mut draft, long_chain(0, LARGE)).await;
    sweep(store).await;
    store.finish_import(draft, end(), at(0)).await.unwrap();
    sweep(store).await;
    assert_eq!(count(store, "s").await as usize, LARGE);
}

pub async fn deleted_session_is_created_again_at_once(store: &Arc<dyn Store>) {
    let ada = user("ada");
    for round in 0..3 {
        let mut draft = begin(store, "s").await;
        add(store, &mut draft, long_chain(0, LARGE)).await;
        store.finish_import(draft, end(), at(round)).await.unwrap();
        let deleted = store.delete_session(&ada, &id("s")).await.unwrap();
        assert_eq!((deleted.sessions, deleted.messages), (1, LARGE as u64));
        create(store, &ada, "s").await;
        assert!(stored_messages(store, &ada, "s", MessageView::All).await.is_empty());
        let gone = store.get_message(&ada, &id("s"), &message_id("q0")).await.unwrap_err();
        assert_eq!(gone.kind, ErrorKind::MessageNotFound);
        if round == 1 {
            sweep(store).await;
        }
        store.delete_session(&ada, &id("s")).await.unwrap();
    }
}

pub async fn large_fork_is_whole_and_survives_its_source(store: &Arc<dyn Store>) {
    let ada = user("ada");
    let mut draft = begin(store, "s").await;
    add(store, &mut draft, long_chain(0, LARGE)).await;
    store.finish_import(draft, end(), at(0)).await.unwrap();
    let last = MessageId::new_unchecked("r1499");
    let fork = store.fork_session(&ada, &id("s"), &last, at(7)).await.unwrap();
    store.delete_session(&ada, &id("s")).await.unwrap();
    sweep(store).await;
    assert_eq!((fork.messages_count, fork.created_at), (LARGE as u32, at(7)));
    let path = stored_messages(store, &ada, fork.id.as_str(), MessageView::Path).await;
    assert_eq!((path.len(), path.last().unwrap().id.as_str()), (100, "r1499"));
    let gone = store.fork_session(&ada, &id("s"), &last, at(8)).await.unwrap_err();
    assert_eq!(gone.kind, ErrorKind::SessionNotFound);
}

pub async fn small_import_in_chunks_matches_its_file(store: &Arc<dyn Store>) {
    let mut draft = begin(store, "s").await;
    add(store, &mut draft, message_chain(&["q1", "r1", "q2"])).await;
    let (outcome, _) = store.finish_import(draft, end(), at(0)).await.unwrap();
    assert_eq!((outcome.title.as_str(), outcome.added_messages), ("q1", 3));
    assert_eq!(count(store, "s").await, 3);
}
