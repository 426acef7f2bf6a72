//! The events of `/v1/responses`: order, sequence numbers, joining, replay and cancellation.

use crate::support::server::fetch;
use crate::support::{ProviderCall, Server, within_deadline};
use crate::v1_responses::{ROUTE, error, post_answered, response_id};
use futures::future::join;
use reqwest::{Method, Response};
use serde_json::{Value, json};

/// Parses a stream: each event is named by its type, and the last one is `[DONE]`.
fn events(text: &str) -> Vec<Value> {
    let blocks: Vec<&str> =
        text.split_terminator("\n\n").filter(|block| !block.starts_with(':')).collect();
    let (done, blocks) = blocks.split_last().unwrap();
    assert_eq!(*done, "data: [DONE]", "{text}");
    let event = |block: &&str| {
        let (name, data) = block.split_once('\n').unwrap();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(name.strip_prefix("event: "), data["type"].as_str(), "{block}");
        data
    };
    blocks.iter().map(event).collect()
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap()).collect()
}

#[track_caller]
fn assert_numbered(events: &[Value]) {
    let numbers: Vec<_> = events.iter().map(|event| event["sequence_number"].as_u64()).collect();
    let counted: Vec<_> = (0..events.len() as u64).map(Some).collect();
    assert_eq!(numbers, counted);
}

/// Sends a streaming request while the script answers. Returns all events.
async fn stream_events(
    server: &Server,
    mut body: Value,
    script: impl FnOnce(ProviderCall),
) -> Vec<Value> {
    body["stream"] = true.into();
    let reply = post_answered(server, body, script).await;
    assert_eq!(reply.header("content-type"), "text/event-stream");
    let events = events(reply.body.as_str().unwrap());
    assert_numbered(&events);
    events
}

/// The events of a stored response's stream after this sequence number.
async fn replay_events(server: &Server, id: &str, after: Option<u64>) -> Vec<Value> {
    let after = after.map(|after| format!("&starting_after={after}")).unwrap_or_default();
    let reply = server.get(&format!("{ROUTE}/{id}?stream=true{after}")).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    events(reply.body.as_str().unwrap())
}

/// Reads until the stream contains `mark`. Returns everything read.
async fn read_until(response: &mut Response, mark: &str) -> String {
    let mut read = String::new();
    while !read.contains(mark) {
        let piece = within_deadline(response.chunk()).await.unwrap().expect("the stream goes on");
        read.push_str(std::str::from_utf8(&piece).unwrap());
    }
    read
}

async fn open_stream(server: &Server, body: Value) -> Response {
    within_deadline(server.request(Method::POST, ROUTE).json(&body).send()).await.unwrap()
}

