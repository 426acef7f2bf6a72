//! `/v1/responses`: creation, chaining, storage, deletion. For its events see
//! `v1_responses_stream.rs`.

use crate::support::server::{ApiResponse, fetch};
use crate::support::{ProviderCall, Server, within_deadline};
use futures::future::join;
use reqwest::Method;
use serde_json::{Value, json};

pub const ROUTE: &str = "/v1/responses";

/// Sends a request while the script answers.
pub async fn post_answered(
    server: &Server,
    body: Value,
    script: impl FnOnce(ProviderCall),
) -> ApiResponse {
    let answer = async { script(server.upstream.call().await) };
    let reply = join(server.post(ROUTE, body), answer).await.0;
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply
}

/// Sends a request that gets this reply.
pub async fn create_response(server: &Server, body: Value, text: &str) -> Value {
    post_answered(server, body, |call| call.reply(text)).await.body
}

pub fn response_id(response: &Value) -> &str {
    response["id"].as_str().unwrap()
}

/// The text of a response.
fn text(response: &Value) -> &str {
    response["output"].as_array().unwrap().last().unwrap()["content"][0]["text"].as_str().unwrap()
}

/// Status, type, code and parameter of an error in OpenAI's format.
#[track_caller]
pub fn error(reply: &ApiResponse) -> (u16, &str, &Value, &Value) {
    let error = &reply.body["error"];
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{}", reply.body);
    (reply.status, error["type"].as_str().unwrap(), &error["code"], &error["param"])
}

const REFUSED: &str = "invalid_request_error";

async fn the_only_session(server: &Server) -> String {
    let sessions = server.get("/api/chat-sessions").await.data()["sessions"].clone();
    assert_eq!(sessions.as_array().unwrap().len(), 1, "{sessions}");
    sessions[0]["sessionId"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn response_is_a_turn_in_its_own_session_and_readable() {
    let server = Server::start().await;
    let body = json!({
        "model": "m", "input": "I am Ada.", "instructions": "Be brief.", "temperature": 0.5,
        "max_output_tokens": 9, "metadata": {"topic": "names"}, "user": "u", "truncation": "auto",
        "reasoning": {"effort": "low"}, "text": {"verbosity": "low"},
    });
    let reply = post_answered(&server, body, |call| {
        assert!(call.prompt()[0].contains("Be brief."), "{:?}", call.prompt());
        assert_eq!(call.prompt()[1..], ["user: I am Ada."]);
        let sent = &call.request;
        assert_eq!((&sent["model"], &sent["temperature"]), (&json!("m"), &json!(0.5)));
        assert_eq!((&sent["max_tokens"], &sent["user"]), (&json!(9), &json!("u")));
        assert_eq!((&sent["reasoning_effort"], &sent["verbosity"]), (&json!("low"), &json!("low")));
        assert_eq!((sent.get("metadata"), sent.get("input")), (None, None));
        call.reply("Hello Ada.");
    })
    .await;
    let session = the_only_session(&server).await;
    assert_eq!(reply.header("x-echoic-session"), session);
    assert_eq!(server.transcript(&session).await, ["user: I am Ada.", "assistant: Hello Ada."]);
    let messages = server.get(&format!("/api/chat-sessions/{session}/messages")).await.data();
    let stored = &messages["messages"][1];

    let response = &reply.body;
    let echoed = json!({
        "background": false, "conversation": null, "frequency_penalty": 0.0,
        "instructions": "Be brief.", "max_output_tokens": 9, "max_tool_calls": null,
        "metadata": {"topic": "names"}, "model": "m", "parallel_tool_calls": true,
        "presence_penalty": 0.0, "previous_response_id": null, "prompt_cache_key": null,
        "reasoning": {"effort": "low"}, "safety_identifier": null, "service_tier": "default",
        "store": true, "temperature": 0.5, "text": {"format": {"type": "text"}, "verbosity": "low"},
        "tool_choice": "auto", "tools": [], "top_logprobs": 0, "top_p": 1.0, "truncation": "auto",
        "user": "u",
    });
    let said = json!({
        "object": "response", "status": "completed", "error": null, "incomplete_details": null,
        "usage": {
            "input_tokens": 7, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": 2, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 9,
        },
        "output": [{
            "type": "message", "id": format!("msg_{}", stored["id"].as_str().unwrap()),
            "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": "Hello Ada.", "annotations": [], "logprobs": []}],
        }],
    });
    let mut rest = response.clone();
    for (name, value) in echoed.as_object().unwrap().iter().chain(said.as_object().unwrap()) {
        assert_eq!(&response[name], value, "{name}");
        rest.as_object_mut().unwrap().remove(name);
    }
    let left: Vec<_> = rest.as_object().unwrap().keys().cloned().collect();
    assert_eq!(left, ["completed_at", "created_at", "id"]);
    assert!(response["completed_at"].as_i64() >= response["created_at"].as_i64());
    assert!(response_id(response).starts_with("resp_"));
    assert_eq!(&server.get(&format!("{ROUTE}/{}", response_id(response))).await.body, response);
}

