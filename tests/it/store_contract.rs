//! What every store must do, whatever it is made of: one suite, run once per store.

use echoic::domain::message::{Body, Parts};
use echoic::domain::page::{Place, SessionQuery, Slice, Sort, View};
use echoic::domain::principal::Access;
use echoic::domain::session::{SessionStatus, Settings};
use echoic::domain::text::words;
use echoic::domain::title::Title;
use echoic::domain::{
    Message, MessageId, MessageType, Principal, Role, Session, SessionId, Status, Timestamp,
    TurnId, UserId,
};
use echoic::error::{Error, Kind};
use echoic::store::sqlite::{SqliteStore, Sync};
use echoic::store::{
    Ask, Began, BeginTurn, FinishTurn, IdempotencyKey, MessageQuery, NewMessage, NewSession,
    OnKnownId, Parent, PostMessage, ReplyFields, SessionChange, SessionTarget, Store, TailBounds,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use std::sync::Arc;
use tempfile::TempDir;

/// A store that is empty, and what must live as long as it.
struct Fresh {
    store: Arc<dyn Store>,
    _folder: TempDir,
}

fn sqlite() -> Fresh {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("echoic.db"), Sync::Normal).unwrap();
    Fresh { store: Arc::new(store), _folder: folder }
}

/// Runs each test of the suite against each store.
macro_rules! contract {
    ($($store:ident),* => $tests:tt) => { $(mod $store { contract!(@run $store $tests); })* };
    (@run $store:ident [$($test:ident),* $(,)?]) => {
        $(#[tokio::test]
        async fn $test() {
            let fresh = super::$store();
            super::$test(&fresh.store).await;
        })*
    };
}

contract!(sqlite => [
    of_many_turns_that_want_a_session_exactly_one_gets_it,
    a_finished_turn_frees_its_session_and_a_lost_claim_stores_nothing,
    a_turn_that_is_not_admitted_leaves_no_trace,
    a_session_is_hidden_from_strangers_and_its_owners_things_from_guests,
    a_session_id_belongs_to_the_first_who_used_it,
    turns_that_a_crash_left_behind_become_interrupted_replies,
    the_tail_of_a_path_ends_where_its_bounds_say,
    a_key_is_forgotten_after_a_day,
    titles_are_found_by_the_beginnings_of_their_words,
    whatever_is_posted_where_every_message_is_on_one_path_in_one_node,
]);

fn user(name: &str) -> Principal {
    Principal { user: UserId::trusted(name), is_admin: false }
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000 + millis)
}

fn id(text: &str) -> SessionId {
    SessionId::trusted(text)
}

fn message(sender: &str, role: Role, content: &str, millis: i64) -> NewMessage {
    NewMessage {
        id: MessageId::generate(),
        client_message_id: None,
        role,
        sender_id: UserId::trusted(sender),
        body: Body {
            content: content.to_owned(),
            parts: Parts::default(),
            kind: MessageType::Text,
        },
        tokens: 10,
        created_at: at(millis),
        reply: ReplyFields::default(),
    }
}

fn begin(who: &Principal, session: &str, content: &str) -> BeginTurn {
    BeginTurn {
        who: who.clone(),
        session: SessionTarget::Existing(id(session)),
        project_id: None,
        settings: Settings::default(),
        turn_id: TurnId::generate(),
        reply_id: MessageId::generate(),
        ask: Ask::Say {
            message: Box::new(message(who.user.as_str(), Role::User, content, 1)),
            parent: Parent::Head,
            on_known: OnKnownId::Refuse,
        },
        admit: Box::new(|_| Ok(())),
        now: at(1),
    }
}

async fn create(store: &Arc<dyn Store>, owner: &Principal, session: &str) -> Session {
    let new = NewSession { id: Some(id(session)), ..NewSession::default() };
    store.create_session(owner, new, at(0)).await.unwrap().0
}

