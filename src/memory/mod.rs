//! Memory: what of a session goes into the prompt, inside a budget that is never exceeded.
//!
//! [`Memory::plan_prompt`] decides without I/O what room there is, [`assemble`](Memory::assemble_prompt) reads
//! the path's tail and builds the prompt. A turn and the preview of a turn take the same way, so
//! the preview shows exactly what would be sent.

mod assemble;
mod budget;
mod context_windows;
mod file_relevance;
mod image_tokens;
mod preview;
mod project;
pub mod rank;
mod recall;
mod strategies;
mod summary;
mod token_ratio;
pub mod tokens;
mod tool_calls;
mod window;
mod window_cut;

pub use assemble::{AssembledPrompt, PromptInput, PromptSection, SectionKind};
pub use budget::PromptBudget;
pub use context_windows::ContextWindows;
pub use image_tokens::ImageTokenCounter;
pub use project::ProjectInclusion;
pub use token_ratio::{PromptCount, TokenRatio};
pub use tool_calls::CallingReply;

use crate::domain::SessionId;
use crate::domain::image::MessageImage;
use crate::domain::memory::{MemoryOptions, MemoryStrategy};
use crate::domain::session::SessionSettings;
use crate::error::{Error, Result};
use crate::prompts::PromptTemplates;
use crate::provider::embeddings::Embedder;
use crate::store::{MessageSize, Store};
use image_tokens::TokenRange;
use recall::RecallEngine;
use std::sync::Arc;
use std::time::Duration;
use token_ratio::TokenRatioTracker;
use tokens::TokenVocabulary;

/// How long a turn waits for what it recalls.
pub const RECALL_TIMEOUT: Duration = Duration::from_millis(50);

/// What the operator says of memory.
#[derive(Debug, Clone)]
pub struct MemoryDefaults {
    /// The strategy unless a session or request has one.
    pub strategy: MemoryStrategy,
    /// The budget of `auto` and `token`; else the smaller of a quarter of the window and 16,000.
    pub max_tokens: Option<u32>,
    /// The context window of every model; else by model.
    pub context_window: Option<u32>,
    /// The model of turns that ask for none.
    pub model: String,
}

/// Builds prompts.
pub struct Memory {
    store: Arc<dyn Store>,
    prompts: Arc<PromptTemplates>,
    defaults: MemoryDefaults,
    /// The system prompt of sessions without one of their own.
    default_system: SystemPrompt,
    /// Bytes that the template puts around a session's own.
    template_bytes: u32,
    recall: Arc<RecallEngine>,
    /// How long a turn waits for what it recalls.
    recall_timeout: Duration,
    context_windows: ContextWindows,
    token_ratios: TokenRatioTracker,
}

/// A system prompt and its size by o200k_base.
#[derive(Debug, Clone)]
struct SystemPrompt {
    text: Arc<str>,
    tokens: u32,
}

/// The message that a prompt is to end with.
#[derive(Debug, Clone, Copy)]
pub struct PlanInput<'a> {
    /// Its text.
    pub text: &'a str,
    /// Its text's size in tokens of o200k_base.
    pub tokens: u32,
    /// The pictures that go with it.
    pub images: &'a [MessageImage],
    /// Tokens of what must stand in the prompt because of it: calls that it answers, functions that
    /// are offered.
    pub extra_tokens: u32,
}

impl Memory {
    /// Builds prompts from the messages of `store`.
    pub fn new(
        store: Arc<dyn Store>,
        prompts: Arc<PromptTemplates>,
        defaults: MemoryDefaults,
    ) -> Result<Self> {
        let text = prompts.render_system(None)?;
        let system = SystemPrompt { tokens: tokens::count_tokens(&text), text: text.into() };
        let wrapping = count_bytes(&prompts.render_system(Some("x"))?);
        let recall = Arc::new(RecallEngine::new(store.clone()));
        let (windows, corrections) = (ContextWindows::default(), TokenRatioTracker::default());
        let patience = RECALL_TIMEOUT;
        Ok(Self {
            store,
            prompts,
            defaults,
            default_system: system,
            template_bytes: wrapping,
            recall,
            recall_timeout: patience,
            context_windows: windows,
            token_ratios: corrections,
        })
    }

    /// With the context windows of some models, which win over that of all.
    #[must_use]
    pub fn with_context_windows(self, windows: ContextWindows) -> Self {
        Self { context_windows: windows, ..self }
    }

    /// Lets turns wait so long for what they recall.
    #[must_use]
    pub fn with_recall_timeout(self, patience: Duration) -> Self {
        Self { recall_timeout: patience, ..self }
    }

    /// Lets recall ask what messages mean.
    #[must_use]
    pub fn with_embedder(self, embedder: Arc<dyn Embedder>) -> Self {
        let recall = Arc::new(RecallEngine::new(self.store.clone()).with_embedder(embedder));
        Self { recall, ..self }
    }

    /// Forgets what is kept of a session that was deleted.
    pub fn forget_session(&self, session: &SessionId) {
        self.recall.forget_session(session);
    }

    /// How many sessions recall keeps in memory, and about how many bytes they take.
    pub fn cache_stats(&self) -> (usize, usize) {
        self.recall.cache_stats()
    }

