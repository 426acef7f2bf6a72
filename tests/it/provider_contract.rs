//! What every provider must do with what endpoints send: one suite, run once per wire format.

use crate::support::{Call, Upstream, soon};
use echoic::domain::message::FinishReason;
use echoic::domain::{Role, Usage};
use echoic::provider::openai::Endpoint;
use echoic::provider::{Event, Events, Fault, Prompt, PromptMessage, Provider, ProviderError};
use futures::StreamExt;
use serde_json::{Value, json};

fn prompt() -> Prompt {
    let message = |role, text: &str| PromptMessage { role, content: text.into() };
    Prompt {
        model: "m".to_owned(),
        messages: vec![message(Role::System, "s"), message(Role::User, "u")],
        temperature: None,
        top_p: None,
        max_output_tokens: None,
    }
}

/// Asks the endpoint and lets the script answer; what was streamed, or why nothing was.
async fn outcome(
    script: impl FnOnce(Call),
) -> Result<Vec<Result<Event, ProviderError>>, ProviderError> {
    let upstream = Upstream::start().await;
    let endpoint = Endpoint::new(&upstream.base_url, Some("sk-secret")).unwrap();
    let prompt = prompt();
    let ask = endpoint.stream(&prompt);
    let answer = async { script(upstream.call().await) };
    let (events, ()) = soon(futures::future::join(ask, answer)).await;
    let batches: Vec<_> = soon(events?.collect()).await;
    let flat = batches.into_iter().flat_map(|batch| match batch {
        Ok(events) => events.into_iter().map(Ok).collect(),
        Err(error) => vec![Err(error)],
    });
    Ok(flat.collect())
}

/// A stream that has begun and moves when it is told.
async fn opened() -> (Events, Call, Upstream) {
    let upstream = Upstream::start().await;
    let endpoint = Endpoint::new(&upstream.base_url, None).unwrap();
    let prompt = prompt();
    let begun = async {
        let mut call = upstream.call().await;
        call.raw(": begun\n\n");
        call
    };
    let (events, call) = soon(futures::future::join(endpoint.stream(&prompt), begun)).await;
    let mut events = events.unwrap();
    assert_eq!(soon(events.next()).await.unwrap().unwrap(), []);
    (events, call, upstream)
}

fn text(text: &str) -> Result<Event, ProviderError> {
    Ok(Event::Text(text.to_owned()))
}

#[tokio::test]
async fn a_reply_is_text_then_the_reason_to_finish_then_usage() {
    let told = outcome(|mut call| {
        assert_eq!(
            call.request["messages"],
            json!([{"role": "system", "content": "s"}, {"role": "user", "content": "u"}])
        );
        call.text("Hel");
        call.text("lo");
        call.finish(json!({"prompt_tokens": 5, "completion_tokens": 2}));
    })
    .await
    .unwrap();
    let said: String = told
        .iter()
        .filter_map(
            |event| if let Ok(Event::Text(text)) = event { Some(text.as_str()) } else { None },
        )
        .collect();
    assert_eq!(said, "Hello");
    let usage = Usage { prompt_tokens: 5, completion_tokens: 2, ..Usage::default() };
    assert_eq!(
        told[told.len() - 2..],
        [Ok(Event::Finish(FinishReason::Stop)), Ok(Event::Usage(usage))]
    );
}

#[tokio::test]
async fn a_cut_connection_is_an_error_after_what_came() {
    let (mut events, mut call, _upstream) = opened().await;
    call.text("half");
    assert_eq!(soon(events.next()).await.unwrap().unwrap(), [Event::Text("half".to_owned())]);
    call.cut();
    assert_eq!(soon(events.next()).await.unwrap().unwrap_err().fault, Fault::Broken);
    assert!(soon(events.next()).await.is_none());
}

#[tokio::test]
async fn a_clean_end_without_a_reason_to_finish_has_none() {
    let told = outcome(|mut call| {
        call.text("half");
        call.end();
    })
    .await
    .unwrap();
    assert_eq!(told, [text("half")]);
}

