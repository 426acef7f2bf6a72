//! Messages: posted once, stored as a tree, read as paths.

use super::{at, create, id, message, post, stored_messages, user};
use echoic::domain::message::MessageParts;
use echoic::domain::page::{MessageSlice, MessageView};
use echoic::domain::principal::AccessLevel;
use echoic::domain::{MessageId, Role};
use echoic::store::{
    HistoryLimits, HistoryMessage, IdempotencyKey, MessageParent, MessageQuery, PostMessage,
    RetryWindow, Store,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use std::sync::Arc;

pub async fn recent_history_ends_at_its_limits(store: &Arc<dyn Store>) {
    let ada = user("ada");
    create(store, &ada, "s").await;
    let mut last = None;
    for number in 0..10 {
        let content = if number == 7 { String::new() } else { number.to_string() };
        let stored = post(
            store,
            &ada,
            "s",
            message("ada", Role::User, &content, number),
            MessageParent::Head,
        )
        .await;
        last = Some(stored.id);
    }
    let tail = async |messages, tokens| {
        let bounds = HistoryLimits {
            max_messages: messages,
            max_tokens: tokens,
            token_overhead: 2,
            max_part_bytes: 0,
        };
        let tail = store.recent_history(&id("s"), last.as_ref().unwrap(), bounds).await.unwrap();
        let texts: String = tail.iter().map(|message| message.content.as_str()).collect();
        (texts, tail.last().is_some_and(|oldest| oldest.parent_id.is_none()))
    };
    // Each message costs 10 tokens plus 2 of overhead; the empty one is skipped.
    assert_eq!(tail(100, 10_000).await, ("986543210".to_owned(), true));
    assert_eq!(tail(3, 10_000).await, ("986".to_owned(), false));
    assert_eq!(tail(100, 47).await, ("986".to_owned(), false));
    assert_eq!(tail(100, 48).await, ("9865".to_owned(), false));
    assert_eq!(tail(100, 0).await, (String::new(), false));
}

pub async fn recent_history_includes_parts_while_they_fit(store: &Arc<dyn Store>) {
    let ada = user("ada");
    create(store, &ada, "s").await;
    // Parts of 40 bytes each. Message 2 has no text; message 4 is not from a user.
    let parts =
        |number: usize| format!(r#"[{{"type":"image","n":{number},"url":"{number:0>7}"}}]"#);
    let mut last = None;
    for number in 0..6 {
        let role = if number == 4 { Role::Assistant } else { Role::User };
        let text = if number == 2 { String::new() } else { number.to_string() };
        let mut message = message("ada", role, &text, number as i64);
        message.body.parts = MessageParts::from_stored(parts(number)).unwrap();
        last = Some(post(store, &ada, "s", message, MessageParent::Head).await.id);
    }
    assert_eq!(parts(0).len(), 40);
    let tail = async |room| {
        let bounds = HistoryLimits {
            max_messages: 100,
            max_tokens: u32::MAX,
            token_overhead: 2,
            max_part_bytes: room,
        };
        let tail = store.recent_history(&id("s"), last.as_ref().unwrap(), bounds).await.unwrap();
        let line = |one: &HistoryMessage| format!("{}{}", one.content, one.parts.as_json());
        tail.iter().map(line).collect::<Vec<_>>()
    };
    let with = |text: &str, number: usize| format!("{text}{}", parts(number));
    assert_eq!(tail(0).await, ["5[]", "4[]", "3[]", "1[]", "0[]"]);
    assert_eq!(tail(39).await, tail(0).await);
    assert_eq!(tail(80).await, [&with("5", 5), "4[]", &with("3", 3), "1[]", "0[]"]);
    assert_eq!(
        tail(200).await,
        [&with("5", 5), "4[]", &with("3", 3), &with("", 2), &with("1", 1), &with("0", 0)]
    );
}

pub async fn idempotency_key_expires_after_a_day(store: &Arc<dyn Store>) {
    let ada = user("ada");
    create(store, &ada, "s").await;
    let day = 24 * 60 * 60 * 1000;
    let send = async |millis: i64| {
        let key = IdempotencyKey {
            route: "r",
            key: "k".to_owned(),
            fingerprint: "f".to_owned(),
            retry_window: RetryWindow::Full,
        };
        let post = PostMessage {
            session_id: id("s"),
            message: message("ada", Role::User, "hi", millis),
            parent: MessageParent::Head,
            idempotency_key: Some(key),
            now: at(millis),
        };
        store.post_message(&ada, post).await.unwrap().0.seq
    };
    assert_eq!(
        [send(0).await, send(day - 1).await, send(day + 1).await, send(day + 2).await],
        [1, 1, 2, 2]
    );
}

/// A message of a random tree: the index of its parent (`None` for the head), and its size.
#[derive(Debug, Clone)]
struct TreeStep {
    under: Option<usize>,
    size: usize,
}

fn steps() -> impl Strategy<Value = Vec<TreeStep>> {
    let under = prop_oneof![6 => Just(None), 3 => (0usize..40).prop_map(Some)];
    let size = prop_oneof![8 => 0usize..200, 1 => 40_000usize..70_000, 1 => 130_000usize..140_000];
    proptest::collection::vec(
        (under, size).prop_map(|(under, size)| TreeStep { under, size }),
        1..40,
    )
}

pub async fn every_message_is_on_one_path_and_in_one_node(store: &Arc<dyn Store>) {
    let ada = user("ada");
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for case in 0..24 {
        let session = format!("s{case}");
        create(store, &ada, &session).await;
        let steps = steps().new_tree(&mut runner).unwrap().current();
        // The expected tree: each message's id and parent.
        let (mut ids, mut parents): (Vec<MessageId>, Vec<Option<usize>>) = (Vec::new(), Vec::new());
        for (number, step) in steps.iter().enumerate() {
            let under = step.under.filter(|under| *under < number).or(number.checked_sub(1));
            let parent = match (step.under.filter(|under| *under < number), under) {
                (Some(under), _) => MessageParent::Message(ids[under].clone()),
                (None, _) => MessageParent::Head,
            };
            let content = format!("{number}:{}", "x".repeat(step.size));
            let stored = post(
                store,
                &ada,
                &session,
                message("ada", Role::User, &content, number as i64),
                parent,
            )
            .await;
            ids.push(stored.id);
            parents.push(under);
        }
        let mut path = vec![ids.len() - 1];
        while let Some(parent) = parents[*path.last().unwrap()] {
            path.push(parent);
        }
        path.reverse();

        let all = stored_messages(store, &ada, &session, MessageView::All).await;
        assert_eq!(all.iter().map(|message| message.id.clone()).collect::<Vec<_>>(), ids);
        for (number, message) in all.iter().enumerate() {
            let siblings = (0..ids.len()).filter(|other| parents[*other] == parents[number]);
            assert_eq!(
                message.sibling_ids,
                siblings.map(|other| ids[other].clone()).collect::<Vec<_>>()
            );
            assert_eq!(message.parent_id, parents[number].map(|parent| ids[parent].clone()));
        }
        let on_path = stored_messages(store, &ada, &session, MessageView::Path).await;
        assert_eq!(on_path.iter().map(|m| m.seq as usize - 1).collect::<Vec<_>>(), path);
        let middle = path[path.len() / 2];
        for (slice, expected) in [
            (MessageSlice::Before(ids[middle].clone()), &path[..path.len() / 2]),
            (MessageSlice::After(ids[middle].clone()), &path[path.len() / 2 + 1..]),
        ] {
            let query =
                MessageQuery { view: MessageView::Path, slice, limit: 100, with_siblings: true };
            let page = store.list_messages(&ada, &id(&session), query).await.unwrap().messages;
            assert_eq!(page.iter().map(|m| m.seq as usize - 1).collect::<Vec<_>>(), expected);
        }
        let bounds = HistoryLimits {
            max_messages: 1000,
            max_tokens: u32::MAX,
            token_overhead: 0,
            max_part_bytes: 0,
        };
        let tail = store.recent_history(&id(&session), ids.last().unwrap(), bounds).await.unwrap();
        assert_eq!(
            tail.iter().rev().map(|m| m.id.clone()).collect::<Vec<_>>(),
            path.iter().map(|n| ids[*n].clone()).collect::<Vec<_>>()
        );
        let read = store.get_session(&ada, &id(&session), AccessLevel::Participant).await.unwrap();
        assert_eq!((read.messages_count as usize, read.head_id.as_ref()), (ids.len(), ids.last()));
    }
}
