//! Summaries: written in the background, used only on paths that they cover, and optional when they
//! fail.

use crate::support::{Server, within_deadline};
use serde_json::{Value, json};

async fn preview(server: &Server, session: &str) -> Vec<Value> {
    let shown =
        server.get(&format!("/api/chat-sessions/{session}/memory?message=So%3F")).await.data();
    shown["pieces"].as_array().unwrap().clone()
}

fn ids(pieces: &[Value], kind: &str) -> Vec<String> {
    let of_kind = pieces.iter().filter(|piece| piece["kind"] == kind);
    let ids = of_kind.flat_map(|piece| piece["messageIds"].as_array().unwrap().clone());
    ids.map(|id| id.as_str().unwrap().to_owned()).collect()
}

fn text(pieces: &[Value], kind: &str) -> Option<String> {
    let piece = pieces.iter().find(|piece| piece["kind"] == kind)?;
    Some(piece["text"].as_str().unwrap().to_owned())
}

/// A message of about 50 tokens.
fn message(number: usize) -> Value {
    let role = if number.is_multiple_of(2) { "user" } else { "assistant" };
    let content =
        format!("Fact {number} is that the hens of Lisbon count up to {number}. ").repeat(3);
    json!({"id": format!("m{number}"), "role": role, "content": content.trim()})
}

/// A server whose prompts hold about 20 such messages, and a session of 40.
async fn start() -> (Server, String) {
    let server = Server::with(&SUMMARY_OPTIONS).await;
    let session = import_messages(&server).await;
    (server, session)
}

const SUMMARY_OPTIONS: [&str; 2] = ["--memory-strategy=summary", "--memory-tokens=1200"];

async fn import_messages(server: &Server) -> String {
    let session = server.session().await;
    let messages: Vec<_> = (0..40).map(message).collect();
    let file = json!({"sessions": [{"sessionId": session, "messages": messages}]});
    server.post("/api/import", file).await.data();
    session
}

async fn background_calls(server: &Server) -> Value {
    server.get("/api/usage").await.data()["total"]["sideCalls"].clone()
}

/// Answers the three calls of the summary model and polls until the prompt contains the third
/// summary.
async fn answer_summaries(server: &Server, session: &str) -> Vec<String> {
    let mut asked = Vec::new();
    for part in 1..=3 {
        let call = server.upstream.call().await;
        let prompt = call.prompt().concat();
        assert!(prompt.contains("summary of a conversation"), "{prompt}");
        asked.push(prompt);
        call.reply(&format!("- part {part} of the hens"));
    }
    loop {
        let summary = text(&preview(server, session).await, "summary").unwrap_or_default();
        if summary.contains("part 3") {
            return asked;
        }
    }
}

#[tokio::test]
async fn messages_leaving_the_prompt_are_summarized() {
    let (server, session) = start().await;
    let before = server.turn(&session, "Go on.", "Fine.").await;
    assert!(before.len() < 25 && !before[1].contains("Summary of"), "{before:?}");
    let asked = within_deadline(answer_summaries(&server, &session)).await;
    // Each call covers a new part of the history and gets the earlier summaries along with it.
    assert!(asked[0].contains("Fact 0 ") && !asked[1].contains("Fact 0 "));
    assert!(asked[1].contains("- part 1 of the hens"));

    let pieces = preview(&server, &session).await;
    let summary = text(&pieces, "summary").unwrap();
    assert!(summary.contains("- part 1 of the hens\n- part 2 of the hens\n- part 3"), "{summary}");
    let all: Vec<_> = ids(&pieces, "summary").into_iter().chain(ids(&pieces, "recent")).collect();
    let path = server.get(&format!("/api/chat-sessions/{session}/messages?limit=100")).await.data();
    let path = path["messages"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap());
    assert_eq!(all, path.collect::<Vec<_>>(), "together they are the path, each message once");
    let sent = server.turn(&session, "And then?", "Nothing.").await;
    assert_eq!(sent[1], format!("system: {summary}"));
}

