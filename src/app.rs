//! The composition root: the only place that names concrete stores and providers. The binary and
//! the tests build the same application here.

use crate::auth::{self, Authenticator};
use crate::chat::{ChatDependencies, ChatService, RetentionPolicy, UsagePolicy};
use crate::config::{
    AccessConfig, Config, DatabaseUrl, MemoryCommand, PromptCacheKeyMode, ProviderChoice,
    SqliteSync, TitleMode,
};
use crate::domain::quota::has_price;
use crate::error::{Error, ErrorKind, Result};
use crate::http::{
    self, AllowedHosts, ApiState, BodyBudget, ConnectionLimits, ConnectionPolicy, ImportQueue,
    MAX_CHAT_BODY, RequestRateLimiter, SizeLimits, TimeoutListener, build_router, serve,
    serve_metrics,
};
use crate::memory::{ContextWindows, Memory, MemoryDefaults, RECALL_TIMEOUT, tokens};
use crate::prompts::PromptTemplates;
use crate::provider::Provider;
use crate::provider::anthropic::{self, AnthropicProvider};
use crate::provider::demo::{self, DemoProvider};
use crate::provider::embeddings::{Embedder, OpenAiEmbedder};
use crate::provider::openai::{DEFAULT_MODEL, OFFICIAL_BASE_URL, OpenAiProvider};
use crate::provider::resilient::{ResiliencePolicy, ResilientProvider};
use crate::store::migration::{MigrationSource, MigrationTarget};
use crate::store::mongo::MongoStore;
use crate::store::sqlite::{Durability, SqliteStore};
use crate::store::{LeaseHolder, Store};
use crate::telemetry;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

const OLLAMA_URL: &str = "http://127.0.0.1:11434/v1";
/// Short, because it delays every start without a configured provider.
const OLLAMA_TIMEOUT: Duration = Duration::from_millis(500);
/// For a provider without a configured model.
const LIST_MODELS_TIMEOUT: Duration = Duration::from_secs(5);
/// Imports run no turns, but opening the store requires a lease.
const IMPORT_LEASE: Duration = Duration::from_secs(15);
/// How long open connections may take to close after their turns have ended.
const CONNECTION_GRACE: Duration = Duration::from_secs(2);

/// The application, bound to its address.
pub struct App {
    listener: TcpListener,
    address: SocketAddr,
    api: ApiState,
    timing: TimingOptions,
    lease: Duration,
    shutdown_grace: Duration,
    connection_limits: ConnectionLimits,
    retention: Option<RetentionPolicy>,
    metrics_listener: Option<TcpListener>,
    summary: String,
    notes: Vec<String>,
}

/// Timings that are fixed for operators and shortened by tests.
#[derive(Debug, Clone, Copy)]
pub struct TimingOptions {
    /// Interval of comments on idle streams.
    pub heartbeat_interval: Duration,
    /// How long a client may stop reading before its connection is closed.
    pub write_timeout: Duration,
    /// Delay before a provider call is retried.
    pub provider_retry_delay: Duration,
    /// How long a turn waits for recall.
    pub recall_timeout: Duration,
    /// How long a client may take to send the request head.
    pub header_timeout: Duration,
    /// How long a client may take to send the next part of the request body.
    pub body_timeout: Duration,
    /// Interval of the deletion of idle sessions.
    pub retention_interval: Duration,
    /// Minimum time between two downloads of the JWKS.
    pub jwks_retry_delay: Duration,
}

impl Default for TimingOptions {
    fn default() -> Self {
        Self {
            heartbeat_interval: Duration::from_secs(15),
            write_timeout: Duration::from_secs(60),
            provider_retry_delay: Duration::from_millis(500),
            recall_timeout: RECALL_TIMEOUT,
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(30),
            retention_interval: Duration::from_secs(60 * 60),
            jwks_retry_delay: Duration::from_secs(10),
        }
    }
}

