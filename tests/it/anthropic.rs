//! Anthropic as the provider: the parsing of its stream, and the result that an API client sees.

use crate::support::{ProviderCall, Server, Upstream, anthropic as claude, within_deadline};
use echoic::domain::message::FinishReason;
use echoic::domain::{Role, Usage};
use echoic::provider::anthropic::AnthropicProvider;
use echoic::provider::{
    Prompt, PromptMessage, Provider, ProviderError, ProviderErrorKind, ProviderEvent,
};
use futures::StreamExt;
use serde_json::{Value, json};

/// Calls the endpoint while the script answers. Returns the events, or the error if no stream
/// began.
async fn outcome(
    script: impl FnOnce(&mut ProviderCall) + Send,
) -> Result<Vec<Result<ProviderEvent, ProviderError>>, ProviderError> {
    outcome_of(|mut call| {
        script(&mut call);
        call.end();
    })
    .await
}

async fn outcome_of(
    script: impl FnOnce(ProviderCall),
) -> Result<Vec<Result<ProviderEvent, ProviderError>>, ProviderError> {
    let upstream = Upstream::start().await;
    let endpoint = AnthropicProvider::new(&upstream.base_url, Some("sk-ant-secret")).unwrap();
    let prompt = Prompt {
        model: "claude-sonnet-5-5".to_owned(),
        messages: vec![PromptMessage::from_text(Role::User, "u")],
        ..Prompt::default()
    };
    let answer = async { script(upstream.call().await) };
    let (events, ()) =
        within_deadline(futures::future::join(endpoint.open_stream(&prompt), answer)).await;
    let batches: Vec<_> = within_deadline(events?.collect()).await;
    let flat = batches.into_iter().flat_map(|batch| match batch {
        Ok(events) => events.into_iter().map(Ok).collect(),
        Err(error) => vec![Err(error)],
    });
    Ok(flat.collect())
}

/// The events, with adjacent deltas merged.
fn merge_deltas(actual: Vec<Result<ProviderEvent, ProviderError>>) -> Vec<ProviderEvent> {
    let mut events: Vec<ProviderEvent> = Vec::new();
    for event in actual {
        match (events.last_mut(), event.unwrap()) {
            (Some(ProviderEvent::Text(so_far)), ProviderEvent::Text(more))
            | (Some(ProviderEvent::Reasoning(so_far)), ProviderEvent::Reasoning(more)) => {
                so_far.push_str(&more)
            }
            (_, event) => events.push(event),
        }
    }
    events
}

#[tokio::test]
async fn stream_separates_reasoning_text_and_usage() {
    let actual = outcome(|call| {
        claude::begin(
            call,
            json!({"input_tokens": 12, "cache_creation_input_tokens": 160,
                "cache_read_input_tokens": 640, "output_tokens": 1}),
        );
        claude::thinking(call, &["hm ", "yes"]);
        claude::text_begins(call);
        claude::text(call, "Hel");
        claude::text(call, "lo");
        let cost = json!({"output_tokens": 95, "output_tokens_details": {"thinking_tokens": 12}});
        claude::finish(call, "end_turn", cost);
    })
    .await
    .unwrap();
    let usage = Usage {
        prompt_tokens: 812,
        cached_tokens: 640,
        completion_tokens: 95,
        reasoning_tokens: 12,
        ..Usage::default()
    };
    assert_eq!(
        merge_deltas(actual),
        [
            ProviderEvent::Reasoning("hm yes".to_owned()),
            ProviderEvent::Text("Hello".to_owned()),
            ProviderEvent::Usage(usage),
            ProviderEvent::Finish(FinishReason::Stop),
        ]
    );
}

#[tokio::test]
async fn stop_reasons_map_to_finish_reasons() {
    for (word, reason) in [
        ("end_turn", FinishReason::Stop),
        ("stop_sequence", FinishReason::Stop),
        ("max_tokens", FinishReason::Length),
        ("model_context_window_exceeded", FinishReason::Length),
        ("refusal", FinishReason::ContentFilter),
        ("tool_use", FinishReason::ToolCalls),
        ("pause_turn", FinishReason::Other),
    ] {
        let actual = outcome(|call| claude::finish(call, word, json!({"output_tokens": 1}))).await;
        assert_eq!(
            actual.unwrap().pop().unwrap().unwrap(),
            ProviderEvent::Finish(reason),
            "{word}"
        );
    }
}

