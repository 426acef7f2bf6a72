//! The provider contract: one suite for every provider. The second part tests how each wire
//! format's stream is parsed.

use crate::support::{ProviderCall, Upstream, anthropic as claude, within_deadline};
use echoic::domain::message::FinishReason;
use echoic::domain::{Role, Usage};
use echoic::provider::anthropic::AnthropicProvider;
use echoic::provider::demo::DemoProvider;
use echoic::provider::openai::OpenAiProvider;
use echoic::provider::{
    Prompt, PromptMessage, Provider, ProviderError, ProviderErrorKind, ProviderEvent,
    ProviderEvents,
};
use futures::StreamExt;
use serde_json::{Value, json};

fn prompt() -> Prompt {
    prompt_with("u")
}

fn prompt_with(text: &str) -> Prompt {
    Prompt {
        model: "m".to_owned(),
        messages: vec![
            PromptMessage::from_text(Role::System, "s"),
            PromptMessage::from_text(Role::User, text),
        ],
        ..Prompt::default()
    }
}

/// An OpenAI endpoint that echoes the message in small deltas.
async fn openai() -> Box<dyn Provider> {
    let upstream = Upstream::start().await;
    let endpoint = OpenAiProvider::new(&upstream.base_url, None).unwrap();
    tokio::spawn(async move {
        loop {
            let mut call = upstream.call().await;
            let heard = call.prompt().last().unwrap().clone();
            for piece in ["I ", "heard ", "this: ", &heard] {
                call.text(piece);
            }
            call.finish(json!({"prompt_tokens": 5, "completion_tokens": 7}));
        }
    });
    Box::new(endpoint)
}

/// The same with Anthropic's API.
async fn anthropic() -> Box<dyn Provider> {
    let upstream = Upstream::start().await;
    let endpoint = AnthropicProvider::new(&upstream.base_url, None).unwrap();
    tokio::spawn(async move {
        loop {
            let mut call = upstream.call().await;
            let messages = call.request["messages"].as_array().unwrap();
            let heard = messages.last().unwrap()["content"][0]["text"].as_str().unwrap().to_owned();
            claude::begin(&mut call, json!({"input_tokens": 5, "output_tokens": 1}));
            claude::text_begins(&mut call);
            for piece in ["I ", "heard ", "this: ", &heard] {
                claude::text(&mut call, piece);
            }
            claude::finish(&mut call, "end_turn", json!({"output_tokens": 7}));
        }
    });
    Box::new(endpoint)
}

/// Its words are timed. The paused clock jumps to the next one when all tasks are idle.
async fn demo() -> Box<dyn Provider> {
    tokio::time::pause();
    Box::new(DemoProvider::default())
}

/// Runs each test of the suite against each provider, all of which echo the message.
macro_rules! contract {
    ($($provider:ident),* => $tests:tt) => {
        $(mod $provider { contract!(@run $provider $tests); })*
    };
    (@run $provider:ident [$($test:ident),* $(,)?]) => {
        $(#[tokio::test]
        async fn $test() {
            super::$test(&*super::$provider().await).await;
        })*
    };
}

contract!(openai, anthropic, demo => [
    reply_ends_with_finish_reason_and_usage,
    concurrent_replies_do_not_mix,
    dropping_a_reply_ends_only_that_reply,
    models_have_unique_ids_and_name_their_provider,
]);

/// The rest of a reply: its text, finish reasons, and usage.
async fn read_rest(events: &mut ProviderEvents) -> (String, Vec<FinishReason>, Option<Usage>) {
    let (mut said, mut ends, mut cost) = (String::new(), Vec::new(), None);
    while let Some(batch) = within_deadline(events.next()).await {
        for event in batch.unwrap() {
            match event {
                ProviderEvent::Text(text) => {
                    assert!(ends.is_empty(), "text after the end: {text}");
                    said.push_str(&text);
                }
                ProviderEvent::Finish(reason) => ends.push(reason),
                ProviderEvent::Usage(usage) => cost = Some(usage),
                other => panic!("{other:?}"),
            }
        }
    }
    (said, ends, cost)
}

async fn reply_ends_with_finish_reason_and_usage(provider: &dyn Provider) {
    for text in ["Καλημέρα 👋🏽", "a\n\nb \"c\" \\d", "data: [DONE]"] {
        let mut events = within_deadline(provider.open_stream(&prompt_with(text))).await.unwrap();
        let (said, ends, cost) = read_rest(&mut events).await;
        assert!(said.contains(text), "{said}");
        assert_eq!(ends, [FinishReason::Stop]);
        let cost = cost.expect("it says what it cost");
        assert!(cost.prompt_tokens > 0 && cost.completion_tokens > 0, "{cost:?}");
    }
}

