//! The ledger matches the provider's counts, over all instances and however turns end. A quota is
//! exceeded only by turns that were running when it was spent.

use crate::support::mongo::database;
use crate::support::{FrameReader, ProviderCall, Server, within_deadline};
use echoic::domain::key::AuthScope;
use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::HashMap;

/// The ways in which a turn can end.
const ENDS: [&str; 4] = ["finish", "stop", "fail", "break"];

/// Four instances on one database; `None` without a MongoDB.
async fn four_instances(flags: &[&str]) -> Option<Vec<Server>> {
    let url = format!("--database-url={}", database()?);
    let flags: Vec<_> = std::iter::once(url.as_str()).chain(flags.iter().copied()).collect();
    Some(join_all((0..4).map(|_| Server::with(&flags))).await)
}

/// A provider's count for one user.
#[derive(Debug, Default, PartialEq)]
struct UserCount {
    turns: u64,
    uncounted: u64,
    cached: u64,
    completion: u64,
    /// Prompt tokens of the turns that finished. For the others the provider reports no usage.
    prompt: u64,
}

/// Answers each call as its message `NAME END NUMBER` asks and counts the answers. Calls that will
/// be stopped stay open and are returned.
async fn answer_calls(
    server: &Server,
    calls: usize,
) -> (HashMap<String, UserCount>, Vec<ProviderCall>) {
    let (mut counts, mut open) = (HashMap::<String, UserCount>::new(), Vec::new());
    for _ in 0..calls {
        let mut call = server.upstream.call().await;
        let asked = call.prompt().pop().unwrap();
        let words: Vec<&str> = asked.split(' ').collect();
        let (name, end, number) = (words[1], words[2], words[3].parse::<u64>().unwrap());
        let count = counts.entry(name.to_owned()).or_default();
        count.turns += 1;
        if end == "fail" {
            count.uncounted += 1;
            call.refuse(400, json!({"error": {"message": "no"}}));
            continue;
        }
        call.text("one");
        match end {
            "finish" => {
                let (prompt, cached, completion) = (1000 + number, number, 10 + number);
                count.prompt += prompt;
                count.cached += cached;
                count.completion += completion;
                call.finish(json!({"prompt_tokens": prompt, "completion_tokens": completion,
                    "prompt_tokens_details": {"cached_tokens": cached}}));
                continue;
            }
            "break" => call.end(),
            _ => open.push(call),
        }
        count.uncounted += 1;
        count.completion += 1;
    }
    (counts, open)
}

/// Runs a turn that ends as its message asks, and reads its stream to the end.
async fn run_turn(server: &Server, key: &str, session: &str, message: &str) {
    let id = message.replace(' ', "-");
    let body = json!({"id": session, "message": {"id": id, "role": "user",
        "parts": [{"type": "text", "text": message}]}});
    let request = server.with_key(key).request(Method::POST, "/api/chat").json(&body);
    let response = within_deadline(request.send()).await.unwrap();
    assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
    let mut frames = FrameReader::new(response);
    if message.contains("stop") {
        frames.until("text-delta").await;
        server.with_key(key).post(&format!("/api/chat/{session}/stop"), json!({})).await.data();
    }
    frames.until("[DONE]").await;
}

/// The ledger's totals by user. Reading a session first records the usage of its last turn, if that
/// is still pending.
async fn usage_by_user(server: &Server, root: &str, sessions: &[String]) -> HashMap<String, Value> {
    for session in sessions {
        server.with_key(root).get(&format!("/api/chat-sessions/{session}")).await.data();
    }
    let report = server.with_key(root).get("/api/admin/usage?groupBy=user").await.data();
    let lines = report["usage"].as_array().unwrap().iter();
    lines.map(|line| (line["key"].as_str().unwrap().to_owned(), line.clone())).collect()
}