#[tokio::test]
async fn reply_events_follow_the_protocol_order() {
    let server = Server::start().await;
    let events = stream_events(&server, json!({"input": "hi", "model": "m"}), |mut call| {
        call.reasoning("reasoning_content", "hm");
        call.text("Hel");
        call.text("lo");
        call.finish(json!({"prompt_tokens": 3, "completion_tokens": 2, "completion_tokens_details": {"reasoning_tokens": 1}}));
    })
    .await;
    let mut actual = kinds(&events);
    actual.dedup();
    let expected = [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.done",
        "response.reasoning_summary_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ];
    assert_eq!(actual, expected);
    let the = |kind: &str| events.iter().rfind(|event| event["type"] == kind).unwrap().clone();

    let created = the("response.created")["response"].clone();
    assert_eq!((&created["status"], &created["output"]), (&json!("in_progress"), &json!([])));
    let response = the("response.completed")["response"].clone();
    assert_eq!(server.get(&format!("{ROUTE}/{}", response_id(&response))).await.body, response);
    assert_eq!(response["usage"]["output_tokens_details"], json!({"reasoning_tokens": 1}));
    let [thought, message] = response["output"].as_array().unwrap().as_slice() else {
        panic!("{response}")
    };
    assert_eq!(thought["summary"], json!([{"type": "summary_text", "text": "hm"}]));

    let mut added = the("response.output_item.added");
    added.as_object_mut().unwrap().remove("sequence_number");
    let item = json!({"type": "message", "id": message["id"], "role": "assistant", "status": "in_progress", "content": []});
    assert_eq!(
        added,
        json!({"type": "response.output_item.added", "output_index": 1, "item": item})
    );
    let mut delta = the("response.output_text.delta");
    delta.as_object_mut().unwrap().remove("sequence_number");
    let last = delta["delta"].as_str().unwrap();
    assert!("Hello".ends_with(last), "{delta}");
    let expected = json!({
        "type": "response.output_text.delta", "item_id": message["id"], "output_index": 1,
        "content_index": 0, "delta": last, "logprobs": [],
    });
    assert_eq!(delta, expected);
    assert_eq!(the("response.output_text.done")["text"], "Hello");
    assert_eq!(the("response.content_part.done")["part"], message["content"][0]);
    assert_eq!(&the("response.output_item.done")["item"], message);
    assert_eq!(the("response.reasoning_summary_text.delta")["summary_index"], 0);
}

#[tokio::test]
async fn background_response_continues_and_replays_same_numbers() {
    let server = Server::start().await;
    let body = json!({"input": "hi", "background": true, "stream": true});
    let mut first = open_stream(&server, body).await;
    let begun = read_until(&mut first, "response.in_progress\n").await;
    assert!(begun.contains("event: response.queued\n"), "{begun}");
    let mut call = server.upstream.call().await;
    call.text("Hel");
    let begun = begun + &read_until(&mut first, "\"Hel\"").await;
    let begun_id = begun.split("\"id\":\"resp_").nth(1).unwrap().split('"').next().unwrap();
    let route = format!("{ROUTE}/resp_{begun_id}");
    let running = server.get(&route).await.body;
    assert_eq!((&running["status"], &running["background"]), (&json!("in_progress"), &json!(true)));
    drop(first);

    let mut second =
        within_deadline(server.request(Method::GET, &format!("{route}?stream=true")).send())
            .await
            .unwrap();
    let seen = read_until(&mut second, "\"Hel\"").await;
    assert_eq!(seen, begun);
    call.text("lo");
    call.finish(json!({"prompt_tokens": 3, "completion_tokens": 2}));
    let all = seen + &within_deadline(second.text()).await.unwrap();
    let all = events(&all);
    assert_numbered(&all);
    assert_eq!(kinds(&all)[..3], ["response.created", "response.queued", "response.in_progress"]);
    assert_eq!(*kinds(&all).last().unwrap(), "response.completed");
    assert_eq!(all[0]["response"]["status"], "queued");

    let id = running["id"].as_str().unwrap();
    assert_eq!(replay_events(&server, id, None).await, all);
    for after in [0, 4, all.len() as u64 - 2] {
        assert_eq!(
            replay_events(&server, id, Some(after)).await,
            all[after as usize + 1..],
            "{after}"
        );
    }
    assert_eq!(replay_events(&server, id, Some(1000)).await, Vec::<Value>::new());
    assert_eq!(server.get(&route).await.body, all.last().unwrap()["response"]);
}

#[tokio::test]
async fn sequence_numbers_survive_restart() {
    let mut server = Server::on_file(&[]).await;
    let body = json!({"input": "hi", "background": true});
    let all = stream_events(&server, body, |mut call| {
        for piece in ["one ", "two ", "three"] {
            call.text(piece);
        }
        call.finish(json!({"prompt_tokens": 3, "completion_tokens": 3}));
    })
    .await;
    server.restart().await;
    let id = all[0]["response"]["id"].as_str().unwrap();
    assert_eq!(replay_events(&server, id, None).await, all);
    assert_eq!(replay_events(&server, id, Some(5)).await, all[6..]);
}

#[tokio::test]
async fn background_response_returns_at_once_and_is_cancelled() {
    let server = Server::start().await;
    let queued = server.post(ROUTE, json!({"input": "hi", "background": true})).await;
    assert_eq!((queued.status, &queued.body["status"]), (200, &json!("queued")));
    let route = format!("{ROUTE}/{}", response_id(&queued.body));
    let mut call = server.upstream.call().await;
    call.text("half");
    let session = queued.header("x-echoic-session").to_owned();
    // The delta must be published before the cancel, or the stored reply could be empty.
    server.join(&session, None).await.unwrap().until("text-delta").await;
    let cancelled = server.post(&format!("{route}/cancel"), json!({})).await.body;
    assert_eq!(cancelled["status"], "cancelled");
    assert_eq!(cancelled["output"][0]["content"][0]["text"], "half");
    assert_eq!(cancelled["output"][0]["status"], "incomplete");
    assert_eq!(server.post(&format!("{route}/cancel"), json!({})).await.body, cancelled);
    assert_eq!(server.get(&route).await.body, cancelled);
    let actual = server.get(&format!("{route}?stream=true")).await;
    assert_eq!(error(&actual).3, "stream");
    // The next response continues from the partial reply.
    let next = json!({"input": "go on", "previous_response_id": response_id(&cancelled)});
    post_answered(&server, next, |call| {
        assert_eq!(call.prompt()[1..], ["user: hi", "assistant: half", "user: go on"]);
        call.reply("done");
    })
    .await;
}

#[tokio::test]
async fn reply_at_its_token_limit_is_incomplete() {
    let server = Server::start().await;
    for (reason, why) in [("length", "max_output_tokens"), ("content_filter", "content_filter")] {
        let events = stream_events(&server, json!({"input": "hi"}), |mut call| {
            call.text("half");
            call.raw(format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{}},\"finish_reason\":\"{reason}\"}}]}}\n\ndata: [DONE]\n\n"));
            call.end();
        })
        .await;
        let last = events.last().unwrap();
        assert_eq!(last["type"], "response.incomplete");
        let response = &last["response"];
        assert_eq!(
            (&response["status"], &response["incomplete_details"]),
            (&json!("incomplete"), &json!({"reason": why}))
        );
        assert_eq!(response["output"][0]["status"], "incomplete");
        assert_eq!(&server.get(&format!("{ROUTE}/{}", response_id(response))).await.body, response);
    }
}