async fn said(store: &Arc<dyn Store>, who: &Principal, session: &str, view: View) -> Vec<Message> {
    let query = MessageQuery { view, slice: Slice::Newest, limit: 100 };
    store.messages(who, &id(session), query).await.unwrap().messages
}

async fn post(
    store: &Arc<dyn Store>,
    who: &Principal,
    session: &str,
    message: NewMessage,
    parent: Parent,
) -> Message {
    let post = PostMessage {
        session_id: id(session),
        now: message.created_at,
        message,
        parent,
        idempotency: None,
    };
    store.post_message(who, post).await.unwrap().0
}

async fn of_many_turns_that_want_a_session_exactly_one_gets_it(store: &Arc<dyn Store>) {
    let ada = user("ada");
    create(store, &ada, "s").await;
    let racers = (0..16).map(|racer| {
        let (store, begin) = (store.clone(), begin(&ada, "s", &format!("racer {racer}")));
        tokio::spawn(async move { store.begin_turn(begin).await })
    });
    let mut winners = 0;
    for racer in racers.collect::<Vec<_>>() {
        match racer.await.unwrap() {
            Ok(Began::Running { .. }) => winners += 1,
            Ok(other) => panic!("{other:?}"),
            Err(error) => assert_eq!(error.kind, Kind::SessionBusy),
        }
    }
    assert_eq!((winners, said(store, &ada, "s", View::All).await.len()), (1, 1));
}

async fn a_finished_turn_frees_its_session_and_a_lost_claim_stores_nothing(store: &Arc<dyn Store>) {
    let ada = user("ada");
    create(store, &ada, "s").await;
    let Began::Running { session, question, turn } =
        store.begin_turn(begin(&ada, "s", "hi")).await.unwrap()
    else {
        panic!("the session was free");
    };
    assert_eq!((session.title.as_str(), session.active_turn.as_ref()), ("hi", Some(&turn)));
    let mut reply = message("assistant", Role::Assistant, "hello", 2);
    reply.id = turn.message_id.clone();
    let finish = |turn_id: &TurnId| FinishTurn {
        session_id: id("s"),
        turn_id: turn_id.clone(),
        reply: reply.clone(),
    };

    assert!(store.finish_turn(finish(&TurnId::generate())).await.unwrap().is_none());
    let session = store.finish_turn(finish(&turn.turn_id)).await.unwrap().unwrap();
    assert_eq!(
        (session.active_turn, session.messages_count, session.head_id),
        (None, 2, Some(turn.message_id.clone()))
    );
    assert!(store.finish_turn(finish(&turn.turn_id)).await.unwrap().is_none());
    let messages = said(store, &ada, "s", View::All).await;
    assert_eq!(
        messages.iter().map(|message| message.content.as_str()).collect::<Vec<_>>(),
        ["hi", "hello"]
    );
    assert_eq!(messages[1].parent_id, Some(question.id));

    store.delete_session(&ada, &id("s")).await.unwrap();
    assert!(store.finish_turn(finish(&turn.turn_id)).await.unwrap().is_none());
}

async fn a_turn_that_is_not_admitted_leaves_no_trace(store: &Arc<dyn Store>) {
    let ada = user("ada");
    let mut refused = begin(&ada, "new", "hi");
    refused.session = SessionTarget::New(id("new"));
    refused.admit = Box::new(|_| Err(Error::new(Kind::ContextTooLong, "no")));
    assert_eq!(store.begin_turn(refused).await.unwrap_err().kind, Kind::ContextTooLong);
    let gone = store.session(&ada, &id("new"), Access::Participate).await.unwrap_err();
    assert_eq!(gone.kind, Kind::SessionNotFound);
}