#[tokio::test]
async fn unknown_events_are_ignored() {
    let actual = outcome(|call| {
        for event in [
            json!({"type": "message_resumed", "at": 7}),
            json!({"type": "content_block_start", "index": 0, "content_block": {"type": "redacted_thinking", "data": "x"}}),
            json!({"type": "content_block_delta", "index": 0, "delta": {"type": "citations_delta", "citation": {}}}),
            json!({"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": "{"}}),
        ] {
            claude::event(call, &event);
        }
        claude::reply(call, "hi");
    })
    .await
    .unwrap();
    assert_eq!(merge_deltas(actual)[0], ProviderEvent::Text("hi".to_owned()));
}

#[tokio::test]
async fn cut_stream_errors_and_bare_end_has_no_finish_reason() {
    let actual = outcome(|call| claude::text(call, "half")).await.unwrap();
    assert_eq!(actual, [Ok(ProviderEvent::Text("half".to_owned()))]);
    // The connection may break before the response headers arrive, so the error may come from
    // either place.
    let cut = match outcome_of(ProviderCall::break_connection).await {
        Ok(actual) => actual.into_iter().next_back().unwrap().unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(cut.kind, ProviderErrorKind::ConnectionFailed);
    let nonsense = outcome(|call| call.raw("data: {\"type\":\"content_bl\n\n")).await.unwrap();
    assert_eq!(nonsense[0].as_ref().unwrap_err().kind, ProviderErrorKind::BadResponse);
}

#[tokio::test]
async fn error_is_recognized_in_every_wrapping() {
    let error =
        json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}});
    type Script = fn(ProviderCall, Value);
    let wrapped: [(&str, Script); 4] = [
        ("a status", |call, error| call.refuse(529, error)),
        ("a 200 with JSON", |call, error| call.refuse(200, error)),
        ("a named event", |mut call, error| claude::event(&mut call, &error)),
        ("a gateway's own words", |mut call, error| {
            call.raw(format!("data: {}\n\n", json!({"error": error["error"]})));
        }),
    ];
    for (what, script) in wrapped {
        let body = error.clone();
        let error = match outcome_of(move |call| script(call, body)).await {
            Err(error) => error,
            Ok(actual) => actual.into_iter().next_back().unwrap().unwrap_err(),
        };
        assert!(error.message.ends_with("Overloaded"), "{what}: {error}");
        assert!(
            error.is_retryable && error.kind == ProviderErrorKind::BadResponse,
            "{what}: {error:?}"
        );
    }
}

#[tokio::test]
async fn errors_hide_credentials_and_detect_long_prompts() {
    let refused = async |status, kind: &str, message: &str| {
        let body = json!({"type": "error", "error": {"type": kind, "message": message}});
        outcome_of(move |call| call.refuse(status, body)).await.unwrap_err()
    };
    let error = refused(401, "authentication_error", "invalid x-api-key").await;
    assert_eq!(error.message, "the provider refused the server's credentials");
    let error = refused(400, "invalid_request_error", "no sk-ant-secret here").await;
    assert_eq!(error.message, "the provider answered 400: no [key] here");
    for message in [
        "prompt is too long: 208310 tokens > 200000 maximum",
        "input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000",
    ] {
        let error = refused(400, "invalid_request_error", message).await;
        assert_eq!(error.kind, ProviderErrorKind::ContextTooLong, "{message}");
    }
    let error = refused(413, "request_too_large", "Request exceeds the maximum size").await;
    assert_eq!(error.kind, ProviderErrorKind::ContextTooLong);
}

pub async fn server() -> Server {
    let upstream = Upstream::start().await;
    let url = format!("--anthropic-base-url={}", upstream.base_url);
    let flags = ["--provider=anthropic", "--anthropic-api-key=sk-ant-secret", &url];
    let mut server = Server::with(&flags).await;
    server.upstream = upstream;
    server
}