impl App {
    /// Opens the store, selects the provider, binds the listener and recovers from a crash. Errors
    /// say what the operator can change.
    pub async fn start(config: Config, timing: TimingOptions) -> Result<Self> {
        // Loading the vocabulary takes about 100 ms, so it runs in parallel.
        let vocabulary = tokio::task::spawn_blocking(tokens::load_vocabulary);
        let mut notes: Vec<String> = config.access.describe_unused().into_iter().collect();
        let prompts = Arc::new(PromptTemplates::load(config.prompts_dir.as_deref())?);
        let store = open_store(&config).await?;
        let auth =
            Arc::new(Authenticator::new(build_auth_settings(&config, timing), store.clone())?);
        let SelectedProvider { provider, model } = select_provider(&config, &mut notes).await?;
        let provider_name = provider.name();
        vocabulary.await.map_err(Error::internal)?;
        let background_models = select_background_models(&config, provider_name, &model);
        check_prices(&config, &model, &background_models)?;
        let memory = build_memory(&config, &model, store.clone(), prompts.clone())?;
        let memory = Arc::new(memory.with_recall_timeout(timing.recall_timeout));
        // Bound before recovery: the address is part of the instance name, and a second process on
        // the same address must fail before it ends the turns of the first.
        let listener = bind_listener(config.listen_address()).await?;
        let address = listener.local_addr().map_err(Error::internal)?;
        let metrics_listener = match config.metrics_addr {
            Some(address) => Some(bind_metrics_listener(address).await?),
            None => None,
        };
        let chat = ChatService::new(ChatDependencies {
            store: store.clone(),
            provider: Arc::new(ResilientProvider::new(
                provider,
                build_retry_policy(&config, timing),
            )),
            memory: memory.clone(),
            prompts,
            title_model: background_models.title,
            summary_model: background_models.summary,
            lease_holder: build_lease_holder(address),
        });
        let chat = Arc::new(chat.with_policy(build_usage_policy(&config)));
        let cut_off = chat.recover_turns().await?;
        notes.extend(describe_cut_off_replies(cut_off));
        let summary = format!(
            "http://{address}, store {}, provider {provider_name}, model {model}, instance {}",
            store.describe(),
            chat.instance_name()
        );
        let api = ApiState {
            chat,
            store,
            memory,
            auth,
            rate_limiter: Arc::new(RequestRateLimiter::new(config.access.request_rate())),
            readiness: Arc::default(),
            body_budget: Arc::new(BodyBudget::new(config.max_bodies, MAX_CHAT_BODY)),
            imports: Arc::new(ImportQueue::new(config.max_import)),
            size_limits: SizeLimits { body: config.max_body, message: config.max_message },
            needs_consent: config.access.needs_consent(),
            allowed_hosts: Arc::new(AllowedHosts::new(config.access.allowed_hosts)),
            cors_origins: config.access.cors_origins.into(),
            heartbeat: timing.heartbeat_interval,
        };
        Ok(Self {
            listener,
            address,
            api,
            timing,
            lease: config.instance_lease,
            shutdown_grace: config.shutdown_grace,
            connection_limits: find_connection_limits(config.max_connections),
            retention: config
                .retention
                .map(|age| RetentionPolicy { age, max_percent: config.retention_limit.0 }),
            metrics_listener,
            summary,
            notes,
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// URL, store, provider and model, for the first log line.
    pub fn summary(&self) -> &str {
        &self.summary
    }

    /// Hints for the operator, logged after the summary.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Serves until `shutdown` is cancelled. Then running turns finish within the grace period,
    /// streams are ended, and the store is closed.
    pub async fn serve(self, shutdown: CancellationToken) -> Result<()> {
        let chat = self.api.chat.clone();
        let drained = CancellationToken::new();
        let tasks = TaskTracker::new();
        tasks.spawn(chat.clone().run_journal(drained.clone()));
        tasks.spawn(chat.clone().run_relay(drained.clone()));
        tasks.spawn(chat.clone().run_heartbeat(self.lease, drained.clone()));
        tasks.spawn(chat.clone().run_event_feed(drained.clone()));
        tasks.spawn(chat.clone().run_access_watch(drained.clone()));
        tasks.spawn(chat.clone().run_indexer(drained.clone()));
        tasks.spawn(chat.clone().run_recovery(self.lease, drained.clone()));
        tasks.spawn(self.api.auth.clone().run_use_recorder(drained.clone()));
        tasks.spawn(self.api.auth.clone().run_credential_watch(drained.clone()));
        let interval = self.timing.retention_interval;
        tasks.spawn(chat.clone().run_retention(self.retention, interval, drained.clone()));
        tasks.spawn(chat.clone().run_sweeper(drained.clone()));
        let listener = TimeoutListener::new(self.listener, self.timing.write_timeout);
        let router = build_router(self.api.clone());
        let timeouts =
            http::ReadTimeouts { head: self.timing.header_timeout, body: self.timing.body_timeout };
        let auth = self.api.auth.clone();
        let policy = ConnectionPolicy {
            limits: self.connection_limits,
            is_proxy: Arc::new(move |peer| auth.is_trusted_proxy(peer)),
        };
        let servers = TaskTracker::new();
        servers.spawn(serve(listener, router, timeouts, policy, drained.clone()));
        if let Some(listener) = self.metrics_listener {
            let render = Arc::new(telemetry::record_metrics().map_err(Error::internal)?);
            servers.spawn(serve_metrics(listener, render, drained.clone()));
        }
        shutdown.cancelled().await;
        tracing::info!(grace = ?self.shutdown_grace, "shutting down: no new turns");
        // The background tasks run until all turns have ended: the journal must log them, the
        // heartbeat must keep their lease, and readers are still connected.
        chat.drain(self.shutdown_grace).await;
        drained.cancel();
        tasks.close();
        servers.close();
        // Bounded, because a stalled client would otherwise delay the exit.
        let _ = timeout(CONNECTION_GRACE, servers.wait()).await;
        tasks.wait().await;
        // Last: the tasks above may still write.
        self.api.store.close().await;
        Ok(())
    }
}

fn build_usage_policy(config: &Config) -> UsagePolicy {
    UsagePolicy {
        prices: config.access.prices.clone(),
        quotas: config.access.quotas().into(),
        max_concurrent_turns: config.access.concurrency_limit(),
    }
}

fn describe_cut_off_replies(number: usize) -> Option<String> {
    let note = "replies were cut off when the server last stopped; they are stored as interrupted";
    (number > 0).then(|| format!("{number} {note}"))
}

/// With a cost quota every configured model needs a price, or its use would be free of the quota.
fn check_prices(config: &Config, model: &String, background: &BackgroundModels) -> Result<()> {
    let AccessConfig { prices, quota_cost, .. } = &config.access;
    let models = [model].into_iter().chain(&config.fallback_models);
    let models = models.chain(&background.title).chain(&background.summary);
    let mut models = models.map(|model| model.trim());
    let Some(model) = models.find(|model| !quota_cost.is_empty() && !has_price(prices, model))
    else {
        return Ok(());
    };
    let sentence = format!(
        "ECHOIC_QUOTA_COST: the model {model} has no price; add {model}=PROMPT/COMPLETION to \
         ECHOIC_PRICES, or *=PROMPT/COMPLETION at its end for every other model"
    );
    Err(Error::new(ErrorKind::Internal, sentence))
}

fn build_auth_settings(config: &Config, timing: TimingOptions) -> auth::AuthSettings {
    auth::AuthSettings {
        mode: config.access.auth,
        trusted_proxies: config.access.trusted_proxies.clone(),
        jwt: config.access.jwt_settings(),
        jwks_refetch_interval: timing.jwks_retry_delay,
    }
}

/// The limits of connections, within the limit of open files.
fn find_connection_limits(max_connections: Option<usize>) -> ConnectionLimits {
    // The soft limit was raised as far as possible. If it is unknown, the usual one is assumed.
    const USUAL_DESCRIPTORS: u64 = 1024;
    let descriptors = rlimit::Resource::NOFILE.get_soft().unwrap_or(USUAL_DESCRIPTORS);
    ConnectionLimits::new(descriptors, max_connections)
}

async fn open_store(config: &Config) -> Result<Arc<dyn Store>> {
    let durability = match config.sqlite_sync {
        SqliteSync::Full => Durability::Full,
        SqliteSync::Normal => Durability::Normal,
    };
    match &config.database_url {
        DatabaseUrl::Sqlite(path) => Ok(Arc::new(SqliteStore::open(path, durability)?)),
        DatabaseUrl::Mongodb(url) => {
            Ok(Arc::new(MongoStore::open(url, config.instance_lease).await?))
        }
    }
}

/// Opens a store read-only, also while a server is using it.
pub async fn open_read_only(url: &DatabaseUrl) -> Result<Arc<dyn Store>> {
    match url {
        DatabaseUrl::Sqlite(path) => Ok(Arc::new(SqliteStore::open_read_only(path)?)),
        DatabaseUrl::Mongodb(url) => Ok(Arc::new(MongoStore::open_read_only(url).await?)),
    }
}

/// Opens a store for managing API keys, also while a server is using it or before the first start.
pub async fn open_shared(url: &DatabaseUrl) -> Result<Arc<dyn Store>> {
    match url {
        DatabaseUrl::Sqlite(path) => Ok(Arc::new(SqliteStore::open_shared(path)?)),
        DatabaseUrl::Mongodb(url) => Ok(Arc::new(MongoStore::open(url, Duration::ZERO).await?)),
    }
}

/// The memory that a server with these settings would use on this store, for inspection. Recall
/// uses keywords only, so no endpoint is called.
pub(crate) fn build_read_only_memory(
    store: Arc<dyn Store>,
    command: &MemoryCommand,
    model: String,
) -> Result<Arc<Memory>> {
    let prompts = Arc::new(PromptTemplates::load(command.prompts_dir.as_deref())?);
    let defaults = MemoryDefaults {
        strategy: command.memory_strategy,
        max_tokens: command.memory_tokens,
        context_window: command.context_window,
        model,
    };
    let windows = ContextWindows::new(command.context_windows.iter().cloned());
    Ok(Arc::new(Memory::new(store, prompts, defaults)?.with_context_windows(windows)))
}

/// Opens a store for importing: an SQLite file that no server is using, or a database. Imported
/// data is durable once the store is closed.
pub async fn open_for_import(url: &DatabaseUrl) -> Result<Arc<dyn Store>> {
    match url {
        // An interrupted import is repeated, so it does not need an fsync per commit.
        DatabaseUrl::Sqlite(path) => Ok(Arc::new(SqliteStore::open(path, Durability::Normal)?)),
        DatabaseUrl::Mongodb(url) => Ok(Arc::new(MongoStore::open(url, IMPORT_LEASE).await?)),
    }
}

/// Opens the source and target of a migration. No server can use the source meanwhile. Errors say
/// what the operator can change.
pub(crate) async fn open_for_migration(
    from: &Path,
    to: &str,
) -> Result<(Box<dyn MigrationSource>, Box<dyn MigrationTarget>)> {
    // Errors of the stores name `DATABASE_URL`, but here the operator has set an option.
    let name_option = |option: &str, error: Error| {
        let sentence = error.message.replace("DATABASE_URL", option);
        Error { message: sentence.into(), ..error }
    };
    let from =
        SqliteStore::open_for_migration(from).map_err(|error| name_option("--from", error))?;
    // A migration claims no turns, so it needs no lease.
    let to =
        MongoStore::open(to, Duration::ZERO).await.map_err(|error| name_option("--to", error))?;
    Ok((Box::new(from), Box::new(to)))
}

async fn bind_listener(address: SocketAddr) -> Result<TcpListener> {
    let describe = |error| format!("cannot listen on {address}: {error}; set HOST or PORT");
    TcpListener::bind(address)
        .await
        .map_err(|error| Error::new(ErrorKind::Internal, describe(error)))
}

async fn bind_metrics_listener(address: SocketAddr) -> Result<TcpListener> {
    let describe = |error| format!("cannot listen on {address}: {error}; set ECHOIC_METRICS_ADDR");
    TcpListener::bind(address)
        .await
        .map_err(|error| Error::new(ErrorKind::Internal, describe(error)))
}

fn build_memory(
    config: &Config,
    model: &str,
    store: Arc<dyn Store>,
    prompts: Arc<PromptTemplates>,
) -> Result<Memory> {
    let defaults = MemoryDefaults {
        strategy: config.memory_strategy,
        max_tokens: config.memory_tokens,
        context_window: config.context_window,
        model: model.to_owned(),
    };
    let windows = ContextWindows::new(config.context_windows.iter().cloned());
    let memory = Memory::new(store, prompts, defaults)?.with_context_windows(windows);
    Ok(match build_embedder(config)? {
        Some(embedder) => memory.with_embedder(embedder),
        None => memory,
    })
}

fn build_retry_policy(config: &Config, timing: TimingOptions) -> ResiliencePolicy {
    ResiliencePolicy {
        first_token_timeout: config.first_token_timeout,
        idle_timeout: config.idle_timeout,
        turn_timeout: config.turn_timeout,
        retry_delay: timing.provider_retry_delay,
        fallback_models: config
            .fallback_models
            .iter()
            .map(|model| model.trim().to_owned())
            .collect(),
    }
}

fn build_embedder(config: &Config) -> Result<Option<Arc<dyn Embedder>>> {
    let to_error = |sentence: String| Error::new(ErrorKind::Internal, sentence);
    let Some(url) = config.embeddings.url.as_deref() else { return Ok(None) };
    let Some(model) = config.embeddings.model.as_deref() else {
        return Err(to_error(
            "ECHOIC_EMBEDDINGS_MODEL must be set with ECHOIC_EMBEDDINGS_URL".to_owned(),
        ));
    };
    let key = config.embeddings.key.as_deref();
    let endpoint = OpenAiEmbedder::new(url, model, key).map_err(to_error)?;
    Ok(Some(Arc::new(endpoint)))
}

/// The models that write titles and summaries, if a model does.
struct BackgroundModels {
    title: Option<String>,
    summary: Option<String>,
}

fn select_background_models(config: &Config, provider: &str, model: &str) -> BackgroundModels {
    let small = config.small_model.as_deref().unwrap_or(model).to_owned();
    BackgroundModels {
        title: (config.titles == TitleMode::Model).then(|| small.clone()),
        // The demo provider cannot summarize.
        summary: (provider != demo::PROVIDER_NAME).then_some(small),
    }
}

/// An instance is a host and an address, since only one process can listen there. Each start is a
/// new boot.
fn build_lease_holder(address: SocketAddr) -> LeaseHolder {
    let host = gethostname::gethostname();
    let instance = format!("{}/{address}", host.to_string_lossy());
    LeaseHolder { instance, boot: Uuid::now_v7().to_string() }
}

/// A provider and its default model.
struct SelectedProvider {
    provider: Arc<dyn Provider>,
    model: String,
}

async fn select_provider(config: &Config, notes: &mut Vec<String>) -> Result<SelectedProvider> {
    let has_openai = config.openai_api_key.is_some() || config.openai_base_url.is_some();
    match config.provider {
        ProviderChoice::Demo => Ok(build_demo_provider(config)),
        ProviderChoice::Openai => build_openai_provider(config, notes).await,
        ProviderChoice::Anthropic => build_anthropic_provider(config, notes).await,
        ProviderChoice::Auto if has_openai => build_openai_provider(config, notes).await,
        ProviderChoice::Auto if config.anthropic_api_key.is_some() => {
            build_anthropic_provider(config, notes).await
        }
        ProviderChoice::Auto => match detect_ollama(config).await {
            Some(found) => Ok(found),
            None => {
                notes.push("no provider found, using the demo provider; set OPENAI_API_KEY, OPENAI_BASE_URL or ANTHROPIC_API_KEY".to_owned());
                Ok(build_demo_provider(config))
            }
        },
    }
}

fn build_demo_provider(config: &Config) -> SelectedProvider {
    let model = config.model.clone().unwrap_or_else(|| demo::MODEL_NAME.to_owned());
    SelectedProvider { provider: Arc::new(DemoProvider::default()), model }
}

async fn build_openai_provider(
    config: &Config,
    notes: &mut Vec<String>,
) -> Result<SelectedProvider> {
    let base_url = config.openai_base_url.as_deref().unwrap_or(OFFICIAL_BASE_URL);
    let endpoint = OpenAiProvider::new(base_url, config.openai_api_key.as_deref())
        .map_err(|refusal| Error::new(ErrorKind::Internal, refusal))?;
    let endpoint = match config.prompt_cache_key {
        PromptCacheKeyMode::Auto => endpoint,
        PromptCacheKeyMode::Always => endpoint.with_cache_key(true),
        PromptCacheKeyMode::Never => endpoint.with_cache_key(false),
    };
    // Compatible endpoints have other models and often need no key.
    let is_official = base_url.trim_end_matches('/') == OFFICIAL_BASE_URL;
    if is_official && config.openai_api_key.is_none() {
        notes.push("OPENAI_API_KEY is not set: OpenAI will reject requests".to_owned());
    }
    let default_model = is_official.then_some(DEFAULT_MODEL);
    let model = select_model(config, &endpoint, default_model, notes).await;
    Ok(SelectedProvider { provider: Arc::new(endpoint), model })
}

async fn build_anthropic_provider(
    config: &Config,
    notes: &mut Vec<String>,
) -> Result<SelectedProvider> {
    let base_url = config.anthropic_base_url.as_deref().unwrap_or(anthropic::OFFICIAL_BASE_URL);
    let endpoint = AnthropicProvider::new(base_url, config.anthropic_api_key.as_deref())
        .map_err(|refusal| Error::new(ErrorKind::Internal, refusal))?;
    let is_official = base_url.trim_end_matches('/') == anthropic::OFFICIAL_BASE_URL;
    if is_official && config.anthropic_api_key.is_none() {
        notes.push("ANTHROPIC_API_KEY is not set: Anthropic will reject requests".to_owned());
    }
    let default_model = is_official.then_some(anthropic::DEFAULT_MODEL);
    let model = select_model(config, &endpoint, default_model, notes).await;
    Ok(SelectedProvider { provider: Arc::new(endpoint), model })
}

/// The configured model, or `default_model`, or the first model that the provider lists.
async fn select_model(
    config: &Config,
    endpoint: &dyn Provider,
    default_model: Option<&str>,
    notes: &mut Vec<String>,
) -> String {
    if let Some(model) = config.model.as_deref().or(default_model) {
        return model.to_owned();
    }
    if let Some(model) = first_listed_model(endpoint, LIST_MODELS_TIMEOUT).await {
        return model;
    }
    notes.push("the provider does not list its models: set ECHOIC_MODEL".to_owned());
    "default".to_owned()
}

async fn detect_ollama(config: &Config) -> Option<SelectedProvider> {
    let endpoint = OpenAiProvider::new(OLLAMA_URL, None).ok()?;
    let first = first_listed_model(&endpoint, OLLAMA_TIMEOUT).await?;
    Some(SelectedProvider {
        provider: Arc::new(endpoint),
        model: config.model.clone().unwrap_or(first),
    })
}

async fn first_listed_model(endpoint: &dyn Provider, max_wait: Duration) -> Option<String> {
    let models = timeout(max_wait, endpoint.list_models()).await.ok()?.ok()?;
    models.into_iter().next().map(|model| model.id)
}
