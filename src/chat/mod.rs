//! Turns: begun, run, stopped, drained. The heart of the server.
//!
//! [`Chat::start_turn`] makes the user's message durable and sets a task going that owns the turn
//! until its reply is stored; whoever asked gets a [`Reader`]. A reader that leaves changes
//! nothing. Called by `http`; knows no route and no database.

mod frames;
mod hub;
mod run_turn;
mod start_turn;
mod stop;
mod transcript;

pub use crate::provider::Model;
pub use hub::Reader;
pub use start_turn::{NewTurn, Wish};

use crate::error::{Error, Kind, Result};
use crate::memory::{Memory, tokens};
use crate::provider::Provider;
use crate::store::Store;
use hub::Hub;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

/// How long a turn that was cut may take to store what it has.
const CUT_GRACE: Duration = Duration::from_secs(5);

/// Everything a turn needs.
pub struct Chat {
    store: Arc<dyn Store>,
    provider: Arc<dyn Provider>,
    memory: Arc<Memory>,
    hub: Hub,
    /// Every running turn is a task of this tracker.
    turns: TaskTracker,
}

impl Chat {
    /// Puts the parts together.
    pub fn new(store: Arc<dyn Store>, provider: Arc<dyn Provider>, memory: Arc<Memory>) -> Self {
        Self { store, provider, memory, hub: Hub::default(), turns: TaskTracker::new() }
    }

    /// Takes no new turns, lets the running ones finish within `grace`, then cuts the rest: they
    /// are stored as interrupted.
    pub async fn drain(&self, grace: Duration) {
        self.turns.close();
        if timeout(grace, self.turns.wait()).await.is_ok() {
            return;
        }
        tracing::warn!(turns = self.turns.len(), "cutting the turns that are still running");
        self.hub.cut_all();
        if timeout(CUT_GRACE, self.turns.wait()).await.is_err() {
            tracing::error!(turns = self.turns.len(), "turns could not be stored before the end");
        }
    }

    /// The provider's models, with their context windows where those are known.
    pub async fn models(&self) -> Result<Vec<Model>> {
        let mut models = self.provider.models().await?;
        for model in &mut models {
            model.context_window =
                model.context_window.or_else(|| tokens::known_context_window(&model.id));
        }
        Ok(models)
    }

    /// Refuses what would begin something once the server is going down.
    pub fn ensure_not_draining(&self) -> Result<()> {
        if self.turns.is_closed() {
            return Err(Error::new(
                Kind::ShuttingDown,
                "the server is going down; try again in a moment",
            ));
        }
        Ok(())
    }
}