#[tokio::test]
async fn session_streams_reasoning_and_sets_cache_control() {
    let server = server().await;
    let session = server.session().await;
    let (mut frames, mut call) = server.open_turn(&session, "Who are you?").await;
    assert_eq!(call.headers["x-api-key"], "sk-ant-secret");
    assert_eq!(call.headers["anthropic-version"], "2023-06-01");
    claude::begin(&mut call, json!({"input_tokens": 3, "cache_read_input_tokens": 9}));
    claude::thinking(&mut call, &["I am?"]);
    claude::text_begins(&mut call);
    claude::text(&mut call, "Claude.");
    claude::finish(&mut call, "end_turn", json!({"output_tokens": 4}));
    assert_eq!(frames.until("reasoning-delta").await.data["delta"], "I am?");
    let usage = &frames.until("finish").await.data["messageMetadata"]["usage"];
    assert_eq!((&usage["promptTokens"], &usage["cachedTokens"]), (&json!(12), &json!(9)));
    frames.rest().await;
    let reply = server.last_message(&session).await;
    assert_eq!(reply["parts"], json!([{"type": "reasoning", "text": "I am?"}]));

    let (mut frames, mut call) = server.open_turn(&session, "Sure?").await;
    let kept = json!({"type": "ephemeral"});
    assert_eq!(call.request["system"][0]["cache_control"], kept);
    assert_eq!(
        call.request["messages"],
        json!([
            {"role": "user", "content": [{"type": "text", "text": "Who are you?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "Claude.", "cache_control": kept}]},
            {"role": "user", "content": [{"type": "text", "text": "Sure?"}]},
        ])
    );
    claude::reply(&mut call, "Sure.");
    frames.rest().await;
    assert_eq!(server.last_message(&session).await["content"], "Sure.");
}

#[tokio::test]
async fn overloaded_endpoint_is_retried_only_before_first_token() {
    let overloaded =
        json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}});
    let server = server().await;
    let session = server.session().await;
    let (mut frames, call) = server.open_turn(&session, "hi").await;
    call.refuse(529, overloaded.clone());
    let mut call = server.upstream.call().await;
    claude::begin(&mut call, json!({"input_tokens": 3}));
    claude::event(&mut call, &overloaded);
    let mut call = server.upstream.call().await;
    claude::text(&mut call, "half");
    claude::event(&mut call, &overloaded);
    let error = frames.until("error").await;
    assert_eq!(error.data["errorText"], "the provider answered: Overloaded");
    frames.rest().await;
    let reply = server.last_message(&session).await;
    assert_eq!((&reply["status"], &reply["content"]), (&json!("failed"), &json!("half")));
    assert!(server.upstream.is_idle().await);
}

#[tokio::test]
async fn models_are_listed_with_context_windows() {
    let server = server().await;
    let models = server.get("/api/models").await.data();
    assert_eq!(
        models["models"][0],
        json!({"id": "gated-1", "provider": "anthropic", "contextWindow": 200_000})
    );
}

#[tokio::test]
async fn stateless_openai_request_is_translated() {
    let server = server().await;
    let schema = json!({"type": "object", "properties": {"b": {}, "a": {}}});
    let body = json!({
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
        "model": "claude-opus-5", "reasoning_effort": "low", "stop": "END", "max_tokens": 9, "seed": 7,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
    });
    let answer = async {
        let mut call = server.upstream.call().await;
        let actual = &call.request;
        assert_eq!(
            (&actual["max_tokens"], &actual["stop_sequences"]),
            (&json!(9), &json!(["END"]))
        );
        let format = json!({"type": "json_schema", "schema": schema});
        assert_eq!(actual["output_config"], json!({"effort": "low", "format": format}));
        assert_eq!((&actual["thinking"]["type"], actual.get("seed")), (&json!("adaptive"), None));
        claude::thinking(&mut call, &["hm"]);
        claude::reply(&mut call, "{}");
    };
    let (reply, ()) =
        futures::future::join(server.post("/v1/chat/completions", body), answer).await;
    let message = &reply.body["choices"][0]["message"];
    assert_eq!((&message["content"], &message["reasoning_content"]), (&json!("{}"), &json!("hm")));
    assert_eq!(reply.body["usage"]["total_tokens"], 9);
}
