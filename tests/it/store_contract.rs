//! What every store must do, whatever it is made of: one suite, run once per store.

use echoic::domain::message::{Body, Parts};
use echoic::domain::page::{Place, SessionQuery, Slice, Sort, View};
use echoic::domain::principal::Access;
use echoic::domain::session::{SessionStatus, Settings};
use echoic::domain::text::words;
use echoic::domain::title::Title;
use echoic::domain::{
    Message, MessageId, MessageType, Principal, Role, Session, SessionId, Timestamp, TurnId, UserId,
};
use echoic::error::{Error, Kind};
use echoic::store::sqlite::{SqliteStore, Sync};
use echoic::store::{
    Ask, Batch, Began, BeginTurn, Begun, Claimant, FinishTurn, IdempotencyKey, LedTo, LogEntry,
    MessageQuery, NewMessage, NewSession, OnBusy, OnKnownId, Parent, PostMessage, ReplyFields,
    SessionChange, SessionTarget, Store, TailBounds, TurnSpec,
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
    turns_of_an_earlier_life_are_orphans_with_their_logs,
    a_log_ends_with_its_reply_and_is_dropped_later,
    waiting_turns_run_in_order_and_at_most_eight_wait,
    waiting_turns_can_be_dropped_withdrawn_and_found_after_a_crash,
    a_repeated_turn_leads_where_it_led_the_first_time,
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

fn life(boot: &str) -> Claimant {
    Claimant { instance: "tests".to_owned(), boot: boot.to_owned() }
}

/// Begins a turn in a session that is free.
async fn running(store: &Arc<dyn Store>, begin: BeginTurn) -> Begun {
    match store.begin_turn(begin).await.unwrap() {
        Began::Running(begun) => *begun,
        other => panic!("the session was free: {other:?}"),
    }
}

fn finish(begun: &Begun, reply: &str, take_next: Option<Claimant>) -> FinishTurn {
    let mut reply = message("assistant", Role::Assistant, reply, 2);
    reply.id = begun.turn.message_id.clone();
    let (session_id, turn_id) = (begun.session.id.clone(), begun.turn.turn_id.clone());
    FinishTurn { session_id, turn_id, reply, last_batch: None, take_next }
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
        on_busy: OnBusy::Reject,
        idempotency: None,
        turn: TurnSpec {
            turn_id: TurnId::generate(),
            reply_id: MessageId::generate(),
            ask: Ask::Say {
                message: Box::new(message(who.user.as_str(), Role::User, content, 1)),
                parent: Parent::Head,
                on_known: OnKnownId::Refuse,
            },
            options: Settings::default(),
        },
        admit: Box::new(|_, _| Ok(())),
        claimant: life("one"),
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
            Ok(Began::Running(_)) => winners += 1,
            Ok(other) => panic!("{other:?}"),
            Err(error) => assert_eq!(error.kind, Kind::SessionBusy),
        }
    }
    assert_eq!((winners, said(store, &ada, "s", View::All).await.len()), (1, 1));
}

async fn a_finished_turn_frees_its_session_and_a_lost_claim_stores_nothing(store: &Arc<dyn Store>) {
    let ada = user("ada");
    create(store, &ada, "s").await;
    let begun = running(store, begin(&ada, "s", "hi")).await;
    assert_eq!(
        (begun.session.title.as_str(), begun.session.active_turn.as_ref()),
        ("hi", Some(&begun.turn))
    );

    let stale = FinishTurn { turn_id: TurnId::generate(), ..finish(&begun, "hello", None) };
    assert!(store.finish_turn(stale).await.unwrap().is_none());
    assert!(store.finish_turn(finish(&begun, "hello", None)).await.unwrap().is_some());
    let session = store.session(&ada, &id("s"), Access::Participate).await.unwrap();
    let head = Some(begun.turn.message_id.clone());
    assert_eq!((session.active_turn, session.messages_count, session.head_id), (None, 2, head));
    assert!(store.finish_turn(finish(&begun, "hello", None)).await.unwrap().is_none());
    let messages = said(store, &ada, "s", View::All).await;
    assert_eq!(
        messages.iter().map(|message| message.content.as_str()).collect::<Vec<_>>(),
        ["hi", "hello"]
    );
    assert_eq!(messages[1].parent_id.as_ref(), Some(&begun.question.id));

    store.delete_session(&ada, &id("s")).await.unwrap();
    assert!(store.finish_turn(finish(&begun, "hello", None)).await.unwrap().is_none());
}

