//! The message tree of a session: moving its head, and forking its paths.

use super::{at, begin, begin_running, create, finish, id, message, post, stored_messages, user};
use echoic::domain::page::MessageView;
use echoic::domain::principal::AccessLevel;
use echoic::domain::session::{JsonObject, SessionSettings, SessionStatus};
use echoic::domain::title::SessionTitle;
use echoic::domain::{Message, MessageId, Principal, ProjectId, Role, Session};
use echoic::error::ErrorKind;
use echoic::store::{MessageParent, NewSession, SessionUpdate, Store};
use serde_json::{Value, json};
use std::sync::Arc;

/// Posts a message whose text is also its id.
async fn post_text(store: &Arc<dyn Store>, who: &Principal, text: &str, parent: MessageParent) {
    let mut message = message(who.user.as_str(), Role::User, text, 1);
    message.id = message_id(text);
    post(store, who, "s", message, parent).await;
}

fn message_id(text: &str) -> MessageId {
    MessageId::new_unchecked(text)
}

fn under(text: &str) -> MessageParent {
    MessageParent::Message(message_id(text))
}

async fn path(store: &Arc<dyn Store>, who: &Principal) -> Vec<String> {
    let said = stored_messages(store, who, "s", MessageView::Path).await;
    said.into_iter().map(|message| message.content).collect()
}

/// A session with two roots, the first of which has three branches.
async fn tree(store: &Arc<dyn Store>, who: &Principal) {
    create(store, who, "s").await;
    for (text, parent) in [
        ("a", MessageParent::Root),
        ("b1", under("a")),
        ("b2", under("a")),
        ("c", under("b2")),
        ("d1", under("c")),
        ("d2", under("c")),
        ("b1-later", under("b1")),
        ("b3", under("a")),
        ("other", MessageParent::Root),
    ] {
        post_text(store, who, text, parent).await;
    }
}

pub async fn head_moves_to_the_newest_leaf_below_a_message(store: &Arc<dyn Store>) {
    let ada = user("ada");
    tree(store, &ada).await;
    let before = store.get_session(&ada, &id("s"), AccessLevel::Owner).await.unwrap();
    for (named, on_path) in [
        ("b2", vec!["a", "b2", "c", "d2"]),
        ("d1", vec!["a", "b2", "c", "d1"]),
        ("c", vec!["a", "b2", "c", "d2"]),
        ("b1", vec!["a", "b1", "b1-later"]),
        ("a", vec!["a", "b3"]),
        ("other", vec!["other"]),
        ("d2", vec!["a", "b2", "c", "d2"]),
    ] {
        let moved = store.set_head(&ada, &id("s"), &message_id(named), at(50)).await.unwrap();
        assert_eq!(moved.head_id, on_path.last().map(|id| message_id(id)), "{named}");
        assert_eq!(path(store, &ada).await, on_path, "{named}");
        assert_eq!(moved.updated_at, at(50));
        let kept = |session: &Session| {
            (session.version, session.messages_count, session.last_message_at, session.last_seen)
        };
        assert_eq!(kept(&moved), kept(&before), "no message came, no field of its own changed");
    }
    // Moving the head to where it is does not touch the session; the next message follows the head.
    let same = store.set_head(&ada, &id("s"), &message_id("b2"), at(60)).await.unwrap();
    assert_eq!(same.updated_at, at(50));
    post_text(store, &ada, "e", MessageParent::Head).await;
    assert_eq!(path(store, &ada).await, ["a", "b2", "c", "d2", "e"]);
    assert_eq!(stored_messages(store, &ada, "s", MessageView::All).await.len(), 10);
}

