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
    /// Refuses requests with more texts than this, with this status.
    LimitsTexts(usize, StatusCode),
    /// Refuses requests with a text of more characters than this.
    LimitsChars(usize),
    /// Refuses requests with a text about hens.
    RefusesHens,
    /// Returns vectors without their index, and one of zeros.
    LeavesOut,
}

/// An embeddings endpoint whose vectors count the words of three topics.
#[derive(Clone)]
struct EmbeddingsEndpoint {
    url: String,
    mode: Arc<Mutex<EndpointMode>>,
    /// The texts that it received.
    texts: Arc<Mutex<Vec<String>>>,
    /// How many texts each request had.
    sizes: Arc<Mutex<Vec<usize>>>,
}

impl EmbeddingsEndpoint {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let mode = Arc::new(Mutex::new(EndpointMode::Works(8)));
        let endpoint = Self { url, mode, texts: Arc::default(), sizes: Arc::default() };
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

    /// How many texts each request had since the last call.
    fn take_sizes(&self) -> Vec<usize> {
        std::mem::take(&mut *self.sizes.lock().unwrap())
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
    endpoint.sizes.lock().unwrap().push(texts.len());
    let mode = *endpoint.mode.lock().unwrap();
    let refusal = match mode {
        EndpointMode::Refuses => Some(StatusCode::BAD_REQUEST),
        EndpointMode::LimitsTexts(most, status) => (texts.len() > most).then_some(status),
        EndpointMode::LimitsChars(most) => texts
            .iter()
            .any(|text| text.chars().count() > most)
            .then_some(StatusCode::PAYLOAD_TOO_LARGE),
        EndpointMode::RefusesHens => texts
            .iter()
            .any(|text| text.contains("hens"))
            .then_some(StatusCode::UNPROCESSABLE_ENTITY),
        EndpointMode::Works(_) | EndpointMode::Miscounts | EndpointMode::LeavesOut => None,
    };
    if let Some(status) = refusal {
        return (status, Json(json!({"error": "no"})));
    }
    let length = if let EndpointMode::Works(length) = mode { length } else { 8 };
    let count = texts.len() - usize::from(mode == EndpointMode::Miscounts);
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
    if mode == EndpointMode::LeavesOut {
        let zero_boats = |text: &String| match text.contains("boat") {
            true => json!({"embedding": [0, 0, 0, 0, 0, 0, 0, null]}),
            false => json!({"embedding": vector(text)}),
        };
        let data: Vec<_> = texts.iter().map(zero_boats).collect();
        return (StatusCode::OK, Json(json!({"data": data})));
    }
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
    server.post("/api/import", story_named("story")).await.data();
}

fn story_named(session: &str) -> Value {
    let mut messages = vec![
        json!({"id": "hens", "role": "user", "content": "My sister keeps seven hens."}),
        json!({"id": "boat", "role": "user", "content": "We went on a boat last summer."}),
    ];
    messages.extend((0..60).map(|number| {
        let content =
            format!("There is nothing to tell of the number {number}, as ever. ").repeat(3);
        json!({"id": format!("c{number}"), "role": "assistant", "content": content})
    }));
    json!({"sessions": [{"sessionId": session, "messages": messages}]})
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
    let too_long = EndpointMode::Works(8_193);
    for mode in [EndpointMode::Refuses, EndpointMode::Miscounts, too_long] {
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
async fn refused_batches_are_halved_and_the_size_is_remembered() {
    for status in
        [StatusCode::BAD_REQUEST, StatusCode::PAYLOAD_TOO_LARGE, StatusCode::UNPROCESSABLE_ENTITY]
    {
        let endpoint = EmbeddingsEndpoint::start().await;
        endpoint.set_mode(EndpointMode::LimitsTexts(20, status));
        let url = format!("--embeddings-url={}", endpoint.url);
        let server = Server::with(&flags(&url, "--embeddings-model=small")).await;
        import_story(&server).await;
        assert!(recalled_ids(&server, "Who has poultry?").await.contains(&"hens".to_owned()));
        // 62 messages, one of which is the probe of the first refusal, and the question.
        let mut sizes = endpoint.take_sizes();
        sizes.retain(|size| *size > 1);
        assert_eq!(sizes, [62, 31, 15, 15, 15, 15, 2]);
        server.post("/api/import", story_named("other")).await.data();
        let path = "/api/chat-sessions/other/memory";
        fetch(server.request(Method::GET, path).query(&[("message", "hens")])).await.data();
        assert!(endpoint.take_sizes().iter().all(|size| *size <= 15));
    }
}

#[tokio::test]
async fn refused_text_is_shortened_or_left_out() {
    for mode in [EndpointMode::LimitsChars(60), EndpointMode::RefusesHens] {
        let endpoint = EmbeddingsEndpoint::start().await;
        endpoint.set_mode(mode);
        let url = format!("--embeddings-url={}", endpoint.url);
        let server = Server::with(&flags(&url, "--embeddings-model=small")).await;
        import_story(&server).await;
        let asked = "Did anybody do some sailing?";
        assert!(recalled_ids(&server, asked).await.contains(&"boat".to_owned()), "{mode:?}");
        endpoint.take_count();
        // Nothing is sent again, not even what was refused: one text is the question.
        assert!(recalled_ids(&server, asked).await.contains(&"boat".to_owned()), "{mode:?}");
        assert_eq!(endpoint.take_count(), 1, "{mode:?}");
    }
}

#[tokio::test]
async fn endpoint_that_refuses_everything_gets_few_requests() {
    let endpoint = EmbeddingsEndpoint::start().await;
    endpoint.set_mode(EndpointMode::Refuses);
    let url = format!("--embeddings-url={}", endpoint.url);
    let server = Server::with(&flags(&url, "--embeddings-model=small")).await;
    import_story(&server).await;
    for _ in 0..3 {
        recalled_ids(&server, "Who has poultry?").await;
        // The question, the first batch, and the probe.
        assert_eq!(endpoint.take_sizes().len(), 3);
    }
    endpoint.set_mode(EndpointMode::Works(8));
    assert!(recalled_ids(&server, "Who has poultry?").await.contains(&"hens".to_owned()));
    assert!(endpoint.take_sizes().contains(&62));
}

#[tokio::test]
async fn vectors_without_index_or_direction_are_accepted() {
    let endpoint = EmbeddingsEndpoint::start().await;
    endpoint.set_mode(EndpointMode::LeavesOut);
    let url = format!("--embeddings-url={}", endpoint.url);
    let server = Server::with(&flags(&url, "--embeddings-model=small")).await;
    import_story(&server).await;
    assert!(recalled_ids(&server, "Who has poultry?").await.contains(&"hens".to_owned()));
    endpoint.take_count();
    assert!(recalled_ids(&server, "Who has poultry?").await.contains(&"hens".to_owned()));
    assert_eq!(endpoint.take_count(), 1);
}

#[tokio::test]
async fn url_without_a_model_stops_startup() {
    let flags = ["--provider=demo".to_owned(), "--embeddings-url=http://127.0.0.1:1/v1".to_owned()];
    let config = echoic::config::Config::from_flags(&flags).unwrap();
    let started = echoic::app::App::start(config, crate::support::server::tuning()).await;
    let refusal = started.err().unwrap().to_string();
    assert!(refusal.contains("ECHOIC_EMBEDDINGS_MODEL"), "{refusal}");
}