#[tokio::test]
async fn chained_response_branches_without_earlier_instructions() {
    let server = Server::start().await;
    let first =
        create_response(&server, json!({"input": "one", "instructions": "Shout."}), "ONE").await;
    let after = |input: &str, response: &Value| json!({"input": input, "previous_response_id": response_id(response)});
    let second = post_answered(&server, after("two", &first), |call| {
        assert!(!call.prompt()[0].contains("Shout."), "{:?}", call.prompt());
        assert_eq!(call.prompt()[1..], ["user: one", "assistant: ONE", "user: two"]);
        call.reply("second");
    })
    .await
    .body;
    assert_eq!(second["previous_response_id"], first["id"]);
    let third = post_answered(&server, after("three", &first), |call| {
        assert_eq!(call.prompt()[1..], ["user: one", "assistant: ONE", "user: three"]);
        call.reply("third");
    })
    .await
    .body;
    post_answered(&server, after("four", &second), |call| {
        let expected =
            ["user: one", "assistant: ONE", "user: two", "assistant: second", "user: four"];
        assert_eq!(call.prompt()[1..], expected);
        call.reply("fourth");
    })
    .await;
    assert_eq!(text(&server.get(&format!("{ROUTE}/{}", response_id(&third))).await.body), "third");
    the_only_session(&server).await;
}

#[tokio::test]
async fn conversation_continues_in_each_dialect_and_is_seen_in_all() {
    let server = Server::start().await;
    let conversation = server.post("/v1/conversations", json!({})).await.body["id"].clone();
    let session = conversation.as_str().unwrap().strip_prefix("conv_").unwrap().to_owned();
    let one =
        create_response(&server, json!({"input": "one", "conversation": conversation}), "1").await;
    assert_eq!(one["conversation"], json!({"id": conversation}));
    server.turn(&session, "two", "2").await;
    let completion =
        json!({"session_id": session, "messages": [{"role": "user", "content": "three"}]});
    let answer = async { server.upstream.call().await.reply("3") };
    join(server.post("/v1/chat/completions", completion), answer).await;
    let by_object = json!({"input": "four", "conversation": {"id": conversation}});
    let four = post_answered(&server, by_object, |call| {
        let before = [
            "user: one",
            "assistant: 1",
            "user: two",
            "assistant: 2",
            "user: three",
            "assistant: 3",
            "user: four",
        ];
        assert_eq!(call.prompt()[1..], before);
        call.reply("4");
    })
    .await
    .body;

    let said = [
        "user: one",
        "assistant: 1",
        "user: two",
        "assistant: 2",
        "user: three",
        "assistant: 3",
        "user: four",
        "assistant: 4",
    ];
    assert_eq!(server.transcript(&session).await, said);
    let items = server
        .get(&format!(
            "/v1/conversations/{session_id}/items?order=asc",
            session_id = conversation.as_str().unwrap()
        ))
        .await
        .body;
    let describe_item = |item: &Value| {
        format!(
            "{}: {}",
            item["role"].as_str().unwrap(),
            item["content"][0]["text"].as_str().unwrap()
        )
    };
    let there: Vec<_> = items["data"].as_array().unwrap().iter().map(describe_item).collect();
    assert_eq!(there, said);
    // The same item, read from the conversation and from the response.
    assert_eq!(items["data"][7], four["output"][0]);
    let ui = server.get(&format!("/api/chat-sessions/{session}/messages?format=ui")).await.data();
    assert_eq!(ui["messages"].as_array().unwrap().len(), said.len());
    let listed = server.get("/api/chat-sessions").await.data();
    assert_eq!(listed["sessions"][0]["sessionId"], session);
}