async fn a_session_is_hidden_from_strangers_and_its_owners_things_from_guests(
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
    assert!(store.change_session(&bob, &session, status(), None, at(2)).await.is_ok());
    for refused in [
        store.session(&bob, &session, Access::Own).await.unwrap_err(),
        store.change_session(&bob, &session, title(), None, at(2)).await.unwrap_err(),
        store.delete_session(&bob, &session).await.unwrap_err(),
    ] {
        assert_eq!(kind(refused), Kind::Forbidden);
    }
    let query = MessageQuery { view: View::Path, slice: Slice::Newest, limit: 1 };
    for hidden in [
        store.session(&eve, &session, Access::Participate).await.unwrap_err(),
        store.messages(&eve, &session, query).await.unwrap_err(),
        store.change_session(&eve, &session, status(), None, at(2)).await.unwrap_err(),
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
    store.change_session(&ada, &session, everybody_out, None, at(3)).await.unwrap();
    assert_eq!(listed(store, &bob, None).await, Vec::<String>::new());
}

async fn listed(store: &Arc<dyn Store>, who: &Principal, search: Option<&str>) -> Vec<String> {
    let query = SessionQuery {
        place: Place::Page(1),
        limit: 100,
        sort: Sort::default(),
        search: search.map(words),
        project_id: None,
        status: None,
        archived: Some(false),
    };
    let page = store.sessions(who, query).await.unwrap();
    page.sessions.iter().map(|session| session.id.to_string()).collect()
}

async fn a_session_id_belongs_to_the_first_who_used_it(store: &Arc<dyn Store>) {
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

async fn turns_that_a_crash_left_behind_become_interrupted_replies(store: &Arc<dyn Store>) {
    let ada = user("ada");
    for session in ["a", "b", "c"] {
        create(store, &ada, session).await;
    }
    for session in ["a", "b"] {
        store.begin_turn(begin(&ada, session, "hi")).await.unwrap();
    }
    assert_eq!(store.reap_turns(at(9)).await.unwrap(), 2);
    assert_eq!(store.reap_turns(at(9)).await.unwrap(), 0);
    for session in ["a", "b"] {
        let messages = said(store, &ada, session, View::Path).await;
        assert_eq!(
            (messages.len(), messages[1].status, messages[1].content.as_str()),
            (2, Status::Interrupted, "")
        );
        assert!(matches!(
            store.begin_turn(begin(&ada, session, "again")).await.unwrap(),
            Began::Running { .. }
        ));
    }
}

async fn the_tail_of_a_path_ends_where_its_bounds_say(store: &Arc<dyn Store>) {
    let ada = user("ada");
    create(store, &ada, "s").await;
    let mut last = None;
    for number in 0..10 {
        let content = if number == 7 { String::new() } else { number.to_string() };
        let stored =
            post(store, &ada, "s", message("ada", Role::User, &content, number), Parent::Head)
                .await;
        last = Some(stored.id);
    }
    let tail = async |messages, tokens| {
        let bounds = TailBounds { messages, tokens, overhead: 2 };
        let tail = store.tail(&id("s"), last.as_ref().unwrap(), bounds).await.unwrap();
        let texts: String = tail.iter().map(|message| message.content.as_str()).collect();
        (texts, tail.last().is_some_and(|oldest| oldest.is_root))
    };
    // Each message counts 10 tokens and 2 around it; the empty one is passed over.
    assert_eq!(tail(100, 10_000).await, ("986543210".to_owned(), true));
    assert_eq!(tail(3, 10_000).await, ("986".to_owned(), false));
    assert_eq!(tail(100, 47).await, ("986".to_owned(), false));
    assert_eq!(tail(100, 48).await, ("9865".to_owned(), false));
    assert_eq!(tail(100, 0).await, (String::new(), false));
}

async fn a_key_is_forgotten_after_a_day(store: &Arc<dyn Store>) {
    let ada = user("ada");
    create(store, &ada, "s").await;
    let day = 24 * 60 * 60 * 1000;
    let send = async |millis: i64| {
        let key = IdempotencyKey { route: "r", key: "k".to_owned(), fingerprint: "f".to_owned() };
        let post = PostMessage {
            session_id: id("s"),
            message: message("ada", Role::User, "hi", millis),
            parent: Parent::Head,
            idempotency: Some(key),
            now: at(millis),
        };
        store.post_message(&ada, post).await.unwrap().0.seq
    };
    assert_eq!(
        [send(0).await, send(day - 1).await, send(day + 1).await, send(day + 2).await],
        [1, 1, 2, 2]
    );
}

async fn titles_are_found_by_the_beginnings_of_their_words(store: &Arc<dyn Store>) {
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
    store.change_session(&ada, &id("1"), renamed, None, at(1)).await.unwrap();
    assert_eq!(listed(store, &ada, Some("creme")).await, Vec::<String>::new());
    assert_eq!(listed(store, &ada, Some("sou")).await, ["1"]);
    store.delete_session(&ada, &id("1")).await.unwrap();
    assert_eq!(listed(store, &ada, Some("sou")).await, Vec::<String>::new());
}

/// A message of a random tree: under which of the messages so far it goes, and how large it is.
#[derive(Debug, Clone)]
struct Step {
    under: Option<usize>,
    size: usize,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let under = prop_oneof![6 => Just(None), 3 => (0usize..40).prop_map(Some)];
    let size = prop_oneof![8 => 0usize..200, 1 => 40_000usize..70_000, 1 => 130_000usize..140_000];
    proptest::collection::vec((under, size).prop_map(|(under, size)| Step { under, size }), 1..40)
}

async fn whatever_is_posted_where_every_message_is_on_one_path_in_one_node(store: &Arc<dyn Store>) {
    let ada = user("ada");
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for case in 0..24 {
        let session = format!("s{case}");
        create(store, &ada, &session).await;
        let steps = steps().new_tree(&mut runner).unwrap().current();
        // The model: each message's parent, and the head.
        let (mut ids, mut parents): (Vec<MessageId>, Vec<Option<usize>>) = (Vec::new(), Vec::new());
        for (number, step) in steps.iter().enumerate() {
            let under = step.under.filter(|under| *under < number).or(number.checked_sub(1));
            let parent = match (step.under.filter(|under| *under < number), under) {
                (Some(under), _) => Parent::Message(ids[under].clone()),
                (None, _) => Parent::Head,
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

        let all = said(store, &ada, &session, View::All).await;
        assert_eq!(all.iter().map(|message| message.id.clone()).collect::<Vec<_>>(), ids);
        for (number, message) in all.iter().enumerate() {
            let siblings = (0..ids.len()).filter(|other| parents[*other] == parents[number]);
            assert_eq!(
                message.sibling_ids,
                siblings.map(|other| ids[other].clone()).collect::<Vec<_>>()
            );
            assert_eq!(message.parent_id, parents[number].map(|parent| ids[parent].clone()));
        }
        let on_path = said(store, &ada, &session, View::Path).await;
        assert_eq!(on_path.iter().map(|m| m.seq as usize - 1).collect::<Vec<_>>(), path);
        let middle = path[path.len() / 2];
        for (slice, expected) in [
            (Slice::Before(ids[middle].clone()), &path[..path.len() / 2]),
            (Slice::After(ids[middle].clone()), &path[path.len() / 2 + 1..]),
        ] {
            let query = MessageQuery { view: View::Path, slice, limit: 100 };
            let page = store.messages(&ada, &id(&session), query).await.unwrap().messages;
            assert_eq!(page.iter().map(|m| m.seq as usize - 1).collect::<Vec<_>>(), expected);
        }
        let bounds = TailBounds { messages: 1000, tokens: u32::MAX, overhead: 0 };
        let tail = store.tail(&id(&session), ids.last().unwrap(), bounds).await.unwrap();
        assert_eq!(
            tail.iter().rev().map(|m| m.id.clone()).collect::<Vec<_>>(),
            path.iter().map(|n| ids[*n].clone()).collect::<Vec<_>>()
        );
        let read = store.session(&ada, &id(&session), Access::Participate).await.unwrap();
        assert_eq!((read.messages_count as usize, read.head_id.as_ref()), (ids.len(), ids.last()));
    }
}
