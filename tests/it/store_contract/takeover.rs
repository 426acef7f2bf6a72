//! The support desk: a customer talks to the model, is handed to an agent, and back.

use super::{
    at, begin, begin_running, finish, id, lease_holder, listed_ids, message, post, stored_messages,
    user,
};
use echoic::domain::page::MessageView;
use echoic::domain::principal::AccessLevel;
use echoic::domain::session::{JsonObject, SessionStatus};
use echoic::domain::title::SessionTitle;
use echoic::domain::{Principal, Role, Session, UserId};
use echoic::error::ErrorKind;
use echoic::store::{
    BeginOutcome, BeginTurn, MessageParent, NewSession, PostMessage, SessionTarget, SessionUpdate,
    Store,
};
use std::sync::Arc;

fn object(text: &str) -> JsonObject {
    JsonObject::from_stored(text.to_owned()).unwrap()
}

async fn set_status(store: &Arc<dyn Store>, who: &Principal, status: &str, millis: i64) -> Session {
    let status = Some(SessionStatus::parse(status).unwrap());
    let change = SessionUpdate { status, ..SessionUpdate::default() };
    store.update_session(who, &id("desk"), change, Vec::new(), at(millis)).await.unwrap()
}

/// A message of the customer, as the chat sends it.
fn customer_turn(customer: &Principal, text: &str, millis: i64) -> BeginTurn {
    let mut begin = begin(customer, "desk", text);
    begin.now = at(millis);
    if let echoic::store::TurnInput::Send { message, .. } = &mut begin.turn.input {
        message.created_at = at(millis);
    }
    begin
}

async fn transcript(store: &Arc<dyn Store>, who: &Principal) -> Vec<String> {
    let said = stored_messages(store, who, "desk", MessageView::Path).await;
    let line = |message: &echoic::domain::Message| {
        let seen = if message.seen { "seen" } else { "unseen" };
        format!("{}: {} ({seen})", message.sender_id, message.content)
    };
    said.iter().map(line).collect()
}