#[tokio::test]
async fn several_items_are_stored_and_listed_as_response_input() {
    let server = Server::start().await;
    let picture = json!({"type": "input_image", "image_url": "https://e.com/a.png"});
    let input = json!([
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "one"}]},
        {"type": "reasoning", "id": "rs_x", "summary": []},
        {"type": "message", "id": "msg_x", "status": "completed", "role": "assistant", "content": [{"type": "output_text", "text": "1", "annotations": []}]},
        {"role": "user", "content": [{"type": "input_text", "text": "What is it?"}, picture]},
    ]);
    let response = post_answered(&server, json!({"input": input}), |call| {
        let asked = [
            "system: Be brief.",
            "user: one",
            "assistant: 1",
            "user: What is it? <https://e.com/a.png>",
        ];
        assert_eq!(call.prompt()[1..], asked);
        call.reply("A cat.");
    })
    .await
    .body;
    let session = the_only_session(&server).await;
    assert_eq!(server.transcript(&session).await.len(), 5);
    assert_eq!(server.get(&format!("/api/chat-sessions/{session}")).await.data()["title"], "one");

    let route = format!("{ROUTE}/{}/input_items", response_id(&response));
    let list = server.get(&route).await.body;
    let texts = |list: &Value| -> Vec<String> {
        let texts = list["data"].as_array().unwrap().iter();
        texts.map(|item| item["content"][0]["text"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(texts(&list), ["What is it?", "1", "one", "Be brief."]);
    assert_eq!((&list["object"], &list["has_more"]), (&json!("list"), &json!(false)));
    let first = server.get(&format!("{route}?order=asc&limit=3")).await.body;
    assert_eq!(
        (texts(&first), &first["has_more"]),
        (vec!["Be brief.".into(), "one".into(), "1".into()], &json!(true))
    );
    let after = first["last_id"].as_str().unwrap();
    let rest = server.get(&format!("{route}?order=asc&limit=3&after={after}")).await.body;
    assert_eq!((texts(&rest), &rest["has_more"]), (vec!["What is it?".into()], &json!(false)));
    assert_eq!(rest["data"][0]["content"][1]["image_url"], "https://e.com/a.png");

    // One bad item keeps all of them from being stored.
    let bad =
        json!({"input": [{"role": "user", "content": "fine"}, {"role": "robot", "content": "x"}]});
    assert_eq!(
        error(&server.post(ROUTE, bad).await),
        (400, REFUSED, &Value::Null, &json!("input[1].role"))
    );
    the_only_session(&server).await;
}

#[tokio::test]
async fn schema_reaches_the_provider_in_its_own_order() {
    let server = Server::start().await;
    let body = r#"{"input": "hi", "text": {"format": {"type": "json_schema", "name": "n", "strict": true, "schema": {"z": 1, "a": 2}}}}"#;
    let asking =
        server.request(Method::POST, ROUTE).header("content-type", "application/json").body(body);
    let answer = async {
        let call = server.upstream.call().await;
        let format = json!({"type": "json_schema", "json_schema": {"name": "n", "strict": true, "schema": {"z": 1, "a": 2}}});
        assert_eq!(call.request["response_format"], format);
        call.reply("{}");
    };
    let (reply, ()) = join(fetch(asking), answer).await;
    assert_eq!(reply.body["text"]["format"]["name"], "n");
}

#[tokio::test]
async fn unstored_response_is_stored_nowhere_even_when_chained() {
    let server = Server::start().await;
    let input = json!([{"role": "user", "content": "one"}, {"role": "assistant", "content": "1"}, {"role": "user", "content": "two"}]);
    let body = json!({"store": false, "input": input, "instructions": "Be brief."});
    let alone = post_answered(&server, body, |call| {
        assert_eq!(call.prompt(), ["system: Be brief.", "user: one", "assistant: 1", "user: two"]);
        call.reply("2");
    })
    .await;
    assert_eq!((text(&alone.body), &alone.body["store"]), ("2", &json!(false)));
    assert_eq!(server.get(&format!("{ROUTE}/{}", response_id(&alone.body))).await.status, 404);
    assert_eq!(server.get("/api/chat-sessions").await.data()["sessions"], json!([]));

    let first = create_response(&server, json!({"input": "I am Ada."}), "Hello.").await;
    let aside =
        json!({"store": false, "input": "Who am I?", "previous_response_id": response_id(&first)});
    post_answered(&server, aside, |call| {
        assert_eq!(call.prompt()[1..], ["user: I am Ada.", "assistant: Hello.", "user: Who am I?"]);
        call.reply("Ada.");
    })
    .await;
    let session = the_only_session(&server).await;
    assert_eq!(server.transcript(&session).await, ["user: I am Ada.", "assistant: Hello."]);

    // In a conversation the messages are stored anyway; only the response is not.
    let conversation = format!("conv_{session}");
    let unkept = json!({"store": false, "input": "bye", "conversation": conversation});
    let unkept = create_response(&server, unkept, "Bye.").await;
    assert_eq!(server.transcript(&session).await.len(), 4);
    assert_eq!(server.get(&format!("{ROUTE}/{}", response_id(&unkept))).await.status, 404);
}

#[tokio::test]
async fn busy_conversation_is_locked_and_not_retried() {
    let server = Server::start().await;
    let first = create_response(&server, json!({"input": "one"}), "1").await;
    let session = the_only_session(&server).await;
    let (_frames, _call) = server.open_turn(&session, "hi").await;
    for body in [
        json!({"input": "and?", "conversation": format!("conv_{session}")}),
        json!({"input": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}], "conversation": format!("conv_{session}")}),
        json!({"input": "and?", "previous_response_id": response_id(&first)}),
    ] {
        let reply = server.post(ROUTE, body).await;
        let locked = (400, REFUSED, &json!("conversation_locked"), &json!("conversation"));
        assert_eq!(error(&reply), locked);
        assert_eq!(reply.header("x-should-retry"), "false");
    }
    assert_eq!(server.transcript(&session).await.len(), 3);
}

