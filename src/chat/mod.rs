//! Turns: begun, run, read, stopped, recovered, drained. The heart of the server.
//!
//! [`ChatService::start_turn`] makes the user's message durable and sets a task going that owns the turn
//! until its reply is stored; whoever asked gets a [`TurnReader`]. A reader that leaves changes
//! nothing. Called by `http`; knows no route and no database.

mod background_call;
mod cache_key;
mod cancel_turns;
mod coalesce;
mod event_feed;
mod events;
mod finish_turn;
mod frames;
mod hub;
mod join_turn;
mod journal;
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
pub use search::ResolvedSearchHit;
pub use start_turn::{CallerStatus, PrecedingMessage, TurnIntent, TurnRequest};
pub use stateless::MeteredCall;
pub use usage_policy::UsagePolicy;

use crate::error::{Error, ErrorKind, Result};
use crate::memory::Memory;
use crate::prompts::PromptTemplates;
use crate::provider::Provider;
use crate::store::{LeaseHolder, Store};
use events::EventBroker;
use hub::Hub;
use journal::Journal;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use summaries::SummaryLocks;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use usage_policy::ConcurrencyLimiter;

/// How long a turn that was cut may take to store what it has.
const ABORT_GRACE: Duration = Duration::from_secs(5);

/// Everything a turn needs.
pub struct ChatService {
    store: Arc<dyn Store>,
    provider: Arc<dyn Provider>,
    memory: Arc<Memory>,
    prompts: Arc<PromptTemplates>,
    /// The model that writes titles, if one does.
    title_model: Option<String>,
    /// The model that writes summaries, if one does.
    summary_model: Option<String>,
    summary_locks: SummaryLocks,
    lease_holder: LeaseHolder,
    hub: Hub,
    journal: Journal,
    events: EventBroker,
    /// Every running turn is a task of this tracker.
    turn_tasks: TaskTracker,
    usage_policy: UsagePolicy,
    concurrency: ConcurrencyLimiter,
    /// Whether sessions were deleted whose words an index may still hold.
    needs_index_merge: AtomicBool,
}

/// What [`ChatService`] is made of.
pub struct ChatDependencies {
    /// Where conversations are kept.
    pub store: Arc<dyn Store>,
    /// Who answers.
    pub provider: Arc<dyn Provider>,
    /// What of a session the model is shown.
    pub memory: Arc<Memory>,
    /// The prompt templates.
    pub prompts: Arc<PromptTemplates>,
    /// The model that writes titles, if one does.
    pub title_model: Option<String>,
    /// The model that writes summaries, if one does.
    pub summary_model: Option<String>,
    /// Who this instance is.
    pub lease_holder: LeaseHolder,
}

impl ChatService {
    /// Puts the parts together.
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
            turn_tasks: TaskTracker::new(),
            usage_policy: UsagePolicy::default(),
            concurrency: ConcurrencyLimiter::default(),
            needs_index_merge: AtomicBool::default(),
        }
    }

    /// The provider's models, with their context windows where those are known.
    pub async fn list_models(&self) -> Result<Vec<ModelInfo>> {
        let mut models = self.provider.list_models().await?;
        for model in &mut models {
            model.context_window =
                self.memory.known_context_window(&model.id).or(model.context_window);
        }
        Ok(models)
    }

    /// Takes no new turns, lets the running ones finish within `grace`, then cuts the rest: they
    /// are stored as interrupted. Turns that wait stay in the store and run at the next start.
    pub async fn drain(&self, grace: Duration) {
        self.turn_tasks.close();
        self.hub.close_queued_and_remote();
        if timeout(grace, self.turn_tasks.wait()).await.is_ok() {
            return;
        }
        tracing::warn!(turns = self.turn_tasks.len(), "cutting the turns that are still running");
        self.hub.abort_all();
        if timeout(ABORT_GRACE, self.turn_tasks.wait()).await.is_err() {
            tracing::error!(
                turns = self.turn_tasks.len(),
                "turns could not be stored before the end"
            );
        }
    }

    /// The name of this instance of the server.
    pub fn instance_name(&self) -> &str {
        &self.lease_holder.instance
    }

    fn is_draining(&self) -> bool {
        self.turn_tasks.is_closed()
    }

    /// Refuses what would begin something once the server is going down.
    pub fn ensure_not_draining(&self) -> Result<()> {
        if self.is_draining() {
            return Err(Error::new(
                ErrorKind::ShuttingDown,
                "the server is going down; try again in a moment",
            ));
        }
        Ok(())
    }
}
