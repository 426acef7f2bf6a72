//! Turns: begun, finished, repeated, logged, recovered after a crash.

use super::{
    EmptyStore, at, begin, begin_running, create, finish, id, lease_holder, message,
    stored_messages, user,
};
use echoic::domain::page::MessageView;
use echoic::domain::principal::AccessLevel;
use echoic::domain::{Role, TurnId};
use echoic::error::{Error, ErrorKind};
use echoic::store::{
    AdmissionCheck, BeginOutcome, BeginTurn, FinishTurn, IdempotencyKey, LogBatch, NewSession,
    OnBusy, PriorResult, RetryWindow, SessionTarget, Store, TurnLogEntry,
};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

pub async fn one_of_many_concurrent_turns_gets_the_session(store: &Arc<dyn Store>) {
    let ada = user("ada");
    create(store, &ada, "s").await;
    let racers = (0..16).map(|racer| {
        let (store, begin) = (store.clone(), begin(&ada, "s", &format!("racer {racer}")));
        tokio::spawn(async move { store.begin_turn(begin).await })
    });
    let mut winners = 0;
    for racer in racers.collect::<Vec<_>>() {
        match racer.await.unwrap() {
            Ok(BeginOutcome::Running(_)) => winners += 1,
            Ok(other) => panic!("{other:?}"),
            Err(error) => assert_eq!(error.kind, ErrorKind::SessionBusy),
        }
    }
    assert_eq!((winners, stored_messages(store, &ada, "s", MessageView::All).await.len()), (1, 1));
}

pub async fn finish_frees_session_and_lost_claim_stores_nothing(store: &Arc<dyn Store>) {
    let ada = user("ada");
    create(store, &ada, "s").await;
    let begun = begin_running(store, begin(&ada, "s", "hi")).await;
    assert_eq!(
        (begun.session.title.as_str(), begun.session.active_turn.as_ref()),
        ("hi", Some(&begun.turn))
    );

    let stale = FinishTurn { turn_id: TurnId::generate(), ..finish(&begun, "hello", None) };
    assert!(store.finish_turn(stale).await.unwrap().is_none());
    assert!(store.finish_turn(finish(&begun, "hello", None)).await.unwrap().is_some());
    let session = store.get_session(&ada, &id("s"), AccessLevel::Participant).await.unwrap();
    let head = Some(begun.turn.message_id.clone());
    assert_eq!((session.active_turn, session.messages_count, session.head_id), (None, 2, head));
    assert!(store.finish_turn(finish(&begun, "another", None)).await.unwrap().is_none());
    // A retry, as after a lost acknowledgement.
    let again = store.finish_turn(finish(&begun, "hello", None)).await.unwrap();
    assert!(again.unwrap().next.is_none());
    let messages = stored_messages(store, &ada, "s", MessageView::All).await;
    assert_eq!(
        messages.iter().map(|message| message.content.as_str()).collect::<Vec<_>>(),
        ["hi", "hello"]
    );
    assert_eq!(messages[1].parent_id.as_ref(), Some(&begun.user_message.id));

    store.delete_session(&ada, &id("s")).await.unwrap();
    assert!(store.finish_turn(finish(&begun, "hello", None)).await.unwrap().is_none());
}

pub async fn turn_that_is_not_admitted_leaves_no_trace(store: &Arc<dyn Store>) {
    let ada = user("ada");
    let mut refused = begin(&ada, "new", "hi");
    refused.target = SessionTarget::New(id("new"));
    refused.admission = Box::new(|_, _| Err(Error::new(ErrorKind::ContextTooLong, "no")));
    assert_eq!(store.begin_turn(refused).await.unwrap_err().kind, ErrorKind::ContextTooLong);
    let gone = store.get_session(&ada, &id("new"), AccessLevel::Participant).await.unwrap_err();
    assert_eq!(gone.kind, ErrorKind::SessionNotFound);
}

