//! The composition root: the one place that names concrete stores and providers. The binary and
//! the tests build the same application here.

use crate::chat::Chat;
use crate::clock;
use crate::config::{Config, DatabaseUrl, ProviderChoice};
use crate::error::{Error, Kind, Result};
use crate::http::{Api, Limits, router};
use crate::memory::{Defaults, Memory, tokens};
use crate::prompts::Prompts;
use crate::provider::Provider;
use crate::provider::demo::{self, Demo};
use crate::provider::guarded::{Deadlines, Guarded};
use crate::provider::openai::{Endpoint, OFFICIAL, OFFICIAL_MODEL};
use crate::store::Store;
use crate::store::sqlite::SqliteStore;
use axum::serve::ListenerExt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Where a local Ollama answers.
const OLLAMA: &str = "http://127.0.0.1:11434/v1";
/// How long it may take to say that it is there.
const OLLAMA_PATIENCE: Duration = Duration::from_millis(500);
/// How long an endpoint may take to name its models, when no model is configured.
const MODELS_PATIENCE: Duration = Duration::from_secs(5);
/// Silence after which a comment goes out on a stream.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long connections may linger once their turns have ended.
const LINGER: Duration = Duration::from_secs(2);

/// The application, listening.
pub struct App {
    listener: TcpListener,
    address: SocketAddr,
    api: Api,
    grace: Duration,
    summary: String,
}

/// What tests set otherwise than an operator can.
#[derive(Debug, Clone, Copy)]
pub struct Tuning {
    /// Silence after which a comment goes out on a stream.
    pub heartbeat: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self { heartbeat: HEARTBEAT }
    }
}

impl App {
    /// Opens the store, finds the provider and begins to listen. Errors say what an operator can
    /// do.
    pub async fn start(config: Config, tuning: Tuning) -> Result<Self> {
        // Reading the vocabulary takes a tenth of a second; meanwhile the rest goes on.
        let vocabulary = tokio::task::spawn_blocking(tokens::warm_up);
        let prompts = Prompts::load(config.prompts_dir.as_deref())?;
        let store = open_store(&config)?;
        let reaped = store.reap_turns(clock::now()).await?;
        if reaped > 0 {
            tracing::warn!(
                turns = reaped,
                "the last run ended in the middle of turns; they are kept as interrupted"
            );
        }
        let (provider, model) = find_provider(&config).await?;
        let deadlines = Deadlines {
            first_token: config.first_token_timeout,
            idle: config.idle_timeout,
            turn: config.turn_timeout,
        };
        let defaults = Defaults {
            strategy: config.memory,
            tokens: config.memory_tokens,
            context_window: config.context_window,
            model: model.clone(),
        };
        vocabulary.await.map_err(Error::internal)?;
        let memory = Arc::new(Memory::new(store.clone(), prompts, defaults)?);
        let listener = TcpListener::bind(config.address()).await.map_err(|error| {
            let address = config.address();
            Error::new(
                Kind::Internal,
                format!("cannot listen on {address}: {error}; set HOST or PORT"),
            )
        })?;
        let address = listener.local_addr().map_err(Error::internal)?;
        let summary = format!(
            "http://{address}, store {}, provider {}, model {model}",
            store.describe(),
            provider.name()
        );
        let provider = Arc::new(Guarded::new(provider, deadlines));
        let api = Api {
            chat: Arc::new(Chat::new(store.clone(), provider, memory.clone())),
            store,
            memory,
            auth: config.auth,
            limits: Limits { body: config.max_body, message: config.max_message },
            hosts: Arc::new(config.hosts()),
            cors_origins: config.cors_origins.into(),
            heartbeat: tuning.heartbeat,
        };
        Ok(Self { listener, address, api, grace: config.shutdown_grace, summary })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// URL, store, provider and model, for the first line of the log.
    pub fn summary(&self) -> &str {
        &self.summary
    }

    /// Serves until `shutdown` is cancelled; then running turns finish within the grace, readers
    /// get their ends, and the store is closed.
    pub async fn serve(self, shutdown: CancellationToken) -> Result<()> {
        let listener = self.listener.tap_io(|connection| {
            // A token that waits for an acknowledgement is a token late.
            let _ = connection.set_nodelay(true);
        });
        let drained = CancellationToken::new();
        let server = axum::serve(listener, router(self.api.clone()))
            .with_graceful_shutdown(drained.clone().cancelled_owned());
        let server = tokio::spawn(server.into_future());
        shutdown.cancelled().await;
        tracing::info!(grace = ?self.grace, "going down: no new turns");
        self.api.chat.drain(self.grace).await;
        drained.cancel();
        let ended = timeout(LINGER, server).await;
        self.api.store.close().await;
        match ended {
            Ok(Ok(Err(error))) => Err(Error::internal(error)),
            _ => Ok(()),
        }
    }
}

fn open_store(config: &Config) -> Result<Arc<dyn Store>> {
    match &config.database_url {
        DatabaseUrl::Sqlite(path) => Ok(Arc::new(SqliteStore::open(path, config.sqlite_sync)?)),
    }
}

/// The provider and the model that answers unless another is asked for.
async fn find_provider(config: &Config) -> Result<(Arc<dyn Provider>, String)> {
    let has_openai = config.openai_api_key.is_some() || config.openai_base_url.is_some();
    match config.provider {
        ProviderChoice::Demo => Ok(demo_provider(config)),
        ProviderChoice::Openai => openai_provider(config).await,
        ProviderChoice::Auto if has_openai => openai_provider(config).await,
        ProviderChoice::Auto => match local_ollama(config).await {
            Some(found) => Ok(found),
            None => {
                tracing::warn!(
                    "no provider found: the demo answers; set OPENAI_API_KEY or OPENAI_BASE_URL"
                );
                Ok(demo_provider(config))
            }
        },
    }
}

fn demo_provider(config: &Config) -> (Arc<dyn Provider>, String) {
    let model = config.model.clone().unwrap_or_else(|| demo::MODEL.to_owned());
    (Arc::new(Demo::default()), model)
}

async fn openai_provider(config: &Config) -> Result<(Arc<dyn Provider>, String)> {
    let base_url = config.openai_base_url.as_deref().unwrap_or(OFFICIAL);
    let endpoint = Endpoint::new(base_url, config.openai_api_key.as_deref()).map_err(|reason| {
        Error::new(Kind::Internal, format!("OPENAI_BASE_URL={base_url}: {reason}"))
    })?;
    let model = match &config.model {
        Some(model) => model.clone(),
        None if base_url.trim_end_matches('/') == OFFICIAL => OFFICIAL_MODEL.to_owned(),
        None => first_model(&endpoint, MODELS_PATIENCE).await.unwrap_or_else(|| {
            tracing::warn!("the provider does not list its models; set ECHOIC_MODEL");
            "default".to_owned()
        }),
    };
    Ok((Arc::new(endpoint), model))
}

async fn local_ollama(config: &Config) -> Option<(Arc<dyn Provider>, String)> {
    let endpoint = Endpoint::new(OLLAMA, None).ok()?;
    let first = first_model(&endpoint, OLLAMA_PATIENCE).await?;
    Some((Arc::new(endpoint), config.model.clone().unwrap_or(first)))
}

async fn first_model(endpoint: &Endpoint, patience: Duration) -> Option<String> {
    let models = timeout(patience, endpoint.models()).await.ok()?.ok()?;
    models.into_iter().next().map(|model| model.id)
}
