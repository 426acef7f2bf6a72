//! Events: one connection receives the changes of all of a user's sessions, or of one.

use crate::store_contract::EmptyStore;
use crate::support::chat_core::{ChatCore, on_both_stores, principal};
use crate::support::events::{event_kind, parse};
use crate::support::server::quick_heartbeat;
use crate::support::{EventListener, Server, within_deadline};
use echoic::chat::EventReader;
use echoic::domain::principal::AccessLevel;
use echoic::domain::{Principal, SessionId, Timestamp};
use serde_json::{Value, json};

#[tokio::test]
async fn listener_receives_a_turn_from_message_to_end() {
    let server = Server::start().await;
    let mut events = EventListener::of(&server, "").await;
    let at = events.sync["at"].as_str().unwrap();
    assert!(Timestamp::parse(at).is_some(), "{at}");

    let session = server.session().await;
    let created = events.next().await;
    assert_eq!(event_kind(&created), "session created");
    assert_eq!(created["session"]["sessionId"], session.as_str());
    assert_eq!(created["session"]["title"], "New Chat");

    let (mut frames, call) = server.open_turn(&session, "What is new?").await;
    let question = events.next().await;
    assert_eq!(event_kind(&question), "message user");
    assert_eq!(question["sessionId"], session.as_str());
    let named = events.next().await;
    assert_eq!(event_kind(&named), "session changed");
    assert_eq!(named["session"]["title"], "What is new?");
    let started = events.next().await;
    assert_eq!(event_kind(&started), "turn started");
    let active = server.get(&format!("/api/chat-sessions/{session}")).await.data();
    assert_eq!(started["turnId"], active["activeTurn"]["turnId"]);
    assert_eq!(started["messageId"], active["activeTurn"]["messageId"]);

    call.reply("nothing");
    frames.until("[DONE]").await;
    let reply = events.next().await;
    assert_eq!(reply["message"], server.last_message(&session).await);
    let ended = events.next().await;
    assert_eq!(event_kind(&ended), "turn ended");
    assert_eq!(ended["messageId"], started["messageId"]);
    assert_eq!(ended["turnId"], started["turnId"]);
}

#[tokio::test]
async fn new_session_is_announced_before_its_first_message() {
    let server = Server::start().await;
    let mut events = EventListener::of(&server, "").await;
    let mut frames = server.chat(json!({"message": "hello"})).await;
    server.upstream.call().await.reply("hi");
    frames.until("[DONE]").await;
    let received = events.next_kinds(6).await;
    let expected = [
        "session created",
        "message user",
        "session changed",
        "turn started",
        "message assistant",
        "turn ended",
    ];
    assert_eq!(received, expected);
}

#[tokio::test]
async fn regenerated_reply_arrives_without_its_question() {
    let server = Server::start().await;
    let session = server.session().await;
    server.turn(&session, "hello", "hi").await;
    let mut events = EventListener::of(&server, "").await;
    let path = format!("/api/chat/{session}/regenerate");
    let again = server.request(reqwest::Method::POST, &path).json(&json!({})).send();
    let response = within_deadline(again).await.unwrap();
    server.upstream.call().await.reply("hello again");
    crate::support::FrameReader::new(response).until("[DONE]").await;
    assert_eq!(events.next_kinds(3).await, ["turn started", "message assistant", "turn ended"]);
}

#[tokio::test]
async fn session_changes_are_sent_once_and_repeats_never() {
    let server = Server::start().await;
    let session = server.session().await;
    let path = format!("/api/chat-sessions/{session}");
    let mut events = EventListener::of(&server, "").await;

    let body = json!({"chatSessionId": session, "role": "user", "content": "first", "clientMessageId": "m1"});
    let posted = server.post("/api/chat-messages", body.clone()).await.data();
    assert_eq!(events.next_kinds(2).await, ["message user", "session changed"]);
    server.post("/api/chat-messages", body).await;

    server.patch(&path, json!({"pinned": true})).await;
    let pinned = events.next().await;
    assert_eq!(event_kind(&pinned), "session changed");
    assert_eq!(pinned["session"]["pinned"], true);
    server.patch(&path, json!({})).await;

    let first = posted["message"]["id"].clone();
    server.post(&format!("{path}/seen"), json!({"upTo": first})).await;
    let seen = json!({"type": "seen", "sessionId": session, "userId": "local", "upTo": first});
    assert_eq!(events.next().await, seen);
    server.post(&format!("{path}/seen"), json!({"upTo": first})).await;

    let body =
        json!({"chatSessionId": session, "role": "user", "content": "other", "parentId": null});
    server.post("/api/chat-messages", body).await;
    assert_eq!(events.next_kinds(1).await, ["message user"]);
    server.put(&format!("{path}/head"), json!({"messageId": first})).await;
    assert_eq!(events.next().await["session"]["headId"], first);

    let fork = server.post(&format!("{path}/fork"), json!({"messageId": first})).await.data();
    let forked = events.next().await;
    assert_eq!(event_kind(&forked), "session created");
    assert_eq!(forked["sessionId"], fork["sessionId"]);
    server.post("/api/chat-sessions", json!({"sessionId": session})).await;

    let file =
        json!({"sessions": [{"sessionId": "old", "messages": [{"role": "user", "content": "x"}]}]});
    server.post("/api/import", file).await;
    let imported = events.next().await;
    assert_eq!(event_kind(&imported), "session created");
    assert_eq!(imported["sessionId"], "old");

    server.delete(&path).await;
    let gone = json!({"type": "session", "action": "deleted", "sessionId": session});
    assert_eq!(events.next().await, gone);
}