pub async fn repeated_turn_returns_its_first_result(store: &Arc<dyn Store>) {
    let ada = user("ada");
    create(store, &ada, "s").await;
    let key = |fingerprint: &str| {
        Some(IdempotencyKey {
            route: "r",
            key: "k".to_owned(),
            fingerprint: fingerprint.to_owned(),
            retry_window: RetryWindow::Full,
        })
    };
    let send = async |fingerprint| {
        let begin = BeginTurn { idempotency_key: key(fingerprint), ..begin(&ada, "s", "hi") };
        store.begin_turn(begin).await
    };
    let Ok(BeginOutcome::Running(begun)) = send("f").await else { panic!("the session was free") };
    let Ok(BeginOutcome::Repeated { prior: PriorResult::Turn { turn_id: turn, .. }, .. }) =
        send("f").await
    else {
        panic!("it runs")
    };
    assert_eq!(turn, begun.turn.turn_id);
    assert_eq!(send("other").await.unwrap_err().kind, ErrorKind::IdempotencyKeyReused);
    store.finish_turn(finish(&begun, "hello", None)).await.unwrap().unwrap();
    let Ok(BeginOutcome::Repeated { prior: PriorResult::Reply(reply), .. }) = send("f").await
    else {
        panic!("it was answered");
    };
    assert_eq!(
        (reply.content.as_str(), reply.parent_id),
        ("hello", Some(begun.user_message.id.clone()))
    );
    assert_eq!(stored_messages(store, &ada, "s", MessageView::All).await.len(), 2);

    let waiting = BeginTurn { on_busy: OnBusy::Queue, ..begin(&ada, "s", "other") };
    let busy = begin_running(store, begin(&ada, "s", "busy")).await;
    let waiting = BeginTurn {
        idempotency_key: Some(IdempotencyKey { key: "k2".to_owned(), ..key("f").unwrap() }),
        ..waiting
    };
    let turn_id = waiting.turn.turn_id.clone();
    store.begin_turn(waiting).await.unwrap();
    let again = BeginTurn {
        idempotency_key: Some(IdempotencyKey { key: "k2".to_owned(), ..key("f").unwrap() }),
        ..begin(&ada, "s", "other")
    };
    let Ok(BeginOutcome::Repeated { prior: PriorResult::Turn { turn_id: turn, .. }, .. }) =
        store.begin_turn(again).await
    else {
        panic!("it waits");
    };
    assert_eq!(turn, turn_id);
    drop(busy);
}

pub async fn content_key_repeats_the_newest_turn_for_two_minutes(store: &Arc<dyn Store>) {
    let ada = user("ada");
    create(store, &ada, "s").await;
    let send = async |repeats, millis| {
        let (key, fingerprint) = ("yes".to_owned(), String::new());
        let key = IdempotencyKey { route: "r", key, fingerprint, retry_window: repeats };
        let begin = begin(&ada, "s", "yes");
        store.begin_turn(BeginTurn { idempotency_key: Some(key), now: at(millis), ..begin }).await
    };
    let mut replies = Vec::new();
    for millis in [0, 60_000] {
        let Ok(BeginOutcome::Running(begun)) = send(RetryWindow::Disabled, millis).await else {
            panic!("it is stored again")
        };
        store.finish_turn(finish(&begun, "well", None)).await.unwrap().unwrap();
        replies.push(begun.turn.message_id.clone());
    }
    let Ok(BeginOutcome::Repeated { prior: PriorResult::Reply(reply), .. }) =
        send(RetryWindow::Short, 179_999).await
    else {
        panic!("it is repeated")
    };
    assert_eq!(reply.id, replies[1]);
    let Ok(BeginOutcome::Running(_)) = send(RetryWindow::Short, 180_000).await else {
        panic!("that was too long ago")
    };
}

pub async fn turns_of_an_earlier_boot_are_orphans_with_their_logs(store: &Arc<dyn Store>) {
    let ada = user("ada");
    for session in ["a", "b"] {
        create(store, &ada, session).await;
    }
    let begun = begin_running(store, begin(&ada, "a", "hi")).await;
    let batch = |number: u32, frames: &'static str| TurnLogEntry {
        session_id: id("a"),
        turn_id: begun.turn.turn_id.clone(),
        batch: LogBatch { number, frames: frames.into() },
    };
    store.append_log(vec![batch(0, "one "), batch(1, "two ")]).await.unwrap();
    store.record_heartbeat(&lease_holder("one"), at(3)).await.unwrap();

    let here = HashSet::from([begun.turn.turn_id.clone()]);
    let orphans =
        store.find_orphaned_turns(&lease_holder("one"), &here, &HashSet::new()).await.unwrap();
    assert_eq!(orphans.len(), 0, "this life is not over");
    store.record_heartbeat(&lease_holder("two"), at(4)).await.unwrap();
    let orphans = store
        .find_orphaned_turns(&lease_holder("two"), &HashSet::new(), &HashSet::new())
        .await
        .unwrap();
    assert_eq!(orphans.len(), 1);
    assert_eq!((&orphans[0].session_id, &orphans[0].turn), (&id("a"), &begun.turn));
    assert_eq!(orphans[0].log.concat(), b"one two ");
    let others =
        store.find_orphaned_turns(&lease_holder("two"), &HashSet::new(), &here).await.unwrap();
    assert_eq!(others.len(), 0, "it is left out on request");
    let claimant = orphans[0].lease_holder.clone();
    let ended = FinishTurn { lease_holder: claimant, ..finish(&begun, "one two", None) };
    assert!(store.finish_turn(ended).await.unwrap().is_some());
    let left = store
        .find_orphaned_turns(&lease_holder("two"), &HashSet::new(), &HashSet::new())
        .await
        .unwrap();
    assert_eq!(left.len(), 0);
}

