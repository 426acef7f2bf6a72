//! Rate limits, and the cap on concurrent replies of a user.

use crate::support::server::fetch;
use crate::support::{FrameReader, Server, within_deadline};
use echoic::domain::key::AuthScope;
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn writes_over_the_rate_are_rejected_and_reads_continue() {
    let server = Server::with(&["--auth=keys", "--rate-limit=3/h"]).await;
    let (ann, ben) =
        (server.key("ann", AuthScope::Chat).await, server.key("ben", AuthScope::Chat).await);
    let own = server.with_key(&ann);
    for left in ["2", "1", "0"] {
        let made = own.post("/api/chat-sessions", json!({})).await;
        assert_eq!((made.status, made.header("ratelimit-remaining")), (201, left));
        assert_eq!(made.header("ratelimit-limit"), "3");
    }
    let refused = own.post("/api/chat-sessions", json!({})).await;
    assert_eq!(refused.failure(), (429, "rate_limited"));
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=1200).contains(&wait), "{wait}");
    assert_eq!(refused.header("ratelimit-remaining"), "0");
    assert_eq!(own.get("/api/chat-sessions").await.data()["pagination"]["total"], 3);
    let stop = own.post("/api/chat/nowhere/stop", json!({})).await;
    assert_eq!(stop.failure(), (404, "session_not_found"), "a stop does not wait");
    let rendered = own.post("/api/render", json!({"markdown": "*a*"})).await;
    assert_eq!((rendered.status, rendered.header("ratelimit-limit")), (200, "60"));
    assert_eq!(server.with_key(&ben).post("/api/chat-sessions", json!({})).await.status, 201);

    let open = Server::with(&["--rate-limit=1/h"]).await;
    for _ in 0..3 {
        assert_eq!(open.post("/api/chat-sessions", json!({})).await.status, 201);
    }
}

#[tokio::test]
async fn limit_hits_are_counted_for_prometheus() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let address = format!("--metrics-addr={free}");
    let server = Server::with(&["--auth=keys", "--rate-limit=1/h", &address]).await;
    let ann = server.key("ann", AuthScope::Chat).await;
    for status in [201, 429, 429] {
        let made = server.with_key(&ann).post("/api/chat-sessions", json!({})).await;
        assert_eq!(made.status, status);
    }
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let metrics = client.get(format!("http://{free}/metrics")).send().await.unwrap();
    let text = metrics.text().await.unwrap();
    assert!(text.contains("echoic_limit_hits_total{limit=\"rate_limited\"} 2"), "{text}");
}

#[tokio::test]
async fn repeated_turn_is_replayed_despite_the_rate_limit() {
    let server = Server::with(&["--auth=keys", "--rate-limit=1/h"]).await;
    let ann = server.key("ann", AuthScope::Chat).await;
    let say = |message: &str| {
        let body = json!({"message": message});
        let request = server.with_key(&ann).request(Method::POST, "/api/chat").json(&body);
        request.header("idempotency-key", message)
    };
    let mut frames = FrameReader::new(within_deadline(say("one").send()).await.unwrap());
    let call = server.upstream.call().await;
    let mut joined = FrameReader::new(within_deadline(say("one").send()).await.unwrap());
    assert_eq!(fetch(say("two")).await.failure(), (429, "rate_limited"));
    call.reply("hello");
    frames.until("[DONE]").await;
    joined.until("[DONE]").await;
    let mut replayed = FrameReader::new(within_deadline(say("one").send()).await.unwrap());
    replayed.until("finish").await;
}

#[tokio::test]
async fn persistent_caller_over_the_rate_is_rejected_unread() {
    let server = Server::with(&["--auth=keys", "--rate-limit=1/h"]).await;
    let ann = server.key("ann", AuthScope::Chat).await;
    let own = server.with_key(&ann);
    own.post("/api/chat-sessions", json!({})).await.data();
    let broken = || {
        let request = own.request(Method::POST, "/api/chat").body("{");
        fetch(request.header("content-type", "application/json"))
    };
    // The route may replay a known turn, which is exempt from the rate, so the body of the first
    // few requests is read anyway.
    for _ in 0..4 {
        assert_eq!(broken().await.failure(), (400, "invalid_request"));
    }
    let refused = broken().await;
    assert_eq!(refused.failure(), (429, "rate_limited"));
    assert!(refused.header("retry-after").parse::<u64>().unwrap() > 0);
    assert_eq!(refused.header("ratelimit-remaining"), "0");
}

