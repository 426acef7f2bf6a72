//! The life of a turn: start, run, stream, cancel, recover, drain. The core of the server.
//!
//! [`ChatService::start_turn`] makes the user's message durable and spawns a task that owns the
//! turn until its reply is stored. The caller gets a [`TurnReader`]; a reader that disconnects does
//! not affect the turn. Called by `http`; knows neither routes nor databases.

mod access_watch;
mod background_call;
mod cache_key;
mod cancel_turns;
mod coalesce;
mod deletions;
mod empty_streams;
mod event_feed;
mod events;
mod finish_turn;
mod frames;
mod hub;
mod indexer;
mod invitations;
mod join_turn;
mod journal;
mod reader_access;
mod recovery;
mod relay;
mod reply_stream;
mod responses;
mod retention;
mod run_turn;
mod search;
mod sessions;
mod start_turn;
mod stateless;
mod summaries;
mod titles;
mod tool_results;
mod transcript;
mod usage_policy;

pub use crate::provider::{ModelInfo, Prompt, PromptMessage, RawResponse};
pub use events::EventReader;
pub use frames::StreamCursor;
pub use hub::TurnReader;
pub use reply_stream::{Passthrough, ReplyEvent, ReplyStream, stopped_error};
pub use retention::RetentionPolicy;
pub use search::ResolvedSearchHit;
pub use start_turn::{CallerStatus, PrecedingMessage, TurnIntent, TurnRequest};
pub use stateless::MeteredCall;
pub use usage_policy::UsagePolicy;

use crate::error::{Error, ErrorKind, Result};
use crate::fair_pool::inherit_owner;
use crate::memory::Memory;
use crate::prompts::PromptTemplates;
use crate::provider::Provider;
use crate::store::{LeaseHolder, Store};
use access_watch::AccessWatch;
use events::EventBroker;
use hub::Hub;
use journal::Journal;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use summaries::SummaryLocks;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use usage_policy::ConcurrencyLimiter;

/// Time an aborted turn gets during shutdown to store its partial reply.
const ABORT_GRACE: Duration = Duration::from_secs(5);

/// The service behind all chat routes: one per process, shared by every request.
pub struct ChatService {
    store: Arc<dyn Store>,
    provider: Arc<dyn Provider>,
    memory: Arc<Memory>,
    prompts: Arc<PromptTemplates>,
    /// `None`: titles are taken from the first message.
    title_model: Option<String>,
    /// `None`: no summaries are written.
    summary_model: Option<String>,
    summary_locks: SummaryLocks,
    lease_holder: LeaseHolder,
    hub: Hub,
    journal: Journal,
    events: EventBroker,
    access_watch: AccessWatch,
    /// Tracks every running turn and what belongs to turns, such as summaries, so that
    /// [`ChatService::drain`] can wait for all of them.
    turn_tasks: TaskTracker,
    /// Cancelled when the grace of a shutdown ends: cuts off the calls for titles and summaries.
    calls_aborted: CancellationToken,
    usage_policy: UsagePolicy,
    concurrency: ConcurrencyLimiter,
    /// Set when sessions were deleted whose words the search index may still contain.
    needs_index_merge: AtomicBool,
}

pub struct ChatDependencies {
    pub store: Arc<dyn Store>,
    pub provider: Arc<dyn Provider>,
    pub memory: Arc<Memory>,
    pub prompts: Arc<PromptTemplates>,
    /// Model for generated titles; `None` takes titles from the first message.
    pub title_model: Option<String>,
    /// Model for summaries; `None` writes none.
    pub summary_model: Option<String>,
    /// Identity under which this process claims turns.
    pub lease_holder: LeaseHolder,
}

impl ChatService {
    /// Creates a service without quotas or limits; see [`ChatService::with_policy`].
    pub fn new(dependencies: ChatDependencies) -> Self {
        let ChatDependencies {
            store,
            provider,
            memory,
            prompts,
            title_model,
            summary_model,
            lease_holder,
        } = dependencies;
        let events = EventBroker::new(store.is_shared());
        Self {
            store,
            provider,
            memory,
            prompts,
            title_model,
            summary_model,
            summary_locks: SummaryLocks::default(),
            lease_holder,
            hub: Hub::default(),
            journal: Journal::default(),
            events,
            access_watch: AccessWatch::default(),
            turn_tasks: TaskTracker::new(),
            calls_aborted: CancellationToken::new(),
            usage_policy: UsagePolicy::default(),
            concurrency: ConcurrencyLimiter::default(),
            needs_index_merge: AtomicBool::default(),
        }
    }

    /// The provider's models. The configured or known context window replaces the one that the
    /// provider reports.
    pub async fn list_models(&self) -> Result<Vec<ModelInfo>> {
        let mut models = self.provider.list_models().await?;
        for model in &mut models {
            model.context_window =
                self.memory.known_context_window(&model.id).or(model.context_window);
        }
        Ok(models)
    }

    /// Stops accepting turns, lets the running ones finish within `grace`, with their titles and
    /// summaries, then aborts the rest: their partial replies are stored as interrupted. Queued
    /// turns stay in the store and run after the next start.
    pub async fn drain(&self, grace: Duration) {
        // Closed before anything else: `start_turn` takes a token and then checks this, so a turn
        // either sees the drain or is waited for.
        self.turn_tasks.close();
        // Queued and remote turns will not produce frames here any more. Closing their buffers lets
        // clients reconnect to another instance at once.
        self.hub.close_queued_and_remote();
        if timeout(grace, self.turn_tasks.wait()).await.is_ok() {
            return;
        }
        tracing::warn!(
            tasks = self.turn_tasks.len(),
            "shutting down: grace expired, aborting running turns"
        );
        // An aborted turn still has to write its reply, and a call its usage, hence the second
        // wait.
        self.hub.abort_all();
        self.calls_aborted.cancel();
        if timeout(ABORT_GRACE, self.turn_tasks.wait()).await.is_err() {
            tracing::error!(
                tasks = self.turn_tasks.len(),
                "shutting down: storing aborted turns timed out"
            );
        }
    }

    pub fn instance_name(&self) -> &str {
        &self.lease_holder.instance
    }

    fn is_draining(&self) -> bool {
        self.turn_tasks.is_closed()
    }

    /// Errors: `shutting_down`.
    pub fn ensure_not_draining(&self) -> Result<()> {
        if self.is_draining() { Err(shutting_down_error()) } else { Ok(()) }
    }

    /// Runs `work` as its own task, so that it completes even if the client disconnects and this
    /// future is dropped. Used for writes followed by an event: the event must not be lost after
    /// the commit.
    pub(super) async fn run_to_completion<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        self.turn_tasks.spawn(inherit_owner(work)).await.map_err(Error::internal)?
    }
}

fn shutting_down_error() -> Error {
    Error::new(ErrorKind::ShuttingDown, "the server is shutting down; try again shortly")
}