#[tokio::test]
async fn library_retry_gets_the_same_response() {
    let server = Server::start().await;
    let send = |count: u32| {
        let body = json!({"input": [{"role": "user", "content": "one"}, {"role": "user", "content": "yes"}]});
        let request = server.request(Method::POST, ROUTE).json(&body);
        fetch(request.header("x-stainless-retry-count", count))
    };
    // A retry while the turn runs,
    let (first, again) = within_deadline(join(send(0), async {
        let call = server.upstream.call().await;
        join(send(1), async { call.reply("fine") }).await.0
    }))
    .await;
    assert_eq!(first.body, again.body);
    // and one after its end.
    assert_eq!(send(2).await.body, first.body);
    assert!(server.upstream.is_idle().await);
    let session = the_only_session(&server).await;
    assert_eq!(server.transcript(&session).await, ["user: one", "user: yes", "assistant: fine"]);
    // Without the retry header the same input is a new turn.
    let answer = async { server.upstream.call().await.reply("fine") };
    assert_ne!(join(send(0), answer).await.0.body["id"], first.body["id"]);
}

#[tokio::test]
async fn deleted_response_is_gone_with_its_own_session() {
    let server = Server::start().await;
    let delete = async |response: &Value| {
        server.delete(&format!("{ROUTE}/{}", response_id(response))).await.body
    };
    let alone = create_response(&server, json!({"input": "one"}), "1").await;
    let deleted = json!({"id": response_id(&alone), "object": "response", "deleted": true});
    assert_eq!(delete(&alone).await, deleted);
    assert_eq!(server.get(&format!("{ROUTE}/{}", response_id(&alone))).await.status, 404);
    assert_eq!(server.get("/api/chat-sessions").await.data()["sessions"], json!([]));

    let first = create_response(&server, json!({"input": "one"}), "1").await;
    let second = json!({"input": "two", "previous_response_id": response_id(&first)});
    let second = create_response(&server, second, "2").await;
    delete(&first).await;
    let session = the_only_session(&server).await;
    assert_eq!(server.transcript(&session).await.len(), 4);
    assert_eq!(text(&server.get(&format!("{ROUTE}/{}", response_id(&second))).await.body), "2");
    server.delete(&format!("/api/chat-sessions/{session}")).await.data();
    assert_eq!(server.get(&format!("{ROUTE}/{}", response_id(&second))).await.status, 404);
}

