//! Turns that are queued while another one runs in the session.

use super::{at, begin, begin_running, create, finish, id, lease_holder, stored_messages, user};
use echoic::domain::page::MessageView;
use echoic::error::ErrorKind;
use echoic::store::{BeginTurn, CancelledTurns, FinishTurn, OnBusy, Store};
use std::sync::Arc;

pub async fn queued_turns_run_in_order_and_the_ninth_is_rejected(store: &Arc<dyn Store>) {
    let ada = user("ada");
    create(store, &ada, "s").await;
    let mut begun = begin_running(store, begin(&ada, "s", "0")).await;
    let wait = async |content: &str, on_busy| {
        store.begin_turn(BeginTurn { on_busy, ..begin(&ada, "s", content) }).await.map(|_| ())
    };
    for number in 1..=7 {
        wait(&number.to_string(), OnBusy::Queue).await.unwrap();
    }
    wait("first", OnBusy::Interrupt).await.unwrap();
    assert_eq!(wait("9", OnBusy::Queue).await.unwrap_err().kind, ErrorKind::QueueFull);
    assert_eq!(wait("10", OnBusy::Reject).await.unwrap_err().kind, ErrorKind::SessionBusy);
    assert_eq!(
        stored_messages(store, &ada, "s", MessageView::All).await.len(),
        1,
        "a waiting message is none yet"
    );

    let mut order = Vec::new();
    while let Some(next) = store
        .finish_turn(finish(&begun, "ok", Some(lease_holder("one"))))
        .await
        .unwrap()
        .unwrap()
        .next
    {
        order.push(next.user_message.content.clone());
        begun = *next;
    }
    assert_eq!(order, ["first", "1", "2", "3", "4", "5", "6", "7"]);
    let said: Vec<_> = stored_messages(store, &ada, "s", MessageView::Path)
        .await
        .into_iter()
        .map(|m| m.content)
        .collect();
    assert_eq!(said[..4], ["0", "ok", "first", "ok"]);
    assert_eq!(said.len(), 18);
}

pub async fn queued_turns_are_dropped_withdrawn_and_found_after_crash(store: &Arc<dyn Store>) {
    let ada = user("ada");
    create(store, &ada, "s").await;
    let begun = begin_running(store, begin(&ada, "s", "0")).await;
    let mut ids = Vec::new();
    for content in ["1", "2", "3"] {
        let waiting = BeginTurn { on_busy: OnBusy::Queue, ..begin(&ada, "s", content) };
        ids.push(waiting.turn.turn_id.clone());
        store.begin_turn(waiting).await.unwrap();
    }
    assert!(store.remove_queued_turn(&id("s"), &ids[0]).await.unwrap());
    assert!(!store.remove_queued_turn(&id("s"), &ids[0]).await.unwrap());
    assert!(
        store.begin_queued_turn(&lease_holder("two"), at(4)).await.unwrap().next.is_none(),
        "a turn is running"
    );
    store.finish_turn(finish(&begun, "ok", None)).await.unwrap().unwrap();
    let next = store.begin_queued_turn(&lease_holder("two"), at(4)).await.unwrap().next.unwrap();
    assert_eq!((next.user_message.content.as_str(), &next.turn.turn_id), ("2", &ids[1]));
    let stale = store.cancel_queued_turns(&id("s"), Some(&begun.turn.turn_id)).await.unwrap();
    assert_eq!(stale, CancelledTurns::default(), "another turn runs by now");
    let silenced = store.cancel_queued_turns(&id("s"), Some(&ids[1])).await.unwrap();
    assert_eq!(
        silenced,
        CancelledTurns { running: Some(ids[1].clone()), dequeued: ids[2..].to_vec() }
    );
    let ended = FinishTurn {
        lease_holder: lease_holder("two"),
        ..finish(&next, "ok", Some(lease_holder("two")))
    };
    store.finish_turn(ended).await.unwrap().unwrap();
    assert!(store.begin_queued_turn(&lease_holder("two"), at(4)).await.unwrap().next.is_none());
}