async fn concurrent_replies_do_not_mix(provider: &dyn Provider) {
    let replies = (0..8).map(async |number| {
        let mut events =
            within_deadline(provider.open_stream(&prompt_with(&format!("<{number}>"))))
                .await
                .unwrap();
        read_rest(&mut events).await.0
    });
    for (number, said) in futures::future::join_all(replies).await.into_iter().enumerate() {
        let heard: Vec<_> = (0..8).filter(|other| said.contains(&format!("<{other}>"))).collect();
        assert_eq!(heard, [number], "{said}");
    }
}

async fn dropping_a_reply_ends_only_that_reply(provider: &dyn Provider) {
    let mut one = within_deadline(provider.open_stream(&prompt_with("one"))).await.unwrap();
    let mut two = within_deadline(provider.open_stream(&prompt_with("two"))).await.unwrap();
    within_deadline(one.next()).await.unwrap().unwrap();
    drop(one);
    // A call dropped before its response arrives does not end the other reply, either.
    drop(provider.open_stream(&prompt_with("three")));
    let (said, ends, _) = read_rest(&mut two).await;
    assert!(said.contains("two"), "{said}");
    assert_eq!(ends, [FinishReason::Stop]);
}

async fn models_have_unique_ids_and_name_their_provider(provider: &dyn Provider) {
    let models = within_deadline(provider.list_models()).await.unwrap();
    assert!(!models.is_empty());
    for model in &models {
        assert_eq!(model.provider, provider.name());
        assert!(!model.id.is_empty());
        assert_eq!(models.iter().filter(|other| other.id == model.id).count(), 1, "{}", model.id);
    }
}

/// Calls the endpoint while the script answers. Returns the events, or the error if no stream
/// began.
async fn outcome(
    script: impl FnOnce(ProviderCall),
) -> Result<Vec<Result<ProviderEvent, ProviderError>>, ProviderError> {
    let upstream = Upstream::start().await;
    let endpoint = OpenAiProvider::new(&upstream.base_url, Some("sk-secret")).unwrap();
    let prompt = prompt();
    let ask = endpoint.open_stream(&prompt);
    let answer = async { script(upstream.call().await) };
    let (events, ()) = within_deadline(futures::future::join(ask, answer)).await;
    let batches: Vec<_> = within_deadline(events?.collect()).await;
    let flat = batches.into_iter().flat_map(|batch| match batch {
        Ok(events) => events.into_iter().map(Ok).collect(),
        Err(error) => vec![Err(error)],
    });
    Ok(flat.collect())
}

/// A stream that has begun; the returned call drives it.
async fn open_stream() -> (ProviderEvents, ProviderCall, Upstream) {
    let upstream = Upstream::start().await;
    let endpoint = OpenAiProvider::new(&upstream.base_url, None).unwrap();
    let prompt = prompt();
    let begun = async {
        let mut call = upstream.call().await;
        call.raw(": begun\n\n");
        call
    };
    let (events, call) =
        within_deadline(futures::future::join(endpoint.open_stream(&prompt), begun)).await;
    let mut events = events.unwrap();
    assert_eq!(within_deadline(events.next()).await.unwrap().unwrap(), []);
    (events, call, upstream)
}

fn text(text: &str) -> Result<ProviderEvent, ProviderError> {
    Ok(ProviderEvent::Text(text.to_owned()))
}

