//! `/v1/chat/completions` and `/v1/models`, with the requests of an OpenAI library.

use crate::support::server::{ApiResponse, fetch};
use crate::support::{ProviderCall, Server, within_deadline};
use futures::future::join;
use reqwest::{Method, Response};
use serde_json::{Value, json};

const ROUTE: &str = "/v1/chat/completions";

fn user(text: &str) -> Value {
    json!([{"role": "user", "content": text}])
}

/// Sends a request while the script answers.
async fn post_answered(
    server: &Server,
    body: Value,
    script: impl FnOnce(ProviderCall),
) -> ApiResponse {
    let answer = async { script(server.upstream.call().await) };
    join(server.post(ROUTE, body), answer).await.0
}

/// Sends a streaming request. Returns once the response headers are there.
async fn open_stream(
    server: &Server,
    body: Value,
    begin: impl FnOnce(&mut ProviderCall),
) -> (Response, ProviderCall) {
    let asking = async {
        let mut response = server.request(Method::POST, ROUTE).json(&body).send().await.unwrap();
        assert_eq!(response.status(), 200);
        within_deadline(response.chunk()).await.unwrap().unwrap();
        response
    };
    let answer = async {
        let mut call = server.upstream.call().await;
        begin(&mut call);
        call
    };
    join(asking, answer).await
}

/// The data of the last event of a stream.
async fn last_event(response: Response) -> Value {
    let text = within_deadline(response.text()).await.unwrap();
    let last = text.trim_end().rsplit("data: ").next().unwrap().to_owned();
    serde_json::from_str(&last).unwrap()
}

/// The data of each event of a stream.
fn events(reply: &ApiResponse) -> Vec<Value> {
    let text = reply.body.as_str().unwrap();
    let data = text.split("\n\n").filter_map(|event| event.strip_prefix("data: "));
    data.map(|data| serde_json::from_str(data).unwrap_or_else(|_| Value::from(data))).collect()
}

/// Status, type, code and parameter of an error in OpenAI's format.
#[track_caller]
fn error(reply: &ApiResponse) -> (u16, String, Value, Value) {
    let error = &reply.body["error"];
    assert!(error["message"].as_str().is_some_and(|actual| !actual.is_empty()), "{}", reply.body);
    let kind = error["type"].as_str().unwrap().to_owned();
    (reply.status, kind, error["code"].clone(), error["param"].clone())
}

#[tokio::test]
async fn stateless_request_and_response_are_forwarded_unchanged() {
    let server = Server::start().await;
    let body = json!({
        "model": "m", "messages": user("hi"), "n": 2, "seed": 7, "logprobs": true, "odd": {"x": [1.5]},
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
    });
    let answer = json!({"id": "x", "choices": [{"message": {"tool_calls": []}}], "odd": true});
    let (actual, sent) = (answer.clone(), body.clone());
    let reply = post_answered(&server, body, move |call| {
        assert_eq!(call.request, sent);
        assert_eq!(call.headers["authorization"], "Bearer sk-tests");
        call.refuse(200, actual);
    })
    .await;
    assert_eq!((reply.status, &reply.body), (200, &answer));
    assert_eq!(reply.header("content-type"), "application/json");
    let sessions = server.get("/api/chat-sessions").await.data();
    assert_eq!(sessions["sessions"], json!([]));
}

#[tokio::test]
async fn stateless_stream_is_forwarded_as_it_arrives() {
    let server = Server::start().await;
    let body = json!({"messages": user("hi"), "stream": true});
    let pieces =
        "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{}]}}]}\n\n: odd\n\ndata: [DONE]\n\n";
    let reply = post_answered(&server, body.clone(), |mut call| {
        // Without a model in the request the configured one answers.
        assert_eq!(call.request["model"], "gated-1");
        call.raw(pieces);
        call.end();
    })
    .await;
    assert_eq!((reply.status, reply.body.as_str().unwrap()), (200, pieces));
    assert_eq!(reply.header("content-type"), "text/event-stream");
    assert_eq!(reply.header("x-accel-buffering"), "no");

    let (response, call) = open_stream(&server, body, |call| call.raw("data: {}\n\n")).await;
    call.break_connection();
    assert_eq!(last_event(response).await["error"]["type"], "server_error");
}

