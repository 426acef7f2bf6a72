//! Several instances on one database, without sticky sessions: each can serve, resume and stop the
//! turns of the others, and an instance that dies or stalls loses nothing that was acknowledged.

use crate::support::mongo::database;
use crate::support::process::ServerProcess;
use crate::support::server::fetch;
use crate::support::sse::text_of;
use crate::support::{EventListener, FrameReader, Server, Upstream, within_deadline};
use echoic::domain::content::MessageBody;
use echoic::domain::message::MessageParts;
use echoic::domain::session::SessionSettings;
use echoic::domain::{
    MessageId, MessageType, Principal, Role, SessionId, Timestamp, TurnId, UserId,
};
use echoic::store::mongo::MongoStore;
use echoic::store::{
    BeginOutcome, BeginTurn, DuplicateIdPolicy, LeaseHolder, MessageParent, NewMessage, OnBusy,
    ReplyFields, SessionTarget, TurnInput, TurnLogStore, TurnSpec, TurnStore,
};
use futures::future::join_all;
use reqwest::{Client, Method};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::time::Duration;
use tempfile::TempDir;
use tokio::process::Command;

/// `N` instances on one database; `None` without a MongoDB.
async fn instances<const N: usize>(flags: &[&str]) -> Option<[Server; N]> {
    let url = format!("--database-url={}", database()?);
    let flags: Vec<_> = std::iter::once(url.as_str()).chain(flags.iter().copied()).collect();
    let servers = join_all((0..N).map(|_| Server::with(&flags))).await;
    Some(servers.try_into().unwrap_or_else(|_| unreachable!()))
}

async fn stop_turn(server: &Server, session: &str) -> Value {
    server.post(&format!("/api/chat/{session}/stop"), json!({})).await.data()
}

#[tokio::test]
async fn turn_streams_from_another_instance_frame_by_frame() {
    let Some([a, b]) = instances(&[]).await else { return };
    let session = a.session().await;
    let (mut first, mut call) = a.open_turn(&session, "count").await;
    call.text("one ");
    first.until("text-delta").await;
    let mut elsewhere = b.join(&session, None).await.unwrap();
    elsewhere.until("text-delta").await;
    call.text("two ");
    let two = elsewhere.until("text-delta").await;
    assert_eq!(two.data["delta"], "two ");
    let mut late = b.join(&session, Some(&two.id)).await.unwrap();
    call.text("three");
    assert_eq!(late.until("text-delta").await.data["delta"], "three");
    call.finish(json!({}));
    first.rest().await;
    elsewhere.rest().await;
    late.rest().await;
    assert_eq!(elsewhere.bytes, first.bytes);
    assert!(first.bytes.ends_with(&late.bytes) && late.bytes.ends_with("[DONE]\n\n"));
    assert_eq!(b.transcript(&session).await, ["user: count", "assistant: one two three"]);
    assert_eq!(b.last_message(&session).await, a.last_message(&session).await);
    assert!(b.join(&session, None).await.is_none(), "nothing runs any more");
}

#[tokio::test]
async fn reader_ahead_of_the_log_gets_no_frame_twice_elsewhere() {
    let Some([a, b]) = instances(&[]).await else { return };
    let session = a.session().await;
    let (mut first, mut call) = a.open_turn(&session, "hi").await;
    call.text("one ");
    // The frame is read from memory before the log is flushed, so the log does not contain it yet.
    let received = first.until("text-delta").await;
    let mut rest = b.join(&session, Some(&received.id)).await.unwrap();
    call.text("two");
    call.finish(json!({}));
    assert_eq!(text_of(&rest.rest().await), "two");
}

