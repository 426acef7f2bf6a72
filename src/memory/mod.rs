//! Memory: what of a session goes into the prompt, inside a budget that is never exceeded.
//!
//! [`Memory::plan`] decides without I/O what room there is, [`assemble`](Memory::assemble) reads
//! the path's tail and builds the prompt. A turn and the preview of a turn take the same way, so
//! the preview shows exactly what would be sent.

mod assemble;
mod budget;
mod correction;
mod cut;
mod pictures;
mod preview;
mod project;
pub mod rank;
mod recall;
mod relevance;
mod strategies;
mod summary;
pub mod tokens;
mod tools;
mod vision;
mod windows;

pub use assemble::{Assembled, NewMessage, Piece, PieceKind};
pub use budget::Plan;
pub use correction::{Correction, Counted};
pub use project::ProjectShown;
pub use tools::Calling;
pub use vision::Sight;
pub use windows::Windows;

use crate::domain::SessionId;
use crate::domain::image::MessageImage;
use crate::domain::memory::{MemoryOptions, MemoryStrategy};
use crate::domain::session::SessionSettings;
use crate::error::{Error, Result};
use crate::prompts::PromptTemplates;
use crate::provider::embeddings::Embedder;
use crate::store::{MessageSize, Store};
use correction::Corrections;
use recall::Recall;
use std::sync::Arc;
use std::time::Duration;
use tokens::Vocabulary;
use vision::Taken;

/// How long a turn waits for what it recalls.
pub const RECALL_PATIENCE: Duration = Duration::from_millis(50);

/// What the operator says of memory.
#[derive(Debug, Clone)]
pub struct Defaults {
    /// The strategy unless a session or request has one.
    pub strategy: MemoryStrategy,
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
    prompts: Arc<PromptTemplates>,
    defaults: Defaults,
    /// The system prompt of sessions without one of their own.
    system: SystemPrompt,
    /// Bytes that the template puts around a session's own.
    wrapping: u32,
    recall: Arc<Recall>,
    /// How long a turn waits for what it recalls.
    patience: Duration,
    windows: Windows,
    corrections: Corrections,
}

/// A system prompt and its size by o200k_base.
#[derive(Debug, Clone)]
struct SystemPrompt {
    text: Arc<str>,
    tokens: u32,
}

/// The message that a prompt is to end with.
#[derive(Debug, Clone, Copy)]
pub struct Incoming<'a> {
    /// Its text.
    pub text: &'a str,
    /// Its text's size in tokens of o200k_base.
    pub tokens: u32,
    /// The pictures that go with it.
    pub images: &'a [MessageImage],
    /// Tokens of what must stand in the prompt because of it: calls that it answers, functions that
    /// are offered.
    pub beside: u32,
}

impl Memory {
    /// Builds prompts from the messages of `store`.
    pub fn new(
        store: Arc<dyn Store>,
        prompts: Arc<PromptTemplates>,
        defaults: Defaults,
    ) -> Result<Self> {
        let text = prompts.render_system(None)?;
        let system = SystemPrompt { tokens: tokens::count(&text), text: text.into() };
        let wrapping = size_of(&prompts.render_system(Some("x"))?);
        let recall = Arc::new(Recall::new(store.clone()));
        let (windows, corrections) = (Windows::default(), Corrections::default());
        let patience = RECALL_PATIENCE;
        Ok(Self {
            store,
            prompts,
            defaults,
            system,
            wrapping,
            recall,
            patience,
            windows,
            corrections,
        })
    }

    /// With the context windows of some models, which win over that of all.
    #[must_use]
    pub fn with_windows(self, windows: Windows) -> Self {
        Self { windows, ..self }
    }

