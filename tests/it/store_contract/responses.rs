//! Responses: the stored request of a turn, for the Responses API.

use super::{at, create, id, user};
use echoic::domain::{MessageId, TurnId, UserId};
use echoic::error::ErrorKind;
use echoic::store::{NewSession, Store, StoredResponse};
use std::sync::Arc;

fn response(turn: &str, reply: &str) -> StoredResponse {
    StoredResponse {
        turn_id: TurnId::new_unchecked(turn),
        reply_id: MessageId::new_unchecked(reply),
        user_message_id: MessageId::new_unchecked("question"),
        user: UserId::new_unchecked("ada"),
        created_at: at(7),
        request: "{\"a\": 1}".to_owned(),
        recording: None,
    }
}

pub async fn response_is_stored_once_per_reply_for_its_participants(store: &Arc<dyn Store>) {
    let (ada, bob, eve) = (user("ada"), user("bob"), user("eve"));
    let new = NewSession {
        id: Some(id("s")),
        participants: vec![bob.user.clone()],
        ..NewSession::default()
    };
    store.create_session(&ada, new, at(0)).await.unwrap();
    let first = response("t1", "r1");
    assert_eq!(store.save_response(&id("s"), &first).await.unwrap(), first);
    // The same reply under another turn id.
    let again = StoredResponse { request: "{}".to_owned(), ..response("t2", "r1") };
    assert_eq!(store.save_response(&id("s"), &again).await.unwrap(), first);
    assert_eq!(store.save_response(&id("s"), &first).await.unwrap(), first);

    for who in [&ada, &bob] {
        assert_eq!(
            store.get_response(who, &first.turn_id).await.unwrap(),
            (id("s"), first.clone())
        );
    }
    for (who, turn) in [(&eve, "t1"), (&ada, "t2"), (&ada, "none")] {
        let error = store.get_response(who, &TurnId::new_unchecked(turn)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::ResponseNotFound, "{turn}");
    }

    let reply = MessageId::new_unchecked("r1");
    assert_eq!(store.find_session_by_reply(&reply).await.unwrap(), id("s"));
    let error = store.find_session_by_reply(&MessageId::new_unchecked("r2")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::ResponseNotFound);

    store.save_recording(&first.turn_id, "[1]").await.unwrap();
    let with_recording = StoredResponse { recording: Some("[1]".to_owned()), ..first.clone() };
    assert_eq!(store.get_response(&ada, &first.turn_id).await.unwrap().1, with_recording);
    assert!(store.delete_response(&first.turn_id).await.unwrap());
    assert!(!store.delete_response(&first.turn_id).await.unwrap());
    store.save_recording(&first.turn_id, "[1]").await.unwrap();
    let error = store.get_response(&ada, &first.turn_id).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::ResponseNotFound);
    let error = store.find_session_by_reply(&reply).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::ResponseNotFound);
}

pub async fn response_is_deleted_with_its_session(store: &Arc<dyn Store>) {
    let ada = user("ada");
    create(store, &ada, "s").await;
    store.save_response(&id("s"), &response("t1", "r1")).await.unwrap();
    store.delete_session(&ada, &id("s")).await.unwrap();
    let error = store.get_response(&ada, &TurnId::new_unchecked("t1")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::ResponseNotFound);
    let late = store.save_response(&id("s"), &response("t2", "r2")).await.unwrap_err();
    assert_eq!(late.kind, ErrorKind::SessionNotFound);
    // A later session with the same id has none of them.
    create(store, &ada, "s").await;
    for turn in ["t1", "t2"] {
        let error = store.get_response(&ada, &TurnId::new_unchecked(turn)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::ResponseNotFound);
    }
}