#[tokio::test]
async fn unlogged_turn_is_replayed_elsewhere_from_its_reply() {
    let Some([a, b]) = instances(&[]).await else { return };
    let session = a.session().await;
    // The provider sends nothing until the whole reply, so the log is not flushed before the turn
    // ends.
    let (mut first, call) = a.open_turn(&session, "quick").await;
    let mut elsewhere = b.join(&session, None).await.unwrap();
    call.reply("done");
    first.rest().await;
    let frames = elsewhere.rest().await;
    assert_eq!(text_of(&frames), "done");
    assert_eq!(frames.last().unwrap().kind(), "[DONE]");
    let of_turn =
        |frame: &crate::support::sse::Frame| frame.id.rsplit_once(':').unwrap().0.to_owned();
    assert_eq!(of_turn(&frames[0]), first.bytes["id: ".len()..].split(':').next().unwrap());
}

#[tokio::test]
async fn any_instance_stops_a_turn_even_before_first_token() {
    let Some([a, b]) = instances(&[]).await else { return };
    let session = a.session().await;
    let (mut frames, mut call) = a.open_turn(&session, "go on and on").await;
    call.text("for ever");
    frames.until("text-delta").await;
    assert_eq!(stop_turn(&b, &session).await["stopped"], true);
    // The stop request returns after the partial reply is stored, so it can be read at once.
    let last = b.last_message(&session).await;
    assert_eq!((&last["status"], &last["content"]), (&json!("interrupted"), &json!("for ever")));
    frames.until("abort").await;
    assert_eq!(stop_turn(&b, &session).await["stopped"], false);

    let (mut frames, call) = a.open_turn(&session, "say nothing").await;
    assert_eq!(stop_turn(&b, &session).await["stopped"], true);
    frames.until("abort").await;
    call.abandoned().await;
    assert_eq!(b.last_message(&session).await["status"], "interrupted");
}

#[tokio::test]
async fn message_queued_on_another_instance_streams_when_run() {
    let Some([a, b]) = instances(&[]).await else { return };
    let session = a.session().await;
    let (mut first, call) = a.open_turn(&session, "first").await;
    let body = json!({"sessionId": session, "message": "second", "onBusy": "queue"});
    let mut second = b.chat(body).await;
    call.reply("one");
    first.until("[DONE]").await;
    // The instance that ends the first turn starts the queued one.
    a.upstream.call().await.reply("two");
    assert_eq!(text_of(&second.rest().await), "two");

    let (mut third, mut call) = a.open_turn(&session, "third").await;
    call.text("never ending");
    third.until("text-delta").await;
    let body = json!({"sessionId": session, "message": "fourth", "onBusy": "interrupt"});
    let mut fourth = b.chat(body).await;
    third.until("abort").await;
    a.upstream.call().await.reply("four");
    assert_eq!(text_of(&fourth.rest().await), "four");

    let (_fifth, _call) = a.open_turn(&session, "fifth").await;
    let body = json!({"sessionId": session, "message": "sixth", "onBusy": "queue"});
    let mut sixth = b.chat(body).await;
    stop_turn(&a, &session).await;
    sixth.until("abort").await;
    let said = b.transcript(&session).await;
    assert_eq!(said.last().unwrap(), "assistant: ");
    assert!(!said.contains(&"user: sixth".to_owned()), "{said:?}");
}

#[tokio::test]
async fn request_repeated_on_another_instance_is_the_same_turn() {
    let Some([a, b]) = instances(&[]).await else { return };
    let session = a.session().await;
    let body = json!({"sessionId": session, "message": "once", "clientMessageId": "m1"});
    let mut first = a.chat(body.clone()).await;
    let mut call = a.upstream.call().await;
    call.text("only ");
    first.until("text-delta").await;
    let mut again = b.chat(body.clone()).await;
    call.reply("once");
    first.rest().await;
    assert_eq!(text_of(&again.rest().await), "only once");
    assert_eq!(text_of(&b.chat(body).await.rest().await), "only once");
    assert!(b.upstream.is_idle().await);
    assert_eq!(b.transcript(&session).await, ["user: once", "assistant: only once"]);
}

