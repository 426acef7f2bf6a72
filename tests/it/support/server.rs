//! The real application on a free port, in this process.

use super::sse::FrameReader;
use super::upstream::Upstream;
use super::{ProviderCall, mongo, within_deadline};
use echoic::app::{App, TimingOptions};
use echoic::config::Config;
use reqwest::header::HeaderMap;
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A server, its provider, and a client.
pub struct Server {
    pub base: String,
    pub client: Client,
    pub upstream: Upstream,
    pub folder: TempDir,
    flags: Vec<String>,
    tuning: TimingOptions,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

/// A response that was read to its end.
#[derive(Debug)]
pub struct ApiResponse {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Value,
}

impl ApiResponse {
    /// The data of a success.
    #[track_caller]
    pub fn data(self) -> Value {
        assert_eq!(self.body["success"], true, "{}", self.body);
        self.body["data"].clone()
    }

    /// Status and error code of a failure.
    #[track_caller]
    pub fn failure(&self) -> (u16, &str) {
        assert_eq!(self.body["success"], false, "{}", self.body);
        (self.status, self.body["error"]["code"].as_str().unwrap())
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl Server {
    /// Starts a server with the scripted provider.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// Starts a server with additional flags.
    pub async fn with(flags: &[&str]) -> Self {
        Self::tuned(flags, tuning()).await
    }

    /// Starts a server with additional flags and internal settings that have no flag.
    pub async fn tuned(flags: &[&str], tuning: TimingOptions) -> Self {
        let mut server = Self::prepare(flags, tuning).await;
        server.start_again().await;
        server
    }

    async fn prepare(flags: &[&str], tuning: TimingOptions) -> Self {
        let (folder, upstream) = (tempfile::tempdir().unwrap(), Upstream::start().await);
        let mut all = vec![
            format!("--database-url={}", database_url(&folder)),
            format!("--openai-base-url={}", upstream.base_url),
            "--openai-api-key=sk-tests".to_owned(),
            "--model=gated-1".to_owned(),
            "--port=0".to_owned(),
            "--shutdown-grace=2s".to_owned(),
        ];
        all.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let client = Client::builder().no_proxy().gzip(false).build().unwrap();
        let (base, shutdown, task) =
            (String::new(), CancellationToken::new(), tokio::spawn(async {}));
        Self { base, client, upstream, folder, flags: all, tuning, shutdown, task }
    }

    /// Starts a server on a SQLite file, whatever the test run's store is, for tests that open the
    /// file.
    pub async fn on_file(flags: &[&str]) -> Self {
        let mut server = Self::prepare(flags, tuning()).await;
        server.flags.push(format!("--database-url={}", file(&server.folder)));
        server.start_again().await;
        server
    }

    /// Stops the server as SIGTERM does and starts it again on the same store.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.start_again().await;
    }

    /// Starts a stopped server again on the same store.
    pub async fn start_again(&mut self) {
        (self.base, self.shutdown, self.task) = launch(&self.flags, self.tuning).await;
    }

    /// Stops the server as SIGTERM does and waits for its end.
    pub async fn stop(&mut self) {
        self.shutdown.cancel();
        within_deadline(&mut self.task).await.unwrap();
    }

    /// Begins a shutdown without waiting for its end.
    pub fn terminate(&self) {
        self.shutdown.cancel();
    }

    pub fn database(&self) -> std::path::PathBuf {
        self.folder.path().join("echoic.db")
    }

    /// Its database, as the program's commands take it.
    pub fn database_url(&self) -> String {
        let mut urls = self.flags.iter().filter_map(|flag| flag.strip_prefix("--database-url="));
        urls.next_back().unwrap().to_owned()
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    pub async fn get(&self, path: &str) -> ApiResponse {
        fetch(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: Value) -> ApiResponse {
        fetch(self.request(Method::POST, path).json(&body)).await
    }

    pub async fn put(&self, path: &str, body: Value) -> ApiResponse {
        fetch(self.request(Method::PUT, path).json(&body)).await
    }

    pub async fn patch(&self, path: &str, body: Value) -> ApiResponse {
        fetch(self.request(Method::PATCH, path).json(&body)).await
    }

    pub async fn delete(&self, path: &str) -> ApiResponse {
        fetch(self.request(Method::DELETE, path)).await
    }

    /// Begins a turn. Returns once the response headers are there.
    pub async fn chat(&self, body: Value) -> FrameReader {
        let response = within_deadline(self.request(Method::POST, "/api/chat").json(&body).send())
            .await
            .unwrap();
        assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
        FrameReader::new(response)
    }

    /// Joins the running turn, after the given frame; `None` for a 204.
    pub async fn join(&self, session: &str, last_event_id: Option<&str>) -> Option<FrameReader> {
        let mut request = self.request(Method::GET, &format!("/api/chat/{session}/stream"));
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        let response = within_deadline(request.send()).await.unwrap();
        match response.status().as_u16() {
            204 => None,
            200 => Some(FrameReader::new(response)),
            other => panic!("{other}: {}", response.text().await.unwrap()),
        }
    }

    /// Creates a session.
    pub async fn session(&self) -> String {
        let created = self.post("/api/chat-sessions", json!({})).await;
        created.data()["sessionId"].as_str().unwrap().to_owned()
    }

    /// Runs a whole turn with this reply. Returns the prompt that the provider received.
    pub async fn turn(&self, session: &str, message: &str, reply: &str) -> Vec<String> {
        let mut frames = self.chat(json!({"sessionId": session, "message": message})).await;
        let call = self.upstream.call().await;
        let prompt = call.prompt();
        call.reply(reply);
        frames.until("[DONE]").await;
        prompt
    }

    /// Begins a turn and waits for its provider call, which the test then drives.
    pub async fn open_turn(&self, session: &str, message: &str) -> (FrameReader, ProviderCall) {
        let frames = self.chat(json!({"sessionId": session, "message": message})).await;
        (frames, self.upstream.call().await)
    }

    /// Role and content of the newest messages, oldest first.
    pub async fn transcript(&self, session: &str) -> Vec<String> {
        let data = self.get(&format!("/api/chat-sessions/{session}/messages")).await.data();
        let messages = data["messages"].as_array().unwrap().clone();
        let line = |message: &Value| {
            format!(
                "{}: {}",
                message["role"].as_str().unwrap(),
                message["content"].as_str().unwrap()
            )
        };
        messages.iter().map(line).collect()
    }

    /// The newest message of a session.
    pub async fn last_message(&self, session: &str) -> Value {
        let data = self.get(&format!("/api/chat-sessions/{session}/messages?limit=1")).await.data();
        data["messages"][0].clone()
    }
}

/// A new store: a file, or with `ECHOIC_TEST_STORE=mongo` a MongoDB database.
fn database_url(folder: &TempDir) -> String {
    match std::env::var("ECHOIC_TEST_STORE").as_deref() {
        Ok("mongo") => mongo::database().expect("tests/run starts MongoDB"),
        _ => file(folder),
    }
}

fn file(folder: &TempDir) -> String {
    format!("sqlite://{}", folder.path().join("echoic.db").display())
}

async fn launch(
    flags: &[String],
    tuning: TimingOptions,
) -> (String, CancellationToken, JoinHandle<()>) {
    let config = Config::from_flags(flags).unwrap();
    let app = App::start(config, tuning).await.unwrap();
    let (base, shutdown) = (format!("http://{}", app.address()), CancellationToken::new());
    let until = shutdown.clone();
    let task = tokio::spawn(async move { app.serve(until).await.unwrap() });
    (base, shutdown, task)
}

/// Sends a request and reads the whole response.
pub async fn fetch(request: RequestBuilder) -> ApiResponse {
    let response = within_deadline(request.send()).await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = within_deadline(response.text()).await.unwrap();
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    ApiResponse { status, headers, body }
}

/// Internal settings for tests: failed provider calls are retried at once, and turns wait for the
/// recall index however busy the machine is.
pub fn tuning() -> TimingOptions {
    TimingOptions {
        provider_retry_delay: Duration::from_millis(1),
        recall_timeout: Duration::from_secs(60),
        ..TimingOptions::default()
    }
}

/// Settings with heartbeats in quick succession.
pub fn quick_heartbeat() -> TimingOptions {
    TimingOptions { heartbeat_interval: Duration::from_millis(20), ..tuning() }
}
