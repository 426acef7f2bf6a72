//! Sessions: who may see them, and how they are found.

use super::{at, begin, create, id, listed, message, post, user};
use echoic::domain::Role;
use echoic::domain::page::{Slice, View};
use echoic::domain::principal::Access;
use echoic::domain::session::SessionStatus;
use echoic::domain::title::Title;
use echoic::error::{Error, Kind};
use echoic::store::{MessageQuery, NewSession, Parent, SessionChange, SessionTarget, Store};
use std::sync::Arc;

pub async fn a_session_is_hidden_from_strangers_and_its_owners_things_from_guests(
    store: &Arc<dyn Store>,
) {
    let (ada, bob, eve) = (user("ada"), user("bob"), user("eve"));
    let new = NewSession {
        id: Some(id("s")),
        participants: vec![bob.user.clone()],
        ..NewSession::default()
    };
    store.create_session(&ada, new, at(0)).await.unwrap();
    post(store, &bob, "s", message("bob", Role::User, "hello", 1), Parent::Head).await;

    let session = id("s");
    let kind = |error: Error| error.kind;
    let title = || SessionChange { title: Some(Title::default()), ..SessionChange::default() };
    let status = || SessionChange {
        status: SessionStatus::parse("waiting").ok(),
        ..SessionChange::default()
    };
    assert_eq!(
        store.session(&bob, &session, Access::Participate).await.unwrap().participants,
        [ada.user.clone(), bob.user.clone()]
    );
    assert!(store.change_session(&bob, &session, status(), Vec::new(), at(2)).await.is_ok());
    for refused in [
        store.session(&bob, &session, Access::Own).await.unwrap_err(),
        store.change_session(&bob, &session, title(), Vec::new(), at(2)).await.unwrap_err(),
        store.delete_session(&bob, &session).await.unwrap_err(),
    ] {
        assert_eq!(kind(refused), Kind::Forbidden);
    }
    let query = MessageQuery { view: View::Path, slice: Slice::Newest, limit: 1 };
    for hidden in [
        store.session(&eve, &session, Access::Participate).await.unwrap_err(),
        store.messages(&eve, &session, query).await.unwrap_err(),
        store.change_session(&eve, &session, status(), Vec::new(), at(2)).await.unwrap_err(),
        store.delete_session(&eve, &session).await.unwrap_err(),
        store.begin_turn(begin(&eve, "s", "let me in")).await.unwrap_err(),
    ] {
        assert_eq!(kind(hidden), Kind::SessionNotFound);
    }
    assert_eq!(
        (listed(store, &ada, None).await, listed(store, &bob, None).await),
        (vec!["s".to_owned()], vec!["s".to_owned()])
    );
    assert_eq!(listed(store, &eve, None).await, Vec::<String>::new());
    let everybody_out =
        SessionChange { participants: Some(Vec::new()), ..SessionChange::default() };
    store.change_session(&ada, &session, everybody_out, Vec::new(), at(3)).await.unwrap();
    assert_eq!(listed(store, &bob, None).await, Vec::<String>::new());
}

pub async fn a_session_id_belongs_to_the_first_who_used_it(store: &Arc<dyn Store>) {
    let (ada, bob) = (user("ada"), user("bob"));
    create(store, &ada, "s").await;
    let again = NewSession { id: Some(id("s")), ..NewSession::default() };
    assert_eq!(
        store.create_session(&bob, again.clone(), at(1)).await.unwrap_err().kind,
        Kind::IdTaken
    );
    assert!(!store.create_session(&ada, again, at(1)).await.unwrap().1);
    let mut turn = begin(&bob, "s", "mine");
    turn.session = SessionTarget::Ensure(id("s"));
    assert_eq!(store.begin_turn(turn).await.unwrap_err().kind, Kind::IdTaken);
}

pub async fn titles_are_found_by_the_beginnings_of_their_words(store: &Arc<dyn Store>) {
    let (ada, bob) = (user("ada"), user("bob"));
    for (owner, session, title) in [
        (&ada, "1", "Crème brûlée"),
        (&ada, "2", "brulé crew"),
        (&bob, "3", "Creme"),
        (&ada, "4", "東京 2026"),
    ] {
        let title = Title::given(Some(title)).unwrap();
        let new = NewSession { id: Some(id(session)), title, ..NewSession::default() };
        store.create_session(owner, new, at(0)).await.unwrap();
    }
    for (search, found) in [
        ("cre bru", vec!["2", "1"]),
        ("CRÈME", vec!["1"]),
        ("東", vec!["4"]),
        ("202", vec!["4"]),
        ("reme", vec![]),
        ("new", vec![]),
    ] {
        assert_eq!(listed(store, &ada, Some(search)).await, found, "{search}");
    }
    let renamed = SessionChange {
        title: Some(Title::given(Some("Soup")).unwrap()),
        ..SessionChange::default()
    };
    store.change_session(&ada, &id("1"), renamed, Vec::new(), at(1)).await.unwrap();
    assert_eq!(listed(store, &ada, Some("creme")).await, Vec::<String>::new());
    assert_eq!(listed(store, &ada, Some("sou")).await, ["1"]);
    store.delete_session(&ada, &id("1")).await.unwrap();
    assert_eq!(listed(store, &ada, Some("sou")).await, Vec::<String>::new());
}
