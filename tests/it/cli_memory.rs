//! `echoic memory`: the preview of a session's next prompt, alongside a running server.

use crate::support::Server;
use crate::support::process::run;
use serde_json::{Value, json};
use std::collections::HashMap;

async fn run_memory(server: &Server, arguments: &[&str]) -> (i32, String, String) {
    let variables = HashMap::from([
        ("DATABASE_URL", server.database_url()),
        ("ECHOIC_MODEL", "gated-1".to_owned()),
        ("ECHOIC_CONTEXT_WINDOWS", "gated-1=2000".to_owned()),
    ]);
    let arguments: Vec<_> = ["memory"].iter().chain(arguments).copied().collect();
    run(server.folder.path(), &variables, &arguments).await
}

/// The standard output of a command that must succeed.
async fn successful_output(server: &Server, arguments: &[&str]) -> String {
    let (code, out, stderr) = run_memory(server, arguments).await;
    assert_eq!((code, stderr.as_str()), (0, ""), "{arguments:?}");
    out
}

/// A server with a session of sixty messages, one of which contains terminal control characters.
async fn server_with_session() -> Server {
    let server = Server::with(&["--context-windows=gated-1=2000"]).await;
    let message = |number: usize| {
        let role = if number.is_multiple_of(2) { "user" } else { "assistant" };
        json!({"role": role, "content": format!("message number {number}\n\n of the past")})
    };
    let mut messages: Vec<Value> = (0..59).map(message).collect();
    messages.push(
        json!({"role": "assistant", "content": "clear \u{1b}[2J\u{202e} the screen ".repeat(9)}),
    );
    let file = json!({"sessions": [{"sessionId": "s1", "title": "Printer on fire", "messages": messages}]});
    server.post("/api/import", file).await.data();
    server
}

#[tokio::test]
async fn table_lists_prompt_sections_and_bar_shows_their_share() {
    let server = server_with_session().await;
    let out = successful_output(
        &server,
        &["s1", "--message", "What burns?", "--strategy=token", "--max-tokens=180"],
    )
    .await;
    let lines: Vec<_> = out.lines().map(str::trim).collect();
    assert_eq!(lines[0], "Printer on fire (local): strategy token, model gated-1");
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(lines[2]), ["KIND", "ROLE", "TOKENS", "TEXT"]);
    assert_eq!(words(lines[3])[..2], ["system", "system"]);
    let end = lines.iter().position(|line| line.starts_with("new ")).unwrap();
    assert_eq!(words(lines[end]), ["new", "user", "3", "What", "burns?"]);
    assert_eq!(words(lines[end - 2])[..2], ["recent", "user"]);
    assert!(lines[end - 2].ends_with("message number 58 of the past"), "{out}");
    assert!(lines[end - 1].contains("clear [2J") && lines[end - 1].ends_with('…'), "{out}");
    assert!(!out.contains('\u{1b}') && !out.contains('\u{202e}'), "{out:?}");

    let path = "/api/chat-sessions/s1/memory?message=What%20burns%3F&strategy=token&maxTokens=180";
    let preview = server.get(path).await.data();
    let bar = lines.iter().position(|line| line.starts_with('[')).unwrap();
    let prompt = preview["promptTokens"].as_u64().unwrap();
    assert!(lines[bar - 1].starts_with(&format!("{prompt} tokens")), "{out}");
    let (drawn, of) = lines[bar][1..].split_once("] of ").unwrap();
    assert_eq!((drawn.len(), of), (64, "2000"));
    assert!(drawn.starts_with('S') && drawn.ends_with('.') && drawn.contains("RN"), "{drawn}");
    let taken: u64 =
        lines[bar + 1..].iter().map(|line| words(line)[2].parse::<u64>().unwrap()).sum();
    let names: Vec<_> = lines[bar + 1..].iter().map(|line| words(line)[1].clone()).collect();
    assert_eq!((taken, names.join(" ").as_str()), (2000, "system recent new overhead reply free"));
}

#[tokio::test]
async fn json_output_matches_the_api_for_all_flags() {
    let server = server_with_session().await;
    let user = server.post("/api/chat-sessions", json!({"sessionId": "s2"})).await.data();
    assert_eq!(user["userId"], "local");
    for (arguments, query) in [
        (&["s1"][..], "s1/memory"),
        (&["s1", "--message=and now?", "--user=local"], "s1/memory?message=and%20now%3F"),
        (
            &["s1", "--strategy=window", "--last-messages=3"],
            "s1/memory?strategy=window&lastMessages=3",
        ),
        (&["s1", "--strategy=buffer"], "s1/memory?strategy=buffer"),
        (&["s1", "--max-tokens=99", "--recall-tokens=9"], "s1/memory?maxTokens=99&recallTokens=9"),
        (&["s2", "--message=hi"], "s2/memory?message=hi"),
    ] {
        let arguments: Vec<_> = arguments.iter().chain(&["--json"]).copied().collect();
        let printed: Value =
            serde_json::from_str(&successful_output(&server, &arguments).await).unwrap();
        let given = server.get(&format!("/api/chat-sessions/{query}")).await.data();
        assert_eq!(printed, given, "{arguments:?}");
    }
}

#[tokio::test]
async fn preview_leaves_running_reply_alone_and_uses_last_model() {
    let server = Server::with(&[]).await;
    let session = server.session().await;
    let body = json!({"sessionId": session, "message": "hi", "model": "gpt-4o"});
    let mut frames = server.chat(body).await;
    server.upstream.call().await.reply("hello");
    frames.until("[DONE]").await;
    let (mut frames, mut call) = server.open_turn(&session, "and then?").await;
    call.text("It began ");
    frames.until("text-delta").await;

    let variables = HashMap::from([("DATABASE_URL", server.database_url())]);
    let out = run(server.folder.path(), &variables, &["memory", &session]).await.1;
    assert!(out.contains("model gpt-4o") && out.contains("and then?"), "{out}");

    call.text("and ended.");
    call.finish(json!({}));
    frames.until("finish").await;
    assert_eq!(server.transcript(&session).await.last().unwrap(), "assistant: It began and ended.");
}

#[tokio::test]
async fn impossible_preview_is_reported_in_a_sentence() {
    let server = server_with_session().await;
    let long = "word ".repeat(2000);
    for (arguments, code, wants) in [
        (&["nowhere"][..], 1, "no such session"),
        (&["s1", "--user=alice"], 1, "this user has no such session"),
        (&["s1", "--message", &long], 1, "the message does not fit the model"),
        (&["s1", "--message= "], 1, "message"),
        (&["s1", "--strategy=best"], 2, "auto"),
        (&["s1", "--last-messages=0"], 2, "--last-messages"),
        (&["a b"], 2, "A-Z a-z 0-9"),
        (&[], 2, "<SESSION>"),
    ] {
        let (ended, out, stderr) = run_memory(&server, arguments).await;
        assert!(
            ended == code && out.is_empty() && stderr.contains(wants),
            "{arguments:?}: {ended} {out} {stderr}"
        );
    }
    let none = HashMap::new();
    let (code, _, stderr) = run(server.folder.path(), &none, &["memory", "s1"]).await;
    let sentence = "echoic: there is no data/echoic.db; set DATABASE_URL as for the server\n";
    assert_eq!((code, stderr.as_str()), (1, sentence));
    let (code, help, _) = run_memory(&server, &["--help"]).await;
    assert!(code == 0 && help.contains("[env: ECHOIC_CONTEXT_WINDOWS]"), "{help}");
}
