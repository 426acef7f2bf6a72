//! Usage of turns: recorded, reported, and limited by quotas.

use crate::support::server::{ApiResponse, fetch};
use crate::support::{FrameReader, ProviderCall, Server, within_deadline};
use echoic::domain::key::AuthScope;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::sleep;

/// Runs a whole turn whose provider reports this usage.
async fn run_turn(server: &Server, key: &str, session: &str, message: &str, usage: Value) {
    let mut frames = begin_turn(server, key, session, message).await;
    let mut call = server.upstream.call().await;
    call.text("hello");
    call.finish(usage);
    frames.until("[DONE]").await;
}

async fn begin_turn(server: &Server, key: &str, session: &str, message: &str) -> FrameReader {
    let body = json!({"id": session, "message": {"id": message, "role": "user", "parts": [{"type": "text", "text": message}]}});
    let request = server.with_key(key).request(Method::POST, "/api/chat").json(&body);
    let response = within_deadline(request.send()).await.unwrap();
    assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
    FrameReader::new(response)
}

/// The usage report. Reading the sessions first records the usage of their last turns, if that is
/// still pending.
async fn usage(server: &Server, key: &str, sessions: &[&str], query: &str) -> Value {
    for session in sessions {
        server.with_key(key).get(&format!("/api/chat-sessions/{session}")).await.data();
    }
    server.with_key(key).get(&format!("/api/usage{query}")).await.data()
}

async fn post_message(server: &Server, key: &str, session: &str, message: &str) -> ApiResponse {
    let body = json!({"id": session, "message": {"id": message, "role": "user", "parts": [{"type": "text", "text": message}]}});
    fetch(server.with_key(key).request(Method::POST, "/api/chat").json(&body)).await
}

const PRICED: &[&str] = &["--auth=keys", "--invitations=off", "--prices=gated-*=1/0.5/10"];

#[tokio::test]
async fn turn_is_recorded_with_tokens_and_cost_for_its_user() {
    let server = Server::with(PRICED).await;
    let (ann, pat) =
        (server.key("ann", AuthScope::Chat).await, server.key("pat", AuthScope::Chat).await);
    let body = json!({"sessionId": "s", "participants": ["pat"], "projectId": "p"});
    server.with_key(&ann).post("/api/chat-sessions", body).await.data();
    let used = json!({"prompt_tokens": 1000, "completion_tokens": 50,
        "prompt_tokens_details": {"cached_tokens": 400}, "completion_tokens_details": {"reasoning_tokens": 20}});
    run_turn(&server, &ann, "s", "one", used.clone()).await;
    run_turn(&server, &pat, "s", "two", used.clone()).await;
    run_turn(&server, &ann, "t", "three", json!({"prompt_tokens": 10, "completion_tokens": 1}))
        .await;

    let messages = server.with_key(&ann).get("/api/chat-sessions/s/messages").await.data();
    assert_eq!(messages["messages"][1]["usage"]["cost"], 0.0013, "each reply tells its own, too");

    let line = |key: &str,
                turns: u64,
                prompt: u64,
                cached: u64,
                completion: u64,
                reasoning: u64,
                cost: f64| {
        json!({"key": key, "turns": turns, "estimatedTurns": 0, "sideCalls": 0, "promptTokens": prompt, "cachedTokens": cached,
            "completionTokens": completion, "reasoningTokens": reasoning, "cost": cost})
    };
    let first = |key: &str| line(key, 1, 1000, 400, 50, 20, 0.0013);
    let second = |key: &str| line(key, 1, 10, 0, 1, 0, 0.00002);
    let mine = usage(&server, &ann, &["s", "t"], "?groupBy=session").await;
    assert_eq!(mine["usage"], json!([first("s"), second("t")]));
    let mut total = line("", 2, 1010, 400, 51, 20, 0.00132);
    total.as_object_mut().unwrap().remove("key");
    assert_eq!(mine["total"], total);
    let project = usage(&server, &ann, &[], "?groupBy=project").await;
    assert_eq!(project["usage"], json!([first("p"), second("")]));
    let model = usage(&server, &ann, &[], "?groupBy=model").await;
    assert_eq!(model["usage"], json!([line("gated-1", 2, 1010, 400, 51, 20, 0.00132)]));
    let day = usage(&server, &ann, &[], "").await;
    assert_eq!((&day["usage"][0]["turns"], day["usage"].as_array().unwrap().len()), (&json!(2), 1));
    let others = usage(&server, &pat, &["s"], "?groupBy=session").await;
    assert_eq!(others["usage"], json!([first("s")]));
    let past = usage(&server, &ann, &[], "?from=2020-01-01&to=2020-12-31").await;
    assert_eq!((&past["usage"], &past["total"]["turns"]), (&json!([]), &json!(0)));

    let root = server.key("root", AuthScope::Admin).await;
    let all = server.with_key(&root).get("/api/admin/usage?groupBy=user").await.data();
    let users: Vec<Value> = all["usage"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| json!([line["key"], line["turns"]]))
        .collect();
    assert_eq!(users, [json!(["ann", 2]), json!(["pat", 1])]);

    let gone = fetch(server.with_key(&ann).request(Method::DELETE, "/api/me/data")).await;
    assert_eq!(gone.status, 200);
    assert_eq!(usage(&server, &ann, &[], "").await["total"]["turns"], 0);
}