/// Turns of three users on all servers at once, in sessions that every server takes part in.
async fn check_ledger(servers: &[Server]) {
    const TURNS: usize = 6;
    let users = ["ann", "ben", "cat"];
    let mut keys = Vec::new();
    for user in users {
        keys.push(servers[0].key(user, AuthScope::Chat).await);
    }
    let root = servers[0].key("root", AuthScope::Admin).await;
    let sessions: Vec<String> = (0..users.len() * 4).map(|number| format!("s{number}")).collect();
    let talk = sessions.iter().enumerate().map(|(at, session)| {
        let (user, key) = (users[at % users.len()], &keys[at % users.len()]);
        async move {
            for round in 0..TURNS {
                let server = &servers[(at + round) % servers.len()];
                let end = ENDS[(at / users.len() + round) % ENDS.len()];
                run_turn(server, key, session, &format!("{user} {end} {}", at * TURNS + round))
                    .await;
            }
        }
    });
    let calls = sessions.len() * TURNS / servers.len();
    let answers = join_all(servers.iter().map(|server| answer_calls(server, calls)));
    let (_, answered) = tokio::join!(join_all(talk), answers);

    let mut reported = HashMap::<String, UserCount>::new();
    for (name, count) in answered.into_iter().flat_map(|(counts, _)| counts) {
        let sum = reported.entry(name).or_default();
        sum.turns += count.turns;
        sum.uncounted += count.uncounted;
        sum.cached += count.cached;
        sum.completion += count.completion;
        sum.prompt += count.prompt;
    }
    let lines = usage_by_user(servers.last().unwrap(), &root, &sessions).await;
    for user in users {
        let number = |name: &str| lines[user][name].as_u64().unwrap();
        let booked = UserCount {
            turns: number("turns"),
            uncounted: number("estimatedTurns"),
            cached: number("cachedTokens"),
            completion: number("completionTokens"),
            prompt: reported[user].prompt,
        };
        assert_eq!(booked, reported[user], "{user}");
        assert!(
            number("promptTokens") > reported[user].prompt,
            "the others' prompts are estimated"
        );
    }
}

const FLAGS: &[&str] = &["--auth=keys", "--rate-limit=off", "--max-concurrent-turns=off"];

#[tokio::test]
async fn ledger_matches_the_providers_counts() {
    check_ledger(&[Server::with(FLAGS).await]).await;
}

#[tokio::test]
async fn ledgers_of_four_instances_match_the_providers_counts() {
    let Some(servers) = four_instances(FLAGS).await else { return };
    check_ledger(&servers).await;
}

/// Eight turns of one user run, spread over all servers, when the first to end spends the quota.
async fn check_quota(servers: &[Server]) {
    let ann = servers[0].key("ann", AuthScope::Chat).await;
    let mut running = Vec::new();
    for (at, server) in servers.iter().cycle().take(8).enumerate() {
        let body = json!({"id": format!("s{at}"), "message": {"id": "m", "role": "user",
            "parts": [{"type": "text", "text": "hi"}]}});
        let request = server.with_key(&ann).request(Method::POST, "/api/chat").json(&body);
        let response = within_deadline(request.send()).await.unwrap();
        assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
        running.push((FrameReader::new(response), server.upstream.call().await));
    }
    for (at, (mut frames, call)) in running.into_iter().enumerate() {
        call.finish(json!({"prompt_tokens": 90, "completion_tokens": 10}));
        frames.until("[DONE]").await;
        // The usage is recorded before the stream ends, so from here on every server rejects new
        // turns.
        for server in servers {
            let late = json!({"sessionId": format!("s{at}"), "message": "more"});
            let refused = server.with_key(&ann).post("/api/chat", late).await;
            assert_eq!(refused.failure(), (429, "quota_exceeded"), "after turn {at}");
        }
    }
    for server in servers {
        assert!(server.upstream.is_idle().await, "nothing more was sent");
    }
    let report = servers[0].with_key(&ann).get("/api/usage").await.data();
    assert_eq!(report["total"]["promptTokens"], 720, "eight turns and no ninth");
}

const LIMITED: &[&str] =
    &["--auth=keys", "--rate-limit=off", "--max-concurrent-turns=off", "--quota-tokens=100"];

#[tokio::test]
async fn quota_is_exceeded_only_by_running_turns() {
    check_quota(&[Server::with(LIMITED).await]).await;
}

#[tokio::test]
async fn quota_on_four_instances_is_exceeded_only_by_running_turns() {
    let Some(servers) = four_instances(LIMITED).await else { return };
    check_quota(&servers).await;
}