#[tokio::test]
async fn deletion_on_another_instance_ends_turn_and_readers() {
    let Some([a, b, c]) = instances(&[]).await else { return };
    let session = a.session().await;
    let (mut first, mut call) = a.open_turn(&session, "hi").await;
    call.text("hello ");
    first.until("text-delta").await;
    let mut elsewhere = c.join(&session, None).await.unwrap();
    elsewhere.until("text-delta").await;
    assert_eq!(b.delete(&format!("/api/chat-sessions/{session}")).await.status, 200);
    first.until("abort").await;
    elsewhere.until("abort").await;
    call.disconnected().await;
    assert_eq!(a.get(&format!("/api/chat-sessions/{session}")).await.status, 404);
}

#[tokio::test]
async fn each_instance_reports_its_own_name() {
    let Some([a, b]) = instances(&[]).await else { return };
    let name = async |server: &Server| {
        server.get("/health/ready").await.data()["instance"].as_str().unwrap().to_owned()
    };
    let (first, second) = (name(&a).await, name(&b).await);
    assert!(first.ends_with(a.base.strip_prefix("http://").unwrap()), "{first}");
    assert_ne!(first, second);
}

#[tokio::test]
async fn events_reach_listeners_on_other_instances() {
    let Some([a, b]) = instances(&[]).await else { return };
    let mut events = EventListener::of(&b, "").await;
    let session = a.session().await;
    let received = events.next().await;
    assert_eq!(
        (received["type"].as_str(), &received["action"]),
        (Some("session"), &json!("created"))
    );
    assert_eq!(received["sessionId"], session.as_str());
    a.turn(&session, "hello", "hello yourself").await;
    let received = events.next_kinds(5).await;
    assert_eq!(
        received,
        ["message user", "session changed", "turn started", "message assistant", "turn ended"]
    );
    // An instance's own events reach its listeners exactly once, too.
    b.turn(&session, "again", "and again").await;
    let received = events.next_kinds(4).await;
    assert_eq!(received, ["message user", "turn started", "message assistant", "turn ended"]);
    a.delete(&format!("/api/chat-sessions/{session}")).await;
    let gone = events.next().await;
    assert_eq!(gone, json!({"type": "session", "action": "deleted", "sessionId": session}));
}

#[tokio::test]
async fn listeners_elsewhere_see_a_killed_instances_turn_end() {
    let Some(url) = database() else { return };
    let flags = [format!("--database-url={url}"), "--instance-lease=1s".to_owned()];
    let flags = flags.each_ref().map(String::as_str);
    let (b, c) = (Server::with(&flags).await, Server::with(&flags).await);
    let upstream = Upstream::start().await;
    let (_folder, mut a) = start_process(&url, &upstream).await;
    let mut here = EventListener::of(&b, "").await;
    let mut there = EventListener::of(&c, "").await;
    let session = b.session().await;
    assert_eq!(here.next_kinds(1).await, ["session created"]);
    assert_eq!(there.next_kinds(1).await, ["session created"]);
    let mut frames = send_chat(&a.base, &session, "tell me all").await;
    let mut call = upstream.call().await;
    call.text("half of it");
    frames.until("text-delta").await;
    let received = ["message user", "session changed", "turn started"];
    assert_eq!(here.next_kinds(3).await, received);
    assert_eq!(there.next_kinds(3).await, received);
    a.kill().await;
    // One of the survivors ends the turn as an orphan; listeners of both receive the end.
    for events in [&mut here, &mut there] {
        let reply = events.next().await;
        assert_eq!(reply["message"]["status"], "interrupted", "{reply}");
        assert_eq!(events.next_kinds(1).await, ["turn ended"]);
    }
}

fn round_count() -> usize {
    std::env::var("ECHOIC_RACE_ROUNDS").map_or(20, |rounds| rounds.parse().unwrap())
}