async fn a_turn_that_is_not_admitted_leaves_no_trace(store: &Arc<dyn Store>) {
    let ada = user("ada");
    let mut refused = begin(&ada, "new", "hi");
    refused.session = SessionTarget::New(id("new"));
    refused.admit = Box::new(|_, _| Err(Error::new(Kind::ContextTooLong, "no")));
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

async fn turns_of_an_earlier_life_are_orphans_with_their_logs(store: &Arc<dyn Store>) {
    let ada = user("ada");
    for session in ["a", "b"] {
        create(store, &ada, session).await;
    }
    let begun = running(store, begin(&ada, "a", "hi")).await;
    let batch = |number: u32, frames: &'static str| LogEntry {
        session_id: id("a"),
        turn_id: begun.turn.turn_id.clone(),
        batch: Batch { number, frames: frames.into() },
    };
    store.append_log(vec![batch(0, "one "), batch(1, "two ")]).await.unwrap();
    store.beat(&life("one"), at(3)).await.unwrap();

    assert_eq!(store.orphaned_turns(&life("one")).await.unwrap().len(), 0, "this life is not over");
    let orphans = store.orphaned_turns(&life("two")).await.unwrap();
    assert_eq!(orphans.len(), 1);
    assert_eq!((&orphans[0].session_id, &orphans[0].turn), (&id("a"), &begun.turn));
    assert_eq!(orphans[0].log.concat(), b"one two ");
}

async fn a_log_ends_with_its_reply_and_is_dropped_later(store: &Arc<dyn Store>) {
    let ada = user("ada");
    create(store, &ada, "s").await;
    let begun = running(store, begin(&ada, "s", "hi")).await;
    let turn = begun.turn.turn_id.clone();
    let entry = |number: u32, frames: &'static str| LogEntry {
        session_id: id("s"),
        turn_id: turn.clone(),
        batch: Batch { number, frames: frames.into() },
    };
    store.append_log(vec![entry(0, "a"), entry(1, "b")]).await.unwrap();
    let last_batch = Some(Batch { number: 2, frames: "c".into() });
    let finish = FinishTurn { last_batch, ..finish(&begun, "hello", None) };
    store.finish_turn(finish).await.unwrap().unwrap();

    // What comes too late, from a server that thought itself alive, changes nothing.
    store.append_log(vec![entry(3, "zombie")]).await.unwrap();
    assert_eq!(store.read_log(&id("s"), &turn).await.unwrap().concat(), b"abc");
    assert!(store.read_log(&id("another"), &turn).await.unwrap().is_empty());
    assert_eq!(store.drop_logs(at(2)).await.unwrap(), 0);
    assert_eq!(store.drop_logs(at(3)).await.unwrap(), 3);
    assert!(store.read_log(&id("s"), &turn).await.unwrap().is_empty());
}

async fn waiting_turns_run_in_order_and_at_most_eight_wait(store: &Arc<dyn Store>) {
    let ada = user("ada");
    create(store, &ada, "s").await;
    let mut begun = running(store, begin(&ada, "s", "0")).await;
    let wait = async |content: &str, on_busy| {
        store.begin_turn(BeginTurn { on_busy, ..begin(&ada, "s", content) }).await.map(|_| ())
    };
    for number in 1..=7 {
        wait(&number.to_string(), OnBusy::Queue).await.unwrap();
    }
    wait("first", OnBusy::Interrupt).await.unwrap();
    assert_eq!(wait("9", OnBusy::Queue).await.unwrap_err().kind, Kind::QueueFull);
    assert_eq!(wait("10", OnBusy::Reject).await.unwrap_err().kind, Kind::SessionBusy);
    assert_eq!(said(store, &ada, "s", View::All).await.len(), 1, "a waiting message is none yet");

    let mut order = Vec::new();
    while let Some(next) =
        store.finish_turn(finish(&begun, "ok", Some(life("one")))).await.unwrap().unwrap().next
    {
        order.push(next.question.content.clone());
        begun = *next;
    }
    assert_eq!(order, ["first", "1", "2", "3", "4", "5", "6", "7"]);
    let said: Vec<_> =
        said(store, &ada, "s", View::Path).await.into_iter().map(|m| m.content).collect();
    assert_eq!(said[..4], ["0", "ok", "first", "ok"]);
    assert_eq!(said.len(), 18);
}

