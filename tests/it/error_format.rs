//! Errors inside the server: the client learns only that there was one.

use crate::support::server::fetch;
use crate::support::{FrameReader, Server, within_deadline};
use async_trait::async_trait;
use echoic::auth::Authenticator;
use echoic::chat::{ChatDependencies, ChatService};
use echoic::domain::memory::MemoryStrategy;
use echoic::domain::message::FinishReason;
use echoic::http::{AllowedHosts, ApiState, BodyBudget, SizeLimits, build_router};
use echoic::memory::{Memory, MemoryDefaults};
use echoic::prompts::PromptTemplates;
use echoic::provider::{ModelInfo, Prompt, Provider, ProviderError, ProviderEvent, ProviderEvents};
use echoic::store::sqlite::{Durability, SqliteStore};
use echoic::store::{LeaseHolder, Store};
use futures::stream::{self, StreamExt};
use reqwest::Client;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;

/// A provider that panics when asked for its models, and on some questions.
struct PanickingProvider;

#[async_trait]
impl Provider for PanickingProvider {
    fn name(&self) -> &'static str {
        "mistaken"
    }

    async fn list_models(&self) -> Result<Vec<ModelInfo>, ProviderError> {
        panic!("hunter2 in /etc/models at line 7")
    }

    async fn open_stream(&self, prompt: &Prompt) -> Result<ProviderEvents, ProviderError> {
        let says = |text: &str| Ok(vec![ProviderEvent::Text(text.to_owned())]);
        let events = match &*prompt.messages.last().unwrap().content {
            "panic at once" => panic!("hunter2 in /etc/stream at line 7"),
            "panic later" => stream::iter([says("half")])
                .chain(stream::poll_fn(|_| panic!("hunter2 in the middle")))
                .boxed(),
            _ => stream::iter([says("whole"), Ok(vec![ProviderEvent::Finish(FinishReason::Stop)])])
                .boxed(),
        };
        Ok(events)
    }
}

/// A service with that provider. The database is in the returned folder.
async fn panicking_server() -> (String, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("echoic.db");
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&path, Durability::Normal).unwrap());
    let prompts = Arc::new(PromptTemplates::load(None).unwrap());
    let defaults = MemoryDefaults {
        strategy: MemoryStrategy::Auto,
        max_tokens: None,
        context_window: None,
        model: "m".to_owned(),
    };
    let memory = Arc::new(Memory::new(store.clone(), prompts.clone(), defaults).unwrap());
    let chat = ChatService::new(ChatDependencies {
        store: store.clone(),
        provider: Arc::new(PanickingProvider),
        memory: memory.clone(),
        prompts,
        title_model: None,
        summary_model: None,
        lease_holder: LeaseHolder { instance: "tests".to_owned(), boot: "one".to_owned() },
    });
    let api = ApiState {
        chat: Arc::new(chat),
        store,
        memory,
        auth: Arc::new(Authenticator::disabled()),
        rate_limiter: Arc::default(),
        body_budget: Arc::new(BodyBudget::new(64 << 20, 32 << 20)),
        readiness: Arc::default(),
        imports: Arc::new(echoic::http::ImportQueue::new(1 << 20)),
        size_limits: SizeLimits { body: 1 << 20, message: 1 << 20 },
        needs_consent: false,
        allowed_hosts: Arc::new(AllowedHosts::default()),
        cors_origins: Arc::new([]),
        heartbeat: Duration::from_secs(15),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, build_router(api)).await });
    (base, folder)
}

#[tokio::test]
async fn panic_ends_one_request_or_turn_and_leaks_nothing() {
    let (base, _folder) = panicking_server().await;
    let client = Client::builder().no_proxy().build().unwrap();
    let reply = fetch(client.get(format!("{base}/api/models"))).await;
    assert_eq!(reply.failure(), (500, "internal_error"));
    assert!(!reply.header("x-request-id").is_empty());
    let envelope = json!({"success": false, "message": "Internal server error.",
        "error": {"code": "internal_error"}});
    assert_eq!(reply.body, envelope);

    let chat = async |message: &str| {
        let id = message.replace(' ', "-");
        let body = json!({"id": "s", "message": {"id": id, "role": "user", "parts": [{"type": "text", "text": message}]}});
        let request = client.post(format!("{base}/api/chat")).json(&body);
        FrameReader::new(within_deadline(request.send()).await.unwrap()).rest().await
    };
    for (message, kept) in [("panic at once", ""), ("panic later", "half")] {
        let frames = chat(message).await;
        let error = &frames[frames.len() - 2].data;
        let sentence = "internal server error";
        assert_eq!(*error, json!({"type": "error", "errorText": sentence}), "{message}");
        let path = format!("{base}/api/chat-sessions/s");
        let session = fetch(client.get(&path)).await.data();
        assert_eq!(session["activeTurn"], Value::Null, "{message}");
        let messages = fetch(client.get(format!("{path}/messages?limit=1"))).await.data();
        let reply = &messages["messages"][0];
        assert_eq!((&reply["status"], &reply["content"]), (&json!("failed"), &json!(kept)));
        assert_eq!(reply["error"], json!({"code": "internal_error", "message": sentence}));
    }
    let frames = chat("do your best").await;
    assert_eq!(frames[frames.len() - 2].data["finishReason"], "stop", "the session is free again");
}

#[tokio::test]
async fn unreadable_stored_data_is_not_shown() {
    let server = Server::on_file(&[]).await;
    let broken = rusqlite::Connection::open(server.database()).unwrap();
    let session = server.session().await;
    broken.execute("UPDATE sessions SET settings = 'not json'", []).unwrap();
    let reply = server.get(&format!("/api/chat-sessions/{session}")).await;
    assert_eq!(reply.failure(), (503, "store_unavailable"));
    let shown = reply.body.to_string();
    assert!(
        !shown.contains("json")
            && !shown.contains("line")
            && reply.body["error"]["details"] == Value::Null,
        "{shown}"
    );
}