pub async fn head_stays_during_a_reply_and_for_strangers(store: &Arc<dyn Store>) {
    let (ada, bob) = (user("ada"), user("bob"));
    tree(store, &ada).await;
    create(store, &ada, "t").await;
    let elsewhere = message("ada", Role::User, "elsewhere", 1);
    let elsewhere = post(store, &ada, "t", elsewhere, MessageParent::Head).await.id;
    let kind = async |who: &Principal, message: &MessageId| {
        store.set_head(who, &id("s"), message, at(9)).await.unwrap_err().kind
    };
    assert_eq!(kind(&ada, &message_id("nobody")).await, ErrorKind::MessageNotFound);
    assert_eq!(kind(&ada, &elsewhere).await, ErrorKind::MessageNotFound);
    assert_eq!(kind(&bob, &message_id("a")).await, ErrorKind::SessionNotFound);
    let begun = begin_running(store, begin(&ada, "s", "q")).await;
    assert_eq!(kind(&ada, &message_id("a")).await, ErrorKind::SessionBusy);
    store.finish_turn(finish(&begun, "r", None)).await.unwrap().unwrap();
    assert_eq!(path(store, &ada).await, ["other", "q", "r"]);
    // Switching branches adds nothing, so a closed session allows it.
    let closed = SessionUpdate {
        status: Some(SessionStatus::parse("closed").unwrap()),
        ..SessionUpdate::default()
    };
    store.update_session(&ada, &id("s"), closed, Vec::new(), at(9)).await.unwrap();
    store.set_head(&ada, &id("s"), &message_id("b1"), at(9)).await.unwrap();
    assert_eq!(path(store, &ada).await, ["a", "b1", "b1-later"]);
}

/// A message without the fields that depend on its session.
fn comparable_fields(message: &Message) -> Value {
    let mut fields = serde_json::to_value(message).unwrap();
    for place in ["sessionId", "seq", "siblingIds", "siblingCount", "siblingIndex"] {
        fields.as_object_mut().unwrap().remove(place);
    }
    fields
}

fn object(text: &str) -> JsonObject {
    JsonObject::from_stored(text.to_owned()).unwrap()
}