#[tokio::test]
async fn provider_error_is_forwarded_without_operator_details() {
    let server = Server::start().await;
    let refused = async |status, sent: Value| {
        let body = json!({"model": "m", "messages": user("hi")});
        post_answered(&server, body, move |call| call.refuse(status, sent)).await
    };
    let theirs = json!({"error": {"message": "no such model: m", "type": "invalid_request_error",
        "param": "model", "code": "model_not_found"}});
    let reply = refused(404, theirs.clone()).await;
    assert_eq!((reply.status, &reply.body), (404, &theirs));
    let reply = refused(400, json!({"error": "not with sk-tests"})).await;
    assert_eq!(reply.body["error"]["message"], "not with [key]");
    for status in [401, 403, 500, 503] {
        let actual =
            error(&refused(status, json!({"error": {"message": "Incorrect API key"}})).await);
        let expected = (502, "server_error".to_owned(), json!("provider_error"), Value::Null);
        assert_eq!(actual, expected, "{status}");
    }
    assert!(server.upstream.is_idle().await, "it is the library that tries again");
}

#[tokio::test]
async fn stateless_request_times_out_without_first_token() {
    let server = Server::with(&["--first-token-timeout=50ms", "--turn-timeout=60ms"]).await;
    for is_stream in [true, false] {
        let body = json!({"messages": user("hi"), "stream": is_stream});
        let actual = error(&post_answered(&server, body, drop).await);
        let expected = (504, "server_error".to_owned(), json!("provider_timeout"), Value::Null);
        assert_eq!(actual, expected, "{is_stream}");
    }
}

#[tokio::test]
async fn request_with_session_is_a_stored_and_remembered_turn() {
    let server = Server::start().await;
    let body = json!({
        "model": "m", "session_id": "mine", "temperature": 0.5, "max_completion_tokens": 9,
        "stop": ["END"], "seed": 7, "response_format": {"type": "json_object"},
        "messages": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "I am Ada."}],
    });
    let reply = post_answered(&server, body, |call| {
        assert_eq!(call.prompt().len(), 2);
        assert!(call.prompt()[0].contains("Be brief."), "{:?}", call.prompt());
        let asked = &call.request;
        assert_eq!(
            (&asked["model"], &asked["temperature"], &asked["max_tokens"], &asked["stop"]),
            (&json!("m"), &json!(0.5), &json!(9), &json!(["END"]))
        );
        assert_eq!(asked["response_format"], json!({"type": "json_object"}));
        assert_eq!((&asked["seed"], asked.get("session_id")), (&json!(7), None));
        call.reply("Hello Ada.");
    })
    .await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert_eq!(reply.header("x-echoic-session"), "mine");
    assert!(reply.body["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!(
        (&reply.body["object"], &reply.body["model"]),
        (&json!("chat.completion"), &json!("m"))
    );
    let message = json!({"role": "assistant", "content": "Hello Ada.", "refusal": null});
    let choice = json!({"index": 0, "message": message, "logprobs": null, "finish_reason": "stop"});
    assert_eq!(reply.body["choices"], json!([choice]));
    let usage = &reply.body["usage"];
    assert_eq!((&usage["prompt_tokens"], &usage["total_tokens"]), (&json!(7), &json!(9)));

    // The history that the client sends is ignored in favor of the session's.
    let asking = server.request(Method::POST, ROUTE).header("x-echoic-session", "mine").json(
        &json!({"messages": [{"role": "user", "content": "I am Eve."}, {"role": "user", "content": "Who am I?"}]}),
    );
    let answer = async {
        let call = server.upstream.call().await;
        assert_eq!(
            call.prompt()[1..],
            ["user: I am Ada.", "assistant: Hello Ada.", "user: Who am I?"]
        );
        assert_eq!(call.request["model"], "gated-1");
        call.reply("Ada.");
    };
    let (reply, ()) = join(fetch(asking), answer).await;
    assert_eq!(reply.body["choices"][0]["message"]["content"], "Ada.");
    assert_eq!(
        server.transcript("mine").await,
        ["user: I am Ada.", "assistant: Hello Ada.", "user: Who am I?", "assistant: Ada."]
    );
}

