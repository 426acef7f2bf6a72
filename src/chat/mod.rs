//! Turns: begun, run, read, stopped, recovered, drained. The heart of the server.
//!
//! [`Chat::start_turn`] makes the user's message durable and sets a task going that owns the turn
//! until its reply is stored; whoever asked gets a [`Reader`]. A reader that leaves changes
//! nothing. Called by `http`; knows no route and no database.

mod beside;
mod cache_key;
mod changes;
mod direct;
mod events;
mod feed;
mod frames;
mod gather;
mod heard;
mod hub;
mod join;
mod journal;
mod recovery;
mod relay;
mod responses;
mod results;
mod run_turn;
mod search;
mod settle;
mod start_turn;
mod stop;
mod summaries;
mod sweep;
mod terms;
mod titles;
mod transcript;

pub use crate::provider::{ModelInfo, Prompt, PromptMessage, RawResponse};
pub use direct::Direct;
pub use events::EventReader;
pub use frames::Cursor;
pub use heard::{Heard, Hearing, Passed, stopped};
pub use hub::Reader;
pub use search::Finding;
pub use start_turn::{Earlier, NewTurn, Standing, Wish};
pub use terms::Terms;

use crate::error::{Error, Kind, Result};
use crate::memory::Memory;
use crate::prompts::PromptTemplates;
use crate::provider::Provider;
use crate::store::{LeaseHolder, Store};
use events::Events;
use hub::Hub;
use journal::Journal;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use summaries::Summaries;
use terms::Slots;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

/// How long a turn that was cut may take to store what it has.
const CUT_GRACE: Duration = Duration::from_secs(5);

/// Everything a turn needs.
pub struct Chat {
    store: Arc<dyn Store>,
    provider: Arc<dyn Provider>,
    memory: Arc<Memory>,
    prompts: Arc<PromptTemplates>,
    /// The model that writes titles, if one does.
    title_model: Option<String>,
    /// The model that writes summaries, if one does.
    summary_model: Option<String>,
    summaries: Summaries,
    claimant: LeaseHolder,
    hub: Hub,
    journal: Journal,
    events: Events,
    /// Every running turn is a task of this tracker.
    turns: TaskTracker,
    terms: Terms,
    slots: Slots,
    /// Whether sessions were deleted whose words an index may still hold.
    has_deleted: AtomicBool,
}

/// What [`Chat`] is made of.
pub struct Parts {
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
    pub claimant: LeaseHolder,
}

impl Chat {
    /// Puts the parts together.
    pub fn new(parts: Parts) -> Self {
        let Parts { store, provider, memory, prompts, title_model, summary_model, claimant } =
            parts;
        let (hub, journal, turns) = (Hub::default(), Journal::default(), TaskTracker::new());
        let events = Events::new(store.is_shared());
        Self {
            store,
            provider,
            memory,
            prompts,
            title_model,
            summary_model,
            summaries: Summaries::default(),
            claimant,
            hub,
            journal,
            events,
            turns,
            terms: Terms::default(),
            slots: Slots::default(),
            has_deleted: AtomicBool::default(),
        }
    }

    /// The provider's models, with their context windows where those are known.
    pub async fn models(&self) -> Result<Vec<ModelInfo>> {
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
        self.turns.close();
        self.hub.close_waiting();
        if timeout(grace, self.turns.wait()).await.is_ok() {
            return;
        }
        tracing::warn!(turns = self.turns.len(), "cutting the turns that are still running");
        self.hub.cut();
        if timeout(CUT_GRACE, self.turns.wait()).await.is_err() {
            tracing::error!(turns = self.turns.len(), "turns could not be stored before the end");
        }
    }

    /// The name of this instance of the server.
    pub fn instance(&self) -> &str {
        &self.claimant.instance
    }

    fn is_draining(&self) -> bool {
        self.turns.is_closed()
    }

    /// Refuses what would begin something once the server is going down.
    pub fn ensure_not_draining(&self) -> Result<()> {
        if self.is_draining() {
            return Err(Error::new(
                Kind::ShuttingDown,
                "the server is going down; try again in a moment",
            ));
        }
        Ok(())
    }
}