    /// Lets turns wait so long for what they recall.
    #[must_use]
    pub fn waiting(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Lets recall ask what messages mean.
    #[must_use]
    pub fn with_embedder(self, embedder: Arc<dyn Embedder>) -> Self {
        let recall = Arc::new(Recall::new(self.store.clone()).with_meaning(embedder));
        Self { recall, ..self }
    }

    /// Forgets what is kept of a session that was deleted.
    pub fn forget(&self, session: &SessionId) {
        self.recall.forget(session);
    }

    /// How many sessions recall keeps in memory, and about how many bytes they take.
    pub fn held(&self) -> (usize, usize) {
        self.recall.held()
    }

    /// The model of turns that ask for none.
    pub fn default_model(&self) -> &str {
        &self.defaults.model
    }

    /// How many tokens a model's prompt and reply may have together.
    pub fn context_window(&self, model: &str) -> u32 {
        self.told_context_window(model).unwrap_or_else(|| windows::known_or_usual(model))
    }

    /// The same, where somebody said it or it is known of the model.
    pub fn known_context_window(&self, model: &str) -> Option<u32> {
        self.told_context_window(model).or_else(|| windows::known(model))
    }

    fn told_context_window(&self, model: &str) -> Option<u32> {
        self.windows.told(model).or(self.defaults.context_window)
    }

    /// Whether a message certainly fits, judged by sizes alone; if not, [`Memory::plan`] knows.
    pub fn surely_fits(&self, settings: &SessionSettings, new: MessageSize) -> bool {
        let model = settings.model.as_deref().unwrap_or(&self.defaults.model);
        let in_o200k = Vocabulary::of(model) == Vocabulary::O200k;
        // No vocabulary makes more tokens of a text than it has bytes.
        let system = match settings.system_prompt.as_deref() {
            Some(own) => size_of(own).saturating_add(self.wrapping),
            None if in_o200k => self.system.tokens,
            None => size_of(&self.system.text),
        };
        let text_tokens = if in_o200k { new.tokens } else { new.bytes };
        let correction = self.corrections.of(model);
        let sight = Sight::of(model, correction);
        let new_tokens =
            text_tokens.saturating_add(sight.map_or(0, |sight| sight.most(new.images)));
        let (window, most) = (self.context_window(model), settings.max_output_tokens);
        budget::room_for_memory(window, most, correction, system, new_tokens).is_some()
    }

    /// Decides what room there is for a turn with these settings and this new message. Counts
    /// tokens. Errors: `context_too_long` if there is none.
    pub fn plan(&self, settings: &SessionSettings, new: Option<Incoming<'_>>) -> Result<Plan> {
        let model = settings.model.clone().unwrap_or_else(|| self.defaults.model.clone());
        let vocabulary = Vocabulary::of(&model);
        let system = match settings.system_prompt.as_deref() {
            None => self.system.text.clone(),
            own => self.prompts.render_system(own)?.into(),
        };
        let is_default = Arc::ptr_eq(&system, &self.system.text);
        let system_tokens = match vocabulary {
            Vocabulary::O200k if is_default => self.system.tokens,
            vocabulary => vocabulary.count(&system),
        };
        let correction = self.corrections.of(&model);
        let sight = Sight::of(&model, correction);
        let new_taken = new.map(|new| {
            let text_tokens = match vocabulary {
                Vocabulary::O200k => new.tokens,
                Vocabulary::Cl100k => vocabulary.count(new.text),
            };
            let pictures = sight.map_or(Taken::default(), |sight| sight.taken_by(new.images));
            let with = |taken: u32| text_tokens.saturating_add(taken).saturating_add(new.beside);
            Taken { least: with(pictures.least), most: with(pictures.most) }
        });
        let context_window = self.context_window(&model);
        let fallback =
            MemoryOptions { strategy: Some(self.defaults.strategy), ..MemoryOptions::default() };
        let options = settings.memory.with_defaults(fallback);
        let default_tokens =
            self.defaults.tokens.unwrap_or_else(|| budget::default_memory_tokens(context_window));
        let prompt = budget::Fixed {
            model,
            vocabulary,
            context_window,
            correction,
            system,
            system_tokens,
            new: new_taken.unwrap_or_default(),
            sight,
        };
        let plan = prompt.plan(options, settings.max_output_tokens, default_tokens)?;
        let beside_tokens = new.map_or(0, |new| new.beside);
        Ok(Plan { patience: Some(self.patience), beside_tokens, ..plan })
    }
}

impl Memory {
    /// The same, without holding up other tasks when there is much to count.
    pub async fn plan_turn(
        self: &Arc<Self>,
        settings: &SessionSettings,
        new: Incoming<'_>,
    ) -> Result<Plan> {
        let own = settings.system_prompt.as_deref().unwrap_or_default();
        if own.len() + new.text.len() <= tokens::SHORT {
            return self.plan(settings, Some(new));
        }
        let (memory, settings, text) = (self.clone(), settings.clone(), new.text.to_owned());
        let Incoming { tokens, beside, .. } = new;
        let images = new.images.to_vec();
        let plan = move || {
            let new = Incoming { text: &text, tokens, images: &images, beside };
            memory.plan(&settings, Some(new))
        };
        tokio::task::spawn_blocking(plan).await.map_err(Error::internal)?
    }
}

fn size_of(text: &str) -> u32 {
    u32::try_from(text.len()).unwrap_or(u32::MAX)
}