#[tokio::test]
async fn one_of_sixteen_concurrent_clients_gets_the_session() {
    let Some(servers) = instances::<4>(&[]).await else { return };
    let session = servers[0].session().await;
    for round in 0..round_count() {
        let body = json!({"sessionId": session, "message": format!("round {round}")});
        let asked = join_all((0..16).map(|client| {
            let server = &servers[client % 4];
            let request = server.request(Method::POST, "/api/chat").json(&body);
            async move { (client % 4, within_deadline(request.send()).await.unwrap()) }
        }))
        .await;
        let (won, lost): (Vec<_>, Vec<_>) =
            asked.into_iter().partition(|(_, response)| response.status() == 200);
        assert_eq!(won.len(), 1, "round {round}");
        assert!(lost.iter().all(|(_, response)| response.status() == 409), "{lost:?}");
        let (server, response) = won.into_iter().next().unwrap();
        servers[server].upstream.call().await.reply("yours");
        FrameReader::new(response).until("[DONE]").await;
    }
    let path = format!("/api/chat-sessions/{session}");
    let count = servers[1].get(&path).await.data()["messagesCount"].clone();
    assert_eq!(count, 2 * round_count());
}

/// A separate process on the same database, next to the in-process instance.
async fn start_process(url: &str, upstream: &Upstream) -> (TempDir, ServerProcess) {
    let folder = tempfile::tempdir().unwrap();
    let variables = HashMap::from([
        ("PORT", "0".to_owned()),
        ("DATABASE_URL", url.to_owned()),
        ("OPENAI_BASE_URL", upstream.base_url.clone()),
        ("ECHOIC_MODEL", "gated-1".to_owned()),
        ("ECHOIC_INSTANCE_LEASE", "1s".to_owned()),
    ]);
    let process = ServerProcess::start(folder.path(), &variables).await;
    (folder, process)
}

async fn send_chat(base: &str, session: &str, message: &str) -> FrameReader {
    let client = Client::builder().no_proxy().build().unwrap();
    let body = json!({"sessionId": session, "message": message});
    FrameReader::new(
        within_deadline(client.post(format!("{base}/api/chat")).json(&body).send()).await.unwrap(),
    )
}

