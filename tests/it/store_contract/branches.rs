//! Placement of turns in the message tree, and sessions that accept no turns.

use super::{
    at, begin, begin_running, create, finish, id, lease_holder, message, post, stored_messages,
    user,
};
use echoic::domain::page::MessageView;
use echoic::domain::principal::AccessLevel;
use echoic::domain::session::SessionStatus;
use echoic::domain::{MessageId, Principal, Role};
use echoic::error::ErrorKind;
use echoic::store::{
    BeginOutcome, BeginTurn, DuplicateIdPolicy, MessageParent, OnBusy, SessionTarget,
    SessionUpdate, SkippedTurn, Store, TurnInput,
};
use std::collections::HashSet;
use std::sync::Arc;

fn message_id(text: &str) -> Option<MessageId> {
    Some(MessageId::new_unchecked(text))
}

/// A turn whose message has the client message id `client_id`.
fn turn_with_client_id(
    who: &Principal,
    client_id: &str,
    content: &str,
    known: DuplicateIdPolicy,
) -> BeginTurn {
    let mut begin = begin(who, "s", content);
    if let TurnInput::Send { message, on_duplicate_id: on_known, .. } = &mut begin.turn.input {
        message.client_message_id = message_id(client_id);
        *on_known = known;
    }
    begin
}

fn turn_below(who: &Principal, content: &str, place: MessageParent) -> BeginTurn {
    let mut begin = begin(who, "s", content);
    if let TurnInput::Send { parent, .. } = &mut begin.turn.input {
        *parent = place;
    }
    begin
}

fn regenerate(who: &Principal, reply: Option<&MessageId>) -> BeginTurn {
    let mut begin = begin(who, "s", "");
    begin.turn.input = TurnInput::Regenerate { reply_id: reply.cloned() };
    begin
}

/// Runs a whole turn. Returns the ids of its question and its reply.
async fn run_turn(store: &Arc<dyn Store>, begin: BeginTurn, reply: &str) -> (MessageId, MessageId) {
    let begun = begin_running(store, begin).await;
    store.finish_turn(finish(&begun, reply, None)).await.unwrap().unwrap();
    (begun.user_message.id, begun.turn.message_id)
}

async fn path(store: &Arc<dyn Store>, who: &Principal) -> Vec<String> {
    let said = stored_messages(store, who, "s", MessageView::Path).await;
    said.into_iter().map(|message| message.content).collect()
}

async fn set_status(store: &Arc<dyn Store>, who: &Principal, status: &str) {
    let status = Some(SessionStatus::parse(status).unwrap());
    let change = SessionUpdate { status, ..SessionUpdate::default() };
    store.update_session(who, &id("s"), change, Vec::new(), at(9)).await.unwrap();
}

pub async fn edit_is_a_sibling_of_the_message_it_replaces(store: &Arc<dyn Store>) {
    let ada = user("ada");
    create(store, &ada, "s").await;
    run_turn(store, begin(&ada, "s", "hello"), "hi").await;
    let (draft, _) =
        run_turn(store, turn_with_client_id(&ada, "u", "draft", DuplicateIdPolicy::Edit), "first")
            .await;
    run_turn(store, begin(&ada, "s", "thanks"), "welcome").await;
    let (last, _) =
        run_turn(store, turn_with_client_id(&ada, "u", "final", DuplicateIdPolicy::Edit), "second")
            .await;
    assert_eq!(path(store, &ada).await, ["hello", "hi", "final", "second"]);
    let all = stored_messages(store, &ada, "s", MessageView::All).await;
    assert_eq!(all.len(), 8);
    assert_eq!(all[6].sibling_ids, [draft.clone(), last.clone()]);
    assert_eq!((&all[6].parent_id, &all[7].parent_id), (&all[2].parent_id, &Some(last.clone())));

    // The client message id now refers to the newest message that carries it; editing that one
    // creates a third sibling.
    assert_eq!(
        store.get_message(&ada, &id("s"), &message_id("u").unwrap()).await.unwrap().id,
        last
    );
    let (third, _) =
        run_turn(store, turn_with_client_id(&ada, "u", "third", DuplicateIdPolicy::Edit), "third")
            .await;
    let newest = store.get_message(&ada, &id("s"), &third).await.unwrap();
    assert_eq!(newest.sibling_ids, [draft, last, third]);

    let refused = turn_with_client_id(&ada, "u", "fourth", DuplicateIdPolicy::Reject);
    assert_eq!(store.begin_turn(refused).await.unwrap_err().kind, ErrorKind::IdempotencyKeyReused);
    assert_eq!(stored_messages(store, &ada, "s", MessageView::All).await.len(), 10);
    assert_eq!(path(store, &ada).await, ["hello", "hi", "third", "third"]);
}

