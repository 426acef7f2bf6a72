//! Sessions of several users: read marks, nodes, the last message.

use super::{at, create, id, listed_ids, message, post, stored_messages, user};
use echoic::domain::message::MessageParts;
use echoic::domain::page::MessageView;
use echoic::domain::principal::AccessLevel;
use echoic::domain::{MessageId, MessageType, Principal, Role};
use echoic::error::ErrorKind;
use echoic::store::{MessageParent, NewSession, Store};
use serde_json::{Value, json};
use std::sync::Arc;

fn message_id(text: &str) -> MessageId {
    MessageId::new_unchecked(text)
}

async fn post_text(
    store: &Arc<dyn Store>,
    who: &Principal,
    session: &str,
    called: &str,
    text: &str,
) {
    let seconds: i64 = called.trim_start_matches("msg").parse().unwrap();
    let mut message = message(who.user.as_str(), Role::User, text, 1000 * seconds);
    message.id = message_id(called);
    post(store, who, session, message, MessageParent::Head).await;
}

async fn nodes(store: &Arc<dyn Store>, who: &Principal, session: &str) -> Value {
    let page = store.list_nodes(who, &id(session), 1, 100).await.unwrap();
    assert_eq!(page.next_node, None);
    serde_json::to_value(page.nodes).unwrap()
}

/// The flow of the first seed document, from an empty session to its nodes.
pub async fn two_users_see_what_the_other_has_read(store: &Arc<dyn Store>) {
    let (one, two, stranger) = (user("user1"), user("user2"), user("user3"));
    let new = NewSession {
        id: Some(id("user1_user2")),
        participants: vec![two.user.clone()],
        ..NewSession::default()
    };
    let session = store.create_session(&one, new, at(0)).await.unwrap().0;
    assert_eq!(session.participants, [one.user.clone(), two.user.clone()]);
    assert_eq!((session.last_message, session.nodes), (None, Some(Vec::new())));

    post_text(store, &one, "user1_user2", "msg1", "Hey user2, how\u{2019}s it going?").await;
    assert_eq!(
        listed_ids(store, &two, None).await,
        ["user1_user2"],
        "it is there for both of them"
    );
    let unread = stored_messages(store, &two, "user1_user2", MessageView::Path).await;
    assert!(!unread[0].seen, "nobody but its sender has read it");

    store.mark_seen(&two, &id("user1_user2"), &message_id("msg1")).await.unwrap();
    post_text(store, &two, "user1_user2", "msg2", "All good! You?").await;
    let shown = stored_messages(store, &one, "user1_user2", MessageView::Path).await;
    let shown: Vec<_> =
        shown.iter().map(|message| (message.sender_id.as_str(), message.seen)).collect();
    assert_eq!(shown, [("user1", true), ("user2", false)]);
    store.mark_seen(&one, &id("user1_user2"), &message_id("msg2")).await.unwrap();

    let session =
        store.get_session(&two, &id("user1_user2"), AccessLevel::Participant).await.unwrap();
    assert_eq!(session.last_message.as_deref(), Some("All good! You?"));
    assert_eq!(session.last_message_at, Some(at(2000)));
    assert_eq!(session.last_seen, Some(at(1000)), "when its owner last said something");
    assert_eq!(session.nodes, Some(vec!["chat_user1_user2_1".to_owned()]));

    let mut picture = message("user1", Role::User, "Anything new on your end?", 3000);
    picture.id = message_id("msg3");
    picture.body.kind = MessageType::Image;
    let parts = r#"[{"type":"image","url":"https://example.com/cat.png"}]"#;
    picture.body.parts = MessageParts::from_stored(parts.to_owned()).unwrap();
    post(store, &one, "user1_user2", picture, MessageParent::Head).await;
    let seconds = |seconds: i64| 1_700_000_000 + seconds;
    assert_eq!(
        nodes(store, &two, "user1_user2").await,
        json!([{"chatId": "chat_user1_user2_1", "createdAt": seconds(1), "messages": [
            {"_id": "msg1", "senderId": "user1", "text": "Hey user2, how\u{2019}s it going?",
             "timestamp": seconds(1), "type": "text", "seen": true},
            {"_id": "msg2", "senderId": "user2", "text": "All good! You?",
             "timestamp": seconds(2), "type": "text", "seen": true},
            {"_id": "msg3", "senderId": "user1", "text": "Anything new on your end?",
             "timestamp": seconds(3), "type": "image", "seen": false},
        ]}])
    );

    let hidden = [
        store.list_nodes(&stranger, &id("user1_user2"), 1, 1).await.unwrap_err().kind,
        store.mark_seen(&stranger, &id("user1_user2"), &message_id("msg1")).await.unwrap_err().kind,
    ];
    assert_eq!(hidden, [ErrorKind::SessionNotFound, ErrorKind::SessionNotFound]);
    assert_eq!(listed_ids(store, &stranger, None).await, Vec::<String>::new());
}