pub async fn customer_is_handed_to_an_agent_and_back(store: &Arc<dyn Store>) {
    let (customer, agent, other) = (user("customer"), user("agent"), user("other"));
    let desk = Principal { user: UserId::new_unchecked("desk"), is_admin: true };

    // The customer opens the page and asks; the model answers.
    let new = NewSession {
        id: Some(id("desk")),
        user_meta: object(r#"{"browser":"Firefox","page":"/invoices"}"#),
        theme: object(r##"{"colour":"#0a7"}"##),
        ..NewSession::default()
    };
    let opened = store.create_session(&customer, new, at(0)).await.unwrap().0;
    assert_eq!((opened.status.as_str(), opened.last_seen), ("active", None));
    assert_eq!(opened.start_time, at(0));
    let begun = begin_running(store, customer_turn(&customer, "Where is my invoice?", 1000)).await;
    store.finish_turn(finish(&begun, "In your account.", None)).await.unwrap().unwrap();

    // No other user sees the session until the desk adds an agent and hands it over.
    let hidden =
        store.get_session(&agent, &id("desk"), AccessLevel::Participant).await.unwrap_err();
    assert_eq!(hidden.kind, ErrorKind::SessionNotFound);
    let let_in =
        SessionUpdate { participants: Some(vec![agent.user.clone()]), ..SessionUpdate::default() };
    store.update_session(&desk, &id("desk"), let_in, Vec::new(), at(2000)).await.unwrap();
    assert_eq!(listed_ids(store, &agent, None).await, ["desk"]);
    let handed = set_status(store, &agent, "agent_assigned", 3000).await;
    assert_eq!((handed.status.as_str(), handed.version), ("agent_assigned", opened.version + 3));

    // No turn begins now; the message is stored for the agent, unread.
    let Ok(BeginOutcome::HumanTakeover { session, .. }) =
        store.begin_turn(customer_turn(&customer, "It is not there!", 4000)).await
    else {
        panic!("a person answers");
    };
    assert_eq!((session.active_turn, session.last_seen), (None, Some(at(4000))));
    let waiting = transcript(store, &agent).await;
    assert_eq!(waiting.last().unwrap(), "customer: It is not there! (unseen)");
    assert!(store.begin_queued_turn(&lease_holder("two"), at(4500)).await.unwrap().next.is_none());

    // The agent reads and answers as a user. Only the desk, an admin, may post as the assistant.
    let last = stored_messages(store, &agent, "desk", MessageView::Path).await.pop().unwrap();
    store.mark_seen(&agent, &id("desk"), &last.id).await.unwrap();
    let as_model = PostMessage {
        session_id: id("desk"),
        message: message("agent", Role::Assistant, "I am the model", 5000),
        parent: MessageParent::Head,
        idempotency_key: None,
        now: at(5000),
    };
    let refused = store.post_message(&agent, as_model).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Forbidden);
    let answer = message("agent", Role::User, "I have sent it again.", 5000);
    post(store, &agent, "desk", answer, MessageParent::Head).await;
    let note = message("desk", Role::Assistant, "Anything else?", 5500);
    post(store, &desk, "desk", note, MessageParent::Head).await;
    let last = stored_messages(store, &customer, "desk", MessageView::Path).await.pop().unwrap();
    store.mark_seen(&customer, &id("desk"), &last.id).await.unwrap();
    assert_eq!(
        transcript(store, &customer).await,
        [
            "customer: Where is my invoice? (seen)",
            "assistant: In your account. (seen)",
            "customer: It is not there! (seen)",
            "agent: I have sent it again. (seen)",
            "desk: Anything else? (seen)",
        ]
    );

    // A closed session rejects every new message.
    let closed = set_status(store, &agent, "closed", 6000).await;
    assert_eq!(closed.last_seen, Some(at(4000)), "what others say does not show the customer");
    let mut ensured = customer_turn(&customer, "Thanks", 7000);
    ensured.target = SessionTarget::Ensure(id("desk"));
    for refused in [
        store.begin_turn(customer_turn(&customer, "Thanks", 7000)).await.unwrap_err(),
        store.begin_turn(ensured).await.unwrap_err(),
    ] {
        assert_eq!(refused.kind, ErrorKind::SessionClosed);
    }
    let title = Some(SessionTitle::from_user(Some("Mine")).unwrap());
    let rename = SessionUpdate { title, ..SessionUpdate::default() };
    let refused = store.update_session(&agent, &id("desk"), rename, Vec::new(), at(7000)).await;
    assert_eq!(refused.unwrap_err().kind, ErrorKind::Forbidden, "a guest sets the status, no more");
    let refused =
        store.get_session(&other, &id("desk"), AccessLevel::Participant).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::SessionNotFound);

    // Reopened, the model answers again and reads the whole history.
    set_status(store, &customer, "active", 8000).await;
    let begun = begin_running(store, customer_turn(&customer, "Thanks", 9000)).await;
    let bounds = echoic::store::HistoryLimits {
        max_messages: 100,
        max_tokens: u32::MAX,
        token_overhead: 4,
        max_part_bytes: 0,
    };
    let parent = begun.user_message.parent_id.clone().unwrap();
    let remembered = store.recent_history(&id("desk"), &parent, bounds).await.unwrap();
    let remembered: Vec<_> = remembered.iter().rev().map(|one| one.content.as_str()).collect();
    assert_eq!(
        remembered,
        [
            "Where is my invoice?",
            "In your account.",
            "It is not there!",
            "I have sent it again.",
            "Anything else?"
        ]
    );
    store.finish_turn(finish(&begun, "You are welcome.", None)).await.unwrap().unwrap();
    let session = store.get_session(&customer, &id("desk"), AccessLevel::Owner).await.unwrap();
    assert_eq!((session.messages_count, session.last_seen), (7, Some(at(9000))));
    assert_eq!(session.last_message.as_deref(), Some("You are welcome."));
}
