//! Semantic recall: vectors from an embeddings endpoint are computed once and stored; without them
//! recall uses keywords only.

use crate::support::Server;
use crate::support::server::fetch;
use axum::extract::State;
use axum::http::StatusCode;
use axum::{Json, Router, routing};
use reqwest::Method;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;

/// Behavior of the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EndpointMode {
    /// Returns vectors of this length.
    Works(usize),
    Refuses,
    /// Returns one vector too few.
    Miscounts,
}

/// An embeddings endpoint whose vectors count the words of three topics.
#[derive(Clone)]
struct EmbeddingsEndpoint {
    url: String,
    mode: Arc<Mutex<EndpointMode>>,
    /// The texts that it received.
    texts: Arc<Mutex<Vec<String>>>,
}

impl EmbeddingsEndpoint {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let (mode, texts) = (Arc::new(Mutex::new(EndpointMode::Works(8))), Arc::default());
        let endpoint = Self { url, mode, texts };
        let router = Router::new()
            .route("/v1/embeddings", routing::post(embed))
            .with_state(endpoint.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        endpoint
    }

    fn set_mode(&self, mode: EndpointMode) {
        *self.mode.lock().unwrap() = mode;
    }

    /// How many texts it received since the last call.
    fn take_count(&self) -> usize {
        std::mem::take(&mut *self.texts.lock().unwrap()).len()
    }
}

const TOPICS: [&[&str]; 3] =
    [&["hens", "poultry", "chickens"], &["boat", "ship", "sailing"], &["nothing", "number"]];

async fn embed(
    State(endpoint): State<EmbeddingsEndpoint>,
    Json(body): Json<Value>,
) -> (StatusCode, Json<Value>) {
    let texts: Vec<String> = serde_json::from_value(body["input"].clone()).unwrap();
    endpoint.texts.lock().unwrap().extend(texts.clone());
    let (length, count) = match *endpoint.mode.lock().unwrap() {
        EndpointMode::Works(length) => (length, texts.len()),
        EndpointMode::Refuses => return (StatusCode::BAD_REQUEST, Json(json!({"error": "no"}))),
        EndpointMode::Miscounts => (8, texts.len() - 1),
    };
    let vector = |text: &str| {
        let mut vector = vec![0.1; length];
        for (at, words) in TOPICS.iter().enumerate() {
            vector[at] += words.iter().filter(|word| text.contains(*word)).count() as f64;
        }
        vector
    };
    let data = texts.iter().take(count).enumerate();
    let data: Vec<_> =
        data.map(|(index, text)| json!({"index": index, "embedding": vector(text)})).collect();
    (StatusCode::OK, Json(json!({"data": data})))
}

async fn recalled_ids(server: &Server, message: &str) -> Vec<String> {
    let path = "/api/chat-sessions/story/memory";
    let query = [("message", message), ("recallTokens", "150")];
    let shown = fetch(server.request(Method::GET, path).query(&query)).await.data();
    let pieces = shown["pieces"].as_array().unwrap().clone();
    let of_kind = pieces.iter().filter(|piece| piece["kind"] == "recalled");
    of_kind.map(|piece| piece["messageIds"][0].as_str().unwrap().to_owned()).collect()
}

async fn import_story(server: &Server) {
    let mut messages = vec![
        json!({"id": "hens", "role": "user", "content": "My sister keeps seven hens."}),
        json!({"id": "boat", "role": "user", "content": "We went on a boat last summer."}),
    ];
    messages.extend((0..60).map(|number| {
        let content =
            format!("There is nothing to tell of the number {number}, as ever. ").repeat(3);
        json!({"id": format!("c{number}"), "role": "assistant", "content": content})
    }));
    let file = json!({"sessions": [{"sessionId": "story", "messages": messages}]});
    server.post("/api/import", file).await.data();
}

fn flags<'a>(endpoint: &'a str, model: &'a str) -> [&'a str; 4] {
    ["--memory-strategy=recall", "--memory-tokens=600", endpoint, model]
}

#[tokio::test]
async fn paraphrased_message_is_recalled_by_meaning() {
    let endpoint = EmbeddingsEndpoint::start().await;
    let url = format!("--embeddings-url={}", endpoint.url);
    let server = Server::with(&flags(&url, "--embeddings-model=small")).await;
    import_story(&server).await;
    assert!(recalled_ids(&server, "Who has poultry?").await.contains(&"hens".to_owned()));
    // 62 messages once each, and the question.
    assert_eq!(endpoint.take_count(), 63);
    assert!(
        recalled_ids(&server, "Did anybody do some sailing?").await.contains(&"boat".to_owned())
    );
    assert_eq!(endpoint.take_count(), 1);
    let words_alone = Server::with(&["--memory-strategy=recall", "--memory-tokens=600"]).await;
    import_story(&words_alone).await;
    assert!(!recalled_ids(&words_alone, "Who has poultry?").await.contains(&"hens".to_owned()));
}

#[tokio::test]
async fn vectors_survive_restart_and_are_rebuilt_for_a_new_model() {
    let endpoint = EmbeddingsEndpoint::start().await;
    let url = format!("--embeddings-url={}", endpoint.url);
    let mut server = Server::on_file(&flags(&url, "--embeddings-model=small")).await;
    import_story(&server).await;
    let asked = "Who has poultry?";
    let first = recalled_ids(&server, asked).await;
    assert_eq!(endpoint.take_count(), 63);
    server.restart().await;
    assert_eq!(recalled_ids(&server, asked).await, first);
    assert_eq!(endpoint.take_count(), 1);
    // Another vector length under the same name: the operator replaced the model.
    endpoint.set_mode(EndpointMode::Works(5));
    // The change is noticed with the first new vector, so this query still uses the old ones.
    recalled_ids(&server, asked).await;
    assert_eq!(recalled_ids(&server, asked).await, first);
    assert!(endpoint.take_count() >= 63);
}

#[tokio::test]
async fn failing_endpoint_falls_back_to_keyword_recall() {
    let endpoint = EmbeddingsEndpoint::start().await;
    let url = format!("--embeddings-url={}", endpoint.url);
    let server = Server::with(&flags(&url, "--embeddings-model=small")).await;
    import_story(&server).await;
    for mode in [EndpointMode::Refuses, EndpointMode::Miscounts] {
        endpoint.set_mode(mode);
        assert!(
            recalled_ids(&server, "How many hens are there?").await.contains(&"hens".to_owned())
        );
        assert!(!recalled_ids(&server, "Who has poultry?").await.contains(&"hens".to_owned()));
    }
    endpoint.set_mode(EndpointMode::Works(8));
    assert!(recalled_ids(&server, "Who has poultry?").await.contains(&"hens".to_owned()));
}

#[tokio::test]
async fn url_without_a_model_stops_startup() {
    let flags = ["--provider=demo".to_owned(), "--embeddings-url=http://127.0.0.1:1/v1".to_owned()];
    let config = echoic::config::Config::from_flags(&flags).unwrap();
    let started = echoic::app::App::start(config, crate::support::server::tuning()).await;
    let refusal = started.err().unwrap().to_string();
    assert!(refusal.contains("ECHOIC_EMBEDDINGS_MODEL"), "{refusal}");
}