pub async fn regenerated_reply_is_a_sibling_wherever_the_head_is(store: &Arc<dyn Store>) {
    let ada = user("ada");
    create(store, &ada, "s").await;
    let (question, one) = run_turn(store, begin(&ada, "s", "q1"), "r1").await;
    let (_, later) = run_turn(store, begin(&ada, "s", "q2"), "r2").await;

    let begun = begin_running(store, regenerate(&ada, Some(&one))).await;
    assert_eq!((&begun.user_message.id, begun.user_message.content.as_str()), (&question, "q1"));
    assert_eq!(begun.session.head_id.as_ref(), Some(&question), "the head waits at the question");
    assert_eq!(path(store, &ada).await, ["q1"]);
    store.finish_turn(finish(&begun, "r1 again", None)).await.unwrap().unwrap();
    let two = begun.turn.message_id;
    assert_eq!(path(store, &ada).await, ["q1", "r1 again"]);
    let newest = store.get_message(&ada, &id("s"), &two).await.unwrap();
    assert_eq!(newest.sibling_ids, [one, two]);

    // Without an id the head's reply is regenerated; the id of a question stands for its reply.
    let (asked, _) = run_turn(store, regenerate(&ada, None), "r1 once more").await;
    assert_eq!(asked, question);
    let (asked, _) = run_turn(store, regenerate(&ada, Some(&question)), "r1 at last").await;
    assert_eq!(asked, question);
    let (asked, _) = run_turn(store, regenerate(&ada, Some(&later)), "r2 again").await;
    assert_ne!(asked, question);
    assert_eq!(path(store, &ada).await, ["q1", "r1", "q2", "r2 again"]);
    assert_eq!(stored_messages(store, &ada, "s", MessageView::All).await.len(), 8);
}

pub async fn regeneration_requires_a_user_message(store: &Arc<dyn Store>) {
    let ada = user("ada");
    create(store, &ada, "s").await;
    let kind = async |begin| store.begin_turn(begin).await.unwrap_err().kind;
    assert_eq!(kind(regenerate(&ada, None)).await, ErrorKind::InvalidRequest);
    assert_eq!(
        kind(regenerate(&ada, message_id("nobody").as_ref())).await,
        ErrorKind::MessageNotFound
    );
    let greeting = message("assistant", Role::Assistant, "welcome", 1);
    let greeting = post(store, &ada, "s", greeting, MessageParent::Head).await;
    assert_eq!(kind(regenerate(&ada, Some(&greeting.id))).await, ErrorKind::InvalidRequest);
    assert_eq!(kind(regenerate(&ada, None)).await, ErrorKind::InvalidRequest);
    let session = store.get_session(&ada, &id("s"), AccessLevel::Owner).await.unwrap();
    assert_eq!((session.active_turn, session.messages_count), (None, 1));
}

pub async fn turn_branches_off_anywhere_or_starts_a_new_root(store: &Arc<dyn Store>) {
    let ada = user("ada");
    create(store, &ada, "s").await;
    let (_, one) = run_turn(store, begin(&ada, "s", "q1"), "r1").await;
    run_turn(store, begin(&ada, "s", "q2"), "r2").await;
    run_turn(store, turn_below(&ada, "q2b", MessageParent::Message(one.clone())), "r2b").await;
    assert_eq!(path(store, &ada).await, ["q1", "r1", "q2b", "r2b"]);
    run_turn(store, turn_below(&ada, "root", MessageParent::Root), "r").await;
    assert_eq!(path(store, &ada).await, ["root", "r"]);
    run_turn(store, turn_below(&ada, "q2c", MessageParent::Message(one)), "r2c").await;
    assert_eq!(path(store, &ada).await, ["q1", "r1", "q2c", "r2c"]);

    let lost = turn_below(&ada, "lost", MessageParent::Message(message_id("nobody").unwrap()));
    assert_eq!(store.begin_turn(lost).await.unwrap_err().kind, ErrorKind::MessageNotFound);
    let session = store.get_session(&ada, &id("s"), AccessLevel::Owner).await.unwrap();
    assert_eq!((session.active_turn, session.messages_count), (None, 10));
}