#[tokio::test]
async fn stopped_failed_and_deleted_turns_are_recorded_too() {
    let server = Server::with(PRICED).await;
    let ann = server.key("ann", AuthScope::Chat).await;
    let own = server.with_key(&ann);
    let mut frames = begin_turn(&server, &ann, "stopped", "a").await;
    let mut call = server.upstream.call().await;
    call.text("half of it");
    frames.until("text-delta").await;
    own.post("/api/chat/stopped/stop", json!({})).await.data();
    frames.until("[DONE]").await;

    let mut frames = begin_turn(&server, &ann, "failed", "b").await;
    server.upstream.call().await.refuse(400, json!({"error": {"message": "no"}}));
    frames.until("[DONE]").await;

    let mut frames = begin_turn(&server, &ann, "deleted", "c").await;
    let mut call = server.upstream.call().await;
    call.text("words for nobody");
    frames.until("text-delta").await;
    fetch(own.request(Method::DELETE, "/api/chat-sessions/deleted")).await.data();
    frames.until("[DONE]").await;

    // The readers of a deleted turn end at once, its line is written a moment later.
    let all = within_deadline(async {
        loop {
            let all = usage(&server, &ann, &["stopped", "failed"], "?groupBy=session").await;
            if all["usage"].as_array().unwrap().len() == 3 {
                return all;
            }
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let mut lines: Vec<Value> = all["usage"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| {
            assert!(
                line["promptTokens"].as_u64().unwrap() > 0 && line["cost"].as_f64().unwrap() > 0.0,
                "{line}"
            );
            json!([line["key"], line["turns"], line["estimatedTurns"]])
        })
        .collect();
    lines.sort_by_key(Value::to_string);
    assert_eq!(
        lines,
        [json!(["deleted", 1, 1]), json!(["failed", 1, 1]), json!(["stopped", 1, 1])]
    );
}

#[tokio::test]
async fn cost_quota_rejects_models_without_a_price() {
    let server = Server::with(&[PRICED, &["--quota-cost=key:5"]].concat()).await;
    let ann = server.key("ann", AuthScope::Chat).await;
    let own = server.with_key(&ann);
    let refused = |reply: ApiResponse| {
        assert_eq!(reply.failure(), (400, "invalid_request"));
        let reason = reply.body["error"]["details"]["model"].as_str().unwrap();
        assert!(reason.contains("price"), "{reason}");
    };
    refused(own.post("/api/chat", json!({"id": "s", "message": "hi", "model": "free"})).await);
    assert_eq!(own.get("/api/chat-sessions/s").await.failure(), (404, "session_not_found"));
    let settings = json!({"sessionId": "s", "settings": {"model": "free"}});
    own.post("/api/chat-sessions", settings).await.data();
    refused(own.post("/api/chat", json!({"sessionId": "s", "message": "hi"})).await);
    let hi = json!([{"role": "user", "content": "hi"}]);
    for (path, body) in [
        ("/v1/chat/completions", json!({"model": "free", "messages": hi})),
        ("/v1/chat/completions", json!({"model": "free", "messages": hi, "session_id": "t"})),
        ("/v1/responses", json!({"model": "free", "input": "hi"})),
        ("/v1/responses", json!({"model": "free", "input": "hi", "store": false})),
    ] {
        let reply = own.post(path, body).await;
        assert_eq!((reply.status, &reply.body["error"]["param"]), (400, &json!("model")), "{path}");
    }
    assert!(server.upstream.is_idle().await, "nothing was sent");
    let mut frames = begin_turn(&server, &ann, "u", "hi").await;
    server.upstream.call().await.reply("a priced one");
    frames.until("[DONE]").await;
}

#[tokio::test]
async fn spent_quota_blocks_new_turns_but_not_reads() {
    for quota in
        ["--quota-tokens=100", "--quota-tokens=key:100/day", "--quota-cost=user:0.0001/day"]
    {
        let server = Server::with(&[PRICED, &[quota]].concat()).await;
        let (ann, ben) =
            (server.key("ann", AuthScope::Chat).await, server.key("ben", AuthScope::Chat).await);
        let used = json!({"prompt_tokens": 90, "completion_tokens": 15});
        run_turn(&server, &ann, "s", "one", used.clone()).await;

        let refused = post_message(&server, &ann, "s", "two").await;
        assert_eq!(refused.failure(), (429, "quota_exceeded"), "{quota}");
        assert_eq!(refused.header("x-should-retry"), "false");
        assert!(refused.header("retry-after").parse::<u64>().unwrap() > 0);
        let again = server.with_key(&ann).post("/api/chat/s/regenerate", json!({})).await;
        assert_eq!(again.failure(), (429, "quota_exceeded"));
        let mut repeated = begin_turn(&server, &ann, "s", "one").await;
        repeated.until("finish").await;
        let said = server.with_key(&ann).get("/api/chat-sessions/s/messages").await.data();
        assert_eq!(said["messages"].as_array().unwrap().len(), 2, "nothing was stored");
        run_turn(&server, &ben, "t", "one", used).await;
    }
}

#[tokio::test]
async fn project_quota_is_shared_by_its_users() {
    let flags = ["--auth=keys", "--invitations=off", "--quota-tokens=project:100/month"];
    let server = Server::with(&flags).await;
    let (ann, pat) =
        (server.key("ann", AuthScope::Chat).await, server.key("pat", AuthScope::Chat).await);
    let body = json!({"sessionId": "s", "participants": ["pat"], "projectId": "p"});
    server.with_key(&ann).post("/api/chat-sessions", body).await.data();
    let used = json!({"prompt_tokens": 100, "completion_tokens": 1});
    run_turn(&server, &pat, "s", "one", used.clone()).await;
    assert_eq!(post_message(&server, &ann, "s", "two").await.failure(), (429, "quota_exceeded"));
    run_turn(&server, &ann, "elsewhere", "three", used).await;
}

#[tokio::test]
async fn queued_turn_fails_once_the_quota_is_spent() {
    let server = Server::with(&["--auth=keys", "--quota-tokens=100"]).await;
    let ann = server.key("ann", AuthScope::Chat).await;
    let mut first = begin_turn(&server, &ann, "s", "one").await;
    let mut call = server.upstream.call().await;
    let body = json!({"sessionId": "s", "message": "two", "onBusy": "queue"});
    let waiting = server.with_key(&ann).request(Method::POST, "/api/chat").json(&body);
    let mut waiting = FrameReader::new(within_deadline(waiting.send()).await.unwrap());
    call.text("hello");
    call.finish(json!({"prompt_tokens": 200, "completion_tokens": 1}));
    first.until("[DONE]").await;
    let error = waiting.until("error").await;
    assert!(error.data["errorText"].as_str().unwrap().contains("quota"), "{}", error.data);
    waiting.until("[DONE]").await;
}

/// The two calls of a session's first turn: for the reply and for the title.
async fn reply_and_title_calls(server: &Server) -> (ProviderCall, ProviderCall) {
    let (one, two) = (server.upstream.call().await, server.upstream.call().await);
    if one.request["model"] == "tiny" { (two, one) } else { (one, two) }
}

#[tokio::test]
async fn title_usage_is_recorded_apart_and_counts_toward_quotas() {
    let titled = ["--titles=model", "--small-model=tiny", "--prices=gated-*=1/10,tiny=1/1"];
    let server =
        Server::with(&[&["--auth=keys", "--quota-tokens=100"][..], &titled].concat()).await;
    let ann = server.key("ann", AuthScope::Chat).await;
    let body = json!({"sessionId": "s", "projectId": "p"});
    server.with_key(&ann).post("/api/chat-sessions", body).await.data();
    let mut frames = begin_turn(&server, &ann, "s", "one").await;
    let (mut reply, mut title) = reply_and_title_calls(&server).await;
    reply.text("hello");
    frames.until("text-delta").await;
    title.text("A title");
    title.finish(json!({"prompt_tokens": 60, "completion_tokens": 5}));
    // The title call is over before the reply ends, so the report below must contain both.
    frames.until("data-title").await;
    reply.finish(json!({"prompt_tokens": 20, "completion_tokens": 10}));
    frames.until("[DONE]").await;
    let message = server.with_key(&ann).get("/api/chat-sessions/s/messages?limit=1").await.data();
    assert_eq!(message["messages"][0]["usage"]["promptTokens"], 20, "the message's own figures");

    let used = usage(&server, &ann, &["s"], "?groupBy=model").await;
    let line = |key: &str, turns: u64, side_calls: u64, prompt: u64, completion: u64, cost: f64| {
        json!({"key": key, "turns": turns, "estimatedTurns": 0, "sideCalls": side_calls, "promptTokens": prompt,
            "cachedTokens": 0, "completionTokens": completion, "reasoningTokens": 0, "cost": cost})
    };
    let [small, large] =
        [line("tiny", 0, 1, 60, 5, 0.000_065), line("gated-1", 1, 0, 20, 10, 0.000_12)];
    assert_eq!(used["usage"], json!([small, large]));
    let whole = line("s", 1, 1, 80, 15, 0.000_185);
    assert_eq!(
        usage(&server, &ann, &[], "?groupBy=session").await["usage"],
        json!([whole.clone()])
    );
    let project = usage(&server, &ann, &[], "?groupBy=project").await;
    assert_eq!(project["usage"][0]["promptTokens"], 80);

    // The reply used 30 tokens and the title 65, so 5 of the quota are left.
    run_turn(&server, &ann, "s", "two", json!({"prompt_tokens": 4, "completion_tokens": 1})).await;
    assert_eq!(post_message(&server, &ann, "s", "three").await.failure(), (429, "quota_exceeded"));
}

#[tokio::test]
async fn failed_title_is_recorded_with_our_own_count() {
    let server = Server::with(&["--auth=keys", "--titles=model", "--small-model=tiny"]).await;
    let ann = server.key("ann", AuthScope::Chat).await;
    let mut frames = begin_turn(&server, &ann, "s", "one").await;
    let (reply, title) = reply_and_title_calls(&server).await;
    title.refuse(400, json!({"error": {"message": "no"}}));
    let spent = loop {
        let used = usage(&server, &ann, &[], "").await;
        if used["total"]["sideCalls"] == 1 {
            break used["total"].clone();
        }
    };
    assert!(spent["promptTokens"].as_u64().unwrap() > 20, "{spent}");
    assert_eq!((&spent["turns"], &spent["completionTokens"]), (&json!(0), &json!(0)));
    reply.reply("hello");
    frames.until("[DONE]").await;
}

#[tokio::test]
async fn calls_that_reached_no_provider_are_recorded_as_zero() {
    let unreachable = "--openai-base-url=http://127.0.0.1:1/v1";
    let flags = [PRICED, &[unreachable, "--titles=model", "--small-model=tiny"]].concat();
    let server = Server::with(&flags).await;
    let ann = server.key("ann", AuthScope::Chat).await;
    let mut frames = begin_turn(&server, &ann, "s", "one").await;
    frames.until("error").await;
    frames.until("[DONE]").await;
    let spent = loop {
        let used = usage(&server, &ann, &["s"], "").await;
        if used["total"]["sideCalls"] == 1 {
            break used["total"].clone();
        }
    };
    assert_eq!(
        spent,
        json!({"turns": 1, "estimatedTurns": 0, "sideCalls": 1, "promptTokens": 0, "cachedTokens": 0,
            "completionTokens": 0, "reasoningTokens": 0, "cost": 0.0})
    );
}

#[tokio::test]
async fn invalid_usage_query_is_rejected() {
    let server = Server::start().await;
    for query in [
        "groupBy=user",
        "groupBy=hour",
        "from=yesterday",
        "from=2024-01-02&to=2024-01-01",
        "from=2020-01-01&to=2024-01-01",
        "limit=3",
    ] {
        let reply = server.get(&format!("/api/usage?{query}")).await;
        assert_eq!(reply.failure(), (400, "invalid_request"), "{query}");
    }
}

#[tokio::test]
async fn absurd_usage_is_estimated_and_leaves_quotas_working() {
    let flags = [PRICED, &["--quota-tokens=100000", "--quota-cost=20"]].concat();
    let server = Server::with(&flags).await;
    let ann = server.key("ann", AuthScope::Chat).await;
    let absurd = [
        r#"{"prompt_tokens":1e308,"completion_tokens":-5,"prompt_tokens_details":{"cached_tokens":9e18}}"#,
        r#"{"prompt_tokens":1000000001,"completion_tokens":1e999}"#,
        r#"{"prompt_tokens":NaN,"completion_tokens":Infinity}"#,
        r#"{"prompt_tokens":"many","completion_tokens":0.5}"#,
    ];
    for (at, usage) in absurd.into_iter().enumerate() {
        let mut frames = begin_turn(&server, &ann, "s", &format!("message-{at}")).await;
        let mut call = server.upstream.call().await;
        call.text("hello");
        call.raw(format!(
            "data: {{\"choices\":[{{\"index\":0,\"delta\":{{}},\"finish_reason\":\"stop\"}}],\"usage\":{usage}}}\n\n"
        ));
        call.raw("data: [DONE]\n\n");
        frames.until("finish").await;
        frames.until("[DONE]").await;
    }
    let total = usage(&server, &ann, &["s"], "").await["total"].clone();
    assert_eq!((&total["turns"], &total["estimatedTurns"]), (&json!(4), &json!(4)), "{total}");
    assert_eq!((&total["cachedTokens"], &total["completionTokens"]), (&json!(0), &json!(4)));
    assert!(total["promptTokens"].as_u64().unwrap() < 1000, "{total}");
}

#[tokio::test]
async fn ledger_with_absurd_counts_repairs_itself_at_start() {
    let flags = [PRICED, &["--quota-tokens=100000", "--quota-cost=20"]].concat();
    let mut server = Server::on_file(&flags).await;
    let ann = server.key("ann", AuthScope::Chat).await;
    for message in ["one", "two", "three"] {
        run_turn(&server, &ann, "s", message, json!({"prompt_tokens": 10, "completion_tokens": 1}))
            .await;
    }
    server.stop().await;
    let absurd = "UPDATE usage SET prompt_tokens = 9223372036854775807, cost = 9223372036854775807
                  WHERE turn_id > (SELECT min(turn_id) FROM usage);
                  UPDATE spent SET tokens = 9223372036854775807 + 9223372036854775807.0, cost = -1;";
    rusqlite::Connection::open(server.database()).unwrap().execute_batch(absurd).unwrap();

    server.start_again().await;
    let total = usage(&server, &ann, &["s"], "").await["total"].clone();
    assert_eq!((&total["turns"], &total["promptTokens"]), (&json!(3), &json!(10)), "{total}");
    run_turn(&server, &ann, "s", "four", json!({"prompt_tokens": 10, "completion_tokens": 1}))
        .await;
    let root = server.key("root", AuthScope::Admin).await;
    assert_eq!(server.with_key(&root).get("/api/admin/usage").await.status, 200);
}