#[tokio::test]
async fn reply_that_breaks_off_ends_with_its_error() {
    let server = Server::start().await;
    let asking = async { open_stream(&server, json!({"input": "hi", "stream": true})).await };
    let answering = async {
        let mut call = server.upstream.call().await;
        call.text("half");
        call
    };
    let (mut response, call) = join(asking, answering).await;
    let begun = read_until(&mut response, "\"half\"").await;
    call.break_connection();
    let events = events(&(begun + &within_deadline(response.text()).await.unwrap()));
    assert_numbered(&events);
    let [.., done, actual, failed] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(
        (&done["type"], &done["item"]["status"]),
        (&json!("response.output_item.done"), &json!("incomplete"))
    );
    assert_eq!(
        (&actual["type"], &actual["code"], &actual["param"]),
        (&json!("error"), &json!("provider_error"), &Value::Null)
    );
    assert_eq!(failed["type"], "response.failed");
    let response = &failed["response"];
    assert_eq!(
        (&response["status"], &response["error"]["code"]),
        (&json!("failed"), &json!("server_error"))
    );
    assert_eq!(response["output"][0]["content"][0]["text"], "half");
    assert_eq!(&server.get(&format!("{ROUTE}/{}", response_id(response))).await.body, response);

    // A failure before the first token is an error response, not an event.
    let refuse = async {
        let call = server.upstream.call().await;
        call.refuse(404, json!({"error": {"message": "no such model"}}));
    };
    let body = json!({"input": "hi", "stream": true});
    let (reply, ()) = join(server.post(ROUTE, body), refuse).await;
    assert_eq!((reply.status, error(&reply).2), (502, &json!("provider_error")));
}

#[tokio::test]
async fn library_retry_reads_the_same_events() {
    let server = Server::start().await;
    let send = |count: u32| {
        let body = json!({"input": "hi", "stream": true});
        let request = server.request(Method::POST, ROUTE).json(&body);
        fetch(request.header("x-stainless-retry-count", count))
    };
    let (first, again) = within_deadline(join(send(0), async {
        let call = server.upstream.call().await;
        join(send(1), async { call.reply("one") }).await.0
    }))
    .await;
    assert_eq!(first.body, again.body);
    let first_id = |reply: &crate::support::server::ApiResponse| {
        events(reply.body.as_str().unwrap())[0]["response"]["id"].clone()
    };
    assert_eq!(first_id(&send(2).await), first_id(&first));
    assert!(server.upstream.is_idle().await);
}

fn weather() -> Value {
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    json!([{"type": "function", "name": "weather", "parameters": parameters, "strict": true}])
}

/// Calls the weather function for two cities at once.
fn call_weather(mut call: ProviderCall) {
    for (index, city) in [(0, "Oslo"), (1, "Bonn")] {
        call.tool_call(index, &format!("call-{city}"), "weather");
    }
    for (index, city) in [(0, "Oslo"), (1, "Bonn")] {
        call.arguments(index, "{\"city\":");
        call.arguments(index, &format!("\"{city}\"}}"));
    }
    call.finish_calling();
}