#[tokio::test]
async fn reply_is_text_then_finish_reason_then_usage() {
    let events = outcome(|mut call| {
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
    let text: String = events
        .iter()
        .filter_map(|event| {
            if let Ok(ProviderEvent::Text(text)) = event { Some(text.as_str()) } else { None }
        })
        .collect();
    assert_eq!(text, "Hello");
    let usage = Usage { prompt_tokens: 5, completion_tokens: 2, ..Usage::default() };
    assert_eq!(
        events[events.len() - 2..],
        [Ok(ProviderEvent::Finish(FinishReason::Stop)), Ok(ProviderEvent::Usage(usage))]
    );
}

#[tokio::test]
async fn cut_connection_errors_after_the_partial_text() {
    let (mut events, mut call, _upstream) = open_stream().await;
    call.text("half");
    assert_eq!(
        within_deadline(events.next()).await.unwrap().unwrap(),
        [ProviderEvent::Text("half".to_owned())]
    );
    call.break_connection();
    assert_eq!(
        within_deadline(events.next()).await.unwrap().unwrap_err().kind,
        ProviderErrorKind::ConnectionFailed
    );
    assert!(within_deadline(events.next()).await.is_none());
}

#[tokio::test]
async fn clean_end_without_finish_reason_reports_none() {
    let events = outcome(|mut call| {
        call.text("half");
        call.end();
    })
    .await
    .unwrap();
    assert_eq!(events, [text("half")]);
}

#[tokio::test]
async fn unreadable_event_errors_after_the_partial_text() {
    let events = outcome(|mut call| {
        call.text("half");
        call.raw("data: {\"choices\":[{\"delta\":{\"conte\n\ndata: [DONE]\n\n");
    })
    .await
    .unwrap();
    assert_eq!(events[0], text("half"));
    assert_eq!(events[1].as_ref().unwrap_err().kind, ProviderErrorKind::BadResponse);
    assert_eq!(events.len(), 2);
}

#[tokio::test]
async fn error_is_recognized_in_every_wrapping() {
    let error = json!({"error": {"message": "overloaded", "type": "server_error"}});
    type Script = fn(ProviderCall, Value);
    let wrapped: [(&str, Script); 5] = [
        ("a status", |call, error| call.refuse(500, error)),
        ("a 200 with JSON", |call, error| call.answer(200, "application/json", error.to_string())),
        ("JSON that claims to stream", |call, error| {
            call.answer(200, "text/event-stream", error.to_string())
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
            Ok(events) => events.into_iter().last().unwrap().unwrap_err(),
        };
        assert!(error.message.ends_with("overloaded"), "{what}: {error}");
        assert_eq!(error.kind, ProviderErrorKind::BadResponse, "{what}");
    }
}

#[tokio::test]
async fn errors_never_show_credentials() {
    let shown = async |status, sentence: &str| {
        let body = json!({"error": {"message": sentence}});
        outcome(move |call| call.refuse(status, body)).await.unwrap_err().message
    };
    // The body of an authentication error may contain the key, so not even its message is passed
    // on.
    for status in [401, 403] {
        let message = shown(status, "Incorrect API key provided: sk-se***et").await;
        assert_eq!(message, "the provider refused the server's credentials");
    }
    assert_eq!(
        shown(500, "no quota for sk-secret or sk-other at https://10.0.0.7/admin, sorry").await,
        "the provider answered 500: no quota for [key] or […] at […] sorry"
    );
}

#[tokio::test]
async fn html_error_page_is_not_repeated() {
    let page = "<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body>\
                <h1>proxy-7.internal</h1><pre>upstream 10.0.0.7:8000</pre></body></html>";
    let html = "text/html; charset=utf-8";
    for status in [400, 404, 429, 500, 502, 503] {
        let error = outcome(|call| call.answer(status, html, page)).await.unwrap_err();
        assert_eq!(error.message, format!("the provider answered {status}"));
        assert_eq!(error.kind, ProviderErrorKind::BadResponse);
    }
    let error = outcome(|call| call.answer(401, html, page)).await.unwrap_err();
    assert_eq!(error.message, "the provider refused the server's credentials");
    // Nor does HTML with status 200, whatever its content type.
    for kind in [html, "text/event-stream", "application/json"] {
        let events = outcome(|call| call.answer(200, kind, page)).await.unwrap();
        let [Err(error)] = events.as_slice() else { panic!("{kind}: {events:?}") };
        assert_eq!(error.message, "the provider's response could not be parsed", "{kind}");
        assert_eq!(error.kind, ProviderErrorKind::BadResponse, "{kind}");
    }
}

#[tokio::test]
async fn too_long_prompt_is_recognized() {
    let body = json!({"error": {"code": "context_length_exceeded", "message": "This model's maximum context length is 8192"}});
    let error = outcome(move |call| call.refuse(400, body)).await.unwrap_err();
    assert_eq!(error.kind, ProviderErrorKind::ContextTooLong);
}

#[tokio::test]
async fn large_event_in_small_chunks_is_read() {
    let big = "x".repeat(4 << 20);
    let event = format!(
        "data: {}\n\n",
        json!({"choices": [{"delta": {"content": big}, "finish_reason": "stop"}]})
    );
    let events = outcome(move |mut call| {
        for piece in event.as_bytes().chunks(1000) {
            call.raw(piece.to_vec());
        }
    })
    .await
    .unwrap();
    assert_eq!(events, [text(&"x".repeat(4 << 20)), Ok(ProviderEvent::Finish(FinishReason::Stop))]);
}

#[tokio::test]
async fn dropping_the_stream_closes_the_connection() {
    let (mut events, mut call, _upstream) = open_stream().await;
    call.text("a");
    assert_eq!(
        within_deadline(events.next()).await.unwrap().unwrap(),
        [ProviderEvent::Text("a".to_owned())]
    );
    drop(events);
    call.text("b");
    call.disconnected().await;
}

#[tokio::test]
async fn unreachable_endpoint_is_an_error_without_its_address() {
    let endpoint = OpenAiProvider::new("http://127.0.0.1:9/v1", None).unwrap();
    let error = within_deadline(endpoint.open_stream(&prompt())).await.err().unwrap();
    assert_eq!(
        (error.kind, error.message.as_str()),
        (ProviderErrorKind::ConnectionFailed, "the provider cannot be reached")
    );
    assert_eq!(
        within_deadline(endpoint.list_models()).await.unwrap_err().message,
        "the provider cannot be reached"
    );
}