#[tokio::test]
async fn what_cannot_be_read_is_an_error_after_what_came() {
    let told = outcome(|mut call| {
        call.text("half");
        call.raw("data: {\"choices\":[{\"delta\":{\"conte\n\ndata: [DONE]\n\n");
    })
    .await
    .unwrap();
    assert_eq!(told[0], text("half"));
    assert_eq!(told[1].as_ref().unwrap_err().fault, Fault::Refused);
    assert_eq!(told.len(), 2);
}

#[tokio::test]
async fn an_error_is_an_error_whatever_it_is_wrapped_in() {
    let error = json!({"error": {"message": "overloaded", "type": "server_error"}});
    type Script = fn(Call, Value);
    let wrapped: [(&str, Script); 5] = [
        ("a status", |call, error| call.refuse(500, error)),
        ("a 200 with JSON", |call, error| call.answer("application/json", error.to_string())),
        ("JSON that claims to stream", |call, error| {
            call.answer("text/event-stream", error.to_string())
        }),
        ("a data line", |mut call, error| call.raw(format!("data: {error}\n\n"))),
        ("a named event", |mut call, error| {
            call.raw(format!("event: error\ndata: {}\n\n", error["error"]))
        }),
    ];
    for (what, script) in wrapped {
        let body = error.clone();
        let error = match outcome(move |call| script(call, body)).await {
            Err(error) => error,
            Ok(told) => told.into_iter().last().unwrap().unwrap_err(),
        };
        assert!(error.message.ends_with("overloaded"), "{what}: {error}");
        assert_eq!(error.fault, Fault::Refused, "{what}");
    }
}

#[tokio::test]
async fn credentials_are_never_shown_and_pages_of_html_are_not_repeated() {
    let shown = async |status, body| {
        outcome(move |call| call.refuse(status, body)).await.unwrap_err().message
    };
    let key = json!({"error": {"message": "Incorrect API key provided: sk-se***et"}});
    assert_eq!(shown(401, key).await, "the provider refused the server's credentials");
    assert_eq!(
        shown(502, json!("<html>secret host</html>")).await,
        "the provider answered 502: <html>secret host</html>"
    );
    let html = outcome(|call| call.answer("text/html", "<html>busy</html>")).await.unwrap();
    assert_eq!(
        html[0].as_ref().unwrap_err().message,
        "the provider sent something that cannot be read"
    );
}

#[tokio::test]
async fn a_prompt_that_is_too_long_is_told_apart() {
    let body = json!({"error": {"code": "context_length_exceeded", "message": "This model's maximum context length is 8192"}});
    let error = outcome(move |call| call.refuse(400, body)).await.unwrap_err();
    assert_eq!(error.fault, Fault::ContextTooLong);
}

#[tokio::test]
async fn one_very_large_event_in_small_pieces_is_read() {
    let big = "x".repeat(4 << 20);
    let event = format!(
        "data: {}\n\n",
        json!({"choices": [{"delta": {"content": big}, "finish_reason": "stop"}]})
    );
    let told = outcome(move |mut call| {
        for piece in event.as_bytes().chunks(1000) {
            call.raw(piece.to_vec());
        }
    })
    .await
    .unwrap();
    assert_eq!(told, [text(&"x".repeat(4 << 20)), Ok(Event::Finish(FinishReason::Stop))]);
}

#[tokio::test]
async fn letting_go_of_a_stream_hangs_up() {
    let (mut events, mut call, _upstream) = opened().await;
    call.text("a");
    assert_eq!(soon(events.next()).await.unwrap().unwrap(), [Event::Text("a".to_owned())]);
    drop(events);
    call.text("b");
    call.hung_up().await;
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_is_broken_and_its_address_is_not_shown() {
    let endpoint = Endpoint::new("http://127.0.0.1:9/v1", None).unwrap();
    let error = soon(endpoint.stream(&prompt())).await.err().unwrap();
    assert_eq!(
        (error.fault, error.message.as_str()),
        (Fault::Broken, "the provider cannot be reached")
    );
    assert_eq!(
        soon(endpoint.models()).await.unwrap_err().message,
        "the provider cannot be reached"
    );
}
