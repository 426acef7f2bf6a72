//! Memory: what of a session goes into the prompt, inside a budget that is never exceeded.
//!
//! [`Memory::plan`] decides without I/O what room there is, [`assemble`](Memory::assemble) reads
//! the path's tail and builds the prompt. A turn and the preview of a turn take the same way, so
//! the preview shows exactly what would be sent.

mod assemble;
mod budget;
pub mod tokens;
mod window;

pub use assemble::{Assembled, Piece, PieceKind};
pub use budget::Plan;

use crate::domain::memory::{MemoryOptions, Strategy};
use crate::domain::session::Settings;
use crate::error::Result;
use crate::prompts::Prompts;
use crate::store::Store;
use std::sync::Arc;

/// What the operator says of memory.
#[derive(Debug, Clone)]
pub struct Defaults {
    /// The strategy unless a session or request has one.
    pub strategy: Strategy,
    /// The budget of `auto` and `token`; else the smaller of a quarter of the window and 16,000.
    pub tokens: Option<u32>,
    /// The context window of every model; else by model.
    pub context_window: Option<u32>,
    /// The model of turns that ask for none.
    pub model: String,
}

/// Builds prompts.
pub struct Memory {
    store: Arc<dyn Store>,
    prompts: Prompts,
    defaults: Defaults,
    /// The system prompt of sessions without one of their own.
    system: SystemPrompt,
}

/// A system prompt and its size.
#[derive(Debug, Clone)]
struct SystemPrompt {
    text: Arc<str>,
    tokens: u32,
}

impl SystemPrompt {
    fn new(text: String) -> Self {
        Self { tokens: tokens::count(&text), text: text.into() }
    }
}

impl Memory {
    /// Builds prompts from the messages of `store`.
    pub fn new(store: Arc<dyn Store>, prompts: Prompts, defaults: Defaults) -> Result<Self> {
        let system = SystemPrompt::new(prompts.system(None)?);
        Ok(Self { store, prompts, defaults, system })
    }

    /// The model of turns that ask for none.
    pub fn default_model(&self) -> &str {
        &self.defaults.model
    }

    /// How many tokens a model's prompt and reply may have together.
    pub fn context_window(&self, model: &str) -> u32 {
        self.defaults.context_window.unwrap_or_else(|| tokens::context_window(model))
    }

    /// Decides what room there is for a turn with these settings and a new message of so many
    /// tokens. Errors: `context_too_long` if there is none.
    pub fn plan(&self, settings: &Settings, new_tokens: u32) -> Result<Plan> {
        let model = settings.model.clone().unwrap_or_else(|| self.defaults.model.clone());
        let system = match settings.system_prompt.as_deref() {
            None => self.system.clone(),
            own => SystemPrompt::new(self.prompts.system(own)?),
        };
        let context_window = self.context_window(&model);
        let fallback = MemoryOptions {
            strategy: Some(self.defaults.strategy),
            max_tokens: None,
            last_messages: Some(window::LAST_MESSAGES),
        };
        let options = settings.memory.over(fallback);
        let default_tokens =
            self.defaults.tokens.unwrap_or_else(|| budget::default_memory_tokens(context_window));
        budget::Room {
            model,
            context_window,
            system: system.text,
            system_tokens: system.tokens,
            new_tokens,
            max_output_tokens: settings.max_output_tokens,
        }
        .plan(options, default_tokens)
    }
}