pub async fn read_mark_only_advances_and_is_per_user(store: &Arc<dyn Store>) {
    let (ada, bob) = (user("ada"), user("b.$o\"b 東"));
    let new = NewSession {
        id: Some(id("s")),
        participants: vec![bob.user.clone()],
        ..NewSession::default()
    };
    store.create_session(&ada, new, at(0)).await.unwrap();
    for (who, called) in [(&ada, "msg1"), (&bob, "msg2"), (&ada, "msg3"), (&bob, "msg4")] {
        post_text(store, who, "s", called, called).await;
    }
    let before = store.get_session(&ada, &id("s"), AccessLevel::Owner).await.unwrap();
    let seen = async || {
        let said = stored_messages(store, &ada, "s", MessageView::Path).await;
        said.iter().map(|message| message.seen).collect::<Vec<_>>()
    };
    let mark = async |who: &Principal, message: &str| {
        store.mark_seen(who, &id("s"), &message_id(message)).await.map(|seen| seen.has_moved)
    };
    assert_eq!(seen().await, [false; 4]);
    assert!(mark(&bob, "msg2").await.unwrap());
    assert_eq!(seen().await, [true, false, false, false], "one's own messages stay unread");
    assert!(mark(&bob, "msg4").await.unwrap());
    assert_eq!(seen().await, [true, false, true, false]);
    assert!(!mark(&bob, "msg1").await.unwrap(), "a mark never goes back");
    assert!(!mark(&bob, "msg4").await.unwrap());
    assert_eq!(seen().await, [true, false, true, false]);
    assert!(mark(&ada, "msg2").await.unwrap());
    assert_eq!(seen().await, [true, true, true, false]);
    assert_eq!(mark(&ada, "nobody").await.unwrap_err().kind, ErrorKind::MessageNotFound);
    let after = store.get_session(&ada, &id("s"), AccessLevel::Owner).await.unwrap();
    assert_eq!(
        (after.version, after.updated_at, after.last_seen),
        (before.version, before.updated_at, before.last_seen)
    );
    // A fork is a new session, so its messages are unread.
    let fork = store.fork_session(&ada, &id("s"), &message_id("msg3"), at(9000)).await.unwrap();
    let copied = stored_messages(store, &ada, fork.id.as_str(), MessageView::Path).await;
    assert!(copied.iter().all(|message| !message.seen));
}

pub async fn nodes_hold_every_message_once_for_any_page_size(store: &Arc<dyn Store>) {
    let ada = user("ada");
    create(store, &ada, "s").await;
    assert_eq!(nodes(store, &ada, "s").await, json!([]));
    for number in 0..12_i64 {
        let text = "x".repeat(if number % 4 == 3 { 140_000 } else { 30_000 });
        let parent = match number {
            5 => MessageParent::Root,
            8 => MessageParent::Message(message_id("m6")),
            _ => MessageParent::Head,
        };
        let mut message = message("ada", Role::User, &text, number);
        message.id = message_id(&format!("m{number}"));
        post(store, &ada, "s", message, parent).await;
    }
    let all = nodes(store, &ada, "s").await;
    let session = store.get_session(&ada, &id("s"), AccessLevel::Owner).await.unwrap();
    let names: Vec<_> = all.as_array().unwrap().iter().map(|node| &node["chatId"]).collect();
    assert_eq!(json!(names), json!(session.nodes));
    let held: Vec<Vec<&str>> = all.as_array().unwrap().iter().map(ids).collect();
    let expected: [&[&str]; 7] = [
        &["m0", "m1", "m2"],
        &["m3"],
        &["m4"],
        &["m5", "m6", "m8", "m9"],
        &["m7"],
        &["m10"],
        &["m11"],
    ];
    assert_eq!(held, expected);

    for limit in 1..=8 {
        let (mut read, mut first) = (Vec::new(), Some(1));
        while let Some(number) = first {
            let page = store.list_nodes(&ada, &id("s"), number, limit).await.unwrap();
            assert!(page.nodes.len() <= limit as usize);
            read.extend(page.nodes);
            first = page.next_node;
        }
        assert_eq!(serde_json::to_value(read).unwrap(), all, "{limit} at a time");
    }
    let past = store.list_nodes(&ada, &id("s"), 8, 10).await.unwrap();
    assert!(past.nodes.is_empty() && past.next_node.is_none());
}

fn ids(node: &Value) -> Vec<&str> {
    let messages = node["messages"].as_array().unwrap();
    messages.iter().map(|message| message["_id"].as_str().unwrap()).collect()
}