fn call_output(call: &str, weather: &str) -> Value {
    json!({"type": "function_call_output", "call_id": call, "output": weather})
}

/// The ids of the calls among output items.
fn call_ids(items: &Value) -> Vec<String> {
    let calls = items.as_array().unwrap().iter().filter_map(|item| item["call_id"].as_str());
    calls.map(str::to_owned).collect()
}

#[tokio::test]
async fn functions_are_called_and_outputs_continue_the_response() {
    let server = Server::start().await;
    let body = json!({"input": "Weather?", "tools": weather(), "tool_choice": {"type": "function", "name": "weather"}, "parallel_tool_calls": true});
    let events = stream_events(&server, body, |call| {
        let function =
            json!({"name": "weather", "parameters": weather()[0]["parameters"], "strict": true});
        assert_eq!(call.request["tools"], json!([{"type": "function", "function": function}]));
        assert_eq!(
            call.request["tool_choice"],
            json!({"type": "function", "function": {"name": "weather"}})
        );
        assert_eq!(call.request["parallel_tool_calls"], true);
        call_weather(call);
    })
    .await;
    let added: Vec<_> =
        events.iter().filter(|event| event["type"] == "response.output_item.added").collect();
    assert_eq!(&added[1]["output_index"], &json!(1));
    assert_eq!(
        (&added[1]["item"]["arguments"], &added[1]["item"]["status"]),
        (&json!(""), &json!("in_progress"))
    );
    let of_bonn = |kind: &str| {
        let of_it =
            |event: &&Value| event["type"] == kind && event["item_id"] == added[1]["item"]["id"];
        events.iter().filter(of_it).cloned().collect::<Vec<_>>()
    };
    let deltas = of_bonn("response.function_call_arguments.delta");
    let written: String = deltas.iter().map(|event| event["delta"].as_str().unwrap()).collect();
    assert_eq!(written, "{\"city\":\"Bonn\"}");
    let done = &of_bonn("response.function_call_arguments.done")[0];
    assert_eq!((&done["arguments"], &done["output_index"]), (&json!(written), &json!(1)));
    let response = &events.last().unwrap()["response"];
    assert_eq!((&response["status"], &response["tools"]), (&json!("completed"), &weather()));
    let calls = response["output"].as_array().unwrap();
    assert_eq!(
        (calls.len(), &calls[0]["name"], &calls[0]["type"]),
        (2, &json!("weather"), &json!("function_call"))
    );
    assert_eq!(&server.get(&format!("{ROUTE}/{}", response_id(response))).await.body, response);

    let ids = call_ids(&response["output"]);
    assert_eq!(added[1]["item"]["call_id"], ids[1]);
    let output = |city: &str, weather: &str| {
        let place = ["Oslo", "Bonn"].iter().position(|known| *known == city);
        call_output(place.map_or("call-Rome", |place| &ids[place]), weather)
    };

    // Outputs after the response,
    let chained = |input: Value| json!({"input": input, "previous_response_id": response_id(response), "tools": weather()});
    let actual = post_answered(
        &server,
        chained(json!([output("Oslo", "rain"), output("Bonn", "sun")])),
        |call| {
            let sent = call.request["messages"].as_array().unwrap();
            let [.., asking, oslo, bonn] = sent.as_slice() else { panic!("{sent:?}") };
            assert_eq!(asking["tool_calls"].as_array().unwrap().len(), 2);
            // The model gets the ids that it gave.
            assert_eq!(
                (&oslo["tool_call_id"], &oslo["content"]),
                (&json!("call-Oslo"), &json!("rain"))
            );
            assert_eq!((&bonn["role"], &bonn["content"]), (&json!("tool"), &json!("sun")));
            call.reply("Rain and sun.");
        },
    )
    .await;
    let session = actual.header("x-echoic-session").to_owned();
    assert_eq!(actual.body["output"][0]["content"][0]["text"], "Rain and sun.");
    let items = server
        .get(&format!("{ROUTE}/{}/input_items?order=asc", response_id(&actual.body)))
        .await
        .body;
    let outputs: Vec<_> =
        items["data"].as_array().unwrap().iter().map(|item| &item["output"]).collect();
    assert_eq!(outputs, ["rain", "sun"]);
    // other outputs with a user message, on a branch of their own,
    let more = json!([output("Oslo", "rain"), output("Bonn", "hail"), {"role": "user", "content": "Briefly!"}]);
    post_answered(&server, chained(more.clone()), |call| {
        let sent = call.request["messages"].as_array().unwrap();
        let [.., bonn, word] = sent.as_slice() else { panic!("{sent:?}") };
        assert_eq!((&bonn["content"], &word["content"]), (&json!("hail"), &json!("Briefly!")));
        call.reply("Wet.");
    })
    .await;
    // and outputs of a response that is not stored.
    let mut aside = chained(json!([output("Oslo", "fog"), output("Bonn", "fog")]));
    aside["store"] = false.into();
    post_answered(&server, aside, |call| {
        let sent = call.request["messages"].as_array().unwrap();
        let [.., asking, oslo, bonn] = sent.as_slice() else { panic!("{sent:?}") };
        assert_eq!(asking["tool_calls"].as_array().unwrap().len(), 2);
        assert_eq!((&oslo["content"], &bonn["content"]), (&json!("fog"), &json!("fog")));
        call.reply("Fog.");
    })
    .await;
    assert_eq!(server.transcript(&session).await.last().unwrap(), "assistant: Wet.");

    for (input, about) in [
        (json!([output("Oslo", "rain")]), ids[1].as_str()),
        (json!([output("Oslo", "rain"), {"role": "user", "content": "x"}]), &ids[1]),
        (
            json!([output("Oslo", "a"), output("Bonn", "b"), output("Rome", "c"), {"role": "user", "content": "x"}]),
            "call-Rome",
        ),
    ] {
        let reply = server.post(ROUTE, chained(input)).await;
        assert_eq!((error(&reply).0, error(&reply).3), (400, &json!("input")));
        assert!(reply.body["error"]["message"].as_str().unwrap().contains(about), "{}", reply.body);
    }
    let reply = server.post(ROUTE, json!({"input": [output("Oslo", "rain")]})).await;
    assert_eq!((error(&reply).0, error(&reply).3), (400, &json!("input")));
}

