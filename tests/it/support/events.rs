//! A client of the event stream.

use super::{Server, within_deadline};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use reqwest::{Method, Response};
use serde_json::Value;

/// A listener that has received its first `sync`, after which no event is missed.
pub struct EventListener {
    body: BoxStream<'static, reqwest::Result<Bytes>>,
    buffer: String,
    /// The first event.
    pub sync: Value,
}

impl EventListener {
    /// Subscribes at a server; `query` is empty or begins with `?`.
    pub async fn of(server: &Server, query: &str) -> Self {
        let request = server.request(Method::GET, &format!("/api/events{query}"));
        Self::opened(within_deadline(request.send()).await.unwrap()).await
    }

    /// Reads a stream that was requested already.
    pub async fn opened(response: Response) -> Self {
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let body = response.bytes_stream().boxed();
        let mut events = Self { body, buffer: String::new(), sync: Value::Null };
        events.sync = events.next().await;
        assert_eq!(events.sync["type"], "sync", "{}", events.sync);
        events
    }

    /// The next event; comments are skipped.
    pub async fn next(&mut self) -> Value {
        loop {
            let block = self.block().await.expect("the stream goes on");
            if !block.starts_with(':') {
                return parse(&block);
            }
        }
    }

    /// Waits for a comment, which is the heartbeat.
    pub async fn wait_for_comment(&mut self) {
        while !self.block().await.expect("the stream goes on").starts_with(':') {}
    }

    /// Waits for the end of the stream.
    pub async fn end(&mut self) {
        while self.block().await.is_some() {}
    }

    /// Type and action, or type and role, of the next `count` events.
    pub async fn next_kinds(&mut self, count: usize) -> Vec<String> {
        let mut kinds = Vec::new();
        for _ in 0..count {
            kinds.push(event_kind(&self.next().await));
        }
        kinds
    }

    async fn block(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.buffer.split_once("\n\n") {
                let block = block.to_owned();
                self.buffer = rest.to_owned();
                return Some(block);
            }
            let bytes = within_deadline(self.body.next()).await.transpose().unwrap()?;
            self.buffer.push_str(std::str::from_utf8(&bytes).unwrap());
        }
    }
}

/// Parses an event and asserts that its name is its type.
pub fn parse(block: &str) -> Value {
    let (name, data) = block.split_once('\n').expect("an event line and a data line");
    let data = data.strip_prefix("data: ").expect("a data line");
    let data: Value = serde_json::from_str(data).unwrap();
    assert_eq!(name.strip_prefix("event: "), data["type"].as_str(), "{block}");
    data
}

/// Type and action, or type and role, of an event.
pub fn event_kind(event: &Value) -> String {
    let of = event["action"].as_str().or(event["message"]["role"].as_str());
    format!("{} {}", event["type"].as_str().unwrap(), of.unwrap_or_default()).trim().to_owned()
}