/// Polls until no turn is active in the session.
async fn wait_until_idle(server: &Server, session: &str) {
    let path = format!("/api/chat-sessions/{session}");
    within_deadline(async {
        while !server.get(&path).await.data()["activeTurn"].is_null() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn killed_instances_partial_reply_is_kept_by_the_others() {
    let Some(url) = database() else { return };
    let b = Server::with(&[&format!("--database-url={url}"), "--instance-lease=1s"]).await;
    let upstream = Upstream::start().await;
    let (_folder, mut a) = start_process(&url, &upstream).await;
    let session = b.session().await;
    let mut frames = send_chat(&a.base, &session, "tell me all").await;
    let mut call = upstream.call().await;
    call.text("half of it");
    frames.until("text-delta").await;
    let body = json!({"sessionId": session, "message": "and then?", "onBusy": "queue"});
    let mut waiting = b.chat(body).await;
    let mut reader = b.join(&session, None).await.unwrap();
    // A frame that arrives on another instance was in the log, so it must survive the kill.
    reader.until("text-delta").await;
    a.kill().await;
    // The survivor ends the orphaned turn for its readers and then starts the queued one.
    reader.until("abort").await;
    b.upstream.call().await.reply("that was all");
    assert_eq!(text_of(&waiting.rest().await), "that was all");
    wait_until_idle(&b, &session).await;
    let said = [
        "user: tell me all",
        "assistant: half of it",
        "user: and then?",
        "assistant: that was all",
    ];
    assert_eq!(b.transcript(&session).await, said);
}

#[tokio::test]
async fn paused_instance_past_its_lease_stops_writing_its_turn() {
    let Some(url) = database() else { return };
    let b = Server::with(&[&format!("--database-url={url}"), "--instance-lease=1s"]).await;
    let upstream = Upstream::start().await;
    let (_folder, a) = start_process(&url, &upstream).await;
    let session = b.session().await;
    let mut frames = send_chat(&a.base, &session, "good night").await;
    let mut call = upstream.call().await;
    call.text("before");
    frames.until("text-delta").await;
    // The delta must be in the log before the pause: the survivor stores the reply from the log.
    b.join(&session, None).await.unwrap().until("text-delta").await;
    let signal = async |name: &str| {
        let pid = a.id().to_string();
        assert!(
            within_deadline(Command::new("kill").args([name, &pid]).status())
                .await
                .unwrap()
                .success()
        );
    };
    // Paused, the instance sends no heartbeats; the survivor ends its turn after the lease.
    signal("-STOP").await;
    wait_until_idle(&b, &session).await;
    call.text(" and after");
    signal("-CONT").await;
    // The paused instance notices the lost claim at its next flush and closes the streams of its
    // readers.
    let ends = frames.rest().await;
    assert!(ends.iter().all(|frame| frame.kind() != "finish"), "{:?}", frames.bytes);
    let kept = b.last_message(&session).await;
    assert_eq!((&kept["status"], &kept["content"]), (&json!("interrupted"), &json!("before")));
    assert_eq!(b.transcript(&session).await.len(), 2);

    // It keeps serving new turns.
    let mut again = send_chat(&a.base, &session, "good morning").await;
    upstream.call().await.reply("hello");
    again.until("[DONE]").await;
    let path = format!("{}/health/ready", a.base);
    assert_eq!(fetch(Client::new().get(path)).await.status, 200);
}

#[tokio::test]
async fn turn_with_unanswered_claim_is_orphaned_after_a_lease() {
    let Some(url) = database() else { return };
    let lease = Duration::from_millis(200);
    let store = MongoStore::open(&url, lease).await.unwrap();
    let life = LeaseHolder { instance: "here".to_owned(), boot: "now".to_owned() };
    let now = Timestamp::from_millis(1_700_000_000_000);
    store.record_heartbeat(&life, now).await.unwrap();
    let begun = store.begin_turn(begin_turn(&life, now)).await.unwrap();
    let BeginOutcome::Running(begun) = begun else { panic!("the session is new: {begun:?}") };
    // The claim exists in the store, but its instance never saw the response and does not list the
    // turn as running.
    let others = HashSet::from([TurnId::new_unchecked("another")]);
    let known = HashSet::from([begun.turn.turn_id.clone()]);
    assert!(
        store.find_orphaned_turns(&life, &others, &HashSet::new()).await.unwrap().is_empty(),
        "it may be coming"
    );
    assert!(store.find_orphaned_turns(&life, &known, &HashSet::new()).await.unwrap().is_empty());
    let orphans = within_deadline(async {
        loop {
            let orphans = store.find_orphaned_turns(&life, &others, &HashSet::new()).await.unwrap();
            if !orphans.is_empty() {
                return orphans;
            }
        }
    });
    assert_eq!(orphans.await[0].turn, begun.turn);
}

fn begin_turn(life: &LeaseHolder, now: Timestamp) -> BeginTurn {
    let who = Principal { user: UserId::new_unchecked("ada"), is_admin: false };
    BeginTurn {
        preceding: Vec::new(),
        target: SessionTarget::New(SessionId::new_unchecked("s")),
        project_id: None,
        on_busy: OnBusy::Reject,
        idempotency_key: None,
        turn: TurnSpec {
            turn_id: TurnId::generate(),
            reply_id: MessageId::generate(),
            input: TurnInput::Send {
                message: Box::new(NewMessage {
                    id: MessageId::generate(),
                    client_message_id: None,
                    role: Role::User,
                    sender_id: who.user.clone(),
                    body: MessageBody {
                        content: "hi".to_owned(),
                        parts: MessageParts::default(),
                        kind: MessageType::Text,
                    },
                    tokens: 1,
                    created_at: now,
                    reply: ReplyFields::default(),
                }),
                parent: MessageParent::Head,
                on_duplicate_id: DuplicateIdPolicy::Reject,
            },
            options: SessionSettings::default(),
        },
        key_id: None,
        quotas: [].into(),
        admission: Box::new(|_, _| Ok(())),
        lease_holder: life.clone(),
        principal: who,
        now,
    }
}