#[tokio::test]
async fn functions_work_in_conversations_and_with_full_history() {
    let server = Server::start().await;
    let conversation = server.post("/v1/conversations", json!({})).await.body["id"].clone();
    let in_it =
        |input: Value| json!({"input": input, "conversation": conversation, "tools": weather()});
    let calling = post_answered(&server, in_it(json!("Weather?")), call_weather).await;
    let ids = call_ids(&calling.body["output"]);
    let output =
        |city: &str, weather: &str| call_output(&ids[usize::from(city == "Bonn")], weather);
    let returned = json!([output("Oslo", "rain"), output("Bonn", "sun")]);
    post_answered(&server, in_it(returned), |call| {
        assert_eq!(call.request["messages"].as_array().unwrap().last().unwrap()["content"], "sun");
        call.reply("Mixed.");
    })
    .await;

    for store in [true, false] {
        let call = |city: &str| json!({"type": "function_call", "id": "fc_x", "call_id": ids[usize::from(city == "Bonn")], "name": "weather", "arguments": "{}", "status": "completed"});
        let input = json!([{"role": "user", "content": "Weather?"}, call("Oslo"), call("Bonn"), output("Oslo", "rain"), output("Bonn", "sun")]);
        let response = post_answered(&server, json!({"input": input, "store": store}), |call| {
            let sent = call.request["messages"].as_array().unwrap();
            let [.., asking, oslo, bonn] = sent.as_slice() else { panic!("{sent:?}") };
            assert_eq!(asking["tool_calls"].as_array().unwrap().len(), 2, "{store}");
            assert_eq!((&oslo["content"], &bonn["content"]), (&json!("rain"), &json!("sun")));
            call.reply("Mixed.");
        })
        .await
        .body;
        let items = server.get(&format!("{ROUTE}/{}/input_items", response_id(&response))).await;
        assert_eq!(items.status, if store { 200 } else { 404 });
        if store {
            let kinds: Vec<_> =
                items.body["data"].as_array().unwrap().iter().map(|item| &item["type"]).collect();
            assert_eq!(
                kinds,
                [
                    "function_call_output",
                    "function_call_output",
                    "function_call",
                    "function_call",
                    "message"
                ]
            );
        }
    }
}