async fn waiting_turns_can_be_dropped_withdrawn_and_found_after_a_crash(store: &Arc<dyn Store>) {
    let ada = user("ada");
    create(store, &ada, "s").await;
    let begun = running(store, begin(&ada, "s", "0")).await;
    let mut ids = Vec::new();
    for content in ["1", "2", "3"] {
        let waiting = BeginTurn { on_busy: OnBusy::Queue, ..begin(&ada, "s", content) };
        ids.push(waiting.turn.turn_id.clone());
        store.begin_turn(waiting).await.unwrap();
    }
    assert!(store.withdraw(&id("s"), &ids[0]).await.unwrap());
    assert!(!store.withdraw(&id("s"), &ids[0]).await.unwrap());
    assert!(store.begin_waiting(&life("two"), at(4)).await.unwrap().is_none(), "a turn is running");
    store.finish_turn(finish(&begun, "ok", None)).await.unwrap().unwrap();
    let next = store.begin_waiting(&life("two"), at(4)).await.unwrap().unwrap();
    assert_eq!((next.question.content.as_str(), &next.turn.turn_id), ("2", &ids[1]));
    assert_eq!(store.drop_waiting(&id("s")).await.unwrap(), ids[2..]);
    store.finish_turn(finish(&next, "ok", Some(life("two")))).await.unwrap().unwrap();
    assert!(store.begin_waiting(&life("two"), at(4)).await.unwrap().is_none());
}

async fn a_repeated_turn_leads_where_it_led_the_first_time(store: &Arc<dyn Store>) {
    let ada = user("ada");
    create(store, &ada, "s").await;
    let key = |fingerprint: &str| {
        Some(IdempotencyKey {
            route: "r",
            key: "k".to_owned(),
            fingerprint: fingerprint.to_owned(),
        })
    };
    let send = async |fingerprint| {
        let begin = BeginTurn { idempotency: key(fingerprint), ..begin(&ada, "s", "hi") };
        store.begin_turn(begin).await
    };
    let Ok(Began::Running(begun)) = send("f").await else { panic!("the session was free") };
    let Ok(Began::Repeated { led_to: LedTo::Turn(turn), .. }) = send("f").await else {
        panic!("it runs")
    };
    assert_eq!(turn, begun.turn.turn_id);
    assert_eq!(send("other").await.unwrap_err().kind, Kind::IdempotencyKeyReused);
    store.finish_turn(finish(&begun, "hello", None)).await.unwrap().unwrap();
    let Ok(Began::Repeated { led_to: LedTo::Reply { reply, question }, .. }) = send("f").await
    else {
        panic!("it was answered");
    };
    assert_eq!((reply.content.as_str(), question), ("hello", begun.question.id.clone()));
    assert_eq!(said(store, &ada, "s", View::All).await.len(), 2);

    let waiting = BeginTurn { on_busy: OnBusy::Queue, ..begin(&ada, "s", "other") };
    let busy = running(store, begin(&ada, "s", "busy")).await;
    let waiting = BeginTurn {
        idempotency: Some(IdempotencyKey { key: "k2".to_owned(), ..key("f").unwrap() }),
        ..waiting
    };
    let turn_id = waiting.turn.turn_id.clone();
    store.begin_turn(waiting).await.unwrap();
    let again = BeginTurn {
        idempotency: Some(IdempotencyKey { key: "k2".to_owned(), ..key("f").unwrap() }),
        ..begin(&ada, "s", "other")
    };
    let Ok(Began::Repeated { led_to: LedTo::Turn(turn), .. }) = store.begin_turn(again).await
    else {
        panic!("it waits");
    };
    assert_eq!(turn, turn_id);
    drop(busy);
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
    store.change_session(&ada, &id("1"), renamed, Vec::new(), at(1)).await.unwrap();
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