#[tokio::test]
async fn session_listener_receives_no_other_sessions_events() {
    let server = Server::start().await;
    let (one, other) = (server.session().await, server.session().await);
    let mut events = EventListener::of(&server, &format!("?sessionId={one}")).await;
    server.turn(&other, "not for you", "indeed").await;
    server.turn(&one, "for you", "thanks").await;
    let received = events.next().await;
    assert_eq!(received["message"]["content"], "for you");
}

#[tokio::test]
async fn unknown_session_cannot_be_subscribed_to() {
    let server = Server::start().await;
    let absent = server.get("/api/events?sessionId=nowhere").await;
    assert_eq!(absent.failure(), (404, "session_not_found"));
    let wrong = server.get("/api/events?sessionId=a%20b").await;
    assert_eq!(wrong.failure(), (400, "invalid_request"));
    let unknown = server.get("/api/events?session=a").await;
    assert_eq!(unknown.failure(), (400, "invalid_request"));
}

#[tokio::test]
async fn idle_stream_sends_heartbeats_and_ends_at_shutdown() {
    let mut server = Server::tuned(&[], quick_heartbeat()).await;
    let mut events = EventListener::of(&server, "").await;
    events.wait_for_comment().await;
    server.stop().await;
    events.end().await;
}

async fn listen(core: &ChatCore, user: &str, only: Option<&SessionId>) -> EventReader {
    let mut reader = core.chat.subscribe_events(&principal(user), only.cloned()).await.unwrap();
    assert_eq!(event_kind(&next_event(&mut reader).await), "sync");
    reader
}

async fn next_event(reader: &mut EventReader) -> Value {
    let event = within_deadline(reader.next()).await.expect("the feed goes on");
    parse(std::str::from_utf8(&event).unwrap().trim_end())
}

async fn removed_participant_receives_no_more_events(fresh: EmptyStore) {
    let core = ChatCore::new(fresh);
    let session = core.create(&["bob"]).await;
    let mut all = listen(&core, "bob", None).await;
    let mut one = listen(&core, "bob", Some(&session)).await;
    core.rename(&session, "one").await;
    assert_eq!(next_event(&mut all).await["session"]["title"], "one");
    assert_eq!(next_event(&mut one).await["session"]["title"], "one");
    core.invite(&session, &[]).await;
    core.rename(&session, "two").await;
    core.chat.delete_session(&principal("alice"), &session).await.unwrap();
    // Events are ordered, so the first one that bob receives now proves that the earlier changes
    // were not sent to him.
    let other = core.create(&["bob"]).await;
    assert_eq!(next_event(&mut all).await["sessionId"], other.as_str());
    let refused = core.chat.subscribe_events(&principal("bob"), Some(session)).await;
    assert_eq!(refused.err().unwrap().kind.code(), "session_not_found");
}

async fn invited_participant_receives_events_and_others_do_not(fresh: EmptyStore) {
    let core = ChatCore::new(fresh);
    let session = core.create(&[]).await;
    let mut bob = listen(&core, "bob", None).await;
    let mut carol = listen(&core, "carol", None).await;
    let mut alice = listen(&core, "alice", None).await;
    core.rename(&session, "one").await;
    // The recipients of an event are decided when it is dispatched. Once alice has received it,
    // that is done, and the invitation below cannot affect it.
    next_event(&mut alice).await;
    core.invite(&session, &["bob"]).await;
    let first = next_event(&mut bob).await;
    assert_eq!(first["session"]["participants"], json!(["alice", "bob"]));
    let server = Principal::server();
    let known = core.fresh.store.get_session(&server, &session, AccessLevel::Owner).await.unwrap();
    assert_eq!(first["session"]["version"], known.version);
    core.chat.delete_session(&principal("alice"), &session).await.unwrap();
    assert_eq!(event_kind(&next_event(&mut bob).await), "session deleted");
    let hers = core.create(&["carol"]).await;
    assert_eq!(next_event(&mut carol).await["sessionId"], hers.as_str());
}

on_both_stores!(
    removed_participant_receives_no_more_events,
    invited_participant_receives_events_and_others_do_not
);