#[tokio::test]
async fn branch_leaving_inside_a_summary_does_not_use_it() {
    let (server, session) = start().await;
    server.turn(&session, "Go on.", "Fine.").await;
    within_deadline(answer_summaries(&server, &session)).await;
    for parent in ["m2", "m20", "m39"] {
        let long = "Another story. ".repeat(450);
        let body =
            json!({"chatSessionId": session, "role": "user", "content": long, "parentId": parent});
        let posted = server.post("/api/chat-messages", body).await.data();
        let head = posted["message"]["id"].clone();
        server
            .put(&format!("/api/chat-sessions/{session}/head"), json!({"messageId": head}))
            .await
            .data();
        let pieces = preview(&server, &session).await;
        let summed = ids(&pieces, "summary");
        let last: usize = parent[1..].parse().unwrap();
        let covered = summed.last().map(|id| id[1..].parse::<usize>().unwrap());
        assert!(covered.is_none_or(|covered| covered <= last), "{parent}: {summed:?}");
        assert_eq!(covered.is_some(), last >= 20, "{parent}: {summed:?}");
    }
}

#[tokio::test]
async fn summary_usage_is_recorded_for_the_turns_user() {
    let (server, session) = start().await;
    server.turn(&session, "And now?", "Now this.").await;
    answer_summaries(&server, &session).await;
    let used = server.get("/api/usage").await.data();
    let calls = [&used["total"]["turns"], &used["total"]["sideCalls"]];
    assert_eq!(calls, [&json!(1), &json!(3)], "a turn and three parts");
    assert_eq!(used["total"]["promptTokens"], 4 * 7);
}

#[tokio::test]
async fn shutdown_waits_for_a_summary_being_written() {
    let options = [&SUMMARY_OPTIONS[..], &["--shutdown-grace=15s"]].concat();
    let mut server = Server::on_file(&options).await;
    let session = import_messages(&server).await;
    server.turn(&session, "Go on.", "Fine.").await;
    let call = server.upstream.call().await;
    server.terminate();
    within_deadline(async {
        while server.get("/health/ready").await.status == 200 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    call.reply("- part 1 of the hens");
    server.stop().await;
    assert!(server.upstream.is_idle().await, "no further part is begun");
    server.start_again().await;
    let summary = text(&preview(&server, &session).await, "summary").unwrap();
    assert!(summary.contains("- part 1 of the hens"), "{summary}");
    assert_eq!(background_calls(&server).await, 1);
}

#[tokio::test]
async fn summary_cut_off_by_shutdown_is_recorded() {
    let options = [&SUMMARY_OPTIONS[..], &["--shutdown-grace=1ms"]].concat();
    let mut server = Server::on_file(&options).await;
    let session = import_messages(&server).await;
    server.turn(&session, "Go on.", "Fine.").await;
    let call = server.upstream.call().await;
    server.stop().await;
    drop(call);
    server.start_again().await;
    assert_eq!(text(&preview(&server, &session).await, "summary"), None);
    assert_eq!(background_calls(&server).await, 1, "the provider charges for its prompt");
}

#[tokio::test]
async fn empty_or_failed_summary_does_no_harm() {
    let (server, session) = start().await;
    let first = server.turn(&session, "Go on.", "Fine.").await;
    let call = within_deadline(server.upstream.call()).await;
    assert!(call.prompt().concat().contains("summary of a conversation"));
    call.reply("  \n");
    let second = server.turn(&session, "Go on.", "Fine.").await;
    assert_eq!(second[..first.len() - 1], first[..first.len() - 1]);
    let call = within_deadline(server.upstream.call()).await;
    call.refuse(400, json!({"error": {"message": "no"}}));
    let third = server.turn(&session, "Go on.", "Fine.").await;
    assert!(third.iter().all(|message| !message.contains("Summary of")));
    // The next turn retries the summary.
    within_deadline(answer_summaries(&server, &session)).await;
}