pub async fn closed_session_accepts_nothing_until_reopened(store: &Arc<dyn Store>) {
    let ada = user("ada");
    create(store, &ada, "s").await;
    let (_, reply) =
        run_turn(store, turn_with_client_id(&ada, "u", "q", DuplicateIdPolicy::Reject), "r").await;
    set_status(store, &ada, "closed").await;
    let before = store.get_session(&ada, &id("s"), AccessLevel::Owner).await.unwrap();
    for refused in [
        begin(&ada, "s", "more"),
        BeginTurn { target: SessionTarget::Ensure(id("s")), ..begin(&ada, "s", "more") },
        BeginTurn { on_busy: OnBusy::Queue, ..begin(&ada, "s", "more") },
        BeginTurn { on_busy: OnBusy::Interrupt, ..begin(&ada, "s", "more") },
        turn_with_client_id(&ada, "u", "edit", DuplicateIdPolicy::Edit),
        turn_below(&ada, "root", MessageParent::Root),
        regenerate(&ada, Some(&reply)),
        regenerate(&ada, None),
    ] {
        assert_eq!(store.begin_turn(refused).await.unwrap_err().kind, ErrorKind::SessionClosed);
    }
    let repeated = store
        .begin_turn(turn_with_client_id(&ada, "u", "q", DuplicateIdPolicy::Reject))
        .await
        .unwrap();
    assert!(
        matches!(repeated, BeginOutcome::Repeated { .. }),
        "what was answered can still be read"
    );
    let after = store.get_session(&ada, &id("s"), AccessLevel::Owner).await.unwrap();
    assert_eq!((after.messages_count, after.head_id), (2, before.head_id));
    assert_eq!((after.active_turn, after.updated_at), (None, before.updated_at));
    set_status(store, &ada, "active").await;
    run_turn(store, begin(&ada, "s", "more"), "ok").await;
    assert_eq!(path(store, &ada).await, ["q", "r", "more", "ok"]);
}

pub async fn queued_turn_is_skipped_once_its_session_is_closed(store: &Arc<dyn Store>) {
    let ada = user("ada");
    create(store, &ada, "s").await;
    let (_, reply) = run_turn(store, begin(&ada, "s", "q"), "r").await;
    let begun = begin_running(store, begin(&ada, "s", "q2")).await;
    let (mut said_later, mut asked_again) =
        (begin(&ada, "s", "q3"), regenerate(&ada, Some(&reply)));
    let waiting = [said_later.turn.turn_id.clone(), asked_again.turn.turn_id.clone()];
    for turn in [&mut said_later, &mut asked_again] {
        turn.on_busy = OnBusy::Queue;
    }
    store.begin_turn(said_later).await.unwrap();
    store.begin_turn(asked_again).await.unwrap();
    set_status(store, &ada, "closed").await;

    let finished =
        store.finish_turn(finish(&begun, "r2", Some(lease_holder("one")))).await.unwrap();
    let finished = finished.expect("a running turn may still end");
    assert!(finished.next.is_none(), "{:?}", finished.next);
    let skipped = waiting.map(|turn_id| SkippedTurn { turn_id, has_lost_access: false });
    assert_eq!(finished.skipped, skipped);
    assert_eq!(path(store, &ada).await, ["q", "r", "q2", "r2"]);
    assert!(store.begin_queued_turn(&lease_holder("two"), at(5)).await.unwrap().next.is_none());
}

pub async fn assigned_session_stores_messages_and_begins_no_turn(store: &Arc<dyn Store>) {
    let ada = user("ada");
    create(store, &ada, "s").await;
    run_turn(store, begin(&ada, "s", "q"), "r").await;
    let begun = begin_running(store, begin(&ada, "s", "q2")).await;
    let waiting = BeginTurn { on_busy: OnBusy::Queue, ..begin(&ada, "s", "q3") };
    let waited = waiting.turn.turn_id.clone();
    store.begin_turn(waiting).await.unwrap();
    set_status(store, &ada, "agent_assigned").await;
    let finished =
        store.finish_turn(finish(&begun, "r2", Some(lease_holder("one")))).await.unwrap();
    let finished = finished.unwrap();
    assert!(finished.next.is_none(), "{:?}", finished.next);
    assert_eq!(finished.skipped, [SkippedTurn { turn_id: waited, has_lost_access: false }]);
    assert_eq!(path(store, &ada).await, ["q", "r", "q2", "r2", "q3"]);

    let Ok(BeginOutcome::HumanTakeover { message_id, session }) =
        store.begin_turn(begin(&ada, "s", "a person, please")).await
    else {
        panic!("a person answers");
    };
    assert_eq!((session.head_id, session.active_turn), (Some(message_id.clone()), None));
    let Ok(BeginOutcome::HumanTakeover { message_id: again_id, .. }) =
        store.begin_turn(regenerate(&ada, None)).await
    else {
        panic!("a person answers");
    };
    assert_eq!(again_id, message_id, "asking again moves nothing");
    assert_eq!(stored_messages(store, &ada, "s", MessageView::All).await.len(), 6);
    store.record_heartbeat(&lease_holder("two"), at(9)).await.unwrap();
    assert_eq!(
        store
            .find_orphaned_turns(&lease_holder("two"), &HashSet::new(), &HashSet::new())
            .await
            .unwrap()
            .len(),
        0
    );
    set_status(store, &ada, "active").await;
    let (asked, _) = run_turn(store, regenerate(&ada, None), "here is the model").await;
    assert_eq!(asked, message_id);
}