pub async fn fork_copies_the_path_and_diverges(store: &Arc<dyn Store>) {
    let ada = user("ada");
    tree(store, &ada).await;
    let change = SessionUpdate {
        title: Some(SessionTitle::from_user(Some("Mine")).unwrap()),
        status: Some(SessionStatus::parse("closed").unwrap()),
        pinned: Some(true),
        archived: Some(true),
        meta: Some(object(r#"{"a":1}"#)),
        user_meta: Some(object(r#"{"b":2}"#)),
        theme: Some(object(r#"{"c":3}"#)),
        settings: Some(SessionSettings {
            model: Some("m".to_owned()),
            ..SessionSettings::default()
        }),
        participants: Some(vec![user("bob").user]),
        needs_consent: false,
        project_id: Some(Some(ProjectId::new_unchecked("p"))),
    };
    let source = store.update_session(&ada, &id("s"), change, Vec::new(), at(5)).await.unwrap();
    let fork = store.fork_session(&ada, &id("s"), &message_id("c"), at(70)).await.unwrap();
    assert_ne!(fork.id, source.id);
    assert_eq!(fork.participants, std::slice::from_ref(&ada.user));
    assert_eq!((fork.status.as_str(), fork.pinned, fork.archived), ("active", false, false));
    assert_eq!((fork.created_at, fork.updated_at, fork.version), (at(70), at(70), 1));
    assert_eq!((fork.messages_count, &fork.head_id), (3, &Some(message_id("c"))));
    assert_eq!(fork.last_message.as_deref(), Some("c"));
    let shape = |session: &Session| {
        let Session { title, title_source, project_id, settings, .. } = session.clone();
        let objects = [&session.meta, &session.user_meta, &session.theme];
        (title, title_source, project_id, settings, objects.map(|one| one.as_json().to_owned()))
    };
    assert_eq!(shape(&fork), shape(&source));
    assert_eq!(
        store.get_session(&ada, &fork.id, AccessLevel::Owner).await.unwrap().nodes,
        fork.nodes
    );

    let copied = stored_messages(store, &ada, fork.id.as_str(), MessageView::All).await;
    let mut originals = Vec::new();
    for text in ["a", "b2", "c"] {
        originals.push(store.get_message(&ada, &id("s"), &message_id(text)).await.unwrap());
    }
    assert_eq!(
        copied.iter().map(comparable_fields).collect::<Vec<_>>(),
        originals.iter().map(comparable_fields).collect::<Vec<_>>()
    );
    assert_eq!(copied.iter().map(|message| message.seq).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(copied.iter().all(|message| message.sibling_ids == [message.id.clone()]));

    let next = message("ada", Role::User, "only here", 80);
    post(store, &ada, fork.id.as_str(), next, MessageParent::Head).await;
    store.delete_session(&ada, &id("s")).await.unwrap();
    let rest = stored_messages(store, &ada, fork.id.as_str(), MessageView::Path).await;
    let rest: Vec<_> = rest.into_iter().map(|message| message.content).collect();
    assert_eq!(rest, ["a", "b2", "c", "only here"]);
}

pub async fn guests_fork_belongs_to_the_guest_alone(store: &Arc<dyn Store>) {
    let (ada, bob, eve) = (user("ada"), user("bob"), user("eve"));
    let new = NewSession {
        id: Some(id("s")),
        participants: vec![bob.user.clone()],
        project_id: Some(ProjectId::new_unchecked("adas")),
        ..NewSession::default()
    };
    store.create_session(&ada, new, at(0)).await.unwrap();
    post_text(store, &bob, "hello", MessageParent::Head).await;
    let begun = begin_running(store, begin(&ada, "s", "q")).await;
    // A question can be forked while its reply is running.
    let fork = store.fork_session(&bob, &id("s"), &begun.user_message.id, at(9)).await.unwrap();
    assert_eq!((&fork.owner, &fork.project_id, fork.active_turn), (&bob.user, &None, None));
    let copied = stored_messages(store, &bob, fork.id.as_str(), MessageView::Path).await;
    let senders: Vec<_> = copied.iter().map(|message| message.sender_id.as_str()).collect();
    assert_eq!(senders, ["bob", "ada"]);
    let hidden = store.get_session(&ada, &fork.id, AccessLevel::Participant).await.unwrap_err();
    assert_eq!(hidden.kind, ErrorKind::SessionNotFound);

    let kind = async |who: &Principal, message: &str| {
        store.fork_session(who, &id("s"), &message_id(message), at(9)).await.unwrap_err().kind
    };
    assert_eq!(kind(&eve, "hello").await, ErrorKind::SessionNotFound);
    assert_eq!(kind(&bob, "nobody").await, ErrorKind::MessageNotFound);
    assert_eq!(
        super::listed_ids(store, &bob, None).await.len(),
        2,
        "what was refused left nothing"
    );
}

pub async fn fork_of_a_path_over_many_nodes_is_complete(store: &Arc<dyn Store>) {
    let ada = user("ada");
    create(store, &ada, "s").await;
    let mut texts = Vec::new();
    for number in 0..30_i64 {
        let text = format!("{number}:{}", "x".repeat((number as usize % 5) * 30_000));
        let mut message = message("ada", Role::User, &text, number);
        message.id = message_id(&number.to_string());
        // Every third message has a sibling that is not on the path.
        post(store, &ada, "s", message.clone(), MessageParent::Head).await;
        if number % 3 == 1 {
            message.id = message_id(&format!("sibling {number}"));
            post(store, &ada, "s", message, under(&(number - 1).to_string())).await;
            store.set_head(&ada, &id("s"), &message_id(&number.to_string()), at(40)).await.unwrap();
        }
        texts.push(text);
    }
    let fork = store.fork_session(&ada, &id("s"), &message_id("27"), at(50)).await.unwrap();
    let copied = stored_messages(store, &ada, fork.id.as_str(), MessageView::Path).await;
    let copied: Vec<_> = copied.into_iter().map(|message| message.content).collect();
    assert_eq!(copied, texts[..28]);
    assert!(fork.nodes.unwrap().len() > 10);
    let kept = store.get_session(&ada, &fork.id, AccessLevel::Owner).await.unwrap();
    assert_eq!((kept.messages_count, kept.head_id), (28, Some(message_id("27"))));
    let bounds = echoic::store::HistoryLimits {
        max_messages: 100,
        max_tokens: u32::MAX,
        token_overhead: 0,
        max_part_bytes: 0,
    };
    let tail = store.recent_history(&fork.id, &message_id("27"), bounds).await.unwrap();
    assert_eq!(tail.len(), 28);
    assert_eq!(json!(tail[0].tokens), json!(10), "sizes are copied, not counted again");
}