#[tokio::test]
async fn concurrent_replies_per_user_are_capped() {
    let server = Server::with(&["--auth=keys", "--max-concurrent-turns=2"]).await;
    let (ann, ben) =
        (server.key("ann", AuthScope::Chat).await, server.key("ben", AuthScope::Chat).await);
    let say = |key: &str, body: Value| {
        server.with_key(key).request(Method::POST, "/api/chat").json(&body)
    };
    let mut first = FrameReader::new(say(&ann, json!({"message": "1"})).send().await.unwrap());
    let call = server.upstream.call().await;
    let _second = FrameReader::new(say(&ann, json!({"message": "2"})).send().await.unwrap());
    let _call = server.upstream.call().await;
    let refused = fetch(say(&ann, json!({"message": "3"}))).await;
    assert_eq!(refused.failure(), (429, "rate_limited"));
    assert_eq!(refused.header("retry-after"), "1");
    assert_eq!(refused.header("ratelimit-limit"), "60", "the user's rate applies as well");
    assert_eq!(say(&ben, json!({"message": "1"})).send().await.unwrap().status(), 200);
    let _call = server.upstream.call().await;
    call.reply("done");
    first.until("[DONE]").await;
    // The slot is released before the stream ends, so a client may start its next turn right after
    // `[DONE]`.
    assert_eq!(say(&ann, json!({"message": "3"})).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn key_guessing_is_limited_per_address_behind_a_proxy() {
    let flags = ["--auth=keys", "--rate-limit=5/h", "--trusted-proxies=127.0.0.1"];
    let server = Server::with(&flags).await;
    let good = server.key("ann", AuthScope::Chat).await;
    let from = |address: &str, key: &str| {
        let request = server.request(Method::GET, "/api/me").bearer_auth(key);
        // The proxy appends the address it sees to the list that the client sent, so only the last
        // entry counts.
        fetch(request.header("x-forwarded-for", format!("10.9.9.9, {address}")))
    };
    for _ in 0..5 {
        assert_eq!(from("10.0.0.1", "guess").await.failure(), (401, "unauthenticated"));
    }
    let late = from("10.0.0.1", "guess").await;
    assert_eq!(late.failure(), (429, "rate_limited"));
    let wait = late.header("retry-after");
    assert!(wait.parse::<u64>().unwrap() > 0);
    assert_eq!(
        ["limit", "remaining"].map(|it| late.header(&format!("ratelimit-{it}"))),
        ["5", "0"]
    );
    assert_eq!(late.header("ratelimit-reset"), wait);
    assert_eq!(from("10.0.0.1:5151", "guess").await.status, 429, "a port is no other address");
    assert_eq!(from("10.0.0.2", "guess").await.status, 401);
    assert_eq!(from("10.0.0.1", &good).await.status, 200, "a good key is good from anywhere");

    // An IPv6 client usually controls a whole /64, so the limit applies to the network.
    let of_one_network = ["2001:db8::1", "[2001:db8::2]", "[2001:db8::3]:80", "2001:db8::4:5:6:7"];
    for address in of_one_network.into_iter().chain(["2001:db8:0:0:9::"]) {
        assert_eq!(from(address, "guess").await.status, 401, "{address}");
    }
    assert_eq!(from("2001:db8::8", "guess").await.failure(), (429, "rate_limited"));
    assert_eq!(from("2001:db8:0:1::8", "guess").await.status, 401, "the next network");
}

#[tokio::test]
async fn turn_adding_no_reply_is_exempt_from_the_concurrency_cap() {
    let server = Server::with(&["--auth=keys", "--max-concurrent-turns=1"]).await;
    let ann = server.key("ann", AuthScope::Chat).await;
    let say = |message: &str, on_busy: &str| {
        let body = json!({"id": "s", "message": message, "clientMessageId": message,
            "onBusy": on_busy});
        server.with_key(&ann).request(Method::POST, "/api/chat").json(&body)
    };
    let begin = async |message: &str, on_busy: &str| {
        let response = within_deadline(say(message, on_busy).send()).await.unwrap();
        assert_eq!(response.status(), 200, "{message}");
        FrameReader::new(response)
    };
    let mut first = begin("one", "reject").await;
    let mut call = server.upstream.call().await;
    call.text("half");
    first.until("text-delta").await;
    let mut joined = begin("one", "reject").await;
    let refused = fetch(say("two", "reject")).await;
    assert_eq!(refused.failure(), (409, "session_busy"));
    assert_eq!(refused.header("x-should-retry"), "false");
    assert!(refused.body["error"]["details"]["turnId"].is_string());
    let other = json!({"message": "elsewhere"});
    let elsewhere = server.with_key(&ann).post("/api/chat", other).await;
    assert_eq!(elsewhere.failure(), (429, "rate_limited"));

    let mut queued = begin("three", "queue").await;
    let mut interrupting = begin("four", "interrupt").await;
    first.until("[DONE]").await;
    joined.until("[DONE]").await;
    server.upstream.call().await.reply("done");
    interrupting.until("[DONE]").await;
    server.upstream.call().await.reply("done");
    queued.until("[DONE]").await;
}

#[tokio::test]
async fn rejected_request_with_large_body_gets_its_answer() {
    let server = Server::with(&["--auth=keys", "--rate-limit=1/h"]).await;
    let ann = server.key("ann", AuthScope::Chat).await;
    let own = server.with_key(&ann);
    let body = json!({"chatSessionId": "s", "role": "user", "content": "x".repeat(200_000)});
    assert_eq!(own.post("/api/chat-messages", body.clone()).await.failure().0, 404);
    // The unread body must not break the connection: each request gets its response, on a new
    // connection or a reused one.
    for _ in 0..20 {
        assert_eq!(
            own.post("/api/chat-messages", body.clone()).await.failure(),
            (429, "rate_limited")
        );
    }
    let stranger = server.with_key("ek_none");
    assert_eq!(stranger.post("/api/chat-messages", body).await.failure(), (401, "unauthenticated"));
}

#[tokio::test]
async fn spent_quota_sets_retry_after_without_a_rate_limit() {
    let server = Server::with(&["--quota-tokens=100/day"]).await;
    let (mut frames, call) = server.open_turn(&server.session().await, "hi").await;
    call.finish(json!({"prompt_tokens": 90, "completion_tokens": 10}));
    frames.until("[DONE]").await;
    let refused = server.post("/api/chat", json!({"message": "more"})).await;
    assert_eq!(refused.failure(), (429, "quota_exceeded"));
    assert_eq!(refused.header("x-should-retry"), "false");
    let wait = refused.header("retry-after");
    assert!((1..=86_400).contains(&wait.parse::<u32>().unwrap()), "{wait}");
    let headers =
        ["limit", "remaining", "reset"].map(|it| refused.header(&format!("ratelimit-{it}")));
    assert_eq!(headers, ["100", "0", wait]);
}