/// The same on MongoDB: `instances::turn_with_unanswered_claim_is_orphaned_after_a_lease`.
#[tokio::test]
async fn turn_without_a_task_is_orphaned_after_five_seconds() {
    let EmptyStore { store, .. } = &super::sqlite().await.unwrap();
    let ada = user("ada");
    create(store, &ada, "s").await;
    let begun = begin_running(store, begin(&ada, "s", "hi")).await;
    let running = HashSet::from([begun.turn.turn_id.clone()]);
    let find = async |running: &HashSet<TurnId>, after_millis| {
        tokio::time::pause();
        tokio::time::advance(Duration::from_millis(after_millis)).await;
        tokio::time::resume();
        store.find_orphaned_turns(&lease_holder("one"), running, &HashSet::new()).await.unwrap()
    };
    let none = HashSet::new();
    assert_eq!(find(&none, 0).await.len(), 0, "its task may be starting");
    assert_eq!(find(&running, 5_000).await.len(), 0, "it runs");
    assert_eq!(find(&none, 5_000).await.len(), 0, "its task was just lost");
    assert_eq!(find(&none, 4_000).await.len(), 0);
    let orphans = find(&none, 1_000).await;
    assert_eq!(orphans.len(), 1);
    assert_eq!((&orphans[0].turn, &orphans[0].lease_holder), (&begun.turn, &lease_holder("one")));
    assert!(store.finish_turn(finish(&begun, "", None)).await.unwrap().is_some());
    assert_eq!(find(&none, 0).await.len(), 0);
}

pub async fn log_ends_with_its_reply_and_is_dropped_later(store: &Arc<dyn Store>) {
    let ada = user("ada");
    create(store, &ada, "s").await;
    let begun = begin_running(store, begin(&ada, "s", "hi")).await;
    let turn = begun.turn.turn_id.clone();
    let entry = |number: u32, frames: &'static str| TurnLogEntry {
        session_id: id("s"),
        turn_id: turn.clone(),
        batch: LogBatch { number, frames: frames.into() },
    };
    store.append_log(vec![entry(0, "a"), entry(1, "b")]).await.unwrap();
    let last_batch = Some(LogBatch { number: 2, frames: "c".into() });
    let finish = FinishTurn { last_batch, ..finish(&begun, "hello", None) };
    store.finish_turn(finish).await.unwrap().unwrap();

    // A late batch, from an instance that was declared dead and does not know it, is ignored.
    store.append_log(vec![entry(3, "zombie")]).await.unwrap();
    assert_eq!(store.read_log(&id("s"), &turn, at(2)).await.unwrap().concat(), b"abc");
    assert!(store.read_log(&id("another"), &turn, at(2)).await.unwrap().is_empty());
    let past = store.read_log(&id("s"), &turn, at(3)).await.unwrap();
    assert!(past.is_empty(), "it ended before");
    assert_eq!(store.delete_ended_logs(at(2)).await.unwrap(), 0);
    assert_eq!(store.delete_ended_logs(at(3)).await.unwrap(), 3);
    assert!(store.read_log(&id("s"), &turn, at(2)).await.unwrap().is_empty());
}

pub async fn preceding_messages_are_stored_with_theirs_or_not_at_all(store: &Arc<dyn Store>) {
    let (ada, bob) = (user("ada"), user("bob"));
    let participants = vec![bob.user.clone()];
    let new = NewSession { id: Some(id("s")), participants, ..NewSession::default() };
    store.create_session(&ada, new, at(0)).await.unwrap();
    let earlier = || {
        vec![
            message("ada", Role::System, "Be brief.", 1),
            message("ada", Role::User, "I am Ada.", 1),
            message("ada", Role::Assistant, "Hello.", 1),
        ]
    };
    let texts = async || {
        let messages = stored_messages(store, &ada, "s", MessageView::Path).await;
        messages.into_iter().map(|message| message.content).collect::<Vec<_>>()
    };
    let refused = |error: Error, kind| assert_eq!(error.kind, kind);

    let guest = BeginTurn { preceding: earlier(), ..begin(&bob, "s", "hi") };
    refused(store.begin_turn(guest).await.unwrap_err(), ErrorKind::Forbidden);
    let full: AdmissionCheck =
        Box::new(|_, _| Err(Error::new(ErrorKind::ContextTooLong, "too long")));
    let large = BeginTurn { preceding: earlier(), admission: full, ..begin(&ada, "s", "hi") };
    refused(store.begin_turn(large).await.unwrap_err(), ErrorKind::ContextTooLong);
    assert_eq!(texts().await, Vec::<String>::new());

    let begun =
        begin_running(store, BeginTurn { preceding: earlier(), ..begin(&ada, "s", "hi") }).await;
    assert_eq!((begun.preceding.len(), begun.session.messages_count), (3, 4));
    assert_eq!(begun.session.title, "I am Ada.");
    assert_eq!(texts().await, ["Be brief.", "I am Ada.", "Hello.", "hi"]);
    let on_busy = OnBusy::Queue;
    let waiting = BeginTurn { preceding: earlier(), on_busy, ..begin(&ada, "s", "and?") };
    refused(store.begin_turn(waiting).await.unwrap_err(), ErrorKind::SessionBusy);
    store.finish_turn(finish(&begun, "bye", None)).await.unwrap().unwrap();
    assert_eq!(texts().await, ["Be brief.", "I am Ada.", "Hello.", "hi", "bye"]);
}
