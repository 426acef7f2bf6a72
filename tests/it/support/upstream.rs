//! A scripted provider on a real socket: it sends nothing until a test triggers it. It implements
//! Chat Completions; for Anthropic's API see `anthropic.rs`.

use super::within_deadline;
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt};
use serde_json::{Value, json};
use std::io;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc, oneshot};

pub struct Upstream {
    pub base_url: String,
    calls: Mutex<mpsc::UnboundedReceiver<ProviderCall>>,
}

/// A request that the provider received and has not answered completely.
pub struct ProviderCall {
    pub request: Value,
    pub headers: HeaderMap,
    answer: Option<oneshot::Sender<Response>>,
    pieces: Option<mpsc::UnboundedSender<Result<Bytes, io::Error>>>,
}

impl Upstream {
    pub async fn start() -> Self {
        let (seen, calls) = mpsc::unbounded_channel();
        let router = Router::new()
            .route("/v1/chat/completions", post(complete))
            .route("/v1/messages", post(complete))
            .route("/v1/models", get(models))
            .with_state(seen);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { base_url, calls: Mutex::new(calls) }
    }

    /// Waits for the next request.
    #[track_caller]
    pub fn call(&self) -> impl Future<Output = ProviderCall> {
        within_deadline(async { self.calls.lock().await.recv().await.unwrap() })
    }

    /// Whether no request is waiting.
    pub async fn is_idle(&self) -> bool {
        self.calls.lock().await.is_empty()
    }
}

async fn models(headers: HeaderMap) -> Response {
    let entry = |id| match headers.contains_key("anthropic-version") {
        true => json!({"id": id, "type": "model", "max_input_tokens": 200_000}),
        false => json!({"id": id, "object": "model", "owned_by": "tests"}),
    };
    axum::Json(json!({"object": "list", "data": [entry("gated-1"), entry("gpt-4o")]}))
        .into_response()
}

async fn complete(
    State(seen): State<mpsc::UnboundedSender<ProviderCall>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let (answer, answered) = oneshot::channel();
    let request = serde_json::from_slice(&body).unwrap();
    let _ = seen.send(ProviderCall { request, headers, answer: Some(answer), pieces: None });
    match answered.await {
        Ok(response) => response,
        Err(_) => std::future::pending().await,
    }
}

impl ProviderCall {
    /// The prompt's messages as `role: text`, with images in angle brackets.
    pub fn prompt(&self) -> Vec<String> {
        let messages = self.request["messages"].as_array().unwrap();
        let piece = |part: &Value| match part["type"].as_str().unwrap() {
            "text" => part["text"].as_str().unwrap().to_owned(),
            _ => format!("<{}>", part["image_url"]["url"].as_str().unwrap()),
        };
        let content = |message: &Value| match &message["content"] {
            Value::Array(parts) => parts.iter().map(piece).collect::<Vec<_>>().join(" "),
            // A message with calls may have no text.
            text => text.as_str().unwrap_or_default().to_owned(),
        };
        let line = |message: &Value| {
            format!("{}: {}", message["role"].as_str().unwrap(), content(message))
        };
        messages.iter().map(line).collect()
    }

    /// Answers with a JSON body instead of a stream.
    pub fn refuse(self, status: u16, body: Value) {
        self.answer(status, "application/json", body.to_string());
    }

    /// Answers with a body of any type.
    pub fn answer(self, status: u16, content_type: &str, body: impl Into<Body>) {
        self.answer_with(status, [(header::CONTENT_TYPE, content_type.to_owned())], body);
    }

    /// Answers with these headers and a body.
    pub fn answer_with<const COUNT: usize>(
        mut self,
        status: u16,
        headers: [(HeaderName, String); COUNT],
        body: impl Into<Body>,
    ) {
        let status = StatusCode::from_u16(status).unwrap();
        let response = (status, headers, body.into()).into_response();
        let _ = self.answer.take().unwrap().send(response);
    }

    /// Sends raw bytes of the stream.
    pub fn raw(&mut self, bytes: impl Into<Bytes>) {
        self.open();
        let _ = self.pieces.as_ref().unwrap().send(Ok(bytes.into()));
    }

    fn open(&mut self) {
        let Some(answer) = self.answer.take() else { return };
        let (pieces, sent) = mpsc::unbounded_channel();
        self.pieces = Some(pieces);
        let body = stream::unfold(sent, |mut sent| async move { Some((sent.recv().await?, sent)) });
        let _ = answer.send(sse_response(body.boxed()));
    }

    fn chunk(&mut self, chunk: Value) {
        self.raw(sse_chunk(&chunk));
    }

    /// Sends a text delta.
    pub fn text(&mut self, text: &str) {
        self.chunk(
            json!({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}]}),
        );
    }

    /// Sends a reasoning delta; the field's name differs between servers.
    pub fn reasoning(&mut self, field: &str, text: &str) {
        self.chunk(json!({"choices": [{"index": 0, "delta": {field: text}}]}));
    }

    /// Starts a function call; its arguments follow.
    pub fn tool_call(&mut self, index: u32, id: &str, name: &str) {
        let function = json!({"name": name, "arguments": ""});
        let call = json!({"index": index, "id": id, "type": "function", "function": function});
        self.chunk(json!({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}));
    }

    /// Sends a delta of a call's arguments.
    pub fn arguments(&mut self, index: u32, more: &str) {
        let more = json!({"index": index, "function": {"arguments": more}});
        self.chunk(json!({"choices": [{"index": 0, "delta": {"tool_calls": [more]}}]}));
    }

    /// Ends a reply that calls functions.
    pub fn finish_calling(mut self) {
        self.chunk(json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}));
        let usage = json!({"prompt_tokens": 7, "completion_tokens": 2});
        self.chunk(json!({"choices": [], "usage": usage}));
        self.raw("data: [DONE]\n\n");
    }

    /// Ends the reply: finish reason, usage, `[DONE]`.
    pub fn finish(mut self, usage: Value) {
        self.chunk(json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}));
        self.chunk(json!({"choices": [], "usage": usage}));
        self.raw("data: [DONE]\n\n");
    }

    /// Sends a whole reply.
    pub fn reply(mut self, text: &str) {
        self.text(text);
        self.finish(json!({"prompt_tokens": 7, "completion_tokens": 2}));
    }

    /// Ends the body without a finish reason.
    pub fn end(mut self) {
        self.open();
    }

    /// Breaks the connection.
    pub fn break_connection(mut self) {
        self.open();
        let _ = self.pieces.as_ref().unwrap().send(Err(io::Error::other("cut")));
    }

    /// Waits until the server has closed the connection of a stream.
    pub async fn disconnected(&self) {
        match (&self.answer, &self.pieces) {
            (_, Some(pieces)) => within_deadline(pieces.closed()).await,
            (Some(_), None) => panic!("the call was not answered yet"),
            (None, None) => {}
        }
    }

    /// Waits until the server has closed the connection of a call without an answer.
    pub async fn abandoned(mut self) {
        within_deadline(self.answer.take().unwrap().closed()).await;
    }
}

/// One event of the stream.
pub fn sse_chunk(chunk: &Value) -> Bytes {
    format!("data: {chunk}\n\n").into()
}

/// A streaming response.
pub fn sse_response(
    body: impl Stream<Item = Result<Bytes, io::Error>> + Send + 'static,
) -> Response {
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(body)).into_response()
}