    /// The model of turns that ask for none.
    pub fn default_model(&self) -> &str {
        &self.defaults.model
    }

    /// How many tokens a model's prompt and reply may have together.
    pub fn context_window(&self, model: &str) -> u32 {
        self.configured_context_window(model)
            .unwrap_or_else(|| context_windows::known_or_default(model))
    }

    /// The same, where somebody said it or it is known of the model.
    pub fn known_context_window(&self, model: &str) -> Option<u32> {
        self.configured_context_window(model)
            .or_else(|| context_windows::known_context_window(model))
    }

    fn configured_context_window(&self, model: &str) -> Option<u32> {
        self.context_windows.configured(model).or(self.defaults.context_window)
    }

    /// Whether a message certainly fits, judged by sizes alone; if not, [`Memory::plan_prompt`] knows.
    pub fn definitely_fits(&self, settings: &SessionSettings, new: MessageSize) -> bool {
        let model = settings.model.as_deref().unwrap_or(&self.defaults.model);
        let in_o200k = TokenVocabulary::for_model(model) == TokenVocabulary::O200k;
        // No vocabulary makes more tokens of a text than it has bytes.
        let system = match settings.system_prompt.as_deref() {
            Some(own) => count_bytes(own).saturating_add(self.template_bytes),
            None if in_o200k => self.default_system.tokens,
            None => count_bytes(&self.default_system.text),
        };
        let text_tokens = if in_o200k { new.tokens } else { new.bytes };
        let correction = self.token_ratios.ratio_of(model);
        let sight = ImageTokenCounter::for_model(model, correction);
        let new_tokens =
            text_tokens.saturating_add(sight.map_or(0, |sight| sight.max_tokens(new.images)));
        let (window, most) = (self.context_window(model), settings.max_output_tokens);
        budget::available_memory_tokens(window, most, correction, system, new_tokens).is_some()
    }

    /// Decides what room there is for a turn with these settings and this new message. Counts
    /// tokens. Errors: `context_too_long` if there is none.
    pub fn plan_prompt(
        &self,
        settings: &SessionSettings,
        new: Option<PlanInput<'_>>,
    ) -> Result<PromptBudget> {
        let model = settings.model.clone().unwrap_or_else(|| self.defaults.model.clone());
        let vocabulary = TokenVocabulary::for_model(&model);
        let system = match settings.system_prompt.as_deref() {
            None => self.default_system.text.clone(),
            own => self.prompts.render_system(own)?.into(),
        };
        let is_default = Arc::ptr_eq(&system, &self.default_system.text);
        let system_tokens = match vocabulary {
            TokenVocabulary::O200k if is_default => self.default_system.tokens,
            vocabulary => vocabulary.count_tokens(&system),
        };
        let correction = self.token_ratios.ratio_of(&model);
        let sight = ImageTokenCounter::for_model(&model, correction);
        let new_taken = new.map(|new| {
            let text_tokens = match vocabulary {
                TokenVocabulary::O200k => new.tokens,
                TokenVocabulary::Cl100k => vocabulary.count_tokens(new.text),
            };
            let pictures =
                sight.map_or(TokenRange::default(), |sight| sight.count_images(new.images));
            let with =
                |taken: u32| text_tokens.saturating_add(taken).saturating_add(new.extra_tokens);
            TokenRange { min: with(pictures.min), max: with(pictures.max) }
        });
        let context_window = self.context_window(&model);
        let fallback =
            MemoryOptions { strategy: Some(self.defaults.strategy), ..MemoryOptions::default() };
        let options = settings.memory.with_defaults(fallback);
        let default_tokens = self
            .defaults
            .max_tokens
            .unwrap_or_else(|| budget::default_memory_tokens(context_window));
        let prompt = budget::PromptCosts {
            model,
            vocabulary,
            context_window,
            token_ratio: correction,
            system,
            system_tokens,
            new_message: new_taken.unwrap_or_default(),
            image_counter: sight,
        };
        let plan = prompt.into_budget(options, settings.max_output_tokens, default_tokens)?;
        let beside_tokens = new.map_or(0, |new| new.extra_tokens);
        Ok(PromptBudget {
            recall_timeout: Some(self.recall_timeout),
            extra_tokens: beside_tokens,
            ..plan
        })
    }
}

impl Memory {
    /// The same, without holding up other tasks when there is much to count.
    pub async fn plan_turn(
        self: &Arc<Self>,
        settings: &SessionSettings,
        new: PlanInput<'_>,
    ) -> Result<PromptBudget> {
        let own = settings.system_prompt.as_deref().unwrap_or_default();
        if own.len() + new.text.len() <= tokens::MAX_INLINE_BYTES {
            return self.plan_prompt(settings, Some(new));
        }
        let (memory, settings, text) = (self.clone(), settings.clone(), new.text.to_owned());
        let PlanInput { tokens, extra_tokens: beside, .. } = new;
        let images = new.images.to_vec();
        let plan = move || {
            let new = PlanInput { text: &text, tokens, images: &images, extra_tokens: beside };
            memory.plan_prompt(&settings, Some(new))
        };
        tokio::task::spawn_blocking(plan).await.map_err(Error::internal)?
    }
}

fn count_bytes(text: &str) -> u32 {
    u32::try_from(text.len()).unwrap_or(u32::MAX)
}