#[tokio::test]
async fn turn_streams_in_chunks_and_can_be_joined() {
    let server = Server::start().await;
    let body = json!({"session_id": "s", "messages": user("hi"), "stream": true, "stream_options": {"include_usage": true}});
    let answer = async {
        let mut call = server.upstream.call().await;
        call.reasoning("reasoning_content", "hm");
        call.text("Hel");
        let mut frames = server.join("s", None).await.unwrap();
        assert_eq!(frames.until("text-delta").await.data["delta"], "Hel");
        call.text("lo");
        call.finish(json!({"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}));
        frames.until("finish").await;
    };
    let (reply, ()) = join(server.post(ROUTE, body), answer).await;
    assert_eq!(reply.header("content-type"), "text/event-stream");
    let events = events(&reply);
    let [first, thought, .., end, usage, done] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(first["object"], "chat.completion.chunk");
    assert_eq!(
        first["choices"][0]["delta"],
        json!({"role": "assistant", "content": "", "refusal": null})
    );
    assert_eq!(first["usage"], Value::Null);
    assert_eq!(thought["choices"][0]["delta"], json!({"reasoning_content": "hm"}));
    assert_eq!(end["choices"][0]["finish_reason"], "stop");
    assert_eq!((&usage["choices"], &usage["usage"]["total_tokens"]), (&json!([]), &json!(5)));
    assert_eq!(usage["usage"]["prompt_tokens_details"]["cached_tokens"], 1);
    assert_eq!(done, "[DONE]");
    let text: String = events
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(text, "Hello");
}

#[tokio::test]
async fn images_are_sent_and_stored() {
    let server = Server::start().await;
    let picture = json!({"type": "image_url", "image_url": {"url": "https://e.com/a.png"}});
    let content = json!([{"type": "text", "text": "What is it?"}, picture]);
    let body = json!({"session_id": "s", "messages": [{"role": "user", "content": content}]});
    post_answered(&server, body, |call| {
        assert_eq!(call.prompt()[1], "user: What is it? <https://e.com/a.png>");
        call.reply("A cat.");
    })
    .await;
    let data = server.get("/api/chat-sessions/s/messages").await.data();
    assert_eq!(data["messages"][0]["parts"], json!([picture]));
}

#[tokio::test]
async fn library_retry_gets_its_turn_but_repeated_text_is_new() {
    let server = Server::start().await;
    let send = |count: u32| {
        let body = json!({"session_id": "s", "messages": user("yes")});
        let request = server.request(Method::POST, ROUTE).json(&body);
        fetch(request.header("x-stainless-retry-count", count))
    };
    // A retry while the turn runs,
    let (first, again) = within_deadline(join(send(0), async {
        let call = server.upstream.call().await;
        join(send(1), async { call.reply("one") }).await.0
    }))
    .await;
    assert_eq!(first.body["choices"], again.body["choices"]);
    assert_eq!(first.body["id"], again.body["id"]);
    // and one after its end.
    let later = send(2).await;
    assert_eq!(later.body["choices"], first.body["choices"]);
    assert!(server.upstream.is_idle().await);

    let answer = async { server.upstream.call().await.reply("two") };
    let (second, ()) = join(send(0), answer).await;
    assert_eq!(second.body["choices"][0]["message"]["content"], "two");
    let said = ["user: yes", "assistant: one", "user: yes", "assistant: two"];
    assert_eq!(server.transcript("s").await, said);
    // A retry refers to the newest turn with this text.
    assert_eq!(send(1).await.body["choices"], second.body["choices"]);
}

#[tokio::test]
async fn early_failure_is_an_error_and_late_failure_ends_stream() {
    let server = Server::start().await;
    let body =
        |session: &str| json!({"session_id": session, "messages": user("hi"), "stream": true});
    let failed = |code: &str| (502, "server_error".to_owned(), json!(code), Value::Null);
    let reply = post_answered(&server, body("a"), |call| {
        call.refuse(404, json!({"error": {"message": "no such model"}}));
    })
    .await;
    assert_eq!(error(&reply), failed("provider_error"));
    assert_eq!(reply.header("x-should-retry"), "false");
    assert_eq!(server.last_message("a").await["status"], "failed");

    let slow = Server::with(&["--first-token-timeout=50ms"]).await;
    let reply = post_answered(&slow, body("b"), drop).await;
    assert_eq!((reply.status, &reply.body["error"]["code"]), (504, &json!("provider_timeout")));

    let (response, call) = open_stream(&server, body("c"), |call| call.text("half")).await;
    call.break_connection();
    assert_eq!(last_event(response).await["error"]["code"], "provider_error");
    assert_eq!(server.last_message("c").await["content"], "half");
}

#[tokio::test]
async fn busy_session_is_rejected_without_retry() {
    let server = Server::start().await;
    let session = server.session().await;
    let (_frames, _call) = server.open_turn(&session, "hi").await;
    let reply = server.post(ROUTE, json!({"session_id": session, "messages": user("and?")})).await;
    assert_eq!(
        error(&reply),
        (409, "invalid_request_error".to_owned(), json!("session_busy"), Value::Null)
    );
    assert_eq!(reply.header("x-should-retry"), "false");
}

#[tokio::test]
async fn bad_input_is_rejected_by_its_openai_name() {
    let server = Server::start().await;
    for (field, value, param) in [
        ("messages", json!(null), "messages"),
        ("messages", json!([]), "messages"),
        ("messages", json!("hi"), "messages"),
        ("messages", json!([{"content": "hi"}]), "messages[0].role"),
        ("messages", json!([{"role": "assistant", "content": "hi"}]), "messages"),
        ("messages", json!([{"role": "user", "content": ""}]), "messages"),
        (
            "messages",
            json!([{"role": "user", "content": [{"type": "input_audio"}]}]),
            "messages[0].content",
        ),
        ("temperature", json!(3), "temperature"),
        ("temperature", json!("hot"), "temperature"),
        ("top_p", json!(2), "top_p"),
        ("max_tokens", json!(0), "max_completion_tokens"),
        ("n", json!(2), "n"),
        ("tools", json!([{"type": "web_search"}]), "tools"),
        ("functions", json!([{"name": "f"}]), "functions"),
        ("logprobs", json!(true), "logprobs"),
        ("stream", json!("yes"), "stream"),
        ("session_id", json!(7), "session_id"),
        ("session_id", json!("a b"), "session_id"),
    ] {
        let mut body = json!({"session_id": "s", "messages": user("hi")});
        body[field] = value.clone();
        let actual = error(&server.post(ROUTE, body).await);
        let kind = "invalid_request_error".to_owned();
        assert_eq!(actual, (400, kind, Value::Null, json!(param)), "{field}={value}");
    }
    let nonsense = server.request(Method::POST, ROUTE).header("content-type", "application/json");
    assert_eq!(error(&fetch(nonsense.body("{")).await).0, 400);
    assert_eq!(server.get("/api/chat-sessions").await.data()["sessions"], json!([]));
    assert!(server.upstream.is_idle().await);
}

#[tokio::test]
async fn models_are_listed_and_unknown_routes_get_openai_errors() {
    let server = Server::start().await;
    let models = server.get("/v1/models").await.body;
    let gated = json!({"id": "gated-1", "object": "model", "created": 0, "owned_by": "openai"});
    assert_eq!((&models["object"], &models["data"][0]), (&json!("list"), &gated));
    assert_eq!(server.get("/v1/models/gated-1").await.body, gated);
    let actual = |reply: ApiResponse| error(&reply);
    let (status, _, code, _) = actual(server.get("/v1/models/a/b").await);
    assert_eq!((status, code), (404, json!("model_not_found")));
    let (status, _, code, _) = actual(server.post("/v1/embeddings", json!({})).await);
    assert_eq!((status, code), (404, json!("route_not_found")));
    let (status, _, code, _) = actual(server.get(ROUTE).await);
    assert_eq!((status, code), (405, json!("method_not_allowed")));
    let foreign = server.request(Method::GET, "/v1/models").header("host", "evil.example");
    assert_eq!(actual(fetch(foreign).await).2, "forbidden_host");
    // Our own routes keep their own error format.
    assert_eq!(server.get("/api/nothing").await.failure(), (404, "route_not_found"));
}

#[tokio::test]
async fn non_openai_provider_answers_stateless_requests() {
    let server = Server::with(&["--provider=demo"]).await;
    let body = json!({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "hello"}]});
    let reply = server.post(ROUTE, body).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let said = reply.body["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(said.contains("hello"), "{said}");
}

#[tokio::test]
async fn stateless_usage_is_recorded_and_counts_toward_quotas() {
    let server = Server::with(&["--quota-tokens=60"]).await;
    let usage = json!({"prompt_tokens": 30, "completion_tokens": 5});
    let answer = json!({"choices": [{"message": {"content": "hi"}}], "usage": usage});
    post_answered(&server, json!({"messages": user("hi")}), |call| call.refuse(200, answer)).await;
    // The client did not ask for usage in the stream, so its tokens are estimated.
    let streamed = json!({"messages": user("hi"), "stream": true});
    post_answered(&server, streamed.clone(), |call| call.reply("hello")).await;
    // A call that the provider rejected is not charged.
    let refused = json!({"error": {"message": "no"}});
    post_answered(&server, json!({"messages": user("hi")}), |call| call.refuse(400, refused)).await;
    // Usage is recorded before the response ends.
    let total = server.get("/api/usage").await.data()["total"].take();
    assert_eq!((&total["turns"], &total["sideCalls"]), (&json!(0), &json!(2)), "{total}");
    assert_eq!((&total["promptTokens"], &total["completionTokens"]), (&json!(37), &json!(7)));

    let (mut response, mut call) =
        open_stream(&server, streamed.clone(), |call| call.text("a")).await;
    for _ in 0..10 {
        call.text("many words ");
    }
    call.raw("data: [DONE]\n\n");
    let mut actual = Vec::new();
    while !actual.ends_with(b"[DONE]\n\n") {
        actual.extend(within_deadline(response.chunk()).await.unwrap().unwrap());
    }
    let spent = error(&server.post(ROUTE, streamed).await);
    assert_eq!((spent.0, spent.2), (429, json!("insufficient_quota")));
    call.end();
}
