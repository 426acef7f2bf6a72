//! A provider on a real socket with a steady pace: a question that ends in a number gets that many
//! words, one every ten milliseconds and never two at once.

use super::upstream::{sse_chunk, sse_response};
use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use serde_json::{Value, json};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::{Interval, MissedTickBehavior, interval};

/// The time between two words.
pub const PACE: Duration = Duration::from_millis(10);

pub struct PacedProvider {
    pub base_url: String,
    calls: Arc<AtomicUsize>,
}

impl PacedProvider {
    pub async fn start() -> Self {
        let calls = Arc::new(AtomicUsize::new(0));
        let router =
            Router::new().route("/v1/chat/completions", post(complete)).with_state(calls.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { base_url, calls }
    }

    /// The number of requests so far.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

/// The complete reply to a question.
pub fn answer(question: &str) -> String {
    (0..length(question)).map(word).collect()
}

fn length(question: &str) -> usize {
    question.rsplit(' ').next().unwrap().parse().unwrap()
}

fn word(index: usize) -> String {
    format!("w{index} ")
}

async fn complete(State(calls): State<Arc<AtomicUsize>>, body: Bytes) -> Response {
    calls.fetch_add(1, Ordering::Relaxed);
    let request: Value = serde_json::from_slice(&body).unwrap();
    let length = length(
        request["messages"].as_array().unwrap().last().unwrap()["content"].as_str().unwrap(),
    );
    let words =
        stream::unfold((0, pace()), move |(index, mut pace): (usize, Interval)| async move {
            if index == length {
                return None;
            }
            pace.tick().await;
            let delta = json!({"choices": [{"index": 0, "delta": {"content": word(index)}}]});
            Some((sse_chunk(&delta), (index + 1, pace)))
        });
    let end = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
    let usage = json!({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": length}});
    let ending = [sse_chunk(&end), sse_chunk(&usage), Bytes::from_static(b"data: [DONE]\n\n")];
    sse_response(words.chain(stream::iter(ending)).map(Ok::<_, io::Error>))
}

fn pace() -> Interval {
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pace
}
