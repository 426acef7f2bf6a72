//! Many clients at once in several sessions: every turn is stored once, whole and in its place.

use crate::support::sse::text_of;
use crate::support::{FrameReader, ProviderCall, Server, within_deadline};
use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::task::JoinSet;

const SESSIONS: usize = 6;
/// Clients per session. All but one may be queued at once, which is below the queue's limit.
const CLIENTS: usize = 5;
/// Turns of each client, one after the other.
const TURNS: usize = 5;
const IN_A_SESSION: usize = 2 * CLIENTS * TURNS;

fn reply_to(message: &str) -> String {
    (0..20).map(|word| format!("{message} word {word}; ")).collect()
}

/// Answers word by word and yields in between, so that turns interleave.
async fn answer_slowly(mut call: ProviderCall) -> Vec<String> {
    let prompt = call.prompt();
    let asked = prompt.last().unwrap().strip_prefix("user: ").unwrap().to_owned();
    for word in reply_to(&asked).split_inclusive("; ") {
        call.text(word);
        tokio::task::yield_now().await;
    }
    call.finish(json!({"prompt_tokens": 1, "completion_tokens": 20}));
    prompt
}

/// Sends a message until the session accepts it. Even sessions queue it; in odd ones the client
/// reads the running stream to its end and retries.
async fn send_until_accepted(server: &Server, session: usize, message: &str) -> FrameReader {
    let on_busy = if session.is_multiple_of(2) { "queue" } else { "reject" };
    let body = json!({"sessionId": format!("s{session}"), "message": message, "onBusy": on_busy});
    loop {
        let request = server.request(Method::POST, "/api/chat").json(&body);
        let response = within_deadline(request.send()).await.unwrap();
        if response.status() == 200 {
            return FrameReader::new(response);
        }
        let status = response.status().as_u16();
        assert_eq!((status, on_busy), (409, "reject"), "{}", response.text().await.unwrap());
        if let Some(mut running) = server.join(&format!("s{session}"), None).await {
            running.rest().await;
        }
    }
}

async fn run_client(server: Arc<Server>, session: usize, client: usize) {
    for turn in 0..TURNS {
        let message = format!("s{session} c{client} t{turn}");
        let frames = send_until_accepted(&server, session, &message).await.rest().await;
        assert_eq!(text_of(&frames), reply_to(&message));
        let (turn_id, _) = frames[0].id.rsplit_once(':').unwrap();
        let ids: Vec<_> = frames.iter().map(|frame| frame.id.clone()).collect();
        let expected: Vec<_> =
            (1..=ids.len()).map(|number| format!("{turn_id}:{number}")).collect();
        assert_eq!(ids, expected, "{message}");
        assert_eq!(frames.last().unwrap().kind(), "[DONE]");
    }
}

/// The messages of a session as the model sees them, after checking that the tree is consistent.
async fn check_session(server: &Server, session: usize) -> Vec<String> {
    let path = format!("/api/chat-sessions/s{session}");
    let read = server.get(&path).await.data();
    assert_eq!((&read["messagesCount"], &read["activeTurn"]), (&json!(IN_A_SESSION), &Value::Null));
    let all = server.get(&format!("{path}/messages?view=all&limit=100")).await.data();
    let all = all["messages"].as_array().unwrap();
    let seqs: Vec<_> = all.iter().map(|message| message["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, (1..=IN_A_SESSION as u64).collect::<Vec<_>>());
    assert_eq!(read["headId"], all[IN_A_SESSION - 1]["id"]);

    // One path: questions and their own replies, alternating.
    let mut before = &Value::Null;
    for pair in all.chunks(2) {
        let (question, reply) = (&pair[0], &pair[1]);
        assert_eq!((&question["role"], &question["parentId"]), (&json!("user"), before));
        assert_eq!((&reply["role"], &reply["parentId"]), (&json!("assistant"), &question["id"]));
        assert_eq!(
            (&reply["status"], &reply["siblingIds"]),
            (&json!("complete"), &json!([reply["id"]]))
        );
        let asked = question["content"].as_str().unwrap();
        assert_eq!(reply["content"], reply_to(asked));
        before = &reply["id"];
    }
    // All messages of each client, in the order in which it sent them.
    let asked: Vec<_> = all.iter().step_by(2).map(|message| message["content"].clone()).collect();
    for client in 0..CLIENTS {
        let own: Vec<_> = asked
            .iter()
            .filter(|text| text.as_str().unwrap().starts_with(&format!("s{session} c{client} ")))
            .collect();
        let sent: Vec<_> = (0..TURNS).map(|turn| format!("s{session} c{client} t{turn}")).collect();
        assert_eq!(own, sent.iter().collect::<Vec<_>>());
    }
    let said = |message: &Value| {
        format!("{}: {}", message["role"].as_str().unwrap(), message["content"].as_str().unwrap())
    };
    all.iter().map(said).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_lose_and_duplicate_no_message() {
    let server = Arc::new(Server::with(&["--memory-tokens=100000"]).await);
    for session in 0..SESSIONS {
        let body = json!({"sessionId": format!("s{session}")});
        server.post("/api/chat-sessions", body).await.data();
    }
    let places =
        (0..SESSIONS).flat_map(|session| (0..CLIENTS).map(move |number| (session, number)));
    let clients: Vec<_> = places
        .map(|(session, number)| tokio::spawn(run_client(server.clone(), session, number)))
        .collect();
    let mut answers = JoinSet::new();
    for _ in 0..SESSIONS * CLIENTS * TURNS {
        answers.spawn(answer_slowly(server.upstream.call().await));
    }
    for outcome in join_all(clients).await {
        outcome.unwrap();
    }
    assert!(server.upstream.is_idle().await, "a turn was asked twice");

    // The prompt of each question.
    let prompts: HashMap<String, Vec<String>> = answers
        .join_all()
        .await
        .into_iter()
        .map(|prompt| (prompt.last().unwrap().clone(), prompt))
        .collect();
    assert_eq!(prompts.len(), SESSIONS * CLIENTS * TURNS);
    for session in 0..SESSIONS {
        let said = check_session(&server, session).await;
        for (place, question) in said.iter().enumerate().step_by(2) {
            let prompt = &prompts[question][1..];
            assert_eq!(
                prompt,
                &said[..=place],
                "the model is shown all that came before, and no more"
            );
        }
    }
    let total = server.get("/api/chat-sessions").await.data()["pagination"]["total"].clone();
    assert_eq!(total, SESSIONS);
}