#[tokio::test]
async fn bad_input_is_rejected_by_its_openai_name() {
    let server = Server::start().await;
    let long = json!({"k": "v".repeat(513)});
    let none = &Value::Null;
    for (body, code, param) in [
        (json!({}), none, json!("input")),
        (json!({"input": null}), none, json!("input")),
        (json!({"input": 7}), none, json!("input")),
        (json!({"input": ""}), none, json!("input")),
        (json!({"input": []}), none, json!("input")),
        (json!({"input": [{"role": "assistant", "content": "x"}]}), none, json!("input")),
        (json!({"input": [{"type": "item_reference", "id": "x"}]}), none, json!("input[0].id")),
        (json!({"input": [{"type": "item_reference"}]}), none, json!("input[0].id")),
        (json!({"input": ["x"]}), none, json!("input[0]")),
        (
            json!({"input": [{"role": "user", "content": "x"}, {"role": "user", "content": " "}]}),
            none,
            json!("input[1].content"),
        ),
        (json!({"input": "x", "parallel_tool_calls": "yes"}), none, json!("parallel_tool_calls")),
        (json!({"input": "x", "user": 7}), none, json!("user")),
        (json!({"input": "x", "presence_penalty": "a"}), none, json!("presence_penalty")),
        (
            json!({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}),
            none,
            json!("input[0].content"),
        ),
        (json!({"input": "x", "odd": 1}), &json!("unknown_parameter"), json!("odd")),
        (
            json!({"input": "x", "conversation": "conv_a", "previous_response_id": "resp_b"}),
            &json!("mutually_exclusive_parameters"),
            Value::Null,
        ),
        (json!({"input": "x", "conversation": "a"}), none, json!("conversation")),
        (json!({"input": "x", "previous_response_id": "b"}), none, json!("previous_response_id")),
        (
            json!({"input": "x", "previous_response_id": "resp_none"}),
            &json!("previous_response_not_found"),
            json!("previous_response_id"),
        ),
        (json!({"input": "x", "tools": [{"type": "web_search"}]}), none, json!("tools")),
        (
            json!({"input": "x", "tools": [{"type": "mcp", "server_url": "https://e.com"}]}),
            none,
            json!("tools"),
        ),
        (json!({"input": "x", "prompt": {"id": "p"}}), none, json!("prompt")),
        (json!({"input": "x", "store": "yes"}), none, json!("store")),
        (json!({"input": "x", "store": false, "background": true}), none, json!("background")),
        (json!({"input": "x", "temperature": 3}), none, json!("temperature")),
        (json!({"input": "x", "top_p": 2}), none, json!("top_p")),
        (json!({"input": "x", "max_output_tokens": 0}), none, json!("max_output_tokens")),
        (json!({"input": "x", "truncation": "odd"}), none, json!("truncation")),
        (json!({"input": "x", "metadata": long}), none, json!("metadata")),
        (json!({"input": "x", "instructions": 7}), none, json!("instructions")),
        (
            json!({"input": "x", "text": {"format": {"type": "odd"}}}),
            none,
            json!("text.format.type"),
        ),
        (
            json!({"input": "x", "text": {"format": {"type": "json_schema", "name": "n"}}}),
            none,
            json!("text.format.schema"),
        ),
    ] {
        let reply = server.post(ROUTE, body.clone()).await;
        assert_eq!(error(&reply), (400, REFUSED, code, &param), "{body}");
    }
    let reference = json!({"input": [{"type": "item_reference", "id": "msg_none"}]});
    let reply = server.post(ROUTE, reference).await;
    assert_eq!(error(&reply), (404, REFUSED, &json!("message_not_found"), none));
    let reply = server.post(ROUTE, json!({"input": "x", "conversation": "conv_none"})).await;
    assert_eq!(error(&reply), (404, REFUSED, &json!("session_not_found"), none));
    assert!(server.upstream.is_idle().await);
    assert_eq!(server.get("/api/chat-sessions").await.data()["sessions"], json!([]));

    let sync = create_response(&server, json!({"input": "x"}), "y").await;
    let route = format!("{ROUTE}/{}", response_id(&sync));
    for (path, param) in [
        (format!("{route}?stream=true"), "stream"),
        (format!("{route}?starting_after=1"), "starting_after"),
        (format!("{route}/input_items?limit=101"), "limit"),
        (format!("{route}/input_items?after=x"), "after"),
        (format!("{route}/input_items?after=msg_none"), "after"),
    ] {
        assert_eq!(error(&server.get(&path).await), (400, REFUSED, none, &json!(param)), "{path}");
    }
    let reply = server.post(&format!("{route}/cancel"), json!({})).await;
    assert_eq!(error(&reply), (400, REFUSED, none, &json!("response_id")));
    let reply = server.get(&format!("{ROUTE}/resp_none")).await;
    assert_eq!(error(&reply), (404, REFUSED, &json!("response_not_found"), none));
}

#[tokio::test]
async fn failed_reply_is_an_error_and_readable_as_failed_response() {
    let server = Server::start().await;
    let refuse = async {
        let refused = json!({"error": {"message": "no such model"}});
        server.upstream.call().await.refuse(404, refused);
    };
    let (reply, ()) = join(server.post(ROUTE, json!({"input": "hi"})), refuse).await;
    assert_eq!((reply.status, &reply.body["error"]["code"]), (502, &json!("provider_error")));
    assert_eq!(reply.header("x-should-retry"), "false");
    let session = the_only_session(&server).await;
    assert_eq!(server.last_message(&session).await["status"], "failed");

    // A background response reports the failure in its status.
    let queued = server.post(ROUTE, json!({"input": "hi", "background": true})).await;
    server.upstream.call().await.refuse(404, json!({"error": {"message": "no such model"}}));
    if let Some(mut frames) = server.join(queued.header("x-echoic-session"), None).await {
        frames.rest().await;
    }
    let failed = server.get(&format!("{ROUTE}/{}", response_id(&queued.body))).await.body;
    assert_eq!(
        (&failed["status"], &failed["error"]["code"]),
        (&json!("failed"), &json!("server_error"))
    );
}
